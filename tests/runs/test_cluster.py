"""The script that asks SLURM for workers, as far as it goes without SLURM."""

import importlib.util
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "notebooks/studies/slurm.py"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is an optional extra")
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("slurm", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    slurm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slurm)
    return slurm


def test_slurm_job_starts_a_worker_of_one_thread_for_each_core(slurm: ModuleType) -> None:
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


def test_job_without_a_directory_for_temporary_files_starts_its_worker(tmp_path: Path, slurm: ModuleType) -> None:
    distributed = pytest.importorskip("distributed", reason="dask.distributed is an optional extra")
    with slurm.cluster() as cluster, distributed.Client(cluster) as client:
        (tmp_path / "job.sh").write_text(cluster.job_script())
        environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
        with (tmp_path / "said").open("w") as said:
            job = subprocess.Popen(["bash", tmp_path / "job.sh"], env=environment, stderr=said, start_new_session=True)
        try:
            while not (workers := client.scheduler_info()["workers"]):
                assert job.poll() is None, (tmp_path / "said").read_text()
                time.sleep(0.05)
        finally:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
    assert [Path(worker["local_directory"]).parts[:2] for worker in workers.values()] == [("/", "tmp")]


def test_job_works_in_its_directory_for_temporary_files_where_it_can_be_written(
    tmp_path: Path, slurm: ModuleType
) -> None:
    with slurm.cluster() as cluster:
        *prologue, command = cluster.job_script().strip().splitlines()
    assert '--local-directory "$TMPDIR"' in command
    script = "\n".join([*prologue, 'printf %s "$TMPDIR"'])
    for given, used in ((tmp_path / "with space", tmp_path / "with space"), ("/proc/nowhere", "/tmp")):
        (tmp_path / "with space").mkdir(exist_ok=True)
        environment = os.environ | {"TMPDIR": str(given)}
        assert subprocess.run(["bash", "-c", script], env=environment, capture_output=True).stdout.decode() == str(used)
