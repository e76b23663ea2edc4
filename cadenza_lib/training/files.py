"""What a fine-tuning run keeps in its directory: the configuration, the metrics, the result, and room for them.

    out_dir/  config.json             what was asked for; another configuration is refused
              inputs.json             the identities of what it names (see `identity`); others are refused
              metrics.jsonl           one object per step, and one per validation
              result.json             written last: the mark of a finished run

`finetune` writes weights, the training state and validation scores beside them.
"""

import json
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from cadenza_lib.core.documents import fill, parse_json, read_json, read_text
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.core.files import atomic_path, write_errors
from cadenza_lib.core.identity import claim
from cadenza_lib.training.targets import TargetLoss

__all__ = [
    "Config",
    "Inputs",
    "Result",
    "check_disk",
    "claim_run",
    "cut_metrics",
    "read_config",
    "read_metrics",
    "read_result",
]

PRECISIONS = ("32-true", "bf16-mixed")

_MAY_CHANGE = ("max_steps", "device", "devices", "micro_batch", "workers", "checkpoint_every", "corpus", "init")


@dataclass(frozen=True)
class Config:
    """Everything that decides a run; the defaults are the paper's where it gives them."""

    corpus: str = "twin"  # "twin", or the directory that holds metadata/ and audio/
    split: str = "train"  # split to train on
    valid_split: str = "valid"  # split to validate on
    init: str = "twin_hdemucs"  # what to start from, see `separators.load_network`
    targets: tuple[str, ...] = ("stems",)  # see `targets.TARGETS`
    target_weights: tuple[float, ...] | None = None  # one for each target; None: all 1
    per_stem: bool = True  # compare each stem on its own, as the paper does, or their sum
    prescription: str = "nal_r"  # of the target "amplified", see `fitting.PRESCRIPTIONS`; it must be linear
    n_scenes: int = 0  # number of training scenes, 0: all of the split; beyond, new ones are drawn
    scene_seed: int = 0  # chooses the subset of scenes
    segment_s: float = 8.0  # length of a training segment in s
    dry: bool = False  # train on the dry songs of the scenes, as a control of what training at the ears adds
    augmentations: tuple[str, ...] = ()  # see `segments.AUGMENTATIONS`; the paper uses none
    batch_size: int = 24  # segments per step, over all processes
    micro_batch: int = 0  # segments that one process works on at a time, 0: its whole share of the batch
    learning_rate: float = 6e-4  # of Adam
    warmup_steps: int = 0  # steps over which the learning rate rises linearly to its value
    clip_norm: float = 0.0  # largest norm of the gradient, 0: not clipped
    ema_decay: float = 0.0  # of the moving average of the weights that is validated and kept, 0: the weights themselves
    max_steps: int = 1000  # steps to train
    valid_every: int = 0  # steps between validations, 0: only before the first and after the last step
    n_valid_segments: int = 8  # segments for the validation loss
    n_valid_pairs: int = 0  # scene-listener pairs for the validation HAAQI, 0: none
    checkpoint_every: int = 100  # steps between writings of the training state
    device: str = "auto"  # "auto", "cpu", "cuda" or "cuda:1"
    devices: int = 1  # processes on this machine, one device each; ignored under torchrun
    precision: str = "32-true"  # or "bf16-mixed"
    workers: int = 1  # threads that prepare the batches of coming steps
    seed: int = 0  # chooses the segments

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        for field in fields(self):  # notebooks and JSON have lists
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, tuple(value) if isinstance(value, list) else value)
        TargetLoss(self.targets, self.target_weights, self.per_stem)
        if not 0 < self.learning_rate < float("inf"):
            raise ParameterError(f"learning_rate {self.learning_rate} must be above 0.")
        if not 0 < self.segment_s < float("inf"):
            raise ParameterError(f"segment_s {self.segment_s} must be above 0.")
        if not 0 <= self.ema_decay < 1:
            raise ParameterError(f"ema_decay {self.ema_decay} must be at least 0 and below 1.")
        if not 0 <= self.clip_norm < float("inf"):
            raise ParameterError(f"clip_norm {self.clip_norm} must not be negative.")
        if self.precision not in PRECISIONS:
            raise ParameterError(f"precision {self.precision!r} is unknown; use one of {', '.join(PRECISIONS)}.")
        at_least = {"batch_size": 1, "max_steps": 1, "checkpoint_every": 1, "devices": 1, "workers": 1}
        at_least |= dict.fromkeys(
            ("seed", "scene_seed", "micro_batch", "warmup_steps", "valid_every", "n_valid_pairs", "n_scenes"), 0
        )
        at_least["n_valid_segments"] = 1
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ParameterError(f"{name} {getattr(self, name)} must be at least {least}.")


