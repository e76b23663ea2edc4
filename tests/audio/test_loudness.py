import numpy as np
import pyloudnorm
import pytest
import torch
from signals import ten_kinds
from tolerances import LOUDNESS_LU

from cadenza_lib.audio.loudness import (
    block_gram,
    convolve,
    gated_loudness,
    integrated_loudness,
    loudness_matching_gain,
    matching_gain,
)
from cadenza_lib.core.errors import AudioError

pytestmark = pytest.mark.exact


@pytest.mark.parametrize("kind", ten_kinds())
def test_loudness_equals_pyloudnorm(kind):
    signal = ten_kinds()[kind]
    expected = pyloudnorm.Meter(44100).integrated_loudness(signal.numpy().T)
    assert float(integrated_loudness(signal, 44100)) == pytest.approx(expected, abs=LOUDNESS_LU)


@pytest.mark.parametrize("kind", ten_kinds())
def test_loudness_that_can_be_differentiated_equals_pyloudnorm_too(kind):
    signal = ten_kinds()[kind]
    expected = pyloudnorm.Meter(44100).integrated_loudness(signal.numpy().T)
    measured = integrated_loudness(signal.requires_grad_(), 44100).detach()
    assert float(measured) == pytest.approx(expected, abs=LOUDNESS_LU)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_loudness_of_one_to_five_channels_as_they_lie_in_a_file_equals_pyloudnorm(channels):
    signal = np.random.default_rng(channels).normal(size=(44100, channels)) * np.linspace(0.05, 0.2, channels)
    expected = pyloudnorm.Meter(44100).integrated_loudness(signal)
    measured = integrated_loudness(torch.from_numpy(signal).T, 44100)
    assert float(measured) == pytest.approx(expected, abs=LOUDNESS_LU)


def test_matching_gain_of_silence_is_that_of_80_dB_below_full_scale():
    assert float(matching_gain(torch.tensor(-torch.inf), torch.tensor(-60.0))) == pytest.approx(10.0, rel=1e-6)


@pytest.mark.parametrize("sample_rate", [16000, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("extra", [1, 4409, 40000])
def test_loudness_equals_pyloudnorm_at_every_rate_and_length(sample_rate, extra):
    signal = np.random.default_rng(extra).normal(size=(int(0.4 * sample_rate) + extra, 2)) * 0.1
    expected = pyloudnorm.Meter(sample_rate).integrated_loudness(signal)
    measured = integrated_loudness(torch.from_numpy(signal.T), sample_rate)
    assert float(measured) == pytest.approx(expected, abs=LOUDNESS_LU)


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.2, 0.5, 0.3), (1.0, -0.9, 2.0), (0.0, 0.0, 0.0)])
def test_loudness_of_a_weighted_sum_follows_from_inner_products_gates_included(weights):
    kinds = ten_kinds()
    signals = torch.stack([kinds["half silent"], kinds["fading"], kinds["music"]])  # whose blocks are gated
    weights = torch.tensor(weights, dtype=torch.float64)
    expected = pyloudnorm.Meter(44100).integrated_loudness(torch.einsum("n,nct->ct", weights, signals).numpy().T)
    power = torch.einsum("n,bnm,m->b", weights, block_gram(signals, 44100), weights)
    assert float(gated_loudness(power)) == pytest.approx(expected, abs=LOUDNESS_LU)


def test_each_signal_of_a_batch_has_its_own_loudness():
    signals = torch.stack(list(ten_kinds().values()))
    together = integrated_loudness(signals, 44100)
    alone = torch.stack([integrated_loudness(signal, 44100) for signal in signals])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("kind", ten_kinds())
def test_gradient_is_finite_and_that_of_a_level(kind):
    signal = ten_kinds()[kind].requires_grad_()
    integrated_loudness(signal, 44100).backward()
    assert signal.grad.isfinite().all()
    # Scaling by (1 + e) adds 20 log10(1 + e) dB, so the derivative along the signal itself is 20 / ln 10.
    assert float((signal * signal.grad).sum().detach()) == pytest.approx(20 / np.log(10), rel=1e-9)


def test_silence_has_no_loudness_and_a_zero_gradient():
    silence = torch.zeros(2, 44100, requires_grad=True)
    loudness = integrated_loudness(silence, 44100)
    assert loudness == -torch.inf
    loudness_matching_gain(silence, torch.ones(2, 44100), 44100).sum().backward()
    assert (silence.grad == 0).all()


def test_matching_gain_brings_a_signal_to_the_loudness_of_another():
    kinds = ten_kinds()
    quiet, loud = kinds["pink noise"], kinds["music"]
    matched = quiet * loudness_matching_gain(quiet, loud, 44100)
    assert float(integrated_loudness(matched, 44100)) == pytest.approx(
        float(integrated_loudness(loud, 44100)), abs=1e-9
    )


def test_shorter_than_a_gating_block_is_refused():
    with pytest.raises(AudioError, match=r"17639 samples \(0\.400 s\).*at least 0\.4 s"):
        integrated_loudness(torch.ones(2, 17639), 44100)


def test_six_channels_are_refused():
    with pytest.raises(AudioError, match="at most 5 channels, not 6"):
        integrated_loudness(torch.ones(6, 44100), 44100)


@pytest.mark.parametrize("length", [1, 2, 5, 999, 1000, 4096])
def test_fft_convolution_equals_the_direct_one(length):
    generator = np.random.default_rng(length)
    signal, response = generator.normal(size=length), generator.normal(size=221)
    expected = np.convolve(signal, response)
    measured = convolve(torch.from_numpy(signal), torch.from_numpy(response))
    np.testing.assert_allclose(measured.numpy(), expected, rtol=0, atol=1e-12)
