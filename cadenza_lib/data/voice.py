"""The voice of the synthesiser: a glottal source through moving formants, with consonants and breaths."""

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from cadenza_lib.data.composition import CONSONANTS, Song, Syllable, write_melody
from cadenza_lib.data.sounds import (
    BLOCK,
    Array,
    at_audio_rate,
    band,
    block_times_s,
    filter_in_blocks,
    hertz,
    place,
    reverberate,
    rms,
    saturate,
    saw,
)

__all__ = ["render_vocals"]

# First three formants in Hz of the vowels in heed, head, hod, hawed, who'd: Peterson & Barney (1952), men and women.
_VOWELS_HZ = {
    "male": ((270, 2290, 3010), (530, 1840, 2480), (730, 1090, 2440), (570, 840, 2410), (300, 870, 2240)),
    "female": ((310, 2790, 3310), (610, 2330, 2990), (850, 1220, 2810), (590, 920, 2710), (370, 950, 2670)),
}
_UPPER_FORMANTS_HZ = {"male": (3400, 4300, 5400, 6600, 8000), "female": (4000, 4900, 6000, 7300, 8800)}
_BANDWIDTHS_HZ = np.array([70, 90, 130, 180, 250, 350, 500, 700])
_MURMUR_HZ = (260, 1100, 2300)  # lips or tongue closed, as in m and n
_VOICE_CENTRE = {"male": 55, "female": 67}  # MIDI note


def render_vocals(song: Song, rng: Generator) -> Array:
    """Sing the melody: one voice, or with doubles left and right, or with a harmony a third above."""
    voice = str(rng.choice(["male", "female"]))
    melody = write_melody(song, rng, _VOICE_CENTRE[voice] + int(rng.integers(-2, 3)))
    arrangement = rng.choice(["solo", "double", "harmony"])
    detunes = {"solo": (0.0,), "double": (0.0, -0.1, 0.12), "harmony": (0.0, 0.05)}[arrangement]  # semitones
    thirds = {"solo": (0,), "double": (0, 0, 0), "harmony": (0, 2)}[arrangement]  # scale degrees
    pitches = [_pitch_contour(song, rng, melody, third) + detune for third, detune in zip(thirds, detunes, strict=True)]
    sung = _sing(song, rng, melody, np.stack(pitches), voice)
    stem = np.zeros((2, song.n_samples))
    for part, pan, delay_s, gain in zip(sung, (0.0, -0.6, 0.6), (0.0, 0.017, 0.026), (1.0, 0.45, 0.45), strict=False):
        place(stem, part * gain, round(delay_s * song.sample_rate), pan)
    place(stem, _consonants(song, rng, melody), 0, 0.0)
    return reverberate(song, rng, saturate(stem, 3.0), song.reverb_s, rng.uniform(0.2, 0.45))


def _pitch_contour(song: Song, rng: Generator, melody: list[Syllable], third: int) -> Array:
    """Return the MIDI pitch in each block: portamento between notes, late vibrato on long ones, drift and jitter."""
    time_s = block_times_s(song)
    pitch = np.full(len(time_s), float(song.midi_note(melody[0].degree + third)))
    vibrato = np.zeros(len(time_s))
    for note in melody:
        pitch[time_s >= note.start_s] = song.midi_note(note.degree + third)
        late = np.clip((time_s - note.start_s - 0.2) / 0.3, 0, 1)
        vibrato = np.where((time_s >= note.start_s) & (time_s < note.end_s + 0.1), late, vibrato)
    block_s = BLOCK / song.sample_rate
    pitch = ndimage.gaussian_filter1d(pitch, rng.uniform(0.015, 0.035) / block_s)
    rate_hz = 5.5 + 3 * ndimage.gaussian_filter1d(rng.standard_normal(len(time_s)), 40)
    vibrato *= rng.uniform(0.2, 0.6) * np.sin(2 * np.pi * np.cumsum(rate_hz) * block_s + rng.uniform(0, 6))
    drift = ndimage.gaussian_filter1d(rng.standard_normal(len(time_s)), 20) * 0.5
    return pitch + vibrato + drift + rng.standard_normal(len(time_s)) * 0.04


