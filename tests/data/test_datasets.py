"""What a check of a data set finds: everything that is there, and every kind of damage."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
from official import simulate_officially

from cadenza_lib.__main__ import main
from cadenza_lib.audio.acoustics import read_audio
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.errors import CorpusError
from cadenza_lib.core.paths import DATA
from cadenza_lib.data import songs
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.datasets import check_data
from cadenza_lib.data.listeners import BISGAARD_FREQUENCIES
from cadenza_lib.data.tiny import tiny_corpus

SONG = "audio/music/train/Tiny 1"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny_corpus(tmp_path_factory.mktemp("check") / "tiny", 0.5)
    simulate_officially(root)
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "tiny")


def told(root: Path, status: str) -> list[str]:
    return [f"{finding.subject}: {finding.detail}" for finding in check_data(root) if finding.status == status]


def test_sound_corpus_has_no_damage_and_says_what_it_can_run(
    pristine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(pristine)]) == 0
    output = capsys.readouterr().out
    assert "4 scenes, 2 listeners, 4 scene-listener pairs; can enhance, evaluate, fine-tune, sim" in output
    size_mb = sum(path.stat().st_size for path in pristine.glob("audio/music/*/*/*.wav")) / 1e6
    assert f"2 songs, 0.00 hours, {size_mb:.1f} MB" in output
    assert output.endswith("No damage.\n")
    assert told(pristine, "MISSING") == told(pristine, "NOTE") == []


def test_real_miniature_has_no_damage(cadenza_mini: Path) -> None:
    findings = {finding.subject: finding for finding in check_data(cadenza_mini)}
    assert {finding.status for finding in findings.values()} == {"OK"}
    assert findings["audio/hrtf"].detail == "6 of 6 HRTFs, 235 taps"
    assert findings["metadata"].detail == "1105 gain sets, 9 head positions"
    assert "; 20-30: 10 %, 30-40: 29 %, 40-50: 35 %, 50-60: 27 %; " in findings["train"].detail


def test_hearing_of_each_split_is_that_of_its_audiograms() -> None:
    corpus = Corpus(DATA / "twin")
    hearing = [line for line in told(corpus.root, "OK") if "better-ear averages" in line]
    assert [line.split(":")[0] for line in hearing] == ["test", "train", "valid"]
    for line in hearing:
        people = json.loads((corpus.metadata / f"listeners.{line.split(':')[0]}.json").read_text()).values()
        places = [next(iter(people))["audiogram_cfs"].index(frequency) for frequency in (500, 1000, 2000, 4000)]
        ears = np.array([[p["audiogram_levels_l"], p["audiogram_levels_r"]] for p in people])[..., places].mean(-1)
        better, mean, deviation = ears.min(1), *map(float, re.findall(r"(?:mean|deviation) ([\d.]+)", line))
        assert (mean, deviation) == pytest.approx((better.mean(), better.std()), abs=0.05)  # printed with one digit
        shares = {int(start): int(share) for start, share in re.findall(r"(\d+)-\d+: (\d+) %", line)}
        for start, share in shares.items():
            inside = (better >= start) & (better < start + 10)
            assert share == pytest.approx(100 * inside.mean(), abs=0.5)
        assert sum(shares.values()) == pytest.approx(100, abs=2)
        asymmetric = (np.abs(ears[:, 0] - ears[:, 1]) >= 15).sum()
        assert f"; {asymmetric} of {len(people)} listeners have 15 dB or more between the ears" in line


def test_levels_are_those_of_pyloudnorm_and_are_measured_once(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(
        root / SONG / "mixture.wav", 0.05 * np.ones((22050, 2)), SAMPLE_RATE
    )  # is not read, those at the ears are
    meter = pyloudnorm.Meter(SAMPLE_RATE)
    files = sorted((root / "audio/at_mic_music").glob("*/*/mixture.wav"))
    expected = [meter.integrated_loudness(soundfile.read(file)[0]) for file in files]
    line = (
        f"train: 4 mixtures: mean {np.mean(expected):.1f}, standard deviation {np.std(expected):.1f}, from "
        f"{min(expected):.1f} to {max(expected):.1f} LUFS"
    )
    assert line in [f"{finding.subject}: {finding.detail}" for finding in check_data(root, levels=True)]
    assert sorted(json.loads((root / "loudness.json").read_text()).values()) == pytest.approx(
        sorted(expected), abs=1e-6
    )
    files[0].write_bytes(files[1].read_bytes())  # the others need not be read again
    monkeypatch.setattr(songs, "read_audio", lambda path, *_: read_audio(path, *_) if path == files[0] else 1 / 0)
    assert main(["data", "check", str(root), "--levels"]) == 0
    assert f"mean {np.mean([*expected[1:], expected[1]]):.1f}" in capsys.readouterr().out


def test_levels_of_a_corpus_that_cannot_be_written_are_told_and_not_remembered(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / ".loudness.unfinished.json").mkdir()  # so that nothing can be written there
    findings = [finding.detail for finding in check_data(root, levels=True)]
    assert any("4 mixtures: mean" in detail for detail in findings)
    (warning,) = caplog.messages
    assert "The loudness of songs is not remembered: " in warning
    assert not (root / "loudness.json").exists()


def test_songs_without_a_loudness_are_named(root: Path) -> None:
    shutil.rmtree(root / "audio/at_mic_music")
    soundfile.write(root / SONG / "mixture.wav", np.zeros((22050, 2)), SAMPLE_RATE)
    levels = [finding.detail for finding in check_data(root, levels=True) if finding.status == "NOTE"]
    assert levels[0].startswith("its loudness is not known: Tiny 1 is quieter than -70 LUFS throughout")
    shutil.rmtree(root / "audio/music")
    levels = [finding.detail for finding in check_data(root, levels=True) if finding.status == "NOTE"]
    assert levels == ["its loudness is not known: there are no songs"]


def test_scores_tell_how_much_is_clipped(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ears = "left_clipped_share,right_clipped_share"
    scores = tmp_path / "scores.csv"
    rows = [f"s,x,{row}" for row in ("A,0.5,0.5,0.5,0.0,0.02", "B,0.5,0.5,0.5,0.1,0.3", "C,0.5,0.5,0.5,0.1,0.1")]
    scores.write_text("\n".join([f"scene,song,listener,left_score,right_score,score,{ears}", *rows, ""]))
    assert main(["data", "check", str(root), "--scores", str(tmp_path)]) == 0
    expected = "3 pairs with 10.3 % of their samples clipped on average, and more than 10 % in 33 % of the pairs"
    assert expected in capsys.readouterr().out
    scores.write_text("scene,song,listener,left_score,right_score,score\ns,x,A,0.5,0.5,0.5\n")
    assert main(["data", "check", str(root), "--scores", str(tmp_path)]) == 1
    assert "scores.csv has no clipped shares" in capsys.readouterr().err


def cut(root: Path) -> None:
    path = root / SONG / "drums.wav"
    path.write_bytes(path.read_bytes()[:-2000])


def cut_all(root: Path) -> None:
    """Cut every file of a song alike, so that their lengths agree."""
    for path in (root / SONG).iterdir():
        path.write_bytes(path.read_bytes()[:-2000])


def overwrite(name: str, samples: int = 22050, channels: int = 2, rate: int = SAMPLE_RATE) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        soundfile.write(root / name, np.full((samples, channels), 0.1), rate, subtype="PCM_16")

    return damage


def edit(name: str, change: Callable[[object], None]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "metadata" / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


HRTF = "audio/hrtf/BTE_fr-mean-n30.0.wav"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no sound": (
        lambda root: (root / SONG / "bass.wav").write_bytes(b"not a sound") and None,
        "bass.wav cannot be read",
    ),
    "empty file": (lambda root: (root / SONG / "bass.wav").write_bytes(b"") and None, "bass.wav cannot be read"),
    "cut off": (cut, "drums.wav is cut off: 86244 of 88244 bytes"),
    "cut off alike": (cut_all, "vocals.wav is cut off: 86244 of 88244 bytes"),
    "stem gone": (lambda root: (root / SONG / "other.wav").unlink(), "other.wav does not exist"),
    "song gone": (lambda root: shutil.rmtree(root / SONG), "dry songs that musdb18.train.json names: "),
    "at-ear song gone": (
        lambda root: shutil.rmtree(sorted((root / "audio/at_mic_music/train").iterdir())[0]),
        "at-ear songs that at_mic_music.train.json names: ",
    ),
    "other rate": (overwrite(f"{SONG}/bass.wav", rate=48000), "bass.wav has a sample rate of 48000 Hz, not 44100"),
    "one channel": (overwrite(f"{SONG}/bass.wav", channels=1), "bass.wav has 1 channel(s), not 2"),
    "no samples": (overwrite(f"{SONG}/bass.wav", samples=0), "bass.wav is empty"),
    "other length": (
        overwrite(f"{SONG}/bass.wav", samples=22049),
        "Tiny 1 has files of unequal length in samples: vocals 22050, drums 22050, bass 22049",
    ),
    "HRTF gone": (lambda root: (root / HRTF).unlink(), f"points to HRTFs that do not exist: {{root}}/{HRTF}"),
    "HRTF longer": (overwrite(HRTF, samples=300), "HRTFs differ in length: 256, 300 taps"),
    "names twice": (
        edit("musdb18.train.json", lambda songs: songs.append(dict(songs[0]))),
        "names the song 'Tiny 1' more than once",
    ),
    "names by case": (
        lambda root: shutil.copy(root / SONG / "bass.wav", root / SONG / "Bass.wav") and None,
        "names that differ only in case",
    ),
    "names by normal form": (
        lambda root: [(root / SONG / name).touch() for name in ("caf\u00e9.wav", "cafe\u0301.wav")] and None,
        "names that differ only in case or in Unicode's normal form: ",
    ),
    "frequencies in kHz": (
        edit(
            "listeners.train.json",
            lambda people: people["A"].update(audiogram_cfs=[f / 1000 for f in BISGAARD_FREQUENCIES]),
        ),
        "listener A: audiogram_cfs [0.25, 0.375, 0.5",
    ),
    "unknown song": (
        edit("scenes.train.json", lambda scenes: scenes["scene_10001"].update(music="Tiny 9")),
        "scene_10001 names the song 'Tiny 9'",
    ),
    "unknown listener": (
        edit("scene_listeners.train.json", lambda listeners: listeners.update(scene_10001=["Z"])),
        "names the listener 'Z'",
    ),
    "no JSON": (
        lambda root: (root / "metadata/scenes.train.json").write_text("{") and None,
        "scenes.train.json is not valid JSON",
    ),
    "gains no JSON": (
        lambda root: (root / "metadata/gains.json").write_text("{") and None,
        "gains.json is not valid JSON",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_found_and_fails_the_check(case: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, expected = DAMAGES[case]
    damage(root)
    assert main(["data", "check", str(root)]) == 1
    damaged = [line for line in capsys.readouterr().out.splitlines() if line.startswith("DAMAGE")]
    assert any(expected.format(root=root) in line for line in damaged), damaged


def test_much_damage_is_counted_not_listed(root: Path) -> None:
    for path in root.glob("audio/*/train/*/*.wav"):
        path.write_bytes(b"")
    damage = told(root, "DAMAGE")
    assert len(damage) == 2 * 6
    assert damage[-1] == "audio/at_mic_music: and 15 more"


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("audio/music", "train: dry songs that musdb18.train.json names: none of 2 on the disk"),
        ("audio/hrtf", "audio/hrtf: none of 6 HRTFs, so nothing can be simulated"),
        ("metadata/listeners.train.json", "train: no listeners.train.json, so nothing can be run"),
        ("metadata/gains.json", "gains.json does not exist"),
        (
            "metadata/scenes.train.json",
            "train: no scenes.train.json, so nothing can be run; cadenza data scenes draws the scenes",
        ),
    ],
)
def test_what_has_not_been_unpacked_is_missing_but_no_damage(root: Path, gone: str, expected: str) -> None:
    path = root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert any(expected in line for line in told(root, "MISSING"))
    assert told(root, "DAMAGE") == []


def keep_mixtures_alone(root: Path, *kinds: str) -> None:
    for path in (path for kind in kinds for path in (root / "audio" / kind).glob("*/*/*.wav")):
        if path.name != "mixture.wav":
            path.unlink()


@pytest.mark.parametrize(
    ("without", "gone", "expected"),
    [
        (("at_mic_music",), "audio/music", "enhance"),
        (("at_mic_music",), "audio/none", "enhance, simulate and draw more scenes"),
        (("music",), "audio/none", "enhance, evaluate and fine-tune"),
        (("music",), "audio/at_mic_music", "enhance"),
    ],
)
def test_absent_stems_are_missing_and_leave_what_a_mixture_is_enough_for(
    root: Path, without: tuple[str, ...], gone: str, expected: str
) -> None:
    shutil.rmtree(root / gone, ignore_errors=True)
    keep_mixtures_alone(root, *without)
    assert main(["data", "check", str(root)]) == 0
    assert f"train: 4 scenes, 2 listeners, 4 scene-listener pairs; can {expected}" in told(root, "OK")
    n_songs = {"music": 2, "at_mic_music": 4}[without[0]]
    missing = f"audio/{without[0]}: the stems of {n_songs} of {n_songs} songs, such as {root}/audio/{without[0]}/train/"
    assert [line for line in told(root, "MISSING") if line.startswith(missing)]


def test_songs_with_and_without_stems_are_not_mixed(root: Path) -> None:
    keep_mixtures_alone(root, "at_mic_music")
    shutil.copytree(root / SONG, next((root / "audio/at_mic_music/train").iterdir()), dirs_exist_ok=True)
    assert any(line.endswith("; can run 1 of its scenes") for line in told(root, "OK"))


def test_songs_that_no_metadata_name_are_told(root: Path) -> None:
    shutil.copytree(root / SONG, root / "audio/music/train/Extra")
    assert told(root, "NOTE") == [f"audio/music: {root}/audio/music/train/Extra not named by any metadata"]


def test_names_of_other_case_and_older_packages_are_understood_and_said(root: Path) -> None:
    expected = Corpus(root).song(Corpus(root).split("train"), "Tiny 1")[1]
    shutil.rmtree(root / "audio/at_mic_music")
    (root / "metadata/at_mic_music.train.json").unlink()
    (root / "metadata/head_loudspeaker_positions.json").rename(root / "metadata/head_positions.json")
    for path in root.glob("audio/music/train/*/mixture.wav"):
        path.rename(path.with_name("Mixture.wav"))
    (root / "audio/music/train").rename(root / "audio/music/Train")
    (root / "audio/hrtf").rename(root / "audio/HRTF")
    notes = told(root, "NOTE")
    assert any(
        "head_positions.json, of an older version, is read as head_loudspeaker_positions" in note for note in notes
    )
    assert any("Mixture.wav; understood" in note for note in notes)
    assert any("audio/music/Train; understood" in note for note in notes)
    assert any("is spelt audio/HRTF" in note for note in notes)
    assert told(root, "DAMAGE") == []
    corpus = Corpus(root)
    split = corpus.split("train")
    assert corpus.song(split, "Tiny 1")[1].equal(expected)
    scene = split.scenes["scene_10001"]
    assert corpus.at_ear_song(split, scene).mixture.shape == (2, 22050)
    assert corpus.song_length(split, scene) == 22050


def test_audiograms_that_end_early_are_a_note_and_no_damage(root: Path) -> None:
    def end_at_4_khz(people: dict) -> None:
        for key in ("audiogram_cfs", "audiogram_levels_l", "audiogram_levels_r"):
            people["A"][key] = people["A"][key][:-2]

    edit("listeners.train.json", end_at_4_khz)(root)
    note = "train: 1 of 2 listeners are not measured to 8 kHz (1 to 4 kHz), so their high-frequency average ends there"
    assert told(root, "NOTE") == [note]
    assert told(root, "DAMAGE") == []


NOT_UTF_8 = r"Caf\xe9 has a name that is not UTF-8; rename it"


def refused(*command: str, capsys: pytest.CaptureFixture[str]) -> bool:
    """Tell whether a command says that a name is not UTF-8."""
    code, output = main(list(command)), capsys.readouterr()
    return code == 1 and NOT_UTF_8 in output.out + output.err


@pytest.mark.parametrize("place", ["audio/music/train", "audio/at_mic_music/train", SONG])
def test_song_whose_folder_is_not_utf_8_is_refused(
    place: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(os.fsencode(root / SONG), os.fsencode(root / place) + b"/Caf\xe9")
    assert refused("data", "check", str(root), capsys=capsys)
    if place == "audio/music/train":
        assert refused("data", "import", str(root / "audio/music"), str(tmp_path / "new"), capsys=capsys)
        assert not (tmp_path / "new").exists()


def test_directory_that_is_not_utf_8_is_refused_by_every_command(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/Caf\xe9")
    shutil.copytree(os.fsencode(root), os.fsencode(bad))
    notebook = Path(__file__).parents[2] / "notebooks/01_scenes.ipynb"
    for command in (
        *(["check", bad], ["data", "check", bad], ["data", "scenes", bad], ["data", "simulate", bad]),
        *(
            ["data", "import", f"{bad}/audio/music", str(tmp_path / "new")],
            ["data", "import", str(root / "audio/music"), bad],
        ),
        *(
            ["run", str(notebook), "-o", f"{bad}/out"],
            ["run", str(notebook), "-p", "corpus", bad, "-o", str(tmp_path / "out")],
        ),
    ):
        assert refused(*command, capsys=capsys), command
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "out").exists()


def test_folder_of_songs_in_musdb18_layout_is_known(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    music = root / "audio/music"
    assert main(["data", "check", str(music)]) == 0
    output = capsys.readouterr().out
    assert "2 songs in MUSDB18-HQ's layout" in output
    assert "cadenza data import makes these songs part of a corpus" in output
    (music / "train/Tiny 2/drums.wav").unlink()
    assert main(["data", "check", str(music)]) == 1


def test_unknown_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CorpusError, match="has neither metadata/ nor folders with vocals, drums, bass, other, mixture"):
        check_data(tmp_path)
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 1
    assert "nowhere is not a directory" in capsys.readouterr().err
