"""Figures of training and of fusion: each takes a tidy table and axes, draws, and returns the axes."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

__all__ = [
    "data_size",
    "loss_curves",
    "mixture_weights",
    "targets",
    "ternary",
]


def loss_curves(metrics: pd.DataFrame, axes: Axes, title: str = "Training") -> Axes:
    """Draw the training loss of each step, its running mean, and the validation loss.

    Parameters
    ----------
    metrics
        As from `finetune.read_metrics`: step, loss, valid_loss.
    axes
        To draw into.
    title
        Of the axes.
    """
    steps = metrics.dropna(subset="loss")
    validations = metrics.dropna(subset="valid_loss")
    window = max(1, len(steps) // 20)
    smooth = steps["loss"].rolling(window, center=True, min_periods=1).mean()
    axes.plot(steps["step"], steps["loss"], color="0.75", linewidth=0.8, label="training, each step")
    axes.plot(steps["step"], smooth, color="0.25", label=f"training, mean of {window}")
    axes.plot(validations["step"], validations["valid_loss"], "o--", color="#de8f05", label="validation")
    axes.set_xlabel("Step")
    axes.set_ylabel("Loss (weighted L1)")
    axes.set_title(title)
    axes.legend()
    return axes


def data_size(table: pd.DataFrame, axes: Axes, column: str = "haaqi", title: str | None = None) -> Axes:
    """Draw HAAQI against the size of the training set, relative to the official one, with error bars over runs.

    Parameters
    ----------
    table
        As from `analysis.data_size_table`.
    axes
        To draw into.
    column
        "haaqi" for our runs, "paper_haaqi" for the paper's.
    title
        Of the axes.
    """
    rows = table.dropna(subset=column)
    spread = rows["sd"] if column == "haaqi" else None
    axes.errorbar(rows["share"], rows[column], yerr=spread, fmt="o-", capsize=4, color="#0173b2")
    axes.set_xscale("log", base=2)
    axes.set_xticks(rows["share"], [f"{share:.4g}" for share in rows["share"]])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Training scenes / official scenes")
    axes.set_ylabel("Validation HAAQI")
    axes.set_title(title if title is not None else "Size of the training set")
    return axes


def targets(table: pd.DataFrame, axes: Axes, title: str = "Training targets") -> Axes:
    """Draw the change in HAAQI by training target, as from `comparisons.target_table`, with 95 % intervals."""
    rows = table[table["target"] != "start"]
    places = np.arange(len(rows))
    low, high = rows["difference"] - rows["difference_low"], rows["difference_high"] - rows["difference"]
    axes.errorbar(places, rows["difference"], yerr=np.array([low, high]), fmt="o", capsize=4, color="#0173b2")
    axes.axhline(0, color="black", linewidth=0.8)
    labels = [f"{row.target}\n({row.n_seeds} seeds)" for row in rows.itertuples()]
    axes.set_xticks(places, labels)
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.set_xlabel("Training target")
    axes.set_ylabel("HAAQI minus that before training")
    axes.set_title(title)
    return axes


def mixture_weights(
    table: pd.DataFrame, axes: Axes, column: str = "haaqi", title: str = "Share of the mixture"
) -> Axes:
    """Draw HAAQI against the mixture weight with its 95 % band over listeners, and mark the highest mean.

    Parameters
    ----------
    table
        As from `comparisons.compare`, with a column mixture_weight.
    axes
        To draw into.
    column
        "haaqi", or "difference" for that to the reference pair by pair, whose band is narrower.
    title
        Of the axes.
    """
    rows = table.sort_values("mixture_weight")
    best = rows.iloc[int(rows["haaqi"].argmax())]
    low, high = ("ci_low", "ci_high") if column == "haaqi" else ("difference_low", "difference_high")
    axes.fill_between(rows["mixture_weight"], rows[low], rows[high], color="#0173b2", alpha=0.2, lw=0)
    axes.plot(rows["mixture_weight"], rows[column], "o-", color="#0173b2", label="mean and 95 % interval")
    number = f"{best[column]:.4f}" if column == "haaqi" else f"{best[column]:+.4f}"
    label = f"highest: {number} at {best['mixture_weight']:g}"
    axes.plot(best["mixture_weight"], best[column], "*", color="#de8f05", markersize=15, label=label)
    axes.set_xlabel("Mixture weight w")
    axes.set_ylabel("HAAQI" if column == "haaqi" else "HAAQI - HAAQI of the reference")
    axes.set_title(title)
    axes.legend()
    return axes


def ternary(table: pd.DataFrame, names: Sequence[str], axes: Axes, title: str = "Model weights") -> Axes:
    """Draw HAAQI over the weights of three models: each corner is one model alone, and the highest is marked.

    Parameters
    ----------
    table
        As from `comparisons.compare`: model_weights (JSON of three numbers), haaqi.
    names
        Of the three models.
    axes
        To draw into.
    title
        Of the axes.
    """
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    points = np.array([json.loads(text) for text in table["model_weights"]]) @ corners
    haaqi = table["haaqi"].to_numpy()
    axes.fill(*corners.T, facecolor="none", edgecolor="0.6")
    marks = axes.scatter(points[:, 0], points[:, 1], c=haaqi, s=260, cmap="cividis", zorder=2)
    best = int(haaqi.argmax())
    axes.plot(*points[best], "*", color="white", markeredgecolor="black", markersize=13, zorder=3)
    for name, corner, shift in zip(names, corners, ((0, -0.13), (0, -0.13), (0, 0.09)), strict=True):
        axes.text(corner[0] + shift[0], corner[1] + shift[1], name, ha="center", va="center")
    axes.figure.colorbar(marks, ax=axes, label="HAAQI")
    axes.set_xlim(-0.3, 1.3)
    axes.set_ylim(-0.25, 1.05)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(f"{title}: highest {haaqi[best]:.4f}")
    return axes
