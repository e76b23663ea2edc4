"""Every reader of a file that others may have written, each with a small sound example."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from damage import changed_bytes, damaged_json, damaged_text, damaged_yaml
from demucs.hdemucs import HDemucs
from hypothesis import strategies as st
from signals import write_with_pyav
from stubs import COLLECT_CELL, COLLECT_PARAMETERS, GOOD, POINT_CELLS, POINT_PARAMETERS, write_notebook

from cadenza_lib.analysis import ascent, personal, tables
from cadenza_lib.audio import media
from cadenza_lib.audio.acoustics import load_hrtf, read_audio
from cadenza_lib.chain.fitting import PRESCRIPTIONS
from cadenza_lib.chain.pipeline import ChainSettings
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import read_json
from cadenza_lib.core.identity import claim
from cadenza_lib.data.audiograms import read_audiograms
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.datasets import check_data
from cadenza_lib.data.listeners import ear_table, load_listeners
from cadenza_lib.data.scenes import choose_pairs, legacy_seed
from cadenza_lib.data.simulation import at_ear_metadata, plan_simulation
from cadenza_lib.data.songs import SIGNALS, SongFolder
from cadenza_lib.data.sources import find_songs
from cadenza_lib.data.tiny import tiny_corpus, tiny_song
from cadenza_lib.runs.notebooks import prepare
from cadenza_lib.runs.page import PointResult, write_page
from cadenza_lib.runs.parameters import notebook_parameters
from cadenza_lib.runs.study import load_study
from cadenza_lib.scoring import evaluation, levels
from cadenza_lib.scoring.sweep import Sweep
from cadenza_lib.separation import checkpoints, downloads, pretrained, separators
from cadenza_lib.separation.estimates import cached_separator
from cadenza_lib.separation.openunmix import OpenUnmix
from cadenza_lib.training import files
from cadenza_lib.training.segments import Segments, training_scenes

SMALL_HDEMUCS = {"sources": ["drums", "bass", "other", "vocals"], "channels": 4, "nfft": 4096, "depth": 6}
SMALL_OPENUNMIX = {"sources": list(STEMS), "hidden_size": 4, "n_fft": 64, "hop_length": 16}


@dataclass(frozen=True)
class Loader:
    """A reader, and how its input comes to harm."""

    name: str
    write: Callable[[Path], Path]  # makes a sound example in an empty directory; returns the file that is damaged
    load: Callable[[Path], Any]  # reads it
    damage: Callable[[bytes], st.SearchStrategy[bytes]] = damaged_json


# Corpora


def _corpus_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        root = tiny_corpus(folder / "corpus", 0.5)
        split = Corpus(root).split("train")
        at_ears = {key: at_ear_metadata(split)[key] for key in list(at_ear_metadata(split))[:2]}
        (root / "metadata/at_mic_music.train.json").write_text(json.dumps(at_ears))
        for entry in at_ears.values():
            song = root / "audio/at_mic_music" / entry["Path"]
            song.mkdir(parents=True)
            for signal in SIGNALS:
                soundfile.write(song / f"{signal}.wav", 0.1 * np.ones((22050, 2)), SAMPLE_RATE)
        return root / name

    return write


def _read_corpus(path: Path) -> Any:
    """Read all metadata and headers, and what is made of them without reading audio."""
    root = path.parents[1] if path.parent.name == "metadata" else path.parents[2]
    check_data(root)
    corpus = Corpus(root)
    split = corpus.split("train")
    read = []
    for name, scene in split.scenes.items():
        read += [legacy_seed(name), corpus.gains_db(scene), corpus.song_length(split, scene)]
        if not corpus.has_at_ear_audio(split, scene):
            read.append(corpus.hrtf(scene.head_loudspeaker_positions))
    pairs = choose_pairs(split.scene_listeners)
    heard = [split.listeners[pair.listener] for pair in pairs]
    if heard:
        read += [ear_table(heard).drop(columns="high_db_hl"), *(PRESCRIPTIONS["nal_r"].firs(one) for one in heard)]
    return read


METADATA = ("gains", "head_loudspeaker_positions", "listeners.train", "musdb18.train", "at_mic_music.train")
METADATA += ("scenes.train", "scene_listeners.train")


def _plan(path: Path) -> Any:
    corpus = Corpus(path.parents[1])
    plan = plan_simulation(corpus, "train")
    assert all(corpus.at_ear_folder(song).is_relative_to(corpus.root) for song in plan.songs.values())
    return plan


def _audiograms(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "audiograms.csv").write_text(text)
        return folder / "audiograms.csv"

    return write


BY_EAR = "Listener;Ear;0,25 kHz;500;1000;8k\nA;left;20;22,5;NR;>90\nA;R;20;;40;60\nB;l;10;20;30;40\n"
BY_LISTENER = "listener,L250,L500,left_8000,R250,R 500 Hz,R8000\nA,20,25.5,60,,,\nB,-10,0,120,15,NR,100\n"


# Sound files


def _sound(name: str, **how: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        samples = np.random.default_rng(0).normal(0, 0.1, (700, 2))
        soundfile.write(folder / name, samples, SAMPLE_RATE, **how)
        return folder / name

    return write


def _read_sound(path: Path) -> Any:
    return read_audio(path, SAMPLE_RATE), read_audio(path, SAMPLE_RATE, start=100, stop=200)


def _write_m4a(folder: Path) -> Path:
    write_with_pyav(folder / "x.m4a", np.random.default_rng(0).normal(0, 0.1, (2, 3000)))
    return folder / "x.m4a"


def _read_media(path: Path) -> Any:
    signal, notes = media.read_audio(path)
    assert all(note.isprintable() for note in notes)
    return signal


def _write_song(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in SIGNALS:
        _sound(f"{name}.wav", subtype="PCM_16")(folder)
    return folder / "mixture.wav"


def _check_folder(path: Path) -> None:
    """Look at headers, and tell of damage instead of raising an error."""
    for finding in check_data(path.parents[1]):
        assert finding.detail.isprintable(), finding


def _write_hrtf(folder: Path) -> Path:
    for angle in ("n30.0", "p30.0"):
        _sound(f"BTE_fr-X-{angle}.wav", subtype="FLOAT")(folder)
    return folder / "BTE_fr-X-n30.0.wav"


# Tables, and the songs to import


def _write_scores(out: Path, pairs: Any, split: Any) -> Path:
    rows = [
        (pair.scene, split.scenes[pair.scene].at_ear_song, pair.listener, *np.linspace(0.1, 0.9, 15)) for pair in pairs
    ]
    pd.DataFrame(rows, columns=evaluation.COLUMNS).to_csv(out / "scores.csv", index=False)
    return out / "scores.csv"


def _write_evaluation(folder: Path) -> Path:
    corpus = Corpus(tiny_corpus(folder / "corpus", 0.1))
    split = corpus.split("train")
    claim(folder / "settings.json", evaluation.Settings("twin", "train", ("a", "b"), model_weights=(0.5, 0.5)))
    return _write_scores(folder, choose_pairs(split.scene_listeners), split)


def _read_evaluation(path: Path) -> Any:
    listeners = load_listeners(path.parent / "corpus/metadata/listeners.train.json")
    table = tables.tidy_table(path.parent, listeners)
    missing = int(table["haaqi"].isna().sum())
    assert (f"{missing} of them missing and left out" in tables.describe(table)) == (missing > 0)
    summary = tables.summary_table(table)
    return table["haaqi"].dropna().to_numpy(), table["clipped_share"].dropna().to_numpy(), summary["haaqi"].dropna()


def _settings(path: Path) -> Any:
    settings = evaluation.read_settings(path.parent)
    return settings, tables.system_label(settings)


def _write_sweep(folder: Path) -> Path:
    corpus = tiny_corpus(folder / "corpus", 0.1)
    sweep = Sweep(str(corpus), ["oracle", "mixture"], folder / "sweep", progress=False)
    pair = choose_pairs(sweep.split("train").scene_listeners)[0]
    candidate = (asdict(ChainSettings(mixture_weight=0.15)) | {"model_weights": "[0.5, 0.5]"}).values()
    scores = np.linspace(0.1, 0.9, 15).tolist()
    row = ("train", *candidate, pair.scene, "song", pair.listener, *scores, sweep.pair_identity("train", pair))
    with (sweep.out_dir / "scores.csv").open("a") as file:
        file.write(",".join(f'"{cell}"' for cell in row) + "\n")
    return sweep.out_dir / "scores.csv"


def _read_sweep(path: Path) -> Any:
    sweep = Sweep(str(path.parents[1] / "corpus"), ["oracle", "mixture"], path.parent, progress=False)
    return [values[1:] for values in sweep._rows.values()]


def _write_table(folder: Path) -> Path:
    _write_song(folder)
    (folder / "songs.csv").write_text(f"song,{','.join(SIGNALS)}\nÄ,{','.join(f'{name}.wav' for name in SIGNALS)}\n")
    return folder / "songs.csv"


def _write_moisesdb(folder: Path) -> Path:
    song = folder / "0b5c3f1e"
    stems = []
    for stem in ("vocals", "bass", "piano"):
        (song / stem).mkdir(parents=True)
        _sound("1.wav", subtype="PCM_16")(song / stem)
        stems.append({"stemName": stem, "tracks": [{"id": "1", "extension": "wav"}]})
    (song / "data.json").write_text(json.dumps({"artist": "A", "song": "B", "stems": stems}))
    return song / "data.json"


# Networks


def write_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    card = {"architecture": "openunmix", "arguments": SMALL_OPENUNMIX}
    checkpoints.save_checkpoint(OpenUnmix(**SMALL_OPENUNMIX), folder / "network.safetensors", card)
    return folder / "network.safetensors"


def _write_hdemucs(folder: Path) -> Path:
    torch.manual_seed(0)
    card = {"architecture": "hdemucs", "arguments": SMALL_HDEMUCS}
    checkpoints.save_checkpoint(HDemucs(**SMALL_HDEMUCS), folder / "network.safetensors", card)
    return folder / "network.json"


def _separate(path: Path) -> Any:
    network = path.with_suffix(".safetensors")
    return separators.load(str(network), "cpu")(tiny_song(0.1))


def _load_network(path: Path) -> Any:
    return list(separators.load_network(str(path.with_suffix(".safetensors")))[0].state_dict().values())


def _write_torchaudio(folder: Path) -> Path:
    torch.save({"freq_encoder.0.conv.weight": torch.zeros(4, 4, 8, 1)}, folder / "network.pt")
    return folder / "network.pt"


def _read_torchaudio(path: Path) -> Any:
    return pretrained.rename_torchaudio_hdemucs(downloads.read_weights(path))


def _write_estimate(folder: Path) -> Path:
    write_checkpoint(folder)
    cached_separator(str(folder / "network.safetensors"), folder / "cache", "cpu")(tiny_song(0.1))
    (path,) = (folder / "cache").glob("*.safetensors")
    return path


def _read_estimate(path: Path) -> Any:
    network = path.parents[1] / "network.safetensors"
    stems = cached_separator(str(network), path.parent, "cpu")(tiny_song(0.1))
    torch.testing.assert_close(stems, separators.load(str(network), "cpu")(tiny_song(0.1)), rtol=0, atol=1e-6)
    return stems


# What runs leave


def _as_json(name: str, content: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(json.dumps(content))
        return folder / name

    return write


RESULT = files.Result(4, 4, 0.2, 0.1, 0.6, 0.7, 4, 8, 0.1)


def _read_result(path: Path) -> Any:
    return tables.data_size_table([path.parent]).drop(columns=["sd", "paper_n_scenes", "paper_haaqi"])


def _write_metrics(folder: Path) -> Path:
    rows = [{"step": 0, "valid_loss": 0.2, "valid_haaqi": None}, {"step": 1, "loss": 0.1, "learning_rate": 1e-3}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "metrics.jsonl"


def _read_metrics(path: Path) -> Any:
    if path.exists():
        files.cut_metrics(path, 1)
    return files.read_metrics(path.parent).fillna(0.0)


def _write_ear_gains(folder: Path) -> Path:
    corpus = Corpus(tiny_corpus(folder / "corpus", 0.5))
    split = corpus.split("train")
    path = folder / "at_ear_gains.json"
    Segments(corpus, split, training_scenes(corpus, split), 0.4, 0, gain_file=path).batch(0, range(4))
    return path


def _read_ear_gains(path: Path) -> Any:
    corpus = Corpus(path.parent / "corpus")
    split = corpus.split("train")
    content = path.read_bytes() if path.is_file() else None
    batch = Segments(corpus, split, training_scenes(corpus, split), 0.4, 0, gain_file=path).batch(0, range(2))
    if content is not None:
        path.write_bytes(content)  # it is completed
    return batch.stems, batch.mixture


def _write_levels(folder: Path) -> Path:
    corpus = tiny_corpus(folder / "corpus", 0.5)
    _read_levels(folder / "levels" / "x.csv", corpus)
    return next((folder / "levels").glob("scene*.csv"))


def _read_levels(path: Path, corpus: Path | None = None) -> Any:
    corpus = corpus or path.parents[1] / "corpus"
    pairs = choose_pairs(Corpus(corpus).split("train").scene_listeners)[:1]
    return levels.evaluate_levels(Corpus(corpus), "train", ["mixture"], pairs, path.parent, [0.0], progress=False)


def _write_learned(folder: Path) -> Path:
    trims = ((0.0, 0.0),) * len(PRESCRIPTIONS["nal_r"].frequencies)
    fusion = ascent.PersonalFusion(ChainSettings(model_weights=(0.5, 0.5)), [0.1])
    fitting = ascent.PersonalFitting(0.0, trims, [0.1])
    content = {"identity": "of A", "fusion": asdict(fusion), "fitting": asdict(fitting), "fitting_scores": [0.5]}
    return _as_json("A.json", content)(folder)


def _write_report(folder: Path) -> Path:
    (folder / "table.csv").write_text("scene,score\ns1,0.5\n")
    items = [{"kind": "table", "file": "table.csv", "title": "Scores", "caption": "c", "alt": "a"}]
    (folder / "report.json").write_text(json.dumps(items))
    return folder / "report.json"


def _read_report(path: Path) -> Any:
    result = PointResult("step", "", path.parent, "none.ipynb", "finished", 1.0)
    page = write_page(path.parent / "index.html", "x", {}, [result])
    text = page.read_text(encoding="utf-8")
    page.unlink()
    assert "<script" not in text
    return None


def _write_study(folder: Path) -> Path:
    write_notebook(folder / "notebooks/collect.ipynb", COLLECT_PARAMETERS, COLLECT_CELL)
    write_notebook(folder / "notebooks/point.ipynb", POINT_PARAMETERS, *POINT_CELLS)
    (folder / "notebooks/studies").mkdir()
    (folder / "notebooks/studies/small.yaml").write_text(GOOD)
    return folder / "notebooks/studies/small.yaml"


def _read_study(path: Path) -> Any:
    study = load_study(path)
    out = path.parents[2] / "out"
    for step in study.steps:
        for point in step.points:
            assert (out / point.directory).resolve().is_relative_to(out)
    return [point.parameters for step in study.steps for point in step.points]


def _write_notebook(folder: Path) -> Path:
    return write_notebook(folder / "point.ipynb", POINT_PARAMETERS, "pass")


def _write_manifest(folder: Path) -> Path:
    notebook = write_notebook(folder / "point.ipynb", POINT_PARAMETERS, "pass")
    run = prepare(notebook, {}, folder / "run")
    run.out_dir.mkdir()
    content = {"identity": run.identity, "duration_s": 1.0, "status": "finished"}
    run.manifest.write_text(json.dumps(content))
    assert run.is_finished()
    return run.manifest


def _read_manifest(path: Path) -> Any:
    run = prepare(path.parents[1] / "point.ipynb", {}, path.parent)
    if run.is_finished():  # the page of a study shows how long it took
        return f"{read_json(path)['duration_s']:.1f}"
    return None


LOADERS = (
    *(Loader(name, _corpus_file(f"metadata/{name}.json"), _read_corpus) for name in METADATA),
    Loader("audiograms by ear", _audiograms(BY_EAR), read_audiograms, damaged_text),
    Loader("audiograms by listener", _audiograms(BY_LISTENER), read_audiograms, damaged_text),
    Loader("songs to simulate", _corpus_file("metadata/musdb18.train.json"), _plan),
    Loader("scenes to simulate", _corpus_file("metadata/scenes.train.json"), _plan),
    Loader("wav, 16 bit", _sound("x.wav", subtype="PCM_16"), _read_sound, changed_bytes),
    Loader("wav, float", _sound("x.wav", subtype="FLOAT"), _read_sound, changed_bytes),
    Loader("wav, extensible", _sound("x.wav", subtype="PCM_24", format="WAVEX"), _read_sound, changed_bytes),
    Loader("flac", _sound("x.flac", subtype="PCM_16"), _read_sound, changed_bytes),
    Loader("mp3", _sound("x.mp3"), _read_media, changed_bytes),
    Loader("wav of any rate", _sound("x.wav", subtype="PCM_24"), _read_media, changed_bytes),
    Loader("m4a", _write_m4a, _read_media, changed_bytes),
    Loader("length of a song", _write_song, lambda path: SongFolder(path.parent).length(), changed_bytes),
    Loader("folder of songs", lambda folder: _write_song(folder / "song"), _check_folder, changed_bytes),
    Loader("hrtf", _write_hrtf, lambda path: load_hrtf(path.parent, "BTE_fr", "X", -30.0, 30.0), changed_bytes),
    Loader("checkpoint", write_checkpoint, _separate, changed_bytes),
    Loader("card", lambda folder: write_checkpoint(folder).with_suffix(".json"), _separate),
    Loader("card, hdemucs", _write_hdemucs, _load_network),
    Loader("torchaudio's weights", _write_torchaudio, _read_torchaudio, changed_bytes),
    Loader("cached stems", _write_estimate, _read_estimate, changed_bytes),
    Loader("scores.csv", _write_evaluation, _read_evaluation, damaged_text),
    Loader("settings.json", lambda folder: _write_evaluation(folder).with_name("settings.json"), _settings),
    Loader("scores of a sweep", _write_sweep, _read_sweep, damaged_text),
    Loader("sweep.json", lambda folder: _write_sweep(folder).with_name("sweep.json"), _read_sweep),
    Loader("songs.csv", _write_table, lambda path: find_songs(path) and None, damaged_text),
    Loader("data.json", _write_moisesdb, lambda path: find_songs(path.parents[1]) and None),
    Loader("config.json", _as_json("config.json", asdict(files.Config())), files.read_config),
    Loader("result.json", _as_json("result.json", asdict(RESULT)), _read_result),
    Loader("metrics.jsonl", _write_metrics, _read_metrics, damaged_text),
    Loader("at_ear_gains.json", _write_ear_gains, _read_ear_gains),
    Loader("levels", _write_levels, _read_levels, damaged_text),
    Loader("personal settings", _write_learned, lambda path: personal._read_learned(path, "of A", 2, 1)),
    Loader("report.json", _write_report, _read_report),
    Loader("report's table", lambda folder: _write_report(folder).with_name("table.csv"), _read_report, damaged_text),
    Loader("study.yaml", _write_study, _read_study, damaged_yaml),
    Loader("notebook", _write_notebook, lambda path: notebook_parameters(path) and None),
    Loader("manifest.json", _write_manifest, _read_manifest),
)
