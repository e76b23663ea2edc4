"""Fine-tune a separator on at-ear segments, towards any stages of the chain (sections 2.3 and 3 of the paper).

One process or several (Lightning Fabric; DDP): `batch_size` counts the segments of all of them, so their number does
not change the result. What a step sees depends on seed and step alone, so the state of a run is that of its networks
and optimiser: it lies in one file, `training_state.pt`, that is replaced as a whole. A run that was killed at any
moment goes on from there, and on the CPU ends with the weights of an unbroken run, bit for bit.

    out_dir/  validation/step_<n>/    scores.csv and enhanced signals, as `evaluation.evaluate` writes them
              best.safetensors        the validated weights with the highest HAAQI (lowest loss if n_valid_pairs is 0)
              last.safetensors        those after the last step; each with a JSON card, both for `separation.load`
              config.json, metrics.jsonl, result.json: see `training.files`

Several processes: `devices` of the configuration, or, on one machine or many, this module under torchrun:

    torchrun --nproc-per-node 3 -m cadenza_lib.training.finetuning config.json out_dir
"""

import contextlib
import copy
import importlib.util
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from cadenza_lib import __version__
from cadenza_lib.core.documents import write_json
from cadenza_lib.core.errors import CadenzaError, ModelError, ParameterError
from cadenza_lib.core.files import atomic_path, make_directory, sync, write_errors
from cadenza_lib.core.identity import digest, results_lock
from cadenza_lib.core.paths import regular_file
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import Pair, choose_pairs
from cadenza_lib.scoring.evaluation import Settings, evaluate
from cadenza_lib.separation.checkpoints import save_checkpoint
from cadenza_lib.separation.estimates import model_identity, weights_identity
from cadenza_lib.separation.separators import (
    input_statistics,
    load_network,
    network_card,
    network_separator,
    sum_to_stems,
)
from cadenza_lib.training.files import (
    Config,
    Inputs,
    Result,
    check_disk,
    claim_run,
    cut_metrics,
    read_config,
    read_result,
)
from cadenza_lib.training.launch import ERROR_MARK, connect, is_one_of_several, launch
from cadenza_lib.training.segments import Batch, Prefetcher, Segments, training_scenes
from cadenza_lib.training.targets import TargetLoss

__all__ = ["BETAS", "finetune", "main", "separate_segments"]

BETAS = (0.9, 0.999)
"""Of Adam, as in the paper."""

_VALID_SEED = 0  # of the validation segments and pairs: the same for every run, so that runs compare
_STATE_FILE = "training_state.pt"
_PRODUCTS = (
    "*.safetensors",
    "at_ear_gains.json",
    "best.json",
    "config.json",
    "inputs.json",
    "last.json",
    "metrics.jsonl",
    "result.json",
    "tensorboard",
    _STATE_FILE,
    "validation",
)

_LOGGER = logging.getLogger(__name__)

_NO_GRADIENT = 1e-7  # a loss that only rounding moves has a gradient with a norm of about 1e-9


def finetune(config: Config, out_dir: Path | str, progress: bool = True) -> Result:
    """Train, validate and keep checkpoints in `out_dir`; a run that was stopped goes on.

    If another process is training in `out_dir`, this waits until it is done, and has nothing left to do. Under torchrun
    nobody waits: do not start a run of it twice.

    Parameters
    ----------
    config
        What to do.
    out_dir
        Directory of the run.
    progress
        Whether to show a progress bar.

    Raises
    ------
    ParameterError
        If a value cannot be used, the device is not there, the disk is full, or `out_dir` holds another run.
    ModelError
        If the initial weights cannot be loaded, or the loss stops being a number; the last good checkpoint stays.
    CorpusError, AudioError
        If the data cannot be used.
    """
    out_dir = make_directory(out_dir)
    if is_one_of_several():  # one of several processes, whose parent has the lock
        claim_run(out_dir, config, _inputs(config))
        return _Run(config, out_dir, progress).train()
    with results_lock(out_dir / ".training.lock", *_PRODUCTS, with_children=True) as lock:
        claim_run(out_dir, config, _inputs(config))
        if (out_dir / "result.json").exists():
            result = read_result(out_dir)
            if result.steps >= config.max_steps:
                _LOGGER.info("%s is finished; nothing to do.", out_dir)
                return result
        if config.devices > 1:
            launch(__spec__.name, config, out_dir, lock)
            return read_result(out_dir)
        return _Run(config, out_dir, progress).train()


