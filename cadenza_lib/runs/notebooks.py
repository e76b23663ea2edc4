"""Run a notebook with checked parameters, and leave a manifest.

A notebook has one cell tagged `parameters` with one annotated assignment per line. A run is a directory: the executed
notebook, what the notebook wrote to its `out_dir`, and `manifest.json`, which is written last and so is the mark of a
finished run; a finished run whose notebook, parameters and inputs have not changed is not run again. Inputs are what
parameters name: files, other runs, and corpora, of which the metadata count by content and the audio by size and time.
What the notebook keeps in its directory has a finer identity (see `identity`), so running it again costs little. A run
that is forced computes everything again.

Each notebook runs in a kernel of its own, a process of this interpreter that talks over sockets in a private
directory: kernels on TCP race for ports. What a person has set up for kernels of their own, by environment variables or
in an IPython profile, does not reach it. A run holds the lock of its directory, and so does its kernel: if the process
that started it dies, the kernel ends within about a second, and only then can another process take the run up. So no
run is made twice at once, whoever starts it. A kernel works in the directory of its notebook, as it does under
JupyterLab, so a relative path in a default means the same everywhere; a path that is given as a parameter is relative
to the caller's directory and is passed on as an absolute one. Which parameters are paths, the notebook tells by their
type, `files.NameOrPath`: any other text stays as it is, whatever it looks like.
"""

import ast
import errno
import importlib
import importlib.metadata
import io
import json
import logging
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import tokenize
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from cadenza_lib.core import errors
from cadenza_lib.core.errors import CadenzaError, ParameterError
from cadenza_lib.core.files import (
    DATA,
    absolute_path,
    locked,
    make_directory,
    read_json,
    read_text,
    sync,
    write_errors,
    write_json,
)
from cadenza_lib.core.identity import FORCE_VARIABLE, digest, file_identity
from cadenza_lib.core.processes import child_environment

__all__ = [
    "Parameter",
    "Run",
    "RunError",
    "check_parameters",
    "execute",
    "forced_run_name",
    "git_state",
    "load_yaml",
    "named_paths",
    "notebook_parameters",
    "package_version",
    "parse_parameters",
    "prepare",
    "replace_paths",
    "write_error",
]

_LOGGER = logging.getLogger(__name__)
_DISK_ERRORS = {os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)}
_MOST_VALUES = 100_000  # of a YAML file
_START_TIMEOUT_S = 600  # of a kernel; loading libraries from a shared file system takes minutes
_PACKAGES = ("cadenza-companion", "demucs", "numpy", "pandas", "papermill", "pyclarity", "scipy", "torch")


class RunError(CadenzaError):
    """A notebook stopped with an error, or its kernel died."""


class YamlLoader(yaml.SafeLoader):
    """Loads plain data, and 6e-4 as the number that people mean: YAML 1.1 takes it for a text."""


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """Load plain data from YAML.

    Raises
    ------
    yaml.YAMLError, ValueError, RecursionError
        If the text is none, or its aliases stand for more than anyone writes.
    """
    content = yaml.load(text, YamlLoader)
    if _n_values(content, {}) > _MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {_MOST_VALUES} values, or for themselves")
    return content


