"""One notebook in a kernel of its own, whatever a person has set up for kernels, and what its failures mean.

A kernel is a process of this interpreter that talks over sockets in a private directory: kernels on TCP race for ports.
Environment variables or an IPython profile that a person has set up for their own kernels do not reach it. It inherits
the lock of its run's directory: if the process that started it dies, the kernel ends within about a second, and only
then can another process take the run up. It works in the directory of its notebook, as it does under JupyterLab, so a
relative path in a default means the same everywhere.
"""

import errno
import logging
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cadenza_lib.core import errors
from cadenza_lib.core.errors import CadenzaError
from cadenza_lib.core.files import sync
from cadenza_lib.core.identity import FORCE_VARIABLE
from cadenza_lib.core.processes import child_environment, muted

__all__ = ["RunError", "failure_sentence", "run_kernel", "write_error"]

_LOGGER = logging.getLogger(__name__)
_DISK_ERRORS = {os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)}
_START_TIMEOUT_S = 600  # of a kernel; loading libraries from a shared file system takes minutes
_MAX_PARENT_LENGTH = 60  # the path of a Unix socket has at most 103 characters on macOS, 107 on Linux


class RunError(CadenzaError):
    """A notebook stopped with an error, or its kernel died."""


def run_kernel(
    notebook: Path, out_dir: Path, parameters: Mapping[str, Any], lock: int, force: str, progress: bool
) -> None:
    """Run a notebook with parameters, and leave the executed notebook in its output directory.

    Parameters
    ----------
    notebook, out_dir
        Absolute paths.
    parameters
        Values that replace the defaults, `out_dir` not among them.
    lock
        Descriptor of the lock that the kernel inherits.
    force
        Name of a forced run, empty if the run is not forced.
    progress
        Whether to show a progress bar over the cells.
    """
    import papermill  # slow to import
    from traitlets.config import Config

    def escaped(path: Path) -> str:
        return str(path).replace("{", "{{").replace("}", "}}")  # papermill formats paths

    # Papermill complains about comments that hold an equals sign, nbformat about old formats.
    with _socket_directory() as sockets, muted("papermill"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connection = {"transport": "tcp" if os.name == "nt" else "ipc", "connection_file": str(sockets / "kernel.json")}
        papermill.execute_notebook(
            escaped(notebook),
            escaped(out_dir / notebook.name),
            {**parameters, "out_dir": str(out_dir)},
            kernel_name="python3",
            language="python",
            progress_bar=progress,
            # Papermill's own `cwd` changes the directory of this whole process.
            resources={"metadata": {"path": str(notebook.parent)}},
            start_timeout=_START_TIMEOUT_S,  # a kernel that dies meanwhile is noticed within a second
            kernel_manager_class=_kernel_manager_class(lock, sockets, force),
            config=Config(KernelManager=connection),
        )
    # The manifest will mark the run as finished. Functions flush what they write into directories below.
    sync(out_dir)


def _kernel_manager_class(lock: int, profile: Path, force: str) -> type:
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class KernelManager(AsyncKernelManager):
        """Starts this interpreter; a kernelspec named python3 may be missing, or belong to another environment."""

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                display_name="Python 3",
                language="python",
            )

        async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
            """Let the kernel inherit the lock: it ends a little later than a process that was killed."""
            options["env"] = child_environment() | {
                "IPYTHONDIR": str(profile),
                "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # the debugger warns about frozen modules
                FORCE_VARIABLE: force,
            }
            inherited = {} if os.name == "nt" else {"pass_fds": (lock,)}
            await super()._async_launch_kernel(kernel_cmd, **options, **inherited)

    return KernelManager


@contextmanager
def _socket_directory() -> Iterator[Path]:
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < _MAX_PARENT_LENGTH else "/tmp"
    with tempfile.TemporaryDirectory(prefix="cadenza-", dir=parent, ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def failure_sentence(notebook: Path, out_dir: Path, error: Exception) -> str:
    """Return why `run_kernel` has failed; the sentence of a `CadenzaError` that the notebook raised stays as it is."""
    from papermill.exceptions import PapermillExecutionError

    where = f"see {out_dir / notebook.name}"
    if isinstance(error, PapermillExecutionError):
        kind = getattr(errors, error.ename, None)
        if isinstance(kind, type) and issubclass(kind, CadenzaError):
            return str(error.evalue)
        cell = error.exec_count if error.exec_count is not None else error.cell_index
        reason = f"{error.ename}: {error.evalue}".strip(": \n").splitlines()[-1]
        sentence = f"{notebook.name} failed in cell [{cell}] with {reason.rstrip('.')}; {where}."
    elif type(error).__name__ == "DeadKernelError":
        return f"{notebook.name} stopped because its kernel died, perhaps for lack of memory; {where}."
    else:
        reason = (str(error).strip().splitlines() or [""])[-1]
        sentence = f"{notebook.name} could not be run ({type(error).__name__}: {reason}); {where}."
    if any(text in reason for text in _DISK_ERRORS):  # whichever library reports it
        sentence = (
            f"{notebook.name} could not write to {out_dir} ({reason.rstrip('.')}); make room or choose another "
            f"directory, and run it again."
        )
    return sentence


def write_error(out_dir: Path, sentence: str, error: BaseException) -> None:
    """Write `error.txt`: the sentence, then the traceback."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(traceback.format_exception(error)))
    try:
        (out_dir / "error.txt").write_text(f"{sentence}\n\n{text}", encoding="utf-8")
    except OSError as cause:  # the disk may be what failed
        _LOGGER.warning("%s cannot be written (%s).", out_dir / "error.txt", cause)
