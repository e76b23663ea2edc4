import numpy as np
import pytest
import torch
from scipy import signal

from cadenza_lib.chain.fusion import add_mixture, combine, ensemble, fuse, post_filter
from cadenza_lib.chain.pipeline import ChainSettings, remix
from cadenza_lib.chain.remix import apply_gains, downmix
from cadenza_lib.core.errors import AudioError, ParameterError
from cadenza_lib.data.tiny import tiny_song
from cadenza_lib.separation.separators import load


def test_equal_weights_of_a_model_with_itself_give_that_model():
    song = tiny_song()
    torch.testing.assert_close(fuse([song.stems] * 3, song.mixture, mixture_weight=0.0), song.stems)


def test_a_mixture_weight_of_one_gives_the_mixture():
    song = tiny_song()
    fused = fuse([song.stems], song.mixture, mixture_weight=1.0)
    assert all(torch.equal(stem, song.mixture) for stem in fused)


def test_fusion_is_the_formula_of_the_paper():
    song, other = tiny_song(seed=1), tiny_song(seed=2)
    fused = fuse([song.stems, other.stems], song.mixture, [0.3, 0.7], mixture_weight=0.15)
    expected = 0.85 * (0.3 * song.stems + 0.7 * other.stems) + 0.15 * song.mixture[None]
    torch.testing.assert_close(fused, expected)


def test_without_the_complement_the_mixture_is_added():
    song = tiny_song()
    fused = fuse([song.stems], song.mixture, mixture_weight=0.2, complement=False)
    torch.testing.assert_close(fused, song.stems + 0.2 * song.mixture)


def test_each_stem_can_have_weights_of_its_own():
    song, other = tiny_song(seed=1), tiny_song(seed=2)
    weights = [[1.0, 0.0, 0.25, 0.5], [0.0, 1.0, 0.75, 0.5]]
    fused = combine([song.stems, other.stems], weights)
    for index, (first, second) in enumerate(zip(*weights, strict=True)):
        torch.testing.assert_close(fused[index], first * song.stems[index] + second * other.stems[index])


def test_an_ensemble_separates_like_the_fusion_of_its_members():
    song = tiny_song()
    stems = ensemble([load("oracle"), load("mixture")], [0.3, 0.7])(song)
    torch.testing.assert_close(stems, 0.3 * song.stems + 0.7 * song.mixture / 4)


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_the_post_filter_shares_out_the_spectrogram_of_the_mixture(exponent):
    song, length = tiny_song(seed=1), 4096
    filtered = post_filter(song.stems, song.mixture, exponent)
    _, _, stems = signal.stft(song.stems.numpy(), nperseg=length, noverlap=length * 3 // 4, boundary="zeros")
    _, _, mixture = signal.stft(song.mixture.numpy(), nperseg=length, noverlap=length * 3 // 4, boundary="zeros")
    power = np.abs(stems) ** exponent
    _, expected = signal.istft(power / power.sum(0) * mixture, nperseg=length, noverlap=length * 3 // 4)
    whole = slice(None, -length)  # the last frames of the two transforms differ
    # The floor of the masks, 1e-8 in a bin, moves samples by less than this, at a peak of 1.
    np.testing.assert_allclose(filtered[..., whole], expected[..., : filtered.shape[-1]][..., whole], atol=1e-4)
    torch.testing.assert_close(filtered.sum(0), song.mixture)


def test_each_model_is_filtered_before_they_are_combined():
    song, other = tiny_song(seed=1), tiny_song(seed=2).stems
    stems = ensemble([load("oracle"), lambda _: other], [0.3, 0.7], wiener_exponent=1.0)(song)
    expected = 0.3 * post_filter(song.stems, song.mixture, 1.0) + 0.7 * post_filter(other, song.mixture, 1.0)
    torch.testing.assert_close(stems, expected)


GAINS_DB = torch.tensor([6.0, -3.0, 0.0, -10.0], dtype=torch.float64)


def test_in_the_stems_the_mixture_weighs_as_much_as_the_sum_of_the_gains():
    song, estimate, w = tiny_song(seed=1), tiny_song(seed=2).stems, 0.15
    gain_sum = float((10 ** (GAINS_DB / 20)).sum())
    in_stems = remix(fuse([estimate], song.mixture, mixture_weight=w), GAINS_DB, song.mixture)
    share = w * gain_sum / (1 - w + w * gain_sum)
    settings = ChainSettings(mixture_weight=share, mixture_into="downmix")
    in_downmix = remix(estimate, GAINS_DB, song.mixture, settings)
    torch.testing.assert_close(in_stems, in_downmix)


def test_in_the_downmix_the_mixture_has_its_share_whatever_the_gains():
    song, estimate, w = tiny_song(seed=1), tiny_song(seed=2).stems, 0.3
    settings = ChainSettings(mixture_weight=w, mixture_into="downmix")
    mixed = remix(estimate, GAINS_DB, song.mixture, settings)
    by_hand = (1 - w) * downmix(apply_gains(estimate, GAINS_DB)) + w * song.mixture
    loudness_gain = mixed.norm() / by_hand.norm()
    torch.testing.assert_close(mixed, by_hand * loudness_gain)


@pytest.mark.parametrize("place", ["stems", "downmix"])
def test_after_loudness_normalisation_the_complement_only_renames_the_weight(place):
    song, estimate, w = tiny_song(seed=1), tiny_song(seed=2).stems, 0.25
    renamed = w / (1 + w)
    if place == "stems":
        added = fuse([estimate], song.mixture, mixture_weight=w, complement=False)
        shared = fuse([estimate], song.mixture, mixture_weight=renamed)
        ours, expected = (remix(stems, GAINS_DB, song.mixture) for stems in (added, shared))
    else:
        mixed = downmix(apply_gains(estimate, GAINS_DB))
        added, shared = add_mixture(mixed, song.mixture, w, complement=False), add_mixture(mixed, song.mixture, renamed)
        ours, expected = added / added.norm(), shared / shared.norm()
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("weights", "mixture_weight", "message"),
    [
        ([0.5, 0.6], 0.0, r"\[0\.5, 0\.6\] must not be negative and must have the sum 1"),
        ([1.5, -0.5], 0.0, "must not be negative"),
        ([1.0], 0.0, "1 values for 2 models"),
        (None, 1.2, r"mixture_weight 1\.2 must lie between 0 and 1"),
        (None, float("nan"), r"mixture_weight nan must lie between 0 and 1"),
        ([float("nan"), 1.0], 0.0, r"must not be negative and must have the sum 1"),
        ([[0.5, 0.5], [0.5, 0.5]], 0.0, r"must have one value for each model, or each of its stems"),
        ([[0.5] * 4, [0.5] * 3 + [0.4]], 0.0, r"must not be negative and must have the sum 1"),
        ([[0.5] * 4, 0.5], 0.0, r"must be numbers, or lists of equal length"),
    ],
)
def test_weights_off_the_simplex_are_refused(weights, mixture_weight, message):
    song = tiny_song()
    with pytest.raises(ParameterError, match=message):
        fuse([song.stems, song.stems], song.mixture, weights, mixture_weight)


def test_stems_of_another_length_are_refused():
    song = tiny_song()
    with pytest.raises(AudioError, match="do not fit a mixture"):
        fuse([song.stems[..., 1:]], song.mixture)


def test_no_model_is_refused():
    with pytest.raises(ParameterError, match="at least one model"):
        fuse([], tiny_song().mixture)
