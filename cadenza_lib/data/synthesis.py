"""Songs from a seed: the synthesiser behind the demo corpus.

A song is planned first (tempo, swing, key, chords, form, melody) and then rendered stem by stem, so that the stems
share one groove and one harmony. Nothing is sampled: strings are Karplus-Strong loops solved in the frequency domain,
ensembles are harmonics smeared into noise bands, the voice is a glottal source through moving formants. Controls run in
blocks of 256 samples. Stems are saturated one by one, balanced in K-weighted loudness and multiplied by one common gain
that also limits the mixture, so the mixture is exactly the sum of the stems. Every random choice descends from the
seed.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.random import Generator
from scipy import fft, ndimage, signal

from cadenza_lib.core.errors import ParameterError

__all__ = ["render_song"]

Array = npt.NDArray[np.float64]

_BLOCK = 256  # samples between updates of a moving filter, 5.8 ms at 44.1 kHz
_LEAD_IN_S = 0.03  # before the first beat, so that its attack is not faded away
_FADE_IN_S, _FADE_OUT_S = 0.003, 0.02
_CEILING = 0.94  # peak of the mixture, linear
_LIMITER_S = 0.008  # look-ahead and release
_STEPS = 16  # sixteenth notes in a bar

_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}  # semitones above the tonic
_PROGRESSIONS = {  # scale degree of each bar's chord, 0 is the tonic
    "major": ((0, 4, 5, 3), (5, 3, 0, 4), (0, 5, 3, 4), (0, 3, 1, 4), (3, 0, 4, 5)),
    "minor": ((0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 6), (5, 6, 0, 2), (0, 2, 3, 6)),
}
_DRUM_PATTERNS = (  # kick, snare, closed hat, open hat in sixteenths: X accent, x plain, o ghost
    ("X.....x.X.......", "....X.......X...", "X.x.X.x.X.x.X...", "..............x."),  # rock
    ("X..x..x...x..x..", "....X..o.o..X..o", "XoxoXoxoXoxoXoxo", "................"),  # funk
    ("X...X...X...X...", "....x.......x...", "x...x...x...x...", "..X...X...X...X."),  # disco
    ("X......xx.x.....", "....X.......X..o", "X.x.x.x.X.xox.x.", "................"),  # hip hop
    ("X...x.....x.....", "........X.......", "X.x.X.x.X.x.X.xx", "......x........."),  # half time
)
_BASS_RHYTHMS = ("x.x.x.x.x.x.x.x.", "x.....x.x.....x.", "x...x...x...x.x.")  # besides following the kick
_COMP_RHYTHMS = ("..x...x...x...x.", "x..x..x.....x...", "x.....x...x.....", "....x..x....x...")
_VERSE_RHYTHMS = ((4, 2, 2, 4, 4), (6, 2, 4, 4), (2, 2, 2, 2, 4, 4), (3, 3, 2, 4, 4), (2, 2, 4, 6, 2))  # sixteenths
_CADENCE_RHYTHMS = ((4, 4, 6, -2), (2, 2, 4, 6, -2), (6, 2, 5, -3), (2, 2, 2, 8, -2))  # negative: rest and breath

# First three formants in Hz of the vowels in heed, head, hod, hawed, who'd: Peterson & Barney (1952), men and women.
_VOWELS_HZ = {
    "male": ((270, 2290, 3010), (530, 1840, 2480), (730, 1090, 2440), (570, 840, 2410), (300, 870, 2240)),
    "female": ((310, 2790, 3310), (610, 2330, 2990), (850, 1220, 2810), (590, 920, 2710), (370, 950, 2670)),
}
_UPPER_FORMANTS_HZ = {"male": (3400, 4300, 5400, 6600, 8000), "female": (4000, 4900, 6000, 7300, 8800)}
_BANDWIDTHS_HZ = np.array([70, 90, 130, 180, 250, 350, 500, 700])
_MURMUR_HZ = (260, 1100, 2300)  # lips or tongue closed, as in m and n
_VOICE_CENTRE = {"male": 55, "female": 67}  # MIDI note
_CONSONANTS = {  # noise band in Hz, length in s, level re the voice; m and n colour the vowel instead
    "s": (5000, 9500, 0.09, 0.35),
    "sh": (2300, 6500, 0.1, 0.4),
    "t": (3000, 8500, 0.03, 0.6),
    "k": (1400, 3200, 0.035, 0.6),
    "m": None,
    "": None,
}


@dataclass(frozen=True)
class _Bar:
    """What every player knows about one bar."""

    chord: tuple[int, ...]  # scale degrees, root first
    section: str  # intro, verse or break
    fill: bool  # drums end the bar with a fill


@dataclass(frozen=True)
class _Song:
    """The plan that all stems follow."""

    sample_rate: int
    n_samples: int
    step_s: float  # one sixteenth
    swing: float  # delay of the second of each pair, in steps
    swing_unit: int  # 1: sixteenths swing, 2: eighths swing
    tonic: int  # pitch class
    scale: tuple[int, ...]
    bars: tuple[_Bar, ...]
    drum_pattern: tuple[str, ...]
    reverb_s: float  # until 60 dB down

    def time_s(self, bar: int, step: float) -> float:
        """Time of a step of a bar, swung."""
        late = self.swing if int(step) // self.swing_unit % 2 else 0.0
        return _LEAD_IN_S + (bar * _STEPS + step + late) * self.step_s

    def midi_note(self, degree: int) -> int:
        """MIDI note of a scale degree; degree 0 is the tonic of the lowest octave."""
        return self.tonic + 12 * (degree // 7) + self.scale[degree % 7]

    def degree_near(self, midi_note: float) -> int:
        """Scale degree about as high as a MIDI note."""
        return round((midi_note - self.tonic) * 7 / 12)

    def voicing(self, chord: Sequence[int], centre: int) -> list[int]:
        """MIDI notes of a chord, each in the octave around `centre`, lowest first: this leads the voices smoothly."""
        low = centre - 6
        return sorted(low + (self.midi_note(degree) - low) % 12 for degree in chord)


@dataclass(frozen=True)
class _Syllable:
    """One sung note."""

    start_s: float
    end_s: float
    degree: int
    vowel: int
    consonant: str
    starts_phrase: bool


_Part = Callable[[_Song, Generator], list[tuple[float, float, int]]]  # start in s, length in s, MIDI note
_Instrument = Callable[[_Song, Generator, float, int], Array]  # frequency in Hz, length in samples


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
    song = _plan_song(plan_rng, duration_s, sample_rate)
    players = (_render_vocals, _render_drums, _render_bass, _render_other)
    stems = np.stack([play(song, rng) for play, rng in zip(players, stem_rngs, strict=True)])
    return torch.from_numpy(_master(stems, song, mix_rng, loudness_lufs, balance_db).astype(np.float32))


def _plan_song(rng: Generator, duration_s: float, sample_rate: int) -> _Song:
    """Choose what the players must agree on."""
    step_s = 15 / rng.uniform(80, 140)  # a quarter of 60 s / bpm
    n_bars = int(np.ceil(duration_s / (step_s * _STEPS)))
    mode = str(rng.choice(["major", "minor"]))
    progression = list(_PROGRESSIONS[mode][rng.integers(5)])
    turnaround = int(rng.choice([3, 4, 6 if mode == "minor" else 1]))  # ends every second round
    break_bar = rng.integers(4, 6)
    sevenths = rng.random() < 0.4
    bars = []
    for index in range(n_bars):
        root = turnaround if index % 8 == 7 else progression[index % 4]
        chord = tuple(root + third for third in ((0, 2, 4, 6) if sevenths or index % 8 == 6 else (0, 2, 4)))
        section = "intro" if index == 0 and n_bars >= 6 else "break" if index % 8 == break_bar else "verse"
        bars.append(_Bar(chord, section, fill=index % 4 == 3))
    return _Song(
        sample_rate=sample_rate,
        n_samples=round(duration_s * sample_rate),
        step_s=step_s,
        swing=float(rng.choice([0.0, rng.uniform(0.1, 0.33)])),
        swing_unit=int(rng.integers(1, 3)),
        tonic=int(rng.integers(12)),
        scale=_SCALES[mode],
        bars=tuple(bars),
        drum_pattern=_DRUM_PATTERNS[rng.integers(len(_DRUM_PATTERNS))],
        reverb_s=rng.uniform(0.6, 1.8),
    )


# Vocals


def _render_vocals(song: _Song, rng: Generator) -> Array:
    """Sing the melody: one voice, or with doubles left and right, or with a harmony a third above."""
    voice = str(rng.choice(["male", "female"]))
    melody = _write_melody(song, rng, _VOICE_CENTRE[voice] + int(rng.integers(-2, 3)))
    arrangement = rng.choice(["solo", "double", "harmony"])
    detunes = {"solo": (0.0,), "double": (0.0, -0.1, 0.12), "harmony": (0.0, 0.05)}[arrangement]  # semitones
    thirds = {"solo": (0,), "double": (0, 0, 0), "harmony": (0, 2)}[arrangement]  # scale degrees
    pitches = [_pitch_contour(song, rng, melody, third) + detune for third, detune in zip(thirds, detunes, strict=True)]
    sung = _sing(song, rng, melody, np.stack(pitches), voice)
    stem = np.zeros((2, song.n_samples))
    for part, pan, delay_s, gain in zip(sung, (0.0, -0.6, 0.6), (0.0, 0.017, 0.026), (1.0, 0.45, 0.45), strict=False):
        _place(stem, part * gain, round(delay_s * song.sample_rate), pan)
    _place(stem, _consonants(song, rng, melody), 0, 0.0)
    return _reverberate(song, rng, _saturate(stem, 3.0), song.reverb_s, rng.uniform(0.2, 0.45))


def _write_melody(song: _Song, rng: Generator, centre: int) -> list[_Syllable]:
    """Write two-bar phrases from two motifs that return over new chords; strong beats snap to chord tones."""
    rhythms = [_VERSE_RHYTHMS[rng.integers(5)], _CADENCE_RHYTHMS[rng.integers(4)]]
    contours = [rng.integers(-2, 3, size=8) for _ in rhythms]
    middle = song.degree_near(centre)
    degree, melody, after_rest = middle + int(rng.integers(0, 3)), list[_Syllable](), True
    for index, bar in enumerate(song.bars):
        if bar.section == "intro":
            continue
        part = index % 2
        if rng.random() < 0.3:
            contours[part] = rng.integers(-2, 3, size=8)
        step = 0
        for length, move in zip(rhythms[part], contours[part], strict=False):
            if length > 0:
                degree += int(move) - int(np.sign(degree - middle)) * (abs(degree - middle) > 3)
                if step % 8 == 0 or length >= 6:
                    degree = min(range(degree - 2, degree + 3), key=lambda d: (not _in_chord(d, bar), abs(d - degree)))
                start_s = song.time_s(index, step) + rng.normal(0, 0.008)
                end_s = song.time_s(index, step + length) - 0.02
                consonant = str(rng.choice(list(_CONSONANTS)))
                melody.append(_Syllable(start_s, end_s, degree, int(rng.integers(5)), consonant, after_rest))
            after_rest = length < 0
            step += abs(length)
    return melody


def _in_chord(degree: int, bar: _Bar) -> bool:
    """Tell whether a scale degree belongs to the bar's chord in any octave."""
    return degree % 7 in {tone % 7 for tone in bar.chord}


