"""Separators: networks by name or checkpoint, a long signal in chunks, and the two bounds of every study.

A separator is called with an at-ear song and returns its estimate of the four stems. `oracle` returns the true stems,
`mixture` a quarter of the mixture for each (whatever the gains, the remix is then the unprocessed mixture). Networks
see the mixture alone, normalised by the mean and standard deviation of its mono version, as the recipe does; only
Open-Unmix sees it as it is, since it knows the level of music from its training.

A checkpoint is a safetensors file with a JSON card of the same name beside it, which holds at least the
`architecture` ("hdemucs" or "openunmix") and its `arguments`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import soundfile
import torch
from demucs.hdemucs import HDemucs
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from cadenza_lib.audio.acoustics import check_signal, quantise_16bit
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import read_json, write_json
from cadenza_lib.core.errors import AudioError, ModelError, ParameterError
from cadenza_lib.core.files import atomic_path
from cadenza_lib.core.paths import DATA
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.separation.openunmix import OpenUnmix
from cadenza_lib.separation.pretrained import (
    PRETRAINED_MODELS,
    bare_names,
    check_sources,
    fill_network,
    load_pretrained,
    load_torchaudio_hdemucs,
)

__all__ = [
    "ARCHITECTURES",
    "BOUNDS",
    "DEMO_MODELS",
    "MaskedHDemucs",
    "Separator",
    "chunked",
    "input_statistics",
    "load",
    "load_network",
    "network_card",
    "network_separator",
    "save_checkpoint",
    "save_stems",
    "select_device",
    "sum_to_stems",
]

BOUNDS = ("oracle", "mixture")
"""Systems that need no network: perfect stems, and no processing at all."""

DEMO_MODELS = ("demo_hdemucs", "demo_openunmix")
"""Small networks trained on the demo corpus; their cards in `data/` tell how."""

SEGMENT_S = 10.0
"""Length of the chunks a long signal is separated in; the recipe's is 11 s."""

OVERLAP = 0.25
"""Share of a chunk that is cross-faded with its neighbour."""

_MASK_EXPONENT = 1.5  # 2 would be the Wiener filter of independent Gaussian stems
_MASK_FLOOR = 1e-8  # power of a bin; equal shares where no stem has anything, and finite gradients

_OFFICIAL_CHUNK_S = 11.0  # segment 10 s times (1 + overlap 0.1) in pyclarity's `separate_sources`
_OFFICIAL_FADE_S = 0.1

_TRIAL_LENGTH = 1 << 14  # samples that a loaded network is tried out with, more than any usual window


class MaskedHDemucs(HDemucs):
    """Hybrid Demucs that shares out its input: each bin of the mixture's spectrum by the magnitudes of the stems.

    So the stems sum to the input. A small Hybrid Demucs alone leaves out much of what lies between and above the
    strong partials, and HAAQI hears that. The masks are those of A. Liutkus and R. Badeau, "Generalized Wiener
    filtering with fractional power spectrograms", ICASSP 2015.

    Shape:
        - mix: `(batch, channel, time)`
        - result: `(batch, source, channel, time)`
    """

    def forward(self, mix: Tensor) -> Tensor:
        """Return the stems."""
        stems = super().forward(mix)
        window = torch.hann_window(self.nfft, device=mix.device)
        transform = {"n_fft": self.nfft, "hop_length": self.hop_length, "window": window}

        def spectrum(signal: Tensor) -> Tensor:
            flat = torch.stft(signal.flatten(0, -2), **transform, pad_mode="constant", return_complex=True)
            return flat.unflatten(0, signal.shape[:-1])  # (batch, ..., channel, bin, frame)

        magnitude = spectrum(stems).abs().square().add(_MASK_FLOOR) ** (_MASK_EXPONENT / 2)
        shares = magnitude / magnitude.sum(1, keepdim=True) * spectrum(mix).unsqueeze(1)
        return torch.istft(shares.flatten(0, 2), **transform, length=mix.shape[-1]).view_as(stems)


ARCHITECTURES: dict[str, Callable[..., torch.nn.Module]] = {
    "hdemucs": HDemucs,
    "hdemucs_masked": MaskedHDemucs,
    "openunmix": OpenUnmix,
}
"""Networks by the name that a checkpoint's card gives them."""


class Separator(Protocol):
    """Anything that estimates the stems of an at-ear song.

    Shape:
        - result: `(stem, channel, time)`, in the order of `scenes.STEMS` and in the precision of the song's mixture
    """

    def __call__(self, song: AtEarSong) -> Tensor:
        """Return the estimated stems."""
        ...


def load(name: str, device: str = "auto", official_chunking: bool = False) -> Separator:
    """Return the separator of a name or checkpoint.

    Parameters
    ----------
    name
        "oracle", "mixture", one of `DEMO_MODELS`, one of `pretrained.PRETRAINED_MODELS`, or the path of a
        `.safetensors` checkpoint or of torchaudio's Hybrid Demucs, a `.pt` file.
    device
        "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1".
    official_chunking
        Cut chunks as the recipe does, which silences the last 100 ms of every clip of up to 11 s. For comparison only.

    Raises
    ------
    ModelError
        If the name is unknown, or its weights cannot be loaded.
    """
    if name == "oracle":
        return _oracle
    if name == "mixture":
        return _mixture
    network, sources = load_network(name)
    separator = network_separator(network, sources, select_device(device), official_chunking)
    return _Loaded(separator, (name, device, official_chunking))


