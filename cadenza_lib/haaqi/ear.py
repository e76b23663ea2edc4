"""Kates' model of the impaired ear: what its stages are made of, and one group of bands through all of them.

The order is that of the signal: resampling to 24 kHz, NAL-R for the reference, middle ear, gammatone filter bank whose
bandwidths follow loss and level, outer-hair-cell compression, alignment, dB SL, inner-hair-cell adaptation, noise,
and compensation of the filter bank's group delay. Numbers without another source are from the reference
implementation in pyclarity, which is a translation of Kates' MATLAB code.

Kates, "An auditory model for intelligibility and quality predictions", Proc. Meetings on Acoustics 19, 050184, 2013,
doi:10.1121/1.4799223. Kates and Arehart 2016: see the package docstring.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from clarity.enhancer.nalr import NALR
from clarity.utils.audiogram import Audiogram
from numpy.typing import NDArray
from scipy import signal as dsp

from cadenza_lib.haaqi import kernels
from cadenza_lib.haaqi.kernels import HOP, LANES

__all__ = [
    "AUDIOGRAM_FREQUENCIES", "BANDS", "SAMPLE_RATE", "Ear", "adaptation", "adjusted_bandwidth",
    "centre_frequencies", "control_bandwidth", "control_rms", "filter_bands", "group_delays", "level_filter",
    "middle_ear", "middle_ear_filters", "nal_r", "nal_r_filter", "noise_gain", "resample",
    "to_neural",
]  # fmt: skip

Floats = NDArray[np.float64]
Bands = slice | NDArray[np.int64]  # those of the eight lanes; repeated in `rows` that have fewer, see `comparison`

SAMPLE_RATE = 24000  # Hz; the filters below are designed for it
BANDS = 32
AUDIOGRAM_FREQUENCIES = np.array([250, 500, 1000, 2000, 4000, 6000])  # Hz

LOWEST_CENTRE, HIGHEST_CENTRE = 80.0, 8000.0  # Hz
EAR_Q, MINIMUM_BANDWIDTH = 9.26449, 24.7  # ERB = 24.7 Hz + f / 9.26449, Glasberg and Moore 1990
ERB_TO_GAMMATONE = 1.019  # bandwidth parameter of a fourth-order gammatone filter, Patterson et al. 1987

KNEE_DB_SPL, LINEAR_ABOVE_DB_SPL = 30.0, 100.0  # compression begins and ends here in a normal ear
LOWEST_RATIO, HIGHEST_RATIO = 1.25, 3.5  # compression ratio at 80 Hz and at 8 kHz in a normal ear
OHC_SHARE = 0.8  # of a loss is outer hair cells, until these are all lost; Moore et al. 1999
CONTROL_LOSS_DB_HL = 100.0  # the control filters are as wide as this loss makes them
WIDENING_FROM_DB_SPL, WIDENING_TO_DB_SPL = 50.0, 100.0  # level range in which the filters widen
GAIN_SMOOTHING_HZ = 800.0  # low-pass of the compression gain: 0.2 ms
MIDDLE_EAR_LOW_PASS_HZ, MIDDLE_EAR_HIGH_PASS_HZ = 5000.0, 350.0
OVERSHOOT, RAPID_S, SHORT_TERM_S = 2.0, 0.002, 0.060  # inner-hair-cell adaptation
NOISE_DB_RE_THRESHOLD = -10.0
NAL_R_ORDER = 140  # at 24 kHz


# What an audiogram makes of the ear.


@cache
def centre_frequencies() -> Floats:
    """Return the centre frequencies in Hz, equally spaced in ERB number (Slaney 1993): (band,)."""
    corner = EAR_Q * MINIMUM_BANDWIDTH
    steps = np.arange(1, BANDS) * (np.log(LOWEST_CENTRE + corner) - np.log(HIGHEST_CENTRE + corner)) / (BANDS - 1)
    return np.concatenate(([HIGHEST_CENTRE], -corner + np.exp(steps) * (HIGHEST_CENTRE + corner)))[::-1].copy()


@dataclass(frozen=True)
class Ear:
    """Parameters of the 32 bands for one audiogram; every field is (band,)."""

    ohc_db: Floats  # attenuation by lost outer hair cells
    ihc_db: Floats  # attenuation by lost inner hair cells
    bandwidth: Floats  # re the normal ear's, for soft sounds
    knee_db_spl: Floats
    ratio: Floats  # compression ratio

    @classmethod
    def from_levels(cls, levels: Floats) -> "Ear":
        """Split the hearing loss `levels`, dB HL at `AUDIOGRAM_FREQUENCIES`, between outer and inner hair cells."""
        centres = centre_frequencies()
        loss = np.maximum(np.interp(centres, AUDIOGRAM_FREQUENCIES, levels), 0.0)
        normal = LOWEST_RATIO + (HIGHEST_RATIO - LOWEST_RATIO) * np.arange(BANDS) / (BANDS - 1)
        span = LINEAR_ABOVE_DB_SPL - KNEE_DB_SPL
        all_ohc_lost = span * (1.0 - 1.0 / normal) / OHC_SHARE  # loss that leaves no compression
        ohc = OHC_SHARE * np.minimum(loss, all_ohc_lost)
        ihc = (1.0 - OHC_SHARE) * np.minimum(loss, all_ohc_lost) + np.maximum(loss - all_ohc_lost, 0.0)
        knee = KNEE_DB_SPL + ohc
        ratio = (LINEAR_ABOVE_DB_SPL - knee) / (KNEE_DB_SPL + span / normal + ohc - knee)
        return cls(ohc, ihc, 1.0 + ohc / 50.0 + 2.0 * (ohc / 50.0) ** 6, knee, ratio)


@cache
def control_bandwidth() -> Floats:
    """Return the bandwidth of the control filters re the normal ear's: (band,)."""
    return Ear.from_levels(np.full(len(AUDIOGRAM_FREQUENCIES), CONTROL_LOSS_DB_HL)).bandwidth


