"""More songs and more scenes for a corpus: the paper's supplementation (section 2.2), and songs of other data sets.

Songs come from a folder in MUSDB18-HQ's layout, from MoisesDB, or from a table of paths (CSV with the columns song,
vocals, drums, bass, other and, if there is one, mixture). They are linked where they can be used as they are, and
otherwise summed to the four stems. Scenes are drawn by the official sampler.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from cadenza_lib.acoustics import SAMPLE_RATE, read_audio
from cadenza_lib.corpus import SIGNALS, Corpus, load_songs
from cadenza_lib.datasets import song_folders
from cadenza_lib.errors import CorpusError, ParameterError
from cadenza_lib.files import (
    absolute_path,
    file_name,
    find_path,
    is_inside,
    make_directory,
    publish,
    read_json,
    read_table,
    write_json,
)
from cadenza_lib.scenes import STEMS, sample_scene_listeners, sample_scenes

__all__ = ["MOISESDB_STEMS", "draw_scenes", "find_songs", "import_songs"]

MOISESDB_STEMS = {"vocals": "vocals", "drums": "drums", "bass": "bass"}
"""Stems of MoisesDB and ours; all others are "other": fx, guitar, other keys, other plucked, percussion, piano, bowed
strings and wind. That is the four-stem mapping of MoisesDB's own package, so percussion does not join the drums."""

Sources = Mapping[str, Sequence[Path]]
"""The files that sum to each of the signals; the mixture may be left out, and is then the sum of the stems."""


