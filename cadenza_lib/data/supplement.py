"""More songs and more scenes for a corpus: the paper's supplementation (section 2.2), and songs of other data sets.

Songs come from a folder in MUSDB18-HQ's layout, from MoisesDB, or from a table of paths (CSV with the columns song,
vocals, drums, bass, other and, if there is one, mixture). They are linked where they can be used as they are, and
otherwise summed to the four stems. Each has a `sources.json` beside its files, which tells the content that it was made
of, so that another import knows whether it is the same. Scenes are drawn by the official sampler.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from cadenza_lib.audio.acoustics import read_audio, read_header
from cadenza_lib.audio.loudness import BLOCK_S
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import read_json, write_json
from cadenza_lib.core.errors import AudioError, CorpusError, ParameterError
from cadenza_lib.core.files import make_directory, publish
from cadenza_lib.core.identity import digest, file_identity
from cadenza_lib.core.paths import absolute_path, check_utf8, file_name, find_path, is_inside
from cadenza_lib.core.tables import read_table
from cadenza_lib.data.corpus import READERS, RECORD, SIGNALS, Corpus, load_songs, signal_file
from cadenza_lib.data.datasets import MUSDB18_SPLITS, song_folders
from cadenza_lib.data.scenes import sample_scene_listeners, sample_scenes

__all__ = ["MOISESDB_STEMS", "draw_scenes", "find_songs", "import_songs"]

MOISESDB_STEMS = {"vocals": "vocals", "drums": "drums", "bass": "bass"}
"""Stems of MoisesDB and ours; all others are "other": fx, guitar, other keys, other plucked, percussion, piano, bowed
strings and wind. That is the four-stem mapping of MoisesDB's own package, so percussion does not join the drums."""

Sources = Mapping[str, Sequence[Path]]
"""The files that sum to each of the signals; the mixture may be left out, and is then the sum of the stems."""

_CHANNELS = (1, 2)  # mono is made stereo
_BYTES_PER_SAMPLE = 8  # two channels of 32-bit floats


def find_songs(source: Path | str) -> dict[str, Sources]:
    """Return the songs of a folder or a table by name, with the files of each signal.

    Raises
    ------
    CorpusError
        If nothing is found, songs lie in two splits, a name occurs twice, or a file is missing.
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
                raise CorpusError(f"{path} of the song {name!r} does not exist; complete the song or leave it out.")
    return dict(songs)


def import_songs(source: Path | str, root: Path | str, split: str, progress: bool = True) -> dict[str, str]:
    """Add the songs of a folder or a table to a split of the corpus in `root`.

    A song of five stereo WAV files is linked. The others are written as 32-bit float WAV, which no sum can clip, and
    mono is made stereo. Headers are checked before the first song is placed. A song that is there already, of the same
    content, is kept, so an import that was stopped goes on where it was.

    Returns
    -------
    dict
        What became of each song of the source: "added", "kept", or "replaced", since its files in the source have
        changed.

    Raises
    ------
    CorpusError
        If the songs cannot be found, the disk is too small, or one has the name of another in the split.
    AudioError
        If a file is unusable, or the mixture of a song differs in length from a stem.
    ParameterError
        If the split's name cannot be part of a file name, or the corpus cannot be written.
    """
    if not split or not all(letter.isalnum() or letter in "_-" for letter in split):
        raise ParameterError(f"Split {split!r} must be made of letters, digits, _ and -.")
    source = absolute_path(source)
    songs = find_songs(source)
    with ThreadPoolExecutor(READERS) as pool:
        lengths = dict(zip(songs, pool.map(_check_headers, songs, songs.values()), strict=True))
    root = make_directory(root)
    folder = make_directory(root / "audio" / "music" / split)
    path = find_path(root / "metadata" / f"musdb18.{split}.json", root)
    known = load_songs(path)
    entries = {name: {"Track Name": name, "Split": split, "Path": f"{split}/{name}"} for name in songs}
    for name in songs:
        if name in known and known[name]["Path"] != entries[name]["Path"]:
            raise CorpusError(f"{path} has a song {name!r} in {known[name]['Path']}; rename one of the two.")
    is_there = {name: _is_there(folder / name, files, source) for name, files in songs.items()}
    missing = [name for name in songs if not is_there[name]]
    states = {name: "replaced" if (folder / name).exists() else "added" for name in missing}
    needed = sum(len(SIGNALS) * _BYTES_PER_SAMPLE * lengths[name] for name in missing if not _can_link(songs[name]))
    if needed > (free := shutil.disk_usage(folder).free):
        raise CorpusError(
            f"{folder} has {free / 1e9:.1f} GB free, but the songs take {needed / 1e9:.1f} GB; make room."
        )
    for name in tqdm(missing, unit="song", disable=not progress):
        _place(folder / name, songs[name], source)
    write_json(path, [*known.values(), *(entries[name] for name in songs if name not in known)], official=True)
    return {name: states.get(name, "kept" if name in known else "added") for name in songs}


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


def _check_one_split(source: Path, folders: Sequence[Path]) -> None:
    """Refuse songs of the two parts of a data set, of which one is there to judge what was learnt from the other."""
    parts = {
        next((part for part in folder.relative_to(source).parts[:-1] if part.lower() in MUSDB18_SPLITS), ".")
        for folder in folders
    }
    if len(parts) > 1:
        first, second = sorted(parts)[:2]
        raise CorpusError(
            f"{source} has songs both in {first} and in {second}, which would join one split; import one of them at a "
            f"time, such as {source / max(parts)}."
        )


def _from_folder(folder: Path) -> tuple[str, Sources]:
    """Read a song in MUSDB18-HQ's layout, in WAV or FLAC, whose mixture may be missing."""
    files = {name: [signal_file(folder, name)] for name in SIGNALS}
    if not os.path.exists(files["mixture"][0]):
        del files["mixture"]
    return folder.name, files


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
    check_utf8(card)
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
        raise CorpusError(
            f"{card} is not the card of a song of MoisesDB ({error!r}); repair it, or move the song elsewhere."
        ) from error
    return _file_name(name), files


