"""Resampling as the official recipe does it."""

import numpy as np
import soxr

from cadenza_lib.core.errors import AudioError

__all__ = ["resample"]


def resample(signal: np.ndarray, sample_rate: int, new_sample_rate: int) -> np.ndarray:
    """Resample `(..., time)` with soxr's HQ filter, in the precision of the input.

    Raises
    ------
    AudioError
        If the signal is empty.
    """
    if signal.shape[-1] == 0:
        raise AudioError("A signal of 0 samples cannot be resampled.")
    channels = signal.reshape(-1, signal.shape[-1]).T  # soxr expects (time, channel)
    resampled = soxr.resample(np.ascontiguousarray(channels), sample_rate, new_sample_rate, quality="HQ")
    return np.ascontiguousarray(resampled.T).reshape(*signal.shape[:-1], -1)
