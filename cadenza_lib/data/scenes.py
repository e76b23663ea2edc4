"""Scenes: which song is heard by whom, at which head position and with which gains; the official sampler.

The challenge's metadata hold gain sets, head positions, scenes and scene-listener pairs as JSON objects by id. The
sampler draws the same scenes and listeners as `generate_train_scenes.py` in pyclarity's recipe: numpy's legacy
generator, seeded with the MD5 of the song's name. It has a generator of its own and leaves the global one alone.
"""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.errors import ParameterError

__all__ = [
    "GAIN_STEPS_DB", "HeadPosition", "Pair", "Scene", "choose_pairs", "gain_grid", "head_positions", "legacy_seed",
    "sample_scene_listeners", "sample_scenes", "seeded", "spread_scenes",
]  # fmt: skip

GAIN_STEPS_DB = (-10, -6, -3, 3, 6, 10)
"""Gains in dB that the challenge combines; stems that are not changed have 0 dB."""

LOUDSPEAKER_ANGLES_DEG = (22.5, 30.0, 37.5)
"""Distance of each loudspeaker from straight ahead in the challenge, in degrees."""

_FIRST_SCENE = 10001
_LISTENER_SEED = "icassp2024"  # what the official sampler seeds the choice of listeners with


@dataclass(frozen=True)
class HeadPosition:
    """A head between two loudspeakers: whose ears, the microphone in them, and angles in degrees, left negative."""

    subject: str
    left_angle: float
    right_angle: float
    mic: str = "BTE_fr"


@dataclass(frozen=True)
class Scene:
    """A song at a head position, to be remixed with a set of gains; the three are ids in the metadata."""

    music: str
    gain: str
    head_loudspeaker_positions: str

    @property
    def at_ear_song(self) -> str:
        """Name of the song at the ears: `<music>-<head position>`."""
        return f"{self.music}-{self.head_loudspeaker_positions}"


@dataclass(frozen=True)
class Pair:
    """A scene as heard by a listener: what is enhanced and scored."""

    scene: str
    listener: str


def gain_grid(steps_db: Sequence[float] = GAIN_STEPS_DB) -> dict[str, dict[str, float]]:
    """Return the challenge's gain sets by id: none changed, then every combination of one, two and three stems.

    >>> grid = gain_grid()
    >>> len(grid), grid["gain_0007"]
    (1105, {'vocals': 10, 'drums': 0, 'bass': 0, 'other': 0})
    """
    sets: list[dict[str, float]] = [dict.fromkeys(STEMS, 0)]
    for count in (1, 2, 3):
        for changed in itertools.combinations(STEMS, count):
            for gains in itertools.product(steps_db, repeat=count):
                sets.append(dict.fromkeys(STEMS, 0) | dict(zip(changed, gains, strict=True)))
    return {f"gain_{number:04d}": gains for number, gains in enumerate(sets, 1)}


def head_positions(subjects: Iterable[str]) -> dict[str, HeadPosition]:
    """Return the challenge's head positions by id: for each subject nine pairs of loudspeaker angles."""
    angles = sorted(LOUDSPEAKER_ANGLES_DEG)
    combinations = itertools.product(subjects, reversed(angles), angles)
    return {
        f"hlp_{number:04d}": HeadPosition(subject=subject, left_angle=-left, right_angle=right)
        for number, (subject, left, right) in enumerate(combinations, 1)
    }


def legacy_seed(text: str) -> int:
    """Return the challenge's seed of a song or scene: the last 8 decimal digits of its MD5.

    >>> legacy_seed("scene_10001")
    12061186
    """
    return int(hashlib.md5(text.encode("utf-8")).hexdigest(), 16) % 10**8


def seeded(*seeds: int) -> np.random.Generator:
    """Return numpy's generator of a seed, or of several seeds together.

    Raises
    ------
    ParameterError
        If a seed is negative.
    """
    if min(seeds) < 0:
        raise ParameterError(f"A seed of {min(seeds)} is negative; give 0 or more.")
    return np.random.default_rng(seeds[0] if len(seeds) == 1 else seeds)


