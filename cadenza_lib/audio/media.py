"""Any audio file as two channels at one sample rate, whole or in blocks.

libsndfile reads WAV, FLAC, Ogg, MP3 and AIFF; PyAV (the extra `media`) reads M4A, MP4 and what else FFmpeg knows. What
was changed on the way is returned as notes. Corpora are read by `acoustics.read_audio`, which changes nothing.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from cadenza_lib.audio.acoustics import AudioHeader, check_signal, read_header
from cadenza_lib.audio.resampling import resample_blocks
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.errors import AudioError

__all__ = ["AUDIO_SUFFIXES", "STEM_SUFFIX", "audio_header", "open_audio", "read_audio", "read_stems", "stem_stream"]

AUDIO_SUFFIXES = (
    ".aac", ".aif", ".aifc", ".aiff", ".caf", ".flac", ".m4a", ".mka", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".rf64",
    ".w64", ".wav", ".wave", ".webm", ".wma",
)  # fmt: skip
"""Suffixes, in lower case, by which sound files are told from others in a directory."""

STEM_SUFFIX = ".stem.mp4"
"""How the names of files with five sound tracks end: MUSDB18, and Native Instruments' Stems."""

_STEM_STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # as MUSDB18 has them
_PROTECTED = ("drms", "enca", "aavd")  # codec tags of encrypted sound in MP4: FairPlay, Common Encryption, Audible
_UNKNOWN_FORMAT = 1  # error of libsndfile for what is none of its formats
_BLOCK = 1 << 16  # samples that libsndfile reads at once
_FULL_SCALE = 1 - 2**-15  # the highest sample of 16 bits
_END_TOLERANCE_S = 0.1  # by which the lengths that containers state may exceed what they hold: a few frames of a codec
_RATES = (1000, 10_000_000)  # Hz; a header with a rate of 1 Hz would ask for more memory than there is


def read_audio(path: Path | str, sample_rate: int = SAMPLE_RATE, stream: int = 0) -> tuple[Tensor, list[str]]:
    """Read an audio file of any format and sample rate, and say what was done to it.

    Parameters
    ----------
    path
        The file.
    sample_rate
        The rate in Hz that the signal is resampled to, as by `resample`.
    stream
        Which sound track to read where a file has several.

    Returns
    -------
    signal
        `(channel=2, time)`, float32. Mono is in both channels.
    notes
        Phrases such as "resampled from 48000 Hz".

    Raises
    ------
    AudioError
        If the file is missing, unreadable, protected, cut off, empty or without sound, has more than two channels, or
        holds NaN; also if it needs PyAV, and that is not installed.
    """
    blocks, notes = open_audio(path, sample_rate, stream)
    return torch.cat(list(blocks), dim=-1), notes


def open_audio(path: Path | str, sample_rate: int = SAMPLE_RATE, stream: int = 0) -> tuple[Iterator[Tensor], list[str]]:
    """Return the signal of `read_audio` in blocks, which take little memory, and the notes, complete after the last.

    Raises
    ------
    AudioError
        As `read_audio`; what the header does not tell is raised when the blocks are read.
    """
    path = Path(path)
    header, decoded, notes = _open(path, stream)
    blocks = _checked(path, header, decoded, notes)
    if header.channels == 1:
        notes.append("mono, the same in both ears")
    if header.sample_rate != sample_rate:
        notes.append(f"resampled from {header.sample_rate} Hz")
        blocks = resample_blocks(blocks, header.sample_rate, sample_rate)
    return (torch.from_numpy(block) for block in blocks if block.size), notes


def audio_header(path: Path | str, stream: int = 0) -> AudioHeader:
    """Return length, channels and sample rate of an audio file by its header; the length is 0 if that is not stated.

    Raises
    ------
    AudioError
        As `read_audio`, as far as the header tells.
    """
    return _open(Path(path), stream)[0]


def read_stems(path: Path | str, sample_rate: int = SAMPLE_RATE) -> tuple[dict[str, Tensor], list[str]]:
    """Read the mixture and the four stems of a `.stem.mp4`, with the notes of `read_audio`, each once.

    Raises
    ------
    AudioError
        As `read_audio`, and if there are fewer than five sound tracks.
    """
    tracks = {signal: read_audio(path, sample_rate, stream) for stream, signal in enumerate(_STEM_STREAMS)}
    notes = dict.fromkeys(note for _, notes in tracks.values() for note in notes)
    return {signal: track for signal, (track, _) in tracks.items()}, list(notes)


def stem_stream(path: Path, signal: str) -> int:
    """Return which sound track of a file holds a stem or the mixture: the first, but in a `.stem.mp4`."""
    return _STEM_STREAMS.index(signal) if path.name.lower().endswith(STEM_SUFFIX) else 0


def _open(path: Path, stream: int) -> tuple[AudioHeader, Iterator[np.ndarray], list[str]]:
    """Return the header of a file, its blocks `(channel, time)` as they are decoded, and a list for notes."""
    if not os.path.isfile(path):  # unlike Path.is_file, no error if a name is too long
        raise AudioError(f"{path} is not a file; check its name.")
    notes: list[str] = []
    if reason := _beyond_libsndfile(path) or ("it reads one sound track" if stream else ""):
        with _container(path, reason) as container:
            header = _track_header(path, container, stream)
            if (count := len(container.streams.audio)) > 1 and not path.name.lower().endswith(STEM_SUFFIX):
                notes.append(f"number {stream + 1} of {count} sound tracks")
        decoded = _container_blocks(path, stream, header.sample_rate)
    else:
        header, decoded = read_header(path, None, None), _sound_file_blocks(path)
    if header.channels not in (1, 2):
        remedy = "mix it down to two, for example with ffmpeg -i FILE -ac 2 STEREO.wav"
        raise AudioError(f"{path} has {header.channels} channels, not 1 or 2; {remedy}.")
    if not _RATES[0] <= header.sample_rate <= _RATES[1]:
        bounds = f"outside {_RATES[0]} to {_RATES[1]}"
        raise AudioError(f"{path} has a sample rate of {header.sample_rate} Hz, {bounds}; write it with its true rate.")
    return header, decoded, notes


