"""Running a study on any executor: each point as soon as those that it reads are finished.

Finished points are not run again, a failed one does not stop the others, and at the end there is a page. What is left
to do and what it costs can be asked before.
"""

import logging
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from cadenza_lib.core.errors import CadenzaError
from cadenza_lib.core.files import absolute_path, make_directory, read_json
from cadenza_lib.core.processes import core_count, process_pool, thread_share
from cadenza_lib.runs.cost import Calibration, Work, work_of
from cadenza_lib.runs.notebooks import (
    Parameter,
    Run,
    execute,
    forced_run_name,
    git_state,
    notebook_parameters,
    package_version,
    prepare,
    replace_paths,
    write_error,
)
from cadenza_lib.runs.page import PointResult, write_page
from cadenza_lib.runs.study import PLACED, Point, Step, Study

__all__ = ["StepPlan", "StudyResult", "default_jobs", "describe_plan", "plan_study", "run_study"]

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyResult:
    """What became of a study."""

    points: tuple[PointResult, ...]
    page: Path

    @property
    def failed(self) -> tuple[PointResult, ...]:
        """The points that failed, and those skipped because of them."""
        return tuple(point for point in self.points if point.status in ("failed", "skipped"))


@dataclass(frozen=True)
class StepPlan:
    """What is left to do of one step of a study."""

    name: str
    n_points: int
    to_do: Mapping[str, Work]  # by the directory of the point

    @property
    def work(self) -> Work:
        """What the points that are left compute together."""
        return sum(self.to_do.values(), Work())

    def seconds(self, jobs: int, calibration: Calibration) -> float:
        """Return how long the step takes with so many processes: at least as long as its longest point."""
        seconds = [calibration.seconds(work) for work in self.to_do.values()]
        return max([sum(seconds) / jobs, *seconds])


def default_jobs(study: Study) -> int:
    """Return how many processes a study gets unless told otherwise: one per core, as far as it has points for them."""
    depths: dict[str, int] = {}  # of each point, how many must be made one after the other before it
    for step in study.steps:
        for point in step.points:
            depths[point.directory] = 1 + max((depths[need] for need in point.needs), default=0)
    return min(core_count(), max(Counter(depths.values()).values()))


def plan_study(study: Study, out_dir: Path | str | None = None, *, force: bool = False) -> tuple[StepPlan, ...]:
    """Tell what is left to do of a study, without writing anything.

    A point that is there in part counts as a whole.

    Raises
    ------
    CadenzaError
        If a corpus that the study reads cannot be opened, or a parameter does not fit it.
    """
    out_dir = _out_dir(study, out_dir)
    inits: dict[str, str] = {}  # what a network that is not there yet starts from, by the directory of its point
    to_do: set[str] = set()
    plans = []
    for step in study.steps:
        known = notebook_parameters(step.notebook)
        defaults = {name: parameter.default for name, parameter in known.items()}
        works = {}
        for point in step.points:
            parameters = {**defaults, **_origins(known, point.parameters, inits)}
            if "init" in parameters:
                inits[point.directory] = parameters["init"]
            if force or to_do.intersection(point.needs) or not _prepare(step, point, out_dir).is_finished():
                to_do.add(point.directory)
                works[point.directory] = work_of(step.notebook.stem, parameters)
        plans.append(StepPlan(step.name, len(step.points), works))
    return tuple(plans)


