"""What runs are expected to cost, against what they compute."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cadenza_lib.__main__ import main
from cadenza_lib.core.errors import CorpusError
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.haaqi import Components, HaaqiReference
from cadenza_lib.runs import execution
from cadenza_lib.runs.cost import Calibration, Work, work_of
from cadenza_lib.runs.notebooks import notebook_parameters
from cadenza_lib.runs.study import load_study
from cadenza_lib.scoring import evaluation
from cadenza_lib.scoring.evaluation import Settings
from cadenza_lib.separation import separators

ROOT = Path(__file__).resolve().parents[2]


def parameters(notebook: str, **given: object) -> dict[str, object]:
    known = notebook_parameters(ROOT / f"notebooks/{notebook}.ipynb")
    assert set(given) <= set(known)
    return {name: parameter.default for name, parameter in known.items()} | given


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("cost") / "tiny")


def test_evaluation_computes_as_many_separations_and_scores_as_expected(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"separations": 0, "scores": 0, "separated_s": 0.0}

    def separator(song):
        seen["separations"] += 1
        seen["separated_s"] += song.mixture.shape[-1] / song.sample_rate
        return song.stems

    def components(*_):
        seen["scores"] += 1
        return Components(*[0.5] * 7)

    monkeypatch.setattr(HaaqiReference, "components", components)
    monkeypatch.setattr(HaaqiReference, "state_after", lambda _: np.random.RandomState(0).get_state())
    data = Corpus(corpus)
    pairs = choose_pairs(data.split("train").scene_listeners, 3, seed=1)
    evaluation.evaluate(data, separator, Settings(data.name, "train", "x"), pairs, tmp_path, progress=False)
    work = work_of("03_evaluate", parameters("03_evaluate", corpus=str(corpus), split="train", n_pairs=3, seed=1))
    assert (work.separations, work.scores) == (seen["separations"], seen["scores"]) == (3, 6)
    assert work.audio_s["separation", "demo_hdemucs", "auto"] == seen["separated_s"]
    assert work_of("03_evaluate", parameters("03_evaluate", system="oracle")).separations == 0


def test_a_fusion_is_separated_by_each_of_its_networks_and_scored_once() -> None:
    given = parameters("03_evaluate", system=["demo_hdemucs", "demo_openunmix", "mixture"], n_pairs=3)
    one, fused = work_of("03_evaluate", parameters("03_evaluate", n_pairs=3)), work_of("03_evaluate", given)
    assert (fused.separations, fused.scores) == (2 * one.separations, one.scores)


def test_a_sweep_separates_once_and_scores_every_candidate_on_both_ears() -> None:
    given = parameters(
        "04_fusion_sweep",
        models=["demo_hdemucs", "demo_openunmix", "oracle"],
        mixture_weights=[0.0, 0.1],
        weight_intervals=2,
        n_trials=5,
        n_search_pairs=3,
        n_test_pairs=2,
    )
    work = work_of("04_fusion_sweep", given)
    searched = 2 * 2 + 6 + 5  # with and without the clip, corners and middles of the simplex, trials
    assert work.scores == 2 * (3 * searched + 2 * 4)
    assert work.separations <= 2 * (3 + 2)


@pytest.mark.parametrize(
    ("steps", "every", "validations"),
    [(40, 20, 3), (40, 0, 2), (41, 20, 4), (10, 20, 2)],
)
def test_fine_tuning_validates_before_during_and_after(steps: int, every: int, validations: int) -> None:
    given = parameters("02_finetune", max_steps=steps, valid_every=every, n_valid_pairs=5)
    work = work_of("02_finetune", given)
    assert work.steps == steps
    assert work.scores == validations * 5 * 2
    assert work.audio_s["training", "demo_hdemucs", "auto"] == steps * 4 * 3.0


def test_length_of_a_demo_song_is_known_without_rendering_it() -> None:
    data = open_corpus("demo")
    split = data.split("valid")
    scene = next(iter(split.scenes.values()))
    stems, _ = data.song(split, scene.music)
    assert data.song_length(split, scene) == stems.shape[-1]


def test_work_adds_up() -> None:
    both = Work(1, 2, 3, {("scoring",): 1.5}) + Work(4, 5, 6, {("scoring",): 2.0, ("song", "x", "y"): 1.0})
    assert both == Work(5, 7, 9, {("scoring",): 3.5, ("song", "x", "y"): 1.0})


def test_calibration_measures_what_is_asked_for_once_and_scales_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = Calibration(1)
    calibration.__dict__["start_s"] = 2.0
    once = calibration.seconds(Work(audio_s={("separation", "demo_openunmix", "cpu"): 10.0}))
    assert once > 2.0
    monkeypatch.setattr(separators, "load_network", None)  # would fail if measured again
    assert calibration.seconds(Work(audio_s={("separation", "demo_openunmix", "cpu"): 20.0})) - 2.0 == pytest.approx(
        2 * (once - 2.0)
    )
    assert calibration.seconds(Work()) == 2.0


def test_step_takes_at_least_as_long_as_its_longest_point() -> None:
    calibration = Calibration(1)
    calibration.__dict__["start_s"] = 0.0
    calibration._cost[("scoring",)] = 1.0
    works = {name: Work(audio_s={("scoring",): seconds}) for name, seconds in {"a": 1.0, "b": 1.0, "c": 10.0}.items()}
    plan = execution.StepPlan("x", 3, works)
    assert [plan.seconds(jobs, calibration) for jobs in (1, 2)] == [12.0, 10.0]


STUDY = """
parameters: {corpus: %s, split: train, valid_split: train, device: cpu}
steps:
  - name: train
    notebook: 02_finetune.ipynb
    parameters: {init: demo_openunmix, n_valid_pairs: 1, max_steps: 30, valid_every: 20}
  - name: evaluate
    notebook: 03_evaluate.ipynb
    parameters: {n_pairs: 2, system: "{train}/best.safetensors"}
  - {name: bound, notebook: 03_evaluate.ipynb, parameters: {n_pairs: 4, system: oracle}, grid: {seed: [0, 1, 2]}}
