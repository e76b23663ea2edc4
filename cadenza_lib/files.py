"""Files that are complete or absent, names that stay where they belong, locks, growing tables, and checked JSON.

What is not complete yet is called `.<name>.unfinished<suffix>`, always the same for a file: who writes it the next time
writes over what a process left that was killed, so nothing needs to be cleaned up, and a lock keeps two writers apart.
A file gets its name once its content is on the disk, so that what has a name is whole after a power cut too.
Other hidden files are locks, `.lock` or `.<what>.lock`; they are empty, stay, and mean nothing while nobody holds them.
"""

import csv
import errno
import hashlib
import io
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import UnionType
from typing import IO, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pandas as pd

from cadenza_lib.errors import CorpusError, ParameterError

if sys.platform != "win32":  # which has no such locks: there, do not start a study twice
    import fcntl

__all__ = [
    "DATA",
    "absolute_path",
    "append_row",
    "as_tuples",
    "atomic_path",
    "cut_name",
    "file_name",
    "fill",
    "find_path",
    "is_inside",
    "locked",
    "make_directory",
    "parse_json",
    "parse_number",
    "publish",
    "read_json",
    "read_table",
    "read_text",
    "regular_file",
    "repair_table",
    "sync",
    "write_errors",
    "write_json",
]

_LOGGER = logging.getLogger(__name__)

Kind = TypeVar("Kind")

DATA = Path(__file__).resolve().parents[1] / "data"
"""The repository's data directory, where the demo's metadata and checkpoints lie."""

_MAX_NAME_BYTES = 200  # of a file's name: file systems take 255, and what is added to a name needs some


def absolute_path(path: Path | str) -> Path:
    """Return a path as an absolute one, with `~` and links followed as far as they lead anywhere.

    Raises
    ------
    ParameterError
        If no path can be so.
    """
    try:
        return Path(os.path.realpath(os.path.expanduser(path)))  # pathlib's own fails where links lead in a circle
    except ValueError as error:
        raise ParameterError(f"{str(path)!r} is no path ({error}); correct it.") from error


def make_directory(path: Path | str) -> Path:
    """Create a directory and its parents, check that it can be written, and return it as an absolute path.

    Raises
    ------
    ParameterError
        If the directory cannot be created or written.
    """
    path = absolute_path(path)
    try:
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in new:
            _sync_one(folder.parent)
        # os.access says yes to root on a read-only file system, so try it.
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ParameterError(
            f"Output directory {path} cannot be written ({error.strerror}); choose another."
        ) from error
    return path


def find_path(path: Path, root: Path) -> Path:
    """Return a path below `root` as it is spelt on the disk, where only the case of its names may differ.

    Returns
    -------
    Path
        `path` itself if it exists, or if nothing else does.
    """
    if os.path.exists(path):  # unlike Path.exists, no error if a name is too long
        return path
    found = root
    for name in path.relative_to(root).parts:
        exact = found / name
        try:
            others = (
                [] if exact.exists() else [one for one in sorted(found.iterdir()) if one.name.lower() == name.lower()]
            )
        except OSError:
            return path
        found = others[0] if others else exact
    return found if found.exists() else path


def is_inside(path: Path, root: Path) -> bool:
    """Tell whether a path stays in a directory, wherever `..` and links lead."""
    return absolute_path(path).is_relative_to(absolute_path(root))


def file_name(text: str) -> str:
    """Return a text as the name of one file: itself where that can be, or else what can be kept of it and a hash.

    >>> file_name("Tiny 1-hlp_0001"), file_name("AC/DC"), file_name("..")
    ('Tiny 1-hlp_0001', 'AC_DC-5a5abe39', '__-5ec1f7e7')
    """
    name = "".join(letter if letter.isprintable() and letter not in "/\\" else "_" for letter in text)
    if not name.strip(". "):
        name = "_" * len(name)
    if name == text and 0 < len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    return cut_name(name, text, _MAX_NAME_BYTES)


