"""CSV tables: those that grow row by row and survive a kill, and those that others have written."""

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from cadenza_lib.core.documents import read_text
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import atomic_path, write_errors
from cadenza_lib.core.paths import normal_form

__all__ = ["append_row", "parse_number", "read_rows", "read_table", "repair_table", "write_rows"]

_HAAQI_BOUNDS = (-0.06, 1.0)  # the range of its formula, see `haaqi.score.combine`
_SEPARATORS = "\t;,"  # of cells; spreadsheets write semicolons where the comma is the decimal mark


def repair_table(path: Path, columns: Sequence[str]) -> None:
    """Prepare a CSV file for `append_row`: create it, or cut off a last line that is incomplete after a kill.

    Raises
    ------
    ParameterError
        If the file has other columns.
    """
    if not path.exists():
        write_rows(path, [columns])
    try:
        content = path.read_bytes() if path.is_file() else b""
        complete = content.rfind(b"\n") + 1
        header = next(csv.reader(content[:complete].decode().splitlines()), [])
    except (OSError, ValueError, csv.Error):
        header = []
    if header != list(columns):
        raise ParameterError(f"{path} has other columns than are written now; choose another directory.")
    if complete < len(content):
        with write_errors(path), path.open("r+b") as torn:
            torn.truncate(complete)


def write_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file of these rows, the first of which has the names of the columns; whole or not at all.

    Raises
    ------
    ParameterError
        If it cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def append_row(path: Path, row: Sequence[object]) -> None:
    """Append one row to a CSV file, then flush and fsync.

    Raises
    ------
    ParameterError
        If the file cannot be written; it may then end with a part of the row, which `repair_table` cuts off.
    """
    with write_errors(path), path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(row)
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file as texts, by column.

    Raises
    ------
    CorpusError
        If the file cannot be read as a table.
    """
    try:
        header, *rows = [row for row in csv.reader(io.StringIO(read_text(path), newline="")) if row]
        return [dict(zip(header, row, strict=True)) for row in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise CorpusError(f"{path} cannot be read as a table ({error}); choose another directory.") from error


def read_table(
    path: Path,
    texts: Sequence[str],
    numbers: Sequence[str] = (),
    remedy: str = "correct it",
    key: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a CSV table: cells of the columns `numbers` as numbers, all others as texts.

    Cells are separated by commas, semicolons or tabs, whichever makes the header have `texts`, or else most cells.
    Numbers may have a decimal comma if none has a decimal point. A missing number (an empty cell, or NaN) is NaN; see
    `parse_number`. Rows without any text are skipped; the index has the line of the file in which each row ends.

    Parameters
    ----------
    path
        The table.
    texts
        Required columns.
    numbers
        Columns of numbers, where they exist.
    remedy
        The advice of error messages.
    key
        Columns of names, which are read in `normal_form`. A row has all of them or none, and no two rows the same.

    Raises
    ------
    CorpusError
        If the file is missing or not a table, lacks one of the columns `texts`, breaks the rule of `key`, or has
        something other than a number in `numbers`.
    """
    if not os.path.exists(path):  # unlike Path.exists, it does not fail on a name that is too long
        raise CorpusError(f"{path} does not exist; check the path.")
    try:
        rows = _split_rows(read_text(path), texts)
    except (OSError, ValueError, csv.Error) as error:
        raise CorpusError(f"{path} cannot be read as a table ({error}); {remedy}.") from error
    (_, header), *rows = rows or [(1, [])]
    if missing := [column for column in texts if column not in header]:
        raise CorpusError(
            f"{path} has no column {missing[0]!r} but {', '.join(header) or 'none'}; it needs {', '.join(texts)}, "
            f"separated by commas, semicolons or tabs; {remedy}."
        )
    if len(set(header)) < len(header):
        raise CorpusError(f"{path} has two columns of one name among {', '.join(header)}; {remedy}.")
    for line, row in rows:
        if len(row) != len(header):
            raise CorpusError(f"{path}, line {line} has {len(row)} cells ({row!r}) instead of {len(header)}; {remedy}.")
    table = pd.DataFrame([row for _, row in rows], [line for line, _ in rows], header, dtype=str)
    _parse_columns(path, table, [column for column in header if column in numbers], remedy)
    if key:
        table[list(key)] = table[list(key)].map(normal_form)
        _check_key(path, table[list(key)], remedy)
    return table


def _split_rows(text: str, texts: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return the non-empty rows of a table, each with the number of its line, by the separator that fits `texts`."""
    first = next((line for line in text.splitlines() if line.strip(f"{_SEPARATORS} ")), "")
    headers = {mark: set(next(csv.reader([first], delimiter=mark), [])) for mark in _SEPARATORS}
    separator = max(headers, key=lambda mark: (len(headers[mark].intersection(texts)), len(headers[mark])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]


def _parse_columns(path: Path, table: pd.DataFrame, numbers: Sequence[str], remedy: str) -> None:
    """Turn columns of a table into numbers; commas are decimal marks if there is no point in any of the columns."""
    has_points = any("." in cell for column in numbers for cell in table[column])
    for column in numbers:
        values = []
        for line, cell in table[column].items():
            try:
                values.append(parse_number((cell if has_points else cell.replace(",", ".")) or "nan", column))
            except ValueError as error:
                raise CorpusError(f"{path}, line {line}: {column} is {cell!r}, but {error}; {remedy}.") from error
        table[column] = values


def _check_key(path: Path, key: pd.DataFrame, remedy: str) -> None:
    """Refuse a row of a table that lacks a name, or has the same names as another row."""
    line_of: dict[tuple[str, ...], int] = {}
    for line, *names in key.itertuples(name=None):
        empty = [column for column, name in zip(key.columns, names, strict=True) if not name.strip()]
        if empty and len(empty) < len(names):
            raise CorpusError(f"{path}, line {line} has no {empty[0]}; {remedy}.")
        if (first := line_of.setdefault(tuple(names), line)) != line:
            raise CorpusError(
                f"{path}, line {line} has {', '.join(names)} ({', '.join(key.columns)}), which line {first} has "
                f"already; keep one of the two."
            )


def parse_number(text: str, column: str) -> float:
    """Return the number in a column of a table, to the last bit; NaN if it is missing.

    Raises
    ------
    ValueError
        If the text is not a number; if it is infinite, except for the loudness of silence, which is minus infinity; or
        if it is out of bounds in a column of HAAQI, whose name ends in score or haaqi.
    """
    try:
        number = float(text)
    except ValueError:
        raise ValueError("a number is expected") from None
    if math.isinf(number) and not (number < 0 and column.endswith("loudness_lufs")):
        raise ValueError("a finite number is expected")
    if column.endswith(("score", "haaqi")) and (number < _HAAQI_BOUNDS[0] or number > _HAAQI_BOUNDS[1]):
        raise ValueError("HAAQI lies between 0 and 1 (divide percentages by 100)")
    return number
