"""Figures: each takes a tidy table and axes, draws, and returns the axes; `save` writes the picture and its data.

Ears follow the clinical convention everywhere: the left is blue with crosses, the right red with circles. Where there
is not enough to draw, the figure says so. The figures of HAAQI and its listeners are in `listener_figures`.
"""

import json
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cadenza_lib.files import atomic_path
from cadenza_lib.inference import obstacle, regression_line, usable
from cadenza_lib.listeners import EARS

__all__ = [
    "EAR_STYLE",
    "audiograms",
    "data_size",
    "haaqi_against_pta",
    "hrtf_magnitude",
    "insertion_gain",
    "loss_curves",
    "mixture_weights",
    "not_enough_data",
    "panels",
    "regression",
    "save",
    "spectra",
    "stem_levels",
    "style",
    "targets",
    "ternary",
]

EAR_STYLE: dict[str, dict[str, Any]] = {
    "left": {"color": "#0173b2", "marker": "x"},
    "right": {"color": "#d55e00", "marker": "o", "facecolors": "none"},
}
"""Colour and marker of each ear: the clinical blue cross and red circle, in colour-blind safe shades."""

_AUDIOMETRIC_TICKS = (125, 250, 500, 1000, 2000, 4000, 8000)  # Hz, octaves
_SPECTRUM_LIMITS_DB = (-70, 30)  # NAL-R lifts loud music well above full scale
_AUDIOGRAM_LIMITS_DB_HL = (120, -10)  # inverted: worse hearing is lower


def style() -> AbstractContextManager[None]:
    """Return the context in which figures are made, whatever a matplotlibrc says: `with figures.style(): ...`."""
    return plt.style.context(Path(__file__).with_name("cadenza.mplstyle"), after_reset=True)


def panels(names: Sequence[str], per_row: int = 3) -> Iterator[tuple[str, Axes]]:
    """Yield each name with axes of its own in a new figure, in rows that are still readable on a page.

    All have the same y axis, whose label stays in the first column.
    """
    columns = min(len(names), per_row)
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.6 * columns, 4 * rows), sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(names):
            axes.remove()
            continue
        yield names[place], axes
        if place % columns:
            axes.set_ylabel("")
    plt.figure(figure)  # current again, whatever was drawn meanwhile


def audiograms(table: pd.DataFrame, axes: Axes, title: str = "Audiograms") -> Axes:
    """Draw audiograms in the clinical convention: inverted dB HL over octaves, thin lines, their mean per ear thick.

    Parameters
    ----------
    table
        As from `listeners.audiogram_table`: listener, ear, frequency, threshold_db_hl.
    axes
        To draw into.
    title
        Of the axes; the number of listeners is added.
    """
    axes.set_title(f"{title} (n = {table['listener'].nunique()})")
    if table.empty:
        return not_enough_data(axes, "no audiogram")
    for ear in EARS:
        rows = table[table["ear"] == ear]
        look = EAR_STYLE[ear]
        for _, one in rows.groupby("listener"):
            axes.plot(one["frequency"], one["threshold_db_hl"], color=look["color"], alpha=0.25, linewidth=0.8)
        mean = rows.groupby("frequency")["threshold_db_hl"].mean()
        axes.plot(
            mean.index,
            mean,
            color=look["color"],
            marker=look["marker"],
            markerfacecolor="none",
            markersize=7,
            label=f"{ear} ear, mean",
        )
    _octave_axis(axes)
    axes.set_xlim(110, 9000)
    axes.set_ylim(*_AUDIOGRAM_LIMITS_DB_HL)
    axes.set_ylabel("Hearing threshold (dB HL)")
    axes.legend(loc="lower left")
    return axes


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


def not_enough_data(axes: Axes, why: str) -> Axes:
    """Write into empty axes why nothing is drawn."""
    axes.set_xticks([])
    axes.set_yticks([])
    said = why if why.startswith("not enough data") else f"not enough data: {why}"
    text = "\n".join(textwrap.wrap(said, 32))
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.35")
    return axes


