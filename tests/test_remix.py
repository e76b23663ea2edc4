import numpy as np
import pytest
import torch
from recipes.cad_icassp_2024.baseline import evaluate as recipe
from signals import ten_kinds

from cadenza_lib.errors import AudioError
from cadenza_lib.remix import apply_gains, downmix, normalise_loudness, remix
from cadenza_lib.scenes import STEMS

EXACT = 1e-9  # float64 on both sides; what is left is the rounding of FFT convolution
GAINS_DB = {"vocals": 10, "drums": -6, "bass": 0, "other": -3}


def _stems() -> torch.Tensor:
    kinds = ten_kinds()
    return torch.stack([kinds["music"], kinds["white noise"], kinds["low tone"], kinds["half silent"]])


def _as_recipe(stems: torch.Tensor) -> dict[str, np.ndarray]:
    return {name: stem.numpy().T.copy() for name, stem in zip(STEMS, stems, strict=True)}


def _gains() -> torch.Tensor:
    return torch.tensor([GAINS_DB[stem] for stem in STEMS], dtype=torch.float64)


def test_gains_equal_the_recipes_gains():
    expected = recipe.apply_gains(_as_recipe(_stems()), 44100, GAINS_DB)
    ours = apply_gains(_stems(), _gains())
    for name, stem in zip(STEMS, ours, strict=True):
        np.testing.assert_allclose(stem.numpy().T, expected[name], atol=EXACT)


@pytest.mark.parametrize("kind", ten_kinds())
def test_loudness_normalisation_equals_the_recipes(kind):
    signal, mixture = ten_kinds()[kind], ten_kinds()["music"]
    expected = recipe.level_normalisation(signal.numpy().T, mixture.numpy().T, 44100)
    np.testing.assert_allclose(normalise_loudness(signal, mixture).numpy().T, expected, atol=EXACT)


def test_remix_equals_the_recipes_remix():
    mixture = ten_kinds()["pink noise"]
    expected = recipe.remix_stems(recipe.apply_gains(_as_recipe(_stems()), 44100, GAINS_DB), mixture.numpy().T, 44100)
    np.testing.assert_allclose(remix(_stems(), _gains(), mixture).numpy().T, expected, atol=EXACT)


def test_a_silent_stem_stays_silent_in_the_remix():
    stems = _stems()
    stems[0] = 0
    torch.testing.assert_close(
        remix(stems, _gains(), ten_kinds()["music"]),
        remix(stems, _gains() * torch.tensor([9, 1, 1, 1]), ten_kinds()["music"]),
    )


def test_the_whole_remix_is_differentiable_also_with_silence():
    stems = _stems()
    stems[0] = 0
    stems.requires_grad_()
    remix(stems, _gains(), ten_kinds()["music"]).square().sum().backward()
    assert stems.grad.isfinite().all()


def test_downmix_sums_stems():
    assert torch.equal(downmix(torch.ones(3, 4, 2, 5)), torch.full((3, 2, 5), 4.0))


def test_three_gains_do_not_fit_four_stems():
    with pytest.raises(AudioError, match="3 gains do not fit 4 stems"):
        apply_gains(_stems(), torch.zeros(3))
