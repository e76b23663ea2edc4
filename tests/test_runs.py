"""Runs and studies, on tiny notebooks written here."""

import base64
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from cadenza_lib import runs
from cadenza_lib import study as studies
from cadenza_lib.__main__ import main
from cadenza_lib.errors import ParameterError
from cadenza_lib.report import PointResult, write_page
from cadenza_lib.runs import RunError, execute, notebook_parameters
from cadenza_lib.study import load_study, run_study

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

# Comments with an equals sign make papermill complain; nobody should hear of it.
POINT_PARAMETERS = """
value: int = 0  # what to write, 13 = fail
share: float = 0.5  # a share, 0 = none
label: str = "a = b"  # any text
source: str = ""  # a file to read
weights: list[float] | None = None  # one per model
seed: int = 7  # of the generator
wait: bool = False  # until the other point has started
out_dir: str = "."  # where results go
"""
POINT_CELLS = (
    """
import json, os, sys, time
from pathlib import Path
out = Path(out_dir)
with (out / "count.txt").open("a") as file:
    file.write("x")
""",
    """
if value == 13:
    raise ValueError("no such luck")
if value == 14:
    from cadenza_lib.errors import CorpusError
    raise CorpusError("songs.json lists no song; add one.")
if value == 15:
    os._exit(1)
""",
    """
deadline = time.monotonic() + 60
while wait and len(list(out.parent.glob("*/count.txt"))) < 2:
    assert time.monotonic() < deadline, "the other point never started"
    time.sleep(0.01)
""",
    """
seen = {"value": value, "source": source, "cwd": os.getcwd(), "python": sys.prefix, "label": label,
        "threads": os.environ.get("OMP_NUM_THREADS")}
(out / "seen.json").write_text(json.dumps(seen))
(out / "table.csv").write_text(f"scene,score\\n<b>s{value}</b>,0.123456789012\\n")
item = {"kind": "table", "file": "table.csv", "title": "Scores <1>", "caption": "R & D"}
(out / "report.json").write_text(json.dumps([item]))
""",
)
COLLECT_PARAMETERS = """
points: list[str] = []  # directories of points
out_dir: str = "."  # where results go
"""
COLLECT_CELL = """
import json
from pathlib import Path
values = [json.loads(Path(point, "seen.json").read_text())["value"] for point in points]
Path(out_dir, "sum.txt").write_text(str(sum(values)))
"""


def write_notebook(path: Path, parameters: str, *cells: str) -> Path:
    tagged = new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[tagged, *map(new_code_cell, cells)]), path)
    return path


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    write_notebook(tmp_path / "notebooks/collect.ipynb", COLLECT_PARAMETERS, COLLECT_CELL)
    return write_notebook(tmp_path / "notebooks/point.ipynb", POINT_PARAMETERS, *POINT_CELLS)


