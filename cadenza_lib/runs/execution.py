"""Running a study on any executor: each point as soon as those that it reads are finished.

Finished points are not run again, a failed one does not stop the others, and at the end there is a page. A plan tells
beforehand what is left to do.
"""

import logging
import platform
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tqdm.auto import tqdm

from cadenza_lib.core.errors import CadenzaError
from cadenza_lib.core.files import make_directory
from cadenza_lib.core.paths import absolute_path
from cadenza_lib.core.processes import core_count, process_pool, thread_share
from cadenza_lib.runs.kernel import write_error
from cadenza_lib.runs.notebooks import (
    Run,
    execute,
    forced_run_name,
    git_state,
    package_version,
    prepare,
    recorded_duration,
)
from cadenza_lib.runs.page import PointResult, Status, write_page
from cadenza_lib.runs.parameters import notebook_parameters, replace_paths
from cadenza_lib.runs.study import PLACED, Point, Step, Study

__all__ = ["StepPlan", "default_jobs", "describe_plan", "plan_study", "run_study"]

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
    notebook: str
    n_points: int
    to_do: tuple[str, ...]  # directories of the points
    durations_s: tuple[float, ...]  # that the finished runs of this step have recorded


def default_jobs(study: Study) -> int:
    """Return the default number of processes: one per core, as far as the study has points for them."""
    depths: dict[str, int] = {}  # of each point, how many must be made one after the other before it
    for step in study.steps:
        for point in step.points:
            depths[point.directory] = 1 + max((depths[need] for need in point.needs), default=0)
    return min(core_count(), max(Counter(depths.values()).values()))


def plan_study(study: Study, out_dir: Path | str | None = None, *, force: bool = False) -> tuple[StepPlan, ...]:
    """Return what is left to do of a study, without writing anything; an unfinished point counts as a whole.

    Raises
    ------
    CadenzaError
        If a notebook or an input cannot be read.
    """
    out_dir = _out_dir(study, out_dir)
    to_do: set[str] = set()
    plans = []
    for step in study.steps:
        for point in step.points:
            if force or to_do.intersection(point.needs) or not _prepare(step, point, out_dir).is_finished():
                to_do.add(point.directory)
        directories = [point.directory for point in step.points]
        recorded = [recorded_duration(out_dir / directory) for directory in directories]
        plans.append(
            StepPlan(
                step.name,
                step.notebook.name,
                len(directories),
                tuple(directory for directory in directories if directory in to_do),
                tuple(duration_s for duration_s in recorded if duration_s is not None),
            )
        )
    return tuple(plans)


def describe_plan(plans: Sequence[StepPlan], jobs: int) -> str:
    """Return what is left to do as a table, and the hours that it takes, if finished runs have recorded durations.

    Points that are left are expected to take as long as the finished ones of their step, or else of their notebook, on
    average.

    Raises
    ------
    ParameterError
        If `jobs` is below 1.
    """
    thread_share(jobs)  # refuses what `run_study` refuses
    rows = [(plan.name, plan.n_points, len(plan.to_do)) for plan in plans]
    rows.append(("all", sum(plan.n_points for plan in plans), sum(len(plan.to_do) for plan in plans)))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'step':<{width}}  runs  finished  left"]
    lines += [f"{name:<{width}}  {runs:>4}  {runs - left:>8}  {left:>4}" for name, runs, left in rows]
    return "\n".join([*lines, _describe_hours(plans, jobs)])


