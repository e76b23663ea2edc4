"""One song on the disk: a directory of five files, `<signal>.wav` or `<signal>.flac`, found, checked and read.

A song without any stem is read, too: it can be enhanced, but neither scored nor trained on.
Names may differ from these in case (`Mixture.wav`) and in Unicode's normal form. The loudness of mixtures is measured
once and remembered.
"""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from cadenza_lib.audio.acoustics import read_audio, read_header
from cadenza_lib.audio.loudness import integrated_loudness
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import read_json, write_json
from cadenza_lib.core.errors import AudioError, CorpusError, ParameterError
from cadenza_lib.core.identity import digest, song_file_identity
from cadenza_lib.core.paths import find_path

__all__ = ["READERS", "RECORD", "SIGNALS", "Song", "SongFolder", "mixture_loudness", "read_record", "signal_file"]

SIGNALS = (*STEMS, "mixture")
"""The files of a song, in the order of excerpts."""

READERS = 16
"""Number of headers that are read at the same time; on a network's disk each read is a wait."""

RECORD = "sources.json"
"""File in the directory of a song in which `simulate` or an import records what the song was made of."""

_LOGGER = logging.getLogger(__name__)


class Song(Protocol):
    """A song that can be read; lengths are in samples."""

    def length(self) -> int:
        """Return the length."""
        ...

    def has_stems(self) -> bool:
        """Tell whether there is more than the mixture."""
        return True

    def check(self) -> int:
        """Check the song without reading its samples, and return its length."""
        ...

    def read(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the stems `(stem, channel, time)`, of length 0 where there are none, and the mixture."""
        ...

    def mixture(self) -> Tensor:
        """Return the mixture alone, `(channel, time)`, float64."""
        ...

    def excerpt(self, start: int, stop: int) -> Tensor:
        """Return samples `start` to `stop` of stems and mixture, `(stem + 1, channel, time)`, float64."""
        ...

    def identity(self) -> str:
        """Return the identity of the song's content, see `identity`."""
        ...


@dataclass(frozen=True)
class SongFolder(Song):
    """A song in a directory.

    Raises
    ------
    AudioError
        By each method that reads, if a file is missing or unusable, or the five files differ in length.
    CorpusError
        By `identity`, if a file cannot be read.
    """

    path: Path

    def files(self) -> dict[str, Path]:
        """Return the five files by signal, or the mixture alone where no stem exists.

        Of files that are missing, only a mixture is refused here, with its own remedy.
        """
        files = {name: signal_file(self.path, name) for name in SIGNALS}
        missing = [name for name, file in files.items() if not os.path.exists(file)]
        if missing == ["mixture"]:
            raise AudioError(f"{files['mixture']} does not exist; cadenza data import makes it of the stems.")
        return {"mixture": files["mixture"]} if missing == list(STEMS) else files

    def has_stems(self) -> bool:
        """Tell whether any stem exists."""
        return len(self.files()) > 1

    def length(self) -> int:
        """Return the length by the header of the mixture."""
        return read_header(self.files()["mixture"], SAMPLE_RATE).frames

    def check(self) -> int:
        """Check the headers of the files, and return their length."""
        lengths = {name: read_header(file, SAMPLE_RATE).frames for name, file in self.files().items()}
        self._check_lengths(lengths)
        return lengths["mixture"]

    def read(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the stems `(stem, channel, time)`, of length 0 where there are none, and the mixture."""
        signals = {name: read_audio(file, SAMPLE_RATE).to(dtype) for name, file in self.files().items()}
        self._check_lengths({name: signal.shape[-1] for name, signal in signals.items()})
        mixture = signals.pop("mixture")
        return torch.stack([*signals.values()]) if signals else mixture.new_empty(0, *mixture.shape), mixture

    def mixture(self) -> Tensor:
        """Return the mixture `(channel, time)`, reading no other file."""
        return read_audio(self.files()["mixture"], SAMPLE_RATE)

    def excerpt(self, start: int, stop: int) -> Tensor:
        """Return samples `start` to `stop` of stems and mixture, `(stem + 1, channel, time)`, reading no others."""
        files = list(self.files().values())
        signals = [read_audio(file, SAMPLE_RATE, start=start, stop=stop) for file in files]
        for file, signal in zip(files, signals, strict=True):
            if signal.shape[-1] != stop - start:
                raise AudioError(f"{file} ends before sample {stop}, unlike mixture.wav; copy or download it again.")
        return torch.stack(signals)

    def identity(self) -> str:
        """Return the identity of the content of the files."""
        return digest(*map(song_file_identity, self.files().values()))

    def _check_lengths(self, lengths: Mapping[str, int]) -> None:
        for name, length in lengths.items():
            if length != lengths["mixture"]:
                both = f"{length} samples but mixture.wav has {lengths['mixture']}"
                raise AudioError(f"{signal_file(self.path, name)} has {both}; give files of one length.")


def signal_file(folder: Path, name: str) -> Path:
    """Return the file of one of `SIGNALS` in a song's directory, as it is spelt on the disk: WAV or else FLAC."""
    wav = find_path(folder / f"{name}.wav", folder)
    if os.path.exists(wav):  # unlike Path.exists, no error if a name is too long
        return wav
    flac = find_path(folder / f"{name}.flac", folder)
    return flac if os.path.exists(flac) else wav


def read_record(folder: Path) -> dict[str, str] | None:
    """Return the identities that `simulate` left in the directory of a song at the ears: `Source` and `Files`.

    A directory that another program wrote has none.
    """
    try:
        record = read_json(folder / RECORD)
    except CorpusError:
        return None
    is_record = isinstance(record, dict) and all(isinstance(record.get(name), str) for name in ("Source", "Files"))
    return record if is_record else None


def mixture_loudness(songs: Mapping[str, Song], file: Path, progress: bool = True) -> dict[str, float]:
    """Return the integrated loudness of the mixture of each song in LUFS, by name.

    Parameters
    ----------
    songs
        By name.
    file
        JSON file that remembers the loudness of each song by its identity (see `identity`). If it cannot be written, a
        warning says so.
    progress
        Whether to show a bar.

    Raises
    ------
    AudioError
        If a song is missing, unusable, or quieter than -70 LUFS throughout, so that it has no loudness.
    CorpusError
        If the file holds something else.
    """
    known = _read_loudness(file) if file.exists() else {}
    loudness_lufs, is_writable = {}, True
    for name, song in tqdm(songs.items(), desc="loudness", unit="song", disable=not progress):
        key = song.identity()
        if key not in known:
            known[key] = float(integrated_loudness(song.mixture(), SAMPLE_RATE))
            if not math.isfinite(known[key]):
                raise AudioError(f"{name} is quieter than -70 LUFS throughout, so it has no loudness; leave it out.")
            try:
                if is_writable:
                    write_json(file, known)
            except ParameterError as error:
                is_writable = False
                _LOGGER.warning("The loudness of songs is not remembered: %s", error)
        loudness_lufs[name] = known[key]
    return loudness_lufs


def _read_loudness(file: Path) -> dict[str, float]:
    content = read_json(file)
    if not isinstance(content, dict) or not all(type(value) is float for value in content.values()):
        raise CorpusError(f"{file} does not hold the loudness of songs; move it away, and it is measured again.")
    return content
