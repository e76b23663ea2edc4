"""Figures of training and of fusion."""

import json
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

__all__ = [
    "data_size",
    "explanation",
    "findings",
    "loss_curves",
    "mixture_weights",
    "output_stages",
    "targets",
    "ternary",
]

_BLUE, _ORANGE = "#0173b2", "#de8f05"
_THROUGH = {"output stage": _ORANGE, "separation": _BLUE, "neither": "0.7", "all": "0.25"}


def loss_curves(metrics: pd.DataFrame, axes: Axes, title: str = "Training") -> Axes:
    """Draw the training loss of each step, its running mean, and the validation loss.

    Parameters
    ----------
    metrics
        As from `training.read_metrics`: step, loss, valid_loss.
    axes, title
        To draw into.
    """
    steps = metrics.dropna(subset="loss")
    validations = metrics.dropna(subset="valid_loss")
    window = max(1, len(steps) // 20)
    smooth = steps["loss"].rolling(window, center=True, min_periods=1).mean()
    axes.plot(steps["step"], steps["loss"], color="0.75", linewidth=0.8, label="training, each step")
    axes.plot(steps["step"], smooth, color="0.25", label=f"training, mean of {window}")
    axes.plot(validations["step"], validations["valid_loss"], "o--", color=_ORANGE, label="validation")
    axes.set(title=title, xlabel="Step", ylabel="Loss (weighted sum of targets)")
    axes.legend()
    return axes


def data_size(table: pd.DataFrame, axes: Axes, column: str = "haaqi", title: str = "Size of the training set") -> Axes:
    """Draw HAAQI against the size of the training set, relative to the official one, with error bars over runs.

    Parameters
    ----------
    table
        As from `tables.data_size_table`.
    axes, title
        To draw into.
    column
        "haaqi" for our runs, "paper_haaqi" for the paper's.
    """
    rows = table.dropna(subset=column)
    spread = rows["sd"] if column == "haaqi" else None
    axes.errorbar(rows["share"], rows[column], yerr=spread, fmt="o-", capsize=4, color=_BLUE)
    axes.set_xscale("log", base=2)
    axes.set_xticks(rows["share"], [f"{share:.4g}" for share in rows["share"]])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(title=title, xlabel="Training scenes / official scenes", ylabel="Validation HAAQI")
    return axes


def targets(table: pd.DataFrame, axes: Axes, title: str = "Training targets") -> Axes:
    """Draw the change in HAAQI by training target, as from `comparisons.target_table`, with 95 % intervals."""
    rows = table[table["target"] != "start"]
    places = np.arange(len(rows))
    low, high = rows["difference"] - rows["difference_low"], rows["difference_high"] - rows["difference"]
    axes.errorbar(places, rows["difference"], yerr=np.array([low, high]), fmt="o", capsize=4, color=_BLUE)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(places, [f"{row.target}\n({row.n_seeds} seeds)" for row in rows.itertuples()])
    axes.set(
        title=title, xlim=(-0.5, len(rows) - 0.5), xlabel="Training target", ylabel="HAAQI minus that before training"
    )
    return axes


def findings(table: pd.DataFrame, axes: Axes, title: str = "The paper's findings here") -> Axes:
    """Draw each finding, as from `findings.findings_table`, with its 95 % interval, and the paper's value beside it."""
    rows = table[table["low"].notna()]
    places = np.arange(len(rows))
    interval = np.abs(rows[["low", "high"]].to_numpy() - rows[["here"]].to_numpy()).T
    axes.errorbar(rows["here"], places, xerr=interval, fmt="o", capsize=4, color=_BLUE, label="here, 95 % interval")
    axes.plot(rows["paper"], places, "D", color=_ORANGE, label="paper")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [textwrap.fill(words, 48) for words in rows["finding"]])
    axes.invert_yaxis()
    axes.set(title=title, xlabel="Difference in HAAQI (right of 0: as claimed)")
    axes.legend()
    return axes


def explanation(table: pd.DataFrame, axes: Axes, title: str = "What the difference is made of") -> Axes:
    """Draw the contributions to a difference, as from `explain.divide`, with their 95 % intervals."""
    factors = table["factor"].unique()
    height = 0.8 / len(_THROUGH)
    for place, (through, color) in enumerate(_THROUGH.items()):
        rows = table[table["through"] == through].set_index("factor").loc[factors]
        interval = np.abs(rows[["low", "high"]].to_numpy() - rows[["contribution"]].to_numpy()).T
        places = np.arange(len(factors)) + (place + 0.5) * height - 0.4
        axes.barh(places, rows["contribution"], height, color=color, xerr=interval, capsize=2, label=through)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(np.arange(len(factors)), [textwrap.fill(factor, 16) for factor in factors])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(title=title, xlabel="Contribution to the difference in HAAQI")
    axes.legend(title="acting through")
    return axes


