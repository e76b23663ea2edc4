import numpy as np
import pytest
import soundfile
import torch
from clarity.enhancer.nalr import NALR
from clarity.utils.audiogram import Audiogram
from clarity.utils.flac_encoder import read_flac_signal, save_flac_signal
from clarity.utils.signal_processing import resample as clarity_resample
from recipes.cad_icassp_2024.baseline.evaluate import apply_ha
from signals import ten_kinds
from tolerances import CHAIN

from cadenza_lib.chain import fitting
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.listeners import BISGAARD_THRESHOLDS_DB_HL, load_listeners, standard_audiogram
from cadenza_lib.data.tiny import tiny_listener

pytestmark = pytest.mark.exact


@pytest.mark.parametrize("name", BISGAARD_THRESHOLDS_DB_HL)
@pytest.mark.parametrize("sample_rate", [24000, 44100])
def test_filters_equal_pyclaritys_on_standard_audiograms(name, sample_rate):
    expected, _ = NALR(220, sample_rate).build(standard_audiogram(name))
    np.testing.assert_allclose(fitting.nalr_fir(standard_audiogram(name), sample_rate), expected, rtol=0, atol=CHAIN)


def test_filters_equal_pyclaritys_on_real_ears(cadenza_mini):
    enhancer = NALR(220, 44100)
    for listener in load_listeners(cadenza_mini / "metadata/listeners.train.json").values():
        firs = fitting.listener_firs(listener).numpy()
        for fir, audiogram in zip(firs, (listener.audiogram_left, listener.audiogram_right), strict=True):
            np.testing.assert_allclose(fir, enhancer.build(audiogram)[0], rtol=0, atol=CHAIN)


@pytest.mark.parametrize("levels", [np.zeros(8), np.full(8, -5.0), np.full(8, 4.0), np.arange(8) * 15.0])
def test_filters_equal_pyclaritys_at_the_edges_of_the_prescription(levels):
    audiogram = Audiogram(levels=levels)
    np.testing.assert_allclose(fitting.nalr_fir(audiogram), NALR(220, 44100).build(audiogram)[0], rtol=0, atol=CHAIN)


def test_the_filter_has_the_prescribed_gain_at_1_khz():
    audiogram = standard_audiogram("N3")
    response = np.abs(np.fft.rfft(fitting.nalr_fir(audiogram), 44100))
    # A Hamming window of 221 taps resolves 4 * 44100 / 221 = 800 Hz, so the filter smooths the prescription.
    assert 20 * np.log10(response[1000]) == pytest.approx(fitting.nalr_gain_db(audiogram)[2], abs=1.0)


@pytest.mark.parametrize("name", ["N1", "N4", "S3"])
def test_band_filters_add_up_to_nal_r_and_a_trim_moves_its_band_alone(name):
    audiogram = standard_audiogram(name)
    bands = fitting.nalr_band_firs(audiogram)
    np.testing.assert_allclose(bands.sum(0), NALR(220, 44100).build(audiogram)[0], rtol=0, atol=CHAIN)
    factors = np.array([1.0, 1.0, 1.0, 1.0, 0.5, 1.0])  # -6.02 dB at 4 kHz
    before, after = (np.abs(np.fft.rfft(fir, 44100)) for fir in (bands.sum(0), factors @ bands))
    change_db = 20 * np.log10(after / before)
    # Neighbours are 2 kHz away, more than the 800 Hz that the window resolves, and the tip of a triangle is rounded.
    assert change_db[4000] == pytest.approx(-6.02, abs=0.8)
    np.testing.assert_allclose(change_db[[250, 500, 1000, 8000, 16000]], 0, atol=0.1)


def test_band_filters_of_an_ear_without_loss_add_up_to_a_delay():
    bands = fitting.nalr_band_firs(Audiogram(levels=np.zeros(8)))
    np.testing.assert_allclose(
        bands.sum(0), NALR(220, 44100).build(Audiogram(levels=np.zeros(8)))[0], rtol=0, atol=CHAIN
    )


