"""Figures of HAAQI and the ears that hear it: correlations, asymmetry, severity, gains, and what clipping does."""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from cadenza_lib.analysis.causes import official_scores
from cadenza_lib.analysis.statistics import obstacle, regression_line, usable
from cadenza_lib.core.conventions import EARS, STEMS
from cadenza_lib.data.listeners import ASYMMETRY_DB, SEVERITY_CLASSES
from cadenza_lib.figures.common import EAR_STYLE, not_enough_data, system_names

__all__ = [
    "asymmetric_listeners",
    "clip_effect",
    "clipped_share",
    "correlation_heatmap",
    "haaqi_against_pta",
    "haaqi_by_gain",
    "haaqi_by_severity",
    "level_curves",
    "level_gains",
    "losses",
]

_LABELS = {
    "pta_db_hl": "PTA\n0.5-4k",
    "low_db_hl": "low\n0.5-2k",
    "high_db_hl": "high\n2-8k",
    "slope_db_per_octave": "slope",
    "asymmetry_db": "asym-\nmetry",
    "clipped_share": "clipped\nshare",
}
_NAMES = {"pearson_r": "Pearson's r", "spearman_rho": "Spearman's rho"}
_HAAQI_LIMITS = (0, 1.02)
_PTA_LABEL = "Pure-tone average 0.5-4 kHz (dB HL)"
_SEVERITIES = [name for name, _ in SEVERITY_CLASSES]
_SEVERITY_COLORS = ("#0173b2", "#029e73", "#de8f05", "#d55e00", "#cc78bc", "#7a3e9d", "#1d2733")


def haaqi_against_pta(table: pd.DataFrame, axes: Axes, title: str | None = None) -> Axes:
    """Draw HAAQI of each ear against its pure-tone average, with a regression line and its 95 % band over listeners.

    Parameters
    ----------
    table
        Rows of one system, as from `tables.tidy_table`.
    axes, title
        To draw into; the title is by default the system and the number of ears.
    """
    rows = usable(table, ["pta_db_hl"])
    count = f"{len(rows)} ears" if len(rows) == len(table) else f"{len(rows)} of {len(table)} ears have both"
    axes.set_title(title or f"{system_names(table)} ({count})")
    if rows.empty:
        return not_enough_data(axes, obstacle(rows, ["pta_db_hl"]))
    _scatter_ears(rows, axes, rows["haaqi"])
    _regression(rows, axes, "0.35")
    axes.set(xlabel=_PTA_LABEL, ylabel="HAAQI", ylim=_HAAQI_LIMITS)
    return axes


def correlation_heatmap(
    correlations: pd.DataFrame, axes: Axes, value: str = "pearson_r", title: str | None = None, note: str = ""
) -> Axes:
    """Draw the correlation of HAAQI with each predictor, a row for each system; a star where p after Holm is < 0.05.

    Parameters
    ----------
    correlations
        As from `statistics.correlation_table`.
    axes, title
        To draw into.
    value
        "pearson_r" or "spearman_rho".
    note
        A remark below the axes, such as `listeners.measurement_note`.
    """
    axes.set_title(title or f"Correlation of HAAQI with hearing loss ({_NAMES[value]})")
    if correlations[value].isna().all():
        return not_enough_data(axes, next(iter(correlations["note"]), "no scores"))
    systems, predictors = correlations["system"].unique(), correlations["predictor"].unique()
    grid = correlations.set_index(["system", "predictor"])
    values = grid[value].unstack().loc[systems, predictors]
    star = (grid["p_holm"] < 0.05).unstack().loc[systems, predictors]
    cells = values.map(lambda r: "n/a" if np.isnan(r) else f"{r:.2f}") + np.where(star, "*", "")
    axes.set_facecolor("#e4e4e4")  # cells without a number
    sns.heatmap(values, vmin=-1, vmax=1, cmap="vlag", ax=axes, linewidths=0.5, cbar_kws={"label": "correlation"})
    for (row, column), text in np.ndenumerate(cells.to_numpy()):  # seaborn leaves out cells without a number
        color = "white" if abs(values.to_numpy()[row, column]) > 0.6 else "0.15"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(np.arange(len(predictors)) + 0.5, [_predictor_label(name) for name in predictors], rotation=0)
    axes.set_yticks(np.arange(len(systems)) + 0.5, systems, rotation=0)
    explanation = "Threshold at (Hz), averages, and clipping; *: p < 0.05 after Holm's correction"
    axes.set(xlabel="\n".join([explanation, *textwrap.wrap(note, 100)]), ylabel="")
    axes.grid(False)
    return axes


