"""Separation of long signals in chunks: overlapping ones that are cross-faded, or the recipe's for comparison."""

from collections.abc import Callable

import torch
from torch import Tensor

from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS

__all__ = ["OVERLAP", "SEGMENT_S", "chunked", "chunked_part", "official_chunks"]

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

    def estimate(start: int) -> Tensor:
        return forward(signal[:, start : start + segment_length])

    return chunked_part(estimate, signal.shape[-1], 0, signal.shape[-1], segment_length, overlap)


def chunked_part(
    estimate: Callable[[int], Tensor],
    length: int,
    start: int,
    stop: int,
    segment_length: int = int(SEGMENT_S * SAMPLE_RATE),
    overlap: float = OVERLAP,
) -> Tensor:
    """Return samples `start` to `stop` of what `chunked` returns, from the chunks that reach into them.

    Parameters
    ----------
    estimate
        Returns the result `(source, channel, chunk)` for the chunk that begins at a sample.
    length
        Of the whole signal in samples.
    start, stop
        Of the part, which is not empty.
    segment_length, overlap
        As for `chunked`.

    Shape:
        - result: `(source, channel, stop - start)`
    """
    if length <= segment_length:
        return estimate(0)[..., start:stop]
    fade_length = int(overlap * segment_length)
    starts = [*range(0, length - segment_length, segment_length - fade_length), length - segment_length]
    inside = [chunk for chunk in starts if max(chunk, start) < min(chunk + segment_length, stop)]
    result = total = window = torch.empty(0)
    for chunk in inside:
        begin, end = max(chunk, start), min(chunk + segment_length, stop)
        piece = estimate(chunk)[..., begin - chunk : end - chunk]
        if chunk == inside[0]:  # which tells the precision and the place of the others
            ramp = torch.arange(1, segment_length + 1, device=piece.device, dtype=piece.dtype) / (fade_length + 1)
            window = torch.minimum(ramp, ramp.flip(0)).clamp(max=1)  # flat, with a linear fade at both ends
            result, total = piece.new_zeros(*piece.shape[:-1], stop - start), piece.new_zeros(stop - start)
        weight = window[begin - chunk : end - chunk]
        result[..., begin - start : end - start] += weight * piece
        total[begin - start : end - start] += weight
    return result.div_(total)


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
