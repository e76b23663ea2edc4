"""Statistics of repeated measures: intervals, correlations, partial correlations, regression and mixed models.

The rows of a table are ears in scenes, and they are not independent: a listener hears several scenes with the same two
ears. So every interval comes from a bootstrap that resamples whole listeners (the cluster bootstrap: A. C. Davison and
D. V. Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8), and every p-value from a covariance that
allows any dependence within a listener (K.-Y. Liang and S. L. Zeger, Biometrika 73(1), 13-22, 1986). Systems are
compared over listeners and songs at once, with `mean_interval`.

All assume that listeners (and songs) are drawn independently from the population that a statement is about, and need
many of them: with fewer than about ten, intervals are too narrow and p-values too small. Elsewhere than in
`mean_interval` and `mixed_model`, songs are taken as they are: two listeners who hear the same one are treated as
independent. No function here makes a correlation a cause.

Rows in which a value is missing or infinite are left out. Where a number cannot be computed it is NaN, and the column
`note` says why.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from cadenza_lib.data.scenes import seeded

__all__ = [
    "MIN_LISTENERS",
    "bootstrap",
    "correlation_table",
    "mean_interval",
    "missing_note",
    "mixed_model",
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

MAX_ROWS = 2000
"""A mixed model of more rows takes minutes, so it is fitted to as many songs as fit into these."""

_WEIGHTS_AT_ONCE = 4_000_000  # of float64: 32 MB


def bootstrap(
    listener: pd.Series, statistic: Callable[[Floats], Floats], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Floats:
    """Return a statistic of the rows for each resample of whole listeners, `(resample, ...)`.

    Parameters
    ----------
    listener
        The listener of each row.
    statistic
        Takes how often each row counts in some of the resamples, `(resample, row)`, and returns a value for each.
    seed, n_resamples
        Of the resamples.
    """
    code, listeners = pd.factorize(listener)
    draws = seeded(seed).integers(max(1, len(listeners)), size=(n_resamples, len(listeners)))
    batch = max(1, _WEIGHTS_AT_ONCE // max(1, len(code)))
    values = []
    for start in range(0, n_resamples, batch):
        drawn = draws[start : start + batch]
        counts = np.zeros(drawn.shape)
        np.add.at(counts, (np.arange(len(drawn))[:, None], drawn), 1)
        values.append(statistic(counts[:, code]))
    return np.concatenate(values)


def percentiles(values: Floats) -> Floats:
    """Return the 95 % percentile interval of bootstrapped values without those that are NaN, `(limit, ...)`."""
    if np.isnan(values).all():
        return np.full((2, *values.shape[1:]), np.nan)
    tail = (1 - CONFIDENCE) / 2
    return np.nanquantile(values, [tail, 1 - tail], axis=0)


def mean_interval(values: Floats, listener: pd.Series, song: pd.Series) -> Floats:
    """Return the 95 % interval over listeners and songs of the mean of rows, `(limit, ...)`.

    Rows of a listener may depend on each other in any way, and so may rows of a song: the variance of the mean is that
    over listeners plus that over songs minus that over pairs of both (A. C. Cameron, J. B. Gelbach and D. L. Miller,
    J. Bus. Econ. Stat. 29(2), 238-249, 2011), and at least that over listeners and that over songs. The interval is
    that of Student's t with as many degrees of freedom as there are listeners or songs, whichever are fewer, less one.
    With a single listener or a single song, both limits are NaN.

    Parameters
    ----------
    values
        Shape `(row,)` or `(row, column)`.
    listener, song
        Of each row.
    """
    groups = pd.DataFrame({"listener": listener.to_numpy(), "song": song.to_numpy()})
    fewest = int(groups.nunique().min()) if len(groups) else 0
    if fewest < 2:
        return np.full((2, *values.shape[1:]), np.nan)
    mean = values.mean(0)
    residuals = pd.DataFrame(np.reshape(values - mean, (len(values), -1)))

    def variance(by: list[str]) -> Floats:
        sums = residuals.groupby([groups[name] for name in by]).sum().to_numpy()
        return (sums**2).sum(0) / len(values) ** 2 * len(sums) / (len(sums) - 1)

    over_listeners, over_songs = variance(["listener"]), variance(["song"])
    both = over_listeners + over_songs - variance(["listener", "song"])
    error = np.sqrt(np.maximum.reduce([both, over_listeners, over_songs])).reshape(mean.shape)
    return mean + np.multiply.outer(stats.t.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], fewest - 1), error)


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
    results = []
    for system, group in table.groupby("system", sort=False):
        for predictor in [predictors] if isinstance(predictors, str) else predictors:
            rows = usable(group, [predictor])
            note = obstacle(rows, [predictor])
            numbers = [np.nan] * 7 if note else _correlations(rows, predictor, seed)
            size = (len(rows), rows["listener"].nunique())
            results.append((system, predictor, *size, *numbers, np.nan, note or missing_note(group, rows)))
    columns = ["system", "predictor", "n_ears", "n_listeners", "pearson_r", "ci_low", "ci_high"]
    columns += ["spearman_rho", "spearman_low", "spearman_high", "p_value", "p_holm", "note"]
    correlations = pd.DataFrame(results, columns=columns)
    tested = correlations["p_value"].notna()
    if tested.any():
        correlations.loc[tested, "p_holm"] = multipletests(correlations.loc[tested, "p_value"], method="holm")[1]
    return correlations


def partial_correlation_table(
    table: pd.DataFrame, questions: Sequence[tuple[str, str | Sequence[str]]], seed: int = 0
) -> pd.DataFrame:
    """Return the correlation of HAAQI with a predictor when others are held fixed, by system.

    It is Pearson's correlation of what is left of both after linear regression on the others. It assumes that all
    relations are straight lines, and means nothing where predictor and others are almost the same thing: look at the
    width of the interval.

    Parameters
    ----------
    table
        As from `tables.tidy_table`.
    questions
        Pairs of a predictor, and the column or columns held fixed.
    seed
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        Columns: system, predictor, given, n_ears, n_listeners, partial_r, ci_low, ci_high, note.
    """
    results = []
    for system, group in table.groupby("system", sort=False):
        for predictor, given in questions:
            fixed = [given] if isinstance(given, str) else list(given)
            rows = usable(group, [predictor, *fixed])
            note = obstacle(rows, [predictor, *fixed])
            values = rows[["haaqi", predictor, *fixed]].to_numpy(float)
            if not note and np.linalg.cond(stats.zscore(values[:, 1:])) > 1e6:
                note = f"{predictor} is a linear function of {', '.join(fixed)} here"
            numbers = [np.nan] * 3 if note else _partial_correlation(values, rows["listener"], seed)
            size = (len(rows), rows["listener"].nunique())
            note = note or missing_note(group, rows)
            results.append((system, predictor, ", ".join(fixed), *size, *numbers, note))
    columns = ["system", "predictor", "given", "n_ears", "n_listeners", "partial_r", "ci_low", "ci_high", "note"]
    return pd.DataFrame(results, columns=columns)


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

    def line(weights: Floats) -> Floats:
        slope, intercept = weighted_line(weights, x, y)
        return intercept[:, None] + slope[:, None] * grid

    low, high = percentiles(bootstrap(rows["listener"], line, seed))
    return pd.DataFrame({predictor: grid, "haaqi": line(np.ones((1, len(x))))[0], "ci_low": low, "ci_high": high})


def mixed_model(table: pd.DataFrame, predictors: Sequence[str] = ("pta_db_hl",), seed: int = 0) -> pd.DataFrame:
    """Return a linear mixed model of HAAQI with crossed random effects of listener and song (column music), by system.

    HAAQI = intercept + slopes * predictors + listener + song + residual. It assumes that the effects of listeners and
    of songs and the residuals are normal, independent of each other and of the predictors, and of equal spread
    everywhere. Fitted by restricted maximum likelihood (statsmodels' MixedLM); intervals and p-values are Wald's, which
    are too small when there are few listeners. A song alone has no variance, so its effect is left out then.

    Parameters
    ----------
    table
        As from `tables.tidy_table`.
    predictors
        Columns with fixed effects.
    seed
        Chooses songs where there are more rows than `MAX_ROWS`.

    Returns
    -------
    pandas.DataFrame
        One row per term: the intercept and each predictor (estimate, se, ci_low, ci_high, p_value), and the standard
        deviations "sd listener", "sd song" and "sd residual". Columns: system, term, estimate, se, ci_low, ci_high,
        p_value, n_ears, n_listeners, n_songs, note.
    """
    results = []
    for system, group in table.groupby("system", sort=False):
        rows = usable(group, predictors)
        terms, note = [("intercept", *[np.nan] * 5)], obstacle(rows, predictors)
        if not note:
            notes = [missing_note(group, rows)]
            rows, sample_note = _sample_of_songs(rows, seed)
            try:
                terms, fit_note = _fit_mixed_model(rows, predictors)
            except (
                np.linalg.LinAlgError,
                ValueError,
            ) as error:  # too few rows, or predictors that depend on each other
                fit_note = f"not enough data: this model cannot be fitted to {len(rows)} rows ({error})"
            note = "; ".join(filter(None, [sample_note, fit_note, *notes]))
        size = (len(rows), rows["listener"].nunique(), rows["music"].nunique())
        results += [(system, *term, *size, note) for term in terms]
    columns = ["system", "term", "estimate", "se", "ci_low", "ci_high", "p_value"]
    return pd.DataFrame(results, columns=[*columns, "n_ears", "n_listeners", "n_songs", "note"])


def usable(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows in which HAAQI and all these columns are finite numbers."""
    return table[np.isfinite(table[["haaqi", *columns]].to_numpy(float)).all(axis=1)]


def obstacle(rows: pd.DataFrame, columns: Sequence[str]) -> str:
    """Return why nothing can be inferred from these rows, or an empty string."""
    if rows.empty:
        return f"no row has both HAAQI and {', '.join(columns)}"
    if (count := rows["listener"].nunique()) < MIN_LISTENERS:
        return f"not enough data: {count} listener{'s'[: count > 1]}, at least {MIN_LISTENERS} are needed"
    for name in ("haaqi", *columns):
        if np.ptp(rows[name].to_numpy(float)) == 0:
            return f"{name} is the same everywhere"
    return ""


def missing_note(group: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Return how many rows of a group are not among those that were used, or an empty string."""
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


def _correlations(rows: pd.DataFrame, predictor: str, seed: int) -> list[float]:
    """Return Pearson's r and Spearman's rho, each followed by its interval, and the p-value of the slope."""
    x, y = rows[predictor].to_numpy(float), rows["haaqi"].to_numpy(float)

    def pearson_and_spearman(weights: Floats) -> Floats:
        pearson = _weighted_correlation(weights, x, y)
        spearman = _weighted_correlation(weights, _weighted_ranks(weights, x), _weighted_ranks(weights, y))
        return np.stack([pearson, spearman], axis=1)

    pearson_limits, spearman_limits = percentiles(bootstrap(rows["listener"], pearson_and_spearman, seed)).T
    p_value = _cluster_p_value(x, y, rows["listener"])
    return [np.corrcoef(x, y)[0, 1], *pearson_limits, stats.spearmanr(x, y).statistic, *spearman_limits, p_value]


def _weighted_ranks(weights: Floats, values: Floats) -> Floats:
    """Return the midranks that `scipy.stats.rankdata` gives when rows are repeated, `(resample, row)`."""
    distinct, rank = np.unique(values, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[order], np.arange(len(distinct)))
    count = np.add.reduceat(weights[:, order], starts, axis=1)  # (resample, distinct value)
    return (np.cumsum(count, axis=1) - (count - 1) / 2)[:, rank]


def _weighted_correlation(weights: Floats, x: Floats, y: Floats) -> Floats:
    """Return Pearson's r for each row of weights; x and y are `(row,)` or `(resample, row)`."""
    total = weights.sum(1, keepdims=True)
    x = x - (weights * x).sum(1, keepdims=True) / total
    y = y - (weights * y).sum(1, keepdims=True) / total
    spread = np.sqrt((weights * x**2).sum(1) * (weights * y**2).sum(1))
    spread[spread < 1e-12 * total[:, 0]] = np.nan  # a resample in which something is constant
    return (weights * x * y).sum(1) / spread


def _cluster_p_value(x: Floats, y: Floats, listener: pd.Series) -> float:
    """Return the p-value of the slope, robust to dependence within listeners."""
    groups = pd.factorize(listener)[0]
    fit = sm.OLS(y, sm.add_constant((x - x.mean()) / x.std())).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    return float(fit.pvalues[1])


def _partial_correlation(values: Floats, listener: pd.Series, seed: int) -> list[float]:
    """Return the partial correlation of the first two columns given the others, and its interval."""
    scaled = stats.zscore(values)

    def partial(weights: Floats) -> Floats:
        total = weights.sum(1)
        mean = weights @ scaled / total[:, None]
        second = np.einsum("br,ri,rj->bij", weights, scaled, scaled, optimize=True) / total[:, None, None]
        covariance = second - mean[:, :, None] * mean[:, None, :]
        correlation = np.full(len(weights), np.nan)
        regular = np.linalg.cond(covariance) < 1e12  # a resample may have too few different ears
        precision = np.linalg.inv(covariance[regular])
        correlation[regular] = -precision[:, 0, 1] / np.sqrt(precision[:, 0, 0] * precision[:, 1, 1])
        return correlation

    return [*partial(np.ones((1, len(values)))), *percentiles(bootstrap(listener, partial, seed))]


def _fit_mixed_model(rows: pd.DataFrame, predictors: Sequence[str]) -> tuple[list[tuple], str]:
    """Return the terms of the model, and a note on the fit."""
    effects = [effect for effect in ("listener", "music") if rows[effect].nunique() > 1]
    spread = rows[list(predictors)].std()  # at unequal scales the optimiser stops early
    data = rows.assign(everything=1, **rows[list(predictors)] / spread)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each optimiser warns, though the next one may converge
        fit = sm.MixedLM.from_formula(
            f"haaqi ~ {' + '.join(predictors)}",
            data,
            groups="everything",
            vc_formula={effect: f"0 + C({effect})" for effect in effects},
        ).fit(reml=True, method=["bfgs", "powell", "lbfgs"])
        limits = fit.conf_int(1 - CONFIDENCE)
    terms: list[tuple] = []
    for name, estimate in fit.fe_params.items():
        scaled = np.array([estimate, fit.bse_fe[name], *limits.loc[name]]) / spread.get(name, 1.0)
        terms.append((name.replace("Intercept", "intercept"), *scaled, fit.pvalues[name]))
    variances = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True)) | {"residual": fit.scale}
    for name in [*effects, "residual"]:
        terms.append((f"sd {name.replace('music', 'song')}", np.sqrt(variances[name]), *[np.nan] * 4))
    notes = [] if "music" in effects else ["one song only, so no effect of songs"]
    if not fit.converged:
        notes.append("the fit did not converge: too few listeners or songs for this model")
    elif any(np.sqrt(variances[effect]) < 1e-3 * np.std(rows["haaqi"]) for effect in effects):
        notes.append("a variance is estimated as zero, so its interval is too narrow")
    return terms, "; ".join(notes)


def _sample_of_songs(rows: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, str]:
    """Return the rows of randomly chosen songs if there are too many rows, and a note that says so."""
    if len(rows) <= MAX_ROWS:
        return rows, ""
    songs = seeded(seed).permutation(np.unique(rows["music"]))
    size = rows["music"].value_counts()[songs].cumsum()
    chosen = songs[: max(1, int((size <= MAX_ROWS).sum()))]
    return rows[rows["music"].isin(chosen)], f"fitted to {len(chosen)} of {len(songs)} songs"
