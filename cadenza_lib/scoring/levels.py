"""HAAQI over output levels, with and without an output stage: the faults of separation apart from those of the output.

Not in the paper. The output stage limits the enhanced signal, but not the reference, unless the settings say so. Here
each pair is scored at several output levels with the stage, and without it: for the oracle at every level, which tells
what a level costs when nothing else is wrong, and for other systems at 0 dB. The score at 0 dB with the stage is that
of `evaluation.evaluate`. In tables and figures "clip" stands for the stage, by default the official hard clip.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from cadenza_lib.chain.pipeline import OFFICIAL, ChainSettings, amplify, at_output_rate, finish, reference_remix, remix
from cadenza_lib.core.conventions import EARS
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import atomic_path, make_directory
from cadenza_lib.core.identity import digest, results_lock
from cadenza_lib.core.paths import file_name
from cadenza_lib.core.tables import read_table
from cadenza_lib.data.corpus import Corpus, Split
from cadenza_lib.data.listeners import spread_listeners
from cadenza_lib.data.scenes import Pair
from cadenza_lib.scoring.evaluation import COLUMNS
from cadenza_lib.scoring.pairs import EAR_COLUMNS, references
from cadenza_lib.separation.estimates import model_identity
from cadenza_lib.separation.separators import load

__all__ = ["LEVEL_COLUMNS", "OUTPUT_LEVELS_DB", "crossed_pairs", "evaluate_levels"]

OUTPUT_LEVELS_DB = (0.0, -3.0, -6.0, -9.0, -12.0, -15.0, -18.0)
"""Gains before the clip that are compared; 0 dB is official."""

LEVEL_COLUMNS = ("system", "scene", "song", "listener", "ear", "output_level_db", "clip", "haaqi", *EAR_COLUMNS)
"""Columns of the table: one row per system, pair, ear, level and clip."""


def crossed_pairs(split: Split, n_listeners: int, n_scenes: int, preferred: Iterable[str] = ()) -> list[Pair]:
    """Return pairs in which each listener hears each scene, so that listeners and songs can be told apart.

    The listeners are those of `listeners.spread_listeners`. The scenes take songs in turn.

    Parameters
    ----------
    split
        Whose listeners and scenes are taken; the pairs need not be among its own.
    n_listeners, n_scenes
        How many of each.
    preferred
        Listeners that are taken where the split has them, in the place of the most asymmetric one.

    Raises
    ------
    ParameterError
        If the split has fewer listeners or scenes.
    """
    if not 1 <= n_scenes <= len(split.scenes):
        raise ParameterError(
            f"n_scenes {n_scenes} must lie between 1 and {len(split.scenes)}, what split {split.name!r} has."
        )
    chosen = spread_listeners(split.listeners, n_listeners, preferred)
    by_song: dict[str, list[str]] = {}
    for name, scene in split.scenes.items():
        by_song.setdefault(scene.music, []).append(name)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*by_song.values()))
    scenes = [name for name in in_turn if name is not None][:n_scenes]
    return [Pair(scene, listener) for scene in scenes for listener in split.listeners if listener in chosen]


def evaluate_levels(
    corpus: Corpus,
    split: str,
    systems: Sequence[str],
    pairs: Sequence[Pair],
    out_dir: Path | str,
    levels_db: Sequence[float] = OUTPUT_LEVELS_DB,
    device: str = "auto",
    progress: bool = True,
    settings: ChainSettings = OFFICIAL,
) -> pd.DataFrame:
    """Score pairs with several systems over output levels, with an output stage and without.

    Each pair is written to a file of its own in `out_dir` when it is done, so a run that is stopped loses at most one
    pair and goes on from there. The name of the file holds the identity of all that decides it (see `identity`).

    Parameters
    ----------
    corpus, split
        Where the pairs come from.
    systems
        Names or checkpoints as for `separation.load`.
    pairs
        What is scored.
    out_dir
        Directory for the results.
    levels_db
        Gains in dB before the clip; must contain 0, the official one.
    device, progress
        Where networks run, and whether a bar is shown.
    settings
        Of the chain; the level is varied, and the output stage is compared with "none".

    Returns
    -------
    pandas.DataFrame
        `LEVEL_COLUMNS`, in the order of `pairs`.

    Raises
    ------
    ParameterError
        If 0 dB is not among the levels, something is named twice, or a pair is not in the split.
    """
    if 0 not in levels_db or len(set(levels_db)) < len(levels_db):
        raise ParameterError(f"levels_db {list(levels_db)} must contain 0 dB, the official level, and each level once.")
    if not systems or len(set(systems)) < len(systems):
        raise ParameterError(f"systems {list(systems)} must name at least one system, and each once.")
    data = corpus.split(split)
    data.check_pairs(pairs)
    corpus.check_songs(data, [data.scenes[pair.scene] for pair in pairs])
    folder = make_directory(out_dir)
    identities = [model_identity(system) for system in systems]
    files = {
        pair: folder
        / _file_name(pair, digest(identities, list(levels_db), asdict(settings), corpus.pair_identity(data, pair)))
        for pair in pairs
    }
    with results_lock(folder / ".scores.lock", "*.csv"):
        _score_missing(corpus, data, systems, files, levels_db, settings, device, progress)
    numbers = ("output_level_db", "haaqi", *EAR_COLUMNS)
    tables = [read_table(files[pair], LEVEL_COLUMNS, numbers, "move it away") for pair in pairs]
    for pair, table in zip(pairs, tables, strict=True):
        if not table["clip"].isin(("True", "False")).all() or table[list(numbers)].isna().any(axis=None):
            raise CorpusError(f"{files[pair]} lacks a number, or whether there is a clip; move it away.")
        table["clip"] = table["clip"] == "True"
        names = table["system"].unique()
        if len(names) != len(systems):
            raise CorpusError(f"{files[pair]} has {len(names)} systems, not {len(systems)}; move it away.")
        table["system"] = table["system"].map(dict(zip(names, systems, strict=True)))  # a checkpoint may have moved
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=LEVEL_COLUMNS)


def _score_missing(
    corpus: Corpus,
    data: Split,
    systems: Sequence[str],
    files: Mapping[Pair, Path],
    levels_db: Sequence[float],
    settings: ChainSettings,
    device: str,
    progress: bool,
) -> None:
    """Write the files of pairs that do not exist."""
    missing = [pair for pair, file in files.items() if not file.exists()]
    separators = {system: load(system, device) for system in systems} if missing else {}

    bar = tqdm(total=len(files), initial=len(files) - len(missing), desc="levels", unit="pair", disable=not progress)
    with bar:
        for song_name, same_song in itertools.groupby(missing, key=lambda pair: data.scenes[pair.scene].at_ear_song):
            group = list(same_song)
            song = corpus.at_ear_song(data, data.scenes[group[0].scene])
            stems = {system: separator(song) for system, separator in separators.items()}
            for scene, same_scene in itertools.groupby(group, key=lambda pair: pair.scene):
                gains_db = corpus.gains_db(data.scenes[scene])
                remixed = {system: remix(stems[system], gains_db, song.mixture, settings) for system in systems}
                reference = reference_remix(song, gains_db)
                for pair in same_scene:
                    listener = data.listeners[pair.listener]
                    target = references(reference, listener, scene)
                    rows: list[tuple] = []
                    for system in systems:
                        amplified = at_output_rate(amplify(remixed[system], listener, settings))
                        for level_db, clip in _conditions(system, levels_db):
                            stage = settings.output_stage if clip else "none"
                            level_settings = replace(settings, output_level_db=level_db, output_stage=stage)
                            output = finish(amplified, listener, level_settings)
                            values = target(level_settings).score(output).values()
                            where = (system, scene, song_name, pair.listener)
                            rows += _ear_rows(where, level_db, clip, values)
                    with atomic_path(files[pair]) as temporary:
                        pd.DataFrame(rows, columns=LEVEL_COLUMNS).to_csv(temporary, index=False)
                    bar.update()


def _conditions(system: str, levels_db: Sequence[float]) -> list[tuple[float, bool]]:
    """Return the levels with the clip, then those without."""
    unlimited = levels_db if system == "oracle" else [0.0]
    return [*((level_db, True) for level_db in levels_db), *((level_db, False) for level_db in unlimited)]


def _ear_rows(where: tuple[str, ...], level_db: float, clip: bool, values: Sequence[float]) -> list[tuple]:
    named = dict(zip(COLUMNS[3:], values, strict=True))
    return [
        (*where, ear, level_db, clip, named[f"{ear}_score"], *(named[f"{ear}_{column}"] for column in EAR_COLUMNS))
        for ear in EARS
    ]


def _file_name(pair: Pair, identity: str) -> str:
    return f"{file_name(f'{pair.scene}_{pair.listener}')}.{identity}.csv"
