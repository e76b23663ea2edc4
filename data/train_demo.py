"""Train the small separators that ship with the package on dry synthesised songs, as the paper's on dry MUSDB18-HQ.

    .venv/bin/python data/train_demo.py --architecture hdemucs      # writes data/demo_hdemucs.{safetensors,json}
    .venv/bin/python data/train_demo.py --architecture openunmix    # writes data/demo_openunmix.{safetensors,json}

The songs come from seeds that no split of the twin uses; those of validation are not trained on. The run is
repeatable: the same seed gives the same weights on the same machine with the same number of threads.

The learning rate is constant until the last `--decay` steps, in which it falls linearly to zero (A. Hägele et al.,
"Scaling laws and compute-optimal training beyond fixed training durations", NeurIPS 2024), so the number of steps need
not be known at the start. With `--state FILE` a run that was stopped goes on where it last was saved when the same
command is given again, also with another number of `--steps`: with `--steps` = (steps done) + `--decay`, it ends.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from cadenza_lib.core.conventions import SAMPLE_RATE, STEMS
from cadenza_lib.core.documents import read_json
from cadenza_lib.core.files import atomic_path
from cadenza_lib.core.paths import DATA
from cadenza_lib.data.corpus import AtEarSong
from cadenza_lib.data.scenes import GAIN_STEPS_DB
from cadenza_lib.data.synthesis import render_song
from cadenza_lib.separation.checkpoints import save_checkpoint
from cadenza_lib.separation.registry import ARCHITECTURES
from cadenza_lib.separation.separators import load_network, network_separator

FIRST_SEED = 1000  # of the training songs; the twin uses seeds below 100
HELD_OUT_SEEDS = range(900, 908)
HELD_OUT_DURATION_S = 10.0
MEASURED_EVERY, SAVED_EVERY = 250, 50  # steps
WARM_UP = 100  # steps
ARGUMENTS = {
    "hdemucs": {"sources": list(STEMS), "channels": 8, "nfft": 4096, "depth": 6},
    "hdemucs_consistent": {"sources": list(STEMS), "channels": 8, "nfft": 4096, "depth": 6},
    "hdemucs_masked": {"sources": list(STEMS), "channels": 8, "nfft": 4096, "depth": 6},
    "openunmix": {"sources": list(STEMS), "hidden_size": 64, "n_fft": 2048, "hop_length": 512},
}
BETAS = (0.9, 0.999)
SPECTRAL_SIZES = (512, 2048)  # samples: 12 and 46 ms
SPECTRAL_FLOOR = 1e-5  # power of a bin; white noise at -90 dBFS has 4e-7 in 1024 samples


def main() -> None:
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", choices=ARGUMENTS, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--decay", type=int, default=400, help="last steps, in which the learning rate falls to zero")
    parser.add_argument("--songs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--segment-s", type=float, default=3.0)
    parser.add_argument("--gain-range-db", type=float, default=4.0, help="largest change of each stem's gain")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema-decay", type=float, default=0.998)
    parser.add_argument("--remix-weight", type=float, default=0.0, help="of the log-spectral loss of remixes")
    parser.add_argument("--bf16", action="store_true", help="let the network compute in bfloat16 where it may")
    parser.add_argument("--init", type=Path, help="checkpoint to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="default: data/demo_<architecture>.safetensors")
    parser.add_argument(
        "--state", type=Path, help="file to write all that a stopped run goes on from, and to go on from"
    )
    arguments = parser.parse_args()
    out = arguments.out or DATA / f"demo_{arguments.architecture}.safetensors"

    songs = [render_song(FIRST_SEED + index) for index in tqdm(range(arguments.songs), desc="songs")]
    held_out = [render_song(seed, HELD_OUT_DURATION_S) for seed in HELD_OUT_SEEDS]
    torch.manual_seed(arguments.seed)
    network = ARCHITECTURES[arguments.architecture].factory(**ARGUMENTS[arguments.architecture])
    if arguments.architecture == "openunmix":
        network.standardise_input(song.sum(0) for song in songs)
        for target in network.target_models.values():  # begin with equal shares instead of four times the mixture
            torch.nn.init.constant_(target.output_mean, 1 / len(STEMS))
            torch.nn.init.constant_(target.output_scale, 1 / len(STEMS))
    if arguments.init is not None:
        network.load_state_dict(load_network(str(arguments.init))[0].state_dict())
    network.to(arguments.device)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(arguments.ema_decay)
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=arguments.learning_rate, betas=BETAS)
    generator = torch.Generator().manual_seed(arguments.seed)
    done: dict[str, Any] = {"steps": 0, "duration_s": 0.0, "measured": {}}
    trained = {"network": network, "average": average, "optimiser": optimiser}
    if arguments.state is not None and arguments.state.exists():
        state = torch.load(arguments.state)
        for name, part in trained.items():
            part.load_state_dict(state[name])
        generator.set_state(state["generator"])
        done = state["done"]
    started = time.monotonic() - done["duration_s"]
    losses: list[float] = []
    progress = tqdm(range(done["steps"], arguments.steps), desc="steps", initial=done["steps"], total=arguments.steps)
    for step in progress:
        for group in optimiser.param_groups:
            group["lr"] = arguments.learning_rate * rate(step, arguments.steps, arguments.decay)
        stems = draw_batch(
            songs, arguments.batch, int(arguments.segment_s * SAMPLE_RATE), arguments.gain_range_db, generator
        )
        stems = stems.to(arguments.device)
        with torch.autocast(arguments.device, torch.bfloat16, arguments.bf16):
            estimate = network(stems.sum(1)).float()
        loss = torch.nn.functional.l1_loss(estimate, stems)
        if arguments.remix_weight:
            loss = loss + arguments.remix_weight * remix_loss(estimate, stems, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(network)
        losses.append(loss.item())
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.4f}")
        last = step + 1 == arguments.steps
        done |= {"steps": step + 1, "duration_s": time.monotonic() - started}
        if last or (step + 1) % MEASURED_EVERY == 0:
            measured = measure(average.module, held_out) | {"training_loss": round(sum(losses) / len(losses), 5)}
            losses.clear()
            tqdm.write(f"step {step + 1}: {measured}")
            done["measured"][step + 1] = measured
        if last or (step + 1) % SAVED_EVERY == 0:
            save_checkpoint(average.module, out, card(arguments, **done))
            if arguments.state is not None:
                state = {name: part.state_dict() for name, part in trained.items()}
                with atomic_path(arguments.state) as path:
                    torch.save(state | {"generator": generator.get_state(), "done": done}, path)


def rate(step: int, steps: int, decay: int) -> float:
    """Return the share of the learning rate in a step: a short warm-up, constant, and linear to zero at the end."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / max(decay, 1))


