"""How long the tour takes to answer a knob, in a real browser: from the key to the levels, the spectra and the player.

    python tests/benchmarks/tour.py                  # needs Chromium and playwright
    python tests/benchmarks/tour.py --duration-s 12

It opens `00_tour` in a JupyterLab of its own, presses the arrow key on each slider in turn, and waits until the page
says that all but HAAQI and hearing is there; these two are timed as well. Times are read off the browser's own clock.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from browser.browsing import EXPLORER, PATIENCE_S, READY, jupyterlab, open_tour, write_tour

SLIDERS = ("Vocals", "Drums", "Bass", "Other", "Mixture", "Level")
WATCH = """() => {
  const times = (window.cadenzaTimes = {});
  document.addEventListener('keydown', () => { times.key = performance.now(); delete times.answer; }, true);
  const answered = () => {
    const text = document.querySelector('.cadenza-status').textContent;
    if (text.startsWith('Answered')) times.answer ??= performance.now();
    if (text === 'Ready.') times.ready = performance.now();
  };
  const parts = { subtree: true, childList: true, characterData: true };
  new MutationObserver(answered).observe(document.querySelector('.cadenza-explorer'), parts);
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration-s", type=float, help="of the excerpt, default: that of the notebook")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    chosen = {} if arguments.duration_s is None else {"duration_s": arguments.duration_s}
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        write_tour(Path(name), **chosen)
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 1500})
        page.set_default_timeout(1000 * PATIENCE_S)
        with jupyterlab(Path(name)) as lab:
            open_tour(page, lab)
            page.evaluate(WATCH)
            turn(page, SLIDERS[0])  # the first scores load the kernels
            times = {slider: [turn(page, slider) for _ in range(arguments.rounds)] for slider in SLIDERS}
        chromium.close()
    print("| knob | answer in ms, median | longest | HAAQI and hearing in ms |\n|---|---:|---:|---:|")
    for slider, found in times.items():
        answers, ready = zip(*found, strict=True)
        print(f"| {slider} | {statistics.median(answers):.0f} | {max(answers):.0f} | {statistics.median(ready):.0f} |")


def turn(page: Page, slider: str) -> tuple[float, float]:
    """Move a slider by a step, and return the milliseconds to the answer and to all of it."""
    page.locator(f"{EXPLORER} .widget-slider", has_text=slider).locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("window.cadenzaTimes.answer")
    page.wait_for_function(READY)
    times = page.evaluate("window.cadenzaTimes")
    return times["answer"] - times["key"], times["ready"] - times["key"]


if __name__ == "__main__":
    main()
