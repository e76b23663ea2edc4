"""The ear model of `ear` on tensors: batches of signals, several bands at a time, with gradients.

Shapes are (item, band, time), or (item, band) for what belongs to a whole signal. `torch_filters` has the filters.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal as dsp
from torch import Tensor

from cadenza_lib.haaqi import ear
from cadenza_lib.haaqi.ear import SAMPLE_RATE
from cadenza_lib.haaqi.kernels import DB_PER_OCTAVE
from cadenza_lib.haaqi.torch_filters import Span, gammatone, half_phase_tangent, recursive

__all__ = ["Ears", "adapt", "compress", "hashed_noise", "root"]

FFT_ROUNDING = 4.0  # machine epsilons of a band's largest value
SMALLEST_POWER = 1e-36  # of an envelope
_LOG10_OF_2 = math.log10(2.0)


@dataclass(frozen=True)
class Ears:
    """Parameters of the bands, each (item, band) or (band,); level1 is (item, 1)."""

    centre: Tensor  # Hz
    erb: Tensor  # Hz
    bandwidth: Tensor  # re the normal ear's, for soft sounds
    control_bandwidth: Tensor
    ohc_db: Tensor
    ihc_db: Tensor
    knee_db_spl: Tensor
    slope: Tensor  # 1 - 1 / compression ratio
    level1: Tensor  # dB SPL of a signal with RMS 1

    @classmethod
    def from_levels(cls, levels: NDArray[np.float64], level1: NDArray[np.float64], like: Tensor) -> "Ears":
        """Take hearing losses, (item, 6) in dB HL at `ear.AUDIOGRAM_FREQUENCIES`, and `level1`, (item,)."""
        ears = [ear.Ear.from_levels(losses) for losses in levels]

        def stack(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(item, name) for item in ears])).to(like)

        centre = torch.from_numpy(ear.centre_frequencies()).to(like.device)
        return cls(
            centre, (ear.MINIMUM_BANDWIDTH + centre / ear.EAR_Q).to(like), stack("bandwidth"),
            torch.from_numpy(ear.control_bandwidth()).to(like), stack("ohc_db"), stack("ihc_db"), stack("knee_db_spl"),
            1.0 - 1.0 / stack("ratio"), torch.tensor(level1).to(like)[:, None],
        )  # fmt: skip

    def part(self, bands: slice) -> "Ears":
        """Return the parameters of some of the bands."""
        return Ears(**{name: value if name == "level1" else value[..., bands] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Compressed:
    """Bands after compression, before alignment."""

    envelope: Tensor  # (item, band, time)
    motion: Tensor  # (item, band, time)
    bandwidth: Tensor  # (item, band), re the normal ear's
    level_db_sl: Tensor  # (item, band), long-term average


# The filter bank.


def compress(spectrum: Tensor, ears: Ears, spans: list[Span], time: int) -> Compressed:
    """Filter with the control and the adjusted filter and compress.

    `spectrum` is from `spectrum`, `spans` says where each item is, and `time` is the samples of the result.
    """
    tangent = half_phase_tangent(ears.centre, spectrum.shape[-1]).to(ears.erb)
    samples = torch.tensor([stop for _, stop in spans], device=ears.erb.device, dtype=ears.erb.dtype)[:, None]
    level1, knee = ears.level1, ears.knee_db_spl

    control = gammatone(spectrum, tangent, ears.control_bandwidth * ears.erb, spans, time)
    control_power = control.real.square() + control.imag.square()
    mean_control = control_power.sum(-1) / samples
    # Each level is clamped as a power, before its logarithm, so that silence has a gradient of zero and not NaN.
    level = _level(mean_control, level1, ear.WIDENING_FROM_DB_SPL, ear.WIDENING_TO_DB_SPL)
    share = (level - ear.WIDENING_FROM_DB_SPL) / (ear.WIDENING_TO_DB_SPL - ear.WIDENING_FROM_DB_SPL)
    bandwidth = ears.bandwidth + share * (ears.control_bandwidth - ears.bandwidth)

    lowest, highest = (_power(edge, level1)[..., None] for edge in (knee, ear.LINEAR_ABOVE_DB_SPL + 0.0 * knee))
    exponent = (-0.5 * ears.slope)[..., None]
    # In dB: -OHC loss - slope (level - knee).
    offset = -ears.ohc_db[..., None] / DB_PER_OCTAVE - exponent * torch.log2(lowest)
    gain = torch.exp2(exponent * torch.log2(torch.clamp(control_power, lowest, highest)) + offset)
    gain = recursive(gain, *gain_smoothing())

    filtered = gammatone(spectrum, tangent, bandwidth * ears.erb, spans, time)
    power = filtered.real.square() + filtered.imag.square()
    mean = power.sum(-1) / samples
    compression = ears.slope * (_level(mean_control, level1, knee, ear.LINEAR_ABOVE_DB_SPL) - knee)
    level_db_sl = torch.relu(_level(mean, level1, 0.0, math.inf) - ears.ohc_db - compression - ears.ihc_db)
    # Within an item, zeros would be taken for what alignment moves in, by `adapt`.
    envelope = gain * power.clamp(min=SMALLEST_POWER).sqrt()
    # The FFT leaves its rounding where there is digital silence, and normalised covariances would hear it.
    rounding = (FFT_ROUNDING * torch.finfo(power.dtype).eps) ** 2 * power.detach().amax(-1, keepdim=True)
    motion = (gain * filtered.real).masked_fill(power < rounding, 0.0)
    starts = torch.tensor([start for start, _ in spans], device=power.device)[:, None, None]
    silent = torch.arange(time, device=power.device) < starts
    return Compressed(envelope.masked_fill(silent, 0.0), motion, bandwidth, level_db_sl)


def _power(level_db_spl: Tensor, level1: Tensor) -> Tensor:
    return 10.0 ** ((level_db_spl - level1) / 10.0)


def _level(power: Tensor, level1: Tensor, lowest: Tensor | float, highest: float) -> Tensor:
    """Return the level in dB SPL of a mean square, between two levels."""
    low = _power(torch.as_tensor(lowest).to(power), level1)
    high = _power(torch.as_tensor(highest).to(power), level1)
    return level1 + 10.0 * _LOG10_OF_2 * torch.log2(torch.minimum(torch.maximum(power, low), high))


def root(power: Tensor) -> Tensor:
    """Return the square root with a gradient of zero at zero."""
    positive = power > 0
    return torch.where(positive, torch.where(positive, power, 1.0).sqrt(), 0.0)


# Filters with real poles.


@cache
def gain_smoothing() -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """B (1 + z^-1) / (1 - a z^-1) = -b / a + (b (1 + a) / a) / (1 - a z^-1)."""
    (b, _), (_, minus_a) = dsp.butter(1, ear.GAIN_SMOOTHING_HZ / (0.5 * SAMPLE_RATE))
    a = -float(minus_a)
    return -b / a, (a,), (b * (1 + a) / a,)


@cache
def _adaptation() -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Return the current into the first capacitor, (v0 - v1) / R1, as a sum of one direct and two one-pole paths."""
    a11, a12, b1, a21, a22, b2, inverse_r1 = ear.adaptation()
    poles, vectors = np.linalg.eig(np.array([[a11, a12], [a21, a22]]))
    weights = -inverse_r1 * vectors[0] * np.linalg.solve(vectors, np.array([b1, b2]))
    return float(inverse_r1), tuple(poles.tolist()), tuple(weights.tolist())


