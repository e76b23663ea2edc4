"""Listeners drawn with the challenge's distribution of hearing losses.

`data/README.md` lists the sources of the numbers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadenza_lib.data.listeners import (
    AUDIOGRAM_FREQUENCIES,
    BISGAARD_FREQUENCIES,
    BISGAARD_THRESHOLDS_DB_HL,
    PTA4_FREQUENCIES,
    listener_entry,
)

__all__ = ["sample_listeners"]

_BETTER_EAR_SHARES = {25: 0.11, 30: 0.37, 40: 0.34, 50: 0.18}  # by lower end in dB HL; the challenge's, up to 60
_ASYMMETRY_DB = 7.0  # mean difference between the ears' averages; exponential, so 6 % have 20 dB and more
_TILT_DB, _EAR_TILT_DB = 16.0, 5.0  # deviations from 500 Hz to 4 kHz; the first is common to both ears
_RIPPLE_DB, _EAR_RIPPLE_DB = 4.0, 4.0  # deviations at each frequency, the first common to both ears
_LOUDEST_THRESHOLD_DB_HL = 80.0  # as in the challenge


def sample_listeners(count: int, seed: int, prefix: str = "listener") -> dict[str, dict[str, Any]]:
    """Draw listeners, as the challenge's files hold them.

    A person's audiogram is the standard one, N1 to N6, of the pure-tone average that was drawn (Bisgaard, Vlaming and
    Dahlquist 2010; see `listeners.BISGAARD_THRESHOLDS_DB_HL`), tilted and rippled at random, in steps of 5 dB.
    """
    generator = np.random.default_rng(seed)
    borders = np.cumsum([0, *_BETTER_EAR_SHARES.values()])
    listeners = {}
    for number in range(count):
        decade = np.searchsorted(borders, (number + 0.5) / count, side="right") - 1
        low = list(_BETTER_EAR_SHARES)[decade]
        better = -1.0
        while not low <= better < (low // 10 + 1) * 10:
            ears = _draw_ears(generator, generator.uniform(low, (low // 10 + 1) * 10))
            better = min(_pure_tone_average(ear) for ear in ears)
        name = f"{prefix}{number + 1:02d}"
        listeners[name] = listener_entry(name, AUDIOGRAM_FREQUENCIES, *(ear.tolist() for ear in ears))
    return listeners


def _draw_ears(generator: np.random.Generator, average_db_hl: float) -> list[NDArray[np.float64]]:
    """Draw the thresholds of both ears, of which the better one has about the average."""
    octaves = np.log2(np.array(AUDIOGRAM_FREQUENCIES) / 1414) / 3  # 1 from 500 Hz to 4 kHz, 0 in the middle
    tilt, ripple = _TILT_DB * generator.normal(), _RIPPLE_DB * generator.normal(size=len(octaves))
    averages = average_db_hl + np.array([0, generator.exponential(_ASYMMETRY_DB)])
    ears = []
    for average in generator.permutation(averages):
        shape = (tilt + _EAR_TILT_DB * generator.normal()) * octaves
        shape += ripple + _EAR_RIPPLE_DB * generator.normal(size=len(octaves))
        ears.append(np.clip(5 * np.round(_standard_thresholds(average, shape) / 5), 0, _LOUDEST_THRESHOLD_DB_HL))
    return ears


def _standard_thresholds(average_db_hl: float, shape: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard audiogram of a pure-tone average, interpolated, plus a shape that leaves the average."""
    table = np.array([BISGAARD_THRESHOLDS_DB_HL[f"N{number}"] for number in range(1, 7)])
    table = table[:, np.isin(BISGAARD_FREQUENCIES, AUDIOGRAM_FREQUENCIES)]
    thresholds = [np.interp(average_db_hl, [*map(_pure_tone_average, table)], column) for column in table.T]
    return np.array(thresholds) + shape - _pure_tone_average(shape)


def _pure_tone_average(thresholds: NDArray[np.float64]) -> float:
    """Return the average of `PTA4_FREQUENCIES` of thresholds at `AUDIOGRAM_FREQUENCIES`."""
    return float(thresholds[np.isin(AUDIOGRAM_FREQUENCIES, PTA4_FREQUENCIES)].mean())
