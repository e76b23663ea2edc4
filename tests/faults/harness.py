"""Running an operation in a process of its own that something befalls, and judging what it leaves.

A process is forked from one that has imported everything, so that it starts in milliseconds. What befalls it strikes at
the k-th of its events, which are what it is about to do to files of its directory: so a seed decides where, and the
dangerous moments are all hit. Nothing here can be undone in a process, so each one is struck once.
"""

import errno
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadenza_lib.core.errors import CadenzaError

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
_DEADLINE_S = 300  # after which a process hangs

Strike = Callable[[str, str], None]  # on the event and the path that it is about


class Events:
    """Counts what this process does to the files of a directory, and strikes from one event on."""

    def __init__(self, folder: Path, strike_at: int = 0, strike: Strike | None = None) -> None:
        self.count = 0
        self._folder, self._at, self._strike = str(folder), strike_at, strike
        self._process, self._is_striking = os.getpid(), False

    def install(self) -> None:
        """Begin to listen."""
        sys.addaudithook(self._hear)
        fsync = os.fsync

        def audited_fsync(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            self._happen("fsync", os.readlink(f"/proc/self/fd/{number}"))
            fsync(file)

        os.fsync = audited_fsync

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int):
            flags = arguments[2]
            if flags & _WRITES and flags & os.O_TMPFILE != os.O_TMPFILE:
                self._happen("append" if flags & os.O_APPEND else "open", arguments[0])
        elif event in _CHANGES:
            self._happen(event.removeprefix("os."), arguments[0])

    def _happen(self, event: str, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike) or self._is_striking or os.getpid() != self._process:
            return
        path = os.fsdecode(path)
        if not path.startswith(self._folder):
            return
        self.count += 1
        if self._strike is not None and self.count >= self._at:
            self._is_striking = True
            try:
                self._strike(event, path)
            finally:
                self._is_striking = False


# What can strike


def kill(_event: str, _path: str) -> None:
    """End this process and all that it has started."""
    os.killpg(os.getpgid(0), signal.SIGKILL)


def kill_alone(_event: str, _path: str) -> None:
    """End this process, but not at once what it has started."""
    os.kill(os.getpid(), signal.SIGKILL)


