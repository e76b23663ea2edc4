"""Cross-correlations of eight bands of two signals within 100 ms either way, by float32 FFTs block by block.

Eight bands of the reference and of the processed signal lie side by side in sixteen lanes; envelope and
basilar-membrane (BM) motion are the real and imaginary part of one complex signal. A block of the processed signal is
padded with zeros and meets a block of the reference that is longer by the lags at either end (overlap-save), so that
the cross-spectra of all blocks add up and one inverse FFT is enough.
"""

from functools import cache

import numpy as np
from scipy import fft

from cadenza_lib.core.compiled import compiled
from cadenza_lib.haaqi.kernels import LANES
from cadenza_lib.haaqi.simd import fma, load, load_columns, splat, store

__all__ = ["SEARCH", "correlations"]

FFT_SIZE = 8192  # with 16 lanes of complex float32 1 MB, the second-level cache of one core
SEARCH = 2400  # samples either way, 100 ms at 24 kHz
BLOCK = FFT_SIZE - 2 * SEARCH


def correlations(x_env: np.ndarray, y_env: np.ndarray, x_bm: np.ndarray, y_bm: np.ndarray) -> np.ndarray:
    """Correlate at lags -SEARCH ... SEARCH: (lane, lag), envelopes in the real and BM motion in the imaginary part."""
    twiddles, here, there, frequencies = _plan()
    sums = np.zeros((4, len(here) * LANES), np.float32)
    _cross_spectra(x_env, y_env, x_bm, y_bm, twiddles, here, there, sums)
    packed = np.empty((LANES, FFT_SIZE), np.complex64)
    _pack(sums, frequencies, packed)
    return fft.ifft(packed, overwrite_x=True)[:, : 2 * SEARCH + 1]


@compiled
def _pack(sums: np.ndarray, frequencies: np.ndarray, packed: np.ndarray) -> None:
    """Write the spectrum of (envelope correlation) + j (BM correlation) from the cross-spectra at f = 0 ... half."""
    quarter = np.float32(0.25)  # the two halves of the packed spectra were not divided by two
    for k in range(len(frequencies)):
        f = frequencies[k]
        mirror = (FFT_SIZE - f) % FFT_SIZE
        for b in range(LANES):
            at = k * LANES + b
            er, ei, mr, mi = sums[0, at], sums[1, at], sums[2, at], sums[3, at]
            packed[b, f] = complex(quarter * (er - mi), quarter * (ei + mr))
            packed[b, mirror] = complex(quarter * (er + mi), quarter * (mr - ei))


