"""Where two signals match best: the lag at the maximum of their cross-correlation.

Kates aligns twice: the two input signals over every lag, and in each band the processed envelope and BM motion over
100 ms either way. Both searches run in float32, which finds all lags whose correlation can be the largest, and those
few are then computed exactly. Between exact ties the lowest lag wins, as in `numpy.argmax`.
"""

from functools import cache

import numpy as np
from numba import njit
from scipy import fft, signal

from cadenza_lib.haaqi.simd import fma, load, load_as_float64, load_columns, splat, store, total

__all__ = ["band_delays", "broadband_delay", "broadband_spectrum"]

LANES = 8
FFT_SIZE = 8192  # with 16 lanes of complex float32 1 MB, the second-level cache of one core
SEARCH = 2400  # samples either way, 100 ms at 24 kHz
BLOCK = FFT_SIZE - 2 * SEARCH
# The float32 search is wrong by less than this share of sqrt(energy x energy); measured: 3e-7 for 30 s.
UNSURE = 4e-6
MOST_CANDIDATES = 512  # beyond that many nearly equal lags a float64 FFT over the whole signal is quicker


# Broadband: the two input signals, every lag.


def broadband_spectrum(x: np.ndarray) -> np.ndarray:
    """Spectrum of one zero-mean signal, padded for `broadband_delay`: (frequency,) complex64."""
    padded = fft.next_fast_len(2 * len(x) - 1, real=True)
    scale = np.max(np.abs(x)) or 1.0
    return fft.rfft((x / scale).astype(np.float32), padded)


def broadband_delay(
    reference: np.ndarray, processed: np.ndarray, reference_spectrum: np.ndarray, processed_spectrum: np.ndarray
) -> int:
    """Samples by which `processed`, (time,), comes after `reference`, (time,): the peak of |cross-correlation|.

    Both must have zero mean and the same length.
    """
    size = len(reference)
    padded = fft.next_fast_len(2 * size - 1, real=True)
    circular = np.abs(fft.irfft(reference_spectrum * np.conj(processed_spectrum), padded, overwrite_x=True))
    lags_up, lags_down = circular[:size], circular[padded - size + 1 :]  # lags 0 ... size - 1 and 1 - size ... -1
    peak = max(lags_up.max(), lags_down.max() if size > 1 else 0.0)
    energy = np.sqrt(np.dot(reference, reference) * np.dot(processed, processed))
    if peak <= 0.0 or energy == 0.0:
        return size - 1  # all lags are equal, and the lowest is 1 - size
    scale = np.max(np.abs(reference)) * np.max(np.abs(processed))
    bound = peak - 2 * UNSURE * energy / scale
    candidates = np.concatenate((np.flatnonzero(lags_down >= bound) + 1 - size, np.flatnonzero(lags_up >= bound)))
    if len(candidates) > MOST_CANDIDATES:
        return size - 1 - int(np.argmax(np.abs(signal.correlate(reference, processed, "full", method="fft"))))
    exact = [abs(_dot(reference, processed, lag)) for lag in candidates]
    return -int(candidates[int(np.argmax(exact))])


def _dot(x: np.ndarray, y: np.ndarray, lag: int) -> float:
    """Sum of ``x[n + lag] * y[n]``."""
    size = len(x)
    return float(np.dot(x[max(lag, 0) : size + min(lag, 0)], y[max(-lag, 0) : size - max(lag, 0)]))


# Band by band: eight bands of the reference and of the processed signal in sixteen lanes, envelope and BM motion as
# the real and imaginary part of one complex signal.


def band_delays(x_env: np.ndarray, y_env: np.ndarray, x_bm: np.ndarray, y_bm: np.ndarray) -> np.ndarray:
    """Samples by which each row of `y_env` comes after `x_env`, and of `y_bm` after `x_bm`.

    Shape: (band, time) float32 each, at most eight bands; returns (2, band).
    """
    bands, size = x_env.shape
    coarse = _coarse_correlations(x_env, y_env, x_bm, y_bm)  # (2, band, lag from -SEARCH to SEARCH)
    lags = min(SEARCH, size)
    delays = np.empty((2, bands), np.int64)
    for kind, (x, y) in enumerate(((x_env, y_env), (x_bm, y_bm))):
        energy = np.sqrt(_energies(x) * _energies(y))
        for b in range(bands):
            searched = coarse[kind, b, SEARCH + 1 - lags : SEARCH + 1 + min(lags, size - 1)]
            delays[kind, b] = lags - 1 - _peak(x[b], y[b], searched, 1 - lags, energy[b])
    return delays


