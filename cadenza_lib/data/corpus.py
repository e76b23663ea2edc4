"""A corpus: songs, HRTFs, listeners and scenes in the challenge's layout, opened from one path.

    metadata/  gains.json, head_loudspeaker_positions.json, and for each split: scenes.<split>.json,
               scene_listeners.<split>.json, listeners.<split>.json, and musdb18.<split>.json (dry songs) or
               at_mic_music.<split>.json (songs at the ears), or both
    audio/     music/<Path>/<stem>.wav, hrtf/<mic>-<subject>-<angle>.wav, at_mic_music/<Path>/<stem>.wav

At-ear songs are read from `audio/at_mic_music` where it has them, and are otherwise simulated from the dry song and
the HRTFs, with the 16-bit rounding of the official generator: both ways give the same signals. Names on the disk may
differ from those in the metadata in case (`Mixture.wav`, `Train/`) and in Unicode's normal form, and
`head_positions.json` is the head positions' older name.

Metadata may come from anyone, so what they name cannot lead out of the corpus, neither by `..` nor through a link: the
directory of a song lies below that of its split. Those who assemble a corpus may link `audio`, what is in it, and the
directories of splits, to where they have the music; and `cadenza data import` links the five files of a song.
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cadenza_lib.audio.acoustics import at_ears, hrtf_file_name, load_hrtf, quantise_16bit, read_audio, read_header
from cadenza_lib.audio.loudness import BLOCK_S
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import fill, read_json, read_metadata
from cadenza_lib.core.errors import AudioError, CorpusError, ParameterError
from cadenza_lib.core.identity import digest, song_file_identity
from cadenza_lib.core.paths import absolute_path, file_name, find_path, is_inside, normal_form
from cadenza_lib.data.listeners import Listener, audiogram_identity, load_listeners
from cadenza_lib.data.scenes import HeadPosition, Pair, Scene

__all__ = [
    "READERS",
    "RECORD",
    "SIGNALS",
    "AtEarSong",
    "Corpus",
    "Split",
    "check_not_silent",
    "files_identity",
    "length_on_disk",
    "load_songs",
    "read_record",
    "signal_file",
]

SIGNALS = (*STEMS, "mixture")
"""The files of a song, `<name>.wav` or `<name>.flac` each, in the order of excerpts."""

READERS = 16
"""Headers that are read at the same time; on a network's disk each is a wait."""

RECORD = "sources.json"
"""File in the directory of a song that tells what `simulate` or an import made it of."""

_OLD_NAMES = {"head_loudspeaker_positions.json": "head_positions.json"}


@dataclass(frozen=True)
class AtEarSong:
    """A song as it reaches the microphones of the hearing aids.

    Shape:
        - stems: `(stem, channel, time)`; they do not sum to the mixture (see `acoustics`)
        - mixture: `(channel, time)`
    """

    name: str
    stems: Tensor
    mixture: Tensor
    sample_rate: int = SAMPLE_RATE


@dataclass(frozen=True)
class Split:
    """The scenes of one split, checked against everything they name."""

    name: str
    scenes: Mapping[str, Scene]
    scene_listeners: Mapping[str, list[str]]
    listeners: Mapping[str, Listener]
    songs: Mapping[str, dict[str, Any]]
    """Metadata of dry songs by name; empty where the challenge gives only at-ear songs."""
    at_ear_songs: Mapping[str, dict[str, Any]]
    """Metadata of at-ear songs by name; empty where none have been simulated."""

    def listener(self, name: str) -> Listener:
        """Return a listener by id.

        Raises
        ------
        ParameterError
            If the split has no listener of this id.
        """
        if name not in self.listeners:
            raise ParameterError(
                f"Listener {name!r} is not in split {self.name!r}; it has {', '.join(self.listeners) or 'none'}."
            )
        return self.listeners[name]


