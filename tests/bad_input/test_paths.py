"""Names in metadata, studies and reports lead nowhere but below the directory that they belong to."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import NAMES, accepts, tree
from stubs import COLLECT_PARAMETERS, write_notebook

from cadenza_lib.core.errors import CorpusError
from cadenza_lib.core.paths import file_name, is_inside
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.datasets import check_data
from cadenza_lib.data.simulation import simulate
from cadenza_lib.data.songs import SIGNALS
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.haaqi import Components
from cadenza_lib.runs.study import load_study
from cadenza_lib.scoring import evaluation
from cadenza_lib.scoring.pairs import PairScore

OUTSIDE = ("..", "../../outside", "train/../../../outside", "/etc", "//etc", "train/Link", "train/Far/Song")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a corpus with links to a song beside it."""
    root = tiny_corpus(tmp_path / "corpus", 0.5)
    outside = shutil.copytree(root / "audio/music/train/Tiny 1", tmp_path / "outside/Song")
    train = root / "audio/music/train"
    (train / "Link").symlink_to(outside)
    (train / "Far").symlink_to(outside.parent)
    (train / "Round").symlink_to("Round")
    return root


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(edit(content) or content))


def read_song(root: Path) -> Any:
    corpus = Corpus(root)
    split = corpus.split("train")
    return [corpus.at_ear_song(split, scene).mixture for scene in split.scenes.values()]


@pytest.mark.parametrize("name", [*OUTSIDE, "train/Round"])
def test_song_outside_of_the_corpus_is_refused(name: str, root: Path) -> None:
    change(root / "metadata/musdb18.train.json", lambda songs: songs[0].update(Path=name))
    assert not accepts(lambda: read_song(root), str(root))
    assert "DAMAGE" in {finding.status for finding in check_data(root)}


@pytest.mark.parametrize("name", OUTSIDE)
def test_song_at_the_ears_outside_of_the_corpus_is_refused(name: str, root: Path) -> None:
    scene = next(iter(Corpus(root).split("train").scenes.values()))
    (root / "audio/at_mic_music").symlink_to(root / "audio/music")
    entry = {"Track Name": scene.at_ear_song, "Path": name}
    (root / "metadata/at_mic_music.train.json").write_text(json.dumps([entry]))
    assert not accepts(lambda: read_song(root), str(root))
    assert "DAMAGE" in {finding.status for finding in check_data(root)}


def test_any_path_of_a_song_stays_in_the_corpus(root: Path) -> None:
    for name in NAMES:
        change(root / "metadata/musdb18.train.json", lambda songs, name=name: songs[0].update(Path=name))

        def folder() -> None:
            corpus = Corpus(root)
            assert is_inside(corpus.music_folder(corpus.split("train").songs["Tiny 1"]), root / "audio/music")

        accepts(folder, str(root))


@pytest.mark.parametrize("linked", ["audio", "audio/music", "audio/music/train", "metadata", "audio/hrtf", ""])
def test_what_a_person_links_while_assembling_a_corpus_is_read(linked: str, root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (root / linked).rename(elsewhere)
    (root / linked).symlink_to(elsewhere)
    assert len(read_song(root)) == 4


def test_linked_files_of_an_imported_song_are_read(root: Path, tmp_path: Path) -> None:
    for signal in SIGNALS:
        path = root / f"audio/music/train/Tiny 1/{signal}.wav"
        path.unlink()
        path.symlink_to(tmp_path / f"outside/Song/{signal}.wav")
    assert len(read_song(root)) == 4


@pytest.mark.parametrize("part", ["subject", "mic"])
@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "", "\0", "x" * 300])
def test_head_position_outside_of_the_corpus_is_refused(part: str, name: str, root: Path) -> None:
    change(
        root / "metadata/head_loudspeaker_positions.json",
        lambda positions: [position.update({part: name}) for position in positions.values()] and None,
    )
    with pytest.raises(CorpusError, match="be part of the name of a file"):
        Corpus(root)


