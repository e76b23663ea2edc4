"""Figures of HAAQI and the ears that hear it: correlations, asymmetry, severity, gains, and what clipping does."""

import textwrap

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from cadenza_lib.analysis.causes import official_scores
from cadenza_lib.analysis.statistics import obstacle, regression_line, usable
from cadenza_lib.analysis.tables import ASYMMETRY_DB
from cadenza_lib.core.conventions import EARS, STEMS
from cadenza_lib.data.listeners import SEVERITY_CLASSES
from cadenza_lib.figures.common import EAR_STYLE, not_enough_data

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
    "predictor_label",
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
_PTA_LABEL = "Pure-tone average 0.5-4 kHz (dB HL)"
_SEVERITIES = [name for name, _ in SEVERITY_CLASSES]
_SEVERITY_COLORS = dict(
    zip(_SEVERITIES, ("#0173b2", "#029e73", "#de8f05", "#d55e00", "#cc78bc", "#7a3e9d", "#1d2733"), strict=True)
)
_CAUSE_COLORS = {"separation": "#0173b2", "clipping": "#de8f05", "rest": "#949494"}
_CLIP_COLORS = {True: "#de8f05", False: "#0173b2"}


def predictor_label(predictor: str) -> str:
    """Return how a column is called on an axis.

    >>> predictor_label("threshold_3000_hz_db_hl")
    '3k'
    """
    if predictor.startswith("threshold_"):
        frequency = float(predictor.split("_")[1])
        return f"{frequency / 1000:g}k" if frequency >= 1000 else f"{frequency:g}"
    return _LABELS.get(predictor, predictor)


def haaqi_against_pta(table: pd.DataFrame, axes: Axes, title: str | None = None) -> Axes:
    """Draw HAAQI of each ear against its pure-tone average, with a regression line and its 95 % band over listeners.

    Parameters
    ----------
    table
        Rows of one system, as from `analysis.tidy_table`.
    axes
        To draw into.
    title
        Of the axes; by default the system and the number of ears.
    """
    known = usable(table, ["pta_db_hl"])
    name = ", ".join(map(str, table["system"].unique()))
    count = f"{len(known)} ears" if len(known) == len(table) else f"{len(known)} of {len(table)} ears have both"
    axes.set_title(title if title is not None else f"{name} ({count})")
    if known.empty:
        return not_enough_data(axes, obstacle(known, ["pta_db_hl"]))
    for ear in EARS:
        rows = known[known["ear"] == ear]
        axes.scatter(rows["pta_db_hl"], rows["haaqi"], s=32, label=f"{ear} ear", **EAR_STYLE[ear])
    regression(known, axes, "0.35")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Pure-tone average 0.5-4 kHz (dB HL)")
    axes.set_ylabel("HAAQI")
    return axes


def regression(table: pd.DataFrame, axes: Axes, color: str, label: str | None = None) -> Axes:
    """Draw the regression of HAAQI on the pure-tone average and its 95 % band over listeners, or say why not.

    Parameters
    ----------
    table
        Columns: listener, pta_db_hl, haaqi.
    axes
        To draw into.
    color, label
        Of the line.
    """
    line = regression_line(table)
    if line.empty:
        why = f"no line: {obstacle(usable(table, ['pta_db_hl']), ['pta_db_hl'])}"
        axes.text(0.02, 0.02, why, transform=axes.transAxes, fontsize=7, color="0.35")
        return axes
    axes.plot(line["pta_db_hl"], line["haaqi"], color=color, label=label)
    axes.fill_between(line["pta_db_hl"], line["ci_low"], line["ci_high"], color=color, alpha=0.2, linewidth=0)
    return axes


