"""The embedded corpora: synthesised songs, model heads and listeners, with no download and nothing on disk.

"demo" is small, with spherical heads and standard audiograms; "twin" is distributed like the challenge (see `twin`).
They open like any corpus in the challenge's layout: the metadata lie in `data/<name>/metadata`, while songs are
rendered from their seeds and HRTFs are computed when they are read. The `tiny_*` factories make the smallest inputs
that go through the whole chain, for tests and doctests.
"""

import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from cadenza_lib.audio.acoustics import hrtf_file_name, quantise_16bit, spherical_head_hrtf
from cadenza_lib.audio.heads import head_hrtf, model_heads
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import write_json
from cadenza_lib.core.files import make_directory
from cadenza_lib.core.identity import digest
from cadenza_lib.core.paths import DATA
from cadenza_lib.data.corpus import AtEarSong, Corpus
from cadenza_lib.data.listeners import BISGAARD_FREQUENCIES, Listener, listener_entry, standard_audiogram
from cadenza_lib.data.scenes import HeadPosition, gain_grid, head_positions, sample_scene_listeners, sample_scenes
from cadenza_lib.data.synthesis import render_song

__all__ = [
    "EMBEDDED_CORPORA",
    "HEAD_RADII_M",
    "SPLITS",
    "DemoCorpus",
    "demo_metadata",
    "open_corpus",
    "tiny_corpus",
    "tiny_listener",
    "tiny_song",
]

EMBEDDED_CORPORA = ("demo", "twin")
"""Names that `open_corpus` knows."""

SPLITS = {"train": (1, 6, 16.0), "valid": (7, 4, 12.0), "test": (11, 4, 12.0)}
"""First seed, number of songs and their duration in seconds. The demo checkpoints were trained on seeds from 1000."""

HEAD_RADII_M = {"sphere_S": 0.0800, "sphere_M": 0.0875, "sphere_L": 0.0950}
"""The demo's subjects: spherical heads, the middle one of average size."""

_SONGS_IN_MEMORY = 32  # of up to 28 MB each; more than a split has
_SCENES_PER_SONG = 4  # as in the challenge
_LISTENERS_PER_SCENE = 2
_EAR_PAIRS = (
    *((name, name) for name in ("N1", "N2", "N3", "N4", "N5", "N6", "S1", "S2", "S3")),
    ("N1", "N3"),
    ("N4", "N2"),
    ("S1", "S2"),
    ("S3", "N1"),
    ("N3", "N5"),  # like the paper's L5000: 500 to 2000 Hz near 40 dB HL on the left, 70 and above on the right
)


