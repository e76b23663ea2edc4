"""More songs and scenes: every way to name songs, and the official sampler's files."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from official import draw_officially
from signals import write_with_pyav

from cadenza_lib.__main__ import main
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.errors import AudioError, CadenzaError, CorpusError, ParameterError
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.datasets import check_data
from cadenza_lib.data.sources import find_songs
from cadenza_lib.data.supplement import draw_scenes, import_songs
from cadenza_lib.data.tiny import tiny_corpus


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tiny_corpus(tmp_path / "corpus", 0.5)


def write(path: Path, seed: int, length: int = 22050, channels: int = 2, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Write noise of 16-bit values, and return it, `(time, channel)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-20000, 20000, (length, channels)) / 32768
    soundfile.write(path, samples, rate)
    return samples


def write_song(folder: Path, seed: int = 0, suffix: str = ".wav", **how: int) -> None:
    """Write the five files of a song, noise of its seed."""
    for index, stem in enumerate((*STEMS, "mixture")):
        write(folder / f"{stem}{suffix}", 10 * seed + index, **how)


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
    for name in ("train/Song A", "train/Song B"):
        write_song(music / name)
    assert import_songs(music, root, "extra", progress=False) == {"Song A": "added", "Song B": "added"}
    _, songs = opened(root, "extra")
    expected = soundfile.read(music / "train/Song B/bass.wav")[0]
    np.testing.assert_array_equal(songs["Song B"][2].numpy().T, expected)
    assert (root / "audio/music/extra/Song B/bass.wav").is_symlink()


@pytest.mark.parametrize("names", [("train/A", "test/B"), ("Train/A", "test/B"), ("train/A", "B")])
def test_songs_of_two_splits_do_not_join_one(names: tuple[str, str], root: Path, tmp_path: Path) -> None:
    for name in names:
        write_song(tmp_path / "music" / name)
    with pytest.raises(
        CorpusError, match=r"music has songs both in .* and in .*; import one of them at a time, such as"
    ):
        import_songs(tmp_path / "music", root, "extra", progress=False)
    assert not (root / "audio/music/extra").exists()
    assert list(import_songs(tmp_path / "music" / names[0].split("/")[0], root, "extra", progress=False)) == ["A"]


def test_songs_of_moisesdb_in_two_splits_do_not_join_one(root: Path, tmp_path: Path) -> None:
    card = {"artist": "A", "song": "B", "stems": [{"stemName": "bass", "tracks": [{"id": "1", "extension": "wav"}]}]}
    for split in ("train", "test"):
        write(tmp_path / "moisesdb" / split / f"song of {split}/bass/1.wav", 0)
        (tmp_path / "moisesdb" / split / f"song of {split}/data.json").write_text(json.dumps(card))
    with pytest.raises(CorpusError, match=r"moisesdb has songs both in test and in train"):
        import_songs(tmp_path / "moisesdb", root, "extra", progress=False)


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
    for seed, name in enumerate(("a/One", "b/Two", "c/One")):
        write_song(tmp_path / name, seed)
    import_songs(tmp_path / "a", root, "both", progress=False)
    assert import_songs(tmp_path / "b", root, "both", progress=False) == {"Two": "added"}
    assert import_songs(tmp_path / "b", root, "both", progress=False) == {"Two": "kept"}
    with pytest.raises(CorpusError, match=rf"both/One holds a song from {tmp_path}/a, and {tmp_path}/c has another"):
        import_songs(tmp_path / "c", root, "both", progress=False)
    _, songs = opened(root, "both")
    assert list(songs) == ["One", "Two"]
    np.testing.assert_array_equal(songs["One"][0].numpy().T, soundfile.read(tmp_path / "a/One/vocals.wav")[0])


def test_second_album_whose_table_has_the_same_relative_name_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, album in enumerate(("first", "second")):
        write(tmp_path / album / "v.wav", seed)
        (tmp_path / album / "songs.csv").write_text("song,vocals,drums,bass,other\nTrack 01,v.wav,,,\n")
    arguments = ["data", "import", "songs.csv", str(root), "--split", "mine"]
    monkeypatch.chdir(tmp_path / "first")
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"Split mine of {root}: 1 added, 0 kept, 0 replaced.\n"
    monkeypatch.chdir(tmp_path / "second")
    assert main(arguments) == 1
    expected = f"Track 01 holds a song from {tmp_path}/first/songs.csv, and {tmp_path}/second/songs.csv has another"
    assert expected in capsys.readouterr().err


def test_corrected_row_replaces_its_song_alone(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    takes = [write(tmp_path / f"take {number}.wav", number) for number in (1, 2)]
    table = tmp_path / "songs.csv"
    row = "song,vocals,drums,bass,other\nSame,take 1.wav,,,\nCorrected,take {},,,\n"
    arguments = ["data", "import", str(table), str(root), "--split", "mine"]
    for number, told in (
        (1, "2 added, 0 kept, 0 replaced"),
        (1, "0 added, 2 kept"),
        (2, "0 added, 1 kept, 1 replaced"),
    ):
        table.write_text(row.format(f"{number}.wav"))
        assert main(arguments) == 0
        assert told in capsys.readouterr().out
    _, songs = opened(root, "mine")
    np.testing.assert_array_equal(songs["Corrected"][0].numpy().T, takes[1])
    np.testing.assert_array_equal(songs["Same"][0].numpy().T, takes[0])


def test_linked_song_whose_files_change_is_seen_as_changed(root: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "music/One")
    assert import_songs(tmp_path / "music", root, "mine", progress=False) == {"One": "added"}
    write(tmp_path / "music/One/bass.wav", 99)
    assert import_songs(tmp_path / "music", root, "mine", progress=False) == {"One": "replaced"}
    assert import_songs(tmp_path / "music", root, "mine", progress=False) == {"One": "kept"}


def test_music_that_has_moved_is_linked_anew(root: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "here/One")
    import_songs(tmp_path / "here", root, "mine", progress=False)
    (tmp_path / "here").rename(tmp_path / "there")
    assert import_songs(tmp_path / "there", root, "mine", progress=False) == {"One": "replaced"}
    assert (root / "audio/music/mine/One/bass.wav").resolve() == tmp_path / "there/One/bass.wav"


def test_songs_that_lie_in_the_corpus_become_part_of_it_where_they_are(root: Path) -> None:
    folder = root / "audio/music/mine/One"
    write_song(folder)
    before = sorted(folder.iterdir())
    assert import_songs(folder.parent, root, "mine", progress=False) == {"One": "added"}
    assert import_songs(folder.parent, root, "mine", progress=False) == {"One": "kept"}
    assert sorted(folder.iterdir()) == before
    assert not (folder / "bass.wav").is_symlink()
    (folder / "mixture.wav").unlink()
    with pytest.raises(
        CorpusError, match=r"One must be converted \(.*mixture\.wav does not exist\); move it out of the"
    ):
        import_songs(folder.parent, root, "mine", progress=False)


def test_song_that_was_not_imported_is_never_replaced(root: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "music/Tiny 1")
    before = (root / "audio/music/train/Tiny 1/bass.wav").read_bytes()
    with pytest.raises(CorpusError, match=r"Tiny 1 holds a song from elsewhere, and .*music has another of that name"):
        import_songs(tmp_path / "music", root, "train", progress=False)
    assert (root / "audio/music/train/Tiny 1/bass.wav").read_bytes() == before


@pytest.mark.parametrize("way", ["folder", "table", "moisesdb"])
def test_mono_is_made_stereo_by_every_way_in(way: str, root: Path, tmp_path: Path) -> None:
    music = tmp_path / "music"
    if way == "moisesdb":
        for stem in STEMS:
            write(music / f"song/{stem}/{stem}.wav", STEMS.index(stem), channels=1)
        stems = [{"stemName": stem, "tracks": [{"id": stem, "extension": "wav"}]} for stem in STEMS]
        (music / "song/data.json").write_text(json.dumps({"artist": "A", "song": "B", "stems": stems}))
    else:
        write_song(music / "One", channels=1)
    if way == "table":
        cells = ",".join(f"One/{stem}.wav" for stem in (*STEMS, "mixture"))
        (music / "songs.csv").write_text(f"song,{','.join(STEMS)},mixture\nOne,{cells}\n")
    import_songs(music / "songs.csv" if way == "table" else music, root, "mono", progress=False)
    _, songs = opened(root, "mono")
    (song,) = songs.values()
    expected = np.random.default_rng(0).integers(-20000, 20000, (22050, 1)) / 32768
    np.testing.assert_array_equal(song[0].numpy().T, expected.repeat(2, axis=1))


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_song_without_a_mixture_or_in_flac_is_imported(suffix: str, root: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "music/One", suffix=suffix)
    (tmp_path / f"music/One/mixture{suffix}").unlink()
    assert [line.status for line in check_data(tmp_path / "music")] == ["OK", "NOTE", "OK"]
    import_songs(tmp_path / "music", root, "mine", progress=False)
    _, songs = opened(root, "mine")
    np.testing.assert_allclose(songs["One"][-1].numpy(), songs["One"][:-1].sum(0).numpy(), rtol=0, atol=1e-7)


def test_other_names_formats_rates_and_lengths_are_converted_and_said(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    song = tmp_path / "music/My song"
    length = {"Bass.aiff": 24000, "01 My song - DRUMS.flac": 22050, "accompaniment.wav": 22050, "Lead vox.ogg": 22050}
    rate = {"Bass.aiff": 48000}
    mono = "accompaniment.wav"
    samples = {
        name: write(song / name, seed, length[name], 1 if name == mono else 2, rate.get(name, SAMPLE_RATE))
        for seed, name in enumerate(length)
    }
    write(song / "click track.wav", 9)
    (song / "vocals.txt").touch()
    write(tmp_path / "music/pictures/cover sound.wav", 0)  # no song
    with caplog.at_level("INFO", logger="cadenza_lib"):
        import_songs(tmp_path / "music", root, "mine", progress=False)
    assert [record.getMessage() for record in caplog.records] == [
        f"1 sound file(s) are taken for no stem and left out, such as {song}/click track.wav.",
        "My song: vocals = Lead vox.ogg, drums = 01 My song - DRUMS.flac, bass = Bass.aiff, other = accompaniment.wav, "
        "mixture = sum of the stems; bass resampled from 48000 Hz; other mono, the same in both ears.",
    ]
    _, songs = opened(root, "mine")
    vocals, drums, bass, other, mixture = songs["My song"].numpy()
    np.testing.assert_array_equal(drums.T, samples["01 My song - DRUMS.flac"])
    np.testing.assert_array_equal(other.T, samples[mono].repeat(2, axis=1))
    np.testing.assert_allclose(bass.T, soxr.resample(samples["Bass.aiff"], 48000, 44100), rtol=0, atol=1e-6)
    np.testing.assert_allclose(vocals.T, soundfile.read(song / "Lead vox.ogg")[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(mixture, vocals + drums + bass + other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("difference", [-2000, -1, 600])
def test_shorter_files_are_padded_at_the_end_and_that_is_said(
    difference: int, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_song(tmp_path / "music/One")
    mixture = write(tmp_path / "music/One/mixture.wav", 4, 22050 + difference)
    with caplog.at_level("INFO", logger="cadenza_lib"):
        import_songs(tmp_path / "music", root, "mine", progress=False)
    padded = "mixture" if difference < 0 else ", ".join(STEMS)
    assert caplog.messages[-1].endswith(f"; {padded} padded at the end to the longest, as if all began together.")
    _, songs = opened(root, "mine")
    assert songs["One"].shape == (5, 2, max(22050, 22050 + difference))
    np.testing.assert_array_equal(songs["One"][-1].numpy().T[: len(mixture)], mixture)
    assert not songs["One"][-1, :, len(mixture) :].any()


def test_musdb18_is_imported_from_its_five_sound_tracks(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    time_s = np.arange(22050) / SAMPLE_RATE
    tracks = [0.3 * np.sin(2 * np.pi * frequency * time_s) * np.ones((2, 1)) for frequency in (900, 300, 200, 400, 500)]
    for name in ("A", "B"):
        write_with_pyav(tmp_path / f"musdb18/train/{name}.stem.mp4", *tracks)
    with caplog.at_level("INFO", logger="cadenza_lib"):
        states = import_songs(tmp_path / "musdb18", root, "mine", progress=False)
    assert states == {"A": "added", "B": "added"}
    assert caplog.messages == ["2 songs: five sound tracks of .stem.mp4."]
    assert import_songs(tmp_path / "musdb18", root, "mine", progress=False) == {"A": "kept", "B": "kept"}
    _, songs = opened(root, "mine")
    peaks = np.abs(np.fft.rfft(songs["B"][:, 0].numpy())).argmax(-1) * SAMPLE_RATE / songs["B"].shape[-1]
    np.testing.assert_allclose(peaks, [500, 300, 200, 400, 900], atol=2)  # vocals, drums, bass, other, mixture
    write_with_pyav(tmp_path / "musdb18/test/C.stem.mp4", *tracks)
    with pytest.raises(CorpusError, match="musdb18 has songs both in test and in train"):
        import_songs(tmp_path / "musdb18", root, "mine", progress=False)


def test_what_many_songs_have_in_common_is_said_once(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(12):
        write_song(tmp_path / f"music/{number}", length=18000 + max(0, number - 1), rate=44100)
        write(tmp_path / f"music/{number}/bass.wav", 0, 18000)
    with caplog.at_level("INFO", logger="cadenza_lib"):
        import_songs(tmp_path / "music", root, "mine", progress=False)
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("2 songs: vocals = vocals.wav, drums = drums.wav, ")
    assert caplog.messages[1].startswith("10 songs: ")
    assert caplog.messages[1].endswith("bass padded at the end to the longest, as if all began together.")


def test_songs_that_have_just_been_imported_are_named_by_metadata(root: Path, tmp_path: Path) -> None:
    write_song(tmp_path / "music/One")
    import_songs(tmp_path / "music", root, "mine", progress=False)
    report = check_data(root)
    assert not [line for line in report if "not named" in line.detail]
    assert [line.subject for line in report if line.status == "MISSING"] == ["mine"]  # whose scenes are not drawn yet


def test_song_that_breaks_off_when_it_is_decoded_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    for name in ("A", "B"):
        write_song(tmp_path / "music" / name, suffix=".flac")
    bass = tmp_path / "music/B/bass.flac"
    whole = bass.read_bytes()
    bass.write_bytes(whole[:40000])
    with pytest.raises(AudioError, match=r"B/bass\.flac cannot be decoded to its end; copy or download it again"):
        import_songs(tmp_path / "music", root, "mine", progress=False)
    assert sorted(path.name for path in (root / "audio/music/mine").iterdir()) == ["A"]
    assert not (root / "metadata/musdb18.mine.json").exists()
    bass.write_bytes(whole)
    assert import_songs(tmp_path / "music", root, "mine", progress=False) == {"A": "added", "B": "added"}
    assert list(opened(root, "mine")[1]) == ["A", "B"]


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
    elif case == "no stems":
        (tmp_path / "songs.csv").write_text("song,vocals,drums,bass,other\nA,,,,\n")
    elif case in ("six channels", "six drums", "short", "cut off"):
        write_song(source / "A first")
        write_song(
            source / "B", length=15000 if case == "short" else 22050, channels=6 if case == "six channels" else 2
        )
        if case == "six drums":
            shutil.copy(source / "B/drums.wav", source / "B/drums.flac")
        if case == "cut off":
            path = source / "B/bass.wav"
            path.write_bytes(path.read_bytes()[:30000])
    elif case == "text":
        (tmp_path / "v.m4a").write_text("no sound " * 99)
        (tmp_path / "songs.csv").write_text("song,vocals,drums,bass,other\nA,v.m4a,,,\n")
    return tmp_path / "songs.csv" if (tmp_path / "songs.csv").exists() else source


@pytest.mark.parametrize(
    ("case", "error", "match"),
    [
        ("nothing", CorpusError, "source has no folders with vocals"),
        ("table without column", CorpusError, r"songs\.csv has no column 'other'"),
        ("table with missing file", CorpusError, r"v\.wav of the song 'A' does not exist"),
        ("table with one name twice", CorpusError, r"more than one song 'A'"),
        ("song without bass", CorpusError, r"bass\.wav of the song 'A' does not exist"),
        (
            "card of something else",
            CorpusError,
            r"data\.json is not the card of a song of MoisesDB \(KeyError\('song'\)\)",
        ),
        ("no stems", CorpusError, "song 'A' has none of vocals, drums, bass, other"),
        ("six channels", AudioError, r"B/vocals\.wav has 6 channels, not 1 or 2; mix it down"),
        ("six drums", CorpusError, r"B has drums\.flac and drums\.wav, each of which could be the drums; move one"),
        ("short", AudioError, r"song 'B' lasts 0\.340 s, but its loudness needs 0\.4 s"),
        ("cut off", AudioError, r"B/bass\.wav is cut off: 30000 of 88244 bytes"),
        ("text", AudioError, r"v\.m4a cannot be read .*WAV or FLAC\.$"),
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
