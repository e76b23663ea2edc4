"""The twin: what its metadata promise, and that it is distributed like the challenge."""

import json

import numpy as np
import pytest
import torch
from signals import si_sdr_db

from cadenza_lib.audio.loudness import integrated_loudness
from cadenza_lib.chain.pipeline import ChainSettings, enhance, reference_remix
from cadenza_lib.core.paths import DATA
from cadenza_lib.data.corpus import AtEarSong, Corpus
from cadenza_lib.data.embedded import SPLITS, embedded_metadata
from cadenza_lib.data.listeners import (
    audiogram_table,
    ear_table,
    load_listeners,
    parse_listener,
)
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.population import sample_listeners
from cadenza_lib.data.scenes import gain_grid
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.scoring.pairs import score
from cadenza_lib.separation import separators

SEPARATORS = ("demo_hdemucs", "demo_openunmix", "twin_hdemucs")


def test_the_committed_metadata_are_those_the_code_makes():
    expected = json.loads(json.dumps(embedded_metadata()))  # tuples become lists
    committed = {path.name: json.loads(path.read_text()) for path in (DATA / "twin/metadata").glob("*.json")}
    assert committed == expected


def test_the_splits_share_no_song_and_no_seed_of_the_checkpoints():
    corpus = open_corpus("twin")
    seeds = [song["Seed"] for split in corpus.splits for song in corpus.split(split).songs.values()]
    assert corpus.splits == ["test", "train", "valid"]
    assert len(seeds) == len(set(seeds)) == 84
    assert max(seeds) < 1000
    for name in SEPARATORS:
        card = json.loads((DATA / f"{name}.json").read_text())
        assert "seeds 1000 to" in card["trained_on"]


def test_songs_last_12_to_20_seconds_and_are_rendered_alike_each_time():
    corpus = open_corpus("twin")
    split = corpus.split("valid")
    stems, mixture = corpus.song(split, "Twin Song 25")
    again, _ = open_corpus("twin").song(split, "Twin Song 25")
    assert torch.equal(stems, again)
    assert torch.equal(stems.sum(0), mixture)
    durations = [song["Duration"] for part in corpus.splits for song in corpus.split(part).songs.values()]
    assert 12 <= min(durations) <= max(durations) <= 20
    assert stems.shape == (4, 2, 12 * 44100)


def test_the_twin_has_the_challenges_gains_and_head_positions():
    corpus = open_corpus("twin")
    assert corpus.gains == gain_grid()
    positions = corpus.head_positions.values()
    assert len({(position.left_angle, position.right_angle) for position in positions}) == 9
    assert len({position.subject for position in positions}) == 16
    assert corpus.hrtf("hlp_0001").shape[:2] == (2, 2)
    assert not torch.equal(corpus.hrtf("hlp_0001"), corpus.hrtf("hlp_0010"))  # another person, the same angles


def test_the_twin_simulates_at_ear_songs():
    corpus = open_corpus("twin")
    split = corpus.split("valid")
    song = corpus.at_ear_song(split, split.scenes["scene_10001"])
    assert song.stems.shape == (4, *song.mixture.shape)
    assert not torch.allclose(song.stems.sum(0), song.mixture, atol=1e-3)  # each was matched to its own loudness


def test_the_songs_of_a_split_have_its_mean_loudness_the_spread_of_musdb18_hq_and_uneven_stems():
    corpus = open_corpus("twin")
    for name, expected in SPLITS.items():
        levels = [song["Loudness"] for song in corpus.split(name).songs.values()]
        assert np.mean(levels) == pytest.approx(expected.loudness_lufs, abs=0.05)
        assert np.std(levels) == pytest.approx(1.3, abs=0.1)
        balances = [song["Balance"] for song in corpus.split(name).songs.values()]
        assert np.std(balances) == pytest.approx(5, abs=0.8)
    split = corpus.split("test")
    loudest = max(split.songs, key=lambda name: split.songs[name]["Loudness"])
    _, mixture = corpus.song(split, loudest)
    assert float(integrated_loudness(mixture, 44100)) == pytest.approx(split.songs[loudest]["Loudness"], abs=0.3)
    assert float(mixture.abs().max()) < 0.95  # limited, not clipped


def test_a_listener_of_the_twin_is_like_the_papers_l5000_and_another_hears_normally():
    ears = ear_table(open_corpus("twin").split("valid").listeners.values()).set_index(["listener", "ear"])
    assert ears.loc[("like-L5000", "left"), "low_db_hl"] == pytest.approx(40, abs=3)
    assert ears.loc[("like-L5000", "right"), "low_db_hl"] > 70
    assert ears.loc["normal", "pta_db_hl"].max() < 10


