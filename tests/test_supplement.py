"""More songs and scenes: every way to name songs, and the official sampler's files."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from official import draw_officially

from cadenza_lib.__main__ import main
from cadenza_lib.acoustics import SAMPLE_RATE
from cadenza_lib.corpus import Corpus
from cadenza_lib.datasets import check_data
from cadenza_lib.demo import tiny_corpus
from cadenza_lib.errors import AudioError, CadenzaError, CorpusError, ParameterError
from cadenza_lib.scenes import STEMS
from cadenza_lib.supplement import draw_scenes, find_songs, import_songs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny_corpus(tmp_path / "corpus", 0.5)


def write(path: Path, seed: int, length: int = 22050, channels: int = 2, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Write noise of 16-bit values, and return it, `(time, channel)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-20000, 20000, (length, channels)) / 32768
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return samples


def opened(root: Path, split: str) -> tuple[Corpus, dict[str, torch.Tensor]]:
    """Draw scenes for an imported split, check it, and return its songs with the mixture last."""
    draw_scenes(Corpus(root), split, like="train")
    corpus = Corpus(root)
    chosen = corpus.split(split)
    assert not [finding for finding in check_data(root) if finding.status == "DAMAGE"]
    for scene in chosen.scenes.values():
        corpus.at_ear_song(chosen, scene)
    return corpus, {
        name: torch.cat([*corpus.song(chosen, name)[:1], corpus.song(chosen, name)[1][None]]) for name in chosen.songs
    }


def test_song_of_moisesdb_in_a_folder_that_is_not_utf_8_is_refused(root: Path, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/moisesdb/Caf\xe9"
    os.makedirs(folder)
    Path(os.fsdecode(folder), "data.json").write_text("{}")
    with pytest.raises(ParameterError, match=r"/moisesdb/Caf\\xe9 has a name that is not UTF-8; rename it\.$"):
        import_songs(tmp_path / "moisesdb", root, "extra", progress=False)
    assert not (root / "metadata/musdb18.extra.json").exists()


def test_folder_in_musdb18_layout_is_linked_not_copied(root: Path, tmp_path: Path) -> None:
    music = tmp_path / "musdb18hq"
    for seed, name in enumerate(("train/Song A", "train/Song B", "test/Song C")):
        for index, stem in enumerate((*STEMS, "mixture")):
            write(music / name / f"{stem}.wav", 10 * seed + index)
    assert import_songs(music, root, "extra", progress=False) == ["Song A", "Song B", "Song C"]
    _, songs = opened(root, "extra")
    expected = soundfile.read(music / "test/Song C/bass.wav")[0]
    np.testing.assert_array_equal(songs["Song C"][2].numpy().T, expected)
    assert (root / "audio/music/extra/Song C/bass.wav").is_symlink()


def test_stems_of_moisesdb_sum_to_vocals_drums_bass_other(root: Path, tmp_path: Path) -> None:
    song = tmp_path / "moisesdb/moisesdb_v0.1/0a1b2c3d-4e5f"
    tracks = {
        "vocals": [("lead", 22050, 2), ("choir", 22000, 2)],
        "drums": [("kit", 22050, 2)],
        "bass": [("guitar", 22050, 1)],  # mono
        "percussion": [("shaker", 22050, 2)],
        "other_keys": [("organ", 22100, 2)],  # the longest
        "bowed_strings": [("violin", 22050, 2)],
    }
    samples, card = {}, []
    for seed, (stem, parts) in enumerate(tracks.items()):
        for index, (track, length, channels) in enumerate(parts):
            samples[track] = write(song / stem / f"{track}.wav", 10 * seed + index, length, channels)
        card.append({"stemName": stem, "tracks": [{"id": part[0], "extension": "wav"} for part in parts]})
    (song / "data.json").write_text(json.dumps({"artist": "AC/DC", "song": "Tune", "stems": card}))

    assert main(["data", "import", str(tmp_path / "moisesdb"), str(root), "--split", "moises"]) == 0
    _, songs = opened(root, "moises")
    (stems,) = songs.values()
    assert list(songs) == ["AC_DC - Tune 0a1b2c3d"]

    def total(*names: str) -> np.ndarray:
        result = np.zeros((22100, 2))
        for name in names:
            result[: len(samples[name])] += samples[name]
        return result.T

    groups = (("lead", "choir"), ("kit",), ("guitar",), ("shaker", "organ", "violin"), tuple(samples))
    for signal, names in zip(stems.numpy(), groups, strict=True):
        # Sums of 16-bit values are exact in the 32-bit floats of the file, even beyond full scale.
        np.testing.assert_array_equal(signal, total(*names))
    assert np.abs(stems.numpy()).max() > 1


def test_table_of_paths_may_lack_stems_and_mixture(root: Path, tmp_path: Path) -> None:
    vocals, drums = (write(tmp_path / f"audio/{name}.wav", seed) for seed, name in enumerate(("v", "d")))
    table = tmp_path / "songs.csv"
    table.write_text("song,vocals,drums,bass,other\nDuo,audio/v.wav,audio/d.wav,,\n")
    import_songs(table, root, "table", progress=False)
    _, songs = opened(root, "table")
    expected = np.stack([vocals.T, drums.T, 0 * drums.T, 0 * drums.T, vocals.T + drums.T])
    np.testing.assert_array_equal(songs["Duo"].numpy(), expected)


def test_import_adds_to_a_split_and_can_be_repeated(root: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("a/One", "b/Two")):
        for index, stem in enumerate((*STEMS, "mixture")):
            write(tmp_path / name / f"{stem}.wav", 10 * seed + index)
    import_songs(tmp_path / "a", root, "both", progress=False)
    assert import_songs(tmp_path / "b", root, "both", progress=False) == ["One", "Two"]
    assert import_songs(tmp_path / "b", root, "both", progress=False) == ["One", "Two"]
    shutil.copytree(tmp_path / "a/One", tmp_path / "c/One")
    with pytest.raises(CorpusError, match="has a song 'One' already, from elsewhere"):
        import_songs(tmp_path / "c", root, "both", progress=False)


def bad_source(tmp_path: Path, case: str) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    if case == "table without column":
        (tmp_path / "songs.csv").write_text("song,vocals,drums,bass\nA,v,d,b\n")
    elif case == "table with missing file":
        (tmp_path / "songs.csv").write_text("song,vocals,drums,bass,other\nA,v.wav,,,\n")
    elif case == "table with one name twice":
        write(tmp_path / "v.wav", 0)
        (tmp_path / "songs.csv").write_text("song,vocals,drums,bass,other\nA,v.wav,,,\nA,v.wav,,,\n")
    elif case == "song without bass":
        for stem in ("vocals", "drums", "other", "mixture"):
            write(source / "A" / f"{stem}.wav", 0)
    elif case == "card of something else":
        (source / "data.json").write_text('{"artist": "A"}')
    elif case == "other rate":
        write(tmp_path / "v.wav", 0, rate=48000)
        (tmp_path / "songs.csv").write_text("song,vocals,drums,bass,other\nA,v.wav,,,\n")
    return tmp_path / "songs.csv" if (tmp_path / "songs.csv").exists() else source


@pytest.mark.parametrize(
    ("case", "error", "match"),
    [
        ("nothing", CorpusError, "source has no songs"),
        ("table without column", CorpusError, r"songs\.csv has no column 'other'"),
        ("table with missing file", CorpusError, r"v\.wav of the song 'A' does not exist"),
        ("table with one name twice", CorpusError, r"more than one song 'A'"),
        ("song without bass", CorpusError, r"bass\.wav of the song 'A' does not exist"),
        (
            "card of something else",
            CorpusError,
            r"data\.json is not the card of a song of MoisesDB \(KeyError\('song'\)\)",
        ),
        ("other rate", AudioError, r"v\.wav has a sample rate of 48000 Hz, not 44100"),
    ],
)
def test_bad_source_is_refused_and_nothing_is_half_imported(
    tmp_path: Path, root: Path, case: str, error: type[CadenzaError], match: str
) -> None:
    with pytest.raises(error, match=match):
        import_songs(bad_source(tmp_path, case), root, "extra", progress=False)
    assert not list((root / "audio/music").glob("extra/*"))
    assert not (root / "metadata/musdb18.extra.json").exists()


def test_missing_source_and_bad_split_are_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere is neither a directory of songs nor a table"):
        find_songs(tmp_path / "nowhere")
    with pytest.raises(ParameterError, match=r"Split '\.\./x' must be made of letters"):
        import_songs(root / "audio/music", root, "../x")


# Scenes


@pytest.mark.parametrize("per_song", [4, 8])
def test_scenes_and_listeners_are_the_official_samplers_files(
    per_song: int, cadenza_mini: Path, tmp_path: Path
) -> None:
    theirs, ours = (
        Path(shutil.copytree(cadenza_mini, tmp_path / name, ignore=shutil.ignore_patterns("audio")))
        for name in ("theirs", "ours")
    )
    draw_officially(theirs, per_song)
    arguments = ["data", "scenes", str(ours), "--per-song", str(per_song)]
    assert main(arguments) == (0 if per_song == 4 else 1)  # the official four are there already
    assert main([*arguments, "--force"]) == 0
    for name in ("scenes.train.json", "scene_listeners.train.json"):
        assert (ours / "metadata" / name).read_bytes() == (theirs / "metadata" / name).read_bytes()


def test_supplementation_keeps_the_first_four_scenes_of_each_song(cadenza_mini: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(cadenza_mini, tmp_path / "mini"))
    assert main(["data", "scenes", str(root), "--split", "train8", "--like", "train", "--per-song", "8"]) == 0
    corpus = Corpus(root)
    four, eight = (corpus.split(name).scenes.values() for name in ("train", "train8"))
    for song in corpus.split("train").songs:
        first = [scene for scene in four if scene.music == song]
        assert [scene for scene in eight if scene.music == song][:4] == first
    assert len(eight) == 16


def test_other_scenes_are_not_replaced_unasked(root: Path) -> None:
    before = (root / "metadata/scenes.train.json").read_bytes()  # two per song
    with pytest.raises(CorpusError, match=r"scenes\.train\.json holds others than would be drawn"):
        draw_scenes(Corpus(root), "train")
    assert (root / "metadata/scenes.train.json").read_bytes() == before
    assert draw_scenes(Corpus(root), "train", force=True) == (8, 16)


def test_split_without_songs_says_how_to_get_them(root: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"musdb18\.new\.json does not exist; name a split to take it from \(--like\)"
    ):
        draw_scenes(Corpus(root), "new")
    assert not list((root / "metadata").glob("*.new.json"))
