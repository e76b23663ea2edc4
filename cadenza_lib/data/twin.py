"""The twin: an embedded corpus that is distributed like the challenge, so that what is found there can be seen in it.

Songs are the demo's, synthesised from seeds, with the loudness and the balance of real ones; heads are those of
`heads.model_heads`; listeners are drawn with the challenge's distribution of hearing losses. `data/README.md` tells
what was taken from where, and which levels were fitted.

    python -m cadenza_lib.data.twin      # writes data/twin/metadata
"""

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from cadenza_lib.audio.heads import model_heads
from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.documents import write_json
from cadenza_lib.core.paths import DATA
from cadenza_lib.data.listeners import (
    BISGAARD_FREQUENCIES,
    BISGAARD_THRESHOLDS_DB_HL,
    PTA4_FREQUENCIES,
    listener_entry,
)
from cadenza_lib.data.scenes import gain_grid, head_positions, sample_scene_listeners, sample_scenes

__all__ = ["AUDIOGRAM_FREQUENCIES", "SPLITS", "TwinSplit", "sample_listeners", "twin_metadata"]


class TwinSplit(NamedTuple):
    """What a split of the twin has."""

    first_seed: int  # of its songs
    n_songs: int
    duration_s: float
    loudness_lufs: float  # mean over the songs
    n_listeners: int


SPLITS = {
    "train": TwinSplit(1, 24, 16.0, -16.0, 83),
    "valid": TwinSplit(25, 30, 12.0, -22.0, 50),
    "test": TwinSplit(55, 30, 12.0, -16.0, 52),
}
"""As many listeners as in the challenge. `data/README.md` tells which levels were fitted, and to what. The checkpoints
were trained on songs of seeds from 1000."""

AUDIOGRAM_FREQUENCIES = (250, 500, 1000, 2000, 3000, 4000, 6000, 8000)
"""Frequencies of the twin's audiograms in Hz, those of the challenge."""

_LOUDNESS_DEVIATION_LU = 1.3  # of MUSDB18-HQ's mixtures, whose mean is -16.0 LUFS
_BALANCE_DEVIATION_DB = 5.0  # of each stem: the loudness of real stems differs by 6 to 11 dB in a song
_SCENES_PER_SONG = 4
_LISTENERS_PER_SCENE = 2
_BETTER_EAR_SHARES = {25: 0.11, 30: 0.37, 40: 0.34, 50: 0.18}  # by lower end in dB HL; the challenge's, up to 60
_ASYMMETRY_DB = 7.0  # mean difference between the ears' averages; exponential, so 6 % have 20 dB and more
_TILT_DB, _EAR_TILT_DB = 16.0, 5.0  # deviations from 500 Hz to 4 kHz; the first is common to both ears
_RIPPLE_DB, _EAR_RIPPLE_DB = 4.0, 4.0  # deviations at each frequency, the first common to both ears
_LOUDEST_THRESHOLD_DB_HL = 80.0  # as in the challenge
_MORE_LISTENERS = {  # of the split "valid": levels of the left and the right ear
    "normal": ([0, 0, 0, 0, 5, 5, 10, 10], [0, 5, 0, 0, 0, 5, 5, 10]),
    # like the paper's L5000: 500 to 2000 Hz near 40 dB HL on the left, 70 and above on the right
    "like-L5000": ([35, 35, 40, 45, 50, 60, 60, 65], [65, 70, 75, 75, 75, 80, 80, 80]),
}


