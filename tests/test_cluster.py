"""The script that asks SLURM for workers, as far as it goes without SLURM."""

import importlib.util
import os
import re
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "notebooks/studies/slurm.py"


def test_slurm_job_starts_a_worker_of_one_thread_for_each_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is an optional extra")
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("slurm", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    slurm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slurm)
    with slurm.cluster(partition="cpu", cores=4, memory="16GB", walltime="01:30:00") as cluster:
        script, address = cluster.job_script(), cluster.scheduler_address
    directives = dict(re.findall(r"^#SBATCH (-\S+?)[ =](.*)$", script, flags=re.MULTILINE))
    assert directives["-p"] == "cpu"
    assert directives["--cpus-per-task"] == "4"
    assert directives["-t"] == "01:30:00"
    assert 14 <= int(directives["--mem"].rstrip("G")) <= 16  # GB and GiB
    assert "export OMP_NUM_THREADS=1" in script
    command = script.strip().splitlines()[-1]
    assert address in command
    assert "--nthreads 1 " in command
    assert "--nworkers 4 " in command
    python = command.split()[0]
    assert os.access(python, os.X_OK)