@pytest.mark.parametrize("kind", ten_kinds())
def test_amplification_equals_the_recipes(kind):
    listener, signal = tiny_listener(), ten_kinds()[kind]
    enhancer = NALR(220, 44100)
    audiograms = (listener.audiogram_left, listener.audiogram_right)
    expected = [
        apply_ha(enhancer, None, ear, audiogram) for ear, audiogram in zip(signal.numpy(), audiograms, strict=True)
    ]
    amplified = fitting.amplify(signal, fitting.listener_firs(listener))
    assert amplified.shape[-1] == signal.shape[-1] + 220
    np.testing.assert_allclose(amplified.numpy(), expected, rtol=0, atol=CHAIN)


@pytest.mark.parametrize("length", [1, 219, 220, 221, 779, 780, 1000, 1001, 1220, 3000])
def test_amplification_in_blocks_equals_one_convolution(length, monkeypatch):
    monkeypatch.setattr(fitting, "_BLOCK", 1000)
    signal, firs = torch.randn(3, 2, length).double(), fitting.listener_firs(tiny_listener())
    expected = [[np.convolve(*one) for one in zip(ears, firs, strict=True)] for ears in signal]
    np.testing.assert_allclose(fitting.amplify(signal, firs).numpy(), expected, rtol=0, atol=CHAIN)


@pytest.mark.parametrize("kind", ten_kinds())
def test_the_output_file_equals_the_recipes_file(kind, tmp_path):
    signal = 2 * ten_kinds()[kind]  # some of them clip
    save_flac_signal(signal.numpy().T, tmp_path / "theirs.flac", 44100, 32000, do_clip_signal=True)
    output = fitting.finish(signal)
    path = fitting.save_output(output, tmp_path / "ours")
    theirs, rate = read_flac_signal(tmp_path / "theirs.flac")
    ours, our_rate = read_flac_signal(path)
    assert rate == our_rate == 32000
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(output.signal.T, theirs)
    assert soundfile.info(path).subtype == "PCM_16"
    assert {file.name for file in tmp_path.iterdir()} == {"ours.flac", "theirs.flac"}  # above all no ours.txt


def test_the_share_of_clipped_samples_is_counted_at_each_ear():
    tone = torch.sin(torch.arange(44100, dtype=torch.float64) / 44100 * 2 * torch.pi * 100)
    output = fitting.finish(torch.stack([2 * tone, 0.5 * tone]))
    # |2 sin| exceeds 1 for two thirds of the time, counted in whole samples: a half wave has 160 of them.
    assert output.clipped_share == pytest.approx([2 / 3, 0.0], abs=1 / 160)


def test_the_level_is_applied_before_the_clip():
    tone = torch.sin(torch.arange(44100, dtype=torch.float64) / 44100 * 2 * torch.pi * 100).expand(2, -1)
    lowered = fitting.finish(2 * tone, output_level_db=-20 * np.log10(4))
    assert lowered.clipped_share.max() == 0
    np.testing.assert_allclose(lowered.signal, fitting.finish(tone / 2).signal, rtol=0, atol=1 / 32768)


def test_without_the_clip_nothing_is_limited_or_rounded(tmp_path):
    signal = 3 * ten_kinds()["music"]
    output = fitting.finish(signal, clip=False)
    expected = clarity_resample(signal.numpy().T, 44100, 32000).T
    np.testing.assert_array_equal(output.signal, expected)
    assert output.clipped_share.max() > 0
    path = fitting.save_output(output, tmp_path / "x")
    assert path.suffix == ".wav"
    np.testing.assert_allclose(soundfile.read(path)[0].T, expected, atol=1e-6)


def test_a_level_beyond_60_db_is_refused():
    with pytest.raises(ParameterError, match=r"output_level_db 90 must lie between -60 and 60 dB"):
        fitting.finish(torch.zeros(2, 44100), output_level_db=90)
