"""Tidy tables of scores, means with confidence intervals, and correlations with hearing loss.

The rows of a table are not independent: a listener hears several scenes with the same ears. So intervals come from a
bootstrap that resamples whole listeners (the cluster bootstrap: A. C. Davison and D. V. Hinkley, *Bootstrap Methods
and their Application*, 1997, section 3.8). It assumes that listeners are drawn independently from the population that
one wants to speak of; with fewer than about ten listeners its intervals are too narrow.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cadenza_lib.errors import CorpusError, ParameterError
from cadenza_lib.evaluation import Settings, read_scores, read_settings
from cadenza_lib.finetune import read_result
from cadenza_lib.listeners import EARS, Listener, ear_table

__all__ = [
    "PAPER_DATA_SIZE",
    "bootstrap_interval",
    "correlation_table",
    "data_size_table",
    "summary_table",
    "system_label",
    "tidy_table",
]

PAPER_DATA_SIZE = {100: 0.6766, 200: 0.6792, 300: 0.6781, 400: 0.6785, 800: 0.6796}
"""Table 1 of the paper: validation HAAQI by number of training scenes, of which the official set has 400."""

_PAPER_OFFICIAL_SCENES = 400

N_RESAMPLES = 2000
CONFIDENCE = 0.95


def system_label(settings: Settings) -> str:
    """Return a short name of what was evaluated: the system, and whatever departs from the official chain.

    >>> system_label(Settings("demo", "valid", "oracle", mixture_weight=0.15, output_level_db=-6.0))
    'oracle, w = 0.15, -6 dB'

    The checkpoints of all fine-tuning runs have the same two names, so the run's directory tells them apart.

    >>> system_label(Settings("demo", "valid", "/study/finetune/24-0/best.safetensors", clip=False))
    '24-0/best, no clip'
    """
    path = Path(settings.system)
    parts = [f"{path.parent.name}/{path.stem}" if path.stem in ("best", "last") else path.stem]
    if settings.mixture_weight:
        parts.append(f"w = {settings.mixture_weight:g}")
    if settings.output_level_db:
        parts.append(f"{settings.output_level_db:g} dB")
    if not settings.clip:
        parts.append("no clip")
    return ", ".join(parts)


def tidy_table(score_dirs: Path | str | Sequence[Path | str], listeners: Mapping[str, Listener]) -> pd.DataFrame:
    """Return one row per system, scene, listener and ear.

    Parameters
    ----------
    score_dirs
        Directory of an evaluation, or several, or their `scores.csv`. A table without `settings.json` beside it, such
        as the official recipe writes, is named after its directory.
    listeners
        The split's listeners by id.

    Returns
    -------
    pandas.DataFrame
        Columns: system, scene, song, listener, ear, haaqi, clipped_share (NaN where unknown), and those of
        `listeners.ear_table`.

    Raises
    ------
    CorpusError
        If a table is missing or empty, or has a listener who is not among `listeners`.
    ParameterError
        If there is no table, or two have the same name.
    """
    if not score_dirs:
        raise ParameterError("No scores were given; name at least one directory that 03_evaluate wrote.")
    tables = []
    for given in [score_dirs] if isinstance(score_dirs, str | Path) else score_dirs:
        folder = Path(given).parent if Path(given).name == "scores.csv" else Path(given)
        scores = read_scores(folder)
        if scores.empty:
            raise CorpusError(f"{folder / 'scores.csv'} has no rows yet; let the evaluation finish.")
        unknown = sorted(set(scores["listener"]) - set(listeners))
        if unknown:
            raise CorpusError(
                f"{folder / 'scores.csv'} has the listener {unknown[0]!r}, who is not in this split; "
                f"give the corpus and split that were evaluated."
            )
        label = system_label(read_settings(folder)) if (folder / "settings.json").exists() else folder.resolve().name
        for ear in EARS:
            tables.append(
                scores[["scene", "song", "listener"]].assign(
                    system=label,
                    ear=ear,
                    haaqi=scores[f"{ear}_score"],
                    clipped_share=scores.get(f"{ear}_clipped_share", np.nan),
                )
            )
    table = pd.concat(tables, ignore_index=True)
    key = ["system", "scene", "listener", "ear"]
    if table.duplicated(key).any():
        twice = table.loc[table.duplicated(key), "system"].iloc[0]
        raise ParameterError(
            f"Scores called {twice!r} were given twice; name each evaluation once, and each checkpoint differently."
        )
    table = table.merge(ear_table(listeners.values()), on=["listener", "ear"], validate="many_to_one")
    return table[["system", "scene", "song", "listener", "ear", "haaqi", "clipped_share", *table.columns[7:]]]


def summary_table(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the mean HAAQI of each system with a 95 % interval over listeners, in the order of the table.

    Columns: system, n_pairs, n_listeners, haaqi, ci_low, ci_high, clipped_share.
    """

    def mean(rows: pd.DataFrame) -> float:
        return float(rows["haaqi"].mean())

    rows = []
    for system, group in table.groupby("system", sort=False):
        low, high = bootstrap_interval(group, mean, seed)
        rows.append(
            {
                "system": system,
                "n_pairs": len(group) // len(EARS),
                "n_listeners": group["listener"].nunique(),
                "haaqi": mean(group),
                "ci_low": low,
                "ci_high": high,
                "clipped_share": group["clipped_share"].mean(),
            }
        )
    return pd.DataFrame(rows)


