"""Enhance and score scene-listener pairs, one row of `scores.csv` each; a run that was stopped resumes.

The chain is `chain.pipeline`, the score `scoring.pairs`; here is what is kept, resumed and shared out to processes.
Pairs whose songs have no stems are enhanced only; `signals.csv` then takes the place of `scores.csv`.
"""

import contextlib
import functools
import itertools
import logging
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from cadenza_lib.chain.fitting import PRESCRIPTIONS, Prescription, prescription
from cadenza_lib.chain.fusion import ensemble
from cadenza_lib.chain.output import OUTPUT_STAGES, OutputStage, output_stage, save_output
from cadenza_lib.chain.pipeline import ChainSettings, reference_remix, remix, render
from cadenza_lib.core.conventions import EARS
from cadenza_lib.core.documents import as_tuples
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import make_directory, write_errors
from cadenza_lib.core.identity import claim, digest, results_lock
from cadenza_lib.core.identity import read_settings as read_settings_file
from cadenza_lib.core.paths import file_name
from cadenza_lib.core.processes import core_count, process_pool
from cadenza_lib.core.tables import read_table
from cadenza_lib.data.corpus import Corpus, Split
from cadenza_lib.data.listeners import audiogram_identity
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import Pair
from cadenza_lib.scoring.kept import KeptRows
from cadenza_lib.scoring.pairs import EAR_COLUMNS, score
from cadenza_lib.separation.estimates import model_identity
from cadenza_lib.separation.separators import Separator

__all__ = [
    "AUDIOGRAM",
    "COLUMNS",
    "OFFICIAL_COLUMNS",
    "Settings",
    "evaluate",
    "read_scores",
    "read_settings",
    "scores_path",
]

OFFICIAL_COLUMNS = ("scene", "song", "listener", "left_score", "right_score", "score")
"""Columns of the recipe's `scores.csv`."""

COLUMNS = (*OFFICIAL_COLUMNS, *(f"{ear}_{column}" for column in EAR_COLUMNS for ear in EARS))
"""Columns of ours: the official ones, then `EAR_COLUMNS` of the left and of the right ear."""

SIGNALS_FOLDER = "enhanced_signals"
"""Directory of the signals in that of an evaluation."""

AUDIOGRAM = "audiogram"
"""A column of `scores.csv`: the identity of the listener's audiograms, so that scores are not joined with others."""

_SIGNALS_TABLE = "signals.csv"  # lists the pairs that were enhanced but not scored

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings(ChainSettings):
    """What decides a score, beside the scene and the listener: the chain, and what it is applied to."""

    corpus: str  # "twin" or the absolute path
    split: str
    system: str | tuple[str, ...]  # name or absolute path of the separator, or of several that are fused
    label: str = ""  # what tables call it, by default a name made of the rest

    def __post_init__(self) -> None:
        """Make tuples of lists, which JSON and notebooks have, so that settings compare."""
        super().__post_init__()
        object.__setattr__(self, "system", as_tuples(self.system))

    @property
    def name(self) -> str:
        """What is evaluated: the label, or else the separators without their directories.

        The checkpoints of all fine-tuning runs have the same two names, so the run's directory tells them apart.
        """
        paths = [Path(system) for system in ([self.system] if isinstance(self.system, str) else self.system)]
        names = [f"{path.parent.name}/{path.stem}" if path.stem in ("best", "last") else path.stem for path in paths]
        return self.label or " + ".join(names)


