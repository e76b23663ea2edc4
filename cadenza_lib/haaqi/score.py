"""HAAQI: check the input, run the ear model on both signals, compare, and combine.

`HaaqiReference` holds what depends on the reference, the audiogram and the level alone, and scores any number of
processed signals; `compute_haaqi` is one use of it. Eight bands at a time go through the whole model, so that memory
does not grow with the number of bands, and groups of bands are what threads share.
"""

import logging
import multiprocessing
import os
import threading as thread_locks
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from clarity.utils.audiogram import Audiogram
from numpy.typing import ArrayLike, NDArray

from cadenza_lib.errors import AudioError, ParameterError
from cadenza_lib.haaqi import alignment, ear, features, kernels
from cadenza_lib.haaqi.ear import BANDS, Ear, Filtered
from cadenza_lib.haaqi.kernels import LANES
from cadenza_lib.haaqi.noise import LegacyStream, add_hashed

__all__ = ["Components", "HaaqiReference", "compute_haaqi", "haaqi_components"]

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Noise = Literal["pyclarity", "hashed"] | None
Seed = int | np.random.RandomState | None

GROUPS = [slice(first, first + LANES) for first in range(0, BANDS, LANES)]
BACK_UP = 48  # samples: the processed signal is left 2 ms late, to allow for dispersion
PRUNE_BELOW = 0.001  # of the reference's maximum: leading and trailing samples below this are cut off
SHORTEST = features.SEGMENT  # samples at 24 kHz; with fewer there is no whole BM segment
BYTES_PER_SAMPLE = 4 * LANES * 4  # of one group at work: envelope and motion, both signals, float32
WORKSPACE_BYTES = 2**29  # threads are not used beyond this, except the first one
KEPT_BYTES_PER_SAMPLE = 3 * BANDS * 4  # of a kept reference: envelope, motion, neural response
KEPT_BYTES = 2**30  # references that need more are computed again for each processed signal


@dataclass(frozen=True)
class Components:
    """A score and what it is made of."""

    score: float
    nonlinear: float  # 0.754 cepstral_correlation**3 + 0.246 fine_structure
    linear: float  # 0.329 loudness + 0.671 spectrum
    cepstral_correlation: float  # of envelope modulations from 20 to 125 Hz
    fine_structure: float  # cross-covariance of BM motion
    loudness: float  # 1 - difference in specific loudness
    spectrum: float  # 1 - relative difference in specific loudness


def compute_haaqi(
    processed_signal: ArrayLike,
    reference_signal: ArrayLike,
    processed_sample_rate: float,
    reference_sample_rate: float,
    audiogram: Audiogram,
    equalisation: int = 1,
    level1: float = 65.0,
    *,
    seed: Seed = None,
    noise: Noise = "pyclarity",
    threads: int | None = None,
) -> float:
    """Hearing-Aid Audio Quality Index of one ear: pyclarity's number, faster."""
    reference, processed = np.asarray(reference_signal), np.asarray(processed_signal)
    if reference.size == 0:
        return 1.0 if processed.size == 0 else 0.0
    return haaqi_components(
        processed_signal, reference_signal, processed_sample_rate, reference_sample_rate, audiogram, equalisation,
        level1, seed=seed, noise=noise, threads=threads,
    ).score  # fmt: skip


def haaqi_components(
    processed_signal: ArrayLike,
    reference_signal: ArrayLike,
    processed_sample_rate: float,
    reference_sample_rate: float,
    audiogram: Audiogram,
    equalisation: int = 1,
    level1: float = 65.0,
    *,
    seed: Seed = None,
    noise: Noise = "pyclarity",
    threads: int | None = None,
) -> Components:
    """Score as `compute_haaqi` does, with the parts it is made of (pyclarity's `haaqi_v1`)."""
    generator = seed if isinstance(seed, np.random.RandomState) else np.random.mtrand._rand if seed is None else None
    reference = HaaqiReference(
        reference_signal, reference_sample_rate, audiogram, equalisation, level1,
        seed=seed, noise=noise, threads=threads, keep=False,
    )  # fmt: skip
    result = reference.components(processed_signal, processed_sample_rate)
    if noise == "pyclarity" and generator is not None:
        generator.set_state(reference.state_after)
    return result