def _peak(x: np.ndarray, y: np.ndarray, coarse: np.ndarray, first_lag: int, energy: float) -> int:
    """Index of the largest correlation among `coarse`, which starts at `first_lag`."""
    if energy < 1e-200:  # silence, but for `kernels.TINY`
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


@njit(cache=True, nogil=True)
def _energies(rows: np.ndarray) -> np.ndarray:
    """Sum of squares of each row."""
    out = np.empty(rows.shape[0])
    for b in range(rows.shape[0]):
        row = rows[b]
        lane = splat(0.0, LANES)
        whole = len(row) // LANES * LANES
        for n in range(0, whole, LANES):
            v = load_as_float64(row, n, LANES)
            lane = fma(v, v, lane)
        out[b] = total(lane)
        for n in range(whole, len(row)):
            out[b] += np.float64(row[n]) * np.float64(row[n])
    return out


@njit(cache=True, nogil=True)
def _correlations(x: np.ndarray, y: np.ndarray, lags: np.ndarray, out: np.ndarray) -> None:
    """Sum of ``x[n + lag] * y[n]`` in float64 for ascending `lags`, four at a time, in blocks that stay in cache."""
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


def _coarse_correlations(x_env: np.ndarray, y_env: np.ndarray, x_bm: np.ndarray, y_bm: np.ndarray) -> np.ndarray:
    """Correlations at lags -SEARCH ... SEARCH, block by block through float32 FFTs: (2, band, lag)."""
    bands = x_env.shape[0]
    twiddles, here, there, order = _plan()
    sums = np.zeros((4, len(here), LANES), np.float32)
    _cross_spectra(x_env, y_env, x_bm, y_bm, twiddles, here, there, sums.reshape(4, -1))
    spectra = np.stack((sums[0] + 1j * sums[1], sums[2] + 1j * sums[3]))[:, order, :bands]
    # The two halves of the packed spectrum were not divided by two: a factor four in each product.
    circular = fft.irfft(spectra, FFT_SIZE, axis=1) / 4.0
    return np.moveaxis(circular[:, : 2 * SEARCH + 1], 1, 2)


