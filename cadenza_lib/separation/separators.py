"""Separators by name or checkpoint, and how a network is applied to a song.

A separator is called with an at-ear song and returns its estimate of the four stems. `oracle` returns the true stems,
`mixture` a quarter of the mixture for each (whatever the gains, the remix is then the unprocessed mixture). Networks
see the mixture alone, normalised as their entry says.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import soundfile
import torch
from torch import Tensor

from cadenza_lib.audio.acoustics import check_signal, quantise_16bit
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import read_json
from cadenza_lib.core.errors import AudioError, ModelError, ParameterError
from cadenza_lib.core.files import atomic_path
from cadenza_lib.core.paths import DATA
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.separation.checkpoints import load_checkpoint
from cadenza_lib.separation.chunking import chunked, official_chunks
from cadenza_lib.separation.pretrained import PRETRAINED_MODELS, load_torchaudio_hdemucs
from cadenza_lib.separation.registry import ARCHITECTURES, SeparatorEntry, architecture_name

__all__ = [
    "BOUNDS", "SEPARATORS", "SHIPPED_MODELS", "Separator", "checkpoint_path", "input_statistics", "load",
    "load_network", "network_card", "network_separator", "normalises", "save_stems", "select_device", "sum_to_stems",
]  # fmt: skip


class Separator(Protocol):
    """Anything that estimates the stems of an at-ear song.

    Shape:
        - result: `(stem, channel, time)`, in the order of `conventions.STEMS` and in the precision of the mixture
    """

    def __call__(self, song: AtEarSong) -> Tensor:
        """Return the estimated stems."""
        ...


def _oracle(song: AtEarSong) -> Tensor:
    if not len(song.stems):
        raise AudioError(f"{song.name} has no stems, which 'oracle' would return; name another system.")
    return song.stems


def _mixture(song: AtEarSong) -> Tensor:
    return (song.mixture / len(STEMS)).expand(len(STEMS), -1, -1)


def _bound(separator: Separator, source: str) -> SeparatorEntry:
    return SeparatorEntry(lambda: separator, "none", size="none", source=source, licence="MIT")


def _shipped(name: str, architecture: str, size: str) -> SeparatorEntry:
    return SeparatorEntry(
        factory=functools.partial(load_checkpoint, DATA / f"{name}.safetensors"),
        normalisation=ARCHITECTURES[architecture].normalisation,
        size=size,
        source=f"data/{name}.json",
        licence="MIT",
    )


_BOUNDS = {"oracle": _bound(_oracle, "the true stems"), "mixture": _bound(_mixture, "no processing")}
_FINE_TUNED = (  # towards one or several targets, on more or fewer scenes, or on dry songs; see their cards
    *("stems", "stems_seed_1", "downmix", "normalised", "amplified", "joint"),
    *("24_scenes", "192_scenes", "control"),
)
_SHIPPED = {
    "demo_hdemucs": _shipped("demo_hdemucs", "hdemucs_masked", "4.7 MB"),
    "demo_openunmix": _shipped("demo_openunmix", "openunmix", "2.6 MB"),
    "twin_hdemucs": _shipped("twin_hdemucs", "hdemucs_consistent", "4.7 MB"),
    **{f"twin_{name}": _shipped(f"twin_{name}", "hdemucs_consistent", "4.7 MB") for name in _FINE_TUNED},
    "twin_openunmix": _shipped("twin_openunmix", "openunmix", "2.6 MB"),
}

SEPARATORS: dict[str, SeparatorEntry] = {**_BOUNDS, **_SHIPPED, **PRETRAINED_MODELS}
"""All separators that `load` knows by name; entries can be added."""

BOUNDS = tuple(_BOUNDS)
"""Separators that need no network: perfect stems, and no processing at all."""

SHIPPED_MODELS = tuple(_SHIPPED)
"""Small networks that ship with the repository; their cards in `data/` describe their training."""


def load(name: str, device: str = "auto", official_chunking: bool = False) -> Separator:
    """Return the separator of a name or checkpoint.

    Parameters
    ----------
    name
        One of `SEPARATORS`, or the path of a `.safetensors` checkpoint or of torchaudio's Hybrid Demucs, a `.pt` file.
    device
        "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1".
    official_chunking
        Cut chunks as the recipe does, which silences the last 100 ms of every clip of up to 11 s. For comparison only.

    Raises
    ------
    ModelError
        If the name is unknown, or its weights cannot be loaded.
    """
    made = _make(name)
    if not isinstance(made, tuple):
        return made
    normalisation = SEPARATORS[name].normalisation if name in SEPARATORS else None
    network, sources = made
    separator = network_separator(network, sources, select_device(device), official_chunking, normalisation)
    return _Loaded(separator, (name, device, official_chunking))


class _Loaded:
    """A separator that is pickled as its name, and loaded again by the process that unpickles it."""

    def __init__(self, separator: Separator, arguments: tuple[str, str, bool]) -> None:
        self._separator, self._arguments = separator, arguments

    def __call__(self, song: AtEarSong) -> Tensor:
        return self._separator(song)

    def __reduce__(self) -> tuple[Callable[..., Separator], tuple[str, str, bool]]:
        return load, self._arguments


def load_network(name: str) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return the network of a name or checkpoint, in evaluation mode on the CPU, and the order of its sources.

    Raises
    ------
    ModelError
        If the name is unknown or has no network, or its weights cannot be loaded.
    """
    made = _make(name)
    if not isinstance(made, tuple):
        raise ModelError(
            f"Separator {name!r} has no network; use a checkpoint, or twin_hdemucs or demo_openunmix, which come with "
            f"the package."
        )
    network, sources = made
    return network.eval(), sources


