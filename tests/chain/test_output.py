"""The output stages, and the files that hold their output."""

import numpy as np
import pytest
import soundfile
import torch
from clarity.utils.flac_encoder import read_flac_signal, save_flac_signal
from clarity.utils.signal_processing import clip_signal
from clarity.utils.signal_processing import resample as clarity_resample
from signals import ten_kinds

from cadenza_lib.chain.output import OUTPUT_STAGES, Output, output_stage, play, save_output
from cadenza_lib.chain.pipeline import ChainSettings, at_output_rate, finish
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.tiny import tiny_listener

pytestmark = pytest.mark.exact


def played(signal: torch.Tensor, **settings) -> Output:
    return finish(at_output_rate(signal), tiny_listener(), ChainSettings(**settings))


@pytest.mark.parametrize("kind", ten_kinds())
def test_the_output_file_equals_the_recipes_file(kind, tmp_path):
    signal = 2 * ten_kinds()[kind]  # some of them clip
    save_flac_signal(signal.numpy().T, tmp_path / "theirs.flac", 44100, 32000, do_clip_signal=True)
    output = played(signal)
    path = save_output(output, tmp_path / "ours")
    theirs, rate = read_flac_signal(tmp_path / "theirs.flac")
    ours, our_rate = read_flac_signal(path)
    assert rate == our_rate == 32000
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(output.signal.T, theirs)
    assert soundfile.info(path).subtype == "PCM_16"
    assert {file.name for file in tmp_path.iterdir()} == {"ours.flac", "theirs.flac"}  # above all no ours.txt


def test_the_share_of_clipped_samples_is_counted_at_each_ear():
    tone = torch.sin(torch.arange(44100, dtype=torch.float64) / 44100 * 2 * torch.pi * 100)
    output = played(torch.stack([2 * tone, 0.5 * tone]))
    # |2 sin| exceeds 1 for two thirds of the time, counted in whole samples: a half wave has 160 of them.
    assert output.clipped_share == pytest.approx([2 / 3, 0.0], abs=1 / 160)


def test_the_level_is_applied_before_the_clip():
    tone = torch.sin(torch.arange(44100, dtype=torch.float64) / 44100 * 2 * torch.pi * 100).expand(2, -1)
    lowered = played(2 * tone, output_level_db=-20 * np.log10(4))
    assert lowered.clipped_share.max() == 0
    np.testing.assert_allclose(lowered.signal, played(tone / 2).signal, rtol=0, atol=1 / 32768)


def test_without_the_clip_nothing_is_limited_or_rounded(tmp_path):
    signal = 3 * ten_kinds()["music"]
    output = played(signal, output_stage="none")
    expected = clarity_resample(signal.numpy().T, 44100, 32000).T
    np.testing.assert_array_equal(output.signal, expected)
    assert output.clipped_share.max() > 0
    path = save_output(output, tmp_path / "x")
    assert path.suffix == ".wav"
    np.testing.assert_allclose(soundfile.read(path)[0].T, expected, atol=1e-6)


def test_a_level_beyond_60_db_is_refused():
    with pytest.raises(ParameterError, match=r"output_level_db 90 must lie between -60 and 60 dB"):
        ChainSettings(output_level_db=90)


def test_an_unknown_reference_is_refused():
    with pytest.raises(ParameterError, match="reference 'other' is unknown; use one of linear, same"):
        ChainSettings(reference="other")


@pytest.mark.parametrize("kind", ten_kinds())
def test_the_soft_clip_is_the_recipes(kind, tmp_path):
    signal = 2 * ten_kinds()[kind]
    expected, _ = clip_signal(signal.numpy(), soft_clip=True)
    limited = OUTPUT_STAGES["soft_clip"].limit(signal, tiny_listener()).numpy()
    np.testing.assert_allclose(limited, expected, rtol=0, atol=1e-15)  # two implementations of tanh
    save_flac_signal(signal.numpy().T, tmp_path / "x.flac", 44100, 32000, do_clip_signal=True, do_soft_clip=True)
    theirs, _ = read_flac_signal(tmp_path / "x.flac")
    ours = played(signal, output_stage="soft_clip").signal.T
    assert np.abs(ours - theirs).max() <= 1 / 32768  # truncation may fall on the other side of a step
    assert np.mean(ours != theirs) < 1e-4


@pytest.mark.parametrize("name", ["hard_clip", "soft_clip", "none"])
def test_a_stage_passes_gradients_of_what_it_does_not_limit(name):
    signal = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    OUTPUT_STAGES[name].limit(signal, tiny_listener()).sum().backward()
    slopes = {"hard_clip": [1, 1, 0], "soft_clip": 1 - np.tanh([0, 0.5, 2]) ** 2, "none": [1, 1, 1]}
    np.testing.assert_allclose(signal.grad, slopes[name], rtol=1e-12)


def test_a_16_bit_output_never_exceeds_full_scale_and_is_a_whole_number_of_steps():
    for stage in OUTPUT_STAGES.values():
        output = play(np.array([[-3.0, -1.0, 0.3, 1.0, 3.0]] * 2), 0.0, stage, tiny_listener())
        if output.is_16_bit:
            steps = output.signal * 32768
            assert steps.min() >= -32768
            assert steps.max() <= 32767
            np.testing.assert_array_equal(steps, np.round(steps))


def test_an_unknown_output_stage_is_refused():
    with pytest.raises(
        ParameterError,
        match="output_stage 'louder' is unknown; use one of hard_clip, soft_clip, limiter, limiter_linked,",
    ):
        output_stage("louder")
