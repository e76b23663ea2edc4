"""Running studies of tiny notebooks: at once, on a cluster, killed and started again."""

import fcntl
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any

import pytest
from stubs import GOOD, Inline, count, count_ended, read

from cadenza_lib.__main__ import main
from cadenza_lib.core import processes
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.core.processes import core_count
from cadenza_lib.runs.execution import run_study
from cadenza_lib.runs.study import load_study


def test_points_that_run_at_the_same_time_do_not_mix(
    write_study: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    study = load_study(write_study(GOOD))
    result = run_study(study, jobs=2)  # each point waits until both have started
    out_dir = tmp_path / "runs/small"
    assert result.page == out_dir / "index.html"
    assert [point.status for point in result.points] == ["finished"] * 3
    assert not result.failed
    for value in (1, 2):
        seen = read(out_dir / f"points/{value}/seen.json")
        assert seen["value"] == value
        assert seen["threads"] == str(max(1, core_count() // 2))
        assert count(out_dir / f"points/{value}") == 1
    assert "OMP_NUM_THREADS" not in os.environ
    assert (out_dir / "sum/sum.txt").read_text() == "3"
    manifest = read(out_dir / "sum/manifest.json")
    assert manifest["parameters"]["points"] == [str(out_dir / "points/1"), str(out_dir / "points/2")]
    assert read(out_dir / "points/1/manifest.json")["parameters"]["seed"] == 3

    page = result.page.read_text()
    assert "A &lt;small&gt; study" in page
    assert "&lt;b&gt;s2&lt;/b&gt;" in page
    assert "R &amp; D" in page
    assert "0.12346" in page
    assert 'href="points/1/point.html"' in page
    assert "http" not in page
    notebook_page = (out_dir / "points/1/point.html").read_text()
    assert "<html" in notebook_page
    assert not re.findall(r"(?:src|href)=.?http", notebook_page)  # nothing is fetched

    again = run_study(study, jobs=2)
    assert [point.status for point in again.points] == ["kept"] * 3
    assert count(out_dir / "points/1") == 1


def test_failed_point_stops_only_those_that_read_it(
    write_study: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study("""
steps:
  - {name: points, notebook: point.ipynb, grid: {value: [13, 1]}}
  - {name: all, notebook: collect.ipynb, parameters: {points: "{points}"}}
  - {name: other, notebook: point.ipynb, parameters: {value: 2}}
""")
    out_dir = tmp_path / "out"
    result = run_study(load_study(path), out_dir, executor=Inline())
    assert [point.status for point in result.points] == ["failed", "finished", "skipped", "finished"]
    assert "It reads points/13, which did not finish." in result.points[2].error
    assert (out_dir / "points/13/error.txt").exists()
    assert (out_dir / "points/13/point.ipynb").exists()
    assert not (out_dir / "points/13/manifest.json").exists()
    page = result.page.read_text()
    assert "point.ipynb failed in cell [5] with ValueError: no such luck" in page
    assert 'href="points/13/point.html"' in page

    assert main(["run", str(path), "-o", str(out_dir), "--jobs", "1"]) == 1
    assert "2 of 4 points did not finish (points/13, all)" in capsys.readouterr().err
    assert count(out_dir / "points/13") == 2
    assert count(out_dir / "points/1") == 1
    assert count(out_dir / "other") == 1


def test_progress_counts_only_what_this_call_runs(
    write_study: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for values, counts in (("[1]", "1/1"), ("[1, 2]", "1/1")):  # the first point of the second call is kept
        path = write_study(f"steps: [{{name: points, notebook: point.ipynb, grid: {{value: {values}}}}}]")
        run_study(load_study(path), tmp_path / "out", executor=Inline(), progress=True)
        assert f"| {counts} [" in capsys.readouterr().err.splitlines()[-1]


def test_changed_input_file_runs_only_the_points_that_read_it_again(
    write_study: Callable[[str], Path], tmp_path: Path
) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("1")
    second.write_text("1")
    path = write_study(f"""
steps:
  - {{name: points, notebook: point.ipynb, grid: {{source: ["{first}", "{second}"], value: [1, 2]}}}}
  - {{name: sum, notebook: collect.ipynb, parameters: {{points: "{{points}}"}}}}
""")
    statuses = []
    for content in ("1", "1", "2"):
        second.write_text(content)  # whatever its time
        result = run_study(load_study(path), tmp_path / "out", executor=Inline())
        statuses.append([point.status for point in result.points])
    assert statuses == [["finished"] * 5, ["kept"] * 5, ["kept", "kept", "finished", "finished", "finished"]]


def test_label_stays_though_it_looks_like_a_path(write_study: Callable[[str], Path], tmp_path: Path) -> None:
    label = "{w/o} separation / {points} / ./twin"
    path = write_study(f"""
steps:
  - {{name: points, notebook: point.ipynb, parameters: {{label: "{label}"}}}}
  - {{name: more, notebook: point.ipynb, parameters: {{label: "{label}", source: "{{points}}/seen.json"}}}}
""")
    result = run_study(load_study(path), tmp_path / "out", executor=Inline())
    assert [point.status for point in result.points] == ["finished", "finished"]
    for step in ("points", "more"):
        assert read(tmp_path / "out" / step / "seen.json")["label"] == label
        assert read(tmp_path / "out" / step / "manifest.json")["parameters"]["label"] == label
    seen = tmp_path / "out/points/seen.json"
    assert read(tmp_path / "out/more/seen.json")["source"] == str(seen)
    assert list(read(tmp_path / "out/more/manifest.json")["inputs"]) == [str(seen)]


class Dead(Executor):
    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        raise BrokenExecutor("A process was terminated abruptly.")


def test_point_whose_process_dies_says_what_to_do(write_study: Callable[[str], Path], tmp_path: Path) -> None:
    result = run_study(load_study(write_study(GOOD)), tmp_path / "out", executor=Dead())
    assert [point.status for point in result.points] == ["failed", "failed", "skipped"]
    assert re.fullmatch(
        rf"{tmp_path}/out/points/1, or a point beside it, lost its process .* which goes on\.", result.points[0].error
    )


def test_one_worker_and_two_give_the_same_tables(write_study: Callable[[str], Path], tmp_path: Path) -> None:
    study = load_study(write_study(STUDY % "[1, 2, 3]"))
    for jobs in (1, 2):
        out_dir = tmp_path / str(jobs)
        (out_dir / "points").mkdir(parents=True)
        (out_dir / "points/go").touch()
        assert not run_study(study, out_dir, jobs=jobs).failed
        check_numbers(out_dir, range(1, 4))
    one, two = (
        {path.relative_to(out_dir): path.read_bytes() for path in out_dir.rglob("*.csv")}
        for out_dir in (tmp_path / "1", tmp_path / "2")
    )
    assert len(one) == 3
    assert one == two


def test_no_jobs_at_all_are_refused(write_study: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"number of jobs is 0; it must be at least 1"):
        run_study(load_study(write_study(GOOD)), tmp_path / "out", jobs=0)
    assert not (tmp_path / "out").exists()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_numbers(out_dir: Path, values: range) -> None:
    """Compare what the points left with what each would leave on its own."""
    for value in values:
        assert float((out_dir / f"points/{value}/number.txt").read_text()) == random.Random(value).random()
    assert int((out_dir / "sum/sum.txt").read_text()) == sum(values)


STUDY = """
steps:
  - {name: points, notebook: point.ipynb, grid: {value: %s}, parameters: {wait_for: go}}
  - {name: sum, notebook: collect.ipynb, parameters: {points: "{points}"}}
"""


def test_study_killed_at_any_moment_and_started_again_ends_with_the_same_table(
    write_study: Callable[[str], Path], tmp_path: Path
) -> None:
    path, out_dir = write_study(STUDY % "[1, 2]"), tmp_path / "out"

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cadenza_lib", "run", str(path), "-o", str(out_dir), "--jobs", "2"]
        return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)

    def kill(study: subprocess.Popen[bytes]) -> None:
        os.killpg(study.pid, signal.SIGKILL)
        study.communicate()

    study = start()
    wait_for(lambda: len(list(out_dir.glob("points/*/worker.txt"))) == 2)
    kill(study)  # in the middle of both points
    study = start()
    wait_for(lambda: all(count(point) == 2 for point in out_dir.glob("points/*")))
    (out_dir / "points/go").touch()
    wait_for(lambda: list(out_dir.glob("points/*/manifest.json")))
    kill(study)  # when the first is finished
    study = start()
    _, said = study.communicate()
    assert study.returncode == 0, said.decode()
    check_numbers(out_dir, range(1, 3))
    assert (out_dir / "index.html").exists()


def kill_first_worker(out_dir: Path) -> threading.Thread:
    """Start to wait for two points, each with a worker; kill that of the first with its kernel, and let them go on."""
    marks = [out_dir / f"points/{value}/worker.txt" for value in (1, 2)]

    def kill() -> None:
        wait_for(lambda: all(mark.exists() and mark.read_text() for mark in marks))
        workers = [int(mark.read_text()) for mark in marks]
        assert len(set(workers)) == 2
        os.kill(workers[0], signal.SIGKILL)
        with (out_dir / "points/1/alone").open() as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)  # until its kernel is dead too
        (out_dir / "points/go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    return killer


def test_study_goes_on_when_one_of_its_processes_is_killed(write_study: Callable[[str], Path], tmp_path: Path) -> None:
    out_dir = tmp_path / "out"
    killer = kill_first_worker(out_dir)
    result = run_study(load_study(write_study(STUDY % "[1, 2]")), out_dir, jobs=2)
    killer.join()
    assert [point.status for point in result.points] == ["finished"] * 3
    assert [count(out_dir / f"points/{value}") for value in (1, 2)] == [2, 1]
    check_numbers(out_dir, range(1, 3))


# On a cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Start a scheduler and two workers as a person would, and return the address."""
    distributed = pytest.importorskip("distributed", reason="dask.distributed is an optional extra")
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    worker = [*dask, "worker", "--scheduler-file", str(file), *local, "--nthreads", "1", "--no-nanny"]
    worker += ["--local-directory", str(tmp_path / "spill")]
    commands = [[*dask, "scheduler", *local, "--port", "0", "--scheduler-file", str(file)], worker, worker]
    started = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in commands]
    wait_for(file.exists)
    address = read(file)["address"]
    with distributed.Client(address) as client:
        client.wait_for_workers(2, timeout=120)
    yield address
    for process in started:
        process.kill()
        process.wait()


def test_study_whose_scheduler_goes_away_says_so_and_goes_on_without_it(
    cluster: str, write_study: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    distributed = pytest.importorskip("distributed", reason="dask.distributed is an optional extra")
    path, out_dir = write_study(STUDY % "[1, 2]"), tmp_path / "out"
    with distributed.Client(cluster) as client:
        scheduler = client.run_on_scheduler(os.getpid)

    def kill_scheduler() -> None:
        wait_for(lambda: len(list(out_dir.glob("points/*/worker.txt"))) == 2)
        os.kill(scheduler, signal.SIGKILL)

    killer = threading.Thread(target=kill_scheduler)
    killer.start()
    assert main(["run", str(path), "-o", str(out_dir), "--scheduler", cluster]) == 1
    killer.join()
    said = capfd.readouterr().err
    assert "points/1, or a point beside it, lost its process or its scheduler" in said
    assert "Traceback" not in said
    (out_dir / "points/go").touch()  # the workers may be at it still
    assert not run_study(load_study(path), out_dir, executor=Inline()).failed
    check_numbers(out_dir, range(1, 3))


def test_points_of_a_killed_worker_are_finished_once_by_the_other(
    cluster: str, write_study: Callable[[str], Path], tmp_path: Path
) -> None:
    out_dir = tmp_path / "out"
    killer = kill_first_worker(out_dir)
    with processes.scheduler(cluster) as executor:
        result = run_study(load_study(write_study(STUDY % "[1, 2]")), out_dir, executor=executor)
    killer.join()
    assert [point.status for point in result.points] == ["finished"] * 3
    assert count(out_dir / "points/1") == 2
    assert [count_ended(out_dir / f"points/{value}") for value in (1, 2)] == [1, 1]
    check_numbers(out_dir, range(1, 3))