def _make(name: str) -> Any:
    """Return what the entry of a name makes, or the network of a checkpoint and its sources."""
    if name in SEPARATORS:
        return SEPARATORS[name].factory()
    path = Path(name).expanduser()
    if path.suffix == ".safetensors":
        return load_checkpoint(path)
    if path.suffix == ".pt":
        return load_torchaudio_hdemucs(path)
    names = f"one of {list(SEPARATORS)} or the path of a checkpoint, .safetensors or .pt"
    raise ModelError(f"Separator {name!r} is unknown; use {names}.")


def checkpoint_path(name: str) -> Path | None:
    """Return the file of weights that a name stands for, None if it has none or they are downloaded."""
    if name in SEPARATORS:
        return DATA / f"{name}.safetensors" if name in SHIPPED_MODELS else None
    path = Path(name).expanduser()
    return path if path.suffix in (".safetensors", ".pt") else None


def network_card(name: str, network: torch.nn.Module) -> dict[str, Any]:
    """Return the card of a network that `load_network` gave for a name: that of its checkpoint, or a new one.

    Raises
    ------
    ModelError
        If no checkpoint can be written of it, as of the bags of models that demucs averages.
    """
    path = checkpoint_path(name)
    if path is not None and path.suffix == ".safetensors":
        return read_json(path.with_suffix(".json"))
    architecture, made_with = architecture_name(network), getattr(network, "_init_args_kwargs", None)  # by demucs
    if architecture is None or made_with is None:
        raise ModelError(f"{name!r} cannot be trained on; start from a .safetensors checkpoint or twin_hdemucs.")
    return {
        "architecture": architecture,
        "arguments": made_with[1],
        "trained_on": f"whatever {name} was trained on",
    }


