"""Inner loops as machine code: numba without the GIL, cached on disk wherever possible."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba import config as numba_config
from numba import njit

__all__ = ["compiled"]

config: Any = numba_config  # numba's annotations lack what is read from the environment


def compiled(function: Callable) -> Any:
    """Return a function that numba compiles at its first call, whose machine code is kept for later processes.

    It is kept where numba keeps it: in NUMBA_CACHE_DIR, beside the source, or in the user's cache directory. If none
    of them can be written, as in a read-only container without a home directory, it is kept in a directory of this
    user below the temporary one, and if that cannot be written either, nowhere: then each process compiles. It expires
    when any module in the function's folder changes.
    """
    with suppress(RuntimeError):  # numba's "no locator available": it has no directory that it can write to
        return _expiring(njit(cache=True, nogil=True)(function))
    before = config.CACHE_DIR
    config.CACHE_DIR = _temporary_directory()
    try:
        return _expiring(njit(cache=True, nogil=True)(function))
    except RuntimeError:
        return njit(nogil=True)(function)
    finally:
        config.CACHE_DIR = before


def _expiring(dispatcher: Any) -> Any:
    """Return a compiled function whose kept code depends on its whole folder, where numba sees its own file alone.

    The code contains functions and constants of other modules, too.
    """
    with suppress(AttributeError):  # of a future numba, which a test tells; the kept code then expires as numba has it
        kept = dispatcher._cache._cache_file
        kept._source_stamp = (kept._source_stamp, _folder_stamp(Path(dispatcher.py_func.__code__.co_filename).parent))
    return dispatcher


@cache
def _folder_stamp(folder: Path) -> str:
    """Return a hash of the modules in a folder."""
    content = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        content.update(path.read_bytes())
    return content.hexdigest()


def _temporary_directory() -> str:
    """Return a directory that only this user can write to, because its content will be executed; "" if impossible."""
    try:
        user = os.getuid() if hasattr(os, "getuid") else "user"  # Windows has a temporary directory for each user
        directory = Path(tempfile.gettempdir()) / f"cadenza-kernels-{user}"
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError:
        return ""
    is_own = status.st_uid == user and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return str(directory) if stat.S_ISDIR(status.st_mode) and (is_own or user == "user") else ""
