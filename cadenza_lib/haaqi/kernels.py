"""The ear model's inner loops: eight bands of the filter bank side by side, one signal at a time.

Each kernel runs over time in short tiles, so that what it passes from one stage to the next stays in the first-level
cache, and releases the GIL. Arithmetic is float64. The two signals that have to wait for a decision about the whole
signal, the compressed envelope and basilar-membrane (BM) motion, are stored as float32 ``(band, time)``; that rounding
moves a score by 1e-11 to 3e-9.
"""

import numpy as np

from cadenza_lib.core.compiled import compiled
from cadenza_lib.haaqi.simd import (
    exp2,
    fma,
    load,
    load_columns,
    log2,
    maximum,
    minimum,
    splat,
    sqrt,
    store,
    store_columns,
)

__all__ = ["DB_PER_OCTAVE", "HOP", "LANES", "SMALL", "compress", "control_power", "middle_ear", "neural", "shift_rows"]

LANES = 8  # bands side by side: one AVX-512 register of float64
TILE = 192  # samples between stages; two hops of the envelope smoothing
HOP = 96  # samples between smoothed envelope values, 4 ms at 24 kHz
SMALL = 1e-30  # Kates' guard against log(0) and 0/0
DB_PER_OCTAVE = 20.0 * np.log10(2.0)  # of amplitude

# Exact zeros in the input make the filters' tails sink into denormal numbers, which some processors handle a hundred
# times more slowly. This much direct current, 2800 dB down, keeps them out and is lost in every later sum.
TINY = 1e-140


@compiled
def middle_ear(signal: np.ndarray, low: np.ndarray, high: np.ndarray, out: np.ndarray) -> None:
    """One-pole low-pass (b0, b1, a1) and two-pole high-pass (b0, b1, b2, a1, a2), one after the other."""
    x1 = y1 = y2 = z1 = z2 = 0.0
    for n in range(len(signal)):
        x = signal[n]
        y = low[0] * x + low[1] * x1 - low[2] * y1
        z = high[0] * y + high[1] * y1 + high[2] * y2 - high[3] * z1 - high[4] * z2
        out[n] = z + TINY
        x1, y2, y1, z2, z1 = x, y1, y, z1, z


@compiled
def control_power(signal: np.ndarray, control: np.ndarray, cosine: np.ndarray, sine: np.ndarray) -> np.ndarray:
    """Return the sum over time of the squared control envelope.

    `control` is (pole, first and second numerator coefficient, gain) x lane, `cosine` and `sine` the carrier's step.
    The gammatone filter is the signal shifted down by the centre frequency, four equal one-pole low-passes and a
    short numerator: 1 + 4 a z^-1 + 4 a^2 z^-2 over (1 - a z^-1)^4.
    """
    pole, b1, b2 = load(control, 0, LANES), load(control, LANES, LANES), load(control, 2 * LANES, LANES)
    step_c, step_s = load(cosine, 0, LANES), load(sine, 0, LANES)
    zero = splat(0.0, LANES)
    c, s = splat(1.0, LANES), zero
    r1 = r2 = r3 = r4 = i1 = i2 = i3 = i4 = zero
    r5 = r6 = i5 = i6 = zero  # the last stage one and two samples ago
    energy = zero
    for n in range(len(signal)):
        x = splat(signal[n], LANES)
        r6, r5, i6, i5 = r5, r4, i5, i4
        r1, i1 = fma(pole, r1, x * c), fma(pole, i1, x * s)
        r2, i2 = fma(pole, r2, r1), fma(pole, i2, i1)
        r3, i3 = fma(pole, r3, r2), fma(pole, i3, i2)
        r4, i4 = fma(pole, r4, r3), fma(pole, i4, i3)
        real = fma(b2, r6, fma(b1, r5, r4))
        imag = fma(b2, i6, fma(b1, i5, i4))
        energy = fma(real, real, fma(imag, imag, energy))
        c, s = c * step_c + s * step_s, s * step_c - c * step_s
    out = np.empty(LANES)
    gain = load(control, 3 * LANES, LANES)
    store(out, 0, energy * gain * gain)
    return out


