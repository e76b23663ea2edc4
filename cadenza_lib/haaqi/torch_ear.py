"""The ear model of `ear` on tensors: batches of signals, several bands at a time, with gradients.

All filters are linear and time-invariant, so none of them needs a loop over time. The gammatone filters and the middle
ear are products with the sampled transfer function, after `DECAY` samples of zeros: what their impulse responses leave
there wraps around, and is below 1e-15 of their peak. The filters with real poles (gain smoothing, adaptation) run block
by block, `recursive`, which is exact.

Shapes are (item, band, time). Items of a batch may differ in length; behind the end of an item are zeros. Delays are
Python integers and have no gradient.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from scipy import signal as dsp
from torch import Tensor

from cadenza_lib.haaqi import ear
from cadenza_lib.haaqi.ear import BANDS, SAMPLE_RATE
from cadenza_lib.haaqi.kernels import DB_PER_OCTAVE

__all__ = ["DECAY", "Compressed", "Ears", "adapt", "compress", "cut", "hashed_noise", "nal_r", "resample", "root", "spectrum"]

DECAY = 6144  # samples in which the slowest filter, at 80 Hz in a normal ear, falls below 1e-15 of its peak
LEVEL_DECAY = 4096  # the same for the filters that match levels after resampling
RECURSIVE_BLOCK = 32  # samples that `recursive` treats at once
LARGEST_TANGENT = 1e6  # of half the phase: at half the sample rate it is infinite
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
        ears = [ear.Ear.from_levels(one) for one in levels]

        def stack(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(one, name) for one in ears])).to(like)

        centre = torch.from_numpy(ear.centre_frequencies())
        return cls(
            centre, (ear.MINIMUM_BANDWIDTH + centre / ear.EAR_Q).to(like), stack("bandwidth"),
            torch.from_numpy(ear.control_bandwidth()).to(like), stack("ohc_db"), stack("ihc_db"), stack("knee_db_spl"),
            1.0 - 1.0 / stack("ratio"), torch.tensor(level1).to(like)[:, None],
        )  # fmt: skip

    def part(self, bands: slice) -> "Ears":
        """Return the parameters of some of the bands."""
        return Ears(*(value[..., bands] for value in list(vars(self).values())[:-1]), self.level1)


@dataclass(frozen=True)
class Compressed:
    """Bands after compression, before alignment."""

    envelope: Tensor  # (item, band, time)
    motion: Tensor  # (item, band, time)
    bandwidth: Tensor  # (item, band), re the normal ear's
    level_db_sl: Tensor  # (item, band), long-term average


# The signal before the filter bank: (item, time).


def resample(signal: Tensor, sample_rate: float) -> Tensor:
    """Resample as `ear.resample` does: polyphase filter, then match the level below 10.5 kHz. Silence stays silent."""
    target, source = SAMPLE_RATE // 1000, round(sample_rate / 1000)
    if source == target:
        return signal
    divisor = math.gcd(target, source)
    up, down = target // divisor, source // divisor
    kernel, before = _polyphase(up, down)
    frames = -(-signal.shape[-1] * up // down)  # samples of the result
    steps = -(-frames // up)
    after = max(0, (steps - 1) * down + kernel.shape[1] - before - signal.shape[-1])
    padded = torch.nn.functional.pad(signal, (before, after))[:, None]
    phases = torch.nn.functional.conv1d(padded, torch.from_numpy(kernel).to(signal)[:, None], stride=down)
    resampled = phases[..., :steps].transpose(1, 2).flatten(1)[:, :frames]
    if source < target:
        old, new = signal, resampled
    else:
        old, new = _below_10_khz(signal, source), _below_10_khz(resampled, target)
    power = new.square().mean(-1, keepdim=True)
    silent = power <= 0
    gain = (old.square().mean(-1, keepdim=True) / torch.where(silent, 1.0, power)).masked_fill(silent, 1.0).sqrt()
    return gain * resampled


def nal_r(signal: Tensor, levels: NDArray[np.float64], sizes: list[int]) -> Tensor:
    """Amplify each item as `ear.nal_r` does; `sizes` has the samples of each, `levels` is (item, 6) in dB HL."""
    firs = torch.from_numpy(np.stack([ear.nal_r_filter(one) for one in levels])).to(signal)
    padded = _fast_length(signal.shape[-1] + firs.shape[-1] - 1)
    amplified = torch.fft.irfft(torch.fft.rfft(signal, padded) * torch.fft.rfft(firs, padded), padded)
    return _clear_ends(amplified[..., ear.NAL_R_ORDER : ear.NAL_R_ORDER + signal.shape[-1]], sizes)


@cache
def _polyphase(up: int, down: int) -> tuple[NDArray[np.float64], int]:
    """Filters of `scipy.signal.resample_poly`, (phase, tap), and the samples that they look back."""
    half = 10 * max(up, down)
    prototype = up * dsp.firwin(2 * half + 1, 1.0 / max(up, down), window=("kaiser", 5.0))
    before, after = half // up, ((up - 1) * down + half) // up
    kernel = np.zeros((up, before + after + 1))
    for phase in range(up):
        for tap in range(-before, after + 1):
            at = half + phase * down - tap * up
            if 0 <= at <= 2 * half:
                kernel[phase, before + tap] = prototype[at]
    return kernel, before


def _below_10_khz(signal: Tensor, rate_khz: int) -> Tensor:
    size = _fast_length(signal.shape[-1] + LEVEL_DECAY)
    phase = 2.0 * np.pi * np.arange(size // 2 + 1) / size
    response = torch.from_numpy(dsp.freqz(*ear.level_filter(rate_khz), phase)[1])
    spectra = torch.fft.rfft(signal, size) * response.to(signal.device, signal.dtype.to_complex())
    return torch.fft.irfft(spectra, size)[..., : signal.shape[-1]]


def _fast_length(size: int) -> int:
    return int(fft.next_fast_len(size, real=True))


def spectrum(signal: Tensor) -> Tensor:
    """Spectrum of `signal` after the middle ear, padded for the filter bank: (item, 1, frequency), all of them."""
    size = _fast_length(signal.shape[-1] + DECAY)
    phase = 2.0 * np.pi * np.arange(size) / size
    low, high = (dsp.freqz(b, a, phase)[1] for b, a in ear.middle_ear_filters())
    response = torch.from_numpy(low * high).to(signal.device, signal.dtype.to_complex())
    return (torch.fft.fft(signal, size) * response)[:, None]


# The filter bank.


def compress(spectrum: Tensor, ears: Ears, sizes: list[int], time: int) -> Compressed:
    """Filter with the control and the adjusted filter and compress.

    `spectrum` is from `spectrum`, `sizes` has the samples of each item, and `time` those of the result.
    """
    tangent = _tangent(ears.centre, spectrum.shape[-1]).to(ears.erb)
    samples = torch.tensor(sizes, device=ears.erb.device, dtype=ears.erb.dtype)[:, None]
    level1, knee = ears.level1, ears.knee_db_spl

    control = _filter(spectrum, tangent, ears.control_bandwidth * ears.erb, sizes, time)
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

    filtered = _filter(spectrum, tangent, bandwidth * ears.erb, sizes, time)
    power = filtered.real.square() + filtered.imag.square()
    mean = power.sum(-1) / samples
    compression = ears.slope * (_level(mean_control, level1, knee, ear.LINEAR_ABOVE_DB_SPL) - knee)
    level_db_sl = torch.relu(_level(mean, level1, 0.0, math.inf) - ears.ohc_db - compression - ears.ihc_db)
    envelope = power.clamp(min=SMALLEST_POWER).sqrt()  # never zero: `adapt` knows what alignment moves in by its zeros
    # The FFT leaves its rounding where there is digital silence, and normalised covariances would hear it.
    rounding = (FFT_ROUNDING * torch.finfo(power.dtype).eps) ** 2 * power.detach().amax(-1, keepdim=True)
    motion = (gain * filtered.real).masked_fill(power < rounding, 0.0)
    return Compressed(gain * envelope, motion, bandwidth, level_db_sl)


def _power(level_db_spl: Tensor, level1: Tensor) -> Tensor:
    return 10.0 ** ((level_db_spl - level1) / 10.0)


def _level(power: Tensor, level1: Tensor, lowest: Tensor | float, highest: float) -> Tensor:
    """Level in dB SPL of a mean square, between two levels."""
    low = _power(torch.as_tensor(lowest).to(power), level1)
    high = _power(torch.as_tensor(highest).to(power), level1)
    return level1 + 10.0 * _LOG10_OF_2 * torch.log2(torch.minimum(torch.maximum(power, low), high))


def root(power: Tensor) -> Tensor:
    """Square root with a gradient of zero at zero."""
    positive = power > 0
    return torch.where(positive, torch.where(positive, power, 1.0).sqrt(), 0.0)


def _tangent(centre: Tensor, size: int) -> Tensor:
    """Tangent of half the phase between each frequency and the band's centre: (band, frequency)."""
    half = torch.arange(size, dtype=torch.float64, device=centre.device) * (math.pi / size)
    band = (math.pi / SAMPLE_RATE * centre)[:, None]
    return torch.tan(half - band).clamp(-LARGEST_TANGENT, LARGEST_TANGENT)