def _file_name(text: str) -> str:
    """Return a title as the name of a directory."""
    return file_name(text.replace("/", "_").replace("\\", "_").replace("\0", "").strip().lstrip(".") or "untitled")


def _check_headers(name: str, files: Sources) -> int:
    """Check the files of a song by their headers, and return its length in samples.

    A mixture that is longer or shorter than a stem is refused, if only by a sample: nobody can know whether the
    difference lies at the beginning, where it would put stem and mixture out of step, or at the end. Without a mixture,
    which is then the sum of the stems, shorter files are padded at the end, as MoisesDB's own package does.
    """
    headers = {
        signal: [read_header(path, SAMPLE_RATE, _CHANNELS) for path in paths]
        for signal, paths in files.items()
        if paths
    }
    if not headers.keys() & set(STEMS):
        raise CorpusError(f"The song {name!r} has none of {', '.join(STEMS)}; name a file for one of them.")
    lengths = {signal: max(header.frames for header in found) for signal, found in headers.items()}
    for signal, length in lengths.items():
        if length != lengths.get("mixture", length):
            raise AudioError(
                f"{files[signal][0]} has {length} samples but the mixture {files['mixture'][0]} has "
                f"{lengths['mixture']}; give files of one length, or no mixture, which is then the sum of the stems."
            )
    if max(lengths.values()) < BLOCK_S * SAMPLE_RATE:
        raise AudioError(
            f"The song {name!r} lasts {max(lengths.values()) / SAMPLE_RATE:.3f} s, but its loudness needs {BLOCK_S} s; "
            f"leave it out."
        )
    return max(lengths.values())


def _is_whole(files: Sources) -> bool:
    """Tell whether a song has five stereo files, one for each signal."""
    return all(
        len(files.get(signal, ())) == 1 and read_header(files[signal][0], SAMPLE_RATE, _CHANNELS).channels == 2
        for signal in SIGNALS
    )


def _can_link(files: Sources) -> bool:
    """Tell whether the files of a song can be used as they are."""
    return _is_whole(files) and all(paths[0].suffix.lower() == ".wav" for paths in files.values())


def _identity(files: Sources) -> str:
    """Return what tells the content of a song's files from any other."""
    return digest({signal: [file_identity(path) for path in paths] for signal, paths in files.items() if paths})


def _is_there(folder: Path, files: Sources, source: Path) -> bool:
    """Tell whether a song's directory in the corpus holds it already, and refuse if it holds another source's."""
    if not folder.exists():
        return False
    if {absolute_path(path.parent) for paths in files.values() for path in paths} == {absolute_path(folder)}:
        if not _is_whole(files):
            raise CorpusError(
                f"{folder} lacks a mixture or is mono; move it out of the corpus, and import it from there."
            )
        return True
    record = read_json(folder / RECORD) if (folder / RECORD).exists() else {"Source": "elsewhere"}
    if not isinstance(record, dict) or not isinstance(record.get("Source"), str):
        raise CorpusError(f"{folder / RECORD} does not tell where the song is from; move {folder} away.")
    if record.get("Identity") == _identity(files):
        return all(signal_file(folder, signal).exists() for signal in SIGNALS)  # not where links lead nowhere
    if record["Source"] != str(source):
        raise CorpusError(
            f"{folder} holds a song from {record['Source']}, and {source} has another of that name; rename one or "
            f"choose another split."
        )
    return False


def _place(folder: Path, files: Sources, source: Path) -> None:
    """Link or write the five files of a song; the directory is complete or absent."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        if _can_link(files):
            for name in SIGNALS:
                os.symlink(files[name][0], unfinished / f"{name}.wav")
        else:
            _write_sums(unfinished, files)
        write_json(unfinished / RECORD, {"Source": str(source), "Identity": _identity(files)})
        if folder.exists():
            shutil.rmtree(folder)
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
    return read_audio(path, SAMPLE_RATE, _CHANNELS).expand(2, -1)
