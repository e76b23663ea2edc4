"""Fusion: a weighted sum of several models' stems, plus a share of the mixture (section 2.4 of the paper).

    fused_i = (1 - w) * sum_k a_k,i * stem_{k,i} + w * mixture

with `a` on the simplex, the same for all stems or one set for each, and `w` = 0.15, the paper's best. The result is
linear in `a` and in `w`.

What `w` means. In the stems, as above, the mixture meets each stem's gain: the downmix gets `w` times the *sum of the
linear gains*, `G`, which is 4 where no stem is changed, and 0.15 is then 0.6 of the mixture beside 0.85 of the models'
stems. Mixed into the downmix instead (`mixture_into="downmix"`), `w` is what it says, and the same for
every scene: the stems' `w` acts like `w G / (1 - w + w G)` there. Without the factor `1 - w` (`complement=False`), `w`
acts like `w / (1 + w)` with it, in both places, since the remix is brought to the loudness of the mixture afterwards.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import AudioError, ParameterError
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.separation.consistent import wiener
from cadenza_lib.separation.separators import Separator

__all__ = [
    "MIXTURE_WEIGHT",
    "ModelWeights",
    "add_mixture",
    "check_fit",
    "combine",
    "ensemble",
    "fuse",
    "post_filter",
    "simplex_weights",
]

MIXTURE_WEIGHT = 0.15
"""Share of the mixture in each fused stem that the paper found best."""

ModelWeights = Sequence[float] | Sequence[Sequence[float]]
"""`(model,)`, one weight for each model, or `(model, stem)`, one for each model and stem."""

_SIMPLEX_TOLERANCE = 1e-6


def fuse(
    estimates: Sequence[Tensor],
    mixture: Tensor,
    model_weights: ModelWeights | None = None,
    mixture_weight: float = MIXTURE_WEIGHT,
    complement: bool = True,
) -> Tensor:
    """Return the fused stems.

    Parameters
    ----------
    estimates
        Stems estimated by each model.
    mixture
        The at-ear mixture.
    model_weights
        `(model,)` or `(model, stem)`: not negative and, over the models, with sum 1; equal by default.
    mixture_weight
        Share `w` of the mixture, from 0 to 1.
    complement
        Scale the models by `1 - w`, so that `w = 1` gives the mixture; otherwise the mixture is added to them.

    Shape:
        - estimates: each `(..., stem, channel, time)`
        - mixture: `(..., channel, time)`
        - result: `(..., stem, channel, time)`

    Raises
    ------
    ParameterError
        If weights lie outside their bounds.
    AudioError
        If the shapes do not fit.

    >>> stems, mixture = torch.randn(4, 2, 8), torch.randn(2, 8)
    >>> torch.allclose(fuse([stems, stems], mixture, mixture_weight=0.0), stems)
    True
    """
    combined = combine(estimates, model_weights).to(torch.promote_types(estimates[0].dtype, mixture.dtype))
    return add_mixture(combined, mixture.unsqueeze(-3), mixture_weight, complement)


def combine(estimates: Sequence[Tensor], model_weights: ModelWeights | None = None) -> Tensor:
    """Return the weighted sum of several models' stems, float64; the part of `fuse` before the mixture is added."""
    if not estimates:
        raise ParameterError("Fusion needs the estimates of at least one model; none was given.")
    if shapes := {tuple(estimate.shape) for estimate in estimates[1:]} - {tuple(estimates[0].shape)}:
        raise AudioError(f"Stems of shape {shapes.pop()} and {tuple(estimates[0].shape)} cannot be added.")
    weights = simplex_weights(model_weights, len(estimates), estimates[0].shape[-3])
    combined = torch.zeros_like(estimates[0], dtype=weights.dtype)
    for weight, estimate in zip(weights, estimates, strict=True):
        combined += weight[:, None, None].to(estimate.device) * estimate
    return combined


def add_mixture(signal: Tensor, mixture: Tensor, mixture_weight: float, complement: bool = True) -> Tensor:
    """Return `(1 - w) * signal + w * mixture`, or without `complement` `signal + w * mixture`.

    Raises
    ------
    ParameterError
        If the weight does not lie between 0 and 1.
    AudioError
        If the shapes do not fit.
    """
    if not 0 <= mixture_weight <= 1:
        raise ParameterError(f"mixture_weight {mixture_weight} must lie between 0 and 1.")
    check_fit(signal, mixture)
    scale = 1 - mixture_weight if complement else 1.0
    return scale * signal + mixture_weight * mixture


def check_fit(stems: Tensor, mixture: Tensor) -> None:
    """Raise `AudioError` if stems and mixture differ in channels or time, their last dimensions."""
    if stems.shape[-2:] != mixture.shape[-2:]:
        raise AudioError(f"Stems of shape {tuple(stems.shape)} do not fit a mixture of shape {tuple(mixture.shape)}.")


def post_filter(stems: Tensor, mixture: Tensor, wiener_exponent: float) -> Tensor:
    """Return a model's stems, or with an exponent above 0 the mixture as they share it out, see `wiener`.

    Each model's stems are filtered before they are combined, so that a fusion stays linear in the weights.
    """
    return wiener(stems, mixture.to(stems.dtype), wiener_exponent) if wiener_exponent else stems


def ensemble(
    separators: Sequence[Separator], model_weights: ModelWeights | None = None, wiener_exponent: float = 0.0
) -> Separator:
    """Return the separator that combines the estimates of several, each after `post_filter`.

    Raises
    ------
    ParameterError
        If weights lie outside their bounds.
    """
    weights = simplex_weights(model_weights, len(separators), len(STEMS)).tolist()
    return functools.partial(_separate, tuple(separators), weights, wiener_exponent)  # for other processes, too


def _separate(
    separators: Sequence[Separator], weights: list[list[float]], wiener_exponent: float, song: AtEarSong
) -> Tensor:
    estimates = [post_filter(separator(song), song.mixture, wiener_exponent) for separator in separators]
    return combine(estimates, weights)


def simplex_weights(model_weights: ModelWeights | None, n_models: int, n_stems: int) -> Tensor:
    """Return weights as `(model, stem)`, float64, after checking them; equal ones for None.

    Raises
    ------
    ParameterError
        If they are not one for each model, or for each model and stem, or do not lie on the simplex.

    >>> simplex_weights([0.25, 0.75], n_models=2, n_stems=4)[:, 0]
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    if n_models < 1:
        raise ParameterError("Fusion needs at least one model; none was given.")
    if model_weights is None:
        return torch.full((n_models, n_stems), 1 / n_models, dtype=torch.float64)
    if len(model_weights) != n_models:
        raise ParameterError(f"model_weights has {len(model_weights)} values for {n_models} models; give one for each.")
    try:
        weights = torch.tensor(model_weights, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"model_weights {model_weights} must be numbers, or lists of equal length.") from error
    if weights.dim() == 1:
        weights = weights[:, None].expand(-1, n_stems)
    if weights.shape != (n_models, n_stems):
        raise ParameterError(f"model_weights {model_weights} must have one value for each model, or each of its stems.")
    if not (weights.min() >= 0 and ((weights.sum(0) - 1).abs() <= _SIMPLEX_TOLERANCE).all()):
        raise ParameterError(f"model_weights {model_weights} must not be negative and must have the sum 1.")
    return weights
