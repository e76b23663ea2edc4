"""What the package knows of a separator: its factory, how its input is normalised, and where it comes from.

Two tables hold such entries by name. `ARCHITECTURES` has the networks that checkpoints can be made of: a factory takes
the arguments of a checkpoint's card. `separators.SEPARATORS` has all that can be loaded by name alone: its factories
take no arguments. To add an architecture, write its class in a file of its own and add one entry; checkpoints of it can
then be separated with and trained on. Code outside the package adds entries to the same tables, in each process that
uses them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from demucs.hdemucs import HDemucs
from torch import nn

from cadenza_lib.separation.consistent import ConsistentHDemucs, MaskedHDemucs
from cadenza_lib.separation.openunmix import OpenUnmix

__all__ = ["ARCHITECTURES", "SeparatorEntry", "architecture_name"]


@dataclass(frozen=True)
class SeparatorEntry:
    """A separator, or an architecture of separators."""

    factory: Callable[..., Any]
    """Of an architecture: the class of its networks, which map `(batch, channel, time)` to `(batch, source, channel,
    time)`. Of a separator: a function that returns such a network and the names of its sources, or, where there is no
    network, the `separators.Separator` itself."""
    normalisation: Literal["mono mixture", "none"]
    """Of a network's input: by mean and standard deviation of the mono mixture, as in the recipe, or none."""
    size: str  # of the weights
    source: str
    licence: str


ARCHITECTURES = {
    "hdemucs": SeparatorEntry(
        factory=HDemucs,
        normalisation="mono mixture",
        size="84 million parameters with 48 channels",
        source='A. Défossez, "Hybrid spectrogram and waveform source separation", MDX workshop at ISMIR 2021',
        licence="MIT (the package demucs)",
    ),
    "hdemucs_consistent": SeparatorEntry(
        factory=ConsistentHDemucs,
        normalisation="mono mixture",
        size="as hdemucs",
        source="this package",
        licence="MIT",
    ),
    "hdemucs_masked": SeparatorEntry(
        factory=MaskedHDemucs,
        normalisation="mono mixture",
        size="as hdemucs",
        source="this package",
        licence="MIT",
    ),
    "openunmix": SeparatorEntry(
        factory=OpenUnmix,
        normalisation="none",  # it learns the level of music in training
        size="36 million parameters with hidden_size 512",
        source="F.-R. Stöter et al., doi:10.21105/joss.01667, written for this package",
        licence="MIT",
    ),
}
"""Networks by the name that a checkpoint's card gives them."""


def architecture_name(network: nn.Module) -> str | None:
    """Return the name of the architecture of a network, by its class or the nearest base, None if it has no entry."""
    names = {entry.factory: name for name, entry in ARCHITECTURES.items()}
    return next((names[base] for base in type(network).__mro__ if base in names), None)
