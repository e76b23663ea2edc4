"""Batches through the ear model of `torch_ear`, some bands at a time, and the features compared.

Memory is bounded: if what autograd would keep of all bands is more than `KEEP_BYTES`, each group of bands is computed
a second time in the backward pass instead, with the lags of the first time.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cadenza_lib.core.errors import AudioError
from cadenza_lib.haaqi import ear, features, score, torch_ear, torch_features, torch_filters
from cadenza_lib.haaqi.comparison import BACK_UP, PRUNE_BELOW, check_length
from cadenza_lib.haaqi.ear import BANDS
from cadenza_lib.haaqi.torch_features import HALF_TILE

__all__ = ["ReferenceSide"]

GROUP_SAMPLES = {"cpu": 2**19, "cuda": 2**25}  # band samples computed at once: fits a cache, fills a GPU
KEEP_BYTES = 2**31  # of intermediate results kept for the backward pass
KEPT_VALUES = 75  # numbers that autograd keeps for each sample of a band


class ReferenceSide:
    """References of one length, with an ear each, and all that follows from them."""

    @torch.no_grad()
    def __init__(
        self, reference: Tensor, levels: NDArray[np.float64], level1: NDArray[np.float64], add_nal_r: bool,
        noise: int | None,
    ) -> None:  # fmt: skip
        """Take `reference`, (item, time) at 24 kHz, hearing losses, (item, 6) in dB HL, and levels, (item,)."""
        self.size, self._noise, self._reference = reference.shape[-1], noise, reference
        self._starts, self._sizes = _audible_ranges(reference)
        self._time = (max(self._sizes) // HALF_TILE + 2) * HALF_TILE  # room for a tile that begins in the last half
        self._ears = torch_ear.Ears.from_levels(levels, level1, reference)
        pruned = torch_filters.cut(reference, self._starts, [self.size] * len(reference), self._sizes, self._time)
        if add_nal_r:
            pruned = torch_filters.nal_r(pruned, levels, self._sizes)
        spectra, spans = torch_filters.spectrum(pruned), torch_filters.spans(pruned, self._sizes)

        items = len(reference)
        self._envelope, self._motion, self._neural = reference.new_empty(3, items, BANDS, self._time)
        self._level_db_sl = reference.new_empty(items, BANDS)
        bandwidth = reference.new_empty(items, BANDS)
        for bands in self._groups(items):
            x = torch_ear.compress(spectra, self._ears.part(bands), spans, self._time)
            self._envelope[:, bands], self._motion[:, bands] = x.envelope, x.motion
            self._level_db_sl[:, bands], bandwidth[:, bands] = x.level_db_sl, x.bandwidth
        self._late = np.stack([ear.group_delays(row) for row in bandwidth.double().cpu().numpy()])
        smooth, tile_levels = [], []
        for bands in self._groups(items):
            at_once = [0] * (items * (bands.stop - bands.start))
            envelope, self._neural[:, bands] = self._to_neural(
                self._envelope[:, bands], self._motion[:, bands], bands, [at_once, at_once], 0
            )
            smooth.append(torch_features.smooth_envelope(envelope, self._sizes))
            tile_levels.append(torch_features.tile_levels(self._neural[:, bands], self._sizes))
        self._smooth, self._tile_levels = torch.cat(smooth, 1), torch.cat(tile_levels, 1)
        self._kept = torch_features.audible(self._smooth, self._sizes, features.envelope_count)

    def compare(self, processed: Tensor) -> Tensor:
        """Return HAAQI of processed signals, (item, time), as long as the references: (item,)."""
        items = len(processed)
        sizes = self._for_all(self._sizes, items)
        delays = torch_features.broadband_delays(self._reference, processed)
        moves = [
            start + delay - BACK_UP for start, delay in zip(self._for_all(self._starts, items), delays, strict=True)
        ]
        pruned = torch_filters.cut(processed, moves, [self.size] * items, sizes, self._time)
        spectra, spans = torch_filters.spectrum(pruned), torch_filters.spans(pruned, sizes)
        kept_bytes = KEPT_VALUES * items * BANDS * self._time * processed.element_size()
        recompute = torch.is_grad_enabled() and processed.requires_grad and kept_bytes > KEEP_BYTES
        parts = []
        for bands in self._groups(items):
            constants: dict[str, Any] = {}
            if recompute:
                part = checkpoint(
                    self._compare_group, spectra, spans, bands, constants, use_reentrant=False, preserve_rng_state=False
                )
            else:
                part = self._compare_group(spectra, spans, bands, constants)
            parts.append(part)
        smooth, covariances, level_db_sl = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        correlation = torch_features.cepstral_correlation(self._smooth, smooth, self._kept)
        similarity = torch_features.fine_structure_similarity(covariances, self._tile_levels, self._sizes)
        loudness, spectrum = torch_features.spectral_differences(self._level_db_sl, level_db_sl)
        loudness = (1.0 - loudness / score.LOUDNESS_RANGE).clamp(0.0, 1.0)
        spectrum = (1.0 - spectrum / score.SPECTRUM_RANGE).clamp(0.0, 1.0)
        return score.combine(correlation, similarity, loudness, spectrum)[0]

    def _compare_group(
        self, spectra: Tensor, spans: list[torch_filters.Span], bands: slice, constants: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return smoothed envelope, covariances, both (item, band, segment), and level, (item, band), of some bands.

        What has no gradient is left in `constants`, and taken from there when the bands are computed again.
        """
        sizes = [stop for _, stop in spans]
        y = torch_ear.compress(spectra, self._ears.part(bands), spans, self._time)
        if "delays" not in constants:
            constants["delays"] = [
                torch_features.band_delays(x[:, bands], rows.detach(), sizes)
                for x, rows in ((self._envelope, y.envelope), (self._motion, y.motion))
            ]
        envelope, neural = self._to_neural(y.envelope, y.motion, bands, constants["delays"], BANDS)
        covariances, constants["lags"] = torch_features.covariance(
            self._neural[:, bands], neural, sizes, constants.get("lags")
        )
        return torch_features.smooth_envelope(envelope, sizes), covariances, y.level_db_sl

    def _to_neural(
        self, envelope: Tensor, motion: Tensor, bands: slice, delays: list[list[int]], place: int
    ) -> tuple[Tensor, Tensor]:
        """Align by `delays`, wait for the slowest band, adapt; `place` is that of the first row of noise."""
        items, count = envelope.shape[:2]
        late = np.broadcast_to(self._late[:, bands], (items, count))
        waits = late.ravel().tolist()
        available = [size for size in self._for_all(self._sizes, items) for _ in range(count)]

        def aligned(rows: Tensor, moves: list[int]) -> Tensor:
            net = [move - wait for move, wait in zip(moves, waits, strict=True)]
            return torch_filters.cut(rows.flatten(0, 1), net, available, available, self._time, waits).unflatten(
                0, (items, count)
            )

        ears = self._ears.part(bands)
        adapted, neural = torch_ear.adapt(aligned(envelope, delays[0]), aligned(motion, delays[1]), ears)
        if self._noise is not None:
            samples = torch.arange(self._time)[None, None] - torch.from_numpy(late.copy())[..., None]
            places = torch.arange(place + bands.start, place + bands.stop)[:, None]
            unit = torch_ear.hashed_noise(self._noise, places.to(neural.device), samples.to(neural.device))
            there = (samples >= 0) & (torch.arange(self._time) < torch.tensor(available).view(items, count, 1))
            gain = 10.0 ** ((ear.NOISE_DB_RE_THRESHOLD - ears.level1) / 20.0)
            neural = neural + gain[..., None] * (unit * there.to(unit.device)).to(neural)
        return adapted, neural

    def _groups(self, items: int) -> list[slice]:
        at_once = GROUP_SAMPLES.get(self._reference.device.type, GROUP_SAMPLES["cpu"])
        count = min(BANDS, max(1, at_once // (items * self._time)))
        return [slice(first, min(first + count, BANDS)) for first in range(0, BANDS, count)]

    @staticmethod
    def _for_all(values: list[int], items: int) -> list[int]:
        return values * items if len(values) < items else values


def _audible_ranges(reference: Tensor) -> tuple[list[int], list[int]]:
    """Return first sample and number of samples of each item without the silence at its ends."""
    loud = reference.abs() > PRUNE_BELOW * reference.abs().amax(-1, keepdim=True)
    if not loud.any(-1).all():
        raise AudioError("A reference signal is silent: HAAQI needs a reference that can be heard.")
    starts = loud.byte().argmax(-1)
    sizes = reference.shape[-1] - starts - loud.flip(-1).byte().argmax(-1)
    check_length(int(sizes.min()))
    return starts.tolist(), sizes.tolist()
