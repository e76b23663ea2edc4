"""How fast HAAQI on tensors is, how exact in float32, and how much memory its gradients need.

    python tests/benchmarks/haaqi_torch.py                          # CPU, one thread, against both other versions
    python tests/benchmarks/haaqi_torch.py --exactness              # deviations from compute_haaqi
    python tests/benchmarks/haaqi_torch.py --memory 10 30           # peak memory of forward and backward
    python tests/benchmarks/haaqi_torch.py --device cuda --batch 1 8 32

Each round times every variant once, one after the other, so that a busy machine slows them alike; ratios are of medians
of CPU time. On a GPU, times are elapsed, with the transfer of the signals, and the share of the memory bandwidth is
that of the bytes which a score must move at least, `VALUES_MOVED` a sample of each band, over what a copy moves.
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
import torch  # noqa: E402
from clarity.evaluator.haaqi import compute_haaqi as pyclarity_haaqi  # noqa: E402
from clarity.utils.audiogram import Audiogram  # noqa: E402
from haaqi import MODEL, RATE, candidate, music  # noqa: E402

from cadenza_lib.haaqi import HaaqiReference, compute_haaqi  # noqa: E402
from cadenza_lib.haaqi.torch import ReferenceBatch, score_batch  # noqa: E402

AUDIOGRAM, EQUALISATION, LEVEL1 = MODEL
EAR_SCORES = 38_400  # of 10 s, in the official evaluation
VALUES_MOVED = 24  # float32: two complex filters there and back, envelope, motion, their alignment and comparison


def pair(seconds: float, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a processed signal (1, time) and its reference (time,)."""
    reference = music(seconds)
    return torch.from_numpy(candidate(reference)).to(dtype)[None], torch.from_numpy(reference).to(dtype)


def on_cpu(seconds: float, repeats: int) -> None:
    """Print CPU times of all variants, and how far the scores are apart."""
    reference = music(seconds)
    processed = candidate(reference)
    numba = HaaqiReference(reference, RATE, *MODEL, noise=None, threads=1)
    holders = {dtype: ReferenceBatch(pair(seconds, dtype)[1], RATE, *MODEL) for dtype in (torch.float32, torch.float64)}

    def one_shot() -> float:
        return score_batch(*pair(seconds), RATE, *MODEL).item()

    def forward(dtype: torch.dtype) -> Callable[[], float]:
        signal = pair(seconds, dtype)[0]
        return lambda: holders[dtype].score(signal).item()

    def both_ways(dtype: torch.dtype) -> Callable[[], float]:
        signal = pair(seconds, dtype)[0].requires_grad_()

        def run() -> float:
            signal.grad = None
            score = holders[dtype].score(signal)
            score.backward()
            return score.item()

        return run

    variants: dict[str, Callable[[], float]] = {
        "pyclarity": lambda: pyclarity_haaqi(processed, reference, RATE, RATE, *MODEL),
        "numba, kept reference, no noise": lambda: numba.score(processed, RATE),
        "tensors, float32, with the reference": one_shot,
        "tensors, float32, kept reference": forward(torch.float32),
        "tensors, float64, kept reference": forward(torch.float64),
        "forward and backward, float32": both_ways(torch.float32),
        "forward and backward, float64": both_ways(torch.float64),
    }
    scores: dict[str, float] = {}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats + 1):  # the first round compiles and fills caches
        for name, variant in variants.items():
            start = time.process_time()
            scores[name] = variant()
            cpu[name].append(time.process_time() - start)
    medians = {name: float(np.median(times[1:])) for name, times in cpu.items()}
    base = scores["numba, kept reference, no noise"]
    print(f"\n{seconds:g} s of audio, {repeats} rounds\n\n| | CPU s | faster than pyclarity | score re numba |")
    print("|---|---|---|---|")
    for name, median in medians.items():
        ratio = medians["pyclarity"] / median
        print(f"| {name} | {median:.3f} | {ratio:.1f} x | {scores[name] - base:+.1e} |")


