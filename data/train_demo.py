"""Train the demo's small separators on dry synthesised songs, as the paper's were on dry MUSDB18-HQ.

    .venv/bin/python data/train_demo.py --architecture hdemucs      # writes data/demo_hdemucs.{safetensors,json}
    .venv/bin/python data/train_demo.py --architecture openunmix    # writes data/demo_openunmix.{safetensors,json}

The songs come from seeds that no split of the demo corpus uses. The run is repeatable: the same seed gives the same
weights on the same machine with the same number of threads.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from tqdm import tqdm

from cadenza_lib.acoustics import SAMPLE_RATE
from cadenza_lib.corpus import AtEarSong
from cadenza_lib.demo import DemoCorpus
from cadenza_lib.files import DATA, read_json
from cadenza_lib.openunmix import OpenUnmix
from cadenza_lib.scenes import GAIN_STEPS_DB, STEMS
from cadenza_lib.separation import ARCHITECTURES, load, load_network, save_checkpoint
from cadenza_lib.synthesis import render_song

FIRST_SEED = 1000  # of the training songs; the demo corpus uses seeds below 100
ARGUMENTS = {
    "hdemucs": {"sources": list(STEMS), "channels": 8, "nfft": 4096, "depth": 6},
    "hdemucs_masked": {"sources": list(STEMS), "channels": 8, "nfft": 4096, "depth": 6},
    "openunmix": {"sources": list(STEMS), "hidden_size": 64, "n_fft": 2048, "hop_length": 512},
}
BETAS = (0.9, 0.999)
GAIN_RANGE_DB = 4.0
SPECTRAL_SIZES = (512, 2048)  # samples: 12 and 46 ms
SPECTRAL_FLOOR = 1e-5  # power of a bin; white noise at -90 dBFS has 4e-7 in 1024 samples


def main() -> None:
    """Train, save and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", choices=ARGUMENTS, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--songs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--segment-s", type=float, default=3.0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema-decay", type=float, default=0.998)
    parser.add_argument("--remix-weight", type=float, default=0.0, help="of the log-spectral loss of remixes")
    parser.add_argument("--init", type=Path, help="checkpoint to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="default: data/demo_<architecture>.safetensors")
    arguments = parser.parse_args()
    out = arguments.out or DATA / f"demo_{arguments.architecture}.safetensors"

    songs = [render_song(FIRST_SEED + index) for index in tqdm(range(arguments.songs), desc="songs")]
    torch.manual_seed(arguments.seed)
    network = ARCHITECTURES[arguments.architecture](**ARGUMENTS[arguments.architecture])
    if isinstance(network, OpenUnmix):
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
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, arguments.learning_rate, total_steps=arguments.steps, pct_start=0.05
    )
    generator = torch.Generator().manual_seed(arguments.seed)
    started = time.monotonic()
    progress = tqdm(range(arguments.steps), desc="steps")
    loss_average = 0.0
    for step in progress:
        stems = draw_batch(songs, arguments.batch, int(arguments.segment_s * SAMPLE_RATE), generator)
        stems = stems.to(arguments.device)
        estimate = network(stems.sum(1))
        loss = torch.nn.functional.l1_loss(estimate, stems)
        if arguments.remix_weight:
            loss = loss + arguments.remix_weight * remix_loss(estimate, stems, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(network)
        loss_average += (loss.item() - loss_average) / min(step + 1, 50)
        progress.set_postfix(loss=f"{loss_average:.4f}")
        if (step + 1) % 250 == 0 or step + 1 == arguments.steps:
            save_checkpoint(average.module, out, card(arguments, step + 1, time.monotonic() - started))
            measured = {split: si_sdr_improvement_db(str(out), split) for split in ("valid", "test")}
            tqdm.write(f"step {step + 1}: {json.dumps(measured)}")
    save_checkpoint(
        average.module,
        out,
        card(arguments, arguments.steps, time.monotonic() - started) | {"si_sdr_improvement_db": measured},
    )


def draw_batch(songs: list[torch.Tensor], batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
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
        gains_db = (torch.rand(len(STEMS), 1, 1, generator=generator) * 2 - 1) * GAIN_RANGE_DB
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


def card(arguments: argparse.Namespace, steps: int, duration_s: float) -> dict[str, object]:
    """Return what the checkpoint's card tells about its training."""
    return {
        "architecture": arguments.architecture,
        "arguments": ARGUMENTS[arguments.architecture],
        "trained_on": f"dry songs of cadenza_lib.synthesis, seeds {FIRST_SEED} to {FIRST_SEED + arguments.songs - 1}",
        "command": f"python data/train_demo.py --architecture {arguments.architecture} --steps {arguments.steps} "
        f"--songs {arguments.songs} --batch {arguments.batch} --segment-s {arguments.segment_s} "
        f"--learning-rate {arguments.learning_rate} --ema-decay {arguments.ema_decay} "
        f"--remix-weight {arguments.remix_weight} --seed {arguments.seed}"
        + (f" --init {arguments.init.name}" if arguments.init else ""),
        "init": read_json(arguments.init.with_suffix(".json")) if arguments.init else None,
        "steps": steps,
        "loss": f"L1 of stems + {arguments.remix_weight} x log-spectral L1 of remixes",
        "optimiser": f"Adam {BETAS}, one cycle, EMA {arguments.ema_decay}",
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "duration_s": round(duration_s),
    }


def si_sdr_improvement_db(checkpoint: str, split_name: str) -> dict[str, float]:
    """Return the mean improvement of SI-SDR over the mixture on the dry songs of a demo split, by stem."""
    corpus, separator = DemoCorpus(), load(checkpoint, "cpu")
    split = corpus.split(split_name)
    improvement = []
    for name in split.songs:
        stems, mixture = corpus.song(split, name)
        estimate = separator(AtEarSong(name, stems, mixture))
        improvement.append(si_sdr_db(estimate, stems) - si_sdr_db(mixture.expand_as(stems), stems))
    means = torch.stack(improvement).mean(0)
    return {stem: round(float(value), 2) for stem, value in zip(STEMS, means, strict=True)} | {
        "mean": round(float(means.mean()), 2)
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
