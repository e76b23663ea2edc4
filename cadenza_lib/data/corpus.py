"""A corpus: songs, HRTFs, listeners and scenes in the challenge's layout, opened from one path.

    metadata/  gains.json, head_loudspeaker_positions.json, and for each split: scenes.<split>.json,
               scene_listeners.<split>.json, listeners.<split>.json, and musdb18.<split>.json (dry songs) or
               at_mic_music.<split>.json (songs at the ears), or both
    audio/     music/<Path>/<stem>.wav, hrtf/<mic>-<subject>-<angle>.wav, at_mic_music/<Path>/<stem>.wav

A song at the ears is found, read, and if need be simulated: it is read from `audio/at_mic_music` where it lies there,
and is otherwise simulated from the dry song and the HRTFs, with the 16-bit rounding of the official generator; both
ways give the same signals. Names on the disk may differ from those in the metadata in case (`Train/`) and in Unicode's
normal form, and `head_positions.json` is the head positions' older name.

Songs may have a mixture and no stems, as the challenge's evaluation set had at first. They can be enhanced, but neither
scored nor trained on.

Metadata may come from anyone, so a name in them cannot lead out of the corpus, neither by `..` nor through a link: the
directory of a song lies below that of its split. Those who assemble a corpus may link `audio`, what is in it, and the
directories of splits, to where they have the music; and `cadenza data import` links the five files of a song.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cadenza_lib.audio.acoustics import at_ears, hrtf_files, load_hrtf, quantise_16bit
from cadenza_lib.audio.loudness import BLOCK_S
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.errors import AudioError, CorpusError, ParameterError
from cadenza_lib.core.identity import digest, song_file_identity
from cadenza_lib.core.paths import absolute_path, find_path, is_inside, normal_form
from cadenza_lib.data.listeners import audiogram_identity
from cadenza_lib.data.metadata import Split, load_gains, load_head_positions, load_split
from cadenza_lib.data.scenes import HeadPosition, Pair, Scene
from cadenza_lib.data.songs import READERS, Song, SongFolder, read_record

__all__ = ["AtEarSong", "Corpus", "Split", "check_not_silent"]

_OLD_NAMES = {"head_loudspeaker_positions.json": "head_positions.json"}


@dataclass(frozen=True)
class AtEarSong:
    """A song as it reaches the microphones of the hearing aids.

    Shape:
        - stems: `(stem, channel, time)`; they do not sum to the mixture (see `acoustics`). Where only the
          mixture is known, there are none.
        - mixture: `(channel, time)`
    """

    name: str
    stems: Tensor
    mixture: Tensor
    sample_rate: int = SAMPLE_RATE


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

    is_embedded = False
    """Whether songs and heads are synthesised instead of read."""

    def __init__(self, root: Path | str) -> None:
        self.root = absolute_path(root)
        if not self.root.is_dir():
            raise CorpusError(
                f"Corpus directory {self.root} does not exist; give the one that holds metadata/ and audio/, or 'twin'."
            )
        self.metadata = find_path(self.root / "metadata", self.root)
        self.gains = load_gains(self.metadata_file("gains.json"))
        self.head_positions = load_head_positions(self.metadata_file("head_loudspeaker_positions.json"))
        self._splits: dict[str, Split] = {}

    # What there is

    @property
    def name(self) -> str:
        """What the corpus is called in tables and settings: its directory, or "twin"."""
        return str(self.root)

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have scenes."""
        return sorted(normal_form(path.name).split(".")[1] for path in self.metadata.glob("[sS]cenes.*.json"))

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
            self._splits[name] = load_split(name, self.metadata_file, self.gains, self.head_positions)
        return self._splits[name]

    def gains_db(self, scene: Scene) -> Tensor:
        """Return the gains of a scene in dB, float64, `(stem,)`."""
        return torch.tensor([self.gains[scene.gain][stem] for stem in STEMS], dtype=torch.float64)

    # Where it lies

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

    def hrtf_files(self, position: HeadPosition) -> list[Path]:
        """Return the files of the HRTFs of a head position, of the left and the right loudspeaker."""
        return hrtf_files(self.hrtf_folder, position.mic, position.subject, position.left_angle, position.right_angle)

    def has_at_ear_audio(self, split: Split, scene: Scene) -> bool:
        """Tell whether the song of a scene lies on disk as it sounds at the ears."""
        return self._stored_song(split, scene) is not None

    def _folder(self, kind: str, entry: dict[str, Any]) -> Path:
        folder = self.root / "audio" / kind
        split = find_path(folder / Path(*Path(entry["Path"]).parts[:-1][:1]), self.root)
        song = find_path(folder / entry["Path"], self.root)
        if not is_inside(song, split):
            raise CorpusError(f"{song} is a link that leads out of {split}; copy the song, or link the whole split.")
        return song

    def _stored_song(self, split: Split, scene: Scene) -> SongFolder | None:
        """Return a scene's song at the ears, None if it is not on the disk and must be simulated."""
        entry = split.at_ear_songs.get(scene.at_ear_song)
        folder = None if entry is None else self.at_ear_folder(entry)
        return SongFolder(folder) if folder is not None and folder.is_dir() else None

    def _song_at_ears(self, split: Split, scene: Scene) -> Song:
        """Return the song that a scene's song at the ears is read or simulated from."""
        return self._stored_song(split, scene) or self._song_to_simulate(split, scene)

    def _song_to_simulate(self, split: Split, scene: Scene) -> Song:
        """Return the dry song that a scene's song at the ears is simulated from."""
        if scene.music not in split.songs:
            folder = self.at_ear_folder(split.at_ear_songs[scene.at_ear_song])
            raise CorpusError(f"{folder} does not exist, and {split.name!r} has no dry song for it; unpack its audio.")
        return self._dry_song(split.songs[scene.music])

    def _dry_song(self, entry: dict[str, Any]) -> Song:
        """Return a dry song by its metadata; the embedded corpus synthesises it."""
        return SongFolder(self.music_folder(entry))

    # Checking it

    def song_length(self, split: Split, scene: Scene) -> int:
        """Return the length of a scene's song in samples, by its header alone where it lies on disk."""
        return self._song_at_ears(split, scene).length()

    def has_stems(self, split: Split, scenes: Iterable[Scene]) -> bool:
        """Tell whether the songs of scenes, or some of them, have stems, without which nothing can be scored."""
        songs = {scene.at_ear_song: scene for scene in scenes}
        return not songs or any(self._song_at_ears(split, scene).has_stems() for scene in songs.values())

    def check_songs(
        self,
        split: Split,
        scenes: Iterable[Scene],
        minimum_s: float = BLOCK_S,
        dry: bool = False,
        mixture_alone: bool = False,
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
        mixture_alone
            Whether songs without stems will do.

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
            counts = pool.map(lambda scene: self._check_song(split, scene, dry, mixture_alone), songs.values())
            lengths = dict(zip(songs, counts, strict=True))
        minimum = round(minimum_s * SAMPLE_RATE)
        if short := {scene.music: lengths[name] for name, scene in songs.items() if lengths[name] < minimum}:
            song = min(short, key=short.__getitem__)
            remedy = "leave them out" + (", or lower segment_s" if minimum_s > BLOCK_S else "")
            raise AudioError(
                f"{song} lasts {short[song] / SAMPLE_RATE:.3f} s, one of {len(short)} songs of split {split.name!r} "
                f"that last less than the {minimum_s:g} s needed; {remedy}."
            )
        return lengths

    def _check_song(self, split: Split, scene: Scene, dry: bool, mixture_alone: bool) -> int:
        """Check a scene's song, and its HRTFs if they are needed, and return its length in samples."""
        stored = None if dry else self._stored_song(split, scene)
        if not stored:
            self.hrtf(scene.head_loudspeaker_positions)
        song = stored or self._song_to_simulate(split, scene)
        if not mixture_alone:
            self._check_stems(song, scene)
        return song.check()

    def _check_stems(self, song: Song, scene: Scene) -> None:
        if not song.has_stems():
            raise AudioError(
                f"{self.root}: {scene.at_ear_song} has a mixture but no stems, so 03_evaluate can enhance it, but it"
                f" cannot be scored or trained on; add its four stems, or choose another split."
            )

    def sources(self, split: Split, scenes: Iterable[Scene]) -> dict[str, Song]:
        """Return the songs of scenes by name: at the ears where they lie on disk, else the dry ones, which are as loud.

        Raises
        ------
        CorpusError
            If a song is neither at the ears nor dry.
        """
        songs: dict[str, Song] = {}
        for scene in scenes:
            stored = self._stored_song(split, scene)
            songs[scene.at_ear_song if stored else scene.music] = stored or self._song_to_simulate(split, scene)
        return songs

    # Reading it

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
        return self._dry_song(split.songs[name]).read(torch.float64)

    def dry_excerpt(self, split: Split, name: str, start: int, stop: int) -> Tensor:
        """Return samples `start` to `stop` of a dry song, reading no others.

        Shape:
            - result: `(stem + 1, channel, time)`, float64, the mixture last

        Raises
        ------
        AudioError
            If a file is missing or unusable.
        """
        return self._dry_song(split.songs[name]).excerpt(start, stop)

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
        stored = self._stored_song(split, scene)
        if stored is None:
            raise CorpusError(f"{scene.at_ear_song} does not lie in {self.root} at the ears; simulate it.")
        return stored.excerpt(start, stop)

    def hrtf(self, position: str) -> Tensor:
        """Return the HRTFs of a head position by id, `(loudspeaker, ear, tap)`, float64.

        Raises
        ------
        AudioError
            If a file is missing or unusable.
        ParameterError
            If the corpus has no such head position.
        """
        if position not in self.head_positions:
            raise ParameterError(f"Head position {position!r} is not in {self.metadata}.")
        return self._hrtf(self.head_positions[position])

    def _hrtf(self, position: HeadPosition) -> Tensor:
        """Read the HRTFs of a head position; the embedded corpus computes them."""
        return load_hrtf(self.hrtf_folder, position.mic, position.subject, position.left_angle, position.right_angle)

    # Simulating it

    def at_ear_song(
        self, split: Split, scene: Scene, dtype: torch.dtype = torch.float64, mixture_alone: bool = False
    ) -> AtEarSong:
        """Return the song of a scene at the ears, read from disk or simulated.

        In float32 it takes half the memory; it holds files of up to 24 bits, and simulated songs, just as exactly.
        With `mixture_alone`, a song without stems will do.

        Raises
        ------
        AudioError
            If a file is missing or unusable, the song is silent, or it is shorter than 0.4 s.
        """
        stored = self._stored_song(split, scene)
        song = stored or self._song_to_simulate(split, scene)
        if not mixture_alone:
            self._check_stems(song, scene)
        stems, mixture = song.read(dtype)
        if not stored:
            check_not_silent(mixture, scene.music)
            hrtf = self.hrtf(scene.head_loudspeaker_positions)
            for signal in (*stems, mixture):  # one by one and in place, for minutes of stems take much memory
                signal.copy_(quantise_16bit(at_ears(signal.double(), hrtf)))
        check_not_silent(mixture, scene.at_ear_song)
        return AtEarSong(name=scene.at_ear_song, stems=stems, mixture=mixture)

    # What decides a result

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
        stored = self._stored_song(split, scene)
        music, position = scene.music, scene.head_loudspeaker_positions
        if stored is None:
            return self.simulated_identity(split, music, position)
        files, record = stored.identity(), read_record(stored.path)
        if record is None or record["Files"] != files:
            return files
        has_dry_song = music in split.songs and self.music_folder(split.songs[music]).is_dir()
        if has_dry_song and record["Source"] != self.simulated_identity(split, music, position):
            raise CorpusError(f"{stored.path} was simulated from files that have changed; simulate the split again.")
        return record["Source"]

    def simulated_identity(self, split: Split, music: str, position: str) -> str:
        """Return the identity of a dry song as it is simulated at the ears; see `song_identity`."""
        dry = self._dry_song(split.songs[music]).identity()
        return digest(dry, self._hrtf_identity(self.head_positions[position]))

    def _hrtf_identity(self, position: HeadPosition) -> str:
        """Return the identity of the HRTFs of a head position; in the embedded corpus, of the head."""
        return digest(*(song_file_identity(find_path(path, self.hrtf_folder)) for path in self.hrtf_files(position)))


def check_not_silent(signal: Tensor, name: str) -> None:
    """Raise `AudioError` if a signal `(channel, time)` is shorter than 0.4 s or silent in a channel."""
    if signal.shape[-1] < BLOCK_S * SAMPLE_RATE:
        raise AudioError(f"{name} lasts {signal.shape[-1] / SAMPLE_RATE:.3f} s; its loudness needs {BLOCK_S} s.")
    if not signal.any(-1).all():
        raise AudioError(f"{name} is silent in at least one channel, so its level is undefined; leave it out.")
