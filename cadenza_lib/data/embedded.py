"""The twin, an embedded corpus: synthesised songs, model heads and drawn listeners, without any download.

It is distributed like the challenge: the loudness and the balance of its songs, its heads and its listeners.
`data/README.md` lists the sources of its numbers, and which levels were fitted. It opens like any corpus in the
challenge's layout: the metadata lie in `data/twin/metadata`, while songs are rendered from their seeds and HRTFs are
computed when they are read.

    python -m cadenza_lib.data.embedded      # writes data/twin/metadata
"""

import threading
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from cadenza_lib.audio.acoustics import quantise_16bit
from cadenza_lib.audio.heads import head_hrtf, model_heads
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import write_json
from cadenza_lib.core.identity import digest
from cadenza_lib.core.paths import DATA
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.listeners import AUDIOGRAM_FREQUENCIES, listener_entry
from cadenza_lib.data.population import sample_listeners
from cadenza_lib.data.scenes import HeadPosition, gain_grid, head_positions, sample_scene_listeners, sample_scenes
from cadenza_lib.data.songs import Song
from cadenza_lib.data.synthesis import render_song

__all__ = ["SPLITS", "EmbeddedCorpus", "embedded_metadata"]


class EmbeddedSplit(NamedTuple):
    """What a split has; seeds from 1000 are those that the checkpoints were trained on."""

    first_seed: int  # of its songs
    n_songs: int
    duration_s: float
    loudness_lufs: float  # mean over the songs
    n_listeners: int


SPLITS = {
    "train": EmbeddedSplit(1, 24, 16.0, -16.0, 83),
    "valid": EmbeddedSplit(25, 30, 12.0, -22.0, 50),
    "test": EmbeddedSplit(55, 30, 12.0, -16.0, 52),
}
"""The splits by name, with as many listeners as in the challenge."""

_ROOT = DATA / "twin"
_SONGS_IN_MEMORY = 32  # of up to 28 MB each; more than a split has
_SCENES_PER_SONG = 4  # as in the challenge
_LISTENERS_PER_SCENE = 2
_LOUDNESS_DEVIATION_LU = 1.3  # of MUSDB18-HQ's mixtures, whose mean is -16.0 LUFS
_BALANCE_DEVIATION_DB = 5.0  # of each stem: the loudness of real stems differs by 6 to 11 dB in a song
_MORE_LISTENERS = {  # of the split "valid": levels of the left and the right ear
    "normal": ([0, 0, 0, 0, 5, 5, 10, 10], [0, 5, 0, 0, 0, 5, 5, 10]),
    "like-L5000": ([35, 35, 40, 45, 50, 60, 60, 65], [65, 70, 75, 75, 75, 80, 80, 80]),
}


class EmbeddedCorpus(Corpus):
    """The twin; see `Corpus` for what can be done with it."""

    is_embedded = True

    def __init__(self) -> None:
        super().__init__(_ROOT)
        self._rendered: dict[int, Tensor] = {}  # by seed, so that excerpts do not render a whole song each
        self._rendering = threading.Lock()

    @property
    def name(self) -> str:
        """The name that opens it."""
        return self.root.name

    def _dry_song(self, entry: dict[str, Any]) -> Song:
        return _SynthesisedSong(entry, self._rendered, self._rendering)

    def _hrtf(self, position: HeadPosition) -> Tensor:
        return head_hrtf(position.left_angle, position.right_angle, model_heads()[position.subject])

    def _hrtf_identity(self, position: HeadPosition) -> str:
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
        entry = self.entry
        song = render_song(
            entry["Seed"], entry["Duration"], loudness_lufs=entry["Loudness"], balance_db=entry["Balance"]
        )
        stems = quantise_16bit(song.double()).to(dtype)
        return stems, stems.sum(0)

    def mixture(self) -> Tensor:
        return self.read(torch.float64)[1]

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
        return digest([self.entry[name] for name in ("Seed", "Duration", "Loudness", "Balance")])


def embedded_metadata() -> dict[str, Any]:
    """Return the content of `data/twin/metadata` by file name."""
    gains, positions = gain_grid(), head_positions(model_heads())
    files: dict[str, Any] = {
        "gains.json": gains,
        "head_loudspeaker_positions.json": {
            name: asdict(position) | {"mic": "model"} for name, position in positions.items()
        },
    }
    for name, split in SPLITS.items():
        songs, listeners = _songs(name, split), _listeners(name, split)
        scenes = sample_scenes([song["Track Name"] for song in songs], gains, positions, _SCENES_PER_SONG)
        files[f"musdb18.{name}.json"] = songs
        files[f"scenes.{name}.json"] = {scene_id: asdict(scene) for scene_id, scene in scenes.items()}
        files[f"listeners.{name}.json"] = listeners
        files[f"scene_listeners.{name}.json"] = sample_scene_listeners(scenes, listeners, _LISTENERS_PER_SCENE)
    return files


def _songs(name: str, split: EmbeddedSplit) -> list[dict[str, Any]]:
    """Return the metadata of a split's songs."""
    generator = np.random.default_rng(split.first_seed)
    deviations = norm.ppf((generator.permutation(split.n_songs) + 0.5) / split.n_songs)
    levels = split.loudness_lufs + _LOUDNESS_DEVIATION_LU * deviations
    balances = _BALANCE_DEVIATION_DB * np.clip(generator.normal(size=(split.n_songs, len(STEMS))), -2, 2)
    songs = []
    for seed, (level, balance) in enumerate(zip(levels, balances, strict=True), split.first_seed):
        title = f"Twin Song {seed:02d}"
        song: dict[str, Any] = {"Track Name": title, "Split": name, "Path": f"{name}/{title}", "Seed": seed}
        song |= {"Duration": split.duration_s, "Loudness": round(float(level), 1), "Balance": balance.round(1).tolist()}
        songs.append(song)
    return songs


def _listeners(name: str, split: EmbeddedSplit) -> dict[str, dict[str, Any]]:
    """Return the listeners of a split as the challenge's files hold them."""
    more = _MORE_LISTENERS if name == "valid" else {}
    return sample_listeners(split.n_listeners, split.first_seed, prefix=name) | {
        extra: listener_entry(extra, AUDIOGRAM_FREQUENCIES, *ears) for extra, ears in more.items()
    }


if __name__ == "__main__":
    for file_name, metadata in embedded_metadata().items():
        write_json(_ROOT / "metadata" / file_name, metadata)
