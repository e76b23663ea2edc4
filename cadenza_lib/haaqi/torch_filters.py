"""The filters of `ear` on tensors, with gradients; and resampling, moving and cutting of signals.

All are linear and time-invariant, so none of them needs a loop over time. The gammatone filters and the middle ear are
products with the sampled transfer function, after `DECAY` samples of zeros: what their impulse responses leave there
wraps around, and is below 1e-16 of their peak. The filters with real poles (gain smoothing, adaptation) run block by
block, `recursive`, which is exact.

Shapes are (item, time) or (item, band, time). Items of a batch may differ in length; behind the end of an item are
zeros. Delays are Python integers and have no gradient.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from scipy import signal as dsp
from torch import Tensor

from cadenza_lib.haaqi import ear
from cadenza_lib.haaqi.ear import SAMPLE_RATE

__all__ = [
    "Span", "clear", "cut", "gammatone", "half_phase_tangent", "nal_r", "recursive", "resample", "spans",
    "spectrum",
]  # fmt: skip

DECAY = 6144  # samples in which the slowest filter, at 80 Hz in a normal ear, falls below 1e-16 of its peak
LEVEL_DECAY = 4096  # the same for the filters that match levels after resampling
RECURSIVE_BLOCK = 32  # samples that `recursive` treats at once
LARGEST_TANGENT = 1e6  # of half the phase: at half the sample rate it is infinite

Span = tuple[int, int]  # first sample that is not zero, and number of samples, of an item


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
    firs = torch.from_numpy(np.stack([ear.nal_r_filter(losses) for losses in levels])).to(signal)
    padded = _fast_length(signal.shape[-1] + firs.shape[-1] - 1)
    amplified = torch.fft.irfft(torch.fft.rfft(signal, padded) * torch.fft.rfft(firs, padded), padded)
    return clear(amplified[..., ear.NAL_R_ORDER : ear.NAL_R_ORDER + signal.shape[-1]], [(0, size) for size in sizes])


@cache
def _polyphase(up: int, down: int) -> tuple[NDArray[np.float64], int]:
    """Return the filters of `scipy.signal.resample_poly`, (phase, tap), and the samples that they look back."""
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
    """Return the spectrum of `signal` after the middle ear, padded for the filter bank: (item, 1, frequency)."""
    size = _fast_length(signal.shape[-1] + DECAY)
    phase = 2.0 * np.pi * np.arange(size) / size
    low, high = (dsp.freqz(b, a, phase)[1] for b, a in ear.middle_ear_filters())
    response = torch.from_numpy(low * high).to(signal.device, signal.dtype.to_complex())
    return (torch.fft.fft(signal, size) * response)[:, None]


def spans(signal: Tensor, sizes: list[int]) -> list[Span]:
    """Find where each item is. The filters are at rest before it, but for the rounding of the FFT."""
    first: list[int] = (signal != 0).byte().argmax(-1).tolist()
    return list(zip(first, sizes, strict=True))


# The filter bank.


def half_phase_tangent(centre: Tensor, size: int) -> Tensor:
    """Return the tangent of half the phase between each frequency and the band's centre: (band, frequency)."""
    half = torch.arange(size, dtype=torch.float64, device=centre.device) * (math.pi / size)
    band = (math.pi / SAMPLE_RATE * centre)[:, None]
    return torch.tan(half - band).clamp(-LARGEST_TANGENT, LARGEST_TANGENT)


def gammatone(spectrum: Tensor, tangent: Tensor, bandwidth_hz: Tensor, spans: list[Span], time: int) -> Tensor:
    """Return the analytic output of the gammatone filters: its modulus is the envelope, its real part the BM motion."""
    decay = 2.0 * math.pi / SAMPLE_RATE * ear.ERB_TO_GAMMATONE * bandwidth_hz.expand(len(spectrum), -1)
    pole = torch.exp(-decay)
    ratio = 1.0 / torch.tanh(0.5 * decay)  # (1 + pole) / (1 - pole), without cancellation
    filtered: Tensor = _Gammatone.apply(spectrum, tangent, ratio, (1 - 2 * pole) / (1 + 2 * pole), spans, time)
    return filtered


class _Gammatone(torch.autograd.Function):
    """Multiply the spectrum by the filters' transfer functions and go back to time.

    With w = exp(-j phase re centre) and pole a it is 2 ((1 - a)^2 (1 + 2 a w) / ((1 + 2 a) (1 - a w)^2))^2, unity gain
    for a real signal. With t = tan(phase / 2), w = (1 - j t) / (1 + j t), and so it is 2 q^2 with
    q = (1 + j p t) (1 + j t) / (1 + j r t)^2, r = (1 + a) / (1 - a), p = (1 - 2 a) / (1 + 2 a), which is accurate
    near the centre in float32 as well. Saved are only the inputs.
    """

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, tangent: Tensor, r: Tensor, p: Tensor, spans: list[Span], time: int) -> Any:
        ctx.save_for_backward(spectrum, tangent, r, p)
        ctx.spans = spans
        return clear(torch.fft.ifft(spectrum * _response(tangent, r, p))[..., :time], spans)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        spectrum, tangent, r, p = ctx.saved_tensors
        size = spectrum.shape[-1]
        response = _response(tangent, r, p)
        gradient = torch.fft.fft(clear(gradient.clone(), ctx.spans), size).div_(size)
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
    """Return the real part of the sum over frequencies of `product` times the conjugate of j t / (1 + j value t)."""
    scaled = value[..., None] * tangent
    # conj(j t / (1 + j v t)) = (v t^2 - j t) / (1 + v^2 t^2)
    return (tangent / (1.0 + scaled.square()) * (product.real * scaled + product.imag)).sum(-1)


def clear(rows: Tensor, spans: list[Span]) -> Tensor:
    """Write zeros outside the items, in place and without autograd's knowledge."""
    for item, (start, stop) in enumerate(spans):
        rows[item, ..., :start] = 0.0
        rows[item, ..., stop:] = 0.0
    return rows


# Filters with real poles.


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


# Delays.


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
    def backward(ctx: Any, gradient: Tensor) -> Any:
        out = gradient.new_zeros(len(gradient), ctx.time)
        for to, row, (start, stop, move) in zip(out, gradient, ctx.ranges, strict=True):
            to[start + move : stop + move] = row[start:stop]
        return out, None, None


def cut(
    rows: Tensor, moves: list[int], available: list[int], ends: list[int], time: int, first: list[int] | None = None
) -> Tensor:
    """Take ``rows[row, n + moves[row]]`` as sample n of the result, (row, time), for ``first <= n < ends``.

    Zeros come in for samples before 0 and from ``available[row]`` on.
    """
    ranges = []
    for move, begin, size, end in zip(moves, first or [0] * len(rows), available, ends, strict=True):
        start = min(max(begin, -move), end)
        ranges.append((start, max(start, min(end, size - move)), move))
    result: Tensor = _Cut.apply(rows, ranges, time)
    return result