def data_size_table(run_dirs: Sequence[Path | str]) -> pd.DataFrame:
    """Return validation HAAQI by the size of the training set, the paper's Table 1 beside ours.

    The paper's row with the same share of the official training set is put beside each of ours.

    Parameters
    ----------
    run_dirs
        Directories of finished runs of `finetune.finetune`, which differ in `n_scenes` and in seeds.

    Returns
    -------
    pandas.DataFrame
        Columns: n_scenes, share (of the split's own scenes), n_runs, haaqi_before, haaqi (mean over runs of the best
        checkpoint), sd (over runs, NaN for one), paper_n_scenes, paper_haaqi (NaN where the paper has none).

    Raises
    ------
    ParameterError
        If no run is given, or one has no validation HAAQI.
    CorpusError
        If a run is not finished.
    """
    if not run_dirs:
        raise ParameterError("No runs were given; name at least one directory that 02_finetune wrote.")
    rows = []
    for folder in run_dirs:
        result = read_result(folder)
        if result.haaqi_best is None:
            raise ParameterError(f"{folder} has no validation HAAQI; train with n_valid_pairs above 0.")
        share = result.n_scenes / result.n_split_scenes
        rows.append((result.n_scenes, share, result.haaqi_before, result.haaqi_best))
    runs = pd.DataFrame(rows, columns=["n_scenes", "share", "haaqi_before", "haaqi"])
    table = runs.groupby(["n_scenes", "share"], as_index=False).agg(
        n_runs=("haaqi", "size"), haaqi_before=("haaqi_before", "mean"), haaqi=("haaqi", "mean"), sd=("haaqi", "std")
    )
    paper = {number / _PAPER_OFFICIAL_SCENES: (number, haaqi) for number, haaqi in PAPER_DATA_SIZE.items()}
    beside = [paper.get(share, (np.nan, np.nan)) for share in table["share"]]
    table[["paper_n_scenes", "paper_haaqi"]] = beside
    return table


def correlation_table(table: pd.DataFrame, predictor: str = "pta_db_hl", seed: int = 0) -> pd.DataFrame:
    """Return Pearson's correlation of HAAQI with a column over ears, with a 95 % interval over listeners, by system.

    Columns: system, predictor, n_ears (rows), n_listeners, pearson_r, ci_low, ci_high. A correlation with a constant
    column is NaN.
    """

    def pearson(rows: pd.DataFrame) -> float:
        x, y = rows[predictor].to_numpy(), rows["haaqi"].to_numpy()
        if np.ptp(x) == 0 or np.ptp(y) == 0:  # rounding would leave a little of a constant minus its mean
            return float("nan")
        return float(np.corrcoef(x, y)[0, 1])

    rows = []
    for system, group in table.groupby("system", sort=False):
        low, high = bootstrap_interval(group, pearson, seed)
        rows.append(
            {
                "system": system,
                "predictor": predictor,
                "n_ears": len(group),
                "n_listeners": group["listener"].nunique(),
                "pearson_r": pearson(group),
                "ci_low": low,
                "ci_high": high,
            }
        )
    return pd.DataFrame(rows)


def bootstrap_interval(
    table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic of rows when whole listeners are resampled.

    With a single listener there is nothing to resample, and both limits are NaN.
    """
    rows_of = list(table.groupby("listener", sort=False).indices.values())
    if len(rows_of) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    values = np.empty(n_resamples)
    for index in range(n_resamples):
        drawn = generator.integers(len(rows_of), size=len(rows_of))
        values[index] = statistic(table.iloc[np.concatenate([rows_of[i] for i in drawn])])
    tail = (1 - CONFIDENCE) / 2
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