class _Loaded:
    """A separator that goes to another process by its name, and is loaded again there."""

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
        If the name is unknown, or its weights cannot be loaded.
    """
    if name in DEMO_MODELS:
        return _load_checkpoint(DATA / f"{name}.safetensors")
    if name in PRETRAINED_MODELS:
        network, sources = load_pretrained(name)
        return network.eval(), sources
    path = Path(name).expanduser()
    if path.suffix == ".safetensors":
        return _load_checkpoint(path)
    if path.suffix == ".pt":
        network, sources = load_torchaudio_hdemucs(path)
        return network.eval(), sources
    raise ModelError(
        f"Separator {name!r} is unknown; use one of {[*BOUNDS, *DEMO_MODELS, *PRETRAINED_MODELS]} "
        f"or the path of a checkpoint, .safetensors or .pt."
    )


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
) -> Separator:
    """Make a separator of a network that maps `(batch, channel, time)` to `(batch, source, channel, time)`.

    The network sees the mixture normalised as in the recipe, unless it is an Open-Unmix.
    """
    network = network.to(device).eval()

    def forward(chunk: Tensor) -> Tensor:
        return sum_to_stems(network(chunk[None])[0], sources)

    def separate(song: AtEarSong) -> Tensor:
        if song.sample_rate != SAMPLE_RATE:
            raise AudioError(f"{song.name} has a rate of {song.sample_rate} Hz, not {SAMPLE_RATE}; resample it.")
        mixture = song.mixture.double()
        mean, deviation = input_statistics(network, mixture)
        if deviation == 0:  # nothing to separate in silence
            return torch.zeros(len(STEMS), *song.mixture.shape, dtype=song.mixture.dtype)
        normalised = ((mixture - mean) / deviation).to(device, torch.float32)
        del mixture  # here and below: of minutes of music, nothing may be there longer than it is needed
        with torch.no_grad():
            if official_chunking:
                stems = _official_chunks(forward, normalised)
            else:
                stems = chunked(forward, normalised, int(SEGMENT_S * SAMPLE_RATE))
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


def input_statistics(network: torch.nn.Module, mixture: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation that a network's input is normalised by: of the mono version; 0 and 1 for Open-Unmix.

    Shape:
        - mixture: `(..., channel, time)`
        - result: each `(..., 1, 1)`
    """
    mono = mixture.mean(-2, keepdim=True)
    mean, deviation = mono.mean(-1, keepdim=True), mono.std(-1, correction=0, keepdim=True)
    if isinstance(network, OpenUnmix):
        return torch.zeros_like(mean), torch.ones_like(deviation)
    return mean, deviation


def chunked(
    forward: Callable[[Tensor], Tensor], signal: Tensor, segment_length: int, overlap: float = OVERLAP
) -> Tensor:
    """Apply `forward` to overlapping chunks and cross-fade the results.

    All chunks have one length: the last is moved back to end with the signal, so that the network never sees a
    fragment. A signal of up to one segment is passed whole.

    Parameters
    ----------
    forward
        Maps `(channel, chunk)` to `(source, channel, chunk)`.
    signal
        `(channel, time)`.
    segment_length
        Length of a chunk in samples.
    overlap
        Share of a chunk that it has in common with the next, from 0 to 0.5.

    Shape:
        - result: `(source, channel, time)`

    >>> signal = torch.arange(20.0).expand(2, -1)
    >>> torch.allclose(chunked(lambda chunk: chunk[None], signal, segment_length=8)[0], signal)
    True
    """
    length = signal.shape[-1]
    if length <= segment_length:
        return forward(signal)
    fade_length = int(overlap * segment_length)
    stride = segment_length - fade_length
    starts = [*range(0, length - segment_length, stride), length - segment_length]
    ramp = torch.arange(1, segment_length + 1, device=signal.device, dtype=signal.dtype) / (fade_length + 1)
    window = torch.minimum(ramp, ramp.flip(0)).clamp(max=1)  # flat, with a linear fade at both ends
    total = torch.zeros(length, device=signal.device, dtype=signal.dtype)
    result: Tensor | None = None
    for start in starts:
        chunk = slice(start, start + segment_length)
        estimate = forward(signal[:, chunk])
        if result is None:
            result = estimate.new_zeros(*estimate.shape[:-1], length)
        result[..., chunk] += window * estimate
        total[chunk] += window
    assert result is not None  # a signal longer than a segment has at least two chunks
    result /= total
    return result