class DemoCorpus(Corpus):
    """An embedded corpus by its name; see `Corpus` for what can be done with it."""

    def __init__(self, name: str = "demo") -> None:
        super().__init__(DATA / name)
        self._rendered: dict[int, Tensor] = {}  # by seed: excerpts must not render a whole song each
        self._rendering = threading.Lock()

    @property
    def name(self) -> str:
        """The name that opens it."""
        return self.root.name

    def _read_song(self, entry: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        # As if read from 16-bit files; float32 holds sums of 16-bit values exactly.
        names = {"Loudness": "loudness_lufs", "Balance": "balance_db"}
        mastering = {names[key]: value for key, value in entry.items() if key in names}  # of the twin's songs
        stems = quantise_16bit(render_song(entry["Seed"], entry["Duration"], **mastering).double()).to(dtype)
        return stems, stems.sum(0)

    def _read_dry_excerpt(self, entry: dict[str, Any], start: int, stop: int) -> Tensor:
        return self._song_in_memory(entry)[..., start:stop].double()

    def _dry_length(self, entry: dict[str, Any]) -> int:
        return round(entry["Duration"] * SAMPLE_RATE)

    def _check_dry_song(self, entry: dict[str, Any]) -> int:
        return self._dry_length(entry)

    def _song_in_memory(self, entry: dict[str, Any]) -> Tensor:
        """Return stems and mixture, `(stem + 1, channel, time)`, float32."""
        with self._rendering:
            if entry["Seed"] not in self._rendered:
                stems, mixture = self._read_song(entry, torch.float32)
                while len(self._rendered) >= _SONGS_IN_MEMORY:
                    self._rendered.pop(next(iter(self._rendered)))
                self._rendered[entry["Seed"]] = torch.cat([stems, mixture[None]])
            return self._rendered[entry["Seed"]]

    def _dry_identity(self, entry: dict[str, Any]) -> str:
        return digest([entry.get(name) for name in ("Seed", "Duration", "Loudness", "Balance")])

    def _hrtf_identity(self, position: HeadPosition) -> str:
        if position.subject in HEAD_RADII_M:
            return digest(asdict(position), HEAD_RADII_M[position.subject])
        return digest(asdict(position), asdict(model_heads()[position.subject]))

    def _read_hrtf(self, position: HeadPosition) -> Tensor:
        angles = position.left_angle, position.right_angle
        if position.subject in HEAD_RADII_M:
            return spherical_head_hrtf(*angles, HEAD_RADII_M[position.subject])
        return head_hrtf(*angles, model_heads()[position.subject])


def open_corpus(corpus: str | Path) -> Corpus:
    """Open an embedded corpus, "demo" or "twin", or the one at a path.

    Raises
    ------
    CorpusError
        If there is no usable corpus at the path.
    """
    return DemoCorpus(str(corpus)) if corpus in EMBEDDED_CORPORA else Corpus(corpus)


def demo_metadata() -> dict[str, Any]:
    """Return the content of `data/demo/metadata` by file name; `python -m cadenza_lib.data.demo` writes it."""
    gains = gain_grid()
    positions = head_positions(HEAD_RADII_M)
    listeners = {name: _standard_listener(name, left, right) for name, left, right in _named_ear_pairs()}
    files: dict[str, Any] = {
        "gains.json": gains,
        "head_loudspeaker_positions.json": {
            name: asdict(position) | {"mic": "sphere"} for name, position in positions.items()
        },
    }
    for split, (first_seed, count, duration_s) in SPLITS.items():
        songs: list[dict[str, Any]] = [
            {
                "Track Name": f"Demo Song {seed:02d}",
                "Split": split,
                "Path": f"{split}/Demo Song {seed:02d}",
                "Seed": seed,
                "Duration": duration_s,
            }
            for seed in range(first_seed, first_seed + count)
        ]
        scenes = sample_scenes([song["Track Name"] for song in songs], gains, positions, _SCENES_PER_SONG)
        files[f"musdb18.{split}.json"] = songs
        files[f"scenes.{split}.json"] = {name: asdict(scene) for name, scene in scenes.items()}
        files[f"listeners.{split}.json"] = listeners
        files[f"scene_listeners.{split}.json"] = sample_scene_listeners(scenes, listeners, _LISTENERS_PER_SCENE)
    return files


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
    positions = head_positions(["sphere_M"])
    listeners = {
        name: _standard_listener(name, left, right) for name, left, right in (("A", "N2", "N3"), ("B", "S1", "N1"))
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
        for stem, signal in zip((*STEMS, "mixture"), (*stems, stems.sum(0)), strict=True):
            soundfile.write(folder / f"{stem}.wav", signal.numpy().T, SAMPLE_RATE, subtype="PCM_16")
    folder = make_directory(root / "audio" / "hrtf")
    for position in positions.values():
        hrtf = spherical_head_hrtf(position.left_angle, position.right_angle)
        for angle, ears in zip((position.left_angle, position.right_angle), hrtf, strict=True):
            path = folder / hrtf_file_name(position.mic, position.subject, angle)
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


def _named_ear_pairs() -> list[tuple[str, str, str]]:
    """Return name, left and right standard audiogram of the demo's listeners."""
    return [(left if left == right else f"{left}-{right}", left, right) for left, right in _EAR_PAIRS]


def _standard_listener(name: str, left: str, right: str) -> dict[str, Any]:
    """Return a listener with two standard audiograms as the challenge's files hold it."""
    levels = [standard_audiogram(ear).levels.tolist() for ear in (left, right)]
    return listener_entry(name, [float(frequency) for frequency in BISGAARD_FREQUENCIES], *levels)


if __name__ == "__main__":
    for file_name, metadata in demo_metadata().items():
        write_json(DATA / "demo" / "metadata" / file_name, metadata)
