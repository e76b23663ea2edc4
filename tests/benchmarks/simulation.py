"""A song at the ears: ours beside the official generator, peak memory, and the wait for the first training batch.

    python tests/benchmarks/simulation.py                       # one song of four minutes, five signals
    python tests/benchmarks/simulation.py --scenes 4            # at four head positions, as in the training set

Both write the same files, which is checked. Each round runs the official generator and ours, one after the other, each
in a process of its own, whose imports and compiling are not counted; the table has medians over the rounds. Elapsed
time is what counts where the cores are free; CPU time is that of all threads, as if there were only one core.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile

from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.documents import read_json, write_json
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.scenes import Scene
from cadenza_lib.data.simulation import simulate
from cadenza_lib.data.songs import SIGNALS
from cadenza_lib.data.synthesis import render_song
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.training.segments import Segments, training_scenes


def main() -> None:
    """Measure and print the tables, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--scenes", type=int, default=1, help="head positions of the song")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "ROOT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, root = arguments.child
        tiny = tiny_corpus(Path(tempfile.mkdtemp(dir=root)) / "warm")  # imports and compiling are not counted
        for corpus in (tiny, Path(root) / "corpus"):
            before = time.monotonic(), time.process_time()
            CHILDREN[what](corpus, arguments.workers)
            after = time.monotonic(), time.process_time()
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(json.dumps([after[0] - before[0], after[1] - before[1], peak_gb]))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_song(root / "corpus", arguments.minutes, arguments.scenes)
        rows: dict[str, list[list[float]]] = {"official": [], "ours": [], "first batch": []}
        for _ in range(arguments.rounds):
            for what, measured in rows.items():
                measured.append(child(what, root, arguments.workers))
        same = [
            path.read_bytes() == (root / "official" / path.name).read_bytes() for path in sorted(root.glob("ours/*"))
        ]
        assert len(same) == arguments.scenes * len(SIGNALS) + 1, "a file is missing"
        print(
            f"Files equal: {sum(same)} of {len(same)}\n\n|  | elapsed s | CPU s | peak memory, GB |\n|---|{'---:|' * 3}"
        )
        medians = {what: np.median(measured, axis=0) for what, measured in rows.items()}
        for what, (elapsed, cpu, peak_gb) in medians.items():
            print(f"| {what} | {elapsed:.2f} | {cpu:.2f} | {peak_gb:.2f} |")
        ratios = np.median(np.array(rows["official"]) / np.array(rows["ours"]), axis=0)
        print(f"| official / ours | {ratios[0]:.1f} | {ratios[1]:.1f} | {ratios[2]:.2f} |")


def child(what: str, root: Path, workers: int) -> list[float]:
    """Run one measurement in a process of its own, and keep its files."""
    for stale in ("audio/at_mic_music", "metadata/at_mic_music.train.json"):
        path = root / "corpus" / stale
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--workers", str(workers), "--child", what, str(root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    if what != "first batch":
        kept = root / what
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        for path in (root / "corpus" / "audio" / "at_mic_music").glob("*/*/*.wav"):
            path.rename(kept / f"{path.parent.name} {path.name}")
        (root / "corpus" / "metadata" / "at_mic_music.train.json").rename(kept / "at_mic_music.train.json")
    return json.loads(done.stdout.splitlines()[-1])


def official(corpus: Path, _: int) -> None:
    """Let the recipe's generator write the songs."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from official import simulate_officially

    simulate_officially(corpus)


def ours(corpus: Path, workers: int) -> None:
    """Write the songs with several threads."""
    simulate(Corpus(corpus), "train", workers, progress=False)


def first_batch(corpus: Path, _: int) -> None:
    """Simulate one training segment when nothing is on the disk: the loudness gains of its whole song come first."""
    data = Corpus(corpus)
    split = data.split("train")
    Segments(data, split, training_scenes(data, split), 0.5, seed=0).batch(0, [0])


CHILDREN: dict[str, Callable[[Path, int], None]] = {"official": official, "ours": ours, "first batch": first_batch}


def write_song(root: Path, minutes: float, scenes: int) -> None:
    """Write a corpus of one long song: a synthesised one over and over, each time at another level."""
    tiny_corpus(root)
    songs = read_json(root / "metadata" / "musdb18.train.json")[:1]
    write_json(root / "metadata" / "musdb18.train.json", songs)
    name = songs[0]["Track Name"]
    positions = list(read_json(root / "metadata" / "head_loudspeaker_positions.json"))[:scenes]
    chosen = {f"scene_{10001 + n}": asdict(Scene(name, "gain_0001", one)) for n, one in enumerate(positions)}
    write_json(root / "metadata" / "scenes.train.json", chosen)
    write_json(root / "metadata" / "scene_listeners.train.json", {scene: ["A"] for scene in chosen})
    length = round(minutes * 60 * SAMPLE_RATE)
    stems = render_song(1, 15.0).double()
    repeats = -(-length // stems.shape[-1])
    levels = np.random.default_rng(0).uniform(0.3, 1.0, repeats)
    for index, signal in enumerate((*stems, stems.sum(0))):
        long = np.concatenate([level * signal.numpy() for level in levels], axis=-1)[:, :length]
        path = root / "audio" / "music" / songs[0]["Path"] / f"{SIGNALS[index]}.wav"
        soundfile.write(path, long.T, SAMPLE_RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
