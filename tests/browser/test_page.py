"""The page that `make demo` leaves, in a real browser: complete without a network, and its tour plays."""

from collections.abc import Callable

import pytest

from browser.browsing import ROOT, Watched

PAGE = ROOT / "runs" / "demo" / "index.html"


@pytest.fixture
def page(open_page: Callable[..., Watched]) -> Watched:
    if not PAGE.is_file():
        pytest.skip(f"{PAGE.relative_to(ROOT)} is not there: make demo")
    watched = open_page()
    watched.page.goto(PAGE.as_uri())
    return watched


def test_every_link_and_picture_of_the_demos_page_is_there(page: Watched) -> None:
    assert page.page.locator("img").count() > 0
    widths = page.page.locator("img").evaluate_all("(images) => images.map((image) => image.naturalWidth)")
    assert min(widths) > 0
    links = page.page.locator("a").evaluate_all("(links) => links.map((link) => link.getAttribute('href'))")
    assert any("00_tour" in link for link in links)
    for link in links:
        assert (PAGE.parent / link).is_file(), link
    assert page.complaints == []


def test_the_tour_behind_the_demos_page_plays(page: Watched) -> None:
    page.page.locator("a[href*='00_tour']").click()
    player = page.page.locator(".cadenza-player").first
    player.locator("button.play").click()
    player.locator(".player[data-state=playing]").wait_for()
    page.page.keyboard.press("2")
    assert player.locator(".player").get_attribute("data-active") == "2"
    assert [one for one in page.complaints if one.startswith("error")] == []
