"""The processes of a training: one with one device, or several that share out its batches.

Several run under torchrun (DDP through Lightning Fabric), which this module starts, or the user on many machines.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cadenza_lib.core.errors import ModelError, ParameterError
from cadenza_lib.core.processes import child_environment
from cadenza_lib.separation.separators import select_device
from cadenza_lib.training.files import Config

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["ERROR_MARK", "connect", "is_one_of_several", "launch"]

ERROR_MARK = "cadenza: "
"""Begins the line in which a process says why it failed."""


def is_one_of_several() -> bool:
    """Tell whether this process was started by torchrun."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def connect(config: Config) -> "Fabric":
    """Return the process's Fabric; under torchrun it finds the other processes by the environment."""
    from lightning_fabric import Fabric  # takes seconds to import, which nothing else needs
    from lightning_fabric.plugins.environments import LightningEnvironment

    processes = int(os.environ.get("WORLD_SIZE", "1")) if is_one_of_several() else 1
    if config.batch_size % processes:
        raise ParameterError(f"batch_size {config.batch_size} cannot be shared out to {processes} processes evenly.")
    device = select_device(config.device)
    if processes == 1:
        chosen: list[int] | int = 1 if device.type == "cpu" else [device.index or 0]
        return Fabric(
            accelerator=device.type,
            devices=chosen,
            precision=config.precision,  # type: ignore[arg-type]
            plugins=LightningEnvironment(),  # or SLURM's variables would make it one of several processes
        )
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    fabric = Fabric(
        accelerator=device.type,
        strategy="ddp",
        devices=local,
        num_nodes=processes // local,
        precision=config.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def launch(module: str, config: Config, out_dir: Path, lock: int) -> None:
    """Run a module with the configuration that lies in `out_dir`, in several processes of this machine.

    The processes keep the lock whose descriptor is `lock`, since torchrun lives on if this process is killed.

    Raises
    ------
    ModelError
        If a process fails.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(config.devices)]
    command += ["-m", module, str(out_dir / "config.json"), str(out_dir)]
    done = subprocess.run(
        command,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=child_environment(),
        pass_fds=() if os.name == "nt" else (lock,),
    )
    if done.returncode:
        sentences = [line for line in done.stderr.splitlines() if line.startswith(ERROR_MARK)]
        reason = sentences[0].removeprefix(ERROR_MARK) if sentences else done.stderr.strip().splitlines()[-1]
        raise ModelError(reason if sentences else f"A training process failed: {reason.rstrip('.')}.")