def _pitch_contour(song: _Song, rng: Generator, melody: list[_Syllable], third: int) -> Array:
    """MIDI pitch in each block: portamento between notes, late vibrato on long ones, drift and jitter."""
    time_s = _block_times_s(song)
    pitch = np.full(len(time_s), float(song.midi_note(melody[0].degree + third)))
    vibrato = np.zeros(len(time_s))
    for note in melody:
        pitch[time_s >= note.start_s] = song.midi_note(note.degree + third)
        late = np.clip((time_s - note.start_s - 0.2) / 0.3, 0, 1)
        vibrato = np.where((time_s >= note.start_s) & (time_s < note.end_s + 0.1), late, vibrato)
    block_s = _BLOCK / song.sample_rate
    pitch = ndimage.gaussian_filter1d(pitch, rng.uniform(0.015, 0.035) / block_s)
    rate_hz = 5.5 + 3 * ndimage.gaussian_filter1d(rng.standard_normal(len(time_s)), 40)
    vibrato *= rng.uniform(0.2, 0.6) * np.sin(2 * np.pi * np.cumsum(rate_hz) * block_s + rng.uniform(0, 6))
    drift = ndimage.gaussian_filter1d(rng.standard_normal(len(time_s)), 20) * 0.5
    return pitch + vibrato + drift + rng.standard_normal(len(time_s)) * 0.04