def hrtf_magnitude(table: pd.DataFrame, axes: Axes, title: str = "Head-related transfer functions") -> Axes:
    """Draw the four paths from loudspeakers to ears: colour for the ear, dashes for the loudspeaker.

    Parameters
    ----------
    table
        As from `acoustics.hrtf_table`: loudspeaker, ear, frequency, magnitude_db.
    axes
        To draw into.
    title
        Of the axes.
    """
    for (loudspeaker, ear), path in table[table["frequency"] > 0].groupby(["loudspeaker", "ear"]):
        line = "-" if loudspeaker == ear else "--"
        label = f"{loudspeaker} loudspeaker, {ear} ear"
        axes.plot(path["frequency"], path["magnitude_db"], line, color=EAR_STYLE[str(ear)]["color"], label=label)
    _octave_axis(axes)
    axes.set_xlim(100, 20_000)
    axes.set_ylabel("Magnitude (dB)")
    axes.set_title(title)
    axes.legend()
    return axes


def spectra(table: pd.DataFrame, axes: Axes, ear: str) -> Axes:
    """Draw the third-octave spectra that several signals have at one ear.

    Parameters
    ----------
    table
        As from `stages.spectrum_table`: signal, ear, frequency, level_db.
    axes
        To draw into.
    ear
        "left" or "right".
    """
    for signal, rows in table[table["ear"] == ear].groupby("signal", sort=False):
        axes.plot(rows["frequency"], rows["level_db"], label=str(signal))
    _octave_axis(axes)
    axes.set_ylim(*_SPECTRUM_LIMITS_DB)
    axes.set_ylabel("Third-octave level (dB re full scale)")
    axes.set_title(f"Spectrum, {ear} ear")
    return axes


def insertion_gain(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw the NAL-R gain of both ears.

    Parameters
    ----------
    table
        As from `stages.gain_table`: ear, frequency, gain_db.
    axes
        To draw into.
    """
    for ear in EARS:
        rows = table[table["ear"] == ear]
        look = EAR_STYLE[ear]
        axes.plot(
            rows["frequency"],
            rows["gain_db"],
            color=look["color"],
            marker=look["marker"],
            markerfacecolor="none",
            label=f"{ear} ear",
        )
    _octave_axis(axes)
    axes.set_ylim(0, 50)
    axes.set_ylabel("NAL-R insertion gain (dB)")
    axes.set_title("Prescribed gain")
    axes.legend(loc="upper left")
    return axes


def stem_levels(table: pd.DataFrame, axes: Axes, title: str = "Loudness at the ears") -> Axes:
    """Draw the loudness of stems and mixture, one line per scene.

    Parameters
    ----------
    table
        Columns: scene, signal, loudness_lufs.
    axes
        To draw into.
    title
        Of the axes.
    """
    sns.stripplot(data=table, x="signal", y="loudness_lufs", hue="scene", ax=axes, palette="colorblind", jitter=0.15)
    axes.set_xlabel("")
    axes.set_ylabel("Integrated loudness (LUFS)")
    axes.set_title(title)
    axes.legend(title="Scene", loc="best")
    return axes


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


def save(figure: Figure, path: Path | str, data: pd.DataFrame) -> list[Path]:
    """Write a figure as PNG and as PDF with embedded fonts, and the table behind it as CSV.

    Parameters
    ----------
    figure
        To be written.
    path
        Without suffix, or with one that is replaced.
    data
        The table that the figure shows.
    """
    files = [Path(path).with_suffix(suffix) for suffix in (".png", ".pdf", ".csv")]
    for file in files[:2]:
        with atomic_path(file) as temporary, style():
            figure.savefig(temporary)
    with atomic_path(files[2]) as temporary:
        data.to_csv(temporary, index=False)
    return files


def _octave_axis(axes: Axes) -> None:
    """Label a logarithmic frequency axis at octaves."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(
        _AUDIOMETRIC_TICKS, [f"{tick / 1000:g}k" if tick >= 1000 else str(tick) for tick in _AUDIOMETRIC_TICKS]
    )
    axes.set_xlabel("Frequency (Hz)")
