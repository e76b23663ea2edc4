"""Studies: YAML files of steps, each a notebook at many points, which run on any executor.

A study runs its steps one after the other and the points of a step at the same time; `load_study` tells what the file
holds. Finished points are not run again, a failed one does not stop the others, and at the end there is a page.
"""

import hashlib
import importlib
import itertools
import json
import logging
import multiprocessing
import os
import platform
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from tqdm.auto import tqdm

from cadenza_lib.errors import CadenzaError, ParameterError
from cadenza_lib.files import make_directory, read_json
from cadenza_lib.report import PointResult, write_page
from cadenza_lib.runs import (
    Parameter,
    YamlLoader,
    check_parameters,
    execute,
    git_state,
    notebook_parameters,
    package_version,
    parse_parameters,
    prepare,
    write_error,
)

__all__ = ["Point", "Step", "Study", "StudyResult", "load_study", "run_study", "scheduler_executor"]

_LOGGER = logging.getLogger(__name__)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_PLACEHOLDER = re.compile(r"\{([\w.-]+)\}(/.*)?")  # as written in a study: {step} or {step}/file
_PLACED = re.compile(r"^\{([\w./+-]+)\}")  # as loaded: {directory of one point}
_MAX_NAME = 80  # of the directory of a point, in characters


@dataclass(frozen=True)
class Point:
    """One run of a step."""

    directory: str  # relative to the study's output directory: "<step>" or "<step>/<grid values>"
    parameters: Mapping[str, Any]  # as given; "{evaluate/oracle}" stands for the directory of an earlier point
    values: Mapping[str, Any] = field(default_factory=dict)  # those parameters that the grid varies
    needs: tuple[str, ...] = ()  # directories of the earlier points that it reads


@dataclass(frozen=True)
class Step:
    """One notebook of a study, with all its points."""

    name: str
    notebook: Path
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Study:
    """A checked study file."""

    name: str
    title: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class StudyResult:
    """What became of a study."""

    points: tuple[PointResult, ...]
    page: Path

    @property
    def failed(self) -> tuple[PointResult, ...]:
        """The points that failed, and those skipped because of them."""
        return tuple(point for point in self.points if point.status in ("failed", "skipped"))


