"""Audiograms as people have them: the challenge's JSON, a table of a spreadsheet, or a typed text.

A table has one row for each ear (columns `listener`, `ear`, `250`, `500`, ...) or for each listener (`listener`,
`L250`, ..., `R250`, ...). Frequencies may be written as `250`, `250 Hz`, `0.25 kHz` or `1k`, ears as `left`, `L`,
`right` or `R`, in either case; other columns are ignored. A text is `L 250:20 500:25 1k:30 R 250:15 ...`.

Only the challenge's JSON must be complete. What tables and texts lack is supplied, and one warning says what:
unmeasured frequencies from their neighbours, an unmeasured ear from the other, and no response from the audiometer's
limit. Thresholds that are supplied count as measured in `data.listeners`.
"""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten

import numpy as np

from cadenza_lib.core.conventions import EARS
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.paths import normal_form
from cadenza_lib.core.tables import read_table
from cadenza_lib.data.listeners import AUDIOGRAM_FREQUENCIES, FREQUENCY_BOUNDS_HZ, Audiogram, Listener, load_listeners

__all__ = ["read_audiograms", "read_listener"]

_LOGGER = logging.getLogger(__name__)

_BOUNDS_DB_HL = (-10.0, 120.0)  # the range of clinical audiograms
_LIMITS_DB_HL = Audiogram(np.array([80.0, 100, 120, 120, 115, 100]), np.array([125.0, 250, 500, 4000, 6000, 8000]))
"""The loudest tones of a clinical audiometer: those of a Resonance r25c with DD45 earphones, from its manual."""
_STEP_DB = 5.0  # of audiometry: an ear that does not respond to the loudest tone is taken to need one step more

_EAR = r"(?P<ear>left|right|l|r)"
_FREQUENCY = r"(?P<number>\d+(?:[.,]\d+)?)(?:[\s_]*(?P<unit>k?hz|k))?"
_COLUMN = re.compile(rf"(?:{_EAR}[\s_-]*)?{_FREQUENCY}", re.IGNORECASE)
_PAIR = re.compile(rf"(?:{_EAR}[\s,;:=]*)?{_FREQUENCY}\s*[:=]\s*(?P<threshold>(?:>\s*)?[^\s,;]+)[\s,;]*", re.IGNORECASE)
_THRESHOLD = re.compile(r"(>?)\s*([-+]?\d+(?:[.,]\d+)?)")

Cell = tuple[str, str, str, re.Match[str], str]  # place, listener, ear, frequency and threshold as they are written
Notes = defaultdict[str, list[str]]  # what was supplied, and for which ears


def read_audiograms(source: Path | str, strict: bool = False) -> dict[str, Listener]:
    """Return the listeners of a file or text by id, in its order.

    Parameters
    ----------
    source
        A `.json` of the challenge, see `load_listeners`; or a table with commas, semicolons or tabs between cells; or,
        if it has a colon or an equals sign and is no file, a text. The listener of a text is called "own", and that of
        a table without a column `listener` has the name of the file.
    strict
        Whether "NR" (no response), ">100", thresholds above the audiometer's limit and a missing ear are refused. By
        default, the first three become the limit plus 5 dB, and the ear a copy of the other.

    Returns
    -------
    dict
        From tables and texts, each ear has the measured frequencies and those of `AUDIOGRAM_FREQUENCIES`, interpolated
        linearly in dB over logarithmic frequency, and constant beyond the measured ones.

    Raises
    ------
    CorpusError
        If there is nothing to read, or an ear has only one frequency, one of them twice, frequencies that do not rise,
        or a threshold that is not a number from -10 to 120 dB HL.
    """
    text = str(source)
    is_text = isinstance(source, str) and not os.path.exists(text) and (":" in text or "=" in text)
    if not is_text and text.lower().endswith(".json"):
        return load_listeners(text)
    name = f"Audiogram {shorten(text, 60)!r}" if is_text else text
    assumed, interpolated = Notes(list), Notes(list)
    people = _thresholds(_text_cells(text, name) if is_text else _table_cells(Path(text)), assumed)
    listeners = {}
    for listener, ears in people.items():
        if not ears:
            raise CorpusError(f"{name}: listener {listener} has no threshold; give those of one ear at least.")
        audiograms = {ear: _complete(ears[ear], f"{listener} {ear}", name, interpolated) for ear in ears}
        for ear, other in (EARS, EARS[::-1]):
            if ear not in audiograms:
                audiograms[ear] = audiograms[other]
                assumed["not measured, so a copy of the other ear"].append(f"{listener} {ear}")
        listeners[listener] = Listener(audiograms["left"], audiograms["right"], id=listener)
    if not listeners:
        columns = "listener, ear, 250, 500, ... or listener, L250, ..., R250, ..."
        raise CorpusError(f"{name} has no audiogram; give it rows and the columns {columns}.")
    if strict and assumed:
        raise CorpusError(f"{name} is not complete: {_sentence(assumed)}; correct it, or read it without strict.")
    if notes := assumed | interpolated:
        _LOGGER.warning("%s: %s.", name, _sentence(notes))
    return listeners


