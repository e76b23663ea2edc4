"""What headers and metadata tell of damage is told before the first sample is read, by every long operation."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from cadenza_lib.chain.pipeline import ChainSettings
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.errors import AudioError, CorpusError
from cadenza_lib.data import simulation
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.simulation import simulate
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.scoring.evaluation import Settings, evaluate
from cadenza_lib.scoring.levels import evaluate_levels
from cadenza_lib.scoring.sweep import PairSet, Sweep
from cadenza_lib.separation.separators import load
from cadenza_lib.training import segments
from cadenza_lib.training.files import Config
from cadenza_lib.training.finetuning import finetune

SONG = "audio/music/train/Tiny 2"  # not the first one


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("pristine") / "tiny", 0.6)


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "tiny"))


@pytest.fixture
def _reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it an error to read the samples of a song."""

    def read(*_: object, **__: object) -> None:
        raise AssertionError("samples were read")

    monkeypatch.setattr(Corpus, "at_ear_song", read)
    monkeypatch.setattr(segments.Segments, "segment", read)
    monkeypatch.setattr(simulation, "read_audio", read)


def _config(root: Path) -> Config:
    return Config(
        corpus=str(root),
        valid_split="train",
        init="demo_openunmix",
        segment_s=0.5,
        batch_size=1,
        max_steps=1,
        n_valid_segments=1,
        device="cpu",
    )


def _finetune(root: Path, out_dir: Path) -> None:
    finetune(_config(root), out_dir, progress=False)


def _evaluate(root: Path, out_dir: Path) -> None:
    corpus = Corpus(root)
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    evaluate(corpus, load("oracle"), Settings(str(root), "train", "oracle"), pairs, out_dir, progress=False)


def _levels(root: Path, out_dir: Path) -> None:
    pairs = choose_pairs(Corpus(root).split("train").scene_listeners)
    evaluate_levels(Corpus(root), "train", ["oracle"], pairs, out_dir, [0.0], progress=False)


def _sweep(root: Path, out_dir: Path) -> None:
    pairs = tuple(choose_pairs(Corpus(root).split("train").scene_listeners))
    scorer = Sweep(str(root), ["oracle", "mixture"], out_dir, progress=False)
    scorer.scores([ChainSettings(model_weights=(0.5, 0.5))], PairSet("search", "train", pairs))


def _simulate(root: Path, _: Path) -> None:
    simulate(Corpus(root), "train", progress=False)


def _keep_mixtures(folder: Path) -> None:
    for path in [path for path in folder.rglob("*.wav") if path.name != "mixture.wav"]:
        path.unlink()


def _sound(length: int = 26460, rate: int = SAMPLE_RATE, channels: int = 2) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        soundfile.write(root / SONG / "bass.wav", np.full((length, channels), 0.1), rate, subtype="PCM_16")

    return damage


def _cut(root: Path) -> None:
    path = root / SONG / "bass.wav"
    path.write_bytes(path.read_bytes()[:-4000])


def _shorten(root: Path) -> None:
    for path in (root / SONG).iterdir():
        soundfile.write(path, np.full((16000, 2), 0.1), SAMPLE_RATE, subtype="PCM_16")


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "stem gone": (lambda root: (root / SONG / "bass.wav").unlink(), r"Tiny 2/bass\.wav does not exist"),
    "no stems": (lambda root: _keep_mixtures(root / SONG), r"Tiny 2\S* has a mixture but no stems"),
    "song gone": (lambda root: shutil.rmtree(root / SONG), r"Tiny 2/vocals\.wav does not exist"),
    "other rate": (_sound(rate=48000), r"Tiny 2/bass\.wav has a sample rate of 48000 Hz, not 44100"),
    "mono": (_sound(channels=1), r"Tiny 2/bass\.wav has 1 channel\(s\), not 2"),
    "other length": (_sound(26459), r"Tiny 2/bass\.wav has 26459 samples but mixture\.wav has 26460"),
    "cut off": (_cut, r"Tiny 2/bass\.wav is cut off: 101884 of 105884 bytes"),
    "too short": (
        _shorten,
        r"Tiny 2 lasts 0\.363 s, one of 1 songs of split 'train' that last less than the 0\.[45] s",
    ),
    "no HRTFs": (lambda root: shutil.rmtree(root / "audio/hrtf"), r"BTE_fr-mean-n\S+\.wav does not exist"),
}


@pytest.mark.usefixtures("_reads_nothing")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("operation", [_finetune, _evaluate, _levels, _sweep, _simulate])
def test_damage_that_headers_tell_is_told_before_anything_is_read(
    operation: Callable[[Path, Path], None], damage: str, root: Path, tmp_path: Path
) -> None:
    change, expected = DAMAGES[damage]
    change(root)
    with pytest.raises(AudioError, match=expected):
        operation(root, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.flac"))
    assert not (root / "audio/at_mic_music").exists()


@pytest.mark.usefixtures("_reads_nothing")
@pytest.mark.parametrize("operation", [_finetune, _levels, _sweep, _simulate])
def test_split_without_stems_is_refused_by_what_needs_them_before_a_network_is_loaded(
    operation: Callable[[Path, Path], None], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _keep_mixtures(root / "audio/music")
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)
    with pytest.raises(AudioError, match=r"Tiny \S+ has a mixture but no stems, so 03_evaluate can enhance it"):
        operation(root, tmp_path / "out")


def test_songs_that_no_pair_needs_may_be_damaged(root: Path) -> None:
    shutil.rmtree(root / SONG)
    corpus = Corpus(root)
    split = corpus.split("train")
    sound = [scene for scene in split.scenes.values() if scene.music == "Tiny 1"]
    assert set(corpus.check_songs(split, sound).values()) == {26460}
    assert len(sound) == 2


def test_song_that_is_neither_dry_nor_at_the_ears_is_told_before(root: Path) -> None:
    simulate(Corpus(root), "train", progress=False)
    (root / "metadata/musdb18.train.json").unlink()
    corpus = Corpus(root)
    split = corpus.split("train")
    assert set(corpus.check_songs(split, split.scenes.values()).values()) == {26460}
    shutil.rmtree(next(path for path in (root / "audio/at_mic_music/train").iterdir() if "Tiny 2" in path.name))
    with pytest.raises(CorpusError, match=r"Tiny 2-hlp_\d+ does not exist, and 'train' has no dry song"):
        corpus.check_songs(split, split.scenes.values())


def test_training_that_was_refused_may_begin_with_other_settings(root: Path, tmp_path: Path) -> None:
    config = _config(root)
    with pytest.raises(
        AudioError, match=r"of 2 songs of split 'train' that last less than the 2 s needed; .*lower segm"
    ):
        finetune(replace(config, segment_s=2.0), tmp_path / "out", progress=False)
    assert finetune(config, tmp_path / "out", progress=False).steps == 1
