"""Hybrid Demucs whose stems sum to the mixture: the spectrogram of the mixture is shared out among the stems."""

import torch
from demucs.hdemucs import HDemucs
from torch import Tensor

__all__ = ["MaskedHDemucs"]

_MASK_EXPONENT = 1.5  # 2 would be the Wiener filter of independent Gaussian stems
_MASK_FLOOR = 1e-8  # power of a bin; gives equal shares where all stems are silent, and finite gradients


class MaskedHDemucs(HDemucs):
    """Hybrid Demucs that masks its input: each bin of the mixture is shared out by the magnitudes of the stems.

    A small Hybrid Demucs alone omits much of what lies between and above the strong partials, which lowers HAAQI. The
    masks are those of A. Liutkus and R. Badeau, "Generalized Wiener filtering with fractional power spectrograms",
    ICASSP 2015.

    Shape:
        - mix: `(batch, channel, time)`
        - result: `(batch, source, channel, time)`
    """

    def forward(self, mix: Tensor) -> Tensor:
        """Return the stems."""
        stems = super().forward(mix)
        window = torch.hann_window(self.nfft, device=mix.device)
        transform = {"n_fft": self.nfft, "hop_length": self.hop_length, "window": window}

        def spectrum(signal: Tensor) -> Tensor:
            flat = torch.stft(signal.flatten(0, -2), **transform, pad_mode="constant", return_complex=True)
            return flat.unflatten(0, signal.shape[:-1])  # (batch, ..., channel, bin, frame)

        magnitude = spectrum(stems).abs().square().add(_MASK_FLOOR) ** (_MASK_EXPONENT / 2)
        shares = magnitude / magnitude.sum(1, keepdim=True) * spectrum(mix).unsqueeze(1)
        return torch.istft(shares.flatten(0, 2), **transform, length=mix.shape[-1]).view_as(stems)
