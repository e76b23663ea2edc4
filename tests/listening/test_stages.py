import logging

import numpy as np
import pytest
import torch
from clarity.evaluator.msbg.msbg import Ear
from scipy.signal import hilbert

from cadenza_lib.chain.pipeline import ChainSettings, enhance, reference_remix
from cadenza_lib.core.errors import AudioError, ParameterError
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.listeners import Audiogram, Listener, standard_audiogram
from cadenza_lib.data.tiny import tiny_corpus, tiny_listener, tiny_song
from cadenza_lib.listening import stages
from cadenza_lib.listening.player import Take
from cadenza_lib.listening.stages import Excerpt, Setting, Stages, run_chain
from cadenza_lib.scoring.pairs import score

RATE = 44100
GAINS_DB = (6.0, 0.0, -3.0, 10.0)
CHAIN = ChainSettings(mixture_weight=0.15, output_level_db=-3.0)


@pytest.fixture(scope="module")
def excerpt() -> Excerpt:
    song = tiny_song(1.5)
    return Excerpt("scene_10001", song, GAINS_DB, {"oracle": song.stems})


@pytest.fixture(scope="module")
def chain(excerpt: Excerpt) -> Stages:
    return run_chain(excerpt, Setting(GAINS_DB, tiny_listener(), CHAIN))


def same_ears(audiogram: Audiogram) -> Listener:
    return Listener(audiogram, audiogram, id="both")


def test_output_and_scores_are_those_of_the_evaluation(excerpt: Excerpt, chain: Stages) -> None:
    song, gains_db, listener = excerpt.song, torch.tensor(GAINS_DB, dtype=torch.float64), tiny_listener()
    output = enhance(song, [song.stems], gains_db, listener, CHAIN)
    np.testing.assert_array_equal(chain.output.signal, output.signal)
    expected = score(output, reference_remix(song, gains_db), listener, excerpt.scene)
    table = stages.score_table(excerpt, chain, Setting(GAINS_DB, listener, CHAIN))
    assert tuple(table["haaqi"]) == expected.haaqi
    assert tuple(table["clipped_share"]) == expected.clipped_share


def test_takes_of_all_stages_are_aligned_to_the_sample(excerpt: Excerpt) -> None:
    # Without a hearing loss NAL-R is a pure delay, so that every stage is the remix.
    takes = stages.stage_takes(
        run_chain(excerpt, Setting(GAINS_DB, same_ears(Audiogram(np.zeros(2), np.array([250, 8000]))), ChainSettings()))
    )
    for name in ("amplified", "reference_amplified"):
        assert takes[name].signal.shape == takes["remixed"].signal.shape
    np.testing.assert_allclose(takes["amplified"].signal, takes["remixed"].signal, rtol=0, atol=1e-12)
    assert takes["output"].signal.shape[1] == pytest.approx(takes["remixed"].signal.shape[1] * 32000 / RATE, abs=1)


