"""What a data set on disk has, lacks and can run, its listeners, levels and damage.

Only the headers of audio files are read, except where the loudness of the songs is asked for.

A data set is a corpus in the challenge's layout, or a folder of songs in MUSDB18-HQ's (`train/<song>/<stem>.wav`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cadenza_lib.audio.acoustics import read_header
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.errors import AudioError, CadenzaError, CorpusError
from cadenza_lib.core.paths import absolute_path, find_path, list_folder, normal_form
from cadenza_lib.data.corpus import Corpus, Split
from cadenza_lib.data.listeners import ASYMMETRY_DB, Listener, ear_table, measurement_note
from cadenza_lib.data.metadata import load_songs
from cadenza_lib.data.songs import READERS, SIGNALS, Song, SongFolder, mixture_loudness, signal_file

__all__ = ["MUSDB18_SPLITS", "Finding", "check_data"]

MUSDB18_SPLITS = ("train", "test")
"""Directories that songs of MUSDB18-HQ lie in."""

_MAX_LISTED = 5  # problems of a kind that are listed; the others are counted
_METADATA = ("scenes", "scene_listeners", "listeners", "musdb18", "at_mic_music")


@dataclass(frozen=True)
class Finding:
    """A line of the report; only "DAMAGE" must be repaired."""

    status: str  # "OK", "NOTE", "MISSING" or "DAMAGE"
    subject: str
    detail: str


@dataclass(frozen=True)
class _Header:
    """The content of a sound file's header, and what is wrong with the file."""

    path: Path
    frames: int = 0
    bytes: int = 0
    problem: str = ""


def check_data(path: Path | str, levels: bool = False) -> list[Finding]:
    """Check a corpus or a folder of songs, and return a report.

    Parameters
    ----------
    path
        Its directory.
    levels
        Whether to read the mixtures and report their loudness, which `loudness.json` in the directory remembers.

    Returns
    -------
    list of Finding
        In this order: metadata, splits, audio, damage.

    Raises
    ------
    CorpusError
        If the directory does not exist, or is neither a corpus nor a folder of songs.
    ParameterError
        If the name of the directory, or of a song in it, is not UTF-8.
    """
    root = absolute_path(path)
    if not root.is_dir():
        raise CorpusError(f"{root} is not a directory; give the one that holds metadata/ and audio/.")
    try:
        is_corpus = find_path(root / "metadata", root).is_dir()
        return _check_corpus(root, levels) if is_corpus else _check_folder(root, levels)
    except PermissionError as error:
        raise CorpusError(f"{error.filename} cannot be read; change its permissions.") from error


def _check_folder(root: Path, levels: bool) -> list[Finding]:
    """Check a folder of songs in MUSDB18-HQ's layout."""
    folders = {split: _song_folders(find_path(root / split, root)) for split in MUSDB18_SPLITS}
    folders = {split: songs for split, songs in folders.items() if songs} or {"songs": _song_folders(root)}
    songs = [song for songs_of_split in folders.values() for song in songs_of_split]
    if not songs:
        raise CorpusError(
            f"{root} has neither metadata/ nor folders with {', '.join(SIGNALS)}.wav; see data/README.md."
        )
    return [
        *(Finding("OK", split, f"{len(there)} songs in MUSDB18-HQ's layout") for split, there in folders.items()),
        Finding("NOTE", "metadata", "none; cadenza data import makes these songs part of a corpus"),
        *_check_songs("songs", songs, for_import=True),
        *_check_case(songs),
        *(
            _check_levels(split, {song.name: SongFolder(song) for song in there}, root)
            for split, there in folders.items()
            if levels
        ),
    ]


def _song_folders(folder: Path) -> list[Path]:
    """Return the directories in a folder that hold at least one of the five files of a song, sorted by name.

    Raises
    ------
    ParameterError
        If a name is not UTF-8.
    """
    names = {f"{name}.{suffix}" for name in SIGNALS for suffix in ("wav", "flac")}
    return [song for song in _subfolders(folder) if names & {file.name.lower() for file in song.iterdir()}]


