"""Model heads: the physics of a rigid sphere, and how near they come to real microphones behind the ears."""

import numpy as np
import pytest
import torch

from cadenza_lib.audio.acoustics import load_hrtf
from cadenza_lib.audio.heads import Head, head_hrtf, sample_heads, sphere_response
from cadenza_lib.core.errors import ParameterError

THIRD_OCTAVES_HZ = 125 * 2 ** (np.arange(21) / 3)  # to 12.7 kHz


def third_octave_levels_db(hrtf):
    """Level of impulse responses `(..., tap)` in third octaves, `(..., band)`."""
    size = 8192
    power, frequency = torch.fft.rfft(hrtf, size).abs().square(), torch.fft.rfftfreq(size, 1 / 44100)
    edges = [(centre * 2 ** (-1 / 6), centre * 2 ** (1 / 6)) for centre in THIRD_OCTAVES_HZ]
    bands = [power[..., (frequency >= low) & (frequency < high)].mean(-1) for low, high in edges]
    return 10 * torch.log10(torch.stack(bands, -1))


def test_sound_from_the_left_reaches_the_left_ear_first_and_loudest():
    left_loudspeaker = head_hrtf(-30.0, 22.5)[0]
    arrival = left_loudspeaker.abs().argmax(-1)
    assert arrival[0] < arrival[1]
    assert left_loudspeaker[0].abs().max() > left_loudspeaker[1].abs().max()


def test_a_long_wave_does_not_notice_the_sphere_and_a_short_one_doubles_its_pressure_in_front_of_it():
    response = sphere_response(np.array([0.0, 0.001, 100.0]), np.array([1.0, -1.0]))
    np.testing.assert_allclose(np.abs(response[:, :2]), 1, atol=1e-5)
    assert 20 * np.log10(np.abs(response[0, 2])) == pytest.approx(6.02, abs=0.05)


def test_the_brightest_spot_of_the_shadow_lies_behind_the_sphere():
    # Waves that creep round on all sides meet there; at this wave number the level is that of Rayleigh's curve,
    # lowest at 150 degrees or so.
    angles = np.deg2rad([180.0, 150.0, 90.0])
    behind, shadow, side = np.abs(sphere_response(np.array([0.0, 10.0]), np.cos(angles)))[:, 1]
    assert shadow < 0.7 * behind
    assert shadow < 0.7 * side


def test_interaural_delay_of_high_frequencies_follows_woodworth():
    sphere = Head(mic_azimuth_deg=90.0, mic_elevation_deg=0.0, torso_gain=0.0, pinna_gain=0.0)
    spectrum = torch.fft.rfft(head_hrtf(-30.0, 30.0, sphere)[0], 4096)
    phase = np.unwrap(np.angle((spectrum[1] / spectrum[0]).numpy()))
    frequency = np.fft.rfftfreq(4096, 1 / 44100)
    band = (frequency > 5000) & (frequency < 12000)
    delay_s = -np.polyfit(2 * np.pi * frequency[band], phase[band], 1)[0]
    incidence = np.deg2rad([60.0, 120.0])
    expected = 0.0875 / 343 * (np.cos(incidence[0]) + incidence[1] - np.pi / 2)
    assert delay_s == pytest.approx(expected, rel=0.05)  # creeping waves are a little slower than Woodworth's rays


def test_a_symmetric_head_hears_mirrored_loudspeakers_mirrored():
    hrtf = head_hrtf(-37.5, 37.5)
    torch.testing.assert_close(hrtf[0], hrtf[1].flip(0))


def test_angles_behind_the_head_are_refused():
    with pytest.raises(ParameterError, match=r"120.* outside -90 to 90"):
        head_hrtf(-30, 120)


def test_people_differ_and_the_seed_decides_how():
    heads = sample_heads(16)
    assert heads == sample_heads(16)
    assert len(set(heads)) == 16
    radii = [head.radius_m for head in heads]
    assert 0.0795 <= min(radii) < 0.0875 < max(radii) <= 0.0955


def test_the_mean_head_colours_sound_like_real_microphones_behind_the_ears(cadenza_mini):
    folder, differences = cadenza_mini / "audio/hrtf", []
    for angle in (22.5, 30.0, 37.5):
        real = load_hrtf(folder, "BTE_fr", "VP_N6", -angle, angle)
        model = head_hrtf(-angle, angle)
        differences.append(third_octave_levels_db(model) - third_octave_levels_db(real))
    assert float(torch.stack(differences).square().mean().sqrt()) < 1.6  # dB; 4.1 with a sphere of Brown and Duda
