"""Personal fusion: weights of models and mixture, and output level, that are best for one listener's HAAQI.

From fusion to the output stage everything is linear in the weights, so that a scene is a few fixed signals, the bases:
each model's remix after NAL-R, and the mixture's. Their weighted sum at an output level is clipped as the official
output stage clips it, and HAAQI's gradient with regard to weights and level comes back through the clip: samples
beyond it do not move, which is the derivative of a hard clip wherever it has one. Only the rounding to 16 bits is left
out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cadenza_lib.errors import AudioError, ParameterError
from cadenza_lib.fitting import OUTPUT_SAMPLE_RATE
from cadenza_lib.fusion import MIXTURE_WEIGHT
from cadenza_lib.haaqi.ear import SAMPLE_RATE as HAAQI_SAMPLE_RATE
from cadenza_lib.haaqi.torch import ReferenceBatch
from cadenza_lib.haaqi.torch_filters import resample
from cadenza_lib.listeners import Audiogram

__all__ = ["PersonalFusion", "optimise_fusion"]

WEIGHT_STEP = 0.2  # of the logits of the weights, about what Adam moves them in one step
LEVEL_STEP_DB = 1.0


@dataclass(frozen=True)
class PersonalFusion:
    """The best settings met on the way, and the score at each step, with the settings before it."""

    model_weights: list[float]  # on the simplex
    mixture_weight: float
    output_level_db: float
    score: float  # mean of both ears, without the ear's internal noise
    scores: list[float]


def optimise_fusion(
    bases: Tensor,
    reference: Tensor,
    audiograms: Sequence[Audiogram],
    level1: Sequence[float],
    *,
    scale: Callable[[Tensor], Tensor] | None = None,
    mixture_weight: float = MIXTURE_WEIGHT,
    steps: int = 25,
) -> PersonalFusion:
    """Raise the HAAQI of one scene for one listener by gradient ascent (Adam) on weights and output level.

    Parameters
    ----------
    bases
        What leaves the chain before the output level and the clip, for each model alone and, last, for the mixture:
        32 kHz, after NAL-R.
    reference
        The reference remix after NAL-R at 24 kHz.
    audiograms
        Of the left and of the right ear.
    level1
        Level in dB SPL of a signal whose RMS is 1, of each ear: officially 65 - 20 log10(RMS of the reference remix
        before NAL-R).
    scale
        From the weights of the bases, `(basis,)`, to the factor that brings their sum to the loudness of the mixture.
        None: the bases are as loud as they should be, and their sums are left as they are.
    mixture_weight
        Where to begin, between 0 and 1; the models begin with equal weights, the output level at 0 dB.
    steps
        Each costs a score with its gradient.

    Shape:
        - bases: `(basis, ear, time)`
        - reference: `(ear, time)`

    Raises
    ------
    AudioError
        If the shapes do not fit, or for what `haaqi.torch.score_batch` does not take.
    ParameterError
        If `mixture_weight` or `steps` is out of bounds.
    """
    if bases.ndim != 3 or len(bases) < 2 or reference.ndim != 2 or bases.shape[1] != len(reference):
        raise AudioError(
            f"Bases of shape {tuple(bases.shape)} and a reference of shape {tuple(reference.shape)} do not fit: give "
            f"(basis, ear, time), at least one model and the mixture, and (ear, time)."
        )
    if not 0 < mixture_weight < 1:
        raise ParameterError(
            f"mixture_weight {mixture_weight} must lie between 0 and 1, and be neither, to begin with."
        )
    if steps < 1:
        raise ParameterError(f"steps is {steps}: give at least 1.")
    holder = ReferenceBatch(reference, HAAQI_SAMPLE_RATE, audiograms, level1=level1)
    logits = bases.new_zeros(len(bases) - 1).requires_grad_()
    share = torch.logit(bases.new_tensor(mixture_weight)).requires_grad_()
    level = bases.new_zeros(()).requires_grad_()  # in steps of LEVEL_STEP_DB / WEIGHT_STEP dB
    optimiser = torch.optim.Adam([logits, share, level], lr=WEIGHT_STEP)
    scores: list[float] = []
    best = PersonalFusion([], mixture_weight, 0.0, -1.0, scores)
    for _ in range(steps):
        models, mixture = torch.softmax(logits, 0), torch.sigmoid(share)
        weights = torch.cat(((1 - mixture) * models, mixture[None]))
        level_db = level * (LEVEL_STEP_DB / WEIGHT_STEP)
        gain = 10 ** (level_db / 20) * (1.0 if scale is None else scale(weights))
        clipped = (gain * torch.tensordot(weights, bases, 1)).clamp(-1.0, 1.0)
        score = holder.score(resample(clipped, OUTPUT_SAMPLE_RATE)).mean()
        scores.append(score.item())
        if scores[-1] > best.score:
            best = PersonalFusion(models.tolist(), mixture.item(), level_db.item(), scores[-1], scores)
        optimiser.zero_grad()
        (-score).backward()
        optimiser.step()
    return best