def _sing(song: _Song, rng: Generator, melody: list[_Syllable], pitches: Array, voice: str) -> Array:
    """Pass one glottal source for each pitch contour (voice, block) through the formants of the words."""
    time_s = _block_times_s(song)
    block_s = _BLOCK / song.sample_rate
    level = np.zeros(len(time_s))
    vowels = np.tile(np.array(_VOWELS_HZ[voice][2], float), (len(time_s), 1))  # (block, formant)
    for note in melody:
        quiet_s = 0.0 if _CONSONANTS[note.consonant] is None else 0.03
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
    vowels[:, 0] = np.maximum(vowels[:, 0], 1.05 * _hertz(pitches[0]))
    upper = np.broadcast_to(_UPPER_FORMANTS_HZ[voice], (len(time_s), 5))
    sections = _resonators(np.concatenate([vowels, upper], axis=1), _BANDWIDTHS_HZ, song.sample_rate)
    tilt_hz = rng.uniform(5000, 9000)
    source = np.stack([_saw(_hertz(_at_audio_rate(pitch, song)), tilt_hz, song, rng) for pitch in pitches])
    breath = rng.uniform(0.04, 0.12) * rng.standard_normal(song.n_samples) * (1.2 + source)  # louder while open
    sung = _filter_in_blocks((source + breath) * _at_audio_rate(level, song), sections)
    return sung / _rms(sung[0])


