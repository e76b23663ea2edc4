"""What is left to do of a study is counted, and its hours come from finished runs or from nowhere."""

import json
from pathlib import Path

import pytest

from cadenza_lib.__main__ import main
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.runs.execution import StepPlan, describe_plan, plan_study
from cadenza_lib.runs.notebooks import prepare
from cadenza_lib.runs.study import load_study

STUDY = """
steps:
  - {name: points, notebook: point.ipynb, grid: {value: [1, 2, 3]}}
  - {name: more, notebook: point.ipynb, parameters: {value: 4}}
  - {name: sum, notebook: collect.ipynb, parameters: {points: "{points}"}}
"""


@pytest.fixture
def study(notebook: Path) -> Path:
    path = notebook.parent / "chain.yaml"
    path.write_text(STUDY)
    return path


def finish(notebook: Path, parameters: dict[str, object], out_dir: Path, duration_s: float) -> None:
    """Leave the manifest of a finished run."""
    run = prepare(notebook, parameters, out_dir)
    out_dir.mkdir(parents=True)
    run.manifest.write_text(json.dumps({"identity": run.identity, "duration_s": duration_s}))


def test_dry_run_counts_runs_invents_no_hours_and_leaves_nothing(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(study), "-o", str(tmp_path / "out"), "--dry-run", "--jobs", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "step    runs  finished  left",
        "points     3         0     3",
        "more       1         0     1",
        "sum        1         0     1",
        "all        5         0     5",
        "The hours cannot be estimated, because no run of point.ipynb has finished there.",
    ]
    assert not (tmp_path / "out").exists()


def test_point_that_is_finished_counts_and_what_reads_an_unfinished_one_is_left(
    study: Path, notebook: Path, tmp_path: Path
) -> None:
    finish(notebook, {"value": 1}, tmp_path / "points/1", 100.0)
    finish(notebook, {"value": 7}, tmp_path / "points/2", 200.0)  # its parameters have changed since
    finish(notebook.with_name("collect.ipynb"), {}, tmp_path / "sum", 5.0)
    points, more, total = plan_study(load_study(study), tmp_path)
    assert points == StepPlan("points", "point.ipynb", 3, ("points/2", "points/3"), (100.0, 200.0))
    assert more == StepPlan("more", "point.ipynb", 1, ("more",), ())
    assert total.to_do == ("sum",)
    forced = plan_study(load_study(study), tmp_path, force=True)
    assert [len(plan.to_do) for plan in forced] == [3, 1, 1]


def test_hours_are_the_mean_of_finished_runs_of_the_step_or_else_of_the_notebook() -> None:
    plans = [
        StepPlan("a", "x.ipynb", 4, ("a/3", "a/4"), (3600.0, 7200.0)),
        StepPlan("b", "x.ipynb", 1, ("b",), ()),
        StepPlan("c", "y.ipynb", 1, (), ()),
    ]
    assert describe_plan(plans, 1).endswith("About 4.50 hours with 1 job, from the mean duration of finished runs.")
    assert describe_plan(plans, 3).endswith("About 1.50 hours with 3 jobs, from the mean duration of finished runs.")


def test_plan_with_no_jobs_is_refused() -> None:
    with pytest.raises(ParameterError, match="number of jobs is 0; it must be at least 1"):
        describe_plan([StepPlan("a", "x.ipynb", 1, ("a",), (1.0,))], 0)


def test_study_that_is_finished_takes_no_hours() -> None:
    plans = [StepPlan("a", "x.ipynb", 1, (), ())]
    assert "About 0.00 hours" in describe_plan(plans, 1)
