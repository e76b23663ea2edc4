"""Where songs come from: MUSDB18, its HQ version, folders of four stems, MoisesDB, or a table of paths.

The table is a CSV file with the columns song, vocals, drums, bass, other and, if there is one, mixture.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cadenza_lib.audio.acoustics import read_header
from cadenza_lib.audio.loudness import BLOCK_S
from cadenza_lib.audio.media import AUDIO_SUFFIXES, STEM_SUFFIX, audio_header, stem_stream
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import read_json
from cadenza_lib.core.errors import AudioError, CorpusError
from cadenza_lib.core.paths import absolute_path, check_utf8, file_name, find_path, is_inside, list_folder, normal_form
from cadenza_lib.core.tables import read_table
from cadenza_lib.data.datasets import MUSDB18_SPLITS
from cadenza_lib.data.songs import SIGNALS

__all__ = ["Sources", "can_link", "check_headers", "describe", "find_songs", "stem_files"]

_LOGGER = logging.getLogger(__name__)

_NAMES = {
    "vocals": ("vocals", "vocal", "vox", "voice", "voices", "singing"),
    "drums": ("drums", "drum", "drumkit"),
    "bass": ("bass", "basses"),
    "other": ("other", "others", "rest", "accompaniment"),
    "mixture": ("mixture", "mix", "master"),
}
"""What the files of a song may be called; earlier names are preferred, since an accompaniment is often no stem."""

_MOISESDB_STEMS = {"vocals": "vocals", "drums": "drums", "bass": "bass"}
"""Stems of MoisesDB and ours; all others are "other": fx, guitar, other keys, other plucked, percussion, piano, bowed
strings and wind. That is the four-stem mapping of MoisesDB's own package, so percussion does not join the drums."""

Sources = Mapping[str, Sequence[Path]]
"""The files that sum to each of the signals; the mixture may be left out, and is then the sum of the stems.

A `.stem.mp4` stands for each of its five signals.
"""


