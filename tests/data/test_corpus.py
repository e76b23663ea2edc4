"""Corpora on disk: the challenge's layouts, songs at the ears from disk or simulated, and everything that is wrong."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from official import simulate_officially

from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.errors import AudioError, CadenzaError, CorpusError, ParameterError
from cadenza_lib.data.corpus import Corpus, check_not_silent
from cadenza_lib.data.datasets import check_data
from cadenza_lib.data.scenes import Scene
from cadenza_lib.data.simulation import simulate
from cadenza_lib.data.tiny import tiny_corpus, tiny_song

DURATION_S = 0.5
SONG = Path("audio/music/train/Tiny 1")
SIGNALS = (*STEMS, "mixture")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sound corpus that no test may change."""
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "tiny", DURATION_S)


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    """Return a copy of the corpus for a test to damage."""
    return shutil.copytree(pristine, tmp_path / "tiny")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def read_all(root: Path) -> None:
    """Open a corpus and read the songs of all its scenes."""
    corpus = Corpus(root)
    split = corpus.split("train")
    for scene in split.scenes.values():
        corpus.at_ear_song(split, scene)


# Sound corpora


def as_other_tools_write(value: Any) -> Any:
    """Return JSON with integers as floats, floats as integers where they can be, and a further key in each entry."""
    if isinstance(value, dict):
        further = {"checked by": "us"} if any(isinstance(item, str) for item in value.values()) else {}
        return {key: as_other_tools_write(item) for key, item in value.items()} | further
    if isinstance(value, list):
        return [as_other_tools_write(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return float(value) if isinstance(value, int) else value


def test_metadata_of_other_tools_mean_the_same(root: Path, pristine: Path) -> None:
    for path in (root / "metadata").iterdir():
        path.write_text(json.dumps(as_other_tools_write(read(path))), encoding="utf-8-sig")
    assert (root / "metadata/gains.json").read_text(encoding="utf-8-sig") != (
        pristine / "metadata/gains.json"
    ).read_text()
    ours, theirs = Corpus(pristine), Corpus(root)
    assert theirs.head_positions == ours.head_positions
    assert theirs.split("train").scenes == ours.split("train").scenes
    for scene in ours.split("train").scenes.values():
        one, other = (corpus.at_ear_song(corpus.split("train"), scene) for corpus in (ours, theirs))
        assert one.mixture.equal(other.mixture)


@pytest.mark.parametrize(("on_disk", "in_songs", "in_scenes"), [("d", "c", "c"), ("c", "d", "c"), ("c", "c", "d")])
def test_song_is_found_in_any_normal_form(on_disk: str, in_songs: str, in_scenes: str, root: Path) -> None:
    name = {"c": "Caf\u00e9", "d": "Cafe\u0301"}
    (root / SONG).rename(root / SONG.with_name(name[on_disk]))
    for file, form in (("musdb18.train.json", in_songs), ("scenes.train.json", in_scenes)):
        path = root / "metadata" / file
        path.write_text(path.read_text().replace("Tiny 1", name[form]))
    read_all(root)
    assert "Caf\u00e9" in Corpus(root).split("train").songs


def test_tiny_corpus_opens_with_all_that_its_scenes_name(pristine: Path) -> None:
    corpus = Corpus(pristine)
    split = corpus.split("train")
    assert corpus.splits == ["train"]
    assert corpus.name == str(pristine)
    assert len(split.scenes) == 4
    assert list(split.listeners) == ["A", "B"]
    assert list(split.songs) == ["Tiny 1", "Tiny 2"]
    assert set(split.scene_listeners) == set(split.scenes)


def test_dry_song_equals_its_files_in_vdbo_order(pristine: Path) -> None:
    corpus = Corpus(pristine)
    stems, mixture = corpus.song(corpus.split("train"), "Tiny 1")
    assert stems.dtype == torch.float64
    for signal, name in zip((*stems, mixture), ("vocals", "drums", "bass", "other", "mixture"), strict=True):
        samples, rate = soundfile.read(pristine / SONG / f"{name}.wav", dtype="int16")
        assert rate == 44100
        np.testing.assert_array_equal(signal.numpy().T * 32768, samples)


def test_gains_of_a_scene_come_in_vdbo_order(pristine: Path) -> None:
    corpus = Corpus(pristine)
    corpus.gains["mixed"] = {"other": 4.0, "bass": 3.0, "drums": 2.0, "vocals": 1.0}
    assert corpus.gains_db(Scene("Tiny 1", "mixed", "hlp_0001")).tolist() == [1.0, 2.0, 3.0, 4.0]


def test_songs_at_the_ears_are_the_same_from_the_official_files_and_simulated(root: Path) -> None:
    corpus = Corpus(root)
    split = corpus.split("train")
    simulated = {name: corpus.at_ear_song(split, scene) for name, scene in split.scenes.items()}
    narrow = corpus.at_ear_song(split, scene := next(iter(split.scenes.values())), torch.float32)
    assert torch.equal(narrow.stems.double(), corpus.at_ear_song(split, scene).stems)

    simulate_officially(root)
    shutil.rmtree(root / "audio" / "music")  # nothing is left to simulate from
    shutil.rmtree(root / "audio" / "hrtf")
    corpus = Corpus(root)
    split = corpus.split("train")
    for name, scene in split.scenes.items():
        stored = corpus.at_ear_song(split, scene)
        assert stored.name == simulated[name].name == f"{scene.music}-{scene.head_loudspeaker_positions}"
        # Equal to the last bit: both are truncated to 16 bits.
        assert torch.equal(stored.stems, simulated[name].stems)
        assert torch.equal(stored.mixture, simulated[name].mixture)
        narrow = corpus.at_ear_song(split, scene, torch.float32)
        assert narrow.stems.dtype == narrow.mixture.dtype == torch.float32
        assert torch.equal(narrow.stems.double(), stored.stems)
        assert torch.equal(narrow.mixture.double(), stored.mixture)


def test_unknown_listener_is_an_error_that_names_those_there_are(pristine: Path) -> None:
    split = Corpus(pristine).split("train")
    assert split.listener("B") is split.listeners["B"]
    with pytest.raises(ParameterError, match=r"^Listener 'C' is not in split 'train'; it has A, B\.$"):
        split.listener("C")


def test_audiogram_stands_in_the_place_of_the_splits_listeners(pristine: Path, tmp_path: Path) -> None:
    split = Corpus(pristine).split("train")
    assert split.listener("A", "L 500:10 4000:20 R 500:30 4000:40").id == "own"
    path = tmp_path / "people.csv"
    path.write_text("listener,L500,L4000,R500,R4000\nC,1,2,3,4\nD,5,6,7,8\n")
    assert split.listener("D", str(path)).audiogram_left.levels[0] == 5
    with pytest.raises(ParameterError, match=r"^Listener 'A' is not in .*people\.csv; it has C, D\.$"):
        split.listener("A", str(path))


def test_validation_layout_without_dry_songs_opens(root: Path) -> None:
    simulate_officially(root)
    (root / "metadata" / "musdb18.train.json").unlink()
    shutil.rmtree(root / "audio" / "music")
    path = root / "metadata" / "at_mic_music.train.json"
    songs = {
        name: {key: value for key, value in song.items() if key != "Head Position"} for name, song in read(path).items()
    }
    path.write_text(json.dumps(songs))
    (root / "metadata" / "head_loudspeaker_positions.json").write_text(
        json.dumps({"hlp_9999": {"subject": "VP_E1", "left_angle": -30, "right_angle": 30, "mic": "BTE_fr"}})
    )
    corpus = Corpus(root)
    assert corpus.split("train").songs == {}
    read_all(root)


def test_files_at_the_ears_win_over_simulation(root: Path) -> None:
    simulate_officially(root)
    corpus = Corpus(root)
    split = corpus.split("train")
    scene = next(iter(split.scenes.values()))
    path = root / "audio" / "at_mic_music" / "train" / scene.at_ear_song / "bass.wav"
    marked = np.full((round(DURATION_S * SAMPLE_RATE), 2), 0.25)
    soundfile.write(path, marked, SAMPLE_RATE, subtype="PCM_16")
    assert (corpus.at_ear_song(split, scene).stems[STEMS.index("bass")] == 0.25).all()


def test_mini_corpus_reads_from_both_ends(cadenza_mini: Path) -> None:
    corpus = Corpus(cadenza_mini)
    split = corpus.split("train")
    assert (len(split.scenes), len(split.listeners), len(split.songs)) == (8, 83, 2)
    scene = split.scenes["scene_10001"]
    song = corpus.at_ear_song(split, scene)
    assert song.stems.shape == (4, 2, 12 * SAMPLE_RATE)
    assert corpus.gains_db(scene).tolist() == [corpus.gains["gain_0498"][stem] for stem in STEMS]


def test_song_in_flac_is_read_as_it_is_in_wav(root: Path) -> None:
    corpus = Corpus(root)
    split = corpus.split("train")
    expected = [*corpus.song(split, "Tiny 1"), corpus.dry_excerpt(split, "Tiny 1", 100, 200)]
    for path in (root / SONG).iterdir():
        soundfile.write(path.with_suffix(".flac"), *soundfile.read(path))
        path.unlink()
    assert not [finding for finding in check_data(root) if finding.status == "DAMAGE"]
    found = [*corpus.song(split, "Tiny 1"), corpus.dry_excerpt(split, "Tiny 1", 100, 200)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    simulate(corpus, "train", progress=False)


def test_song_without_a_mixture_says_that_import_makes_one(root: Path) -> None:
    (root / SONG / "mixture.wav").unlink()
    corpus = Corpus(root)
    split = corpus.split("train")
    expected = r"Tiny 1/mixture\.wav does not exist; cadenza data import makes it of the stems"
    for read in (
        lambda: corpus.song(split, "Tiny 1"),
        lambda: corpus.dry_excerpt(split, "Tiny 1", 100, 200),
        lambda: corpus.song_length(split, split.scenes["scene_10001"]),
        lambda: corpus.check_songs(split, split.scenes.values()),
    ):
        with pytest.raises(AudioError, match=expected):
            read()


def test_silent_stem_is_no_error(root: Path) -> None:
    silence = np.zeros((round(DURATION_S * SAMPLE_RATE), 2))
    soundfile.write(root / SONG / "vocals.wav", silence, SAMPLE_RATE, subtype="PCM_16")
    corpus = Corpus(root)
    split = corpus.split("train")
    scene = next(scene for scene in split.scenes.values() if scene.music == "Tiny 1")
    stems = corpus.at_ear_song(split, scene).stems
    assert not stems[0].any()
    assert stems[1:].any(-1).all()


def test_gating_block_of_400_ms_is_long_enough_and_one_sample_less_is_not() -> None:
    mixture = tiny_song(0.5).mixture
    check_not_silent(mixture[:, :17640], "song")
    with pytest.raises(AudioError, match=r"song lasts 0\.400 s; its loudness needs 0\.4 s"):
        check_not_silent(mixture[:, :17639], "song")


# Bad arguments


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=f"Corpus directory {tmp_path / 'nowhere'} does not exist"):
        Corpus(tmp_path / "nowhere")


def test_file_is_no_corpus(pristine: Path) -> None:
    path = pristine / "metadata" / "gains.json"
    with pytest.raises(CorpusError, match=f"Corpus directory {path} does not exist"):
        Corpus(path)


@pytest.mark.parametrize("name", ["valid", "", "../train", "*"])
def test_unknown_split_is_named_beside_those_there_are(name: str, pristine: Path) -> None:
    with pytest.raises(CorpusError, match=rf"{pristine} has no split {re.escape(repr(name))}; it has \['train'\]"):
        Corpus(pristine).split(name)


def test_unknown_song_and_head_position_are_named(pristine: Path) -> None:
    corpus = Corpus(pristine)
    with pytest.raises(ParameterError, match="has no dry song 'Tiny 3'"):
        corpus.song(corpus.split("train"), "Tiny 3")
    with pytest.raises(ParameterError, match="Head position 'hlp_0000' is not in"):
        corpus.hrtf("hlp_0000")


# Bad corpora: each damage is done to a copy of the tiny corpus, which is then read whole

Damage = Callable[[Path], None]


def delete(name: str) -> Damage:
    return lambda root: (root / name).unlink()


def write(name: str, content: bytes) -> Damage:
    return lambda root: (root / name).write_bytes(content) and None


def truncate(name: str, n_bytes: int) -> Damage:
    return lambda root: write(name, (root / name).read_bytes()[:n_bytes])(root)


def replace(name: str, content: Any) -> Damage:
    return lambda root: write(f"metadata/{name}", json.dumps(content).encode())(root)


def edit(name: str, key: str | int, **changes: Any) -> Damage:
    """Change fields of one entry of a metadata file; `key` is its name or its index."""

    def damage(root: Path) -> None:
        path = root / "metadata" / name
        content = read(path)
        content[key].update(changes)
        path.write_text(json.dumps(content))

    return damage


def assign(name: str, key: str | int, value: Any) -> Damage:
    """Set one entry of a metadata file."""

    def damage(root: Path) -> None:
        path = root / "metadata" / name
        content = read(path)
        content[key] = value
        path.write_text(json.dumps(content))

    return damage


def rewrite(names: tuple[str, ...], change: Callable[[np.ndarray], np.ndarray], rate: int = SAMPLE_RATE) -> Damage:
    """Change the samples `(time, channel)` of WAV files, which become float ones."""

    def damage(root: Path) -> None:
        for name in names:
            samples, _ = soundfile.read(root / name, always_2d=True)
            soundfile.write(root / name, change(samples), rate, subtype="FLOAT")

    return damage


def with_nan(samples: np.ndarray) -> np.ndarray:
    samples[1000:1003, 1] = np.nan
    return samples


def one_ear(samples: np.ndarray) -> np.ndarray:
    samples[:, 1] = 0
    return samples


WHOLE_SONG = tuple(f"{SONG}/{name}.wav" for name in SIGNALS)
BASS = (f"{SONG}/bass.wav",)
HRTF = ("audio/hrtf/BTE_fr-mean-n30.0.wav",)
HRTFS = tuple(f"audio/hrtf/BTE_fr-mean-{side}{angle}.wav" for side in "np" for angle in (22.5, 30.0, 37.5))
SCENE = "scene_10001"

BAD_METADATA: dict[str, tuple[Damage, str]] = {
    "no gains": (delete("metadata/gains.json"), r"gains\.json does not exist"),
    "no head positions": (
        delete("metadata/head_loudspeaker_positions.json"),
        r"head_loudspeaker_positions\.json does not exist",
    ),
    "no listeners": (delete("metadata/listeners.train.json"), r"listeners\.train\.json does not exist"),
    "no scenes": (delete("metadata/scenes.train.json"), r"has no split 'train'; it has no scenes\.\*\.json"),
    "no scene listeners": (
        delete("metadata/scene_listeners.train.json"),
        r"scene_listeners\.train\.json does not exist",
    ),
    "no songs": (delete("metadata/musdb18.train.json"), r"scenes\.train\.json: scene_10001 names the song 'Tiny 1'"),
    "gains not JSON": (write("metadata/gains.json", b"{"), r"gains\.json is not valid JSON \(line 1: "),
    "head positions not JSON": (
        write("metadata/head_loudspeaker_positions.json", b'{\n"hlp_0001": }'),
        r"head_loudspeaker_positions\.json is not valid JSON \(line 2: ",
    ),
    "listeners not JSON": (write("metadata/listeners.train.json", b""), r"listeners\.train\.json is not valid JSON"),
    "scenes not JSON": (write("metadata/scenes.train.json", b"scene"), r"scenes\.train\.json is not valid JSON"),
    "scene listeners not JSON": (
        write("metadata/scene_listeners.train.json", b"{'a': 1}"),
        r"scene_listeners\.train\.json is not valid JSON",
    ),
    "songs not JSON": (write("metadata/musdb18.train.json", b"[{},]"), r"musdb18\.train\.json is not valid JSON"),
    "at-ear songs not JSON": (
        write("metadata/at_mic_music.train.json", b"?"),
        r"at_mic_music\.train\.json is not valid",
    ),
    "scenes not text": (write("metadata/scenes.train.json", b"\xff\xfe\x00"), r"scenes\.train\.json cannot be read"),
    "gains a list": (replace("gains.json", [1]), r"gains\.json must hold a non-empty JSON object, not list"),
    "scenes empty": (replace("scenes.train.json", {}), r"scenes\.train\.json must hold a non-empty JSON object"),
    "songs a number": (replace("musdb18.train.json", 3), r"musdb18\.train\.json"),
    "gain of text": (edit("gains.json", "gain_0002", drums="6"), r"gains\.json: gain_0002 has '6' for drums"),
    "gain missing": (assign("gains.json", "gain_0002", {"vocals": 0}), r"gains\.json: gain_0002 has None for drums"),
    "gain NaN": (
        edit("gains.json", "gain_0001", bass=float("nan")),
        r"gains\.json cannot be read as JSON \(gain_0001, bass is nan, which is not a finite number\)",
    ),
    "gain too large": (edit("gains.json", "gain_0001", bass=61), r"has 61 for bass; .* from -60 to 60 dB"),
    "position without angle": (
        assign("head_loudspeaker_positions.json", "hlp_0001", {"subject": "mean"}),
        r"head_loudspeaker_positions\.json: hlp_0001 is \{'subject': 'mean'\}",
    ),
    "angle of text": (
        edit("head_loudspeaker_positions.json", "hlp_0001", left_angle="-30"),
        r"head_loudspeaker_positions\.json: hlp_0001 is .*'-30'",
    ),
    "scene a list": (
        assign("scenes.train.json", SCENE, ["Tiny 1"]),
        r"scenes\.train\.json: scene_10001 is \['Tiny 1'\]",
    ),
    "scene without gain": (
        assign("scenes.train.json", SCENE, {"music": "Tiny 1"}),
        r"scenes\.train\.json: scene_10001 is \{'music': 'Tiny 1'\}; it needs the ids of music, gain",
    ),
    "gain of a scene a list": (
        edit("scenes.train.json", SCENE, gain=["gain_0001"]),
        r"scenes\.train\.json: scene_10001",
    ),
    "scene of unknown song": (
        edit("scenes.train.json", SCENE, music="Tiny 9"),
        r"scenes\.train\.json: scene_10001 names the song 'Tiny 9'",
    ),
    "scene of unknown gain": (
        edit("scenes.train.json", SCENE, gain="gain_9999"),
        r"scenes\.train\.json: scene_10001 names the gain 'gain_9999', which gains\.json does not have",
    ),
    "scene of unknown head position": (
        edit("scenes.train.json", SCENE, head_loudspeaker_positions="hlp_9999"),
        r"scenes\.train\.json: scene_10001 names the head position 'hlp_9999'",
    ),
    "unknown listener": (
        assign("scene_listeners.train.json", SCENE, ["A", "L9999"]),
        r"scene_listeners\.train\.json: scene_10001 names the listener 'L9999'",
    ),
    "listeners of a scene a number": (
        assign("scene_listeners.train.json", SCENE, 7),
        r"scene_listeners\.train\.json: scene_10001",
    ),
    "listeners of unknown scene": (
        assign("scene_listeners.train.json", "scene_99999", ["A"]),
        r"scene_listeners\.train\.json names 'scene_99999', which scenes\.train\.json does not have",
    ),
    "bad audiogram": (
        edit("listeners.train.json", "A", audiogram_levels_r=[10]),
        r"listeners\.train\.json: listener A: audiogram_levels_r has 1 thresholds for 11",
    ),
    "song without path": (
        assign("musdb18.train.json", 0, {"Track Name": "Tiny 1"}),
        r"musdb18\.train\.json holds \{'Track Name': 'Tiny 1'\}; each song needs",
    ),
    "path out of the corpus": (
        edit("musdb18.train.json", 0, Path="train/../../../../secret"),
        r"musdb18\.train\.json: the Path 'train/\.\./\.\./\.\./\.\./secret' leads out of the corpus",
    ),
    "absolute path": (
        edit("musdb18.train.json", 0, Path="/etc"),
        r"musdb18\.train\.json: the Path '/etc' leads out of the corpus",
    ),
    "path of an at-ear song out of the corpus": (
        replace("at_mic_music.train.json", {"x": {"Track Name": "x", "Path": "../x"}}),
        r"at_mic_music\.train\.json: the Path '\.\./x' leads out of the corpus",
    ),
}

BAD_AUDIO: dict[str, tuple[Damage, str]] = {
    "no stem": (delete(*BASS), r"bass\.wav does not exist"),
    "no mixture": (delete(f"{SONG}/mixture.wav"), r"mixture\.wav does not exist"),
    "no song": (lambda root: shutil.rmtree(root / SONG), r"Tiny 1/vocals\.wav does not exist"),
    "no HRTFs": (lambda root: shutil.rmtree(root / "audio/hrtf"), r"hrtf/BTE_fr-mean-n\S+\.wav does not exist"),
    "garbage": (write(*BASS, b"this is not audio" * 50), r"bass\.wav cannot be read as audio"),
    "no bytes": (write(*BASS, b""), r"bass\.wav cannot be read as audio"),
    "half a header": (truncate(*BASS, 20), r"bass\.wav cannot be read as audio"),
    "half the samples": (truncate(*BASS, 30000), r"bass\.wav is cut off: 30000 of 88244 bytes"),
    "header alone": (truncate(*BASS, 44), r"bass\.wav is cut off: 44 of 88244 bytes"),
    "mono": (rewrite(BASS, lambda samples: samples[:, :1]), r"bass\.wav has 1 channel\(s\), not 2"),
    "three channels": (
        rewrite(BASS, lambda samples: samples[:, [0, 1, 1]]),
        r"bass\.wav has 3 channel\(s\), not 2",
    ),
    "wrong rate": (
        rewrite(BASS, lambda samples: samples, 48000),
        r"bass\.wav has a sample rate of 48000 Hz, not 44100",
    ),
    "unequal length": (
        rewrite(BASS, lambda samples: samples[:-1]),
        r"bass\.wav has 22049 samples but mixture\.wav has 22050",
    ),
    "empty": (rewrite(BASS, lambda samples: samples[:0]), r"bass\.wav is empty: it holds 0 samples"),
    "NaN": (rewrite(BASS, with_nan), r"bass\.wav holds 3 sample\(s\) that are NaN or infinite"),
    "infinity": (
        rewrite(BASS, lambda samples: np.full_like(samples, np.inf)),
        r"bass\.wav holds \d+ sample\(s\) that are NaN or infinite",
    ),
    "silence": (rewrite(WHOLE_SONG, np.zeros_like), r"Tiny 1 is silent in at least one channel"),
    "one silent channel": (rewrite(WHOLE_SONG, one_ear), r"Tiny 1 is silent in at least one channel"),
    "too short": (
        rewrite(WHOLE_SONG, lambda samples: samples[: round(0.39 * SAMPLE_RATE)]),
        r"Tiny 1 lasts 0\.390 s; .* needs 0\.4 s",
    ),
    "mono HRTF": (
        rewrite(HRTFS, lambda samples: samples[:, :1]),
        r"BTE_fr-mean-\S+\.wav has 1 channel\(s\), not 2",
    ),
    "HRTF of another rate": (
        rewrite(HRTFS, lambda samples: samples, 48000),
        r"BTE_fr-mean-\S+\.wav has a sample rate of 48000 Hz, not 44100",
    ),
    "HRTFs of unequal length": (
        rewrite(HRTFS[:3], lambda samples: samples[:-1]),
        r"BTE_fr-mean-n\S+\.wav has \d+ taps but BTE_fr-mean-p",
    ),
}


@pytest.mark.parametrize(
    ("damage", "error", "match"),
    [
        pytest.param(damage, error, match, id=name)
        for table, error in ((BAD_METADATA, CorpusError), (BAD_AUDIO, AudioError))
        for name, (damage, match) in table.items()
    ],
)
def test_bad_corpus_is_one_sentence_with_file_and_value(
    damage: Damage, error: type[CadenzaError], match: str, root: Path
) -> None:
    damage(root)
    with pytest.raises(error, match=match) as caught:
        read_all(root)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert not re.search(r"\.\s+[A-Z]", message)  # one sentence
    if "Tiny 1 " not in message:  # silence and length are those of a song, the rest is found in a file
        assert str(root) in message


def test_damaged_split_is_not_remembered_as_sound(root: Path) -> None:
    corpus = Corpus(root)
    path = root / "metadata" / "listeners.train.json"
    content = path.read_bytes()
    path.write_bytes(b"{")
    with pytest.raises(CorpusError, match="not valid JSON"):
        corpus.split("train")
    path.write_bytes(content)
    assert len(corpus.split("train").listeners) == 2


def test_missing_song_at_the_ears_is_named_where_nothing_can_be_simulated(root: Path) -> None:
    simulate_officially(root)
    (root / "metadata" / "musdb18.train.json").unlink()
    shutil.rmtree(root / "audio" / "at_mic_music")
    with pytest.raises(CorpusError, match=r"at_mic_music/train/Tiny 1-hlp_\d+ does not exist, .* no dry song"):
        read_all(root)


@pytest.mark.parametrize(("samples", "match"), [(0.0, "is silent"), (None, "lasts 0.390 s")])
def test_silent_or_short_song_at_the_ears_is_refused(samples: float | None, match: str, root: Path) -> None:
    simulate_officially(root)
    for path in (root / "audio" / "at_mic_music").glob("train/*/*.wav"):
        signal, _ = soundfile.read(path)
        changed = signal[: round(0.39 * SAMPLE_RATE)] if samples is None else signal * samples
        soundfile.write(path, changed, SAMPLE_RATE, subtype="PCM_16")
    with pytest.raises(AudioError, match=rf"Tiny 1-hlp_\d+ {match}"):
        read_all(root)
