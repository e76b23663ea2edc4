"""Run a notebook with checked parameters, and leave a manifest.

A run is a directory: the executed notebook, what the notebook wrote to its `out_dir`, and `manifest.json`, which is
written last and so marks a finished run. A finished run is not run again unless its notebook, parameters or inputs have
changed. Inputs are what parameters name: files, other runs, and corpora, of which the metadata count by content and the
audio by size and time. What the notebook keeps in its directory has a finer identity (see `identity`), so running it
again costs little. A forced run computes everything again.

A run holds the lock of its directory, and so does its kernel, so no run is made twice at once, whoever starts it. A
path that is given as a parameter is relative to the caller's directory and is passed on as an absolute one. A parameter
is a path if its type is `NameOrPath`; any other text stays as it is, whatever it looks like.
"""

import importlib.metadata
import logging
import os
import platform
import re
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cadenza_lib.core.documents import read_json, write_json
from cadenza_lib.core.errors import CadenzaError, ParameterError
from cadenza_lib.core.files import locked, make_directory, write_errors
from cadenza_lib.core.identity import digest, file_identity
from cadenza_lib.core.paths import DATA, absolute_path
from cadenza_lib.runs.kernel import RunError, failure_sentence, run_kernel, write_error
from cadenza_lib.runs.parameters import check_parameters, notebook_parameters, replace_paths

__all__ = [
    "Run",
    "execute",
    "forced_run_name",
    "git_state",
    "package_version",
    "prepare",
    "recorded_duration",
]

_LOGGER = logging.getLogger(__name__)
_PACKAGES = ("cadenza-companion", "demucs", "numpy", "pandas", "papermill", "pyclarity", "scipy", "torch")


@dataclass(frozen=True)
class Run:
    """A checked run, with everything that decides whether it has to be made."""

    notebook: Path
    given: Mapping[str, Any]
    out_dir: Path
    parameters: Mapping[str, Any]  # with defaults filled in
    inputs: Mapping[str, str]  # content of what parameters name, by path
    identity: str

    @property
    def manifest(self) -> Path:
        """Path of its manifest."""
        return self.out_dir / "manifest.json"

    def is_finished(self, force: str = "") -> bool:
        """Return whether its manifest exists and has the same identity; `force` is the name of a forced run."""
        try:
            manifest = read_json(self.manifest)
            is_same = manifest["identity"] == self.identity and (not force or manifest["forced"] == force)
        except (CadenzaError, KeyError, TypeError):
            return False
        return is_same and recorded_duration(self.out_dir) is not None


def recorded_duration(out_dir: Path) -> float | None:
    """Return how many seconds the last finished run in a directory took, None if there is none."""
    try:
        duration_s = read_json(out_dir / "manifest.json")["duration_s"]
    except (CadenzaError, KeyError, TypeError):
        return None
    return float(duration_s) if isinstance(duration_s, int | float) else None


def prepare(notebook: Path | str, parameters: Mapping[str, Any], out_dir: Path | str) -> Run:
    """Check a run without writing anything; see `execute` for the arguments and errors."""
    notebook = absolute_path(notebook)
    declared = notebook_parameters(notebook)
    given = replace_paths(declared, check_parameters(notebook, declared, parameters), _absolute)
    out_dir = absolute_path(out_dir)
    if out_dir == notebook.parent:
        raise ParameterError(f"Output directory {out_dir} holds {notebook.name} itself; choose another.")
    parameters = {name: given.get(name, parameter.default) for name, parameter in declared.items() if name != "out_dir"}
    inputs: dict[str, str] = {}

    def content_of(text: str) -> str:
        places = (notebook.parent / text, DATA / text, DATA / f"{text}.safetensors") if text else ()
        contents = [inputs.setdefault(str(path), _content(path)) for place in places for path in _paths_of(place)]
        return " ".join(contents) or text

    identity = digest(notebook.name, _content(notebook), replace_paths(declared, parameters, content_of))
    return Run(notebook, given, out_dir, parameters, inputs, identity)


def _absolute(text: str) -> str:
    """Return a path as an absolute one; plain names such as "twin" stay, even if a directory has that name."""
    is_path = "/" in text or os.sep in text or os.path.isfile(text)  # unlike Path.is_file, no error if it is too long
    return str(absolute_path(text)) if is_path and "://" not in text else text


def _paths_of(path: Path) -> list[Path]:
    """Return what holds the content of an input: a file and its card, a run's results, the directory of a corpus."""
    try:
        if path.is_file():
            card = path.with_suffix(".json")
            return [path.resolve(), *([card.resolve()] if path.suffix == ".safetensors" and card.is_file() else [])]
        results = [path / name for name in ("manifest.json", "scores.csv", "settings.json")]
        is_corpus = (path / "metadata").is_dir()
        return [result.resolve() for result in results if result.is_file()] + ([path.resolve()] if is_corpus else [])
    except OSError:  # the text is too long for a file name
        return []


