"""Start dask workers as SLURM jobs, for `cadenza run STUDY --scheduler ADDRESS`.

    python notebooks/studies/slurm.py --jobs 50 --partition cpu

It prints the address of the scheduler and keeps it alive until it is interrupted; run it where jobs can be submitted
from, with the same virtual environment and file system as the study. Needs `pip install 'cadenza-companion[cluster]'`.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from dask_jobqueue import SLURMCluster


def cluster(partition: str | None = None, cores: int = 1, memory: str = "8GB", walltime: str = "04:00:00") -> Any:
    """Return a cluster whose jobs have so many cores, each with a worker of one thread, for a notebook at a time."""
    return SLURMCluster(
        queue=partition,
        cores=cores,
        processes=cores,
        memory=memory,
        walltime=walltime,
        python=sys.executable,
        job_script_prologue=[f"export {name}_NUM_THREADS=1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")]
        + ["export CADENZA_CORES=1", '[ -w "$TMPDIR" ] || export TMPDIR=/tmp'],
        local_directory='"$TMPDIR"',
        log_directory=str(Path.cwd() / "runs/slurm"),
        scheduler_options={"dashboard_address": None},
    )


def main() -> None:
    """Start jobs and wait."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10, help="SLURM jobs")
    parser.add_argument("--cores", type=int, default=1, help="cores of each job, and notebooks at a time in it")
    parser.add_argument("--memory", default="8GB", help="of each job")
    parser.add_argument("--walltime", default="04:00:00", help="of each job")
    parser.add_argument("--partition", help="where to submit (default: SLURM's)")
    arguments = parser.parse_args()
    with cluster(arguments.partition, arguments.cores, arguments.memory, arguments.walltime) as jobs:
        jobs.scale(jobs=arguments.jobs)
        print(f"cadenza run STUDY --scheduler {jobs.scheduler_address}", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
