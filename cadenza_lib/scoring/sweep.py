"""Sweeps: score many fusions on scene-listener pairs, search for the best, and judge it on pairs it has not seen.

    out_dir/  sweep.json    corpus, models and how they are mixed; another sweep is refused
              scores.csv    one row per candidate and pair, written as soon as it is known; see `identity`
              estimates/    the models' stems

A candidate that has been scored on a pair is never scored again, so that a sweep that was stopped goes on, and grids
and searches share what they have in common. One process at a time scores; another waits. The best of
a search is best on the pairs it was searched on by construction, partly by luck: `search_and_test` gives pairs of other
songs to report it on.
"""

import functools
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from cadenza_lib.chain.fusion import ModelWeights
from cadenza_lib.chain.pipeline import OFFICIAL, ChainSettings
from cadenza_lib.core.documents import as_tuples
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import make_directory
from cadenza_lib.core.identity import claim, digest, results_lock
from cadenza_lib.core.tables import parse_number
from cadenza_lib.data.corpus import Corpus, Split
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import Pair, choose_pairs, seeded
from cadenza_lib.scoring.bases import PairBases, SceneBases
from cadenza_lib.scoring.evaluation import COLUMNS
from cadenza_lib.scoring.kept import KeptRows
from cadenza_lib.separation.estimates import cached_separator, model_identity
from cadenza_lib.separation.separators import Separator

__all__ = [
    "CANDIDATE_COLUMNS",
    "PairSet",
    "Sweep",
    "best_of",
    "candidate_of",
    "grid",
    "search_and_test",
    "simplex_grid",
]

CANDIDATE_COLUMNS = tuple(field.name for field in fields(ChainSettings))
"""Columns that tell candidates apart; `model_weights` is JSON."""

_LOGGER = logging.getLogger(__name__)

_COLUMNS = ("split", *CANDIDATE_COLUMNS, *COLUMNS)

_Key = tuple[str, Pair, ChainSettings]  # split, and what is scored


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
    base: ChainSettings = OFFICIAL,
) -> list[ChainSettings]:
    """Return every combination as a candidate; what is not varied is that of `base`.

    Raises
    ------
    ParameterError
        If there is nothing to combine, or a value is there twice.
    """
    given = {"model_weights": model_weights, "mixture_weights": mixture_weights, "output_levels_db": output_levels_db}
    for name, values in given.items():
        if not values or len(set(map(as_tuples, values))) < len(values):
            raise ParameterError(f"{name} {list(values)} must hold at least one value, and each once.")
    return [
        replace(base, model_weights=weights, mixture_weight=share, output_level_db=level_db)
        for weights, share, level_db in itertools.product(model_weights, mixture_weights, output_levels_db)
    ]


def candidate_of(row: Mapping[str, Any]) -> ChainSettings:
    """Return the candidate that a row of a table with `CANDIDATE_COLUMNS` is about."""
    values = {name: row[name] for name in CANDIDATE_COLUMNS}
    values["model_weights"] = json.loads(values["model_weights"])
    for name in ("mixture_weight", "output_level_db", "wiener_exponent"):
        values[name] = float(values[name])
    return ChainSettings(**values)


@dataclass(frozen=True)
class _Settings:
    """What all rows of a sweep have in common."""

    corpus: str  # "twin" or the absolute path
    models: tuple[str, ...]  # names or absolute paths
    identities: tuple[str, ...]  # of their weights, see `estimates.model_identity`

    def __post_init__(self) -> None:
        for name in ("models", "identities"):  # JSON has lists
            object.__setattr__(self, name, as_tuples(getattr(self, name)))


