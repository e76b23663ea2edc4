"""Inner loops as machine code: numba without the GIL, cached on disk wherever possible."""

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import config as numba_config
from numba import njit

__all__ = ["compiled"]

config: Any = numba_config  # numba's annotations lack what is read from the environment


def compiled(function: Callable) -> Any:
    """Return a function that numba compiles at its first call, with the machine code cached for later processes.

    Numba caches it in NUMBA_CACHE_DIR, beside the source, or in the user's cache directory. If none of them can be
    written, as in a read-only container without a home directory, it is cached in a directory of this user below the
    temporary one; if that cannot be written either, each process compiles.
    """
    with suppress(RuntimeError):  # numba's "no locator available": no directory is writable
        return njit(cache=True, nogil=True)(function)
    before = config.CACHE_DIR
    config.CACHE_DIR = _temporary_directory()
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
    finally:
        config.CACHE_DIR = before


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
