"""Figures of audiograms, heads, spectra and levels."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from cadenza_lib.core.conventions import EARS
from cadenza_lib.figures.common import EAR_STYLE, draw_ear, not_enough_data, octave_axis

__all__ = ["audiograms", "hrtf_magnitude", "insertion_gain", "spectra", "stem_levels"]

_SPECTRUM_LIMITS_DB = (-70, 30)  # NAL-R lifts loud music well above full scale

_AUDIOGRAM_LIMITS_DB_HL = (120, -10)  # inverted: worse hearing is lower


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
        color = EAR_STYLE[ear]["color"]
        for _, audiogram in rows.groupby("listener"):
            axes.plot(audiogram["frequency"], audiogram["threshold_db_hl"], color=color, alpha=0.25, linewidth=0.8)
        draw_ear(axes, ear, rows.groupby("frequency")["threshold_db_hl"].mean(), f"{ear} ear, mean", markersize=7)
    octave_axis(axes)
    axes.set(xlim=(110, 9000), ylim=_AUDIOGRAM_LIMITS_DB_HL, ylabel="Hearing threshold (dB HL)")
    axes.legend(loc="lower left")
    return axes


def hrtf_magnitude(table: pd.DataFrame, axes: Axes, title: str = "Head-related transfer functions") -> Axes:
    """Draw the four paths from loudspeakers to ears: colour for the ear, dashes for the loudspeaker.

    Parameters
    ----------
    table
        As from `acoustics.hrtf_table`: loudspeaker, ear, frequency, magnitude_db.
    axes, title
        To draw into.
    """
    for (loudspeaker, ear), path in table[table["frequency"] > 0].groupby(["loudspeaker", "ear"]):
        line = "-" if loudspeaker == ear else "--"
        label = f"{loudspeaker} loudspeaker, {ear} ear"
        axes.plot(path["frequency"], path["magnitude_db"], line, color=EAR_STYLE[str(ear)]["color"], label=label)
    octave_axis(axes)
    axes.set(title=title, xlim=(100, 20_000), ylabel="Magnitude (dB)")
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
    octave_axis(axes)
    axes.set(title=f"Spectrum, {ear} ear", ylim=_SPECTRUM_LIMITS_DB, ylabel="Third-octave level (dB re full scale)")
    return axes


def insertion_gain(table: pd.DataFrame, axes: Axes) -> Axes:
    """Draw the prescribed gain of both ears, from a table as of `stages.gain_table`: ear, frequency, gain_db."""
    for ear, rows in table.groupby("ear"):
        draw_ear(axes, str(ear), rows.set_index("frequency")["gain_db"], f"{ear} ear")
    octave_axis(axes)
    axes.set(title="Prescribed gain", ylim=(0, 50), ylabel="Insertion gain (dB)")
    axes.legend(loc="upper left")
    return axes


def stem_levels(table: pd.DataFrame, axes: Axes, title: str = "Loudness at the ears") -> Axes:
    """Draw the loudness of stems and mixture by scene, from a table with scene, signal and loudness_lufs."""
    sns.stripplot(data=table, x="signal", y="loudness_lufs", hue="scene", ax=axes, palette="colorblind", jitter=0.15)
    axes.set(title=title, xlabel="", ylabel="Integrated loudness (LUFS)")
    axes.legend(title="Scene", loc="best")
    return axes