def asymmetric_listeners(table: pd.DataFrame, axes: Axes, featured: str, title: str | None = None) -> Axes:
    """Draw the two ears of each asymmetric listener as a pair: mean HAAQI against the loss from 500 to 2000 Hz.

    Parameters
    ----------
    table
        Rows of one system, as from `tables.tidy_table`.
    axes, title
        To draw into; the title is by default the system.
    featured
        Listener who is drawn black and named; others are those with `ASYMMETRY_DB` between their ears.
    """
    axes.set_title(title or system_names(table))
    rows = usable(table, ["low_db_hl"])
    rows = rows[(rows["asymmetry_db"].abs() >= ASYMMETRY_DB) | (rows["listener"] == featured)]
    means = rows.groupby(["listener", "ear"])[["low_db_hl", "haaqi"]].mean()
    pairs = {name: ears.droplevel("listener") for name, ears in means.groupby("listener") if len(ears) == len(EARS)}
    if not pairs:
        return not_enough_data(axes, "no asymmetric listener with scores of both ears")
    for name, ears in pairs.items():
        color, width, size = ("0.1", 2, 70) if name == featured else ("0.7", 1, 32)
        axes.plot(ears["low_db_hl"], ears["haaqi"], color=color, linewidth=width, zorder=1)
        for ear in EARS:
            axes.scatter(ears["low_db_hl"][ear], ears["haaqi"][ear], s=size, zorder=2, **EAR_STYLE[ear])
    for ear in EARS:
        axes.scatter([], [], s=32, label=f"{ear} ear", **EAR_STYLE[ear])
    if featured in pairs:
        axes.plot([], [], color="0.1", linewidth=2, label=featured)
    axes.legend(loc="best")
    axes.set(xlabel="Mean threshold 500-2000 Hz (dB HL)", ylabel="HAAQI, mean over scenes", ylim=_HAAQI_LIMITS)
    return axes


def haaqi_by_severity(table: pd.DataFrame, axes: Axes, title: str = "HAAQI by hearing loss of the better ear") -> Axes:
    """Draw the distribution of listeners' mean HAAQI by severity class (Humes 2019), a colour for each system.

    Parameters
    ----------
    table
        As from `tables.tidy_table`.
    axes, title
        To draw into.
    """
    axes.set_title(title)
    people = table.groupby(["system", "listener", "severity"], sort=False)["haaqi"].mean().dropna().reset_index()
    if people.empty:
        return not_enough_data(axes, "no scores")
    size = people.groupby("severity")["listener"].nunique()
    order = [name for name in _SEVERITIES if name in size]
    look = {"data": people, "x": "severity", "y": "haaqi", "order": order, "hue": "system", "palette": "colorblind"}
    sns.boxplot(**look, ax=axes, showfliers=False, linewidth=0.8, width=0.7, boxprops={"alpha": 0.45}, legend=True)
    sns.stripplot(**look, ax=axes, dodge=True, size=4, jitter=0.08, legend=False)
    axes.set_xticks(range(len(order)), [f"{name}\n(n = {size[name]})" for name in order])
    unknown = table.loc[table["severity"].isna(), "listener"].nunique()
    left_out = f"; without it, left out: {unknown}" if unknown else ""
    xlabel = f"Severity class, better-ear pure-tone average{left_out}"
    axes.set(xlabel=xlabel, ylabel="HAAQI, mean of each listener", ylim=_HAAQI_LIMITS)
    axes.legend(title="System", loc="best")
    return axes


