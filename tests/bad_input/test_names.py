"""Songs of any name are stored, read and shown, and no name becomes part of a page's code."""

import csv
import html
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from damage import NAMES

from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.datasets import check_data
from cadenza_lib.data.simulation import simulate
from cadenza_lib.data.songs import SIGNALS
from cadenza_lib.data.supplement import draw_scenes, import_songs
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.listening.player import Player, Take
from cadenza_lib.runs.page import PointResult, write_items, write_page

TITLES = (
    *(name for name in NAMES if name.strip(" .") and name not in ("\0", "\ud800")),
    "AC/DC - T.N.T.",
    "\"Quoted\", with comma; and 'quotes'",
    "\N{MUSICAL NOTE}\u2028\u202e\u00a0",
    "ü" * 301,
)


class _Elements(HTMLParser):
    """Lists the elements of a page and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus with songs of all titles, imported from a table and simulated at the ears."""
    folder = tmp_path_factory.mktemp("names")
    for seed, signal in enumerate(SIGNALS):
        samples = np.random.default_rng(seed).normal(0, 0.1, (22050, 2))
        soundfile.write(folder / f"{signal}.wav", samples, SAMPLE_RATE)
    with (folder / "songs.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [("song", *SIGNALS), *((title, *(f"{signal}.wav" for signal in SIGNALS)) for title in TITLES)]
        csv.writer(file).writerows(rows)
    root = tiny_corpus(folder / "corpus", 0.5)
    import_songs(folder / "songs.csv", root, "names", progress=False)
    draw_scenes(Corpus(root), "names", scenes_per_song=1, like="train")
    simulate(Corpus(root), "names", 1, progress=False)
    return root


def test_songs_of_any_name_are_stored_and_read_again(root: Path) -> None:
    corpus = Corpus(root)
    split = corpus.split("names")
    assert len(split.songs) == len(split.scenes) == len(TITLES)
    assert not [finding for finding in check_data(root) if finding.status == "DAMAGE"]
    folders = {corpus.at_ear_folder(split.at_ear_songs[scene.at_ear_song]) for scene in split.scenes.values()}
    assert len(folders) == len(TITLES)
    assert folders == set((root / "audio/at_mic_music/names").iterdir())
    for scene in split.scenes.values():
        assert corpus.has_at_ear_audio(split, scene)
        assert corpus.at_ear_song(split, scene).mixture.shape == (2, 22050)


def test_names_are_text_in_a_player_and_not_part_of_its_code() -> None:
    tone = 0.1 * np.sin(np.linspace(0, 3000, 32000))[None]
    plain = _Elements(Player([Take("x", tone, 32000)], "x")._repr_html_()).names
    for name in TITLES:
        page = Player([Take(name, tone, 32000)], name)._repr_html_()
        assert _Elements(page).names == plain
        assert html.escape(name) in page


def test_names_are_text_in_the_page_of_a_study(tmp_path: Path) -> None:
    def page(name: str) -> str:
        out_dir = tmp_path / "run"
        out_dir.mkdir(exist_ok=True)
        with (out_dir / "table.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("scene", name), (name, "0.5")])
        write_items(out_dir, ("table.csv", name, name))
        result = PointResult("step", name, out_dir, f"{name[:10]}.ipynb", "failed", 1.0, name)
        return write_page(tmp_path / "index.html", name, {name: name}, [result]).read_text(encoding="utf-8")

    plain = _Elements(page("x")).names
    for name in TITLES:
        assert _Elements(page(name)).names == plain
        assert html.unescape(page(name)).count(name) >= 6
