"""The embedded corpora: synthesised songs, model heads and listeners, with no download and nothing on the disk.

"demo" is small, with spherical heads and standard audiograms. "twin" is distributed like the challenge: the loudness
and the balance of its songs, its heads and its listeners; `data/README.md` lists the sources of its numbers, and which
levels were fitted. They open like any corpus in the challenge's layout: the metadata lie in `data/<name>/metadata`,
while songs are rendered from their seeds and HRTFs are computed when they are read.

    python -m cadenza_lib.data.embedded      # writes data/<name>/metadata
"""

import threading
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from cadenza_lib.audio.acoustics import quantise_16bit
from cadenza_lib.audio.heads import head_hrtf, model_heads, spherical_head_hrtf
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import write_json
from cadenza_lib.core.identity import digest
from cadenza_lib.core.paths import DATA
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.listeners import AUDIOGRAM_FREQUENCIES, listener_entry, standard_listener_entry
from cadenza_lib.data.population import sample_listeners
from cadenza_lib.data.scenes import HeadPosition, gain_grid, head_positions, sample_scene_listeners, sample_scenes
from cadenza_lib.data.songs import Song
from cadenza_lib.data.synthesis import render_song

__all__ = ["EMBEDDED_CORPORA", "SPLITS", "EmbeddedCorpus", "embedded_metadata"]

EMBEDDED_CORPORA = ("demo", "twin")
"""Names that `open_corpus` knows."""


class EmbeddedSplit(NamedTuple):
    """What a split of an embedded corpus has; seeds from 1000 are those that the checkpoints were trained on."""

    first_seed: int  # of its songs
    n_songs: int
    duration_s: float
    loudness_lufs: float | None = None  # mean over the songs; None: each as loud as the synthesiser makes it
    n_listeners: int = 0  # drawn; 0: the demo's


SPLITS = {
    "demo": {
        "train": EmbeddedSplit(1, 6, 16.0),
        "valid": EmbeddedSplit(7, 4, 12.0),
        "test": EmbeddedSplit(11, 4, 12.0),
    },
    "twin": {  # with as many listeners as in the challenge
        "train": EmbeddedSplit(1, 24, 16.0, -16.0, 83),
        "valid": EmbeddedSplit(25, 30, 12.0, -22.0, 50),
        "test": EmbeddedSplit(55, 30, 12.0, -16.0, 52),
    },
}
"""The splits of each corpus."""

_HEAD_RADII_M = {"sphere_S": 0.0800, "sphere_M": 0.0875, "sphere_L": 0.0950}  # the demo's; the middle one is average
_SONGS_IN_MEMORY = 32  # of up to 28 MB each; more than a split has
_SCENES_PER_SONG = 4  # as in the challenge
_LISTENERS_PER_SCENE = 2
_LOUDNESS_DEVIATION_LU = 1.3  # of MUSDB18-HQ's mixtures, whose mean is -16.0 LUFS
_BALANCE_DEVIATION_DB = 5.0  # of each stem: the loudness of real stems differs by 6 to 11 dB in a song
_DEMO_EARS = (  # standard audiograms of the left and the right ear
    *((name, name) for name in ("N1", "N2", "N3", "N4", "N5", "N6", "S1", "S2", "S3")),
    ("N1", "N3"),
    ("N4", "N2"),
    ("S1", "S2"),
    ("S3", "N1"),
    ("N3", "N5"),  # like the paper's L5000: 500 to 2000 Hz near 40 dB HL on the left, 70 and above on the right
)
_MORE_LISTENERS = {  # of the twin's split "valid": levels of the left and the right ear
    "normal": ([0, 0, 0, 0, 5, 5, 10, 10], [0, 5, 0, 0, 0, 5, 5, 10]),
    "like-L5000": ([35, 35, 40, 45, 50, 60, 60, 65], [65, 70, 75, 75, 75, 80, 80, 80]),
}


class EmbeddedCorpus(Corpus):
    """An embedded corpus by its name; see `Corpus` for what can be done with it."""

    is_embedded = True

    def __init__(self, name: str = "demo") -> None:
        super().__init__(DATA / name)
        self._rendered: dict[int, Tensor] = {}  # by seed, so that excerpts do not render a whole song each
        self._rendering = threading.Lock()

    @property
    def name(self) -> str:
        """The name that opens it."""
        return self.root.name

    def _dry_song(self, entry: dict[str, Any]) -> Song:
        return _SynthesisedSong(entry, self._rendered, self._rendering)

    def _hrtf(self, position: HeadPosition) -> Tensor:
        angles = position.left_angle, position.right_angle
        if position.subject in _HEAD_RADII_M:
            return spherical_head_hrtf(*angles, _HEAD_RADII_M[position.subject])
        return head_hrtf(*angles, model_heads()[position.subject])

    def _hrtf_identity(self, position: HeadPosition) -> str:
        if position.subject in _HEAD_RADII_M:
            return digest(asdict(position), _HEAD_RADII_M[position.subject])
        return digest(asdict(position), asdict(model_heads()[position.subject]))


