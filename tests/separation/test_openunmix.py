import math
import sys

import pytest
import torch
from official import official_openunmix
from safetensors.torch import load_file

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import AudioError, ParameterError
from cadenza_lib.core.paths import DATA
from cadenza_lib.separation import openunmix
from cadenza_lib.separation.openunmix import OpenUnmix

CHECKPOINT = DATA / "demo_openunmix.safetensors"
OFFICIAL_EXTRAS = {"sample_rate", "stft.window", "istft.window"}  # in the separator's state, but no weights


@pytest.fixture(scope="module")
def official():
    return official_openunmix()


def _randomise(network: torch.nn.Module) -> None:
    """Make every parameter and running statistic count: fresh ones are zeros and ones in places."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_mean.copy_(0.1 * torch.randn(norm.running_mean.shape, generator=generator))
            norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=generator))


def _official_separator(official, hidden_size: int, niter: int) -> torch.nn.Module:
    bins = openunmix.band_limit_bins(16000.0, 4096)
    targets = {stem: official.OpenUnmix(2049, 2, hidden_size, max_bin=bins) for stem in STEMS}
    separator = official.Separator(targets, niter=niter).eval()
    _randomise(separator.target_models)
    return separator


def _mixture(duration_s: float, batch: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(batch, 2, round(duration_s * 44100), generator=torch.Generator().manual_seed(1))


def test_the_official_code_is_read_without_torchaudio(official):
    assert official.OpenUnmix.__module__ == "openunmix.model"
    assert not {"torchaudio", "openunmix", "openunmix.model"} & set(sys.modules)


# 7.05 s are 304 frames, so that the Wiener filter starts anew within the signal.
@pytest.mark.exact
@pytest.mark.parametrize(("niter", "duration_s"), [(0, 1.0), (0, 1.2345), (1, 7.05)])
def test_the_separation_is_that_of_the_official_code(official, niter, duration_s):
    separator = _official_separator(official, hidden_size=16, niter=niter)
    ours = OpenUnmix(STEMS, hidden_size=16, niter=niter).eval()
    missing, extra = ours.load_state_dict(separator.state_dict(), strict=False)
    assert missing == []
    assert set(extra) == OFFICIAL_EXTRAS
    mixture = _mixture(duration_s, batch=2)
    with torch.inference_mode():
        expected, estimate = separator(mixture), ours(mixture)
    assert estimate.shape == (2, 4, 2, mixture.shape[-1])
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(estimate, expected, rtol=0, atol=1e-6)  # float32, and sgn for cos and sin of the phase


@pytest.mark.exact
def test_a_target_network_of_full_size_takes_the_official_weights(official):
    bins = openunmix.band_limit_bins(16000.0, 4096)
    theirs = official.OpenUnmix(2049, 2, 512, max_bin=bins).eval()
    _randomise(theirs)
    ours = OpenUnmix(["vocals"]).target_models["vocals"].eval()
    ours.load_state_dict(theirs.state_dict())  # strictly: same names, same shapes
    magnitude = torch.rand(1, 2, 2049, 5)
    with torch.inference_mode():
        torch.testing.assert_close(ours(magnitude), theirs(magnitude), rtol=0, atol=1e-5)


def test_training_mode_is_that_of_the_official_code(official):
    theirs = official.OpenUnmix(257, 2, 8, max_bin=100)
    ours = openunmix.TargetNetwork(257, 100, 8)
    ours.load_state_dict(theirs.state_dict())
    magnitude = torch.rand(3, 2, 257, 11)
    results = []
    for network in (theirs, ours):
        torch.manual_seed(0)  # of the dropout
        results.append(network.train()(magnitude))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())  # running statistics


def test_networks_that_pass_everything_return_the_mixture_for_every_stem():
    network = OpenUnmix(STEMS, hidden_size=4).eval()
    for target in network.target_models.values():
        target.output_scale.data.zero_()  # leaves the mean, 1, as the gain of every bin
    mixture = _mixture(1.0)
    with torch.inference_mode():
        estimate = network(mixture)
    torch.testing.assert_close(estimate, mixture[:, None].expand(-1, 4, -1, -1), rtol=0, atol=1e-6)


def test_silence_stays_silent_and_has_finite_gradients():
    network = OpenUnmix(STEMS, hidden_size=4, n_fft=512, hop_length=128)
    estimate = network(torch.zeros(2, 2, 4000))
    assert not estimate.any()
    estimate.abs().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_the_wiener_filter_makes_the_stems_sum_to_the_mixture():
    network = OpenUnmix(STEMS, hidden_size=4, niter=1).eval()
    _randomise(network)
    mixture = _mixture(0.5)
    with torch.inference_mode():
        filtered = network(mixture).sum(1)
        network.niter = 0
        plain = network(mixture).sum(1)
    # The filter keeps a regularising noise for itself; the residual lies 60 dB below the mixture.
    assert (filtered - mixture).square().mean() < 1e-6 * mixture.square().mean()
    assert (plain - mixture).square().mean() > 1e-3 * mixture.square().mean()


def test_the_band_limit_is_the_official_one():
    frequency = torch.linspace(0, 22050, 2049, dtype=torch.float64)
    for bandwidth_hz in (1000.0, 16000.0, 20000.0):
        assert openunmix.band_limit_bins(bandwidth_hz, 4096) == int((frequency <= bandwidth_hz).sum())
    assert openunmix.band_limit_bins(30000.0, 4096) == 2049


def test_standardised_input_has_zero_mean_and_unit_deviation():
    network = OpenUnmix(["vocals"], hidden_size=4, n_fft=512, hop_length=128)
    mixtures = [_mixture(1.0)[0], 3 * _mixture(0.5)[0]]
    network.standardise_input(mixtures)
    magnitude = torch.cat([network._stft(mixture[None])[0].abs().mean(0) for mixture in mixtures], dim=-1)
    target = network.target_models["vocals"]
    bins = len(target.input_mean)
    heard = (magnitude[:bins] + target.input_mean[:, None]) * target.input_scale[:, None]
    torch.testing.assert_close(heard.mean(-1), torch.zeros(bins), rtol=0, atol=1e-4)
    torch.testing.assert_close(heard.std(-1, correction=0), torch.ones(bins), rtol=0, atol=1e-4)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_an_empty_bin_is_not_blown_up():
    network = OpenUnmix(["vocals"], hidden_size=4, n_fft=512, hop_length=128)
    tone = torch.sin(torch.arange(44100) * 2 * math.pi * 1000 / 44100).expand(2, -1) * torch.linspace(0, 1, 44100)
    network.standardise_input([tone])
    scale = network.target_models["vocals"].input_scale
    assert scale.isfinite().all()
    assert scale.max() / scale.min() <= 1e4 * (1 + 1e-6)


def test_a_signal_of_half_a_window_is_refused():
    with pytest.raises(AudioError, match="2048 samples is too short for Open-Unmix; give more than 2048"):
        OpenUnmix(STEMS, hidden_size=4)(torch.randn(1, 2, 2048))


def test_a_negative_number_of_iterations_is_refused():
    with pytest.raises(ParameterError, match="niter is -1; it must be 0"):
        OpenUnmix(STEMS, hidden_size=4, niter=-1)


def test_the_demo_checkpoint_is_small_and_of_half_precision():
    assert CHECKPOINT.stat().st_size <= 3e6
    floating = [value for value in load_file(CHECKPOINT).values() if value.is_floating_point()]
    assert {value.dtype for value in floating} == {torch.float16}