class Corpus:
    """A data set in the challenge's layout.

    Parameters
    ----------
    root
        Directory that holds `metadata` and `audio`.

    Raises
    ------
    CorpusError
        If the directory, or metadata that every split needs, are missing or broken.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = absolute_path(root)
        if not self.root.is_dir():
            raise CorpusError(
                f"Corpus directory {self.root} does not exist; give the directory that holds metadata/ and audio/, "
                f'or "demo".'
            )
        self.metadata = find_path(self.root / "metadata", self.root)
        self.gains = self._load_gains()
        self.head_positions = self._load_head_positions()
        self._splits: dict[str, Split] = {}

    @property
    def name(self) -> str:
        """What the corpus is called in tables and settings: its directory, or "demo"."""
        return str(self.root)

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have scenes."""
        return sorted(normal_form(path.name).split(".")[1] for path in self.metadata.glob("[sS]cenes.*.json"))

    def metadata_file(self, name: str) -> Path:
        """Return the path of a file of metadata, which need not exist, as it is spelt on the disk."""
        path = find_path(self.metadata / name, self.root)
        old = find_path(self.metadata / _OLD_NAMES.get(name, name), self.root)
        return old if old.exists() and not path.exists() else path

    def music_folder(self, entry: dict[str, Any]) -> Path:
        """Return the directory of a dry song by its metadata, as it is spelt on the disk.

        Raises
        ------
        CorpusError
            If a link leads out of the directory of its split.
        """
        return self._folder("music", entry)

    def at_ear_folder(self, entry: dict[str, Any]) -> Path:
        """Return the directory of a song at the ears by its metadata; see `music_folder`."""
        return self._folder("at_mic_music", entry)

    @property
    def hrtf_folder(self) -> Path:
        """Directory of the HRTFs."""
        return find_path(self.root / "audio" / "hrtf", self.root)

    def split(self, name: str) -> Split:
        """Return a split whose scenes name only songs, gains, head positions and listeners that exist.

        Raises
        ------
        CorpusError
            If the split does not exist, or its metadata are missing, broken or point to nothing.
        """
        name = normal_form(name)
        if name not in self._splits:
            if name not in self.splits:
                raise CorpusError(f"{self.root} has no split {name!r}; it has {self.splits or 'no scenes.*.json'}.")
            self._splits[name] = self._load_split(name)
        return self._splits[name]

    def gains_db(self, scene: Scene) -> Tensor:
        """Return the gains of a scene in dB, float64, `(stem,)`."""
        return torch.tensor([self.gains[scene.gain][stem] for stem in STEMS], dtype=torch.float64)

    def song(self, split: Split, name: str) -> tuple[Tensor, Tensor]:
        """Return a dry song.

        Shape:
            - stems: `(stem, channel, time)`, float64
            - mixture: `(channel, time)`, float64

        Raises
        ------
        AudioError
            If a file is missing or unusable, or their lengths differ.
        ParameterError
            If the split has no dry song of this name.
        """
        if name not in split.songs:
            raise ParameterError(f"Split {split.name!r} has no dry song {name!r}; it has {len(split.songs)} dry songs.")
        return self._read_song(split.songs[name], torch.float64)

    def song_length(self, split: Split, scene: Scene) -> int:
        """Return the length of a scene's song in samples, by its header alone where it lies on disk."""
        folder = self._stored_at_ears(split, scene)
        return length_on_disk(folder) if folder else self._dry_length(self._dry_entry(split, scene))

    def check_songs(
        self, split: Split, scenes: Iterable[Scene], minimum_s: float = BLOCK_S, dry: bool = False
    ) -> dict[str, int]:
        """Check the songs of scenes by the headers of their files, before a long operation begins.

        Parameters
        ----------
        split, scenes
            Whose songs are needed, and the HRTFs where a song must be simulated.
        minimum_s
            Least duration in seconds.
        dry
            Whether the dry songs are needed, even where a song lies on disk as it sounds at the ears.

        Returns
        -------
        dict
            Length of each song at the ears in samples, by name.

        Raises
        ------
        AudioError
            If a file is missing or unusable, the five files of a song differ in length, or a song is too short.
        CorpusError
            If a song is neither at the ears nor dry.
        """
        songs = {scene.at_ear_song: scene for scene in scenes}
        with ThreadPoolExecutor(READERS) as pool:
            counts = pool.map(lambda scene: self._check_song(split, scene, dry), songs.values())
            lengths = dict(zip(songs, counts, strict=True))
        minimum = round(minimum_s * SAMPLE_RATE)
        if short := {scene.music: lengths[name] for name, scene in songs.items() if lengths[name] < minimum}:
            song = min(short, key=short.__getitem__)
            raise AudioError(
                f"{song} lasts {short[song] / SAMPLE_RATE:.3f} s, one of {len(short)} songs of split {split.name!r} "
                f"that last less than the {minimum_s:g} s needed; leave them out"
                f"{', or lower segment_s' if minimum_s > BLOCK_S else ''}."
            )
        return lengths

    def has_at_ear_audio(self, split: Split, scene: Scene) -> bool:
        """Tell whether the song of a scene lies on disk as it sounds at the ears."""
        return self._stored_at_ears(split, scene) is not None

    def at_ear_excerpt(self, split: Split, scene: Scene, start: int, stop: int) -> Tensor:
        """Return samples `start` to `stop` of a song at the ears that lies on disk, reading no others.

        Shape:
            - result: `(stem + 1, channel, time)`, float64, the mixture last

        Raises
        ------
        AudioError
            If a file is missing or unusable.
        CorpusError
            If the song does not lie on disk as it sounds at the ears.
        """
        folder = self._stored_at_ears(split, scene)
        if folder is None:
            raise CorpusError(f"{scene.at_ear_song} does not lie in {self.root} at the ears; simulate it.")
        return _read_excerpt(folder, start, stop)

    def dry_excerpt(self, split: Split, name: str, start: int, stop: int) -> Tensor:
        """Return samples `start` to `stop` of a dry song, reading no others.

        Shape:
            - result: `(stem + 1, channel, time)`, float64, the mixture last

        Raises
        ------
        AudioError
            If a file is missing or unusable.
        """
        return self._read_dry_excerpt(split.songs[name], start, stop)

    def hrtf(self, position: str) -> Tensor:
        """Return the HRTFs of a head position by id, `(loudspeaker, ear, tap)`, float64."""
        if position not in self.head_positions:
            raise ParameterError(f"Head position {position!r} is not in {self.metadata}.")
        return self._read_hrtf(self.head_positions[position])

    def at_ear_song(self, split: Split, scene: Scene, dtype: torch.dtype = torch.float64) -> AtEarSong:
        """Return the song of a scene at the ears, read from disk or simulated.

        In float32 it takes half the memory; it holds files of up to 24 bits, and what is simulated, just as exactly.

        Raises
        ------
        AudioError
            If a file is missing or unusable, the song is silent, or it is shorter than 0.4 s.
        """
        name = scene.at_ear_song
        if stored := self._stored_at_ears(split, scene):
            stems, mixture = _read_stems(stored, dtype)
        else:
            stems, mixture = self._read_song(self._dry_entry(split, scene), dtype)
            check_not_silent(mixture, scene.music)
            hrtf = self.hrtf(scene.head_loudspeaker_positions)
            for signal in (*stems, mixture):  # one by one and in place, for minutes of stems take much memory
                signal.copy_(quantise_16bit(at_ears(signal.double(), hrtf)))
        check_not_silent(mixture, name)
        return AtEarSong(name=name, stems=stems, mixture=mixture)

    def pair_identity(self, split: Split, pair: Pair) -> str:
        """Return the identity of all that decides a pair's score beside the system; see `identity`.

        Raises
        ------
        CorpusError
            If a file of its song cannot be read.
        """
        scene, audiogram = split.scenes[pair.scene], audiogram_identity(split.listeners[pair.listener])
        return digest(pair.scene, self.gains_db(scene).tolist(), audiogram, self.song_identity(split, scene))

    def song_identity(self, split: Split, scene: Scene) -> str:
        """Return the identity of a scene's song at the ears; one that `simulate` wrote has that of its dry song.

        Raises
        ------
        CorpusError
            If a file cannot be read, or the song was simulated from a dry song that has changed.
        """
        stored = self._stored_at_ears(split, scene)
        if stored is None:
            return self.simulated_identity(split, scene.music, scene.head_loudspeaker_positions)
        files, record = files_identity(stored), read_record(stored)
        if record is None or record["Files"] != files:
            return files
        has_dry_song = scene.music in split.songs and self.music_folder(split.songs[scene.music]).is_dir()
        if has_dry_song and record["Source"] != self.simulated_identity(
            split, scene.music, scene.head_loudspeaker_positions
        ):
            raise CorpusError(
                f"{stored} was simulated from other files than {self.root} has now; simulate the split again, or "
                f"restore them."
            )
        return record["Source"]

    def simulated_identity(self, split: Split, music: str, position: str) -> str:
        """Return the identity of a dry song as it is simulated at the ears; see `song_identity`."""
        return digest(self._dry_identity(split.songs[music]), self._hrtf_identity(self.head_positions[position]))

    def _dry_identity(self, entry: dict[str, Any]) -> str:
        """Return the identity of a dry song by its metadata; that of the demo corpus is its seed."""
        return files_identity(self.music_folder(entry))

    def _hrtf_identity(self, position: HeadPosition) -> str:
        """Return the identity of the HRTFs of a head position; in the demo corpus, of the head."""
        angles = (position.left_angle, position.right_angle)
        names = [hrtf_file_name(position.mic, position.subject, angle) for angle in angles]
        return digest(*(song_file_identity(find_path(self.hrtf_folder / name, self.hrtf_folder)) for name in names))

    def _read_song(self, entry: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Read a dry song by its metadata; the demo corpus renders it instead."""
        return _read_stems(self.music_folder(entry), dtype)

    def _read_dry_excerpt(self, entry: dict[str, Any], start: int, stop: int) -> Tensor:
        """Read part of a dry song by its metadata; the demo corpus renders it instead."""
        return _read_excerpt(self.music_folder(entry), start, stop)

    def _dry_length(self, entry: dict[str, Any]) -> int:
        """Return the length of a dry song in samples; the demo corpus renders it instead."""
        return length_on_disk(self.music_folder(entry))

    def _check_dry_song(self, entry: dict[str, Any]) -> int:
        """Check the files of a dry song and return its length in samples; the demo corpus has none to check."""
        return _check_files(self.music_folder(entry))

    def _read_hrtf(self, position: HeadPosition) -> Tensor:
        """Read the HRTFs of a head position; the demo corpus computes them instead."""
        return load_hrtf(self.hrtf_folder, position.mic, position.subject, position.left_angle, position.right_angle)

    def _stored_at_ears(self, split: Split, scene: Scene) -> Path | None:
        """Return the directory of a scene's song at the ears, None if it is not on disk and must be simulated."""
        entry = split.at_ear_songs.get(scene.at_ear_song)
        folder = None if entry is None else self.at_ear_folder(entry)
        return folder if folder is not None and folder.is_dir() else None

    def _dry_entry(self, split: Split, scene: Scene) -> dict[str, Any]:
        """Return the metadata of the dry song that a scene's song at the ears is simulated from."""
        if scene.music not in split.songs:
            raise CorpusError(
                f"{self.at_ear_folder(split.at_ear_songs[scene.at_ear_song])} does not exist, and {split.name!r} has "
                f"no dry song to simulate it from; unpack the at-ear audio."
            )
        return split.songs[scene.music]

    def _check_song(self, split: Split, scene: Scene, dry: bool) -> int:
        """Check the files of a scene's song and return its length in samples."""
        folder = None if dry else self._stored_at_ears(split, scene)
        if folder:
            return _check_files(folder)
        self.hrtf(scene.head_loudspeaker_positions)
        return self._check_dry_song(self._dry_entry(split, scene))

    def _folder(self, kind: str, entry: dict[str, Any]) -> Path:
        parts = Path(entry["Path"]).parts
        split = find_path(self.root / "audio" / kind / Path(*parts[:-1][:1]), self.root)
        folder = find_path(self.root / "audio" / kind / entry["Path"], self.root)
        if not is_inside(folder, split):
            raise CorpusError(f"{folder} is a link that leads out of {split}; copy the song, or link the whole split.")
        return folder

    def _load_gains(self) -> dict[str, dict[str, float]]:
        path = self.metadata_file("gains.json")
        gains = _read_object(path)
        for name, entry in gains.items():
            for stem in STEMS:
                value = entry.get(stem) if isinstance(entry, dict) else None
                if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 60:
                    raise CorpusError(
                        f"{path}: {name} has {value!r} for {stem}; each stem needs a gain from -60 to 60 dB."
                    )
        return gains

    def _load_head_positions(self) -> dict[str, HeadPosition]:
        path = self.metadata_file("head_loudspeaker_positions.json")
        positions = {}
        for name, entry in _read_object(path).items():
            try:
                position = fill(HeadPosition, entry, further_keys=True)
                sound = all(abs(angle) <= 180 for angle in (position.left_angle, position.right_angle))
                sound &= all(file_name(part) == part for part in (position.subject, position.mic))
            except TypeError as error:
                raise CorpusError(
                    f"{path}: {name} is {entry!r}; it needs subject, left_angle, right_angle (degrees) and mic."
                ) from error
            if not sound:
                raise CorpusError(
                    f"{path}: {name} is {entry!r}; angles must lie from -180 to 180 degrees, and subject and mic be "
                    f"part of the name of a file."
                )
            positions[name] = position
        return positions

    def _load_split(self, name: str) -> Split:
        listeners = load_listeners(self.metadata_file(f"listeners.{name}.json"))
        songs = load_songs(self.metadata_file(f"musdb18.{name}.json"))
        at_ear_songs = load_songs(self.metadata_file(f"at_mic_music.{name}.json"))

        path = self.metadata_file(f"scenes.{name}.json")
        scenes = {}
        for scene_id, entry in _read_object(path).items():
            try:
                scene = fill(Scene, entry, further_keys=True)
            except TypeError as error:
                raise CorpusError(
                    f"{path}: {scene_id} is {entry!r}; it needs the ids of music, gain and head_loudspeaker_positions."
                ) from error
            if scene.gain not in self.gains:
                raise CorpusError(f"{path}: {scene_id} names the gain {scene.gain!r}, which gains.json does not have.")
            if scene.at_ear_song not in at_ear_songs:
                self._check_can_simulate(scene, songs, f"{path}: {scene_id}")
            scenes[scene_id] = scene

        path = self.metadata_file(f"scene_listeners.{name}.json")
        scene_listeners = _read_object(path)
        for scene_id, names in scene_listeners.items():
            if scene_id not in scenes:
                raise CorpusError(f"{path} names {scene_id!r}, which scenes.{name}.json does not have.")
            if not isinstance(names, list) or not all(isinstance(listener, str) for listener in names):
                raise CorpusError(f"{path}: {scene_id} has {names!r}, which is not a list of listener ids.")
            unknown = [listener for listener in names if listener not in listeners]
            if unknown:
                raise CorpusError(
                    f"{path}: {scene_id} names the listener {unknown[0]!r}, which listeners.{name}.json does not have."
                )
        return Split(name, scenes, scene_listeners, listeners, songs, at_ear_songs)

    def _check_can_simulate(self, scene: Scene, songs: dict[str, dict[str, Any]], where: str) -> None:
        if scene.music not in songs:
            raise CorpusError(
                f"{where} names the song {scene.music!r}, which neither musdb18.*.json nor at_mic_music.*.json has."
            )
        if scene.head_loudspeaker_positions not in self.head_positions:
            raise CorpusError(
                f"{where} names the head position {scene.head_loudspeaker_positions!r}, which "
                f"head_loudspeaker_positions.json does not have."
            )


def check_not_silent(signal: Tensor, name: str) -> None:
    """Raise `AudioError` if a signal `(channel, time)` is shorter than 0.4 s or silent in a channel."""
    if signal.shape[-1] < BLOCK_S * SAMPLE_RATE:
        raise AudioError(
            f"{name} lasts {signal.shape[-1] / SAMPLE_RATE:.3f} s; its loudness, and so the chain, needs {BLOCK_S} s."
        )
    if not signal.any(-1).all():
        raise AudioError(f"{name} is silent in at least one channel, so its level is undefined; leave it out.")


def load_songs(path: Path) -> dict[str, dict[str, Any]]:
    """Return the songs of a metadata file by name, none if it does not exist.

    Raises
    ------
    CorpusError
        If the file is not a list or an object of songs, or names one twice.
    """
    if not path.exists():
        return {}
    content = read_metadata(path)
    entries = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise CorpusError(f"{path} must hold a list or an object of songs, not {type(content).__name__}.")
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("Track Name", "Path")):
            raise CorpusError(f'{path} holds {entry!r}; each song needs a "Track Name" and a "Path".')
        parts = Path(entry["Path"]).parts
        if Path(entry["Path"]).is_absolute() or ".." in parts:
            raise CorpusError(f"{path}: the Path {entry['Path']!r} leads out of the corpus; make it relative to it.")
        if not parts or any("\0" in part or len(part.encode()) > 255 for part in parts):
            raise CorpusError(f"{path}: the Path {entry['Path']!r} is none that a disk can hold; shorten it.")
    songs = {entry["Track Name"]: entry for entry in entries}
    if len(songs) < len(entries):
        names = [entry["Track Name"] for entry in entries]
        twice = next(name for name in names if names.count(name) > 1)
        raise CorpusError(f"{path} names the song {twice!r} more than once; keep one, or name the others otherwise.")
    return songs