def test_song_whose_name_is_a_path_is_simulated_inside_of_the_corpus(root: Path, tmp_path: Path) -> None:
    evil = "../../../../outside/evil"

    def rename(songs: Any) -> None:
        songs[0].update({"Track Name": evil, "Split": "../.."})

    def follow(scenes: Any) -> None:
        for scene in scenes.values():
            scene["music"] = evil if scene["music"] == "Tiny 1" else scene["music"]

    change(root / "metadata/musdb18.train.json", rename)
    change(root / "metadata/scenes.train.json", follow)
    before = tree(tmp_path)
    expected = read_song(root)
    simulate(Corpus(root), "train", 1, progress=False)
    written = tree(tmp_path) - before
    assert len(written) >= 4 * len(SIGNALS)
    inside = ("corpus/audio/at_mic_music", "corpus/metadata/at_mic_music", "corpus/.simulation.lock")
    assert all(name.startswith(inside) for name in written)
    shutil.rmtree(root / "audio/music")
    assert all((ours == theirs).all() for ours, theirs in zip(read_song(root), expected, strict=True))


def test_signals_of_scenes_and_listeners_with_any_name_stay_in_the_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name in NAMES if name != "\ud800"]
    listener = json.loads((root / "metadata/listeners.train.json").read_text())["A"]
    scene = next(iter(json.loads((root / "metadata/scenes.train.json").read_text()).values()))
    content = {
        "listeners": {name: {**listener, "name": name} for name in names},
        "scenes": dict.fromkeys(names, scene),
        "scene_listeners": {name: [name] for name in names},
    }
    for kind, entries in content.items():
        (root / f"metadata/{kind}.train.json").write_text(json.dumps(entries))
    components = Components(0.5, *[0.5] * 6)
    known = PairScore((components, components), (0.0, 0.0), (-20.0, -20.0))
    monkeypatch.setattr(evaluation, "score", lambda *_: known)
    corpus = Corpus(root)
    pairs = [evaluation.Pair(name, name) for name in names]
    settings = evaluation.Settings(str(root), "train", "mixture")
    before = tree(tmp_path)
    for _ in range(2):  # the second time, all are known
        scores = evaluation.evaluate(corpus, evaluation_separator, settings, pairs, tmp_path / "run", progress=False)
        assert scores["scene"].tolist() == scores["listener"].tolist() == names
        monkeypatch.setattr(evaluation, "score", lambda *_: pytest.fail("it is scored again"))
    assert all(name.startswith("run") for name in tree(tmp_path) - before)
    assert len(list((tmp_path / "run/enhanced_signals").iterdir())) == len(names)


def evaluation_separator(song: Any) -> Any:
    return song.stems


@pytest.mark.parametrize("name", NAMES)
def test_steps_and_points_of_a_study_lie_in_its_directory(name: str, tmp_path: Path) -> None:
    write_notebook(tmp_path / "collect.ipynb", COLLECT_PARAMETERS)
    path = tmp_path / "study.yaml"
    out = tmp_path / "out"
    step = {"name": "a", "notebook": "collect.ipynb"}
    for steps in (
        [{**step, "name": name}],
        [{**step, "points": [{"name": name, "points": []}]}],
        [{**step, "grid": {"points": [[name], ["x"]]}}],
    ):
        path.write_text(json.dumps({"steps": steps}))

        def directories() -> None:
            for point in load_study(path).steps[0].points:
                assert out in (out / point.directory).resolve().parents
                assert all(len(part.encode()) <= 255 for part in Path(point.directory).parts)

        accepts(directories, str(path))


def test_names_of_files_are_short_single_and_different() -> None:
    names = [name for name in NAMES if name != "\ud800"]
    made = [file_name(name) for name in (*names, "a_b", "a\\b")]
    assert len(set(made)) == len(made)
    for name in made:
        assert Path(name).name == name
        assert name.isprintable()
        assert 0 < len(name.encode()) <= 200
