"""Where two signals match best: the lag at the maximum of their cross-correlation.

Kates aligns twice: the two input signals over every lag, and in each band the processed envelope and BM motion over
100 ms either way. Both searches run in float32, which finds all lags whose correlation can be the largest, and those
few are then computed exactly. Between exact ties the lowest lag wins, as in `numpy.argmax`.
"""

import numpy as np
from scipy import fft, signal

from cadenza_lib.core.compiled import compiled
from cadenza_lib.haaqi.correlation import SEARCH, correlations
from cadenza_lib.haaqi.kernels import LANES
from cadenza_lib.haaqi.simd import fma, load_as_float64, splat, total

__all__ = ["band_delays", "broadband_delay", "broadband_spectrum"]

# The float32 search is wrong by less than this share of sqrt(energy x energy); measured: 3e-7 for 30 s.
UNSURE = 4e-6
MOST_CANDIDATES = 512  # beyond that many nearly equal lags a float64 FFT over the whole signal is quicker


# Broadband: the two input signals, every lag.


def broadband_spectrum(x: np.ndarray) -> np.ndarray:
    """Return the spectrum of a signal less its mean, of unit energy, padded for `broadband_delay`: complex64."""
    centred = x - np.mean(x)
    energy = np.dot(centred, centred)
    padded = np.zeros(_padded(len(x)), np.float32)
    np.multiply(centred, 1.0 / np.sqrt(energy) if energy > 0.0 else 0.0, out=padded[: len(x)], casting="same_kind")
    del centred
    return fft.rfft(padded)


def _padded(size: int) -> int:
    return int(fft.next_fast_len(2 * size - 1, real=True))


def broadband_delay(
    reference: np.ndarray, processed: np.ndarray, reference_spectrum: np.ndarray, processed_spectrum: np.ndarray
) -> int:
    """Return the samples by which `processed` comes after `reference`, (time,) each: the peak of |cross-correlation|.

    Both must have the same length. `processed_spectrum` is overwritten.
    """
    size = len(reference)
    _multiply_by_conjugate(reference_spectrum, processed_spectrum)
    circular = fft.irfft(processed_spectrum, _padded(size), overwrite_x=True)
    peak = max(circular.max(), -circular.min())
    if peak <= 0.0:
        return size - 1  # silence: all lags are equal, and the lowest is 1 - size
    candidates = _above(circular, peak - 2 * UNSURE, size)
    if len(candidates) == 1:
        return -int(candidates[0])
    reference, processed = reference - np.mean(reference), processed - np.mean(processed)
    if len(candidates) > MOST_CANDIDATES:
        return size - 1 - int(np.argmax(np.abs(signal.correlate(reference, processed, "full", method="fft"))))
    exact = [abs(_dot(reference, processed, lag)) for lag in candidates]
    return -int(candidates[int(np.argmax(exact))])


@compiled
def _multiply_by_conjugate(a: np.ndarray, b: np.ndarray) -> None:
    """``b = a * conj(b)``."""
    for k in range(len(a)):
        b[k] = complex(a[k].real * b[k].real + a[k].imag * b[k].imag, a[k].imag * b[k].real - a[k].real * b[k].imag)


@compiled
def _above(circular: np.ndarray, bound: float, size: int) -> np.ndarray:
    """Return the lags from 1 - size to size - 1, ascending, at which |circular| is at least `bound`."""
    lags = []
    for lag in range(1 - size, size):
        value = circular[lag] if lag >= 0 else circular[len(circular) + lag]
        if abs(value) >= bound:
            lags.append(lag)
    return np.array(lags)


def _dot(x: np.ndarray, y: np.ndarray, lag: int) -> float:
    """Return the sum of ``x[n + lag] * y[n]``."""
    size = len(x)
    return float(np.dot(x[max(lag, 0) : size + min(lag, 0)], y[max(-lag, 0) : size - max(lag, 0)]))


# Band by band: envelopes and BM motion within 100 ms either way.


def band_delays(
    x_env: np.ndarray, y_env: np.ndarray, x_bm: np.ndarray, y_bm: np.ndarray, energies: np.ndarray
) -> np.ndarray:
    """Return the samples by which each row of `y_env` comes after `x_env`, and of `y_bm` after `x_bm`: (2, row).

    The rows are (row, time) float32; `energies`, (2, row), is the root of the product of the two rows' energies.
    """
    size = x_env.shape[1]
    coarse = correlations(x_env, y_env, x_bm, y_bm)
    lags = min(SEARCH, size)
    searched = slice(SEARCH + 1 - lags, SEARCH + 1 + min(lags, size - 1))
    delays = np.empty((2, len(x_env)), np.int64)
    for kind, (x, y, rough) in enumerate(((x_env, y_env, coarse.real), (x_bm, y_bm, coarse.imag))):
        for b in range(len(x)):
            delays[kind, b] = lags - 1 - _peak(x[b], y[b], rough[b, searched], 1 - lags, energies[kind, b])
    return delays


def _peak(x: np.ndarray, y: np.ndarray, coarse: np.ndarray, first_lag: int, energy: float) -> int:
    """Return the index of the largest correlation among `coarse`, which starts at `first_lag`."""
    if energy < 1e-100:  # silence, but for `kernels.TINY`
        return 0
    candidates = np.flatnonzero(coarse >= coarse.max() - 2 * UNSURE * energy)
    if len(candidates) == 1:
        return int(candidates[0])
    if len(candidates) > MOST_CANDIDATES:
        exact = signal.correlate(x.astype(np.float64), y.astype(np.float64), "full", method="fft")
        first = len(x) - 1 + first_lag
        return int(np.argmax(exact[first : first + len(coarse)]))
    exact = np.empty(len(candidates))
    _correlations(x, y, candidates + first_lag, exact)
    return int(candidates[int(np.argmax(exact))])


@compiled
def _correlations(x: np.ndarray, y: np.ndarray, lags: np.ndarray, out: np.ndarray) -> None:
    """Write the sums of ``x[n + lag] * y[n]`` for ascending `lags`, four at a time, in blocks that stay in cache."""
    size, block = len(x), 4096
    out[:] = 0.0
    for start in range(0, size, block):
        stop = min(start + block, size)
        for k in range(0, len(lags), 4):
            last = min(k + 4, len(lags)) - 1
            l0, l1, l2, l3 = lags[k], lags[min(k + 1, last)], lags[min(k + 2, last)], lags[last]
            first = max(start, -l0)  # the range in which all four lags have a partner
            end = min(stop, size - l3)
            s0 = s1 = s2 = s3 = splat(0.0, LANES)
            n = first
            while n + LANES <= end:
                v = load_as_float64(y, n, LANES)
                s0 = fma(v, load_as_float64(x, n + l0, LANES), s0)
                s1 = fma(v, load_as_float64(x, n + l1, LANES), s1)
                s2 = fma(v, load_as_float64(x, n + l2, LANES), s2)
                s3 = fma(v, load_as_float64(x, n + l3, LANES), s3)
                n += LANES
            sums = (total(s0), total(s1), total(s2), total(s3))
            for j in range(last - k + 1):
                lag = lags[k + j]
                rest = sums[j] if last - k == 3 or j < last - k else sums[3]
                for m in range(max(start, -lag), min(first, stop, size - lag)):
                    rest += np.float64(x[m + lag]) * np.float64(y[m])
                for m in range(max(n, start, -lag), min(stop, size - lag)):
                    rest += np.float64(x[m + lag]) * np.float64(y[m])
                out[k + j] += rest