def cut_name(name: str, text: str, max_bytes: int) -> str:
    """Return the beginning of a name and a hash of the text that it stands for, together of at most `max_bytes`."""
    kept = name.encode()[: max_bytes - 9].decode(errors="ignore")
    return f"{kept}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to; it becomes `path` only if the block succeeds.

    The temporary name keeps the suffix of `path`, since writers of audio and figures choose the format by it. If
    another process or thread is writing the same file, this waits until it is done.

    Raises
    ------
    ParameterError
        If the file or its directory cannot be written.
    """
    path = Path(path)
    make_directory(path.parent)
    temporary = path.with_name(f".{path.stem[:100]}.unfinished{path.suffix}")
    with write_errors(path), _open_alone(temporary):
        try:
            yield temporary
            publish(temporary, path)
        except BaseException:
            with suppress(OSError):  # the disk may be what failed
                temporary.unlink()
            raise


def publish(unfinished: Path, path: Path) -> None:
    """Give a file, or a directory of files, its final name, once all of it is on the disk.

    Raises
    ------
    OSError
        If the file system cannot do it.
    """
    sync(unfinished)
    unfinished.replace(path)
    _sync_one(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or a directory and the files in it but not those of directories in it, is on the disk.

    Raises
    ------
    OSError
        If the disk fails.
    """
    for file in path.iterdir() if path.is_dir() else ():
        if file.is_file() and not file.is_symlink():
            _sync_one(file)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    if sys.platform == "win32":  # which syncs only what is open for writing
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # EINVAL: the file system syncs no directories; the others: it may be written but not read, or is gone.
        if error.errno not in (errno.EINVAL, errno.EACCES, errno.ENOENT):
            raise


@contextmanager
def write_errors(path: Path | str) -> Iterator[None]:
    """Turn what writers raise on a full or read-only disk into one sentence about a file or directory.

    Raises
    ------
    ParameterError
        If the block raises an error of the operating system or of a library's writer.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch and soundfile have RuntimeErrors
        reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ParameterError(
            f"{path} cannot be written ({reason.rstrip('.')}); make room or choose another directory, and start again."
        ) from error


@contextmanager
def locked(path: Path | str, *, with_children: bool = False) -> Iterator[int]:
    """Hold the lock of a file, which is created if need be, and yield its descriptor; wait while another holds it.

    The lock ends with the block, or with the process, however it dies.

    Parameters
    ----------
    path
        The file.
    with_children
        Whether a child that inherits the descriptor holds the lock too: then it ends when both have.

    Raises
    ------
    ParameterError
        If the file cannot be written, or its file system has no locks.
    """
    path = Path(path)
    with write_errors(path):
        file = path.open("ab")  # network file systems want it writable
    with file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _LOGGER.warning("%s is in use by another process; waiting until it is done.", path)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise ParameterError(
                    f"{path} lies on a file system without locks ({error.strerror}); choose another directory."
                ) from error
        try:
            yield file.fileno()
        finally:
            if not with_children:
                _unlock(file)


@contextmanager
def _open_alone(path: Path) -> Iterator[None]:
    """Make a file empty and keep others from doing the same, as far as the file system has locks."""
    if sys.platform == "win32":  # which cannot rename an open file
        yield
        return
    while True:
        with path.open("ab") as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                is_still_there = os.path.samestat(path.stat(), os.fstat(file.fileno()))
            except FileNotFoundError:
                is_still_there = False
            if is_still_there:  # or else the other, who has been waited for, has given it its name
                file.truncate(0)
                try:
                    yield
                finally:
                    _unlock(file)
                return


def _unlock(file: IO[bytes]) -> None:
    """End a lock for forked processes too, which have inherited it without knowing."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def repair_table(path: Path, columns: Sequence[str]) -> None:
    """Make a CSV file ready for `append_row`: begin it, or cut off a last line that was torn when a run was stopped.

    Raises
    ------
    ParameterError
        If the file has other columns.
    """
    if not path.exists():
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(columns)
    try:
        content = path.read_bytes() if path.is_file() else b""
        complete = content.rfind(b"\n") + 1
        header = next(csv.reader(content[:complete].decode().splitlines()), [])
    except (OSError, ValueError, csv.Error):
        header = []
    if header == list(columns) and complete < len(content):
        with write_errors(path), path.open("r+b") as torn:
            torn.truncate(complete)
    if header != list(columns):
        raise ParameterError(f"{path} has other columns than are written now; delete {path.parent} or choose another.")


def append_row(path: Path, row: Sequence[object]) -> None:
    """Append one row to a CSV file and see it on the disk.

    Raises
    ------
    ParameterError
        If the file cannot be written; then part of the row may be there, which `repair_table` cuts off.
    """
    with write_errors(path), path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(row)
        file.flush()
        os.fsync(file.fileno())


