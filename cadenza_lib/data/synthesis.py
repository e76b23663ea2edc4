"""Songs from a seed: the synthesiser behind the embedded corpus.

A song is planned first (tempo, swing, key, chords, form, melody) and then rendered stem by stem, so that the stems
share one groove and one harmony. Nothing is sampled: strings are Karplus-Strong loops solved in the frequency domain,
ensembles are harmonics smeared into noise bands, the voice is a glottal source through moving formants. Controls run in
blocks of 256 samples. Stems are saturated one by one, balanced in K-weighted loudness and multiplied by one common gain
that also limits the mixture, so the mixture is exactly the sum of the stems. Every random choice descends from the
seed.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.random import Generator
from scipy import ndimage, signal

from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.composition import STEPS, Song, arpeggio, comping, held_chords, plan_song
from cadenza_lib.data.instruments import ARPEGGIO_TIMBRES, BASSES, CHORD_TIMBRES, COMP_TIMBRES, Instrument, build_kit
from cadenza_lib.data.sounds import Array, hertz, place, ramps, reverberate, rms, saturate
from cadenza_lib.data.voice import render_vocals

__all__ = ["render_song"]

_FADE_IN_S, _FADE_OUT_S = 0.003, 0.02
_CEILING = 0.94  # peak of the mixture, linear
_LIMITER_S = 0.008  # look-ahead and release
_BASS_RHYTHMS = ("x.x.x.x.x.x.x.x.", "x.....x.x.....x.", "x...x...x...x.x.")  # besides following the kick

_Part = Callable[[Song, Generator], list[tuple[float, float, int]]]  # start in s, length in s, MIDI note


def render_song(
    seed: int,
    duration_s: float = 16.0,
    sample_rate: int = 44100,
    loudness_lufs: float = -14.1,
    balance_db: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
) -> torch.Tensor:
    """Compose and render a song as four stems whose sum is the mixture.

    Parameters
    ----------
    seed : int, at least 0
        Chooses everything: tempo, key, chords, rhythms, melody, timbres, rooms and levels.
    duration_s : float, 4 to 120
        Length in seconds; the music is cut there with a fade of 20 ms.
    sample_rate : int, at least 22050
        In Hz.
    loudness_lufs : float, -40 to -10
        Of the mixture, ungated; a gated meter reads within 0.1 LU of it on these songs.
    balance_db : sequence of four floats
        Gains of the stems before the common one; without them, stems are about equally loud.

    Returns
    -------
    Tensor, float32, shape (stem=4, channel=2, time)
        Vocals, drums, bass and other. Their sum has a peak below 0.95.

    Raises
    ------
    ParameterError
        If an argument is out of bounds.

    Examples
    --------
    >>> render_song(seed=1, duration_s=4.0).shape
    torch.Size([4, 2, 176400])
    """
    if seed < 0:
        raise ParameterError(f"Seed {seed} is below 0; choose a whole number of at least 0.")
    if not 4 <= duration_s <= 120:
        raise ParameterError(f"Duration {duration_s} s is outside 4 to 120 s; choose one inside.")
    if sample_rate < 22050:
        raise ParameterError(f"Sample rate {sample_rate} Hz is below 22050 Hz; render at a higher one and resample.")
    if not -40 <= loudness_lufs <= -10:
        raise ParameterError(f"Loudness {loudness_lufs} LUFS is outside -40 to -10 LUFS; choose one inside.")
    plan_rng, mix_rng, *stem_rngs = np.random.default_rng(seed).spawn(6)
    song = plan_song(plan_rng, duration_s, sample_rate)
    players = (render_vocals, _render_drums, _render_bass, _render_other)
    stems = np.stack([play(song, rng) for play, rng in zip(players, stem_rngs, strict=True)])
    return torch.from_numpy(_master(stems, song, mix_rng, loudness_lufs, balance_db).astype(np.float32))


def _render_drums(song: Song, rng: Generator) -> Array:
    """Play the song's pattern, thinned in intro and break, with fills and crashes, on a kit made for this song."""
    kit = build_kit(song, rng)
    pans = {
        "kick": 0.0,
        "snare": 0.05,
        "hat": 0.35,
        "open": 0.35,
        "tom1": -0.4,
        "tom2": 0.1,
        "tom3": 0.5,
        "crash": -0.5,
    }
    side = rng.choice([-1, 1])  # drummer's or listener's view
    stem = np.zeros((2, song.n_samples))
    for index, bar in enumerate(song.bars):
        hits = [
            (name, step, {"X": 1.0, "x": 0.75, "o": 0.3}[mark])
            for name, row in zip(("kick", "snare", "hat", "open"), song.drum_pattern, strict=True)
            for step, mark in enumerate(row)
            if mark != "." and not (bar.section != "verse" and name == "snare")
        ]
        if bar.fill:
            first = int(rng.choice([8, 12]))
            runs = sorted(rng.choice(["snare", "tom1", "tom2", "tom3"], size=STEPS - first))
            hits = [hit for hit in hits if hit[1] < first or hit[0] == "kick"]
            hits += [
                (str(drum), first + k, 0.6 + 0.05 * k) for k, drum in enumerate(runs) if k % 2 or rng.random() < 0.8
            ]
        if index % 4 == 0 and bar.section == "verse":
            hits.append(("crash", 0, 0.8))
        for name, step, velocity in hits:
            start = round((song.time_s(index, step) + rng.normal(0, 0.004)) * song.sample_rate)
            sound = kit[name][rng.integers(len(kit[name]))] * velocity * rng.uniform(0.85, 1.0)
            place(stem, sound, max(start, 0), side * pans[name])
    return saturate(reverberate(song, rng, stem, rng.uniform(0.25, 0.6), rng.uniform(0.15, 0.4)), 4.0)