def _consonants(song: _Song, rng: Generator, melody: list[_Syllable]) -> Array:
    """Noise bursts that end where their vowels begin, and a breath before each phrase; the sung level is 1."""
    noise = np.zeros((1, song.n_samples))
    for note in melody:
        bursts = [(_CONSONANTS[note.consonant], 0.02)]
        if note.starts_phrase:
            bursts.append(((900, 5000, 0.22, 0.06), -0.12))
        for burst, end_s in bursts:
            if burst is not None:
                low_hz, high_hz, length_s, gain = burst
                shape = np.hanning(round(length_s * song.sample_rate)) ** 0.7
                sound = _band(rng.standard_normal(len(shape)), low_hz, high_hz, song) * shape
                start = round((note.start_s + end_s - length_s) * song.sample_rate)
                _place(noise, gain * sound / _rms(sound), max(start, 0), None)
    return noise[0]


def _resonators(formants_hz: Array, bandwidths_hz: Array, sample_rate: int) -> Array:
    """Sections (block, formant, 6) of a cascade with unit gain at 0 Hz: Klatt (1980), equation 2."""
    radius = np.exp(-np.pi * bandwidths_hz / sample_rate)
    sections = np.zeros((*formants_hz.shape, 6))
    sections[..., 3] = 1
    sections[..., 4] = -2 * radius * np.cos(2 * np.pi * formants_hz / sample_rate)
    sections[..., 5] = radius**2
    sections[..., 0] = sections[..., 3:].sum(axis=-1)
    return sections


# Drums


def _render_drums(song: _Song, rng: Generator) -> Array:
    """Play the song's pattern, thinned in intro and break, with fills and crashes, on a kit made for this song."""
    kit = _build_kit(song, rng)
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
            runs = sorted(rng.choice(["snare", "tom1", "tom2", "tom3"], size=_STEPS - first))
            hits = [hit for hit in hits if hit[1] < first or hit[0] == "kick"]
            hits += [
                (str(drum), first + k, 0.6 + 0.05 * k) for k, drum in enumerate(runs) if k % 2 or rng.random() < 0.8
            ]
        if index % 4 == 0 and bar.section == "verse":
            hits.append(("crash", 0, 0.8))
        for name, step, velocity in hits:
            start = round((song.time_s(index, step) + rng.normal(0, 0.004)) * song.sample_rate)
            sound = kit[name][rng.integers(len(kit[name]))] * velocity * rng.uniform(0.85, 1.0)
            _place(stem, sound, max(start, 0), side * pans[name])
    return _saturate(_reverberate(song, rng, stem, rng.uniform(0.25, 0.6), rng.uniform(0.15, 0.4)), 4.0)


def _build_kit(song: _Song, rng: Generator) -> dict[str, list[Array]]:
    """Synthesise three takes of each drum, so that repeated hits differ."""
    kick_hz, snare_hz, tom_hz, metal_hz = rng.uniform([42, 170, 75, 300], [60, 250, 105, 600])
    click, rattle_s, hat_s = rng.uniform([0.3, 0.08, 0.03], [1.0, 0.2, 0.07])
    clap = rng.choice([0.0, 0.8])
    kit: dict[str, list[Array]] = {}
    for _ in range(3):
        snare = 0.6 * _thump(song, snare_hz, 0.3, 0.05, 0.2) + _crackle(song, rng, 0.3, rattle_s, 900, 9000)
        for gap_s in (0.01, 0.02, 0.033):
            _place(snare[None], clap * _crackle(song, rng, 0.2, 0.03, 800, 3000), round(gap_s * song.sample_rate), None)
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


def _thump(song: _Song, pitch_hz: float, length_s: float, decay_s: float, sweep: float) -> Array:
    """Strike a drum head: a decaying sine that falls from (1 + sweep) times its final pitch."""
    time_s = np.arange(round(length_s * song.sample_rate)) / song.sample_rate
    tone = np.sin(_phase(pitch_hz * (1 + sweep * np.exp(-time_s / 0.025)), song))
    return tone * np.exp(-time_s / decay_s) * _ramps(len(time_s), song, 0.001, 0.02)


