"""Listeners and their audiograms: loading with checks, averages, severity, and standard audiograms.

`Audiogram` and `Listener` are pyclarity's own classes, so that everything here works with pyclarity and the reverse.
Thresholds are in dB HL; between measured frequencies they are interpolated linearly on a log-frequency axis, as
pyclarity does.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from clarity.utils.audiogram import Audiogram, Listener

from cadenza_lib.errors import CorpusError, ParameterError
from cadenza_lib.files import read_json

__all__ = [
    "BISGAARD_FREQUENCIES",
    "BISGAARD_THRESHOLDS_DB_HL",
    "EARS",
    "LOW_FREQUENCY_BAND",
    "PTA4_FREQUENCIES",
    "SEVERITY_CLASSES",
    "Audiogram",
    "Listener",
    "audiogram_table",
    "better_ear_pta_db_hl",
    "ear_audiogram",
    "ear_table",
    "load_listeners",
    "parse_listener",
    "pure_tone_average_db_hl",
    "severity_class",
    "spread_listeners",
    "standard_audiogram",
]

EARS = ("left", "right")

PTA4_FREQUENCIES = (500, 1000, 2000, 4000)
"""Frequencies of the pure-tone average in Hz."""

LOW_FREQUENCY_BAND = (500, 1000, 2000)
"""The paper's low-frequency band, 500-2000 Hz, at audiometric frequencies."""

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
        If the file cannot be read, or an audiogram is incomplete, not numeric, out of order or out of bounds.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise CorpusError(f"{path} must hold a non-empty object of listeners by id, not {type(content).__name__}.")
    return {name: parse_listener(entry, name, path) for name, entry in content.items()}


def parse_listener(entry: Any, name: str, source: Path | str) -> Listener:
    """Check one entry of a listener file and make a `Listener` of it; `source` is named in errors."""
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
        raise CorpusError(
            f"{where}: audiogram_cfs {frequencies.tolist()} must rise, each frequency once; sort it and its levels."
        )
    audiograms = []
    for ear, key in zip(EARS, _KEYS[2:], strict=True):
        levels = _numbers(entry[key], f"{where}: {key}")
        if len(levels) != len(frequencies):
            raise CorpusError(
                f"{where}: {key} has {len(levels)} thresholds for {len(frequencies)} frequencies; give one for each."
            )
        low, high = _THRESHOLD_BOUNDS_DB_HL
        outside = levels[(levels < low) | (levels > high)]
        if outside.size:
            worst = outside[0]
            raise CorpusError(
                f"{where}: {ear} threshold {worst:g} dB HL lies outside {low:g} to {high:g}; correct the audiogram."
            )
        audiograms.append(Audiogram(levels=levels, frequencies=frequencies))
    return Listener(audiogram_left=audiograms[0], audiogram_right=audiograms[1], id=name)


def standard_audiogram(name: str) -> Audiogram:
    """Return a Bisgaard standard audiogram: N1 to N7 (flat and moderately sloping) or S1 to S3 (steeply sloping)."""
    if name not in BISGAARD_THRESHOLDS_DB_HL:
        raise ParameterError(f"Standard audiogram {name!r} is unknown; use one of {list(BISGAARD_THRESHOLDS_DB_HL)}.")
    return Audiogram(
        levels=np.array(BISGAARD_THRESHOLDS_DB_HL[name], dtype=float),
        frequencies=np.array(BISGAARD_FREQUENCIES, dtype=float),
    )


def pure_tone_average_db_hl(audiogram: Audiogram, frequencies: Sequence[float] = PTA4_FREQUENCIES) -> float:
    """Return the mean threshold at `frequencies` in Hz, by default the four-frequency PTA.

    >>> float(pure_tone_average_db_hl(standard_audiogram("N3")))
    46.25
    """
    return float(np.mean(audiogram.resample(np.asarray(frequencies, dtype=float)).levels))


def better_ear_pta_db_hl(listener: Listener) -> float:
    """Return the lower of the two ears' four-frequency PTAs in dB HL."""
    return min(pure_tone_average_db_hl(ear_audiogram(listener, ear)) for ear in EARS)


def severity_class(pta_db_hl: float) -> str:
    """Return the class of a better-ear PTA in dB HL (Humes 2019, see `SEVERITY_CLASSES`).

    >>> severity_class(34.9), severity_class(35.0)
    ('mild', 'moderate')
    """
    for name, upper in SEVERITY_CLASSES:
        if pta_db_hl < upper:
            return name
    raise ParameterError(f"A PTA of {pta_db_hl} dB HL has no severity class; give a number.")


def spread_listeners(listeners: Mapping[str, Listener], n_listeners: int, wanted: Iterable[str] = ()) -> list[str]:
    """Return names spread evenly over pure-tone averages (mean of both ears), in the order of `listeners`.

    Among them is the listener with the largest difference between the ears, or in that one's place those `wanted`
    that there are.

    Raises
    ------
    ParameterError
        If there are fewer listeners.
    """
    if not 1 <= n_listeners <= len(listeners):
        raise ParameterError(f"n_listeners {n_listeners} must lie between 1 and {len(listeners)}, those there are.")
    pta = {
        name: [pure_tone_average_db_hl(ear_audiogram(listener, ear)) for ear in EARS]
        for name, listener in listeners.items()
    }
    special = [name for name in wanted if name in pta][:n_listeners] or [
        max(pta, key=lambda name: abs(pta[name][0] - pta[name][1]))
    ]
    others = sorted((name for name in pta if name not in special), key=lambda name: sum(pta[name]))
    places = np.linspace(0, len(others) - 1, n_listeners - len(special)).round().astype(int)
    chosen = {*special, *(others[place] for place in places)}
    return [name for name in listeners if name in chosen]


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
    (right minus left PTA), better_ear_pta_db_hl, severity.
    """
    columns = ["listener", "ear", "pta_db_hl", "low_db_hl", "high_db_hl", "slope_db_per_octave", "asymmetry_db"]
    rows = []
    for listener in listeners:
        pta = {ear: pure_tone_average_db_hl(ear_audiogram(listener, ear)) for ear in EARS}
        better = min(pta.values())
        for ear in EARS:
            audiogram = ear_audiogram(listener, ear)
            low = pure_tone_average_db_hl(audiogram, LOW_FREQUENCY_BAND)
            high = pure_tone_average_db_hl(audiogram, (2000, 3000, 4000, 6000, 8000))
            slope, asymmetry = _slope_db_per_octave(audiogram), pta["right"] - pta["left"]
            severity = severity_class(better)
            rows.append((listener.id, ear, pta[ear], low, high, slope, asymmetry, better, severity))
    return pd.DataFrame(rows, columns=[*columns, "better_ear_pta_db_hl", "severity"])


def _slope_db_per_octave(audiogram: Audiogram, low: float = 500, high: float = 4000) -> float:
    """Return how much the threshold rises per octave between two frequencies in Hz."""
    ends = audiogram.resample(np.array([low, high])).levels
    return float((ends[1] - ends[0]) / np.log2(high / low))


def _numbers(values: Any, where: str) -> np.ndarray:
    """Return a list of finite numbers as float64, or say which value is not one."""
    if not isinstance(values, list):
        raise CorpusError(f"{where} must be a list of numbers, not {type(values).__name__}.")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise CorpusError(f"{where} holds {value!r}, which is not a finite number; correct the audiogram.")
    return np.array(values, dtype=float)
