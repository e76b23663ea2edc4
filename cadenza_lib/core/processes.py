"""Where tasks run: processes of this machine, or a cluster through dask.distributed.

There is one level of parallelism at a time. Each of several processes gets an equal share of the cores for its threads,
which the environment variable CADENZA_CORES holds, so that what runs inside takes no more than that share.
"""

import importlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import LifoQueue
from typing import Any

from cadenza_lib.core.errors import ParameterError

__all__ = [
    "THREAD_VARIABLES",
    "child_environment",
    "core_count",
    "muted",
    "process_pool",
    "scheduler",
    "thread_limit",
    "thread_share",
]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables that limit the number of threads of libraries."""

_LOGGER = logging.getLogger(__name__)
_CORES = "CADENZA_CORES"
_PERSONAL = {"MPLBACKEND", "PYTHONINSPECT", "PYTHONIOENCODING", "PYTHONOPTIMIZE", "PYTHONSTARTUP", "PYTHONWARNINGS"}
_KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}  # bytes
"""Makes glibc keep the memory of freed arrays: returning it to the system and fetching it anew takes a third of the
time of an evaluation or a training, and keeping it a fifth more memory."""

_SCHEDULER_TIMEOUT_S = 10
_PATIENCE_S = 10.0  # with a scheduler that has no workers, until the first warning
_LONGEST_PAUSE_S = 600.0  # between two warnings


def core_count() -> int:
    """Return how many cores this process may use: its share in a pool, or else what affinity and quotas allow."""
    import joblib  # slow to import

    return _limited(_CORES, joblib.cpu_count())


def child_environment() -> dict[str, str]:
    """Return the environment for an interpreter that this one starts.

    The interpreter finds this package, reads and writes UTF-8, has as many threads as this process has cores, and keeps
    freed memory.
    Settings for a person's own interpreters, such as a start-up file, are left out.
    """
    environment = _KEPT_MEMORY | {name: value for name, value in os.environ.items() if name not in _PERSONAL}
    paths = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUTF8": "1"}
    cores = core_count()
    for variable in THREAD_VARIABLES:
        if variable in environment or cores < (os.cpu_count() or 1):  # libraries ignore quotas
            environment[variable] = str(_limited(variable, cores))
    return environment


def thread_share(jobs: int) -> int:
    """Return how many threads each of several processes gets.

    Raises
    ------
    ParameterError
        If there is no process.
    """
    if jobs < 1:
        raise ParameterError(f"The number of jobs is {jobs}; it must be at least 1.")
    return max(1, core_count() // jobs)


@contextmanager
def process_pool(
    jobs: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[Executor]:
    """Yield an executor of processes that share the cores, and end at once with this process or at an interrupt.

    The task of a process that dies, perhaps for lack of memory, is run once more in a new one; the others go on.

    Parameters
    ----------
    jobs
        Number of processes.
    initializer, initargs
        Function that each process calls before its first task, and its arguments.

    Raises
    ------
    ParameterError
        If `jobs` is below 1.
    """
    share = thread_share(jobs)
    pool = _Processes(jobs, (share if jobs > 1 else None, initializer, initargs))
    try:
        yield pool
    except BaseException:
        pool.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Processes(Executor):
    """Processes that are pools of one each: a `ProcessPoolExecutor` breaks as a whole when one of its processes dies.

    A thread waits for each task.
    """

    def __init__(self, jobs: int, initargs: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._new_pool = partial(ProcessPoolExecutor, 1, context, initializer=_start, initargs=initargs)
        self._pools = [self._new_pool() for _ in range(jobs)]
        self._idle: LifoQueue[int] = LifoQueue()
        for place in range(jobs):
            self._idle.put(place)
        self._threads = ThreadPoolExecutor(jobs)
        self._lock, self._is_ended = threading.Lock(), False

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._threads.submit(self._run, partial(function, *args, **kwargs))

    def _run(self, task: Callable[[], Any]) -> Any:
        place = self._idle.get()
        try:
            try:
                return self._result(place, task)
            except BrokenExecutor:
                if self._is_ended:
                    raise
                _LOGGER.warning("A process died, perhaps for lack of memory; its task is run once more.")
                return self._result(place, task)
        finally:
            self._idle.put(place)

    def _result(self, place: int, task: Callable[[], Any]) -> Any:
        try:
            with self._lock:  # otherwise a process might start that `terminate` does not see
                if self._is_ended:
                    raise BrokenExecutor("The processes have been ended.")
                future = self._pools[place].submit(task)
            return future.result()
        except BrokenExecutor:
            self._pools[place] = self._new_pool()
            raise

    def terminate(self) -> None:
        """Kill the processes, whatever they are doing."""
        with self._lock:
            self._is_ended = True
            processes = [process for pool in self._pools for process in (pool._processes or {}).values()]
        for process in processes:  # terminate_workers() needs Python 3.14
            process.terminate()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for pool in self._pools:
            pool.shutdown(wait)


def _start(share: int | None, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    """Set up a process before its first task; kernels that it starts inherit its environment."""
    # A worker that raised KeyboardInterrupt would take the next task; one that dies ends its kernel too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if share is not None:
        for variable in (_CORES, *THREAD_VARIABLES):
            os.environ[variable] = str(_limited(variable, share))
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """Wait until the parent has died, by a signal that it could not pass on, and then end this process."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a child
    parent.join()
    os._exit(1)


def thread_limit(variable: str) -> int | None:
    """Return the positive number in an environment variable such as OMP_NUM_THREADS, None if it has none."""
    first = os.environ.get(variable, "").split(",")[0]  # OpenMP accepts a number for each level of nesting
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _limited(variable: str, count: int) -> int:
    """Return `count`, or the number in an environment variable if that is smaller."""
    return min(count, thread_limit(variable) or count)


@contextmanager
def scheduler(address: str) -> Iterator[Executor]:
    """Yield an executor on a running dask.distributed scheduler, such as `tcp://host:8786`.

    Its workers need this package, the same file system, and one thread each (`dask worker --nthreads 1`), because a
    task wants a process of its own.

    Raises
    ------
    ParameterError
        If dask.distributed is not installed or the scheduler does not answer.
    """
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise ParameterError(
            f"Scheduler {address} needs dask; run pip install 'cadenza-companion[cluster]'."
        ) from error
    try:
        client = distributed.Client(address, timeout=_SCHEDULER_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise ParameterError(
            f"Scheduler {address} does not answer ({error}); start it or check the address."
        ) from error
    ended = threading.Event()
    with muted("distributed"), client:  # it logs tracebacks of errors that the futures raise anyway
        threading.Thread(target=_watch_workers, args=(client, address, ended), daemon=True).start()
        try:
            yield client.get_executor(pure=False)
        finally:
            ended.set()


@contextmanager
def muted(name: str) -> Iterator[None]:
    """Silence a library's logger."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _watch_workers(client: Any, address: str, ended: threading.Event) -> None:
    """Warn at growing intervals while a scheduler has no workers."""
    pause_s = _PATIENCE_S
    while not ended.wait(pause_s):
        try:
            has_workers = bool(client.scheduler_info()["workers"])
        except Exception:  # the client is closed, or the scheduler has gone, which the tasks report
            return
        if has_workers:
            pause_s = _PATIENCE_S
        else:
            advice = f"see whether their jobs are queued, or start one with dask worker {address} --nthreads 1"
            _LOGGER.warning("Scheduler %s has no workers, so nothing runs; waiting for them (%s).", address, advice)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