def separate_segments(
    network: torch.nn.Module, sources: Sequence[str], mixture: Tensor, forward: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Separate whole segments as `separation` does, normalised by their own mean and deviation, with gradients.

    Silence gives silence. `sources` are the network's, in their order; `forward` is the network as several processes
    wrap it, by default the network itself.

    Shape:
        - mixture: `(batch, channel, time)`
        - result: `(batch, stem, channel, time)`
    """
    mean, deviation = input_statistics(network, mixture)  # (batch, 1, 1)
    estimate = (forward or network)((mixture - mean) / torch.where(deviation > 0, deviation, 1.0))
    return torch.addcmul(mean[:, None], sum_to_stems(estimate, sources), deviation[:, None])


def _inputs(config: Config) -> Inputs:
    """Return the identities of what a configuration names."""
    corpus = open_corpus(config.corpus)
    data = []
    trained = (config.split, config.n_scenes, config.scene_seed, config.dry)
    for name, n_scenes, seed, dry in (trained, (config.valid_split, 0, 0, False)):
        split = corpus.split(name)
        scenes = training_scenes(corpus, split, n_scenes, seed)
        corpus.check_songs(split, [scene.scene for scene in scenes], config.segment_s, dry)
        pairs = [Pair(scene.name, listener) for scene in scenes for listener in scene.listeners]
        drawn = replace(split, scenes={scene.name: scene.scene for scene in scenes})
        data.append(digest([corpus.pair_identity(drawn, pair) for pair in pairs]))
    return Inputs(model_identity(config.init), *data)


class _Run:
    """One process of a run."""

    def __init__(self, config: Config, out_dir: Path, progress: bool) -> None:
        self.config, self.out_dir = config, out_dir
        self.fabric = connect(config)
        self.first = self.fabric.global_rank == 0
        self.progress = progress and self.first
        self.corpus = open_corpus(config.corpus)
        split = self.corpus.split(config.split)
        valid = self.corpus.split(config.valid_split)
        self.scenes = training_scenes(self.corpus, split, config.n_scenes, config.scene_seed)
        self.pairs = choose_pairs(valid.scene_listeners, config.n_valid_pairs, _VALID_SEED)
        self.pairs = self.pairs if config.n_valid_pairs else []
        device = self.fabric.device
        gain_file = out_dir / "at_ear_gains.json" if self.first else None
        self.segments = Segments(
            self.corpus,
            split,
            self.scenes,
            config.segment_s,
            config.seed,
            config.augmentations,
            device,
            gain_file,
            config.dry,
            config.prescription,
        )
        valid_scenes = training_scenes(self.corpus, valid)
        self.valid_segments = Segments(
            self.corpus,
            valid,
            valid_scenes,
            config.segment_s,
            _VALID_SEED,
            device=device,
            prescription=config.prescription,
        )

        self.network, self.sources = load_network(config.init)
        self.card = network_card(config.init, self.network)
        self.averaged = copy.deepcopy(self.network).to(device).requires_grad_(False)
        self.loss = TargetLoss(config.targets, config.target_weights, config.per_stem)
        check_disk(out_dir, self.network)
        optimiser = torch.optim.Adam(self.network.parameters(), config.learning_rate, BETAS)
        self.model, self.optimiser = self.fabric.setup(self.network, optimiser)
        self.step = 0
        self.best: dict[str, Any] = {}
        self.before: dict[str, Any] = {}
        self.waited_share = 0.0

    def train(self) -> Result:
        """Train from where the run was to its end."""
        config = self.config
        self._resume()
        if self.first:
            cut_metrics(self.out_dir / "metrics.jsonl", self.step if self.before else -1)
        if not self.before:
            self.before = self.best = self._validate()
            self._report(self.before, None)
            self._save_checkpoint("best")  # so there is always one that can be used
            self._save()
        share = self._share(config.batch_size)
        prefetcher = Prefetcher(self.segments, range(self.step, config.max_steps), share, config.workers)
        bar = tqdm(
            total=config.max_steps, initial=self.step, desc="fine-tuning", unit="step", disable=not self.progress
        )
        started = time.monotonic()
        with bar, _summary_writer(self.out_dir, self.step, self.first) as writer:
            for batch in prefetcher:
                metrics = self._train_step(batch)
                self.waited_share = prefetcher.waited_s / (time.monotonic() - started)
                self._report({**metrics, "waited_share": round(self.waited_share, 4)}, writer)
                bar.set_postfix(loss=f"{metrics['loss']:.5f}", waited=f"{self.waited_share:.0%}")
                bar.update()
                last = self.step == config.max_steps
                if last or (config.valid_every and self.step % config.valid_every == 0):
                    self._keep_if_best(self._validate(), writer)
                if last or self.step % config.checkpoint_every == 0:
                    self._save()
        return self._finish()

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """Make one step of the optimiser; return its metrics."""
        config = self.config
        torch.manual_seed(config.seed * 1_000_003 + self.step)  # of layers that draw, such as dropout
        rate = config.learning_rate * min(1.0, (self.step + 1) / max(config.warmup_steps, 1))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        micro_batches = list(batch.chunks(config.micro_batch or len(batch)))
        sums = torch.zeros(1 + len(config.targets), device=self.fabric.device)
        for number, micro in enumerate(micro_batches, 1):
            with self.fabric.no_backward_sync(self.model, enabled=number < len(micro_batches)):
                estimate = separate_segments(self.network, self.sources, micro.mixture, self.model)
                loss, parts = self._loss_of(estimate, micro)
                weight = len(micro) / len(batch)
                self.fabric.backward(loss * weight)
            sums += weight * torch.stack([loss, *parts.values()]).detach()
        norm = self.fabric.clip_gradients(
            self.model, self.optimiser, max_norm=config.clip_norm or float("inf"), error_if_nonfinite=False
        )
        assert norm is not None  # it is measured since max_norm is given
        # All processes see the same numbers, so they stop together.
        values = self._mean_over_processes(torch.cat([sums, norm.detach().reshape(1).to(sums)])).tolist()
        if not all(map(_is_finite, values)):
            raise ModelError(
                f"Training stopped since the loss or its gradient was not a finite number in step {self.step + 1}; "
                f"lower learning_rate or set clip_norm (the checkpoints of earlier steps are kept)."
            )
        if self.step == 0 and values[-1] < _NO_GRADIENT and self.fabric.is_global_zero:
            _LOGGER.warning(
                "The loss hardly depends on the network (its gradient has a norm of %.1e in the first step): stems of "
                "masks always sum to the mixture, so set per_stem for the target stems.",
                values[-1],
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        _move_average(self.averaged, self.network, self.step, config.ema_decay)
        self.step += 1
        parts_by_name = {f"loss_{stage}": value for stage, value in zip(config.targets, values[1:-1], strict=True)}
        return {
            "step": self.step,
            "loss": values[0],
            **parts_by_name,
            "gradient_norm": values[-1],
            "learning_rate": rate,
        }

    def _loss_of(self, estimate: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(estimate, batch.stems, batch.gains_db, batch.mixture, batch.firs, batch.listeners)

    def _validate(self) -> dict[str, Any]:
        """Return loss and HAAQI of the averaged weights on the validation split."""
        self.averaged.eval()
        places = range(self.config.n_valid_segments)[self.fabric.global_rank :: self.fabric.world_size]
        total = torch.zeros(2, device=self.fabric.device)  # sum of losses, number of segments
        with torch.no_grad():
            for place in places:
                batch = self.valid_segments.batch(0, [place])
                estimate = separate_segments(self.averaged, self.sources, batch.mixture)
                loss, _ = self._loss_of(estimate, batch)
                total += torch.stack([loss, torch.ones_like(loss)])
        loss_sum, count = self._mean_over_processes(total).tolist()
        haaqi = None
        if self.pairs:
            mean = torch.zeros(1, dtype=torch.float64, device=self.fabric.device)
            if self.first:  # the metric uses all cores by itself
                mean += float(self._scores()["score"].mean())
            haaqi = float(self.fabric.broadcast(mean))
        return {"step": self.step, "valid_loss": loss_sum / count, "valid_haaqi": haaqi}

    def _scores(self) -> pd.DataFrame:
        config = self.config
        out_dir = self.out_dir / "validation" / f"step_{self.step:06d}"
        separator = network_separator(self.averaged, self.sources, self.fabric.device)
        settings = Settings(self.corpus.name, config.valid_split, f"step {self.step}", prescription=config.prescription)
        identity = weights_identity(self.averaged)
        return evaluate(self.corpus, separator, settings, self.pairs, out_dir, progress=False, system_identity=identity)

    def _keep_if_best(self, validation: dict[str, Any], writer: Any) -> None:
        self._report(validation, writer)
        if _quality(validation) > _quality(self.best):
            self.best = validation
            self._save_checkpoint("best")

    def _resume(self) -> None:
        path = self.out_dir / _STATE_FILE
        if not path.exists():
            return
        try:
            state = torch.load(regular_file(path), map_location=self.fabric.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.best, self.before = state["step"], state["best"], state["before"]
            if type(self.step) is not int or self.step < 0:
                raise ValueError(f"its step is {self.step!r}")
            if not {"step", "valid_loss", "valid_haaqi"} <= self.best.keys() & self.before.keys():
                raise ValueError("it has no validation")
            weights = [*self.network.state_dict().values(), *self.averaged.state_dict().values()]
            if not all(torch.isfinite(value).all() for value in weights):
                raise ValueError("it holds NaN or infinite weights")
        except Exception as error:  # damage shows itself in many ways
            raise ModelError(
                f"{path} cannot be read as the state of this run ({type(error).__name__}); choose another "
                f"directory, or train again with --force (best.safetensors and last.safetensors can be "
                f"used)."
            ) from error
        _LOGGER.info("Going on after step %d of %s.", self.step, self.out_dir)

    def _save(self) -> None:
        """Write the last weights, then the training state: a state that is there says that all before it is."""
        if not self.first:
            return
        sync(self.out_dir / "metrics.jsonl")
        self._save_checkpoint("last")
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "best": self.best,
            "before": self.before,
        }
        with atomic_path(self.out_dir / _STATE_FILE) as temporary:
            torch.save(state, temporary)

    def _save_checkpoint(self, name: str) -> None:
        if not self.first:
            return
        card = {
            "architecture": self.card["architecture"],
            "arguments": self.card["arguments"],
            "trained_on": f"{self.card.get('trained_on', 'unknown')}; then split {self.config.split} of "
            f"{self.corpus.name} {'dry' if self.config.dry else 'at the ears'}",
            "fine_tuning": asdict(self.config),
            "steps": self.step,
            "validation": self.best if name == "best" else None,
            "versions": {"cadenza": __version__, "torch": torch.__version__},
        }
        save_checkpoint(self.averaged, self.out_dir / f"{name}.safetensors", card, torch.float32)

    def _report(self, metrics: dict[str, Any], writer: Any) -> None:
        if not self.first:
            return
        path = self.out_dir / "metrics.jsonl"
        with write_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        if writer is not None:
            for name, value in metrics.items():
                if name != "step" and value is not None:
                    writer.add_scalar(name, value, metrics["step"])

    def _finish(self) -> Result:
        result = Result(
            steps=self.step,
            best_step=self.best["step"],
            valid_loss_before=self.before["valid_loss"],
            valid_loss_best=self.best["valid_loss"],
            haaqi_before=self.before["valid_haaqi"],
            haaqi_best=self.best["valid_haaqi"],
            n_scenes=len(self.scenes),
            n_split_scenes=len(self.corpus.split(self.config.split).scenes),
            waited_share=round(self.waited_share, 4),
        )
        if self.first:
            write_json(self.out_dir / "result.json", asdict(result))
        self.fabric.barrier()
        return result

    def _share(self, count: int) -> range:
        """Return the places in a batch that this process works on."""
        size = count // self.fabric.world_size
        return range(self.fabric.global_rank * size, (self.fabric.global_rank + 1) * size)

    def _mean_over_processes(self, values: Tensor) -> Tensor:
        reduced = self.fabric.all_reduce(values, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        return reduced


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `config.json out_dir`, alone or as one of torchrun's processes; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if len(arguments) != 2:
            raise ParameterError(
                "Give a configuration and a directory: python -m cadenza_lib.training.finetuning config.json out."
            )
        finetune(read_config(arguments[0]), arguments[1])
    except CadenzaError as error:
        sys.stderr.write(f"{ERROR_MARK}{error}\n")
        return 1
    finally:
        if torch.distributed.is_initialized():  # its threads must not outlive the interpreter
            torch.distributed.destroy_process_group()
    return 0


@contextlib.contextmanager
def _summary_writer(out_dir: Path, step: int, first: bool) -> Iterator[Any]:
    """Yield a TensorBoard writer, or None where TensorBoard is not installed."""
    if not first or importlib.util.find_spec("tensorboard") is None:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out_dir / "tensorboard"), purge_step=step + 1) as writer:
        yield writer


def _move_average(averaged: torch.nn.Module, network: torch.nn.Module, step: int, decay: float) -> None:
    """Move the averaged weights towards the current ones; early steps forget faster, or the start would linger."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for ours, theirs in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
            if ours.is_floating_point():
                ours.lerp_(theirs, share)
            else:
                ours.copy_(theirs)


def _quality(validation: dict[str, Any]) -> float:
    """Return the criterion that the best checkpoint maximises."""
    haaqi = validation["valid_haaqi"]
    return -validation["valid_loss"] if haaqi is None else haaqi


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")


if __name__ == "__main__":
    raise SystemExit(main())
