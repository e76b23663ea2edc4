"""Pretrained separators by name: torchaudio's Hybrid Demucs, Open-Unmix' umxhq, and the models of demucs.

Weights are downloaded once into torch.hub's directory (`torch.hub.get_dir()`; the environment variable TORCH_HOME
moves it). A file is there complete and checked, or not at all, and a download that was cut off goes on where it stopped
(`<name>.part`). A file that was put there by hand is used like any other.
"""

import hashlib
import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from demucs.apply import BagOfModels, apply_model
from demucs.hdemucs import HDemucs
from torch import Tensor
from tqdm import tqdm

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import ModelError
from cadenza_lib.core.files import locked, make_directory, publish
from cadenza_lib.core.paths import is_inside, regular_file
from cadenza_lib.separation.openunmix import OpenUnmix

__all__ = [
    "DEMUCS_MODELS",
    "PRETRAINED_MODELS",
    "TORCHAUDIO_FILES",
    "UMXHQ_FILES",
    "bare_names",
    "check_sources",
    "fill_network",
    "load_pretrained",
    "load_torchaudio_hdemucs",
    "rename_torchaudio_hdemucs",
]

TORCHAUDIO_URL = "https://download.pytorch.org/torchaudio/models"
TORCHAUDIO_FILES = {
    "hdemucs_high_musdb": "hdemucs_high_musdbhq_only.pt",
    "hdemucs_high_musdb_plus": "hdemucs_high_trained.pt",
}
"""Files of torchaudio's pipelines HDEMUCS_HIGH_MUSDB (the challenge's baseline) and HDEMUCS_HIGH_MUSDB_PLUS."""

UMXHQ_URL = "https://zenodo.org/records/3370489/files"
UMXHQ_FILES = {
    "vocals": "vocals-b62c91ce.pth",
    "drums": "drums-9619578f.pth",
    "bass": "bass-8d85a5bd.pth",
    "other": "other-b52fbbf7.pth",
}
"""The four networks of umxhq (doi:10.5281/zenodo.3370489); the names end in the first digits of their SHA-256."""

DEMUCS_MODELS = ("hdemucs_mmi", "mdx", "mdx_extra", "htdemucs", "htdemucs_ft", "htdemucs_6s")
"""Pretrained models that demucs downloads by name."""

PRETRAINED_MODELS = (*TORCHAUDIO_FILES, "umxhq", *DEMUCS_MODELS)
"""Every name that `load_pretrained` knows."""

_DEMUCS_WITHIN_RULES = ("mdx",)  # trained on MUSDB18-HQ's training songs alone (demucs' README)

_TORCHAUDIO_ARGUMENTS: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 48,
    "nfft": 4096,
    "depth": 6,
}
_UMXHQ_HIDDEN_SIZE = 512

_TORCHAUDIO_PREFIXES = {
    "freq_encoder.": "encoder.",
    "freq_decoder.": "decoder.",
    "time_encoder.": "tencoder.",
    "time_decoder.": "tdecoder.",
}
_TORCHAUDIO_UNUSED = ("time_encoder.4.norm1.weight", "time_encoder.4.norm1.bias")  # of a layer that only convolves

_WRAPPERS = ("state_dict", "model_state_dict", "model", "state")  # keys under which trainers keep the weights
_PREFIXES = ("module.", "model.", "network.")  # of DistributedDataParallel, Lightning and other trainers

_DOWNLOAD_BLOCK = 1 << 16
_TIMEOUT_S = 30
_PARTIAL_CONTENT, _RANGE_NOT_SATISFIABLE = 206, 416  # HTTP status

_logger = logging.getLogger(__name__)


def load_pretrained(name: str) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return a pretrained network on the CPU and the order of its sources; the first time, it is downloaded.

    Parameters
    ----------
    name
        One of `PRETRAINED_MODELS`. A warning is logged for those that have seen more than MUSDB18-HQ's training songs.

    Raises
    ------
    ModelError
        If the weights cannot be downloaded, or are damaged.
    """
    if name in TORCHAUDIO_FILES:
        # torchaudio's own folder: what it has downloaded is found, and the other way round.
        folder = Path(torch.hub.get_dir()) / "torchaudio" / "models"
        return load_torchaudio_hdemucs(_fetch(f"{TORCHAUDIO_URL}/{TORCHAUDIO_FILES[name]}", folder))
    if name == "umxhq":
        return _load_umxhq()
    return _load_from_demucs(name)


def load_torchaudio_hdemucs(path: Path) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return the Hybrid Demucs of a file of torchaudio, and the order of its sources.

    Raises
    ------
    ModelError
        If the file is missing, damaged, holds more than tensors, or belongs to another network.
    """
    if path.name == TORCHAUDIO_FILES["hdemucs_high_musdb_plus"]:
        _warn_of_rules(path.name)
    state = rename_torchaudio_hdemucs(_read(path))
    network = HDemucs(**_TORCHAUDIO_ARGUMENTS)
    fill_network(network, state, path, "use torchaudio's hdemucs_high_musdbhq_only.pt")
    return network, tuple(_TORCHAUDIO_ARGUMENTS["sources"])