def correlation_heatmap(
    correlations: pd.DataFrame, axes: Axes, value: str = "pearson_r", title: str | None = None, note: str = ""
) -> Axes:
    """Draw the correlation of HAAQI with each predictor, a row for each system; a star where p after Holm is < 0.05.

    Parameters
    ----------
    correlations
        As from `inference.correlation_table`.
    axes
        To draw into.
    value
        "pearson_r" or "spearman_rho".
    title
        Of the axes.
    note
        What is said below, such as `listeners.measurement_note`.
    """
    axes.set_title(title or f"Correlation of HAAQI with hearing loss ({_NAMES[value]})")
    if correlations[value].isna().all():
        return not_enough_data(axes, next(iter(correlations["note"]), "no scores"))
    systems, predictors = correlations["system"].unique(), correlations["predictor"].unique()
    grid = correlations.set_index(["system", "predictor"])
    values = grid[value].unstack().loc[systems, predictors]
    star = (grid["p_holm"] < 0.05).unstack().loc[systems, predictors]
    text = values.map(lambda r: "n/a" if np.isnan(r) else f"{r:.2f}") + np.where(star, "*", "")
    axes.set_facecolor("#e4e4e4")  # cells without a number
    sns.heatmap(
        values, annot=False, vmin=-1, vmax=1, cmap="vlag", ax=axes, linewidths=0.5, cbar_kws={"label": "correlation"}
    )
    for (row, column), said in np.ndenumerate(text.to_numpy()):
        dark = abs(values.to_numpy()[row, column]) > 0.6
        axes.text(
            column + 0.5, row + 0.5, said, ha="center", va="center", fontsize=8, color="white" if dark else "0.15"
        )
    axes.set_xticks(np.arange(len(predictors)) + 0.5, [predictor_label(name) for name in predictors], rotation=0)
    axes.set_yticks(np.arange(len(systems)) + 0.5, systems, rotation=0)
    said = "Threshold at (Hz), averages, and clipping; *: p < 0.05 after Holm's correction"
    axes.set_xlabel("\n".join([said, *textwrap.wrap(note, 100)]))
    axes.set_ylabel("")
    axes.grid(False)
    return axes


def asymmetric_listeners(table: pd.DataFrame, axes: Axes, featured: str, title: str | None = None) -> Axes:
    """Draw the two ears of each asymmetric listener as a pair: mean HAAQI against the loss from 500 to 2000 Hz.

    Parameters
    ----------
    table
        Rows of one system, as from `analysis.tidy_table`.
    axes
        To draw into.
    featured
        Listener who is drawn black and named; others are those with `analysis.ASYMMETRY_DB` between their ears.
    title
        Of the axes; by default the system.
    """
    axes.set_title(title if title is not None else ", ".join(map(str, table["system"].unique())))
    known = usable(table, ["low_db_hl"])
    chosen = known[(known["asymmetry_db"].abs() >= ASYMMETRY_DB) | (known["listener"] == featured)]
    ears = chosen.groupby(["listener", "ear"])[["low_db_hl", "haaqi"]].mean()
    pairs = [name for name in ears.index.unique("listener") if len(ears.loc[name]) == len(EARS)]
    if not pairs:
        return not_enough_data(axes, "no asymmetric listener with scores of both ears")
    for name in pairs:
        one, special = ears.loc[name], name == featured
        axes.plot(
            one["low_db_hl"], one["haaqi"], color="0.1" if special else "0.7", linewidth=2 if special else 1, zorder=1
        )
        for ear in EARS:
            axes.scatter(
                one.loc[ear, "low_db_hl"], one.loc[ear, "haaqi"], s=70 if special else 32, zorder=2, **EAR_STYLE[ear]
            )
    for ear in EARS:
        axes.scatter([], [], s=32, label=f"{ear} ear", **EAR_STYLE[ear])
    if featured in pairs:
        axes.plot([], [], color="0.1", linewidth=2, label=featured)
    axes.legend(loc="best")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Mean threshold 500-2000 Hz (dB HL)")
    axes.set_ylabel("HAAQI, mean over scenes")
    return axes