def test_an_ear_without_loss_hears_the_take_at_its_time_and_level(chain: Stages) -> None:
    time_s = np.arange(2 * RATE) / RATE
    tone = 0.1 * np.sin(2 * np.pi * 1000 * time_s) * (time_s > 0.5) * (time_s < 1.5)
    listener = same_ears(Audiogram(np.zeros(2), np.array([250.0, 8000.0])))
    heard = stages.heard_take(Take("tone", np.stack([tone, tone]), RATE), chain, listener)
    assert heard.signal.shape == (2, len(tone))
    middle = slice(RATE, 5 * RATE // 4)
    change_db = 10 * np.log10(np.mean(heard.signal[0, middle] ** 2) / np.mean(tone[middle] ** 2))
    assert abs(change_db) < 1  # dB: ripple of the simulation's filter bank
    envelope = np.abs(hilbert(heard.signal[0]))
    onset_s = np.argmax(envelope > 0.05) / RATE
    assert abs(onset_s - 0.5) < 0.005  # its filters ring for a few milliseconds


def test_a_hearing_loss_weakens_soft_tones_more_than_loud_ones(chain: Stages) -> None:
    time_s = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time_s)
    listener = same_ears(standard_audiogram("N3"))  # 40 dB HL at 1 kHz
    full_scale_db_spl = 65 - 10 * float(torch.log10(chain.reference.square().mean()))
    loss_db = {}
    for level_db_spl in (60.0, 90.0):
        amplitude = np.sqrt(2) * 10 ** ((level_db_spl - full_scale_db_spl) / 20)
        take = Take("tone", amplitude * np.stack([tone, tone]), RATE)
        heard = stages.heard_take(take, chain, listener).signal[0, RATE // 4 : 3 * RATE // 4]
        loss_db[level_db_spl] = -10 * np.log10(np.mean(heard**2) / (amplitude**2 / 2))
    # Recruitment: at the catch-up level of 105 dB SPL nothing is lost, and a dB below it 105 / (105 - 40) dB.
    for level_db_spl, lost_db in loss_db.items():
        assert lost_db == pytest.approx((105 - level_db_spl) * (105 / (105 - 40) - 1), abs=4)  # smearing, filter ripple


def test_simulation_has_the_level_that_pyclarity_changes_before_it(chain: Stages) -> None:
    rng = np.random.default_rng(0)
    burst = 0.05 * rng.normal(size=RATE) * (np.arange(RATE) > RATE // 2)
    heard = stages.heard_take(
        Take("burst", np.stack([burst, 0 * burst]), RATE), chain, same_ears(standard_audiogram("N1"))
    )
    assert not heard.signal[1].any()  # silence stays silence
    ear = Ear(equiv_0db_spl=65 - 10 * float(torch.log10(chain.reference.square().mean())), ahr=0.0)
    ear.set_audiogram(standard_audiogram("N1"))
    theirs = ear.process(burst)[0]
    # Theirs turns bursts down to the RMS of the whole, half of which is silent; expansion makes that more than 3 dB.
    assert np.std(heard.signal[0]) > 10 ** (2.5 / 20) * np.std(theirs)


def test_losses_beyond_what_the_simulation_holds_for_raise_no_warning(chain: Stages, caplog) -> None:
    take = stages.stage_takes(chain)["remixed"]
    with caplog.at_level(logging.WARNING):
        worst = stages.heard_take(take, chain, same_ears(standard_audiogram("N7")))
    assert "too severe" not in caplog.text
    assert np.isfinite(worst.signal).all()


def test_spectrum_of_a_tone_is_its_level_in_its_third_octave() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)
    table = stages.spectrum_table([Take("tone", np.stack([tone, 0 * tone]), RATE)])
    left = table[table["ear"] == "left"].set_index("frequency")["level_db"]
    assert left.loc[1000.0] == pytest.approx(20 * np.log10(0.5), abs=0.1)  # dB; leakage out of the band
    assert left.drop(1000.0).max() < -30
    assert (table[table["ear"] == "right"]["level_db"] == -120).all()


def test_gain_table_is_nal_r() -> None:
    gains_db = stages.gain_table(Setting(GAINS_DB, same_ears(standard_audiogram("N3")), ChainSettings())).query(
        "ear == 'left'"
    )["gain_db"]
    # Byrne and Dillon 1986 by hand: 0.05 (35 + 40 + 50) + 0.31 loss + k(f), never below 0 dB
    expected = np.maximum(6.25 + 0.31 * np.array([35, 35, 40, 50, 60, 65]) + [-17, -8, 1, -1, -2, -2], 0)
    np.testing.assert_allclose(gains_db, expected, atol=1e-9)


def test_excerpt_is_cut_from_the_song_and_refused_outside_of_it(tmp_path) -> None:
    corpus = Corpus(tiny_corpus(tmp_path / "tiny", duration_s=1.0))
    excerpt = stages.load_excerpt(corpus, "train", "scene_10001", ["mixture", "oracle"], 0.25, 0.5, "cpu")
    split = corpus.split("train")
    whole = corpus.at_ear_song(split, split.scenes["scene_10001"])
    part = slice(RATE // 4, RATE // 4 + RATE // 2)
    torch.testing.assert_close(excerpt.song.mixture, whole.mixture[:, part], rtol=0, atol=0)
    torch.testing.assert_close(excerpt.estimates["oracle"], whole.stems[..., part], rtol=0, atol=0)
    for start_s, duration_s in ((0.6, 0.5), (-0.1, 0.5), (0.0, 0.0)):
        with pytest.raises(ParameterError, match="do not lie inside"):
            stages.load_excerpt(corpus, "train", "scene_10001", ["oracle"], start_s, duration_s)
    for stem in (corpus.root / "audio/music").glob("*/*/[!m]*.wav"):
        stem.unlink()
    with pytest.raises(AudioError, match="has a mixture but no stems"):  # before it looks for the network
        stages.load_excerpt(corpus, "train", "scene_10001", ["no network of this name"])
    with pytest.raises(ParameterError, match="Scene 'nowhere' is not in split 'train'"):
        stages.load_excerpt(corpus, "train", "nowhere", ["oracle"])
    with pytest.raises(ParameterError, match="at least one system"):
        stages.load_excerpt(corpus, "train", "scene_10001", [])
