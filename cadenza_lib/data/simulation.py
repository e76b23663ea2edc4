"""Write a corpus' songs as they sound at the ears, byte for byte as the official generator does.

`generate_at_mic_musdb18.py` of pyclarity's recipe writes `audio/at_mic_music/<split>/<song>-<head position>/` with five
16-bit WAV files each, and `metadata/at_mic_music.<split>.json`. This module writes the same, several files at a time,
and reads and measures each dry file once for all its head positions. A song at the ears is complete or absent, so a
stopped run resumes. Beside the five files lies `sources.json`, which records what they were made of (see `identity`):
a song whose dry files or responses have changed is written again. Songs of other programs have no record and stay.
"""

import shutil
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from cadenza_lib.audio.acoustics import loudspeakers_to_ears, read_audio, to_16bit
from cadenza_lib.audio.loudness import integrated_loudness, matching_gain
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.documents import write_json
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import locked, make_directory, publish, write_errors
from cadenza_lib.core.paths import file_name
from cadenza_lib.core.processes import core_count
from cadenza_lib.data.corpus import Corpus, Split
from cadenza_lib.data.songs import RECORD, SIGNALS, SongFolder, read_record, signal_file

__all__ = ["at_ear_metadata", "plan_simulation", "simulate"]

_BYTES_PER_SAMPLE = 4  # two channels of 16 bits
_HEADER_BYTES = 44
_CHUNK = 1 << 14  # samples that are rounded and written at once, few enough for the processor's cache


@dataclass(frozen=True)
class SimulationPlan:
    """What a simulation would write."""

    songs: Mapping[str, dict[str, Any]]
    """Metadata of all songs at the ears of the split, by name."""
    missing: tuple[str, ...]
    """Names of those that are not on the disk, not complete, or made of files that have changed."""
    needed_bytes: int
    """Disk space that the missing ones take."""
    free_bytes: int
    """Free disk space."""


def at_ear_metadata(split: Split) -> dict[str, dict[str, Any]]:
    """Return the content of `at_mic_music.<split>.json` as the official generator writes it."""
    songs = {}
    for scene in split.scenes.values():
        dry = split.songs[scene.music]
        folder = file_name(str(dry.get("Split", split.name)))
        songs[scene.at_ear_song] = {
            "Track Name": scene.at_ear_song,
            "Split": folder,
            "Path": f"{folder}/{file_name(scene.at_ear_song)}",
            "Original Track Name": dry["Track Name"],
            "Head Position": scene.head_loudspeaker_positions,
        }
    return songs


def plan_simulation(corpus: Corpus, split_name: str) -> SimulationPlan:
    """Return which songs are missing and how large they are, by the headers of the files that exist.

    Raises
    ------
    CorpusError
        If the split has no dry songs, or its metadata cannot be used.
    AudioError
        If a file of a dry song or an HRTF is missing or unusable, the five files of a song differ in length, or it is
        too short.
    """
    split = corpus.split(split_name)
    unknown = [scene.music for scene in split.scenes.values() if scene.music not in split.songs]
    if unknown:
        raise CorpusError(
            f"{corpus.root}: split {split_name!r} lacks {len(set(unknown))} dry songs to simulate from, such as "
            f"{unknown[0]!r}; where its songs come at the ears, unpack those."
        )
    songs = at_ear_metadata(split)
    lengths = corpus.check_songs(split, split.scenes.values(), dry=True)
    song_bytes = {name: len(SIGNALS) * (_HEADER_BYTES + _BYTES_PER_SAMPLE * length) for name, length in lengths.items()}
    missing = tuple(
        name
        for name, entry in songs.items()
        if _size(corpus.at_ear_folder(entry)) != song_bytes[name] or _is_outdated(corpus, split, entry)
    )
    return SimulationPlan(
        songs, missing, sum(song_bytes[name] for name in missing), shutil.disk_usage(corpus.root).free
    )


def simulate(corpus: Corpus, split_name: str, jobs: int | None = None, progress: bool = True) -> SimulationPlan:
    """Write the songs of a split at the ears, those that are missing, and then their metadata.

    If another process is simulating songs of the corpus, this waits until it is done.

    Parameters
    ----------
    corpus
        A data set on disk.
    split_name
        Whose scenes are simulated.
    jobs
        Number of files at the same time; default: torch's number of threads, at most one per core. Each takes about
        ten times as much memory as it is large on the disk.
    progress
        Show a bar.

    Returns
    -------
    SimulationPlan
        What was missing before.

    Raises
    ------
    ParameterError
        If the number of jobs is not positive, or the corpus cannot be written.
    CorpusError
        If the disk has too little space, or the metadata cannot be used.
    AudioError
        If a file is missing or unusable, or the five files of a song differ in length.
    """
    jobs = min(torch.get_num_threads(), core_count()) if jobs is None else jobs
    if jobs < 1:
        raise ParameterError(f"jobs {jobs} must be at least 1.")
    with locked(corpus.root / ".simulation.lock"):
        plan = plan_simulation(corpus, split_name)
        _simulate_missing(corpus, split_name, plan, jobs, progress)
        write_json(corpus.metadata_file(f"at_mic_music.{split_name}.json"), plan.songs, official=True)
    return plan


