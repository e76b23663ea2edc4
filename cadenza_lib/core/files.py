"""Files that are complete or absent, names that stay where they belong, locks, growing tables, and checked JSON.

What is not complete yet is called `.<name>.unfinished<suffix>`, always the same for a file: who writes it the next time
writes over what a process left that was killed, so nothing needs to be cleaned up, and a lock keeps two writers apart.
A file gets its name once its content is on the disk, so that what has a name is whole after a power cut too.
Other hidden files are locks, `.lock` or `.<what>.lock`; they stay, and mean nothing while nobody holds them.
"""

import codecs
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
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import UnionType
from typing import IO, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pandas as pd

from cadenza_lib.core.errors import CorpusError, ParameterError

if sys.platform != "win32":  # which has no such locks: there, do not start a study twice
    import fcntl

__all__ = [
    "DATA",
    "NameOrPath",
    "absolute_path",
    "append_row",
    "as_tuples",
    "atomic_path",
    "check_utf8",
    "cut_name",
    "file_name",
    "fill",
    "find_path",
    "is_inside",
    "list_folder",
    "locked",
    "make_directory",
    "normal_form",
    "parse_json",
    "parse_number",
    "publish",
    "read_json",
    "read_metadata",
    "read_rows",
    "read_table",
    "read_text",
    "regular_file",
    "repair_table",
    "sync",
    "write_errors",
    "write_json",
    "write_rows",
]

_LOGGER = logging.getLogger(__name__)

Kind = TypeVar("Kind")

DATA = Path(__file__).resolve().parents[2] / "data"
"""The repository's data directory, where the demo's metadata and checkpoints lie."""

NameOrPath = str
"""The type of a notebook's parameter that is a path, or a name in its place, such as "demo"; see `runs`."""

_HAAQI_BOUNDS = (-0.06, 1.0)  # what its formula gives at most and at least, see `haaqi.score.combine`
_SEPARATORS = ",;\t"  # of the cells of a table; spreadsheets write semicolons where the comma is the decimal mark
_MAX_NAME_BYTES = 200  # of a file's name: file systems take 255, and what is added to a name needs some


def absolute_path(path: Path | str) -> Path:
    """Return a path as an absolute one, with `~` and links followed as far as they lead anywhere.

    Raises
    ------
    ParameterError
        If no path can be so, or its name is not UTF-8.
    """
    try:
        absolute = Path(os.path.realpath(os.path.expanduser(path)))  # pathlib's own fails where links lead in a circle
    except ValueError as error:
        raise ParameterError(f"{str(path)!r} is no path ({error}); correct it.") from error
    check_utf8(absolute)
    return absolute


def check_utf8(path: Path) -> None:
    """Refuse a path whose name is not UTF-8, as old archives leave them: no metadata, table or notebook can hold it.

    Raises
    ------
    ParameterError
        If the name is not UTF-8.
    """
    for part in (*reversed(path.parents), path):
        try:
            str(part).encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(part).decode(errors="backslashreplace")
            raise ParameterError(f"{shown} has a name that is not UTF-8; rename it.") from error


