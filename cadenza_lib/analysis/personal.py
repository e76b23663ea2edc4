"""Personal settings: what is best for one listener's HAAQI, by gradient ascent, beside a grid and the paper's weights.

Settings are learned on scenes of some songs and reported, through the output stage, on scenes of others. The trims of
the fitting are an extension that is in neither the paper nor the challenge; see `ascent`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from cadenza_lib.analysis.ascent import PersonalFitting, optimise_fitting, optimise_fusion, score_fitting
from cadenza_lib.analysis.comparisons import compare
from cadenza_lib.chain.fusion import MIXTURE_WEIGHT, simplex_weights
from cadenza_lib.chain.pipeline import ChainSettings
from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.documents import fill, read_json, write_json
from cadenza_lib.core.errors import CorpusError
from cadenza_lib.core.files import make_directory
from cadenza_lib.core.identity import digest
from cadenza_lib.core.paths import file_name
from cadenza_lib.data.listeners import (
    SEVERITY_CLASSES,
    Listener,
    better_ear_pta_db_hl,
    severity_class,
    spread_listeners,
)
from cadenza_lib.data.scenes import Pair
from cadenza_lib.scoring.bases import PairBases, SceneBases
from cadenza_lib.scoring.sweep import CANDIDATE_COLUMNS, PairSet, Sweep, best_of

__all__ = ["compare_settings", "severity_table"]


def compare_settings(
    sweep: Sweep,
    searched: PairSet,
    held_out: PairSet,
    candidates: Sequence[ChainSettings],
    n_listeners: int,
    n_scenes: int = 2,
    steps: int = 10,
    excerpt_s: float = 3.0,
) -> pd.DataFrame:
    """Choose settings for each of some listeners on the same scenes in several ways, and score them on held-out songs.

    The ways: `fixed` (equal weights, the paper's share), `no clip` (the same with unlimited headroom), `level` (the
    same at the best level of the grid), `grid` (the best candidate), `gradient` (`optimise_fusion`) and `fitting`
    (`optimise_fitting` of `fixed`; not in the paper). What the last two find is kept in `personal/` beside the scores
    of the sweep.

    Parameters
    ----------
    sweep
        Corpus and models.
    searched, held_out
        Their scenes are heard by each listener, whoever the pairs name.
    candidates
        The grid; `fixed` at its levels is added.
    n_listeners
        How many listeners that are in both splits, spread over pure-tone averages.
    n_scenes
        How many scenes of each set, at most.
    steps, excerpt_s
        As for `optimise_fusion`.

    Returns
    -------
    pandas.DataFrame
        A row per way, listener and held-out scene: setting, severity (of the better ear), scene, song,
        listener, `CANDIDATE_COLUMNS` and score. Of a fitting, the trims are in its file.

    Raises
    ------
    ParameterError
        If there are fewer listeners.
    """
    held_out_listeners = sweep.split(held_out.split).listeners
    listeners = {
        name: listener for name, listener in sweep.split(searched.split).listeners.items() if name in held_out_listeners
    }
    names = spread_listeners(listeners, n_listeners)
    searched, held_out = (_crossed(pair_set, names, n_scenes) for pair_set in (searched, held_out))
    equal = (1 / sweep.n_models,) * sweep.n_models
    fixed = replace(candidates[0], model_weights=equal, mixture_weight=MIXTURE_WEIGHT, output_level_db=0.0)
    levels_db = dict.fromkeys(candidate.output_level_db for candidate in (fixed, *candidates))
    of_levels = sweep.scores([replace(fixed, output_level_db=level_db) for level_db in levels_db], searched)
    of_grid = pd.concat([of_levels, sweep.scores(candidates, searched)])
    bases = functools.cache(functools.partial(sweep.bases, wiener_exponent=fixed.wiener_exponent))
    tables = []
    for name in tqdm(names, desc="personal settings", unit="listener", disable=not sweep.progress):
        search, test = _only(searched, name), _only(held_out, name)
        learned = _learn(sweep, bases, listeners[name], search, test, fixed, steps, excerpt_s)
        methods = {
            "fixed": fixed,
            "no clip": replace(fixed, output_stage="none"),
            "level": best_of(of_levels[of_levels["listener"] == name]),
            "grid": best_of(of_grid[of_grid["listener"] == name]),
            "gradient": learned.candidate,
        }
        rows = [sweep.scores([candidate], test).assign(setting=method) for method, candidate in methods.items()]
        fitted: dict[str, Any] = {"score": learned.fitting_scores, "output_level_db": learned.fitting.output_level_db}
        rows.append(rows[0].assign(setting="fitting", **fitted))
        tables.append(pd.concat(rows).assign(severity=severity_class(better_ear_pta_db_hl(listeners[name]))))
    return pd.concat(tables, ignore_index=True)[
        ["setting", "severity", "scene", "song", "listener", *CANDIDATE_COLUMNS, "score"]
    ]


def _learn(
    sweep: Sweep,
    bases: Callable[[str, str], SceneBases],
    listener: Listener,
    search: PairSet,
    test: PairSet,
    fixed: ChainSettings,
    steps: int,
    excerpt_s: float,
) -> "_Learned":
    """Return the settings learned for a listener on the pairs of `search`, from a file if they are kept there."""
    path = make_directory(sweep.out_dir / "personal") / f"{file_name(listener.id)}.json"
    pairs = [sweep.pair_identity(pair_set.split, pair) for pair_set in (search, test) for pair in pair_set.pairs]
    identity = digest(pairs, len(search.pairs), asdict(fixed), steps, excerpt_s)
    learned = _read_learned(path, identity, sweep.n_models, len(test.pairs)) if path.exists() else None
    if learned is None:
        before, after = (
            [
                PairBases(bases(pair_set.split, pair.scene), listener, pair.scene, fixed.prescription)
                for pair in pair_set.pairs
            ]
            for pair_set in (search, test)
        )
        fusion = optimise_fusion(before, steps, excerpt_s, fixed)
        fitting = optimise_fitting(before, fixed, steps, excerpt_s)
        scores = [score_fitting(pair, fixed, fitting).mean for pair in after]
        learned = _Learned(fusion.candidate, fitting, scores)
        content = {"fusion": asdict(fusion), "fitting": asdict(fitting), "fitting_scores": scores}
        write_json(path, {"identity": identity, **content})
    return learned


def severity_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return what `compare` gives against `fixed` for each severity class and for all, and what the clip gives back.

    Parameters
    ----------
    scores
        As from `compare_settings`.

    Returns
    -------
    pandas.DataFrame
        severity, setting, the columns of `compare`, won_back: the difference as a share of that of `no clip`.
    """
    groups = {name: scores[scores["severity"] == name] for name, _ in SEVERITY_CLASSES} | {"all": scores}
    tables = []
    for severity, group in groups.items():
        if not group.empty:
            table = compare(group, "setting", {"setting": "fixed"})
            lost = table.loc[table["setting"] == "no clip", "difference"].item()
            table["won_back"] = table["difference"] / lost
            table.insert(0, "severity", severity)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class _Learned:
    """What was found for a listener, as far as it is used again."""

    candidate: ChainSettings
    fitting: PersonalFitting
    fitting_scores: list[float]