"""


@pytest.fixture
def study(corpus: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    text = (STUDY % corpus).replace("notebook: 0", f"notebook: {ROOT}/notebooks/0")
    path.write_text(text)
    return path


def test_plan_counts_a_network_that_is_not_trained_yet_as_the_one_it_starts_from(study: Path, tmp_path: Path) -> None:
    train, evaluate, bound = execution.plan_study(load_study(study), tmp_path / "out")
    assert train.work.steps == 30
    assert evaluate.work.audio_s["separation", "demo_openunmix", "cpu"] == 2.0  # two songs of 1 s
    assert (bound.n_points, len(bound.to_do), bound.work.scores) == (3, 3, 3 * 4 * 2)
    assert not (tmp_path / "out").exists()


def test_dry_run_tells_counts_and_hours_and_leaves_nothing(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    assert main(["run", str(study), "-o", str(tmp_path / "out"), "--dry-run", "--jobs", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == [
        *("step", "runs", "finished", "to", "do", "separations", "HAAQI", "scores", "training", "steps", "hours")
    ]
    assert said[4].split()[:-1] == ["all", "5", "0", "5", "5", "34", "30"]
    assert float(said[4].split()[-1]) == pytest.approx(sum(float(line.split()[-1]) for line in said[1:4]), abs=0.02)
    assert "hours with 2 jobs on this machine" in said[5]
    assert not (tmp_path / "out").exists()
    assert torch.get_num_threads() == threads


def test_dry_run_of_a_corpus_that_is_not_there_says_so(study: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere does not exist"):
        execution.plan_study(load_study(study, {"corpus": str(tmp_path / "nowhere")}), tmp_path / "out")


def test_point_that_reads_one_to_be_made_again_is_to_be_made_again(tmp_path: Path, notebook: Path) -> None:
    path = notebook.parent / "chain.yaml"
    path.write_text("""
steps:
  - {name: points, notebook: point.ipynb, grid: {value: [1]}}
  - {name: sum, notebook: collect.ipynb, parameters: {points: "{points}"}}
""")
    study = load_study(path)
    assert [len(plan.to_do) for plan in execution.plan_study(study, tmp_path / "out")] == [1, 1]
