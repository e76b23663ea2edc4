"""Where songs come from: a folder in MUSDB18-HQ's layout, MoisesDB, or a table of paths.

The table is a CSV file with the columns song, vocals, drums, bass, other and, if there is one, mixture.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cadenza_lib.audio.acoustics import read_header
from cadenza_lib.audio.loudness import BLOCK_S
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import read_json
from cadenza_lib.core.errors import AudioError, CorpusError
from cadenza_lib.core.paths import absolute_path, check_utf8, file_name, find_path, is_inside
from cadenza_lib.core.tables import read_table
from cadenza_lib.data.datasets import MUSDB18_SPLITS, song_folders
from cadenza_lib.data.songs import SIGNALS, signal_file

__all__ = ["CHANNELS", "Sources", "check_headers", "find_songs", "is_whole"]

_MOISESDB_STEMS = {"vocals": "vocals", "drums": "drums", "bass": "bass"}
"""Stems of MoisesDB and ours; all others are "other": fx, guitar, other keys, other plucked, percussion, piano, bowed
strings and wind. That is the four-stem mapping of MoisesDB's own package, so percussion does not join the drums."""

Sources = Mapping[str, Sequence[Path]]
"""The files that sum to each of the signals; the mixture may be left out, and is then the sum of the stems."""

CHANNELS = (1, 2)
"""Numbers of channels that files may have; mono is made stereo."""


def find_songs(source: Path | str) -> dict[str, Sources]:
    """Return the songs of a folder or a table by name, each with the files that sum to each signal.

    Raises
    ------
    CorpusError
        If the source has no songs, songs lie in two splits, a name occurs twice, or a file is missing.
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
        places = [source, *(find_path(source / split, source) for split in MUSDB18_SPLITS)]
        folders = [folder for place in places for folder in song_folders(place)]
        _check_one_split(source, folders)
        songs = [_from_folder(folder) for folder in folders]
    if not songs:
        raise CorpusError(f"{source} has no folders with {', '.join(STEMS)}.wav, and no data.json of MoisesDB.")
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


def _from_folder(folder: Path) -> tuple[str, Sources]:
    """Read a song in MUSDB18-HQ's layout, in WAV or FLAC, whose mixture may be missing."""
    files = {name: [signal_file(folder, name)] for name in SIGNALS}
    if not os.path.exists(files["mixture"][0]):
        del files["mixture"]
    return folder.name, files


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
    """Check the files of a song by their headers, and return its length in samples.

    A mixture that is longer or shorter than a stem is refused, if only by a sample: the difference may lie at the
    beginning, and stem and mixture would then be out of step. Without a mixture, which is then the sum of the stems,
    shorter files are padded at the end, as MoisesDB's own package does.
    """
    headers = {
        signal: [read_header(path, SAMPLE_RATE, CHANNELS) for path in paths] for signal, paths in files.items() if paths
    }
    if not headers.keys() & set(STEMS):
        raise CorpusError(f"The song {name!r} has none of {', '.join(STEMS)}; name a file for one of them.")
    lengths = {signal: max(header.frames for header in parts) for signal, parts in headers.items()}
    for signal, length in lengths.items():
        if length != lengths.get("mixture", length):
            raise AudioError(
                f"{files[signal][0]} has {length} samples but the mixture {files['mixture'][0]} has "
                f"{lengths['mixture']}; give files of one length, or no mixture, which is then the sum of the stems."
            )
    if max(lengths.values()) < BLOCK_S * SAMPLE_RATE:
        duration_s = max(lengths.values()) / SAMPLE_RATE
        raise AudioError(
            f"The song {name!r} lasts {duration_s:.3f} s, but its loudness needs {BLOCK_S} s; leave it out."
        )
    return max(lengths.values())


def is_whole(files: Sources) -> bool:
    """Tell whether a song has five stereo files, one for each signal."""
    return all(
        len(files.get(signal, ())) == 1 and read_header(files[signal][0], SAMPLE_RATE, CHANNELS).channels == 2
        for signal in SIGNALS
    )
