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

from cadenza_lib.corpus import Corpus
from cadenza_lib.demo import tiny_corpus
from cadenza_lib.listeners import pure_tone_average_db_hl, standard_audiogram

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
