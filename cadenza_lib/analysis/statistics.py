"""Statistics of repeated measures: intervals, correlations, partial correlations, regression and mixed models.

The rows of a table are ears in scenes, and they are not independent: a listener hears several scenes with the same two
ears. So every interval comes from a bootstrap that resamples whole listeners (the cluster bootstrap: A. C. Davison and
D. V. Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8), and every p-value from a covariance that
allows any dependence within a listener (K.-Y. Liang and S. L. Zeger, Biometrika 73(1), 13-22, 1986).

Both assume that listeners are drawn independently from the population that one wants to speak of, and both need many
of them: with fewer than about ten, intervals are too narrow and p-values too small. Songs are taken as they are: two
listeners who hear the same one are treated as independent; `mixed.mixed_model` has songs as a random effect, too.
No function here makes a correlation a cause.

Rows in which a value is missing or infinite are left out. Where a number cannot be had it is NaN, and the column `note`
says why.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from cadenza_lib.data.scenes import seeded

__all__ = [
    "CONFIDENCE",
    "MIN_LISTENERS",
    "bootstrap_interval",
    "bootstrap_weights",
    "correlation_table",
    "missing_note",
    "obstacle",
    "partial_correlation_table",
    "percentiles",
    "regression_line",
    "usable",
    "weighted_line",
]

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
N_RESAMPLES = 2000

MIN_LISTENERS = 3
"""With fewer listeners nothing is inferred; this many are still far too few to be sure of anything."""

_WEIGHTS_AT_ONCE = 4_000_000  # of float64: 32 MB


def bootstrap_interval(
    table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic of rows when whole listeners are resampled.

    With a single listener there is nothing to resample, and both limits are NaN.
    """
    rows_of = list(table.groupby("listener", sort=False).indices.values())
    if len(rows_of) < 2:
        return float("nan"), float("nan")
    draws = _draws(len(rows_of), seed, n_resamples)
    return percentiles(
        np.array([statistic(table.iloc[np.concatenate([rows_of[index] for index in drawn])]) for drawn in draws])
    )


def bootstrap_weights(listener: pd.Series, seed: int = 0, n_resamples: int = N_RESAMPLES) -> Iterator[Floats]:
    """Yield how often each row counts in each resample, `(resample, row)` in batches.

    The resamples are those of `bootstrap_interval`: statistics that take weights are the same, only sooner.
    """
    code, listeners = pd.factorize(listener)
    batch = max(1, _WEIGHTS_AT_ONCE // max(1, len(code)))
    draws = _draws(len(listeners), seed, n_resamples)
    for start in range(0, n_resamples, batch):
        drawn = draws[start : start + batch]
        counts = np.zeros((len(drawn), len(listeners)))
        np.add.at(counts, (np.arange(len(drawn))[:, None], drawn), 1)
        yield counts[:, code]


def correlation_table(
    table: pd.DataFrame, predictors: str | Sequence[str] = "pta_db_hl", seed: int = 0
) -> pd.DataFrame:
    """Return the correlation of HAAQI with each predictor over ears, by system.

    Pearson's r assumes a straight line; Spearman's rho only that the one rises or falls with the other. The p-value is
    that of the slope of HAAQI on the predictor being zero, with standard errors that are robust to any dependence
    within a listener and a t distribution with one degree of freedom fewer than listeners. Since many are tested at
    once, `p_holm` is corrected for all rows of the table (S. Holm, Scand. J. Stat. 6(2), 65-70, 1979): the chance of
    even one false finding stays below 5 %, whatever the dependence between them.

    Returns
    -------
    pandas.DataFrame
        Columns: system, predictor, n_ears (rows), n_listeners, pearson_r, ci_low, ci_high, spearman_rho,
        spearman_low, spearman_high, p_value, p_holm, note.
    """
    names = [predictors] if isinstance(predictors, str) else list(predictors)
    found = []
    for system, group in table.groupby("system", sort=False):
        for predictor in names:
            rows = usable(group, [predictor])
            note = obstacle(rows, [predictor])
            numbers = [float("nan")] * 7
            if not note:
                x, y = rows[predictor].to_numpy(float), rows["haaqi"].to_numpy(float)
                ranks = [_Ranks(x), _Ranks(y)]
                pearson, spearman = [], []
                for weights in bootstrap_weights(rows["listener"], seed):
                    pearson.append(_weighted_correlation(weights, x, y))
                    spearman.append(_weighted_correlation(weights, *(rank(weights) for rank in ranks)))
                numbers = [
                    np.corrcoef(x, y)[0, 1],
                    *percentiles(np.concatenate(pearson)),
                    np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1],
                    *percentiles(np.concatenate(spearman)),
                    _cluster_p_value(x, y, rows["listener"]),
                ]
            note = note or missing_note(group, rows)
            found.append((system, predictor, len(rows), rows["listener"].nunique(), *numbers, note))
    columns = ["system", "predictor", "n_ears", "n_listeners", "pearson_r", "ci_low", "ci_high"]
    columns += ["spearman_rho", "spearman_low", "spearman_high", "p_value", "note"]
    result = pd.DataFrame(found, columns=columns)
    result.insert(len(columns) - 1, "p_holm", np.nan)
    tested = result["p_value"].notna()
    if tested.any():
        result.loc[tested, "p_holm"] = multipletests(result.loc[tested, "p_value"], method="holm")[1]
    return result