# The signal before the filter bank: (time,) arrays.


def resample(signal: NDArray, sample_rate: float) -> Floats:
    """Resample to 24 kHz, from a rate rounded to whole kHz, and match the level below 10.5 kHz."""
    target, source = SAMPLE_RATE // 1000, int(np.round(sample_rate / 1000))
    if source == target:
        return np.asarray(signal, np.float64)
    resampled = dsp.resample_poly(signal, target, source)

    def in_band(x: NDArray, rate_khz: int) -> NDArray:
        return dsp.lfilter(*level_filter(rate_khz), x)

    before, after = (signal, resampled) if source < target else (in_band(signal, source), in_band(resampled, target))
    with np.errstate(invalid="ignore"):  # 0 / 0 in silence gives NaN, which the caller looks for
        gain = np.sqrt(np.mean(before**2)) / np.sqrt(np.mean(after**2))
    return np.asarray(gain * resampled, np.float64)


@cache
def level_filter(rate_khz: int) -> tuple[Floats, Floats]:
    """Return the numerator and denominator of a low-pass of seventh order, 30 dB down at 10.5 kHz."""
    b, a = dsp.cheby2(7, 30, 21.0 / rate_khz)
    return b, a


def nal_r_filter(levels: Floats) -> Floats:
    """Return the NAL-R prescription for `levels`: (tap,)."""
    fir, _ = NALR(NAL_R_ORDER, SAMPLE_RATE).build(Audiogram(levels=levels, frequencies=AUDIOGRAM_FREQUENCIES))
    return np.asarray(fir)


def nal_r(signal: Floats, levels: Floats) -> Floats:
    """Amplify by the NAL-R prescription for `levels`.

    As in pyclarity, 140 samples of the filter's output are dropped though its delay is 70: the result is 70 early.
    """
    return dsp.oaconvolve(signal, nal_r_filter(levels))[NAL_R_ORDER : NAL_R_ORDER + len(signal)]