@compiled
def compress(
    signal: np.ndarray,
    control: np.ndarray,
    band: np.ndarray,
    cosine: np.ndarray,
    sine: np.ndarray,
    compression: np.ndarray,
    lowpass: np.ndarray,
    envelope: np.ndarray,
    motion: np.ndarray,
) -> np.ndarray:
    """Filter with the control and the adjusted filter and compress; fill `envelope` and `motion`, both (band, time).

    With fewer bands than lanes, lanes repeat the bands, and write the same numbers to the same place.

    `control` and `band` are as in `control_power`; `compression` is (lowest power, highest power, exponent,
    binary logarithm of the gain at power one) x lane; `lowpass` the gain smoother's (b, a1). Returns sums over
    time of squares, (3, lane): the envelope before compression, the envelope and the motion after it.
    """
    pole, b1, b2 = load(band, 0, LANES), load(band, LANES, LANES), load(band, 2 * LANES, LANES)
    c_pole, c_b1, c_b2 = load(control, 0, LANES), load(control, LANES, LANES), load(control, 2 * LANES, LANES)
    c_gain = load(control, 3 * LANES, LANES)
    c_gain = c_gain * c_gain
    gain = load(band, 3 * LANES, LANES)
    lowest, highest = load(compression, 0, LANES), load(compression, LANES, LANES)
    exponent, offset = load(compression, 2 * LANES, LANES), load(compression, 3 * LANES, LANES)
    step_c, step_s = load(cosine, 0, LANES), load(sine, 0, LANES)
    smooth_b, smooth_a = splat(lowpass[0], LANES), splat(lowpass[1], LANES)
    zero = splat(0.0, LANES)
    c, s = splat(1.0, LANES), zero
    r1 = r2 = r3 = r4 = r5 = r6 = i1 = i2 = i3 = i4 = i5 = i6 = zero
    p1 = p2 = p3 = p4 = p5 = p6 = q1 = q2 = q3 = q4 = q5 = q6 = zero  # the same for the control filter
    energy = energy_e = energy_m = last = smoothed = zero
    power = np.empty(TILE * LANES)
    square = np.empty(TILE * LANES)
    moved = np.empty(TILE * LANES)
    size = len(signal)
    flat_e, flat_m = envelope.reshape(-1), motion.reshape(-1)
    bands = envelope.shape[0]
    starts = np.arange(LANES) % bands * size
    for start in range(0, size, TILE):
        count = min(TILE, size - start)
        for t in range(count):
            x = splat(signal[start + t], LANES)
            re, im = x * c, x * s
            p6, p5, q6, q5 = p5, p4, q5, q4
            p1, q1 = fma(c_pole, p1, re), fma(c_pole, q1, im)
            p2, q2 = fma(c_pole, p2, p1), fma(c_pole, q2, q1)
            p3, q3 = fma(c_pole, p3, p2), fma(c_pole, q3, q2)
            p4, q4 = fma(c_pole, p4, p3), fma(c_pole, q4, q3)
            real, imag = fma(c_b2, p6, fma(c_b1, p5, p4)), fma(c_b2, q6, fma(c_b1, q5, q4))
            store(power, t * LANES, c_gain * fma(real, real, imag * imag))
            r6, r5, i6, i5 = r5, r4, i5, i4
            r1, i1 = fma(pole, r1, re), fma(pole, i1, im)
            r2, i2 = fma(pole, r2, r1), fma(pole, i2, i1)
            r3, i3 = fma(pole, r3, r2), fma(pole, i3, i2)
            r4, i4 = fma(pole, r4, r3), fma(pole, i4, i3)
            real, imag = fma(b2, r6, fma(b1, r5, r4)), fma(b2, i6, fma(b1, i5, i4))
            store(square, t * LANES, fma(real, real, imag * imag))
            store(moved, t * LANES, fma(real, c, imag * s))
            c, s = c * step_c + s * step_s, s * step_c - c * step_s
        for t in range(count):
            level = log2(minimum(maximum(load(power, t * LANES, LANES), lowest), highest))
            store(power, t * LANES, exp2(fma(exponent, level, offset)))
        for t in range(count):
            raw = load(power, t * LANES, LANES)
            smoothed = fma(smooth_a, smoothed, smooth_b * (raw + last))
            last = raw
            applied = smoothed * gain
            magnitude = load(square, t * LANES, LANES)
            energy = energy + magnitude
            value = applied * load(moved, t * LANES, LANES)
            energy_m = fma(value, value, energy_m)
            store(moved, t * LANES, value)
            value = applied * sqrt(magnitude)
            energy_e = fma(value, value, energy_e)
            store(square, t * LANES, value)
        whole = count // 8 * 8
        for t in range(0, whole, 8):
            store_columns(square, t * LANES, flat_e, starts, start + t)
            store_columns(moved, t * LANES, flat_m, starts, start + t)
        for t in range(whole, count):
            for b in range(LANES):
                envelope[b % bands, start + t] = square[t * LANES + b]
                motion[b % bands, start + t] = moved[t * LANES + b]
    out = np.empty((3, LANES))
    store(out[0], 0, energy * gain * gain)
    store(out[1], 0, energy_e)
    store(out[2], 0, energy_m)
    return out


