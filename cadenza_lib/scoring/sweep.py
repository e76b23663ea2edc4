"""Sweeps: score many fusions on scene-listener pairs, search for the best, and judge it on pairs it has not seen.

    out_dir/  sweep.json    corpus, models and how they are mixed; another sweep is refused
              scores.csv    one row per candidate and pair, written as soon as it is known; see `identity`
              search.db     the optimiser's trials (Optuna, SQLite)
              estimates/    the models' stems, unless another directory is given

A candidate that has been scored on a pair is never scored again, so that a sweep that was stopped goes on, and grids
and searches share what they have in common. One process at a time scores, and one searches; another waits. The best of
a search is best on the pairs it was searched on by construction, partly by luck: `search_and_test` gives pairs of other
songs to report it on.
"""

import csv
import functools
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from cadenza_lib.chain.fusion import ModelWeights
from cadenza_lib.core.documents import as_tuples
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import locked, make_directory
from cadenza_lib.core.identity import claim, digest, results_lock
from cadenza_lib.core.tables import append_row, keep_rows, parse_number, read_rows, repair_table
from cadenza_lib.data.corpus import Corpus, Split
from cadenza_lib.data.demo import open_corpus
from cadenza_lib.data.scenes import Pair, choose_pairs, seeded
from cadenza_lib.scoring.bases import Candidate, PairBases, SceneBases
from cadenza_lib.scoring.evaluation import COLUMNS, IDENTITY
from cadenza_lib.separation.estimates import cached_separator, model_identity
from cadenza_lib.separation.separators import Separator

if TYPE_CHECKING:
    import optuna

__all__ = [
    "CANDIDATE_COLUMNS",
    "PairSet",
    "Space",
    "Sweep",
    "best_of",
    "candidate_of",
    "grid",
    "search",
    "search_and_test",
    "simplex_grid",
]

CANDIDATE_COLUMNS = ("model_weights", "mixture_weight", "output_level_db", "clip")
"""Columns that tell candidates apart; `model_weights` is JSON."""

_LOGGER = logging.getLogger(__name__)

_COLUMNS = ("split", *CANDIDATE_COLUMNS, *COLUMNS)

BATCH = 8
"""Trials that the optimiser proposes at a time: a scene's bases are then built once for all of them."""

_Key = tuple[str, str, str, str, float, float, bool]  # split, scene, listener, and the candidate


@dataclass(frozen=True)
class PairSet:
    """Pairs of a split, and what they are for."""

    name: str  # "search" or "held-out"
    split: str
    pairs: tuple[Pair, ...]


