"""Files of pretrained weights: downloads that are resumed and checked, and pickles that cannot run code.

A file is complete and checked, or absent, and an interrupted download is resumed (`<name>.part`). A file that was put
in its place by hand is used like any other.
"""

import hashlib
import logging
import pickle
import re
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor
from tqdm import tqdm

from cadenza_lib.core.errors import ModelError
from cadenza_lib.core.files import locked, make_directory, publish
from cadenza_lib.core.paths import is_inside, regular_file
from cadenza_lib.separation.checkpoints import bare_names

__all__ = ["fetch", "read_weights"]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "state")  # keys under which trainers keep the weights
_DOWNLOAD_BLOCK = 1 << 16
_TIMEOUT_S = 30
_PARTIAL_CONTENT, _RANGE_NOT_SATISFIABLE = 206, 416  # HTTP status

_LOGGER = logging.getLogger(__name__)


def fetch(url: str, folder: Path) -> Path:
    """Return the file of a URL in a folder, downloaded if it is missing, from where it was cut off the last time.

    Raises
    ------
    ModelError
        If the file cannot be downloaded, or is not what its name promises.
    """
    path = folder / url.rpartition("/")[2]
    if path.is_file():
        return path
    make_directory(folder)
    partial = folder / f"{path.name}.part"
    try:
        with locked(folder / f".{path.name}.lock"):
            if path.is_file():  # another process had the lock, and has finished
                return path
            _LOGGER.info("Downloading %s to %s.", url, path)
            try:
                with partial.open("ab") as file:
                    _download(url, file)
                _check_sha256(partial, _sha256_prefix(path))
                _unpickle(partial)
            except ValueError:
                partial.unlink()  # whole, but not the file it should be
                raise
            finally:
                if partial.exists() and partial.stat().st_size == 0:
                    partial.unlink()
            publish(partial, path)
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path.name} could not be downloaded from {url} ({error}); connect to the internet once, "
            f"or put the file into {folder} by hand."
        ) from error
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict that torch has pickled, and check its SHA-256 if the name ends in one.

    Raises
    ------
    ModelError
        If the file is missing or damaged, or holds more than tensors.
    """
    try:
        _check_sha256(regular_file(path), _sha256_prefix(path))
        return _unpickle(path)
    except FileNotFoundError as error:
        raise ModelError(f"Checkpoint {path} does not exist; check the path.") from error
    except (OSError, ValueError) as error:
        is_cached = is_inside(path, Path(torch.hub.get_dir()))
        remedy = "move it away, and it is downloaded again" if is_cached else "copy it again, or save its weights alone"
        raise ModelError(f"{path} cannot be used ({error}); {remedy}.") from error


def _download(url: str, file: BinaryIO) -> None:
    """Append to an open file what it lacks of a URL.

    Raises
    ------
    OSError
        If the server cannot be reached, answers with an error, or the connection ends before the file does.
    """
    start = file.tell()
    request = Request(url, headers={"User-Agent": "cadenza", **({"Range": f"bytes={start}-"} if start else {})})
    try:
        response = urlopen(request, timeout=_TIMEOUT_S)
    except HTTPError as error:
        if error.code != _RANGE_NOT_SATISFIABLE:
            raise
        file.truncate(0)  # longer than the server's file: begin again
        file.seek(0)
        return _download(url, file)
    with response:
        if response.status != _PARTIAL_CONTENT:  # the server sends the whole file
            start = 0
            file.truncate(0)
            file.seek(0)
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc="weights", leave=False) as bar:
            while block := response.read(_DOWNLOAD_BLOCK):
                bar.update(file.write(block))
    if total is not None and file.tell() < total:
        raise OSError(f"the connection ended after {file.tell()} of {total} bytes; the next call resumes it")


def _sha256_prefix(path: Path) -> str | None:
    """Return the digits of the SHA-256 that a file's name ends in, as torch.hub's convention has it."""
    match = re.search(r"-([0-9a-f]{8,})$", path.stem)
    return match.group(1) if match else None


def _check_sha256(path: Path, prefix: str | None) -> None:
    if prefix and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(prefix):
        raise ValueError(f"its SHA-256 does not begin with {prefix}")


def _unpickle(path: Path) -> dict[str, Tensor]:
    """Read a dictionary of tensors that torch has pickled, without running what else a pickle may hold."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError("it is damaged, or it holds more than weights and would run code") from error
    except Exception as error:  # damage shows itself in many ways: RuntimeError, EOFError, KeyError, struct.error
        raise ValueError("it is cut short or damaged") from error
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"it is not a dictionary of tensors, nor has one as {' or '.join(_WRAPPERS)}")
    return bare_names(state)
