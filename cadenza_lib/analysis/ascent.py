"""Gradient ascent on one listener's HAAQI: weights and output level of a fusion, or level and trims of the fitting.

Both are weighted sums of fixed signals, the bases of a scene or the bands of the prescription, up to the clip of the
output stage. HAAQI's gradient comes back through the clip: samples beyond it do not move, which is the derivative of a
hard clip wherever it has one. Only the rounding to 16 bits and the ear's noise are left out. A reference that goes
through the output stage stays at the level of the start.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cadenza_lib.chain.fitting import filter_ears
from cadenza_lib.chain.fusion import MIXTURE_WEIGHT
from cadenza_lib.chain.output import output_stage
from cadenza_lib.chain.pipeline import OFFICIAL, ChainSettings, at_output_rate, finish
from cadenza_lib.core.conventions import EARS, HAAQI_SAMPLE_RATE, OUTPUT_SAMPLE_RATE, SAMPLE_RATE
from cadenza_lib.core.documents import as_tuples
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.listeners import ear_audiogram
from cadenza_lib.haaqi.torch import ReferenceBatch
from cadenza_lib.haaqi.torch_filters import resample as resample_to_haaqi
from cadenza_lib.scoring.bases import PairBases
from cadenza_lib.scoring.pairs import PairScore

__all__ = ["MAX_TRIM_DB", "PersonalFitting", "PersonalFusion", "optimise_fitting", "optimise_fusion", "score_fitting"]

MAX_TRIM_DB = 6.0
"""Largest trim of the prescribed gain in a band, up or down."""

_RATE = 0.2  # of Adam, about what it moves a logit in a step
_LEVEL_STEP_DB = 2.0


@dataclass(frozen=True)
class PersonalFusion:
    """The best candidate met on the way, and the score at each step, without the ear's internal noise."""

    candidate: ChainSettings
    scores: list[float]


@dataclass(frozen=True)
class PersonalFitting:
    """The best fitting met on the way, and the score at each step, without the ear's internal noise."""

    output_level_db: float
    trims_db: tuple[tuple[float, float], ...]  # (band, ear), one for each frequency of the prescription
    scores: list[float]


def optimise_fusion(
    pairs: Sequence[PairBases], steps: int = 15, excerpt_s: float = 4.0, start: ChainSettings = OFFICIAL
) -> PersonalFusion:
    """Raise the mean HAAQI of a listener's scenes by gradient ascent (Adam) on weights and output level.

    It begins with equal model weights, the paper's share of the mixture, and 0 dB.

    Parameters
    ----------
    pairs
        The scenes, with one weight for each model, and the listener.
    steps
        Each costs a score with its gradient for each scene.
    excerpt_s
        Seconds from the middle of each scene that are scored, 0: all of it. Loudness is that of the whole scene.
    start
        What is not varied: prescription, place of the mixture, and output stage.

    Raises
    ------
    ParameterError
        If `steps` or `excerpt_s` is out of bounds, or there is no pair.
    AudioError
        If a reference is silent at an ear for all of the excerpt.
    """
    excerpts = [_Excerpt(pair, pair.signals, start, excerpt_s) for pair in _checked(pairs, steps, excerpt_s)]
    scenes = [pair.scene for pair in pairs]
    n_models = len(pairs[0].signals) - 1
    logits = torch.zeros(n_models, dtype=torch.float64, requires_grad=True)
    share = torch.logit(torch.tensor(MIXTURE_WEIGHT, dtype=torch.float64)).requires_grad_()
    level = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def score(index: int) -> Tensor:
        weights = scenes[index].normalised(torch.softmax(logits, 0), torch.sigmoid(share), start.mixture_into)
        return excerpts[index].score((_factor(_level_db(level)) * weights)[:, None])

    (logits, share, level), scores = _ascend([logits, share, level], score, len(pairs), steps)
    weights = torch.softmax(logits, 0).tolist()
    candidate = replace(
        start,
        model_weights=weights,
        mixture_weight=torch.sigmoid(share).item(),
        output_level_db=_level_db(level).item(),
    )
    return PersonalFusion(candidate, scores)


def optimise_fitting(
    pairs: Sequence[PairBases], candidate: ChainSettings, steps: int = 15, excerpt_s: float = 4.0
) -> PersonalFitting:
    """Raise the mean HAAQI of a listener's scenes by gradient ascent on output level and trims of the prescription.

    An extension, not in the paper. The reference keeps the prescription as it is. Begins with 0 dB everywhere;
    arguments and errors as for `optimise_fusion`.

    Parameters
    ----------
    pairs, steps, excerpt_s
        As for `optimise_fusion`.
    candidate
        The fusion that is fitted; its own level counts as 0 dB.
    """
    checked = _checked(pairs, steps, excerpt_s)
    excerpts = [_Excerpt(pair, _bands(pair, candidate), candidate, excerpt_s) for pair in checked]
    trims = torch.zeros(len(pairs[0].prescription.frequencies), len(EARS), dtype=torch.float64, requires_grad=True)
    level = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def score(index: int) -> Tensor:
        return excerpts[index].score(_factor(_level_db(level) + MAX_TRIM_DB * torch.tanh(trims)))

    (trims, level), scores = _ascend([trims, level], score, len(pairs), steps)
    return PersonalFitting(_level_db(level).item(), as_tuples((MAX_TRIM_DB * torch.tanh(trims)).tolist()), scores)