def _crackle(song: _Song, rng: Generator, length_s: float, decay_s: float, low_hz: float, high_hz: float) -> Array:
    """Let a band of noise with peak 1 decay."""
    time_s = np.arange(round(length_s * song.sample_rate)) / song.sample_rate
    noise = _band(rng.standard_normal(len(time_s)), low_hz, high_hz, song) * np.exp(-time_s / decay_s)
    return noise / np.abs(noise).max()


def _cymbal(song: _Song, rng: Generator, metal_hz: float, length_s: float, decay_s: float, low_hz: float) -> Array:
    """Strike a cymbal: six clashing square waves and noise above `low_hz`, with peak 1."""
    time_s = np.arange(round(length_s * song.sample_rate)) / song.sample_rate
    ratios = np.array([1.0, 1.34, 1.52, 1.93, 2.41, 2.87])[:, None]
    metal = np.sign(np.sin(2 * np.pi * metal_hz * ratios * time_s + rng.uniform(0, 6, (6, 1)))).sum(axis=0)
    sound = _band(metal + 3 * rng.standard_normal(len(time_s)), low_hz, 0.45 * song.sample_rate, song)
    sound *= np.exp(-time_s / decay_s) * _ramps(len(time_s), song, 0.001, 0.02)
    return sound / np.abs(sound).max()


# Bass


def _render_bass(song: _Song, rng: Generator) -> Array:
    """Play chord roots with the kick or with a rhythm of its own, and walk to the next root in some bars."""
    play = (_bass_string, _bass_saw, _bass_sub)[rng.integers(3)]
    rhythm = str(rng.choice([song.drum_pattern[0], *_BASS_RHYTHMS])).lower()
    gate, octaves, brightness = rng.uniform(0.75, 0.97), rng.random() < 0.3, rng.uniform(0.5, 1.0)
    line = np.zeros((1, song.n_samples))
    for index, bar in enumerate(song.bars):
        steps = [0] if bar.section == "break" else [step for step, mark in enumerate(rhythm) if mark != "."]
        next_root = song.bars[(index + 1) % len(song.bars)].chord[0]
        for k, (step, end) in enumerate(itertools.pairwise([*steps, _STEPS])):
            degree = bar.chord[0]
            if 0 < k == len(steps) - 1 and rng.random() < 0.4:
                degree = next_root + int(rng.choice([-1, 1]))
            elif k > 0 and rng.random() < 0.15:
                degree = bar.chord[2]
            note = 28 + (song.midi_note(degree) - 28) % 12 + 12 * (octaves and k % 2)  # from E1
            n_samples = round((end - step) * song.step_s * gate * song.sample_rate)
            sound = play(song, rng, _hertz(note), n_samples, brightness) * _ramps(n_samples, song, 0.004, 0.03)
            start_s = song.time_s(index, step) + abs(rng.normal(0, 0.004))
            _place(line, sound * rng.uniform(0.8, 1.0), round(start_s * song.sample_rate), None)
    return np.repeat(_saturate(line, 2.2), 2, axis=0)


def _bass_string(song: _Song, rng: Generator, frequency_hz: float, n_samples: int, brightness: float) -> Array:
    """Pluck a heavy string."""
    return _pluck(song, rng, frequency_hz, n_samples, 60 + 120 * brightness, 3.0)


def _bass_saw(song: _Song, rng: Generator, frequency_hz: float, n_samples: int, brightness: float) -> Array:
    """Play a saw that grows dull within each note."""
    decay = np.exp(-np.arange(n_samples) / song.sample_rate / 0.18)
    return _saw(np.full(n_samples, frequency_hz), 120 + 700 * brightness * decay, song, rng)


def _bass_sub(song: _Song, _rng: Generator, frequency_hz: float, n_samples: int, brightness: float) -> Array:
    """Overdrive a sine."""
    return np.tanh((1 + 4 * brightness) * np.sin(_phase(np.full(n_samples, frequency_hz), song)))


# The other stem


