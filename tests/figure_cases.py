"""The figures that are compared with images, drawn from tables with fixed numbers; text is hidden.

How letters are drawn differs between builds of FreeType, and tests elsewhere look at what they say. So all text is
hidden, legends are removed, and the axes have a fixed place, which does not depend on the size of letters.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from cadenza_lib import figures
from cadenza_lib.analysis import causes, statistics, tables
from cadenza_lib.data.listeners import Listener, audiogram_table, standard_audiogram
from cadenza_lib.figures import listeners
from cadenza_lib.scoring.levels import LEVEL_COLUMNS

DOTS_PER_INCH = 60
AUDIOGRAMS = {
    "a": ("N1", "N1"),
    "b": ("N2", "N3"),
    "c": ("N3", "N5"),
    "d": ("S1", "S2"),
    "e": ("N4", "N4"),
    "f": ("S3", "N1"),
}


def people() -> dict[str, Listener]:
    """Return six listeners with standard audiograms."""
    return {
        name: Listener(standard_audiogram(left), standard_audiogram(right), id=name)
        for name, (left, right) in AUDIOGRAMS.items()
    }


def level_table() -> pd.DataFrame:
    """Return what `causes.level_table` returns, from a formula: clipping grows with loss and level."""
    rows = []
    listeners = people()
    loss = tables.ear_table(listeners.values()).set_index(["listener", "ear"])["pta_db_hl"]
    for number, (name, ear) in enumerate(loss.index):
        for scene, song in (("s1", "A-hlp_0001"), ("s2", "B-hlp_0002")):
            for system, quality in (("mixture", 0.6), ("net", 0.7), ("oracle", 0.999)):
                for level_db in (0.0, -6.0, -12.0):
                    for clip in (True, False):
                        if not clip and level_db and system != "oracle":
                            continue
                        share = max(0.0, 0.012 * (loss[name, ear] + level_db - 15)) if clip else 0.0
                        wiggle = 0.03 * np.sin(7 * number * len(system) + (scene == "s2"))
                        haaqi = max(0.05, quality * (1 - share) + 0.02 * level_db + wiggle)
                        rows.append((system, scene, song, name, ear, level_db, clip, haaqi, share, *[0.5] * 5))
    gains_db = {
        "s1": {"vocals": 6, "drums": 0, "bass": -3, "other": 0},
        "s2": {"vocals": -6, "drums": 3, "bass": 0, "other": 0},
    }
    return causes.level_table(pd.DataFrame(rows, columns=LEVEL_COLUMNS), listeners, gains_db)


def cases() -> dict[str, Callable[[Axes], Axes]]:
    """Return what draws each figure, by name."""
    levels = level_table()
    tidy = causes.official_scores(levels)
    net, net_levels = tidy[tidy["system"] == "net"], levels[levels["system"] == "net"]
    oracle_levels = levels[levels["system"] == "oracle"]
    predictors = ["threshold_500_hz_db_hl", "threshold_4000_hz_db_hl", "pta_db_hl"]
    correlations = statistics.correlation_table(tidy, predictors)
    gains = tables.gain_table(net)
    return {
        "audiograms": lambda axes: figures.audiograms(audiogram_table(people().values()), axes),
        "haaqi_against_pta": lambda axes: figures.haaqi_against_pta(net, axes),
        "correlation_heatmap": lambda axes: listeners.correlation_heatmap(correlations, axes),
        "asymmetric_listeners": lambda axes: listeners.asymmetric_listeners(net, axes, "c"),
        "haaqi_by_severity": lambda axes: listeners.haaqi_by_severity(tidy, axes),
        "haaqi_by_gain": lambda axes: listeners.haaqi_by_gain(gains, axes),
        "clipped_share": lambda axes: listeners.clipped_share(net_levels, axes),
        "clip_effect": lambda axes: listeners.clip_effect(net_levels, axes),
        "losses": lambda axes: listeners.losses(causes.losses_table(levels, "net"), axes),
        "level_curves": lambda axes: listeners.level_curves(oracle_levels, axes),
        "level_gains": lambda axes: listeners.level_gains(causes.output_level_choices(levels, "net"), axes),
    }


def draw(case: Callable[[Axes], Axes]) -> Figure:
    """Draw a case into axes at a fixed place, and hide its text."""
    np.random.seed(0)  # seaborn's strip plot jitters its points with the global generator
    with figures.style():
        figure = Figure(figsize=(4, 3), dpi=DOTS_PER_INCH, layout="none")
        case(figure.add_axes((0.12, 0.12, 0.8, 0.8)))
    for axes in figure.axes:
        if axes.get_legend():
            axes.get_legend().remove()  # its size is that of its letters
    for text in figure.findobj(Text):
        text.set_visible(False)
    return figure


def render(figure: Figure, path: Path) -> Path:
    """Write a picture without whatever depends on the version of matplotlib."""
    figure.savefig(path, dpi=DOTS_PER_INCH, metadata={"Software": None})
    return path
