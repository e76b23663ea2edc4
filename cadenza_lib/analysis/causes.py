"""Why HAAQI falls with hearing loss: separation, clipping and audibility kept apart; and what an output level gains.

Not in the paper. The tables come from `levels.evaluate_levels`, in which the same signals are scored with the clip
and without it. So the effect of the clip is not inferred from who happens to be clipped: it is an intervention, and the
difference is what the clip does. Statements about listeners still assume that those in the table were drawn
independently from the population that is meant, as all of `statistics`.

HAAQI is a model of how listeners rated processed music; it is not their preference. That a lower level scores higher
does not say that anyone wants their music softer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cadenza_lib.analysis.statistics import (
    MIN_LISTENERS,
    bootstrap,
    mean_interval,
    missing_note,
    obstacle,
    percentiles,
    usable,
    weighted_line,
)
from cadenza_lib.analysis.tables import PAPER_ASYMMETRIC_LISTENER, add_scene_and_ear_columns, listeners_and_gains_db
from cadenza_lib.chain.pipeline import OFFICIAL, ChainSettings
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.listeners import SEVERITY_CLASSES, Listener
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.scoring.levels import LEVEL_COLUMNS, OUTPUT_LEVELS_DB, crossed_pairs, evaluate_levels

__all__ = [
    "clip_effect_table",
    "level_experiment",
    "level_gain_table",
    "level_table",
    "losses_table",
    "official_scores",
    "output_level_choices",
]

_KEY = ["scene", "listener", "ear"]


def level_experiment(
    corpus: str,
    split: str,
    system: str,
    n_listeners: int,
    n_scenes: int,
    out_dir: Path | str,
    levels_db: Sequence[float] = OUTPUT_LEVELS_DB,
    device: str = "auto",
    settings: ChainSettings = OFFICIAL,
) -> pd.DataFrame:
    """Score the mixture, a system and the oracle over output levels, every listener with every scene.

    Parameters
    ----------
    corpus, split
        As for `data.open_corpus`.
    system
        As for `separation.load`.
    n_listeners, n_scenes
        As for `levels.crossed_pairs`; the paper's asymmetric listener is among them if there.
    out_dir, levels_db, device, settings
        As for `levels.evaluate_levels`.

    Returns
    -------
    pandas.DataFrame
        `levels.LEVEL_COLUMNS` and those of `tables.add_scene_and_ear_columns`. Empty without a corpus or listeners.
    """
    if not corpus or not n_listeners:
        return level_table(pd.DataFrame(columns=LEVEL_COLUMNS), {})
    data = open_corpus(corpus)
    pairs = crossed_pairs(data.split(split), n_listeners, n_scenes, [PAPER_ASYMMETRIC_LISTENER])
    systems = list(dict.fromkeys(["mixture", system, "oracle"]))
    levels = evaluate_levels(data, split, systems, pairs, out_dir, levels_db, device, settings=settings)
    return level_table(levels, *listeners_and_gains_db(corpus, split))


def level_table(
    levels: pd.DataFrame,
    listeners: Mapping[str, Listener],
    gains_db: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Return the table of `levels.evaluate_levels` with columns about scenes and ears, checkpoints by their names."""
    named = levels.assign(system=[Path(system).stem for system in levels["system"]])
    return add_scene_and_ear_columns(named, listeners, gains_db)


def official_scores(levels: pd.DataFrame, clip: bool = True) -> pd.DataFrame:
    """Return the rows at 0 dB, with the clip, as is official, or without: a tidy table of scores."""
    return levels[(levels["output_level_db"] == 0) & (levels["clip"].astype(bool) == clip)].reset_index(drop=True)


