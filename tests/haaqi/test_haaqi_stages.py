"""The stages of our HAAQI, each against pyclarity's stage, scipy or numpy.

Stages in float64 differ by rounding, a few 2^-53 times the number of terms. Filters, whose output is float32, may
differ by 3e-7 of the largest value: 2^-24 of storage, and 8e-8 by which pyclarity's filters are off (`HAAQI_PYCLARITY`)
in envelope, motion and, through the compression, gain; sums of squares by 1e-6.
"""

import numpy as np
import pytest
from clarity.evaluator.haspi import eb
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy import signal as dsp

from cadenza_lib.haaqi import alignment, ear, features, kernels, noise
from cadenza_lib.haaqi.correlation import SEARCH, correlations
from cadenza_lib.haaqi.kernels import HOP, LANES
from cadenza_lib.haaqi.simd import exp2, load, log2, store

LOW = slice(0, LANES)  # 80 Hz to 360 Hz
LOSS = np.array([20.0, 25, 35, 60, 90, 100])


def rows(samples, seed=0):
    """Eight rows of low-pass noise, float32."""
    noise = np.random.default_rng(seed).standard_normal((LANES, samples))
    return dsp.lfilter([1.0], [1.0, -0.9], noise).astype(np.float32)


def middle_ear_signal(samples=12000):
    return ear.middle_ear(0.1 * np.random.default_rng(0).standard_normal(samples))


# Vectors.


@njit
def _logarithm_and_power(x, logarithm, power):
    for n in range(0, len(x), 8):
        store(logarithm, n, log2(load(x, n, 8)))
        store(power, n, exp2(load(x, n, 8)))


@pytest.mark.exact
def test_vector_log2_and_exp2_are_good_to_rounding():
    x = np.concatenate((np.geomspace(1e-300, 1e300, 4000), np.linspace(0.7, 1.5, 4000)))
    logarithm, power = np.empty_like(x), np.empty_like(x)
    _logarithm_and_power(x, logarithm, power)
    # Long double, because numpy's own last digits depend on the CPU. Ours are good to four units in the last place.
    np.testing.assert_allclose(logarithm, np.log2(x.astype(np.longdouble)), rtol=1e-15, atol=4e-15)
    x = np.linspace(-900, 900, 8000)
    _logarithm_and_power(x, logarithm, power)
    np.testing.assert_allclose(power, np.exp2(x.astype(np.longdouble)), rtol=1e-15)


# Ear.


def test_centre_frequencies_and_loss_equal_pyclarity():
    centres = eb.center_frequency(ear.BANDS)
    np.testing.assert_allclose(ear.centre_frequencies(), centres, rtol=1e-15)
    for levels in (LOSS, np.zeros(6), np.full(6, 100.0), np.full(6, -10.0)):
        ohc, bandwidth, knee, ratio, ihc = eb.loss_parameters(levels, centres)
        ours = ear.Ear.from_levels(levels)
        for found, expected in (
            (ours.ohc_db, ohc), (ours.bandwidth, bandwidth), (ours.knee_db_spl, knee), (ours.ratio, ratio),
            (ours.ihc_db, ihc),
        ):  # fmt: skip
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("rate", [16000, 22050, 32000, 44100, 48000, 96000])
def test_resampling_equals_pyclarity(rate):
    x = np.random.default_rng(0).standard_normal(3000)
    np.testing.assert_allclose(ear.resample(x, rate), eb.resample_24khz(x, rate)[0], rtol=1e-12, atol=1e-13)


def test_middle_ear_equals_pyclarity():
    x = np.random.default_rng(0).standard_normal(3000)
    np.testing.assert_allclose(ear.middle_ear(x), eb.middle_ear(x, 24000), rtol=0, atol=1e-12)


