"""The knobs without a browser: what the widgets hold after a knob was turned, against the chain itself."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from cadenza_lib import figures
from cadenza_lib.chain.fitting import PRESCRIPTIONS
from cadenza_lib.chain.pipeline import ChainSettings, enhance, reference_remix
from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.listeners import BISGAARD_THRESHOLDS_DB_HL, standard_audiogram
from cadenza_lib.data.tiny import tiny_corpus, tiny_listener
from cadenza_lib.listening import explore, stages
from cadenza_lib.listening.background import LatestTask
from cadenza_lib.listening.explore import AudiogramWidget, Explorer
from cadenza_lib.listening.player import Take
from cadenza_lib.scoring.pairs import score

SCENE, LISTENER = "scene_10001", "A"
ARGUMENTS = {"split": "train", "scene": SCENE, "listener": LISTENER, "start_s": 0.0, "duration_s": 1.0, "device": "cpu"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("explore") / "tiny", duration_s=1.0)


@pytest.fixture(scope="module")
def shared(corpus: Path) -> Explorer:
    return Explorer(str(corpus), systems=["oracle", "mixture"], **ARGUMENTS)


@pytest.fixture
def explorer(shared: Explorer) -> Iterator[Explorer]:
    """Return the explorer with all knobs where they were."""
    yield shared
    shared.mixture_weight.value, shared.output_level_db.value = 0.15, 0.0
    shared.systems.value = ("oracle", "mixture")
    shared._set_scene()
    shared.listener.value = "B"
    shared.listener.value = LISTENER
    shared.wait()


def cell(explorer: Explorer, ear: str, name: str) -> str:
    match = re.search(rf'data-ear="{ear}" data-name="{name}">([^<]*)<', explorer.numbers.value)
    assert match
    return match[1]


def test_first_answer_is_the_scene_as_it_is_evaluated(explorer: Explorer, corpus: Path) -> None:
    explorer.wait()
    data = Corpus(corpus)
    split = data.split("train")
    assert [explorer.gains[stem].value for stem in STEMS] == data.gains_db(split.scenes[SCENE]).tolist()
    assert len(explorer.player.steady) == 5
    assert [take["name"] for take in explorer.player.turned] == [
        "Remix, before amplification",
        "Output of the hearing aid",
        "Reference: true stems, amplified",
    ]
    assert explorer.player.heard[0]["name"] == "As heard: Output of the hearing aid"
    assert explorer.player.pending is False
    assert explorer.picture.value[:4] == b"\x89PNG"


def test_every_knob_moves_what_it_should(explorer: Explorer, corpus: Path) -> None:
    explorer.gains["drums"].value = 12.0
    explorer.output_level_db.value = -6.0
    explorer.systems.value = ("oracle",)
    explorer.mixture_weight.value = 0.0
    explorer.standard["left"].value = "N4"
    explorer.wait()
    data = Corpus(corpus)
    split = data.split("train")
    song, gains_db = data.at_ear_song(split, split.scenes[SCENE]), data.gains_db(split.scenes[SCENE])
    gains_db[STEMS.index("drums")] = 12.0
    listener = explorer.audiogram.listener()
    assert listener.audiogram_left.levels[2] == 55.0  # N4 at 1 kHz
    output = enhance(song, [song.stems], gains_db, listener, ChainSettings(output_level_db=-6.0))
    expected = score(output, reference_remix(song, gains_db), listener, SCENE)
    for ear, haaqi, clipped_share in zip(("left", "right"), expected.haaqi, expected.clipped_share, strict=True):
        assert cell(explorer, ear, "haaqi") == f"{haaqi:.3f}"
        assert cell(explorer, ear, "clipped_share") == f"{100 * clipped_share:.1f} %"


def test_weights_are_shared_out_among_the_systems(explorer: Explorer) -> None:
    explorer.model_weights["oracle"].value, explorer.model_weights["mixture"].value = 0.6, 0.2
    explorer.wait()
    assert explorer._setting().chain.model_weights == pytest.approx((0.75, 0.25))
    for slider in explorer.model_weights.values():
        slider.value = 0.0
    explorer.wait()
    assert explorer._setting().chain.model_weights == pytest.approx((0.5, 0.5))


def test_a_dragged_point_is_kept_and_marks_the_audiogram_as_drawn(explorer: Explorer) -> None:
    explorer.standard["right"].value = "N2"
    levels = list(explorer.audiogram.right)
    assert levels[2] == 25.0
    levels[2] = 60.0
    explorer.audiogram.right = levels
    explorer.wait()
    assert explorer.standard["right"].value == "as drawn"
    assert explorer.audiogram.right[2] == 60.0
    assert cell(explorer, "right", "pta_db_hl") == f"{(20 + 60 + 35 + 45) / 4:.1f}"


def test_overtaken_requests_are_skipped_and_stale_scores_never_shown(explorer: Explorer) -> None:
    started, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        go_on.wait(30)

    explorer.wait()
    answers = []
    original = explorer._update_picture
    explorer._update_picture = lambda *arguments: (answers.append(1), original(*arguments))  # type: ignore[method-assign]
    try:
        explorer._quick.submit(hold)
        started.wait(30)
        for gain_db in np.arange(-10.0, 10.5, 0.5):
            explorer.gains["bass"].value = gain_db
        assert explorer.player.pending is True
        go_on.set()
        explorer.wait()
    finally:
        del explorer._update_picture
    assert len(answers) == 1
    assert explorer._setting().gains_db[STEMS.index("bass")] == 10.0
    assert explorer.player.pending is False
    assert "pending" not in explorer.numbers.value


def test_errors_are_told_on_the_page_as_text(explorer: Explorer) -> None:
    before = explorer.scene.options
    explorer.corpus.value = "/<i>nowhere</i>"
    explorer.wait()
    assert "&lt;i&gt;nowhere&lt;/i&gt; does not exist" in explorer.status.value
    assert explorer.scene.options == before


def test_what_cannot_be_used_stops_the_cell(corpus: Path) -> None:
    with pytest.raises(ParameterError, match="Listener 'nobody' is not in split 'train'; it has A, B"):
        Explorer(str(corpus), systems=["oracle"], **ARGUMENTS | {"listener": "nobody"})
    with pytest.raises(ParameterError, match="Scene 'x' is not in split"):
        Explorer(str(corpus), systems=["oracle"], **ARGUMENTS | {"scene": "x"})
    with pytest.raises(CorpusError, match="does not exist"):
        Explorer("/nowhere", systems=["oracle"], **ARGUMENTS)


def test_own_audiogram_stands_in_the_place_of_a_listener(corpus: Path) -> None:
    text = "L 250:10 500:15 1000:20 2000:25 3000:30 4000:35 6000:40 8000:45 R 250:50 8000:50"
    own = Explorer(str(corpus), systems=["oracle"], **ARGUMENTS, audiogram=text)
    own.wait()
    assert own.listener.options == ("A", "B", "own")
    assert own.audiogram.left == [10, 15, 20, 25, 30, 35, 40, 45]
    assert own.audiogram.right == [50] * 8
    assert cell(own, "left", "pta_db_hl") == "23.8"
    own.listener.value = "A"
    own.wait()
    assert own.audiogram.left != [10, 15, 20, 25, 30, 35, 40, 45]


def test_picture_is_the_same_whatever_matplotlibrc_says(explorer: Explorer, corpus: Path) -> None:
    explorer.wait()
    mine = {"image.origin": "lower", "text.usetex": True, "font.size": 31, "savefig.facecolor": "red"}
    with mpl.rc_context(mine):
        other = Explorer(str(corpus), systems=["oracle", "mixture"], **ARGUMENTS)
        other.wait()
    assert other.picture.value == explorer.picture.value


def test_figure_holds_the_tables_and_leaves_global_styles_alone() -> None:
    noise = np.random.default_rng(0).normal(size=(2, 44100))
    takes = [Take("soft", 0.01 * noise, 44100), Take("loud", 0.1 * noise, 44100)]
    setting = stages.Setting((0.0,) * 4, tiny_listener(), ChainSettings())
    before = dict(mpl.rcParams)
    with figures.style():
        figure = explore.draw_stages(takes, setting)
    assert dict(mpl.rcParams) == before
    left, right, gain = figure.axes
    for axes in (left, right):
        soft, loud = (line.get_ydata() for line in axes.lines)
        np.testing.assert_allclose(np.subtract(loud, soft), 20, atol=1e-6)  # dB
    table = stages.gain_table(setting)
    for line, ear in zip(gain.lines, ("left", "right"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), table[table["ear"] == ear]["gain_db"])


# Widgets


@pytest.mark.parametrize("name", BISGAARD_THRESHOLDS_DB_HL)
def test_points_that_can_be_dragged_hold_all_that_nal_r_looks_at(name: str) -> None:
    widget = AudiogramWidget()
    widget.show("left", standard_audiogram(name))
    np.testing.assert_array_equal(
        PRESCRIPTIONS["nal_r"].gain_db(widget.listener().audiogram_left),
        PRESCRIPTIONS["nal_r"].gain_db(standard_audiogram(name)),
    )
    assert not widget.listener().audiogram_right.levels.any()


def test_latest_task_runs_the_first_and_the_last_of_a_burst() -> None:
    ran, go_on, errors = [], threading.Event(), []
    worker = LatestTask(errors.append)
    worker.submit(lambda: (go_on.wait(30), ran.append("first")))
    for number in range(50):
        worker.submit(lambda number=number: ran.append(number))
    go_on.set()
    worker.wait()
    assert ran[-1] == 49
    assert len(ran) <= 2  # the first may have been overtaken before it began
    assert errors == []


def test_latest_task_tells_of_an_error_and_goes_on() -> None:
    errors, ran = [], []
    worker = LatestTask(errors.append)
    worker.submit(lambda: 1 / 0)
    worker.wait()
    worker.submit(lambda: ran.append(1))
    worker.wait()
    assert isinstance(errors[0], ZeroDivisionError)
    assert ran == [1]