def clip_effect_table(
    levels: pd.DataFrame, predictors: tuple[str, ...] = ("pta_db_hl", "low_db_hl"), seed: int = 0
) -> pd.DataFrame:
    """Return how HAAQI depends on hearing loss with the official clip and without, by system.

    The effect is the least-squares slope of HAAQI on the predictor over ears. The part that the clip explains is
    ``1 - slope without / slope with``: 0 if the clip changes nothing, 1 if without it nothing is left of the effect,
    above 1 if without it HAAQI rises with hearing loss. Both slopes are of the same ears in the same scenes, and each
    resample of listeners takes both. The part has no meaning where the slope with the clip may be zero; then it is NaN
    and `note` says so.

    Returns
    -------
    pandas.DataFrame
        Columns: system, predictor, n_ears, n_listeners, r_clip, r_no_clip, slope_clip, slope_no_clip (HAAQI per 10 dB),
        explained, ci_low, ci_high, note.
    """
    key = ["system", *_KEY]
    unlimited = official_scores(levels, clip=False)[[*key, "haaqi"]].rename(columns={"haaqi": "unlimited"})
    both = official_scores(levels).merge(unlimited, on=key)
    effects = []
    for system, group in both.groupby("system", sort=False):
        for predictor in predictors:
            rows = usable(group, [predictor, "unlimited"])
            numbers, note = [np.nan] * 7, obstacle(rows, [predictor])
            if not note:
                numbers, note = _clip_effect(rows, predictor, seed)
            size = (len(rows), rows["listener"].nunique())
            effects.append((system, predictor, *size, *numbers, note or missing_note(group, rows)))
    columns = ["system", "predictor", "n_ears", "n_listeners", "r_clip", "r_no_clip"]
    columns += ["slope_clip", "slope_no_clip", "explained", "ci_low", "ci_high", "note"]
    return pd.DataFrame(effects, columns=columns)


