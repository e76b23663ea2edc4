"""Figures: units on the axes, the clinical look of the ears, and what `save` leaves on the disk."""

import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import colors
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from cadenza_lib import figures
from cadenza_lib.analysis import explain
from cadenza_lib.audio.acoustics import hrtf_table
from cadenza_lib.audio.heads import head_hrtf
from cadenza_lib.data.listeners import Listener, audiogram_table, ear_table, standard_audiogram
from cadenza_lib.data.tiny import tiny_listener
from cadenza_lib.figures.common import EAR_STYLE

pytestmark = pytest.mark.usefixtures("headless")

LEFT, RIGHT = (colors.to_rgba(EAR_STYLE[ear]["color"]) for ear in ("left", "right"))


def listeners() -> list[Listener]:
    return [
        tiny_listener(),
        Listener(standard_audiogram("N1"), standard_audiogram("S2"), id="second"),
        Listener(standard_audiogram("N5"), standard_audiogram("N5"), id="third"),
    ]


def scores() -> pd.DataFrame:
    """Return a table as from `analysis.tidy_table`, for three listeners."""
    table = ear_table(listeners()).assign(system="oracle", scene="scene_10001", clipped_share=0.0)
    return table.assign(haaqi=1 - table["pta_db_hl"] / 100)


def test_ears_without_a_pure_tone_average_are_counted_in_the_title(axes: Axes) -> None:
    table = scores()
    table.loc[:1, "pta_db_hl"] = np.nan
    figures.haaqi_against_pta(table, axes)
    assert axes.get_title() == "oracle (4 of 6 ears have both)"


# Audiograms


def test_audiogram_axes_have_units_and_hearing_loss_runs_downwards(axes: Axes) -> None:
    assert figures.audiograms(audiogram_table(listeners()), axes, "Listeners") is axes
    assert axes.get_xlabel() == "Frequency (Hz)"
    assert axes.get_ylabel() == "Hearing threshold (dB HL)"
    assert axes.get_title() == "Listeners (n = 3)"
    assert axes.yaxis_inverted()
    assert not axes.xaxis_inverted()


def test_audiogram_frequencies_are_octaves_on_a_log_axis(axes: Axes) -> None:
    figures.audiograms(audiogram_table(listeners()), axes)
    assert axes.get_xscale() == "log"
    assert axes.get_xticks().tolist() == [125, 250, 500, 1000, 2000, 4000, 8000]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["125", "250", "500", "1k", "2k", "4k", "8k"]
    assert len(axes.get_xticks(minor=True)) == 0


def test_left_ear_is_a_blue_cross_and_right_ear_a_red_circle(axes: Axes) -> None:
    assert LEFT[2] > max(LEFT[:2])  # blue above all
    assert RIGHT[0] > max(RIGHT[1:3])  # red above all
    figures.audiograms(audiogram_table(listeners()), axes)
    lines = {line.get_label(): line for line in axes.get_lines()}
    left, right = lines["left ear, mean"], lines["right ear, mean"]
    assert (left.get_marker(), colors.to_rgba(left.get_color())) == ("x", LEFT)
    assert (right.get_marker(), colors.to_rgba(right.get_color())) == ("o", RIGHT)
    assert right.get_markerfacecolor() == "none"


def test_audiogram_draws_every_listener_and_the_mean_of_each_ear(axes: Axes) -> None:
    figures.audiograms(audiogram_table(listeners()), axes)
    assert len(axes.get_lines()) == 2 * (3 + 1)
    mean = next(line for line in axes.get_lines() if line.get_label() == "right ear, mean")
    threshold = dict(zip(*mean.get_data(), strict=True))
    assert threshold[2000] == pytest.approx((50 + 55 + 80) / 3)  # N3, S2, N5
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["left ear, mean", "right ear, mean"]


# HAAQI against hearing loss


def test_haaqi_against_pta_has_units_and_the_whole_range_of_the_score(axes: Axes) -> None:
    assert figures.haaqi_against_pta(scores(), axes) is axes
    assert axes.get_xlabel() == "Pure-tone average 0.5-4 kHz (dB HL)"
    assert axes.get_ylabel() == "HAAQI"
    assert axes.get_title() == "oracle (6 ears)"
    low, high = axes.get_ylim()
    assert low == 0
    assert 1 < high < 1.1  # so that a perfect score is not cut


