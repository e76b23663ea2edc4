import pytest
import torch

from cadenza_lib.demo import tiny_song
from cadenza_lib.errors import AudioError, ParameterError
from cadenza_lib.fusion import fuse


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


@pytest.mark.parametrize(
    ("weights", "mixture_weight", "message"),
    [
        ([0.5, 0.6], 0.0, r"\[0\.5, 0\.6\] must not be negative and must have the sum 1"),
        ([1.5, -0.5], 0.0, "must not be negative"),
        ([1.0], 0.0, "1 values for 2 models"),
        (None, 1.2, r"mixture_weight 1\.2 must lie between 0 and 1"),
        (None, float("nan"), r"mixture_weight nan must lie between 0 and 1"),
        ([float("nan"), 1.0], 0.0, r"must not be negative and must have the sum 1"),
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
