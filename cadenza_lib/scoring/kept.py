"""Tables of scores that grow row by row, each row with the identity of all that decided it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cadenza_lib.core.tables import append_row, read_rows, repair_table, write_rows

__all__ = ["KeptRows"]

IDENTITY = "identity"
"""The last column of such a table, see `core.identity`."""

Row = Mapping[str, str]

_LOGGER = logging.getLogger(__name__)


class KeptRows:
    """A CSV file of rows that are kept as long as they are what would be computed now.

    Parameters
    ----------
    path
        The file; a last line that was torn when a run was stopped is cut off.
    columns
        Its columns, without `IDENTITY`.
    identity
        Returns the identity that a row would have now, or None if it would not be computed at all.

    Raises
    ------
    ParameterError
        If the file has other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str], identity: Callable[[Row], str | None]) -> None:
        self.path = path
        repair_table(path, (*columns, IDENTITY))
        rows = read_rows(path)
        is_valid = [row[IDENTITY] == identity(row) for row in rows]
        self.valid = [row for row, valid in zip(rows, is_valid, strict=True) if valid]
        """The rows that are what would be computed now, as texts by column."""
        self.invalid = [row for row, valid in zip(rows, is_valid, strict=True) if not valid]
        """The rows that would be computed from something else now."""

    def are_of_these_settings(self) -> bool:
        """Tell whether any row is valid, or there is none."""
        return bool(self.valid or not self.invalid)

    def drop_invalid(self) -> None:
        """Drop the rows that are not valid from the file, with a warning."""
        if self.invalid:
            write_rows(self.path, [list(self.invalid[0]), *(list(row.values()) for row in self.valid)])
            _LOGGER.warning(
                "%s: %d of its rows were computed from other weights, songs, gains or audiograms, and are dropped.",
                self.path,
                len(self.invalid),
            )

    def append(self, row: Sequence[object], identity: str) -> None:
        """Append a row, and flush it to disk."""
        append_row(self.path, (*row, identity))
