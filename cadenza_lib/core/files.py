"""Files that are complete or absent, directories, and locks.

A file that is being written is called `.<name>.unfinished<suffix>`. The name depends on the file alone, so the next
writer overwrites what a killed process left and nothing needs to be cleaned up; a lock keeps two writers apart. A file
gets its final name only after its content has been flushed to the disk, so a named file is whole even after a power
cut. Other hidden files are locks, `.lock` or `.<what>.lock`; they stay, and mean nothing while nobody holds them.
"""

import errno
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cadenza_lib.core.errors import ParameterError
from cadenza_lib.core.paths import absolute_path

if sys.platform != "win32":  # which has no such locks: a study must not be started twice there
    import fcntl

__all__ = ["atomic_path", "locked", "make_directory", "publish", "sync", "write_errors"]

_LOGGER = logging.getLogger(__name__)


def make_directory(path: Path | str) -> Path:
    """Create a directory and its parents, check that it is writable, and return it as an absolute path.

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
            _fsync(folder.parent)
        # os.access tells root that a read-only file system is writable, so write to it.
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ParameterError(
            f"Output directory {path} cannot be written ({error.strerror}); choose another."
        ) from error
    return path


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
            with suppress(OSError):  # the disk may be the cause
                temporary.unlink()
            raise


def publish(unfinished: Path, path: Path) -> None:
    """Flush a file, or a directory of files, to the disk, and then give it its final name.

    Raises
    ------
    OSError
        If the file system cannot do it.
    """
    sync(unfinished)
    unfinished.replace(path)
    _fsync(path.parent)


def sync(path: Path) -> None:
    """Flush a file to the disk, or a directory with the files directly in it.

    Raises
    ------
    OSError
        If the disk fails.
    """
    for file in path.iterdir() if path.is_dir() else ():
        if file.is_file() and not file.is_symlink():
            _fsync(file)
    _fsync(path)


def _fsync(path: Path) -> None:
    if sys.platform == "win32":  # which flushes only files that are open for writing
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # EINVAL: the file system cannot flush directories; the others: the file is write-only, or has gone.
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
    except (OSError, RuntimeError) as error:  # torch and soundfile raise RuntimeErrors
        reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ParameterError(
            f"{path} cannot be written ({reason.rstrip('.')}); make room or choose another directory, and start again."
        ) from error


@contextmanager
def locked(path: Path | str, *, with_children: bool = False) -> Iterator[int]:
    """Hold the lock of a file, which is created if needed, and yield its descriptor; wait while another holds it.

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
        file = path.open("ab")  # network file systems lock only what is open for writing
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
    """Empty a file, or create it, and keep others from doing the same where the file system has locks."""
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
            if is_still_there:  # otherwise the writer that was waited for has given it its final name
                file.truncate(0)
                try:
                    yield
                finally:
                    _unlock(file)
                return


def _unlock(file: IO[bytes]) -> None:
    """Release a lock also for forked processes, which have inherited it unknowingly."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
