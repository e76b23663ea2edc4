"""Every notebook, run by plain papermill on a tiny corpus: numbers in what it leaves, against independent ones."""

import json
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import papermill
import pyloudnorm
import pytest
import soundfile
import torch
from demucs.hdemucs import HDemucs

from cadenza_lib import evaluation
from cadenza_lib.corpus import Corpus
from cadenza_lib.demo import tiny_corpus
from cadenza_lib.fusion import fuse
from cadenza_lib.listeners import pure_tone_average_db_hl, standard_audiogram
from cadenza_lib.scenes import STEMS
from cadenza_lib.separation import save_checkpoint

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SPLIT = "train"
N_PAIRS = 2  # HAAQI of a pair takes 1.5 s for 1 s of music
ROUNDING = 1e-12  # means of the same numbers in another order


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


def run(name: str, out_dir: Path, **parameters: Any) -> Path:
    """Execute a notebook as a person would, and return its output directory."""
    out_dir.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        NOTEBOOKS / f"{name}.ipynb",
        out_dir / f"{name}.ipynb",
        parameters={"out_dir": str(out_dir), "split": SPLIT, **parameters},
        cwd=out_dir,  # not the repository: the package must do without
        progress_bar=False,
        log_output=False,
    )
    return out_dir


@pytest.fixture(scope="module")
def evaluations(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run 03_evaluate on both bounds, without the output stage's clipping, and return where the scores lie."""
    root = tmp_path_factory.mktemp("evaluations")
    return {
        system: run("03_evaluate", root / system, corpus=str(corpus), system=system, n_pairs=N_PAIRS, clip=False)
        for system in ("oracle", "mixture")
    }


def ear_scores(out_dir: Path) -> np.ndarray:
    """Return the scores of an evaluation, `(pair, ear)`."""
    return pd.read_csv(out_dir / "scores.csv")[["left_score", "right_score"]].to_numpy()


def check_quiet(out_dir: Path) -> None:
    """Check that the executed notebook in a directory shows no warning to its reader."""
    (path,) = out_dir.glob("*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    assert "Warning" not in "".join(output.text for output in outputs if output.output_type == "stream")


def check_report(out_dir: Path) -> None:
    """Check that all that a notebook shows on the page of a study is there, and that it left no half-written file."""
    items = json.loads((out_dir / "report.json").read_text())
    assert items
    for item in items:
        assert (out_dir / item["file"]).stat().st_size > 0
        assert item["title"]
        assert item["caption"]
    assert not list(out_dir.rglob(".*"))


def test_00_tour_scores_an_excerpt_as_the_evaluation_does(corpus: Path, tmp_path: Path) -> None:
    out = run(
        "00_tour",
        tmp_path / "out",
        corpus=str(corpus),
        scene="scene_10001",
        listener="A",
        systems=["oracle", "mixture"],
        start_s=0.0,
        duration_s=1.0,
    )
    data = Corpus(corpus)
    split = data.split(SPLIT)
    scene = split.scenes["scene_10001"]
    song, gains_db, listener = data.at_ear_song(split, scene), data.gains_db(scene), split.listeners["A"]
    fused = fuse([song.stems, song.mixture.expand(4, -1, -1) / 4], song.mixture, mixture_weight=0.15)
    scores = pd.read_csv(out / "scores.csv").set_index("output_level_db")
    for output_level_db in (0.0, -6.0, -12.0):
        output = evaluation.enhance(song, fused, gains_db, listener, output_level_db=output_level_db)
        expected = evaluation.score(output, evaluation.reference_remix(song, gains_db), listener, "scene_10001")
        np.testing.assert_allclose(scores.loc[output_level_db, "haaqi"], expected.haaqi, rtol=0, atol=ROUNDING)
    assert (out / "00_tour.ipynb").stat().st_size < 5e6  # bytes
    check_report(out)
    check_quiet(out)


def test_01_scenes_measures_the_loudness_that_pyloudnorm_measures(corpus: Path, tmp_path: Path) -> None:
    out = run("01_scenes", tmp_path / "out", corpus=str(corpus), n_scenes=2)
    levels = pd.read_csv(out / "levels.csv").set_index(["scene", "signal"])
    data = Corpus(corpus)
    split = data.split(SPLIT)
    meter = pyloudnorm.Meter(44100)
    simulated = levels.index.unique("scene")
    assert len(simulated) == 2
    for name in simulated:
        song = data.at_ear_song(split, split.scenes[name])
        signals = dict(zip(("vocals", "drums", "bass", "other"), song.stems, strict=True)) | {"mixture": song.mixture}
        for signal, samples in signals.items():
            row = levels.loc[(name, signal), :]
            expected = meter.integrated_loudness(samples.numpy().T)
            assert row["loudness_lufs"] == pytest.approx(expected, abs=1e-6)  # LU; what the issue asks of loudness
            assert row["left_peak"] == float(samples[0].abs().max())
            assert row["right_peak"] == float(samples[1].abs().max())
    assert len(levels) == 2 * 5

    scenes = pd.read_csv(out / "scenes.csv").set_index("scene")
    assert len(scenes) == len(split.scenes)
    gains = data.gains[split.scenes["scene_10001"].gain]
    assert scenes.loc["scene_10001", ["vocals", "drums", "bass", "other"]].to_dict() == gains
    assert scenes.loc["scene_10001", "listeners"] == ", ".join(split.scene_listeners["scene_10001"])
    assert all((out / f"{figure}.pdf").exists() for figure in ("audiograms", "levels", "hrtf"))
    check_report(out)
    check_quiet(out)


def test_03_evaluate_puts_oracle_near_one_and_the_mixture_below_it(corpus: Path, evaluations: dict[str, Path]) -> None:
    oracle, mixture = (ear_scores(evaluations[system]) for system in ("oracle", "mixture"))
    assert oracle.shape == mixture.shape == (N_PAIRS, 2)
    # True stems differ from the reference by the resampling to 32 kHz alone.
    assert (oracle > 0.99).all()
    assert (mixture < oracle - 0.01).all()
    for system, out in evaluations.items():
        scores = pd.read_csv(out / "scores.csv")
        expected = (scores["left_score"] + scores["right_score"]) / 2
        np.testing.assert_allclose(scores["score"], expected, rtol=0, atol=ROUNDING)
        for row in scores.itertuples():
            path = out / "enhanced_signals" / f"{row.scene}_{row.listener}_remix.wav"
            signal, rate = soundfile.read(path)
            assert rate == 32000
            share = np.mean(np.abs(signal) > 1, axis=0)
            np.testing.assert_allclose([row.left_clipped_share, row.right_clipped_share], share, rtol=0, atol=1e-4)
        settings = json.loads((out / "settings.json").read_text())
        assert settings["system"] == system
        assert settings["corpus"] == str(corpus)
        check_quiet(out)


def test_05_haaqi_vs_audiogram_averages_the_scores_it_was_given(
    corpus: Path, evaluations: dict[str, Path], tmp_path: Path
) -> None:
    out = run(
        "05_haaqi_vs_audiogram",
        tmp_path / "out",
        corpus=str(corpus),
        scores=[str(folder) for folder in evaluations.values()],
    )
    summary = pd.read_csv(out / "summary.csv")
    labels = [f"{system}, no clip" for system in evaluations]
    assert summary["system"].tolist() == labels
    for row, folder in zip(summary.itertuples(), evaluations.values(), strict=True):
        scores = pd.read_csv(folder / "scores.csv")
        assert row.haaqi == pytest.approx(scores["score"].mean(), abs=ROUNDING)
        assert row.n_pairs == N_PAIRS
        assert row.n_listeners == scores["listener"].nunique()

    tidy = pd.read_csv(out / "tidy.csv")
    assert len(tidy) == len(evaluations) * N_PAIRS * 2
    audiograms = {("A", "left"): "N2", ("A", "right"): "N3", ("B", "left"): "S1", ("B", "right"): "N1"}
    for row in tidy.itertuples():
        expected = pure_tone_average_db_hl(standard_audiogram(audiograms[row.listener, row.ear]))
        assert row.pta_db_hl == pytest.approx(expected, abs=ROUNDING)
    pta = pd.read_csv(out / "correlations.csv").query("predictor == 'pta_db_hl'").set_index("system")
    for label in labels:
        rows = tidy[tidy["system"] == label]
        expected = np.corrcoef(rows["pta_db_hl"], rows["haaqi"])[0, 1]
        assert pta.loc[label, "pearson_r"] == pytest.approx(expected, abs=ROUNDING)
    check_report(out)
    check_quiet(out)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a network of random weights, small enough to be trained in a test."""
    architecture = {"sources": list(STEMS), "channels": 4, "nfft": 4096, "depth": 6}
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "random.safetensors"
    save_checkpoint(HDemucs(**architecture), path, {"architecture": "hdemucs", "arguments": architecture})
    return path


@pytest.fixture(scope="module")
def fine_tunings(corpus: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Run 02_finetune on one and on two scenes, and return where the runs lie."""
    root = tmp_path_factory.mktemp("fine_tunings")
    return {
        n_scenes: run(
            "02_finetune",
            root / str(n_scenes),
            corpus=str(corpus),
            init=str(checkpoint),
            valid_split=SPLIT,
            n_scenes=n_scenes,
            segment_s=0.5,
            batch_size=2,
            learning_rate=1e-2,
            max_steps=4,
            valid_every=0,
            n_valid_pairs=1,
            device="cpu",
        )
        for n_scenes in (1, 2)
    }


def test_02_finetune_lowers_the_loss_and_reports_the_scores_of_its_validations(fine_tunings: dict[int, Path]) -> None:
    for n_scenes, out in fine_tunings.items():
        result = json.loads((out / "result.json").read_text())
        assert result["steps"] == 4
        assert result["n_scenes"] == n_scenes == len(pd.read_csv(out / "scenes.csv"))
        curve = pd.read_csv(out / "loss_curves.csv")
        validations = curve.dropna(subset="valid_loss").set_index("step")["valid_loss"]
        assert validations[4] < validations[0]
        summary = pd.read_csv(out / "summary.csv").set_index("system")["haaqi"]
        assert list(summary.index) == ["step 0", "step 4"]
        for step in (0, 4):
            folder = out / "validation" / f"step_{step:06d}"
            assert summary[f"step {step}"] == pytest.approx(ear_scores(folder).mean(), abs=ROUNDING)
        assert result["haaqi_best"] == pytest.approx(summary.max(), abs=ROUNDING)
        for name in ("true", "before", "after"):
            assert soundfile.info(out / "examples" / name / "vocals.flac").samplerate == 44100
        check_report(out)
        check_quiet(out)


def test_06_report_puts_the_papers_table_beside_ours(fine_tunings: dict[int, Path], tmp_path: Path) -> None:
    out = run("06_report", tmp_path / "out", data_size_runs=[str(folder) for folder in fine_tunings.values()])
    table = pd.read_csv(out / "table1.csv").set_index("n_scenes")
    for n_scenes, folder in fine_tunings.items():
        result = json.loads((folder / "result.json").read_text())
        assert table.loc[n_scenes, "haaqi"] == pytest.approx(result["haaqi_best"], abs=ROUNDING)
        assert table.loc[n_scenes, "share"] == n_scenes / result["n_split_scenes"]
    check_report(out)