def list_folder(folder: Path) -> list[Path]:
    """Return what lies in a directory, sorted by name, without hidden files; nothing if there is no such directory.

    Raises
    ------
    ParameterError
        If a name is not UTF-8.
    """
    there = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    for path in there:
        check_utf8(path)
    return there


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
    """Return a path below `root` as it is spelt on the disk, where case and normal form of its names may differ.

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
            is_exact, spelling = exact.exists(), normal_form(name).lower()
            others = [] if is_exact else [p for p in sorted(found.iterdir()) if normal_form(p.name).lower() == spelling]
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
        raise ParameterError(f"{path} has other columns than are written now; choose another directory.")


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


def write_rows(path: Path, rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> None:
    """Write a CSV file of these rows, whole or not at all.

    Raises
    ------
    ParameterError
        If it cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


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
    """Read a file of UTF-8, or of UTF-16 as spreadsheets write it, without its byte order mark.

    Raises
    ------
    OSError, UnicodeError
        If it cannot be read.
    """
    with regular_file(path).open("rb") as file:
        is_utf_16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return path.read_text(encoding="utf-16" if is_utf_16 else "utf-8-sig")


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
    path: Path,
    texts: Sequence[str],
    numbers: Sequence[str] = (),
    remedy: str = "correct it",
    key: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a CSV table: every cell as the text it is, but `numbers`, where there are such columns.

    Cells are separated by commas, semicolons or tabs, whichever makes the header have `texts`. Numbers may have a
    decimal comma if none has a decimal point. A number that is missing (an empty cell, or NaN) is NaN; see
    `parse_number`. Rows without any text are skipped; the index has the line of the file that each row ends in.

    Parameters
    ----------
    path
        The table.
    texts
        Columns that it must have.
    numbers
        Columns of numbers.
    remedy
        What errors advise.
    key
        Columns of names, which are read in `normal_form`: a row has all of them or none, and no two rows the same.

    Raises
    ------
    CorpusError
        If the file is missing, unreadable or no table, lacks one of the columns `texts`, breaks the rule of `key`, or
        holds something else than a number.
    """
    if not os.path.exists(path):  # unlike Path.exists, no error if a name is too long
        raise CorpusError(f"{path} does not exist; check the path.")
    try:
        rows = _table_rows(read_text(path), texts)
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
    _read_numbers(path, table, table.columns.intersection(list(numbers)), remedy)
    if key:
        table[list(key)] = table[list(key)].map(normal_form)
        _check_key(path, table[list(key)], remedy)
    return table


def _table_rows(text: str, texts: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return the rows of a table that hold any text, each with the number of its line, by the separator that fits."""
    first = next((line for line in text.splitlines() if line.strip(f"{_SEPARATORS} ")), "")
    headers = {mark: set(next(csv.reader([first], delimiter=mark), [])) for mark in _SEPARATORS}
    separator = max(headers, key=lambda mark: len(headers[mark].intersection(texts)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]


def _read_numbers(path: Path, table: pd.DataFrame, numbers: pd.Index, remedy: str) -> None:
    """Turn columns of a table into numbers; commas are decimal ones if there is no point in any of them."""
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
    """Refuse a row of a table that lacks a name, or has the names of another one."""
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
        If it is none, or infinite; only a loudness may be that of silence, minus infinity. If it is the HAAQI of a
        column called score or haaqi, and beyond its bounds.
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


def read_metadata(path: Path | str) -> Any:
    """Read a JSON file with all texts in `normal_form`, so that names are equal however they were typed.

    Raises
    ------
    CorpusError
        As `read_json`, or if two keys of an object differ in nothing but their normal form.
    """
    try:
        return _normal_forms(read_json(path))
    except ValueError as error:
        raise CorpusError(f"{path} cannot be used ({error}, in two spellings of Unicode); rename one.") from error


def normal_form(text: str) -> str:
    """Return a text in Unicode's normal form C, as keyboards give it; the names of files on macOS are in form D."""
    return unicodedata.normalize("NFC", text)


def _normal_forms(value: Any) -> Any:
    if isinstance(value, dict):
        return _unique([(normal_form(key), _normal_forms(item)) for key, item in value.items()])
    if isinstance(value, list):
        return [_normal_forms(item) for item in value]
    return normal_form(value) if isinstance(value, str) else value


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


def fill(kind: type[Kind], content: Any, *, further_keys: bool = False) -> Kind:
    """Make a dataclass of an object of JSON.

    Numbers become those of their field, since other tools write 4.0 for 4 and -30 for -30.0.

    Parameters
    ----------
    kind
        The dataclass.
    content
        The object.
    further_keys
        Whether keys that are no field are left out, as is right for metadata; in settings of ours they would mean
        something that decides a result.

    Raises
    ------
    TypeError
        If it is no object, or a field is missing, unknown or of another type.
    """
    if not isinstance(content, dict):
        raise TypeError(f"it is no object but {content!r}")
    hints = get_type_hints(kind)
    values = {}
    for name, value in content.items():
        try:
            values[name] = _typed(value, hints[name]) if name in hints else value
        except TypeError as error:
            raise TypeError(f"{name} is {value!r}") from error
    return kind(**{name: value for name, value in values.items() if name in hints or not further_keys})


def _typed(value: Any, hint: Any) -> Any:
    """Return a value of JSON in a type; a list is also a tuple. TypeError if it is of another type."""
    arguments = get_args(hint)
    if type(value) is hint:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if hint is int and type(value) is float and value.is_integer():
        return int(value)
    if get_origin(hint) in (Union, UnionType):
        for one in arguments:
            with suppress(TypeError):
                return _typed(value, one)
    elif arguments and isinstance(value, list):  # tuple[X, ...], Sequence[X]
        return [_typed(item, arguments[0]) for item in value]
    raise TypeError(f"{value!r} is not {hint}")


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
