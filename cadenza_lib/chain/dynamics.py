"""Output stages that follow the level of the signal: a look-ahead limiter and a multi-band compressor.

Both multiply the signal by gains that vary in time, and smooth them by the branching peak detector of D. Giannoulis,
M. Massberg and J. D. Reiss, "Digital dynamic range compressor design - A tutorial and analysis", J. Audio Eng. Soc.
60(6), 399-408, 2012. Gradients take the gains as constants.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from torch import Tensor

from cadenza_lib.audio.acoustics import INT16_SCALE
from cadenza_lib.chain.fitting import filter_ears
from cadenza_lib.core.compiled import compiled
from cadenza_lib.core.conventions import OUTPUT_SAMPLE_RATE
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.listeners import Listener

__all__ = ["Compressor", "Limiter", "camfit"]

_CEILING = 1 - 1 / INT16_SCALE  # the largest sample of a 16-bit file
_MAX_LOOK_AHEAD_S, _MAX_RELEASE_S = 0.1, 10.0
_MIN_THRESHOLD_DB = -100.0

# The compressor of the Cadenza 2 baselines (`recipes/cad2/task1/baseline/config.yaml` of pyclarity).
_CENTRES = np.array([250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0])  # Hz
_CROSSOVERS = _CENTRES[:-1] * np.sqrt(2)  # Hz
_ATTACKS_S = (0.011, 0.011, 0.014, 0.013, 0.011, 0.011)
_RELEASES_S = (0.080, 0.080, 0.080, 0.080, 0.100, 0.100)
_FULL_SCALE_DB_SPL = 100.0
_CROSSOVER_TAPS = 1024  # 32 ms, after which less than 1e-19 is left of any band's impulse response


@dataclass(frozen=True)
class Limiter:
    """A brickwall limiter, whose gain falls ahead of each peak and recovers slowly.

    The largest reduction needed within the look-ahead is held, released exponentially in dB, and averaged over the
    length of the look-ahead, so that it rises linearly in dB and is there when the peak is. A whole file is limited,
    so that the output is not late. Until the first sample above full scale comes into view, the gain is exactly 1.

    Source: P. Hämäläinen, "Smoothing of the control signal without clipped output in digital peak limiters", Proc.
    DAFx-02, 195-198, 2002; and the module's, for the release.

    Raises
    ------
    ParameterError
        If a time lies outside its bounds.
    """

    name: str = "limiter"
    linked: bool = False  # whether both ears get the same gain, which keeps differences between them
    look_ahead_s: float = 0.005  # from 0 to 0.1
    release_s: float = 0.2  # time constant, above 0, at most 10
    is_16_bit: bool = True
    sample_rate: int = OUTPUT_SAMPLE_RATE

    def __post_init__(self) -> None:
        """Refuse times out of bounds."""
        if not 0 <= self.look_ahead_s <= _MAX_LOOK_AHEAD_S:
            raise ParameterError(f"look_ahead_s {self.look_ahead_s} must lie between 0 and {_MAX_LOOK_AHEAD_S:g} s.")
        if not 0 < self.release_s <= _MAX_RELEASE_S:
            raise ParameterError(f"release_s {self.release_s} must lie above 0 and be at most {_MAX_RELEASE_S:g} s.")

    def limit(self, signal: Tensor, _: Listener, /) -> Tensor:
        """Return the limited signal, nowhere above the largest value of 16 bits; see `OutputStage.limit`."""
        size = round(self.look_ahead_s * self.sample_rate) + 1
        peaks = signal.detach().cpu().double().abs().numpy()
        if self.linked:
            peaks = peaks.max(-2, keepdims=True)
        needed_db = 20 * np.log10(np.maximum(peaks, _CEILING) / _CEILING)
        held_db = maximum_filter1d(needed_db, size, mode="nearest", origin=-(size // 2))
        released_db = _smoothed(held_db, 0.0, self.release_s, self.sample_rate)
        reduction_db = uniform_filter1d(released_db, size, mode="nearest", origin=(size - 1) // 2)
        return signal * torch.from_numpy(10 ** (-reduction_db / 20)).to(signal)


@dataclass(frozen=True)
class Compressor:
    """The multi-band compressor of the Cadenza 2 baselines, with the listener's compression ratios after CAMFIT.

    Without `with_gain`, it follows a prescription and only reduces what is above the threshold in each of six bands.
    With it, the gain of CAMFIT is added, as in Cadenza 2, where nothing else amplifies: the prescription should be
    "none". What is above full scale then is clipped by the file. All bands pass the all-pass of the crossovers.

    Source: pyclarity's `MultibandCompressor`, whose result this is within its rounding (1e-7 of the peak); ratios and
    gains as in `camfit`.

    Raises
    ------
    ParameterError
        If the threshold lies outside its bounds.
    """

    name: str = "compressor"
    with_gain: bool = False
    threshold_db: float = -30.0  # of the level in each band re full scale, from -100 to 0
    is_16_bit: bool = True
    sample_rate: int = OUTPUT_SAMPLE_RATE

    def __post_init__(self) -> None:
        """Refuse a threshold out of bounds."""
        if not _MIN_THRESHOLD_DB <= self.threshold_db <= 0:
            raise ParameterError(
                f"threshold_db {self.threshold_db} must lie between {_MIN_THRESHOLD_DB:g} and 0 dB re full scale."
            )

    def limit(self, signal: Tensor, listener: Listener, /) -> Tensor:
        """Return the compressed signal, which may exceed full scale; see `OutputStage.limit`."""
        ratios, gains_db = camfit(listener, self.threshold_db + _FULL_SCALE_DB_SPL)
        compressed = torch.zeros_like(signal)
        for band, fir in enumerate(
            _crossover_firs(self.sample_rate)
        ):  # one after the other, since minutes of six would be large
            filtered = filter_ears(signal, fir)[..., : signal.shape[-1]]
            level_db = 20 * np.log10(np.maximum(filtered.detach().cpu().double().abs().numpy(), 1e-6))
            excess_db = np.maximum(level_db - self.threshold_db, 0) * (1 - 1 / ratios[:, band, None])
            gain_db = -_smoothed(excess_db, _ATTACKS_S[band], _RELEASES_S[band], self.sample_rate)
            if self.with_gain:
                gain_db += gains_db[:, band, None]
            compressed = compressed + filtered * torch.from_numpy(10 ** (gain_db / 20)).to(signal)
        return compressed


def camfit(listener: Listener, level_db_spl: float) -> tuple[np.ndarray, np.ndarray]:
    """Return compression ratios after CAMFIT, and its insertion gains in dB at a level in each band.

    Source: pyclarity's `gainrule_camfit_compr`, after B. C. J. Moore, J. I. Alcantara, M. A. Stone and B. R. Glasberg,
    "Use of a loudness model for hearing aid fitting: II. Hearing aids with multi-channel compression", British Journal
    of Audiology 33(3), 157-170, 1999.

    Shape:
        - result: each `(ear, band)`
    """
    low_db_spl = np.array([-200.0, -100.0])  # where the rule's bounds of gain and output do not hide its slope
    bands = {
        "frequencies": _CENTRES,
        "edge_frequencies": np.array([1e-8, *_CROSSOVERS, 1e7]),  # the outer ones are those of pyclarity's own bands
        "levels": np.append(low_db_spl, level_db_spl),
    }
    with _logging_as_it_is():
        from clarity.enhancer.gha.gainrule_camfit import gainrule_camfit_compr

        table, _, _ = gainrule_camfit_compr(listener.audiogram_left, listener.audiogram_right, bands)
    slope = (table[1] - table[0]) / np.diff(low_db_spl)  # (band, ear), of the gain against the level
    return 1 / (1 + slope.T), table[2].T


@contextmanager
def _logging_as_it_is() -> Iterator[None]:
    """Keep pyclarity's rule from setting up logging for the whole process, which a handler that is there prevents."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@cache