def partial_correlation_table(
    table: pd.DataFrame, questions: Sequence[tuple[str, str | Sequence[str]]], seed: int = 0
) -> pd.DataFrame:
    """Return the correlation of HAAQI with a predictor when others are held fixed, by system.

    It is Pearson's correlation of what is left of both after linear regression on the others. It assumes that all
    relations are straight lines, and tells nothing where predictor and others are almost the same thing: look at the
    width of the interval.

    Parameters
    ----------
    table
        As from `analysis.tidy_table`.
    questions
        Pairs of a predictor, and the column or columns held fixed.
    seed
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        Columns: system, predictor, given, n_ears, n_listeners, partial_r, ci_low, ci_high, note.
    """
    found = []
    for system, group in table.groupby("system", sort=False):
        for predictor, given in questions:
            fixed = [given] if isinstance(given, str) else list(given)
            rows = usable(group, [predictor, *fixed])
            note = obstacle(rows, [predictor, *fixed])
            values = rows[[predictor, "haaqi", *fixed]].to_numpy(float)
            if not note and np.linalg.cond(stats.zscore(np.delete(values, 1, axis=1))) > 1e6:
                note = f"{predictor} is a linear function of {', '.join(fixed)} here"
            numbers = [float("nan")] * 3
            if not note:
                batches = [_partial(weights, values) for weights in bootstrap_weights(rows["listener"], seed)]
                numbers = [_partial(np.ones((1, len(rows))), values)[0], *percentiles(np.concatenate(batches))]
            note = note or missing_note(group, rows)
            size = (len(rows), rows["listener"].nunique())
            found.append((system, predictor, ", ".join(fixed), *size, *numbers, note))
    columns = ["system", "predictor", "given", "n_ears", "n_listeners", "partial_r", "ci_low", "ci_high", "note"]
    return pd.DataFrame(found, columns=columns)


def regression_line(
    table: pd.DataFrame, predictor: str = "pta_db_hl", seed: int = 0, n_points: int = 50
) -> pd.DataFrame:
    """Return the least-squares line of HAAQI on a predictor, with a pointwise 95 % band over listeners.

    It assumes a straight line, which HAAQI, bounded by 0 and 1, cannot follow for ever: it is not drawn beyond the
    data. Empty if there are fewer than three listeners or something is constant.

    Returns
    -------
    pandas.DataFrame
        Columns: the predictor, haaqi, ci_low, ci_high.
    """
    rows = usable(table, [predictor])
    if obstacle(rows, [predictor]):
        return pd.DataFrame(columns=[predictor, "haaqi", "ci_low", "ci_high"], dtype=float)
    x, y = rows[predictor].to_numpy(float), rows["haaqi"].to_numpy(float)
    grid = np.linspace(x.min(), x.max(), n_points)
    lines = []
    for weights in bootstrap_weights(rows["listener"], seed):
        slope, intercept = weighted_line(weights, x, y)
        lines.append(intercept[:, None] + slope[:, None] * grid)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(np.concatenate(lines), [tail, 1 - tail], axis=0)
    slope, intercept = weighted_line(np.ones((1, len(x))), x, y)
    return pd.DataFrame({predictor: grid, "haaqi": intercept + slope * grid, "ci_low": low, "ci_high": high})


