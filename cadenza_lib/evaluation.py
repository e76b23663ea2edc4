"""Enhance and score scene-listener pairs, one row of `scores.csv` each; a run that was stopped goes on where it was.

Enhancing and scoring follow the official recipe step by step: fuse, gain, downmix, normalise, amplify, output stage;
the reference is the same remix of the true stems after amplification. A score equals the recipe's, noise included:
numpy's legacy generator is seeded with the scene before the left ear, and the right ear goes on with the same stream.
"""

import contextlib
import csv
import functools
import itertools
import os
import pickle
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from cadenza_lib.acoustics import SAMPLE_RATE
from cadenza_lib.corpus import AtEarSong, Corpus, check_not_silent
from cadenza_lib.demo import open_corpus
from cadenza_lib.errors import CorpusError, ParameterError
from cadenza_lib.executors import core_count, processes
from cadenza_lib.files import atomic_path, make_directory, read_json, write_json
from cadenza_lib.fitting import OUTPUT_SAMPLE_RATE, Output, amplify, finish, listener_firs, resample, save_output
from cadenza_lib.fusion import fuse
from cadenza_lib.haaqi import compute_haaqi
from cadenza_lib.listeners import EARS, Listener, ear_audiogram
from cadenza_lib.remix import remix
from cadenza_lib.scenes import Pair, legacy_seed
from cadenza_lib.separation import Separator

__all__ = [
    "COLUMNS",
    "HAAQI_SAMPLE_RATE",
    "OFFICIAL_COLUMNS",
    "PairScore",
    "Settings",
    "enhance",
    "evaluate",
    "read_scores",
    "read_settings",
    "reference_remix",
    "score",
]

HAAQI_SAMPLE_RATE = 24000
"""Sample rate in Hz at which the recipe computes HAAQI."""

PRESENTATION_LEVEL_DB_SPL = 65.0
"""Level at which the reference remix, before amplification, is presented to each ear."""

OFFICIAL_COLUMNS = ("scene", "song", "listener", "left_score", "right_score", "score")
"""Columns of the recipe's `scores.csv`."""

COLUMNS = (*OFFICIAL_COLUMNS, "left_clipped_share", "right_clipped_share")
"""Columns of ours: the official ones, then the share of samples that the output stage clipped."""


@dataclass(frozen=True)
class Settings:
    """What decides a score, beside the scene and the listener."""

    corpus: str  # "demo" or the absolute path
    split: str
    system: str  # name or absolute path of the separator
    mixture_weight: float = 0.0  # share of the mixture in each stem, see `fusion`
    output_level_db: float = 0.0  # gain before the clip; 0 is official
    clip: bool = True  # clip and round to 16 bits, as is official


@dataclass(frozen=True)
class PairScore:
    """HAAQI of one scene-listener pair, `(left, right)`, and what the output stage clipped."""

    haaqi: tuple[float, float]
    clipped_share: tuple[float, float]

    @property
    def mean(self) -> float:
        """The score of the pair: the mean of both ears."""
        return float(np.mean(self.haaqi))


def enhance(
    song: AtEarSong,
    stems: Tensor,
    gains_db: Tensor,
    listener: Listener,
    mixture_weight: float = 0.0,
    output_level_db: float = 0.0,
    clip: bool = True,
) -> Output:
    """Return what the listener's hearing aids play, from estimated stems `(stem, channel, time)`."""
    remixed = remix(fuse([stems], song.mixture, mixture_weight=mixture_weight), gains_db, song.mixture)
    return finish(amplify(remixed, listener_firs(listener)), output_level_db, clip)


def reference_remix(song: AtEarSong, gains_db: Tensor) -> Tensor:
    """Return the remix of the true stems before amplification, `(ear, time)`.

    Raises
    ------
    AudioError
        If the gains leave an ear silent, so that the presentation level is undefined.
    """
    remixed = remix(song.stems, gains_db, song.mixture)
    check_not_silent(remixed, f"The remix of {song.name}")
    return remixed