def _content(path: Path) -> str:
    """Return the SHA-256 of a file; of a corpus, that of its metadata and of the sizes and times of its audio."""
    try:
        if path.is_file():
            return file_identity(path)
        metadata = [[file.name, file_identity(file)] for file in sorted((path / "metadata").glob("*.json"))]
        audio = []
        for folder, _, names in os.walk(path / "audio", followlinks=True):
            for name in names:
                status = os.stat(os.path.join(folder, name))
                audio.append([os.path.relpath(folder, path), name, status.st_size, status.st_mtime_ns])
        return digest(metadata, sorted(audio))
    except OSError as error:
        raise ParameterError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error


def execute(
    notebook: Path | str,
    parameters: Mapping[str, Any] | None = None,
    out_dir: Path | str = "runs",
    *,
    force: bool | str = False,
    progress: bool = False,
) -> Path:
    """Run one notebook in a kernel of its own, and return the path of its manifest.

    If another process is running in `out_dir`, this waits until it is done, and then runs only what is still to be run.

    Parameters
    ----------
    notebook : Path or str
        A notebook with a `parameters` cell that has an `out_dir`.
    parameters : Mapping[str, Any], optional
        Values other than the defaults. A `NameOrPath` that contains a slash or names a file is a path, relative to the
        current directory.
    out_dir : Path or str, default="runs"
        Directory of this run; it gets the executed notebook and `manifest.json`, and on failure `error.txt`.
    force : bool or str, default=False
        Whether to run even if this very run is finished, and to compute again what is kept in `out_dir`; a text is the
        name of the forced run (see `forced_run_name`), and what is finished under this name is not run again.
    progress : bool, default=False
        Whether to show a progress bar over the cells.

    Raises
    ------
    ParameterError
        If a parameter is unknown or of the wrong type, or `out_dir` cannot be written.
    RunError
        If the notebook fails. The partial notebook and `error.txt` stay in `out_dir`. If the notebook raised a
        `CadenzaError`, its sentence is the message.
    """
    run = prepare(notebook, parameters or {}, out_dir)
    make_directory(run.out_dir)
    force = forced_run_name() if force is True else force or ""
    with locked(run.out_dir / ".lock", with_children=True) as lock:
        if not run.is_finished(force):
            _execute(run, lock, force, progress)
        else:
            _LOGGER.info("%s is finished; nothing to do.", run.out_dir)
    return run.manifest


def forced_run_name() -> str:
    """Return a unique name for a forced run."""
    return uuid.uuid4().hex


def _execute(run: Run, lock: int, force: str, progress: bool) -> None:
    with write_errors(run.out_dir):
        # The page too: a clock that jumps cannot tell whether it is older than the notebook.
        for stale in (run.manifest, run.out_dir / "error.txt", run.out_dir / f"{run.notebook.stem}.html"):
            stale.unlink(missing_ok=True)
    started, clock = datetime.now(UTC), time.monotonic()
    try:
        run_kernel(run.notebook, run.out_dir, run.given, lock, force, progress)
    except Exception as error:  # papermill, nbclient, zmq and the file system each have their own
        sentence = failure_sentence(run.notebook, run.out_dir, error)
        write_error(run.out_dir, sentence, error)
        raise RunError(sentence) from error
    write_json(
        run.manifest,
        {
            "notebook": run.notebook.name,
            "notebook_sha256": _content(run.notebook),
            "parameters": {**run.parameters, "out_dir": str(run.out_dir)},
            "inputs": run.inputs,
            "identity": run.identity,
            "forced": force,
            "seeds": {name: value for name, value in run.parameters.items() if re.search("seeds?$", name)},
            "git": git_state(Path(__file__)),
            "versions": {"python": platform.python_version(), **{name: package_version(name) for name in _PACKAGES}},
            "host": platform.node(),
            "platform": platform.platform(),
            "started": started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "duration_s": round(time.monotonic() - clock, 3),
            "status": "finished",
        },
    )


def git_state(path: Path) -> dict[str, Any] | None:
    """Return the commit of the repository that tracks `path` and whether it has changes; None if there is none."""
    try:
        _git(path, "ls-files", "--error-unmatch", path.name)
        return {
            "commit": _git(path, "rev-parse", "HEAD"),
            "dirty": bool(_git(path, "status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(path: Path, *arguments: str) -> str:
    command = ["git", "-C", str(path.parent), *arguments]
    # A git hook sets these to another repository.
    misleading = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}
    environment = {name: value for name, value in os.environ.items() if name not in misleading}
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace", env=environment)
    return done.stdout.strip()


def package_version(package: str) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