@cache
def middle_ear_filters() -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Return the numerator and denominator of the low-pass and of the high-pass."""
    b1, a1 = dsp.butter(1, MIDDLE_EAR_LOW_PASS_HZ / (0.5 * SAMPLE_RATE))
    b2, a2 = dsp.butter(2, MIDDLE_EAR_HIGH_PASS_HZ / (0.5 * SAMPLE_RATE), "high")
    return (b1, a1), (b2, a2)


def middle_ear(signal: Floats) -> Floats:
    """Band-pass of the middle ear, roughly the equal-loudness contour at threshold."""
    out = np.empty(len(signal))
    low, high = (np.concatenate((b, a[1:])) for b, a in middle_ear_filters())
    kernels.middle_ear(np.ascontiguousarray(signal), low, high, out)
    return out


# The filter bank: eight bands at a time.


@dataclass
class Filtered:
    """Eight bands after compression, before alignment."""

    envelope: NDArray[np.float32]  # (band, time)
    motion: NDArray[np.float32]  # (band, time)
    energy: Floats  # (2, lane), of envelope and motion
    level_db_sl: Floats  # (lane,), long-term average after compression


def _gammatone(bandwidth: Floats, centre: Floats) -> Floats:
    """Return the pole, two numerator coefficients and gain of each filter: (4 * lane,)."""
    erb = MINIMUM_BANDWIDTH + centre / EAR_Q
    pole = np.exp(-2.0 * np.pi / SAMPLE_RATE * ERB_TO_GAMMATONE * bandwidth * erb)
    gain = 2.0 * (1.0 - pole) ** 4 / (1.0 + 4.0 * pole + 4.0 * pole**2)
    return np.concatenate((pole, 4.0 * pole, 4.0 * pole**2, gain))


def control_rms(signal: Floats, bands: Bands) -> Floats:
    """Return the RMS envelope of `signal`, (time,) after the middle ear, in eight wide control filters: (lane,)."""
    centre = centre_frequencies()[bands]
    power = kernels.control_power(signal, _gammatone(control_bandwidth()[bands], centre), *_carrier(centre))
    return np.sqrt(power / len(signal))


def _carrier(centre: Floats) -> tuple[Floats, Floats]:
    phase = 2.0 * np.pi / SAMPLE_RATE * centre
    return np.cos(phase), np.sin(phase)


def adjusted_bandwidth(control: Floats, ear: Ear, level1: float, bands: Bands) -> Floats:
    """Return the bandwidth re the normal ear's for signals with this RMS in the control filters: (lane,).

    It grows linearly in dB from the ear's own below 50 dB SPL to that of the control filter above 100.
    """
    with np.errstate(divide="ignore"):
        level = 20.0 * np.log10(control) + level1
    share = np.clip((level - WIDENING_FROM_DB_SPL) / (WIDENING_TO_DB_SPL - WIDENING_FROM_DB_SPL), 0.0, 1.0)
    return ear.bandwidth[bands] + share * (control_bandwidth()[bands] - ear.bandwidth[bands])


def filter_bands(
    signal: Floats, ear: Ear, level1: float, bands: Bands, control: Floats, rows: NDArray[np.float32]
) -> Filtered:
    """Filter `signal`, (time,) after the middle ear, with eight bands and compress their output.

    `control` is what `control_rms` returns for these bands; `rows`, (2, band, time), becomes envelope and motion.
    """
    centre, size = centre_frequencies()[bands], len(signal)
    bandwidth = adjusted_bandwidth(control, ear, level1, bands)
    # Gain in dB = -OHC loss - (1 - 1 / ratio) (level - knee), as a power law of the control envelope's power.
    slope = 1.0 - 1.0 / ear.ratio[bands]
    lowest = 10.0 ** ((ear.knee_db_spl[bands] - level1) / 10.0)
    highest = np.full(LANES, 10.0 ** ((LINEAR_ABOVE_DB_SPL - level1) / 10.0))
    exponent = -slope / 2.0
    offset = -ear.ohc_db[bands] / kernels.DB_PER_OCTAVE - exponent * np.log2(lowest)
    b, a = dsp.butter(1, GAIN_SMOOTHING_HZ / (0.5 * SAMPLE_RATE))
    power, *energy = kernels.compress(
        signal, _gammatone(control_bandwidth()[bands], centre), _gammatone(bandwidth, centre), *_carrier(centre),
        np.concatenate((lowest, highest, exponent, offset)), np.array([b[0], -a[1]]), rows[0], rows[1],
    )  # fmt: skip
    level = _average_level(np.sqrt(power / size), control, ear, level1, bands)
    return Filtered(rows[0], rows[1], np.array(energy), level)


def _average_level(rms: Floats, control: Floats, ear: Ear, level1: float, bands: Bands) -> Floats:
    """Return the long-term level of each band in dB SL: the same compression applied to the averages."""
    level = level1 + 20.0 * np.log10(np.maximum(rms, kernels.SMALL))
    control_level = level1 + 20.0 * np.log10(np.maximum(control, kernels.SMALL))
    control_level = np.maximum(np.minimum(control_level, LINEAR_ABOVE_DB_SPL), ear.knee_db_spl[bands])
    gain = -ear.ohc_db[bands] - (control_level - ear.knee_db_spl[bands]) * (1.0 - 1.0 / ear.ratio[bands])
    return np.maximum(np.maximum(level, 0.0) + gain - ear.ihc_db[bands], 0.0)


def group_delays(bandwidth: Floats) -> NDArray[np.int64]:
    """Return the samples that each band must wait for the slowest: (band,), by the filters' group delay at 0 Hz."""
    pole, b1, b2, _ = _gammatone(bandwidth, centre_frequencies()).reshape(4, -1)
    delay = np.rint((b1 + 2.0 * b2) / (1.0 + b1 + b2) + 4.0 * pole / (1.0 - pole)).astype(np.int64)
    return delay.max() - delay


