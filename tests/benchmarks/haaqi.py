"""How much faster our HAAQI is than pyclarity's, and how much memory it needs.

    python tests/benchmarks/haaqi.py                 # 10-s and 30-s signals, about four minutes
    python tests/benchmarks/haaqi.py --seconds 10 --repeats 5 --memory 60 600

Each round times every variant once, one after the other, so that a busy machine slows them alike; the table has the
medians over the rounds. Ratios of single-threaded variants are of CPU time, which other programs disturb least; that
of two threads is of elapsed time and needs two free cores. Memory is the peak of a process of its own.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np  # noqa: E402
from clarity.evaluator.haaqi import compute_haaqi as pyclarity_haaqi  # noqa: E402
from clarity.utils.audiogram import Audiogram  # noqa: E402

from cadenza_lib.haaqi import HaaqiReference, compute_haaqi  # noqa: E402

RATE = 24000
AUDIOGRAM = Audiogram(levels=[20, 25, 35, 45, 55, 60], frequencies=[250, 500, 1000, 2000, 4000, 6000])
MODEL = (AUDIOGRAM, 2, 85.0)
GOALS = {
    "drop-in, pyclarity's noise": (8, 15),
    "drop-in, hashed noise": (14, 25),
    "further candidate, pyclarity's noise": (None, None),
    "further candidate, hashed noise": (28, 55),
    "two threads, drop-in": (1.7, 1.9),
    "two threads, further candidate": (None, None),
}


def music(seconds: float, seed: int = 0) -> np.ndarray:
    """Chords of decaying partials every 300 ms over a beat of noise bursts; RMS 0.1."""
    rng = np.random.default_rng(seed)
    signal = np.zeros(round(seconds * RATE))
    step = round(0.3 * RATE)
    time_axis = np.arange(2 * step) / RATE
    for start in range(0, len(signal), step):
        length = min(2 * step, len(signal) - start)
        note = 0.3 * rng.standard_normal(length) * np.exp(-time_axis[:length] / 0.02)
        for fundamental in 55 * 2 ** (rng.choice([0, 3, 7, 10, 12, 15, 19, 24, 31], 3) / 12):
            for partial in range(1, 12):
                decay = np.exp(-time_axis[:length] * (3 + partial))
                note += np.sin(2 * np.pi * fundamental * partial * time_axis[:length]) * decay / partial
        signal[start : start + length] += note
    return 0.1 * signal / np.std(signal)


def candidate(reference: np.ndarray) -> np.ndarray:
    """Leave a separation error 20 dB down, and clip."""
    error = 0.01 * np.random.default_rng(1).standard_normal(len(reference))
    return np.clip(reference + error, -0.4, 0.4)


def measure(seconds: float, repeats: int) -> dict[str, tuple[float, float]]:
    """Median CPU and elapsed time in seconds of each variant, and the deviation from pyclarity's score."""
    reference = music(seconds)
    processed = candidate(reference)
    signals = (processed, reference, RATE, RATE)

    def kept(noise: str, threads: int) -> Callable[[], float]:
        holder = HaaqiReference(reference, RATE, *MODEL, seed=1, noise=noise, threads=threads)
        return lambda: holder.score(processed, RATE)

    def seeded_pyclarity() -> float:
        np.random.seed(1)
        return pyclarity_haaqi(*signals, *MODEL)

    def drop_in(noise: str, threads: int) -> Callable[[], float]:
        return lambda: compute_haaqi(*signals, *MODEL, seed=1, noise=noise, threads=threads)

    variants = {
        "pyclarity": seeded_pyclarity,
        "drop-in, pyclarity's noise": drop_in("pyclarity", 1),
        "drop-in, hashed noise": drop_in("hashed", 1),
        "further candidate, pyclarity's noise": kept("pyclarity", 1),
        "further candidate, hashed noise": kept("hashed", 1),
        "two threads, drop-in": drop_in("hashed", 2),
        "two threads, further candidate": kept("hashed", 2),
    }
    scores = {name: score() for name, score in variants.items() if name != "pyclarity"}  # compiles, fills references
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    elapsed: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, score in variants.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            scores[name] = score()
            elapsed[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
    deviation = abs(scores["drop-in, pyclarity's noise"] - scores["pyclarity"])
    print(
        f"\n{seconds:g} s of audio, {repeats} rounds; score {scores['pyclarity']:.6f}, ours differs by {deviation:.1e}"
    )
    return {name: (float(np.median(cpu[name])), float(np.median(elapsed[name]))) for name in variants}


def show(times: dict[str, tuple[float, float]]) -> None:
    """Print one table in Markdown."""
    print("\n| | CPU s | elapsed s | ratio | must | aim |\n|---|---|---|---|---|---|")
    for name, (cpu, elapsed) in times.items():
        if name.startswith("two threads"):
            single = {"two threads, drop-in": "drop-in, hashed noise"}.get(name, "further candidate, hashed noise")
            ratio = times[single][1] / elapsed
        else:
            ratio = times["pyclarity"][0] / cpu
        must, aim = GOALS.get(name, (None, None))
        print(f"| {name} | {cpu:.3f} | {elapsed:.3f} | {ratio:.2f} | {must or ''} | {aim or ''} |")


def exactness(seconds: float) -> float:
    """Largest deviation from pyclarity over levels of 40 to 110 dB SPL and four distortions of music."""
    reference = 10.0 * music(seconds)  # RMS 1, so that level1 is the level
    late = np.concatenate((np.zeros(150), reference[:-150]))
    worst = 0.0
    for level1 in (40.0, 65.0, 85.0, 110.0):
        for processed in (10.0 * candidate(0.1 * reference), late, 0.2 * reference, np.clip(reference, -1.0, 1.0)):
            np.random.seed(1)
            expected = pyclarity_haaqi(processed, reference, RATE, RATE, AUDIOGRAM, 2, level1)
            ours = compute_haaqi(processed, reference, RATE, RATE, AUDIOGRAM, 2, level1, seed=1)
            worst = max(worst, abs(ours - expected))
    return worst


# The peak in ru_maxrss would begin with that of the process which starts this one; VmHWM does not (Linux only).
PROBE = """
import sys, time
start = time.perf_counter()
import numpy as np  # noqa: E402
sys.path.insert(0, {folder!r})
from haaqi import AUDIOGRAM, RATE, candidate, music, compute_haaqi
loaded = time.perf_counter() - start

def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20

reference = np.resize(music(min({seconds}, 20.0)), round({seconds} * RATE))
processed = candidate(reference)
before = peak()
start = time.perf_counter()
compute_haaqi(processed, reference, RATE, RATE, AUDIOGRAM, 2, 85.0, seed=1, threads={threads})
took = time.perf_counter() - start
print(loaded, took, before, peak())
"""


def probe(seconds: float, threads: int) -> list[float]:
    """Seconds to import and of the first score, and peak GiB before and after it, in a process of its own."""
    code = PROBE.format(folder=os.path.dirname(os.path.abspath(__file__)), seconds=seconds, threads=threads)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, nargs="*", default=[10.0, 30.0], help="lengths of the signals")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=float, nargs="*", default=[60.0, 600.0], help="lengths for peak memory")
    options = parser.parse_args()
    for seconds in options.seconds:
        show(measure(seconds, options.repeats))
    worst = exactness(min([2.0, *options.seconds]))
    print(f"\nLargest deviation from pyclarity at 40 to 110 dB: {worst:.1e} (must 2e-8, aim 1e-9)")
    probe(1.0, 1)  # so that the kernels are on disk
    loaded, first, *_ = probe(1.0, 1)
    print(f"First score of 1 s in a new process: {first:.2f} s after {loaded:.2f} s of imports (must 3 s, aim 1 s)")
    print("\n| audio | threads | peak GiB | of which before the score |\n|---|---|---|---|")
    for seconds in options.memory:
        for threads in (1, 4):
            *_, before, peak = probe(seconds, threads)
            print(f"| {seconds:g} s | {threads} | {peak:.2f} | {before:.2f} |")


if __name__ == "__main__":
    main()
