"""Enhance and score scene-listener pairs, one row of `scores.csv` each; a run that was stopped goes on where it was.

Enhancing and scoring follow the official recipe step by step: fuse, gain, downmix, normalise, amplify, output stage;
the reference is the same remix of the true stems after amplification. A score equals the recipe's, noise included:
the generator is seeded with the scene before the left ear, and the right ear goes on with the same stream.
"""

import contextlib
import functools
import itertools
import logging
import pickle
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from cadenza_lib.audio.loudness import integrated_loudness
from cadenza_lib.chain.fitting import Output, amplify, finish, listener_firs, resample, save_output
from cadenza_lib.chain.fusion import ModelWeights
from cadenza_lib.chain.remix import remix
from cadenza_lib.core.conventions import (
    EARS,
    HAAQI_SAMPLE_RATE,
    OUTPUT_SAMPLE_RATE,
    PRESENTATION_LEVEL_DB_SPL,
    SAMPLE_RATE,
)
from cadenza_lib.core.documents import as_tuples
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import make_directory, write_errors
from cadenza_lib.core.identity import claim, digest, results_lock
from cadenza_lib.core.identity import read_settings as read_settings_file
from cadenza_lib.core.paths import file_name
from cadenza_lib.core.processes import core_count, process_pool
from cadenza_lib.core.tables import append_row, keep_rows, read_rows, read_table, repair_table
from cadenza_lib.data.corpus import AtEarSong, Corpus, check_not_silent
from cadenza_lib.data.demo import open_corpus
from cadenza_lib.data.listeners import Listener, audiogram_identity, ear_audiogram
from cadenza_lib.data.scenes import Pair, legacy_seed
from cadenza_lib.haaqi import Components, HaaqiReference
from cadenza_lib.separation.estimates import model_identity
from cadenza_lib.separation.separators import Separator

__all__ = [
    "COLUMNS",
    "EAR_COLUMNS",
    "OFFICIAL_COLUMNS",
    "PairReference",
    "PairScore",
    "Settings",
    "enhance",
    "evaluate",
    "read_scores",
    "read_settings",
    "reference_remix",
    "score",
    "scores_path",
    "signal_name",
]

OFFICIAL_COLUMNS = ("scene", "song", "listener", "left_score", "right_score", "score")
"""Columns of the recipe's `scores.csv`."""

EAR_COLUMNS = ("clipped_share", "loudness_lufs", "cepstral_correlation", "fine_structure", "loudness", "spectrum")
"""What is known of each ear beside its score: share of samples that the output stage clipped, loudness of its output,
and the four features that HAAQI is made of (see `haaqi.Components`)."""

COLUMNS = (*OFFICIAL_COLUMNS, *(f"{ear}_{column}" for column in EAR_COLUMNS for ear in EARS))
"""Columns of ours: the official ones, then `EAR_COLUMNS` of the left and of the right ear."""

SIGNALS_FOLDER = "enhanced_signals"
"""Directory of the signals in that of an evaluation."""

AUDIOGRAM = "audiogram"
"""A column of `scores.csv`: the identity of the listener's audiograms, so that scores are not joined with others."""

IDENTITY = "identity"
"""The last column of `scores.csv`: the identity of all that decides a row, see `identity`."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What decides a score, beside the scene and the listener."""

    corpus: str  # "demo" or the absolute path
    split: str
    system: str | tuple[str, ...]  # name or absolute path of the separator, or of several that are fused
    mixture_weight: float = 0.0  # share of the mixture, see `fusion`
    output_level_db: float = 0.0  # gain before the clip; 0 is official
    clip: bool = True  # clip and round to 16 bits, as is official
    mixture_into: str = "stems"  # or "downmix", see `fusion`
    model_weights: ModelWeights | None = None  # of several separators, None: equal
    label: str = ""  # what tables call it, by default a name made of the rest

    def __post_init__(self) -> None:
        """Make tuples of lists, which JSON and notebooks have, so that settings compare."""
        object.__setattr__(self, "system", as_tuples(self.system))
        object.__setattr__(self, "model_weights", as_tuples(self.model_weights))

    @property
    def name(self) -> str:
        """What is evaluated: the label, or else the separators without their directories.

        The checkpoints of all fine-tuning runs have the same two names, so the run's directory tells them apart.
        """
        paths = [Path(system) for system in ([self.system] if isinstance(self.system, str) else self.system)]
        names = [f"{path.parent.name}/{path.stem}" if path.stem in ("best", "last") else path.stem for path in paths]
        return self.label or " + ".join(names)


