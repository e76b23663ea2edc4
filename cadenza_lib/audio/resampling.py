"""Resampling of signals in numpy, by the filter that the challenge's recipe uses.

Two other resamplers exist for their own reasons: HAAQI's, which is part of the metric (`haaqi.ear.resample`, and its
differentiable form), and julius' in `training.targets`, which gradients go through.
"""

import numpy as np
import soxr

from cadenza_lib.core.errors import AudioError

__all__ = ["resample"]


def resample(signal: np.ndarray, sample_rate: int, new_sample_rate: int) -> np.ndarray:
    """Return `(..., time)` at another sample rate, by soxr's HQ filter, in the precision of the input.

    Raises
    ------
    AudioError
        If the signal has no samples.

    >>> resample(np.zeros((2, 44100)), 44100, 32000).shape
    (2, 32000)
    """
    if signal.shape[-1] == 0:
        raise AudioError("A signal of 0 samples cannot be resampled.")
    channels = signal.reshape(-1, signal.shape[-1]).T  # soxr takes (time, channel)
    resampled = soxr.resample(np.ascontiguousarray(channels), sample_rate, new_sample_rate, quality="HQ")
    return np.ascontiguousarray(resampled.T).reshape(*signal.shape[:-1], -1)
