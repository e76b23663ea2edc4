"""A headless Chromium, or the reason why there is none."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from browser.browsing import PATIENCE_S, Watched

HERE = ("http://127.0.0.1", "ws://127.0.0.1", "file:", "data:", "blob:")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: pip install --constraint constraints.txt playwright"
    )
    paths = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not paths:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=paths[0], args=["--no-sandbox"])  # containers have none
        yield one
        one.close()


@pytest.fixture(scope="module")
def open_page(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Return a function that opens a page whose errors and requests to other machines are recorded."""
    contexts = []

    def open_one(width: int = 1280, height: int = 900) -> Watched:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        watched = Watched(contexts[-1].new_page())
        page, complaints = watched.page, watched.complaints
        page.set_default_timeout(1000 * PATIENCE_S)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda message: message.type == "error" and complaints.append(f"console: {message.text}"))
        page.on("request", lambda request: request.url.startswith(HERE) or complaints.append(f"network: {request.url}"))
        return watched

    yield open_one
    for context in contexts:
        context.close()