@dataclass(frozen=True)
class PairScore:
    """HAAQI of one scene-listener pair and what it is made of; each field is `(left, right)`."""

    components: tuple[Components, Components]
    clipped_share: tuple[float, float]
    loudness_lufs: tuple[float, float]

    @property
    def haaqi(self) -> tuple[float, float]:
        """The score of each ear."""
        return self.components[0].score, self.components[1].score

    @property
    def mean(self) -> float:
        """The score of the pair: the mean of both ears."""
        return float(np.mean(self.haaqi))

    def values(self) -> tuple[float, ...]:
        """Return the scores and `EAR_COLUMNS` in the order of `COLUMNS`, from left_score on."""
        features = [getattr(part, name) for name in EAR_COLUMNS[2:] for part in self.components]
        return (*self.haaqi, self.mean, *self.clipped_share, *self.loudness_lufs, *features)


def enhance(
    song: AtEarSong,
    stems: Tensor,
    gains_db: Tensor,
    listener: Listener,
    mixture_weight: float = 0.0,
    output_level_db: float = 0.0,
    clip: bool = True,
    mixture_into: str = "stems",
) -> Output:
    """Return what the listener's hearing aids play, from estimated stems `(stem, channel, time)`.

    Raises
    ------
    ParameterError
        If a weight or level lies outside its bounds, or the mixture is to go elsewhere than into stems or downmix.
    """
    remixed = remix(stems, gains_db, song.mixture, mixture_weight=mixture_weight, mixture_into=mixture_into)
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


class PairReference:
    """What all outputs of a pair are compared with; what depends on the reference alone is computed once.

    Parameters
    ----------
    reference
        What `reference_remix` returned, `(ear, time)`.
    listener
        Whose ears listen.
    scene
        Id of the scene, which seeds the noise of the ear model.
    keep
        Whether to keep what is computed, 9 MB for each second and ear, for further outputs.
    """

    def __init__(self, reference: Tensor, listener: Listener, scene: str, keep: bool = True) -> None:
        self._keep = keep
        self._reference, self._firs = reference, listener_firs(listener)
        rms = reference.square().mean(-1).sqrt().numpy()
        self.level1 = PRESENTATION_LEVEL_DB_SPL - 20 * np.log10(rms)  # dB SPL of RMS 1, (ear,)
        self._listener, self._scene = listener, scene
        self._left = self._ear(0, np.random.RandomState(legacy_seed(scene)))
        self._right: HaaqiReference | None = None

    def amplified(self, ear: int) -> Tensor:
        """Return what an ear, 0 or 1, should hear: `(time,)` at 44.1 kHz."""
        return amplify(self._reference[ear], self._firs[ear])

    def score(self, output: Output) -> PairScore:
        """Return HAAQI of what `finish` returned, as the recipe computes it; a warning tells of silence."""
        for ear, signal in zip(EARS, output.signal, strict=True):
            if not signal.any():
                _LOGGER.warning("%s plays nothing to the %s ear; its score is that of noise.", self._scene, ear)
        left, right = (resample(signal, OUTPUT_SAMPLE_RATE, HAAQI_SAMPLE_RATE) for signal in output.signal)
        components = [self._left.components(left, HAAQI_SAMPLE_RATE)]
        if self._right is None:
            # How much noise the left ear takes depends on the reference and the length, so any output will do.
            stream = np.random.RandomState()
            stream.set_state(self._left.state_after())
            self._right = self._ear(1, stream)
        components.append(self._right.components(right, HAAQI_SAMPLE_RATE))
        loudness_lufs = integrated_loudness(torch.from_numpy(output.signal)[:, None], OUTPUT_SAMPLE_RATE)
        return PairScore(
            (components[0], components[1]),
            (float(output.clipped_share[0]), float(output.clipped_share[1])),
            (float(loudness_lufs[0]), float(loudness_lufs[1])),
        )

    def _ear(self, index: int, stream: np.random.RandomState) -> HaaqiReference:
        return HaaqiReference(
            resample(self.amplified(index).numpy(), SAMPLE_RATE, HAAQI_SAMPLE_RATE),
            HAAQI_SAMPLE_RATE,
            ear_audiogram(self._listener, EARS[index]),
            equalisation=2,  # NAL-R is already in the reference
            level1=float(self.level1[index]),
            seed=stream,
            keep=self._keep,
        )