def _render_other(song: _Song, rng: Generator) -> Array:
    """Mix three layers, each with its own timbre, place and part: held chords, comping and an arpeggio."""
    side = rng.choice([-1, 1])
    parts: tuple[tuple[_Part, tuple[_Instrument, ...], float, float], ...] = (
        (_held_chords, (_strings, _organ, _strings), 0.0, 0.8),
        (_comping, (_electric_piano, _guitar, _organ, _brass), side * 0.5, 1.0),
        (_arpeggio, (_guitar, _marimba, _electric_piano, _synth_pluck), -side * 0.6, 0.9),
    )
    stem = np.zeros((2, song.n_samples))
    for write, timbres, pan, gain in parts:
        play = timbres[rng.integers(len(timbres))]
        layer = np.zeros((2, song.n_samples))
        for start_s, length_s, note in write(song, rng):
            start = max(round((start_s + rng.normal(0, 0.005)) * song.sample_rate), 0)
            n_samples = min(round(length_s * song.sample_rate), song.n_samples - start)
            if n_samples > 0.05 * song.sample_rate:
                sound = play(song, rng, _hertz(note), n_samples)
                _place(layer, sound * rng.uniform(0.75, 1.0), start, pan)
        stem += layer / _rms(layer) * gain * rng.uniform(0.7, 1.2)
    return _reverberate(song, rng, _saturate(stem, 3.0), song.reverb_s, rng.uniform(0.15, 0.4))


def _held_chords(song: _Song, rng: Generator) -> list[tuple[float, float, int]]:
    """Hold the chord of each bar; a note is (start in s, length in s, MIDI note)."""
    centre = int(rng.integers(57, 65))
    bar_s = _STEPS * song.step_s
    return [
        (song.time_s(index, 0), bar_s * 1.04, note)
        for index, bar in enumerate(song.bars)
        for note in song.voicing(bar.chord, centre)
    ]


def _comping(song: _Song, rng: Generator) -> list[tuple[float, float, int]]:
    """Play short chords in a syncopated rhythm, strummed by a few ms; silent in the break."""
    centre, rhythm = int(rng.integers(58, 68)), str(rng.choice(_COMP_RHYTHMS))
    length_s, strum_s = rng.uniform(1.5, 3.5) * song.step_s, rng.uniform(0.0, 0.015)
    return [
        (song.time_s(index, step) + k * strum_s, length_s, note)
        for index, bar in enumerate(song.bars)
        if bar.section != "break"
        for step, mark in enumerate(rhythm)
        if mark == "x"
        for k, note in enumerate(song.voicing(bar.chord, centre))
    ]


def _arpeggio(song: _Song, rng: Generator) -> list[tuple[float, float, int]]:
    """Break the chords into eighths or sixteenths over two octaves; some notes are left out."""
    centre, stride, order = (
        int(rng.integers(60, 68)),
        int(rng.choice([1, 2, 2])),
        str(rng.choice(["up", "down", "both"])),
    )
    notes = []
    for index, bar in enumerate(song.bars):
        tones = [note + octave for octave in (0, 12) for note in song.voicing(bar.chord, centre)]
        tones = {"up": tones, "down": tones[::-1], "both": tones + tones[-2:0:-1]}[order]
        for k, step in enumerate(range(0, _STEPS, stride)):
            if rng.random() < 0.9:
                notes.append((song.time_s(index, step), 3.5 * song.step_s, tones[k % len(tones)]))
    return notes


