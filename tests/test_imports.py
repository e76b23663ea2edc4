"""What holds for every module: its place in the order, a docstring, its public names, and a silent import."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cadenza_lib"

ORDER = (
    "errors",
    "compiled",
    "files",
    "identity",
    "executors",
    "listeners",
    "loudness",
    "acoustics",
    "heads",
    "scenes",
    "corpus",
    "simulation",
    "datasets",
    "supplement",
    "synthesis",
    "demo",
    "twin",
    "openunmix",
    "pretrained",
    "separation",
    "estimates",
    "fusion",
    "remix",
    "fitting",
    "haaqi",
    "evaluation",
    "bases",
    "sweep",
    "submission",
    "headroom",
    "targets",
    "segments",
    "training_files",
    "finetune",
    "inference",
    "mixed",
    "analysis",
    "comparisons",
    "personal",
    "cause",
    "figures",
    "listener_figures",
    "player",
    "stages",
    "widgets",
    "explore",
    "report",
    "runs",
    "study",
    "cost",
    "execution",
    "check",
    "__main__",
)
"""The modules from left to right through the study: each may import only from those before it."""

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


def room(module: str) -> str:
    """Return the entry of the order that a module belongs to: its top-level name in the package."""
    return [*module.split("."), ""][1]


def imports(path: Path, module: str) -> set[str]:
    """Return the rooms of the package that a module imports from, wherever in the module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: imports are absolute"
            base = str(node.module)
            names |= {f"{base}.{alias.name}" for alias in node.names} if base == "cadenza_lib" else {base}
    ours = {name for name in names if name.split(".")[0] == "cadenza_lib"}
    return {room(name) for name in ours if f"cadenza_lib.{room(name)}" in MODULES}


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
    rooms = {room(module) for module in MODULES} - {""}
    assert rooms == set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_from_modules_above_it(module: str) -> None:
    here = room(module)
    allowed = set(ORDER[: ORDER.index(here)]) | {here} if here else set()
    above = imports(MODULES[module], module)
    assert above <= allowed, f"{module} must not import from {sorted(above - allowed)}"


def test_imports_are_found_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "probe.py"
    path.write_text(
        "import cadenza_lib.errors\nfrom cadenza_lib import __version__, files as f\n"
        "def late():\n    from cadenza_lib.haaqi.ear import x\n    import numpy\n"
    )
    assert imports(path, "probe") == {"errors", "files", "haaqi"}


@pytest.mark.parametrize("module", MODULES)
def test_module_has_a_docstring_and_names_what_is_public(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    if module != "cadenza_lib":  # the package offers its modules
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