def draw_batch(
    songs: list[torch.Tensor], batch: int, length: int, gain_range_db: float, generator: torch.Generator
) -> torch.Tensor:
    """Draw segments with random gains and channel swaps; half of them mix stems of different songs.

    Shape:
        - result: `(batch, stem, channel, time)`
    """
    segments = []
    for _ in range(batch):
        mixed = torch.rand((), generator=generator) < 0.5
        stems = []
        song = start = 0
        for stem in range(len(STEMS)):
            if stem == 0 or mixed:
                song = int(torch.randint(len(songs), (), generator=generator))
                start = int(torch.randint(songs[song].shape[-1] - length, (), generator=generator))
            stems.append(songs[song][stem, :, start : start + length])
        gains_db = (torch.rand(len(STEMS), 1, 1, generator=generator) * 2 - 1) * gain_range_db
        segment = torch.stack(stems) * 10 ** (gains_db / 20)
        segments.append(segment.flip(1) if torch.rand((), generator=generator) < 0.5 else segment)
    return torch.stack(segments)


def remix_loss(estimate: torch.Tensor, truth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the mean difference in log spectrum (nepers) between remixes with gains as in the challenge's scenes.

    An L1 loss hardly hears what is missing between the strong partials and above them; HAAQI does.
    """
    steps_db = torch.tensor([0.0, *GAIN_STEPS_DB])
    chosen = torch.randint(len(steps_db), (2, *truth.shape[:2]), generator=generator)  # two remixes of each segment
    gains = (10 ** (steps_db[chosen] / 20)).to(truth.device)
    remixes = [torch.einsum("rbs,bsct->rbct", gains, stems).flatten(0, 2) for stems in (estimate, truth)]
    loss = torch.zeros((), device=truth.device)
    for n_fft in SPECTRAL_SIZES:
        window = torch.hann_window(n_fft, device=truth.device)
        spectra = [torch.stft(remix, n_fft, window=window, return_complex=True) for remix in remixes]
        log_estimate, log_truth = [(spectrum.abs().square() + SPECTRAL_FLOOR).log() / 2 for spectrum in spectra]
        loss = loss + torch.nn.functional.l1_loss(log_estimate, log_truth) / len(SPECTRAL_SIZES)
    return loss


def card(arguments: argparse.Namespace, steps: int, duration_s: float, measured: dict[int, Any]) -> dict[str, object]:
    """Return what the checkpoint's card tells about its training."""
    return {
        "architecture": arguments.architecture,
        "arguments": ARGUMENTS[arguments.architecture],
        "trained_on": f"dry songs of cadenza_lib.data.synthesis, "
        f"seeds {FIRST_SEED} to {FIRST_SEED + arguments.songs - 1}",
        "command": f"python data/train_demo.py --architecture {arguments.architecture} --steps {steps} "
        f"--decay {arguments.decay} --songs {arguments.songs} --batch {arguments.batch} "
        f"--segment-s {arguments.segment_s} --gain-range-db {arguments.gain_range_db} "
        f"--learning-rate {arguments.learning_rate} "
        f"--ema-decay {arguments.ema_decay} --remix-weight {arguments.remix_weight} --seed {arguments.seed}"
        + " --bf16" * arguments.bf16
        + (f" --init {arguments.init.name}" if arguments.init else ""),
        "init": read_json(arguments.init.with_suffix(".json")) if arguments.init else None,
        "steps": steps,
        "loss": "L1 of stems"
        + (f" + {arguments.remix_weight} x log-spectral L1 of remixes" if arguments.remix_weight else ""),
        "optimiser": f"Adam {BETAS}, rate constant, then linear to zero in the last {arguments.decay} of "
        f"{arguments.steps} steps, EMA {arguments.ema_decay}",
        "held_out": f"dry songs of seeds {HELD_OUT_SEEDS[0]} to {HELD_OUT_SEEDS[-1]}, first {HELD_OUT_DURATION_S:g} s",
        "measured": measured,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "duration_s": round(duration_s),
    }


def measure(network: torch.nn.Module, songs: list[torch.Tensor]) -> dict[str, Any]:
    """Return the L1 of the stems of songs whose mixture has deviation 1, and the SI-SDR improvement by stem."""
    device = next(network.parameters()).device
    separator = network_separator(network, STEMS, device)
    l1, improvement = [], []
    for stems in songs:
        mixture = stems.sum(0)
        estimate = separator(AtEarSong("held-out song", stems, mixture))
        l1.append((estimate - stems).abs().mean() / mixture.mean(0).std(correction=0))
        improvement.append(si_sdr_db(estimate, stems) - si_sdr_db(mixture.expand_as(stems), stems))
    by_stem = dict(zip(STEMS, torch.stack(improvement).mean(0).tolist(), strict=True))
    return {
        "l1": round(float(torch.stack(l1).mean()), 5),
        "si_sdr_improvement_db": {name: round(value, 2) for name, value in by_stem.items()},
    }


def si_sdr_db(estimate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the scale-invariant signal-to-distortion ratio over channels and time, `(stem,)`.

    J. Le Roux, S. Wisdom, H. Erdogan and J. R. Hershey, "SDR - half-baked or well done?", ICASSP 2019.
    """
    estimate, target = estimate.flatten(-2), target.flatten(-2)
    estimate = estimate - estimate.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    projection = (estimate * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True) * target
    return 10 * torch.log10(projection.square().sum(-1) / (estimate - projection).square().sum(-1))


if __name__ == "__main__":
    main()