def _n_values(value: Any, known: dict[int, float]) -> float:
    """Count the values in a value with every alias written out; infinitely many if it holds itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # until they are counted
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_n_values(item, known) for item in inner)
    return known[id(value)]


@dataclass(frozen=True)
class Parameter:
    """One line of the `parameters` cell of a notebook."""

    name: str
    annotation: str
    default: Any
    help: str


# Parameters of a notebook


def notebook_parameters(notebook: Path | str) -> dict[str, Parameter]:
    """Read the cell tagged `parameters`, which holds lines such as `n_pairs: int = 0  # how many pairs; 0 is all`.

    Annotations are made of int, float, str, bool, NameOrPath, list[…], dict[str, …] and `X | None`; defaults are
    literals.

    Raises
    ------
    ParameterError
        If the notebook cannot be read or its parameters cell breaks these rules.
    """
    notebook = Path(notebook)
    try:
        cells = json.loads(read_text(notebook))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        sources = ["".join(cell["source"]) for cell in tagged]
    except FileNotFoundError as error:
        raise ParameterError(f"Notebook {notebook} does not exist; check the path.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ParameterError(f"{notebook} is not a readable notebook of format 4 ({error!r}); repair it.") from error
    if len(tagged) != 1:
        raise ParameterError(f"{notebook} has {len(tagged)} cells tagged parameters; it needs exactly one.")
    source = sources[0]
    try:
        lines = ast.parse(source).body
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ParameterError(f"{notebook} has a parameters cell that is not Python ({error}); repair it.") from error
    parameters = {}
    for line in lines:
        text = ast.unparse(line)
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None):
            raise ParameterError(
                f"{notebook} has {text!r} in its parameters cell; write it as name: type = default  # help."
            )
        try:
            default = _convert(ast.literal_eval(line.value), line.annotation)
        except (TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ParameterError(
                f"{notebook} has {text!r} in its parameters cell; the default must be a literal of that type, and the "
                "type made of int, float, str, bool, NameOrPath, list, dict[str, ...] and None."
            ) from error
        comment = comments.get(line.end_lineno or line.lineno, "")
        parameters[line.target.id] = Parameter(line.target.id, ast.unparse(line.annotation), default, comment)
    return parameters


def parse_parameters(notebook: Path | str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Turn texts, as typed on a command line, into values of the types that the notebook's parameters have.

    Raises
    ------
    ParameterError
        If a parameter is unknown or its text is not of its type.
    """
    known = notebook_parameters(notebook)
    values = {}
    for name, text in texts.items():
        annotation = known[name].annotation if name in known else "str"
        try:
            loaded = load_yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            loaded = text
        values[name] = text
        for candidate in (text, loaded) if annotation in ("str", "NameOrPath") else (loaded, text):
            try:
                values[name] = _convert(candidate, _expression(annotation))
                break
            except TypeError:
                continue
    return check_parameters(notebook, known, values)