# The inner hair cells.


@cache
def adaptation() -> Floats:
    """Return the update of the two voltages of the equivalent circuit by backward differences: see `kernels.neural`."""
    r1 = 1.0 / OVERSHOOT
    r2 = r3 = 0.5 * (1.0 - r1)
    c1 = RAPID_S * (r1 + r2) / (r1 * r2)
    c2 = SHORT_TERM_S / ((r1 + r2) * r3)
    p1, p2 = r1 * r2 * c1 * SAMPLE_RATE, r2 * r3 * c2 * SAMPLE_RATE
    inverse = np.linalg.inv(np.array([[r1 + r2 + p1, -r1], [-r3, r2 + r3 + p2]]))
    # v = inverse @ (r2 v0 + p1 v1, p2 v2)
    return np.array(
        [inverse[0, 0] * p1, inverse[0, 1] * p2, inverse[0, 0] * r2,
         inverse[1, 0] * p1, inverse[1, 1] * p2, inverse[1, 0] * r2, 1.0 / r1]
    )  # fmt: skip


def to_neural(
    envelope: NDArray[np.float32], motion: NDArray[np.float32], ear: Ear, level1: float, bands: Bands,
    late: NDArray[np.int64], window: Floats,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Return the adapted neural response of eight bands: `motion` is scaled in place, the envelope comes back smoothed.

    Returns the sums of the adapted envelope, which is `late`, times the rising and the falling half of `window`:
    (lane, half segment) each.
    """
    halves = envelope.shape[1] // HOP
    rising, falling = np.zeros((LANES, halves)), np.zeros((LANES, halves))
    kernels.neural(envelope, motion, level1 - ear.ihc_db[bands], adaptation(), late, window, rising, falling)
    return rising, falling


def noise_gain(level1: float) -> float:
    """Return the amplitude of the noise that gives the auditory threshold."""
    return float(10.0 ** ((NOISE_DB_RE_THRESHOLD - level1) / 20.0))