@pytest.mark.exact
@pytest.mark.parametrize("first", [0, 8, 16, 24])
def test_filter_bank_and_compression_equal_pyclarity(first):
    x, level1, bands = middle_ear_signal(), 85.0, slice(first, first + LANES)
    model = ear.Ear.from_levels(LOSS)
    wide = eb.loss_parameters(np.full(6, 100), ear.centre_frequencies())[1]
    control_rms = ear.control_rms(x, bands)
    ours = ear.filter_bands(x, model, level1, bands, control_rms, np.empty((2, LANES, len(x)), np.float32))
    for lane, band in enumerate(range(first, first + LANES)):
        centre = ear.centre_frequencies()[band]
        control, *_ = eb.gammatone_basilar_membrane(x, wide[band], x, wide[band], 24000, centre)
        bandwidth = eb.bandwidth_adjust(control, model.bandwidth[band], wide[band], level1)
        envelope, motion, *_ = eb.gammatone_basilar_membrane(x, bandwidth, x, bandwidth, 24000, centre)
        compressed, moved = eb.env_compress_basilar_membrane(
            envelope, motion, control, model.ohc_db[band], model.knee_db_spl[band], model.ratio[band], 24000, level1
        )
        largest = np.max(compressed)
        assert control_rms[lane] == pytest.approx(np.sqrt(np.mean(control**2)), rel=1e-6)
        np.testing.assert_allclose(ours.envelope[lane], compressed, rtol=0, atol=3e-7 * largest)
        np.testing.assert_allclose(ours.motion[lane], moved, rtol=0, atol=3e-7 * largest)
        assert ours.energy[0, lane] == pytest.approx(np.sum(compressed**2), rel=1e-6)
        assert ours.energy[1, lane] == pytest.approx(np.sum(moved**2), rel=1e-6)


def test_group_delays_equal_pyclarity():
    bandwidth = np.linspace(1.0, 4.0, ear.BANDS)
    impulses = np.zeros((ear.BANDS, 1000))
    impulses[:, 0] = 1.0
    compensated = eb.group_delay_compensate(impulses, bandwidth, ear.centre_frequencies(), 24000)
    np.testing.assert_array_equal(ear.group_delays(bandwidth), compensated.argmax(axis=1))


@pytest.mark.parametrize("samples", [500, 960, 2401])
@pytest.mark.parametrize("latest", [0, 130])
def test_adaptation_and_smoothing_equal_pyclarity(samples, latest):
    level1, model = 90.0, ear.Ear.from_levels(LOSS)
    envelope, motion = np.abs(rows(samples)) * np.float32(0.01), rows(samples, 1) * np.float32(0.01)
    late = np.linspace(latest, 0, LANES).astype(np.int64)
    neural = motion.copy()
    sums = ear.to_neural(envelope, neural, model, level1, LOW, late, features.envelope_window())
    smooth = features.smooth_envelope(*sums, samples)
    adapted = np.zeros((LANES, samples))
    for lane in range(LANES):
        sl, moved = eb.envelope_sl(envelope[lane].astype(float), motion[lane].astype(float), model.ihc_db[lane], level1)
        out, moved = eb.inner_hair_cell_adaptation(sl, moved, 2.0, 24000.0)
        adapted[lane, late[lane] :] = out[: samples - late[lane]]
        np.testing.assert_allclose(neural[lane, : samples - late[lane]], moved[: samples - late[lane]], rtol=1e-6)
    np.testing.assert_allclose(smooth, eb.env_smooth(adapted, 8, 24000), rtol=1e-12, atol=1e-12)


# Alignment.


@pytest.mark.parametrize("delays", [[5, -7, 0, 40, -40, 1, -1, 100], [500, -500, 499, 0, 600, -600, 3, 2]])
def test_shifting_rows_fills_with_zeros(delays):
    before = rows(500)
    after = before.copy()
    kernels.shift_rows(after, np.array(delays))
    for row, original, delay in zip(after, before, delays, strict=True):
        expected = np.concatenate((original[max(delay, 0) :], np.zeros(max(delay, 0))))
        expected = np.concatenate((np.zeros(max(-delay, 0)), expected))[:500]
        np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("samples", [384, 2399, 2400, 2401, 3392, 3393, 9000, 17000])
