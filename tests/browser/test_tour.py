"""The tour in a real JupyterLab: what a person turns is what the page shows, plays and scores."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from browser.browsing import EXPLORER, READY, Lab, Watched, jupyterlab, open_tour, write_tour
from cadenza_lib.chain.fusion import MIXTURE_WEIGHT
from cadenza_lib.chain.pipeline import ChainSettings, enhance, reference_remix
from cadenza_lib.data.listeners import AUDIOGRAM_FREQUENCIES, Audiogram, Listener, ear_audiogram
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.listening import stages
from cadenza_lib.scoring.pairs import score

SCENE, LISTENER, SYSTEM = "scene_10004", "like-L5000", "twin_hdemucs"
START_S, DURATION_S = 2.0, 2.0
WIDTHS = (1280, 1920)

PLAYER = f"document.querySelector('{EXPLORER} .cadenza-player').cadenzaPlayer"


@dataclass
class Tour:
    """The tour with a short excerpt, after all its cells have run in JupyterLab."""

    lab: Lab
    watched: Watched


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory, open_page: Callable[..., Watched]) -> Iterator[Tour]:
    folder = tmp_path_factory.mktemp("tour")
    write_tour(folder, systems=[SYSTEM], start_s=START_S, duration_s=DURATION_S)
    with jupyterlab(folder) as lab:
        watched = open_page(height=1500)
        open_tour(watched.page, lab)
        yield Tour(lab, watched)


@pytest.fixture(autouse=True)
def _nothing_goes_wrong(tour: Tour) -> Iterator[None]:
    """Check after each test that neither the page nor the kernel has complained, and nothing left the machine."""
    yield
    assert tour.watched.complaints == []
    assert tour.watched.page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    assert tour.watched.page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
    assert "Traceback" not in (tour.lab.folder / "lab.log").read_text()


def wait_until_ready(watched: Watched) -> None:
    watched.page.wait_for_function(READY)


def number(watched: Watched, ear: str, name: str) -> float:
    text = watched.page.text_content(f'.cadenza-numbers td[data-ear="{ear}"][data-name="{name}"]')
    return float(re.sub(r"[^\d.-]", "", text))


def wait_for_pta(watched: Watched, ear: str, text: str) -> None:
    cell = f".cadenza-numbers td[data-ear={ear}][data-name=pta_db_hl]"
    watched.page.wait_for_function(f"document.querySelector('{cell}').textContent === '{text}'")


def expected_haaqi(gains_db: tuple[float, ...], listener: Listener) -> tuple[float, float]:
    """Return what enhancing and evaluating the excerpt gives, by the functions that write `scores.csv`."""
    corpus = open_corpus("twin")
    excerpt = stages.load_excerpt(corpus, "valid", SCENE, [SYSTEM], START_S, DURATION_S, "cpu")
    gains = torch.tensor(gains_db, dtype=torch.float64)
    chain = ChainSettings(mixture_weight=MIXTURE_WEIGHT)  # where the control begins
    output = enhance(excerpt.song, [excerpt.estimates[SYSTEM]], gains, listener, chain)
    return score(output, reference_remix(excerpt.song, gains), listener, SCENE).haaqi


def photograph(watched: Watched, name: str) -> None:
    """Keep a picture for a person to look at, if CADENZA_SCREENSHOTS names a folder; never in the repository."""
    if folder := os.environ.get("CADENZA_SCREENSHOTS"):
        watched.page.wait_for_timeout(800)
        watched.page.screenshot(path=Path(folder) / f"{name}.png")


def test_knobs_change_what_is_heard_shown_and_scored(tour: Tour) -> None:
    watched = tour.watched
    page = watched.page
    corpus = open_corpus("twin")
    split = corpus.split("valid")
    gains_db = corpus.gains_db(split.scenes[SCENE]).tolist()
    before = {ear: number(watched, ear, "haaqi") for ear in ("left", "right")}
    pta_db_hl = number(watched, "left", "pta_db_hl")

    # Play, and switch to the output of the hearing aid.
    page.click(f"{EXPLORER} button.play")
    page.wait_for_selector(f"{EXPLORER} .player[data-state=playing]")
    page.keyboard.press("7")
    assert page.evaluate(f"{PLAYER}.played()")["active"] == 6
    loudness = page.text_content(f"{EXPLORER} tbody tr:nth-child(7) .loudness")

    # Two steps of half a decibel more vocals.
    handle = page.locator(f"{EXPLORER} .widget-slider", has_text="Vocals").locator(".noUi-handle")
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f"{EXPLORER} .player tr:nth-child(9) .pending:not(:empty)")
    wait_until_ready(watched)
    readout = page.locator(f"{EXPLORER} .widget-slider", has_text="Vocals").locator(".widget-readout").text_content()
    assert float(readout) == gains_db[0] + 1.0

    # Drag the left ear's threshold at 1 kHz down by 20 dB.
    grip = page.locator(f'{EXPLORER} .grip[data-ear="left"][data-frequency="1000"]')
    threshold_db_hl = float(grip.get_attribute("aria-valuenow"))
    grip.scroll_into_view_if_needed()
    box, picture = grip.bounding_box(), page.locator(f"{EXPLORER} .cadenza-audiogram svg").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y + 20 / 130 * 240 / 300 * picture["height"], steps=4)  # 130 dB on 240 of 300 units
    page.mouse.up()
    assert float(grip.get_attribute("aria-valuenow")) == threshold_db_hl + 20
    wait_for_pta(watched, "left", f"{pta_db_hl + 5:.1f}")  # a quarter: one of the four frequencies of the average
    wait_until_ready(watched)

    state = page.evaluate(f"{PLAYER}.played()")
    assert state["active"] == 6
    assert page.get_attribute(f"{EXPLORER} .player", "data-state") == "playing"
    assert page.text_content(f"{EXPLORER} tbody tr:nth-child(7) .loudness") != loudness
    photograph(watched, "knobs")

    # The page has the scores of an evaluation with these gains and this audiogram.
    shown = {
        ear: ear_audiogram(split.listeners[LISTENER], ear)
        .resample(torch.tensor(AUDIOGRAM_FREQUENCIES).double().numpy())
        .levels
        for ear in ("left", "right")
    }
    shown["left"][AUDIOGRAM_FREQUENCIES.index(1000)] += 20
    ears = [Audiogram(shown[ear], list(AUDIOGRAM_FREQUENCIES)) for ear in ("left", "right")]
    left, right = expected_haaqi((gains_db[0] + 1.0, *gains_db[1:]), Listener(*ears, id="dragged"))
    assert number(watched, "left", "haaqi") == pytest.approx(left, abs=5.1e-4)  # three decimals are shown
    assert number(watched, "right", "haaqi") == pytest.approx(right, abs=5.1e-4)
    assert number(watched, "left", "haaqi") != before["left"]


def test_an_audiogram_can_be_chosen_and_a_bad_corpus_is_told(tour: Tour) -> None:
    watched = tour.watched
    page = watched.page
    page.locator(f"{EXPLORER} .widget-dropdown", has_text="Right ear").locator("select").select_option("N1")
    wait_for_pta(watched, "right", "16.2")
    wait_until_ready(watched)
    text = page.locator(f"{EXPLORER} .widget-text", has_text="Corpus").locator("input")
    text.fill("<b>nowhere</b>")
    text.press("Enter")
    page.wait_for_function(
        "document.querySelector('.cadenza-status').textContent.includes('<b>nowhere</b> does not exist')"
    )


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_page_fits_its_window_in_both_themes(tour: Tour, theme: str) -> None:
    page = tour.watched.page
    page.evaluate("(theme) => void window.jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
    page.wait_for_selector(f'body[data-jp-theme-name="{theme}"]', state="attached")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1500})
        page.wait_for_timeout(300)
        overflow = page.locator(EXPLORER).evaluate("(node) => node.scrollWidth - node.clientWidth")
        assert overflow <= 0
        photograph(tour.watched, f"{theme.split()[-1].lower()}_{width}")
    # The luminance contrast that WCAG asks of small text.
    style = "(node, name) => getComputedStyle(node)[name]"
    text = page.locator(f"{EXPLORER} .player").evaluate(style, "color")
    ground = page.locator(".jp-Notebook").evaluate(style, "backgroundColor")
    assert contrast(text, ground) >= 4.5


def contrast(text: str, ground: str) -> float:
    """Return the contrast ratio of a CSS colour on an opaque one (WCAG 2.2, relative luminance)."""
    (*below, _), (*above, alpha) = ([*map(float, re.findall(r"[\d.]+", colour)), 1.0][:4] for colour in (ground, text))
    seen = [alpha * high + (1 - alpha) * low for high, low in zip(above, below, strict=True)]
    lights = []
    for colour in (seen, below):
        shares = [value / 255 for value in colour]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in shares]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)
