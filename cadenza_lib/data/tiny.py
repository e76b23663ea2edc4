"""The smallest listener, song and corpus that go through the whole chain, for tests and doctests."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from cadenza_lib.audio.acoustics import hrtf_files, quantise_16bit
from cadenza_lib.audio.heads import head_hrtf
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.documents import write_json
from cadenza_lib.core.files import make_directory
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.data.listeners import (
    BISGAARD_FREQUENCIES,
    BISGAARD_THRESHOLDS_DB_HL,
    Listener,
    listener_entry,
    standard_audiogram,
)
from cadenza_lib.data.scenes import gain_grid, head_positions, sample_scene_listeners, sample_scenes
from cadenza_lib.data.songs import SIGNALS

__all__ = ["tiny_corpus", "tiny_listener", "tiny_song"]


def tiny_listener() -> Listener:
    """Return a listener with a mild loss on the left and a moderate one on the right."""
    return Listener(standard_audiogram("N2"), standard_audiogram("N3"), id="tiny")


def tiny_song(duration_s: float = 1.0, seed: int = 0) -> AtEarSong:
    """Return an at-ear song of four noisy tones.

    >>> tiny_song().stems.shape
    torch.Size([4, 2, 44100])
    """
    stems = _tiny_stems(duration_s, seed)
    return AtEarSong(name="tiny", stems=stems, mixture=stems.sum(0))


def tiny_corpus(root: Path | str, duration_s: float = 1.0) -> Path:
    """Write a corpus of two songs, one head, two listeners and a split "train" in the challenge's layout.

    Returns
    -------
    Path
        The corpus directory, for `Corpus`.
    """
    root = make_directory(root)
    songs = {f"Tiny {seed}": _tiny_stems(duration_s, seed) for seed in (1, 2)}
    gains = dict(list(gain_grid((-6, 6)).items())[:9])
    positions = head_positions(["mean"])
    listeners = {
        name: listener_entry(name, BISGAARD_FREQUENCIES, *(BISGAARD_THRESHOLDS_DB_HL[ear] for ear in ears))
        for name, ears in {"A": ("N2", "N3"), "B": ("S1", "N1")}.items()
    }
    scenes = sample_scenes(songs, gains, positions, 2)
    metadata = {
        "gains.json": gains,
        "head_loudspeaker_positions.json": {name: asdict(position) for name, position in positions.items()},
        "listeners.train.json": listeners,
        "musdb18.train.json": [{"Track Name": name, "Split": "train", "Path": f"train/{name}"} for name in songs],
        "scenes.train.json": {name: asdict(scene) for name, scene in scenes.items()},
        "scene_listeners.train.json": sample_scene_listeners(scenes, listeners, 1),
    }
    for name, content in metadata.items():
        write_json(root / "metadata" / name, content)
    for name, stems in songs.items():
        folder = make_directory(root / "audio" / "music" / "train" / name)
        for signal, samples in zip(SIGNALS, (*stems, stems.sum(0)), strict=True):
            soundfile.write(folder / f"{signal}.wav", samples.numpy().T, SAMPLE_RATE, subtype="PCM_16")
    folder = make_directory(root / "audio" / "hrtf")
    for position in positions.values():
        angles = (position.left_angle, position.right_angle)
        files = hrtf_files(folder, position.mic, position.subject, *angles)
        for path, ears in zip(files, head_hrtf(*angles), strict=True):
            soundfile.write(path, ears.numpy().T, SAMPLE_RATE, subtype="FLOAT")
    return root


def _tiny_stems(duration_s: float, seed: int) -> Tensor:
    """Return four stems `(stem, channel, time)`, each a tone in broadband noise, float64, 16-bit values."""
    generator = np.random.default_rng(seed)
    time_s = np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    frequency = np.array([440.0, 2000.0, 80.0, 660.0]) * generator.uniform(0.9, 1.1, 4)
    tones = 0.08 * np.sin(2 * np.pi * frequency[:, None, None] * time_s)
    noise = 0.05 * generator.normal(size=(4, 2, len(time_s)))
    return quantise_16bit(torch.from_numpy(tones + noise))
