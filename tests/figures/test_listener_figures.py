"""Figures of HAAQI and its listeners: against images, what they say, and what they say without data."""

from pathlib import Path

import numpy as np
import pytest
from figure_cases import cases, draw, level_table, render
from matplotlib import image
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.testing.compare import calculate_rms

from cadenza_lib import figures
from cadenza_lib.analysis import causes, statistics, tables
from cadenza_lib.data.listeners import audiogram_table
from cadenza_lib.figures import listeners

pytestmark = pytest.mark.usefixtures("headless")

GOLDEN = Path(__file__).parents[1] / "golden"

TOLERANCE = 0.4
"""Root mean square of grey levels, 0 to 255. Builds of one version of matplotlib draw the same to 0.1, and the thinnest
line that a figure can lose is 0.8 (see the second test)."""

CASES = cases()


def pixels(path: Path) -> np.ndarray:
    return (255 * image.imread(path)[..., :3]).round().astype(np.int16)


def text_of(axes: Axes) -> str:
    return " ".join(" ".join(text.get_text().split()) for text in axes.texts)


# Images


def test_there_is_an_image_for_every_case_and_no_other() -> None:
    assert {path.stem for path in GOLDEN.glob("*.png")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_figure_looks_as_it_did(name: str, tmp_path: Path) -> None:
    drawn = render(draw(CASES[name]), tmp_path / "figures.png")
    assert calculate_rms(pixels(GOLDEN / f"{name}.png"), pixels(drawn)) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_image_tells_when_something_is_missing(name: str, tmp_path: Path) -> None:
    removed = 0
    for kind in ("lines", "collections"):
        count = len(getattr(draw(CASES[name]).axes[0], kind))
        for index in {0, count // 2, count - 1} if count else ():
            figure = draw(CASES[name])
            artist = getattr(figure.axes[0], kind)[index]
            before = pixels(render(figure, tmp_path / "before.png"))
            artist.remove()
            after = pixels(render(figure, tmp_path / "after.png"))
            if (before == after).all():
                continue  # an entry of the legend
            removed += 1
            assert calculate_rms(pixels(GOLDEN / f"{name}.png"), after) > TOLERANCE, f"{kind}[{index}]"
    assert removed


# What is said


def test_labels_have_units() -> None:
    for name, case in CASES.items():
        axes = case(plt.subplots()[1])
        assert axes.get_title()
        if name == "correlation_heatmap":
            continue
        assert axes.get_xlabel(), name
        assert axes.get_ylabel(), name
        units = ("(dB HL)", "(dB)", "(Hz)", "class", "0 is official")
        assert any(unit in axes.get_xlabel() for unit in units), name


def test_heat_map_has_the_numbers_of_the_table_and_marks_what_survives_correction(axes: Axes) -> None:
    table = statistics.correlation_table(
        causes.official_scores(level_table()), ["threshold_500_hz_db_hl", "slope_db_per_octave", "loudness"]
    )
    listeners.correlation_heatmap(table, axes)
    expected = [
        "n/a" if np.isnan(row.pearson_r) else f"{row.pearson_r:.2f}" + "*" * (row.p_holm < 0.05)
        for row in table.itertuples()
    ]
    assert [text.get_text() for text in axes.texts] == expected
    assert expected.count("n/a") == 3  # "loudness" is constant there
    assert any(text.endswith("*") for text in expected)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["500", "slope", "loudness"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mixture", "net", "oracle"]


def test_pairs_are_the_means_of_asymmetric_listeners_at_their_losses(axes: Axes) -> None:
    tidy = causes.official_scores(level_table()).query("system == 'net'")
    listeners.asymmetric_listeners(tidy, axes, "c")
    drawn = {tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2}
    low = tidy.groupby(["listener", "ear"])["low_db_hl"].first().unstack()[["left", "right"]]
    # N2 and N3 differ by 15 dB, N3 and N5 by 30, S1 and S2 by 26, S3 and N1 by 50; the others are symmetric.
    assert drawn == {tuple(low.loc[name]) for name in "bcdf"}
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["left ear", "right ear", "c"]


def test_dashed_lines_are_what_the_same_levels_score_without_the_clip(axes: Axes) -> None:
    levels = level_table().query("system == 'oracle'")
    listeners.level_curves(levels, axes)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    expected = levels[~levels["clip"].astype(bool)].groupby(["severity", "output_level_db"])["haaqi"].mean().unstack()
    found = sorted(tuple(line.get_ydata()) for line in dashed)
    assert np.array(found) == pytest.approx(np.array(sorted(map(tuple, expected.to_numpy()))))


# Not enough data


def nothing_to_draw() -> dict:
    """Return each figure with tables that lack something, and a part of what it must say."""
    levels = level_table()
    tidy = causes.official_scores(levels)
    empty, empty_levels = tidy.iloc[:0], levels.iloc[:0]
    unknown = tidy.assign(haaqi=np.nan)
    one = tidy[tidy["listener"] == "a"]
    lost = causes.losses_table(empty_levels, "net")
    return {
        "no audiogram": (figures.audiograms, audiogram_table([]), ()),
        "no row has both": (figures.haaqi_against_pta, empty, ()),
        "no row has both HAAQI and pta_db_hl": (figures.haaqi_against_pta, unknown, ()),
        "no line: not enough data: 1 listener": (figures.haaqi_against_pta, one, ()),
        "haaqi is the same everywhere": (figures.haaqi_against_pta, tidy.assign(haaqi=0.5), ()),
        "not enough data: 1 listener": (figures.correlation_heatmap, statistics.correlation_table(one), ()),
        "no scores": (figures.correlation_heatmap, statistics.correlation_table(empty), ()),
        "no asymmetric listener": (figures.asymmetric_listeners, one[one["ear"] == "left"], ("a",)),
        "no asymmetric listener with": (figures.asymmetric_listeners, unknown, ("a",)),
        "not enough data: no scores": (figures.haaqi_by_severity, unknown, ()),
        "gains of these scenes are not": (figures.haaqi_by_gain, tables.gain_table(empty), ()),
        "clipping is not known": (figures.clipped_share, empty_levels, ()),
        "no scores with and without": (figures.clip_effect, empty_levels, ()),
        "no scores with and without the": (figures.losses, lost, ()),
        "no scores over output levels": (figures.level_curves, levels.assign(haaqi=np.nan), ()),
        "no listener has scores of two": (figures.level_gains, causes.output_level_choices(empty_levels, "net"), ()),
    }


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("said", nothing_to_draw())
def test_a_figure_without_enough_data_says_so(said: str, axes: Axes) -> None:
    figure, table, arguments = nothing_to_draw()[said]
    assert figure(table, axes, *arguments) is axes
    assert said in text_of(axes)
    axes.figure.canvas.draw()


def test_one_listener_and_one_class_can_be_drawn(axes: Axes) -> None:
    one = level_table().query("listener == 'c'")
    people = listeners.haaqi_by_severity(causes.official_scores(one), axes)
    assert [label.get_text() for label in people.get_xticklabels()] == ["moderate\n(n = 1)"]


def test_heatmap_says_which_averages_are_of_fewer_frequencies(axes: Axes) -> None:
    table = causes.official_scores(level_table())
    correlations = statistics.correlation_table(table, ["pta_db_hl", "high_db_hl"])
    listeners.correlation_heatmap(correlations, axes, note="3 of 12 listeners are not measured to 8 kHz")
    assert axes.get_xlabel().endswith("after Holm's correction\n3 of 12 listeners are not measured to 8 kHz")


def test_listeners_without_severity_are_counted_below_the_figure(axes: Axes) -> None:
    table = causes.official_scores(level_table())
    unknown = table["listener"].unique()[:2]
    table.loc[table["listener"].isin(unknown), "severity"] = None
    listeners.haaqi_by_severity(table, axes)
    assert axes.get_xlabel() == "Severity class, better-ear pure-tone average; without it, left out: 2"
