"""Is this machine ready? One line per thing that the notebooks need, OK or FAIL, and what to do about it."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from cadenza_lib.core.processes import THREAD_VARIABLES, core_count, thread_limit

__all__ = ["CheckLine", "environment_report", "main"]

_DISTRIBUTION = "cadenza-companion"
_MODULES = {
    "pyclarity": "clarity",
    "pytorch-lightning": "pytorch_lightning",
    "pyyaml": "yaml",
}  # where a distribution and its module differ in name
_MIN_FREE_GB = 2.0
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class CheckLine:
    """One thing that was looked at."""

    ok: bool
    name: str
    detail: str
    required: bool = True


def environment_report(corpus: Path | str | None = None) -> list[CheckLine]:
    """Look at Python, packages, device, disk, kernels, settings of the shell, demo checkpoint and data.

    Parameters
    ----------
    corpus : Path or str, optional
        Where the real data lie. Default: the environment variable CADENZA_CORPUS, if set.
    """
    corpus = corpus or os.environ.get("CADENZA_CORPUS")
    return [
        _check_python(),
        *_check_packages(),
        _check_torchaudio(),
        _check_device(),
        _check_disk(Path.cwd()),
        _check_temporary_directory(),
        *_check_variables(),
        _check_kernels(),
        _check_demo_checkpoint(_ROOT / "data"),
        _check_corpus(None if corpus is None else Path(corpus).expanduser()),
    ]


def main(corpus: Path | str | None = None) -> int:
    """Print the report; return 0, or 1 if something required is missing."""
    lines = environment_report(corpus)
    width = max(len(line.name) for line in lines)
    for line in lines:
        status = "OK" if line.ok else "FAIL" if line.required else "WARN"
        print(f"{status:<4}  {line.name:<{width}}  {line.detail}")
    failed = [line.name for line in lines if line.required and not line.ok]
    print(f"{len(failed)} to repair: {', '.join(failed)}." if failed else "Ready.")
    return 1 if failed else 0


def _check_python() -> CheckLine:
    ok = sys.version_info >= (3, 11)
    hint = "" if ok else "; 3.11 or later is needed, make a new environment"
    return CheckLine(ok, "python", f"{platform.python_version()} in {sys.prefix}{hint}")


def _check_packages() -> list[CheckLine]:
    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires(_DISTRIBUTION) or []]
    except importlib.metadata.PackageNotFoundError:
        return [CheckLine(False, _DISTRIBUTION, "not installed; run pip install -e . in the repository")]
    # Extras have markers that no plain environment satisfies.
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [_check_package(requirement) for requirement in needed]


def _check_package(requirement: Requirement) -> CheckLine:
    """Compare the installed version with the one that pyproject.toml asks for, without importing the package."""
    name = requirement.name
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return CheckLine(False, name, f"not installed; run pip install '{requirement}'")
    if find_spec(_MODULES.get(name, name)) is None:
        return CheckLine(
            False, name, f"{version} is installed without its module; run pip install --force-reinstall {name}"
        )
    # A CPU build of torch calls itself 2.13.0+cpu, which "==2.13.0" admits.
    if not requirement.specifier.contains(version, prereleases=True):
        return CheckLine(
            False, name, f"{version}, but {requirement.specifier} is needed; run pip install '{requirement}'"
        )
    return CheckLine(True, name, version)


def _check_torchaudio() -> CheckLine:
    state = "absent" if find_spec("torchaudio") is None else "present but"
    return CheckLine(True, "torchaudio", f"{state}{',' if state == 'absent' else ''} not needed", required=False)


def _check_device() -> CheckLine:
    try:
        import torch

        detail = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {core_count()} cores"
    except Exception as error:  # a broken build fails in its own ways: ImportError, OSError, RuntimeError
        return CheckLine(False, "device", f"torch does not load ({error}); reinstall it")
    return CheckLine(True, "device", detail)


def _check_disk(directory: Path) -> CheckLine:
    free_gb = shutil.disk_usage(directory).free / 1e9
    ok = free_gb >= _MIN_FREE_GB
    return CheckLine(
        ok, "disk", f"{free_gb:.1f} GB free in {directory}{'' if ok else f'; {_MIN_FREE_GB} GB are needed'}"
    )


def _check_temporary_directory() -> CheckLine:
    try:
        return CheckLine(True, "temporary files", tempfile.gettempdir())
    except FileNotFoundError:
        return CheckLine(False, "temporary files", "no directory for them can be written; set TMPDIR to one")


def _check_variables() -> list[CheckLine]:
    """Name the environment variables that are not used because their values cannot be."""
    complaints = {}
    if (folder := os.environ.get("TMPDIR")) and not os.access(folder, os.W_OK):
        complaints["TMPDIR"] = f"{folder} is no directory that can be written"
    for name in THREAD_VARIABLES:
        if os.environ.get(name) and thread_limit(name) is None:
            complaints[name] = f"{os.environ[name]!r} is no number of threads"
    try:
        import matplotlib  # noqa: F401
    except ValueError:
        complaints["MPLBACKEND"] = f"{os.environ.get('MPLBACKEND')!r} is no backend of matplotlib"
    return [
        CheckLine(False, name, f"{complaint}; correct or unset it", required=False)
        for name, complaint in complaints.items()
    ]


def _check_kernels() -> CheckLine:
    """Tell where HAAQI's compiled kernels are kept; without such a place everything works, but starts slowly."""
    try:
        from cadenza_lib.haaqi import kernels
    except Exception as error:  # numba and llvmlite break in their own ways
        return CheckLine(False, "kernels", f"HAAQI does not load ({error}); reinstall numba")
    directory = kernels.neural.stats.cache_path
    if directory is None:
        detail = "kept nowhere, so that each process compiles them anew; set NUMBA_CACHE_DIR to a directory to write to"
        return CheckLine(False, "kernels", detail, required=False)
    return CheckLine(True, "kernels", f"kept in {directory}")


def _check_demo_checkpoint(data: Path) -> CheckLine:
    path = data / "demo_hdemucs.safetensors"
    if path.is_file():
        return CheckLine(True, "demo model", f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return CheckLine(False, "demo model", f"{path} is missing; run git checkout -- data, in a clone of the repository")


def _check_corpus(corpus: Path | None) -> CheckLine:
    if corpus is None:
        return CheckLine(True, "data", "none given; the demo corpus is built in", required=False)
    try:
        str(corpus).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(corpus).decode(errors="backslashreplace")
        return CheckLine(False, "data", f"{shown} has a name that is not UTF-8; rename it")
    splits = sorted(path.name.split(".")[1] for path in (corpus / "metadata").glob("scenes.*.json"))
    if not splits:
        return CheckLine(
            False, "data", f"{corpus} has no metadata/scenes.*.json; see data/README.md for the expected tree"
        )
    return CheckLine(True, "data", f"{corpus} has the metadata of {', '.join(splits)}")