def _describe_hours(plans: Sequence[StepPlan], jobs: int) -> str:
    of_notebook: dict[str, list[float]] = defaultdict(list)
    for plan in plans:
        of_notebook[plan.notebook] += plan.durations_s
    seconds = 0.0
    for plan in plans:
        durations_s = plan.durations_s or of_notebook[plan.notebook]
        if plan.to_do and not durations_s:
            return f"The hours cannot be estimated, because no run of {plan.notebook} has finished there."
        if plan.to_do:
            seconds += len(plan.to_do) * statistics.mean(durations_s)
    name = "1 job" if jobs == 1 else f"{jobs} jobs"
    return f"About {seconds / jobs / 3600:.2f} hours with {name}, from the mean duration of finished runs."


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
        Whether to show a progress bar over the points that are to be run.

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
        # Without smoothing, the time left follows from the mean of what has been run by this call.
        with tqdm(total=total, unit="run", smoothing=0, disable=not progress) as bar:
            at_once = jobs if executor is None else total
            for directory, result in _run_points(study, out_dir, pool, force, results, at_once):
                results[directory] = result
                bar.set_description(result.step, refresh=False)
                # What is not run takes no time, and so tells nothing about the time of what is.
                bar.total = total - sum(result.status in ("kept", "skipped") for result in results.values())
                bar.update(result.status not in ("kept", "skipped"))
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


def _run_points(
    study: Study, out_dir: Path, pool: Executor, force: bool, results: Mapping[str, PointResult], at_once: int
) -> Iterator[tuple[str, PointResult]]:
    """Yield the result of each point as it comes; the caller puts it into `results` before it asks for the next.

    No more than `at_once` points are submitted, so that an earlier step goes first as soon as it can, and the last
    process does not end alone with a long one.
    """
    waiting = [(step, point) for step in study.steps for point in step.points]
    running: dict[Future[Path], tuple[Step, Point]] = {}
    forced_run = forced_run_name() if force else ""  # one name: a cluster may repeat a task whose result it has lost
    while waiting or running:
        ready = [entry for entry in waiting if results.keys() >= set(entry[1].needs)][: at_once - len(running)]
        waiting = [entry for entry in waiting if entry not in ready]
        for step, point in ready:
            if lost := [need for need in point.needs if results[need].status in ("failed", "skipped")]:
                reason = f"It reads {', '.join(lost)}, which did not finish."
                yield point.directory, _result(out_dir, step, point, "skipped", reason)
                continue
            try:
                run = _prepare(step, point, out_dir)
                make_directory(run.out_dir)
                if run.is_finished(forced_run):
                    yield point.directory, _result(out_dir, step, point, "kept")
                else:
                    future = pool.submit(execute, run.notebook, run.given, run.out_dir, force=forced_run)
                    running[future] = step, point
            except Exception as error:  # one point must not stop the others
                yield point.directory, _failure(out_dir, step, point, error)
        if not ready:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step, point = running.pop(future)
                try:
                    future.result()
                except Exception as error:
                    yield point.directory, _failure(out_dir, step, point, error)
                else:
                    yield point.directory, _result(out_dir, step, point, "finished")


def _result(out_dir: Path, step: Step, point: Point, status: Status, error: str = "") -> PointResult:
    directory = out_dir / point.directory
    duration_s = recorded_duration(directory) if status in ("finished", "kept") else None
    return PointResult(step.name, point.name, directory, step.notebook.name, status, duration_s, error)


def _failure(out_dir: Path, step: Step, point: Point, error: Exception) -> PointResult:
    directory = out_dir / point.directory
    sentence = str(error) if isinstance(error, CadenzaError) else f"{type(error).__name__}: {error}"
    if isinstance(error, BrokenExecutor | CancelledError):
        sentence = (
            f"{directory}, or a point beside it, lost its process or its scheduler, perhaps for lack of memory; run "
            f"the study again with fewer jobs, which goes on."
        )
    if directory.is_dir() and not (directory / "error.txt").exists():
        write_error(directory, sentence, error)
    return _result(out_dir, step, point, "failed", sentence)


def _prepare(step: Step, point: Point, out_dir: Path) -> Run:
    """Check the run of a point, with each `{directory}` in its paths replaced by where that lies."""

    def place(text: str) -> str:
        return PLACED.sub(lambda match: str(out_dir / match[1]) if match[1] in point.needs else match[0], text)

    parameters = replace_paths(notebook_parameters(step.notebook), point.parameters, place)
    return prepare(step.notebook, parameters, out_dir / point.directory)


def _describe_code() -> str:
    git = git_state(Path(__file__))
    commit = "" if git is None else f", commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}"
    return f"cadenza-companion {package_version('cadenza-companion')}{commit}, Python {platform.python_version()}"