def _checked(path: Path, header: AudioHeader, decoded: Iterator[np.ndarray], notes: list[str]) -> Iterator[np.ndarray]:
    """Yield blocks as two channels, without what codecs add behind the end; refuse NaN and a missing end."""
    frames = clipped = 0
    for block in decoded:
        part = block[:, : header.frames - frames] if header.frames else block
        if part.size:
            check_signal(torch.from_numpy(part), str(path))
            frames += part.shape[1]
            clipped += _count_clipped(part)
            yield np.repeat(part, 2 // len(part), axis=0)
    if frames == 0:
        raise AudioError(f"{path} is empty: it holds 0 samples; write or download it again.")
    if frames < header.frames - _END_TOLERANCE_S * header.sample_rate:
        raise AudioError(f"{path} is cut off: {frames} of {header.frames} samples; copy or download it again.")
    if clipped:
        notes.append(f"clipped in the original ({clipped} samples)")


def _count_clipped(block: np.ndarray) -> int:
    """Count the samples beyond the second of each run of equal ones at full scale; music has no such runs."""
    if np.abs(block).max() < _FULL_SCALE:
        return 0
    equal = (block[:, 1:] == block[:, :-1]) & (np.abs(block[:, 1:]) >= _FULL_SCALE)
    return int(np.count_nonzero(equal[:, 1:] & equal[:, :-1]))


def _beyond_libsndfile(path: Path) -> str:
    """Return why a file is one for PyAV, "" if it is one for libsndfile, even though damaged."""
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        return "its format is unknown there" if error.code == _UNKNOWN_FORMAT else ""
    except (OSError, TypeError):  # TypeError: .raw, which has no header
        return "it has no header"
    return "an MP3 without its length" if info.format == "MP3" and not _states_length(path) else ""


def _states_length(path: Path) -> bool:
    """Tell whether the header of an MP3 file has its length; else libsndfile guesses one, and may stop early."""
    with path.open("rb") as file:
        tag = file.read(10)  # of ID3v2, whose length has seven bits in each byte
        tag_bytes = 10 + sum(byte << 7 * place for place, byte in enumerate(tag[:5:-1])) if tag[:3] == b"ID3" else 0
        file.seek(tag_bytes)
        frame = file.read(4096)
    return b"Xing" in frame or b"Info" in frame


def _sound_file_blocks(path: Path) -> Iterator[np.ndarray]:
    try:
        with soundfile.SoundFile(path) as file:
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                yield block.T
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError(f"{path} cannot be decoded to its end; copy or download it again.") from error


@contextmanager
def _container(path: Path, reason: str = "") -> Iterator[Any]:
    """Open a file with PyAV; `reason` says why libsndfile does not do."""
    try:
        av = importlib.import_module("av")
    except ImportError as error:
        remedy = "run pip install 'cadenza-companion[media]' for PyAV, or convert it to WAV or FLAC"
        raise AudioError(f"{path} cannot be read by libsndfile ({reason}); {remedy}.") from error
    try:
        with av.open(f"file:{path}") as container:
            yield container
    except (av.FFmpegError, ValueError) as error:  # ValueError: the number of channels changes
        reason = str(getattr(error, "strerror", error)).rstrip(".")
        remedy = "copy or download it again, or convert it to WAV or FLAC"
        raise AudioError(f"{path} cannot be read as audio ({reason}); {remedy}.") from error


def _track_header(path: Path, container: Any, stream: int) -> AudioHeader:
    tracks = container.streams.audio
    if not tracks:
        raise AudioError(f"{path} has no sound{', only a picture' if container.streams.video else ''}; choose another.")
    if stream >= len(tracks):
        names = ", ".join(_STEM_STREAMS)
        raise AudioError(f"{path} has {len(tracks)} sound track(s), not five ({names}); name the files in a table.")
    codec = tracks[stream].codec_context
    if codec is None or codec.codec_tag in _PROTECTED:
        what = "is of a codec that FFmpeg does not know" if codec is None else "is protected against copying (DRM)"
        raise AudioError(f"{path} {what}; get it unprotected, as WAV or FLAC.")
    track = tracks[stream]
    is_exact = track.duration is not None and "mp4" in container.format.name  # others estimate, or do not tell
    return AudioHeader(
        round(track.duration * track.time_base * track.rate) if is_exact else 0, track.channels, track.rate
    )


def _container_blocks(path: Path, stream: int, sample_rate: int) -> Iterator[np.ndarray]:
    with _container(path) as container:
        to_float = importlib.import_module("av").AudioResampler(format="fltp")
        for frame in container.decode(container.streams.audio[stream]):
            if frame.sample_rate != sample_rate:
                raise AudioError(f"{path} changes its sample rate; convert it to WAV or FLAC.")
            for part in to_float.resample(frame):
                yield part.to_ndarray()
