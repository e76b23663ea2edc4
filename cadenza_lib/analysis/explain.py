"""What a difference in mean HAAQI between two splits is made of, by intervention: the same pairs, scored otherwise.

Not in the paper. Every system of the challenge falls by about 0.1 from `valid` to `test`, which have other songs and
other listeners. Three factors distinguish the pairs of one split from those of the other, and each can be exchanged:

- *Level of the songs*: stems and mixture get a gain, the difference between the mean loudness of both splits' mixtures.
  The chain is linear up to the output stage, and HAAQI presents the reference at one level, and the output with it. So
  the gain is applied just before the output stage and taken back just after it; without a stage it changes nothing. A
  system separates each song at the level that the song has.
- *Hearing of the listeners*: the listener of a pair is replaced by the one of the other split who has the same rank by
  the pure-tone average of the better ear.
- *Songs and what is left*: the pairs of the other split are taken, that is, other songs, heads and gains, and other
  combinations of these with listeners.

The contribution of a factor is the change in mean HAAQI when it is exchanged, averaged over the six orders in which the
three can be exchanged one after the other. This is its Shapley value (L. S. Shapley, "A value for n-person games",
Contributions to the Theory of Games II, 307-317, 1953).

Each contribution is then divided by what it acts through. The same exchanges are made with the true stems in place of
the system's and without the output stage, where every pair scores nearly 1; this part acts through *neither*. The
*output stage* and the *separation* are then introduced, and what each adds to the contribution is averaged over the two
orders. All parts together are the difference between the two means, exactly. If the splits change places, only the
signs change.

The difference is that of the pairs that are scored. Intervals take the difference in level as known.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from cadenza_lib.analysis.statistics import mean_interval
from cadenza_lib.analysis.tables import music
from cadenza_lib.chain.fusion import post_filter
from cadenza_lib.chain.pipeline import OFFICIAL, ChainSettings
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import make_directory
from cadenza_lib.core.identity import digest, results_lock
from cadenza_lib.core.tables import parse_number
from cadenza_lib.data.corpus import Corpus, Split
from cadenza_lib.data.listeners import Listener, better_ear_pta_db_hl
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import Pair, choose_pairs
from cadenza_lib.data.songs import mixture_loudness
from cadenza_lib.scoring.bases import PairBases, SceneBases
from cadenza_lib.scoring.kept import KeptRows
from cadenza_lib.separation.estimates import model_identity
from cadenza_lib.separation.separators import load

__all__ = ["FACTORS", "THROUGH", "divide", "explain_difference"]

FACTORS = ("level of the songs", "hearing of the listeners", "songs and what is left", "all")
"""What differs between two splits, and the sum."""

THROUGH = ("output stage", "separation", "neither", "all")
"""What a factor acts through, and the sum."""


class _Task(NamedTuple):
    """A score to be computed: a pair, and what is exchanged."""

    split: str
    scene: str
    song: str
    listener: str
    level_db: float  # gain of the song
    hearing: str  # split of the listener who hears
    output_stage: str
    stems: str  # "true" or "estimated"


_Hearing = dict[tuple[str, str, str], Listener]  # who hears: by split and name of a listener, and split of who hears


def explain_difference(
    corpus: str,
    system: str,
    splits: Sequence[str],
    n_pairs: int,
    out_dir: Path | str,
    settings: ChainSettings = OFFICIAL,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Return what the difference in a system's mean HAAQI between two splits is made of, as from `divide`.

    Scores are kept in `out_dir`, each with the identity of all that decides it (see `identity`), so a run that is
    stopped loses at most one score and goes on from there.

    Parameters
    ----------
    corpus
        As for `data.open_corpus`.
    system, device
        As for `separation.load`.
    splits
        The two splits; the difference is the second minus the first.
    n_pairs
        How many pairs of each split, chosen at random; 0 for all. Each takes twelve scores.
    out_dir
        Directory for the scores.
    settings
        Of the chain; its model weights are not used, and the true stems get no share of the mixture.
    progress
        Whether to show bars.

    Returns
    -------
    pandas.DataFrame
        As from `divide`.

    Raises
    ------
    ParameterError
        If there are not two splits, they have fewer pairs, a listener has no pure-tone average, the prescription or the
        reference is not linear, or `out_dir` cannot be written.
    CorpusError, AudioError, ModelError
        If data or the system cannot be used.
    """
    if settings.reference != "linear":
        raise ParameterError(
            f"The reference {settings.reference!r} depends on the level, so that a difference cannot be divided; use "
            f"'linear'."
        )
    if len(splits) != 2 or len(set(splits)) != 2:
        raise ParameterError(f"The splits to be compared are {list(splits)}; name two different ones.")
    data = open_corpus(corpus)
    first, second = sides = [data.split(name) for name in splits]
    hearing = _match_listeners(first, second) | _match_listeners(second, first)
    pairs = [choose_pairs(split.scene_listeners, n_pairs) for split in sides]
    scenes = [[split.scenes[pair.scene] for pair in chosen] for split, chosen in zip(sides, pairs, strict=True)]
    for split, needed in zip(sides, scenes, strict=True):
        data.check_songs(split, needed)

    def identity(task: _Task) -> str | None:
        split, listener = data.split(task.split), hearing.get((task.split, task.listener, task.hearing))
        if listener is None or task.scene not in split.scenes:
            return None
        heard = replace(split, listeners={task.listener: listener})
        return data.pair_identity(heard, Pair(task.scene, task.listener))

    folder = make_directory(out_dir)
    decided_by = digest(model_identity(system), list(splits), asdict(settings))
    with results_lock(folder / ".scores.lock", "scores.*.csv", "loudness.json"):
        lufs = [
            np.mean([*mixture_loudness(data.sources(split, needed), folder / "loudness.json", progress).values()])
            for split, needed in zip(sides, scenes, strict=True)
        ]
        difference_db = round(float(lufs[1] - lufs[0]), 2)
        tasks = [_tasks(sides, own, pairs[own], difference_db, settings) for own in (0, 1)]
        path = folder / f"scores.{decided_by}.csv"
        table = KeptRows(path, (*_Task._fields, "score"), lambda row: identity(_parse(row, path)[0]))
        table.drop_invalid()
        scores = dict(_parse(row, path) for row in table.valid)
        wanted = dict.fromkeys(itertools.chain(*tasks))
        missing = [task for task in wanted if task not in scores]
        done = len(wanted) - len(missing)
        with tqdm(total=len(wanted), initial=done, desc="explain", unit="score", disable=not progress) as bar:
            for task, score in _score(data, system, missing, hearing, settings, device):
                table.append((*task, score), str(identity(task)))
                scores[task] = score
                bar.update()
    values = [np.reshape([scores[task] for task in side], (-1, 2, 2, 2, 2)) for side in tasks]
    described = [pd.DataFrame(side[::16], columns=_Task._fields) for side in tasks]
    return divide(values, [table.assign(song=music(table["song"])) for table in described])


