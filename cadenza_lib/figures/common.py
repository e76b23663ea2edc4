"""One style for all figures, axes and labels that several share, and files with the data behind a figure.

A function that draws a figure takes a tidy table, the axes to draw into and often their title, and returns the axes.
"""

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import NullLocator

from cadenza_lib.core.files import atomic_path

__all__ = [
    "EAR_STYLE",
    "LiveFigure",
    "draw_ear",
    "not_enough_data",
    "octave_axis",
    "panels",
    "save",
    "style",
    "system_names",
]

EAR_STYLE: dict[str, dict[str, Any]] = {
    "left": {"color": "#0173b2", "marker": "x"},
    "right": {"color": "#d55e00", "marker": "o", "facecolors": "none"},
}
"""Colour and marker of each ear: the clinical blue cross and red circle, in colour-blind safe shades."""

_OCTAVES = {125: "125", 250: "250", 500: "500", 1000: "1k", 2000: "2k", 4000: "4k", 8000: "8k"}  # Hz


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
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for place, name in enumerate(names):
        axes = grid.flat[place]
        yield name, axes
        if place % columns:
            axes.set_ylabel("")
    plt.figure(figure)  # the current figure again, whatever was drawn in between


def system_names(table: pd.DataFrame) -> str:
    """Return the names of a table's systems, for a title."""
    return ", ".join(map(str, table["system"].unique()))


def not_enough_data(axes: Axes, reason: str) -> Axes:
    """Write into empty axes why nothing is drawn, and return them."""
    axes.set(xticks=[], yticks=[])
    sentence = reason if reason.startswith("not enough data") else f"not enough data: {reason}"
    text = "\n".join(textwrap.wrap(sentence, 32))
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="0.35")
    return axes


def octave_axis(axes: Axes) -> None:
    """Label a logarithmic frequency axis at octaves."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(_OCTAVES), list(_OCTAVES.values()))
    axes.set_xlabel("Frequency (Hz)")


def draw_ear(axes: Axes, ear: str, values: pd.Series, label: str, **line: Any) -> None:
    """Draw values over their index with the colour and the open marker of an ear."""
    look = {"color": EAR_STYLE[ear]["color"], "marker": EAR_STYLE[ear]["marker"], "markerfacecolor": "none"}
    axes.plot(values.index, values, label=label, **look, **line)


class LiveFigure:
    """A figure whose lines are drawn again and again: ten times as fast as drawing all of it, from any thread."""

    def __init__(self, figure: Figure) -> None:
        """Draw all of the figure but its lines; this sets global parameters if it happens inside `style`."""
        self.axes = figure.axes
        self._lines = [(axes, line) for axes in figure.axes for line in axes.lines]
        for _, line in self._lines:
            line.set_animated(True)
        self._canvas = FigureCanvasAgg(figure)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(figure.bbox)

    def png(self) -> bytes:
        """Return the figure with its lines as they are now."""
        self._canvas.restore_region(self._background)
        for axes, line in self._lines:
            axes.draw_artist(line)
        picture = io.BytesIO()
        pixels = np.asarray(self._canvas.buffer_rgba())
        imsave(picture, pixels, format="png", origin="upper", pil_kwargs={"compress_level": 1})
        return picture.getvalue()


def save(figure: Figure, path: Path | str, data: pd.DataFrame) -> list[Path]:
    """Write a figure as PNG and as PDF with embedded fonts and the table behind it as CSV, and return the files.

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
