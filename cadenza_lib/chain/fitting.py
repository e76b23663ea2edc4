"""Fitting to a listener: NAL-R prescription, its FIR filter, and the output stage up to the 16-bit FLAC file.

The reference of HAAQI goes through the amplification alone; the enhanced signal also through the output stage, which
resamples to 32 kHz, sets the output level, clips hard to [-1, 1] and rounds to 16 bits.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from cadenza_lib.audio.acoustics import INT16_SCALE
from cadenza_lib.audio.loudness import convolve
from cadenza_lib.audio.resampling import resample
from cadenza_lib.core.conventions import EARS, OUTPUT_SAMPLE_RATE, SAMPLE_RATE
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.core.files import atomic_path
from cadenza_lib.data.listeners import Audiogram, Listener, ear_audiogram

__all__ = [
    "FIR_ORDER",
    "NALR_FREQUENCIES",
    "Output",
    "amplify",
    "finish",
    "limit",
    "listener_band_firs",
    "listener_firs",
    "nalr_band_firs",
    "nalr_fir",
    "nalr_gain_db",
    "save_output",
]

FIR_ORDER = 220
"""Order of the NAL-R filter at 44.1 kHz; it has one tap more, and delays by half of it (2.5 ms)."""

NALR_FREQUENCIES = np.array([250.0, 500.0, 1000.0, 2000.0, 4000.0, 6000.0])
"""Frequencies of the prescription in Hz."""

# NAL-R: D. Byrne and H. Dillon, "The National Acoustic Laboratories' (NAL) new procedure for selecting the gain and
# frequency response of a hearing aid", Ear and Hearing 7(4), 257-265, 1986; beyond a three-frequency average of 60 dB
# HL with the correction for severe losses: D. Byrne, A. Parkinson and P. Newall, Ear and Hearing 11(1), 40-49, 1990.
_BIAS_DB = np.array([-17.0, -8.0, 1.0, -1.0, -2.0, -2.0])  # k(f) at NALR_FREQUENCIES
_SLOPE = 0.31  # dB of gain per dB of loss at the same frequency
_MEAN_SLOPE = 0.05  # dB of gain per dB of the sum of the losses at 500, 1000 and 2000 Hz, up to the knee
_SEVERE_KNEE_DB = 180.0  # of that sum
_SEVERE_SLOPE = 0.116  # beyond the knee

_BLOCK = 1 << 16  # samples that are filtered at a time, which is several times faster than minutes of them at once
_FIR_GRID = 512  # intervals from 0 Hz to half the sample rate on which the filter is designed


def nalr_gain_db(audiogram: Audiogram) -> np.ndarray:
    """Return the NAL-R insertion gain in dB at `NALR_FREQUENCIES`, `(6,)`; never below 0.

    An ear without any loss gets no gain (not even the bias), as in pyclarity.
    """
    loss_db = audiogram.resample(NALR_FREQUENCIES).levels
    if loss_db.max() <= 0:
        return np.zeros(len(NALR_FREQUENCIES))
    three_frequency_sum_db = loss_db[1:4].sum()  # 500, 1000 and 2000 Hz
    mean_part_db = _MEAN_SLOPE * min(three_frequency_sum_db, _SEVERE_KNEE_DB)
    mean_part_db += _SEVERE_SLOPE * max(three_frequency_sum_db - _SEVERE_KNEE_DB, 0.0)
    return np.maximum(mean_part_db + _SLOPE * loss_db + _BIAS_DB, 0.0)


def nalr_fir(audiogram: Audiogram, sample_rate: int = SAMPLE_RATE, order: int = FIR_ORDER) -> np.ndarray:
    """Return the linear-phase NAL-R filter, float64, `(order + 1,)`; for an ear without any loss, a pure delay.

    The design is pyclarity's (MATLAB's fir2): gains in dB are interpolated linearly over frequency, sampled at
    `order + 1` points, interpolated again on a grid of 512 intervals, transformed, and windowed (Hamming).

    Raises
    ------
    ParameterError
        If the sample rate is below 12 kHz, so that 6 kHz is not below half of it, or the order is odd.
    """
    points, gain = _response(audiogram, sample_rate, order)
    if audiogram.resample(NALR_FREQUENCIES).levels.max() <= 0:
        delay = np.zeros(order + 1)
        delay[order // 2] = 1.0
        return delay
    return _fir(points, gain)


def nalr_band_firs(audiogram: Audiogram) -> np.ndarray:
    """Return filters whose sum is the NAL-R filter at 44.1 kHz, one around each of `NALR_FREQUENCIES`, `(6, tap)`.

    Each has the gain of NAL-R at its own frequency and falls linearly to 0 at its neighbours'; the first and the last
    go on to 0 Hz and to half the sample rate. So a weighted sum of them is NAL-R with a trim in each band, exactly, as
    the design is linear in the gains.
    """
    points, gain = _response(audiogram, SAMPLE_RATE, FIR_ORDER)
    frequencies = points * SAMPLE_RATE / 2
    shares = [np.interp(frequencies, NALR_FREQUENCIES, one) for one in np.eye(len(NALR_FREQUENCIES))]
    return np.stack([_fir(points, gain * share) for share in shares])


def listener_firs(listener: Listener) -> Tensor:
    """Return the NAL-R filters of both ears at 44.1 kHz, float64, `(ear, tap)`."""
    return torch.from_numpy(np.stack([nalr_fir(ear_audiogram(listener, ear)) for ear in EARS]))


def listener_band_firs(listener: Listener) -> Tensor:
    """Return `nalr_band_firs` of both ears, float64, `(band, ear, tap)`; their sum over bands is `listener_firs`."""
    return torch.from_numpy(np.stack([nalr_band_firs(ear_audiogram(listener, ear)) for ear in EARS], axis=1))


def amplify(signal: Tensor, firs: Tensor) -> Tensor:
    """Filter each ear's signal with its NAL-R filter; the full convolution, 220 samples longer than the input.

    Shape:
        - signal: `(..., ear, time)`
        - firs: `(ear, tap)`
        - result: `(..., ear, time + tap - 1)`
    """
    firs = firs.to(signal)
    lead = firs.shape[-1] - 1
    batch = torch.broadcast_shapes(signal.shape[:-1], firs.shape[:-1])
    amplified = signal.new_empty(*batch, signal.shape[-1] + lead)
    for start in range(0, amplified.shape[-1], _BLOCK):
        begin = max(0, start - lead)  # each block also sees what the filter still holds of the time before it
        block = convolve(signal[..., begin : start + _BLOCK], firs)[..., start - begin :]
        amplified[..., start : start + _BLOCK] = block[..., :_BLOCK]
    return amplified


@dataclass(frozen=True)
class Output:
    """What leaves the hearing aid.

    Shape:
        - signal: `(ear, time)` at `OUTPUT_SAMPLE_RATE`; float32 as the FLAC file holds it, float64 when not clipped
        - clipped_share: `(ear,)`, share of samples beyond [-1, 1] before the clip
    """

    signal: np.ndarray
    clipped_share: np.ndarray
    clip: bool


def finish(signal: Tensor, output_level_db: float = 0.0, clip: bool = True) -> Output:
    """Run the output stage on an amplified signal at 44.1 kHz.

    Parameters
    ----------
    signal
        `(ear, time)`, float64.
    output_level_db
        Gain before the clip; 0 dB is official.
    clip
        Clip to [-1, 1] and truncate to 16 bits, as the challenge's files require. Without, the signal stays as it is:
        what a hearing aid with unlimited headroom would play.

    Raises
    ------
    ParameterError
        If the level lies outside -60 to 60 dB.
    """
    return limit(resample(signal.numpy(), SAMPLE_RATE, OUTPUT_SAMPLE_RATE), output_level_db, clip)


def limit(resampled: np.ndarray, output_level_db: float = 0.0, clip: bool = True) -> Output:
    """Run the steps of `finish` after resampling, on a signal at `OUTPUT_SAMPLE_RATE`, `(ear, time)`."""
    if not -60 <= output_level_db <= 60:
        raise ParameterError(f"output_level_db {output_level_db} must lie between -60 and 60 dB.")
    scaled = resampled * 10 ** (output_level_db / 20)
    clipped_share = np.mean(np.abs(scaled) > 1, axis=-1)
    if clip:
        limited = np.clip(scaled * INT16_SCALE, -INT16_SCALE, INT16_SCALE - 1)
        scaled = (np.trunc(limited) / INT16_SCALE).astype(np.float32)  # exact: 16 bits fit into float32
    return Output(scaled, clipped_share, clip)


def save_output(output: Output, path: Path | str) -> Path:
    """Write the output beside `path` without suffix: 16-bit FLAC, or 32-bit float WAV if it was not clipped.

    No `<name>.txt` is written: the official reader takes such a file for a scale factor.

    Raises
    ------
    ParameterError
        If the directory cannot be written.
    """
    path = Path(path)
    path = path.with_name(path.name + (".flac" if output.clip else ".wav"))
    with atomic_path(path) as temporary:
        if output.clip:
            samples = (output.signal.T * INT16_SCALE).astype(np.int16)
            soundfile.write(temporary, samples, OUTPUT_SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        else:
            soundfile.write(temporary, output.signal.T, OUTPUT_SAMPLE_RATE, subtype="FLOAT", format="WAV")
    return path


def _response(audiogram: Audiogram, sample_rate: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies relative to half the sample rate, and the NAL-R gains at them as factors."""
    highest = sample_rate / 2
    if highest <= NALR_FREQUENCIES[-1] or order % 2:
        raise ParameterError(
            f"A NAL-R filter needs a sample rate above 12000 Hz and an even order, not {sample_rate} and {order}."
        )
    points = np.arange(order + 1) / order
    anchors = np.concatenate([[0.0], NALR_FREQUENCIES, [highest]])
    gain_db = np.pad(nalr_gain_db(audiogram), 1, mode="edge")
    return points, 10 ** (np.interp(points * highest, anchors, gain_db) / 20)


def _fir(points: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Return the linear-phase filter with these gains at points from 0 to 1, half the sample rate; one tap each."""
    order = len(points) - 1
    spectrum = _on_grid(points, gain)
    spectrum = spectrum * np.exp(-0.5j * order * np.pi * np.arange(_FIR_GRID + 1) / _FIR_GRID)  # centre the response
    return np.fft.irfft(spectrum, 2 * _FIR_GRID)[: order + 1] * np.hamming(order + 1)


def _on_grid(points: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Interpolate gains on the grid of 513 frequencies as MATLAB's fir2 does: break points snap to grid points."""
    grid = np.zeros(_FIR_GRID + 1)
    grid[0] = gain[0]
    begin = 0
    for index in range(len(points) - 1):
        end = int(points[index + 1] * (_FIR_GRID + 1)) - 1
        share = np.linspace(0, 1, end - begin + 1) if end > begin else np.zeros(1)
        grid[begin : end + 1] = share * gain[index + 1] + (1 - share) * gain[index]
        begin = end + 1
    return grid