def tear(event: str, path: str) -> None:
    """Leave what a process leaves that ends in the middle of a write: half of it."""
    if event == "rename" and os.path.isfile(path):
        os.truncate(path, os.path.getsize(path) // 2)
    elif event == "fsync" and os.path.isfile(path) and os.path.getsize(path):
        lines = Path(path).read_bytes().splitlines(keepends=True)
        os.truncate(path, os.path.getsize(path) - len(lines[-1]) // 2 - 1)
    elif event == "append" and os.path.isfile(path):
        lines = Path(path).read_bytes().splitlines(keepends=True)
        with open(path, "ab") as file:
            file.write(lines[-1][: len(lines[-1]) // 2] if lines else b"")
    elif event == "open" and os.path.isfile(path):
        os.truncate(path, os.path.getsize(path) // 2)
    kill(event, path)


def fill_disk(event: str, path: str) -> None:
    """Refuse whatever takes room."""
    if event in ("open", "append", "mkdir", "fsync", "rename"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def forbid_writing(_event: str, path: str) -> None:
    """Refuse whatever changes something."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)


# Processes


@dataclass(frozen=True)
class Outcome:
    """How a process ended: 0, 1 after a sentence, 2 after a traceback, or minus a signal."""

    code: int
    said: str
    n_events: int
    seconds: float

    @property
    def complaint(self) -> str:
        """What is wrong with the way it ended if no signal ended it; empty: nothing."""
        if self.code in (0, -signal.SIGKILL):
            return ""
        if self.code == 1 and "Traceback" not in self.said:
            return ""
        return f"it ended with {self.code}: {self.said.strip()[-1500:]}"


class Process:
    """A forked process that runs an operation."""

    def __init__(
        self,
        run: Callable[[], None],
        folder: Path,
        strike_at: int = 0,
        strike: Strike | None = None,
        clock_offset_s: float = 0.0,
    ) -> None:
        self._said = folder.with_name(f"{folder.name}.{random.getrandbits(48):012x}.said")
        self._started = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(run, Events(folder, strike_at, strike), clock_offset_s)
        with suppress(PermissionError, ProcessLookupError):  # whoever is first
            os.setpgid(self.pid, self.pid)

    def _run(self, run: Callable[[], None], events: Events, clock_offset_s: float) -> None:
        code = 2
        try:
            os.setpgid(0, 0)
            file = os.open(self._said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            if clock_offset_s:
                move_clock(clock_offset_s)
            events.install()
            run()
            code = 0
        except CadenzaError as error:  # as the command does
            code = 1
            print(f"error: {error}", file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            print(f"\nevents: {events.count}", file=sys.stderr, flush=True)
            os._exit(code)

    def wait(self, kill_after_s: float | None = None) -> Outcome:
        """Wait for the end, and end with it all that it has started."""
        deadline = self._started + (_DEADLINE_S if kill_after_s is None else kill_after_s)
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                _, status = os.waitpid(self.pid, 0)
                break
            time.sleep(0.002)
        seconds = time.monotonic() - self._started
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        said = self._said.read_text(errors="replace") if self._said.exists() else ""
        self._said.unlink(missing_ok=True)
        said, _, count = said.rpartition("\nevents: ") if "\nevents: " in said else (said, "", "0")
        hung = kill_after_s is None and seconds > _DEADLINE_S
        code = 3 if hung else os.waitstatus_to_exitcode(status)
        return Outcome(code, said, int(count), seconds)

    def has_ended(self) -> bool:
        """Tell whether it has ended, and only waits to be waited for."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def children(self) -> list[int]:
        """Return the processes that it has started itself."""
        try:
            tasks = list(Path(f"/proc/{self.pid}/task").iterdir())
            return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
        except OSError:
            return []


def move_clock(offset_s: float) -> None:
    """Let this process believe in another time of day."""
    import datetime

    from cadenza_lib.runs import execution, notebooks

    real = time.time
    time.time = lambda: real() + offset_s

    class Datetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return datetime.datetime.fromtimestamp(time.time(), tz)

    execution.datetime = notebooks.datetime = Datetime


def move_file_times(folder: Path, offset_s: float) -> None:
    """Let the files be of another time."""
    for path in folder.rglob("*"):
        now = path.lstat().st_mtime
        os.utime(path, (now + offset_s, now + offset_s), follow_symlinks=False)


def leftovers(folder: Path) -> list[str]:
    """Return what no finished run leaves: hidden files but locks, and journals."""
    hidden = [path for path in folder.rglob("*") if path.name.startswith(".") and not path.name.endswith("lock")]
    return [str(path.relative_to(folder)) for path in [*hidden, *folder.rglob("*-journal"), *folder.rglob("*.part")]]


@contextmanager
def small_disk(folder: Path, free_bytes: int) -> Iterator[Callable[[str], None]]:
    """Mount a disk of so many bytes on an empty directory; yield a function that changes its options.

    Raises
    ------
    PermissionError
        If this is not allowed here.
    """
    size = max(4096, free_bytes // 4096 * 4096)
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size={size} tmpfs '{folder}' 2>/dev/null"):
        raise PermissionError("mount")
    try:
        yield lambda options: _mount(f"mount -o remount,{options} '{folder}' 2>/dev/null")
    finally:
        _mount(f"umount -l '{folder}'")


def _mount(command: str) -> None:
    """Run a command on a mount, which is busy until kernels have noticed that their process was killed."""
    for _ in range(200):
        if not (status := os.system(command)):
            return
        time.sleep(0.1)
    raise OSError(f"{command} failed with {status}")
