"""More songs and more scenes for a corpus: the paper's supplementation (section 2.2), and songs of other data sets.

Songs (see `sources`) are linked where their files can be used as they are, and otherwise converted and summed to the
four stems. Each has a `sources.json` beside its files, which records the content that it was made of, so that another
import recognises it. Scenes are drawn by the official sampler.
"""

import logging
import os
import shutil
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import soundfile
import torch
from tqdm import tqdm

from cadenza_lib.audio.media import read_audio, stem_stream
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import read_json, write_json
from cadenza_lib.core.errors import AudioError, CorpusError, ParameterError
from cadenza_lib.core.files import make_directory, publish
from cadenza_lib.core.identity import digest, file_identity
from cadenza_lib.core.paths import absolute_path, find_path
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.metadata import load_songs
from cadenza_lib.data.scenes import sample_scene_listeners, sample_scenes
from cadenza_lib.data.songs import READERS, RECORD, SIGNALS, SongFolder, signal_file
from cadenza_lib.data.sources import Sources, can_link, check_headers, describe, find_songs

__all__ = ["draw_scenes", "import_songs"]

_LOGGER = logging.getLogger(__name__)

_MAX_TOLD = 10  # lines on what songs were made of; songs of which the same is to be said share a line
_BYTES_PER_SAMPLE = 8  # two channels of 32-bit floats


def import_songs(source: Path | str, root: Path | str, split: str, progress: bool = True) -> dict[str, str]:
    """Add the songs of a folder or a table to a split of the corpus in `root`.

    A song of five stereo WAV files at 44.1 kHz and of one length is linked. The others are written as such, with 32-bit
    floats, which no sum can clip; the log says what was taken for what and how it was changed. Headers are checked
    before the first song is placed. A song that is there already, of the same content, is kept, so a stopped import
    resumes.

    Returns
    -------
    dict
        What became of each song of the source: "added", "kept", or "replaced", since its files in the source have
        changed.

    Raises
    ------
    CorpusError
        If the source has no songs, the disk is too small, or the split has another song of the same name.
    AudioError
        If a file is unusable.
    ParameterError
        If the split's name cannot be part of a file name, or the corpus cannot be written.
    """
    if not split or not all(letter.isalnum() or letter in "_-" for letter in split):
        raise ParameterError(f"Split {split!r} must be made of letters, digits, _ and -.")
    source = absolute_path(source)
    songs = find_songs(source)
    with ThreadPoolExecutor(READERS) as pool:
        lengths = dict(zip(songs, pool.map(check_headers, songs, songs.values()), strict=True))
    root = make_directory(root)
    folder = make_directory(root / "audio" / "music" / split)
    path = find_path(root / "metadata" / f"musdb18.{split}.json", root)
    present = load_songs(path)
    entries = {name: {"Track Name": name, "Split": split, "Path": f"{split}/{name}"} for name in songs}
    for name in songs:
        if name in present and present[name]["Path"] != entries[name]["Path"]:
            raise CorpusError(f"{path} has a song {name!r} in {present[name]['Path']}; rename one of the two.")
    missing = [name for name, files in songs.items() if not _is_imported(folder / name, files, source)]
    states = {name: "replaced" if (folder / name).exists() else "added" for name in missing}
    needed = sum(len(SIGNALS) * _BYTES_PER_SAMPLE * lengths[name] for name in missing if not can_link(songs[name]))
    if needed > (free := shutil.disk_usage(folder).free):
        raise CorpusError(f"{folder} has {free / 1e9:.1f} GB free, but songs take {needed / 1e9:.1f} GB; make room.")
    told = {
        name: _place(folder / name, songs[name], source) for name in tqdm(missing, unit="song", disable=not progress)
    }
    new = [entry for name, entry in entries.items() if name not in present]
    write_json(path, [*present.values(), *new], official=True)
    _tell(told)
    return {name: states.get(name, "kept" if name in present else "added") for name in songs}


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
        A split whose songs and listeners are used where this one has none.
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
    changed = {path: entries for path, entries in content.items() if not path.exists() or read_json(path) != entries}
    for path in changed:
        if path.exists() and not force:
            raise CorpusError(f"{path} holds others than would be drawn; choose another split, or use --force.")
    for path, entries in changed.items():
        write_json(path, entries, official=True)
    return len(scenes), sum(len(listeners) for listeners in scene_listeners.values())


