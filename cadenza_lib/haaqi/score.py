"""HAAQI as it is called: check the input, compare, combine.

Conventions: signals are (time,) of one ear, rates are in Hz, `level1` is the dB SPL of a signal whose RMS is 1. The
package docstring lists where pyclarity's behaviour is odd and what is done about it.
"""

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from clarity.utils.audiogram import Audiogram
from numpy.typing import ArrayLike, NDArray

from cadenza_lib.core.errors import AudioError, ParameterError
from cadenza_lib.haaqi import ear, kernels
from cadenza_lib.haaqi.comparison import Features, Model, ReferenceSide
from cadenza_lib.haaqi.ear import BANDS
from cadenza_lib.haaqi.noise import LegacyRows

__all__ = ["Components", "HaaqiReference", "compute_haaqi", "haaqi_components"]

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Noise = Literal["pyclarity", "hashed"] | None
Seed = int | np.random.RandomState | None

LOUDNESS_RANGE, SPECTRUM_RANGE = 2.5, 25.0  # differences of specific loudness that make these parts of the score zero


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
    """Return the Hearing-Aid Audio Quality Index of one ear: pyclarity's number, many times faster.

    Parameters
    ----------
    processed_signal, reference_signal : (time,)
        What the listener hears, and the clean original. The longer one is cut to the length of the shorter one.
    processed_sample_rate, reference_sample_rate : float
        In Hz, rounded to whole kHz: resample to 24 kHz first if the rate is something like 44.1 kHz.
    audiogram : clarity.utils.audiogram.Audiogram
        Hearing thresholds in dB HL, interpolated to 250, 500, 1000, 2000, 4000 and 6000 Hz.
    equalisation : 1 or 2
        1: add NAL-R to the reference. 2: it has been added already.
    level1 : float
        Level in dB SPL of a signal whose RMS is 1.
    seed : int, numpy.random.RandomState or None
        Of the internal noise. With pyclarity's noise, an integer means a generator of its own, a `RandomState` is
        used and advanced, and None means numpy's global generator, which is advanced as pyclarity would. With hashed
        noise, an integer; None is 0.
    noise : "pyclarity", "hashed" or None
        The same draws as pyclarity's; a cheaper noise of the same level; or none, which is not quite HAAQI.
    threads : int or None
        None: as many as this process may use (the cores it is bound to, or OMP_NUM_THREADS), but one in a worker
        process or thread. More than four do not help. The score does not depend on it.

    Returns
    -------
    float
        From 0 (bad) to 0.999 (as good as the reference); 1 if both signals are empty.

    Raises
    ------
    AudioError
        If a signal is not (time,) of finite real numbers, the reference is silent, or fewer than 16 ms are left.
    ParameterError
        If another argument is out of bounds.

    Examples
    --------
    >>> from clarity.utils.audiogram import AUDIOGRAM_MILD
    >>> chirp = np.sin(np.linspace(0, 400, 24000) ** 1.5)
    >>> clipped = np.clip(chirp, -0.5, 0.5)
    >>> for signal in (chirp, clipped):
    ...     print(f"{compute_haaqi(signal, chirp, 24000, 24000, AUDIOGRAM_MILD, 2, 70.0, seed=0):.2f}")
    1.00
    0.38
    """
    reference, processed = np.asarray(reference_signal), np.asarray(processed_signal)
    if reference.size == 0:  # as in pyclarity
        return 1.0 if processed.size == 0 else 0.0
    return haaqi_components(
        processed, reference, processed_sample_rate, reference_sample_rate, audiogram, equalisation, level1,
        seed=seed, noise=noise, threads=threads,
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
    """Return the score of `compute_haaqi` and what it is made of, like pyclarity's `haaqi_v1`; see there."""
    reference = HaaqiReference(
        reference_signal, reference_sample_rate, audiogram, equalisation, level1,
        seed=seed, noise=noise, threads=threads, keep=False,
    )  # fmt: skip
    result = reference.components(processed_signal, processed_sample_rate)
    if noise == "pyclarity" and (seed is None or isinstance(seed, np.random.RandomState)):
        (seed or np.random).set_state(reference.state_after())
    return result


class HaaqiReference:
    """A reference signal at one ear, to be compared with any number of processed signals.

    The first score computes what depends on the reference alone; further ones cost about half. Signals that are
    shorter than the reference cut it, as in pyclarity, and a new length means a new start. 9 MB are kept for each
    second of audio; references longer than two minutes are not kept but computed again.

    Parameters
    ----------
    reference_signal : (time,)
        The clean signal.
    sample_rate : float
        In Hz.
    audiogram, equalisation, level1, noise, threads
        As for `compute_haaqi`.
    seed : int, numpy.random.RandomState or None
        As for `compute_haaqi`, but the generator's state is copied now and the generator is not advanced: all
        processed signals are compared under the same noise.
    keep : bool
        Whether to keep the reference's bands in memory at all.

    Raises
    ------
    AudioError, ParameterError
        As `compute_haaqi`.

    Examples
    --------
    >>> from clarity.utils.audiogram import AUDIOGRAM_MILD
    >>> chirp = np.sin(np.linspace(0, 400, 24000) ** 1.5)
    >>> reference = HaaqiReference(chirp, 24000, AUDIOGRAM_MILD, 2, 70.0, seed=0)
    >>> candidates = ((np.clip(chirp, -limit, limit), 24000) for limit in (0.9, 0.5, 0.1))
    >>> [f"{score:.2f}" for score in reference.score_many(candidates)]
    ['0.53', '0.38', '0.19']
    """

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
        check_model(equalisation, level1)
        self._model = Model(
            levels=audiogram_levels(audiogram),
            add_nal_r=equalisation == 1,
            level1=float(level1),
            noise=noise,
            seed=np.uint64(_integer_seed(seed or 0)) if noise == "hashed" else np.uint64(0),
            state=_generator_state(seed) if noise == "pyclarity" else None,
            threads=_threads(threads),
            keep=keep,
        )
        signal = ear.resample(_signal(reference_signal, "reference"), check_rate(sample_rate, "reference"))
        self._signal = signal.copy() if keep else signal  # the caller may write into it before the next score
        if not np.max(np.abs(self._signal)) > 0.0:  # zero, or NaN from resampling silence
            raise AudioError("The reference signal is silent: HAAQI needs a reference that can be heard.")
        self._side: ReferenceSide | None = None
        self._lock = threading.Lock()
        self._last: tuple[LegacyRows, int] | None = None
        _announce_compilation()

    def score(self, processed: ArrayLike, sample_rate: float) -> float:
        """Return HAAQI of `processed`, (time,), against this reference."""
        return self.components(processed, sample_rate).score

    def score_many(self, processed: Iterable[tuple[ArrayLike, float]]) -> Iterator[float]:
        """Yield HAAQI of each (signal, sample rate) as soon as it is computed."""
        for signal, sample_rate in processed:
            yield self.score(signal, sample_rate)

    def components(self, processed: ArrayLike, sample_rate: float) -> Components:
        """Return HAAQI of `processed` against this reference, and what it is made of."""
        signal = ear.resample(_signal(processed, "processed"), check_rate(sample_rate, "processed"))
        if not np.all(np.isfinite(signal)):
            raise AudioError(
                "The processed signal is silent, and at rates other than 24 kHz HAAQI divides by its level."
            )
        size = min(len(self._signal), len(signal))
        with self._lock:
            if self._side is None or self._side.size != size:
                self._side = ReferenceSide(self._signal[:size], self._model)
            side = self._side
            if not self._model.keep:
                self._side = None
        features = side.compare(signal[:size])
        if side.rows is not None:
            self._last = side.rows, features.audible_segments
        return _combine(features)

    def state_after(self) -> dict[str, Any]:
        """Return the state in which pyclarity would have left numpy's generator after the latest score."""
        if self._last is None:
            raise ParameterError('Nothing has been scored with noise="pyclarity" yet: score a signal first.')
        rows, audible = self._last
        stream = rows.start(2 * BANDS)
        if audible > 1:  # pyclarity draws noise for the cepstra, too, and multiplies it by zero
            stream.skip(2 * BANDS * audible)
        return stream.state()


def combine(cepstral_correlation: Any, fine_structure: Any, loudness: Any, spectrum: Any) -> tuple[Any, Any, Any]:
    """Return the combined, nonlinear and linear model of Kates and Arehart 2016, of numbers or tensors."""
    nonlinear = 0.754 * cepstral_correlation**3 + 0.246 * fine_structure
    linear = 0.329 * loudness + 0.671 * spectrum
    score = 0.336 * nonlinear + 0.001 * linear + 0.501 * nonlinear**2 + 0.161 * linear**2
    return score, nonlinear, linear


def _combine(features: Features) -> Components:
    correlation, fine_structure = features.cepstral_correlation, features.fine_structure
    loudness = min(max(1.0 - features.loudness_difference / LOUDNESS_RANGE, 0.0), 1.0)
    spectrum = min(max(1.0 - features.spectrum_difference / SPECTRUM_RANGE, 0.0), 1.0)
    scores = combine(correlation, fine_structure, loudness, spectrum)
    return Components(*scores, correlation, fine_structure, loudness, spectrum)


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


def check_model(equalisation: int, level1: float | Sequence[float]) -> None:
    """Refuse an `equalisation` or `level1` that HAAQI does not have."""
    if equalisation not in (1, 2):
        raise ParameterError(
            f"equalisation is {equalisation!r}: give 1 to add NAL-R to the reference, or 2 if it has it already."
        )
    if not np.all(np.isfinite(level1)):
        raise ParameterError(f"level1 is {level1}: give the dB SPL of a signal with RMS 1, such as 65.")


def check_rate(sample_rate: float, name: str) -> float:
    """Return the sample rate in Hz of a signal, or refuse it."""
    if not np.isfinite(sample_rate) or np.round(sample_rate / 1000) < 1:
        raise ParameterError(f"The {name} signal's sample rate is {sample_rate} Hz: give at least 1000 Hz.")
    return float(sample_rate)


def audiogram_levels(audiogram: Audiogram) -> Floats:
    """Return the hearing thresholds in dB HL at `ear.AUDIOGRAM_FREQUENCIES`: (6,)."""
    levels = np.asarray(audiogram.resample(ear.AUDIOGRAM_FREQUENCIES).levels, np.float64)
    if not np.all(np.isfinite(levels)):
        raise ParameterError(f"The audiogram's levels are {audiogram.levels} dB HL: give a number at each frequency.")
    return levels


def _integer_seed(seed: Any) -> int:
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ParameterError(f"seed is {seed!r}: give an integer from 0 to 2**32 - 1, or None.")
    return int(seed)


def _generator_state(seed: Seed) -> dict[str, Any]:
    if seed is None:
        state = np.random.get_state(legacy=False)
    elif isinstance(seed, np.random.RandomState):
        state = seed.get_state(legacy=False)
    else:
        state = np.random.RandomState(_integer_seed(seed)).get_state(legacy=False)
    assert isinstance(state, dict)
    if state["bit_generator"] != "MT19937":
        raise ParameterError(f'noise="pyclarity" needs a Mersenne twister, not {state["bit_generator"]}: use "hashed".')
    return state


def _threads(threads: int | None) -> int:
    if threads is not None:
        if threads < 1:
            raise ParameterError(f"threads is {threads}: give at least 1, or None to let the process decide.")
        return int(threads)
    # Whoever runs many scores at once has already shared out the cores.
    if multiprocessing.parent_process() is not None or threading.current_thread() is not threading.main_thread():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(limit)) if limit.isdigit() and int(limit) > 0 else cores


def _announce_compilation() -> None:
    """Log that the first score takes ten seconds or so if the kernels are not on disk yet."""
    folder = kernels.neural.stats.cache_path
    if kernels.neural.signatures or (folder and any(Path(folder).glob("kernels.neural-*.nbi"))):
        return
    where, when = (f" into {folder}", "once") if folder else ("", "in each process, because no directory can keep them")
    logger.warning("Compiling HAAQI's kernels%s: this takes ten seconds or so, %s.", where, when)
