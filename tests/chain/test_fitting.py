import numpy as np
import pytest
import torch
from clarity.enhancer.gha.gainrule_camfit import gainrule_camfit_linear
from clarity.enhancer.nalr import NALR
from clarity.utils.audiogram import Audiogram
from recipes.cad_icassp_2024.baseline.evaluate import apply_ha
from signals import ten_kinds
from tolerances import CHAIN

from cadenza_lib.chain import fitting
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.listeners import BISGAARD_THRESHOLDS_DB_HL, Listener, load_listeners, standard_audiogram
from cadenza_lib.data.tiny import tiny_listener

pytestmark = pytest.mark.exact


NAL_R = fitting.PRESCRIPTIONS["nal_r"]


def one_ear(audiogram: Audiogram) -> Listener:
    return Listener(audiogram, audiogram, id="one ear twice")


@pytest.mark.parametrize("name", BISGAARD_THRESHOLDS_DB_HL)
def test_filters_equal_pyclaritys_on_standard_audiograms(name):
    expected, _ = NALR(220, 44100).build(standard_audiogram(name))
    firs = NAL_R.firs(one_ear(standard_audiogram(name)))
    np.testing.assert_allclose(firs, [expected, expected], rtol=0, atol=CHAIN)


def test_filters_equal_pyclaritys_on_real_ears(cadenza_mini):
    enhancer = NALR(220, 44100)
    for listener in load_listeners(cadenza_mini / "metadata/listeners.train.json").values():
        firs = NAL_R.firs(listener).numpy()
        for fir, audiogram in zip(firs, (listener.audiogram_left, listener.audiogram_right), strict=True):
            np.testing.assert_allclose(fir, enhancer.build(audiogram)[0], rtol=0, atol=CHAIN)


@pytest.mark.parametrize("levels", [np.zeros(8), np.full(8, -5.0), np.full(8, 4.0), np.arange(8) * 15.0])
def test_filters_equal_pyclaritys_at_the_edges_of_the_prescription(levels):
    audiogram = Audiogram(levels=levels)
    expected, _ = NALR(220, 44100).build(audiogram)
    np.testing.assert_allclose(NAL_R.firs(one_ear(audiogram))[0], expected, rtol=0, atol=CHAIN)


def test_the_filter_has_the_prescribed_gain_at_1_khz():
    audiogram = standard_audiogram("N3")
    response = np.abs(np.fft.rfft(NAL_R.firs(one_ear(audiogram))[0], 44100))
    # A Hamming window of 221 taps resolves 4 * 44100 / 221 = 800 Hz, so the filter smooths the prescription.
    assert 20 * np.log10(response[1000]) == pytest.approx(NAL_R.gain_db(audiogram)[2], abs=1.0)


@pytest.mark.parametrize("name", ["N1", "N4", "S3"])
def test_band_filters_add_up_to_nal_r_and_a_trim_moves_its_band_alone(name):
    audiogram = standard_audiogram(name)
    bands = NAL_R.band_firs(one_ear(audiogram)).numpy()[:, 0]
    np.testing.assert_allclose(bands.sum(0), NALR(220, 44100).build(audiogram)[0], rtol=0, atol=CHAIN)
    factors = np.array([1.0, 1.0, 1.0, 1.0, 0.5, 1.0])  # -6.02 dB at 4 kHz
    before, after = (np.abs(np.fft.rfft(fir, 44100)) for fir in (bands.sum(0), factors @ bands))
    change_db = 20 * np.log10(after / before)
    # Neighbours are 2 kHz away, more than the 800 Hz that the window resolves, and the tip of a triangle is rounded.
    assert change_db[4000] == pytest.approx(-6.02, abs=0.8)
    np.testing.assert_allclose(change_db[[250, 500, 1000, 8000, 16000]], 0, atol=0.1)


def test_band_filters_of_an_ear_without_loss_add_up_to_a_delay():
    bands = NAL_R.band_firs(one_ear(Audiogram(levels=np.zeros(8)))).numpy()[:, 0]
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
    amplified = NAL_R.amplify(signal, listener)
    assert amplified.shape[-1] == signal.shape[-1] + 220
    np.testing.assert_allclose(amplified.numpy(), expected, rtol=0, atol=CHAIN)


@pytest.mark.parametrize("length", [1, 219, 220, 221, 779, 780, 1000, 1001, 1220, 3000])
def test_amplification_in_blocks_equals_one_convolution(length, monkeypatch):
    monkeypatch.setattr(fitting, "_BLOCK", 1000)
    signal, firs = torch.randn(3, 2, length).double(), NAL_R.firs(tiny_listener())
    expected = [[np.convolve(*one) for one in zip(ears, firs, strict=True)] for ears in signal]
    np.testing.assert_allclose(fitting.filter_ears(signal, firs).numpy(), expected, rtol=0, atol=CHAIN)


@pytest.mark.parametrize("left", BISGAARD_THRESHOLDS_DB_HL)
def test_linear_camfit_has_the_gains_of_pyclaritys_gain_rule(left):
    camfit = fitting.PRESCRIPTIONS["camfit_linear"]
    ears = standard_audiogram(left), standard_audiogram("N2")
    model = {"frequencies": np.array(camfit.frequencies), "levels": np.array([[50.0]])}
    *_, expected = gainrule_camfit_linear(*ears, model)
    np.testing.assert_allclose(camfit.gains_db(Listener(*ears, id="x")), expected.T, rtol=0, atol=1e-12)


def test_an_ear_without_loss_gets_no_gain_and_no_prescription_gives_nobody_any():
    normal, deaf = one_ear(Audiogram(levels=np.zeros(8))), one_ear(standard_audiogram("N7"))
    delay = np.eye(221)[110]
    cases = [(prescription, normal) for prescription in fitting.PRESCRIPTIONS.values()]
    for prescription, listener in [*cases, (fitting.PRESCRIPTIONS["none"], deaf)]:
        np.testing.assert_array_equal(prescription.firs(listener), [delay, delay])


@pytest.mark.parametrize("name", ["nal_r", "camfit_linear"])
def test_the_filter_has_the_prescribed_gains_where_they_are_far_enough_apart(name):
    prescription, audiogram = fitting.PRESCRIPTIONS[name], standard_audiogram("N4")
    response = np.abs(np.fft.rfft(prescription.firs(one_ear(audiogram))[0], 44100))
    for frequency, gain_db in zip(prescription.frequencies, prescription.gain_db(audiogram), strict=True):
        if frequency >= 1000:  # the window resolves 800 Hz
            assert 20 * np.log10(response[round(frequency)]) == pytest.approx(gain_db, abs=1.5)


def test_an_unknown_prescription_is_refused_and_so_is_one_that_is_not_linear(monkeypatch):
    with pytest.raises(ParameterError, match="prescription 'dsl' is unknown; use one of nal_r, camfit_linear, none"):
        fitting.prescription("dsl")

    class Squarer:
        name = "squarer"

        def amplify(self, signal, _listener):
            return signal**2

    monkeypatch.setitem(fitting.PRESCRIPTIONS, "squarer", Squarer())
    with pytest.raises(ParameterError, match="prescription 'squarer' is not linear, which x must be; use one of nal_r"):
        fitting.linear_prescription("squarer", "x")