def check_parameters(notebook: Path | str, known: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given parameters in the types of the notebook, or refuse them."""
    name_of_notebook = Path(notebook).name
    if "out_dir" not in known:
        raise ParameterError(f"{name_of_notebook} has no parameter out_dir; add out_dir: str to its parameters cell.")
    checked = {}
    for name, value in given.items():
        if name == "out_dir":
            raise ParameterError(f"{name_of_notebook} gets out_dir from its run, not as a parameter; leave it out.")
        if name not in known:
            raise ParameterError(
                f"{name_of_notebook} has no parameter {name} (value {value!r}); it knows {', '.join(sorted(known))}."
            )
        try:
            checked[name] = _convert(value, _expression(known[name].annotation))
        except TypeError as error:
            raise ParameterError(
                f"{name_of_notebook} wants {name} as {known[name].annotation}, not {value!r} "
                f"({type(value).__name__}); it knows {', '.join(sorted(known))}."
            ) from error
    return checked


def replace_paths(
    known: Mapping[str, Parameter], parameters: Mapping[str, Any], replace: Callable[[str], str]
) -> dict[str, Any]:
    """Return checked parameters of a notebook with each `files.NameOrPath` replaced, in lists and mappings too."""
    return {name: _convert(value, _expression(known[name].annotation), replace) for name, value in parameters.items()}


def named_paths(known: Mapping[str, Parameter], parameters: Mapping[str, Any]) -> list[str]:
    """Return each `files.NameOrPath` in checked parameters of a notebook."""
    paths: list[str] = []

    def collect(text: str) -> str:
        paths.append(text)
        return text

    replace_paths(known, parameters, collect)
    return paths


def _expression(annotation: str) -> ast.expr:
    return ast.parse(annotation, mode="eval").body


def _convert(value: Any, annotation: ast.expr, replace: Callable[[str], str] = str) -> Any:
    """Return `value` in the annotated type, int becoming float where asked, and paths being replaced.

    TypeError if it is of another type.
    """
    match annotation:
        case ast.Constant(value=None) if value is None:
            return None
        case ast.Name(id="float") if isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) <= sys.float_info.max:  # nothing that a notebook asks for is NaN or infinite
                return float(value)
        case ast.Name(id="int" | "str" | "bool" as name) if type(value).__name__ == name:  # bool is no int here
            return value
        case ast.Name(id="NameOrPath") if isinstance(value, str):
            return replace(value)
        case ast.Name(id="list") if isinstance(value, list):
            return value
        case ast.Subscript(value=ast.Name(id="list"), slice=inner) if isinstance(value, list):
            return [_convert(item, inner, replace) for item in value]
        # Papermill turns every key into a string.
        case ast.Name(id="dict") if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return value
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[ast.Name(id="str"), inner])) if isinstance(
            value, dict
        ) and all(isinstance(key, str) for key in value):
            return {key: _convert(item, inner, replace) for key, item in value.items()}
        # Papermill's --help-notebook leaves out parameters with "|", so that notebooks write Union.
        case (
            ast.BinOp(left=left, op=ast.BitOr(), right=right)
            | ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=[left, right]))
        ):
            try:
                return _convert(value, left, replace)
            except TypeError:
                return _convert(value, right, replace)
    raise TypeError(f"{value!r} is not {ast.unparse(annotation)}")


def _absolute(text: str) -> str:
    """Make a path absolute; plain names such as "demo" stay, even if a directory has that name."""
    is_path = "/" in text or os.sep in text or os.path.isfile(text)  # unlike Path.is_file, no error if it is too long
    return str(absolute_path(text)) if is_path and "://" not in text else text


# One run


@dataclass(frozen=True)
class Run:
    """A run that is ready to start: everything that decides whether it has to."""

    notebook: Path
    known: Mapping[str, Parameter]
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
        """Tell whether its manifest is there and of the same identity; `force` is the name of a forced run."""
        try:
            manifest = read_json(self.manifest)
            is_timed = isinstance(manifest["duration_s"], int | float)  # which the page of a study shows
            return is_timed and manifest["identity"] == self.identity and (not force or manifest["forced"] == force)
        except (CadenzaError, KeyError, TypeError, AttributeError):
            return False


def prepare(notebook: Path | str, parameters: Mapping[str, Any], out_dir: Path | str) -> Run:
    """Check a run, writing nothing; see `execute` for the arguments and errors."""
    notebook = absolute_path(notebook)
    known = notebook_parameters(notebook)
    given = replace_paths(known, check_parameters(notebook, known, parameters), _absolute)
    out_dir = absolute_path(out_dir)
    if out_dir == notebook.parent:
        raise ParameterError(f"Output directory {out_dir} holds {notebook.name} itself; choose another.")
    parameters = {name: given.get(name, parameter.default) for name, parameter in known.items() if name != "out_dir"}
    inputs: dict[str, str] = {}

    def content_of(text: str) -> str:
        places = (notebook.parent / text, DATA / text, DATA / f"{text}.safetensors") if text else ()
        contents = [inputs.setdefault(str(path), _content(path)) for place in places for path in _paths_of(place)]
        return " ".join(contents) or text

    identity = digest(notebook.name, _content(notebook), replace_paths(known, parameters, content_of))
    return Run(notebook, known, given, out_dir, parameters, inputs, identity)


def _paths_of(path: Path) -> list[Path]:
    """Return what holds the content of an input: a file and its card, what a run leaves, the directory of a corpus."""
    try:
        if path.is_file():
            card = path.with_suffix(".json")
            return [path.resolve(), *([card.resolve()] if path.suffix == ".safetensors" and card.is_file() else [])]
        results = [path / name for name in ("manifest.json", "scores.csv", "settings.json")]
        is_corpus = (path / "metadata").is_dir()
        return [result.resolve() for result in results if result.is_file()] + ([path.resolve()] if is_corpus else [])
    except OSError:  # a text too long for a file name
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

    If another process is running in `out_dir`, this waits until it is done; there is nothing left to do then, if it was
    the same run.

    Parameters
    ----------
    notebook : Path or str
        A notebook with a `parameters` cell that has an `out_dir`.
    parameters : Mapping[str, Any], optional
        Values other than the defaults. A `files.NameOrPath` that contains a slash or names a file is a path, relative
        to the current directory.
    out_dir : Path or str, default="runs"
        Directory of this run; it gets the executed notebook and `manifest.json`, and on failure `error.txt`.
    force : bool or str, default=False
        Whether to run even if this very run is finished, and to compute again what is kept in `out_dir`; a text is a
        name for that (see `forced_run_name`), and one that is finished under this name is not run again.
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
    """Return a name for a run that is forced, which no other has."""
    return uuid.uuid4().hex


def _execute(run: Run, lock: int, force: str, progress: bool) -> None:
    with write_errors(run.out_dir):
        # The page too: whether it is older than the notebook cannot be told by a clock that jumps.
        for stale in (run.manifest, run.out_dir / "error.txt", run.out_dir / f"{run.notebook.stem}.html"):
            stale.unlink(missing_ok=True)
    started, clock = datetime.now(UTC), time.monotonic()
    try:
        _run_kernel(run, lock, force, progress)
    except Exception as error:  # papermill, nbclient, zmq and the file system each have their own
        sentence = _sentence(run, error)
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


def _run_kernel(run: Run, lock: int, force: str, progress: bool) -> None:
    import papermill  # slow to import
    from traitlets.config import Config

    def escaped(path: Path) -> str:
        return str(path).replace("{", "{{").replace("}", "}}")  # papermill formats paths

    with _socket_directory() as sockets, _quiet():
        papermill.execute_notebook(
            escaped(run.notebook),
            escaped(run.out_dir / run.notebook.name),
            {**run.given, "out_dir": str(run.out_dir)},
            kernel_name="python3",
            language="python",
            progress_bar=progress,
            # Not `cwd=`, by which papermill changes the directory of this whole process.
            resources={"metadata": {"path": str(run.notebook.parent)}},
            start_timeout=_START_TIMEOUT_S,  # a kernel that dies meanwhile is noticed within a second
            kernel_manager_class=_kernel_manager_class(lock, sockets, force),
            config=Config(
                KernelManager={
                    "transport": "tcp" if os.name == "nt" else "ipc",
                    "connection_file": str(sockets / "kernel.json"),
                }
            ),
        )
    sync(run.out_dir)  # before the manifest vouches for it; functions sync what they write into directories below


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
    # The path of a Unix socket has at most 103 characters on macOS, 107 on Linux.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else "/tmp"
    with tempfile.TemporaryDirectory(prefix="cadenza-", dir=parent, ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence papermill's logger, which complains about comments that hold an equals sign, and format warnings."""
    logger = logging.getLogger("papermill")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _sentence(run: Run, error: Exception) -> str:
    from papermill.exceptions import PapermillExecutionError

    where = f"see {run.out_dir / run.notebook.name}"
    if isinstance(error, PapermillExecutionError):
        kind = getattr(errors, error.ename, None)
        if isinstance(kind, type) and issubclass(kind, CadenzaError):
            return str(error.evalue)
        cell = error.exec_count if error.exec_count is not None else error.cell_index
        last = f"{error.ename}: {error.evalue}".strip(": \n").splitlines()[-1]
        if sentence := _disk_sentence(run, last):
            return sentence
        return f"{run.notebook.name} failed in cell [{cell}] with {last.rstrip('.')}; {where}."
    if type(error).__name__ == "DeadKernelError":
        return f"{run.notebook.name} stopped because its kernel died, perhaps for lack of memory; {where}."
    reason = (str(error).strip().splitlines() or [""])[-1]
    return _disk_sentence(run, reason) or (
        f"{run.notebook.name} could not be run ({type(error).__name__}: {reason}); {where}."
    )


def _disk_sentence(run: Run, reason: str) -> str:
    """Return what to do if a disk is the reason, whichever library tells; empty: it is not."""
    if not any(text in reason for text in _DISK_ERRORS):
        return ""
    return (
        f"{run.notebook.name} could not write to {run.out_dir} ({reason.rstrip('.')}); make room or choose another "
        f"directory, and run it again."
    )


def write_error(out_dir: Path, sentence: str, error: BaseException) -> None:
    """Leave `error.txt`: the sentence, then the traceback."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(traceback.format_exception(error)))
    try:
        (out_dir / "error.txt").write_text(f"{sentence}\n\n{text}", encoding="utf-8")
    except OSError as cause:  # the disk may be what failed
        _LOGGER.warning("%s cannot be written (%s).", out_dir / "error.txt", cause)


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
    # Where a hook of git runs this, these name another repository.
    misleading = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}
    environment = {name: value for name, value in os.environ.items() if name not in misleading}
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace", env=environment)
    return done.stdout.strip()


def package_version(package: str) -> str | None:
    """Return the version of an installed package, None if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
