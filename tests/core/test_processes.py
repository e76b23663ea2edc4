import io
import logging
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest

from cadenza_lib.core import processes
from cadenza_lib.core.errors import ParameterError


def _environment() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("CADENZA_CORES", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}


def test_processes_share_out_the_cores_and_take_no_more_threads_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "core_count", lambda: 9)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "8")
    before = dict(os.environ)
    with processes.process_pool(2) as pool:
        found = pool.submit(_environment).result()
    assert found == {"CADENZA_CORES": "4", "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "4"}
    assert dict(os.environ) == before


def test_process_with_a_share_counts_no_other_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CADENZA_CORES", raising=False)
    cores = processes.core_count()
    assert 1 <= cores <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("CADENZA_CORES", "1")
    assert processes.core_count() == 1
    monkeypatch.setenv("CADENZA_CORES", str(cores + 1))
    assert processes.core_count() == cores


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_quota_of_a_container_counts_as_so_many_cores(quota: str, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = "/sys/fs/cgroup/cpu.max"
    exists = os.path.exists
    monkeypatch.delenv("CADENZA_CORES", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os.path, "exists", lambda path: path == file or exists(path))
    monkeypatch.setattr("builtins.open", lambda path, *_, **__: {file: io.StringIO(quota)}[path])
    assert processes.core_count() == cores


@pytest.mark.parametrize(
    ("value", "limit"), [("3", 3), ("3,2", 3), ("0", None), ("-1", None), ("many", None), ("", None), ("²", None)]
)
def test_number_of_threads_is_above_zero_or_none(
    value: str, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert processes.thread_limit("OMP_NUM_THREADS") == limit


def _die(path: str, times: int) -> int:
    """Note a start, and be killed as the kernel kills for lack of memory, but for those after so many."""
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_task_whose_process_is_killed_is_run_once_more_and_no_other_is_disturbed(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "abcd"]
    with processes.process_pool(2) as pool:
        futures = [pool.submit(_die, path, times) for path, times in zip(paths, (1, 0, 2, 0), strict=True)]
        assert futures[0].result() != os.getpid()
        with pytest.raises(BrokenExecutor):
            futures[2].result()
        futures[1].result(), futures[3].result()
        assert pool.submit(os.getpid).result() > 0  # it goes on
    assert [os.path.getsize(path) for path in paths] == [2, 1, 2, 1]


def test_error_ends_the_processes_in_the_middle_of_their_tasks(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), processes.process_pool(2) as pool:  # noqa: PT012
        futures = [pool.submit(_write_for_ever, str(tmp_path / "alive")) for _ in range(3)]
        while not (tmp_path / "alive").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert all(future.done() for future in futures)


def _killer(path: str) -> None:
    """Start a process that lives long, and be killed."""
    with processes.process_pool(1) as pool:
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
        processes.scheduler("tcp://127.0.0.1:1"),
    ):
        pass


def test_scheduler_without_workers_is_told_until_there_are_some(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    distributed = pytest.importorskip("distributed", reason="dask.distributed is an optional extra")
    assert processes._PATIENCE_S == 10
    monkeypatch.setattr(processes, "_PATIENCE_S", 0.05)
    options = {"n_workers": 0, "threads_per_worker": 1, "processes": False, "dashboard_address": None}

    def wait_for_warnings(count: int) -> None:
        deadline = time.monotonic() + 60
        while len(caplog.records) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with (
        caplog.at_level(logging.WARNING, "cadenza_lib"),
        distributed.LocalCluster(**options, protocol="tcp://", host="127.0.0.1") as cluster,
        processes.scheduler(cluster.scheduler_address) as executor,
    ):
        future = executor.submit(os.getpid)
        wait_for_warnings(2)
        cluster.scale(1)
        assert future.result() == os.getpid()
        said = [record.getMessage() for record in caplog.records]
        time.sleep(0.5)  # ten times the pause between two looks
        assert len(caplog.records) <= len(said) + 1  # one may have been on its way
    assert said[0] == (
        f"Scheduler {cluster.scheduler_address} has no workers, so nothing runs; waiting for them (see whether their "
        f"jobs are queued, or start one with dask worker {cluster.scheduler_address} --nthreads 1)."
    )