def select_device(device: str) -> torch.device:
    """Return the torch device of a name; "auto" is CUDA if there is one, else the CPU.

    Raises
    ------
    ParameterError
        If the name is unknown or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ParameterError(f'Device {device!r} is not available here; use "auto", "cpu" or "cuda".') from error
    return chosen


def network_separator(
    network: torch.nn.Module,
    sources: tuple[str, ...],
    device: torch.device,
    official_chunking: bool = False,
    normalisation: str | None = None,
) -> Separator:
    """Make a separator of a network that maps `(batch, channel, time)` to `(batch, source, channel, time)`.

    Its input is normalised as its entry says, or else as `input_statistics` does.
    """
    network = network.to(device).eval()

    def forward(chunk: Tensor) -> Tensor:
        return sum_to_stems(network(chunk[None])[0], sources)

    def separate(song: AtEarSong) -> Tensor:
        if song.sample_rate != SAMPLE_RATE:
            raise AudioError(f"{song.name} has a rate of {song.sample_rate} Hz, not {SAMPLE_RATE}; resample it.")
        mixture = song.mixture.double()
        mean, deviation = input_statistics(network, mixture, normalisation)
        if deviation == 0:  # nothing to separate in silence
            return torch.zeros(len(STEMS), *song.mixture.shape, dtype=song.mixture.dtype)
        normalised = ((mixture - mean) / deviation).to(device, torch.float32)
        del mixture  # here and below: minutes of music take much memory, so drop each copy early
        with torch.no_grad():
            stems = official_chunks(forward, normalised) if official_chunking else chunked(forward, normalised)
        del normalised
        stems = stems.cpu().to(song.mixture.dtype)
        for stem in stems:
            stem.copy_(stem.double() * deviation + mean)
        check_signal(stems, f"What the network makes of {song.name}")
        return stems

    return separate


def sum_to_stems(estimates: Tensor, sources: Sequence[str]) -> Tensor:
    """Return a network's sources as the four stems: those of other names, such as guitar and piano, join "other".

    Shape:
        - estimates: `(..., source, channel, time)`
        - result: `(..., stem, channel, time)`

    >>> estimates = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).reshape(5, 1, 1)
    >>> sum_to_stems(estimates, ["drums", "bass", "guitar", "vocals", "piano"]).flatten()
    tensor([ 8.,  1.,  2., 20.])
    """
    if tuple(sources) == STEMS:  # putting them in order copies them, which takes time
        return estimates
    named = [source if source in STEMS else "other" for source in sources]
    if sorted(named) == sorted(STEMS):
        return estimates[..., [named.index(stem) for stem in STEMS], :, :]
    places = [[place for place, name in enumerate(named) if name == stem] for stem in STEMS]
    return torch.stack([estimates[..., group, :, :].sum(-3) for group in places], dim=-3)


def input_statistics(
    network: torch.nn.Module, mixture: Tensor, normalisation: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation that a network's input is normalised by: of the mono version, or 0 and 1.

    The normalisation is by default that of the network's architecture, and the recipe's if that is not registered.

    Shape:
        - mixture: `(..., channel, time)`
        - result: each `(..., 1, 1)`
    """
    mono = mixture.mean(-2, keepdim=True)
    mean, deviation = mono.mean(-1, keepdim=True), mono.std(-1, correction=0, keepdim=True)
    if not normalises(network, normalisation):
        return torch.zeros_like(mean), torch.ones_like(deviation)
    return mean, deviation


def normalises(network: torch.nn.Module, normalisation: str | None = None) -> bool:
    """Tell whether a network's input is normalised by mean and deviation; see `input_statistics`."""
    architecture = architecture_name(network)
    if normalisation is None and architecture is not None:
        normalisation = ARCHITECTURES[architecture].normalisation
    return normalisation != "none"


def save_stems(stems: Tensor, folder: Path | str) -> list[Path]:
    """Write stems `(stem, channel, time)` as 16-bit FLAC files at their own level, and return the paths."""
    paths = [Path(folder) / f"{name}.flac" for name in STEMS]
    for path, stem in zip(paths, quantise_16bit(stems), strict=True):
        with atomic_path(path) as temporary:
            soundfile.write(temporary, stem.numpy().T, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    return paths