class HaaqiReference:
    """A reference signal at one ear, ready to be compared with any number of processed signals."""

    def __init__(
        self,
        reference_signal: ArrayLike,
        sample_rate: float,
        audiogram: Audiogram,
        equalisation: int = 1,
        level1: float = 65.0,
        *,
        seed: Seed = None,
        noise: Noise = "pyclarity",
        threads: int | None = None,
        keep: bool = True,
    ) -> None:
        if noise not in ("pyclarity", "hashed", None):
            raise ParameterError(f'noise is {noise!r}: choose "pyclarity", "hashed" or None.')
        if equalisation not in (1, 2):
            raise ParameterError(
                f"equalisation is {equalisation!r}: give 1 to add NAL-R to the reference, or 2 if it has it already."
            )
        if not np.isfinite(level1):
            raise ParameterError(f"level1 is {level1}: give the dB SPL of a signal with RMS 1, such as 65.")
        self.level1 = float(level1)
        self.equalisation = equalisation
        self.noise = noise
        self.keep = keep
        self.threads = _threads(threads)
        self._levels = _levels(audiogram)
        self._ear = Ear.from_levels(self._levels)
        self._seed = 0 if seed is None else seed
        self._state = None
        if noise == "pyclarity":
            self._state = _generator_state(seed)
        elif isinstance(seed, np.random.RandomState):
            raise ParameterError(f"seed is a RandomState, which noise={noise!r} cannot use: give an integer.")
        self._signal = ear.resample(_signal(reference_signal, "reference"), _rate(sample_rate, "reference"))
        if not np.any(self._signal):
            raise AudioError("The reference is silent: HAAQI needs a reference that can be heard.")
        self._side: _Side | None = None
        self._lock = thread_locks.Lock()
        self.state_after: dict | None = None

    def score(self, processed: ArrayLike, sample_rate: float) -> float:
        """HAAQI of `processed`, (time,), against this reference."""
        return self.components(processed, sample_rate).score

    def score_many(self, processed: Iterable[tuple[ArrayLike, float]]) -> Iterator[float]:
        """HAAQI of each (signal, sample rate), in order, as they come."""
        for signal, sample_rate in processed:
            yield self.score(signal, sample_rate)

    def components(self, processed: ArrayLike, sample_rate: float) -> Components:
        """Score and its parts."""
        signal = ear.resample(_signal(processed, "processed"), _rate(sample_rate, "processed"))
        size = min(len(self._signal), len(signal))
        with self._lock:
            if self._side is None or self._side.size != size:
                self._side = _Side(self, size)
            side = self._side
        return side.compare(signal[:size])


class _Side:
    """The reference cut to the length of the processed signals, and what follows from it."""

    def __init__(self, owner: HaaqiReference, size: int) -> None:
        self.owner, self.size = owner, size
        reference = owner._signal[:size]
        above = np.flatnonzero(np.abs(reference) > PRUNE_BELOW * np.max(np.abs(reference), initial=0.0))
        if len(above) == 0:
            raise AudioError(
                f"The first {size} samples of the reference at 24 kHz, to which the processed signal cuts it, are silent."
            )
        self.kept = slice(above[0], above[-1] + 1)
        pruned = reference[self.kept]
        if len(pruned) < SHORTEST:
            raise AudioError(
                f"The signals have {len(pruned)} samples at 24 kHz in common, without the silence at either end of the "
                f"reference: HAAQI needs {SHORTEST} (16 ms)."
            )
        self.samples = len(pruned)
        self.centred = reference - reference.mean()
        self.spectrum = alignment.broadband_spectrum(self.centred)
        self.middle = ear.middle_ear(ear.nal_r(pruned, owner._levels) if owner.equalisation == 1 else pruned)
        self.bandwidth = np.empty(BANDS)
        self.level_db_sl = np.empty(BANDS)

    def compare(self, processed: Floats) -> Components:
        owner = self.owner
        centred = processed - processed.mean()
        delay = alignment.broadband_delay(self.centred, centred, self.spectrum, alignment.broadband_spectrum(centred))
        aligned = np.zeros((1, self.size))
        aligned[0] = processed
        kernels.shift_rows(aligned, np.array([delay - BACK_UP]))
        middle = ear.middle_ear(aligned[0, self.kept])
        # pass 1
        streams = _Streams(owner._state, self.samples) if owner.noise == "pyclarity" else None
        parts = []
        filtered = [ear.filter_bands(self.middle, owner._ear, owner.level1, b) for b in GROUPS]
        bandwidth = np.concatenate([f.bandwidth for f in filtered])
        late = ear.group_delays(bandwidth)
        window = features.envelope_window()
        sx, sy, lx, ly, cv, rms = [], [], [], [], [], []
        for g, bands in enumerate(GROUPS):
            x = filtered[g]
            y = ear.filter_bands(middle, owner._ear, owner.level1, bands)
            delays = alignment.band_delays(x.envelope, y.envelope, x.motion, y.motion)
            kernels.shift_rows(y.envelope, delays[0])
            kernels.shift_rows(y.motion, delays[1])
            for k, (f, out, lv) in enumerate(((x, sx, lx), (y, sy, ly))):
                r, fl = ear.to_neural(f.envelope, f.motion, owner._ear, owner.level1, bands, late[bands], window)
                out.append(features.smooth_envelope(r, fl, self.samples))
                lv.append(f.level_db_sl)
                self._add_noise(f.motion, k, bands, streams)
            power = features.segment_power(x.motion, late[bands])
            level = features.segment_level(power)
            rms.append(level)
            cv.append(features.covariance(x.motion, y.motion, late[bands], level > features.SILENCE_DB_SL))
        sx, sy, cv, rms = map(np.concatenate, (sx, sy, cv, rms))
        lx, ly = np.concatenate(lx), np.concatenate(ly)
        audible = features.audible_segments(sx)
        ceps = 0.0
        if len(audible) > 1:
            ceps = features.cepstral_correlation(features.cepstra(sx, audible), features.cepstra(sy, audible))
        if streams is not None:
            owner.state_after = streams.end(len(audible))
        return _combine(ceps, features.fine_structure_similarity(cv, rms), *features.spectral_differences(lx, ly))

    def _add_noise(self, motion, signal, bands, streams):
        gain = ear.noise_gain(self.owner.level1)
        for k, band in enumerate(range(bands.start, bands.stop)):
            if streams is not None:
                streams.add_to(motion[k], signal, band, gain)
            elif self.owner.noise == "hashed":
                add_hashed(motion[k], gain, self.owner._seed, signal * BANDS + band)


