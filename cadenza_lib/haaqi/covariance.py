"""Inner loops of the fine-structure comparison: short segments of two basilar-membrane (BM) motions."""

import numpy as np

from cadenza_lib.core.compiled import compiled
from cadenza_lib.haaqi.kernels import LANES, SMALL
from cadenza_lib.haaqi.simd import fma, load, load_as_float64, splat, store, total

__all__ = ["MAX_LAG", "covariances", "tile_power"]

MAX_LAG = 24  # samples either way, 1 ms at 24 kHz


@compiled
def _segment(row: np.ndarray, start: int, window: np.ndarray, out: np.ndarray, margin: int) -> float:
    """Write a windowed zero-mean segment of `row` to ``out[margin:]``, and return its sum of squares."""
    size = len(window)
    skip = min(max(0, -start), size)  # before the row lie zeros
    out[margin : margin + skip] = 0.0
    lane = splat(0.0, LANES)
    n = skip
    while n % LANES != 0 and n < size:
        out[margin + n] = row[start + n] * window[n]
        n += 1
    for m in range(n, size, LANES):
        store(out, margin + m, load_as_float64(row, start + m, LANES) * load(window, m, LANES))
    for m in range(0, size, LANES):
        lane = lane + load(out, margin + m, LANES)
    mean = splat(total(lane) / size, LANES)
    lane = splat(0.0, LANES)
    for m in range(0, size, LANES):
        value = load(out, margin + m, LANES) - mean
        store(out, margin + m, value)
        lane = fma(value, value, lane)
    return total(lane)


@compiled
def _window_of(segment: int, segments: int, window: np.ndarray) -> np.ndarray:
    """Return the window, or its second half for the first and its first half for the last segment."""
    half = len(window) // 2
    if segment == 0:
        return window[half:]
    return window[:half] if segment == segments - 1 else window


@compiled
def tile_power(row: np.ndarray, late: int, window: np.ndarray, norms: np.ndarray, out: np.ndarray) -> None:
    """Write the mean square of the windowed zero-mean segments of one band to `out`, (segment,)."""
    half, segments = len(window) // 2, len(out)
    scratch = np.empty(len(window))
    for segment in range(segments):
        shape = _window_of(segment, segments, window)
        norm = norms[0] if len(shape) == len(window) else norms[1]
        out[segment] = _segment(row, segment * half - late, shape, scratch, 0) * norm


@compiled
def covariances(
    x_row: np.ndarray,
    y_row: np.ndarray,
    late: int,
    window: np.ndarray,
    norms: np.ndarray,
    unbias: np.ndarray,
    unbias_half: np.ndarray,
    audible: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write the largest normalised cross-covariance within 1 ms of each `audible` segment to `out`, (segment,).

    All 49 lags are tried in float32; the best one is computed again in float64. Where float32 takes another lag for
    the best, the two are equal to 1e-6.
    """
    half, segments = len(window) // 2, len(out)
    x = np.zeros(len(window) + 2 * MAX_LAG + 8)
    y = np.zeros(len(window))
    x32 = np.zeros(len(window) + 2 * MAX_LAG + 8, np.float32)
    y32 = np.zeros(len(window), np.float32)
    lags = np.empty(56)
    for segment in range(segments):
        out[segment] = 0.0
        if not audible[segment]:
            continue
        shape = _window_of(segment, segments, window)
        size = len(shape)
        full = size == len(window)
        norm = norms[0] if full else norms[1]
        correction = unbias if full else unbias_half
        x_power = _segment(x_row, segment * half - late, shape, x, MAX_LAG) * norm
        y_power = _segment(y_row, segment * half - late, shape, y, 0) * norm
        if not (x_power > SMALL and y_power > SMALL):
            continue
        x[MAX_LAG + size :] = 0.0
        # Scaled to unit power, so that float32 neither overflows nor underflows.
        x_scale, y_scale = 1.0 / np.sqrt(x_power), 1.0 / np.sqrt(y_power)
        for n in range(len(x)):
            x32[n] = x[n] * x_scale
        for n in range(size):
            y32[n] = y[n] * y_scale
        for block in range(0, 49, 7):
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = splat(np.float32(0.0), 16)
            for n in range(0, size, 16):
                v = load(y32, n, 16)
                s0 = fma(v, load(x32, n + block, 16), s0)
                s1 = fma(v, load(x32, n + block + 1, 16), s1)
                s2 = fma(v, load(x32, n + block + 2, 16), s2)
                s3 = fma(v, load(x32, n + block + 3, 16), s3)
                s4 = fma(v, load(x32, n + block + 4, 16), s4)
                s5 = fma(v, load(x32, n + block + 5, 16), s5)
                s6 = fma(v, load(x32, n + block + 6, 16), s6)
            lags[block], lags[block + 1], lags[block + 2] = total(s0), total(s1), total(s2)
            lags[block + 3], lags[block + 4], lags[block + 5] = total(s3), total(s4), total(s5)
            lags[block + 6] = total(s6)
        best, where = -1.0, 0
        for lag in range(2 * MAX_LAG + 1):
            value = abs(lags[lag] * correction[lag])
            if value > best:
                best, where = value, lag
        lane = splat(0.0, LANES)
        for n in range(0, size, LANES):
            lane = fma(load(y, n, LANES), load(x, n + where, LANES), lane)
        out[segment] = min(abs(total(lane) * correction[where]) * x_scale * y_scale, 1.0)
