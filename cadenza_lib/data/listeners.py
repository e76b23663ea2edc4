"""Listeners and their audiograms: loading with checks, averages, severity, and standard audiograms.

`Audiogram` and `Listener` are pyclarity's own classes, so that everything here works with pyclarity and the reverse.
Thresholds are in dB HL at frequencies in Hz; between measured frequencies they are interpolated linearly on a
log-frequency axis, as pyclarity does. Averages and slopes use no threshold beyond the measured frequencies: where they
would need one they are NaN. (NAL-R and HAAQI, as pyclarity defines them, take the nearest measured threshold there.)
"""

import logging
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from clarity.utils.audiogram import Audiogram, Listener

from cadenza_lib.core.conventions import EARS
from cadenza_lib.core.documents import read_metadata
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.identity import digest

__all__ = [
    "ASYMMETRY_DB", "AUDIOGRAM_FREQUENCIES", "BISGAARD_FREQUENCIES", "BISGAARD_THRESHOLDS_DB_HL", "FREQUENCY_BOUNDS_HZ",
    "PTA4_FREQUENCIES", "SEVERITY_CLASSES", "Audiogram", "Listener", "audiogram_identity", "audiogram_table",
    "better_ear_pta_db_hl", "ear_audiogram", "ear_table", "listener_entry", "load_listeners", "measurement_note",
    "parse_listener", "pure_tone_average_db_hl", "severity_class", "spread_listeners", "standard_audiogram",
]  # fmt: skip

_LOGGER = logging.getLogger(__name__)

AUDIOGRAM_FREQUENCIES = (250, 500, 1000, 2000, 3000, 4000, 6000, 8000)
"""Frequencies of the challenge's audiograms in Hz, among them all that NAL-R and HAAQI read."""

PTA4_FREQUENCIES = (500, 1000, 2000, 4000)
"""Frequencies of the pure-tone average in Hz."""

ASYMMETRY_DB = 15.0
"""Difference of the pure-tone averages from which a listener counts as asymmetric, in dB; a usual clinical bound."""

_LOW_FREQUENCY_BAND = (500, 1000, 2000)
"""The paper's low-frequency band, 500-2000 Hz, at audiometric frequencies."""

_HIGH_FREQUENCY_BAND = (2000, 3000, 4000, 6000, 8000)
"""Audiometric frequencies of the high-frequency average in Hz; those beyond the measured ones are left out."""

SEVERITY_CLASSES = (
    ("none", 20.0),
    ("mild", 35.0),
    ("moderate", 50.0),
    ("moderately severe", 65.0),
    ("severe", 80.0),
    ("profound", 95.0),
    ("complete", np.inf),
)
"""Name and upper bound (dB HL, exclusive) of each class of better-ear PTA: WHO grades as in Humes, "The World Health
Organization's hearing-impairment grading system", Int. J. Audiol. 58(1), 12-20, 2019."""

BISGAARD_FREQUENCIES = (250, 375, 500, 750, 1000, 1500, 2000, 3000, 4000, 6000, 8000)
"""Frequencies of the standard audiograms in Hz; 8 kHz repeats 6 kHz, which is the last that was published."""

BISGAARD_THRESHOLDS_DB_HL: Mapping[str, tuple[float, ...]] = {
    "N1": (10, 10, 10, 10, 10, 10, 15, 20, 30, 40, 40),
    "N2": (20, 20, 20, 22.5, 25, 30, 35, 40, 45, 50, 50),
    "N3": (35, 35, 35, 35, 40, 45, 50, 55, 60, 65, 65),
    "N4": (55, 55, 55, 55, 55, 60, 65, 70, 75, 80, 80),
    "N5": (65, 67.5, 70, 72.5, 75, 80, 80, 80, 80, 80, 80),
    "N6": (75, 77.5, 80, 82.5, 85, 90, 90, 95, 100, 100, 100),
    "N7": (90, 92.5, 95, 100, 105, 105, 105, 105, 105, 105, 105),
    "S1": (10, 10, 10, 10, 10, 10, 15, 30, 55, 70, 70),
    "S2": (20, 20, 20, 22.5, 25, 35, 55, 75, 95, 95, 95),
    "S3": (30, 30, 35, 47.5, 60, 70, 75, 80, 80, 85, 85),
}
"""Standard audiograms: Bisgaard, Vlaming and Dahlquist, "Standard audiograms for the IEC 60118-15 measurement
procedure", Trends in Amplification 14(2), 113-120, 2010."""

