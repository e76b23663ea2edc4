"""The output stage: what is amplified becomes what the hearing aids play, and the file that holds it.

An output stage is an object with a name in `OUTPUT_STAGES`. The official one clips hard to [-1, 1] and rounds to 16
bits. HAAQI's reference goes through it only if `ChainSettings.reference` says so.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
import torch
from torch import Tensor

from cadenza_lib.audio.acoustics import INT16_SCALE
from cadenza_lib.chain.dynamics import Compressor, Limiter
from cadenza_lib.core.conventions import OUTPUT_SAMPLE_RATE
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.core.files import atomic_path
from cadenza_lib.data.listeners import Listener

__all__ = ["OUTPUT_STAGES", "Output", "OutputStage", "output_stage", "play", "save_output"]


class OutputStage(Protocol):
    """What limits the amplified signal.

    Register one of your own with `OUTPUT_STAGES[mine.name] = mine`. The name identifies it in stored results, so a
    stage that changes needs another name.
    """

    @property
    def name(self) -> str:
        """What settings call it."""
        ...

    @property
    def is_16_bit(self) -> bool:
        """Whether the result is rounded to 16 bits, as in the challenge's files."""
        ...

    def limit(self, signal: Tensor, listener: Listener, /) -> Tensor:
        """Return the limited signal, of the same shape; differentiable, since training may go through it.

        What a stage of 16 bits leaves above full scale is clipped afterwards.

        Shape:
            - signal: `(..., ear, time)` at `OUTPUT_SAMPLE_RATE`, and at the song's rate in `listening.own_music`; full
              scale is 1
        """
        ...


@dataclass(frozen=True)
class _HardClip:
    """Clip at full scale, as the official recipe does."""

    name: str = "hard_clip"
    is_16_bit: bool = True

    def limit(self, signal: Tensor, _: Listener, /) -> Tensor:
        return signal.clamp(-1.0, 1.0)


@dataclass(frozen=True)
class _SoftClip:
    """The hyperbolic tangent: the option `soft_clip` of the recipes of Cadenza 1 and 2."""

    name: str = "soft_clip"
    is_16_bit: bool = True

    def limit(self, signal: Tensor, _: Listener, /) -> Tensor:
        return signal.tanh()


@dataclass(frozen=True)
class _NoLimit:
    """Unlimited headroom, which no 16-bit file has."""

    name: str = "none"
    is_16_bit: bool = False

    def limit(self, signal: Tensor, _: Listener, /) -> Tensor:
        return signal


_STAGES: tuple[OutputStage, ...] = (
    _HardClip(),
    _SoftClip(),
    Limiter(),
    Limiter("limiter_linked", linked=True),
    Compressor(),
    Compressor("compressor_with_gain", with_gain=True),
    _NoLimit(),
)

OUTPUT_STAGES = {stage.name: stage for stage in _STAGES}
"""The output stages by name."""


def output_stage(name: str) -> OutputStage:
    """Return the output stage of a name.

    Raises
    ------
    ParameterError
        If there is none.
    """
    if name not in OUTPUT_STAGES:
        raise ParameterError(f"output_stage {name!r} is unknown; use one of {', '.join(OUTPUT_STAGES)}.")
    return OUTPUT_STAGES[name]


@dataclass(frozen=True)
class Output:
    """What leaves the hearing aids.

    Shape:
        - signal: `(ear, time)` at `OUTPUT_SAMPLE_RATE`; float32 as the FLAC file holds it, float64 if not 16-bit
        - clipped_share: `(ear,)`, share of samples beyond [-1, 1] before the output stage
    """

    signal: np.ndarray
    clipped_share: np.ndarray
    is_16_bit: bool


def play(signal: np.ndarray, level_db: float, stage: OutputStage, listener: Listener) -> Output:
    """Set the level of an amplified signal, limit it, and round it to 16 bits if the stage asks for that.

    Shape:
        - signal: `(ear, time)` at `OUTPUT_SAMPLE_RATE`, float64
    """
    scaled = signal * 10 ** (level_db / 20)
    clipped_share = np.mean(np.abs(scaled) > 1, axis=-1)
    limited = stage.limit(torch.from_numpy(scaled), listener).numpy()
    if stage.is_16_bit:
        steps = np.trunc(np.clip(limited * INT16_SCALE, -INT16_SCALE, INT16_SCALE - 1))
        limited = (steps / INT16_SCALE).astype(np.float32)  # exact: 16 bits fit into float32
    return Output(limited, clipped_share, stage.is_16_bit)


def save_output(output: Output, path: Path | str) -> Path:
    """Write an output beside `path` without suffix: 16-bit FLAC, or else 32-bit float WAV.

    No `<name>.txt` is written, because the official reader takes such a file for a scale factor.

    Raises
    ------
    ParameterError
        If the directory cannot be written.
    """
    path = Path(path)
    path = path.with_name(path.name + (".flac" if output.is_16_bit else ".wav"))
    with atomic_path(path) as temporary:
        if output.is_16_bit:
            samples = (output.signal.T * INT16_SCALE).astype(np.int16)
            soundfile.write(temporary, samples, OUTPUT_SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        else:
            soundfile.write(temporary, output.signal.T, OUTPUT_SAMPLE_RATE, subtype="FLOAT", format="WAV")
    return path
