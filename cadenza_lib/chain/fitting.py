"""The fitting: a prescription's gains for a listener, as FIR filters at 44.1 kHz.

A prescription is an object with a name in `PRESCRIPTIONS`. The official one is NAL-R. Only this module knows the
formulas; what needs linearity asks `linear_prescription`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cadenza_lib.audio.loudness import convolve
from cadenza_lib.core.conventions import EARS, SAMPLE_RATE
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.listeners import Audiogram, Listener, ear_audiogram

__all__ = [
    "FIR_ORDER",
    "PRESCRIPTIONS",
    "FirPrescription",
    "Prescription",
    "filter_ears",
    "linear_prescription",
    "prescription",
]

FIR_ORDER = 220
"""Order of the prescriptions' filters, even; they have one tap more, and delay by half of it (2.5 ms)."""

_BLOCK = 1 << 16  # samples that are filtered at a time, which is several times faster than minutes of them at once
_DESIGN_FREQUENCIES = np.arange(FIR_ORDER + 1) / FIR_ORDER * (SAMPLE_RATE / 2)  # Hz
_FIR_GRID = 512  # intervals from 0 Hz to half the sample rate on which a filter is designed


class Prescription(Protocol):
    """How a hearing aid amplifies for a listener.

    Register one of your own with `PRESCRIPTIONS[mine.name] = mine`. The name identifies it in stored results, so a
    prescription that changes needs another name.
    """

    @property
    def name(self) -> str:
        """What settings call it."""
        ...

    def amplify(self, signal: Tensor, listener: Listener) -> Tensor:
        """Return the amplified signal, `FIR_ORDER` samples longer and late by half of that.

        Shape:
            - signal: `(..., ear, time)` at 44.1 kHz
            - result: `(..., ear, time + FIR_ORDER)`
        """
        ...


