"""The identity of what a result was computed from, and the directories in which results are kept.

Whatever is kept for a later call carries the identity of everything that decides it. If that changes, the result is
computed again or refused; what decides nothing, such as another path of the same corpus, makes no difference.

    kept                                  where                         decided by                         if it changed
    score, enhanced signal (`evaluate`)   `identity` in scores.csv      pair, weights, settings            again
    enhanced signal without a score       `identity` in signals.csv     pair, weights, settings            again
    score of a fusion (`Sweep`)           `identity` in scores.csv      pair, weights, chain settings      again
    personal settings                     `identity` in personal/*.json pairs, weights, steps, excerpt     again
    scores over levels                    name of each file             pair, weights, levels, chain       again
    separation                            name of each entry            mixture, weights, chunks           again
    song at the ears (`simulate`)         sources.json beside it        dry song, responses                again
    song of a corpus (`import_songs`)     sources.json beside it        files that it was imported from    again
    scores of an explanation              `identity` in scores.*.csv    pair, weights, chain               again
    loudness of a song at the ears        key in at_ear_gains.json      dry song, responses                again
    loudness of a mixture                 key in loudness.json          song                               again
    song for one listener                 settings.json beside it       song, audiogram, gains, weights    refused
    training state                        inputs.json                   first weights, songs, listeners    refused
    run of a notebook                     manifest.json                 notebook, parameters, inputs       again

A pair consists of its scene, gains, audiogram and song at the ears (`Corpus.pair_identity`). `CHAIN_VERSION` decides
all results too. A forced run removes what earlier runs have kept in its directory (`results_lock`).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from cadenza_lib.core.documents import fill, read_json, write_json
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import locked, write_errors
from cadenza_lib.core.paths import regular_file

__all__ = [
    "CHAIN_VERSION",
    "FORCE_VARIABLE",
    "claim",
    "digest",
    "file_identity",
    "read_settings",
    "results_lock",
    "song_file_identity",
]

CHAIN_VERSION = 1
"""To be increased when the chain, HAAQI or the twin's songs and heads give other numbers than before."""

FORCE_VARIABLE = "CADENZA_FORCE"
"""Environment variable with the name of a forced run, for the code in its notebook; empty in other runs."""

_HEX_DIGITS = 16  # 64 bits: among a million results, two different ones agree with a probability of 3e-8
_LARGE_BYTES = 1 << 24  # a file of an excerpt of ten seconds is ten times smaller, one of a song twice as large
_SAMPLED_BLOCKS = 8
_BLOCK_BYTES = 1 << 12

SettingsType = TypeVar("SettingsType")


def digest(*parts: Any) -> str:
    """Return a short text that identifies values of JSON.

    >>> digest(1, [0.5]) == digest(1, [0.5]), digest(1, [0.5]) == digest(1, [0.25])
    (True, False)
    """
    return hashlib.sha256(json.dumps([CHAIN_VERSION, *parts], sort_keys=True).encode()).hexdigest()[:_HEX_DIGITS]


def file_identity(path: Path) -> str:
    """Return the SHA-256 of a file's content, which is computed once for each size, time and inode of the file.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    status = regular_file(path).stat()
    return _sha256(path, (status.st_size, status.st_mtime_ns, status.st_ino))


def song_file_identity(path: Path) -> str:
    """Return the identity of a file of audio: its SHA-256, or for a large one that of its size, time and some blocks.

    A data set has hundreds of gigabytes, which must not be read each time that its results are used. So large files
    that are copied without their times (`cp` without `-p`) count as changed.

    Raises
    ------
    CorpusError
        If the file cannot be read.
    """
    try:
        status = regular_file(path).stat()
        if status.st_size <= _LARGE_BYTES:
            return file_identity(path)
        return _sampled_sha256(path, (status.st_size, status.st_mtime_ns, status.st_ino))
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}); check the corpus.") from error


@lru_cache(maxsize=1 << 16)
def _sha256(path: Path, _status: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1 << 16)
def _sampled_sha256(path: Path, status: tuple[int, ...]) -> str:
    size, time_ns, _ = status
    content = hashlib.sha256(f"{size} {time_ns}".encode())
    with path.open("rb") as file:
        for block in range(_SAMPLED_BLOCKS):
            file.seek((size - _BLOCK_BYTES) * block // (_SAMPLED_BLOCKS - 1))
            content.update(file.read(_BLOCK_BYTES))
    return content.hexdigest()


@contextmanager
def results_lock(lock: Path, *products: str, with_children: bool = False) -> Iterator[int]:
    """Hold the lock of a directory of growing results, and yield its descriptor; see `files.locked`.

    The lock file contains the name of the last forced run that held it. A forced run with another name first removes
    what is kept in the directory.

    Parameters
    ----------
    lock
        Path of the lock file, in the directory.
    *products
        Names of the results, as patterns for `Path.glob`.
    with_children
        As for `files.locked`.
    """
    with locked(lock, with_children=with_children) as descriptor:
        run = os.environ.get(FORCE_VARIABLE, "")
        if run and lock.read_text(encoding="utf-8") != run:
            with write_errors(lock.parent):
                for path in [path for product in products for path in lock.parent.glob(product)]:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                lock.write_text(run, encoding="utf-8")
        yield descriptor


def claim(
    path: Path,
    settings: Any,
    free: Collection[str] = (),
    places: Collection[str] = (),
    are_the_same: Callable[[], bool] = lambda: True,
) -> None:
    """Claim a directory for settings, a dataclass, by a JSON file in it; refuse if it has other settings.

    Parameters
    ----------
    path
        The JSON file.
    settings
        Settings that all results in the directory have in common.
    free
        Fields that may change, because they decide nothing.
    places
        Fields that are paths; they may change if they lead to the same content.
    are_the_same
        Returns whether the content is the same; called only if one of `places` has changed.

    Raises
    ------
    ParameterError
        If the file holds other settings.
    CorpusError
        If it does not contain settings.
    """
    values = asdict(settings)
    if path.exists():
        earlier = asdict(read_settings(path, type(settings)))
        changed = [name for name in values if earlier[name] != values[name] and name not in free]
        if changed and not (set(changed) <= set(places) and are_the_same()):
            name = next((name for name in changed if name not in places), changed[0])
            raise ParameterError(
                f"{path.parent} holds results with {name} {earlier[name]!r}, not {values[name]!r}; choose another "
                f"directory, or compute them again with --force."
            )
        if earlier == values:
            return
    write_json(path, values)


def read_settings(path: Path, kind: type[SettingsType]) -> SettingsType:
    """Read a dataclass of settings that `claim` has written.

    Raises
    ------
    CorpusError
        If the file is missing or does not contain such settings.
    """
    try:
        return fill(kind, read_json(path))
    except (TypeError, ParameterError) as error:
        raise CorpusError(
            f"{path} does not hold settings of results ({str(error).rstrip('.')}); choose another directory, or "
            f"compute them again with --force."
        ) from error
