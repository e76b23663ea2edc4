"""Building blocks of the synthesiser: pitch, envelopes, oscillators, strings, filters and rooms.

Controls run in blocks of 256 samples.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy import fft, signal

from cadenza_lib.data.composition import Song

__all__ = [
    "BLOCK", "Array", "at_audio_rate", "band", "block_times_s", "filter_in_blocks", "hertz", "integrate_phase",
    "place", "pluck", "ramps", "reverberate", "rms", "saturate", "saw",
]  # fmt: skip

Array = npt.NDArray[np.float64]
BLOCK = 256  # samples between updates of a moving filter, 5.8 ms at 44.1 kHz


def hertz(midi_note: npt.ArrayLike) -> Any:
    """Return the frequency of a MIDI note in equal temperament, A4 = 440 Hz."""
    return 440 * 2 ** ((np.asarray(midi_note, float) - 69) / 12)


def rms(sound: Array) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(sound**2)))


def block_times_s(song: Song) -> Array:
    """Return the centre of each control block in seconds."""
    return (np.arange(-(-song.n_samples // BLOCK)) + 0.5) * BLOCK / song.sample_rate


def at_audio_rate(control: Array, song: Song) -> Array:
    """Interpolate one value a block to one value a sample."""
    return np.interp(np.arange(song.n_samples) / song.sample_rate, block_times_s(song), control)


def ramps(n_samples: int, song: Song, attack_s: float, release_s: float) -> Array:
    """Return an envelope with linear fades at both ends and 1 between them."""
    index = np.arange(n_samples)
    return np.minimum(1, np.minimum(index / attack_s, index[::-1] / release_s) / song.sample_rate)


def place(stem: Array, sound: Array, start: int, pan: float | None) -> None:
    """Add a sound to a stem (channel, time), cut at its end; pan runs from -1, left, to 1 at constant power."""
    sound = np.atleast_2d(sound)[:, : max(stem.shape[-1] - start, 0)]
    if pan is not None:
        angle = (pan + 1) * np.pi / 4
        sound = sound * np.sqrt(2) * np.array([[np.cos(angle)], [np.sin(angle)]])
    stem[:, start : start + sound.shape[-1]] += sound


def integrate_phase(frequency_hz: Array, song: Song) -> Array:
    """Integrate a frequency to a phase in radians."""
    return 2 * np.pi * np.cumsum(frequency_hz) / song.sample_rate


def saw(frequency_hz: Array, brightness_hz: float | Array, song: Song, rng: Generator) -> Array:
    """Sum sin(k phase) r^k / k over all k in closed form: a saw whose spectrum falls by 1/e every `brightness_hz`.

    The decay keeps it free of audible aliases, and brightness may move like the cutoff of a filter.
    """
    phase = integrate_phase(frequency_hz, song) + rng.uniform(0, 2 * np.pi)
    ratio = np.exp(-frequency_hz / brightness_hz)
    return np.arctan2(ratio * np.sin(phase), 1 - ratio * np.cos(phase))


def pluck(song: Song, rng: Generator, frequency_hz: float, n_samples: int, pick_hz: float, ring_s: float) -> Array:
    """Pluck a string of Karplus & Strong (1983), tuned by Jaffe & Smith's all-pass, solved in the frequency domain."""
    size = fft.next_fast_len(n_samples, real=True)
    shrink = 10 ** (-4 / size)  # evaluate outside the unit circle, so that what wraps round is 80 dB down
    delay = shrink * np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)  # z^-1
    period = song.sample_rate / frequency_hz
    burst = rng.standard_normal(round(period))
    low_pass = np.exp(-2 * np.pi * pick_hz / song.sample_rate)
    excitation = fft.rfft((burst - burst.mean()) * shrink ** np.arange(len(burst)), size)
    excitation *= ((1 - low_pass) / (1 - low_pass * delay)) ** 2  # a soft pick, and a pickup
    excitation *= 1 - delay ** round(0.13 * period)  # where the pick meets the string
    whole = int(period - 1)
    remainder = period - 0.5 - whole  # 0.5 to 1.5 samples; the averaging below takes the other half
    slope = (1 - remainder) / (1 + remainder)
    loss = 10 ** (-3 * period / song.sample_rate / ring_s)
    loop = loss * 0.5 * (1 + delay) * delay**whole * (slope + delay) / (1 + slope * delay)
    sound = fft.irfft(excitation / (1 - loop), size)[:n_samples] * shrink ** -np.arange(n_samples)
    return sound / np.abs(sound).max()


def band(sound: Array, low_hz: float, high_hz: float, song: Song) -> Array:
    """Filter a sound by a second-order Butterworth band-pass."""
    edges_hz = (low_hz, min(high_hz, 0.45 * song.sample_rate))
    return signal.sosfilt(signal.butter(2, edges_hz, "bandpass", fs=song.sample_rate, output="sos"), sound)


def filter_in_blocks(sounds: Array, sections: Array) -> Array:
    """Filter (row, time) by a cascade (block, section, 6) that changes every block and keeps its state."""
    state = np.zeros((sections.shape[1], len(sounds), 2))
    filtered = np.empty_like(sounds)
    for index, cascade in enumerate(sections):
        block = slice(index * BLOCK, (index + 1) * BLOCK)
        filtered[:, block], state = signal.sosfilt(cascade, sounds[:, block], zi=state)
    return filtered


def reverberate(song: Song, rng: Generator, stem: Array, decay_s: float, wet: float) -> Array:
    """Add a room: decaying noise, different at each ear, whose treble dies twice as fast; `wet` is its gain."""
    time_s = np.arange(round(decay_s * song.sample_rate)) / song.sample_rate
    noise = rng.standard_normal((2, len(time_s)))
    bass = signal.sosfilt(signal.butter(1, 2000, fs=song.sample_rate, output="sos"), noise)
    room = bass * 10 ** (-3 * time_s / decay_s) + (noise - bass) * 10 ** (-6 * time_s / decay_s)
    room *= np.clip((time_s - rng.uniform(0.005, 0.03)) / 0.005, 0, 1)  # pre-delay
    room /= np.sqrt(np.sum(room**2, axis=-1, keepdims=True))
    return stem + wet * signal.oaconvolve(stem, room, axes=-1)[:, : song.n_samples]


def saturate(stem: Array, crest: float) -> Array:
    """Bound a stem softly at `crest` times its RMS, as a bus compressor would."""
    ceiling = crest * rms(stem)
    return ceiling * np.tanh(stem / ceiling)
