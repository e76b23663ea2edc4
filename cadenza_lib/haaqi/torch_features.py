"""What HAAQI compares, on tensors: the functions of `alignment` and `features` for batches, with gradients.

Shapes are (item, band, time) or (item, band, segment). The reference may have one item for many processed signals.
Lags and the choice of audible segments have no gradient.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from torch import Tensor

from cadenza_lib.haaqi import features
from cadenza_lib.haaqi.correlation import SEARCH
from cadenza_lib.haaqi.covariance import MAX_LAG
from cadenza_lib.haaqi.ear import BANDS
from cadenza_lib.haaqi.features import MODULATION_TAPS, SEGMENT, SILENCE_DB_SL
from cadenza_lib.haaqi.kernels import HOP, SMALL
from cadenza_lib.haaqi.torch_ear import root

__all__ = [
    "HALF_TILE",
    "audible",
    "band_delays",
    "broadband_delays",
    "cepstral_correlation",
    "covariance",
    "fine_structure_similarity",
    "smooth_envelope",
    "spectral_differences",
    "tile_levels",
    "tiles",
]  # fmt: skip

SEARCH_FFT = 32768  # points; the blocks of `band_delays` are shorter by the lags at either end
HALF_TILE = SEGMENT // 2


# Where two signals match best; in float64, because a lag that flips moves the score by more than float32 rounds.


@torch.no_grad()
def broadband_delays(reference: Tensor, processed: Tensor) -> list[int]:
    """Return the samples by which each item of `processed`, (item, time), comes after `reference`."""
    size = processed.shape[-1]
    padded = fft.next_fast_len(2 * size - 1, real=True)
    x, y = (
        torch.fft.rfft(signal.double() - signal.double().mean(-1, keepdim=True), padded)
        for signal in (reference, processed)
    )
    circular = torch.fft.irfft(x * y.conj(), padded)
    correlation = torch.cat((circular[:, padded - size + 1 :], circular[:, :size]), -1)  # lags 1 - size ... size - 1
    delays: list[int] = (size - 1 - correlation.abs().argmax(-1)).tolist()
    return delays


@torch.no_grad()
def band_delays(x: Tensor, y: Tensor, sizes: list[int]) -> list[int]:
    """Return the samples by which each row of `y` comes after `x`, at most 100 ms: item by item, band by band."""
    time = y.shape[-1]
    points = SEARCH_FFT if time + SEARCH > SEARCH_FFT else fft.next_fast_len(time + 2 * SEARCH, real=True)
    block = points - 2 * SEARCH
    count = -(-time // block)
    x = torch.nn.functional.pad(x.double(), (SEARCH, count * block - time + SEARCH)).unfold(-1, points, block)
    y = torch.nn.functional.pad(y.double(), (0, count * block - time)).unflatten(-1, (count, block))
    spectra = torch.einsum("...bf,...bf->...f", torch.fft.rfft(x), torch.fft.rfft(y, points).conj())
    correlation = torch.fft.irfft(spectra, points)[..., : 2 * SEARCH + 1]  # lags -SEARCH ... SEARCH
    for item, size in enumerate(sizes):  # as in pyclarity, the lowest lag is not searched
        correlation[item, :, : SEARCH + 1 - min(SEARCH, size)] = -torch.inf
        correlation[item, :, SEARCH + size :] = -torch.inf
    delays: list[int] = (SEARCH - correlation.argmax(-1)).flatten().tolist()
    return delays


# Envelope modulations.


def _counts(count: Callable[[int], int], sizes: list[int], device: torch.device) -> Tensor:
    return torch.tensor([count(size) for size in sizes], device=device)[:, None]  # (item, 1)


def smooth_envelope(adapted: Tensor, sizes: list[int]) -> Tensor:
    """Return envelope averages every 4 ms: (item, band, segment), zeros behind the last segment of an item."""
    window = torch.from_numpy(features.envelope_window().reshape(2, HOP).T.copy()).to(adapted)  # (time, half)
    halves = adapted[..., : adapted.shape[-1] // HOP * HOP].unflatten(-1, (-1, HOP)) @ window
    rising, falling = halves.unbind(-1)
    counts = _counts(features.envelope_count, sizes, adapted.device)
    most = int(counts.max())
    segment = torch.arange(most, device=adapted.device)
    half, whole = 1.0 / window[:, 1].sum(), 1.0 / window.sum()
    middle = (segment > 0) & (segment < counts - 1)
    first, last = (segment == 0).to(adapted) * half, (segment == counts - 1).to(adapted) * half
    later = torch.nn.functional.pad(falling, (0, max(0, most + 1 - falling.shape[-1])))[..., 1 : most + 1]
    return (
        falling[..., :1] * first
        + rising[..., :most] * (middle * whole + last)[:, None]
        + later * (middle.to(adapted) * whole)[:, None]
    )


def audible(levels_db_sl: Tensor, sizes: list[int], count: Callable[[int], int]) -> Tensor:
    """Tell which segments' loudness, averaged over bands, is above the silence threshold: (item, segment)."""
    loudness = 20.0 * torch.log10((10.0 ** (levels_db_sl / 20.0)).mean(1))
    there = torch.arange(loudness.shape[-1], device=loudness.device) < _counts(count, sizes, loudness.device)
    return (loudness > SILENCE_DB_SL) & there


