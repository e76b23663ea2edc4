"""How close our training loop comes to a bare one, and what simulating segments costs.

    python tests/benchmarks/finetune.py                                     # a network like the twin's on the CPU
    python tests/benchmarks/finetune.py --device cuda --channels 48 --precision bf16-mixed --segment-s 8 --batch 8

The bare loop makes forward, L1, backward and Adam's step on one batch that is already in memory; ours draws, simulates
and moves every batch, carries it through the target, checks the loss, and writes metrics. Blocks of the two take turns,
so that a busy machine slows them alike; the table has the medians over the blocks. Elapsed time is what counts,
with a core free for the thread that prepares batches; CPU time is that of all threads, as if there were only one core.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import soundfile
import torch
from demucs.hdemucs import HDemucs

from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import write_json
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.separation.checkpoints import save_checkpoint
from cadenza_lib.training.files import Config
from cadenza_lib.training.finetuning import BETAS, _Run
from cadenza_lib.training.segments import Prefetcher, Segments, training_scenes

SONG_S = 30.0


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--channels", type=int, default=8, help="of Hybrid Demucs: 8 is the twin's, 48 the paper's")
    parser.add_argument("--segment-s", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="in a block")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        corpus = tiny_corpus(root / "corpus", SONG_S)
        loops(arguments, root, corpus)
        simulation(arguments, corpus)


def loops(arguments: argparse.Namespace, root: Path, corpus: Path) -> None:
    """Print seconds of audio trained per second."""
    architecture = {"sources": list(STEMS), "channels": arguments.channels, "nfft": 4096, "depth": 6}
    checkpoint = root / "network.safetensors"
    save_checkpoint(HDemucs(**architecture), checkpoint, {"architecture": "hdemucs", "arguments": architecture})
    audio_s = arguments.steps * arguments.batch * arguments.segment_s
    print(f"| loop | audio s per elapsed s | against bare | audio s per CPU s | against bare |\n|---|{'---:|' * 4}")
    bare = bare_loop(arguments, architecture)
    for targets in (("stems",), ("amplified",)):
        config = Config(
            corpus=str(corpus),
            valid_split="train",
            init=str(checkpoint),
            targets=targets,
            segment_s=arguments.segment_s,
            batch_size=arguments.batch,
            device=arguments.device,
            precision=arguments.precision,
            workers=arguments.workers,
        )
        times: dict[str, list[tuple[float, float]]] = {"bare": [], f"ours, {targets[0]}": []}
        ours = our_loop(arguments, config, root / targets[0])
        for _ in range(arguments.blocks):
            for name, block in zip(times, (bare, ours), strict=True):
                times[name].append(block())
        medians = {
            name: [audio_s / statistics.median(column) for column in zip(*rows, strict=True)]
            for name, rows in times.items()
        }
        for name, (elapsed, cpu) in medians.items():
            ratios = (elapsed / medians["bare"][0], cpu / medians["bare"][1])
            print(f"| {name} | {elapsed:.2f} | {ratios[0]:.2f} | {cpu:.2f} | {ratios[1]:.2f} |")


def bare_loop(arguments: argparse.Namespace, architecture: dict[str, object]) -> Callable[[], tuple[float, float]]:
    """Return a function that makes a block of steps on one batch and returns elapsed and CPU seconds."""
    device = torch.device(arguments.device)
    network = HDemucs(**architecture).to(device)
    optimiser = torch.optim.Adam(network.parameters(), 6e-4, BETAS)
    stems = 0.1 * torch.randn(arguments.batch, len(STEMS), 2, round(arguments.segment_s * SAMPLE_RATE), device=device)
    mixture = stems.sum(1)
    half = arguments.precision == "bf16-mixed"

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            estimate = network(mixture)
        loss = (estimate.float() - stems).abs().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    step()

    def block() -> tuple[float, float]:
        return timed(device, lambda: [step() for _ in range(arguments.steps)])

    return block


def our_loop(arguments: argparse.Namespace, config: Config, out_dir: Path) -> Callable[[], tuple[float, float]]:
    """Return the same for our loop; a batch is ready at the beginning of each block and at its end."""
    out_dir.mkdir()
    run = _Run(config, out_dir, progress=False)
    started = 0

    def block() -> tuple[float, float]:
        nonlocal started
        steps = range(started, started + arguments.steps + 1)
        started += arguments.steps
        batches = iter(Prefetcher(run.segments, steps, range(arguments.batch), arguments.workers))
        batch = next(batches)

        def work() -> None:
            following = batch
            for _ in range(arguments.steps):
                run._report(run._train_step(following), None)
                following = next(batches)

        result = timed(run.fabric.device, work)
        batches.close()  # type: ignore[attr-defined]
        return result

    block()
    return block


def timed(device: torch.device, work: Callable[[], object]) -> tuple[float, float]:
    """Return elapsed and CPU seconds, with the device idle at both ends."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elapsed, cpu = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - elapsed, time.process_time() - cpu


def simulation(arguments: argparse.Namespace, root: Path) -> None:
    """Print what a segment costs, simulated and read."""
    corpus = Corpus(root)
    split = corpus.split("train")
    scenes = training_scenes(corpus, split)
    simulated = Segments(corpus, split, scenes, arguments.segment_s, 0)
    gain_s = timed(torch.device("cpu"), lambda: [simulated._song_gains(entry.scene) for entry in scenes])[1]
    entries = {}
    for entry in scenes:
        song = corpus.at_ear_song(split, entry.scene)
        folder = root / "audio" / "at_mic_music" / song.name
        folder.mkdir(parents=True)
        for name, signal in zip((*STEMS, "mixture"), (*song.stems, song.mixture), strict=True):
            soundfile.write(folder / f"{name}.wav", signal.numpy().T, SAMPLE_RATE, subtype="PCM_16")
        entries[song.name] = {"Track Name": song.name, "Path": song.name}
    write_json(root / "metadata" / "at_mic_music.train.json", entries)
    on_disk = Corpus(root)
    split_on_disk = on_disk.split("train")
    read = Segments(on_disk, split_on_disk, training_scenes(on_disk, split_on_disk), arguments.segment_s, 0)
    count = 20
    print(f"\n| segments of {arguments.segment_s:g} s | audio s per CPU s | against reading |\n|---|---:|---:|")
    speeds = {}
    for name, segments in {"read from at-ear WAVs": read, "simulated from dry WAVs": simulated}.items():
        rounds = [timed(torch.device("cpu"), lambda s=segments, r=r: s.batch(r, range(count)))[1] for r in range(5)]
        speeds[name] = count * arguments.segment_s / statistics.median(rounds)
        print(f"| {name} | {speeds[name]:.0f} | {speeds[name] / speeds['read from at-ear WAVs']:.2f} |")
    minutes = len(scenes) * SONG_S / 60
    print(f"\nLoudness gains, once per song and head position: {gain_s / minutes:.1f} CPU s per minute of song.")


if __name__ == "__main__":
    main()