def _clip_effect(rows: pd.DataFrame, predictor: str, seed: int) -> tuple[list[float], str]:
    """Return correlations, slopes, the part that the clip explains with its interval, and why there is none."""
    x = rows[predictor].to_numpy(float)
    scores = [rows[name].to_numpy(float) for name in ("haaqi", "unlimited")]

    def slopes(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([weighted_line(weights, x, y)[0] for y in scores], axis=1)  # (resample, clip)

    resampled = bootstrap(rows["listener"], slopes, seed)
    slope, slope_free = slopes(np.ones((1, len(x))))[0]
    r = [np.corrcoef(x, y)[0, 1] if np.ptp(y) > 0 else np.nan for y in scores]
    numbers = [*r, 10 * slope, 10 * slope_free]
    low, high = percentiles(resampled[:, 0])
    if low <= 0 <= high:
        return [*numbers, *[np.nan] * 3], "the slope with the clip may be zero, so there is no effect to explain"
    return [*numbers, 1 - slope_free / slope, *percentiles(1 - resampled[:, 1] / resampled[:, 0])], ""


def losses_table(levels: pd.DataFrame, system: str) -> pd.DataFrame:
    """Return what keeps each ear of a system from a HAAQI of 1, at the official level.

    The parts add up: *separation* is what the oracle scores more without the clip, *clipping* is what the clip takes
    from the system, and *rest* is what even the oracle lacks without the clip (HAAQI ends at 0.999, and the output is
    resampled). Audibility hides in separation: an error that an ear cannot hear costs nothing, so the same stems lose
    less where more hearing is lost.

    Returns
    -------
    pandas.DataFrame
        One row per scene, listener, ear and cause, with lost and the columns of the ear.

    Raises
    ------
    ParameterError
        If the table does not have the system and the oracle.
    """
    system = Path(system).stem
    for name in (system, "oracle"):
        if not levels.empty and name not in set(levels["system"]):
            raise ParameterError(f"The levels have no scores of {name!r}; evaluate it with the others.")
    free, clipped = (official_scores(levels, clip).set_index(_KEY) for clip in (False, True))
    oracle = free.loc[free["system"] == "oracle", "haaqi"]
    rows = free[free["system"] == system].drop(columns=["system", "output_level_db", "clip"])
    parts = {
        "separation": oracle - rows["haaqi"],
        "clipping": rows["haaqi"] - clipped.loc[clipped["system"] == system, "haaqi"],
        "rest": 1 - oracle,
    }
    ears = rows.drop(columns="haaqi")
    tables = [ears.assign(cause=cause, lost=lost).reset_index() for cause, lost in parts.items()]
    return pd.concat(tables, ignore_index=True)


def output_level_choices(levels: pd.DataFrame, system: str) -> pd.DataFrame:
    """Return what each listener gains from an output level of their own, chosen and tested on different songs.

    For each song in turn, the level with the highest mean HAAQI of both ears on all other songs is chosen, and scored
    on this song: for each listener alone (*own*), and one for all listeners (*common*). Scenes of the song that is
    scored never take part in the choice. The mean over songs is what a listener may expect, if the other songs are
    like those to come. Listeners who have heard a single song are left out.

    Returns
    -------
    pandas.DataFrame
        One row per listener: listener, severity, better_ear_pta_db_hl, n_songs, own_level_db (mean over songs),
        common_level_db, haaqi_official, haaqi_common, haaqi_own, gain_common, gain_own.
    """
    rows = usable(levels, [])
    rows = rows[(rows["system"] == Path(system).stem) & rows["clip"].astype(bool)]
    scores = rows.pivot_table(index=["listener", "music"], columns="output_level_db", values="haaqi").dropna()
    folds = []
    for music in scores.index.unique("music"):
        tested, others = scores.xs(music, level="music"), scores.drop(music, level="music")
        listener_means = others.groupby("listener").mean()
        common_db = listener_means.mean().idxmax() if len(others) else 0.0
        for listener in tested.index.intersection(listener_means.index, sort=False):
            own_db, haaqi = listener_means.loc[listener].idxmax(), tested.loc[listener]
            folds.append((listener, own_db, common_db, haaqi[0.0], haaqi[common_db], haaqi[own_db]))
    names = ["own_level_db", "common_level_db", "haaqi_official", "haaqi_common", "haaqi_own"]
    by_listener = pd.DataFrame(folds, columns=["listener", *names]).groupby("listener")
    table = by_listener[names].mean().assign(n_songs=by_listener.size()).reset_index()
    for level in ("common", "own"):
        table[f"gain_{level}"] = table[f"haaqi_{level}"] - table["haaqi_official"]
    people = rows[["listener", "severity", "better_ear_pta_db_hl"]].drop_duplicates("listener")
    columns = ["listener", "severity", "better_ear_pta_db_hl", "n_songs", *names, "gain_common", "gain_own"]
    return table.merge(people, on="listener").sort_values("better_ear_pta_db_hl", ignore_index=True)[columns]


def level_gain_table(choices: pd.DataFrame) -> pd.DataFrame:
    """Return what the output level gains for each class of better-ear hearing loss, and for all.

    Columns: severity, n_listeners, own_level_db, haaqi_official, gain_common, gain_own, ci_low, ci_high (95 % over
    listeners, of gain_own), note.
    """
    names = ["own_level_db", "haaqi_official", "gain_common", "gain_own"]
    groups = {name: choices[choices["severity"] == name] for name, _ in SEVERITY_CLASSES}
    results = []
    for severity, group in {**groups, "all": choices}.items():
        if group.empty and severity != "all":
            continue
        note = "" if len(group) >= MIN_LISTENERS else f"not enough data for an interval: {len(group)} listeners"
        interval = mean_interval(group["gain_own"].to_numpy(float), *[group["listener"]] * 2)
        limits = np.full(2, np.nan) if note else interval
        results.append((severity, len(group), *group[names].astype(float).mean(), *limits, note))
    return pd.DataFrame(results, columns=["severity", "n_listeners", *names, "ci_low", "ci_high", "note"])