def describe_plan(plans: Sequence[StepPlan], jobs: int) -> str:
    """Return what is left to do as a table, and the hours that it takes on this machine, from a short measurement.

    Raises
    ------
    CadenzaError
        If a network that the study reads cannot be loaded, or `jobs` is less than one.
    """
    calibration = Calibration(thread_share(jobs))
    head = ("step", "runs", "finished", "to do", "separations", "HAAQI scores", "training steps", "hours")
    rows = []
    for plan in plans:
        work, left = plan.work, len(plan.to_do)
        hours = plan.seconds(jobs, calibration) / 3600
        counts = (plan.n_points, plan.n_points - left, left, work.separations, work.scores, work.steps)
        rows.append((plan.name, *counts, hours))
    total = ("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:]))
    cells = [head, *([*map(str, row[:-1]), f"{row[-1]:.2f}"] for row in (*rows, total))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in cells
    ]
    name = "1 job" if jobs == 1 else f"{jobs} jobs"
    return "\n".join([*lines, f"About {total[-1]:.2f} hours with {name} on this machine ({core_count()} cores)."])


def run_study(
    study: Study,
    out_dir: Path | str | None = None,
    *,
    executor: Executor | None = None,
    jobs: int | None = None,
    force: bool = False,
    progress: bool = False,
) -> StudyResult:
    """Run the points of a study: each as soon as those that it reads are finished, and many at the same time.

    A point that fails leaves `error.txt` and its partial notebook; the other points go on, and points that read its
    directory are skipped. A point that is finished is not run again. At the end there is a page, `out_dir/index.html`.

    Parameters
    ----------
    study : Study
        From `load_study`.
    out_dir : Path or str, optional
        Default: `runs/<name of the study>` in the current directory.
    executor : Executor, optional
        Where to run the points; each task must be alone in its process and see the same files. Default: processes on
        this machine.
    jobs : int, optional
        How many processes, if there is no `executor`; they share out the cores. Default: see `default_jobs`.
    force : bool, default=False
        Whether to run finished points again.
    progress : bool, default=False
        Whether to show a progress bar, in which each point counts by what it is expected to cost.

    Raises
    ------
    ParameterError
        If `out_dir` cannot be written or `jobs` is less than one.
    """
    jobs = default_jobs(study) if jobs is None else jobs
    out_dir = _out_dir(study, out_dir)
    started, clock = datetime.now(UTC), time.monotonic()
    results: dict[str, PointResult] = {}
    total = sum(len(step.points) for step in study.steps)
    with nullcontext(executor) if executor is not None else process_pool(jobs) as pool:
        make_directory(out_dir)
        costs = _expected_costs(study, out_dir, force, thread_share(jobs)) if progress else {}
        bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed} elapsed, {remaining} left{postfix}"
        with tqdm(total=sum(costs.values()), bar_format=bar_format, disable=not progress) as bar:
            for directory, result in _run_points(study, out_dir, pool, force, results):
                results[directory] = result
                bar.set_description(result.step)
                bar.set_postfix_str(f"{len(results)} of {total} runs")
                bar.update(costs.get(directory, 0))
                if result.status in ("failed", "skipped"):
                    _LOGGER.warning("%s %s: %s", directory, result.status, result.error)
    points = tuple(results[point.directory] for step in study.steps for point in step.points)
    facts = {
        "Started": started.strftime("%Y-%m-%d %H:%M UTC"),
        "Took": f"{time.monotonic() - clock:.0f} s; all points together {sum(p.duration_s or 0 for p in points):.0f} s",
        "Host": f"{platform.node()} ({platform.platform()})",
        "Folder": str(out_dir),
        "Code": _describe_code(),
        "Points": f"{sum(p.status in ('finished', 'kept') for p in points)} of {total} finished",
    }
    return StudyResult(points, write_page(out_dir / "index.html", study.title, facts, points))


def _out_dir(study: Study, out_dir: Path | str | None) -> Path:
    return absolute_path(Path("runs") / study.name if out_dir is None else out_dir)


def _expected_costs(study: Study, out_dir: Path, force: bool, threads: int) -> dict[str, float]:
    """Return the seconds that each point to do is expected to take; the same for all if that cannot be known."""
    try:
        plans = plan_study(study, out_dir, force=force)
        works = {directory: work for plan in plans for directory, work in plan.to_do.items()}
        if not any(work.audio_s for work in works.values()):
            return dict.fromkeys(works, 1.0)
        calibration = Calibration(threads)
        return {directory: calibration.seconds(work) for directory, work in works.items()}
    except CadenzaError as error:  # of one point, which will tell
        _LOGGER.debug("The cost of %s is not known: %s", study.name, error)
        return {point.directory: 1.0 for step in study.steps for point in step.points}