def find_songs(source: Path | str) -> dict[str, Sources]:
    """Return the songs of a folder or a table by name, each with the files that sum to each signal.

    Raises
    ------
    CorpusError
        If the source has no songs, songs lie in two splits, a name occurs twice, a file is missing, or two have names
        of the same stem.
    """
    source = absolute_path(source)
    if source.suffix.lower() == ".csv":
        songs = _from_table(source)
    elif not source.is_dir():
        raise CorpusError(f"{source} is neither a directory of songs nor a table (.csv) of their paths.")
    elif cards := sorted(source.glob("**/data.json")):
        _check_one_split(source, [card.parent for card in cards])
        songs = [_from_moisesdb(card) for card in cards]
    else:
        songs = _from_folders(source)
    if not songs:
        raise CorpusError(
            f"{source} has no folders with {', '.join(STEMS)}.wav (or other audio), no song{STEM_SUFFIX}, and no "
            f"data.json of MoisesDB; give the directory directly above the songs."
        )
    names = [name for name, _ in songs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CorpusError(f"{source} has more than one song {twice!r}; rename one.")
    for name, files in songs:
        for path in (path for paths in files.values() for path in paths):
            if not os.path.isfile(path):  # unlike Path.is_file, no error if a name is too long
                raise CorpusError(f"{path} of the song {name!r} does not exist; complete the song or leave it out.")
    return dict(songs)


def _check_one_split(source: Path, folders: Sequence[Path]) -> None:
    """Refuse songs from both parts of a data set, since one of them tests what is trained on the other."""
    parts = {
        next((part for part in folder.relative_to(source).parts[:-1] if part.lower() in MUSDB18_SPLITS), ".")
        for folder in folders
    }
    if len(parts) > 1:
        first, second = sorted(parts)[:2]
        remedy = f"import one of them at a time, such as {source / max(parts)}"
        raise CorpusError(f"{source} has songs both in {first} and in {second}; {remedy}.")


def _from_folders(source: Path) -> list[tuple[str, Sources]]:
    """Find the songs of a directory, and of `train` or `test` in it: directories of stems, and files of five tracks."""
    places = [source, *(find_path(source / split, source) for split in MUSDB18_SPLITS)]
    songs: list[tuple[Path, str, Sources]] = []
    unused: list[Path] = []
    for path in [path for place in places for path in list_folder(place)]:
        if path.name.lower().endswith(STEM_SUFFIX):
            songs.append((path, path.name[: -len(STEM_SUFFIX)], {signal: [path] for signal in SIGNALS}))
        elif path.is_dir() and (files := stem_files(path)):
            songs.append((path, path.name, files))
            used = [file for paths in files.values() for file in paths]
            unused += [file for file in list_folder(path) if file.suffix.lower() in AUDIO_SUFFIXES and file not in used]
    _check_one_split(source, [path for path, _, _ in songs])
    if unused:
        _LOGGER.warning("%d sound file(s) are taken for no stem and left out, such as %s.", len(unused), unused[0])
    return [(name, files) for _, name, files in songs]


def stem_files(folder: Path) -> Sources:
    """Return the files of the signals in a directory by their names; none if no name is that of a signal."""
    audio = [path for path in list_folder(folder) if path.suffix.lower() in AUDIO_SUFFIXES]
    files: dict[str, list[Path]] = {}
    for signal, names in _NAMES.items():
        ranks = {path: rank for path in audio if (rank := _rank(path, names)) is not None}
        best = [path for path, rank in ranks.items() if rank == min(ranks.values())]
        if len(best) > 1:
            both = f"{best[0].name} and {best[1].name}, each of which could be the {signal}"
            raise CorpusError(f"{folder} has {both}; move one elsewhere, or name the files in a table (.csv).")
        if best:
            files[signal] = best
    if files:
        files |= {stem: [folder / f"{stem}.wav"] for stem in STEMS if stem not in files}  # reported as missing
    return files


def _rank(path: Path, names: Sequence[str]) -> int | None:
    """Return the place of a file's name among names, whole or, after those, by its last word: `My song - Vox 2.mp3`."""
    words = re.findall(r"[^\W\d_]+", normal_form(path.stem).lower())
    whole = " ".join(words)
    if whole in names:
        return names.index(whole)
    return len(names) + names.index(words[-1]) if words and words[-1] in names else None


def _from_table(path: Path) -> list[tuple[str, Sources]]:
    """Read a CSV table; an empty cell is a silent stem, and paths are relative to the table."""
    songs: list[tuple[str, Sources]] = []
    for row in read_table(path, ("song", *STEMS)).to_dict("records"):
        files = {name: [path.parent / row[name]] if row[name] else [] for name in SIGNALS if name in row}
        songs.append((_file_name(row["song"]), files))
    return songs


def _from_moisesdb(card: Path) -> tuple[str, Sources]:
    """Read the card of a song of MoisesDB: `<song>/data.json`, with `<song>/<stem>/<track>.<extension>` beside it."""
    check_utf8(card)
    content = read_json(card)
    files: dict[str, list[Path]] = {stem: [] for stem in STEMS}
    try:
        name = f"{content['artist']} - {content['song']} {card.parent.name[:8]}"  # titles alone are not unique
        for stem in content["stems"]:
            ours, folder = _MOISESDB_STEMS.get(stem["stemName"], "other"), card.parent / stem["stemName"]
            files[ours] += [folder / f"{track['id']}.{track['extension']}" for track in stem["tracks"]]
        if outside := [path for paths in files.values() for path in paths if not is_inside(path, card.parent)]:
            raise ValueError(f"{outside[0]} is not beside it")
    except (KeyError, TypeError, ValueError) as error:
        raise CorpusError(f"{card} is not the card of a song of MoisesDB ({error!r}); repair it.") from error
    return _file_name(name), files


def _file_name(text: str) -> str:
    """Return a title as the name of a directory."""
    return file_name(text.replace("/", "_").replace("\\", "_").replace("\0", "").strip().lstrip(".") or "untitled")


def check_headers(name: str, files: Sources) -> int:
    """Check the files of a song by their headers, and return its length in samples of the corpus, 0 if none tells it.

    Raises
    ------
    AudioError
        If a file is unusable, or the song is too short.
    CorpusError
        If there is no stem.
    """
    if not any(files.get(stem) for stem in STEMS):
        raise CorpusError(f"The song {name!r} has none of {', '.join(STEMS)}; name a file for one of them.")
    headers = [audio_header(path, stem_stream(path, signal)) for signal in files for path in files[signal]]
    length = max(round(header.frames * SAMPLE_RATE / header.sample_rate) for header in headers)
    if 0 < length < BLOCK_S * SAMPLE_RATE:
        raise AudioError(
            f"The song {name!r} lasts {length / SAMPLE_RATE:.3f} s, but its loudness needs {BLOCK_S} s; leave it out."
        )
    return length


def can_link(files: Sources) -> bool:
    """Tell whether a song has five WAV files, one for each signal, that a corpus may hold as they are."""
    if any(len(files.get(signal, ())) != 1 or files[signal][0].suffix.lower() != ".wav" for signal in SIGNALS):
        return False
    try:
        return len({read_header(files[signal][0], SAMPLE_RATE).frames for signal in SIGNALS}) == 1
    except AudioError:
        return False


def describe(files: Sources) -> str:
    """Return what is taken for what, in one line."""
    different = {path for paths in files.values() for path in paths}
    if len(different) == 1 and different.pop().name.lower().endswith(STEM_SUFFIX):
        return f"five sound tracks of {STEM_SUFFIX}"
    parts = []
    for signal in SIGNALS:
        names = [path.name for path in files.get(signal, ())]
        nothing = "sum of the stems" if signal == "mixture" else "silence"
        parts.append(f"{signal} = {names[0] if len(names) == 1 else f'{len(names)} files' if names else nothing}")
    return ", ".join(parts)
