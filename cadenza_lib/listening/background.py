"""A task in the background of which only the latest request counts."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

__all__ = ["LatestTask"]


class LatestTask:
    """A thread that runs the newest of the tasks it is given, and skips those that were overtaken while they waited."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        # If torch ran threads of its own in each of these threads, they would wait for each other and burn the CPU.
        self._pool = ThreadPoolExecutor(1, "cadenza", initializer=torch.set_num_threads, initargs=(1,))
        self._on_error = on_error
        self._newest: Future[None] | None = None
        self._number = 0

    def submit(self, task: Callable[[], None]) -> None:
        """Run a task after the one that is running now, instead of any that waits."""
        self._number += 1
        self._newest = self._pool.submit(self._run, task, self._number)

    def wait(self) -> None:
        """Wait for the task that was submitted last."""
        if self._newest is not None:
            self._newest.result()

    def _run(self, task: Callable[[], None], number: int) -> None:
        if number != self._number:
            return
        try:
            task()
        except Exception as error:  # raised in a thread it would reach nobody
            self._on_error(error)
