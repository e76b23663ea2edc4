"""What tells the content of a file from any other, so that a result can say what it was made of."""

import functools
import hashlib
from pathlib import Path

__all__ = ["file_identity"]


def file_identity(path: Path) -> str:
    """Return the SHA-256 of a file's content, which is read once per process as long as the file does not change.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns, status.st_ino)


@functools.cache
def _digest(path: Path, _size: int, _mtime_ns: int, _inode: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