def load_study(path: Path | str, overrides: Mapping[str, str] | None = None) -> Study:
    """Load a study and check everything that can be checked before it runs.

    A study file has a `title`, shared `parameters` (for those notebooks which have them) and `steps`. A step has a
    `name`, a `notebook` (relative to the parent of the study's folder, or to its folder), `parameters`, and either a
    `grid` of lists, whose product gives the points, or the `points` themselves as a list of mappings.

    A value `"{name}"`, or `"{name}/file"`, stands for the output directories of all points of the earlier step
    `name`: the list of them for a parameter of type list[str], the only one for a str, and one after the other in a
    grid.

    Parameters
    ----------
    path : Path or str
        The study file.
    overrides : Mapping[str, str], optional
        Texts of parameters, as typed on a command line, which replace shared ones and those of the steps.

    Raises
    ------
    ParameterError
        If the study breaks a rule, or has a parameter that is unknown or of the wrong type.
    """
    path = Path(path).expanduser().resolve()
    content = _read_yaml(path)
    _check_keys(path, "the study", content, {"title", "parameters", "steps"}, {"steps"})
    shared = _mapping(path, "parameters of the study", content.get("parameters", {}))
    if not isinstance(content["steps"], list) or not content["steps"]:
        raise ParameterError(f"{path} must have a list of at least one step under steps.")
    overrides = overrides or {}
    steps: dict[str, Step] = {}
    unused = set(shared) | set(overrides)
    for index, raw in enumerate(content["steps"]):
        raw = _mapping(path, f"step {index + 1}", raw)
        name = raw.get("name", index + 1)
        _check_keys(
            path, f"step {name}", raw, {"name", "notebook", "parameters", "grid", "points"}, {"name", "notebook"}
        )
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise ParameterError(f"{path} has a step named {name!r}; use letters, digits, '_', '-' and '.'.")
        if name in steps:
            raise ParameterError(f"{path} has two steps named {name}; rename one.")
        notebook = _find_notebook(path, name, raw["notebook"])
        known = notebook_parameters(notebook)
        forced = parse_parameters(notebook, {key: text for key, text in overrides.items() if key in known})
        base = {key: value for key, value in shared.items() if key in known}
        base |= _mapping(path, f"parameters of step {name}", raw.get("parameters", {})) | forced
        unused -= set(known)
        earlier = {step: [point.directory for point in found.points] for step, found in steps.items()}
        varied = _expand(path, name, raw, earlier)
        if clash := {key for values in varied for key in values} & set(overrides):
            raise ParameterError(f"{path} varies {', '.join(sorted(clash))} in step {name}; change it there.")
        points = [_point(path, name, notebook, known, base, values, earlier) for values in varied]
        names = [point.directory for point in points]
        if twice := {directory for directory in names if names.count(directory) > 1}:
            raise ParameterError(
                f"{path} has several points called {min(twice)}; make the values of step {name} differ."
            )
        steps[name] = Step(name, notebook, tuple(points))
    if unused:
        raise ParameterError(f"{path} has no notebook with the parameter {', '.join(sorted(unused))}; remove it.")
    return Study(path.stem, str(content.get("title", path.stem)), tuple(steps.values()))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, YamlLoader)
    except FileNotFoundError as error:
        raise ParameterError(f"Study {path} does not exist; check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"Study {path} cannot be read ({error}); check that it is a text file.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise ParameterError(
            f"{path} is not valid YAML{line} ({getattr(error, 'problem', error)}); repair it."
        ) from error
    return _mapping(path, "the study", content)


def _mapping(path: Path, what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ParameterError(f"{path} has {value!r} for {what}; it must be a mapping of names.")
    return value


def _check_keys(path: Path, what: str, value: Mapping[str, Any], allowed: set[str], needed: set[str]) -> None:
    if unknown := set(value) - allowed:
        raise ParameterError(f"{path} has unknown keys in {what}: {sorted(unknown)}; use {sorted(allowed)}.")
    if missing := needed - set(value):
        raise ParameterError(f"{path} lacks {sorted(missing)} in {what}; add it.")


def _find_notebook(path: Path, step: str, name: Any) -> Path:
    candidates = [folder / str(name) for folder in (path.parent.parent, path.parent)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ParameterError(
        f"{path} names the notebook {name} in step {step}, which is neither {' nor '.join(map(str, candidates))}."
    )


def _expand(
    path: Path, step: str, raw: Mapping[str, Any], earlier: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """List the parameters in which the points of a step differ."""
    if "grid" in raw and "points" in raw:
        raise ParameterError(f"{path} has both grid and points in step {step}; use one of them.")
    if "points" in raw:
        if not isinstance(raw["points"], list) or not raw["points"]:
            raise ParameterError(f"{path} must have a list of at least one mapping under points of step {step}.")
        return [_mapping(path, f"a point of step {step}", point) for point in raw["points"]]
    axes = _mapping(path, f"grid of step {step}", raw.get("grid", {}))
    spread = {}
    for name, axis in axes.items():
        values = axis if isinstance(axis, list) else [axis]
        spread[name] = [item for value in values for item in _directories(path, step, value, earlier) or [value]]
        is_list = isinstance(axis, list) or spread[name] != [axis]
        if not is_list or not spread[name]:
            raise ParameterError(f"{path} has {axis!r} for {name} in the grid of step {step}; it must be a list.")
    return [dict(zip(spread, values, strict=True)) for values in itertools.product(*spread.values())]


def _directories(path: Path, step: str, value: Any, earlier: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Resolve the placeholder of an earlier step to one of `{directory}` per point; None if `value` has none."""
    match = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    if match[1] not in earlier:
        known = ", ".join(earlier) or "none"
        raise ParameterError(f"{path} has {value} in step {step}, which names no earlier step ({known}); correct it.")
    return [f"{{{directory}}}{match[2] or ''}" for directory in earlier[match[1]]]


def _point(
    path: Path,
    step: str,
    notebook: Path,
    known: Mapping[str, Parameter],
    base: Mapping[str, Any],
    values: Mapping[str, Any],
    earlier: Mapping[str, Sequence[str]],
) -> Point:
    parameters: dict[str, Any] = {}
    for name, value in {**base, **values}.items():
        directories = _directories(path, step, value, earlier)
        if isinstance(value, list):
            value = [item for element in value for item in _directories(path, step, element, earlier) or [element]]
        elif directories is not None:
            is_list = name in known and "list" in known[name].annotation
            if not is_list and len(directories) != 1:
                raise ParameterError(
                    f"{path} has {value} for {name} in step {step}, which is one directory, but that step has "
                    f"{len(directories)} points; give {notebook.name} a list[str], or put it in the grid."
                )
            value = directories if is_list else directories[0]
        parameters[name] = value
    parameters = check_parameters(notebook, known, parameters)
    texts = [text for value in parameters.values() for text in (value if isinstance(value, list) else [value])]
    needs = [match[1] for text in texts if isinstance(text, str) and (match := _PLACED.match(text))]
    shown = {name: parameters[name] for name in values}
    directory = f"{step}/{_slug(shown)}" if shown else step
    return Point(directory, parameters, shown, tuple(dict.fromkeys(needs)))


def _slug(values: Mapping[str, Any]) -> str:
    texts = [json.dumps(value) if isinstance(value, dict | list) else str(value) for value in values.values()]
    slug = "-".join(re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "empty" for text in texts)
    if len(slug) > _MAX_NAME:
        slug = f"{slug[: _MAX_NAME - 9]}-{hashlib.sha256(slug.encode()).hexdigest()[:8]}"
    return slug


def run_study(
    study: Study,
    out_dir: Path | str | None = None,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    force: bool = False,
    progress: bool = False,
) -> StudyResult:
    """Run the steps of a study one after the other, and the points of each step at the same time.

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
    workers : int, optional
        How many processes, if there is no `executor`. Default: one per core. With more than one, each is limited to
        one thread of OpenMP.
    force : bool, default=False
        Whether to run finished points again.
    progress : bool, default=False
        Whether to show a progress bar over the points.

    Raises
    ------
    ParameterError
        If `out_dir` cannot be written or `workers` is less than one.
    """
    workers = _core_count() if workers is None else workers
    if workers < 1:
        raise ParameterError(f"The number of workers is {workers}; it must be at least 1.")
    out_dir = make_directory(Path("runs") / study.name if out_dir is None else out_dir)
    started, clock = datetime.now(UTC), time.monotonic()
    results: dict[str, PointResult] = {}
    total = sum(len(step.points) for step in study.steps)
    with (
        nullcontext(executor) if executor is not None else _processes(workers) as pool,
        tqdm(total=total, unit="run", disable=not progress) as bar,
    ):
        for step in study.steps:
            bar.set_description(step.name)
            for directory, result in _run_step(step, out_dir, pool, force, results):
                results[directory] = result
                bar.update()
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


def _run_step(
    step: Step, out_dir: Path, pool: Executor, force: bool, results: Mapping[str, PointResult]
) -> Iterator[tuple[str, PointResult]]:
    """Yield the result of each point as it comes."""
    futures: dict[Future[Path], Point] = {}

    def result(point: Point, status: Any, error: str = "") -> tuple[str, PointResult]:
        name = ", ".join(f"{key} = {value}" for key, value in point.values.items())
        directory = out_dir / point.directory
        duration = read_json(directory / "manifest.json")["duration_s"] if status in ("finished", "kept") else None
        return point.directory, PointResult(step.name, name, directory, step.notebook.name, status, duration, error)

    def failure(point: Point, error: Exception) -> tuple[str, PointResult]:
        sentence = str(error) if isinstance(error, CadenzaError) else f"{type(error).__name__}: {error}"
        if (out_dir / point.directory).is_dir() and not (out_dir / point.directory / "error.txt").exists():
            write_error(out_dir / point.directory, sentence, error)
        return result(point, "failed", sentence)

    for point in step.points:
        if lost := [need for need in point.needs if results[need].status in ("failed", "skipped")]:
            yield result(point, "skipped", f"It reads {', '.join(lost)}, which did not finish.")
            continue
        try:
            run = prepare(step.notebook, _place(point.parameters, out_dir), out_dir / point.directory)
            if run.is_finished() and not force:
                yield result(point, "kept")
            else:
                futures[pool.submit(execute, run.notebook, run.given, run.out_dir, force=force)] = point
        except Exception as error:  # one point must not stop the others
            yield failure(point, error)
    for future in as_completed(futures):
        try:
            future.result()
            finished = result(futures[future], "finished")
        except Exception as error:
            yield failure(futures[future], error)
        else:
            yield finished


def _place(value: Any, out_dir: Path) -> Any:
    """Replace each `{directory}` by its path."""
    if isinstance(value, Mapping):
        return {name: _place(item, out_dir) for name, item in value.items()}
    if isinstance(value, list):
        return [_place(item, out_dir) for item in value]
    if isinstance(value, str):
        return _PLACED.sub(lambda match: str(out_dir / match[1]), value)
    return value


def _core_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes, which an interrupt ends at once."""
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(workers > 1,)
    )
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):  # terminate_workers() needs Python 3.14
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(one_thread: bool) -> None:
    """Set up a process before it runs kernels, which inherit its environment."""
    # A worker that raised KeyboardInterrupt would take the next task; dead, it takes its kernel with it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if one_thread:
        for variable in _THREAD_VARIABLES:
            os.environ.setdefault(variable, "1")


def _describe_code() -> str:
    git = git_state(Path(__file__))
    commit = "" if git is None else f", commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}"
    return f"cadenza-companion {package_version('cadenza-companion')}{commit}, Python {platform.python_version()}"


def scheduler_executor(address: str) -> Executor:
    """Return an executor on a running dask.distributed scheduler, such as `tcp://host:8786`.

    Its workers need this package, the same file system, and one thread each (`dask worker --nthreads 1`).

    Raises
    ------
    ParameterError
        If dask.distributed is not installed or the scheduler does not answer.
    """
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise ParameterError(f"Scheduler {address} needs dask; run pip install distributed.") from error
    try:
        return distributed.Client(address, timeout=10).get_executor()
    except (OSError, ValueError) as error:
        raise ParameterError(
            f"Scheduler {address} does not answer ({error}); start it or check the address."
        ) from error
