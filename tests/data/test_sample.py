"""The corpus of real music: the song of stempeg as it is, at the twin's ears."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from cadenza_lib.__main__ import main
from cadenza_lib.core.files import make_directory
from cadenza_lib.data import sample
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.datasets import check_data
from cadenza_lib.data.embedded import EmbeddedCorpus
from cadenza_lib.data.listeners import audiogram_identity
from cadenza_lib.data.tiny import tiny_corpus


@pytest.fixture(scope="module")
def corpus(real_sample: Path) -> Corpus:
    return Corpus(real_sample)


def test_song_is_the_excerpt_of_musdb18_and_its_stems_sum_to_the_mixture(corpus: Corpus) -> None:
    (name,) = (split := corpus.split("valid")).songs
    stems, mixture = corpus.song(split, name)
    assert name == "The Easton Ellises - Falcon 69"
    assert stems.shape == (4, 2, 260190)
    assert stems.abs().max() < 0.6  # without the clicks at full scale
    error = stems.sum(0) - mixture
    assert 10 * torch.log10(mixture.square().mean() / error.square().mean()) > 20  # each was coded by AAC on its own
    for index, stem in enumerate(stems):  # no stem is another's: each correlates with the mixture, and not perfectly
        assert 0.2 < np.corrcoef(stem.flatten(), mixture.flatten())[0, 1] < 0.9, index


def test_heads_and_listeners_are_those_of_the_twin(corpus: Corpus) -> None:
    twin = EmbeddedCorpus()
    ours, theirs = (map(audiogram_identity, data.split("valid").listeners.values()) for data in (corpus, twin))
    assert list(ours) == list(theirs)
    assert corpus.head_positions == twin.head_positions
    assert len(list(corpus.hrtf_folder.iterdir())) == 96
    for position in list(corpus.head_positions)[::29]:
        torch.testing.assert_close(
            corpus.hrtf(position), twin.hrtf(position), rtol=2**-24, atol=0
        )  # float32 on the disk
    assert len(corpus.split("valid").scenes) == 4
    assert {finding.status for finding in check_data(corpus.root)} == {"OK"}


def test_second_call_keeps_the_sample_and_names_song_and_licence(
    real_sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (real_sample / "audio").rglob("*")}
    assert main(["data", "sample", str(real_sample)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (real_sample / "audio").rglob("*")} == before
    output = capsys.readouterr().out
    assert "The Easton Ellises - Falcon 69 (CC BY-NC-SA 3.0), six seconds, from the package stempeg" in output
    assert "has 4 scenes and 8 scene-listener pairs" in output


def test_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "find_spec", lambda _: None)
    assert main(["data", "sample", str(tmp_path / "new")]) == 1
    assert "stempeg, which has the song, is missing; pip install 'cadenza-companion[real]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_another_corpus_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny_corpus(tmp_path / "tiny", 0.5)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    song = tmp_path / "data" / "Song.stem.mp4"  # which is not even opened
    make_directory(song.parent)
    song.touch()
    monkeypatch.setattr(sample, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert main(["data", "sample", str(root)]) == 1
    assert "metadata/gains.json belongs to another corpus; name a new directory" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_song_is_what_pyav_decodes_between_the_clicks(real_sample: Path) -> None:
    av = pytest.importorskip("av")
    package = Path(importlib.util.find_spec("stempeg").origin).parent
    (source,) = package.glob("data/*.stem.mp4")
    for track, signal in enumerate(("mixture", "drums", "bass", "other", "vocals")):  # the order of MUSDB18
        with av.open(str(source)) as container:
            frames = [frame.to_ndarray() for frame in container.decode(container.streams.audio[track])]
        written, rate = soundfile.read(next((real_sample / "audio/music/valid").glob(f"*/{signal}.wav")))
        assert rate == 44100
        np.testing.assert_array_equal(written.T, np.concatenate(frames, axis=1)[:, 4410:264600])
