"""The limiter keeps its promises on steps, bursts, tones and music; the compressor equals pyclarity's."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from clarity.enhancer.gha.gainrule_camfit import gainrule_camfit_compr, gainrule_camfit_linear
from clarity.enhancer.multiband_compressor import MultibandCompressor
from clarity.utils.audiogram import Audiogram, Listener
from signals import ten_kinds

from cadenza_lib.chain.dynamics import Compressor, Limiter, camfit
from cadenza_lib.chain.output import OUTPUT_STAGES, play
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.listeners import standard_audiogram
from cadenza_lib.data.tiny import tiny_listener

RATE = 32000
CEILING = 32767 / 32768
LOOK_AHEAD = 160  # samples: 5 ms
ROUNDING = 1e-12
PYCLARITY = 1e-7
"""The compressor against pyclarity's, of the peak. Its crossover multiplies out filters of order 8, whose poles are so
close to 1 at 354 Hz that their rounding is amplified: in extended precision, the lowest band of white noise differs by
2e-9 of the peak from pyclarity's, and by 1e-9 from ours. Of ten kinds of signals, a tone of 30 Hz differs most between
the two, by 3.4e-8; times three. 16 bits have steps of 3e-5."""
CENTRES = np.array([250, 500, 1000, 2000, 4000, 8000])
LISTENERS = {
    "asymmetric": tiny_listener(),
    "severe": Listener(standard_audiogram("N5"), standard_audiogram("S3"), id="severe"),
    "no loss": Listener(*2 * [Audiogram(np.zeros(2), np.array([250, 8000]))], id="no loss"),
}


def sounds() -> dict[str, torch.Tensor]:
    """Return what the limiter is tried with, `(ear, time)` at 32 kHz: ten kinds of signals, loud, and four more."""
    time_s = np.arange(RATE) / RATE
    step = np.where(time_s < 0.5, 0.1, 4.0)
    burst = 0.3 + 2.7 * (np.abs(time_s - 0.5) < 0.01)
    loud_from_the_start = np.where(time_s < 0.2, -3.0, 0.2)
    tone = 2 * np.sin(2 * np.pi * 440 * time_s)
    more = {"step": step, "burst": burst, "loud from the start": loud_from_the_start, "loud tone": tone}
    both_ears = {name: torch.from_numpy(np.stack([signal, 0.4 * signal])) for name, signal in more.items()}
    return {name: 6 * signal[:, :RATE] for name, signal in ten_kinds(1.1).items()} | both_ears


def limited(signal: torch.Tensor, **options) -> torch.Tensor:
    return Limiter(**options).limit(signal, tiny_listener())


@pytest.mark.parametrize("options", [{}, {"linked": True}, {"look_ahead_s": 0.0}, {"look_ahead_s": 0.0073}])
@pytest.mark.parametrize("kind", sounds())
def test_no_sample_exceeds_what_a_file_can_hold(kind, options):
    output = limited(sounds()[kind], **options)
    assert output.abs().max() <= CEILING * (1 + ROUNDING)


@pytest.mark.parametrize("stage", ["limiter", "limiter_linked"])
def test_the_file_of_a_limited_signal_never_clips(stage):
    signal = sounds()["step"]
    output = play(signal.numpy(), 0.0, OUTPUT_STAGES[stage], tiny_listener())
    exact = OUTPUT_STAGES[stage].limit(signal, tiny_listener()).numpy()
    assert np.abs(output.signal - exact).max() <= 1 / 32768  # rounding alone: where it clips, the hard clip is 3 away
    assert output.clipped_share == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", sounds())
def test_what_is_below_full_scale_passes_bit_for_bit(kind, linked):
    signal = sounds()[kind]
    quiet = signal * (0.9999 / signal.abs().max())
    assert torch.equal(limited(quiet, linked=linked), quiet)
    assert torch.equal(limited(quiet.float(), linked=linked), quiet.float())


def test_a_peak_lowers_the_gain_by_equal_decibels_in_the_look_ahead_and_not_before():
    signal = torch.full((2, RATE), 0.5, dtype=torch.float64)
    signal[:, 10000] = 2.0
    gain_db = 20 * np.log10((limited(signal) / signal)[0].numpy())
    full_db = 20 * np.log10(CEILING / 2)
    assert (gain_db[: 10000 - LOOK_AHEAD] == 0).all()
    ramp = full_db * np.arange(1, LOOK_AHEAD + 2) / (LOOK_AHEAD + 1)
    np.testing.assert_allclose(gain_db[10000 - LOOK_AHEAD : 10001], ramp, atol=1e-9)
    released = gain_db[10000 + LOOK_AHEAD + 1 :]
    np.testing.assert_allclose(released[6400:] / released[:-6400], np.exp(-1), rtol=1e-9)  # 200 ms
    assert released[0] < 0.95 * full_db  # the release begins at the peak


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", sounds())
def test_the_gain_depends_on_nothing_beyond_the_look_ahead(kind, linked):
    signal, start = sounds()[kind], 17000
    other = signal.clone()
    other[:, start:] = 5 * torch.from_numpy(np.random.default_rng(1).normal(size=(2, RATE - start)))
    before, after = limited(signal, linked=linked), limited(other, linked=linked)
    assert torch.equal(before[:, : start - LOOK_AHEAD], after[:, : start - LOOK_AHEAD])
    assert not torch.equal(before[:, start - LOOK_AHEAD :], after[:, start - LOOK_AHEAD :])


def test_a_steady_tone_stays_a_tone_at_full_scale():
    output = limited(sounds()["loud tone"])[0, RATE // 4 :].numpy()
    phase = 2 * np.pi * 440 * np.arange(RATE // 4, RATE) / RATE
    basis = np.stack([np.sin(phase), np.cos(phase)], 1)
    amplitudes, *_ = np.linalg.lstsq(basis, output, rcond=None)
    residual = output - basis @ amplitudes
    assert np.hypot(*amplitudes) == pytest.approx(CEILING, rel=0.01)  # the gain recovers by 0.5 % in half a period
    assert np.sqrt(np.mean(residual**2) / np.mean(output**2)) < 0.01  # a hard clip of 6 dB leaves 0.2


@pytest.mark.parametrize("kind", ["step", "burst", "music"])
def test_linked_ears_keep_their_difference_and_others_do_not(kind):
    signal = sounds()[kind]
    linked = limited(signal, linked=True)
    np.testing.assert_allclose(linked[0] * signal[1], linked[1] * signal[0], rtol=1e-15, atol=0)
    louder = linked.abs().amax(0) - limited(signal).abs().amax(0)
    assert louder.max() <= ROUNDING  # the other ear never lets more through
    assert not torch.equal(linked, limited(signal))


@pytest.mark.parametrize("name", ["limiter", "limiter_linked", "compressor", "compressor_with_gain"])
def test_gradients_take_the_gain_as_it_is(name):
    signal = (4 * ten_kinds(0.1)["music"]).requires_grad_()
    output = OUTPUT_STAGES[name].limit(signal, tiny_listener())
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=output.shape))
    (weights * output).sum().backward()
    # Euler: a map that is linear, once the gains are fixed, is its derivative times its argument.
    assert (signal.grad * signal).sum().item() == pytest.approx((weights * output).sum().item(), rel=1e-9)


@pytest.mark.parametrize("with_gain", [False, True])
@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("kind", ["white noise", "music"])
def test_the_compressor_is_pyclaritys(kind, listener, with_gain):
    signal = 5 * ten_kinds(0.3)[kind]
    ratios, gains_db = camfit(LISTENERS[listener], 70.0)
    theirs = MultibandCompressor(CENTRES[:-1] * np.sqrt(2), RATE)
    expected = []
    for ear, samples in enumerate(signal.numpy()):
        theirs.set_compressors(  # as the configuration of the Cadenza 2 baseline has it
            attack=[11, 11, 14, 13, 11, 11],
            release=[80, 80, 80, 80, 100, 100],
            threshold=-30,
            ratio=ratios[ear],
            makeup_gain=gains_db[ear] if with_gain else 0,
        )
        expected.append(theirs(samples)[0])
    ours = Compressor(with_gain=with_gain).limit(signal, LISTENERS[listener])
    np.testing.assert_allclose(ours, expected, rtol=0, atol=PYCLARITY * np.abs(expected).max())


@pytest.mark.parametrize("listener", LISTENERS)
def test_ratios_and_gains_are_those_of_pyclaritys_table(listener):
    person = LISTENERS[listener]
    edges = np.array([1e-8, *CENTRES[:-1] * np.sqrt(2), 1e7])
    bands = {"frequencies": CENTRES, "edge_frequencies": edges, "levels": np.arange(81)}
    table, _, _ = gainrule_camfit_compr(person.audiogram_left, person.audiogram_right, bands)
    ratios, gains_db = camfit(person, 70.0)
    np.testing.assert_allclose(gains_db, table[70].T, atol=1e-12)
    slopes = np.diff(table[:10], axis=0)  # of soft sounds, whose gain and output nothing bounds
    np.testing.assert_allclose(slopes, np.broadcast_to((1 / ratios - 1).T, slopes.shape), atol=1e-9)
    assert (ratios >= 1).all()


def test_compression_turns_around_speech_at_65_db_spl():
    loss = Audiogram(np.full(2, 30.0), np.array([250, 8000]))
    ratios, gains_db = camfit(Listener(loss, loss), 50.0)
    bands = {"frequencies": CENTRES, "levels": np.array([50.0])}
    linear_db = gainrule_camfit_linear(loss, loss, bands)[0][0].T
    crossing_db_spl = 50 + (gains_db - linear_db) / (1 - 1 / ratios)  # where both rules have the same gain
    total_db_spl = 10 * np.log10((10 ** (crossing_db_spl / 10)).sum(-1))
    np.testing.assert_allclose(total_db_spl, 65, atol=0.1)  # the third octaves of speech sum to 65.03


def test_what_is_below_the_threshold_keeps_its_spectrum():
    impulse = 0.01 * torch.eye(1, 8192, dtype=torch.float64).expand(2, -1)
    quiet = Compressor().limit(impulse, tiny_listener())
    np.testing.assert_allclose(torch.fft.rfft(quiet).abs(), 0.01, rtol=1e-6)  # the crossovers sum to an all-pass


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        (Limiter, {"look_ahead_s": -0.001}, r"look_ahead_s -0\.001 must lie between 0 and 0\.1 s"),
        (Limiter, {"look_ahead_s": float("nan")}, "look_ahead_s nan must lie between 0 and 0.1 s"),
        (Limiter, {"look_ahead_s": 5.0}, r"look_ahead_s 5\.0 must lie between"),
        (Limiter, {"release_s": 0.0}, r"release_s 0\.0 must lie above 0 and be at most 10 s"),
        (Limiter, {"release_s": 200.0}, r"release_s 200\.0 must lie above 0 and be at most 10 s"),
        (Compressor, {"threshold_db": 3.0}, r"threshold_db 3\.0 must lie between -100 and 0 dB re full scale"),
        (Compressor, {"threshold_db": float("nan")}, "threshold_db nan must lie between -100 and 0 dB"),
    ],
)
def test_a_parameter_out_of_bounds_is_refused(stage, options, message):
    with pytest.raises(ParameterError, match=message):
        stage(**options)


def test_the_compressor_loads_no_torchaudio_and_leaves_logging_as_it_is():
    code = (
        "import logging, sys, torch\n"
        "from cadenza_lib.chain import OUTPUT_STAGES\n"
        "from cadenza_lib.data.tiny import tiny_listener\n"
        "OUTPUT_STAGES['compressor'].limit(torch.ones(2, 99), tiny_listener())\n"
        "print('torchaudio' in sys.modules, logging.root.handlers, logging.root.level == logging.WARNING)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False [] True\n"
    assert done.stderr == ""