def cepstral_correlation(x: Tensor, y: Tensor, kept: Tensor) -> Tensor:
    """Return the correlation of modulations in the `kept` segments, (item, segment), of smooth envelopes: (item,)."""
    order = torch.argsort(~kept, dim=1, stable=True)  # kept segments come first, in order
    count = kept.sum(1)[:, None, None]
    there = (torch.arange(kept.shape[1], device=kept.device) < count).to(x)  # (item, 1, segment)
    safe_count = count.clamp(min=1).to(x)
    basis = torch.from_numpy(features.cepstral_basis()).to(x)
    filters = torch.from_numpy(features.modulation_filters()).to(x)
    size, delay = kept.shape[1], MODULATION_TAPS // 2
    padded = fft.next_fast_len(size + MODULATION_TAPS - 1, real=True)

    def centred(rows: Tensor, present: Tensor, samples: Tensor) -> Tensor:
        rows = rows * present
        return (rows - rows.sum(-1, keepdim=True) / samples) * present

    def filtered(smooth: Tensor) -> Tensor:
        chosen = smooth.gather(2, order[:, None].expand(len(smooth), BANDS, -1))
        spectra = torch.fft.rfft(centred(basis @ chosen, there, safe_count), padded)
        spectra = spectra[:, :, None] * torch.fft.rfft(filters, padded)  # (item, coefficient, modulation, frequency)
        rows = torch.fft.irfft(spectra, padded)[..., delay : delay + size]
        return centred(rows, there[:, None], safe_count[:, None])

    xs, ys = filtered(x), filtered(y)
    x_energy, y_energy = xs.square().sum(-1), ys.square().sum(-1)
    heard = (x_energy >= SMALL) & (y_energy >= SMALL) & (count > 1)
    scale = torch.where(heard, x_energy, 1.0).sqrt() * torch.where(heard, y_energy, 1.0).sqrt()
    return torch.where(heard, (xs * ys).sum(-1).abs() / scale, 0.0).mean((1, 2))


# Temporal fine structure.


def _by_kind(values: list[NDArray[np.float64]], counts: Tensor, segments: int, like: Tensor) -> Tensor:
    """Choose between the value for the first, a middle and the last segment: (item, 1, segment, ...)."""
    segment = torch.arange(segments, device=like.device)
    kind = torch.where(segment == 0, 0, torch.where(segment == counts - 1, 2, 1))
    return torch.from_numpy(np.stack(values)).to(like)[kind][:, None]