_THRESHOLD_BOUNDS_DB_HL = (-20.0, 130.0)  # beyond what any clinical audiometer produces
FREQUENCY_BOUNDS_HZ = (20.0, 20_000.0)  # what people hear; in kHz the same are 0.02 to 20, so no value is in doubt
_KEYS = ("name", "audiogram_cfs", "audiogram_levels_l", "audiogram_levels_r")


def load_listeners(path: Path | str) -> dict[str, Listener]:
    """Load and check a challenge listener file.

    Parameters
    ----------
    path
        A `listeners.*.json`: ``{"L0001": {"name", "audiogram_cfs", "audiogram_levels_l", "audiogram_levels_r"}}``.

    Returns
    -------
    dict
        Listeners by id, in the order of the file.

    Raises
    ------
    CorpusError
        If the file cannot be read, or an audiogram is incomplete, not numeric, out of order or out of bounds, such as
        frequencies in kHz.
    """
    content = read_metadata(path)
    if not isinstance(content, dict) or not content:
        raise CorpusError(f"{path} must hold a non-empty object of listeners by id, not {type(content).__name__}.")
    return {name: parse_listener(entry, name, path) for name, entry in content.items()}


def parse_listener(entry: Any, name: str, source: Path | str) -> Listener:
    """Return the `Listener` of an entry of a listener file, checked; errors name `source`."""
    where = f"{source}: listener {name}"
    if not isinstance(entry, dict):
        raise CorpusError(f"{where} must be an object with {', '.join(_KEYS)}, not {type(entry).__name__}.")
    missing = [key for key in _KEYS if key not in entry]
    if missing:
        raise CorpusError(f"{where} has no {missing[0]}; each listener needs {', '.join(_KEYS)}.")
    if entry["name"] != name:
        raise CorpusError(f"{where} is called {entry['name']!r} inside its entry; make the two names equal.")
    frequencies = _numbers(entry["audiogram_cfs"], f"{where}: audiogram_cfs")
    if len(frequencies) < 2 or frequencies[0] <= 0:
        raise CorpusError(f"{where}: audiogram_cfs {frequencies.tolist()} needs at least two frequencies above 0 Hz.")
    if (np.diff(frequencies) <= 0).any():
        raise CorpusError(f"{where}: audiogram_cfs {frequencies.tolist()} must rise; sort it and its levels.")
    lowest, highest = FREQUENCY_BOUNDS_HZ
    if frequencies[0] < lowest or frequencies[-1] > highest:
        hint = "they look like kHz, so multiply them by 1000" if frequencies[-1] <= lowest else "correct the audiogram"
        raise CorpusError(
            f"{where}: audiogram_cfs {frequencies.tolist()} must be frequencies in Hz, from {lowest:g} to {highest:g}; "
            f"{hint}."
        )
    audiograms = []
    for ear, key in zip(EARS, _KEYS[2:], strict=True):
        levels = _numbers(entry[key], f"{where}: {key}")
        if len(levels) != len(frequencies):
            counts = f"{len(levels)} thresholds for {len(frequencies)} frequencies"
            raise CorpusError(f"{where}: {key} has {counts}; give one for each.")
        low, high = _THRESHOLD_BOUNDS_DB_HL
        outside = levels[(levels < low) | (levels > high)]
        if outside.size:
            bounds = f"outside {low:g} to {high:g}"
            raise CorpusError(f"{where}: {ear} threshold {outside[0]:g} dB HL lies {bounds}; correct the audiogram.")
        audiograms.append(Audiogram(levels=levels, frequencies=frequencies))
    return Listener(audiogram_left=audiograms[0], audiogram_right=audiograms[1], id=name)


def listener_entry(
    name: str, frequencies: Sequence[float], left: Sequence[float], right: Sequence[float]
) -> dict[str, Any]:
    """Return a listener as the challenge's files hold it; the inverse of `parse_listener`."""
    return dict(zip(_KEYS, (name, list(frequencies), list(left), list(right)), strict=True))


