"""The remix: gains on the stems, downmix, and loudness normalisation to the at-ear mixture.

The recipe applies a gain by measuring loudness and aiming at the loudness plus the gain; the result is the plain gain
in dB, which is what is done here.
"""

from torch import Tensor

from cadenza_lib.acoustics import SAMPLE_RATE
from cadenza_lib.errors import AudioError
from cadenza_lib.fusion import add_mixture
from cadenza_lib.loudness import loudness_matching_gain

__all__ = ["apply_gains", "downmix", "normalise_loudness", "remix"]


def apply_gains(stems: Tensor, gains_db: Tensor) -> Tensor:
    """Apply one gain in dB to each stem.

    Shape:
        - stems: `(..., stem, channel, time)`
        - gains_db: `(..., stem)`

    >>> import torch
    >>> apply_gains(torch.ones(2, 1, 3), torch.tensor([20.0, 0.0]))[:, 0, 0]
    tensor([10.,  1.])
    """
    if gains_db.shape[-1] != stems.shape[-3]:
        raise AudioError(f"{gains_db.shape[-1]} gains do not fit {stems.shape[-3]} stems; give one for each.")
    return stems * (10 ** (gains_db.to(stems) / 20))[..., None, None]


def downmix(stems: Tensor) -> Tensor:
    """Sum the stems: `(..., stem, channel, time)` to `(..., channel, time)`."""
    return stems.sum(-3)


def normalise_loudness(signal: Tensor, mixture: Tensor, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Bring a downmix `(..., channel, time)` to the integrated loudness of the mixture."""
    return signal * loudness_matching_gain(signal, mixture, sample_rate)


def remix(
    stems: Tensor, gains_db: Tensor, mixture: Tensor, sample_rate: int = SAMPLE_RATE, mixture_weight: float = 0.0
) -> Tensor:
    """Return the remix of the stems at the loudness of the mixture, before amplification.

    With a `mixture_weight` w, `(1 - w) * downmix + w * mixture` takes the place of the downmix: the mixture as it is
    at the ears, whatever the gains. (`fusion` tells how this differs from a share of the mixture in each stem.)

    Shape:
        - stems: `(..., stem, channel, time)`
        - gains_db: `(..., stem)`
        - mixture, result: `(..., channel, time)`
    """
    mixed = add_mixture(downmix(apply_gains(stems, gains_db)), mixture, mixture_weight)
    return normalise_loudness(mixed, mixture, sample_rate)
