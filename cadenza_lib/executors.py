"""Where tasks run: processes of this machine, or a cluster through dask.distributed.

There is one level of parallelism at a time. Each of several processes gets an equal share of the cores for its threads,
and learns it from the environment variable CADENZA_CORES, so that what runs inside takes no more than that share.
"""

import importlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from cadenza_lib.errors import ParameterError

__all__ = ["core_count", "processes", "scheduler", "thread_share"]

_CORES = "CADENZA_CORES"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_SCHEDULER_TIMEOUT_S = 10


def core_count() -> int:
    """Return how many cores this process may use: its share in a pool, or else all that it is bound to."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _limited(_CORES, bound)


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
def processes(
    jobs: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Start processes that share out the cores, and end at once with this process or at an interrupt.

    Parameters
    ----------
    jobs
        How many.
    initializer, initargs
        What each process calls before its first task.

    Raises
    ------
    ParameterError
        If `jobs` is below 1.
    """
    share = thread_share(jobs)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        jobs, context, initializer=_start, initargs=(share if jobs > 1 else None, initializer, initargs)
    )
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):  # terminate_workers() needs Python 3.14
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start(share: int | None, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    """Set up a process before its first task; kernels that it starts inherit its environment."""
    # A worker that raised KeyboardInterrupt would take the next task; dead, it takes its kernel with it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if share is not None:
        for variable in (_CORES, *_THREADS):
            os.environ[variable] = str(_limited(variable, share))
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """Wait until the parent has died, by a signal that it could not pass on, and end this process."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a child
    parent.join()
    os._exit(1)


def _limited(variable: str, count: int) -> int:
    """Return `count`, or the value of an environment variable if that is a smaller number."""
    limit = os.environ.get(variable, "")
    return min(count, int(limit)) if limit.isdigit() and int(limit) > 0 else count


@contextmanager
def scheduler(address: str) -> Iterator[Executor]:
    """Connect to a running dask.distributed scheduler, such as `tcp://host:8786`.

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
    logger = logging.getLogger("distributed")  # it shows tracebacks of what the futures tell anyway
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with client:
            yield client.get_executor(pure=False)
    finally:
        logger.setLevel(level)
