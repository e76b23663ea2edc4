"""Separation of long signals in chunks: overlapping ones that are cross-faded, or the recipe's for comparison."""

from collections.abc import Callable

import torch
from torch import Tensor

from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS

__all__ = ["OVERLAP", "SEGMENT_S", "chunked", "official_chunks"]

SEGMENT_S = 10.0
"""Length of the chunks that a long signal is separated in; the recipe's is 11 s."""

OVERLAP = 0.25
"""Share of a chunk that is cross-faded with its neighbour."""

_OFFICIAL_CHUNK_S = 11.0  # segment 10 s times (1 + overlap 0.1) in pyclarity's `separate_sources`
_OFFICIAL_FADE_S = 0.1


def chunked(
    forward: Callable[[Tensor], Tensor],
    signal: Tensor,
    segment_length: int = int(SEGMENT_S * SAMPLE_RATE),
    overlap: float = OVERLAP,
) -> Tensor:
    """Apply `forward` to overlapping chunks and cross-fade the results.

    All chunks have one length: the last is moved back to end with the signal, so that the network never sees a
    fragment. A signal of up to one segment is passed whole.

    Parameters
    ----------
    forward
        Maps `(channel, chunk)` to `(source, channel, chunk)`.
    signal
        `(channel, time)`.
    segment_length
        Length of a chunk in samples.
    overlap
        Share of a chunk that it has in common with the next, from 0 to 0.5.

    Shape:
        - result: `(source, channel, time)`

    >>> signal = torch.arange(20.0).expand(2, -1)
    >>> torch.allclose(chunked(lambda chunk: chunk[None], signal, segment_length=8)[0], signal)
    True
    """
    length = signal.shape[-1]
    if length <= segment_length:
        return forward(signal)
    fade_length = int(overlap * segment_length)
    stride = segment_length - fade_length
    starts = [*range(0, length - segment_length, stride), length - segment_length]
    ramp = torch.arange(1, segment_length + 1, device=signal.device, dtype=signal.dtype) / (fade_length + 1)
    window = torch.minimum(ramp, ramp.flip(0)).clamp(max=1)  # flat, with a linear fade at both ends
    total = torch.zeros(length, device=signal.device, dtype=signal.dtype)
    result: Tensor | None = None
    for start in starts:
        chunk = slice(start, start + segment_length)
        estimate = forward(signal[:, chunk])
        if result is None:
            result = estimate.new_zeros(*estimate.shape[:-1], length)
        result[..., chunk] += window * estimate
        total[chunk] += window
    assert result is not None  # a signal longer than a segment has at least two chunks
    result /= total
    return result


def official_chunks(forward: Callable[[Tensor], Tensor], signal: Tensor) -> Tensor:
    """Chunk as pyclarity's `separate_sources` does, including the faded last 100 ms of short clips.

    Shape:
        - signal: `(channel, time)`
        - result: `(stem, channel, time)`
    """
    length = signal.shape[-1]
    chunk_length, fade_length = int(SAMPLE_RATE * _OFFICIAL_CHUNK_S), int(SAMPLE_RATE * _OFFICIAL_FADE_S)
    ramp = torch.linspace(0, 1, fade_length, device=signal.device)
    result = signal.new_zeros(len(STEMS), *signal.shape)
    start, end = 0, chunk_length
    fade_in, fade_out = False, True
    while start < length - _OFFICIAL_FADE_S * SAMPLE_RATE:
        estimate = forward(signal[:, start:end])
        envelope = signal.new_ones(estimate.shape[-1])
        if fade_in:
            envelope[:fade_length] *= ramp
        if fade_out:
            envelope[-fade_length:] *= ramp.flip(0)
        result[..., start:end] += estimate * envelope
        start = chunk_length - fade_length if start == 0 else start + chunk_length
        end += chunk_length
        fade_in, fade_out = True, end < length
    return result