def sample_scenes(
    songs: Iterable[str], gains: Iterable[str], positions: Iterable[str], scenes_per_song: int = 4
) -> dict[str, Scene]:
    """Draw scenes as the official sampler does: per song, gains and head positions without replacement.

    Raises
    ------
    ParameterError
        If there are fewer gains or head positions than scenes per song.
    """
    gains, positions = list(gains), list(positions)
    if not 1 <= scenes_per_song <= min(len(gains), len(positions)):
        raise ParameterError(
            f"scenes_per_song {scenes_per_song} must lie between 1 and the number of gain sets ({len(gains)}) "
            f"and head positions ({len(positions)})."
        )
    scenes: dict[str, Scene] = {}
    for song in songs:
        generator = np.random.RandomState(legacy_seed(song))
        gains_left, positions_left = gains.copy(), positions.copy()
        for _ in range(scenes_per_song):
            gain = _choose(generator, gains_left, 1)[0]
            position = _choose(generator, positions_left, 1)[0]
            gains_left.remove(gain)
            positions_left.remove(position)
            scenes[f"scene_{_FIRST_SCENE + len(scenes)}"] = Scene(song, gain, position)
    return scenes


def sample_scene_listeners(
    scenes: Iterable[str], listeners: Iterable[str], listeners_per_scene: int = 2
) -> dict[str, list[str]]:
    """Draw the listeners of each scene as the official sampler does."""
    listeners = list(listeners)
    if not 1 <= listeners_per_scene <= len(listeners):
        most = f"{len(listeners)}, the number of listeners"
        raise ParameterError(f"listeners_per_scene {listeners_per_scene} must lie between 1 and {most}.")
    generator = np.random.RandomState(legacy_seed(_LISTENER_SEED))
    return {scene: _choose(generator, listeners, listeners_per_scene) for scene in scenes}


def choose_pairs(scene_listeners: Mapping[str, Sequence[str]], n_pairs: int = 0, seed: int = 0) -> list[Pair]:
    """Return all scene-listener pairs, or a random subset of them, in the order of the metadata.

    Subsets are nested: with the same seed, a smaller one is contained in a larger one.

    Parameters
    ----------
    scene_listeners
        Listener ids by scene id.
    n_pairs
        Number of pairs, 0 for all.
    seed
        Chooses the subset.

    Raises
    ------
    ParameterError
        If `n_pairs` is negative or more than the number of pairs.
    """
    pairs = [Pair(scene, listener) for scene, listeners in scene_listeners.items() for listener in listeners]
    if not 0 <= n_pairs <= len(pairs):
        raise ParameterError(f"n_pairs {n_pairs} must lie between 0 (all) and {len(pairs)}, the number of pairs.")
    if n_pairs == 0:
        return pairs
    chosen = seeded(seed).permutation(len(pairs))[:n_pairs]
    return [pairs[index] for index in sorted(chosen)]


def spread_scenes(scenes: Mapping[str, Scene], n_scenes: int = 0) -> dict[str, Scene]:
    """Return some scenes, 0: all, at equal distances in the metadata, where those of a song follow each other.

    Raises
    ------
    ParameterError
        If `n_scenes` is negative or more than the number of scenes.
    """
    if not 0 <= n_scenes <= len(scenes):
        raise ParameterError(f"n_scenes {n_scenes} must lie between 0 (all) and {len(scenes)}, the number of scenes.")
    step = len(scenes) // n_scenes if n_scenes else 1
    return dict(list(scenes.items())[::step][: n_scenes or None])


def _choose(generator: np.random.RandomState, source: list[str], size: int) -> list[str]:
    """Choose without replacement; like the official sampler, draw nothing when all must be taken."""
    if len(source) <= size:
        return list(source)
    return [str(choice) for choice in generator.choice(source, size, replace=False)]