def _render_bass(song: Song, rng: Generator) -> Array:
    """Play chord roots with the kick or with a rhythm of its own, and walk to the next root in some bars."""
    play = BASSES[rng.integers(3)]
    rhythm = str(rng.choice([song.drum_pattern[0], *_BASS_RHYTHMS])).lower()
    gate, octaves, brightness = rng.uniform(0.75, 0.97), rng.random() < 0.3, rng.uniform(0.5, 1.0)
    line = np.zeros((1, song.n_samples))
    for index, bar in enumerate(song.bars):
        steps = [0] if bar.section == "break" else [step for step, mark in enumerate(rhythm) if mark != "."]
        next_root = song.bars[(index + 1) % len(song.bars)].chord[0]
        for k, (step, end) in enumerate(itertools.pairwise([*steps, STEPS])):
            degree = bar.chord[0]
            if 0 < k == len(steps) - 1 and rng.random() < 0.4:
                degree = next_root + int(rng.choice([-1, 1]))
            elif k > 0 and rng.random() < 0.15:
                degree = bar.chord[2]
            note = 28 + (song.midi_note(degree) - 28) % 12 + 12 * (octaves and k % 2)  # from E1
            n_samples = round((end - step) * song.step_s * gate * song.sample_rate)
            sound = play(song, rng, hertz(note), n_samples, brightness) * ramps(n_samples, song, 0.004, 0.03)
            start_s = song.time_s(index, step) + abs(rng.normal(0, 0.004))
            place(line, sound * rng.uniform(0.8, 1.0), round(start_s * song.sample_rate), None)
    return np.repeat(saturate(line, 2.2), 2, axis=0)


def _render_other(song: Song, rng: Generator) -> Array:
    """Mix three layers, each with its own timbre, place and part: held chords, comping and an arpeggio."""
    side = rng.choice([-1, 1])
    parts: tuple[tuple[_Part, tuple[Instrument, ...], float, float], ...] = (
        (held_chords, CHORD_TIMBRES, 0.0, 0.8),
        (comping, COMP_TIMBRES, side * 0.5, 1.0),
        (arpeggio, ARPEGGIO_TIMBRES, -side * 0.6, 0.9),
    )
    stem = np.zeros((2, song.n_samples))
    for write, timbres, pan, gain in parts:
        play = timbres[rng.integers(len(timbres))]
        layer = np.zeros((2, song.n_samples))
        for start_s, length_s, note in write(song, rng):
            start = max(round((start_s + rng.normal(0, 0.005)) * song.sample_rate), 0)
            n_samples = min(round(length_s * song.sample_rate), song.n_samples - start)
            if n_samples > 0.05 * song.sample_rate:
                sound = play(song, rng, hertz(note), n_samples)
                place(layer, sound * rng.uniform(0.75, 1.0), start, pan)
        stem += layer / rms(layer) * gain * rng.uniform(0.7, 1.2)
    return reverberate(song, rng, saturate(stem, 3.0), song.reverb_s, rng.uniform(0.15, 0.4))


def _master(stems: Array, song: Song, rng: Generator, loudness_lufs: float, balance_db: Sequence[float]) -> Array:
    """Balance the stems, fade their ends, and bring the mixture to its loudness and peak by one common gain."""
    for index, usual_db in ((1, -1.0), (2, -2.5), (3, -1.5)):
        stems[index] *= 10 ** ((usual_db + rng.uniform(-2, 2) - _loudness_lufs(stems[index], song)) / 20)
    rest_lufs = _loudness_lufs(stems[1:].sum(axis=0), song)
    stems[0] *= 10 ** ((rest_lufs - 3 + rng.uniform(-1.5, 1.5) - _loudness_lufs(stems[0], song)) / 20)
    stems *= ramps(song.n_samples, song, _FADE_IN_S, _FADE_OUT_S) * 10 ** (np.reshape(balance_db, (4, 1, 1)) / 20)
    for _ in range(3):  # limiting lowers the loudness a little, so approach the target
        mixture = stems.sum(axis=0)
        makeup = 10 ** ((loudness_lufs - _loudness_lufs(mixture, song)) / 20)
        stems *= makeup * _limiter_gain(mixture * makeup, song)
    return stems


def _limiter_gain(mixture: Array, song: Song) -> Array:
    """Return the gain (time,) that keeps the mixture under the ceiling: averaged minima never exceed what is needed."""
    window = 2 * round(_LIMITER_S * song.sample_rate / 2) + 1
    needed = np.minimum(1, _CEILING / np.maximum(np.abs(mixture).max(axis=0), 1e-9))
    return ndimage.uniform_filter1d(ndimage.minimum_filter1d(needed, window), window)


def _loudness_lufs(stem: Array, song: Song) -> float:
    """Return the ungated loudness: mean power under the K-weighting of BS.1770, taken from its analogue prototypes."""
    frequency_hz, density = signal.welch(stem, song.sample_rate, nperseg=8192, detrend=False)
    s = 1j * frequency_hz / 1681.97
    shelf = (1.5849 * s**2 + 1.2587 * s / 0.7072 + 1) / (s**2 + s / 0.7072 + 1)  # +4 dB above 1.7 kHz
    s = 1j * frequency_hz / 38.135
    high_pass = s**2 / (s**2 + s / 0.5003 + 1)
    power = np.sum(density * np.abs(shelf * high_pass) ** 2) * frequency_hz[1]
    return float(-0.691 + 10 * np.log10(power))
