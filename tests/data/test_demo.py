import json

import pytest
import torch
from signals import si_sdr_db

from cadenza_lib.core.paths import DATA
from cadenza_lib.data import demo
from cadenza_lib.data.corpus import AtEarSong, Corpus
from cadenza_lib.data.listeners import pure_tone_average_db_hl
from cadenza_lib.data.scenes import gain_grid
from cadenza_lib.scoring import evaluation
from cadenza_lib.separation import separators

CHECKPOINT = DATA / "demo_hdemucs.safetensors"


def test_the_committed_metadata_are_those_the_code_makes():
    expected = json.loads(json.dumps(demo.demo_metadata()))  # tuples become lists
    committed = {path.name: json.loads(path.read_text()) for path in (DATA / "demo/metadata").glob("*.json")}
    assert committed == expected


def test_the_splits_share_no_song_and_no_seed_of_the_checkpoints():
    corpus = demo.open_corpus("demo")
    seeds = [song["Seed"] for name in corpus.splits for song in corpus.split(name).songs.values()]
    card = json.loads(CHECKPOINT.with_suffix(".json").read_text())
    assert corpus.splits == ["test", "train", "valid"]
    assert len(seeds) == len(set(seeds)) >= 12
    assert "seeds 1000 to" in card["trained_on"]
    assert max(seeds) < 1000


def test_songs_last_12_to_20_seconds_and_are_rendered_alike_each_time():
    corpus = demo.open_corpus("demo")
    split = corpus.split("valid")
    stems, mixture = corpus.song(split, "Demo Song 07")
    again, _ = demo.open_corpus("demo").song(split, "Demo Song 07")
    assert torch.equal(stems, again)
    assert torch.equal(stems.sum(0), mixture)
    durations = [song["Duration"] for name in corpus.splits for song in corpus.split(name).songs.values()]
    assert 12 <= min(durations) <= max(durations) <= 20
    assert stems.shape == (4, 2, 12 * 44100)


def test_the_demo_has_the_challenges_gains_and_head_positions():
    corpus = demo.open_corpus("demo")
    assert corpus.gains == gain_grid()
    angles = {(position.left_angle, position.right_angle) for position in corpus.head_positions.values()}
    assert len(angles) == 9
    assert corpus.hrtf("hlp_0001").shape[:2] == (2, 2)


def test_one_listener_is_like_the_papers_l5000():
    listeners = demo.open_corpus("demo").split("valid").listeners
    assert len(listeners) >= 12
    ears = listeners["N3-N5"]
    low = [pure_tone_average_db_hl(ear, (500, 1000, 2000)) for ear in (ears.audiogram_left, ears.audiogram_right)]
    assert low[0] == pytest.approx(40, abs=3)
    assert low[1] > 70


def test_the_demo_simulates_at_ear_songs():
    corpus = demo.open_corpus("demo")
    split = corpus.split("valid")
    song = corpus.at_ear_song(split, split.scenes["scene_10001"])
    assert song.stems.shape == (4, *song.mixture.shape)
    assert not torch.allclose(song.stems.sum(0), song.mixture, atol=1e-3)  # each was matched to its own loudness


def test_a_tiny_corpus_opens_like_the_challenges(tmp_path):
    corpus = Corpus(demo.tiny_corpus(tmp_path))
    split = corpus.split("train")
    assert (len(split.songs), len(split.scenes), len(split.listeners)) == (2, 4, 2)
    assert corpus.at_ear_song(split, split.scenes["scene_10001"]).mixture.shape == (2, 44100)


@pytest.mark.slow
def test_the_demo_separator_beats_the_mixture_by_8_db_on_held_out_dry_songs():
    corpus, separator = demo.open_corpus("demo"), separators.load("demo_hdemucs", "cpu")
    split, improvement = corpus.split("test"), []
    for song in split.songs:
        stems, mixture = corpus.song(split, song)
        estimate = separator(AtEarSong(song, stems, mixture))
        improvement.append(si_sdr_db(estimate, stems) - si_sdr_db(mixture.expand_as(stems), stems))
    assert float(torch.stack(improvement).mean()) > 8.0


@pytest.mark.slow
def test_without_the_clip_the_demo_separator_lies_between_no_processing_and_perfect_stems():
    corpus = demo.open_corpus("demo")
    split = corpus.split("valid")
    listener = split.listeners["N2"]
    mean = dict.fromkeys(("mixture", "demo_hdemucs", "oracle"), 0.0)
    scenes = list(split.scenes)[::8]  # of two songs
    for scene_id in scenes:
        song, gains_db = corpus.at_ear_song(split, split.scenes[scene_id]), corpus.gains_db(split.scenes[scene_id])
        for system in mean:
            output = evaluation.enhance(song, separators.load(system, "cpu")(song), gains_db, listener, clip=False)
            reference = evaluation.reference_remix(song, gains_db)
            mean[system] += evaluation.score(output, reference, listener, scene_id).mean / len(scenes)
    assert mean["mixture"] + 0.02 < mean["demo_hdemucs"] < mean["oracle"] - 0.1


def test_the_demo_checkpoint_is_small():
    assert CHECKPOINT.stat().st_size < 6e6
