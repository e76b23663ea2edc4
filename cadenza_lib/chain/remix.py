"""The remix: gains on the stems, downmix, and the place of the mixture in it.

The recipe applies a gain by measuring loudness and aiming at the loudness plus the gain; the result is the plain gain
in dB, which is what is done here.
"""

from torch import Tensor

from cadenza_lib.core.errors import AudioError

__all__ = ["MIXTURE_PLACES", "apply_gains", "downmix", "mixture_scale"]

MIXTURE_PLACES = ("stems", "downmix")
"""What the mixture can be mixed into, see `fusion`."""


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
    """
    return (10 ** (gains_db / 20)).sum(-1) if mixture_into == "stems" else gains_db.new_ones(gains_db.shape[:-1])