def _run_points(
    study: Study, out_dir: Path, pool: Executor, force: bool, results: Mapping[str, PointResult]
) -> Iterator[tuple[str, PointResult]]:
    """Yield the result of each point as it comes, which `results` must hold before the next is asked for."""
    waiting = [(step, point) for step in study.steps for point in step.points]
    running: dict[Future[Path], tuple[Step, Point]] = {}
    forced_run = forced_run_name() if force else ""  # one name: a cluster may repeat a task whose result it has lost

    def result(step: Step, point: Point, status: Any, error: str = "") -> tuple[str, PointResult]:
        directory = out_dir / point.directory
        duration = read_json(directory / "manifest.json")["duration_s"] if status in ("finished", "kept") else None
        return point.directory, PointResult(
            step.name, point.name, directory, step.notebook.name, status, duration, error
        )

    def failure(step: Step, point: Point, error: Exception) -> tuple[str, PointResult]:
        sentence = str(error) if isinstance(error, CadenzaError) else f"{type(error).__name__}: {error}"
        if isinstance(error, BrokenExecutor | CancelledError):
            sentence = (
                f"{out_dir / point.directory}, or a point beside it, lost its process or its scheduler, perhaps for "
                f"lack of memory; run the study again with fewer jobs, which goes on."
            )
        if (out_dir / point.directory).is_dir() and not (out_dir / point.directory / "error.txt").exists():
            write_error(out_dir / point.directory, sentence, error)
        return result(step, point, "failed", sentence)

    while waiting or running:
        ready = [entry for entry in waiting if results.keys() >= set(entry[1].needs)]
        waiting = [entry for entry in waiting if not results.keys() >= set(entry[1].needs)]
        for step, point in ready:
            if lost := [need for need in point.needs if results[need].status in ("failed", "skipped")]:
                yield result(step, point, "skipped", f"It reads {', '.join(lost)}, which did not finish.")
                continue
            try:
                run = _prepare(step, point, out_dir)
                make_directory(run.out_dir)
                if run.is_finished(forced_run):
                    yield result(step, point, "kept")
                else:
                    future = pool.submit(execute, run.notebook, run.given, run.out_dir, force=forced_run)
                    running[future] = step, point
            except Exception as error:  # one point must not stop the others
                yield failure(step, point, error)
        if not ready:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step, point = running.pop(future)
                try:
                    future.result()
                    finished = result(step, point, "finished")
                except Exception as error:
                    yield failure(step, point, error)
                else:
                    yield finished


def _prepare(step: Step, point: Point, out_dir: Path) -> Run:
    """Prepare a point, each `{directory}` in its paths replaced by where that lies."""

    def place(text: str) -> str:
        return PLACED.sub(lambda match: str(out_dir / match[1]) if match[1] in point.needs else match[0], text)

    parameters = replace_paths(notebook_parameters(step.notebook), point.parameters, place)
    return prepare(step.notebook, parameters, out_dir / point.directory)


def _origins(known: Mapping[str, Parameter], parameters: Mapping[str, Any], inits: Mapping[str, str]) -> dict[str, Any]:
    """Replace each `{directory}/file` of a point that trains a network by what it starts from: it costs the same."""

    def origin(text: str) -> str:
        match = PLACED.match(text)
        return inits.get(match[1], text) if match else text

    return replace_paths(known, parameters, origin)


def _describe_code() -> str:
    git = git_state(Path(__file__))
    commit = "" if git is None else f", commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}"
    return f"cadenza-companion {package_version('cadenza-companion')}{commit}, Python {platform.python_version()}"
