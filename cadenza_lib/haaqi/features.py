"""What HAAQI compares: envelope modulations, fine structure, and long-term spectrum.

Kates and Arehart 2016, section III. All functions take 32 bands at once; the large arrays are in `kernels`.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy import signal as dsp

from cadenza_lib.haaqi import covariance as segment_kernels
from cadenza_lib.haaqi.covariance import MAX_LAG
from cadenza_lib.haaqi.ear import BANDS, SAMPLE_RATE, centre_frequencies
from cadenza_lib.haaqi.kernels import HOP, SMALL

__all__ = [
    "Cepstra", "Segments", "audible_segments", "cepstra", "cepstral_basis", "cepstral_correlation", "covariance",
    "envelope_count", "envelope_window", "fine_structure_similarity", "modulation_filters", "phase_locking",
    "segment_count", "segment_level", "segment_power", "segments", "smooth_envelope", "spectral_differences",
]  # fmt: skip

Floats = NDArray[np.float64]

SILENCE_DB_SL = 2.5  # segments and tiles below this are left out
SEGMENT = 384  # samples of a BM segment, 16 ms
MODULATION_EDGES_HZ = (20.0, 32.0, 50.0, 80.0)  # lower edges of the four highest of eight modulation bands
MODULATION_TAPS = 129  # of the modulation filters
CEPSTRAL_COEFFICIENTS = 6  # the first one, the average, is not used
SYNC_CUTOFF_HZ, SYNC_ORDER = 3500.0, 5  # loss of the neurons' phase locking, Johnson 1980


# Envelope modulations.


@cache
def envelope_window() -> Floats:
    """Return a raised cosine over 8 ms."""
    return np.hanning(2 * HOP)


def envelope_count(size: int) -> int:
    """Return the number of envelope averages of a signal of `size` samples."""
    return 1 + size // (2 * HOP) + (size - HOP) // (2 * HOP)


def smooth_envelope(rising: Floats, falling: Floats, size: int) -> Floats:
    """Return envelope averages every 4 ms from the windowed sums over half segments: (band, segment).

    The first and the last average are over half a window. As in pyclarity the second one starts at 4 ms rather than 0.
    """
    window, count = envelope_window(), envelope_count(size)
    smooth = np.empty((rising.shape[0], count))
    smooth[:, 0] = falling[:, 0] / window[HOP:].sum()
    smooth[:, 1:-1] = (rising[:, 1 : count - 1] + falling[:, 2:count]) / window.sum()
    smooth[:, -1] = rising[:, count - 1] / window[HOP:].sum()
    return smooth


def audible_segments(levels_db_sl: Floats) -> NDArray[np.int64]:
    """Return the segments whose loudness, averaged over bands, is above the silence threshold."""
    loudness = 20.0 * np.log10(np.sum(10.0 ** (levels_db_sl / 20.0), axis=0) / len(levels_db_sl))
    return np.flatnonzero(loudness > SILENCE_DB_SL)


@dataclass
class Cepstra:
    """Modulation-filtered mel cepstrum, (coefficient, modulation band, segment), and its energy."""

    filtered: Floats
    energy: Floats  # (coefficient, modulation band)


@cache
def cepstral_basis() -> Floats:
    """Return cosines over the bands, of unit norm, without the constant: (coefficient, band)."""
    basis = np.cos(np.outer(np.arange(1, CEPSTRAL_COEFFICIENTS), np.arange(BANDS)) * np.pi / (BANDS - 1))
    return basis / np.linalg.norm(basis, axis=1, keepdims=True)


@cache
def modulation_filters() -> Floats:
    """Return linear-phase FIR filters at the envelope rate of 250 Hz: (modulation band, tap)."""
    rate = SAMPLE_RATE / HOP
    bands = [
        dsp.firwin(MODULATION_TAPS, edges, window="hann", pass_zero="bandpass", fs=rate)
        for edges in pairwise(MODULATION_EDGES_HZ)
    ]
    high = dsp.firwin(MODULATION_TAPS, MODULATION_EDGES_HZ[-1], window="hann", pass_zero="highpass", fs=rate)
    return np.stack([*bands, high])


def cepstra(smooth: Floats, audible: NDArray[np.int64]) -> Cepstra:
    """Return the mel cepstrum of the audible segments through the four modulation filters from 20 to 125 Hz."""
    coefficients = cepstral_basis() @ smooth[:, audible]
    coefficients -= coefficients.mean(axis=1, keepdims=True)
    size = len(audible)
    padded = fft.next_fast_len(size + MODULATION_TAPS - 1, real=True)
    spectrum = fft.rfft(coefficients, padded)[:, np.newaxis] * fft.rfft(modulation_filters(), padded)
    delay = MODULATION_TAPS // 2
    filtered = fft.irfft(spectrum, padded)[:, :, delay : delay + size]
    filtered = filtered - filtered.mean(axis=2, keepdims=True)
    return Cepstra(filtered, np.sum(filtered**2, axis=2))


def cepstral_correlation(x: Cepstra, y: Cepstra) -> float:
    """Return the correlation of the modulations, averaged over coefficients and modulation bands."""
    audible = (x.energy >= SMALL) & (y.energy >= SMALL)
    products = np.abs(np.einsum("cms,cms->cm", x.filtered, y.filtered))
    scale = np.sqrt(np.where(audible, x.energy * y.energy, 1.0))
    return float(np.mean(np.where(audible, products / scale, 0.0)))


# Temporal fine structure.


@dataclass(frozen=True)
class Segments:
    """Windows of the BM segments and what undoes them."""

    window: Floats  # (sample,)
    norms: Floats  # one over the power of the window and of its half
    unbias: Floats  # (lag,), one over the window's autocorrelation
    unbias_half: Floats


@cache
def segments() -> Segments:
    """Return a raised cosine over 16 ms; the first and the last segment of a signal have half of it."""

    def unbias(window: Floats) -> Floats:
        middle = len(window) - 1
        return 1.0 / dsp.correlate(window, window, "full")[middle - MAX_LAG : middle + MAX_LAG + 1]

    window = np.hanning(SEGMENT)
    half = window[SEGMENT // 2 :]
    norms = np.array([1.0 / np.sum(window**2), 1.0 / np.sum(half**2)])
    return Segments(window, norms, unbias(window), unbias(half))


def segment_count(size: int) -> int:
    """Return the number of BM segments of a signal of `size` samples."""
    return 1 + size // SEGMENT + (size - SEGMENT // 2) // SEGMENT


def segment_power(motion: NDArray[np.float32], late: NDArray[np.int64]) -> Floats:
    """Return the mean square of each windowed segment of `motion`, (band, time): (band, segment)."""
    shape = segments()
    power = np.empty((len(motion), segment_count(motion.shape[1])))
    for row, delay, out in zip(motion, late, power, strict=True):
        segment_kernels.tile_power(row, delay, shape.window, shape.norms, out)
    return power


def segment_level(power: Floats) -> Floats:
    """Return the level of segments of the given mean square: their envelope's amplitude, which is in dB SL already."""
    return np.sqrt(2.0 * power)


