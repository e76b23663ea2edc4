"""Training data: scenes in nested subsets, and random segments at the ears that depend on seed, step and place alone.

What stands at a place in the batch of a step is a pure function of (seed, step, index): a run that was stopped needs no
state of the data to go on, and any number of processes share out the same batch. A segment is read from at-ear audio
where the corpus has it, and is otherwise simulated from the dry song: only the segment and the lead-in of the
head-related responses are convolved, and the loudness gains, which the official generator measures over whole songs,
are measured once per song and head position. Either way it is the slice of the official simulation.
"""

import functools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cadenza_lib.audio.acoustics import loudspeakers_to_ears, quantise_16bit
from cadenza_lib.audio.loudness import BLOCK_S, loudness_matching_gain
from cadenza_lib.chain.fitting import linear_prescription
from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import read_json, write_json
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.data.corpus import Corpus, Split
from cadenza_lib.data.listeners import Listener
from cadenza_lib.data.scenes import Scene, sample_scene_listeners, sample_scenes, seeded
from cadenza_lib.data.songs import SIGNALS

__all__ = ["AUGMENTATIONS", "Batch", "Prefetcher", "Segments", "TrainingScene", "training_scenes"]

AUGMENTATIONS = ("swap", "flip", "remix", "gain")
"""Swap the ears, flip the sign, take each stem from a segment of its own, and change each stem's gain; in this order.

After `remix` or `gain` the mixture is the sum of the stems. The paper uses none.
"""

AUGMENTATION_GAIN_DB = 6.0
"""Largest change of a stem's gain by the augmentation."""

_LISTENERS_PER_SCENE = 2  # as in the challenge


@dataclass(frozen=True)
class TrainingScene:
    """A scene and those who hear it."""

    name: str
    scene: Scene
    listeners: tuple[str, ...]


def training_scenes(corpus: Corpus, split: Split, n_scenes: int = 0, scene_seed: int = 0) -> list[TrainingScene]:
    """Return scenes to train on, in subsets that are nested: a smaller one is the beginning of a larger one.

    The split's own scenes come first, in an order that `scene_seed` shuffles. Beyond them the training set is
    supplemented as in section 2.2 of the paper: the official sampler goes on drawing scenes of each song, so that with
    eight per song the first four stay the official ones.

    Parameters
    ----------
    corpus
        Whose gains and head positions new scenes draw from.
    split
        Whose scenes and songs are used.
    n_scenes
        Number of scenes, 0 for those of the split.
    scene_seed
        Shuffles the order, and so chooses the subset.

    Raises
    ------
    ParameterError
        If the number is negative, or larger than what the corpus gives.
    """
    own = list(split.scenes.items())
    per_song = min(len(corpus.gains), len(corpus.head_positions)) if split.songs else 0
    limit = max(len(own), len(split.songs) * per_song)
    if not 0 <= n_scenes <= limit:
        reason = "" if split.songs else ", since it has no dry songs to make more from"
        raise ParameterError(
            f"n_scenes {n_scenes} must lie between 0 (the {len(own)} scenes of split {split.name!r}) "
            f"and {limit}{reason}."
        )
    order = seeded(scene_seed, 0).permutation(len(own))
    chosen = [
        TrainingScene(name, scene, tuple(split.scene_listeners.get(name) or split.listeners))
        for name, scene in (own[index] for index in order[: n_scenes or len(own)])
    ]
    missing = n_scenes - len(chosen)
    if missing <= 0:
        return chosen
    songs = list(split.songs)
    first_round = len(own) // len(songs)
    rounds = first_round + -(-missing // len(songs))
    if rounds > per_song:
        raise ParameterError(f"n_scenes {n_scenes} is larger than the corpus: there are {per_song} scenes per song.")
    drawn = list(sample_scenes(songs, corpus.gains, corpus.head_positions, rounds).values())  # song by song
    extra: list[Scene] = []
    for number in range(first_round, rounds):  # round by round, or a larger subset would not contain a smaller one
        shuffled = seeded(scene_seed, number).permutation(len(songs))
        extra += [drawn[song * rounds + number] for song in shuffled]
    names = [f"extra_{number:04d}" for number in range(1, missing + 1)]
    heard_by = sample_scene_listeners(names, split.listeners, min(_LISTENERS_PER_SCENE, len(split.listeners)))
    return chosen + [
        TrainingScene(name, scene, tuple(heard_by[name])) for name, scene in zip(names, extra[:missing], strict=True)
    ]


@dataclass(frozen=True)
class Batch:
    """Segments at the ears, float32.

    Shape:
        - stems: `(batch, stem, channel, time)`
        - mixture: `(batch, channel, time)`
        - gains_db: `(batch, stem)`
        - firs: `(batch, channel, tap)`, the prescription's filters for a listener of each scene
        - listeners: one for each item, whose filters these are
    """

    stems: Tensor
    mixture: Tensor
    gains_db: Tensor
    firs: Tensor
    listeners: tuple[Listener, ...]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.stems)

    def chunks(self, size: int) -> Iterator["Batch"]:
        """Cut the batch into smaller ones of up to `size` items."""
        for start in range(0, len(self), size):
            yield Batch(*(getattr(self, field.name)[start : start + size] for field in fields(self)))