def test_each_ear_is_a_point_in_the_colour_and_marker_of_its_side(axes: Axes) -> None:
    table = scores()
    figures.haaqi_against_pta(table, axes)
    points = {collection.get_label(): collection for collection in axes.collections[:2]}
    for ear, colour in (("left", LEFT), ("right", RIGHT)):
        rows = table[table["ear"] == ear]
        drawn = points[f"{ear} ear"]
        assert drawn.get_offsets().tolist() == rows[["pta_db_hl", "haaqi"]].to_numpy().tolist()
        assert tuple(drawn.get_edgecolor()[0]) == colour
    assert len(points["right ear"].get_facecolor()) == 0  # an open circle
    cross, circle = (points[f"{ear} ear"].get_paths()[0].vertices for ear in ("left", "right"))
    assert len(cross) == 4  # two strokes
    assert len(circle) > 8


def test_regression_line_is_drawn_from_three_listeners_on(axes: Axes) -> None:
    table = scores()
    figures.haaqi_against_pta(table[table["listener"].isin(["tiny", "second"])], axes)
    assert len(axes.get_lines()) == 0
    axes.clear()
    figures.haaqi_against_pta(table, axes, "All")
    (line,) = axes.get_lines()
    x, y = line.get_data()
    # The scores lie on a line, so the regression is that line, up to the rounding of least squares.
    assert y == pytest.approx(1 - x / 100, abs=1e-9)
    assert axes.get_title() == "All"


# Other figures


def test_hrtf_figure_has_units_and_dashes_the_far_loudspeaker(axes: Axes) -> None:
    assert figures.hrtf_magnitude(hrtf_table(head_hrtf(-30.0, 30.0)), axes) is axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Frequency (Hz)", "Magnitude (dB)")
    assert axes.get_xscale() == "log"
    looks = {line.get_label(): (line.get_linestyle(), colors.to_rgba(line.get_color())) for line in axes.get_lines()}
    assert looks == {
        "left loudspeaker, left ear": ("-", LEFT),
        "left loudspeaker, right ear": ("--", RIGHT),
        "right loudspeaker, left ear": ("--", LEFT),
        "right loudspeaker, right ear": ("-", RIGHT),
    }