def divide(scores: Sequence[NDArray[np.float64]], pairs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the contributions that the difference between the mean scores of two splits is made of.

    Parameters
    ----------
    scores
        For each split, the scores of its pairs with the level and the hearing of the first split (0) or of the second
        (1), without the output stage (0) or with it (1), and with the true stems (0) or the system's (1).
    pairs
        For each split, the columns listener and song of its pairs.

    Shape:
        - scores: each `(pair, level, hearing, stage, system)`

    Returns
    -------
    pandas.DataFrame
        A row for each of `FACTORS` and each of `THROUGH`: factor, through, contribution, low, high (95 % over listeners
        and songs; the two splits are independent), share (of the whole difference; it means little where the interval
        of that contains 0). The rows "all" are sums, and the last row is the whole difference, second minus first.

    >>> scores = np.zeros((1, 2, 2, 2, 2))
    >>> scores[0, :, 1, 1, :] = -0.25  # whoever hears like the second split loses, by the output stage
    >>> table = divide([scores, scores], [pd.DataFrame({"listener": ["A"], "song": ["B"]})] * 2)
    >>> table[table["contribution"] != 0][["factor", "through", "contribution"]].values.tolist()[0]
    ['hearing of the listeners', 'output stage', -0.25]
    """
    neither = np.array([[[1.0, 0.0], [0.0, 0.0]]])
    factors, ways = _shapley(3), np.concatenate([_shapley(2), neither])
    factors, ways = (np.concatenate([parts, parts.sum(0, keepdims=True)]) for parts in (factors, ways))
    means, halves = [], []
    for songs, (values, described) in enumerate(zip(scores, pairs, strict=True)):
        parts = np.einsum("flh,wts,plhts->pfw", factors[..., songs], ways, values).reshape(len(values), -1)
        means.append(parts.mean(0))
        low, high = mean_interval(parts, described["listener"], described["song"])
        halves.append((high - low) / 2)
    table = pd.DataFrame(itertools.product(FACTORS, THROUGH), columns=["factor", "through"])
    table["contribution"], half = means[0] + means[1], np.hypot(*halves)
    table["low"], table["high"] = table["contribution"] - half, table["contribution"] + half
    return table.assign(share=table["contribution"] / table["contribution"].iloc[-1])


def _shapley(n: int) -> NDArray[np.float64]:
    """Return how much each value of an n-player game counts in the Shapley value of each player.

    Shape:
        - result: `(player, 2, ..., 2)`, one axis for each player, who is absent (0) or there (1)
    """
    weights = np.zeros((n, *[2] * n))
    for there in itertools.product((0, 1), repeat=n):
        for player in range(n):
            others = sum(there) - there[player]
            weights[player, *there] = (2 * there[player] - 1) / (n * math.comb(n - 1, others))
    return weights


def _match_listeners(own: Split, other: Split) -> _Hearing:
    """Return who hears for each listener of a split: that listener, or the one of the same rank in the other split."""
    ranked = []
    for split in (own, other):
        average_db_hl = {name: better_ear_pta_db_hl(listener) for name, listener in split.listeners.items()}
        if unknown := [name for name, average in average_db_hl.items() if math.isnan(average)]:
            raise ParameterError(
                f"Listener {unknown[0]!r} of split {split.name!r} has no rank, which needs thresholds from 0.5 to 4 "
                f"kHz; leave this listener out of the split."
            )
        ranked.append(sorted(average_db_hl, key=lambda name: (average_db_hl[name], name)))
    hearing = {(own.name, name, own.name): listener for name, listener in own.listeners.items()}
    for place, name in enumerate(ranked[0]):
        match = ranked[1][(2 * place + 1) * len(ranked[1]) // (2 * len(ranked[0]))]
        hearing[own.name, name, other.name] = other.listeners[match]
    return hearing


def _tasks(
    sides: Sequence[Split], own: int, pairs: Sequence[Pair], difference_db: float, settings: ChainSettings
) -> list[_Task]:
    """Return the sixteen scores of each pair of a split in the order of `divide`; some are the same task."""
    split = sides[own]
    return [
        _Task(
            split.name,
            pair.scene,
            split.scenes[pair.scene].at_ear_song,
            pair.listener,
            (level - own) * stage * difference_db + 0.0,  # not -0.0; without the stage, a level changes nothing
            sides[hearing].name,
            settings.output_stage if stage else "none",
            "estimated" if separated else "true",
        )
        for pair in pairs
        for level, hearing, stage, separated in itertools.product((0, 1), repeat=4)
    ]


def _parse(row: Mapping[str, str], path: Path) -> tuple[_Task, float]:
    """Return the task of a row of scores, and its score."""
    numbers = {}
    for name in ("level_db", "score"):
        try:
            numbers[name] = parse_number(row[name], name)
        except ValueError as error:
            raise CorpusError(f"{path}: {name} is {row[name]!r}, but {error}; choose another directory.") from error
    texts = {name: row[name] for name in _Task._fields if name != "level_db"}
    return _Task(**texts, level_db=numbers["level_db"]), numbers["score"]


def _score(
    corpus: Corpus, system: str, tasks: Sequence[_Task], hearing: _Hearing, settings: ChainSettings, device: str
) -> Iterator[tuple[_Task, float]]:
    """Yield each task with its score; each scene is separated once, and each reference amplified once."""
    if not tasks:
        return
    separator = load(system, device)
    for (split_name, scene_id), same_scene in itertools.groupby(tasks, key=lambda task: (task.split, task.scene)):
        split = corpus.split(split_name)
        song = corpus.at_ear_song(split, split.scenes[scene_id])
        stems = post_filter(separator(song), song.mixture, settings.wiener_exponent)
        bases = SceneBases(song, [stems, song.stems], corpus.gains_db(split.scenes[scene_id]))
        by_ears = sorted(same_scene, key=lambda task: (task.listener, task.hearing))
        for (listener, heard_by), group in itertools.groupby(by_ears, key=lambda task: (task.listener, task.hearing)):
            pair = PairBases(bases, hearing[split_name, listener, heard_by], scene_id, settings.prescription)
            for task in group:
                candidate = _candidate(task, settings)
                output = pair.output(candidate)
                output = replace(output, signal=output.signal / 10 ** (task.level_db / 20))
                yield task, pair.reference(candidate).score(output).mean


def _candidate(task: _Task, settings: ChainSettings) -> ChainSettings:
    """Return the chain of a task for bases of the system's stems, which have been filtered, and of the true ones."""
    is_true = task.stems == "true"
    return replace(
        settings,
        model_weights=(0.0, 1.0) if is_true else (1.0, 0.0),
        mixture_weight=0.0 if is_true else settings.mixture_weight,
        wiener_exponent=0.0,
        output_level_db=settings.output_level_db + task.level_db,
        output_stage=task.output_stage,
    )