def score_fitting(pair: PairBases, candidate: ChainSettings, fitting: PersonalFitting) -> PairScore:
    """Return HAAQI of a fusion with a fitting, through the candidate's output stage.

    Raises
    ------
    ParameterError
        If a trim lies beyond `MAX_TRIM_DB`.
    """
    trims_db = torch.tensor(fitting.trims_db, dtype=torch.float64)
    n_bands = len(pair.prescription.frequencies)
    if trims_db.shape != (n_bands, len(EARS)) or trims_db.abs().max() > MAX_TRIM_DB:
        raise ParameterError(
            f"trims_db {fitting.trims_db} must be {n_bands} bands of two ears, each from "
            f"{-MAX_TRIM_DB:g} to {MAX_TRIM_DB:g} dB."
        )
    played = (_bands(pair, candidate) * _factor(trims_db)[..., None]).sum(0)
    settings = replace(candidate, output_level_db=fitting.output_level_db)
    return pair.reference(candidate).score(finish(at_output_rate(played), pair.listener, settings))


class _Excerpt:
    """Some seconds of a pair: HAAQI of weighted sums of signals, clipped, with gradients."""

    def __init__(self, pair: PairBases, signals: Tensor, settings: ChainSettings, excerpt_s: float) -> None:
        length = signals.shape[-1]
        size = min(round(excerpt_s * SAMPLE_RATE), length) or length
        part = slice((length - size) // 2, (length + size) // 2)
        # In float32, which moves a score by less than the noise that is left out, and costs half.
        self._stage, self._listener = output_stage(settings.output_stage), pair.listener
        self._signals = at_output_rate(signals[..., part]).float()
        heard = pair.reference(settings).heard(part)
        audiograms = [ear_audiogram(pair.listener, ear) for ear in EARS]
        level1 = pair.reference(settings).level1.tolist()
        self._reference = ReferenceBatch(torch.from_numpy(heard).float(), HAAQI_SAMPLE_RATE, audiograms, level1=level1)

    def score(self, weights: Tensor) -> Tensor:
        """Return the mean of both ears for weights `(basis, ear)`, or `(basis, 1)`."""
        mixed = self._stage.limit((weights[..., None].float() * self._signals).sum(0), self._listener)
        mixed = mixed.clamp(-1, 1) if self._stage.is_16_bit else mixed
        return self._reference.score(resample_to_haaqi(mixed, OUTPUT_SAMPLE_RATE)).mean()


def _ascend(
    parameters: list[Tensor], score: Callable[[int], Tensor], n_pairs: int, steps: int
) -> tuple[list[Tensor], list[float]]:
    """Return the best parameters met, and the mean score of the pairs before each step."""
    optimiser = torch.optim.Adam(parameters, lr=_RATE)
    best, scores = parameters, list[float]()
    for _ in range(steps):
        optimiser.zero_grad()
        total = 0.0
        for index in range(n_pairs):  # one after the other, which keeps memory to that of one pair
            part = score(index) / n_pairs
            (-part).backward()
            total += part.item()
        if total > max(scores, default=-1.0):
            best = [parameter.detach().clone() for parameter in parameters]
        scores.append(total)
        optimiser.step()
    return best, scores


def _checked(pairs: Sequence[PairBases], steps: int, excerpt_s: float) -> Sequence[PairBases]:
    if not pairs or steps < 1 or excerpt_s < 0:
        raise ParameterError(
            f"There are {len(pairs)} pairs, {steps} steps and excerpts of {excerpt_s} s: give at least one pair, one "
            f"step, and 0 s (all) or more."
        )
    return pairs


def _level_db(level: Tensor) -> Tensor:
    return level * (_LEVEL_STEP_DB / _RATE)


def _factor(gain_db: Tensor) -> Tensor:
    return 10 ** (gain_db / 20)


def _bands(pair: PairBases, candidate: ChainSettings) -> Tensor:
    """Return a fusion through each band of the prescription, `(band, ear, time)`, at the level of the candidate."""
    mixed = torch.tensordot(pair.scene.weights(candidate), pair.scene.signals, 1)
    return filter_ears(mixed, pair.prescription.band_firs(pair.listener)) * 10 ** (candidate.output_level_db / 20)