def test_stem_levels_show_every_level_with_its_unit(axes: Axes) -> None:
    table = pd.DataFrame(
        {
            "scene": ["scene_10001"] * 2 + ["scene_10002"] * 2,
            "signal": ["vocals", "mixture"] * 2,
            "loudness_lufs": [-24.0, -16.0, -25.0, -17.0],
        }
    )
    assert figures.stem_levels(table, axes) is axes
    assert axes.get_ylabel() == "Integrated loudness (LUFS)"
    drawn = sorted(float(y) for collection in axes.collections for _, y in collection.get_offsets())
    assert drawn == [-25.0, -24.0, -17.0, -16.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["scene_10001", "scene_10002"]


# Style and files


def test_style_holds_inside_the_context_and_leaves_no_trace() -> None:
    before = mpl.rcParams.copy()
    with figures.style():
        assert mpl.rcParams["pdf.fonttype"] == 42
        assert mpl.rcParams["axes.grid"] is True
        figure, axes = plt.subplots()
        figures.audiograms(audiogram_table(listeners()), axes)
        figures.haaqi_against_pta(scores(), axes)
    assert mpl.rcParams == before
    assert figure.get_layout_engine() is not None  # constrained


def test_figures_outside_the_style_leave_the_settings_alone(axes: Axes) -> None:
    before = mpl.rcParams.copy()
    figures.haaqi_against_pta(scores(), axes)
    figures.hrtf_magnitude(hrtf_table(head_hrtf(-30.0, 30.0)), axes)
    assert mpl.rcParams == before


@pytest.mark.parametrize("name", ["pta", "pta.png"])
def test_save_writes_png_pdf_with_truetype_fonts_and_the_data(name: str, tmp_path: Path) -> None:
    table = scores()
    with figures.style():
        figure, axes = plt.subplots(figsize=(4, 3))
        figures.haaqi_against_pta(table, axes)
        files = figures.save(figure, tmp_path / "new" / name, table)
    assert files == [tmp_path / "new" / f"pta{suffix}" for suffix in (".png", ".pdf", ".csv")]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["pta.csv", "pta.pdf", "pta.png"]

    png, pdf = files[0].read_bytes(), files[1].read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    assert (width, height) == (4 * 160, 3 * 160)  # inches times the style's dots per inch
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf  # TrueType, embedded: text stays text in a paper
    assert b"/Type3" not in pdf  # what many publishers refuse
    pd.testing.assert_frame_equal(pd.read_csv(files[2]), table, rtol=1e-14)  # digits that pandas' reader may lose


def test_loss_curves_show_training_and_validation():
    metrics = pd.DataFrame(
        {"step": [0, 1, 2, 2], "loss": [np.nan, 3.0, 2.0, np.nan], "valid_loss": [4.0, np.nan, np.nan, 1.0]}
    )
    _, axes = plt.subplots()
    each, _, validation = figures.loss_curves(metrics, axes).lines
    assert each.get_xydata().tolist() == [[1, 3], [2, 2]]
    assert validation.get_xydata().tolist() == [[0, 4], [2, 1]]
    plt.close("all")


def test_targets_show_the_difference_of_each_target_and_its_interval():
    columns = ["target", "n_seeds", "difference", "difference_low", "difference_high"]
    table = pd.DataFrame([("start", 1, 0, 0, 0), ("haaqi", 2, 0.02, 0.01, 0.05)], columns=columns)
    axes = plt.subplots()[1]
    (points,) = figures.targets(table, axes).containers
    assert points.lines[0].get_xydata().tolist() == [[0, 0.02]]
    assert points.lines[2][0].get_segments()[0][:, 1] == pytest.approx([0.01, 0.05])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["haaqi\n(2 seeds)"]


def test_explanation_shows_each_contribution_and_its_interval():
    table = pd.DataFrame(itertools.product(explain.FACTORS, explain.THROUGH), columns=["factor", "through"])
    table["contribution"] = np.arange(16) / 100 - 0.1
    table["low"], table["high"] = table["contribution"] - 0.02, table["contribution"] + 0.01
    axes = figures.explanation(table, plt.subplots()[1])
    drawn = [bars for bars in axes.containers if bars.get_label() in explain.THROUGH]
    assert [bars.get_label() for bars in drawn] == list(explain.THROUGH)
    for place, bars in enumerate(drawn):
        assert [bar.get_width() for bar in bars] == table["contribution"][place::4].to_list()
        ends = np.array([segment[:, 0] for segment in bars.errorbar.lines[2][0].get_segments()])
        np.testing.assert_allclose(ends, table[["low", "high"]][place::4], rtol=0, atol=1e-12)
        centres = [bar.get_y() + bar.get_height() / 2 for bar in bars]
        assert np.argsort(centres).tolist() == [0, 1, 2, 3]
    assert axes.yaxis_inverted()
    assert [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()] == list(explain.FACTORS)


def test_data_size_shows_each_size_at_its_share():
    table = pd.DataFrame({"share": [0.25, 1.0], "haaqi": [0.5, 0.6], "sd": [0.1, np.nan], "paper_haaqi": [np.nan, 0.7]})
    _, axes = plt.subplots(1, 2)
    assert figures.data_size(table, axes[0]).lines[0].get_xydata().tolist() == [[0.25, 0.5], [1.0, 0.6]]
    assert figures.data_size(table, axes[1], "paper_haaqi").lines[0].get_xydata().tolist() == [[1.0, 0.7]]
    plt.close("all")


def test_the_optimum_is_marked_and_the_band_is_that_of_the_column():
    table = pd.DataFrame(
        {
            "mixture_weight": [0.2, 0.0, 0.1],
            "haaqi": [0.4, 0.3, 0.5],
            "ci_low": 0.1,
            "ci_high": 0.8,
            "difference": [0.1, 0.0, 0.2],
            "difference_low": [0.05, 0.0, 0.15],
            "difference_high": [0.15, 0.0, 0.25],
        }
    )
    for column, height in (("haaqi", 0.5), ("difference", 0.2)):
        _, axes = plt.subplots()
        figures.mixture_weights(table, axes, column)
        star = axes.lines[-1]
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (0.1, height)
        band = axes.collections[0].get_datalim(axes.transData).height
        assert band == pytest.approx(0.7 if column == "haaqi" else 0.25)
        plt.close("all")


def test_a_ternary_map_puts_each_model_alone_into_its_corner():
    table = pd.DataFrame(
        {"model_weights": ["[1.0, 0.0, 0.0]", "[0.0, 1.0, 0.0]", "[0.0, 0.0, 1.0]"], "haaqi": [1, 3, 2]}
    )
    _, axes = plt.subplots()
    figures.ternary(table, ["a", "b", "c"], axes)
    points = axes.collections[0].get_offsets()
    sides = np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1)
    assert sides == pytest.approx(1.0)  # an equilateral triangle
    for name, point in zip("abc", points, strict=True):
        nearest = min(axes.texts, key=lambda text: np.hypot(*(np.array(text.get_position()) - point)))
        assert nearest.get_text() == name
    assert tuple(axes.lines[-1].get_xydata()[0]) == tuple(points[1])
    plt.close("all")
