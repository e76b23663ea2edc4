"""What the full study costs: unit costs measured on this machine, times the sizes of the challenge's sets.

    python tests/benchmarks/study_cost.py

Measured: simulation per minute of a song at the ears, separation per second of audio by a Hybrid Demucs of 48 channels
(random weights), enhancement of a pair, and HAAQI per ear of 10 s; CPU time, one thread. Where there is no GPU to
measure, its time is the number of operations of the network, counted by torch, over the speed that is assumed to be
sustained (`--gpu-tflops`).
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from demucs.hdemucs import HDemucs
from simulation import write_song  # the benchmark beside this one
from torch.utils.flop_counter import FlopCounterMode

from cadenza_lib.chain.output import save_output
from cadenza_lib.chain.pipeline import enhance, reference_remix
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.simulation import simulate
from cadenza_lib.data.tiny import tiny_listener, tiny_song
from cadenza_lib.scoring.pairs import score

AT_EAR_GB = 88  # the simulated training set, as the challenge's page on data tells
AT_EAR_MINUTES = AT_EAR_GB * 1e9 / (5 * 4 * 44100) / 60
EXCERPT_S = 10.0
SETS = {"validation": (967, 1934), "evaluation": (960, 19200)}  # excerpts, scene-listener pairs
BATCH, SEGMENT_S, STEPS, GPUS = 24, 8.0, 10_000, 3  # the paper's batch; steps of studies/data_size.yaml
BACKWARD = 2  # operations of the backward pass per operation of the forward one


def main() -> None:
    """Measure, multiply, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu-tflops", type=float, default=10.0, help="assumed to be sustained by one GPU")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    unit, operations = units(arguments.rounds)
    print("| unit | CPU s, one core |\n|---|---:|")
    for name, seconds in unit.items():
        print(f"| {name} | {seconds:.3f} |")
    tera = operations / 1e12
    print(f"\nForward pass of Hybrid Demucs: {tera:.3f} tera operations per second of audio.\n")

    simulation, separation, enhancement, ear = unit.values()
    per_s = tera / arguments.gpu_tflops  # GPU seconds per second of audio
    training = STEPS * BATCH * SEGMENT_S * per_s * (1 + BACKWARD)
    rows = [("simulation of 400 songs at the ears (or none, on the fly)", AT_EAR_MINUTES * simulation, 0.0)]
    rows.append((f"fine-tuning, {STEPS:,} steps of {BATCH} x {SEGMENT_S:g} s", 0.0, training))
    for name, (excerpts, pairs) in SETS.items():
        rows.append((f"{name}: separation of {excerpts:,} excerpts", excerpts * EXCERPT_S * separation, 0.0))
        rows.append((f"{name}: enhancement of {pairs:,} pairs", pairs * enhancement, 0.0))
        rows.append((f"{name}: HAAQI of {2 * pairs:,} ears", 2 * pairs * ear, 0.0))
    print("| step | CPU core-hours | GPU-hours, assumed |\n|---|---:|---:|")
    for name, cpu_s, gpu_s in rows:
        gpu = f"{gpu_s / 3600:.1f} ({gpu_s / 3600 / GPUS:.1f} h on {GPUS} GPUs)" if gpu_s else ""
        print(f"| {name} | {f'{cpu_s / 3600:.2f}' if cpu_s else ''} | {gpu} |")


def units(rounds: int) -> tuple[dict[str, float], float]:
    """Return the measured unit costs in seconds, and the network's operations per second of audio."""
    network = HDemucs(sources=["drums", "bass", "other", "vocals"], channels=48, nfft=4096, depth=6).eval()
    audio = 0.1 * torch.randn(1, 2, round(EXCERPT_S * 44100))
    song, listener = tiny_song(EXCERPT_S), tiny_listener()
    gains_db = torch.tensor([6.0, -3.0, 0.0, 3.0], dtype=torch.float64)
    output = enhance(song, [song.stems], gains_db, listener)
    reference = reference_remix(song, gains_db)
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        minutes = 2.0
        write_song(folder / "corpus", minutes, scenes=1)
        at_ears = folder / "corpus" / "audio" / "at_mic_music"

        def simulation() -> None:
            if at_ears.exists():
                at_ears.rename(folder / f"done {time.monotonic()}")
            simulate(Corpus(folder / "corpus"), "train", 1, progress=False)

        def enhancement() -> None:
            save_output(enhance(song, [song.stems], gains_db, listener), folder / "output")

        measured = {
            "simulation, per minute of a song at the ears": cpu_s(simulation, rounds) / minutes,
            "separation by Hybrid Demucs, per second of audio": cpu_s(lambda: network(audio), rounds) / EXCERPT_S,
            "enhancement and FLAC, per pair of 10 s": cpu_s(enhancement, rounds),
            "HAAQI, per ear of 10 s": cpu_s(lambda: score(output, reference, listener, "scene_10001"), rounds) / 2,
        }
        with FlopCounterMode(display=False) as counter:
            network(audio)
    return measured, counter.get_total_flops() / EXCERPT_S


def cpu_s(work: Callable[[], object], rounds: int) -> float:
    """Return the median CPU time of a piece of work, after one that is not counted."""
    work()
    times = []
    for _ in range(rounds):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return statistics.median(times)


if __name__ == "__main__":
    main()
