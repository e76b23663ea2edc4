import numpy as np
import pytest
import torch
from recipes.cad_icassp_2024.baseline import evaluate as recipe
from signals import ten_kinds
from tolerances import CHAIN

from cadenza_lib.audio.loudness import loudness_matching_gain
from cadenza_lib.chain import pipeline
from cadenza_lib.chain.fusion import fuse
from cadenza_lib.chain.pipeline import ChainSettings, remix
from cadenza_lib.chain.remix import MIXTURE_PLACES, apply_gains, downmix
from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import AudioError, ParameterError

GAINS_DB = {"vocals": 10, "drums": -6, "bass": 0, "other": -3}


def _stems() -> torch.Tensor:
    kinds = ten_kinds()
    return torch.stack([kinds["music"], kinds["white noise"], kinds["low tone"], kinds["half silent"]])


def _as_recipe(stems: torch.Tensor) -> dict[str, np.ndarray]:
    return {name: stem.numpy().T.copy() for name, stem in zip(STEMS, stems, strict=True)}


def _gains() -> torch.Tensor:
    return torch.tensor([GAINS_DB[stem] for stem in STEMS], dtype=torch.float64)


@pytest.mark.exact
def test_gains_equal_the_recipes_gains():
    expected = recipe.apply_gains(_as_recipe(_stems()), 44100, GAINS_DB)
    ours = apply_gains(_stems(), _gains())
    for name, stem in zip(STEMS, ours, strict=True):
        np.testing.assert_allclose(stem.numpy().T, expected[name], rtol=0, atol=CHAIN)


@pytest.mark.exact
@pytest.mark.parametrize("kind", ten_kinds())
def test_loudness_normalisation_equals_the_recipes(kind):
    signal, mixture = ten_kinds()[kind], ten_kinds()["music"]
    expected = recipe.level_normalisation(signal.numpy().T, mixture.numpy().T, 44100)
    ours = signal * loudness_matching_gain(signal, mixture, 44100)
    np.testing.assert_allclose(ours.numpy().T, expected, rtol=0, atol=CHAIN)


@pytest.mark.exact
def test_remix_equals_the_recipes_remix():
    mixture = ten_kinds()["pink noise"]
    expected = recipe.remix_stems(recipe.apply_gains(_as_recipe(_stems()), 44100, GAINS_DB), mixture.numpy().T, 44100)
    np.testing.assert_allclose(remix(_stems(), _gains(), mixture).numpy().T, expected, rtol=0, atol=CHAIN)


@pytest.mark.parametrize("mixture_into", MIXTURE_PLACES)
def test_remix_in_blocks_and_from_float32_stems_is_the_same(mixture_into, monkeypatch):
    stems, mixture = _stems().float(), ten_kinds()["pink noise"].float()
    whole = remix(
        stems.double(), _gains(), mixture.double(), ChainSettings(mixture_weight=0.3, mixture_into=mixture_into)
    )
    monkeypatch.setattr(pipeline, "_BLOCK", 10_007)
    assert torch.equal(
        remix(stems, _gains(), mixture, ChainSettings(mixture_weight=0.3, mixture_into=mixture_into)), whole
    )


def test_mixture_goes_into_the_stems_as_fusion_puts_it_there():
    mixture = ten_kinds()["pink noise"]
    fused = remix(fuse([_stems()], mixture, mixture_weight=0.3), _gains(), mixture)
    into_stems = remix(_stems(), _gains(), mixture, ChainSettings(mixture_weight=0.3))
    torch.testing.assert_close(into_stems, fused, rtol=0, atol=1e-12)


def test_remix_of_a_batch_is_that_of_each_item():
    stems, mixture = torch.stack([_stems(), _stems().flip(0)]), torch.stack([ten_kinds()["music"]] * 2)
    gains_db = torch.stack([_gains(), -_gains()])
    batch = remix(stems, gains_db, mixture, ChainSettings(mixture_weight=0.3))
    for item, *arguments in zip(batch, stems, gains_db, mixture, strict=True):
        expected = remix(*arguments, ChainSettings(mixture_weight=0.3))
        torch.testing.assert_close(item, expected, rtol=0, atol=1e-12)


def test_remix_of_what_does_not_fit_is_an_error_that_tells_why():
    mixture = ten_kinds()["music"]
    with pytest.raises(AudioError, match="do not fit a mixture"):
        remix(_stems()[..., 1:], _gains(), mixture)
    with pytest.raises(ParameterError, match="mixture_into 'ears' is unknown"):
        ChainSettings(mixture_into="ears")


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
