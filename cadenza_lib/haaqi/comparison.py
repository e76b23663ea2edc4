"""Both signals through the ear model, eight bands at a time (fewer in long signals), and the features compared.

`ReferenceSide` holds what depends on the reference alone; `ReferenceSide.compare` takes one processed signal. The
groups of bands are independent of each other, which is what threads share.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadenza_lib.core.errors import AudioError
from cadenza_lib.haaqi import alignment, ear, features, kernels
from cadenza_lib.haaqi.ear import BANDS, Ear
from cadenza_lib.haaqi.kernels import LANES
from cadenza_lib.haaqi.noise import LegacyRows, add_hashed

__all__ = ["BACK_UP", "PRUNE_BELOW", "Features", "Model", "ReferenceSide", "check_length"]

Floats = NDArray[np.float64]

BACK_UP = 48  # samples, 2 ms: the processed signal is left late by this, to allow for dispersion
PRUNE_BELOW = 0.001  # of the reference's maximum: leading and trailing samples below this are cut off
SHORTEST = features.SEGMENT  # samples at 24 kHz; with fewer there is no whole BM segment

WORKSPACE_PER_SAMPLE = 4 * 4  # bytes of a band at work: envelope and motion of both signals in float32
WORKSPACE_BYTES = 2**29  # a second thread is used if both fit into this
GROUP_BYTES = 2**30  # of a group at work, which has fewer than eight bands where they need more (six minutes)
KEPT_PER_SAMPLE = 3 * BANDS * 4  # bytes of a kept reference: envelope, motion and neural response in float32
KEPT_BYTES = 2**30  # a reference that needs more (two minutes) is computed again for each processed signal


@dataclass(frozen=True)
class Model:
    """The ear, and how to run it."""

    levels: Floats  # dB HL at `ear.AUDIOGRAM_FREQUENCIES`
    add_nal_r: bool  # to the reference
    level1: float  # dB SPL of a signal with RMS 1
    noise: str | None  # "pyclarity", "hashed" or None
    seed: np.uint64  # of the hashed noise
    state: dict[str, Any] | None  # of numpy's generator, for pyclarity's noise
    threads: int
    keep: bool  # the reference's bands for the next processed signal

    def ear(self) -> Ear:
        """Return the parameters of the 32 bands."""
        return Ear.from_levels(self.levels)


@dataclass(frozen=True)
class Features:
    """What two signals have in common; see `features`."""

    cepstral_correlation: float
    fine_structure: float
    loudness_difference: float
    spectrum_difference: float
    audible_segments: int  # of the smoothed envelope


@dataclass
class _Group:
    """A group of bands of the reference: (band, time) float32 each."""

    envelope: NDArray[np.float32]  # after compression
    motion: NDArray[np.float32]  # after compression
    energy: Floats  # (2, lane), of envelope and motion
    neural: NDArray[np.float32] | None  # motion after adaptation, with noise


class _Inline(Executor):
    """Run each task when it is submitted, in the caller's thread."""

    def submit(self, task: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return the task's outcome."""
        future: Future[Any] = Future()
        future.set_result(task(*args, **kwargs))
        return future


def check_length(samples: int) -> None:
    """Refuse signals that share too few samples at 24 kHz."""
    if samples < SHORTEST:
        raise AudioError(
            f"The signals share {samples} samples at 24 kHz, not counting silence at the ends of the reference: HAAQI "
            f"needs at least {SHORTEST} (16 ms)."
        )


class ReferenceSide:
    """The reference cut to the length of the processed signals, and all that follows from it."""

    def __init__(self, reference: Floats, model: Model) -> None:
        """Take `reference`, (time,) at 24 kHz, as long as the processed signals will be."""
        above = np.flatnonzero(np.abs(reference) > PRUNE_BELOW * np.max(np.abs(reference)))
        if len(above) == 0:
            raise AudioError(
                f"The reference's first {len(reference)} samples at 24 kHz, which is all of it that the processed "
                f"signal covers, are silent: HAAQI needs a reference that can be heard."
            )
        self.model, self.size = model, len(reference)
        self._audible_range = slice(above[0], above[-1] + 1)
        pruned = reference[self._audible_range]
        self.samples = len(pruned)
        check_length(self.samples)
        self._ear = model.ear()
        self._reference = reference
        self._keep = model.keep and KEPT_PER_SAMPLE * self.samples <= KEPT_BYTES
        self._width = LANES  # bands of a group
        while self._width > 1 and WORKSPACE_PER_SAMPLE * self._width * self.samples > GROUP_BYTES:
            self._width //= 2
        # The kernels fill eight lanes: with half as many bands, each is computed, and written, twice.
        firsts = range(0, BANDS, self._width)
        self._bands = [np.resize(np.arange(first, first + self._width), LANES) for first in firsts]
        fitting = WORKSPACE_BYTES // (WORKSPACE_PER_SAMPLE * self._width * self.samples)
        self._threads = max(1, min(model.threads, fitting, len(self._bands)))
        self.rows = None if model.state is None else LegacyRows(model.state, self.samples)
        self._groups: list[_Group | None] = [None] * len(self._bands)
        self._lock, self._spectrum_lock = threading.Lock(), threading.Lock()
        self._group_locks = [threading.Lock() for _ in self._bands]
        # What the first comparison fills in.
        self._spectrum: NDArray[np.complex64] | None = None
        self._middle: Floats | None = None
        self._control = np.empty(0)
        self._late = np.empty(0, np.int64)
        self._level_db_sl = np.empty(BANDS)
        self._smooth = np.empty((BANDS, features.envelope_count(self.samples)))
        self._tiles_db_sl = np.empty((BANDS, features.segment_count(self.samples)))
        self._cepstra: features.Cepstra | None = None
        self._audible = np.empty(0, np.int64)

    def compare(self, processed: Floats) -> Features:
        """Compare with a processed signal of the same length: (time,) at 24 kHz."""
        # One set of rows for each thread: fresh memory costs as much as filtering into it.
        spare: SimpleQueue[NDArray[np.float32]] = SimpleQueue()
        for _ in range(self._threads):
            spare.put(np.empty((2 if self._keep else 4, self._width, self.samples), np.float32))

        with ThreadPoolExecutor(self._threads) if self._threads > 1 else _Inline() as pool:
            # A task waits only for tasks before it, so that no number of threads can lock up.
            pool.submit(self._reference_spectrum)
            # No name for the spectrum, so that its memory is free again as soon as it has been used.
            middle = pool.submit(self._align, processed, pool.submit(alignment.broadband_spectrum, processed))
            filtered_reference = pool.submit(self._filter_reference)

            def compare_group(g: int) -> tuple[Floats, Floats, Floats]:
                rows = spare.get()
                try:
                    filtered_reference.result()
                    group = self._reference_group(g, rows[2:])
                    return self._compare_group(g, group, middle.result(), rows[:2])
                finally:
                    spare.put(rows)

            groups = [pool.submit(compare_group, g) for g in range(len(self._bands))]
            smooth, covariances, level_db_sl = map(np.concatenate, zip(*(g.result() for g in groups), strict=True))

        with self._lock:
            if self._cepstra is None:
                self._audible = features.audible_segments(self._smooth)
                if len(self._audible) > 1:
                    self._cepstra = features.cepstra(self._smooth, self._audible)
        correlation = 0.0
        if self._cepstra is not None:
            correlation = features.cepstral_correlation(self._cepstra, features.cepstra(smooth, self._audible))
        similarity = features.fine_structure_similarity(covariances, self._tiles_db_sl)
        return Features(
            correlation, similarity, *features.spectral_differences(self._level_db_sl, level_db_sl), len(self._audible)
        )

    def _align(self, processed: Floats, spectrum: Future[NDArray[np.complex64]]) -> Floats:
        """Move `processed` to where it matches the reference best, prune it likewise, and filter by the middle ear."""
        delay = alignment.broadband_delay(self._reference, processed, self._reference_spectrum(), spectrum.result())
        if not self.model.keep:
            self._spectrum = None
        aligned = processed[np.newaxis].copy()
        kernels.shift_rows(aligned, np.array([delay - BACK_UP]))
        return ear.middle_ear(aligned[0, self._audible_range])

    def _reference_spectrum(self) -> NDArray[np.complex64]:
        with self._spectrum_lock:
            if self._spectrum is None:
                self._spectrum = alignment.broadband_spectrum(self._reference)
            return self._spectrum

    def _filter_reference(self) -> None:
        """Find the reference after the middle ear, its level in the control filters, and the group delays."""
        with self._lock:
            if self._middle is None:
                model, signal = self.model, self._reference[self._audible_range]
                middle = ear.middle_ear(ear.nal_r(signal, model.levels) if model.add_nal_r else signal)
                eights = np.arange(BANDS).reshape(-1, LANES)
                self._control = np.concatenate([ear.control_rms(middle, bands) for bands in eights])
                bandwidth = ear.adjusted_bandwidth(self._control, self._ear, model.level1, slice(None))
                self._late = ear.group_delays(bandwidth)
                self._middle = middle

    def _compare_group(
        self, g: int, x: _Group, middle: Floats, rows: NDArray[np.float32]
    ) -> tuple[Floats, Floats, Floats]:
        """Smoothed envelope, (band, segment), covariances, (band, segment), and level, (band,), of a group."""
        bands, model = self._bands[g], self.model
        control = ear.control_rms(middle, bands)
        y = ear.filter_bands(middle, self._ear, model.level1, bands, control, rows)
        energies = np.sqrt(x.energy * y.energy)
        delays = alignment.band_delays(x.envelope, y.envelope, x.motion, y.motion, energies)
        kernels.shift_rows(y.envelope, delays[0])
        kernels.shift_rows(y.motion, delays[1])
        if x.neural is None:
            x.neural = x.motion  # which is not needed any more
            self._finish_reference(g, x)
        smooth = self._to_neural(y.envelope, y.motion, g)
        self._add_noise(y.motion, BANDS + bands[0])
        once = bands[: self._width]
        audible = self._tiles_db_sl[once] > features.SILENCE_DB_SL
        covariances = features.covariance(x.neural, y.motion, self._late[once], audible)
        return smooth[: self._width], covariances, y.level_db_sl[: self._width]

    def _reference_group(self, g: int, rows: NDArray[np.float32]) -> _Group:
        with self._group_locks[g]:
            group = self._groups[g]
            if group is None:
                bands = self._bands[g]
                assert self._middle is not None  # `_filter_reference` has run
                rows = np.empty((2, self._width, self.samples), np.float32) if self._keep else rows
                x = ear.filter_bands(self._middle, self._ear, self.model.level1, bands, self._control[bands], rows)
                self._level_db_sl[bands] = x.level_db_sl
                group = _Group(x.envelope, x.motion, x.energy, None)
                if self._keep:
                    group.neural = x.motion.copy()
                    self._finish_reference(g, group)
                    self._groups[g] = group
            return group

    def _finish_reference(self, g: int, group: _Group) -> None:
        """Turn ``group.neural`` from motion into the neural response; keep what is small."""
        assert group.neural is not None
        bands, once = self._bands[g], self._bands[g][: self._width]
        self._smooth[bands] = self._to_neural(group.envelope, group.neural, g)
        self._add_noise(group.neural, bands[0])
        self._tiles_db_sl[once] = features.segment_level(features.segment_power(group.neural, self._late[once]))

    def _to_neural(self, envelope: NDArray[np.float32], motion: NDArray[np.float32], g: int) -> Floats:
        bands = self._bands[g]
        sums = ear.to_neural(
            envelope, motion, self._ear, self.model.level1, bands, self._late[bands], features.envelope_window()
        )
        return features.smooth_envelope(*sums, self.samples)

    def _add_noise(self, motion: NDArray[np.float32], first: int) -> None:
        gain = ear.noise_gain(self.model.level1)
        for row, place in zip(motion, range(first, first + self._width), strict=True):
            if self.rows is not None:
                self.rows.add_to(row, gain, place)
            elif self.model.noise == "hashed":
                add_hashed(row, gain, self.model.seed, place)