def search_and_test(
    corpus: Corpus, split: str, test_split: str, n_search: int, n_test: int, seed: int = 0
) -> tuple[PairSet, PairSet]:
    """Return the pairs to search on, and held-out pairs of other songs to report on.

    With two splits, each gives its pairs. With twice the same, half of its songs, rounded up, are for the search and
    the others for the report. Listeners may be in both: what is tuned is a system, not a fitting.

    Parameters
    ----------
    corpus
        Where the splits are.
    split, test_split
        Names of the splits.
    n_search, n_test
        Numbers of pairs, 0 for all.
    seed
        Chooses pairs and songs.

    Raises
    ------
    ParameterError
        If there are too few pairs, or a single song.
    CorpusError
        If two splits share a song.
    """
    chosen, held_out = corpus.split(split), corpus.split(test_split)
    songs, test_songs = ({scene.music for scene in one.scenes.values()} for one in (chosen, held_out))
    if split == test_split:
        shuffled = seeded(seed).permutation(sorted(songs)).tolist()
        if len(shuffled) < 2:
            raise ParameterError(f"Split {split!r} has a single song; give a test_split, so that nothing is held out.")
        songs, test_songs = set(shuffled[: -(len(shuffled) // 2)]), set(shuffled[-(len(shuffled) // 2) :])
    elif songs & test_songs:
        raise CorpusError(f"Splits {split!r} and {test_split!r} share {min(songs & test_songs)!r}; choose others.")
    return (
        PairSet("search", split, _pairs(chosen, songs, n_search, seed)),
        PairSet("held-out", test_split, _pairs(held_out, test_songs, n_test, seed)),
    )


def _pairs(split: Split, songs: set[str], n_pairs: int, seed: int) -> tuple[Pair, ...]:
    listeners = {scene: names for scene, names in split.scene_listeners.items() if split.scenes[scene].music in songs}
    return tuple(choose_pairs(listeners, n_pairs, seed))


def simplex_grid(n_models: int, intervals: int) -> list[tuple[float, ...]]:
    """Return all model weights that are multiples of `1 / intervals`.

    >>> simplex_grid(2, 2)
    [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    >>> len(simplex_grid(3, 4))
    15
    """
    if n_models < 1 or intervals < 1:
        raise ParameterError(f"A grid needs at least 1 model and 1 interval, not {n_models} and {intervals}.")
    counts = itertools.product(range(intervals + 1), repeat=n_models)
    return [tuple(count / intervals for count in row) for row in counts if sum(row) == intervals]


def grid(
    model_weights: Sequence[ModelWeights],
    mixture_weights: Sequence[float],
    output_levels_db: Sequence[float] = (0.0,),
    clips: Sequence[bool] = (True,),
) -> list[Candidate]:
    """Return every combination as a candidate.

    Raises
    ------
    ParameterError
        If there is nothing to combine, or a value is there twice.
    """
    given = {"model_weights": model_weights, "mixture_weights": mixture_weights, "output_levels_db": output_levels_db}
    for name, values in given.items():
        if not values or len(set(map(as_tuples, values))) < len(values):
            raise ParameterError(f"{name} {list(values)} must hold at least one value, and each once.")
    return [Candidate(*values) for values in itertools.product(model_weights, mixture_weights, output_levels_db, clips)]


def candidate_of(row: Mapping[str, Any]) -> Candidate:
    """Return the candidate that a row of a table with `CANDIDATE_COLUMNS` is about."""
    weights = json.loads(row["model_weights"])
    return Candidate(weights, float(row["mixture_weight"]), float(row["output_level_db"]), bool(row["clip"]))


@dataclass(frozen=True)
class _Settings:
    """What all rows of a sweep have in common."""

    corpus: str  # "demo" or the absolute path
    models: tuple[str, ...]  # names or absolute paths
    identities: tuple[str, ...]  # of their weights, see `estimates.model_identity`
    mixture_into: str

    def __post_init__(self) -> None:
        for name in ("models", "identities"):  # JSON has lists
            object.__setattr__(self, name, as_tuples(getattr(self, name)))


class Sweep:
    """Scores of fusions of some models, kept in a directory.

    Parameters
    ----------
    corpus
        "demo" or the path of a corpus.
    models
        Names or checkpoints of the separators, as for `separation.load`.
    out_dir
        Directory of the sweep.
    mixture_into
        "stems" or "downmix", see `fusion`.
    estimates_dir
        Cache of the models' stems, by default in `out_dir`.
    device
        As for `separation.load`.
    executor
        Where to score, scene by scene; each task must be alone in its process and see the same files. By default here.
    progress
        Whether to show progress bars.

    Raises
    ------
    ParameterError
        If `out_dir` cannot be written, or holds another sweep, or two models have the same weights.
    ModelError
        If a checkpoint cannot be read.
    """

    def __init__(
        self,
        corpus: str,
        models: Sequence[str],
        out_dir: Path | str,
        mixture_into: str = "stems",
        *,
        estimates_dir: Path | str | None = None,
        device: str = "auto",
        executor: Executor | None = None,
        progress: bool = True,
    ) -> None:
        if not models:
            raise ParameterError("A sweep needs at least one model; none was given.")
        self.out_dir = make_directory(out_dir)
        identities = tuple(model_identity(name) for name in models)
        for index, identity in enumerate(identities):
            if identity in identities[:index]:
                raise ParameterError(
                    f"{models[identities.index(identity)]} and {models[index]} hold the same weights, so there is "
                    f"nothing to fuse; if both are the best of runs that no step improved, train longer or give their "
                    f"last.safetensors."
                )
        self._corpus = open_corpus(corpus)
        self._settings = _Settings(self._corpus.name, tuple(models), identities, mixture_into)
        self._identities: dict[tuple[str, Pair], str] = {}
        self._estimates = make_directory(estimates_dir or self.out_dir / "estimates")
        self._device, self._executor, self.progress = device, executor, progress
        self._table = self.out_dir / "scores.csv"
        with self._locked_table():
            pass  # so that a table of something else is refused at once

    @property
    def n_models(self) -> int:
        """Number of models that are fused."""
        return len(self._settings.models)

    def scores(self, candidates: Sequence[Candidate], on: PairSet) -> pd.DataFrame:
        """Score candidates on pairs, but for what is known already.

        Returns
        -------
        pandas.DataFrame
            A row per candidate and pair, in their order: set and split of the pairs, `CANDIDATE_COLUMNS`, and
            `evaluation.COLUMNS`.

        Raises
        ------
        ParameterError
            If a weight or level lies outside its bounds, the table cannot be written, or a process of the executor
            died.
        CorpusError, AudioError, ModelError
            If data or a model cannot be used.
        """
        split = self.split(on.split)
        wanted = [(candidate, pair) for candidate in candidates for pair in on.pairs]
        if self._missing(candidates, on):
            self._corpus.check_songs(split, [split.scenes[pair.scene] for pair in on.pairs])
            with self._locked_table():  # where another process may have scored some
                missing = self._missing(candidates, on)
                total = sum(map(len, missing.values()))
                with tqdm(total=total, desc=f"{on.name} pairs", unit="score", disable=not self.progress) as bar:
                    for scene, listener, candidate, values in self._score(on.split, missing):
                        key = _key(on.split, Pair(scene, listener), candidate)
                        self._rows[key] = (split.scenes[scene].at_ear_song, *values)
                        identity = self.pair_identity(on.split, Pair(scene, listener))
                        append_row(self._table, (*_row(key, self._rows[key]), identity))
                        bar.update()
        rows = [
            (on.name, *_row(key, self._rows[key]))
            for key in (_key(on.split, pair, candidate) for candidate, pair in wanted)
        ]
        return pd.DataFrame(rows, columns=["set", *_COLUMNS])

    def bases(self, split: str, scene: str) -> SceneBases:
        """Return the bases of a scene, with one weight for each model."""
        return _scene_bases(self._settings, str(self._estimates), self._device, split, scene)

    def split(self, name: str) -> Split:
        """Return a split of the corpus."""
        return self._corpus.split(name)

    def pair_identity(self, split: str, pair: Pair) -> str:
        """Return the identity of all that decides the scores of a pair beside the candidate; see `identity`."""
        if (split, pair) not in self._identities:
            settings = (self._settings.identities, self._settings.mixture_into)
            self._identities[split, pair] = digest(settings, self._corpus.pair_identity(self.split(split), pair))
        return self._identities[split, pair]

    @contextmanager
    def _locked_table(self) -> Iterator[None]:
        """Keep other processes from scoring, drop rows that something else has decided, and read the others."""
        products = ("scores.csv", "sweep.json", "search.db", "estimates", "personal")
        with results_lock(self.out_dir / ".scores.lock", *products):
            repair_table(self._table, (*_COLUMNS, IDENTITY))
            claim(self.out_dir / "sweep.json", self._settings, (), ("corpus", "models"), self._has_valid_rows)
            if dropped := keep_rows(self._table, self._is_valid):
                _LOGGER.warning(
                    "%s: %d of its scores were computed from other songs, gains or audiograms, and are dropped.",
                    self._table,
                    len(dropped),
                )
            self._rows = _read_rows(self._table)
            yield

    def _has_valid_rows(self) -> bool:
        """Tell whether a row, if there is any, is what would be computed now."""
        rows = read_rows(self._table)
        return not rows or any(map(self._is_valid, rows))

    def _is_valid(self, row: Mapping[str, str]) -> bool:
        pair = Pair(row["scene"], row["listener"])
        if row["split"] not in self._corpus.splits:
            return False
        split = self.split(row["split"])
        is_in_split = pair.scene in split.scenes and pair.listener in split.listeners
        return is_in_split and row[IDENTITY] == self.pair_identity(row["split"], pair)

    def _missing(self, candidates: Sequence[Candidate], on: PairSet) -> dict[str, list[tuple[str, Candidate]]]:
        """Return listeners and candidates that are not scored yet, by scene, whose bases are built once."""
        missing: dict[str, list[tuple[str, Candidate]]] = {}
        for pair, candidate in itertools.product(on.pairs, dict.fromkeys(candidates)):
            if _key(on.split, pair, candidate) not in self._rows:
                missing.setdefault(pair.scene, []).append((pair.listener, candidate))
        return missing

    def _score(
        self, split: str, missing: Mapping[str, list[tuple[str, Candidate]]]
    ) -> Iterator[tuple[str, str, Candidate, tuple[float, ...]]]:
        tasks = [
            (self._settings, str(self._estimates), self._device, split, scene, asked)
            for scene, asked in missing.items()
        ]
        if self._executor is None:
            for task in tasks:
                yield from _score_scene(*task)
            return
        try:
            for future in as_completed([self._executor.submit(_score_scene_whole, *task) for task in tasks]):
                yield from future.result()
        except BrokenExecutor as error:
            raise ParameterError(
                f"A process that scored for {self.out_dir} died, perhaps for lack of memory; sweep again with fewer "
                f"jobs, which goes on."
            ) from error


def _score_scene_whole(*task: Any) -> list[tuple[str, str, Candidate, tuple[float, ...]]]:
    return list(_score_scene(*task))


def _score_scene(
    settings: _Settings, estimates: str, device: str, split: str, scene_id: str, asked: list[tuple[str, Candidate]]
) -> Iterator[tuple[str, str, Candidate, tuple[float, ...]]]:
    """Yield scene, listener, candidate and scores of those asked for in one scene."""
    listeners = open_corpus(settings.corpus).split(split).listeners
    per_stem = any(not isinstance(candidate.model_weights[0], int | float) for _, candidate in asked)
    bases = _scene_bases(settings, estimates, device, split, scene_id, per_stem)
    for listener, group in itertools.groupby(asked, key=lambda one: one[0]):
        pair = PairBases(bases, listeners[listener], scene_id)
        for _, candidate in group:
            yield scene_id, listener, candidate, pair.score(candidate).values()


def _scene_bases(
    settings: _Settings, estimates: str, device: str, split: str, scene_id: str, per_stem: bool = False
) -> SceneBases:
    corpus = open_corpus(settings.corpus)
    chosen = corpus.split(split)
    scene = chosen.scenes[scene_id]
    song = corpus.at_ear_song(chosen, scene)
    stems = [separator(song) for separator in _separators(settings, estimates, device)]
    return SceneBases(song, stems, corpus.gains_db(scene), per_stem, settings.mixture_into)


@functools.lru_cache(maxsize=1)  # a network that has been loaded serves all scenes
def _separators(settings: _Settings, estimates: str, device: str) -> list[Separator]:
    return [cached_separator(name, estimates, device) for name in settings.models]


def _key(split: str, pair: Pair, candidate: Candidate) -> _Key:
    weights = json.dumps(candidate.model_weights)
    settings = (float(candidate.mixture_weight), float(candidate.output_level_db), bool(candidate.clip))
    return split, pair.scene, pair.listener, weights, *settings


def _row(key: _Key, known: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row of `_COLUMNS`; `known` is the song and the scores."""
    split, scene, listener, *candidate = key
    song, *values = known
    return (split, *candidate, scene, song, listener, *values)


def _read_rows(path: Path) -> dict[_Key, tuple[Any, ...]]:
    rows: dict[_Key, tuple[Any, ...]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:  # not with pandas: each number must keep its last bit
            for row in itertools.islice(csv.reader(file), 1, None):
                split, weights, mixture, level, clip, scene, song, listener, *values, _ = row
                if clip not in ("True", "False") or len(row) != len(_COLUMNS) + 1:
                    raise ValueError(f"it has the row {row}")
                key = (split, scene, listener, weights, float(mixture), float(level), clip == "True")
                numbers = [parse_number(value, name) for value, name in zip(values, COLUMNS[3:], strict=True)]
                if np.isnan(numbers).any():
                    raise ValueError(f"it lacks a number in the row {row}")
                rows[key] = (song, *numbers)
    except (ValueError, OSError) as error:
        raise CorpusError(
            f"{path} is not a table of scores ({error}); repair it, or sweep into another directory."
        ) from error
    return rows


def best_of(scores: pd.DataFrame) -> Candidate:
    """Return the candidate with the highest mean score in a table of `Sweep.scores`."""
    means = scores.groupby(list(CANDIDATE_COLUMNS), sort=False)["score"].mean()
    return candidate_of(dict(zip(CANDIDATE_COLUMNS, means.index[int(means.argmax())], strict=True)))


@dataclass(frozen=True)
class Space:
    """What the optimiser varies."""

    n_models: int
    max_mixture_weight: float = 0.5
    output_level_db: tuple[float, float] = (0.0, 0.0)  # lowest and highest gain before the clip; equal: not varied
    per_stem: bool = False  # model weights for each stem
    n_stems: int = 4
    clip: bool = True

    def __post_init__(self) -> None:
        """Refuse bounds that cannot be used."""
        low, high = self.output_level_db
        if not (self.n_models >= 1 and 0 <= self.max_mixture_weight <= 1 and -60 <= low <= high <= 60):
            raise ParameterError(
                f"A search needs max_mixture_weight from 0 to 1 and a lowest level that is not above the highest, both "
                f"from -60 to 60 dB, and a model; it has {self.max_mixture_weight}, {low} to {high} dB and "
                f"{self.n_models}."
            )

    def names(self) -> dict[str, tuple[float, float]]:
        """Return the bounds of each number that is varied."""
        sets = range(self.n_stems if self.per_stem else 1)
        sticks = [f"stick_{number}_{index}" for number in sets for index in range(self.n_models - 1)]
        bounds = dict.fromkeys(sticks, (0.0, 1.0))
        bounds["mixture_weight"] = (0.0, self.max_mixture_weight)
        bounds["output_level_db"] = self.output_level_db
        return {name: (low, high) for name, (low, high) in bounds.items() if low < high}

    def candidate(self, values: Mapping[str, float]) -> Candidate:
        """Return the candidate that a trial's numbers stand for.

        Weights on the simplex come from breaking a stick: the first model takes `1 - u^(1/(K-1))` of it, and so on, so
        that uniform numbers give uniform weights.
        """
        sets = []
        for number in range(self.n_stems if self.per_stem else 1):
            left, weights = 1.0, []
            for index in range(self.n_models - 1):
                kept = values[f"stick_{number}_{index}"] ** (1 / (self.n_models - 1 - index))
                weights.append(left * (1 - kept))
                left *= kept
            sets.append((*weights, left))
        model_weights = tuple(zip(*sets, strict=True)) if self.per_stem else sets[0]
        level = values.get("output_level_db", self.output_level_db[0])
        return Candidate(model_weights, values.get("mixture_weight", 0.0), level, self.clip)

    def values(self, candidate: Candidate) -> dict[str, float]:
        """Return the numbers that stand for a candidate, moved into the bounds; the inverse of `candidate`."""
        weights = np.array(candidate.model_weights, dtype=float).reshape(self.n_models, -1)
        weights = np.broadcast_to(weights, (self.n_models, self.n_stems))
        values = {"mixture_weight": candidate.mixture_weight, "output_level_db": candidate.output_level_db}
        for number, column in enumerate(weights.T):
            left = np.cumsum(column[::-1])[::-1]  # what the first models leave
            for index in range(self.n_models - 1):
                kept = left[index + 1] / left[index] if left[index] > 0 else 0.0
                values[f"stick_{number}_{index}"] = float(kept ** (self.n_models - 1 - index))
        return {name: float(np.clip(values[name], low, high)) for name, (low, high) in self.names().items()}


def search(
    sweep: Sweep, on: PairSet, space: Space, n_trials: int, seed: int = 0, start: Candidate | None = None
) -> list[Candidate]:
    """Look for the candidate with the highest mean HAAQI, and return all that were tried, in their order.

    The optimiser is Optuna's tree-structured Parzen estimator (J. Bergstra et al., "Algorithms for hyper-parameter
    optimization", NeurIPS 2011). Its trials lie in `search.db`. Each number that it draws depends on `seed`, its place
    and the trials of earlier batches alone: a search that was stopped at any moment tries the same candidates as an
    unbroken one, as long as `n_trials`, `seed`, `space` and `start` stay the same (and Optuna's version).

    Parameters
    ----------
    sweep
        Where candidates are scored.
    on
        The pairs to search on.
    space
        What is varied.
    n_trials
        Number of candidates to try, counted over all calls.
    seed
        Of the optimiser.
    start
        Candidate to try first, such as the best of a grid.

    Raises
    ------
    ParameterError
        If there is no trial to make, or `search.db` holds another search, or cannot be read or written.
    """
    if n_trials < 1:
        raise ParameterError(f"n_trials {n_trials} must be at least 1.")
    with locked(sweep.out_dir / ".search.lock"), _quiet_optuna(), _database_errors(sweep.out_dir / "search.db"):
        study = _study(sweep, on, space, seed, start)
        while batch := _next_batch(study, space, n_trials, seed):
            candidates = [space.candidate(trial.params) for trial in batch]
            scores = sweep.scores(candidates, on)["score"].to_numpy().reshape(len(candidates), -1)
            for trial, value in zip(batch, scores.mean(1), strict=True):
                if not trial.state.is_finished():
                    study.tell(trial.number, float(value))
        return [space.candidate(trial.params) for trial in study.get_trials(deepcopy=False)[:n_trials]]


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    import optuna  # slow to import

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


@contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    """Turn what a full disk or a damaged file does to the optimiser into one sentence."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = getattr(cause, "orig", None) or cause
        raise ParameterError(
            f"{path} cannot be used ({reason}); make room, or move it away and search again, which keeps all scores."
        ) from error


def _study(sweep: Sweep, on: PairSet, space: Space, seed: int, start: Candidate | None) -> "optuna.Study":
    """Open the study of a search, or begin it."""
    import optuna
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(sweep.out_dir / "search.db"))
    study = optuna.create_study(
        storage=url.render_as_string(), study_name="fusion", direction="maximize", load_if_exists=True
    )
    pairs = digest(str(on), [sweep.pair_identity(on.split, pair) for pair in on.pairs])
    asked = {"space": str(space), "set of pairs": pairs, "seed": seed, "start": str(start)}
    for name, value in asked.items():
        if study.user_attrs.get(name, value) != value:
            raise ParameterError(
                f"{sweep.out_dir / 'search.db'} holds a search with another {name}; choose another directory, or "
                f"search again with --force."
            )
        study.set_user_attr(name, value)
    if start is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(space.values(start))
    return study


def _next_batch(study: "optuna.Study", space: Space, n_trials: int, seed: int) -> list["optuna.trial.FrozenTrial"]:
    """Return the trials of the first batch that is not finished, all with their numbers drawn; none at the end."""
    import optuna

    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != optuna.trial.TrialState.WAITING]
    running = [trial.number for trial in trials if not trial.state.is_finished()]
    first = min(running, default=len(trials)) // BATCH * BATCH
    last = min(first + BATCH, n_trials)
    if not running and len(trials) >= n_trials:
        return []
    for number in range(first, last):
        if number < len(trials) and trials[number].state.is_finished():
            continue
        trial = optuna.trial.Trial(study, trials[number]._trial_id) if number < len(trials) else study.ask()
        for place, (name, (low, high)) in enumerate(space.names().items()):
            study.sampler = _sampler(seed, number, place)
            trial.suggest_float(name, low, high)
    return study.get_trials(deepcopy=False)[first:last]


def _sampler(*seeds: int) -> "optuna.samplers.TPESampler":
    import optuna

    # Numbers are drawn one by one and from finished trials alone: others depend on where an earlier call stopped.
    return optuna.samplers.TPESampler(
        seed=int(np.random.SeedSequence(seeds).generate_state(1)[0]), multivariate=False, constant_liar=False
    )