def score(output: Output, reference: Tensor, listener: Listener, scene: str) -> PairScore:
    """Return HAAQI of an enhanced signal against the reference remix of its scene, as the recipe computes it.

    Parameters
    ----------
    output
        What `finish` returned.
    reference
        What `reference_remix` returned, `(ear, time)`.
    listener
        Whose ears listen.
    scene
        Id of the scene, which seeds the noise of the ear model.
    """
    amplified = amplify(reference, listener_firs(listener)).numpy()
    haaqi = []
    with _legacy_seed(legacy_seed(scene)):
        for index, ear in enumerate(EARS):
            rms = float(reference[index].square().mean().sqrt())
            haaqi.append(
                float(
                    compute_haaqi(
                        processed_signal=resample(output.signal[index], OUTPUT_SAMPLE_RATE, HAAQI_SAMPLE_RATE),
                        reference_signal=resample(amplified[index], SAMPLE_RATE, HAAQI_SAMPLE_RATE),
                        processed_sample_rate=HAAQI_SAMPLE_RATE,
                        reference_sample_rate=HAAQI_SAMPLE_RATE,
                        audiogram=ear_audiogram(listener, ear),
                        equalisation=2,  # NAL-R is already in the reference
                        level1=PRESENTATION_LEVEL_DB_SPL - 20 * np.log10(rms),
                    )
                )
            )
    return PairScore((haaqi[0], haaqi[1]), (float(output.clipped_share[0]), float(output.clipped_share[1])))


def evaluate(
    corpus: Corpus,
    separator: Separator,
    settings: Settings,
    pairs: Sequence[Pair],
    out_dir: Path | str,
    progress: bool = True,
    jobs: int = 1,
) -> pd.DataFrame:
    """Enhance and score pairs; write the signals, `scores.csv` and `settings.json` to `out_dir`.

    Pairs that `scores.csv` already has are not computed again. A row is written as soon as it is known, so a run that
    is stopped loses at most the pair that it was working on; with several processes, those of one song in each.

    Parameters
    ----------
    corpus
        Where the songs are.
    separator
        Estimates their stems, once for each song at the ears.
    settings
        What decides the scores, beside the pairs.
    pairs
        What to score.
    out_dir
        Directory for the results.
    progress
        Whether to show a progress bar.
    jobs
        Processes that share out the songs, but not more than there are cores for this process; 1: this process. With
        more, the separator must come from `separation.load`.

    Returns
    -------
    pandas.DataFrame
        The scores of `pairs`, in their order, with `COLUMNS`.

    Raises
    ------
    ParameterError
        If `out_dir` cannot be written, or holds scores of other settings, or the separator cannot be handed to other
        processes.
    CorpusError, AudioError
        If the data cannot be used.
    """
    split = corpus.split(settings.split)
    for pair in pairs:
        if pair.scene not in split.scenes or pair.listener not in split.listeners:
            raise ParameterError(f"Pair {pair.scene}, {pair.listener} is not in split {split.name!r}.")
    out_dir = make_directory(out_dir)
    _claim(out_dir, settings)
    scores_path = out_dir / "scores.csv"
    known = _repair(scores_path)
    by_song: dict[str, list[Pair]] = {}  # one separation for all scenes and listeners of a song at the ears
    for pair in pairs:
        if (pair.scene, pair.listener) not in known:
            by_song.setdefault(split.scenes[pair.scene].at_ear_song, []).append(pair)
    n_missing = sum(map(len, by_song.values()))
    groups = list(by_song.values())
    jobs = min(jobs, core_count(), max(1, len(groups)))
    rows = (
        (row for group in groups for row in _rows(corpus, separator, settings, out_dir, group))
        if jobs == 1
        else _rows_of_processes(jobs, corpus, separator, settings, out_dir, groups)
    )
    bar = tqdm(
        total=len(pairs), initial=len(pairs) - n_missing, desc=settings.system, unit="pair", disable=not progress
    )
    with bar, contextlib.closing(rows):
        for row in rows:
            _append(scores_path, row)
            bar.update()

    scores = read_scores(out_dir).set_index(["scene", "listener"])
    wanted = pd.MultiIndex.from_tuples([(pair.scene, pair.listener) for pair in pairs], names=scores.index.names)
    return scores.loc[wanted].reset_index()[list(COLUMNS)]


_Row = tuple[object, ...]


def _rows(
    corpus: Corpus, separator: Separator, settings: Settings, out_dir: Path, pairs: Sequence[Pair]
) -> Generator[_Row, None, None]:
    """Yield the rows of pairs that share a song at the ears, and write what their listeners hear."""
    split = corpus.split(settings.split)
    song = corpus.at_ear_song(split, split.scenes[pairs[0].scene])
    stems = separator(song)
    for scene, same_scene in itertools.groupby(pairs, key=lambda pair: pair.scene):
        gains_db = corpus.gains_db(split.scenes[scene])
        reference = reference_remix(song, gains_db)
        for pair in same_scene:
            listener = split.listeners[pair.listener]
            how = (settings.mixture_weight, settings.output_level_db, settings.clip)
            output = enhance(song, stems, gains_db, listener, *how)
            save_output(output, out_dir / "enhanced_signals" / f"{scene}_{pair.listener}_remix")
            result = score(output, reference, listener, scene)
            yield scene, song.name, pair.listener, *result.haaqi, result.mean, *result.clipped_share


