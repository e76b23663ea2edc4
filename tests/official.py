"""Official network code, read from its files: importing the packages would import torchaudio."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

import pytest


def official_openunmix() -> ModuleType:
    """Return `openunmix.model`, whose transforms import torchaudio and do not use it."""
    folder = _folder("openunmix")
    package = ModuleType("openunmix")
    package.__path__ = [str(folder)]
    with _modules({"openunmix": package, "torchaudio": ModuleType("torchaudio")}):
        return _load("openunmix.model", folder / "model.py")


def official_hdemucs() -> ModuleType:
    """Return `torchaudio.models._hdemucs`, which imports nothing but torch."""
    with _modules({}):
        return _load("_hdemucs", _folder("torchaudio") / "models" / "_hdemucs.py")


def _folder(package: str) -> Path:
    try:
        return Path(str(distribution(package).locate_file(package)))
    except PackageNotFoundError:
        pytest.skip(f"the official code of {package} is not installed: pip install {package}")


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _modules(stubs: dict[str, ModuleType]) -> Iterator[None]:
    """Put stubs into `sys.modules`, and take all away again that was not there before."""
    before = dict(sys.modules)
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name in sys.modules.keys() - before.keys():
            del sys.modules[name]
        sys.modules.update(before)