@dataclass(frozen=True)
class Result:
    """What became of a run; validation HAAQI is None where `n_valid_pairs` is 0."""

    steps: int
    best_step: int  # 0 if no validation was better than the start
    valid_loss_before: float
    valid_loss_best: float
    haaqi_before: float | None
    haaqi_best: float | None
    n_scenes: int  # trained on
    n_split_scenes: int  # that the split itself has
    waited_share: float  # share of the training time that this call spent waiting for data


def read_config(path: Path | str) -> Config:
    """Read a configuration from JSON; what it does not hold has its default.

    Raises
    ------
    ParameterError
        If it holds something unknown or unusable.
    """
    content = read_json(path)
    known = {field.name for field in fields(Config)}
    if not isinstance(content, dict) or (unknown := sorted(set(content) - known)):
        found = f"has {unknown[0]!r}" if isinstance(content, dict) else "is no object"
        raise ParameterError(f"{path} {found}; a configuration holds some of {', '.join(sorted(known))}.")
    try:
        return fill(Config, content)
    except (TypeError, ParameterError) as error:
        reason = str(error).rstrip(".")
        raise ParameterError(f"{path} is no configuration of a training ({reason}); correct it.") from error


def read_metrics(out_dir: Path | str) -> pd.DataFrame:
    """Return the metrics of a run: one row per step and one per validation, NaN for what a row does not have."""
    rows = _read_lines(Path(out_dir) / "metrics.jsonl")
    if not rows:
        raise ParameterError(f"{out_dir} holds no metrics.jsonl of a training run; train first.")
    return pd.DataFrame(rows)


def read_result(out_dir: Path | str) -> Result:
    """Return the result of a finished run.

    Raises
    ------
    CorpusError
        If the run is not finished.
    ParameterError
        If `result.json` is not that of a run.
    """
    path = Path(out_dir) / "result.json"
    try:
        result = fill(Result, read_json(path))
        if min(result.n_scenes, result.n_split_scenes) < 1:
            raise ValueError("it was trained on no scene")
        return result
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{path} is not the result of a fine-tuning ({error}); train again.") from error


@dataclass(frozen=True)
class Inputs:
    """The identities of what a configuration names."""

    weights: str  # that training begins with
    training_data: str
    validation_data: str


def claim_run(out_dir: Path, config: Config, inputs: Inputs) -> None:
    """Mark a directory as that of a run, or refuse if it is another's that has begun; what it names may have moved."""
    if not (out_dir / "metrics.jsonl").exists():
        with write_errors(out_dir):
            for name in ("inputs.json", "config.json"):
                (out_dir / name).unlink(missing_ok=True)
    claim(out_dir / "inputs.json", inputs)
    claim(out_dir / "config.json", config, _MAY_CHANGE)


def check_disk(out_dir: Path, network: nn.Module) -> None:
    """Raise `ParameterError` if the disk cannot hold what a run writes."""
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    needed = (
        11 * weights
    )  # state (network, average, two moments), best, last, and one more of each while it is replaced
    free = shutil.disk_usage(out_dir).free
    if free < needed:
        raise ParameterError(
            f"{out_dir} has {free / 1e9:.2f} GB of free disk, but checkpoints take {needed / 1e9:.2f} GB; make room."
        )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines, without the last one if it was torn when the run was killed."""
    if not path.exists():
        return []
    try:
        *lines, _ = read_text(path).split("\n")
        rows = [parse_json(line) for line in lines]
        if not all(isinstance(row, dict) and type(row.get("step")) is int for row in rows):
            raise ValueError("a line has no step")
    except (OSError, ValueError, RecursionError) as error:
        raise ParameterError(
            f"{path} does not hold the metrics of a training ({error}); choose another directory, or train again with "
            f"--force."
        ) from error
    return rows


def cut_metrics(path: Path, step: int) -> None:
    """Drop the metrics of steps that will be made again."""
    rows = [row for row in _read_lines(path) if row["step"] <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