def _read_learned(path: Path, identity: str, n_models: int, n_pairs: int) -> _Learned | None:
    """Read what was found for a listener; None if it was found from something else."""
    content = read_json(path)
    try:
        if content["identity"] != identity:
            return None
        candidate = fill(ChainSettings, content["fusion"]["candidate"])
        simplex_weights(candidate.model_weights, n_models, len(STEMS))
        found = _Learned(
            candidate, fill(PersonalFitting, content["fitting"]), [float(n) for n in content["fitting_scores"]]
        )
        if len(found.fitting_scores) != n_pairs:
            raise ValueError(f"it has {len(found.fitting_scores)} scores")
    except (KeyError, TypeError, ValueError) as error:
        raise CorpusError(
            f"{path} does not hold what was found for a listener ({error}); move it away, and it is computed again."
        ) from error
    return found


def _crossed(pair_set: PairSet, listeners: Sequence[str], n_scenes: int) -> PairSet:
    """Return a set in which each listener hears each of the first scenes."""
    scenes = list(dict.fromkeys(pair.scene for pair in pair_set.pairs))[:n_scenes]
    return replace(pair_set, pairs=tuple(Pair(scene, name) for scene in scenes for name in listeners))


def _only(pair_set: PairSet, listener: str) -> PairSet:
    return replace(pair_set, pairs=tuple(pair for pair in pair_set.pairs if pair.listener == listener))
