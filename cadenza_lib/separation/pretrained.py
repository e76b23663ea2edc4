"""Pretrained networks: torchaudio's Hybrid Demucs, Open-Unmix' umxhq, and the models of demucs.

Weights are downloaded once into torch.hub's directory (`torch.hub.get_dir()`; the environment variable TORCH_HOME
moves it), see `downloads`.
"""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from demucs.apply import BagOfModels, apply_model
from demucs.hdemucs import HDemucs
from torch import Tensor

from cadenza_lib.core.errors import ModelError
from cadenza_lib.separation.checkpoints import check_sources, fill_network
from cadenza_lib.separation.downloads import fetch, read_weights
from cadenza_lib.separation.openunmix import OpenUnmix
from cadenza_lib.separation.registry import SeparatorEntry

__all__ = ["PRETRAINED_MODELS", "load_torchaudio_hdemucs", "rename_torchaudio_hdemucs"]

TORCHAUDIO_URL = "https://download.pytorch.org/torchaudio/models"

UMXHQ_URL = "https://zenodo.org/records/3370489/files"
UMXHQ_FILES = {
    "vocals": "vocals-b62c91ce.pth",
    "drums": "drums-9619578f.pth",
    "bass": "bass-8d85a5bd.pth",
    "other": "other-b52fbbf7.pth",
}
"""The four networks of umxhq (doi:10.5281/zenodo.3370489); the names end in the first digits of their SHA-256."""

_OUTSIDE_THE_RULES = "has been trained on data that the challenge's rules exclude"
_TORCHAUDIO_PLUS = "hdemucs_high_trained.pt"
_TORCHAUDIO_SOURCES = ["drums", "bass", "other", "vocals"]
_TORCHAUDIO_ARGUMENTS: dict[str, Any] = {"sources": _TORCHAUDIO_SOURCES, "channels": 48, "nfft": 4096, "depth": 6}
_TORCHAUDIO_PREFIXES = {
    "freq_encoder.": "encoder.",
    "freq_decoder.": "decoder.",
    "time_encoder.": "tencoder.",
    "time_decoder.": "tdecoder.",
}
_TORCHAUDIO_UNUSED = ("time_encoder.4.norm1.weight", "time_encoder.4.norm1.bias")  # of a layer that only convolves
_UMXHQ_HIDDEN_SIZE = 512

_LOGGER = logging.getLogger(__name__)


def load_torchaudio_hdemucs(path: Path) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return the Hybrid Demucs of a file of torchaudio, and the order of its sources.

    Raises
    ------
    ModelError
        If the file is missing, damaged, holds more than tensors, or belongs to another network.
    """
    if path.name == _TORCHAUDIO_PLUS:
        _LOGGER.warning("%s %s.", path.name, _OUTSIDE_THE_RULES)
    state = rename_torchaudio_hdemucs(read_weights(path))
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


def _load_from_torchaudio(file: str) -> tuple[torch.nn.Module, tuple[str, ...]]:
    folder = Path(torch.hub.get_dir()) / "torchaudio" / "models"  # torchaudio's own, so that downloads are shared
    return load_torchaudio_hdemucs(fetch(f"{TORCHAUDIO_URL}/{file}", folder))


def _load_umxhq() -> tuple[torch.nn.Module, tuple[str, ...]]:
    network = OpenUnmix(list(UMXHQ_FILES), _UMXHQ_HIDDEN_SIZE)
    folder = Path(torch.hub.get_dir()) / "checkpoints"  # the official package's own
    for source, name in UMXHQ_FILES.items():
        path = fetch(f"{UMXHQ_URL}/{name}", folder)
        target = network.target_models[source]
        # The files also hold the windows of an older Open-Unmix, where the transform was part of the network.
        state = {key: value for key, value in read_weights(path).items() if key in target.state_dict()}
        fill_network(target, state, path, "move it away, and it is downloaded again")
    return network, network.sources


def _load_from_demucs(name: str, within_rules: bool) -> tuple[torch.nn.Module, tuple[str, ...]]:
    from demucs.pretrained import get_model  # imports the hub's client, which nothing else needs

    if not within_rules:
        _LOGGER.warning("%s %s.", name, _OUTSIDE_THE_RULES)
    try:
        bag = get_model(name)
    except (Exception, SystemExit) as error:  # demucs lets through whatever its downloaders raise, or exits
        raise ModelError(
            f"demucs could not download the model {name!r} ({type(error).__name__}); "
            f"connect to the internet once, or use a checkpoint."
        ) from error
    check_sources(bag.sources, f"The model {name!r}")
    return _ApplyDemucs(bag), tuple(bag.sources)


class _ApplyDemucs(torch.nn.Module):
    """A bag of demucs models, averaged by demucs' own code with its own segments."""

    def __init__(self, bag: BagOfModels) -> None:
        super().__init__()
        self.bag = bag

    def forward(self, mixture: Tensor) -> Tensor:
        return apply_model(self.bag, mixture, shifts=0, device=mixture.device)


def _torchaudio(file: str, training_songs: str) -> SeparatorEntry:
    return SeparatorEntry(
        factory=functools.partial(_load_from_torchaudio, file),
        normalisation="mono mixture",
        size="335 MB",
        source=f"torchaudio, trained on {training_songs}",
        licence="not stated by torchaudio; MUSDB18-HQ is for non-commercial use",
    )


def _demucs(name: str, size: str, training_songs: str, within_rules: bool = False) -> SeparatorEntry:
    return SeparatorEntry(
        factory=functools.partial(_load_from_demucs, name, within_rules),
        normalisation="mono mixture",
        size=size,
        source=f"the package demucs, trained on {training_songs}",
        licence="MIT",
    )


PRETRAINED_MODELS = {
    "hdemucs_high_musdb": _torchaudio("hdemucs_high_musdbhq_only.pt", "MUSDB18-HQ's training songs"),  # the baseline
    "hdemucs_high_musdb_plus": _torchaudio(_TORCHAUDIO_PLUS, "all of MUSDB18-HQ and 150 more songs"),
    "umxhq": SeparatorEntry(
        factory=_load_umxhq,
        normalisation="none",
        size="142 MB",
        source="doi:10.5281/zenodo.3370489, trained on MUSDB18-HQ's training songs",
        licence="MIT",
    ),
    "hdemucs_mmi": _demucs("hdemucs_mmi", "167 MB", "MUSDB18-HQ and 800 more songs"),
    "mdx": _demucs("mdx", "four networks", "MUSDB18-HQ's training songs", within_rules=True),
    "mdx_extra": _demucs("mdx_extra", "four networks", "all of MUSDB18-HQ and more songs"),
    "htdemucs": _demucs("htdemucs", "84 MB", "MUSDB18-HQ and 800 more songs"),
    "htdemucs_ft": _demucs("htdemucs_ft", "336 MB", "MUSDB18-HQ and 800 more songs"),
    "htdemucs_6s": _demucs("htdemucs_6s", "55 MB", "MUSDB18-HQ and 800 more songs"),
}
"""Entries of `separators.SEPARATORS` whose weights are downloaded."""