def _read_object(path: Path) -> dict[str, Any]:
    content = read_metadata(path)
    if not isinstance(content, dict) or not content:
        raise CorpusError(f"{path} must hold a non-empty JSON object, not {type(content).__name__}.")
    return content


def signal_file(folder: Path, name: str) -> Path:
    """Return the file of one of `SIGNALS` in a song's directory, as it is spelt on the disk: WAV or else FLAC."""
    wav = find_path(folder / f"{name}.wav", folder)
    if os.path.exists(wav):  # unlike Path.exists, no error if a name is too long
        return wav
    flac = find_path(folder / f"{name}.flac", folder)
    return flac if os.path.exists(flac) else wav


def length_on_disk(folder: Path) -> int:
    """Return the length of a song in samples, by the header of its mixture."""
    return read_header(_signal_files(folder)["mixture"], SAMPLE_RATE).frames


def _signal_files(folder: Path) -> dict[str, Path]:
    """Return the five files of a song, and tell what to do if only the mixture is missing."""
    files = {name: signal_file(folder, name) for name in SIGNALS}
    if [name for name, file in files.items() if not os.path.exists(file)] == ["mixture"]:
        raise AudioError(
            f"{files['mixture']} does not exist; import the song with cadenza data import, which sums its stems."
        )
    return files