def haaqi_by_severity(table: pd.DataFrame, axes: Axes, title: str = "HAAQI by hearing loss of the better ear") -> Axes:
    """Draw the distribution of listeners' mean HAAQI by severity class (Humes 2019), a colour for each system.

    Parameters
    ----------
    table
        As from `analysis.tidy_table`.
    axes
        To draw into.
    title
        Of the axes.
    """
    axes.set_title(title)
    people = table.groupby(["system", "listener", "severity"], sort=False)["haaqi"].mean().dropna().reset_index()
    if people.empty:
        return not_enough_data(axes, "no scores")
    order = [name for name in _SEVERITIES if name in set(people["severity"])]
    size = people.groupby("severity")["listener"].nunique()
    look = {"data": people, "x": "severity", "y": "haaqi", "order": order, "hue": "system", "palette": "colorblind"}
    sns.boxplot(**look, ax=axes, showfliers=False, linewidth=0.8, width=0.7, boxprops={"alpha": 0.45}, legend=True)
    sns.stripplot(**look, ax=axes, dodge=True, size=4, jitter=0.08, legend=False)
    axes.set_xticks(range(len(order)), [f"{name}\n(n = {size[name]})" for name in order])
    axes.set_ylim(0, 1.02)
    unknown = table.loc[table["severity"].isna(), "listener"].nunique()
    left_out = f"; without it, left out: {unknown}" if unknown else ""
    axes.set_xlabel(f"Severity class, better-ear pure-tone average{left_out}")
    axes.set_ylabel("HAAQI, mean of each listener")
    axes.legend(title="System", loc="best")
    return axes


def haaqi_by_gain(gains: pd.DataFrame, axes: Axes, title: str | None = None) -> Axes:
    """Draw mean HAAQI by the gain of each stem, with 95 % intervals over listeners.

    Parameters
    ----------
    gains
        Rows of one system of `analysis.gain_table`.
    axes
        To draw into.
    title
        Of the axes; by default the system.
    """
    axes.set_title(title if title is not None else ", ".join(map(str, gains["system"].unique())))
    if gains.empty:
        return not_enough_data(axes, "the gains of these scenes are not known")
    for place, stem in enumerate(STEMS):
        rows = gains[gains["stem"] == stem].sort_values("gain_db")
        shifted = rows["gain_db"] + 0.35 * (place - 1.5)  # so that intervals do not hide each other
        spread = np.array([rows["haaqi"] - rows["ci_low"], rows["ci_high"] - rows["haaqi"]])
        axes.errorbar(shifted, rows["haaqi"], yerr=spread, fmt="os^D"[place] + "-", markersize=4, capsize=2, label=stem)
    axes.set_xticks(sorted(gains["gain_db"].unique()))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Gain of the stem (dB)")
    axes.set_ylabel("HAAQI, mean over ears")
    axes.legend(loc="best", ncols=2)
    return axes


def clipped_share(levels: pd.DataFrame, axes: Axes, title: str = "What the output stage clips") -> Axes:
    """Draw the share of clipped samples of each ear against its pure-tone average, at the official level.

    Parameters
    ----------
    levels
        Rows of one system, as from `cause.level_table`.
    axes
        To draw into.
    title
        Of the axes.
    """
    axes.set_title(title)
    rows = official_scores(levels).dropna(subset=["clipped_share", "pta_db_hl"])
    if rows.empty:
        return not_enough_data(axes, "clipping is not known")
    for ear in EARS:
        one = rows[rows["ear"] == ear]
        axes.scatter(one["pta_db_hl"], 100 * one["clipped_share"], s=32, label=f"{ear} ear", **EAR_STYLE[ear])
    axes.set_xlabel(_PTA_LABEL)
    axes.set_ylabel("Clipped samples (%)")
    axes.legend(loc="best")
    return axes


def clip_effect(levels: pd.DataFrame, axes: Axes, title: str | None = None) -> Axes:
    """Draw HAAQI of each ear against its pure-tone average with the official clip and without.

    Parameters
    ----------
    levels
        Rows of one system, as from `cause.level_table`.
    axes
        To draw into.
    title
        Of the axes; by default the system.
    """
    axes.set_title(title if title is not None else ", ".join(map(str, levels["system"].unique())))
    if usable(official_scores(levels), ["pta_db_hl"]).empty:
        return not_enough_data(axes, "no scores with and without the clip")
    for clip, name, marker in ((True, "official clip", "o"), (False, "no clip", "^")):
        rows = usable(official_scores(levels, clip), ["pta_db_hl"])
        axes.scatter(rows["pta_db_hl"], rows["haaqi"], s=20, color=_CLIP_COLORS[clip], marker=marker, label=name)
        regression(rows, axes, _CLIP_COLORS[clip])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(_PTA_LABEL)
    axes.set_ylabel("HAAQI")
    axes.legend(loc="lower left")
    return axes