def _own_or_like(corpus: Corpus, kind: str, split: str, like: str | None) -> Path:
    """Return a split's file of metadata, or that of another split if it has none."""
    own = corpus.metadata_file(f"{kind}.{split}.json")
    path = own if own.exists() or like is None else corpus.metadata_file(f"{kind}.{like}.json")
    if not path.exists():
        raise CorpusError(f"{path} does not exist; name a split to take it from (--like), or import songs first.")
    return path


def _identity(files: Sources) -> str:
    """Return the identity of the content of a song's files."""
    return digest({signal: [file_identity(path) for path in paths] for signal, paths in files.items() if paths})


def _is_imported(folder: Path, files: Sources, source: Path) -> bool:
    """Tell whether a song's directory in the corpus holds it already, and refuse if it holds another source's."""
    if not folder.exists():
        return False
    if {absolute_path(path.parent) for paths in files.values() for path in paths} == {absolute_path(folder)}:
        try:
            SongFolder(folder).check()
        except AudioError as error:
            reason = str(error).split(";")[0]
            raise CorpusError(
                f"{folder} must be converted ({reason}); move it out of the corpus, and import it."
            ) from error
        return True
    record = read_json(folder / RECORD) if (folder / RECORD).exists() else {"Source": "elsewhere"}
    if not isinstance(record, dict) or not isinstance(record.get("Source"), str):
        raise CorpusError(f"{folder / RECORD} does not say where the song is from; move {folder} away.")
    if record.get("Identity") == _identity(files):
        return all(signal_file(folder, signal).exists() for signal in SIGNALS)  # not where links lead nowhere
    if record["Source"] != str(source):
        raise CorpusError(
            f"{folder} holds a song from {record['Source']}, and {source} has another of that name; rename one."
        )
    return False


def _place(folder: Path, files: Sources, source: Path) -> str:
    """Link or write the five files of a song, and say how; the directory is complete or absent."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        notes = ["linked"]
        if can_link(files):
            for name in SIGNALS:
                os.symlink(files[name][0], unfinished / f"{name}.wav")
        else:
            notes = _write_sums(unfinished, files)
        write_json(unfinished / RECORD, {"Source": str(source), "Identity": _identity(files)})
        if folder.exists():
            shutil.rmtree(folder)
        publish(unfinished, folder)
    except (soundfile.LibsndfileError, OSError) as error:
        raise CorpusError(f"{folder} cannot be written ({error}); make room on a disk that can hold links.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return "; ".join([describe(files), *notes])


def _tell(told: dict[str, str]) -> None:
    """Log what songs were made of."""
    songs: dict[str, list[str]] = defaultdict(list)
    for name, text in told.items():
        songs[text].append(name)
    for text, names in list(songs.items())[:_MAX_TOLD]:
        _LOGGER.info("%s: %s.", names[0] if len(names) == 1 else f"{len(names)} songs", text)
    if len(songs) > _MAX_TOLD:
        _LOGGER.info("%d more songs.", sum(map(len, list(songs.values())[_MAX_TOLD:])))


def _write_sums(folder: Path, files: Sources) -> list[str]:
    """Write each stem as the sum of its files, padded to the longest of all, and the mixture; return the changes."""
    changes: dict[str, dict[str, None]] = defaultdict(dict)  # the signals by what was done to them, each once
    tracks = {}
    for name, paths in files.items():
        read = [read_audio(path, SAMPLE_RATE, stem_stream(path, name)) for path in paths]
        tracks[name] = [track for track, _ in read]
        for note in (note for _, notes in read for note in notes):
            changes[note][name] = None
    length = max(track.shape[-1] for parts in tracks.values() for track in parts)
    signals = {name: torch.zeros(2, length, dtype=torch.float64) for name in STEMS}
    for name, parts in tracks.items():
        for track in parts:
            signals.setdefault(name, torch.zeros(2, length, dtype=torch.float64))[:, : track.shape[-1]] += track
            if track.shape[-1] < length:
                changes["padded at the end to the longest, as if all began together"][name] = None
    if "mixture" not in signals:
        signals["mixture"] = torch.stack([signals[name] for name in STEMS]).sum(0)
    for name, signal in signals.items():
        soundfile.write(folder / f"{name}.wav", signal.T.numpy(), SAMPLE_RATE, subtype="FLOAT")
    return [f"{', '.join(names)} {change}" for change, names in changes.items()]