def standard_audiogram(name: str) -> Audiogram:
    """Return a Bisgaard standard audiogram: N1 to N7 (flat and moderately sloping) or S1 to S3 (steeply sloping)."""
    if name not in BISGAARD_THRESHOLDS_DB_HL:
        raise ParameterError(f"Standard audiogram {name!r} is unknown; use one of {list(BISGAARD_THRESHOLDS_DB_HL)}.")
    return Audiogram(
        levels=np.array(BISGAARD_THRESHOLDS_DB_HL[name], dtype=float),
        frequencies=np.array(BISGAARD_FREQUENCIES, dtype=float),
    )


def pure_tone_average_db_hl(audiogram: Audiogram, frequencies: Sequence[float] = PTA4_FREQUENCIES) -> float:
    """Return the mean threshold at `frequencies` in Hz, by default the four-frequency PTA; NaN if any is not measured.

    >>> float(pure_tone_average_db_hl(standard_audiogram("N3")))
    46.25
    """
    return float(np.mean(_thresholds_db_hl(audiogram, frequencies)))


def better_ear_pta_db_hl(listener: Listener) -> float:
    """Return the lower of the two ears' four-frequency PTAs in dB HL, NaN if either is."""
    return float(np.min([pure_tone_average_db_hl(ear_audiogram(listener, ear)) for ear in EARS]))


def severity_class(pta_db_hl: float) -> str:
    """Return the class of a better-ear PTA in dB HL (Humes 2019, see `SEVERITY_CLASSES`).

    >>> severity_class(34.9), severity_class(35.0)
    ('mild', 'moderate')
    """
    for name, upper in SEVERITY_CLASSES:
        if pta_db_hl < upper:
            return name
    raise ParameterError(f"A PTA of {pta_db_hl} dB HL has no severity class; give a number.")


def spread_listeners(listeners: Mapping[str, Listener], n_listeners: int, preferred: Iterable[str] = ()) -> list[str]:
    """Return names spread evenly over pure-tone averages (mean of both ears), in the order of `listeners`.

    They include the listener with the largest difference between the ears, or instead those of `preferred` that exist.
    Listeners without a pure-tone average are left out, and a warning counts them.

    Raises
    ------
    ParameterError
        If the listeners are fewer.
    """
    averages = {
        name: [pure_tone_average_db_hl(ear_audiogram(listener, ear)) for ear in EARS]
        for name, listener in listeners.items()
    }
    pta = {name: ears for name, ears in averages.items() if not np.isnan(ears).any()}
    if not 1 <= n_listeners <= len(pta):
        raise ParameterError(
            f"n_listeners {n_listeners} must lie between 1 and {len(pta)}, those with a pure-tone average."
        )
    if len(pta) < len(listeners):
        _LOGGER.warning("%d of %d listeners have no pure-tone average.", len(listeners) - len(pta), len(listeners))
    special = [name for name in preferred if name in pta][:n_listeners] or [
        max(pta, key=lambda name: abs(pta[name][0] - pta[name][1]))
    ]
    others = sorted((name for name in pta if name not in special), key=lambda name: sum(pta[name]))
    places = np.linspace(0, len(others) - 1, n_listeners - len(special)).round().astype(int)
    chosen = {*special, *(others[place] for place in places)}
    return [name for name in listeners if name in chosen]


def audiogram_identity(listener: Listener) -> str:
    """Return the identity of a listener's audiograms; see `identity`."""
    audiograms = [ear_audiogram(listener, ear) for ear in EARS]
    return digest([[audiogram.frequencies.tolist(), audiogram.levels.tolist()] for audiogram in audiograms])


def ear_audiogram(listener: Listener, ear: str) -> Audiogram:
    """Return the audiogram of the ear called "left" or "right"."""
    if ear not in EARS:
        raise ParameterError(f"Ear {ear!r} is unknown; use one of {EARS}.")
    return listener.audiogram_left if ear == "left" else listener.audiogram_right