@dataclass(frozen=True)
class _SynthesisedSong(Song):
    """A song that is rendered from the seed in its metadata."""

    entry: dict[str, Any]
    rendered: dict[int, Tensor]  # songs in memory by seed, `(stem + 1, channel, time)`, float32
    rendering: threading.Lock

    def length(self) -> int:
        return round(self.entry["Duration"] * SAMPLE_RATE)

    def check(self) -> int:
        return self.length()

    def read(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        # As if read from 16-bit files; float32 holds sums of 16-bit values exactly.
        names = {"Loudness": "loudness_lufs", "Balance": "balance_db"}
        mastering = {names[key]: value for key, value in self.entry.items() if key in names}  # of the twin's songs
        song = render_song(self.entry["Seed"], self.entry["Duration"], **mastering)
        stems = quantise_16bit(song.double()).to(dtype)
        return stems, stems.sum(0)

    def excerpt(self, start: int, stop: int) -> Tensor:
        seed = self.entry["Seed"]
        with self.rendering:
            if seed not in self.rendered:
                stems, mixture = self.read(torch.float32)
                while len(self.rendered) >= _SONGS_IN_MEMORY:
                    self.rendered.pop(next(iter(self.rendered)))
                self.rendered[seed] = torch.cat([stems, mixture[None]])
            return self.rendered[seed][..., start:stop].double()

    def identity(self) -> str:
        return digest([self.entry.get(name) for name in ("Seed", "Duration", "Loudness", "Balance")])


def embedded_metadata(corpus: str) -> dict[str, Any]:
    """Return the content of `data/<corpus>/metadata` by file name."""
    subjects, mic = (_HEAD_RADII_M, "sphere") if corpus == "demo" else (model_heads(), "model")
    gains, positions = gain_grid(), head_positions(subjects)
    files: dict[str, Any] = {
        "gains.json": gains,
        "head_loudspeaker_positions.json": {
            name: asdict(position) | {"mic": mic} for name, position in positions.items()
        },
    }
    for name, split in SPLITS[corpus].items():
        songs, listeners = _songs(corpus, name, split), _listeners(name, split)
        scenes = sample_scenes([song["Track Name"] for song in songs], gains, positions, _SCENES_PER_SONG)
        files[f"musdb18.{name}.json"] = songs
        files[f"scenes.{name}.json"] = {scene_id: asdict(scene) for scene_id, scene in scenes.items()}
        files[f"listeners.{name}.json"] = listeners
        files[f"scene_listeners.{name}.json"] = sample_scene_listeners(scenes, listeners, _LISTENERS_PER_SCENE)
    return files


def _songs(corpus: str, name: str, split: EmbeddedSplit) -> list[dict[str, Any]]:
    """Return the metadata of a split's songs."""
    titles = [
        (f"{corpus.title()} Song {seed:02d}", seed)
        for seed in range(split.first_seed, split.first_seed + split.n_songs)
    ]
    songs: list[dict[str, Any]] = [
        {"Track Name": title, "Split": name, "Path": f"{name}/{title}", "Seed": seed, "Duration": split.duration_s}
        for title, seed in titles
    ]
    if split.loudness_lufs is not None:
        generator = np.random.default_rng(split.first_seed)
        deviations = norm.ppf((generator.permutation(split.n_songs) + 0.5) / split.n_songs)
        levels = split.loudness_lufs + _LOUDNESS_DEVIATION_LU * deviations
        balances = _BALANCE_DEVIATION_DB * np.clip(generator.normal(size=(split.n_songs, len(STEMS))), -2, 2)
        for song, level, balance in zip(songs, levels, balances, strict=True):
            song |= {"Loudness": round(float(level), 1), "Balance": balance.round(1).tolist()}
    return songs


def _listeners(name: str, split: EmbeddedSplit) -> dict[str, dict[str, Any]]:
    """Return the listeners of a split as the challenge's files hold them."""
    if not split.n_listeners:
        names = {left if left == right else f"{left}-{right}": (left, right) for left, right in _DEMO_EARS}
        return {name: standard_listener_entry(name, *ears) for name, ears in names.items()}
    more = _MORE_LISTENERS if name == "valid" else {}
    return sample_listeners(split.n_listeners, split.first_seed, prefix=name) | {
        extra: listener_entry(extra, AUDIOGRAM_FREQUENCIES, *ears) for extra, ears in more.items()
    }


if __name__ == "__main__":
    for corpus_name in EMBEDDED_CORPORA:
        for file_name, metadata in embedded_metadata(corpus_name).items():
            write_json(DATA / corpus_name / "metadata" / file_name, metadata)
