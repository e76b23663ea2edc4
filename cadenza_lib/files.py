"""Files that are either complete or absent, locks, tables that grow by rows, and JSON with errors one can act on.

What is not complete yet is called `.<name>.unfinished<suffix>`, always the same for a file: who writes it the next time
writes over what a process left that was killed, so nothing needs to be cleaned up, and a lock keeps two writers apart.
Other hidden files are locks, `.lock` or `.<what>.lock`; they are empty, stay, and mean nothing while nobody holds them.
"""

import csv
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cadenza_lib.errors import CorpusError, ParameterError

if sys.platform != "win32":  # which has no such locks: there, do not start a study twice
    import fcntl

__all__ = [
    "DATA",
    "append_row",
    "as_tuples",
    "atomic_path",
    "find_path",
    "locked",
    "make_directory",
    "read_json",
    "repair_table",
    "write_errors",
    "write_json",
]

_LOGGER = logging.getLogger(__name__)

DATA = Path(__file__).resolve().parents[1] / "data"
"""The repository's data directory, where the demo's metadata and checkpoints lie."""


def make_directory(path: Path | str) -> Path:
    """Create a directory and its parents, check that it can be written, and return it as an absolute path.

    Raises
    ------
    ParameterError
        If the directory cannot be created or written.
    """
    path = Path(path).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
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
    if path.exists():
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
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):  # the disk may be what failed
                temporary.unlink()
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
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with write_errors(path), path.open("r+b") as torn:
            torn.truncate(complete)
    with path.open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file), [])
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


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises
    ------
    CorpusError
        If the file is missing, unreadable or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise CorpusError(f"{path} does not exist; check the path, or data/README.md for the expected tree.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); check that it is a readable text file.") from error
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"{path} is not valid JSON (line {error.lineno}: {error.msg}); repair it or download it again."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
        raise CorpusError(f"{path} cannot be read as JSON ({error}); repair it or download it again.") from error


def write_json(path: Path | str, content: Any, *, official: bool = False) -> None:
    """Write `content` as JSON, completely or not at all; `official`: with the bytes of the challenge's scripts.

    Raises
    ------
    ParameterError
        If the file cannot be written, or would hold NaN or an infinite number, which `read_json` refuses.
    """
    try:
        text = json.dumps(content, indent=4, ensure_ascii=official, allow_nan=False) + ("" if official else "\n")
    except ValueError as error:
        raise ParameterError(
            f"{path} cannot hold NaN or an infinite number; check what it is computed from."
        ) from error
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is not JSON")


def as_tuples(value: Any) -> Any:
    """Return the lists of JSON as tuples, also inside of each other; anything else as it is."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value