def _rows_of_processes(
    jobs: int,
    corpus: Corpus,
    separator: Separator,
    settings: Settings,
    out_dir: Path,
    groups: Sequence[Sequence[Pair]],
) -> Generator[_Row, None, None]:
    """Yield the rows of groups of pairs as processes find them."""
    try:
        pickle.dumps(separator)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ParameterError(
            f"The separator {settings.system!r} lives in this process alone ({error}); evaluate with jobs = 1."
        ) from error
    with processes(jobs, _start_process, (corpus.name, separator, settings, out_dir)) as pool:
        futures = [pool.submit(_rows_of_group, group) for group in groups]
        for future in as_completed(futures):
            try:
                rows = future.result()
            except BrokenProcessPool as error:
                raise ParameterError(
                    f"One of {jobs} jobs died, perhaps for lack of memory; evaluate again with fewer, which goes on."
                ) from error
            yield from rows


_process: dict[str, Callable[[Sequence[Pair]], Iterator[_Row]]] = {}  # what a process of `evaluate` does


def _start_process(corpus: str, separator: Separator, settings: Settings, out_dir: Path) -> None:
    """Open the corpus once for all groups; the separator has been loaded on the way here."""
    torch.set_num_threads(core_count())  # which has been imported on the way, too late for the environment
    _process["rows"] = functools.partial(_rows, open_corpus(corpus), separator, settings, out_dir)


def _rows_of_group(pairs: Sequence[Pair]) -> list[_Row]:
    return list(_process["rows"](pairs))


def read_scores(out_dir: Path | str) -> pd.DataFrame:
    """Read the `scores.csv` of an evaluation.

    Raises
    ------
    CorpusError
        If the file is missing, or is not a table with the official columns.
    """
    path = Path(out_dir) / "scores.csv"
    if not path.is_file():
        raise CorpusError(f"{path} does not exist; run 03_evaluate with this out_dir first.")
    try:
        dtype = {"scene": str, "song": str, "listener": str}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The 'float_precision'")  # newer pandas are exact without it
            scores = pd.read_csv(path, dtype=dtype, float_precision="round_trip")  # what was written, to the last bit
    except (ValueError, OSError) as error:
        raise CorpusError(f"{path} is not a table of scores ({error}); evaluate again.") from error
    missing = [column for column in OFFICIAL_COLUMNS if column not in scores]
    if missing:
        raise CorpusError(f"{path} has no column {missing[0]!r}; it needs {', '.join(OFFICIAL_COLUMNS)}.")
    for column in ("left_score", "right_score", "score"):
        if not pd.api.types.is_numeric_dtype(scores[column]) and not scores.empty:
            raise CorpusError(f"{path} has a {column} that is not a number; evaluate again.")
    return scores


def read_settings(out_dir: Path | str) -> Settings:
    """Read the settings that the scores in `out_dir` were computed with."""
    path = Path(out_dir) / "settings.json"
    try:
        return Settings(**read_json(path))
    except TypeError as error:
        raise CorpusError(f"{path} does not hold the settings of an evaluation ({error}).") from error


def _claim(out_dir: Path, settings: Settings) -> None:
    """Mark a directory as that of these settings, or refuse if it is another's."""
    path = out_dir / "settings.json"
    if not path.exists():
        write_json(path, asdict(settings))
        return
    found, wanted = asdict(read_settings(out_dir)), asdict(settings)
    for name, value in wanted.items():
        if found[name] != value:
            raise ParameterError(
                f"{out_dir} holds scores with {name} {found[name]!r}, not {value!r}; delete it or choose another."
            )


def _repair(path: Path) -> set[tuple[str, str]]:
    """Return the pairs in a table of scores, after cutting off a last line that was torn when the run was stopped."""
    if not path.exists():
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(COLUMNS)
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with path.open("r+b") as torn:
            torn.truncate(complete)
    scores = read_scores(path.parent)
    return set(zip(scores["scene"], scores["listener"], strict=True))


def _append(path: Path, row: Sequence[object]) -> None:
    """Append one row to a CSV file and see it on the disk."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(row)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _legacy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's legacy generator, which HAAQI draws its noise from, and restore its state afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
