"""What a run costs before it is made: songs, separations, HAAQI scores and training steps, and seconds on this machine.

How much a notebook computes follows from its parameters; `_NOTEBOOKS` tells it for each notebook that works for longer
than it takes to start. How long that takes here is measured in a few seconds, on short signals, with the corpus and the
networks that the run will use.
"""

import contextlib
import functools
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from demucs.hdemucs import HDemucs

from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.processes import child_environment
from cadenza_lib.data.corpus import Corpus, Split
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.tiny import tiny_listener, tiny_song
from cadenza_lib.scoring import evaluation
from cadenza_lib.separation import separators
from cadenza_lib.separation.openunmix import OpenUnmix
from cadenza_lib.separation.pretrained import PRETRAINED_MODELS
from cadenza_lib.training.finetuning import separate_segments

__all__ = ["Calibration", "Work", "work_of"]

_SHORT_S, _LONG_S = 1.0, 5.0  # lengths of the signals that are measured
_QUICK_S = 0.3  # what takes less on the short signal is measured on the long one
_START = (
    "import ipykernel.kernelapp, cadenza_lib.figures.common, cadenza_lib.training.finetuning"  # what a notebook loads
)


@dataclass(frozen=True)
class Work:
    """How much a run computes: counts to show, and seconds of audio by what is done to it and with what."""

    separations: int = 0
    scores: int = 0  # HAAQI of one ear
    steps: int = 0  # of fine-tuning
    audio_s: Mapping[tuple[str, ...], float] = field(default_factory=dict)

    def __add__(self, other: "Work") -> "Work":
        """Return what both compute together."""
        counts = (self.separations + other.separations, self.scores + other.scores, self.steps + other.steps)
        return Work(*counts, Counter(self.audio_s) + Counter(other.audio_s))


def work_of(notebook: str, parameters: Mapping[str, Any]) -> Work:
    """Return what a notebook computes with these parameters, defaults included; nothing if it is not known to.

    Parameters
    ----------
    notebook
        Its name without suffix.
    parameters
        Values of all its parameters.

    Raises
    ------
    CorpusError, ParameterError
        If the corpus cannot be opened, or has fewer pairs than asked for.
    """
    known = _NOTEBOOKS.get(notebook)
    return Work() if known is None else known(parameters)


def _evaluation(parameters: Mapping[str, Any]) -> Work:
    system = parameters["system"]
    where = (parameters["corpus"], parameters["split"], parameters["n_pairs"], parameters["seed"])
    return _scoring(*where, (system,) if isinstance(system, str) else tuple(system), parameters["device"])


def _fine_tuning(parameters: Mapping[str, Any]) -> Work:
    steps, every = parameters["max_steps"], parameters["valid_every"]
    validations = 1 + math.ceil(steps / every) if every else 2
    audio_s = steps * parameters["batch_size"] * parameters["segment_s"]
    model, device = parameters["init"], parameters["device"]
    training = Work(steps=steps, audio_s={("training", model, device): audio_s})
    if not parameters["n_valid_pairs"]:
        return training
    once = _scoring(parameters["corpus"], parameters["valid_split"], parameters["n_valid_pairs"], 0, (model,), device)
    return sum([once] * validations, training)


def _sweep(parameters: Mapping[str, Any]) -> Work:
    """Return what a sweep computes: songs and references once, and then candidates for each pair."""
    models, intervals = tuple(parameters["models"]), parameters["weight_intervals"]
    shares = 2 * len(parameters["mixture_weights"])  # with and without the clip
    searched = shares + math.comb(intervals + len(models) - 1, intervals) + parameters["n_trials"]
    total = Work()
    for split, n_pairs, candidates in (("split", "n_search_pairs", searched), ("test_split", "n_test_pairs", 4)):
        where = (parameters["corpus"], parameters[split], parameters[n_pairs], parameters["seed"])
        once = _scoring(*where, models, parameters["device"])
        further = once.audio_s["scoring",] * (candidates - 1)
        total += once + Work(scores=once.scores * (candidates - 1), audio_s={("candidate",): further})
    return total


_NOTEBOOKS: dict[str, Callable[[Mapping[str, Any]], Work]] = {
    "02_finetune": _fine_tuning,
    "03_evaluate": _evaluation,
    "04_fusion_sweep": _sweep,
}


@functools.lru_cache(maxsize=64)
def _scoring(corpus: str, split: str, n_pairs: int, seed: int, systems: tuple[str, ...], device: str) -> Work:
    """Return what `evaluation.evaluate` computes: each at-ear song is read, and separated once by each network."""
    data, chosen = _open(corpus, split)
    scenes = [chosen.scenes[pair.scene] for pair in choose_pairs(chosen.scene_listeners, n_pairs, seed)]
    lengths_s = {scene.at_ear_song: data.song_length(chosen, scene) / SAMPLE_RATE for scene in scenes}
    songs_s = sum(lengths_s.values())
    networks = [system for system in systems if system not in separators.BOUNDS]
    audio_s: dict[tuple[str, ...], float] = {
        ("song", corpus, split): songs_s,
        ("scoring",): sum(lengths_s[scene.at_ear_song] for scene in scenes),
    }
    audio_s |= {("separation", network, device): songs_s for network in networks}
    return Work(len(networks) * len(lengths_s), 2 * len(scenes), 0, audio_s)