def covariance(
    x: NDArray[np.float32], y: NDArray[np.float32], late: NDArray[np.int64], audible: NDArray[np.bool_]
) -> Floats:
    """Return the largest normalised cross-covariance of `x` and `y`, (band, time), by `audible` (band, segment)."""
    shape = segments()
    out = np.zeros(audible.shape)
    for b in range(len(x)):
        segment_kernels.covariances(
            x[b], y[b], late[b], shape.window, shape.norms, shape.unbias, shape.unbias_half, audible[b], out[b]
        )
    return out


def phase_locking() -> Floats:
    """Return how well neurons follow each band's frequency: (band,)."""
    return np.sqrt(1.0 / (1.0 + (centre_frequencies() / SYNC_CUTOFF_HZ) ** (2 * SYNC_ORDER)))


def fine_structure_similarity(covariances: Floats, levels: Floats) -> float:
    """Return the average covariance of the audible tiles, weighted by how well neurons follow the band's frequency."""
    kept = audible_segments(levels)
    if len(kept) <= 1:
        return 0.0
    weights = phase_locking()[:, np.newaxis] * (levels[:, kept] > SILENCE_DB_SL)
    return float(np.sum(weights * covariances[:, kept]) / np.sum(weights))


# Long-term spectrum.


def spectral_differences(x_db_sl: Floats, y_db_sl: Floats) -> tuple[float, float]:
    """Return the standard deviation over bands of the difference in specific loudness, and of it re their sum."""
    x, y = 10.0 ** (x_db_sl / 20.0), 10.0 ** (y_db_sl / 20.0)
    x, y = x / x.sum(), y / y.sum()
    return float(BANDS * np.std(x - y)), float(BANDS * np.std((x - y) / (x + y)))
