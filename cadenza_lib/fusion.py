"""Fusion: a weighted sum of several models' stems, plus a share of the mixture (section 2.4 of the paper).

    fused_i = (1 - w) * sum_k a_k * stem_{k,i} + w * mixture

with `a` on the simplex and `w` = 0.15, the paper's best. Everything is linear in `(a, w)`.
"""

from collections.abc import Sequence

from torch import Tensor

from cadenza_lib.errors import AudioError, ParameterError

__all__ = ["MIXTURE_WEIGHT", "fuse"]

MIXTURE_WEIGHT = 0.15
"""Share of the mixture in each fused stem that the paper found best."""

_SIMPLEX_TOLERANCE = 1e-6


def fuse(
    estimates: Sequence[Tensor],
    mixture: Tensor,
    model_weights: Sequence[float] | None = None,
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
        One weight for each model, not negative and with sum 1; equal by default.
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

    >>> import torch
    >>> stems, mixture = torch.randn(4, 2, 8), torch.randn(2, 8)
    >>> torch.allclose(fuse([stems, stems], mixture, mixture_weight=0.0), stems)
    True
    """
    if not estimates:
        raise ParameterError("Fusion needs the estimates of at least one model; none was given.")
    weights = [1 / len(estimates)] * len(estimates) if model_weights is None else list(model_weights)
    if len(weights) != len(estimates):
        raise ParameterError(f"model_weights has {len(weights)} values for {len(estimates)} models; give one for each.")
    if not (min(weights) >= 0 and abs(sum(weights) - 1) <= _SIMPLEX_TOLERANCE):
        raise ParameterError(f"model_weights {weights} must not be negative and must have the sum 1.")
    if not 0 <= mixture_weight <= 1:
        raise ParameterError(f"mixture_weight {mixture_weight} must lie between 0 and 1.")
    for estimate in estimates:
        if estimate.shape[:-3] + estimate.shape[-2:] != mixture.shape:
            raise AudioError(
                f"Stems of shape {tuple(estimate.shape)} do not fit a mixture of shape {tuple(mixture.shape)}."
            )
    fused = sum(weight * estimate for weight, estimate in zip(weights, estimates, strict=True))
    assert isinstance(fused, Tensor)
    scale = 1 - mixture_weight if complement else 1.0
    return scale * fused + mixture_weight * mixture.unsqueeze(-3)
