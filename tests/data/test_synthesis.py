"""The synthesiser of the twin makes repeatable, lively and mastered songs."""

from functools import cache

import numpy as np
import numpy.typing as npt
import pyloudnorm
import pytest
import torch
from scipy import signal

from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.synthesis import render_song

RATE_HZ = 44100
VOCALS, DRUMS, BASS, OTHER = range(4)
SEEDS = range(4)

Array = npt.NDArray[np.float64]


@cache
def song(seed: int) -> Array:
    """A song of 16 s, shape (stem, channel, time)."""
    return render_song(seed).double().numpy()


def spectrum(stem: Array, size: int = 8192) -> tuple[Array, Array]:
    """Frequency in Hz and power of a stem summed over channels."""
    frequency_hz, power = signal.welch(stem, RATE_HZ, nperseg=size)
    return frequency_hz, power.sum(axis=0)


def share(stem: Array, low_hz: float, high_hz: float) -> float:
    """Part of a stem's energy that lies in a band."""
    frequency_hz, power = spectrum(stem)
    return float(power[(frequency_hz >= low_hz) & (frequency_hz < high_hz)].sum() / power.sum())


def lufs(sound: Array) -> float:
    """Integrated loudness by an independent meter."""
    return float(pyloudnorm.Meter(RATE_HZ).integrated_loudness(sound.T))


def active_quarters(stem: Array) -> npt.NDArray[np.bool_]:
    """Tell of each quarter second whether it is within 20 dB of the stem's level."""
    n_frame = RATE_HZ // 4
    frames = stem[:, : stem.shape[-1] // n_frame * n_frame].reshape(2, -1, n_frame)
    power = (frames**2).mean(axis=(0, 2))
    return power > 0.01 * power.mean()


def test_the_same_seed_gives_the_same_song_to_the_bit() -> None:
    assert torch.equal(render_song(7, 5.0), render_song(7, 5.0))


def test_different_seeds_give_different_songs() -> None:
    first, second = song(0).ravel(), song(1).ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


@pytest.mark.parametrize(("duration_s", "sample_rate"), [(4.0, 44100), (5.5, 22050), (4.25, 48000)])
def test_a_song_is_four_stereo_stems_of_the_asked_length(duration_s: float, sample_rate: int) -> None:
    stems = render_song(3, duration_s, sample_rate)
    assert stems.shape == (4, 2, round(duration_s * sample_rate))
    assert stems.dtype == torch.float32
    assert torch.isfinite(stems).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_mixture_is_as_loud_as_a_mastered_song_and_does_not_clip(seed: int) -> None:
    mixture = song(seed).sum(axis=0)
    assert -15 <= lufs(mixture) <= -13.5
    assert np.abs(mixture).max() <= 0.95


def test_loudness_and_balance_are_those_that_were_asked_for() -> None:
    even, uneven = (
        render_song(3, 6.0, loudness_lufs=-20.0, balance_db=balance_db).double().numpy()
        for balance_db in ((0, 0, 0, 0), (0, -10, 0, 0))
    )
    for stems in (even, uneven):
        assert lufs(stems.sum(axis=0)) == pytest.approx(-20, abs=0.3)
    (vocals, drums, *_), (vocals_beside, drums_below, *_) = ([lufs(stem) for stem in stems] for stems in (even, uneven))
    assert (drums - vocals) - (drums_below - vocals_beside) == pytest.approx(10, abs=0.1)
    with pytest.raises(ParameterError, match="Loudness -50 LUFS is outside -40 to -10 LUFS"):
        render_song(3, 6.0, loudness_lufs=-50)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_stem_is_buried(seed: int) -> None:
    levels = [lufs(stem) for stem in song(seed)]
    assert max(levels) - min(levels) < 12
    assert abs(levels[VOCALS] - lufs(song(seed)[DRUMS:].sum(axis=0)) + 3) < 2.5


@pytest.mark.parametrize("seed", SEEDS)
def test_every_stem_plays_most_of_the_time_and_never_rests_for_six_seconds(seed: int) -> None:
    for stem in song(seed):
        active = active_quarters(stem)
        assert active.mean() > 0.6
        assert np.lib.stride_tricks.sliding_window_view(active, 24).any(axis=-1).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_song_starts_and_ends_without_a_click(seed: int) -> None:
    assert np.abs(song(seed)[..., 0]).max() < 1e-4
    assert np.abs(song(seed)[..., -1]).max() < 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bass_is_low_and_in_the_middle(seed: int) -> None:
    bass = song(seed)[BASS]
    assert share(bass, 30, 300) > 0.7
    np.testing.assert_array_equal(bass[0], bass[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_drums_have_a_kick_below_and_cymbals_above(seed: int) -> None:
    assert share(song(seed)[DRUMS], 30, 120) > 0.2
    assert share(song(seed)[DRUMS], 6000, 20000) > 0.005


@pytest.mark.parametrize("seed", SEEDS)
def test_the_voice_has_formants_and_harmonics(seed: int) -> None:
    vocals = song(seed)[VOCALS]
    assert share(vocals, 250, 1300) > 0.5  # the first two formants of back vowels
    assert share(vocals, 2000, 5000) > 0.005  # and what tells the front vowels
    _, _, power = signal.stft(vocals.mean(axis=0), RATE_HZ, nperseg=4096)
    band = np.abs(power[15:140]) ** 2  # 160 to 1500 Hz
    flatness = np.exp(np.log(band + 1e-12).mean(axis=0)) / (band + 1e-12).mean(axis=0)
    assert np.median(flatness) < 0.2  # noise has 0.56


@pytest.mark.parametrize("seed", SEEDS)
def test_chords_melody_and_bass_share_one_key(seed: int) -> None:
    def chroma(stem: Array, low_hz: float, high_hz: float) -> Array:
        frequency_hz, power = spectrum(stem, size=32768)
        inside = (frequency_hz > low_hz) & (frequency_hz < high_hz)
        pitch_class = np.round(69 + 12 * np.log2(frequency_hz[inside] / 440)).astype(int) % 12
        return np.bincount(pitch_class, power[inside], minlength=12) / power[inside].sum()

    diatonic = [0, 2, 4, 5, 7, 9, 11]
    chromas = [chroma(song(seed)[VOCALS], 200, 700), chroma(song(seed)[OTHER], 200, 700)]
    fits = [[chroma[(np.array(diatonic) + key) % 12].sum() for key in range(12)] for chroma in chromas]
    key = int(np.argmax(np.sum(fits, axis=0)))
    assert min(fit[key] for fit in fits) > 0.8  # an even spread over all twelve notes would give 0.58


@pytest.mark.parametrize("seed", SEEDS)
def test_drums_and_chords_are_spread_over_the_stage(seed: int) -> None:
    for stem in (song(seed)[DRUMS], song(seed)[OTHER]):
        assert np.corrcoef(stem)[0, 1] < 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "Seed -1 is below 0"),
        ({"seed": 0, "duration_s": 3.9}, "Duration 3.9 s is outside 4 to 120 s"),
        ({"seed": 0, "duration_s": 121.0}, "Duration 121.0 s is outside 4 to 120 s"),
        ({"seed": 0, "sample_rate": 16000}, "Sample rate 16000 Hz is below 22050 Hz"),
    ],
)
def test_arguments_out_of_bounds_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        render_song(**arguments)  # type: ignore[arg-type]