def peak_kib() -> int:
    """Return the peak memory of this process; that of `resource` would begin with its parent's (Linux only)."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def exactness() -> None:
    """Print the largest deviations from `compute_haaqi` over four losses, four levels and four distortions."""
    reference = 10.0 * music(2.0)  # RMS 1, so that level1 is the level
    late = np.concatenate((np.zeros(150), reference[:-150]))
    distorted = (10.0 * candidate(0.1 * reference), late, 0.2 * reference, np.clip(reference, -1.0, 1.0))
    for dtype in (torch.float64, torch.float32):
        for noise in (None, 1):
            worst = 0.0
            for loss in (0, 20, 40, 60):
                ear = Audiogram(levels=[loss] * 6, frequencies=AUDIOGRAM.frequencies)
                for level1 in (50.0, 65.0, 85.0, 105.0):
                    found = score_batch(
                        torch.from_numpy(np.stack(distorted)).to(dtype), torch.from_numpy(reference).to(dtype), RATE,
                        ear, EQUALISATION, level1, noise,
                    )  # fmt: skip
                    for ours, processed in zip(found.tolist(), distorted, strict=True):
                        expected = compute_haaqi(
                            processed, reference, RATE, RATE, ear, 2, level1, seed=1, noise=noise and "hashed"
                        )
                        worst = max(worst, abs(ours - expected))
            print(f"{dtype}, {'no noise' if noise is None else 'hashed noise'}: at most {worst:.1e} from compute_haaqi")


def memory(seconds: float) -> None:
    """Print the peak memory of a process that takes one gradient, less what importing and the signals need."""
    processed, reference = pair(seconds)
    before = peak_kib()
    signal = processed.requires_grad_()
    score_batch(signal, reference, RATE, *MODEL).backward()
    peak = peak_kib() - before
    print(f"{seconds:g} s: {peak / 2**20:.2f} GiB more than before, {peak * 1024 / (seconds * RATE):.0f} B a sample")


def on_gpu(seconds: float, batches: list[int], repeats: int) -> None:
    """Print ear scores per second, the time of the official evaluation, and the share of the memory bandwidth."""
    device = torch.device("cuda")
    block = torch.empty(2**28, device=device)

    def timed(call: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats + 1):
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return float(np.median(times[1:]))

    bandwidth = 2 * block.nbytes / timed(block.clone)
    del block
    print(f"{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e9:.0f} GB/s")
    print("\n| batch | | ear scores a second | official evaluation, min | share of bandwidth |\n|---|---|---|---|---|")
    for batch in batches:
        processed, reference = (signal.expand(batch, -1).contiguous().pin_memory() for signal in pair(seconds))

        def score(grad: bool, processed: torch.Tensor = processed, reference: torch.Tensor = reference) -> None:
            signal = processed.to(device, non_blocking=True).requires_grad_(grad)
            scores = score_batch(
                signal, reference.to(device, non_blocking=True), RATE, [AUDIOGRAM] * len(signal), EQUALISATION, LEVEL1
            )
            if grad:
                scores.sum().backward()
            scores.cpu()

        for name, grad in (("forward", False), ("forward and backward", True)):
            rate = batch / timed(lambda grad=grad, score=score: score(grad))  # type: ignore[misc]
            minimum = 2 * VALUES_MOVED * 4 * 32 * seconds * RATE  # bytes; the reference and the processed signal
            share = f"{100 * minimum * rate / bandwidth:.0f} %" if not grad else ""
            print(f"| {batch} | {name} | {rate:.1f} | {EAR_SCORES / rate / 60:.1f} | {share} |")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--memory", type=float, nargs="+", metavar="SECONDS", help="measure peak memory instead")
    parser.add_argument("--exactness", action="store_true", help="measure deviations instead")
    parser.add_argument("--memory-of", type=float, help=argparse.SUPPRESS)  # in a process of its own
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of is not None:
        memory(arguments.memory_of)
    elif arguments.memory:
        for seconds in arguments.memory:
            subprocess.run([sys.executable, __file__, "--memory-of", str(seconds)], check=True)
    elif arguments.exactness:
        exactness()
    elif arguments.device == "cuda":
        on_gpu(arguments.seconds, arguments.batch, arguments.repeats)
    else:
        on_cpu(arguments.seconds, arguments.repeats)


if __name__ == "__main__":
    main()