def find_songs(source: Path | str) -> dict[str, Sources]:
    """Return the songs of a folder or a table by name, with the files of each signal.

    Raises
    ------
    CorpusError
        If nothing is found, a name occurs twice, or a file is missing.
    """
    source = absolute_path(source)
    if source.suffix.lower() == ".csv":
        songs = _from_table(source)
    elif not source.is_dir():
        raise CorpusError(f"{source} is neither a directory of songs nor a table (.csv) of their paths.")
    elif cards := sorted(source.glob("**/data.json")):
        songs = [_from_moisesdb(card) for card in cards]
    else:
        folders = [one for split in ("", "train", "test") for one in song_folders(find_path(source / split, source))]
        songs = [(one.name, {name: [find_path(one / f"{name}.wav", one)] for name in SIGNALS}) for one in folders]
    if not songs:
        raise CorpusError(
            f"{source} has no songs: no folders with {', '.join(STEMS)}.wav, and no data.json of MoisesDB."
        )
    names = [name for name, _ in songs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CorpusError(f"{source} has more than one song {twice!r}; rename one.")
    for name, files in songs:
        for path in (path for paths in files.values() for path in paths):
            if not os.path.isfile(path):  # unlike Path.is_file, no error if a name is too long
                raise CorpusError(f"{path} of the song {name!r} does not exist; complete or remove the song.")
    return dict(songs)


def import_songs(source: Path | str, root: Path | str, split: str, progress: bool = True) -> list[str]:
    """Add the songs of a folder or a table to a split of the corpus in `root`; return the names of all its songs.

    A song whose five files exist is linked. The others are written as 32-bit float WAV, which no sum can clip. A song
    that is there already is kept, so an import that was stopped goes on where it was.

    Raises
    ------
    CorpusError
        If the songs cannot be found, or one has the name of another in the split.
    AudioError
        If a file is unusable.
    ParameterError
        If the split's name cannot be part of a file name, or the corpus cannot be written.
    """
    if not split or not all(letter.isalnum() or letter in "_-" for letter in split):
        raise ParameterError(f"Split {split!r} must be made of letters, digits, _ and -.")
    songs = find_songs(source)
    root = make_directory(root)
    folder = make_directory(root / "audio" / "music" / split)
    path = find_path(root / "metadata" / f"musdb18.{split}.json", root)
    known = load_songs(path)
    for name in songs:
        if name in known and known[name].get("Source") != str(source):
            raise CorpusError(
                f"{path} has a song {name!r} already, from elsewhere; rename one or choose another split."
            )
    for name, files in tqdm(songs.items(), unit="song", disable=not progress):
        if not (folder / name).exists():
            _place(folder / name, files)
        known[name] = {"Track Name": name, "Split": split, "Path": f"{split}/{name}", "Source": str(source)}
    write_json(path, list(known.values()), official=True)
    return list(known)


def draw_scenes(
    corpus: Corpus,
    split: str,
    scenes_per_song: int = 4,
    listeners_per_scene: int = 2,
    like: str | None = None,
    force: bool = False,
) -> tuple[int, int]:
    """Write the scenes of a split and who hears them, drawn by the official sampler; return how many of each.

    With eight scenes per song, the first four of each song are those that four per song give.

    Parameters
    ----------
    corpus
        Whose gains and head positions are drawn from.
    split
        The split to write.
    scenes_per_song, listeners_per_scene
        The challenge has four and two.
    like
        A split whose songs and listeners this one takes over where it has none.
    force
        Replace scenes that differ.

    Raises
    ------
    CorpusError
        If the split has no dry songs or listeners, or has other scenes already.
    ParameterError
        If a number is out of bounds.
    """
    songs_file, listeners_file = (_own_or_like(corpus, kind, split, like) for kind in ("musdb18", "listeners"))
    songs, listeners = load_songs(songs_file), read_json(listeners_file)
    scenes = sample_scenes(songs, corpus.gains, corpus.head_positions, scenes_per_song)
    scene_listeners = sample_scene_listeners(scenes, listeners, listeners_per_scene)
    content = {
        corpus.metadata_file(f"musdb18.{split}.json"): read_json(songs_file),
        corpus.metadata_file(f"listeners.{split}.json"): listeners,
        corpus.metadata_file(f"scenes.{split}.json"): {name: asdict(scene) for name, scene in scenes.items()},
        corpus.metadata_file(f"scene_listeners.{split}.json"): scene_listeners,
    }
    for path, wanted in content.items():
        if path.exists() and read_json(path) != wanted and not force:
            raise CorpusError(
                f"{path} holds others than would be drawn; choose another split, or replace it (--force)."
            )
    for path, wanted in content.items():
        if not path.exists() or read_json(path) != wanted:
            write_json(path, wanted, official=True)
    return len(scenes), sum(len(listeners) for listeners in scene_listeners.values())


def _own_or_like(corpus: Corpus, kind: str, split: str, like: str | None) -> Path:
    """Return a split's file of metadata, or that of another split if it has none."""
    own = corpus.metadata_file(f"{kind}.{split}.json")
    path = own if own.exists() or like is None else corpus.metadata_file(f"{kind}.{like}.json")
    if not path.exists():
        raise CorpusError(f"{path} does not exist; name a split to take it from (--like), or import songs first.")
    return path


def _from_table(path: Path) -> list[tuple[str, Sources]]:
    """Read a CSV table; an empty cell is a silent stem, and paths are relative to the table."""
    table = read_table(path, ("song", *STEMS))
    return [
        (
            _file_name(row["song"]),
            {name: [path.parent / row[name]] if row.get(name) else [] for name in SIGNALS if name in row},
        )
        for row in table.to_dict("records")
    ]


def _from_moisesdb(card: Path) -> tuple[str, Sources]:
    """Read the card of a song of MoisesDB: `<song>/data.json`, with `<song>/<stem>/<track>.<extension>` beside it."""
    content = read_json(card)
    files: dict[str, list[Path]] = {stem: [] for stem in STEMS}
    try:
        name = f"{content['artist']} - {content['song']} {card.parent.name[:8]}"  # titles alone are not unique
        for stem in content["stems"]:
            ours, folder = MOISESDB_STEMS.get(stem["stemName"], "other"), card.parent / stem["stemName"]
            files[ours] += [folder / f"{track['id']}.{track['extension']}" for track in stem["tracks"]]
        if outside := [path for paths in files.values() for path in paths if not is_inside(path, card.parent)]:
            raise ValueError(f"{outside[0]} is not beside it")
    except (KeyError, TypeError, ValueError) as error:
        raise CorpusError(f"{card} is not the card of a song of MoisesDB ({error!r}); remove it.") from error
    return _file_name(name), files


def _file_name(text: str) -> str:
    """Return a title as the name of a directory."""
    return file_name(text.replace("/", "_").replace("\\", "_").replace("\0", "").strip().lstrip(".") or "untitled")


def _place(folder: Path, files: Sources) -> None:
    """Link or write the five files of a song; the directory is complete or absent."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        if all(len(files.get(name, ())) == 1 and files[name][0].suffix.lower() == ".wav" for name in SIGNALS):
            for name in SIGNALS:
                os.symlink(files[name][0], unfinished / f"{name}.wav")
        else:
            _write_sums(unfinished, files)
        publish(unfinished, folder)
    except (soundfile.LibsndfileError, OSError) as error:
        raise CorpusError(f"{folder} cannot be written ({error}); make room on a disk that can hold links.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_sums(folder: Path, files: Sources) -> None:
    """Write each stem as the sum of its files, padded to the longest of all, and the mixture."""
    tracks = {name: [_stereo(path) for path in paths] for name, paths in files.items()}
    length = max((track.shape[-1] for name in tracks for track in tracks[name]), default=0)
    signals = {name: torch.zeros(2, length, dtype=torch.float64) for name in STEMS}
    for name in STEMS:
        for track in tracks[name]:
            signals[name][:, : track.shape[-1]] += track
    mixture = tracks.get("mixture")
    signals["mixture"] = mixture[0] if mixture else torch.stack([signals[name] for name in STEMS]).sum(0)
    for name, signal in signals.items():
        soundfile.write(folder / f"{name}.wav", signal.T.numpy(), SAMPLE_RATE, subtype="FLOAT")


def _stereo(path: Path) -> Tensor:
    """Read a file of one or two channels as two, float64."""
    signal = read_audio(path, SAMPLE_RATE, channels=None)
    return signal.expand(2, -1) if signal.shape[0] == 1 else signal