def _crossover_firs(sample_rate: int) -> Tensor:
    """Return the impulse response of each band of pyclarity's crossover, float64, `(band, tap)`."""
    from clarity.enhancer.multiband_compressor import Crossover  # which imports matplotlib

    impulse = np.eye(1, _CROSSOVER_TAPS)[0]
    return torch.from_numpy(Crossover(_CROSSOVERS, sample_rate)(impulse))


def _smoothed(level_db: np.ndarray, attack_s: float, release_s: float, sample_rate: int) -> np.ndarray:
    """Return levels `(..., time)` that follow others with one time constant upwards and another one downwards."""
    attack, release = (np.exp(-1 / (s * sample_rate)) if s else 0.0 for s in (attack_s, release_s))
    smoothed = np.empty_like(level_db)
    _follow(level_db.reshape(-1, level_db.shape[-1]), attack, release, smoothed.reshape(-1, level_db.shape[-1]))
    return smoothed


@compiled
def _follow(levels, attack, release, followed):  # type: ignore[no-untyped-def]
    """Write smoothed levels `(row, time)` to `followed`."""
    for row in range(len(levels)):
        state = 0.0
        for t in range(levels.shape[1]):
            level = levels[row, t]
            share = attack if level > state else release
            state = share * state + (1 - share) * level
            followed[row, t] = state
