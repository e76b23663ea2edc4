"""Is this machine ready? One line per thing that the notebooks need, OK or FAIL, and what to do about it."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from cadenza_lib.core.errors import CadenzaError, CorpusError, ParameterError
from cadenza_lib.core.processes import THREAD_VARIABLES, core_count, thread_limit

__all__ = ["CheckLine", "environment_report", "main", "unusable_variables"]

_DISTRIBUTION = "cadenza-companion"
_HAAQI = 0.339140361924  # of `_chain`; it changes with `identity.CHAIN_VERSION`
_TOLERANCE = 1e-6  # processors and builds of numpy differ by less than 1e-11


@dataclass(frozen=True)
class CheckLine:
    """One checked thing."""

    ok: bool
    name: str
    detail: str
    required: bool = True


def environment_report(corpus: Path | str | None = None) -> list[CheckLine]:
    """Return a line for Python, each package, the device, the chain, its kernels, the data, and unusable variables.

    Parameters
    ----------
    corpus : Path or str, optional
        Where the real data lie. Default: the environment variable CADENZA_CORPUS, if set.
    """
    checks: dict[str, Callable[[], str]] = {"python": platform.python_version}
    checks |= {requirement.name: partial(_package, requirement) for requirement in _requirements()}
    checks |= {"device": _device, "chain": _chain, "kernels": _kernels}
    checks["data"] = partial(_data, corpus or os.environ.get("CADENZA_CORPUS"))
    return [_line(name, check) for name, check in checks.items()] + unusable_variables()


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


def _line(name: str, check: Callable[[], str]) -> CheckLine:
    """Return what a check returns or raises, a UserWarning if one can do without it."""
    try:
        return CheckLine(True, name, check())
    except UserWarning as warning:
        return CheckLine(False, name, str(warning), required=False)
    except CadenzaError as error:
        return CheckLine(False, name, str(error))
    except Exception as error:  # broken builds of torch, numba and soxr fail in their own ways
        return CheckLine(False, name, f"{type(error).__name__}: {error}; run pip install -e . in the repository")


def _requirements() -> list[Requirement]:
    """Return what the installed package asks for, without its extras, which have markers."""
    try:
        texts = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        texts = [_DISTRIBUTION]
    return [requirement for requirement in map(Requirement, texts) if requirement.marker is None]


def _package(requirement: Requirement) -> str:
    """Return the installed version of a package, without importing it."""
    version = metadata.version(requirement.name)
    # A CPU build of torch calls itself 2.13.0+cpu, which "==2.13.0" admits.
    if not requirement.specifier.contains(version, prereleases=True):
        raise ParameterError(f"{version}, but {requirement.specifier} is needed; run pip install '{requirement}'")
    return version


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {core_count()} cores"


def _chain() -> str:
    """Score a second of music, with the mixture in the place of each stem."""
    import torch

    from cadenza_lib.chain.pipeline import enhance, reference_remix
    from cadenza_lib.data.tiny import tiny_listener, tiny_song
    from cadenza_lib.scoring.pairs import score
    from cadenza_lib.separation.separators import load

    song, listener, gains_db = tiny_song(1.0), tiny_listener(), torch.tensor([6.0, -3.0, 0.0, 3.0])
    output = enhance(song, [load("mixture", "cpu")(song)], gains_db, listener)
    haaqi = score(output, reference_remix(song, gains_db), listener, "check").mean
    if abs(haaqi - _HAAQI) > _TOLERANCE:
        raise ParameterError(f"HAAQI is {haaqi:.6f} instead of {_HAAQI:.6f}; install the versions of constraints.txt")
    return f"HAAQI {haaqi:.6f}"


def _kernels() -> str:
    """Return where HAAQI's compiled kernels are kept; without such a place everything works, but starts slowly."""
    from cadenza_lib.haaqi import kernels

    directory = kernels.neural.stats.cache_path
    if directory is None:
        raise UserWarning("not kept, so each process compiles them again; set NUMBA_CACHE_DIR to a writable directory")
    return f"kept in {directory}"


def _data(path: Path | str | None) -> str:
    """Return the splits of a corpus, after reading their metadata."""
    if path is None:
        return "none given; the corpus twin is built in"
    from cadenza_lib.data.corpus import Corpus

    corpus = Corpus(path)
    names = sorted(file.name.split(".")[1] for file in corpus.metadata.glob("scenes.*.json"))
    if not names:
        raise CorpusError(f"{path} has no metadata/scenes.*.json; see data/README.md")
    return f"{path} has the splits {', '.join(corpus.split(name).name for name in names)}"


def unusable_variables() -> list[CheckLine]:
    """Return a line for each environment variable that is ignored because its value is unusable."""
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
    return [CheckLine(False, name, f"{text}; correct or unset it", required=False) for name, text in problems.items()]
