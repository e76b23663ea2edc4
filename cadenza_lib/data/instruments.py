"""Instruments of the synthesiser: bass, drums and the timbres of the other stem. Nothing is sampled."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from scipy import fft

from cadenza_lib.data.composition import Song
from cadenza_lib.data.sounds import Array, band, integrate_phase, place, pluck, ramps, rms, saw

__all__ = ["ARPEGGIO_TIMBRES", "BASSES", "CHORD_TIMBRES", "COMP_TIMBRES", "Instrument", "build_kit"]

Instrument = Callable[[Song, Generator, float, int], Array]  # frequency in Hz, length in samples


def build_kit(song: Song, rng: Generator) -> dict[str, list[Array]]:
    """Synthesise three takes of each drum, so that repeated hits differ."""
    kick_hz, snare_hz, tom_hz, metal_hz = rng.uniform([42, 170, 75, 300], [60, 250, 105, 600])
    click, rattle_s, hat_s = rng.uniform([0.3, 0.08, 0.03], [1.0, 0.2, 0.07])
    clap = rng.choice([0.0, 0.8])
    kit: dict[str, list[Array]] = {}
    for _ in range(3):
        snare = 0.6 * _thump(song, snare_hz, 0.3, 0.05, 0.2) + _crackle(song, rng, 0.3, rattle_s, 900, 9000)
        for gap_s in (0.01, 0.02, 0.033):
            place(snare[None], clap * _crackle(song, rng, 0.2, 0.03, 800, 3000), round(gap_s * song.sample_rate), None)
        drums = {
            "kick": _thump(song, kick_hz, 0.35, 0.12, 2.5) + click * _crackle(song, rng, 0.35, 0.004, 1500, 7000),
            "snare": 1.1 * snare,
            "hat": 0.45 * _cymbal(song, rng, metal_hz, 0.2, hat_s, 6500),
            "open": 0.45 * _cymbal(song, rng, metal_hz, 0.5, 0.2, 6000),
            "crash": 0.6 * _cymbal(song, rng, metal_hz * 0.7, 2.2, 0.6, 3000),
        }
        for name, ratio in (("tom1", 1.8), ("tom2", 1.35), ("tom3", 1.0)):
            head = _thump(song, tom_hz * ratio, 0.45, 0.14, 0.5)
            drums[name] = 0.8 * head + 0.2 * _crackle(song, rng, 0.45, 0.02, 500, 5000)
        for name, take in drums.items():
            kit.setdefault(name, []).append(take)
    return kit


def _thump(song: Song, pitch_hz: float, length_s: float, decay_s: float, sweep: float) -> Array:
    """Strike a drum head: a decaying sine that falls from (1 + sweep) times its final pitch."""
    time_s = np.arange(round(length_s * song.sample_rate)) / song.sample_rate
    tone = np.sin(integrate_phase(pitch_hz * (1 + sweep * np.exp(-time_s / 0.025)), song))
    return tone * np.exp(-time_s / decay_s) * ramps(len(time_s), song, 0.001, 0.02)


def _crackle(song: Song, rng: Generator, length_s: float, decay_s: float, low_hz: float, high_hz: float) -> Array:
    """Let a band of noise with peak 1 decay."""
    time_s = np.arange(round(length_s * song.sample_rate)) / song.sample_rate
    noise = band(rng.standard_normal(len(time_s)), low_hz, high_hz, song) * np.exp(-time_s / decay_s)
    return noise / np.abs(noise).max()


def _cymbal(song: Song, rng: Generator, metal_hz: float, length_s: float, decay_s: float, low_hz: float) -> Array:
    """Strike a cymbal: six clashing square waves and noise above `low_hz`, with peak 1."""
    time_s = np.arange(round(length_s * song.sample_rate)) / song.sample_rate
    ratios = np.array([1.0, 1.34, 1.52, 1.93, 2.41, 2.87])[:, None]
    metal = np.sign(np.sin(2 * np.pi * metal_hz * ratios * time_s + rng.uniform(0, 6, (6, 1)))).sum(axis=0)
    sound = band(metal + 3 * rng.standard_normal(len(time_s)), low_hz, 0.45 * song.sample_rate, song)
    sound *= np.exp(-time_s / decay_s) * ramps(len(time_s), song, 0.001, 0.02)
    return sound / np.abs(sound).max()


def _bass_string(song: Song, rng: Generator, frequency_hz: float, n_samples: int, brightness: float) -> Array:
    """Pluck a heavy string."""
    return pluck(song, rng, frequency_hz, n_samples, 60 + 120 * brightness, 3.0)


def _bass_saw(song: Song, rng: Generator, frequency_hz: float, n_samples: int, brightness: float) -> Array:
    """Play a saw that grows dull within each note."""
    decay = np.exp(-np.arange(n_samples) / song.sample_rate / 0.18)
    return saw(np.full(n_samples, frequency_hz), 120 + 700 * brightness * decay, song, rng)


def _bass_sub(song: Song, _rng: Generator, frequency_hz: float, n_samples: int, brightness: float) -> Array:
    """Overdrive a sine."""
    return np.tanh((1 + 4 * brightness) * np.sin(integrate_phase(np.full(n_samples, frequency_hz), song)))


def _guitar(song: Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Pluck a steel string."""
    sound = pluck(song, rng, frequency_hz, n_samples, rng.uniform(3000, 6000), 1.8)
    return sound * ramps(n_samples, song, 0.001, 0.03)