def test_block_correlation_equals_scipy(samples):
    x_env, y_env, x_bm, y_bm = np.abs(rows(samples)), np.abs(rows(samples, 1)), rows(samples, 2), rows(samples, 3)
    found = correlations(x_env, y_env, x_bm, y_bm)
    for lane in (0, 7):
        for kind, x, y in ((found.real, x_env, y_env), (found.imag, x_bm, y_bm)):
            x64, y64 = x[lane].astype(float), y[lane].astype(float)
            full = np.pad(dsp.correlate(x64, y64, "full"), SEARCH)[samples - 1 : samples + 2 * SEARCH]
            scale = np.sqrt(np.sum(x64**2) * np.sum(y64**2))
            np.testing.assert_allclose(kind[lane], full, rtol=0, atol=alignment.UNSURE / 4 * scale)


def band_energies(x_env, y_env, x_bm, y_bm):
    return np.sqrt(
        [np.sum(a.astype(float) ** 2, 1) * np.sum(b.astype(float) ** 2, 1) for a, b in ((x_env, y_env), (x_bm, y_bm))]
    )


@pytest.mark.parametrize("samples", [384, 2400, 9000])
@pytest.mark.parametrize("shift", [0, 1, -1, 48, -300, 2399, -2400, 2500])
def test_band_delay_moves_rows_as_pyclarity_does(samples, shift):
    x = rows(samples)
    y = np.zeros_like(x)
    kernels.shift_rows(y, np.zeros(LANES, np.int64))
    y[:] = x + rows(samples, 5)
    kernels.shift_rows(y, np.full(LANES, shift))
    arguments = (np.abs(x), np.abs(y), x, y)
    delays = alignment.band_delays(*arguments, band_energies(*arguments))
    moved = [np.abs(y), y.copy()]
    for kind in range(2):
        kernels.shift_rows(moved[kind], delays[kind])
        for lane in (0, 5):
            before = (np.abs(x[lane]), np.abs(y[lane])) if kind == 0 else (x[lane], y[lane])
            expected = eb.envelope_align(before[0].astype(float), before[1].astype(float))
            np.testing.assert_array_equal(moved[kind][lane], expected.astype(np.float32))


def test_band_delay_of_silence_is_the_edge_of_the_search_as_in_pyclarity():
    x, silence = rows(9000), np.zeros((LANES, 9000), np.float32)
    delays = alignment.band_delays(silence, x, x, silence, np.zeros((2, LANES)))
    assert np.all(delays == SEARCH - 1)
    moved = eb.envelope_align(silence[0].astype(float), x[0].astype(float))
    np.testing.assert_array_equal(moved[: 9000 - SEARCH + 1], x[0, SEARCH - 1 :])


def test_band_delay_of_flat_envelope_is_exact_among_many_equal_lags():
    x, y = np.ones((LANES, 9000), np.float32), np.ones((LANES, 9000), np.float32)
    y[:, :3] = 0.0  # the largest of thousands of nearly equal correlations is at several lags, of which the lowest wins
    delays = alignment.band_delays(x, y, x, y, band_energies(x, y, x, y))
    expected = dsp.correlate(x[0].astype(float), y[0].astype(float), "full", method="direct")
    assert np.all(delays == SEARCH - 1 - np.argmax(expected[9000 - SEARCH : 9000 + SEARCH]))


@pytest.mark.parametrize("shift", [0, 17, -3000, 8000])
@pytest.mark.parametrize("sign", [1, -1])
def test_broadband_delay_finds_shift(shift, sign):
    x = np.random.default_rng(0).standard_normal(9001) + 3.0
    y = sign * np.roll(x, shift)
    expected = eb.input_align(x, y)[1]
    found = alignment.broadband_delay(x, y, alignment.broadband_spectrum(x), alignment.broadband_spectrum(y))
    moved = y[np.newaxis].copy()
    kernels.shift_rows(moved, np.array([found - 48]))
    np.testing.assert_array_equal(moved[0], expected)


# Noise.


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), before=st.integers(0, 700), counts=st.lists(st.integers(0, 3000), max_size=4))
def test_legacy_stream_draws_numpys_normals_and_leaves_its_state(seed, before, counts):
    generator = np.random.RandomState(seed)
    generator.randint(0, 7, size=before)
    stream = noise.LegacyStream(generator.get_state(legacy=False))
    skipping = stream.copy()
    for count in counts:
        row = np.zeros(count, np.float32)
        stream.add_to(row, 0.5)
        skipping.skip(count)
        np.testing.assert_allclose(row, 0.5 * generator.standard_normal(count), rtol=1e-6)
    expected = generator.get_state(legacy=False)
    for state in (stream.state(), skipping.state()):
        assert np.array_equal(state["state"]["key"], expected["state"]["key"])
        assert state["state"]["pos"] == expected["state"]["pos"]
        assert (state["has_gauss"], state["gauss"]) == (expected["has_gauss"], expected["gauss"])