class Segments:
    """Random segments of training scenes.

    Parameters
    ----------
    corpus, split
        Where the songs are.
    scenes
        To draw from, each with the same probability.
    segment_s
        Length in seconds.
    seed
        With step and index, decides everything.
    augmentations
        Some of `AUGMENTATIONS`.
    device
        Where segments are simulated and batches lie.
    gain_file
        JSON file that remembers the loudness gains of whole songs by their identity (see `identity`); they take seconds
        of computing each.
    dry
        Whether segments are those of the loudspeakers instead, as if each ear heard its own.
    prescription
        Of the listeners' filters, see `fitting.PRESCRIPTIONS`; it must be linear.

    Raises
    ------
    ParameterError
        If the length or an augmentation cannot be used.
    AudioError, CorpusError
        If a song is missing, unusable or shorter than a segment.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: Split,
        scenes: Sequence[TrainingScene],
        segment_s: float,
        seed: int,
        augmentations: Sequence[str] = (),
        device: torch.device | None = None,
        gain_file: Path | None = None,
        dry: bool = False,
        prescription: str = "nal_r",
    ) -> None:
        if not BLOCK_S <= segment_s < float("inf"):
            raise ParameterError(f"segment_s {segment_s} must be at least {BLOCK_S} s, or a segment has no loudness.")
        if unknown := sorted(set(augmentations) - set(AUGMENTATIONS)):
            raise ParameterError(f"Augmentation {unknown[0]!r} is unknown; use some of {', '.join(AUGMENTATIONS)}.")
        self._corpus, self._split, self._scenes = corpus, split, list(scenes)
        self.length = round(segment_s * SAMPLE_RATE)
        self._seed, self._augmentations = seed, frozenset(augmentations)
        self._device = device or torch.device("cpu")
        self._gain_file, self._dry = gain_file, dry
        self._gains = _read_gains(gain_file) if gain_file and gain_file.exists() else {}
        self._prescription = linear_prescription(prescription, "that of training targets")
        self._firs: dict[str, Tensor] = {}
        self._song_identity = functools.cache(functools.partial(corpus.simulated_identity, split))
        self._lengths = corpus.check_songs(split, [entry.scene for entry in self._scenes], segment_s, dry)

    def batch(self, step: int, indices: Sequence[int]) -> Batch:
        """Return the items at some places of the batch of a step."""
        items = [self._item(step, index) for index in indices]
        *tensors, listeners = zip(*items, strict=True)
        stems, mixture, gains_db, firs = map(torch.stack, tensors)
        return Batch(stems, mixture, gains_db.to(self._device), firs.to(self._device), listeners)

    def segment(self, scene: Scene, start: int) -> Tensor:
        """Return a segment of a scene's song from sample `start`: at the ears, or dry.

        Shape:
            - result: `(stem + 1, channel, time)`, float32, the mixture last
        """
        stop = start + self.length
        if self._dry:
            return self._corpus.dry_excerpt(self._split, scene.music, start, stop).to(self._device, torch.float32)
        if self._corpus.has_at_ear_audio(self._split, scene):
            return self._corpus.at_ear_excerpt(self._split, scene, start, stop).to(self._device, torch.float32)
        hrtf = self._corpus.hrtf(scene.head_loudspeaker_positions)
        lead = min(start, hrtf.shape[-1] - 1)  # what the responses still hold of the time before the segment
        dry = self._corpus.dry_excerpt(self._split, scene.music, start - lead, stop).to(self._device, torch.float32)
        heard = loudspeakers_to_ears(dry, hrtf)[..., lead:]
        gains = torch.tensor(self._song_gains(scene), dtype=torch.float32, device=self._device)
        return quantise_16bit(heard * gains[:, None, None])

    def _item(self, step: int, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Listener]:
        generator = seeded(self._seed, step, index)
        entry, signals = self._draw(generator)
        name = entry.listeners[generator.integers(len(entry.listeners))]
        listener = self._split.listeners[name]
        if name not in self._firs:
            self._firs[name] = self._prescription.firs(listener).float()
        stems, mixture = self._augment(signals[:-1], signals[-1], generator)
        return stems, mixture, self._corpus.gains_db(entry.scene).float(), self._firs[name], listener

    def _draw(self, generator: np.random.Generator) -> tuple[TrainingScene, Tensor]:
        entry = self._scenes[generator.integers(len(self._scenes))]
        room = self._lengths[entry.scene.at_ear_song] - self.length
        return entry, self.segment(entry.scene, int(generator.integers(room + 1)))

    def _augment(self, stems: Tensor, mixture: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        if not self._augmentations:
            return stems, mixture
        swapped, flipped = generator.random(2) < 0.5
        if "swap" in self._augmentations and swapped:
            stems, mixture = stems.flip(-2), mixture.flip(-2)
        if "flip" in self._augmentations and flipped:
            stems, mixture = -stems, -mixture
        if "remix" in self._augmentations:
            stems = torch.stack([self._draw(generator)[1][index] for index in range(len(STEMS))])
        if "gain" in self._augmentations:
            gains_db = generator.uniform(-AUGMENTATION_GAIN_DB, AUGMENTATION_GAIN_DB, (len(STEMS), 1, 1))
            stems = stems * torch.from_numpy(10 ** (gains_db / 20)).to(stems)
        if self._augmentations & {"remix", "gain"}:
            mixture = stems.sum(-3)
        return stems, mixture

    def _song_gains(self, scene: Scene) -> list[float]:
        """Return the gains that bring each stem and the mixture at the ears to the loudness of the whole dry song."""
        key = self._song_identity(scene.music, scene.head_loudspeaker_positions)
        if key not in self._gains:
            length = self._lengths[scene.at_ear_song]
            song = self._corpus.dry_excerpt(self._split, scene.music, 0, length).float()  # exact, and twice as fast
            hrtf = self._corpus.hrtf(scene.head_loudspeaker_positions)
            # One signal after the other: four minutes of all five at once take several gigabytes.
            self._gains[key] = [
                loudness_matching_gain(loudspeakers_to_ears(dry, hrtf), dry, SAMPLE_RATE).item() for dry in song
            ]
            if self._gain_file:
                write_json(self._gain_file, dict(self._gains))
        return self._gains[key]


def _read_gains(path: Path) -> dict[str, list[float]]:
    """Read what `Segments` has written for another call."""
    content = read_json(path)
    entries = list(content.values()) if isinstance(content, dict) else [None]
    for gains in entries:
        if not (
            isinstance(gains, list)
            and len(gains) == len(SIGNALS)
            and all(type(gain) is float and gain >= 0 for gain in gains)
        ):
            raise CorpusError(
                f"{path} holds {gains!r}, not the gains of {', '.join(SIGNALS)}; move it away and start again."
            )
    return content


class Prefetcher:
    """Prepares the batches of coming steps in threads, and measures how long the training has waited for them.

    Parameters
    ----------
    segments
        Where batches come from.
    steps
        Whose batches are prepared, in their order.
    indices
        Places in the batch that this process works on.
    workers
        Number of threads.
    """

    def __init__(self, segments: Segments, steps: range, indices: Sequence[int], workers: int) -> None:
        self._segments, self._steps, self._indices, self._workers = segments, steps, indices, workers
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batch of each step as soon as it is ready."""
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="segments")
        ahead: deque[Future[Batch]] = deque()
        steps = iter(self._steps)
        try:
            while True:
                while len(ahead) <= self._workers and (step := next(steps, None)) is not None:
                    ahead.append(pool.submit(self._segments.batch, step, self._indices))
                if not ahead:
                    return
                started = time.monotonic()
                batch = ahead.popleft().result()
                self.waited_s += time.monotonic() - started
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)