def _strings(song: Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Bow an ensemble (channel=2, time): each partial of a low-passed saw is a band of noise about 40 cents wide."""
    size = fft.next_fast_len(n_samples, real=True)
    bins_hz = fft.rfftfreq(size, 1 / song.sample_rate)
    partial = np.maximum(np.round(bins_hz / frequency_hz), 1)
    distance = (bins_hz - partial * frequency_hz) / (0.006 * partial * frequency_hz)
    magnitude = np.exp(-(distance**2)) / partial**1.5 / (1 + (bins_hz / 3000) ** 2)
    players = rng.standard_normal((2, len(bins_hz), 2)).view(np.complex128)[..., 0]
    sound = fft.irfft(players * magnitude, n=size)[:, :n_samples]
    return sound / rms(sound) * ramps(n_samples, song, 0.12, 0.1)


def _organ(song: Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Pull drawbars, with a tremolo."""
    phase = integrate_phase(np.full(n_samples, frequency_hz), song) + rng.uniform(0, 6)
    tone = sum(gain * np.sin(k * phase) for k, gain in ((1, 0.8), (2, 1.0), (3, 0.6), (4, 0.5), (6, 0.25), (8, 0.3)))
    tremolo = 1 + 0.2 * np.sin(integrate_phase(np.full(n_samples, 5.8), song))
    return tone * tremolo * ramps(n_samples, song, 0.006, 0.04)


def _electric_piano(song: Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Strike a tine, by frequency modulation: Chowning (1973)."""
    phase = integrate_phase(np.full(n_samples, frequency_hz), song)
    time_s = np.arange(n_samples) / song.sample_rate
    body = np.sin(phase + rng.uniform(0.8, 1.6) * np.exp(-time_s / 0.5) * np.sin(phase))
    tine = 0.2 * np.exp(-time_s / 0.08) * np.sin(phase + np.sin(14 * phase))
    return (body + tine) * np.exp(-time_s / 0.9) * ramps(n_samples, song, 0.003, 0.05)


def _brass(song: Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Blow two saws that open with the attack."""
    time_s = np.arange(n_samples) / song.sample_rate
    pitch_hz = frequency_hz * (1 + 0.003 * np.sin(integrate_phase(np.full(n_samples, 5.0), song) + rng.uniform(0, 6)))
    brightness_hz = 300 + 3000 * (1 - np.exp(-time_s / 0.05)) * np.exp(-time_s / 0.6)
    section = sum(saw(pitch_hz * detune, brightness_hz, song, rng) for detune in (0.997, 1.003))
    return section * ramps(n_samples, song, 0.025, 0.05)


def _synth_pluck(song: Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Let a saw grow dull and die."""
    decay = np.exp(-np.arange(n_samples) / song.sample_rate / 0.15)
    sound = saw(np.full(n_samples, frequency_hz), 300 + 5000 * decay, song, rng)
    return sound * decay**0.5 * ramps(n_samples, song, 0.002, 0.03)


def _marimba(song: Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Strike a tuned bar: partials 1, 4 and 10 (Fletcher & Rossing 1998, chapter 19)."""
    time_s = np.arange(n_samples) / song.sample_rate
    strike = rng.uniform(0.15, 0.35)
    sound = sum(
        gain * np.sin(2 * np.pi * ratio * frequency_hz * time_s) * np.exp(-time_s / decay_s)
        for ratio, gain, decay_s in ((1.0, 1.0, 0.3), (3.98, strike, 0.09), (9.9, strike / 2, 0.03))
    )
    return np.asarray(sound) * ramps(n_samples, song, 0.002, 0.03)


BASSES = (_bass_string, _bass_saw, _bass_sub)
CHORD_TIMBRES: tuple[Instrument, ...] = (_strings, _organ, _strings)  # strings are twice as frequent
COMP_TIMBRES: tuple[Instrument, ...] = (_electric_piano, _guitar, _organ, _brass)
ARPEGGIO_TIMBRES: tuple[Instrument, ...] = (_guitar, _marimba, _electric_piano, _synth_pluck)
