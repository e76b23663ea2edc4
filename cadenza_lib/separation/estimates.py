"""A cache of separations: each model separates each at-ear song once, whatever is done with the stems afterwards.

An entry is a safetensors file named by the identity of all that decides it (see `identity`): the weights (the content
of a checkpoint and its card, the name of any other separator), the samples of the mixture, and how long signals are cut
into chunks. It is written as a whole or not at all, and holds the SHA-256 of its samples; a damaged entry is computed
again. The device is not part of the key: a GPU's stems differ from a CPU's by rounding only.

Stems are kept as float32, which is what networks compute in: half the size of float64, and rounding at -150 dB, far
below the 16 bits of the output stage.
"""

import functools
import hashlib
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import ModelError
from cadenza_lib.core.files import atomic_path, make_directory
from cadenza_lib.core.identity import digest, file_identity
from cadenza_lib.core.paths import regular_file
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.separation.chunking import OVERLAP, SEGMENT_S
from cadenza_lib.separation.separators import BOUNDS, Separator, checkpoint_path, load

__all__ = ["cached_separator", "model_identity", "weights_identity"]

_LOGGER = logging.getLogger(__name__)


def cached_separator(name: str, cache_dir: Path | str, device: str = "auto") -> Separator:
    """Return the separator of a name or checkpoint, which looks into `cache_dir` before it separates a song.

    The network is loaded when a song is not there. Bounds, which cost nothing, are not cached.

    Parameters
    ----------
    name, device
        As for `separation.load`.
    cache_dir
        Directory of the cache, which several models and runs can share.

    Raises
    ------
    ModelError
        If the name is unknown, or its weights cannot be loaded.
    ParameterError
        If `cache_dir` cannot be written.
    """
    if name in BOUNDS:
        return load(name)
    cache_dir = make_directory(cache_dir)
    identity = model_identity(name)
    loaded = functools.cache(functools.partial(load, name, device))  # only when a song is not in the cache

    def separate(song: AtEarSong) -> Tensor:
        path = cache_dir / f"{_key(identity, song)}.safetensors"
        stems = _read(path, tuple(song.mixture.shape))
        if stems is None:
            stems = loaded()(song).float().contiguous()
            with atomic_path(path) as temporary:
                entry = {"sha256": _digest(stems), "model": name, "song": song.name}
                # `save_file` writes a temporary file of its own, which a killed process would leave.
                temporary.write_bytes(save({"stems": stems}, entry))
        return stems.to(song.mixture.dtype)

    return separate


def model_identity(name: str) -> str:
    """Return the identity of a model: that of its checkpoint and card, or its name.

    Raises
    ------
    ModelError
        If the checkpoint cannot be read.
    """
    path = checkpoint_path(name)
    if path is None:
        return name
    try:
        files = (path, path.with_suffix(".json")) if path.suffix == ".safetensors" else (path,)
        return digest(*map(file_identity, files))
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ModelError(f"Checkpoint {error.filename} {reason}; check the path.") from error


def weights_identity(network: torch.nn.Module) -> str:
    """Return the identity of a network's weights."""
    content = hashlib.sha256()
    for name, value in network.state_dict().items():
        content.update(name.encode())
        content.update(value.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def _key(identity: str, song: AtEarSong) -> str:
    mixture = hashlib.sha256(song.mixture.numpy().tobytes()).hexdigest()
    return digest(identity, SEGMENT_S, OVERLAP, song.sample_rate, list(song.mixture.shape), mixture)


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """Return the stems of an entry, None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(regular_file(path), framework="pt") as file:
            stems, expected = file.get_tensor("stems"), (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        _LOGGER.warning("%s is damaged (%s); its song is separated again.", path, error)
        return None
    if stems.shape != (len(STEMS), *shape) or stems.dtype != torch.float32 or _digest(stems) != expected:
        _LOGGER.warning("%s does not hold what was written to it; its song is separated again.", path)
        return None
    return stems


def _digest(stems: Tensor) -> str:
    return hashlib.sha256(stems.numpy().tobytes()).hexdigest()