def _check_files(folder: Path) -> int:
    """Check the five files of a song by their headers, and return its length in samples."""
    lengths = {name: read_header(file, SAMPLE_RATE).frames for name, file in _signal_files(folder).items()}
    _check_lengths(folder, lengths)
    return lengths["mixture"]


def _check_lengths(folder: Path, lengths: Mapping[str, int]) -> None:
    for name, length in lengths.items():
        if length != lengths["mixture"]:
            raise AudioError(
                f"{signal_file(folder, name)} has {length} samples but mixture.wav has {lengths['mixture']}; "
                f"all five files of a song must have one length."
            )


def _read_stems(folder: Path, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Read the four stems and the mixture of a song, and check that they have one length."""
    signals = {name: read_audio(file, SAMPLE_RATE).to(dtype) for name, file in _signal_files(folder).items()}
    _check_lengths(folder, {name: signal.shape[-1] for name, signal in signals.items()})
    return torch.stack([signals[name] for name in STEMS]), signals["mixture"]


def _read_excerpt(folder: Path, start: int, stop: int) -> Tensor:
    """Read samples `start` to `stop` of the four stems and the mixture, `(stem + 1, channel, time)`."""
    files = list(_signal_files(folder).values())
    signals = [read_audio(file, SAMPLE_RATE, start=start, stop=stop) for file in files]
    for file, signal in zip(files, signals, strict=True):
        if signal.shape[-1] != stop - start:
            raise AudioError(f"{file} ends before sample {stop}, unlike mixture.wav; copy or download it again.")
    return torch.stack(signals)


def files_identity(folder: Path) -> str:
    """Return the identity of the five files of a song.

    Raises
    ------
    CorpusError
        If one cannot be read.
    """
    return digest(*(song_file_identity(signal_file(folder, name)) for name in SIGNALS))


def read_record(folder: Path) -> dict[str, str] | None:
    """Return the identities that `simulate` left in the directory of a song at the ears: `Source` and `Files`.

    A directory that another program wrote has none.
    """
    path = folder / RECORD
    try:
        record = read_json(path)
    except CorpusError:
        return None
    is_record = isinstance(record, dict) and all(isinstance(record.get(name), str) for name in ("Source", "Files"))
    return record if is_record else None
