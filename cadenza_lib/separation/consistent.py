"""Stems that sum to the mixture: what networks leave out is given back, by equal parts or by masks.

An L1 loss lets a network leave out what it cannot attribute, most of all a small one, and HAAQI misses it. Two remedies
make the stems sum to the mixture. The first adds the rest to each stem in equal parts, the nearest such stems in the
sense of least squares (S. Wisdom et al., "Differentiable consistency constraints for improved deep speech enhancement",
ICASSP 2019). The second shares out each bin of the mixture's spectrogram by the magnitudes of the stems (A. Liutkus and
R. Badeau, "Generalized Wiener filtering with fractional power spectrograms", ICASSP 2015).
"""

from typing import Any

import torch
from demucs.hdemucs import HDemucs
from torch import Tensor

__all__ = ["ConsistentHDemucs", "MaskedHDemucs", "wiener"]

_MASK_EXPONENT = 1.5  # 2 would be the Wiener filter of independent Gaussian stems
_MASK_FLOOR = 1e-8  # power of a bin; gives equal shares where all stems are silent, and finite gradients


def wiener(stems: Tensor, mixture: Tensor, exponent: float, n_fft: int = 4096) -> Tensor:
    """Return the mixture shared out among the stems, each bin by their magnitudes to the power of `exponent`.

    Shape:
        - stems, result: `(..., stem, channel, time)`
        - mixture: `(..., channel, time)`

    >>> stems, mixture = torch.randn(4, 2, 8192), torch.randn(2, 8192)
    >>> torch.allclose(wiener(stems, mixture, exponent=1.5).sum(-3), mixture, atol=1e-4)
    True
    """
    window = torch.hann_window(n_fft, dtype=stems.dtype, device=stems.device)
    transform: dict[str, Any] = {"n_fft": n_fft, "hop_length": n_fft // 4, "window": window}

    def spectrum(signal: Tensor) -> Tensor:
        flat = torch.stft(signal.flatten(0, -2), **transform, pad_mode="constant", return_complex=True)
        return flat.unflatten(0, signal.shape[:-1])  # (..., bin, frame)

    magnitude = spectrum(stems).abs().square().add(_MASK_FLOOR) ** (exponent / 2)
    shares = magnitude / magnitude.sum(-4, keepdim=True) * spectrum(mixture).unsqueeze(-4)
    return torch.istft(shares.flatten(0, -3), **transform, length=mixture.shape[-1]).view_as(stems)


class ConsistentHDemucs(HDemucs):
    """Hybrid Demucs whose stems sum to the mixture: what they leave out is added to each in equal parts.

    A large Hybrid Demucs that was trained for days leaves out little; this gives a small one the same property.

    Shape:
        - mix: `(batch, channel, time)`
        - result: `(batch, source, channel, time)`
    """

    def forward(self, mix: Tensor) -> Tensor:
        """Return the stems."""
        stems = super().forward(mix).float()
        return stems + (mix.unsqueeze(1) - stems.sum(1, keepdim=True)) / stems.shape[1]


class MaskedHDemucs(HDemucs):
    """Hybrid Demucs that masks its input: its stems decide how the mixture is shared out, see `wiener`.

    Shape:
        - mix: `(batch, channel, time)`
        - result: `(batch, source, channel, time)`
    """

    def forward(self, mix: Tensor) -> Tensor:
        """Return the stems."""
        return wiener(super().forward(mix), mix, _MASK_EXPONENT, self.nfft)