def _sing(song: Song, rng: Generator, melody: list[Syllable], pitches: Array, voice: str) -> Array:
    """Pass one glottal source for each pitch contour (voice, block) through the formants of the words."""
    time_s = block_times_s(song)
    block_s = BLOCK / song.sample_rate
    level = np.zeros(len(time_s))
    vowels = np.tile(np.array(_VOWELS_HZ[voice][2], float), (len(time_s), 1))  # (block, formant)
    for note in melody:
        quiet_s = 0.0 if CONSONANTS[note.consonant] is None else 0.03
        inside = (time_s >= note.start_s + quiet_s) & (time_s < note.end_s)
        level[inside] = rng.uniform(0.75, 1.0) * np.exp(-0.3 * (time_s[inside] - note.start_s))
        vowels[time_s >= note.start_s] = _VOWELS_HZ[voice][note.vowel]
        if note.consonant == "m":
            closed = (time_s >= note.start_s - 0.03) & (time_s < note.start_s + 0.04)
            vowels[closed] = _MURMUR_HZ
            level[closed] = 0.4
    level = ndimage.gaussian_filter1d(level, 0.012 / block_s)
    vowels = ndimage.gaussian_filter1d(vowels, 0.025 / block_s, axis=0)
    vowels *= rng.uniform(0.94, 1.06)  # length of this singer's vocal tract
    # Singers raise the first formant to the fundamental where that is the higher of the two (Sundberg 1987).
    vowels[:, 0] = np.maximum(vowels[:, 0], 1.05 * hertz(pitches[0]))
    upper = np.broadcast_to(_UPPER_FORMANTS_HZ[voice], (len(time_s), 5))
    sections = _resonators(np.concatenate([vowels, upper], axis=1), _BANDWIDTHS_HZ, song.sample_rate)
    tilt_hz = rng.uniform(5000, 9000)
    source = np.stack([saw(hertz(at_audio_rate(pitch, song)), tilt_hz, song, rng) for pitch in pitches])
    breath = rng.uniform(0.04, 0.12) * rng.standard_normal(song.n_samples) * (1.2 + source)  # louder while open
    sung = filter_in_blocks((source + breath) * at_audio_rate(level, song), sections)
    return sung / rms(sung[0])


def _consonants(song: Song, rng: Generator, melody: list[Syllable]) -> Array:
    """Return noise bursts that end where their vowels begin, and a breath before each phrase; the sung level is 1."""
    noise = np.zeros((1, song.n_samples))
    for note in melody:
        bursts = [(CONSONANTS[note.consonant], 0.02)]
        if note.starts_phrase:
            bursts.append(((900, 5000, 0.22, 0.06), -0.12))
        for burst, end_s in bursts:
            if burst is not None:
                low_hz, high_hz, length_s, gain = burst
                shape = np.hanning(round(length_s * song.sample_rate)) ** 0.7
                sound = band(rng.standard_normal(len(shape)), low_hz, high_hz, song) * shape
                start = round((note.start_s + end_s - length_s) * song.sample_rate)
                place(noise, gain * sound / rms(sound), max(start, 0), None)
    return noise[0]


def _resonators(formants_hz: Array, bandwidths_hz: Array, sample_rate: int) -> Array:
    """Return the sections (block, formant, 6) of a cascade with unit gain at 0 Hz: Klatt (1980), equation 2."""
    radius = np.exp(-np.pi * bandwidths_hz / sample_rate)
    sections = np.zeros((*formants_hz.shape, 6))
    sections[..., 3] = 1
    sections[..., 4] = -2 * radius * np.cos(2 * np.pi * formants_hz / sample_rate)
    sections[..., 5] = radius**2
    sections[..., 0] = sections[..., 3:].sum(axis=-1)
    return sections