def _check_corpus(root: Path, levels: bool) -> list[Finding]:
    try:
        corpus = Corpus(root)
    except CorpusError as error:
        return [Finding("DAMAGE" if "does not exist" not in str(error) else "MISSING", "metadata", str(error))]
    findings = [
        Finding("OK", "metadata", f"{len(corpus.gains)} gain sets, {len(corpus.head_positions)} head positions"),
        *_check_old_names(corpus),
    ]
    named: set[Path] = set()
    for name in _split_names(corpus):
        findings += _check_split(corpus, name, named, levels)
    findings += _check_hrtfs(corpus)
    for kind in ("music", "at_mic_music"):
        splits = _subfolders(find_path(root / "audio" / kind, root))
        songs = [song for split in splits for song in _song_folders(split)]
        if songs:
            findings += _check_songs(f"audio/{kind}", songs)
            findings += _check_case(songs)
        if extra := [song for song in songs if song not in named]:
            findings.append(Finding("NOTE", f"audio/{kind}", f"{_examples(extra)} not named by any metadata"))
    return findings


def _check_split(corpus: Corpus, name: str, named: set[Path], levels: bool) -> list[Finding]:
    """Check the metadata of a split and whether what they name exists; add its folders to `named`."""
    try:
        dry, heard = (
            {song: find(entry) for song, entry in load_songs(corpus.metadata_file(f"{kind}.{name}.json")).items()}
            for kind, find in (("musdb18", corpus.music_folder), ("at_mic_music", corpus.at_ear_folder))
        )
    except CadenzaError as error:
        return [Finding("DAMAGE", name, str(error))]
    named.update(dry.values(), heard.values())
    missing = [kind for kind in _METADATA[:3] if not corpus.metadata_file(f"{kind}.{name}.json").exists()]
    if not any(corpus.metadata_file(f"{kind}.{name}.json").exists() for kind in _METADATA[3:]):
        missing.append("musdb18 or at_mic_music")
    if missing:
        remedy = (
            "; cadenza data scenes draws the scenes" if missing in (["scenes", "scene_listeners"], ["scenes"]) else ""
        )
        return [Finding("MISSING", name, f"no {', '.join(missing)}.{name}.json, so nothing can be run{remedy}")]
    try:
        split = corpus.split(name)
    except CadenzaError as error:
        return [Finding("DAMAGE", name, str(error))]
    findings = []
    for folders, kind, file in (
        (dry, "dry", f"musdb18.{name}.json"),
        (heard, "at-ear", f"at_mic_music.{name}.json"),
    ):
        if gone := [folder for folder in folders.values() if not folder.is_dir()]:
            everything = len(gone) == len(folders)
            status = "MISSING" if everything else "DAMAGE"
            detail = f"none of {len(gone)}" if everything else f"{_examples(gone)} of {len(folders)}"
            findings.append(Finding(status, name, f"{kind} songs that {file} names: {detail} on the disk"))
    if note := measurement_note(split.listeners.values()):
        findings.append(Finding("NOTE", name, note))
    findings.append(Finding("OK", name, _abilities(corpus, split, dry, heard)))
    findings.append(Finding("OK", name, _describe_hearing(split.listeners.values())))
    if levels:
        here = {song for song, folder in (dry | heard).items() if folder.is_dir()}
        scenes = [scene for scene in split.scenes.values() if here & {scene.music, scene.at_ear_song}]
        findings.append(_check_levels(name, corpus.sources(split, scenes), corpus.root))
    return findings