def _simulate_missing(corpus: Corpus, split_name: str, plan: SimulationPlan, jobs: int, progress: bool) -> None:
    """Write the songs that are missing, if there is room for all of them."""
    if plan.needed_bytes > plan.free_bytes:
        raise CorpusError(
            f"{corpus.root} has {plan.free_bytes / 1e9:.1f} GB free, but the {len(plan.missing)} songs at the ears of "
            f"{split_name!r} take {plan.needed_bytes / 1e9:.1f} GB; make room, or let them be simulated when read."
        )
    by_song: dict[str, list[str]] = defaultdict(list)
    for name in plan.missing:
        by_song[plan.songs[name]["Original Track Name"]].append(name)
    threads = torch.get_num_threads()
    bar = tqdm(total=len(plan.songs), initial=len(plan.songs) - len(plan.missing), unit="song", disable=not progress)
    with bar, ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        split = corpus.split(split_name)
        sources = {name: _source(corpus, split, plan.songs[name]) for name in plan.missing}  # before they are read
        # The five files of a song start together, so that few songs are ever unfinished.
        files = {
            song: [pool.submit(_simulate_file, corpus, split, plan.songs, song, names, signal) for signal in SIGNALS]
            for song, names in by_song.items()
        }
        try:
            for song, names in by_song.items():
                for file in files[song]:
                    file.result()
                for name in names:
                    _finish(corpus.at_ear_folder(plan.songs[name]), sources[name])
                    bar.update()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # the workers have set it to one for the whole process
            for name in plan.missing:
                shutil.rmtree(_unfinished(corpus.at_ear_folder(plan.songs[name])), ignore_errors=True)


def _simulate_file(
    corpus: Corpus, split: Split, songs: Mapping[str, dict[str, Any]], song: str, names: list[str], signal: str
) -> None:
    """Write one signal of a dry song as it sounds at each head position."""
    folder = corpus.music_folder(split.songs[song])
    dry = read_audio(signal_file(folder, signal), SAMPLE_RATE)
    dry_lufs = integrated_loudness(dry, SAMPLE_RATE)
    for name in names:
        heard = loudspeakers_to_ears(dry, corpus.hrtf(songs[name]["Head Position"]))
        gain = matching_gain(integrated_loudness(heard, SAMPLE_RATE), dry_lufs)
        target = make_directory(_unfinished(corpus.at_ear_folder(songs[name])))
        _write_16bit(target / f"{signal}.wav", heard, gain)
        del heard  # frees its memory before the next one is computed


def _write_16bit(path: Path, signal: Tensor, gain: Tensor) -> None:
    """Write a signal `(channel, time)` times a gain as 16-bit WAV, rounded as the official generator rounds it."""
    try:
        with soundfile.SoundFile(path, "w", SAMPLE_RATE, len(signal), subtype="PCM_16", format="WAV") as file:
            for start in range(0, signal.shape[-1], _CHUNK):
                file.write(to_16bit(signal[:, start : start + _CHUNK] * gain).T.numpy())
    except (soundfile.LibsndfileError, OSError) as error:
        raise CorpusError(f"{path} cannot be written ({error}); make room, and what is complete is kept.") from error


def _size(folder: Path) -> int:
    """Return the size of a song in bytes, 0 if one of its five files is missing."""
    files = [folder / f"{name}.wav" for name in SIGNALS]
    return sum(file.stat().st_size for file in files) if all(file.is_file() for file in files) else 0


def _is_outdated(corpus: Corpus, split: Split, entry: dict[str, Any]) -> bool:
    """Tell whether the files that a song at the ears was made of have changed."""
    record = read_record(corpus.at_ear_folder(entry))
    return record is not None and record["Source"] != _source(corpus, split, entry)


def _source(corpus: Corpus, split: Split, entry: dict[str, Any]) -> str:
    return corpus.simulated_identity(split, entry["Original Track Name"], entry["Head Position"])


def _unfinished(folder: Path) -> Path:
    """Return the directory that a song lies in while it is written."""
    return folder.with_name(f".{folder.name}.unfinished")


def _finish(folder: Path, source: str) -> None:
    """Rename a complete song to its final name, in place of an incomplete one."""
    write_json(_unfinished(folder) / RECORD, {"Source": source, "Files": SongFolder(_unfinished(folder)).identity()})
    with write_errors(folder):
        if folder.exists():
            shutil.rmtree(folder)
        publish(_unfinished(folder), folder)