def read_listener(source: Path | str, name: str = "") -> Listener:
    """Return one listener of a file or text for `read_audiograms`; if it has only one, the name does not matter.

    Raises
    ------
    ParameterError
        If there is none of this name among several.
    CorpusError
        If the audiogram cannot be read.
    """
    listeners = read_audiograms(source)
    if len(listeners) == 1:
        return next(iter(listeners.values()))
    if name not in listeners:
        raise ParameterError(f"Listener {name!r} is not in {source}; it has {', '.join(listeners)}.")
    return listeners[name]


def _text_cells(text: str, name: str) -> Iterator[Cell]:
    """Return the thresholds of a text, and refuse anything else in it."""
    place, ear = len(text) - len(text.lstrip()), ""
    while place < len(text):
        if not (pair := _PAIR.match(text, place)):
            problem = f"is no file and has {shorten(text[place:], 30)!r}"
            raise CorpusError(f"{name} {problem}; write an audiogram as 'L 250:20 500:25 R 250:15 500:20'.")
        ear, place = pair["ear"] or ear, pair.end()
        yield name, "own", ear, pair, pair["threshold"]


def _table_cells(path: Path) -> Iterator[Cell]:
    """Return the cells of a table in columns of frequencies."""
    table = read_table(path, ())
    header = [column.strip().lower() for column in table.columns]
    columns = [_COLUMN.fullmatch(column) for column in header]
    for line, *cells in table.itertuples(name=None):
        row, place = dict(zip(header, cells, strict=True)), f"{path}, line {line}"
        listener = normal_form(row.get("listener", path.stem)).strip()
        if not listener:
            raise CorpusError(f"{place} has no listener; name it.")
        for column, cell in zip(columns, cells, strict=True):
            if column:
                yield place, listener, column["ear"] or row.get("ear", ""), column, cell


def _thresholds(cells: Iterator[Cell], assumed: Notes) -> dict[str, dict[str, dict[float, float]]]:
    """Return thresholds in dB HL by listener, ear and frequency in Hz, and note which are assumed."""
    people: dict[str, dict[str, dict[float, float]]] = {}
    for place, listener, written_ear, column, cell in cells:
        ears = people.setdefault(listener, {})
        if not cell.strip():
            continue
        ear = next((ear for ear in EARS if written_ear.strip().lower() in (ear, ear[0])), None)
        if ear is None:
            raise CorpusError(f"{place} has {written_ear!r} in the place of an ear; write left or right.")
        frequency = _frequency(column, place)
        measured = ears.setdefault(ear, {})
        if measured and frequency <= max(measured):
            order = f"{frequency:g} Hz after {max(measured):g} Hz"
            raise CorpusError(f"{place} has {order} for {listener}, {ear}; give each frequency once, lowest first.")
        measured[frequency], is_assumed = _threshold_db_hl(cell, frequency, place)
        if is_assumed:
            note = f"no response at {frequency:g} Hz, taken as {measured[frequency]:g} dB HL"
            assumed[note].append(f"{listener} {ear}")
    return people


def _frequency(written: re.Match[str], place: str) -> float:
    factor = 1000 if (written["unit"] or "").lower().startswith("k") else 1
    frequency = round(float(written["number"].replace(",", ".")) * factor, 3)
    lowest, highest = FREQUENCY_BOUNDS_HZ
    if not lowest <= frequency <= highest:
        bounds = f"outside {lowest:g} to {highest:g} Hz"
        raise CorpusError(f"{place} has {frequency:g} Hz, which lies {bounds}; write kHz after frequencies in kHz.")
    return frequency


def _threshold_db_hl(written: str, frequency: float, place: str) -> tuple[float, bool]:
    """Return a threshold in dB HL, and whether it is assumed because it lies above a limit."""
    limit = float(_LIMITS_DB_HL.resample(np.array([frequency])).levels[0])
    if written.strip().lower() == "nr":
        return limit + _STEP_DB, True
    where = f"{place} has {written!r} at {frequency:g} Hz"
    if not (number := _THRESHOLD.fullmatch(written.strip())):
        raise CorpusError(f"{where}, which is no threshold; write a number in dB HL, or NR for no response.")
    level, (low, high) = float(number[2].replace(",", ".")), _BOUNDS_DB_HL
    if not low <= level <= high:
        raise CorpusError(f"{where}, which lies outside {low:g} to {high:g} dB HL; correct it.")
    if number[1]:
        limit = level
    elif level <= limit:
        return level, False
    return limit + _STEP_DB, True


def _complete(measured: dict[float, float], who: str, name: str, interpolated: Notes) -> Audiogram:
    """Return the audiogram of an ear with all of `AUDIOGRAM_FREQUENCIES`, and note which were not measured."""
    if len(measured) < 2:
        raise CorpusError(f"{name}: {who} has a threshold at one frequency only; give two at least.")
    if missing := [f"{frequency:g}" for frequency in AUDIOGRAM_FREQUENCIES if frequency not in measured]:
        interpolated[f"{', '.join(missing)} Hz not measured, so taken from the frequencies beside them"].append(who)
    audiogram = Audiogram(levels=np.array([*measured.values()]), frequencies=np.array([*measured]))
    return audiogram.resample(np.array(sorted({*measured, *map(float, AUDIOGRAM_FREQUENCIES)})))


def _sentence(notes: dict[str, list[str]]) -> str:
    return "; ".join(f"{note} ({', '.join(ears)})" for note, ears in notes.items())