def tiles(motion: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Return windowed zero-mean segments, (item, band, segment, sample), and mean squares, (item, band, segment).

    As in pyclarity, the first segment of an item has only the second half of the window, and the last one the first.
    `motion` must have half a segment of zeros behind the longest item.
    """
    shape = features.segments()
    counts = _counts(features.segment_count, sizes, motion.device)
    most = int(counts.max())
    nothing = np.zeros(HALF_TILE)
    first, last = shape.window[HALF_TILE:], shape.window[:HALF_TILE]
    windows = [np.concatenate((first, nothing)), shape.window, np.concatenate((last, nothing))]
    half = np.concatenate((np.ones(HALF_TILE), nothing))
    window = _by_kind(windows, counts, most, motion)
    support = _by_kind([half, np.ones(SEGMENT), half], counts, most, motion)
    norms = _by_kind([shape.norms[1], shape.norms[0], shape.norms[1]], counts, most, motion)
    cut = motion.unfold(-1, SEGMENT, HALF_TILE)[..., :most, :] * window
    cut = cut - support * (cut.sum(-1, keepdim=True) / support.sum(-1, keepdim=True))
    return cut, cut.square().sum(-1) * norms


def tile_levels(motion: Tensor, sizes: list[int]) -> Tensor:
    """Return the level of each tile in dB SL: (item, band, segment)."""
    return (2.0 * tiles(motion, sizes)[1]).sqrt()


def covariance(x: Tensor, y: Tensor, sizes: list[int], lags: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the largest normalised cross-covariance of BM motions in each tile, (item, band, segment), and its place.

    `lags`, if given, are the places that an earlier call returned for the same signals.
    """
    shape = features.segments()
    with torch.no_grad():
        x_tiles, x_power = tiles(x, sizes[: len(x)])
        x_tiles = torch.nn.functional.pad(x_tiles, (MAX_LAG, MAX_LAG))
    y_tiles, y_power = tiles(y, sizes)
    counts = _counts(features.segment_count, sizes, y.device)
    unbias = _by_kind([shape.unbias_half, shape.unbias, shape.unbias_half], counts, y_tiles.shape[2], y)
    if lags is None:
        with torch.no_grad():
            points = SEGMENT + 2 * MAX_LAG
            spectra = torch.fft.rfft(x_tiles) * torch.fft.rfft(y_tiles, points).conj()
            lags = (torch.fft.irfft(spectra, points)[..., : 2 * MAX_LAG + 1] * unbias).abs().argmax(-1, keepdim=True)
    shifted = x_tiles.unfold(-1, SEGMENT, 1).expand(len(y), -1, -1, -1, -1)  # (item, band, segment, lag, sample)
    shifted = shifted.gather(3, lags[..., None].expand(*lags.shape, SEGMENT)).squeeze(3)
    products = (shifted * y_tiles).sum(-1).abs() * unbias.expand(*lags.shape[:3], -1).gather(3, lags).squeeze(3)
    heard = (x_power > SMALL) & (y_power > SMALL)
    scale = torch.where(heard, x_power, 1.0).sqrt() * torch.where(heard, y_power, 1.0).sqrt()
    return torch.where(heard, products / scale, 0.0).clamp(max=1.0), lags


def fine_structure_similarity(covariances: Tensor, levels: Tensor, sizes: list[int]) -> Tensor:
    """Return the average covariance of tiles that are audible in the reference, weighted by phase locking: (item,)."""
    kept = audible(levels, sizes, features.segment_count)
    weights = torch.from_numpy(features.phase_locking()).to(levels)[:, None] * (levels > SILENCE_DB_SL)
    weights = weights * (kept & (kept.sum(1, keepdim=True) > 1))[:, None]
    total = weights.sum((1, 2))
    return (weights * covariances).sum((1, 2)) / torch.where(total > 0, total, 1.0)


# Long-term spectrum.


def spectral_differences(x_db_sl: Tensor, y_db_sl: Tensor) -> tuple[Tensor, Tensor]:
    """Return the deviation over bands of the difference in specific loudness, and of it re their sum: (item,) each."""
    x, y = 10.0 ** (x_db_sl / 20.0), 10.0 ** (y_db_sl / 20.0)
    x, y = x / x.sum(-1, keepdim=True), y / y.sum(-1, keepdim=True)

    def deviation(values: Tensor) -> Tensor:
        return BANDS * root((values - values.mean(-1, keepdim=True)).square().mean(-1))

    return deviation(x - y), deviation((x - y) / (x + y))