@dataclass(frozen=True)
class FirPrescription:
    """A linear prescription: gains at some frequencies, and linear-phase filters that have them.

    The filters are designed like pyclarity's NAL-R (MATLAB's fir2): gains in dB are interpolated linearly over
    frequency, sampled at `FIR_ORDER + 1` points, interpolated again on a grid of 512 intervals, transformed, and
    windowed (Hamming).
    """

    name: str
    frequencies: tuple[float, ...]  # Hz, below half the sample rate
    gain_db: Callable[[Audiogram], np.ndarray]  # insertion gains at the frequencies

    def gains_db(self, listener: Listener) -> np.ndarray:
        """Return the insertion gains of both ears in dB, `(ear, frequency)`."""
        return np.stack([self.gain_db(ear_audiogram(listener, ear)) for ear in EARS])

    def firs(self, listener: Listener) -> Tensor:
        """Return the filters of both ears, float64, `(ear, tap)`; a pure delay for an ear that gets no gain."""
        firs = []
        for gain_db in self.gains_db(listener):
            delay = np.zeros(FIR_ORDER + 1)
            delay[FIR_ORDER // 2] = 1.0
            firs.append(_fir(self._response(gain_db)) if gain_db.any() else delay)
        return torch.from_numpy(np.stack(firs))

    def band_firs(self, listener: Listener) -> Tensor:
        """Return filters around each of the frequencies whose sum has the prescribed gains, `(band, ear, tap)`.

        Each has the prescribed gain at its own frequency and falls linearly to 0 at its neighbours'; the first and the
        last go on to 0 Hz and to half the sample rate. A weighted sum of them is the prescription with a trim in each
        band, exactly, as the design is linear in the gains.
        """
        shares = [np.interp(_DESIGN_FREQUENCIES, self.frequencies, band) for band in np.eye(len(self.frequencies))]
        responses = [self._response(gain_db) for gain_db in self.gains_db(listener)]
        firs = [[_fir(response * share) for response in responses] for share in shares]
        return torch.from_numpy(np.array(firs))

    def amplify(self, signal: Tensor, listener: Listener) -> Tensor:
        """Filter each ear's signal; see `Prescription.amplify`."""
        return filter_ears(signal, self.firs(listener))

    def _response(self, gain_db: np.ndarray) -> np.ndarray:
        """Return the gains as factors at `FIR_ORDER + 1` points from 0 Hz to half the sample rate."""
        anchors = [0.0, *self.frequencies, SAMPLE_RATE / 2]
        return 10 ** (np.interp(_DESIGN_FREQUENCIES, anchors, np.pad(gain_db, 1, mode="edge")) / 20)


def _nal_r_gain_db(audiogram: Audiogram) -> np.ndarray:
    """Return the NAL-R insertion gains in dB, never below 0.

    An ear without any loss gets no gain, not even the bias, as in pyclarity.

    Source: D. Byrne and H. Dillon, "The National Acoustic Laboratories' (NAL) new procedure for selecting the gain and
    frequency response of a hearing aid", Ear and Hearing 7(4), 257-265, 1986; beyond a sum of 180 dB HL at 500, 1000
    and 2000 Hz, the correction for severe losses of D. Byrne, A. Parkinson and P. Newall, Ear and Hearing 11(1), 40-49,
    1990.
    """
    loss_db = audiogram.resample(np.array(_NAL_R_FREQUENCIES)).levels
    if loss_db.max() <= 0:
        return np.zeros(len(loss_db))
    three_frequency_sum_db = loss_db[1:4].sum()  # 500, 1000 and 2000 Hz
    mean_part_db = 0.05 * min(three_frequency_sum_db, 180.0)
    mean_part_db += 0.116 * max(three_frequency_sum_db - 180.0, 0.0)
    return np.maximum(mean_part_db + 0.31 * loss_db + _NAL_R_BIAS_DB, 0.0)


def _camfit_linear_gain_db(audiogram: Audiogram) -> np.ndarray:
    """Return the insertion gains in dB of the linear Cambridge formula, never below 0.

    0.48 dB of gain per dB of loss, plus an intercept for each frequency, of which the last holds beyond 5 kHz.

    Source: B. C. J. Moore and B. R. Glasberg, "Use of a loudness model for hearing-aid fitting. I. Linear hearing
    aids", British Journal of Audiology 32(5), 317-335, 1998.
    """
    loss_db = audiogram.resample(np.array(_CAMFIT_FREQUENCIES)).levels
    return np.maximum(0.48 * loss_db + _CAMFIT_INTERCEPTS_DB, 0.0) * loss_db.any()


def _no_gain_db(_: Audiogram) -> np.ndarray:
    """Return 0 dB: what is played is only as late as if it were amplified."""
    return np.zeros(len(_NAL_R_FREQUENCIES))


_NAL_R_FREQUENCIES = (250.0, 500.0, 1000.0, 2000.0, 4000.0, 6000.0)
_NAL_R_BIAS_DB = np.array([-17.0, -8.0, 1.0, -1.0, -2.0, -2.0])
_CAMFIT_FREQUENCIES = (125.0, 250.0, 500.0, 750.0, 1000.0, 1500.0, 2000.0, 3000.0, 4000.0, 5000.0, 8000.0)
_CAMFIT_INTERCEPTS_DB = np.array([-11.0, -10.0, -8.0, -6.0, 0.0, -1.0, 1.0, -1.0, 0.0, 1.0, 1.0])

PRESCRIPTIONS: dict[str, Prescription] = {
    "nal_r": FirPrescription("nal_r", _NAL_R_FREQUENCIES, _nal_r_gain_db),
    "camfit_linear": FirPrescription("camfit_linear", _CAMFIT_FREQUENCIES, _camfit_linear_gain_db),
    "none": FirPrescription("none", _NAL_R_FREQUENCIES, _no_gain_db),
}
"""The prescriptions by name."""


def prescription(name: str) -> Prescription:
    """Return the prescription of a name.

    Raises
    ------
    ParameterError
        If there is none.
    """
    if name not in PRESCRIPTIONS:
        raise ParameterError(f"prescription {name!r} is unknown; use one of {', '.join(PRESCRIPTIONS)}.")
    return PRESCRIPTIONS[name]


def linear_prescription(name: str, purpose: str) -> FirPrescription:
    """Return a linear prescription: amplifying a sum gives the sum of what is amplified.

    Raises
    ------
    ParameterError
        If there is none of that name, or it is not a `FirPrescription`.
    """
    chosen = prescription(name)
    if not isinstance(chosen, FirPrescription):
        linear = ", ".join(name for name, entry in PRESCRIPTIONS.items() if isinstance(entry, FirPrescription))
        raise ParameterError(f"prescription {name!r} is not linear, which {purpose} must be; use one of {linear}.")
    return chosen


def filter_ears(signal: Tensor, firs: Tensor) -> Tensor:
    """Filter each ear's signal with its filter: the full convolution.

    Shape:
        - signal: `(..., ear, time)`
        - firs: `(..., ear, tap)`
        - result: `(..., ear, time + tap - 1)`
    """
    firs = firs.to(signal)
    lead = firs.shape[-1] - 1
    batch = torch.broadcast_shapes(signal.shape[:-1], firs.shape[:-1])
    filtered = signal.new_empty(*batch, signal.shape[-1] + lead)
    for start in range(0, filtered.shape[-1], _BLOCK):
        begin = max(0, start - lead)  # each block also needs what the filter still holds of the time before it
        block = convolve(signal[..., begin : start + _BLOCK], firs)[..., start - begin :]
        filtered[..., start : start + _BLOCK] = block[..., :_BLOCK]
    return filtered


def _fir(gain: np.ndarray) -> np.ndarray:
    """Return the linear-phase filter with these gains at equal steps from 0 Hz to half the sample rate, a tap each."""
    order = len(gain) - 1
    spectrum = _on_grid(gain)
    spectrum = spectrum * np.exp(-0.5j * order * np.pi * np.arange(_FIR_GRID + 1) / _FIR_GRID)  # centre the response
    return np.fft.irfft(spectrum, 2 * _FIR_GRID)[: order + 1] * np.hamming(order + 1)


def _on_grid(gain: np.ndarray) -> np.ndarray:
    """Interpolate gains on the grid of 513 frequencies as MATLAB's fir2 does: break points snap to grid points."""
    points = np.arange(len(gain)) / (len(gain) - 1)
    grid = np.zeros(_FIR_GRID + 1)
    grid[0] = gain[0]
    begin = 0
    for index in range(len(points) - 1):
        end = int(points[index + 1] * (_FIR_GRID + 1)) - 1
        share = np.linspace(0, 1, end - begin + 1) if end > begin else np.zeros(1)
        grid[begin : end + 1] = share * gain[index + 1] + (1 - share) * gain[index]
        begin = end + 1
    return grid