def twin_metadata() -> dict[str, Any]:
    """Return the content of `data/twin/metadata` by file name."""
    gains = gain_grid()
    positions = head_positions(model_heads())
    files: dict[str, Any] = {
        "gains.json": gains,
        "head_loudspeaker_positions.json": {
            name: asdict(position) | {"mic": "model"} for name, position in positions.items()
        },
    }
    for name, split in SPLITS.items():
        generator = np.random.default_rng(split.first_seed)
        deviations = norm.ppf((generator.permutation(split.n_songs) + 0.5) / split.n_songs)
        levels = split.loudness_lufs + _LOUDNESS_DEVIATION_LU * deviations
        balances = _BALANCE_DEVIATION_DB * np.clip(generator.normal(size=(split.n_songs, len(STEMS))), -2, 2)
        songs: list[dict[str, Any]] = [
            {
                "Track Name": f"Twin Song {seed:02d}",
                "Split": name,
                "Path": f"{name}/Twin Song {seed:02d}",
                "Seed": seed,
                "Duration": split.duration_s,
                "Loudness": round(float(level), 1),
                "Balance": balance.round(1).tolist(),
            }
            for seed, (level, balance) in enumerate(zip(levels, balances, strict=True), split.first_seed)
        ]
        listeners = sample_listeners(split.n_listeners, split.first_seed, prefix=name)
        if name == "valid":
            listeners |= {
                extra: listener_entry(extra, AUDIOGRAM_FREQUENCIES, *ears) for extra, ears in _MORE_LISTENERS.items()
            }
        scenes = sample_scenes([song["Track Name"] for song in songs], gains, positions, _SCENES_PER_SONG)
        files[f"musdb18.{name}.json"] = songs
        files[f"scenes.{name}.json"] = {scene_id: asdict(scene) for scene_id, scene in scenes.items()}
        files[f"listeners.{name}.json"] = listeners
        files[f"scene_listeners.{name}.json"] = sample_scene_listeners(scenes, listeners, _LISTENERS_PER_SCENE)
    return files


def sample_listeners(count: int, seed: int, prefix: str = "listener") -> dict[str, dict[str, Any]]:
    """Draw listeners with the challenge's distribution of hearing losses, as its files hold them.

    A person's audiogram is the standard one, N1 to N6, of the pure-tone average that was drawn (Bisgaard, Vlaming and
    Dahlquist 2010; see `listeners.BISGAARD_THRESHOLDS_DB_HL`), tilted and rippled at random, in steps of 5 dB.
    """
    generator = np.random.default_rng(seed)
    borders = np.cumsum([0, *_BETTER_EAR_SHARES.values()])
    listeners = {}
    for number in range(count):
        decade = np.searchsorted(borders, (number + 0.5) / count, side="right") - 1
        low = list(_BETTER_EAR_SHARES)[decade]
        better = -1.0
        while not low <= better < (low // 10 + 1) * 10:
            ears = _draw_ears(generator, generator.uniform(low, (low // 10 + 1) * 10))
            better = min(_pure_tone_average(ear) for ear in ears)
        name = f"{prefix}{number + 1:02d}"
        listeners[name] = listener_entry(name, AUDIOGRAM_FREQUENCIES, *(ear.tolist() for ear in ears))
    return listeners


def _draw_ears(generator: np.random.Generator, average_db_hl: float) -> list[NDArray[np.float64]]:
    """Draw the thresholds of both ears, of which the better one has about the average."""
    octaves = np.log2(np.array(AUDIOGRAM_FREQUENCIES) / 1414) / 3  # 1 from 500 Hz to 4 kHz, 0 in the middle
    tilt, ripple = _TILT_DB * generator.normal(), _RIPPLE_DB * generator.normal(size=len(octaves))
    averages = average_db_hl + np.array([0, generator.exponential(_ASYMMETRY_DB)])
    ears = []
    for average in generator.permutation(averages):
        shape = (tilt + _EAR_TILT_DB * generator.normal()) * octaves
        shape += ripple + _EAR_RIPPLE_DB * generator.normal(size=len(octaves))
        ears.append(np.clip(5 * np.round(_standard_thresholds(average, shape) / 5), 0, _LOUDEST_THRESHOLD_DB_HL))
    return ears


def _standard_thresholds(average_db_hl: float, shape: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard audiogram of a pure-tone average, interpolated, plus a shape that leaves the average."""
    table = np.array([BISGAARD_THRESHOLDS_DB_HL[f"N{number}"] for number in range(1, 7)])
    table = table[:, np.isin(BISGAARD_FREQUENCIES, AUDIOGRAM_FREQUENCIES)]
    thresholds = [np.interp(average_db_hl, [*map(_pure_tone_average, table)], column) for column in table.T]
    return np.array(thresholds) + shape - _pure_tone_average(shape)


def _pure_tone_average(thresholds: NDArray[np.float64]) -> float:
    """Return the average of `PTA4_FREQUENCIES` of thresholds at `AUDIOGRAM_FREQUENCIES`."""
    return float(thresholds[np.isin(AUDIOGRAM_FREQUENCIES, PTA4_FREQUENCIES)].mean())


if __name__ == "__main__":
    for file_name, metadata in twin_metadata().items():
        write_json(DATA / "twin" / "metadata" / file_name, metadata)