def _filter(spectrum: Tensor, tangent: Tensor, bandwidth_hz: Tensor, sizes: list[int], time: int) -> Tensor:
    """Analytic output of the gammatone filters: its modulus is the envelope, its real part the BM motion."""
    decay = 2.0 * math.pi / SAMPLE_RATE * ear.ERB_TO_GAMMATONE * bandwidth_hz.expand(len(spectrum), -1)
    pole = torch.exp(-decay)
    ratio = 1.0 / torch.tanh(0.5 * decay)  # (1 + pole) / (1 - pole), without cancellation
    filtered: Tensor = _Gammatone.apply(spectrum, tangent, ratio, (1 - 2 * pole) / (1 + 2 * pole), sizes, time)
    return filtered


class _Gammatone(torch.autograd.Function):
    """Multiply the spectrum by the filters' transfer functions and go back to time.

    With w = exp(-j phase re centre) and pole a it is 2 ((1 - a)^2 (1 + 2 a w) / ((1 + 2 a) (1 - a w)^2))^2, unity gain
    for a real signal. With t = tan(phase / 2), w = (1 - j t) / (1 + j t), and so it is 2 q^2 with
    q = (1 + j p t) (1 + j t) / (1 + j r t)^2, r = (1 + a) / (1 - a), p = (1 - 2 a) / (1 + 2 a), which is accurate
    near the centre in float32 as well. Saved are only the inputs.
    """

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, tangent: Tensor, r: Tensor, p: Tensor, sizes: list[int], time: int) -> Any:
        ctx.save_for_backward(spectrum, tangent, r, p)
        ctx.sizes = sizes
        return _clear_ends(torch.fft.ifft(spectrum * _response(tangent, r, p))[..., :time], sizes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        spectrum, tangent, r, p = ctx.saved_tensors
        size = spectrum.shape[-1]
        response = _response(tangent, r, p)
        gradient = torch.fft.fft(_clear_ends(gradient, ctx.sizes), size).div_(size)
        gradient = gradient.mul_(response.conj())  # with regard to the spectrum, of each band
        of_spectrum = gradient.sum(1, keepdim=True)
        if not ctx.needs_input_grad[2]:
            return of_spectrum, None, None, None, None, None
        # d log H / dr = -4 j t / (1 + j r t), d log H / dp = 2 j t / (1 + j p t); only the real part counts.
        product = gradient.mul_(spectrum.conj())  # gradient * conj(H X), to be multiplied by conj(d log H)
        along_r, along_p = (_along(product, tangent, value) for value in (r, p))
        return of_spectrum, None, -4.0 * along_r, 2.0 * along_p, None, None


def _response(tangent: Tensor, r: Tensor, p: Tensor) -> Tensor:
    scaled, p = r[..., None] * tangent, p[..., None]
    numerator = torch.complex(1.0 - p * tangent.square(), (1.0 + p) * tangent)
    numerator /= torch.complex(1.0 - scaled.square(), 2.0 * scaled)
    return numerator.square().mul_(2.0)


def _along(product: Tensor, tangent: Tensor, value: Tensor) -> Tensor:
    """Real part of the sum over frequencies of `product` times the conjugate of j t / (1 + j value t)."""
    scaled = value[..., None] * tangent
    # conj(j t / (1 + j v t)) = (v t^2 - j t) / (1 + v^2 t^2)
    return (tangent / (1.0 + scaled.square()) * (product.real * scaled + product.imag)).sum(-1)


def _clear_ends(rows: Tensor, sizes: list[int]) -> Tensor:
    if all(size >= rows.shape[-1] for size in sizes):
        return rows
    rows = rows.clone()
    for row, size in zip(rows, sizes, strict=True):
        row[..., size:] = 0.0
    return rows


# Filters with real poles.


@cache
def gain_smoothing() -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """b (1 + z^-1) / (1 - a z^-1) = -b / a + (b (1 + a) / a) / (1 - a z^-1)."""
    (b, _), (_, minus_a) = dsp.butter(1, ear.GAIN_SMOOTHING_HZ / (0.5 * SAMPLE_RATE))
    a = -float(minus_a)
    return -b / a, (a,), (b * (1 + a) / a,)


@cache
def _adaptation() -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Current into the first capacitor, (v0 - v1) / R1, as a sum of one direct and two one-pole paths."""
    a11, a12, b1, a21, a22, b2, inverse_r1 = ear.adaptation()
    poles, vectors = np.linalg.eig(np.array([[a11, a12], [a21, a22]]))
    weights = -inverse_r1 * vectors[0] * np.linalg.solve(vectors, np.array([b1, b2]))
    return float(inverse_r1), tuple(poles.tolist()), tuple(weights.tolist())


def recursive(x: Tensor, direct: float, poles: tuple[float, ...], weights: tuple[float, ...]) -> Tensor:
    """Filter (..., time) with ``direct + sum over k of weights[k] / (1 - poles[k] z^-1)``, from rest.

    Each block is one product with a triangular matrix. What a block hands on to the next is the state of each pole,
    and these states obey a recursion of the same kind at the rate of blocks.
    """
    time, size = x.shape[-1], RECURSIVE_BLOCK
    n = np.arange(size)
    lag = n[None, :] - n[:, None]  # (in, out)
    powers = [np.where(lag >= 0, pole ** np.maximum(lag, 0.0), 0.0) for pole in poles]
    inside = direct * np.eye(size) + sum(weight * power for weight, power in zip(weights, powers, strict=True))
    blocks = torch.nn.functional.pad(x, (0, -time % size)).unflatten(-1, (-1, size))
    result = blocks @ torch.from_numpy(inside).to(x)
    if blocks.shape[-2] > 1:
        ends = blocks[..., :-1, :] @ torch.from_numpy(np.stack([power[:, -1] for power in powers], axis=1)).to(x)
        states = [recursive(ends[..., k], 0.0, (pole**size,), (1.0,)) for k, pole in enumerate(poles)]
        decays = np.stack([weight * pole ** (n + 1) for weight, pole in zip(weights, poles, strict=True)])
        handed_on = torch.stack(states, dim=-1) @ torch.from_numpy(decays).to(x)
        result = result + torch.nn.functional.pad(handed_on, (0, 0, 1, 0))
    return result.flatten(-2)[..., :time]


# After alignment.


class _Cut(torch.autograd.Function):
    """``out[row, start:stop] = rows[row, start + move : stop + move]``, zeros elsewhere."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranges: list[tuple[int, int, int]], time: int) -> Any:
        ctx.ranges, ctx.time = ranges, rows.shape[-1]
        out = rows.new_zeros(len(rows), time)
        for to, row, (start, stop, move) in zip(out, rows, ranges, strict=True):
            to[start:stop] = row[start + move : stop + move]
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        out = gradient.new_zeros(len(gradient), ctx.time)
        for to, row, (start, stop, move) in zip(out, gradient, ctx.ranges, strict=True):
            to[start + move : stop + move] = row[start:stop]
        return out, None, None


def cut(
    rows: Tensor, moves: list[int], available: list[int], wanted: list[int], time: int, first: list[int] | None = None
) -> Tensor:
    """Take ``rows[row, n + moves[row]]`` as sample n of the result, (row, time), for ``first <= n < wanted``.

    Zeros come in for samples before 0 and from ``available[row]`` on.
    """
    ranges = []
    for move, begin, size, end in zip(moves, first or [0] * len(rows), available, wanted, strict=True):
        start = min(max(begin, -move), end)
        ranges.append((start, max(start, min(end, size - move)), move))
    result: Tensor = _Cut.apply(rows, ranges, time)
    return result


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
    """Unit noise of `noise.add_hashed`: a number depends on its row's place and its sample, int64 tensors, alone."""

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
