"""What holds for every module: its place in the order, a docstring, its public names, and a silent import."""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cadenza_lib"


@cache
def words_of(path: Path) -> frozenset[str]:
    """Return the words of a file."""
    return frozenset(re.findall(r"\w+", path.read_text(encoding="utf-8")))


def public_names(path: Path) -> list[str]:
    """Return what a module lists in `__all__`."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


ROOMS = {
    "core": (
        "errors",
        "compiled",
        "conventions",
        "paths",
        "files",
        "documents",
        "tables",
        "identity",
        "processes",
    ),
    "audio": ("resampling", "loudness", "acoustics", "media", "heads"),
    "data": (
        "listeners",
        "audiograms",
        "population",
        "scenes",
        "metadata",
        "songs",
        "corpus",
        "simulation",
        "datasets",
        "sources",
        "supplement",
        "composition",
        "sounds",
        "instruments",
        "voice",
        "synthesis",
        "embedded",
        "sample",
        "opening",
        "tiny",
    ),
    "separation": (
        "openunmix",
        "consistent",
        "registry",
        "checkpoints",
        "downloads",
        "pretrained",
        "chunking",
        "separators",
        "estimates",
    ),
    "chain": ("fusion", "remix", "fitting", "dynamics", "output", "pipeline"),
    "haaqi": (
        "simd",
        "kernels",
        "correlation",
        "alignment",
        "noise",
        "ear",
        "covariance",
        "features",
        "comparison",
        "score",
        "torch_filters",
        "torch_ear",
        "torch_features",
        "torch_comparison",
        "torch",
    ),
    "scoring": (
        "pairs",
        "kept",
        "evaluation",
        "bases",
        "sweep",
        "optimiser",
        "levels",
    ),
    "training": ("targets", "segments", "files", "launch", "finetuning"),
    "analysis": (
        "statistics",
        "tables",
        "comparisons",
        "findings",
        "ascent",
        "personal",
        "output_stages",
        "causes",
        "explain",
    ),
    "figures": ("common", "sound", "systems", "listeners"),
    "listening": ("player", "own_music", "stages", "background", "explore"),
    "runs": (
        "page",
        "parameters",
        "kernel",
        "notebooks",
        "study",
        "execution",
        "check",
    ),
}
"""The rooms in the order of the study, each with its modules: a module imports only from those before it."""

ORDER = [f"cadenza_lib.{room}.{module}" for room, modules in ROOMS.items() for module in modules]

IMPORT_ALL = """
import contextlib, importlib, io, json, sys
import numpy as np
import torch

def states():
    return [part.tolist() if hasattr(part, "tolist") else part for part in np.random.get_state()], \
        torch.get_rng_state().tolist()

report = {}
for name in sys.argv[1:]:
    before, said = states(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        module = importlib.import_module(name)
    report[name] = {
        "drew": states() != before,
        "said": said.getvalue(),
        "file": module.__file__,
        "missing": [public for public in getattr(module, "__all__", []) if not hasattr(module, public)],
    }
print(json.dumps({"modules": report, "torchaudio": "torchaudio" in sys.modules}))
"""


def module_files() -> dict[str, Path]:
    """Return the file of every module by its name, "cadenza_lib" for the package itself."""
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


MODULES = module_files()


def imports(path: Path, module: str) -> set[str]:
    """Return the modules of the package that a module imports from, wherever in the module; a room for its names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: imports are absolute"
            base = str(node.module)
            below = {f"{base}.{alias.name}" for alias in node.names} & MODULES.keys()
            names |= below or {base}
    return {name for name in names if name in MODULES and name != "cadenza_lib"}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Import every module in a fresh interpreter, far from the repository, and return what was seen."""
    done = subprocess.run(
        [sys.executable, "-W", "error:::cadenza_lib", "-c", IMPORT_ALL, *MODULES],
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("elsewhere"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, "something printed past sys.stdout"
    return json.loads(done.stdout)


def test_every_module_has_a_place_in_the_order() -> None:
    rooms = {f"cadenza_lib.{room}" for room in ROOMS}
    assert set(MODULES) == {*ORDER, *rooms, "cadenza_lib", "cadenza_lib.__main__"}
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_module_imports_only_from_modules_above_it(module: str) -> None:
    place = ORDER.index(module)
    above = list(ROOMS)[: list(ROOMS).index(module.split(".")[1])]
    allowed = {*ORDER[:place], *(f"cadenza_lib.{room}" for room in above)}
    found = imports(MODULES[module], module)
    assert found <= allowed, f"{module} must not import from {sorted(found - allowed)}"


def test_haaqi_could_leave_the_house() -> None:
    modules = [name for name in MODULES if name.startswith("cadenza_lib.haaqi")]
    needed = set().union(*(imports(MODULES[name], name) for name in modules))
    assert needed - set(modules) == {"cadenza_lib.core.errors", "cadenza_lib.core.compiled"}


def test_imports_are_found_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "probe.py"
    path.write_text(
        "import cadenza_lib.core.errors\nfrom cadenza_lib import __version__, figures as f\n"
        "from cadenza_lib.data import corpus\nfrom cadenza_lib.data import Corpus\n"
        "def late():\n    from cadenza_lib.haaqi.ear import x\n    import numpy\n"
    )
    names = ("core.errors", "figures", "data.corpus", "data", "haaqi.ear")
    assert imports(path, "probe") == {f"cadenza_lib.{name}" for name in names}


@pytest.mark.parametrize("module", MODULES)
def test_module_has_a_docstring_and_names_what_is_public(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    if module != "cadenza_lib" and not MODULES[module].with_suffix(".pyi").exists():  # stubs name what rooms offer
        targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        assert "__all__" in [target.id for target in targets if isinstance(target, ast.Name)]


@pytest.mark.parametrize("module", MODULES)
def test_import_is_silent_and_draws_no_random_number(module: str, imported: dict[str, Any]) -> None:
    seen = imported["modules"][module]
    assert Path(seen["file"]) == MODULES[module]
    assert seen["said"] == ""
    assert not seen["drew"]
    assert seen["missing"] == [], "__all__ names what the module does not have"


def test_no_module_loads_torchaudio(imported: dict[str, Any]) -> None:
    assert imported["torchaudio"] is False


@pytest.mark.parametrize("module", ORDER)
def test_public_names_are_used_by_another_file(module: str) -> None:
    path, root = MODULES[module], PACKAGE.parent
    patterns = ("cadenza_lib/**/*.py", "cadenza_lib/**/*.pyi", "tests/**/*.py", "notebooks/**/*.ipynb")
    others = {other for pattern in patterns for other in root.glob(pattern)} - {path}
    words = set().union(*map(words_of, others))
    assert set(public_names(path)) <= words
