"""Every notebook, run by plain papermill on a tiny corpus: numbers in what it leaves, against independent ones."""

import json
import shutil
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
from official import simulate_officially
from stubs import Inline
from tolerances import LOUDNESS_LU

from cadenza_lib.chain.fusion import ensemble, fuse
from cadenza_lib.chain.pipeline import ChainSettings, amplify, enhance, reference_remix, remix
from cadenza_lib.core.conventions import STEMS
from cadenza_lib.data.audiograms import read_audiograms
from cadenza_lib.data.corpus import AtEarSong, Corpus
from cadenza_lib.data.listeners import load_listeners, pure_tone_average_db_hl, standard_audiogram
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.runs.execution import run_study
from cadenza_lib.runs.study import load_study
from cadenza_lib.scoring import evaluation
from cadenza_lib.scoring.evaluation import OFFICIAL_COLUMNS, Settings
from cadenza_lib.scoring.pairs import score
from cadenza_lib.scoring.sweep import CANDIDATE_COLUMNS, search_and_test
from cadenza_lib.separation.checkpoints import save_checkpoint
from cadenza_lib.separation.separators import load

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
        system: run(
            "03_evaluate", root / system, corpus=str(corpus), system=system, n_pairs=N_PAIRS, output_stage="none"
        )
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
    assert not list(out_dir.rglob("*.unfinished*"))


def test_00_tour_scores_an_excerpt_as_the_evaluation_does(corpus: Path, tmp_path: Path) -> None:
    audiogram = "L 250:20 1k:30 4k:60 R 250:40 1k:50 8k:NR"
    out = run(
        "00_tour",
        tmp_path / "out",
        corpus=str(corpus),
        scene="scene_10001",
        audiogram=audiogram,
        systems=["oracle", "mixture"],
        start_s=0.0,
        duration_s=1.0,
    )
    data = Corpus(corpus)
    split = data.split(SPLIT)
    scene = split.scenes["scene_10001"]
    song, gains_db, listener = data.at_ear_song(split, scene), data.gains_db(scene), read_audiograms(audiogram)["own"]
    fused = fuse([song.stems, song.mixture.expand(4, -1, -1) / 4], song.mixture, mixture_weight=0.15)
    scores = pd.read_csv(out / "scores.csv").set_index("output_level_db")
    for output_level_db in (0.0, -6.0, -12.0):
        output = enhance(song, [fused], gains_db, listener, ChainSettings(output_level_db=output_level_db))
        expected = score(output, reference_remix(song, gains_db), listener, "scene_10001")
        np.testing.assert_allclose(scores.loc[output_level_db, "haaqi"], expected.haaqi, rtol=0, atol=ROUNDING)
    assert (out / "00_tour.ipynb").stat().st_size < 5e6  # bytes
    assert "no response at 8000 Hz, taken as 105 dB HL (own right)" in (out / "00_tour.ipynb").read_text()
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
            assert row["loudness_lufs"] == pytest.approx(expected, abs=LOUDNESS_LU)
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


def test_01_scenes_writes_the_official_generators_files(corpus: Path, tmp_path: Path) -> None:
    theirs, ours = (Path(shutil.copytree(corpus, tmp_path / name)) for name in ("theirs", "ours"))
    simulate_officially(theirs)
    out = run("01_scenes", tmp_path / "out", corpus=str(ours), n_scenes=1, to_disk=True)
    files = sorted(path.relative_to(theirs) for path in theirs.glob("audio/at_mic_music/*/*/*.wav"))
    assert len(files) == 4 * 5
    for file in (*files, Path("metadata/at_mic_music.train.json")):
        assert (ours / file).read_bytes() == (theirs / file).read_bytes()
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