@functools.lru_cache(maxsize=4)
def _open(corpus: str, split: str) -> tuple[Corpus, Split]:
    data = open_corpus(corpus)
    return data, data.split(split)


class Calibration:
    """Seconds that work takes on this machine, each kind measured when it is first asked for.

    Parameters
    ----------
    threads
        How many a run has: its share of the cores.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._cost: dict[tuple[str, ...], float] = {}

    @functools.cached_property
    def start_s(self) -> float:
        """Seconds that it takes to start a notebook and load what it imports."""
        command = [sys.executable, "-c", _START]
        return _timed(lambda: subprocess.run(command, check=True, env=child_environment()))

    def seconds(self, work: Work) -> float:
        """Return how long a run takes that computes this.

        Raises
        ------
        ModelError, ParameterError
            If a network cannot be loaded, or its device is not there.
        """
        return self.start_s + sum(audio_s * self._per_second(kind) for kind, audio_s in work.audio_s.items())

    def _per_second(self, kind: tuple[str, ...]) -> float:
        """Return seconds per second of audio."""
        if kind not in self._cost:
            with _limited_to(self._threads):
                self._cost[kind] = _MEASURE[kind[0]](*kind[1:])
        return self._cost[kind]


def _measure_song(corpus: str, split: str) -> float:
    data, chosen = _open(corpus, split)
    scene = next(iter(chosen.scenes.values()))
    return _timed(lambda: data.at_ear_song(chosen, scene)) / (data.song_length(chosen, scene) / SAMPLE_RATE)


def _measure_scoring() -> float:
    listener, gains_db = tiny_listener(), torch.zeros(len(STEMS), dtype=torch.float64)

    def score(duration_s: float) -> None:
        song = tiny_song(duration_s)
        output = evaluation.enhance(song, song.stems, gains_db, listener)
        evaluation.score(output, evaluation.reference_remix(song, gains_db), listener, "calibration")

    score(_SHORT_S)  # compiles or loads the kernels
    return _per_second_of_audio(score)


def _measure_candidate() -> float:
    candidate, gains_db = Candidate((0.5, 0.5), 0.15), torch.zeros(len(STEMS), dtype=torch.float64)

    @functools.cache
    def bases(duration_s: float) -> PairBases:
        song = tiny_song(duration_s)
        pair = PairBases(SceneBases(song, [song.stems, song.stems], gains_db), tiny_listener(), "calibration")
        pair.score(candidate)  # fills the reference
        return pair

    bases(_SHORT_S), bases(_LONG_S)
    return _per_second_of_audio(lambda duration_s: bases(duration_s).score(candidate))


def _measure_separation(model: str, device: str) -> float:
    network, sources = _network(model)
    separate = separators.network_separator(network, sources, separators.select_device(device))
    return _per_second_of_audio(lambda duration_s: separate(tiny_song(duration_s)))


def _measure_training(model: str, device: str) -> float:
    network, sources = _network(model)
    network.train().to(separators.select_device(device))

    def step(duration_s: float) -> None:
        mixture = tiny_song(duration_s).mixture[None].to(separators.select_device(device), torch.float32)
        loss = separate_segments(network, sources, mixture).abs().mean()
        loss.backward()
        loss.item()  # waits for the device

    return _per_second_of_audio(step)


_MEASURE: dict[str, Callable[..., float]] = {
    "song": _measure_song,
    "scoring": _measure_scoring,
    "candidate": _measure_candidate,
    "separation": _measure_separation,
    "training": _measure_training,
}


def _network(model: str) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Return the network of a name or checkpoint; for one that must be downloaded, one of its size.

    The models of demucs count as one Hybrid Demucs; some are bags of four, and take four times as long.
    """
    if model not in PRETRAINED_MODELS:
        return separators.load_network(model)
    if model == "umxhq":
        return OpenUnmix(sources=list(STEMS)).eval(), STEMS
    return HDemucs(list(STEMS), channels=48, nfft=4096, depth=6).eval(), STEMS


def _per_second_of_audio(run: Callable[[float], Any]) -> float:
    elapsed_s = _timed(lambda: run(_SHORT_S))
    if elapsed_s > _QUICK_S:
        return elapsed_s / _SHORT_S
    return _timed(lambda: run(_LONG_S)) / _LONG_S


@contextlib.contextmanager
def _limited_to(threads: int) -> Iterator[None]:
    """Let torch and HAAQI use so many threads."""
    before, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # which HAAQI obeys
    try:
        yield
    finally:
        torch.set_num_threads(before)
        os.environ.pop("OMP_NUM_THREADS")
        if variable is not None:
            os.environ["OMP_NUM_THREADS"] = variable


def _timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
