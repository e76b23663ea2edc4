"""One style for all figures, axes of several panels, and files with the data behind a figure."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cadenza_lib.core.files import atomic_path

__all__ = [
    "EAR_STYLE",
    "not_enough_data",
    "octave_axis",
    "panels",
    "save",
    "style",
]

EAR_STYLE: dict[str, dict[str, Any]] = {
    "left": {"color": "#0173b2", "marker": "x"},
    "right": {"color": "#d55e00", "marker": "o", "facecolors": "none"},
}
"""Colour and marker of each ear: the clinical blue cross and red circle, in colour-blind safe shades."""

_AUDIOMETRIC_TICKS = (125, 250, 500, 1000, 2000, 4000, 8000)  # Hz, octaves


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


def not_enough_data(axes: Axes, why: str) -> Axes:
    """Write into empty axes why nothing is drawn."""
    axes.set_xticks([])
    axes.set_yticks([])
    said = why if why.startswith("not enough data") else f"not enough data: {why}"
    text = "\n".join(textwrap.wrap(said, 32))
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.35")
    return axes


def octave_axis(axes: Axes) -> None:
    """Label a logarithmic frequency axis at octaves."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(
        _AUDIOMETRIC_TICKS, [f"{tick / 1000:g}k" if tick >= 1000 else str(tick) for tick in _AUDIOMETRIC_TICKS]
    )
    axes.set_xlabel("Frequency (Hz)")


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
