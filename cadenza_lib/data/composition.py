"""What the players of a synthesised song agree on, and what they play: key, chords, form, rhythms and melody."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

__all__ = ["CONSONANTS", "STEPS", "Song", "Syllable", "arpeggio", "comping", "held_chords", "plan_song", "write_melody"]

_LEAD_IN_S = 0.03  # before the first beat, so that its attack is not faded away
STEPS = 16  # sixteenth notes in a bar
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
_COMP_RHYTHMS = ("..x...x...x...x.", "x..x..x.....x...", "x.....x...x.....", "....x..x....x...")
_VERSE_RHYTHMS = ((4, 2, 2, 4, 4), (6, 2, 4, 4), (2, 2, 2, 2, 4, 4), (3, 3, 2, 4, 4), (2, 2, 4, 6, 2))  # sixteenths
_CADENCE_RHYTHMS = ((4, 4, 6, -2), (2, 2, 4, 6, -2), (6, 2, 5, -3), (2, 2, 2, 8, -2))  # negative: rest and breath
CONSONANTS = {  # noise band in Hz, length in s, level re the voice; m and n colour the vowel instead
    "s": (5000, 9500, 0.09, 0.35),
    "sh": (2300, 6500, 0.1, 0.4),
    "t": (3000, 8500, 0.03, 0.6),
    "k": (1400, 3200, 0.035, 0.6),
    "m": None,
    "": None,
}


@dataclass(frozen=True)
class _Bar:
    """What all players share about a bar."""

    chord: tuple[int, ...]  # scale degrees, root first
    section: str  # intro, verse or break
    fill: bool  # drums end the bar with a fill


@dataclass(frozen=True)
class Song:
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
        """Return the time of a step of a bar, swung."""
        late = self.swing if int(step) // self.swing_unit % 2 else 0.0
        return _LEAD_IN_S + (bar * STEPS + step + late) * self.step_s

    def midi_note(self, degree: int) -> int:
        """Return the MIDI note of a scale degree; degree 0 is the tonic of the lowest octave."""
        return self.tonic + 12 * (degree // 7) + self.scale[degree % 7]

    def degree_near(self, midi_note: float) -> int:
        """Return the scale degree about as high as a MIDI note."""
        return round((midi_note - self.tonic) * 7 / 12)

    def voicing(self, chord: Sequence[int], centre: int) -> list[int]:
        """Return the MIDI notes of a chord, each in the octave around `centre`, lowest first."""
        low = centre - 6
        return sorted(low + (self.midi_note(degree) - low) % 12 for degree in chord)


@dataclass(frozen=True)
class Syllable:
    """One sung note."""

    start_s: float
    end_s: float
    degree: int
    vowel: int
    consonant: str
    starts_phrase: bool


def plan_song(rng: Generator, duration_s: float, sample_rate: int) -> Song:
    """Choose what the players must agree on."""
    step_s = 15 / rng.uniform(80, 140)  # a quarter of 60 s / bpm
    n_bars = int(np.ceil(duration_s / (step_s * STEPS)))
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
    return Song(
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


def write_melody(song: Song, rng: Generator, centre: int) -> list[Syllable]:
    """Write two-bar phrases from two motifs that return over new chords; strong beats snap to chord tones."""
    rhythms = [_VERSE_RHYTHMS[rng.integers(5)], _CADENCE_RHYTHMS[rng.integers(4)]]
    contours = [rng.integers(-2, 3, size=8) for _ in rhythms]
    middle = song.degree_near(centre)
    degree, melody, after_rest = middle + int(rng.integers(0, 3)), list[Syllable](), True
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
                consonant = str(rng.choice(list(CONSONANTS)))
                melody.append(Syllable(start_s, end_s, degree, int(rng.integers(5)), consonant, after_rest))
            after_rest = length < 0
            step += abs(length)
    return melody


def _in_chord(degree: int, bar: _Bar) -> bool:
    """Tell whether a scale degree belongs to the bar's chord in any octave."""
    return degree % 7 in {tone % 7 for tone in bar.chord}


def held_chords(song: Song, rng: Generator) -> list[tuple[float, float, int]]:
    """Hold the chord of each bar; a note is (start in s, length in s, MIDI note)."""
    centre = int(rng.integers(57, 65))
    bar_s = STEPS * song.step_s
    return [
        (song.time_s(index, 0), bar_s * 1.04, note)
        for index, bar in enumerate(song.bars)
        for note in song.voicing(bar.chord, centre)
    ]


def comping(song: Song, rng: Generator) -> list[tuple[float, float, int]]:
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


def arpeggio(song: Song, rng: Generator) -> list[tuple[float, float, int]]:
    """Break the chords into eighths or sixteenths over two octaves; some notes are left out."""
    centre, stride = int(rng.integers(60, 68)), int(rng.choice([1, 2, 2]))
    order = str(rng.choice(["up", "down", "both"]))
    notes = []
    for index, bar in enumerate(song.bars):
        tones = [note + octave for octave in (0, 12) for note in song.voicing(bar.chord, centre)]
        tones = {"up": tones, "down": tones[::-1], "both": tones + tones[-2:0:-1]}[order]
        for k, step in enumerate(range(0, STEPS, stride)):
            if rng.random() < 0.9:
                notes.append((song.time_s(index, step), 3.5 * song.step_s, tones[k % len(tones)]))
    return notes
