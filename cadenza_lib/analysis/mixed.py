"""A linear mixed model of HAAQI, with listeners and songs as crossed random effects."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import statsmodels.api as sm

from cadenza_lib.analysis.statistics import CONFIDENCE, missing_note, obstacle, usable
from cadenza_lib.data.scenes import seeded

__all__ = ["MAX_ROWS", "mixed_model"]

MAX_ROWS = 2000
"""A model of more rows takes minutes, so it is fitted to as many songs as fit into these."""


def mixed_model(table: pd.DataFrame, predictors: Sequence[str] = ("pta_db_hl",), seed: int = 0) -> pd.DataFrame:
    """Return a linear mixed model of HAAQI with crossed random effects of listener and song (column music), by system.

    HAAQI = intercept + slopes * predictors + listener + song + residual. It assumes that the effects of listeners and
    of songs and the residuals are normal, independent of each other and of the predictors, and of equal spread
    everywhere. Fitted by restricted maximum likelihood (statsmodels' MixedLM); intervals and p-values are Wald's, which
    are too small when there are few listeners. A song alone has no variance, so its effect is left out then.

    Parameters
    ----------
    table
        As from `analysis.tidy_table`.
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
    found = []
    for system, group in table.groupby("system", sort=False):
        rows = usable(group, predictors)
        note = obstacle(rows, predictors)
        terms = [("intercept", *[float("nan")] * 5)]
        if not note:
            rows, note = _within_reach(rows, seed)
            try:
                terms, complaint = _fit_mixed(rows, predictors)
            except (np.linalg.LinAlgError, ValueError) as error:  # too few rows, or predictors that are one
                complaint = f"not enough data: this model cannot be fitted to {len(rows)} rows ({error})"
            note = "; ".join(filter(None, [note, complaint, missing_note(group, usable(group, predictors))]))
        size = (len(rows), rows["listener"].nunique(), rows["music"].nunique())
        found += [(system, *term, *size, note) for term in terms]
    columns = ["system", "term", "estimate", "se", "ci_low", "ci_high", "p_value"]
    return pd.DataFrame(found, columns=[*columns, "n_ears", "n_listeners", "n_songs", "note"])


def _fit_mixed(rows: pd.DataFrame, predictors: Sequence[str]) -> tuple[list[tuple], str]:
    """Return the terms of the model and what is to be said about the fit."""
    effects = [effect for effect in ("listener", "music") if rows[effect].nunique() > 1]
    spread = {name: rows[name].std() for name in predictors}  # equal scales, or the optimiser walks along one
    data = rows.assign(**{f"x{i}": rows[name] / spread[name] for i, name in enumerate(predictors)}, everything=1)
    formula = "haaqi ~ " + " + ".join(f"x{i}" for i in range(len(predictors)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an optimiser that failed before another one did not
        fit = sm.MixedLM.from_formula(
            formula, data, groups="everything", vc_formula={effect: f"0 + C({effect})" for effect in effects}
        ).fit(reml=True, method=["bfgs", "powell", "lbfgs"])
        interval = fit.conf_int(1 - CONFIDENCE)
    terms = []
    for i, name in enumerate(["intercept", *predictors]):
        key, scale = ("Intercept", 1.0) if i == 0 else (f"x{i - 1}", spread[name])
        low, high = interval.loc[key]
        numbers = [fit.fe_params[key] / scale, fit.bse_fe[key] / scale, low / scale, high / scale, fit.pvalues[key]]
        terms.append((name, *map(float, numbers)))
    variances = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True)) | {"residual": fit.scale}
    terms += [
        (f"sd {name.replace('music', 'song')}", float(np.sqrt(variances[name])), *[float("nan")] * 4)
        for name in [*effects, "residual"]
    ]
    notes = [] if "music" in effects else ["one song only, so no effect of songs"]
    if not fit.converged:
        notes.append("the fit did not converge: too few listeners or songs for this model")
    elif any(np.sqrt(variances[effect]) < 1e-3 * np.std(rows["haaqi"]) for effect in effects):
        notes.append("a variance is estimated as zero, so its interval is too narrow")
    return terms, "; ".join(notes)


def _within_reach(rows: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, str]:
    """Return the rows of randomly chosen songs if there are too many rows, and a note that says so."""
    if len(rows) <= MAX_ROWS:
        return rows, ""
    songs = seeded(seed).permutation(np.unique(rows["music"]))
    size = rows["music"].value_counts()[songs].cumsum()
    chosen = songs[: max(1, int((size <= MAX_ROWS).sum()))]
    return rows[rows["music"].isin(chosen)], f"fitted to {len(chosen)} of {len(songs)} songs"