def _frequencies() -> np.ndarray:
    """Frequency that the in-place FFT leaves at each position: radix 4 until 2 are left, then radix 2."""

    def positions(first: int, step: int, size: int) -> np.ndarray:
        radix = 4 if size >= 4 else size
        if radix <= 1:
            return np.array([first])
        return np.concatenate([positions(first + q * step, step * radix, size // radix) for q in range(radix)])

    return positions(0, 1, FFT_SIZE)


@cache
def _plan() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Twiddle factors, the positions of the frequencies f and -f for f = 0 ... half, and where f stands among them."""
    frequencies = _frequencies()
    position = np.argsort(frequencies)
    here = np.sort(position[: FFT_SIZE // 2 + 1])  # in ascending order, because the cache likes it
    there = position[-frequencies[here] % FFT_SIZE]
    rows = []
    length = FFT_SIZE
    while length >= 4:
        w = np.exp(-2j * np.pi * np.arange(length // 4) / length)
        rows.append(np.stack((w.real, w.imag, (w**2).real, (w**2).imag, (w**3).real, (w**3).imag), axis=1))
        length //= 4
    return np.concatenate(rows).astype(np.float32).ravel(), here, there, np.argsort(frequencies[here])


@njit(cache=True, nogil=True)
def _cross_spectra(
    x_env: np.ndarray,
    y_env: np.ndarray,
    x_bm: np.ndarray,
    y_bm: np.ndarray,
    twiddles: np.ndarray,
    here: np.ndarray,
    there: np.ndarray,
    sums: np.ndarray,
) -> None:
    bands, size = x_env.shape
    re = np.zeros(FFT_SIZE * 16, np.float32)
    im = np.zeros(FFT_SIZE * 16, np.float32)
    for start in range(0, size, BLOCK):
        _fill(re, x_env, y_env, start)
        _fill(im, x_bm, y_bm, start)
        _fft(re, im, twiddles)
        for k in range(len(here)):
            p, q = here[k] * 16, there[k] * 16
            # Envelope = even part, BM motion = odd part of the packed spectrum, up to a factor of two.
            pr, pi, qr, qi = load(re, p, 8), load(im, p, 8), load(re, q, 8), load(im, q, 8)
            x_er, x_ei, x_br, x_bi = pr + qr, pi - qi, pi + qi, qr - pr
            pr, pi, qr, qi = load(re, p + 8, 8), load(im, p + 8, 8), load(re, q + 8, 8), load(im, q + 8, 8)
            y_er, y_ei, y_br, y_bi = pr + qr, pi - qi, pi + qi, qr - pr
            at = k * 8
            store(sums[0], at, fma(x_er, y_er, fma(x_ei, y_ei, load(sums[0], at, 8))))
            store(sums[1], at, fma(x_ei, y_er, load(sums[1], at, 8)) - x_er * y_ei)
            store(sums[2], at, fma(x_br, y_br, fma(x_bi, y_bi, load(sums[2], at, 8))))
            store(sums[3], at, fma(x_bi, y_br, load(sums[3], at, 8)) - x_br * y_bi)


@njit(cache=True, nogil=True)
def _fill(lanes: np.ndarray, x: np.ndarray, y: np.ndarray, start: int) -> None:
    """Lanes 0-7: `x` from `SEARCH` before `start` to `SEARCH` after the block; lanes 8-15: the block of `y`."""
    _fill_half(lanes, 0, x, start - SEARCH, min(start + BLOCK + SEARCH, x.shape[1]))
    _fill_half(lanes, 8, y, start, min(start + BLOCK, x.shape[1]))


@njit(cache=True, nogil=True)
def _fill_half(lanes: np.ndarray, lane: int, rows: np.ndarray, start: int, stop: int) -> None:
    """Samples `start` to `stop` of eight rows from the beginning of the lanes on, zeros elsewhere."""
    size = rows.shape[1]
    flat = rows.reshape(-1)
    starts = np.arange(LANES) * size
    zero = splat(np.float32(0.0), 8)
    first = max(0, -start)
    for n in range(first):
        store(lanes, n * 16 + lane, zero)
    whole = first + (stop - start - first) // 8 * 8
    for n in range(first, whole, 8):
        load_columns(flat, starts, start + n, lanes, (n * 16 + lane, 16))
    for n in range(whole, stop - start):
        for b in range(LANES):
            lanes[n * 16 + lane + b] = rows[b, start + n]
    for n in range(stop - start, FFT_SIZE):
        store(lanes, n * 16 + lane, zero)


@njit(cache=True, nogil=True)
def _fft(re: np.ndarray, im: np.ndarray, twiddles: np.ndarray) -> None:
    """In-place complex FFT of 16 lanes, decimation in frequency; the output order is `_frequencies`."""
    quarter = FFT_SIZE // 4
    _stage(re, im, twiddles, 0, FFT_SIZE, 0, FFT_SIZE)
    # From here on each quarter is finished before the next, so that it stays in cache.
    for base in range(0, FFT_SIZE, quarter):
        table, length = quarter, quarter
        while length >= 4:
            _stage(re, im, twiddles, base, quarter, table, length)
            table += length // 4
            length //= 4
        if length == 2:
            for n in range(base * 16, (base + quarter) * 16, 32):
                a, b, c, d = load(re, n, 16), load(re, n + 16, 16), load(im, n, 16), load(im, n + 16, 16)
                store(re, n, a + b)
                store(re, n + 16, a - b)
                store(im, n, c + d)
                store(im, n + 16, c - d)


@njit(cache=True, nogil=True)
def _stage(
    re: np.ndarray, im: np.ndarray, twiddles: np.ndarray, base: int, span: int, table: int, length: int
) -> None:
    """One radix-4 stage over ``[base, base + span)`` in groups of `length`."""
    quarter = length // 4
    step = quarter * 16
    for group in range(base, base + span, length):
        for k in range(quarter):
            at = (table + k) * 6
            w1r, w1i = splat(twiddles[at], 16), splat(twiddles[at + 1], 16)
            w2r, w2i = splat(twiddles[at + 2], 16), splat(twiddles[at + 3], 16)
            w3r, w3i = splat(twiddles[at + 4], 16), splat(twiddles[at + 5], 16)
            n = (group + k) * 16
            ar, br, cr, dr = load(re, n, 16), load(re, n + step, 16), load(re, n + 2 * step, 16), load(re, n + 3 * step, 16)
            ai, bi, ci, di = load(im, n, 16), load(im, n + step, 16), load(im, n + 2 * step, 16), load(im, n + 3 * step, 16)
            er, ei, fr, fi = ar + cr, ai + ci, ar - cr, ai - ci
            gr, gi, hr, hi = br + dr, bi + di, br - dr, bi - di
            store(re, n, er + gr)
            store(im, n, ei + gi)
            ur, ui = fr + hi, fi - hr  # f - j h
            store(re, n + step, ur * w1r - ui * w1i)
            store(im, n + step, fma(ur, w1i, ui * w1r))
            ur, ui = er - gr, ei - gi
            store(re, n + 2 * step, ur * w2r - ui * w2i)
            store(im, n + 2 * step, fma(ur, w2i, ui * w2r))
            ur, ui = fr - hi, fi + hr  # f + j h
            store(re, n + 3 * step, ur * w3r - ui * w3i)
            store(im, n + 3 * step, fma(ur, w3i, ui * w3r))