def losses(table: pd.DataFrame, axes: Axes, title: str = "What each ear loses, and to what") -> Axes:
    """Draw what separation and clipping cost each ear against its pure-tone average.

    Parameters
    ----------
    table
        As from `cause.losses_table`.
    axes
        To draw into.
    title
        Of the axes.
    """
    axes.set_title(title)
    if usable(table.assign(haaqi=table["lost"]), ["pta_db_hl"]).empty:
        return not_enough_data(axes, "no scores with and without the clip")
    for cause, marker in (("separation", "^"), ("clipping", "o")):
        rows = table[table["cause"] == cause]
        axes.scatter(rows["pta_db_hl"], rows["lost"], s=20, color=_CAUSE_COLORS[cause], marker=marker, label=cause)
        regression(rows.assign(haaqi=rows["lost"]), axes, _CAUSE_COLORS[cause])
    axes.set_xlabel(_PTA_LABEL)
    axes.set_ylabel("HAAQI lost")
    axes.legend(loc="best")
    return axes


def level_curves(levels: pd.DataFrame, axes: Axes, title: str | None = None) -> Axes:
    """Draw mean HAAQI over output levels by severity class: solid with the clip, dashed without.

    Parameters
    ----------
    levels
        Rows of one system, as from `cause.level_table`.
    axes
        To draw into.
    title
        Of the axes; by default the system.
    """
    axes.set_title(title if title is not None else ", ".join(map(str, levels["system"].unique())))
    rows = levels[np.isfinite(levels["haaqi"].astype(float))]
    if rows.empty:
        return not_enough_data(axes, "no scores over output levels")
    for severity in [name for name in _SEVERITIES if name in set(rows["severity"])]:
        marker = "os^DvPX"[_SEVERITIES.index(severity)]
        for clip, line in ((True, f"{marker}-"), (False, "--")):
            one = rows[(rows["severity"] == severity) & (rows["clip"].astype(bool) == clip)]
            mean = one.groupby("output_level_db")["haaqi"].mean()
            if len(mean) > 1:
                label = f"{severity} (n = {one['listener'].nunique()})" if clip else None
                axes.plot(mean.index, mean, line, color=_SEVERITY_COLORS[severity], markersize=4, label=label)
    axes.set_xticks(sorted(rows["output_level_db"].unique()))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Output level (dB), 0 is official")
    axes.set_ylabel("HAAQI, mean over ears")
    axes.legend(title="Better ear", loc="best", fontsize=7)
    return axes


def level_gains(choices: pd.DataFrame, axes: Axes, title: str = "Gain of an output level, on other songs") -> Axes:
    """Draw what a level of their own gains each listener on songs that it was not chosen on, and one level for all.

    Parameters
    ----------
    choices
        As from `cause.output_level_choices`.
    axes
        To draw into.
    title
        Of the axes.
    """
    axes.set_title(title)
    if choices.empty:
        return not_enough_data(axes, "no listener has scores of two songs")
    x = choices["better_ear_pta_db_hl"]
    axes.axhline(0, color="0.4", linewidth=1)
    axes.vlines(x, choices["gain_common"], choices["gain_own"], color="0.8", linewidth=1, zorder=1)
    axes.scatter(x, choices["gain_common"], s=24, marker="s", facecolors="none", edgecolors="0.45", label="one for all")
    axes.scatter(x, choices["gain_own"], s=30, color="#029e73", label="own")
    for row in choices.itertuples():
        axes.annotate(
            f"{row.own_level_db:g}", (row.better_ear_pta_db_hl, row.gain_own), (4, 3), textcoords="offset points",
            fontsize=7,
        )  # fmt: skip
    axes.set_xlabel("Better-ear pure-tone average (dB HL)")
    axes.set_ylabel("Gain in HAAQI over 0 dB")
    axes.legend(title="Output level (own: dB)", loc="best")
    return axes