def test_03_evaluate_enhances_songs_without_stems_and_scores_nothing(corpus: Path, tmp_path: Path) -> None:
    mixtures = shutil.copytree(corpus, tmp_path / "mixtures")
    for path in (mixtures / "audio/music").glob("*/*/[!m]*.wav"):
        path.unlink()
    out = run("03_evaluate", tmp_path / "out", corpus=str(mixtures), system="mixture", n_pairs=1)
    (signal,) = pd.read_csv(out / "signals.csv").itertuples()
    assert [p.name for p in (out / "enhanced_signals").iterdir()] == [f"{signal.scene}_{signal.listener}_remix.flac"]
    assert not list(out.glob("s*res.csv")) + list(out.glob("summary.csv"))
    check_report(out)


def test_tour_and_evaluation_run_on_real_music(real_sample: Path, tmp_path: Path) -> None:
    where = {"corpus": str(real_sample), "split": "valid"}
    tour = run("00_tour", tmp_path / "tour", **where, systems=["mixture"], start_s=0.0, duration_s=1.0)
    check_report(tour)
    out = run("03_evaluate", tmp_path / "out", **where, system="mixture", n_pairs=1)
    assert (ear_scores(out) > 0.2).all()  # noise scores less than 0.1
    check_quiet(out)


def test_05_haaqi_vs_audiogram_averages_the_scores_it_was_given_and_scores_with_and_without_the_clip(
    corpus: Path, evaluations: dict[str, Path], tmp_path: Path
) -> None:
    out = run(
        "05_haaqi_vs_audiogram",
        tmp_path / "out",
        corpus=str(corpus),
        scores=[str(folder) for folder in evaluations.values()],
        system="mixture",
        n_listeners=2,
        n_scenes=2,
        levels_db=[0.0, -12.0],
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

    # Two listeners are too few for anything but a sentence.
    assert pd.read_csv(out / "correlations.csv")["note"].str.contains("not enough data: [12] listener").all()
    assert pd.read_csv(out / "clip_effect.csv")["note"].str.contains("not enough data: 2 listeners").all()
    levels = pd.concat([pd.read_csv(path) for path in (out / "levels").glob("*.csv")])
    oracle = levels[levels["system"] == "oracle"]
    unlimited = oracle[~oracle["clip"] & (oracle["output_level_db"] == 0)]
    assert len(unlimited) == 2 * 2 * 2  # listeners, scenes, ears
    assert (unlimited["haaqi"] > 0.99).all()  # true stems, nothing clipped
    choices = pd.read_csv(out / "level_gains.csv")
    assert choices["n_songs"].tolist() == [2, 2]
    gain = choices["haaqi_own"] - choices["haaqi_official"]
    np.testing.assert_allclose(choices["gain_own"], gain, rtol=0, atol=ROUNDING)
    check_report(out)
    check_quiet(out)


def test_05_haaqi_vs_audiogram_takes_published_scores_of_all_real_listeners(cadenza_mini: Path, tmp_path: Path) -> None:
    listeners_file = cadenza_mini / "metadata" / "listeners.train.json"
    rng = np.random.default_rng(0)
    rows = []
    for number, listener in enumerate(load_listeners(listeners_file).values()):
        for song in range(3):
            left, right = (
                0.9 - 0.006 * pure_tone_average_db_hl(audiogram) + rng.normal(0, 0.03)
                for audiogram in (listener.audiogram_left, listener.audiogram_right)
            )
            scene = f"scene_{10 * number + song}"
            rows.append((scene, f"{song}-hlp_0001", listener.id, left, right, (left + right) / 2))
    path = tmp_path / "team.csv"
    pd.DataFrame(rows, columns=OFFICIAL_COLUMNS).to_csv(path, index=False)
    out = run(
        "05_haaqi_vs_audiogram", tmp_path / "out", corpus="", scores=[str(path)], listeners_file=str(listeners_file)
    )
    summary = pd.read_csv(out / "summary.csv").iloc[0]
    assert (summary["system"], summary["n_pairs"], summary["n_listeners"]) == ("team", 249, 83)
    tidy = pd.read_csv(out / "tidy.csv")
    correlations = pd.read_csv(out / "correlations.csv").set_index("predictor")
    expected = np.corrcoef(tidy["pta_db_hl"], tidy["haaqi"])[0, 1]
    assert correlations.loc["pta_db_hl", "pearson_r"] == pytest.approx(expected, abs=ROUNDING)
    assert correlations.loc["clipped_share", "note"] == "no row has both HAAQI and clipped_share"
    slope = pd.read_csv(out / "mixed_model.csv").set_index("term").loc["pta_db_hl"]
    assert abs(slope["estimate"] + 0.006) < 4 * slope["se"]
    assert pd.read_csv(out / "clip_effect.csv").empty  # there is no audio
    check_report(out)
    check_quiet(out)


def test_05_haaqi_vs_audiogram_says_which_averages_were_not_measured(cadenza_mini: Path, tmp_path: Path) -> None:
    people = json.loads((cadenza_mini / "metadata" / "listeners.train.json").read_text())
    people = dict(list(people.items())[:12])
    for number, entry in enumerate(people.values()):
        kept = (8, 8, 7, 4)[number % 4]  # frequencies, of 250 Hz to 8 kHz: without 8 kHz, and to 2 kHz
        for key in ("audiogram_cfs", "audiogram_levels_l", "audiogram_levels_r"):
            entry[key] = entry[key][:kept]
    (tmp_path / "listeners.json").write_text(json.dumps(people))
    rng = np.random.default_rng(0)
    lines = ["scene;song;listener;left_score;right_score;score"]
    for number, name in enumerate([*people] * 2):
        scores = rng.uniform(0.2, 0.9, 3)
        lines.append(
            f"scene_{number};{number % 2};{name};" + ";".join(f"{score}".replace(".", ",") for score in scores)
        )
    (tmp_path / "team.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    out = run(
        "05_haaqi_vs_audiogram",
        tmp_path / "out",
        corpus="",
        scores=str(tmp_path / "team.csv"),
        listeners_file=str(tmp_path / "listeners.json"),
    )
    assert pd.read_csv(out / "summary.csv").loc[0, "n_listeners"] == 12
    n_ears = pd.read_csv(out / "correlations.csv").set_index("predictor")["n_ears"]
    columns = ["low_db_hl", "high_db_hl", "pta_db_hl", "slope_db_per_octave", "threshold_8000_hz_db_hl"]
    assert n_ears[columns].tolist() == [48, 48, 36, 36, 24]
    model = pd.read_csv(out / "mixed_model.csv").iloc[0]
    assert model["n_ears"] == 36
    assert model["note"].endswith("12 of 48 rows lack a value")
    items = {item["file"]: item["caption"] for item in json.loads((out / "report.json").read_text())}
    assert "6 of 12 listeners are not measured to 8 kHz (3 to 2 kHz, 3 to 6 kHz)" in items["correlation_heatmap.png"]
    check_report(out)
    check_quiet(out)


def test_label_with_a_slash_stays_what_it_is_from_the_study_to_tables_and_figures(corpus: Path, tmp_path: Path) -> None:
    label = "no processing (w/o separation)"
    study = tmp_path / "study.yaml"
    study.write_text(f"""
parameters: {{corpus: "{corpus}", split: {SPLIT}}}
steps:
  - {{name: evaluate, notebook: 03_evaluate.ipynb, parameters: {{system: mixture, n_pairs: 1, label: "{label}"}}}}
  - {{name: listeners, notebook: 05_haaqi_vs_audiogram.ipynb, parameters: {{scores: "{{evaluate}}", n_listeners: 0}}}}
""")
    for name in ("03_evaluate", "05_haaqi_vs_audiogram"):
        shutil.copy(NOTEBOOKS / f"{name}.ipynb", tmp_path)
    result = run_study(load_study(study), tmp_path / "out", executor=Inline())
    assert [point.status for point in result.points] == ["finished", "finished"], [p.error for p in result.points]
    evaluate, listeners = (tmp_path / "out" / step for step in ("evaluate", "listeners"))
    assert json.loads((evaluate / "settings.json").read_text())["label"] == label
    assert json.loads((evaluate / "manifest.json").read_text())["parameters"]["label"] == label
    assert pd.read_csv(listeners / "summary.csv")["system"].tolist() == [label]
    assert pd.read_csv(listeners / "haaqi_by_severity.csv")["system"].unique().tolist() == [label]  # behind a figure
    assert json.loads((listeners / "manifest.json").read_text())["parameters"]["scores"] == [str(evaluate)]


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


def test_04_fusion_sweep_reports_what_it_chose_on_songs_it_did_not_search(corpus: Path, tmp_path: Path) -> None:
    out = run(
        "04_fusion_sweep",
        tmp_path / "out",
        corpus=str(corpus),
        test_split=SPLIT,
        models=["oracle", "mixture"],
        mixture_weights=[0.0, 0.5],
        weight_intervals=1,
        n_trials=2,
        n_search_pairs=2,
        n_test_pairs=1,
        personal_steps=1,
        n_personal_listeners=1,
        n_personal_scenes=1,
        personal_levels_db=[0.0],
    )
    scores = pd.read_csv(out / "scores.csv").set_index(["scene", "listener"])
    result = pd.read_csv(out / "result.csv").set_index(["set", "fusion"])
    data, songs = Corpus(corpus), []
    for pairs in search_and_test(data, SPLIT, SPLIT, 2, 1):
        songs.append({data.split(SPLIT).scenes[pair.scene].music for pair in pairs.pairs})
        for _, row in result.loc[pairs.name].iterrows():
            known = scores[(scores[list(CANDIDATE_COLUMNS)] == row[list(CANDIDATE_COLUMNS)]).all(axis=1)]
            expected = np.mean([known.loc[(pair.scene, pair.listener), "score"] for pair in pairs.pairs])
            assert row["haaqi"] == pytest.approx(expected, abs=ROUNDING)
    assert not songs[0] & songs[1]
    assert (
        result.loc[("search", "best of the optimiser"), "haaqi"]
        >= result.loc[("search", "equal weights, w = 0"), "haaqi"]
    )
    pairs = pd.read_csv(out / "personal_pairs.csv").set_index("setting")["score"]
    personal = pd.read_csv(out / "personal.csv").set_index(["severity", "setting"])
    assert personal.loc[("all", "grid"), "difference"] == pytest.approx(pairs["grid"] - pairs["fixed"], abs=ROUNDING)
    check_report(out)
    check_quiet(out)


def test_06_report_puts_the_papers_table_beside_ours(
    fine_tunings: dict[int, Path], evaluations: dict[str, Path], tmp_path: Path
) -> None:
    trained = Path(shutil.copytree(evaluations["oracle"], tmp_path / "trained"))  # as if training had made it perfect
    settings = json.loads((trained / "settings.json").read_text())
    settings["system"] = str(next(iter(fine_tunings.values())) / "last.safetensors")
    (trained / "settings.json").write_text(json.dumps(settings))
    out = run(
        "06_report",
        tmp_path / "out",
        data_size_runs=[str(folder) for folder in fine_tunings.values()],
        target_evaluations=[str(evaluations["mixture"]), str(trained)],
    )
    targets = pd.read_csv(out / "targets.csv").set_index("target")["haaqi"].to_numpy()
    expected = [pd.read_csv(evaluations[system] / "scores.csv")["score"].mean() for system in ("mixture", "oracle")]
    assert targets == pytest.approx(expected, abs=ROUNDING)
    table = pd.read_csv(out / "table1.csv").set_index("n_scenes")
    for n_scenes, folder in fine_tunings.items():
        result = json.loads((folder / "result.json").read_text())
        assert table.loc[n_scenes, "haaqi"] == pytest.approx(result["haaqi_best"], abs=ROUNDING)
        assert table.loc[n_scenes, "share"] == n_scenes / result["n_split_scenes"]
    check_report(out)


def test_06_report_puts_the_papers_systems_beside_ours_and_judges_its_claims(corpus: Path, tmp_path: Path) -> None:
    # Stand-ins whose order is known: the true stems are better than a half of them, and that better than no processing.
    loaded = [load("oracle"), load("mixture")]
    systems = {
        "Baseline Open-Unmix": loaded[1],
        "Baseline Hybrid Demucs": ensemble(loaded),
        "Official-USTC": ensemble(loaded, [1.0, 0.0]),
    }
    data, folders = Corpus(corpus), [tmp_path / label for label in systems]
    pairs = choose_pairs(data.split(SPLIT).scene_listeners)
    for (label, separator), folder in zip(systems.items(), folders, strict=True):
        settings = Settings(str(corpus), SPLIT, label, label, output_stage="none")
        evaluation.evaluate(data, separator, settings, pairs, folder, progress=False)
    root = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    for path in root.glob("metadata/*.train.json"):
        shutil.copy(path, path.with_name(path.name.replace("train", "other")))
    swapped = (root / "metadata/scene_listeners.other.json").read_text().translate(str.maketrans("AB", "BA"))
    (root / "metadata/scene_listeners.other.json").write_text(swapped)
    out = run(
        "06_report",
        tmp_path / "out",
        evaluations=[str(folder) for folder in folders],
        explain_splits=[SPLIT, "other"],
        explain_corpus=str(root),
        explain_system="mixture",
        n_explain_pairs=1,
    )
    explanation = pd.read_csv(out / "explanation.csv").set_index(["factor", "through"])["contribution"]
    assert explanation["all", "all"] == pytest.approx(explanation["songs and what is left", "all"], abs=ROUNDING) != 0
    table = pd.read_csv(out / "table2.csv").set_index("system")
    for label, folder in zip(systems, folders, strict=True):
        assert table.loc[label, "haaqi"] == pytest.approx(ear_scores(folder).mean(), abs=ROUNDING)
    findings = pd.read_csv(out / "findings.csv")
    assert (findings["here"] > 0).all()
    assert len(findings) == 2  # which two songs and two listeners leave undecided
    check_report(out)


def test_07_your_music_plays_what_the_chain_gives_for_a_song_and_an_audiogram(corpus: Path, tmp_path: Path) -> None:
    audiogram = "L 250:20 1k:30 4k:60 R 250:40 1k:50 8k:70"
    (song,) = corpus.glob("audio/music/train/Tiny 1")
    out = run(
        "07_your_music",
        tmp_path / "out",
        song=str(song),
        audiogram=audiogram,
        gains="vocals:+6,other:-3",
        systems=["oracle"],
        output_stage="none",
    )
    signals = [soundfile.read(song / f"{name}.wav")[0].T for name in (*STEMS, "mixture")]
    stems, mixture = torch.from_numpy(np.stack(signals[:-1])), torch.from_numpy(signals[-1])
    gains_db = torch.tensor([6.0, 0.0, 0.0, -3.0], dtype=torch.float64)
    listener, chain = read_audiograms(audiogram)["own"], ChainSettings(output_stage="none")
    amplified = amplify(remix(stems, gains_db, mixture), listener)[:, 110:-110]  # without the delay of the filters
    written, _ = soundfile.read(out / "enhanced/enhanced.wav")
    np.testing.assert_allclose(written.T, amplified, rtol=1e-6, atol=1e-6)  # of float32
    measures = json.loads((out / "enhanced/measures.json").read_text())
    at_ears = AtEarSong("Tiny 1", stems, mixture)
    expected = score(
        enhance(at_ears, [stems], gains_db, listener, chain), remix(stems, gains_db, mixture), listener, "Tiny 1"
    )
    assert measures["haaqi"] == pytest.approx(expected.haaqi, abs=1e-4)  # of float32
    check_report(out)
    check_quiet(out)