def audiogram_table(listeners: Iterable[Listener]) -> pd.DataFrame:
    """Return one row per listener, ear and measured frequency: listener, ear, frequency, threshold_db_hl."""
    rows = [
        (listener.id, ear, float(frequency), float(level))
        for listener in listeners
        for ear in EARS
        for frequency, level in zip(
            ear_audiogram(listener, ear).frequencies, ear_audiogram(listener, ear).levels, strict=True
        )
    ]
    return pd.DataFrame(rows, columns=["listener", "ear", "frequency", "threshold_db_hl"])


def ear_table(listeners: Iterable[Listener]) -> pd.DataFrame:
    """Return one row per listener and ear with its averages and the listener's severity class.

    Columns: listener, ear, pta_db_hl (0.5, 1, 2, 4 kHz), low_db_hl (500-2000 Hz), high_db_hl (2-8 kHz, where
    measured), slope_db_per_octave (from 500 to 4000 Hz, positive where the loss grows with frequency), asymmetry_db
    (right minus left PTA), better_ear_pta_db_hl, severity. What needs a threshold below or above the measured ones is
    NaN, and the severity None.
    """
    columns = ["listener", "ear", "pta_db_hl", "low_db_hl", "high_db_hl", "slope_db_per_octave", "asymmetry_db"]
    rows = []
    for listener in listeners:
        pta = {ear: pure_tone_average_db_hl(ear_audiogram(listener, ear)) for ear in EARS}
        better = better_ear_pta_db_hl(listener)
        severity = None if np.isnan(better) else severity_class(better)
        for ear in EARS:
            audiogram = ear_audiogram(listener, ear)
            low = pure_tone_average_db_hl(audiogram, _LOW_FREQUENCY_BAND)
            measured = pd.Series(_thresholds_db_hl(audiogram, _HIGH_FREQUENCY_BAND)).dropna()
            high = float(measured.mean())
            slope, asymmetry = _slope_db_per_octave(audiogram), pta["right"] - pta["left"]
            rows.append((listener.id, ear, pta[ear], low, high, slope, asymmetry, better, severity))
    return pd.DataFrame(rows, columns=[*columns, "better_ear_pta_db_hl", "severity"])


def measurement_note(listeners: Iterable[Listener]) -> str:
    """Return a note on averages that lack unmeasured thresholds, "" if all thresholds were measured.

    >>> measurement_note([Listener(standard_audiogram("N2"), standard_audiogram("N3"))])
    ''
    """
    people = list(listeners)
    ends = Counter(min(ear_audiogram(listener, ear).frequencies[-1] for ear in EARS) for listener in people)
    early = {frequency: count for frequency, count in sorted(ends.items()) if frequency < _HIGH_FREQUENCY_BAND[-1]}
    unknown = sum(bool(np.isnan(better_ear_pta_db_hl(listener))) for listener in people)
    parts = []
    if early:
        ends_at = ", ".join(f"{count} to {frequency / 1000:g} kHz" for frequency, count in early.items())
        parts.append(
            f"{sum(early.values())} of {len(people)} listeners are not measured to 8 kHz ({ends_at}), so their "
            f"high-frequency average ends there"
        )
    if unknown:
        parts.append(
            f"{unknown} of {len(people)} have no pure-tone average and slope, which need thresholds from 0.5 to 4 kHz"
        )
    return "; ".join(parts)


def _thresholds_db_hl(audiogram: Audiogram, frequencies: Sequence[float]) -> np.ndarray:
    """Return the thresholds at some frequencies in Hz, NaN below and above the measured ones."""
    points = np.asarray(frequencies, dtype=float)
    is_measured = (points >= audiogram.frequencies[0]) & (points <= audiogram.frequencies[-1])
    return np.where(is_measured, audiogram.resample(points).levels, np.nan)


def _slope_db_per_octave(audiogram: Audiogram, low: float = 500, high: float = 4000) -> float:
    """Return how much the threshold rises per octave between two frequencies in Hz."""
    ends = _thresholds_db_hl(audiogram, (low, high))
    return float((ends[1] - ends[0]) / np.log2(high / low))


def _numbers(values: Any, where: str) -> np.ndarray:
    """Return a list of finite numbers as float64, and refuse any other value."""
    if not isinstance(values, list):
        raise CorpusError(f"{where} must be a list of numbers, not {type(values).__name__}.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise CorpusError(f"{where} holds {value!r}, which is not a finite number; correct the audiogram.")
    return np.array(values, dtype=float)