def mixture_weights(
    table: pd.DataFrame, axes: Axes, column: str = "haaqi", title: str = "Share of the mixture"
) -> Axes:
    """Draw HAAQI against the mixture weight with its 95 % band over listeners and songs, and mark the highest mean.

    Parameters
    ----------
    table
        As from `comparisons.compare`, with a column mixture_weight.
    axes, title
        To draw into.
    column
        "haaqi", or "difference" for that to the reference pair by pair, whose band is narrower.
    """
    rows = table.sort_values("mixture_weight")
    best = rows.iloc[int(rows["haaqi"].argmax())]
    band, sign, ylabel = ("difference_low", "difference_high"), "+", "HAAQI - HAAQI of the reference"
    if column == "haaqi":
        band, sign, ylabel = ("ci_low", "ci_high"), "", "HAAQI"
    weights = rows["mixture_weight"]
    axes.fill_between(weights, rows[band[0]], rows[band[1]], color=_BLUE, alpha=0.2, lw=0)
    axes.plot(weights, rows[column], "o-", color=_BLUE, label="mean and 95 % interval")
    label = f"highest: {best[column]:{sign}.4f} at {best['mixture_weight']:g}"
    axes.plot(best["mixture_weight"], best[column], "*", color=_ORANGE, markersize=15, label=label)
    axes.set(title=title, xlabel="Mixture weight w", ylabel=ylabel)
    axes.legend()
    return axes


def output_stages(table: pd.DataFrame, axes: Axes, title: str = "Output stages") -> Axes:
    """Draw what each output stage adds to the official HAAQI, for all listeners and by severity.

    Parameters
    ----------
    table
        As from `output_stages.compare_stages`, of one system.
    axes, title
        To draw into.
    """
    stages = [stage for stage in table["stage"].unique() if table.loc[table["stage"] == stage, "difference"].any()]
    for place, (severity, rows) in enumerate(table.groupby("severity", sort=False)):
        rows = rows.set_index("stage").loc[stages]
        x = np.arange(len(stages)) + 0.12 * (place - table["severity"].nunique() / 2)
        interval = np.abs(rows[["difference_low", "difference_high"]].to_numpy() - rows[["difference"]].to_numpy()).T
        colour = "black" if severity == "all" else colormaps["viridis"](place / table["severity"].nunique())
        axes.errorbar(x, rows["difference"], yerr=interval, fmt="o", capsize=3, color=colour, label=severity)
    levels = table.drop_duplicates("stage").set_index("stage").loc[stages, "level_db"]
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(stages)), [f"{stage}\n{level:g} dB" for stage, level in levels.items()], rotation=20)
    axes.set(title=title, ylabel="HAAQI minus that of the official output")
    axes.legend(title="Better ear")
    return axes


def ternary(table: pd.DataFrame, names: Sequence[str], axes: Axes, title: str = "Model weights") -> Axes:
    """Draw HAAQI over the weights of three models: each corner is one model alone, and the highest is marked.

    Parameters
    ----------
    table
        As from `comparisons.compare`: model_weights (JSON of three numbers), haaqi.
    names
        Of the three models.
    axes, title
        To draw into.
    """
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    points = np.array([json.loads(text) for text in table["model_weights"]]) @ corners
    haaqi = table["haaqi"].to_numpy()
    axes.fill(*corners.T, facecolor="none", edgecolor="0.6")
    marks = axes.scatter(points[:, 0], points[:, 1], c=haaqi, s=260, cmap="cividis", zorder=2)
    best = int(haaqi.argmax())
    axes.plot(*points[best], "*", color="white", markeredgecolor="black", markersize=13, zorder=3)
    for name, (x, y), shift in zip(names, corners, (-0.13, -0.13, 0.09), strict=True):
        axes.text(x, y + shift, name, ha="center", va="center")
    axes.figure.colorbar(marks, ax=axes, label="HAAQI")
    axes.set(title=f"{title}: highest {haaqi[best]:.4f}", xlim=(-0.3, 1.3), ylim=(-0.25, 1.05), aspect="equal")
    axes.set_axis_off()
    return axes
