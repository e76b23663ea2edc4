"""Songs at the ears on the disk: the official generator's bytes, complete or absent, and only where there is room."""

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from full_size import full_size_tree
from official import simulate_officially

from cadenza_lib.__main__ import main
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.errors import AudioError, CorpusError, ParameterError
from cadenza_lib.data import simulation
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.simulation import at_ear_metadata, plan_simulation, simulate
from cadenza_lib.data.songs import RECORD, SIGNALS
from cadenza_lib.data.tiny import tiny_corpus

AT_EARS = Path("audio/at_mic_music")
METADATA = Path("metadata/at_mic_music.train.json")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny_corpus(tmp_path / "tiny", 0.5)


def contents(root: Path) -> dict[str, bytes]:
    """Return every file at the ears, and the metadata, by its path; but not our records of what songs were made of."""
    files = [root / METADATA, *contents_of_songs(root)]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the generator divides by the level of silence
def test_files_and_metadata_are_those_of_the_official_generator(cadenza_mini: Path, tmp_path: Path) -> None:
    theirs, ours = (shutil.copytree(cadenza_mini, tmp_path / name) for name in ("theirs", "ours"))
    for root in (theirs, ours):
        path = root / "audio/music/train/MDN Band - Excerpt B/vocals.wav"
        silence = np.zeros_like(soundfile.read(path)[0])
        soundfile.write(path, silence, SAMPLE_RATE, subtype="PCM_16")
        for name in SIGNALS:  # so loud that the ears' signals clip
            path = root / f"audio/music/train/MDN Band - Excerpt B/{name}.wav"
            signal = soundfile.read(path)[0]
            soundfile.write(path, signal / max(1e-9, np.abs(signal).max()), SAMPLE_RATE, subtype="PCM_16")
    simulate_officially(theirs)
    simulate(Corpus(ours), "train", jobs=2, progress=False)
    expected = contents(theirs)
    assert len(expected) == 8 * 5 + 1
    assert contents(ours) == expected
    assert any(np.abs(soundfile.read(path)[0]).max() > 0.9999 for path in ours.glob("audio/at_mic_music/*/*/*.wav"))


def test_written_songs_are_those_that_are_simulated_when_read(root: Path) -> None:
    corpus = Corpus(root)
    split = corpus.split("train")
    on_the_fly = {name: corpus.at_ear_song(split, scene) for name, scene in split.scenes.items()}
    simulate(corpus, "train", progress=False)
    corpus = Corpus(root)
    split = corpus.split("train")
    for name, scene in split.scenes.items():
        assert corpus.has_at_ear_audio(split, scene)
        assert torch.equal(corpus.at_ear_song(split, scene).stems, on_the_fly[name].stems)


def test_disk_need_is_told_to_the_byte(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_simulation(Corpus(root), "train")
    assert main(["data", "simulate", str(root), "--dry-run"]) == 0
    assert "4 of 4 songs at the ears are to be written: 0.00 GB" in capsys.readouterr().out
    assert not (root / AT_EARS).exists()
    assert main(["data", "simulate", str(root), "--jobs", "2"]) == 0
    assert sum(path.stat().st_size for path in (root / AT_EARS).rglob("*.wav")) == plan.needed_bytes
    assert plan_simulation(Corpus(root), "train").missing == ()


def test_full_disk_is_refused_before_anything_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 0, 10**6))
    with pytest.raises(CorpusError, match=r"0\.0 GB free, but the 4 songs .* take 0\.0 GB; make room"):
        simulate(Corpus(root), "train", progress=False)
    assert not (root / AT_EARS).exists()


def test_disk_that_fills_up_leaves_no_half_written_song(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(soundfile.SoundFile):
        def write(self, _: np.ndarray) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(simulation.soundfile, "SoundFile", Full)
    with pytest.raises(CorpusError, match=r"\.wav cannot be written \(.*No space left on device\); make room"):
        simulate(Corpus(root), "train", progress=False)
    assert not contents_of_songs(root)


def test_a_run_that_was_stopped_goes_on_and_keeps_what_is_complete(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_officially(root)
    expected = contents(root)
    shutil.rmtree(root / AT_EARS)
    (root / METADATA).unlink()
    calls = []

    def stop_in_the_second_song(path: Path, *arguments: torch.Tensor) -> None:
        calls.append(path)
        if len(calls) == 14:  # two head positions of five signals, and two more
            raise KeyboardInterrupt
        write(path, *arguments)

    write = simulation._write_16bit
    monkeypatch.setattr(simulation, "_write_16bit", stop_in_the_second_song)
    with pytest.raises(KeyboardInterrupt):
        simulate(Corpus(root), "train", jobs=1, progress=False)
    partly = contents_of_songs(root)
    assert len(partly) == 10  # both versions of the first song, nothing of the second
    assert not (root / METADATA).exists()

    monkeypatch.setattr(simulation, "_write_16bit", write)
    written = {path: path.stat().st_mtime_ns for path in partly}
    plan = simulate(Corpus(root), "train", jobs=2, progress=False)
    assert len(plan.missing) == 2
    assert {path: path.stat().st_mtime_ns for path in partly} == written
    assert contents(root) == expected


def contents_of_songs(root: Path) -> list[Path]:
    return sorted(path for path in (root / AT_EARS).rglob("*") if path.is_file() and path.name != RECORD)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_incomplete_song_of_another_program_is_written_again(root: Path, damage: str) -> None:
    simulate_officially(root)
    expected = contents(root)
    path = contents_of_songs(root)[7]
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-1000])
    plan = simulate(Corpus(root), "train", progress=False)
    assert plan.missing == (path.parent.name,)
    assert contents(root) == expected


def test_files_of_unequal_length_are_refused_before_anything_is_written(root: Path) -> None:
    path = root / "audio/music/train/Tiny 2/bass.wav"
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples[:-5], rate, subtype="PCM_16")
    with pytest.raises(AudioError, match=r"Tiny 2/bass\.wav has 22045 samples but mixture\.wav has 22050"):
        simulate(Corpus(root), "train", jobs=1, progress=False)
    assert not contents_of_songs(root)


def test_split_without_dry_songs_cannot_be_simulated(root: Path) -> None:
    simulate_officially(root)
    (root / "metadata/musdb18.train.json").unlink()
    with pytest.raises(CorpusError, match=r"'train' lacks 2 dry songs to simulate from, such as 'Tiny 1'"):
        simulate(Corpus(root), "train", progress=False)


def test_number_of_jobs_is_positive(root: Path) -> None:
    with pytest.raises(ParameterError, match="jobs 0 must be at least 1"):
        simulate(Corpus(root), "train", jobs=0)


def test_threads_of_torch_are_as_before(root: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        simulate(Corpus(root), "train", jobs=2, progress=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_full_size_tree_goes_through_check_scenes_and_simulation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = full_size_tree(tmp_path)
    assert main(["data", "check", str(root)]) == 0
    output = capsys.readouterr().out
    assert "100 songs" in output
    assert "96 of 96 HRTFs" in output
    assert "no scenes, scene_listeners.train.json" in output
    assert main(["data", "scenes", str(root)]) == 0
    assert "400 scenes and 800 scene-listener pairs" in capsys.readouterr().out
    assert main(["data", "simulate", str(root), "--jobs", "2"]) == 0
    assert len(contents_of_songs(root)) == 400 * 5
    split = Corpus(root).split("train")
    assert split.at_ear_songs == at_ear_metadata(split)
    assert main(["data", "check", str(root)]) == 0
    output = capsys.readouterr().out
    assert "400 songs" in output
    assert "can enhance, evaluate, fine-tune, simulate and draw more scenes" in output