def evaluate(
    corpus: Corpus,
    separator: Separator | Sequence[Separator],
    settings: Settings,
    pairs: Sequence[Pair],
    out_dir: Path | str,
    progress: bool = True,
    jobs: int = 1,
    system_identity: str | None = None,
) -> pd.DataFrame:
    """Enhance and score pairs; write the signals, `scores.csv` and `settings.json` to `out_dir`.

    Pairs that `scores.csv` already has are not computed again, unless what decides them has changed: weights, songs,
    gains, audiograms (see `identity`). Rows that are no longer valid are dropped, with their signals. A row is written
    as soon as it is known, so a run that is stopped loses at most the pair that it was working on; with several
    processes, those of one song in each. If another process is evaluating into `out_dir`, this waits until it is done,
    and finds its rows.

    If none of the songs has stems, there is nothing to score against: the signals are written, `signals.csv` lists
    them, and a warning says so.

    Parameters
    ----------
    corpus
        Where the songs are.
    separator
        Estimates their stems, once for each song at the ears; or several, whose estimates are combined with the
        `model_weights` of the settings.
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
    system_identity
        What tells the separator's weights from others; by default, what `settings.system` names is looked at.

    Returns
    -------
    pandas.DataFrame
        The scores of `pairs`, in their order, with `COLUMNS`; of songs without stems only scene, song and listener.

    Raises
    ------
    ParameterError
        If `out_dir` cannot be written, or holds scores of other settings, or the separator cannot be handed to other
        processes.
    CorpusError, AudioError
        If the data cannot be used.
    """
    split = corpus.split(settings.split)
    split.check_pairs(pairs)
    scenes = [split.scenes[pair.scene] for pair in pairs]
    is_scored = corpus.has_stems(split, scenes)
    corpus.check_songs(split, scenes, mixture_alone=not is_scored)
    plugins = prescription(settings.prescription), output_stage(settings.output_stage)
    if not callable(separator) or settings.model_weights is not None or settings.wiener_exponent:
        separators = [separator] if callable(separator) else separator
        separator = ensemble(separators, settings.model_weights, settings.wiener_exponent)
    out_dir = make_directory(out_dir)
    if system_identity is None:
        systems = [settings.system] if isinstance(settings.system, str) else settings.system
        system_identity = digest([model_identity(system) for system in systems])
    decided_by = digest(system_identity, asdict(replace(settings, corpus="", system="", label="")))

    def identity(pair: Pair) -> str:
        return digest(decided_by, corpus.pair_identity(split, pair))

    def identity_of_row(row: Mapping[str, str]) -> str | None:
        pair = _pair_of(row)
        is_there = is_scored or any(path.exists() for path in _signal_files(out_dir, pair))
        return identity(pair) if pair in split and is_there else None

    columns = COLUMNS if is_scored else COLUMNS[:3]
    if not is_scored:
        _LOGGER.warning("The songs of split %s have no stems, so pairs are enhanced but not scored.", split.name)
    with results_lock(out_dir / ".scores.lock", "scores.csv", _SIGNALS_TABLE, "settings.json", SIGNALS_FOLDER):
        table = KeptRows(
            out_dir / ("scores.csv" if is_scored else _SIGNALS_TABLE), (*columns, AUDIOGRAM), identity_of_row
        )
        claim(out_dir / "settings.json", settings, ("label",), ("corpus", "system"), table.are_of_these_settings)
        with write_errors(out_dir):  # signals first, since a restart learns from the rows which are left
            for pair in map(_pair_of, table.invalid):
                for signal in _signal_files(out_dir, pair):
                    signal.unlink(missing_ok=True)
        table.drop_invalid()
        kept = set(map(_pair_of, table.valid))
        identities = {pair: identity(pair) for pair in pairs if pair not in kept}  # before songs are read
        work = _Work(separator, settings, out_dir, plugins, is_scored)
        groups = _by_song(split, identities)
        bar = tqdm(
            total=len(pairs),
            initial=len(pairs) - len(identities),
            desc=settings.name,
            unit="pair",
            disable=not progress,
        )
        with bar, contextlib.closing(_all_rows(corpus, work, groups, min(jobs, core_count(), len(groups)))) as rows:
            for row in rows:
                audiogram = audiogram_identity(split.listeners[row[2]])
                table.append((*row, audiogram), identities[Pair(row[0], row[2])])
                bar.update()
    scores = read_scores(out_dir) if is_scored else read_table(table.path, columns, key=("scene", "listener"))
    places = {key: place for place, key in enumerate(zip(scores["scene"], scores["listener"], strict=True))}
    rows_of_pairs = [places[pair.scene, pair.listener] for pair in pairs]
    return scores.iloc[rows_of_pairs].reset_index(drop=True)[list(columns)]


def _pair_of(row: Mapping[str, str]) -> Pair:
    return Pair(row["scene"], row["listener"])


def _signal_files(out_dir: Path, pair: Pair) -> list[Path]:
    """Return the files that a pair's enhanced signal may lie in."""
    return [out_dir / SIGNALS_FOLDER / f"{signal_name(pair)}{suffix}" for suffix in (".flac", ".wav")]