def _frequencies() -> np.ndarray:
    """Return the frequency that the in-place FFT leaves at each position: radix 4 until 2 are left, then radix 2."""

    def positions(first: int, step: int, size: int) -> np.ndarray:
        radix = 4 if size >= 4 else size
        if radix <= 1:
            return np.array([first])
        return np.concatenate([positions(first + q * step, step * radix, size // radix) for q in range(radix)])

    return positions(0, 1, FFT_SIZE)


@cache
def _plan() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return twiddle factors, the positions of frequencies f and -f for f = 0 ... half in some order, and these f."""
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
    return np.concatenate(rows).astype(np.float32).ravel(), here, there, frequencies[here]


@compiled
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
    size = x_env.shape[1]
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


@compiled
def _fill(lanes: np.ndarray, x: np.ndarray, y: np.ndarray, start: int) -> None:
    """Fill lanes 0-7 with `x`, `SEARCH` longer at both ends than the block, and lanes 8-15 with the block of `y`."""
    _fill_half(lanes, 0, x, start - SEARCH, min(start + BLOCK + SEARCH, x.shape[1]))
    _fill_half(lanes, 8, y, start, min(start + BLOCK, x.shape[1]))


@compiled
def _fill_half(lanes: np.ndarray, lane: int, rows: np.ndarray, start: int, stop: int) -> None:
    """Put samples `start` to `stop` of the rows from the beginning of eight lanes on, zeros elsewhere."""
    size = rows.shape[1]
    flat = rows.reshape(-1)
    starts = np.arange(LANES) % len(rows) * size
    zero = splat(np.float32(0.0), 8)
    first = max(0, -start)
    for n in range(first):
        store(lanes, n * 16 + lane, zero)
    whole = first + (stop - start - first) // 8 * 8
    for n in range(first, whole, 8):
        load_columns(flat, starts, start + n, lanes, (n * 16 + lane, 16))
    for n in range(whole, stop - start):
        for b in range(LANES):
            lanes[n * 16 + lane + b] = rows[b % len(rows), start + n]
    for n in range(stop - start, FFT_SIZE):
        store(lanes, n * 16 + lane, zero)


@compiled
def _fft(re: np.ndarray, im: np.ndarray, twiddles: np.ndarray) -> None:
    """In-place complex FFT of 16 lanes, decimation in frequency; the output order is `_frequencies`."""
    # The table of a stage of length L begins at FFT_SIZE / 4 + ... = (FFT_SIZE - L) / 3. Each part is finished before
    # the next, so that it stays in cache: 8192 points in the second level, 2048 and 512 points; 128 in the first.
    _stage(re, im, twiddles, 0, FFT_SIZE, 0, FFT_SIZE)
    for quarter in range(0, FFT_SIZE, 2048):
        _stage(re, im, twiddles, quarter, 2048, (FFT_SIZE - 2048) // 3, 2048)
        for part in range(quarter, quarter + 2048, 512):
            _stage(re, im, twiddles, part, 512, (FFT_SIZE - 512) // 3, 512)
            for base in range(part, part + 512, 128):
                _stage(re, im, twiddles, base, 128, (FFT_SIZE - 128) // 3, 128)
                _stage(re, im, twiddles, base, 128, (FFT_SIZE - 32) // 3, 32)
                for n in range(base * 16, (base + 128) * 16, 8 * 16):
                    _eight(re, im, n)


@compiled
def _stage(re: np.ndarray, im: np.ndarray, twiddles: np.ndarray, base: int, span: int, table: int, length: int) -> None:
    """One radix-4 stage over ``[base, base + span)`` in groups of `length`."""
    quarter = length // 4
    step = quarter * 16
    for group in range(base, base + span, length):
        for k in range(quarter):
            at = (table + k) * 6
            n = (group + k) * 16
            a, b, c, d = _butterfly(
                load(re, n, 16), load(im, n, 16), load(re, n + step, 16), load(im, n + step, 16),
                load(re, n + 2 * step, 16), load(im, n + 2 * step, 16),
                load(re, n + 3 * step, 16), load(im, n + 3 * step, 16),
            )  # fmt: skip
            store(re, n, a[0])
            store(im, n, a[1])
            _store_product(re, im, n + step, b, splat(twiddles[at], 16), splat(twiddles[at + 1], 16))
            _store_product(re, im, n + 2 * step, c, splat(twiddles[at + 2], 16), splat(twiddles[at + 3], 16))
            _store_product(re, im, n + 3 * step, d, splat(twiddles[at + 4], 16), splat(twiddles[at + 5], 16))


@compiled
def _butterfly(ar, ai, br, bi, cr, ci, dr, di):  # type: ignore[no-untyped-def]
    """Return the four-point DFT of a, b, c, d."""
    er, ei, fr, fi = ar + cr, ai + ci, ar - cr, ai - ci
    gr, gi, hr, hi = br + dr, bi + di, br - dr, bi - di
    return (er + gr, ei + gi), (fr + hi, fi - hr), (er - gr, ei - gi), (fr - hi, fi + hr)


@compiled
def _store_product(re, im, n, value, wr, wi):  # type: ignore[no-untyped-def]
    store(re, n, value[0] * wr - value[1] * wi)
    store(im, n, fma(value[0], wi, value[1] * wr))


@compiled
def _eight(re: np.ndarray, im: np.ndarray, n: int) -> None:
    """Eight-point DFT, the last two stages in registers."""
    root = splat(np.float32(np.sqrt(0.5)), 16)
    a, b, c, d = _butterfly(
        load(re, n, 16), load(im, n, 16), load(re, n + 32, 16), load(im, n + 32, 16),
        load(re, n + 64, 16), load(im, n + 64, 16), load(re, n + 96, 16), load(im, n + 96, 16),
    )  # fmt: skip
    e, f, g, h = _butterfly(
        load(re, n + 16, 16), load(im, n + 16, 16), load(re, n + 48, 16), load(im, n + 48, 16),
        load(re, n + 80, 16), load(im, n + 80, 16), load(re, n + 112, 16), load(im, n + 112, 16),
    )  # fmt: skip
    # Twiddle factors (1 - j) / sqrt(2), -j and -(1 + j) / sqrt(2).
    f = ((f[0] + f[1]) * root, (f[1] - f[0]) * root)
    minus_h = ((h[0] - h[1]) * root, (h[0] + h[1]) * root)
    _store_pair(re, im, n, a, e)
    _store_pair(re, im, n + 32, b, f)
    store(re, n + 64, c[0] + g[1])
    store(im, n + 64, c[1] - g[0])
    store(re, n + 80, c[0] - g[1])
    store(im, n + 80, c[1] + g[0])
    store(re, n + 96, d[0] - minus_h[0])
    store(im, n + 96, d[1] - minus_h[1])
    store(re, n + 112, d[0] + minus_h[0])
    store(im, n + 112, d[1] + minus_h[1])


@compiled
def _store_pair(re, im, n, a, b):  # type: ignore[no-untyped-def]
    store(re, n, a[0] + b[0])
    store(im, n, a[1] + b[1])
    store(re, n + 16, a[0] - b[0])
    store(im, n + 16, a[1] - b[1])
