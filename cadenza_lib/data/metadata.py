"""The metadata of a corpus: gains, head positions, songs and scenes, each checked against all that it names."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.documents import fill, read_metadata
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.paths import file_name
from cadenza_lib.data.audiograms import read_listener
from cadenza_lib.data.listeners import Listener, load_listeners
from cadenza_lib.data.scenes import HeadPosition, Pair, Scene

__all__ = ["Split", "load_gains", "load_head_positions", "load_songs", "load_split"]

_MAX_GAIN_DB = 60  # of a gain


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

    def __contains__(self, pair: Pair) -> bool:
        """Tell whether the split has the scene and the listener of a pair."""
        return pair.scene in self.scenes and pair.listener in self.listeners

    def check_pairs(self, pairs: Iterable[Pair]) -> None:
        """Raise `ParameterError` for the first pair whose scene or listener the split does not have."""
        for pair in pairs:
            if pair not in self:
                raise ParameterError(f"Pair {pair.scene}, {pair.listener} is not in split {self.name!r}.")

    def listener(self, name: str, audiogram: str = "") -> Listener:
        """Return a listener by id.

        Parameters
        ----------
        name
            The id.
        audiogram
            A file or text for `read_audiograms` in the place of the split's listeners; if it has one listener only, the
            id does not matter.

        Raises
        ------
        ParameterError
            If there is no listener of this id.
        CorpusError
            If the audiogram cannot be read.
        """
        if audiogram:
            return read_listener(audiogram, name)
        if name not in self.listeners:
            names = ", ".join(self.listeners) or "none"
            raise ParameterError(f"Listener {name!r} is not in split {self.name!r}; it has {names}.")
        return self.listeners[name]


def load_split(
    name: str, file: Callable[[str], Path], gains: Mapping[str, Any], positions: Mapping[str, HeadPosition]
) -> Split:
    """Return a split whose scenes name only songs, gains, head positions and listeners that exist.

    Parameters
    ----------
    name
        Of the split.
    file
        Returns the path of a metadata file by its name.
    gains, positions
        Those of the corpus by id.

    Raises
    ------
    CorpusError
        If a file is missing or broken, or names something that does not exist.
    """
    listeners = load_listeners(file(f"listeners.{name}.json"))
    songs = load_songs(file(f"musdb18.{name}.json"))
    at_ear_songs = load_songs(file(f"at_mic_music.{name}.json"))
    path = file(f"scenes.{name}.json")
    scenes = {scene_id: _scene(entry, f"{path}: {scene_id}") for scene_id, entry in _read_object(path).items()}
    for scene_id, scene in scenes.items():
        where = f"{path}: {scene_id}"
        _check_name(scene.gain, gains, where, "gain", "gains.json does not have")
        if scene.at_ear_song not in at_ear_songs:  # then the song is simulated
            source = "neither musdb18.*.json nor at_mic_music.*.json has"
            _check_name(scene.music, songs, where, "song", source)
            source = "head_loudspeaker_positions.json does not have"
            _check_name(scene.head_loudspeaker_positions, positions, where, "head position", source)
    path = file(f"scene_listeners.{name}.json")
    scene_listeners = _read_object(path)
    for scene_id, names in scene_listeners.items():
        if scene_id not in scenes:
            raise CorpusError(f"{path} names {scene_id!r}, which scenes.{name}.json does not have.")
        if not isinstance(names, list) or not all(isinstance(listener, str) for listener in names):
            raise CorpusError(f"{path}: {scene_id} has {names!r}, which is not a list of listener ids.")
        for listener in names:
            source = f"listeners.{name}.json does not have"
            _check_name(listener, listeners, f"{path}: {scene_id}", "listener", source)
    return Split(name, scenes, scene_listeners, listeners, songs, at_ear_songs)


def load_gains(path: Path) -> dict[str, dict[str, float]]:
    """Return the gain sets of `gains.json` by id, each with a gain in dB by stem.

    Raises
    ------
    CorpusError
        If the file is missing or broken, or a gain is not a number from -60 to 60.
    """
    gains = _read_object(path)
    for name, entry in gains.items():
        for stem in STEMS:
            value = entry.get(stem) if isinstance(entry, dict) else None
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_GAIN_DB:
                raise CorpusError(f"{path}: {name} has {value!r} for {stem}; each stem needs a gain from -60 to 60 dB.")
    return gains


def load_head_positions(path: Path) -> dict[str, HeadPosition]:
    """Return the head positions of `head_loudspeaker_positions.json` by id.

    Raises
    ------
    CorpusError
        If the file is missing or broken, or an entry is incomplete or out of bounds.
    """
    positions = {}
    for name, entry in _read_object(path).items():
        try:
            position = fill(HeadPosition, entry, further_keys=True)
            is_sound = all(abs(angle) <= 180 for angle in (position.left_angle, position.right_angle))
            is_sound &= all(file_name(part) == part for part in (position.subject, position.mic))
        except TypeError as error:
            needs = "subject, left_angle, right_angle (degrees) and mic"
            raise CorpusError(f"{path}: {name} is {entry!r}; it needs {needs}.") from error
        if not is_sound:
            raise CorpusError(
                f"{path}: {name} is {entry!r}; angles must lie from -180 to 180 degrees, and subject and mic be "
                f"part of the name of a file."
            )
        positions[name] = position
    return positions


def load_songs(path: Path) -> dict[str, dict[str, Any]]:
    """Return the songs of a metadata file by name, none if it does not exist.

    Raises
    ------
    CorpusError
        If the file is not a list or an object of songs, or names a song twice.
    """
    if not path.exists():
        return {}
    content = read_metadata(path)
    entries = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise CorpusError(f"{path} must hold a list or an object of songs, not {type(content).__name__}.")
    songs: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("Track Name", "Path")):
            raise CorpusError(f'{path} holds {entry!r}; each song needs a "Track Name" and a "Path".')
        name, folder = entry["Track Name"], entry["Path"]
        parts = Path(folder).parts
        if Path(folder).is_absolute() or ".." in parts:
            raise CorpusError(f"{path}: the Path {folder!r} leads out of the corpus; make it relative to it.")
        if not parts or any("\0" in part or len(part.encode()) > 255 for part in parts):
            raise CorpusError(f"{path}: the Path {folder!r} cannot be the path of a directory; shorten it.")
        if name in songs:
            raise CorpusError(f"{path} names the song {name!r} more than once; keep one, or rename the others.")
        songs[name] = entry
    return songs


def _read_object(path: Path) -> dict[str, Any]:
    content = read_metadata(path)
    if not isinstance(content, dict) or not content:
        raise CorpusError(f"{path} must hold a non-empty JSON object, not {type(content).__name__}.")
    return content


def _scene(entry: Any, where: str) -> Scene:
    try:
        return fill(Scene, entry, further_keys=True)
    except TypeError as error:
        needs = "the ids of music, gain and head_loudspeaker_positions"
        raise CorpusError(f"{where} is {entry!r}; it needs {needs}.") from error


def _check_name(name: str, names: Mapping[str, Any], where: str, kind: str, source: str) -> None:
    if name not in names:
        raise CorpusError(f"{where} names the {kind} {name!r}, which {source}.")
