"""What people add from outside the package: a separator, a prescription and an output stage of their own."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from cadenza_lib.chain import OUTPUT_STAGES, PRESCRIPTIONS, FirPrescription
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.corpus import AtEarSong, Corpus
from cadenza_lib.data.listeners import Audiogram
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.scoring import Settings, evaluate
from cadenza_lib.scoring.sweep import PairSet, Sweep, grid
from cadenza_lib.training.files import Config
from cadenza_lib.training.finetuning import finetune


def share_out(song: AtEarSong) -> torch.Tensor:
    """Separate by giving each stem a quarter of the mixture."""
    return (song.mixture / 4).expand_as(song.stems)


def six_db(audiogram: Audiogram) -> np.ndarray:
    return np.full(2, 6.0) * bool(audiogram.levels.any())


class Quantiser:
    """Leave eight levels, to whoever listens."""

    name, is_16_bit = "quantiser", True

    def limit(self, signal: torch.Tensor, _: object) -> torch.Tensor:
        return (signal.clamp(-1, 1) * 4).round() / 4


class Squarer:
    """Amplify by a rule that is not linear."""

    name = "squarer"

    def amplify(self, signal: torch.Tensor, _: object) -> torch.Tensor:
        return torch.nn.functional.pad(signal * signal.abs(), (110, 110))


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    for prescription in (FirPrescription("six", (250.0, 4000.0), six_db), Squarer()):
        monkeypatch.setitem(PRESCRIPTIONS, prescription.name, prescription)
    monkeypatch.setitem(OUTPUT_STAGES, "quantiser", Quantiser())


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(("prescription", "reference"), [("six", "same"), ("squarer", "linear")])
def test_a_pair_is_evaluated_with_what_was_added(prescription: str, reference: str, jobs: int, tmp_path: Path) -> None:
    corpus = Corpus(tiny_corpus(tmp_path / "tiny", 0.5))
    pairs = choose_pairs(corpus.split("train").scene_listeners, 2)
    stage = {"output_stage": "quantiser", "output_level_db": -6.0, "reference": reference}
    settings = Settings(str(corpus.root), "train", "mine", prescription=prescription, **stage)
    scores = evaluate(corpus, share_out, settings, pairs, tmp_path / "out", False, jobs, system_identity="mine")
    assert scores["score"].between(0, 1).all()
    for pair in pairs:
        signal, _ = soundfile.read(tmp_path / f"out/enhanced_signals/{pair.scene}_{pair.listener}_remix.flac")
        assert set(np.unique(np.round(np.abs(signal), 3))) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    official = Settings(str(corpus.root), "train", "mine")
    with pytest.raises(ParameterError, match=f"holds results with prescription '{prescription}', not 'nal_r'"):
        evaluate(corpus, share_out, official, pairs, tmp_path / "out", False, system_identity="mine")


@pytest.mark.usefixtures("added")
def test_a_sweep_and_a_training_refuse_what_is_not_linear(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path / "tiny", 0.5)
    pairs = PairSet("search", "train", tuple(choose_pairs(Corpus(corpus).split("train").scene_listeners, 1)))
    sweep = Sweep(str(corpus), ["oracle", "mixture"], tmp_path / "sweep", progress=False)
    candidates = grid([(0.5, 0.5)], [0.0])
    linear = [candidate.__class__(model_weights=(0.5, 0.5), prescription="six") for candidate in candidates]
    assert len(sweep.scores(linear, pairs)) == 1
    squared = [candidate.__class__(model_weights=(0.5, 0.5), prescription="squarer") for candidate in candidates]
    with pytest.raises(
        ParameterError, match="prescription 'squarer' is not linear, which that of linear bases must be"
    ):
        sweep.scores(squared, pairs)
    config = Config(str(corpus), "train", "train", segment_s=0.45, prescription="squarer")
    with pytest.raises(ParameterError, match="prescription 'squarer' is not linear, which that of training targets"):
        finetune(config, tmp_path / "run", progress=False)
