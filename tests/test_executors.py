import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest

from cadenza_lib import executors
from cadenza_lib.errors import ParameterError


def _environment() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("CADENZA_CORES", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}


def test_processes_share_out_the_cores_and_take_no_more_threads_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "core_count", lambda: 9)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "8")
    before = dict(os.environ)
    with executors.processes(2) as pool:
        found = pool.submit(_environment).result()
    assert found == {"CADENZA_CORES": "4", "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "4"}
    assert dict(os.environ) == before


def test_process_with_a_share_counts_no_other_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CADENZA_CORES", raising=False)
    cores = executors.core_count()
    assert cores == len(os.sched_getaffinity(0))
    monkeypatch.setenv("CADENZA_CORES", "1")
    assert executors.core_count() == 1
    monkeypatch.setenv("CADENZA_CORES", str(cores + 1))
    assert executors.core_count() == cores


def _killer(path: str) -> None:
    """Start a process that lives long, and be killed."""
    with executors.processes(1) as pool:
        pool.submit(_write_for_ever, path)
        while not Path(path).exists():
            time.sleep(0.01)
        os.kill(os.getpid(), 9)


def _write_for_ever(path: str) -> None:
    while True:
        with Path(path).open("a") as file:
            file.write("x")
        time.sleep(0.01)


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    parent = multiprocessing.get_context("spawn").Process(target=_killer, args=(str(path),))
    parent.start()
    parent.join()
    assert parent.exitcode == -9
    deadline, size = time.monotonic() + 30, 0
    while path.stat().st_size != size:
        assert time.monotonic() < deadline
        size = path.stat().st_size
        time.sleep(0.5)


def test_scheduler_without_dask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ParameterError, match=r"needs dask; run pip install 'cadenza-companion\[cluster\]'"),
        executors.scheduler("tcp://127.0.0.1:1"),
    ):
        pass