class _Streams:
    """numpy's stream of normals, cut into the bands of the reference and then of the processed signal."""

    def __init__(self, state: dict, samples: int) -> None:
        self.samples = samples
        self.starts = {0: LegacyStream(state)}
        self._lock = thread_locks.Lock()

    def at(self, place: int) -> LegacyStream:
        """Return a stream at the start of row `place`; a start that is not known yet is found from the one before."""
        with self._lock:
            known = max(p for p in self.starts if p <= place)
            stream = self.starts[known].copy()
            if known < place:
                stream.skip((place - known) * self.samples)
                self.starts[place] = stream.copy()
            return stream

    def add_to(self, row: NDArray[np.float32], signal: int, band: int, gain: float) -> None:
        place = signal * BANDS + band
        stream = self.at(place)
        stream.add_to(row, gain)
        with self._lock:
            self.starts[place + 1] = stream

    def end(self, audible: int) -> dict:
        """State after the score; pyclarity also draws, and multiplies by zero, noise for the cepstra."""
        stream = self.at(2 * BANDS)
        if audible > 1:
            stream.skip(2 * BANDS * audible)
        return stream.state()


def _combine(cepstral: float, fine: float, loudness_std: float, spectrum_std: float) -> Components:
    """Kates and Arehart's polynomial."""
    loudness = min(max(1.0 - loudness_std / 2.5, 0.0), 1.0)
    spectrum = min(max(1.0 - spectrum_std / 25.0, 0.0), 1.0)
    nonlinear = 0.754 * cepstral**3 + 0.246 * fine
    linear = 0.329 * loudness + 0.671 * spectrum
    score = 0.336 * nonlinear + 0.001 * linear + 0.501 * nonlinear**2 + 0.161 * linear**2
    return Components(score, nonlinear, linear, cepstral, fine, loudness, spectrum)


def _signal(signal: ArrayLike, name: str) -> NDArray:
    array = np.asarray(signal)
    if array.ndim != 1:
        raise AudioError(f"The {name} signal has shape {array.shape}: HAAQI scores one ear, shape (time,), at a time.")
    if array.dtype.kind not in "fiu":
        raise AudioError(f"The {name} signal is of type {array.dtype}: give real numbers.")
    if array.size == 0:
        raise AudioError(f"The {name} signal is empty.")
    if not np.all(np.isfinite(array)):
        raise AudioError(f"The {name} signal holds NaN or infinity: repair it before scoring.")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _rate(sample_rate: float, name: str) -> float:
    if not np.isfinite(sample_rate) or np.round(sample_rate / 1000) < 1:
        raise ParameterError(f"The {name} signal's sample rate is {sample_rate} Hz: give at least 1000 Hz.")
    return float(sample_rate)


def _levels(audiogram: Audiogram) -> Floats:
    levels = np.asarray(audiogram.resample(ear.AUDIOGRAM_FREQUENCIES).levels, np.float64)
    if not np.all(np.isfinite(levels)):
        raise ParameterError(f"The audiogram's levels are {audiogram.levels} dB HL: give a number at each frequency.")
    return levels


def _generator_state(seed: Seed) -> dict:
    generator = np.random.mtrand._rand if seed is None else seed
    if not isinstance(generator, np.random.RandomState):
        generator = np.random.RandomState(generator)
    state = generator.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise ParameterError(f'noise="pyclarity" needs a Mersenne twister, not {state["bit_generator"]}: use "hashed".')
    return state


def _threads(threads: int | None) -> int:
    return threads or 1