# After alignment.


def adapt(envelope: Tensor, motion: Tensor, ears: Ears) -> tuple[Tensor, Tensor]:
    """Return envelope in dB SL after inner-hair-cell adaptation, and the BM motion scaled alike."""
    threshold = (10.0 ** ((ears.ihc_db - ears.level1) / 20.0))[..., None]
    amplitude = torch.maximum(envelope, threshold)
    above_db = DB_PER_OCTAVE * torch.log2(amplitude / threshold)
    adapted = torch.relu(recursive(above_db, *_adaptation()))
    # Below the threshold nothing is adapted, and dividing by it instead of the envelope leaves the same zero. Where
    # alignment has moved in zeros, 0 / 0 counts as 1, as in pyclarity, and the motion, which may have been moved by
    # less, stays as it is.
    return adapted, motion * torch.where(envelope == 0, 1.0, adapted / amplitude)


def hashed_noise(seed: int, places: Tensor, samples: Tensor) -> Tensor:
    """Return the unit noise of `noise.add_hashed`, which depends on a row's place and the sample (int64) alone."""

    def shifted(z: Tensor, bits: int) -> Tensor:  # to the right, without the sign
        return (z >> bits) & ((1 << (64 - bits)) - 1)

    golden, m1, m2 = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
    start = places * m2 + torch.tensor(seed, device=places.device) * m1
    start = (start ^ shifted(start, 30)) * m1
    z = (start ^ shifted(start, 27)) * m2 + samples * golden
    z = (z ^ shifted(z, 30)) * m1
    z = (z ^ shifted(z, 27)) * m2
    z = z ^ shifted(z, 31)
    total = sum((shifted(z, bits) & 0xFFFF for bits in (16, 32, 48)), z & 0xFFFF)
    return (total - 131070).double() / (65536.0 * math.sqrt(4.0 / 12.0))