def haaqi_by_gain(gains: pd.DataFrame, axes: Axes, title: str | None = None) -> Axes:
    """Draw mean HAAQI by the gain of each stem, with 95 % intervals over listeners.

    Parameters
    ----------
    gains
        Rows of one system of `tables.gain_table`.
    axes, title
        To draw into; the title is by default the system.
    """
    axes.set_title(title or system_names(gains))
    if gains.empty:
        return not_enough_data(axes, "the gains of these scenes are not known")
    for place, stem in enumerate(STEMS):
        rows = gains[gains["stem"] == stem].sort_values("gain_db")
        shifted = rows["gain_db"] + 0.35 * (place - 1.5)  # so that intervals do not hide each other
        spread = np.array([rows["haaqi"] - rows["ci_low"], rows["ci_high"] - rows["haaqi"]])
        axes.errorbar(shifted, rows["haaqi"], yerr=spread, fmt="os^D"[place] + "-", markersize=4, capsize=2, label=stem)
    axes.set_xticks(sorted(gains["gain_db"].unique()))
    axes.set(xlabel="Gain of the stem (dB)", ylabel="HAAQI, mean over ears", ylim=_HAAQI_LIMITS)
    axes.legend(loc="best", ncols=2)
    return axes


def clipped_share(levels: pd.DataFrame, axes: Axes, title: str = "What the output stage clips") -> Axes:
    """Draw the share of clipped samples of each ear against its pure-tone average, at the official level.

    Parameters
    ----------
    levels
        Rows of one system, as from `causes.level_table`.
    axes, title
        To draw into.
    """
    axes.set_title(title)
    rows = official_scores(levels).dropna(subset=["clipped_share", "pta_db_hl"])
    if rows.empty:
        return not_enough_data(axes, "clipping is not known")
    _scatter_ears(rows, axes, 100 * rows["clipped_share"])
    axes.set(xlabel=_PTA_LABEL, ylabel="Clipped samples (%)")
    axes.legend(loc="best")
    return axes


def clip_effect(levels: pd.DataFrame, axes: Axes, title: str | None = None) -> Axes:
    """Draw HAAQI of each ear against its pure-tone average with the official clip and without.

    Parameters
    ----------
    levels
        Rows of one system, as from `causes.level_table`.
    axes, title
        To draw into; the title is by default the system.
    """
    axes.set_title(title or system_names(levels))
    if usable(official_scores(levels), ["pta_db_hl"]).empty:
        return not_enough_data(axes, "no scores with and without the clip")
    _scatter_with_line(official_scores(levels), axes, label="official clip", marker="o", color="#de8f05")
    _scatter_with_line(official_scores(levels, clip=False), axes, label="no clip", marker="^", color="#0173b2")
    axes.set(xlabel=_PTA_LABEL, ylabel="HAAQI", ylim=_HAAQI_LIMITS)
    axes.legend(loc="lower left")
    return axes


def losses(table: pd.DataFrame, axes: Axes, title: str = "What each ear loses, and to what") -> Axes:
    """Draw what separation and clipping cost each ear against its pure-tone average.

    Parameters
    ----------
    table
        As from `causes.losses_table`.
    axes, title
        To draw into.
    """
    axes.set_title(title)
    lost = table.assign(haaqi=table["lost"])
    if usable(lost, ["pta_db_hl"]).empty:
        return not_enough_data(axes, "no scores with and without the clip")
    for cause, marker, color in (("separation", "^", "#0173b2"), ("clipping", "o", "#de8f05")):
        _scatter_with_line(lost[lost["cause"] == cause], axes, label=cause, marker=marker, color=color)
    axes.set(xlabel=_PTA_LABEL, ylabel="HAAQI lost")
    axes.legend(loc="best")
    return axes