def test_legacy_rows_are_the_same_in_any_order():
    state = np.random.RandomState(1).get_state(legacy=False)
    drawn = np.random.RandomState(1).standard_normal((6, 1001))
    shared = noise.LegacyRows(state, 1001)
    for place in (4, 0, 5, 2, 3, 1, 4):
        row = np.zeros(1001, np.float32)
        shared.add_to(row, 1.0, place)
        np.testing.assert_allclose(row, drawn[place], rtol=1e-6)


def test_hashed_noise_is_white_and_has_the_right_level():
    first, second, other = np.zeros((3, 100000), np.float32)
    noise.add_hashed(first, 2.0, np.uint64(1), 0)
    noise.add_hashed(second, 2.0, np.uint64(1), 0)
    noise.add_hashed(other, 2.0, np.uint64(1), 1)
    np.testing.assert_array_equal(first, second)
    assert np.mean(first) == pytest.approx(0.0, abs=0.03)
    assert np.std(first) == pytest.approx(2.0, rel=0.01)
    for a, b in ((first[1:], first[:-1]), (first, other), (np.abs(first[1:]) - 1.6, np.abs(first[:-1]) - 1.6)):
        assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.0, abs=0.015)


# Features.


@pytest.mark.exact
@pytest.mark.parametrize("samples", [384, 576, 5000])
def test_segment_covariance_equals_pyclarity(samples):
    x, late = 10 * rows(samples), np.array([0, 1, 7, 8, 50, 100, 191, 192])
    y = x + 3 * rows(samples, 1)
    delayed = np.zeros((2, LANES, samples))
    for kind, signal in enumerate((x, y)):
        for lane in range(LANES):
            delayed[kind, lane, late[lane] :] = signal[lane, : samples - late[lane]]
    expected, mean_square, _ = eb.bm_covary(delayed[0], delayed[1], 16, 24000)
    power = features.segment_power(x, late)
    np.testing.assert_allclose(features.segment_level(power), np.sqrt(mean_square), rtol=1e-9, atol=1e-12)
    everything = np.ones(power.shape, bool)
    np.testing.assert_allclose(features.covariance(x, y, late, everything), expected, rtol=0, atol=1e-6)
    assert not np.any(features.covariance(x, y, late, ~everything))


def test_fine_structure_similarity_equals_pyclarity():
    rng = np.random.default_rng(0)
    covariances, levels = rng.uniform(0, 1, (32, 50)), rng.uniform(0, 8, (32, 50))
    levels[:, 10:20] = 0.0
    expected = eb.ave_covary2(covariances, levels**2, 2.5)[1][4]
    assert features.fine_structure_similarity(covariances, levels) == pytest.approx(expected, abs=1e-14)
    assert features.fine_structure_similarity(covariances, 0 * levels) == 0.0


@pytest.mark.exact
@pytest.mark.parametrize("count", [40, 500])
def test_cepstral_correlation_equals_pyclarity(count):
    x, y = np.random.default_rng(0).uniform(0, 60, (2, 32, count))
    x[:, 5:10] = 0.0
    y += 0.5 * x
    audible = features.audible_segments(x)
    expected = eb.melcor9(x, y, 2.5, 0.0, 8)[2]
    found = features.cepstral_correlation(features.cepstra(x, audible), features.cepstra(y, audible))
    assert found == pytest.approx(expected, abs=1e-12)


def test_spectral_differences_equal_pyclarity():
    x, y = np.random.default_rng(0).uniform(0, 60, (2, 32))
    dloud, dnorm, _ = eb.spectrum_diff(x, y)
    assert features.spectral_differences(x, y) == pytest.approx((dloud[1], dnorm[1]), rel=1e-12)


def test_hop_is_half_the_envelope_window():
    assert len(features.envelope_window()) == 2 * HOP == round(0.008 * ear.SAMPLE_RATE)
