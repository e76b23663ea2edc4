"""Checkpoints of networks: weights as safetensors, and a JSON card of the same name beside them.

The card holds at least the `architecture`, one of `registry.ARCHITECTURES`, and its `arguments`, among them the names
of the `sources`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.documents import read_json, write_json
from cadenza_lib.core.errors import ModelError
from cadenza_lib.core.files import atomic_path
from cadenza_lib.separation.registry import ARCHITECTURES

__all__ = ["bare_names", "check_sources", "fill_network", "load_checkpoint", "save_checkpoint"]

_PREFIXES = ("module.", "model.", "network.")  # of DistributedDataParallel, Lightning and other trainers
_TRIAL_LENGTH = 1 << 14  # samples that a loaded network is tried out with, more than any usual window


def load_checkpoint(path: Path) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return the network of a checkpoint, in evaluation mode on the CPU, and the order of its sources.

    Raises
    ------
    ModelError
        If the checkpoint is missing or damaged, or its card does not describe its network.
    CorpusError
        If the card is missing or is not JSON.
    """
    card_path = path.with_suffix(".json")
    if not path.is_file():
        raise ModelError(f"Checkpoint {path} does not exist; check the path, or train it.")
    card = read_json(card_path)
    try:
        architecture, arguments = card["architecture"], card["arguments"]
        sources = tuple(map(str, arguments["sources"]))
    except (KeyError, TypeError) as error:
        needs = "an architecture and its arguments"
        raise ModelError(f"{card_path} does not describe a network ({error}); it needs {needs}.") from error
    if architecture not in list(ARCHITECTURES):  # a list, since the card may hold a value without a hash
        raise ModelError(f"{card_path} describes the architecture {architecture!r}; use one of {list(ARCHITECTURES)}.")
    check_sources(sources, str(card_path))
    try:
        state = bare_names(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}); copy or train it again.") from error
    factory, remedy = ARCHITECTURES[architecture].factory, f"use the {card_path.name} that was written with it"
    try:
        with torch.device("meta"):  # shapes alone: with wrong arguments, the network itself may not fit into memory
            outline = factory(**arguments)
        fill_network(outline, state, path, remedy)
        network = factory(**arguments)
        fill_network(network, state, path, remedy)
        _try_out(network.eval(), len(sources))
    except ModelError:
        raise
    except Exception as error:  # networks answer to wrong arguments in many ways
        reason = f"holds arguments that {architecture!r} does not take ({str(error).rstrip('.')})"
        raise ModelError(f"{card_path} {reason}; {remedy}.") from error
    return network, sources


def save_checkpoint(
    network: torch.nn.Module, path: Path | str, card: dict[str, Any], dtype: torch.dtype = torch.float16
) -> None:
    """Write a network as safetensors, by default in half precision, and its card as JSON beside it.

    The card needs `architecture` and `arguments`; add seeds, steps and how to train it again.
    """
    path = Path(path)
    state = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in network.state_dict().items()
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(state))  # `save_file` writes a temporary file of its own, which a kill would leave
    write_json(path.with_suffix(".json"), card)


def check_sources(sources: Sequence[Any], owner: str) -> None:
    """Check that a network's sources can be summed to the four stems, see `separators.sum_to_stems`.

    Raises
    ------
    ModelError
        If vocals, drums or bass are missing, nothing is left for "other", or a source is named twice; the message
        begins with `owner`.
    """
    if not set(STEMS[:-1]) < set(sources) or len(set(sources)) < len(sources):
        raise ModelError(
            f"{owner} separates the sources {list(sources)}; vocals, drums and bass must be among them, and at least "
            f"one more, which becomes other."
        )


def bare_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the prefixes that compilers and trainers put before their names.

    >>> bare_names({"module._orig_mod.encoder.0.bias": torch.zeros(1)})
    {'encoder.0.bias': tensor([0.])}
    """
    bare = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    while prefix := next((text for text in _PREFIXES if bare and all(name.startswith(text) for name in bare)), None):
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
    is_outline = any(parameter.is_meta for parameter in network.parameters())  # whose tensors cannot be copied into
    try:
        network.load_state_dict({name: value.float() for name, value in state.items()}, assign=is_outline)
    except RuntimeError as error:
        lines = str(error).splitlines()  # torch lists the mismatches on lines of their own
        first, *others = lines[min(1, len(lines) - 1)].strip().rstrip(". ").split('", "')  # names of weights
        reason = f'{first}" and {len(others)} more' if others else first
        raise ModelError(f"{path} holds weights of another network ({reason}); {remedy}.") from error


@torch.inference_mode()
def _try_out(network: torch.nn.Module, n_sources: int) -> None:
    """Raise an error if a network cannot separate: some arguments make it fail only when it is called."""
    mixture = 1e-2 * torch.sin(torch.arange(_TRIAL_LENGTH)).expand(1, 2, -1)
    stems = network(mixture)
    if stems.shape != (1, n_sources, *mixture.shape[1:]) or not torch.isfinite(stems).all():
        raise ValueError(f"it gives stems of shape {tuple(stems.shape)}, or not finite ones")