def _describe_hearing(listeners: Iterable[Listener]) -> str:
    """Return how the better ears of listeners are distributed, and how many have two different ears."""
    people = ear_table(listeners).drop_duplicates("listener").dropna(subset="better_ear_pta_db_hl")
    if people.empty:
        return "no listener has a better-ear average"
    average_db_hl = people["better_ear_pta_db_hl"].to_numpy()
    decades = Counter((10 * (average_db_hl // 10)).astype(int).tolist())
    shares = ", ".join(f"{start}-{start + 10}: {100 * n / len(people):.0f} %" for start, n in sorted(decades.items()))
    asymmetric = int((people["asymmetry_db"].abs() >= ASYMMETRY_DB).sum())
    return (
        f"better-ear averages (0.5, 1, 2, 4 kHz): {_mean_and_deviation(average_db_hl)} dB HL; {shares}; "
        f"{asymmetric} of {len(people)} listeners have {ASYMMETRY_DB:g} dB or more between the ears"
    )


def _check_levels(name: str, songs: Mapping[str, Song], root: Path) -> Finding:
    """Measure the loudness of the mixtures of a split."""
    if not songs:
        return Finding("NOTE", name, "its loudness is not known: there are no songs")
    try:
        loudness_lufs = np.array([*mixture_loudness(songs, root / "loudness.json").values()])
    except CadenzaError as error:
        return Finding("NOTE", name, f"its loudness is not known: {error}")
    ends = f"from {loudness_lufs.min():.1f} to {loudness_lufs.max():.1f}"
    return Finding("OK", name, f"{len(songs)} mixtures: {_mean_and_deviation(loudness_lufs)}, {ends} LUFS")


def _mean_and_deviation(values: np.ndarray) -> str:
    return f"mean {values.mean():.1f}, standard deviation {values.std():.1f}"


def _abilities(corpus: Corpus, split: Split, dry: dict[str, Path], heard: dict[str, Path]) -> str:
    """Return how large a split is and what can be run with it."""
    pairs = sum(len(listeners) for listeners in split.scene_listeners.values())
    counts = f"{len(split.scenes)} scenes, {len(split.listeners)} listeners, {pairs} scene-listener pairs"
    dry_here, heard_here = (  # whether they have stems
        {song: _has_stems(folder) for song, folder in songs.items() if folder.is_dir()} for songs in (dry, heard)
    )
    positions = {scene.head_loudspeaker_positions for scene in split.scenes.values()}
    hrtfs_here = all(
        path.exists()
        for position in positions & corpus.head_positions.keys()
        for path in corpus.hrtf_files(corpus.head_positions[position])
    )
    have_stems = [
        heard_here[scene.at_ear_song] if scene.at_ear_song in heard_here else dry_here[scene.music]
        for scene in split.scenes.values()
        if scene.at_ear_song in heard_here or (scene.music in dry_here and hrtfs_here)
    ]
    n_ready = sum(have_stems) or len(have_stems)  # where some songs have stems, the others are refused
    if n_ready < len(split.scenes):
        return f"{counts}; can run {n_ready} of its scenes"
    can = ["enhance", "evaluate", "fine-tune"] if any(have_stems) else ["enhance"]
    if any(dry_here.values()) and hrtfs_here:
        can += ["simulate", "draw more scenes"]
    return f"{counts}; can {' and '.join(filter(None, (', '.join(can[:-1]), can[-1])))}"


def _check_old_names(corpus: Corpus) -> Iterator[Finding]:
    """Yield the names on the disk that differ from the current ones and are understood all the same."""
    heads = corpus.metadata_file("head_loudspeaker_positions.json")
    if heads.stem.lower() != "head_loudspeaker_positions":
        yield Finding(
            "NOTE", "metadata", f"{heads.name}, of an older version, is read as head_loudspeaker_positions.json"
        )
    for folder in ("metadata", "audio", "audio/music", "audio/at_mic_music", "audio/hrtf"):
        path = find_path(corpus.root / folder, corpus.root)
        if path.exists() and path != corpus.root / folder:
            yield Finding("NOTE", folder, f"is spelt {path.relative_to(corpus.root)}, which is understood")


def _check_case(songs: Iterable[Path]) -> Iterator[Finding]:
    """Yield songs that are spelt in upper case, and names that differ in case or normal form alone."""
    songs = list(songs)
    other = [
        song
        for song in songs
        if any(file.suffix.lower() == ".wav" and file.name != file.name.lower() for file in song.iterdir())
    ]
    if other:
        yield Finding("NOTE", "file names", f"upper case in {_examples(other)}, such as Mixture.wav; understood")
    if folders := sorted({song.parent for song in songs if song.parent.name != song.parent.name.lower()}):
        yield Finding("NOTE", "folder names", f"upper case in {_examples(folders)}; understood")
    paths = [path for song in songs for path in (song, *list_folder(song))]
    names = Counter(normal_form(str(path)).lower() for path in paths)
    if twice := [name for name, count in names.items() if count > 1]:
        detail = f"names that differ only in case or in Unicode's normal form: {_examples(twice)}"
        yield Finding("DAMAGE", "duplicates", detail)


def _check_songs(subject: str, songs: list[Path], for_import: bool = False) -> list[Finding]:
    """Check the headers of each song's files; of songs to be imported, what import cannot mend."""
    with ThreadPoolExecutor(READERS) as pool:
        headers = list(pool.map(lambda folder: _song_headers(folder, for_import), songs))
    size = sum(header.bytes for song in headers for header in song)
    hours = sum(song[-1].frames for song in headers) / SAMPLE_RATE / 3600
    findings = [Finding("OK", subject, f"{len(songs)} songs, {hours:.2f} hours, {_readable_size(size)}")]
    if mixtures := [folder for folder, song in zip(songs, headers, strict=True) if len(song) == 1]:
        count = f"{len(mixtures)} of {len(songs)} songs, such as {mixtures[0]}"
        detail = f"the stems of {count}, which can therefore be enhanced, but not scored or trained on"
        findings.append(Finding("MISSING", subject, detail))
    problems = [header.problem for song in headers for header in song if header.problem]
    for song in headers:
        whole = [header for header in song if not header.problem]
        if len({header.frames for header in whole}) > 1 and not for_import:
            lengths = ", ".join(f"{header.path.stem.lower()} {header.frames}" for header in whole)
            problems.append(f"{whole[0].path.parent} has files of unequal length in samples: {lengths}")
    return findings + _damage(subject, problems)


def _check_hrtfs(corpus: Corpus) -> list[Finding]:
    files = sorted({path for position in corpus.head_positions.values() for path in corpus.hrtf_files(position)})
    gone = [path for path in files if not path.exists()]
    if len(gone) == len(files):
        return [Finding("MISSING", "audio/hrtf", f"none of {len(files)} HRTFs, so nothing can be simulated")]
    with ThreadPoolExecutor(READERS) as pool:
        headers = list(pool.map(_read_header, [path for path in files if path.exists()]))
    findings = [Finding("OK", "audio/hrtf", f"{len(headers)} of {len(files)} HRTFs, {headers[0].frames} taps")]
    problems = [header.problem for header in headers if header.problem]
    if gone:
        problems.append(f"head_loudspeaker_positions.json points to HRTFs that do not exist: {_examples(gone)}")
    if len(lengths := {header.frames for header in headers if not header.problem}) > 1:
        problems.append(f"HRTFs differ in length: {', '.join(map(str, sorted(lengths)))} taps")
    return findings + _damage("audio/hrtf", problems)


def _song_headers(folder: Path, for_import: bool) -> list[_Header]:
    files = {name: signal_file(folder, name) for name in SIGNALS}
    if for_import and not files["mixture"].exists():
        del files["mixture"]
    if not for_import and not _has_stems(folder):
        files = {"mixture": files["mixture"]}
    return [_read_header(file, for_import) for file in files.values()]


def _has_stems(folder: Path) -> bool:
    return any(signal_file(folder, stem).exists() for stem in STEMS)


def _read_header(path: Path, for_import: bool = False) -> _Header:
    """Return the header of a sound file, or the problem with it."""
    try:
        header = read_header(path, None, (1, 2)) if for_import else read_header(path, SAMPLE_RATE)
        return _Header(path, round(header.frames * SAMPLE_RATE / header.sample_rate), path.stat().st_size)
    except AudioError as error:
        return _Header(path, problem=str(error).rstrip("."))


def _split_names(corpus: Corpus) -> list[str]:
    """Return the splits that have any file of metadata, in alphabetical order."""
    files = [path.name.split(".") for path in list_folder(corpus.metadata) if path.suffix == ".json"]
    return sorted({parts[1] for parts in files if len(parts) == 3 and parts[0].lower() in _METADATA})


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in list_folder(folder) if path.is_dir()]  # hidden ones are unfinished songs


def _damage(subject: str, problems: list[str]) -> list[Finding]:
    """Return the first problems, and the number of the others."""
    findings = [Finding("DAMAGE", subject, problem) for problem in problems[:_MAX_LISTED]]
    if len(problems) > _MAX_LISTED:
        findings.append(Finding("DAMAGE", subject, f"and {len(problems) - _MAX_LISTED} more"))
    return findings


def _examples(items: list[Any]) -> str:
    """Return up to three items, and the number of the others."""
    shown = ", ".join(str(item) for item in items[:3])
    return f"{shown} and {len(items) - 3} more" if len(items) > 3 else shown


def _readable_size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