def test_each_split_has_its_own_listeners_with_the_challenges_shares_of_hearing_loss():
    corpus, audiograms = open_corpus("twin"), set()
    for name in corpus.splits:
        people = {key: entry for key, entry in corpus.split(name).listeners.items() if key.startswith(name)}
        assert len(people) >= 50
        better = ear_table(people.values()).groupby("listener")["better_ear_pta_db_hl"].first()
        shares = [((better >= low) & (better < low + 10)).mean() for low in (20, 30, 40, 50)]
        np.testing.assert_allclose(shares, [0.11, 0.37, 0.34, 0.18], atol=0.015)
        assert better.min() >= 25
        audiograms |= {tuple(np.r_[one.audiogram_left.levels, one.audiogram_right.levels]) for one in people.values()}
    assert len(audiograms) == sum(split.n_listeners for split in SPLITS.values())


def test_drawn_audiograms_are_distributed_like_real_ones(cadenza_mini):
    real = load_listeners(cadenza_mini / "metadata/listeners.train.json")
    drawn = {name: parse_listener(entry, name, "") for name, entry in sample_listeners(1000, 0).items()}
    levels, real_levels = (
        audiogram_table(people.values()).groupby("frequency")["threshold_db_hl"] for people in (drawn, real)
    )
    # 83 people have standard errors of 1 to 2 dB; the challenge's shares by decade are 2 dB milder than these 83.
    assert (levels.mean() - real_levels.mean()).abs().max() < 5
    assert (levels.std() - real_levels.std()).abs().max() < 4
    ears, real_ears = ear_table(drawn.values()), ear_table(real.values())
    slopes, real_slopes = ears["slope_db_per_octave"], real_ears["slope_db_per_octave"]
    assert slopes.mean() == pytest.approx(real_slopes.mean(), abs=1.5)
    assert slopes.std() == pytest.approx(real_slopes.std(), abs=1.5)
    asymmetric = (ears["asymmetry_db"].abs() >= 20).mean()
    assert asymmetric == pytest.approx((real_ears["asymmetry_db"].abs() >= 20).mean(), abs=0.03)  # 6 of 83
    assert (levels.min() >= 0).all()
    assert (levels.max() == 80).all()


def test_a_tiny_corpus_opens_like_the_challenges(tmp_path):
    corpus = Corpus(tiny_corpus(tmp_path))
    split = corpus.split("train")
    assert (len(split.songs), len(split.scenes), len(split.listeners)) == (2, 4, 2)
    assert corpus.at_ear_song(split, split.scenes["scene_10001"]).mixture.shape == (2, 44100)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEPARATORS)
def test_a_separator_beats_the_mixture_by_8_db_on_held_out_dry_songs(name):
    corpus, separator = open_corpus("twin"), separators.load(name, "cpu")
    split, improvement = corpus.split("test"), []
    for song in list(split.songs)[::8]:
        stems, mixture = corpus.song(split, song)
        estimate = separator(AtEarSong(song, stems, mixture))
        improvement.append(si_sdr_db(estimate, stems) - si_sdr_db(mixture.expand_as(stems), stems))
    assert float(torch.stack(improvement).mean()) > 8.0


@pytest.mark.slow
def test_without_the_clip_the_twins_separator_lies_between_no_processing_and_perfect_stems():
    corpus = open_corpus("twin")
    split = corpus.split("valid")
    listener = split.listeners["valid01"]
    mean = dict.fromkeys(("mixture", "twin_hdemucs", "oracle"), 0.0)
    scenes = list(split.scenes)[:16:8]  # of two songs
    for scene_id in scenes:
        song, gains_db = corpus.at_ear_song(split, split.scenes[scene_id]), corpus.gains_db(split.scenes[scene_id])
        for system in mean:
            output = enhance(
                song, [separators.load(system, "cpu")(song)], gains_db, listener, ChainSettings(output_stage="none")
            )
            reference = reference_remix(song, gains_db)
            mean[system] += score(output, reference, listener, scene_id).mean / len(scenes)
    assert mean["mixture"] + 0.02 < mean["twin_hdemucs"] < mean["oracle"] - 0.1


def test_the_checkpoints_are_small():
    assert max((DATA / f"{name}.safetensors").stat().st_size for name in SEPARATORS) < 6e6
