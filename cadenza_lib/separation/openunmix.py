"""Open-Unmix: a recurrent network per stem estimates its magnitude spectrogram; the phase is that of the mixture.

F.-R. Stöter, S. Uhlich, A. Liutkus and Y. Mitsufuji, "Open-Unmix - A Reference Implementation for Music Source
Separation", Journal of Open Source Software 4(41), 1667, 2019, doi:10.21105/joss.01667. The challenge's second
baseline is its model umxhq without Wiener filtering.

The architecture is reimplemented here, since the authors' package needs torchaudio. Parameters have the official
names, so that the official weights fit, and the tests prove equality with the official code.
"""

from collections.abc import Iterable, Sequence

import torch
from demucs.wiener import wiener
from torch import Tensor, nn
from torch.nn import functional

from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.errors import AudioError, ParameterError

__all__ = ["OpenUnmix", "TargetNetwork", "band_limit_bins"]

_WIENER_FRAMES = 300  # about 7 s, in which sources are taken to stay in one place (default of the official separator)
_MIN_RELATIVE_DEVIATION = 1e-4  # of a bin's magnitude, so that empty bins are not blown up (official training)


class OpenUnmix(nn.Module):
    """Separate a mixture in the frequency domain, each stem by a network of its own.

    Parameters
    ----------
    sources
        Names of the stems, in the order of the output.
    hidden_size
        Width of each network.
    n_fft, hop_length
        Length of the Hann window and distance of its frames in samples.
    bandwidth_hz
        The networks hear the mixture up to this frequency; they filter all of it.
    niter
        Iterations of expectation maximisation of a multichannel Wiener filter (A. Nugraha, A. Liutkus and E. Vincent,
        "Multichannel music separation with deep neural networks", EUSIPCO 2016). 0 combines each stem's magnitude
        with the phase of the mixture, as the challenge's baseline does.

    Raises
    ------
    ParameterError
        If `niter` is negative.

    Shape:
        - input: `(batch, 2, time)`, longer than half a window
        - output: `(batch, source, 2, time)`

    >>> network = OpenUnmix(["vocals", "drums"], hidden_size=8, n_fft=512, hop_length=128).eval()
    >>> network(torch.randn(1, 2, 1000)).shape
    torch.Size([1, 2, 2, 1000])
    """

    window: Tensor

    def __init__(
        self,
        sources: Sequence[str],
        hidden_size: int = 512,
        n_fft: int = 4096,
        hop_length: int = 1024,
        bandwidth_hz: float = 16000.0,
        niter: int = 0,
    ) -> None:
        super().__init__()
        if niter < 0:
            raise ParameterError(f"niter is {niter}; it must be 0 (no Wiener filter) or more.")
        self.sources = tuple(sources)
        self.n_fft, self.hop_length, self.niter = n_fft, hop_length, niter
        input_bins = band_limit_bins(bandwidth_hz, n_fft)
        self.target_models = nn.ModuleDict(
            {source: TargetNetwork(n_fft // 2 + 1, input_bins, hidden_size) for source in sources}
        )
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """Return the estimated stems."""
        spectrum = self._stft(mixture)  # (batch, channel, bin, frame), complex
        magnitude = spectrum.abs()
        magnitudes = torch.stack([self.target_models[source](magnitude) for source in self.sources], dim=1)
        if self.niter == 0:
            estimates = magnitudes * spectrum.sgn()[:, None]
        else:
            estimates = self._wiener_filter(magnitudes, spectrum)
        signals = torch.istft(
            estimates.flatten(0, 2), self.n_fft, self.hop_length, window=self.window, length=mixture.shape[-1]
        )
        return signals.unflatten(0, estimates.shape[:3])

    def standardise_input(self, mixtures: Iterable[Tensor]) -> None:
        """Set the mean and scale of each input bin from mixtures `(channel, time)`, as official training does."""
        magnitudes = torch.cat([self._stft(mixture[None])[0].abs().mean(0) for mixture in mixtures], dim=-1)
        deviation = magnitudes.std(-1, correction=0)  # (bin,)
        deviation = deviation.clamp(min=_MIN_RELATIVE_DEVIATION * float(deviation.max()))
        for network in self.modules():
            if isinstance(network, TargetNetwork):
                bins = len(network.input_mean)
                network.input_mean.data = -magnitudes.mean(-1)[:bins]
                network.input_scale.data = 1 / deviation[:bins]

    def _stft(self, signal: Tensor) -> Tensor:
        """Return the complex spectrogram `(batch, channel, bin, frame)` of a signal `(batch, channel, time)`."""
        if signal.shape[-1] <= self.n_fft // 2:  # the first frame mirrors the signal's beginning
            length = f"{signal.shape[-1]} samples"
            raise AudioError(f"A signal of {length} is too short for Open-Unmix; give more than {self.n_fft // 2}.")
        spectrum = torch.stft(
            signal.flatten(0, 1), self.n_fft, self.hop_length, window=self.window, return_complex=True
        )
        return spectrum.unflatten(0, signal.shape[:2])

    def _wiener_filter(self, magnitudes: Tensor, spectrum: Tensor) -> Tensor:
        """Refine the estimates so that they agree with one position in space for each source."""
        magnitudes = magnitudes.permute(0, 4, 3, 2, 1)  # (batch, frame, bin, channel, source)
        mixtures = torch.view_as_real(spectrum.permute(0, 3, 2, 1))  # (batch, frame, bin, channel, 2)
        estimates = [
            torch.cat(
                [
                    wiener(targets, mixture, self.niter)
                    for targets, mixture in zip(
                        song_magnitudes.split(_WIENER_FRAMES), song_mixture.split(_WIENER_FRAMES), strict=True
                    )
                ]
            )
            for song_magnitudes, song_mixture in zip(magnitudes, mixtures, strict=True)
        ]
        stacked = torch.stack(estimates)  # (batch, frame, bin, channel, 2, source)
        return torch.view_as_complex(stacked.permute(0, 5, 3, 2, 1, 4).contiguous())


class TargetNetwork(nn.Module):
    """Estimate the magnitude spectrogram of one stem from that of the mixture.

    Three bidirectional recurrent layers with a skip connection look at a band-limited mixture and give a gain for
    each bin of the whole.

    Parameters
    ----------
    output_bins, input_bins
        Number of bins of the spectrogram, and how many of them, from the lowest up, the network hears.
    hidden_size
        Width; a direction of the recurrent layers has half of it.

    Shape:
        - input and output: `(batch, 2, bin, frame)`
    """

    def __init__(self, output_bins: int, input_bins: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2 * input_bins, hidden_size, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size // 2, num_layers=3, bidirectional=True, dropout=0.4)
        self.fc2 = nn.Linear(2 * hidden_size, hidden_size, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden_size)
        self.fc3 = nn.Linear(hidden_size, 2 * output_bins, bias=False)
        self.bn3 = nn.BatchNorm1d(2 * output_bins)
        self.input_mean = nn.Parameter(torch.zeros(input_bins))  # with the sign turned: it is added
        self.input_scale = nn.Parameter(torch.ones(input_bins))
        self.output_mean = nn.Parameter(torch.ones(output_bins))
        self.output_scale = nn.Parameter(torch.ones(output_bins))

    def forward(self, mixture: Tensor) -> Tensor:
        """Return the magnitudes of the stem."""
        frames = mixture.permute(3, 0, 1, 2)  # (frame, batch, channel, bin)
        heard = (frames[..., : len(self.input_mean)] + self.input_mean) * self.input_scale
        encoded = torch.tanh(_over_frames(self.bn1, self.fc1(heard.flatten(2))))  # (frame, batch, hidden)
        both = torch.cat([encoded, self.lstm(encoded)[0]], dim=-1)
        decoded = functional.relu(_over_frames(self.bn2, self.fc2(both)))
        gain = _over_frames(self.bn3, self.fc3(decoded)).unflatten(-1, frames.shape[2:])
        estimate = functional.relu(gain * self.output_scale + self.output_mean) * frames
        return estimate.permute(1, 2, 3, 0)


def band_limit_bins(bandwidth_hz: float, n_fft: int) -> int:
    """Return the number of bins from 0 Hz up to a frequency.

    >>> band_limit_bins(16000.0, 4096)
    1487
    """
    return min(int(bandwidth_hz * n_fft / SAMPLE_RATE), n_fft // 2) + 1


def _over_frames(norm: nn.BatchNorm1d, values: Tensor) -> Tensor:
    """Normalise `(frame, batch, feature)` with the statistics of frames and batch together."""
    return norm(values.flatten(0, 1)).unflatten(0, values.shape[:2])