@pytest.fixture
def write_study(notebook: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = notebook.parent / "studies/small.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


class Inline(Executor):
    """Runs each task when it is submitted: spawning processes takes seconds."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def count(directory: Path) -> int:
    """How often a notebook has run in this directory."""
    return len((directory / "count.txt").read_text())


# One run


def test_manifest_tells_all_that_decides_a_result(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "scores.csv").write_text("score\n1\n")
    monkeypatch.chdir(elsewhere)
    manifest = execute(
        "../notebooks/point.ipynb", {"source": "scores.csv", "share": 1, "label": "é\"\\{x}'"}, "out {y}"
    )
    found = read(manifest)
    out_dir = elsewhere / "out {y}"
    assert manifest == out_dir / "manifest.json"
    assert found["notebook"] == "point.ipynb"
    assert found["parameters"] == {
        "value": 0,
        "share": 1.0,
        "label": "é\"\\{x}'",
        "source": str(elsewhere / "scores.csv"),
        "weights": None,
        "seed": 7,
        "wait": False,
        "out_dir": str(out_dir),
    }
    assert found["notebook_sha256"] == hashlib.sha256(notebook.read_bytes()).hexdigest()
    assert found["inputs"] == {str(elsewhere / "scores.csv"): hashlib.sha256(b"score\n1\n").hexdigest()}
    assert found["seeds"] == {"seed": 7}
    assert found["versions"]["papermill"] == importlib.metadata.version("papermill")
    assert found["status"] == "finished"
    assert found["started"] <= found["ended"]
    assert found["started"].endswith("+00:00")
    assert 0 < found["duration_s"] < 60
    seen = read(out_dir / "seen.json")
    assert seen["cwd"] == str(notebook.parent)  # as under JupyterLab
    assert seen["label"] == "é\"\\{x}'"
    assert seen["python"] == sys.prefix
    assert Path.cwd() == elsewhere
    assert not caplog.records
    executed = nbformat.read(out_dir / "point.ipynb", as_version=4)
    assert executed.cells[-1].execution_count == 6  # parameters, injected parameters, four cells


def test_finished_run_is_not_run_again_until_its_inputs_change(notebook: Path, tmp_path: Path) -> None:
    source, out_dir = tmp_path / "scores.csv", tmp_path / "out"
    source.write_text("1")
    for _ in range(2):
        execute(notebook, {"source": str(source)}, out_dir)
        assert count(out_dir) == 1
    source.write_text("2")
    execute(notebook, {"source": str(source)}, out_dir)
    assert count(out_dir) == 2
    execute(notebook, {"source": str(source), "value": 1}, out_dir)
    assert count(out_dir) == 3
    execute(notebook, {"source": str(source), "value": 1}, out_dir, force=True)
    assert count(out_dir) == 4


def test_failed_cell_leaves_error_and_partial_notebook_but_no_manifest(
    notebook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    (out_dir / "manifest.json").write_text("{}")  # of an earlier run
    assert main(["run", str(notebook), "-p", "value", "13", "-o", str(out_dir)]) == 1
    expected = f"point.ipynb failed in cell [4] with ValueError: no such luck; see {out_dir / 'point.ipynb'}."
    error = capsys.readouterr().err
    assert f"cadenza: error: {expected}" in error
    assert "Traceback" not in error
    text = (out_dir / "error.txt").read_text()
    assert text.startswith(expected)
    assert 'raise ValueError("no such luck")' in text
    assert "\x1b" not in text
    assert not (out_dir / "manifest.json").exists()
    assert count(out_dir) == 1
    assert "ValueError" in (out_dir / "point.ipynb").read_text()
    execute(notebook, {"value": 1}, out_dir)
    assert not (out_dir / "error.txt").exists()


def test_sentence_of_our_own_error_is_the_message(notebook: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^songs\.json lists no song; add one\.$"):
        execute(notebook, {"value": 14}, tmp_path / "out")


def test_dead_kernel_is_a_failed_run(notebook: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^point\.ipynb stopped because its kernel died"):
        execute(notebook, {"value": 15}, tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
    assert (tmp_path / "out/error.txt").exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"valeu": 1}, r"point\.ipynb has no parameter valeu \(value 1\); it knows label, .*, value, wait"),
        ({"value": "1"}, r"point\.ipynb wants value as int, not '1' \(str\); it knows label"),
        ({"value": True}, r"wants value as int, not True \(bool\)"),
        ({"value": 1.0}, r"wants value as int, not 1\.0 \(float\)"),
        ({"share": "0.5"}, r"wants share as float, not '0\.5' \(str\)"),
        ({"share": False}, r"wants share as float, not False"),
        ({"wait": 1}, r"wants wait as bool, not 1 \(int\)"),
        ({"label": None}, r"wants label as str, not None"),
        ({"weights": [1, "2"]}, r"wants weights as list\[float\] \| None, not \[1, '2'\] \(list\)"),
        ({"weights": 1.0}, r"wants weights as list\[float\] \| None, not 1\.0"),
        ({"out_dir": "x"}, r"gets out_dir from its run"),
    ],
)
def test_unknown_and_ill_typed_parameters_are_refused(
    notebook: Path, tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        execute(notebook, parameters, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parameters_cell_gives_types_defaults_and_help(notebook: Path) -> None:
    known = notebook_parameters(notebook)
    assert list(known) == ["value", "share", "label", "source", "weights", "seed", "wait", "out_dir"]
    assert known["weights"] == runs.Parameter("weights", "list[float] | None", None, "one per model")
    assert known["value"].help == "what to write, 13 = fail"
    assert known["label"].default == "a = b"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("n = 1  # n", r"has 'n = 1' in its parameters cell; write it as name: type = default"),
        ("n: int  # n", r"has 'n: int' in its parameters cell"),
        ("import os", r"has 'import os' in its parameters cell"),
        ("n: int = 1.5  # n", r"has 'n: int = 1\.5' .* the default must be a literal of that type"),
        ("n: float = 1 / 3  # n", r"the default must be a literal"),
        ("n: Path = 'x'  # n", r"the type made of int, float"),
        ("n: dict[int, str] = {}  # papermill turns keys into texts", r"dict\[str, \.\.\.\]"),
        ("%matplotlib inline", r"parameters cell that is not Python"),
        ("n: int = 1  # n", r"bad\.ipynb has no parameter out_dir"),
    ],
)
def test_parameters_cell_that_breaks_the_grammar_is_refused(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        execute(write_notebook(tmp_path / "bad.ipynb", source), {}, tmp_path / "out")


def test_notebook_that_is_missing_broken_or_without_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"none\.ipynb does not exist"):
        notebook_parameters(tmp_path / "none.ipynb")
    (tmp_path / "broken.ipynb").write_text("{")
    with pytest.raises(ParameterError, match=r"broken\.ipynb is not a readable notebook"):
        notebook_parameters(tmp_path / "broken.ipynb")
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "plain.ipynb")
    with pytest.raises(ParameterError, match=r"plain\.ipynb has 0 cells tagged parameters"):
        notebook_parameters(tmp_path / "plain.ipynb")


def test_output_directory_that_cannot_be_written_is_refused(notebook: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match=r"Output directory .*file/out cannot be written"):
        execute(notebook, {}, tmp_path / "file/out")


def test_run_cannot_overwrite_its_notebook(notebook: Path) -> None:
    with pytest.raises(ParameterError, match=r"holds point\.ipynb itself"):
        execute(notebook, {}, notebook.parent)


def test_names_stay_and_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "scores.csv").write_text("")
    values = ["demo", "oracle", "./demo", "scores.csv", "hf://model/x", "", ["new/cache", "demo"]]
    assert [runs._absolute(value) for value in values] == [
        "demo",
        "oracle",
        f"{tmp_path}/demo",
        f"{tmp_path}/scores.csv",
        "hf://model/x",
        "",
        [f"{tmp_path}/new/cache", "demo"],
    ]


def test_texts_of_the_command_line_become_values_of_the_annotated_types(notebook: Path) -> None:
    texts = {"value": "3", "share": "6e-4", "label": "007", "weights": "[1, 0.5]", "wait": "true"}
    assert runs.parse_parameters(notebook, texts) == {
        "value": 3,
        "share": 6e-4,
        "label": "007",
        "weights": [1.0, 0.5],
        "wait": True,
    }
    assert runs.parse_parameters(notebook, {"weights": "null"}) == {"weights": None}
    with pytest.raises(ParameterError, match=r"wants value as int, not '3x'"):
        runs.parse_parameters(notebook, {"value": "3x"})


def test_commit_is_told_only_for_a_file_that_git_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a git hook runs the tests
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / "module.py"
    path.write_text("1")
    assert runs.git_state(path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init"], ["add", "."], ["commit", "-m", "x", "--no-verify"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    clean = runs.git_state(path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    path.write_text("2")
    assert runs.git_state(path) == {**clean, "dirty": True}


# Studies

GOOD = """
title: A <small> study
parameters: {seed: 3}
steps:
  - name: points
    notebook: point.ipynb
    parameters: {wait: true}
    grid: {value: [1, 2]}
  - name: sum
    notebook: collect.ipynb
    parameters: {points: "{points}"}
"""


def test_points_that_run_at_the_same_time_do_not_mix(
    write_study: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    study = load_study(write_study(GOOD))
    result = run_study(study, workers=2)  # each point waits until both have started
    out_dir = tmp_path / "runs/small"
    assert result.page == out_dir / "index.html"
    assert [point.status for point in result.points] == ["finished"] * 3
    assert not result.failed
    for value in (1, 2):
        seen = read(out_dir / f"points/{value}/seen.json")
        assert seen["value"] == value
        assert seen["threads"] == "1"
        assert count(out_dir / f"points/{value}") == 1
    assert "OMP_NUM_THREADS" not in os.environ
    assert (out_dir / "sum/sum.txt").read_text() == "3"
    manifest = read(out_dir / "sum/manifest.json")
    assert manifest["parameters"]["points"] == [str(out_dir / "points/1"), str(out_dir / "points/2")]
    assert read(out_dir / "points/1/manifest.json")["parameters"]["seed"] == 3

    page = result.page.read_text()
    assert "A &lt;small&gt; study" in page
    assert "&lt;b&gt;s2&lt;/b&gt;" in page
    assert "R &amp; D" in page
    assert "0.12346" in page
    assert 'href="points/1/point.html"' in page
    assert "http" not in page
    assert "<html" in (out_dir / "points/1/point.html").read_text()

    again = run_study(study, workers=2)
    assert [point.status for point in again.points] == ["kept"] * 3
    assert count(out_dir / "points/1") == 1


def test_failed_point_stops_only_those_that_read_it(
    write_study: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study("""
steps:
  - {name: points, notebook: point.ipynb, grid: {value: [13, 1]}}
  - {name: all, notebook: collect.ipynb, parameters: {points: "{points}"}}
  - {name: other, notebook: point.ipynb, parameters: {value: 2}}
""")
    out_dir = tmp_path / "out"
    result = run_study(load_study(path), out_dir, executor=Inline())
    assert [point.status for point in result.points] == ["failed", "finished", "skipped", "finished"]
    assert "It reads points/13, which did not finish." in result.points[2].error
    assert (out_dir / "points/13/error.txt").exists()
    assert (out_dir / "points/13/point.ipynb").exists()
    assert not (out_dir / "points/13/manifest.json").exists()
    page = result.page.read_text()
    assert "point.ipynb failed in cell [4] with ValueError: no such luck" in page
    assert 'href="points/13/point.html"' in page

    assert main(["run", str(path), "-o", str(out_dir), "--workers", "1"]) == 1
    assert "2 of 4 points did not finish (points/13, all)" in capsys.readouterr().err
    assert count(out_dir / "points/13") == 2
    assert count(out_dir / "points/1") == 1
    assert count(out_dir / "other") == 1


def test_grid_is_a_product_and_a_placeholder_spreads_over_it(write_study: Callable[[str], Path]) -> None:
    study = load_study(
        write_study("""
title: Spread
steps:
  - {name: train, notebook: point.ipynb, grid: {value: [1, 2], share: [0, 6e-4]}}
  - {name: use, notebook: point.ipynb, grid: {source: ["", "{train}/model.bin"]}}
  - {name: one, notebook: point.ipynb, points: [{value: 1, weights: [1, 0]}]}
  - {name: read, notebook: point.ipynb, parameters: {source: "{one}/seen.json"}}
""")
    )
    train, use, one, last = study.steps
    assert [point.directory for point in train.points] == [
        "train/1-0.0",
        "train/1-0.0006",
        "train/2-0.0",
        "train/2-0.0006",
    ]
    assert train.points[1].parameters == {"value": 1, "share": 6e-4}
    assert [point.parameters["source"] for point in use.points[:2]] == ["", "{train/1-0.0}/model.bin"]
    assert use.points[1].directory == "use/train-1-0.0-model.bin"
    assert use.points[1].needs == ("train/1-0.0",)
    assert len(use.points) == 5
    assert one.points[0].directory == "one/1-1.0-0.0"
    assert last.points[0].directory == "read"
    assert last.points[0].parameters["source"] == "{one/1-1.0-0.0}/seen.json"


def test_parameters_of_the_command_line_win(write_study: Callable[[str], Path]) -> None:
    path = write_study(GOOD)
    assert load_study(path, {"seed": "9", "wait": "false"}).steps[0].points[0].parameters == {
        "seed": 9,
        "wait": False,
        "value": 1,
    }
    with pytest.raises(ParameterError, match="varies value in step points"):
        load_study(path, {"value": "3"})


STEP = "steps: [{name: a, notebook: point.ipynb%s}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [", r"small\.yaml is not valid YAML in line 1"),
        ("- 1", r"has \[1\] for the study; it must be a mapping"),
        ("title: x", r"lacks \['steps'\] in the study"),
        ("steps: []", r"a list of at least one step"),
        ("step: []\nsteps: []", r"unknown keys in the study: \['step'\]"),
        ("steps: [{name: a}]", r"lacks \['notebook'\] in step a"),
        ("steps: [{name: ../a, notebook: point.ipynb}]", r"a step named '\.\./a'"),
        (
            "steps: [{name: a, notebook: nothing.ipynb}]",
            r"names the notebook nothing\.ipynb in step a, which is neither",
        ),
        (STEP % ", gird: {}", r"unknown keys in step a: \['gird'\]"),
        (STEP % ", grid: {}, points: []", r"both grid and points in step a"),
        (STEP % ", grid: {value: 1}", r"has 1 for value in the grid of step a; it must be a list"),
        (STEP % ", grid: {value: []}", r"it must be a list"),
        (STEP % ", grid: {value: [1, 1]}", r"several points called a/1"),
        (STEP % ", grid: {value: [1, x]}", r"wants value as int, not 'x'"),
        (STEP % ", parameters: {valeu: 1}", r"no parameter valeu"),
        (STEP % ", parameters: {source: '{b}'}", r"\{b\} in step a, which names no earlier step \(none\)"),
        ("parameters: {valeu: 1}\n" + STEP % "", r"no notebook with the parameter valeu"),
        (
            "steps: [{name: a, notebook: point.ipynb}, {name: a, notebook: point.ipynb}]",
            r"two steps named a",
        ),
        (
            "steps: [{name: a, notebook: point.ipynb, grid: {value: [1, 2]}},"
            " {name: b, notebook: point.ipynb, parameters: {source: '{a}'}}]",
            r"\{a\} for source in step b, which is one directory, but that step has 2 points",
        ),
    ],
)
def test_wrong_study_is_refused_before_anything_runs(
    write_study: Callable[[str], Path], text: str, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        load_study(write_study(text))


def test_missing_study_and_wrong_workers_are_refused(write_study: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"none\.yaml does not exist"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(ParameterError, match=r"number of workers is 0; it must be at least 1"):
        run_study(load_study(write_study(GOOD)), tmp_path / "out", workers=0)


def test_scheduler_without_dask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ParameterError, match="needs dask; run pip install distributed"):
        studies.scheduler_executor("tcp://127.0.0.1:1")


# The page


def result_with(out_dir: Path, items: Any) -> PointResult:
    out_dir.mkdir()
    (out_dir / "report.json").write_text(json.dumps(items))
    return PointResult("step", "", out_dir, "none.ipynb", "finished", 1.0)


def test_page_embeds_figures_and_escapes_text(tmp_path: Path) -> None:
    item = {"kind": "figure", "file": "x.png", "title": "<t>", "caption": "<c>", "alt": '"><a'}
    result = result_with(tmp_path / "run", [item])
    (tmp_path / "run/x.png").write_bytes(PNG)
    page = write_page(tmp_path / "index.html", "<h>", {"<k>": "<v>"}, [result]).read_text()
    assert f"data:image/png;base64,{base64.b64encode(PNG).decode()}" in page
    assert 'alt="&quot;&gt;&lt;a"' in page
    for text in ("t", "c", "h", "k", "v"):
        assert f"&lt;{text}&gt;" in page
        assert f"<{text}>" not in page


def test_page_shows_no_file_from_outside_of_the_run(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("password\n1234567\n")
    items = [{"kind": "table", "file": name} for name in ("../secret.csv", str(secret), "link.csv")]
    result = result_with(tmp_path / "run", items)
    (tmp_path / "run/link.csv").symlink_to(secret)
    page = write_page(tmp_path / "index.html", "x", {}, [result]).read_text()
    assert page.count("lies outside of its directory") == 3
    assert "1234567" not in page


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({}, "must hold a list of items"),
        ([1], "is not a mapping of texts"),
        ([{"kind": "table", "file": "none.csv"}], "is not a file in its directory"),
        ([{"kind": "film", "file": "report.json"}], "of kind &#x27;film&#x27;; use table or figure"),
        ([{"kind": "figure", "file": "report.json"}], "is not a figure a browser shows"),
        ([{"kind": "table", "file": "report.json", "tilte": "x"}], "unknown keys [&#x27;tilte&#x27;]"),
    ],
)
def test_page_tells_what_is_wrong_with_a_report(tmp_path: Path, items: Any, message: str) -> None:
    result = result_with(tmp_path / "run", items)
    assert message in write_page(tmp_path / "index.html", "x", {}, [result]).read_text()


def test_long_table_is_cut_and_says_so(tmp_path: Path) -> None:
    result = result_with(tmp_path / "run", [{"kind": "table", "file": "t.csv"}])
    (tmp_path / "run/t.csv").write_text("n\n" + "\n".join(map(str, range(10_000, 10_300))))
    page = write_page(tmp_path / "index.html", "x", {}, [result]).read_text()
    assert "The first 200 of 300 rows of t.csv." in page
    assert ">10199<" in page
    assert ">10200<" not in page
