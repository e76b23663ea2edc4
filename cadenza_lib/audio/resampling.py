"""Resampling as the official recipe does it."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from cadenza_lib.core.errors import AudioError

__all__ = ["resample", "resample_blocks"]


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


def resample_blocks(
    blocks: Iterable[np.ndarray], sample_rate: int, new_sample_rate: int, channels: int = 2
) -> Iterator[np.ndarray]:
    """Resample a float32 signal that comes in blocks `(channel, time)`, with the same result as `resample` has."""
    stream = soxr.ResampleStream(sample_rate, new_sample_rate, channels, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block.T)).T
    yield stream.resample_chunk(np.empty((0, channels), np.float32), last=True).T
