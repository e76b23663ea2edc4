"""Paths and the names of files: absolute, in UTF-8, inside their directory, and equal in every spelling of Unicode."""

import errno
import hashlib
import os
import unicodedata
from pathlib import Path

from cadenza_lib.core.errors import ParameterError

__all__ = [
    "DATA",
    "NameOrPath",
    "absolute_path",
    "check_utf8",
    "cut_name",
    "file_name",
    "find_path",
    "is_inside",
    "list_folder",
    "normal_form",
    "regular_file",
]

DATA = Path(__file__).resolve().parents[2] / "data"
"""The repository's data directory, which holds the twin's metadata and checkpoints."""

NameOrPath = str
"""The type of a notebook's parameter that is a path, or a name in its place, such as "twin"; see `runs.parameters`."""

_MAX_NAME_BYTES = 200  # of a file's name: file systems allow 255, and suffixes are added to a name


def absolute_path(path: Path | str) -> Path:
    """Return a path as an absolute one, with `~` and links resolved as far as they exist.

    Raises
    ------
    ParameterError
        If the text cannot be a path, or the name is not UTF-8.
    """
    try:
        absolute = Path(os.path.realpath(os.path.expanduser(path)))  # Path.resolve fails on circular links
    except ValueError as error:
        raise ParameterError(f"{str(path)!r} is not a path ({error}); correct it.") from error
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
    """Return the content of a directory without hidden files, sorted by name; an empty list if it does not exist.

    Raises
    ------
    ParameterError
        If a name is not UTF-8.
    """
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    for path in paths:
        check_utf8(path)
    return paths


def find_path(path: Path, root: Path) -> Path:
    """Return a path below `root` as it is spelt on the disk, where case and normal form of its names may differ.

    Returns
    -------
    Path
        `path` itself if it exists, or if no other spelling does.
    """
    if os.path.exists(path):  # unlike Path.exists, it does not fail on a name that is too long
        return path
    existing = root
    for name in path.relative_to(root).parts:
        exact = existing / name
        try:
            others = [] if exact.exists() else sorted(existing.iterdir())
        except OSError:
            return path
        spelling = normal_form(name).lower()
        existing = next((other for other in others if normal_form(other.name).lower() == spelling), exact)
    return existing if existing.exists() else path


def is_inside(path: Path, root: Path) -> bool:
    """Return whether a path stays in a directory, wherever `..` and links lead."""
    return absolute_path(path).is_relative_to(absolute_path(root))


def regular_file(path: Path) -> Path:
    """Return a path to read from after checking that it is no pipe or device, which might never end.

    Raises
    ------
    OSError
        If it is not a regular file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return path


def file_name(text: str) -> str:
    """Return a text as the name of one file: the text itself if possible, else its printable part and a hash.

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


def normal_form(text: str) -> str:
    """Return a text in Unicode's normal form C, as keyboards type it; the names of files on macOS are in form D."""
    return unicodedata.normalize("NFC", text)