def _by_song(split: Split, pairs: Iterable[Pair]) -> list[list[Pair]]:
    """Group pairs that share a song at the ears, which is separated once."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(split.scenes[pair.scene].at_ear_song, []).append(pair)
    return list(groups.values())


@dataclass(frozen=True)
class _Work:
    """What enhances and scores pairs, here or in another process."""

    separator: Separator
    settings: Settings
    out_dir: Path
    plugins: tuple[Prescription, OutputStage]  # which another process does not know if they were added
    is_scored: bool


_Row = tuple[Any, ...]


def _all_rows(corpus: Corpus, work: _Work, groups: Sequence[Sequence[Pair]], jobs: int) -> Generator[_Row, None, None]:
    if jobs > 1:
        yield from _rows_of_processes(corpus.name, work, groups, jobs)
    else:
        for group in groups:
            yield from _rows(corpus, work, group)


def _rows(corpus: Corpus, work: _Work, pairs: Sequence[Pair]) -> Generator[_Row, None, None]:
    """Yield the rows of pairs that share a song at the ears, and write what their listeners hear."""
    settings = work.settings
    split = corpus.split(settings.split)
    scenes = [(scene, list(group)) for scene, group in itertools.groupby(pairs, key=lambda pair: pair.scene)]
    song = corpus.at_ear_song(split, split.scenes[pairs[0].scene], torch.float32, mixture_alone=not work.is_scored)
    name, stems = song.name, work.separator(song)
    while scenes:
        scene, same_scene = scenes.pop(0)
        gains_db = corpus.gains_db(split.scenes[scene])
        reference, mixture = reference_remix(song, gains_db) if work.is_scored else None, song.mixture
        if not scenes:
            del song  # here and below: minutes of music take gigabytes, so nothing stays longer than it is needed
        remixed = remix(stems, gains_db, mixture, settings)
        if not scenes:
            del stems, mixture
        for pair in same_scene:
            listener = split.listeners[pair.listener]
            output = render(remixed, listener, settings)
            save_output(output, work.out_dir / SIGNALS_FOLDER / signal_name(pair))
            values = () if reference is None else score(output, reference, listener, scene, settings).values()
            yield scene, name, pair.listener, *values


def _rows_of_processes(
    corpus: str, work: _Work, groups: Sequence[Sequence[Pair]], jobs: int
) -> Generator[_Row, None, None]:
    """Yield the rows of groups of pairs in the order in which processes finish them."""
    try:
        pickle.dumps((work.separator, work.plugins))
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ParameterError(
            f"The system {work.settings.name!r} cannot be pickled for other processes ({error}); set jobs to 1."
        ) from error
    with process_pool(jobs, _start_process, (corpus, work)) as pool:
        futures = [pool.submit(_rows_of_group, group) for group in groups]
        for future in as_completed(futures):
            try:
                rows = future.result()
            except BrokenProcessPool as error:
                raise ParameterError(
                    f"One of {jobs} jobs that score for {work.out_dir} died, perhaps for lack of memory; evaluate "
                    f"again with fewer, which goes on."
                ) from error
            yield from rows


_process: dict[str, Callable[[Sequence[Pair]], Iterator[_Row]]] = {}  # what a process of `evaluate` does


def _start_process(corpus: str, work: _Work) -> None:
    """Open the corpus once for all groups; the separator has been loaded on the way here."""
    torch.set_num_threads(core_count())  # torch is imported already, too late for the environment
    prescription, stage = work.plugins
    PRESCRIPTIONS[prescription.name], OUTPUT_STAGES[stage.name] = prescription, stage
    _process["rows"] = functools.partial(_rows, open_corpus(corpus), work)


def _rows_of_group(pairs: Sequence[Pair]) -> list[_Row]:
    return list(_process["rows"](pairs))


def signal_name(pair: Pair) -> str:
    """Return the name of a pair's enhanced signal without its suffix: the challenge's `<scene>_<listener>_remix`."""
    return file_name(f"{pair.scene}_{pair.listener}_remix")


def scores_path(path: Path | str) -> Path:
    """Return the table of scores that a path means: a file, or `scores.csv` in the directory of an evaluation."""
    path = Path(path)
    return path if path.is_file() or path.suffix.lower() == ".csv" else path / "scores.csv"


def read_scores(path: Path | str) -> pd.DataFrame:
    """Read the `scores.csv` of an evaluation from its directory, or any table with the official columns.

    Raises
    ------
    CorpusError
        If the file is missing, is not a table with the official columns, has a pair twice, or has a score that is no
        HAAQI.
    """
    path = scores_path(path)
    if not path.is_file() and path.with_name(_SIGNALS_TABLE).is_file():
        raise CorpusError(f"{path} does not exist, since songs without stems were enhanced there; evaluate others.")
    if not path.is_file():
        raise CorpusError(f"{path} does not exist; run 03_evaluate with this out_dir first.")
    numbers, key = COLUMNS[3:], ("scene", "listener")
    return read_table(path, OFFICIAL_COLUMNS, numbers, "correct the table, or evaluate again", key)


def read_settings(out_dir: Path | str) -> Settings:
    """Read the settings that the scores in `out_dir` were computed with."""
    return read_settings_file(Path(out_dir) / "settings.json", Settings)