def _guitar(song: _Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Pluck a steel string."""
    sound = _pluck(song, rng, frequency_hz, n_samples, rng.uniform(3000, 6000), 1.8)
    return sound * _ramps(n_samples, song, 0.001, 0.03)


def _strings(song: _Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Bow an ensemble (channel=2, time): each partial of a low-passed saw is a band of noise about 40 cents wide."""
    size = fft.next_fast_len(n_samples, real=True)
    bins_hz = fft.rfftfreq(size, 1 / song.sample_rate)
    partial = np.maximum(np.round(bins_hz / frequency_hz), 1)
    distance = (bins_hz - partial * frequency_hz) / (0.006 * partial * frequency_hz)
    magnitude = np.exp(-(distance**2)) / partial**1.5 / (1 + (bins_hz / 3000) ** 2)
    players = rng.standard_normal((2, len(bins_hz), 2)).view(np.complex128)[..., 0]
    sound = fft.irfft(players * magnitude, n=size)[:, :n_samples]
    return sound / _rms(sound) * _ramps(n_samples, song, 0.12, 0.1)


def _organ(song: _Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Pull drawbars, with a tremolo."""
    phase = _phase(np.full(n_samples, frequency_hz), song) + rng.uniform(0, 6)
    tone = sum(gain * np.sin(k * phase) for k, gain in ((1, 0.8), (2, 1.0), (3, 0.6), (4, 0.5), (6, 0.25), (8, 0.3)))
    tremolo = 1 + 0.2 * np.sin(_phase(np.full(n_samples, 5.8), song))
    return tone * tremolo * _ramps(n_samples, song, 0.006, 0.04)


def _electric_piano(song: _Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Strike a tine, by frequency modulation: Chowning (1973)."""
    phase = _phase(np.full(n_samples, frequency_hz), song)
    time_s = np.arange(n_samples) / song.sample_rate
    body = np.sin(phase + rng.uniform(0.8, 1.6) * np.exp(-time_s / 0.5) * np.sin(phase))
    tine = 0.2 * np.exp(-time_s / 0.08) * np.sin(phase + np.sin(14 * phase))
    return (body + tine) * np.exp(-time_s / 0.9) * _ramps(n_samples, song, 0.003, 0.05)


def _brass(song: _Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Blow two saws that open with the attack."""
    time_s = np.arange(n_samples) / song.sample_rate
    pitch_hz = frequency_hz * (1 + 0.003 * np.sin(_phase(np.full(n_samples, 5.0), song) + rng.uniform(0, 6)))
    brightness_hz = 300 + 3000 * (1 - np.exp(-time_s / 0.05)) * np.exp(-time_s / 0.6)
    section = sum(_saw(pitch_hz * detune, brightness_hz, song, rng) for detune in (0.997, 1.003))
    return section * _ramps(n_samples, song, 0.025, 0.05)


def _synth_pluck(song: _Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Let a saw grow dull and die."""
    decay = np.exp(-np.arange(n_samples) / song.sample_rate / 0.15)
    saw = _saw(np.full(n_samples, frequency_hz), 300 + 5000 * decay, song, rng)
    return saw * decay**0.5 * _ramps(n_samples, song, 0.002, 0.03)


def _marimba(song: _Song, rng: Generator, frequency_hz: float, n_samples: int) -> Array:
    """Strike a tuned bar: partials 1, 4 and 10 (Fletcher & Rossing 1998, chapter 19)."""
    time_s = np.arange(n_samples) / song.sample_rate
    strike = rng.uniform(0.15, 0.35)
    sound = sum(
        gain * np.sin(2 * np.pi * ratio * frequency_hz * time_s) * np.exp(-time_s / decay_s)
        for ratio, gain, decay_s in ((1.0, 1.0, 0.3), (3.98, strike, 0.09), (9.9, strike / 2, 0.03))
    )
    return np.asarray(sound) * _ramps(n_samples, song, 0.002, 0.03)


# Building blocks


def _hertz(midi_note: npt.ArrayLike) -> Any:
    """Frequency of a MIDI note in equal temperament, A4 = 440 Hz."""
    return 440 * 2 ** ((np.asarray(midi_note, float) - 69) / 12)


def _rms(sound: Array) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(sound**2)))


def _block_times_s(song: _Song) -> Array:
    """Centre of each control block."""
    return (np.arange(-(-song.n_samples // _BLOCK)) + 0.5) * _BLOCK / song.sample_rate


def _at_audio_rate(control: Array, song: _Song) -> Array:
    """Interpolate one value a block to one value a sample."""
    return np.interp(np.arange(song.n_samples) / song.sample_rate, _block_times_s(song), control)


def _ramps(n_samples: int, song: _Song, attack_s: float, release_s: float) -> Array:
    """Linear fades at both ends, 1 between them."""
    index = np.arange(n_samples)
    return np.minimum(1, np.minimum(index / attack_s, index[::-1] / release_s) / song.sample_rate)


def _place(stem: Array, sound: Array, start: int, pan: float | None) -> None:
    """Add a sound to a stem (channel, time), cut at its end; pan runs from -1, left, to 1 at constant power."""
    sound = np.atleast_2d(sound)[:, : max(stem.shape[-1] - start, 0)]
    if pan is not None:
        angle = (pan + 1) * np.pi / 4
        sound = sound * np.sqrt(2) * np.array([[np.cos(angle)], [np.sin(angle)]])
    stem[:, start : start + sound.shape[-1]] += sound


def _phase(frequency_hz: Array, song: _Song) -> Array:
    """Integrate a frequency to a phase in radians."""
    return 2 * np.pi * np.cumsum(frequency_hz) / song.sample_rate


def _saw(frequency_hz: Array, brightness_hz: float | Array, song: _Song, rng: Generator) -> Array:
    """Sum sin(k phase) r^k / k over all k in closed form: a saw whose spectrum falls by 1/e every `brightness_hz`.

    The decay keeps it free of audible aliases, and brightness may move like the cutoff of a filter.
    """
    phase = _phase(frequency_hz, song) + rng.uniform(0, 2 * np.pi)
    ratio = np.exp(-frequency_hz / brightness_hz)
    return np.arctan2(ratio * np.sin(phase), 1 - ratio * np.cos(phase))


def _pluck(song: _Song, rng: Generator, frequency_hz: float, n_samples: int, pick_hz: float, ring_s: float) -> Array:
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


def _band(sound: Array, low_hz: float, high_hz: float, song: _Song) -> Array:
    """Second-order Butterworth band-pass."""
    edges_hz = (low_hz, min(high_hz, 0.45 * song.sample_rate))
    return signal.sosfilt(signal.butter(2, edges_hz, "bandpass", fs=song.sample_rate, output="sos"), sound)


def _filter_in_blocks(sounds: Array, sections: Array) -> Array:
    """Filter (row, time) by a cascade (block, section, 6) that changes every block and keeps its state."""
    state = np.zeros((sections.shape[1], len(sounds), 2))
    filtered = np.empty_like(sounds)
    for index, cascade in enumerate(sections):
        block = slice(index * _BLOCK, (index + 1) * _BLOCK)
        filtered[:, block], state = signal.sosfilt(cascade, sounds[:, block], zi=state)
    return filtered


def _reverberate(song: _Song, rng: Generator, stem: Array, decay_s: float, wet: float) -> Array:
    """Add a room: decaying noise, different at each ear, whose treble dies twice as fast; `wet` is its gain."""
    time_s = np.arange(round(decay_s * song.sample_rate)) / song.sample_rate
    noise = rng.standard_normal((2, len(time_s)))
    bass = signal.sosfilt(signal.butter(1, 2000, fs=song.sample_rate, output="sos"), noise)
    room = bass * 10 ** (-3 * time_s / decay_s) + (noise - bass) * 10 ** (-6 * time_s / decay_s)
    room *= np.clip((time_s - rng.uniform(0.005, 0.03)) / 0.005, 0, 1)  # pre-delay
    room /= np.sqrt(np.sum(room**2, axis=-1, keepdims=True))
    return stem + wet * signal.oaconvolve(stem, room, axes=-1)[:, : song.n_samples]


def _saturate(stem: Array, crest: float) -> Array:
    """Bound a stem softly at `crest` times its RMS, as a bus compressor would."""
    ceiling = crest * _rms(stem)
    return ceiling * np.tanh(stem / ceiling)


# Mastering


def _master(stems: Array, song: _Song, rng: Generator, loudness_lufs: float, balance_db: Sequence[float]) -> Array:
    """Balance the stems, fade their ends, and bring the mixture to its loudness and peak by one common gain."""
    for index, usual_db in ((1, -1.0), (2, -2.5), (3, -1.5)):
        stems[index] *= 10 ** ((usual_db + rng.uniform(-2, 2) - _loudness_lufs(stems[index], song)) / 20)
    rest_lufs = _loudness_lufs(stems[1:].sum(axis=0), song)
    stems[0] *= 10 ** ((rest_lufs - 3 + rng.uniform(-1.5, 1.5) - _loudness_lufs(stems[0], song)) / 20)
    stems *= _ramps(song.n_samples, song, _FADE_IN_S, _FADE_OUT_S) * 10 ** (np.reshape(balance_db, (4, 1, 1)) / 20)
    for _ in range(3):  # limiting lowers the loudness a little, so approach the target
        mixture = stems.sum(axis=0)
        makeup = 10 ** ((loudness_lufs - _loudness_lufs(mixture, song)) / 20)
        stems *= makeup * _limiter_gain(mixture * makeup, song)
    return stems


def _limiter_gain(mixture: Array, song: _Song) -> Array:
    """Find the gain (time,) that keeps the mixture under the ceiling: averaged minima never exceed what is needed."""
    window = 2 * round(_LIMITER_S * song.sample_rate / 2) + 1
    needed = np.minimum(1, _CEILING / np.maximum(np.abs(mixture).max(axis=0), 1e-9))
    return ndimage.uniform_filter1d(ndimage.minimum_filter1d(needed, window), window)


def _loudness_lufs(stem: Array, song: _Song) -> float:
    """Ungated loudness: mean power under the K-weighting of BS.1770, taken from its analogue prototypes."""
    frequency_hz, density = signal.welch(stem, song.sample_rate, nperseg=8192, detrend=False)
    s = 1j * frequency_hz / 1681.97
    shelf = (1.5849 * s**2 + 1.2587 * s / 0.7072 + 1) / (s**2 + s / 0.7072 + 1)  # +4 dB above 1.7 kHz
    s = 1j * frequency_hz / 38.135
    high_pass = s**2 / (s**2 + s / 0.5003 + 1)
    power = np.sum(density * np.abs(shelf * high_pass) ** 2) * frequency_hz[1]
    return float(-0.691 + 10 * np.log10(power))