class Sweep:
    """Scores of fusions of some models, kept in a directory.

    Parameters
    ----------
    corpus
        "twin" or the path of a corpus.
    models
        Names or checkpoints of the separators, as for `separation.load`.
    out_dir
        Directory of the sweep.
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
        *,
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
        self._settings = _Settings(self._corpus.name, tuple(models), identities)
        self._identities: dict[tuple[str, Pair], str] = {}
        self._estimates = make_directory(self.out_dir / "estimates")
        self._device, self._executor, self.progress = device, executor, progress
        self._rows: dict[_Key, tuple[Any, ...]] = {}  # song and scores
        with self._locked_table():
            pass  # so that a table of something else is refused at once

    @property
    def n_models(self) -> int:
        """Number of models that are fused."""
        return len(self._settings.models)

    def scores(self, candidates: Sequence[ChainSettings], on: PairSet) -> pd.DataFrame:
        """Return the scores of candidates on pairs; what has been scored before is not scored again.

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
        if self._missing(candidates, on):
            self._corpus.check_songs(split, [split.scenes[pair.scene] for pair in on.pairs])
            with self._locked_table() as table:  # where another process may have scored some
                missing = self._missing(candidates, on)
                total = sum(map(len, missing.values()))
                with tqdm(total=total, desc=f"{on.name} pairs", unit="score", disable=not self.progress) as bar:
                    for scene, listener, candidate, values in self._score(on.split, missing):
                        key = on.split, Pair(scene, listener), candidate
                        self._rows[key] = (split.scenes[scene].at_ear_song, *values)
                        table.append(_row(key, self._rows[key]), self.pair_identity(*key[:2]))
                        bar.update()
        keys = [(on.split, pair, candidate) for candidate in candidates for pair in on.pairs]
        rows = [(on.name, *_row(key, self._rows[key])) for key in keys]
        return pd.DataFrame(rows, columns=["set", *_COLUMNS])

    def bases(self, split: str, scene: str, wiener_exponent: float = 0.0) -> SceneBases:
        """Return the bases of a scene, with one weight for each model."""
        where = self._settings, str(self._estimates), self._device
        return _scene_bases(*where, split, scene, wiener_exponent=wiener_exponent)

    def split(self, name: str) -> Split:
        """Return a split of the corpus."""
        return self._corpus.split(name)

    def pair_identity(self, split: str, pair: Pair) -> str:
        """Return the identity of all that decides the scores of a pair beside the candidate; see `identity`."""
        if (split, pair) not in self._identities:
            decided_by = self._corpus.pair_identity(self.split(split), pair)
            self._identities[split, pair] = digest(self._settings.identities, decided_by)
        return self._identities[split, pair]

    @contextmanager
    def _locked_table(self) -> Iterator[KeptRows]:
        """Keep other processes from scoring, drop rows that something else has decided, and read the others."""
        products = ("scores.csv", "sweep.json", "personal", "estimates")
        with results_lock(self.out_dir / ".scores.lock", *products):
            table = KeptRows(self.out_dir / "scores.csv", _COLUMNS, self._identity_of_row)
            claim(self.out_dir / "sweep.json", self._settings, (), ("corpus", "models"), table.are_of_these_settings)
            table.drop_invalid()
            self._rows = _parse_rows(table)
            yield table

    def _identity_of_row(self, row: Mapping[str, str]) -> str | None:
        if row["split"] not in self._corpus.splits:
            return None
        pair = Pair(row["scene"], row["listener"])
        return self.pair_identity(row["split"], pair) if pair in self.split(row["split"]) else None

    def _missing(self, candidates: Sequence[ChainSettings], on: PairSet) -> dict[str, list[tuple[str, ChainSettings]]]:
        """Return listeners and candidates that are not scored yet, by scene, whose bases are built once."""
        missing: dict[str, list[tuple[str, ChainSettings]]] = {}
        for pair, candidate in itertools.product(on.pairs, dict.fromkeys(candidates)):
            if (on.split, pair, candidate) not in self._rows:
                missing.setdefault(pair.scene, []).append((pair.listener, candidate))
        return missing

    def _score(
        self, split: str, missing: Mapping[str, list[tuple[str, ChainSettings]]]
    ) -> Iterator[tuple[str, str, ChainSettings, tuple[float, ...]]]:
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


def _score_scene_whole(*task: Any) -> list[tuple[str, str, ChainSettings, tuple[float, ...]]]:
    return list(_score_scene(*task))


def _score_scene(
    settings: _Settings, estimates: str, device: str, split: str, scene_id: str, asked: list[tuple[str, ChainSettings]]
) -> Iterator[tuple[str, str, ChainSettings, tuple[float, ...]]]:
    """Yield scene, listener, candidate and scores of those asked for in one scene."""
    listeners = open_corpus(settings.corpus).split(split).listeners
    per_stem = any(np.ndim(candidate.model_weights or 0) == 2 for _, candidate in asked)
    asked = sorted(asked, key=lambda task: (task[1].wiener_exponent, task[1].prescription))  # which is stable
    for exponent, same_stems in itertools.groupby(asked, key=lambda task: task[1].wiener_exponent):
        bases = _scene_bases(settings, estimates, device, split, scene_id, per_stem, exponent)
        for (name, listener), group in itertools.groupby(same_stems, key=lambda task: (task[1].prescription, task[0])):
            pair = PairBases(bases, listeners[listener], scene_id, name)
            for _, candidate in group:
                yield scene_id, listener, candidate, pair.score(candidate).values()


def _scene_bases(
    settings: _Settings,
    estimates: str,
    device: str,
    split: str,
    scene_id: str,
    per_stem: bool = False,
    wiener_exponent: float = 0.0,
) -> SceneBases:
    corpus = open_corpus(settings.corpus)
    chosen = corpus.split(split)
    scene = chosen.scenes[scene_id]
    song = corpus.at_ear_song(chosen, scene)
    stems = [separator(song) for separator in _separators(settings, estimates, device)]
    return SceneBases(song, stems, corpus.gains_db(scene), per_stem, wiener_exponent)


@functools.lru_cache(maxsize=1)  # a network that has been loaded serves all scenes
def _separators(settings: _Settings, estimates: str, device: str) -> list[Separator]:
    return [cached_separator(name, estimates, device) for name in settings.models]


def _row(key: _Key, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row of `_COLUMNS`; `values` are the song and the scores."""
    split, pair, candidate = key
    song, *scores = values
    described = asdict(candidate) | {"model_weights": json.dumps(candidate.model_weights)}
    return (split, *described.values(), pair.scene, song, pair.listener, *scores)


def _parse_rows(table: KeptRows) -> dict[_Key, tuple[Any, ...]]:
    rows: dict[_Key, tuple[Any, ...]] = {}
    for row in table.valid:
        try:
            scores = [parse_number(row[name], name) for name in COLUMNS[3:]]
            if np.isnan(scores).any():
                raise ValueError("it lacks a number")
            rows[row["split"], Pair(row["scene"], row["listener"]), candidate_of(row)] = (row["song"], *scores)
        except (ValueError, TypeError, ParameterError) as error:
            raise CorpusError(
                f"{table.path} is not a table of scores ({error} in the row {list(row.values())}); repair it, or sweep "
                f"into another directory."
            ) from error
    return rows


def best_of(scores: pd.DataFrame) -> ChainSettings:
    """Return the candidate with the highest mean score in a table of `Sweep.scores`."""
    means = scores.groupby(list(CANDIDATE_COLUMNS), sort=False)["score"].mean()
    return candidate_of(dict(zip(CANDIDATE_COLUMNS, means.index[int(means.argmax())], strict=True)))
