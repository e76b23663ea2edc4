"""Is this machine ready? One line per thing that the notebooks need, OK or FAIL, and what to do about it."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from cadenza_lib.core.errors import CadenzaError
from cadenza_lib.core.processes import THREAD_VARIABLES, core_count, thread_limit

__all__ = ["CheckLine", "environment_report", "main"]

_DISTRIBUTION = "cadenza-companion"
_HAAQI = 0.339140361924  # of `_check_chain`; it changes with `identity.CHAIN_VERSION`
_TOLERANCE = 1e-6  # processors and builds of numpy differ by less than 1e-11


@dataclass(frozen=True)
class CheckLine:
    """One checked thing."""

    ok: bool
    name: str
    detail: str
    required: bool = True


def environment_report(corpus: Path | str | None = None) -> list[CheckLine]:
    """Return a line for Python, each package, the device, settings of the shell, the chain, its kernels and the data.

    Parameters
    ----------
    corpus : Path or str, optional
        Where the real data lie. Default: the environment variable CADENZA_CORPUS, if set.
    """
    return [
        CheckLine(True, "python", platform.python_version()),
        *_check_packages(),
        _check_device(),
        *_check_variables(),
        _check_chain(),
        _check_kernels(),
        _check_corpus(corpus or os.environ.get("CADENZA_CORPUS")),
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


def _check_packages() -> Iterator[CheckLine]:
    """Compare installed versions with those that the package asks for, without importing anything."""
    try:
        requirements = [Requirement(text) for text in importlib.metadata.requires(_DISTRIBUTION) or []]
    except importlib.metadata.PackageNotFoundError:
        yield CheckLine(False, _DISTRIBUTION, "not installed; run pip install -e . in the repository")
        return
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue  # it belongs to an extra
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        # A CPU build of torch calls itself 2.13.0+cpu, which "==2.13.0" admits.
        ok = version != "not installed" and requirement.specifier.contains(version, prereleases=True)
        yield CheckLine(ok, requirement.name, version if ok else f"{version}; run pip install '{requirement}'")


def _check_device() -> CheckLine:
    try:
        import torch

        detail = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {core_count()} cores"
    except Exception as error:  # a broken build fails in its own ways: ImportError, OSError, RuntimeError
        return CheckLine(False, "device", f"torch does not load ({error}); reinstall it")
    return CheckLine(True, "device", detail)


def _check_variables() -> Iterator[CheckLine]:
    """Name the environment variables that are ignored because their values are unusable."""
    problems = {}
    if (folder := os.environ.get("TMPDIR")) and not os.access(folder, os.W_OK):
        problems["TMPDIR"] = f"{folder} is not a writable directory"
    for name in THREAD_VARIABLES:
        if os.environ.get(name) and thread_limit(name) is None:
            problems[name] = f"{os.environ[name]!r} is not a number of threads"
    try:
        import matplotlib  # noqa: F401
    except ValueError:
        problems["MPLBACKEND"] = f"{os.environ.get('MPLBACKEND')!r} is not a backend of matplotlib"
    for name, problem in problems.items():
        yield CheckLine(False, name, f"{problem}; correct or unset it", required=False)


def _check_chain() -> CheckLine:
    """Score a second of music, with the mixture in the place of each stem."""
    try:
        import torch

        from cadenza_lib.data.demo import tiny_listener, tiny_song
        from cadenza_lib.scoring import evaluation
        from cadenza_lib.separation.separators import load

        song, listener, gains_db = tiny_song(1.0), tiny_listener(), torch.tensor([6.0, -3.0, 0.0, 3.0])
        output = evaluation.enhance(song, load("mixture", "cpu")(song), gains_db, listener)
        score = evaluation.score(output, evaluation.reference_remix(song, gains_db), listener, "check").mean
    except Exception as error:  # numba, llvmlite and soxr break in their own ways
        return CheckLine(False, "chain", f"it does not run ({error}); reinstall the packages")
    ok = abs(score - _HAAQI) < _TOLERANCE
    return CheckLine(
        ok, "chain", f"HAAQI {score:.6f}" + ("" if ok else f" instead of {_HAAQI}; reinstall the packages")
    )


def _check_kernels() -> CheckLine:
    """Say where HAAQI's compiled kernels are kept; without such a place everything works, but starts slowly."""
    try:
        from cadenza_lib.haaqi import kernels
    except Exception as error:
        return CheckLine(False, "kernels", f"HAAQI does not load ({error}); reinstall numba")
    directory = kernels.neural.stats.cache_path
    if directory is None:
        detail = "not kept, so each process compiles them again; set NUMBA_CACHE_DIR to a writable directory"
        return CheckLine(False, "kernels", detail, required=False)
    return CheckLine(True, "kernels", f"kept in {directory}")


def _check_corpus(path: Path | str | None) -> CheckLine:
    if path is None:
        return CheckLine(True, "data", "none given; the demo corpus is built in", required=False)
    try:
        from cadenza_lib.data.corpus import Corpus

        corpus = Corpus(path)
        names = sorted(file.name.split(".")[1] for file in corpus.metadata.glob("scenes.*.json"))
        splits = [corpus.split(name).name for name in names]
    except CadenzaError as error:
        return CheckLine(False, "data", str(error))
    if not splits:
        return CheckLine(
            False, "data", f"{path} has no metadata/scenes.*.json; see data/README.md for the expected tree"
        )
    return CheckLine(True, "data", f"{path} has the splits {', '.join(splits)}")