@compiled
def shift_rows(rows: np.ndarray, delays: np.ndarray) -> None:
    """Move each row `delays` samples towards its start (or its end, if negative) in place; zeros come in."""
    size = rows.shape[1]
    for b in range(rows.shape[0]):
        row, delay = rows[b], delays[b]
        if delay > 0:
            for n in range(size - delay):
                row[n] = row[n + delay]
            row[max(size - delay, 0) :] = 0.0
        elif delay < 0:
            for n in range(size - 1, -delay - 1, -1):
                row[n] = row[n + delay]
            row[: min(-delay, size)] = 0.0


@compiled
def neural(
    envelope: np.ndarray,
    motion: np.ndarray,
    level: np.ndarray,
    adaptation: np.ndarray,
    late: np.ndarray,
    window: np.ndarray,
    rising: np.ndarray,
    falling: np.ndarray,
) -> None:
    """Turn the envelope into dB SL, adapt and smooth it as inner hair cells do; scale `motion` alike, in place.

    `level` is the dB SL of unit amplitude x lane, `adaptation` the voltage update (A11, A12, B1, A21, A22, B2, 1/R1),
    `late` the samples by which each band waits for the slowest one. `rising` and `falling`, (lane, half segment),
    receive the sums of the adapted envelope times the first and second half of the smoothing `window`.
    """
    reference_level = load(level, 0, LANES)
    a11, a12, b1 = splat(adaptation[0], LANES), splat(adaptation[1], LANES), splat(adaptation[2], LANES)
    a21, a22, b2 = splat(adaptation[3], LANES), splat(adaptation[4], LANES), splat(adaptation[5], LANES)
    inverse_r1 = splat(adaptation[6], LANES)
    zero, small, octave = splat(0.0, LANES), splat(SMALL, LANES), splat(DB_PER_OCTAVE, LANES)
    v1 = v2 = zero
    tile = np.zeros(HOP * LANES)
    adapted = np.zeros(HOP * LANES)
    moved = np.zeros(HOP * LANES)
    sums = np.empty(LANES)
    size = envelope.shape[1]
    flat_e, flat_m = envelope.reshape(-1), motion.reshape(-1)
    bands = envelope.shape[0]
    starts = np.arange(LANES) % bands * size - late
    latest = late.max()
    for half in range(size // HOP + 1):
        start = half * HOP
        count = min(HOP, size - start)
        ordinary = start >= latest and count == HOP  # no zeros before the beginning, no incomplete tile
        if ordinary:
            for t in range(0, HOP, 8):
                load_columns(flat_e, starts, start + t, tile, (t * LANES, LANES))
                load_columns(flat_m, starts, start + t, moved, (t * LANES, LANES))
        else:
            for b in range(LANES):
                for t in range(count):
                    n = start + t - late[b]
                    tile[t * LANES + b] = envelope[b % bands, n] if n >= 0 else 0.0
                    moved[t * LANES + b] = motion[b % bands, n] if n >= 0 else 0.0
        for t in range(count):
            amplitude = load(tile, t * LANES, LANES) + small
            store(tile, t * LANES, amplitude)
            store(adapted, t * LANES, maximum(fma(octave, log2(amplitude), reference_level), zero))
        for t in range(count):
            v0 = load(adapted, t * LANES, LANES)
            v1, v2 = fma(b1, v0, fma(a11, v1, a12 * v2)), fma(b2, v0, fma(a21, v1, a22 * v2))
            store(adapted, t * LANES, maximum((v0 - v1) * inverse_r1, zero))
        rise = fall = zero
        for t in range(count):
            out = load(adapted, t * LANES, LANES)
            rise = fma(out, splat(window[t], LANES), rise)
            fall = fma(out, splat(window[HOP + t], LANES), fall)
            gain = (out + small) / load(tile, t * LANES, LANES)
            store(moved, t * LANES, gain * load(moved, t * LANES, LANES))
        if ordinary:
            for t in range(0, HOP, 8):
                store_columns(moved, t * LANES, flat_m, starts, start + t)
        else:
            for b in range(LANES):
                for t in range(max(0, late[b] - start), count):
                    motion[b % bands, start + t - late[b]] = moved[t * LANES + b]
        if count == HOP:
            store(sums, 0, rise)
            for b in range(LANES):
                rising[b, half] = sums[b]
            store(sums, 0, fall)
            for b in range(LANES):
                falling[b, half] = sums[b]