def rename_torchaudio_hdemucs(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of torchaudio's Hybrid Demucs under demucs' names; the two compute the same.

    >>> rename_torchaudio_hdemucs({"time_encoder.0.conv.bias": torch.zeros(1)})
    {'tencoder.0.conv.bias': tensor([0.])}
    """
    renamed = {}
    for name, value in state.items():
        prefix = name[: name.find(".") + 1]
        if name not in _TORCHAUDIO_UNUSED:
            renamed[_TORCHAUDIO_PREFIXES.get(prefix, prefix) + name.removeprefix(prefix)] = value
    return renamed


def check_sources(sources: Sequence[Any], owner: str) -> None:
    """Check that a network's sources can be summed to the four stems, see `separation.sum_to_stems`.

    Raises
    ------
    ModelError
        If vocals, drums or bass are missing, nothing is left for "other", or a source is named twice; the message
        begins with `owner`.
    """
    named = set(STEMS[:-1])
    if not named < set(sources) or len(set(sources)) < len(sources):
        raise ModelError(
            f"{owner} separates the sources {list(sources)}; vocals, drums and bass must be among them, and at least "
            f"one more, which becomes other."
        )


def bare_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without what compilers and trainers put before their names.

    >>> bare_names({"module._orig_mod.encoder.0.bias": torch.zeros(1)})
    {'encoder.0.bias': tensor([0.])}
    """
    bare = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    while prefix := next((one for one in _PREFIXES if bare and all(name.startswith(one) for name in bare)), None):
        bare = {name.removeprefix(prefix): value for name, value in bare.items()}
    return bare


def fill_network(network: torch.nn.Module, state: Mapping[str, Tensor], path: Path, remedy: str) -> None:
    """Give a network the weights of a file.

    Raises
    ------
    ModelError
        If a weight is not finite, missing, of another shape or unknown; the message names the file and the remedy.
    """
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise ModelError(f"{path} holds NaN or infinite weights; copy or train it again.")
    try:
        network.load_state_dict({name: value.float() for name, value in state.items()}, assign=_is_outline(network))
    except RuntimeError as error:
        lines = str(error).splitlines()  # torch lists the mismatches on lines of their own
        first, *others = lines[min(1, len(lines) - 1)].strip().rstrip(". ").split('", "')  # names of weights
        reason = f'{first}" and {len(others)} more' if others else first
        raise ModelError(f"{path} holds weights of another network ({reason}); {remedy}.") from error


def _is_outline(network: torch.nn.Module) -> bool:
    """Tell whether a network has shapes alone, into which nothing can be copied."""
    return any(parameter.is_meta for parameter in network.parameters())


def _load_umxhq() -> tuple[torch.nn.Module, tuple[str, ...]]:
    network = OpenUnmix(list(UMXHQ_FILES), _UMXHQ_HIDDEN_SIZE)
    folder = Path(torch.hub.get_dir()) / "checkpoints"  # where the official package looks
    for source, name in UMXHQ_FILES.items():
        path = _fetch(f"{UMXHQ_URL}/{name}", folder)
        target = network.target_models[source]
        # The files also hold the windows of an older Open-Unmix, where the transform was part of the network.
        state = {key: value for key, value in _read(path).items() if key in target.state_dict()}
        fill_network(target, state, path, "move it away, and it is downloaded again")
    return network, network.sources


def _load_from_demucs(name: str) -> tuple[torch.nn.Module, tuple[str, ...]]:
    from demucs.pretrained import get_model  # pulls in the hub client, which nothing else needs

    if name not in _DEMUCS_WITHIN_RULES:
        _warn_of_rules(name)
    try:
        bag = get_model(name)
    except (Exception, SystemExit) as error:  # demucs lets through whatever its downloaders raise, or exits
        raise ModelError(
            f"demucs could not download the model {name!r} ({type(error).__name__}); "
            f"connect to the internet once, or use a checkpoint."
        ) from error
    check_sources(bag.sources, f"The model {name!r}")
    return _ApplyDemucs(bag), tuple(bag.sources)


def _warn_of_rules(name: str) -> None:
    _logger.warning("%s has been trained on data that the challenge's rules exclude.", name)


class _ApplyDemucs(torch.nn.Module):
    """A bag of demucs models, averaged by demucs' own code with its own segments."""

    def __init__(self, bag: BagOfModels) -> None:
        super().__init__()
        self.bag = bag

    def forward(self, mixture: Tensor) -> Tensor:
        return apply_model(self.bag, mixture, shifts=0, device=mixture.device)


def _fetch(url: str, folder: Path) -> Path:
    """Return the file of a URL in a folder, downloaded if it is not there, from where it was cut off the last time."""
    path = folder / url.rpartition("/")[2]
    if path.is_file():
        return path
    make_directory(folder)
    partial = folder / f"{path.name}.part"
    try:
        with locked(folder / f".{path.name}.lock"):
            if path.is_file():  # another process had the lock, and has finished
                return path
            _logger.info("Downloading %s to %s.", url, path)
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
        raise OSError(f"the connection ended after {file.tell()} of {total} bytes; the next call goes on from there")


def _read(path: Path) -> dict[str, Tensor]:
    """Read a state dict, with its checksum where the name ends in one."""
    try:
        _check_sha256(regular_file(path), _sha256_prefix(path))
        return _unpickle(path)
    except FileNotFoundError as error:
        raise ModelError(f"Checkpoint {path} does not exist; check the path.") from error
    except (OSError, ValueError) as error:
        is_cached = is_inside(path, Path(torch.hub.get_dir()))
        remedy = "move it away, and it is downloaded again" if is_cached else "copy it again, or save its weights alone"
        raise ModelError(f"{path} cannot be used ({error}); {remedy}.") from error


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
        raise ValueError(
            f"it is not a dictionary of tensors, nor has one as {', '.join(_WRAPPERS[:-1])} or {_WRAPPERS[-1]}"
        )
    return bare_names(state)