def level_curves(levels: pd.DataFrame, axes: Axes, title: str | None = None) -> Axes:
    """Draw mean HAAQI over output levels by severity class: solid with the clip, dashed without.

    Parameters
    ----------
    levels
        Rows of one system, as from `causes.level_table`.
    axes, title
        To draw into; the title is by default the system.
    """
    axes.set_title(title or system_names(levels))
    rows = usable(levels, [])
    if rows.empty:
        return not_enough_data(axes, "no scores over output levels")
    for severity, marker, color in zip(_SEVERITIES, "os^DvPX", _SEVERITY_COLORS, strict=True):
        for clip, line in ((True, f"{marker}-"), (False, "--")):
            curve = rows[(rows["severity"] == severity) & (rows["clip"].astype(bool) == clip)]
            mean = curve.groupby("output_level_db")["haaqi"].mean()
            if len(mean) > 1:
                label = f"{severity} (n = {curve['listener'].nunique()})" if clip else None
                axes.plot(mean.index, mean, line, color=color, markersize=4, label=label)
    axes.set_xticks(sorted(rows["output_level_db"].unique()))
    axes.set(xlabel="Output level (dB), 0 is official", ylabel="HAAQI, mean over ears", ylim=_HAAQI_LIMITS)
    axes.legend(title="Better ear", loc="best", fontsize=7)
    return axes


def level_gains(choices: pd.DataFrame, axes: Axes, title: str = "Gain of an output level, on other songs") -> Axes:
    """Draw what each listener gains, on songs it was not chosen on, by a level of their own and by one for all.

    Parameters
    ----------
    choices
        As from `causes.output_level_choices`.
    axes, title
        To draw into.
    """
    axes.set_title(title)
    if choices.empty:
        return not_enough_data(axes, "no listener has scores of two songs")
    x, common, own = choices["better_ear_pta_db_hl"], choices["gain_common"], choices["gain_own"]
    axes.axhline(0, color="0.4", linewidth=1)
    axes.vlines(x, common, own, color="0.8", linewidth=1, zorder=1)
    axes.scatter(x, common, s=24, marker="s", facecolors="none", edgecolors="0.45", label="one for all")
    axes.scatter(x, own, s=30, color="#029e73", label="own")
    for point, level_db in zip(zip(x, own, strict=True), choices["own_level_db"], strict=True):
        axes.annotate(f"{level_db:g}", point, (4, 3), textcoords="offset points", fontsize=7)
    axes.set(xlabel="Better-ear pure-tone average (dB HL)", ylabel="Gain in HAAQI over 0 dB")
    axes.legend(title="Output level (own: dB)", loc="best")
    return axes


def _scatter_ears(rows: pd.DataFrame, axes: Axes, values: pd.Series) -> None:
    """Draw a value of each ear against its pure-tone average, in the colour and marker of its side."""
    for ear in EARS:
        side = rows["ear"] == ear
        axes.scatter(rows["pta_db_hl"][side], values[side], s=32, label=f"{ear} ear", **EAR_STYLE[ear])


def _scatter_with_line(table: pd.DataFrame, axes: Axes, color: str, **look: Any) -> None:
    """Draw HAAQI of each ear against its pure-tone average in one colour, with the regression line."""
    rows = usable(table, ["pta_db_hl"])
    axes.scatter(rows["pta_db_hl"], rows["haaqi"], s=20, color=color, **look)
    _regression(rows, axes, color)


def _regression(rows: pd.DataFrame, axes: Axes, color: str) -> None:
    """Draw the regression of HAAQI on the pure-tone average and its 95 % band over listeners, or say why not."""
    line = regression_line(rows)
    if line.empty:
        reason = f"no line: {obstacle(rows, ['pta_db_hl'])}"
        axes.text(0.02, 0.02, reason, transform=axes.transAxes, fontsize=7, color="0.35")
        return
    axes.plot(line["pta_db_hl"], line["haaqi"], color=color)
    axes.fill_between(line["pta_db_hl"], line["ci_low"], line["ci_high"], color=color, alpha=0.2, linewidth=0)


def _predictor_label(predictor: str) -> str:
    """Return the short name of a column on an axis.

    >>> _predictor_label("threshold_3000_hz_db_hl")
    '3k'
    """
    if predictor.startswith("threshold_"):
        frequency = float(predictor.split("_")[1])
        return f"{frequency / 1000:g}k" if frequency >= 1000 else f"{frequency:g}"
    return _LABELS.get(predictor, predictor)