def network_card(name: str, network: torch.nn.Module) -> dict[str, Any]:
    """Return the card of a network that `load_network` gave for a name: that of its checkpoint, or a new one.

    Raises
    ------
    ModelError
        If no checkpoint can be written of it, as of the bags of models that demucs averages.
    """
    if name in DEMO_MODELS or name.endswith(".safetensors"):
        path = DATA / name if name in DEMO_MODELS else Path(name).expanduser()
        return read_json(path.with_suffix(".json"))
    if isinstance(network, HDemucs):
        _, arguments = network._init_args_kwargs
        return {"architecture": "hdemucs", "arguments": arguments, "trained_on": f"whatever {name} was trained on"}
    raise ModelError(f"{name!r} cannot be trained on; start from a .safetensors checkpoint or one of {DEMO_MODELS}.")


def save_checkpoint(
    network: torch.nn.Module, path: Path | str, card: dict[str, Any], dtype: torch.dtype = torch.float16
) -> None:
    """Write a network as safetensors, in half precision unless told otherwise, and its card as JSON beside it.

    The card needs `architecture` and `arguments`; add seeds, steps and how to train it again.
    """
    path = Path(path)
    state = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in network.state_dict().items()
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(state))  # not `save_file`, whose own temporary file a kill would leave
    write_json(path.with_suffix(".json"), card)


def save_stems(stems: Tensor, folder: Path | str) -> list[Path]:
    """Write stems `(stem, channel, time)` as 16-bit FLAC files at their own level, and return the paths."""
    paths = [Path(folder) / f"{name}.flac" for name in STEMS]
    for path, stem in zip(paths, quantise_16bit(stems), strict=True):
        with atomic_path(path) as temporary:
            soundfile.write(temporary, stem.numpy().T, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    return paths


def _oracle(song: AtEarSong) -> Tensor:
    return song.stems


def _mixture(song: AtEarSong) -> Tensor:
    return (song.mixture / len(STEMS)).expand(len(STEMS), -1, -1)


def _load_checkpoint(path: Path) -> tuple[torch.nn.Module, tuple[str, ...]]:
    card_path = path.with_suffix(".json")
    if not path.is_file():
        raise ModelError(f"Checkpoint {path} does not exist; check the path, or train it.")
    card = read_json(card_path)
    try:
        architecture, arguments = card["architecture"], card["arguments"]
        sources = tuple(map(str, arguments["sources"]))
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"{card_path} does not describe a network ({error}); it needs an architecture and its arguments."
        ) from error
    if architecture not in list(ARCHITECTURES):  # a list, in which even what is no text can be looked for
        raise ModelError(
            f"{card_path} describes the architecture {architecture!r}; only {list(ARCHITECTURES)} are known."
        )
    check_sources(sources, str(card_path))
    try:
        state = bare_names(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}); copy or train it again.") from error
    remedy = f"use the {card_path.name} that was written with it"
    try:
        with torch.device("meta"):  # the shapes first: with wrong numbers, the network itself may not fit into memory
            outline = ARCHITECTURES[architecture](**arguments)
        fill_network(outline, state, path, remedy)
        network = ARCHITECTURES[architecture](**arguments)
        fill_network(network, state, path, remedy)
        _try_out(network.eval(), len(sources))
    except ModelError:
        raise
    except Exception as error:  # networks answer to wrong arguments in many ways
        raise ModelError(
            f"{card_path} holds arguments that {architecture!r} does not take ({str(error).rstrip('.')}); "
            f"use the card that was written with the checkpoint."
        ) from error
    return network, sources


@torch.inference_mode()
def _try_out(network: torch.nn.Module, n_sources: int) -> None:
    """Raise an error if a network cannot separate: some arguments that it takes make it fail, or give no numbers."""
    mixture = 1e-2 * torch.sin(torch.arange(_TRIAL_LENGTH)).expand(1, 2, -1)
    stems = network(mixture)
    if stems.shape != (1, n_sources, *mixture.shape[1:]) or not torch.isfinite(stems).all():
        raise ValueError(f"it gives stems of shape {tuple(stems.shape)}, or not finite ones")


def _official_chunks(forward: Callable[[Tensor], Tensor], signal: Tensor) -> Tensor:
    """Chunk as pyclarity's `separate_sources` does, including the faded last 100 ms of short clips."""
    length = signal.shape[-1]
    chunk_length, fade_length = int(SAMPLE_RATE * _OFFICIAL_CHUNK_S), int(SAMPLE_RATE * _OFFICIAL_FADE_S)
    ramp = torch.linspace(0, 1, fade_length, device=signal.device)
    result = signal.new_zeros(len(STEMS), *signal.shape)
    start, end = 0, chunk_length
    fade_in, fade_out = False, True
    while start < length - _OFFICIAL_FADE_S * SAMPLE_RATE:
        estimate = forward(signal[:, start:end])
        envelope = signal.new_ones(estimate.shape[-1])
        if fade_in:
            envelope[:fade_length] *= ramp
        if fade_out:
            envelope[-fade_length:] *= ramp.flip(0)
        result[..., start:end] += estimate * envelope
        start = chunk_length - fade_length if start == 0 else start + chunk_length
        end += chunk_length
        fade_in, fade_out = True, end < length
    return result