def score(output: Output, reference: Tensor, listener: Listener, scene: str) -> PairScore:
    """Return HAAQI of one enhanced signal; the arguments are those of `PairReference` and its `score`."""
    return PairReference(reference, listener, scene, keep=False).score(output)


def evaluate(
    corpus: Corpus,
    separator: Separator,
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
    system_identity
        What tells the separator's weights from others; by default, what `settings.system` names is looked at.

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
    corpus.check_songs(split, [split.scenes[pair.scene] for pair in pairs])
    out_dir = make_directory(out_dir)
    with results_lock(out_dir / ".scores.lock", "scores.csv", "settings.json", SIGNALS_FOLDER):
        table = _Table(out_dir, corpus, settings, system_identity)
        claim(out_dir / "settings.json", settings, ("label",), ("corpus", "system"), table.has_valid_rows)
        table.drop_invalid_rows()
        _score_missing(corpus, separator, settings, pairs, out_dir, table, progress, jobs)
    scores = read_scores(out_dir)
    places = {key: place for place, key in enumerate(zip(scores["scene"], scores["listener"], strict=True))}
    wanted = [places[pair.scene, pair.listener] for pair in pairs]
    return scores.iloc[wanted].reset_index(drop=True)[list(COLUMNS)]


class _Table:
    """The table of scores of a directory, and what decides its rows.

    Parameters
    ----------
    out_dir
        Directory of the evaluation.
    corpus, settings
        Of the evaluation.
    system_identity
        What tells the weights from others; None: what the settings name is looked at.
    """

    def __init__(self, out_dir: Path, corpus: Corpus, settings: Settings, system_identity: str | None) -> None:
        self.path = out_dir / "scores.csv"
        self._signals = out_dir / SIGNALS_FOLDER
        self._corpus, self._split = corpus, corpus.split(settings.split)
        if system_identity is None:
            systems = [settings.system] if isinstance(settings.system, str) else settings.system
            system_identity = digest([model_identity(system) for system in systems])
        self._system = digest(system_identity, asdict(replace(settings, corpus="", system="", label="")))
        repair_table(self.path, (*COLUMNS, AUDIOGRAM, IDENTITY))

    def identity(self, pair: Pair) -> str:
        """Return the identity of all that decides the row of a pair."""
        return digest(self._system, self._corpus.pair_identity(self._split, pair))

    def has_valid_rows(self) -> bool:
        """Tell whether a row, if there is any, is what would be computed now."""
        rows = read_rows(self.path)
        return not rows or any(map(self._is_valid, rows))

    def drop_invalid_rows(self) -> None:
        """Drop the rows that something else has decided than would decide them now, and their signals."""
        invalid = [row for row in read_rows(self.path) if not self._is_valid(row)]
        with write_errors(self._signals):  # signals first: rows tell a restart which are left
            for name in map(signal_name, map(_pair_of, invalid)):
                for suffix in (".flac", ".wav"):
                    (self._signals / f"{name}{suffix}").unlink(missing_ok=True)
        if invalid:
            keep_rows(self.path, self._is_valid)
            _LOGGER.warning(
                "%s: %d of its scores were computed from other weights, songs, gains or audiograms, and are dropped.",
                self.path,
                len(invalid),
            )

    def known_pairs(self) -> set[Pair]:
        """Return the pairs that have a row."""
        scores = read_scores(self.path)
        return {Pair(*names) for names in zip(scores["scene"], scores["listener"], strict=True)}

    def _is_valid(self, row: Mapping[str, str]) -> bool:
        pair = _pair_of(row)
        is_in_split = pair.scene in self._split.scenes and pair.listener in self._split.listeners
        return is_in_split and row[IDENTITY] == self.identity(pair)


def _pair_of(row: Mapping[str, str]) -> Pair:
    return Pair(row["scene"], row["listener"])


def _score_missing(
    corpus: Corpus,
    separator: Separator,
    settings: Settings,
    pairs: Sequence[Pair],
    out_dir: Path,
    table: _Table,
    progress: bool,
    jobs: int,
) -> None:
    """Append the rows that the table of scores lacks."""
    split = corpus.split(settings.split)
    known = table.known_pairs()
    identities = {pair: table.identity(pair) for pair in pairs if pair not in known}  # before songs are read
    by_song: dict[str, list[Pair]] = {}  # one separation for all scenes and listeners of a song at the ears
    for pair in identities:
        by_song.setdefault(split.scenes[pair.scene].at_ear_song, []).append(pair)
    groups = list(by_song.values())
    jobs = min(jobs, core_count(), max(1, len(groups)))
    rows = (
        (row for group in groups for row in _rows(corpus, separator, settings, out_dir, group))
        if jobs == 1
        else _rows_of_processes(jobs, corpus, separator, settings, out_dir, groups)
    )
    n_known = len(pairs) - len(identities)
    bar = tqdm(total=len(pairs), initial=n_known, desc=settings.name, unit="pair", disable=not progress)
    with bar, contextlib.closing(rows):
        for row in rows:
            audiogram = audiogram_identity(split.listeners[row[2]])
            append_row(table.path, (*row, audiogram, identities[Pair(row[0], row[2])]))
            bar.update()


_Row = tuple[Any, ...]


def _rows(
    corpus: Corpus, separator: Separator, settings: Settings, out_dir: Path, pairs: Sequence[Pair]
) -> Generator[_Row, None, None]:
    """Yield the rows of pairs that share a song at the ears, and write what their listeners hear."""
    split = corpus.split(settings.split)
    scenes = [(scene, list(group)) for scene, group in itertools.groupby(pairs, key=lambda pair: pair.scene)]
    song = corpus.at_ear_song(split, split.scenes[pairs[0].scene], torch.float32)
    name, stems = song.name, separator(song)
    while scenes:
        scene, same_scene = scenes.pop(0)
        gains_db = corpus.gains_db(split.scenes[scene])
        reference, mixture = reference_remix(song, gains_db), song.mixture
        if not scenes:
            del song  # here and below: of minutes of music, nothing may be there longer than it is needed
        remixed = remix(
            stems, gains_db, mixture, mixture_weight=settings.mixture_weight, mixture_into=settings.mixture_into
        )
        if not scenes:
            del stems, mixture
        for pair in same_scene:
            listener = split.listeners[pair.listener]
            output = finish(amplify(remixed, listener_firs(listener)), settings.output_level_db, settings.clip)
            save_output(output, out_dir / SIGNALS_FOLDER / signal_name(pair))
            result = score(output, reference, listener, scene)
            yield scene, name, pair.listener, *result.values()


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
            f"The separator {settings.name!r} lives in this process alone ({error}); evaluate with jobs = 1."
        ) from error
    with process_pool(jobs, _start_process, (corpus.name, separator, settings, out_dir)) as pool:
        futures = [pool.submit(_rows_of_group, group) for group in groups]
        for future in as_completed(futures):
            try:
                rows = future.result()
            except BrokenProcessPool as error:
                raise ParameterError(
                    f"One of {jobs} jobs that score for {out_dir} died, perhaps for lack of memory; evaluate again "
                    f"with fewer, which goes on."
                ) from error
            yield from rows


_process: dict[str, Callable[[Sequence[Pair]], Iterator[_Row]]] = {}  # what a process of `evaluate` does


def _start_process(corpus: str, separator: Separator, settings: Settings, out_dir: Path) -> None:
    """Open the corpus once for all groups; the separator has been loaded on the way here."""
    torch.set_num_threads(core_count())  # which has been imported on the way, too late for the environment
    _process["rows"] = functools.partial(_rows, open_corpus(corpus), separator, settings, out_dir)


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
    if not path.is_file():
        raise CorpusError(f"{path} does not exist; run 03_evaluate with this out_dir first.")
    numbers, key = COLUMNS[3:], ("scene", "listener")
    return read_table(path, OFFICIAL_COLUMNS, numbers, "correct the table, or evaluate again", key)


def read_settings(out_dir: Path | str) -> Settings:
    """Read the settings that the scores in `out_dir` were computed with."""
    return read_settings_file(Path(out_dir) / "settings.json", Settings)