def regular_file(path: Path) -> Path:
    """Return a path to read from, which is no pipe or device: these might never end.

    Raises
    ------
    OSError
        If it is one.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return path


def read_text(path: Path) -> str:
    """Read a file of UTF-8.

    Raises
    ------
    OSError, UnicodeDecodeError
        If it cannot be read.
    """
    return regular_file(path).read_text(encoding="utf-8")


def parse_json(text: str) -> Any:
    """Return the content of a text of JSON: every number is finite, every text can be written, every key is there once.

    Raises
    ------
    ValueError, RecursionError
        If it is none.
    """
    content = json.loads(text, object_pairs_hook=_unique)
    _check_values(content)
    return content


def read_table(
    path: Path, texts: Sequence[str], numbers: Sequence[str] = (), remedy: str = "correct it"
) -> pd.DataFrame:
    """Read a CSV table: every cell as the text it is, but `numbers`, where there are such columns.

    A number that is missing (an empty cell, or NaN) is NaN; see `parse_number`.

    Raises
    ------
    CorpusError
        If the file is missing, unreadable or no table, lacks one of the columns `texts`, or holds something else than
        a number.
    """
    if not os.path.exists(path):  # unlike Path.exists, no error if a name is too long
        raise CorpusError(f"{path} does not exist; check the path.")
    try:
        rows = [row for row in csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline="")) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise CorpusError(f"{path} cannot be read as a table ({error}); {remedy}.") from error
    header, *rows = rows or [[]]
    if missing := [column for column in texts if column not in header]:
        raise CorpusError(f"{path} has no column {missing[0]!r}; it needs {', '.join(texts)}; {remedy}.")
    if len(set(header)) < len(header):
        raise CorpusError(f"{path} has two columns of one name among {', '.join(header)}; {remedy}.")
    for row in rows:
        if len(row) != len(header):
            raise CorpusError(f"{path} has the row {row!r}, of {len(row)} cells instead of {len(header)}; {remedy}.")
    table = pd.DataFrame(rows, columns=header, dtype=str)
    for column in table.columns.intersection(list(numbers)):
        try:
            table[column] = [parse_number(cell or "nan", column) for cell in table[column]]
        except ValueError as error:
            raise CorpusError(f"{path} has a {column} that is not a number ({error}); {remedy}.") from error
    return table


def parse_number(text: str, column: str) -> float:
    """Return the number in a column of a table, to the last bit; NaN if it is missing.

    Raises
    ------
    ValueError
        If it is none, or infinite; only a loudness may be that of silence, minus infinity.
    """
    number = float(text)
    if math.isinf(number) and not (number < 0 and column.endswith("loudness_lufs")):
        raise ValueError(f"it is {text}")
    return number


def read_json(path: Path | str) -> Any:
    """Read a JSON file; see `parse_json`.

    Raises
    ------
    CorpusError
        If the file is missing, unreadable or not JSON.
    """
    path = Path(path)
    try:
        return parse_json(read_text(path))
    except FileNotFoundError as error:
        raise CorpusError(f"{path} does not exist; check the path, or data/README.md for the expected tree.") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"{path} cannot be read ({reason}); check that it is a readable text file.") from error
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"{path} is not valid JSON (line {error.lineno}: {error.msg}); repair it or download it again."
        ) from error
    except (ValueError, RecursionError) as error:  # NaN, a number without a value, or thousands of brackets
        raise CorpusError(f"{path} cannot be read as JSON ({error}); repair it or download it again.") from error


def write_json(path: Path | str, content: Any, *, official: bool = False) -> None:
    """Write `content` as JSON, completely or not at all; `official`: with the bytes of the challenge's scripts.

    Raises
    ------
    ParameterError
        If a number is NaN or infinite, a text is none that can be written, or the directory cannot be written.
    """
    try:
        text = json.dumps(content, indent=4, allow_nan=False, ensure_ascii=official) + "\n" * (not official)
        encoded = text.encode()
    except ValueError as error:
        raise ParameterError(f"{path} is not written ({error}); give finite numbers and proper text.") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded)


def fill(kind: type[Kind], content: Any) -> Kind:
    """Make a dataclass of an object of JSON.

    Raises
    ------
    TypeError
        If it is no object, or a field is missing, unknown or of another type.
    """
    if not isinstance(content, dict):
        raise TypeError(f"it is no object but {content!r}")
    hints = get_type_hints(kind)
    for name, value in content.items():
        if name in hints and not _is_of(value, hints[name]):
            raise TypeError(f"{name} is {value!r}")
    return kind(**content)


def _is_of(value: Any, hint: Any) -> bool:
    """Tell whether a value of JSON is of a type; a list is also a tuple."""
    arguments = get_args(hint)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if not arguments:
        return type(value) is hint
    if get_origin(hint) in (Union, UnionType):
        return any(_is_of(value, one) for one in arguments)
    return isinstance(value, list) and all(_is_of(item, arguments[0]) for item in value)  # tuple[X, ...], Sequence[X]


def as_tuples(value: Any) -> Any:
    """Return the lists of JSON as tuples, also inside of each other; anything else as it is."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice in one place")
    return content


def _check_values(value: Any, *place: str) -> None:
    """Raise ValueError if a value of JSON holds NaN, a number beyond all floats, or half of a character."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_values(key, *place)
            _check_values(item, *place, key)
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            _check_values(item, *place, f"item {number}")
    elif isinstance(value, str):
        value.encode()
    elif isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        raise ValueError(f"{', '.join(place) or 'it'} is {str(value)[:20]}, which is no finite number")
