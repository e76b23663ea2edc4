"""The remix: gains on the stems, downmix, and loudness normalisation to the at-ear mixture.

The recipe applies a gain by measuring loudness and aiming at the loudness plus the gain; the result is the plain gain
in dB, which is what is done here.
"""

import torch
from torch import Tensor

from cadenza_lib.audio.loudness import loudness_matching_gain
from cadenza_lib.chain.fusion import add_mixture, check_fit
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.errors import AudioError, ParameterError

__all__ = ["MIXTURE_PLACES", "apply_gains", "downmix", "mixture_scale", "normalise_loudness", "remix"]

MIXTURE_PLACES = ("stems", "downmix")
"""What the mixture can be mixed into, see `fusion`."""

_BLOCK = 1 << 16  # samples that are remixed at a time: minutes of stems need not be there once more, with their gains


def apply_gains(stems: Tensor, gains_db: Tensor) -> Tensor:
    """Apply one gain in dB to each stem; the result has the higher precision of the two.

    Shape:
        - stems: `(..., stem, channel, time)`
        - gains_db: `(..., stem)`

    >>> import torch
    >>> apply_gains(torch.ones(2, 1, 3), torch.tensor([20.0, 0.0]))[:, 0, 0]
    tensor([10.,  1.])
    """
    if gains_db.shape[-1] != stems.shape[-3]:
        raise AudioError(f"{gains_db.shape[-1]} gains do not fit {stems.shape[-3]} stems; give one for each.")
    return stems * (10 ** (gains_db.to(stems.device) / 20))[..., None, None]


def downmix(stems: Tensor) -> Tensor:
    """Sum the stems: `(..., stem, channel, time)` to `(..., channel, time)`."""
    return stems.sum(-3)


def mixture_scale(gains_db: Tensor, mixture_into: str) -> Tensor:
    """Return what scales the mixture in the downmix: the sum of the linear gains that it meets in stems, or else 1.

    Shape:
        - gains_db: `(..., stem)`
        - result: `(...)`

    Raises
    ------
    ParameterError
        If the mixture is to go elsewhere than into stems or downmix.
    """
    if mixture_into not in MIXTURE_PLACES:
        raise ParameterError(f"mixture_into {mixture_into!r} is unknown; use one of {', '.join(MIXTURE_PLACES)}.")
    return (10 ** (gains_db / 20)).sum(-1) if mixture_into == "stems" else gains_db.new_ones(gains_db.shape[:-1])


def normalise_loudness(signal: Tensor, mixture: Tensor, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Bring a downmix `(..., channel, time)` to the integrated loudness of the mixture."""
    return signal * loudness_matching_gain(signal, mixture, sample_rate)


def remix(
    stems: Tensor,
    gains_db: Tensor,
    mixture: Tensor,
    sample_rate: int = SAMPLE_RATE,
    mixture_weight: float = 0.0,
    mixture_into: str = "downmix",
) -> Tensor:
    """Return the remix of the stems at the loudness of the mixture, before amplification.

    With a `mixture_weight` w, `(1 - w) * downmix + w * mixture` takes the place of the downmix: the mixture as it is
    at the ears, whatever the gains. Mixed into "stems", the mixture meets each stem's gain, as in `fusion.fuse`, which
    tells how the two differ. The result has the higher precision of stems and gains.

    Shape:
        - stems: `(..., stem, channel, time)`
        - gains_db: `(..., stem)`
        - mixture, result: `(..., channel, time)`

    Raises
    ------
    ParameterError
        If the weight does not lie between 0 and 1, or the mixture is to go elsewhere than into stems or downmix.
    AudioError
        If the shapes do not fit.
    """
    scale = mixture_scale(gains_db.to(mixture.device), mixture_into)[..., None, None]
    check_fit(stems, mixture)
    dtype = torch.promote_types(stems.dtype, gains_db.dtype)
    batch = torch.broadcast_shapes(stems.shape[:-3], gains_db.shape[:-1], mixture.shape[:-2])
    mixed = torch.empty(*batch, *mixture.shape[-2:], dtype=dtype, device=stems.device)
    for start in range(0, mixed.shape[-1], _BLOCK):
        part = (..., slice(start, start + _BLOCK))
        summed = downmix(apply_gains(stems[part], gains_db))
        mixed[part] = add_mixture(summed, scale * mixture[part].to(dtype), mixture_weight)
    gain = loudness_matching_gain(mixed, mixture.to(dtype), sample_rate)  # after which the wide mixture can go
    return mixed * gain