def usable(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows in which HAAQI and all these columns are finite numbers."""
    return table[np.isfinite(table[["haaqi", *columns]].to_numpy(float)).all(axis=1)]


def obstacle(rows: pd.DataFrame, columns: Sequence[str]) -> str:
    """Say why nothing can be inferred from these rows, or nothing."""
    if rows.empty:
        return f"no row has both HAAQI and {', '.join(columns)}"
    if (count := rows["listener"].nunique()) < MIN_LISTENERS:
        return f"not enough data: {count} listener{'s'[: count > 1]}, at least {MIN_LISTENERS} are needed"
    for name in ("haaqi", *columns):
        if np.ptp(rows[name].to_numpy(float)) == 0:
            return f"{name} is the same everywhere"
    return ""


def missing_note(group: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Say how many rows of a group are not among those that were used, or nothing."""
    left_out = len(group) - len(rows)
    return f"{left_out} of {len(group)} rows lack a value" if left_out else ""


def weighted_line(weights: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return slope and intercept of the least-squares line for each row of weights `(resample, row)`."""
    total = weights.sum(1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    variance = weights @ x**2 / total - mean_x**2
    variance[variance <= 1e-12 * np.var(x)] = np.nan  # a resample in which all ears are the same has no slope
    slope = (weights @ (x * y) / total - mean_x * mean_y) / variance
    return slope, mean_y - slope * mean_x


def percentiles(values: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of bootstrapped values without those that do not exist."""
    tail = (1 - CONFIDENCE) / 2
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


class _Ranks:
    """Midranks of one column for any weights: what `scipy.stats.rankdata` gives when rows are repeated."""

    def __init__(self, values: Floats) -> None:
        self._order = np.argsort(values, kind="stable")
        ordered = values[self._order]
        self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self._group = np.empty(len(values), int)
        self._group[self._order] = np.repeat(np.arange(len(self._starts)), np.diff(np.r_[self._starts, len(values)]))

    def __call__(self, weights: Floats) -> Floats:
        size = np.add.reduceat(weights[:, self._order], self._starts, axis=1)  # (resample, group of equal values)
        return (np.cumsum(size, axis=1) - (size - 1) / 2)[:, self._group]


def _weighted_correlation(weights: Floats, x: Floats, y: Floats) -> Floats:
    """Return Pearson's r for each row of weights; x and y are `(row,)` or `(resample, row)`."""
    total = weights.sum(1, keepdims=True)
    x = x - (weights * x).sum(1, keepdims=True) / total
    y = y - (weights * y).sum(1, keepdims=True) / total
    spread = np.sqrt((weights * x**2).sum(1) * (weights * y**2).sum(1))
    spread[spread < 1e-12 * total[:, 0]] = np.nan  # a resample in which something is constant
    return (weights * x * y).sum(1) / spread


def _partial(weights: Floats, values: Floats) -> Floats:
    """Return the partial correlation of the first two columns given the others, for each row of weights."""
    scaled = stats.zscore(values)
    total = weights.sum(1)
    mean = weights @ scaled / total[:, None]
    second = np.einsum("br,ri,rj->bij", weights, scaled, scaled, optimize=True) / total[:, None, None]
    covariance = second - mean[:, :, None] * mean[:, None, :]
    result = np.full(len(weights), np.nan)
    sound = np.linalg.cond(covariance) < 1e12  # a resample may have too few different ears
    precision = np.linalg.inv(covariance[sound])
    result[sound] = -precision[:, 0, 1] / np.sqrt(precision[:, 0, 0] * precision[:, 1, 1])
    return result


def _cluster_p_value(x: Floats, y: Floats, listener: pd.Series) -> float:
    """Return the p-value of the slope, robust to dependence within listeners."""
    groups = pd.factorize(listener)[0]
    fit = sm.OLS(y, sm.add_constant((x - x.mean()) / x.std())).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    return float(fit.pvalues[1])


def _draws(n_listeners: int, seed: int, n_resamples: int) -> NDArray[np.int64]:
    """Return which listeners are in each resample, `(resample, listener)`."""
    return seeded(seed).integers(max(1, n_listeners), size=(n_resamples, n_listeners))
