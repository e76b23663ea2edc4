"""The environment, checked without a network: what is asked for is valid, is what is imported, and is all of it."""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())

# Name, optionally version and build, each a glob: conda's MatchSpec as far as an environment file needs it.
CONDA_SPEC = re.compile(r"[a-z0-9_.-]+(=[0-9][\w.*]*(=[\w*]+)?|[<>=!]=?[0-9][\w.,<>=!*]*)?")

NOT_IMPORTED = {
    "ipykernel": "started as a module by runs/kernel.py",
    "jupyterlab": "what people and the browser tests open notebooks with",
    "codespell": "run by the notebook tests",
    "mypy": "make lint",
    "ruff": "make lint",
    "openunmix": "loaded by path in tests/official.py, since its package imports torchaudio",
    "pytest-xdist": "make test",
    "stempeg": "contains the song of data/sample.py",
    "pandas-stubs": "types for mypy",
    "types-pyyaml": "types for mypy",
    "types-tqdm": "types for mypy",
}
COMPANIONS = {
    "recipes": "pyclarity",
    "clarity": "pyclarity",
    "mpl_toolkits": "matplotlib",
}  # modules whose distribution cannot be told from its metadata, or that several share


def requirements(*groups: list[str]) -> dict[str, Requirement]:
    found = {canonicalize_name(one.name): one for group in groups for one in map(Requirement, group)}
    return {name: one for name, one in found.items() if name != PYPROJECT["name"]}  # an extra may name another


def pip_lines() -> list[str]:
    (section,) = [entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict)]
    return section


def sources() -> Iterator[tuple[Path, str]]:
    """Yield every Python source of the repository: modules, tests, and the cells of notebooks."""
    for path in [*ROOT.glob("cadenza_lib/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        yield path, path.read_text(encoding="utf-8")
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield path, "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@cache
def imported() -> dict[str, set[Path]]:
    """Return the foreign modules that are imported anywhere, and where."""
    scripts = list(ROOT.glob("tests/**/*.py"))
    own = {path.stem for path in scripts} | {path.parent.name for path in scripts} | {"cadenza_lib"}
    found: dict[str, set[Path]] = {}
    for path, source in sources():
        for node in ast.walk(ast.parse(source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "importorskip":
                names += [node.args[0].value for _ in "1" if isinstance(node.args[0], ast.Constant)]
            for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - own:
                found.setdefault(name, set()).add(path)
    return found


@cache
def installed() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def distributions(module: str) -> set[str]:
    if module in COMPANIONS:
        return {COMPANIONS[module]}
    return {canonicalize_name(name) for name in installed().get(module, [])}


def pinned() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return requirements([line for line in lines if line.strip() and not line.startswith("#")])


def closure() -> set[str]:
    """Return the dependencies of the package and theirs, without those of torch, whose builds differ in them."""
    names: set[str] = set()
    waiting = list(PYPROJECT["dependencies"])
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name not in names and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            names.add(name)
            waiting += [] if name == "torch" else metadata.requires(name) or []
    return names - {"setuptools"}  # which pip installs


def test_conda_specs_and_channels_are_valid() -> None:
    specs = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
    assert {"pip", "libsndfile"} <= {re.split("[<>=!]", spec)[0] for spec in specs}
    for spec in specs:
        assert CONDA_SPEC.fullmatch(spec), spec
    assert ENVIRONMENT["channels"] == ["conda-forge", "nodefaults"]
    (python,) = [spec.split("=")[1] for spec in specs if spec.startswith("python=")]
    assert Requirement(f"python{PYPROJECT['requires-python']}").specifier.contains(python)


def test_pip_section_names_the_dependencies_of_the_package() -> None:
    options = [line.split() for line in pip_lines() if line.startswith("--")]
    assert ["--constraint", "constraints.txt"] in options
    assert ["--editable", ".[dev]"] in options
    needed = requirements(PYPROJECT["dependencies"])
    named = requirements([line for line in pip_lines() if not line.startswith("--")])
    assert set(named) == set(needed)
    for name, requirement in named.items():
        for pin in requirement.specifier:
            assert needed[name].specifier.contains(pin.version), f"{requirement} is not {needed[name]}"


def test_every_dependency_has_a_lower_bound() -> None:
    for name, requirement in requirements(
        PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"].values()
    ).items():
        assert [pin.operator for pin in requirement.specifier] in (["=="], [">="]) or "types" in NOT_IMPORTED[name]


def test_every_direct_dependency_is_pinned_to_a_version_that_satisfies_it() -> None:
    pins = pinned()
    for name, requirement in requirements(
        PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"].values()
    ).items():
        assert name in pins, f"constraints.txt has no {name}"
        (pin,) = pins[name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version, prereleases=True), f"{pin} is not {requirement}"


def test_every_import_is_provided_by_a_dependency_or_by_one_of_its_own() -> None:
    modules = imported()
    assert {"numpy", "torch", "anywidget"} <= set(modules)
    direct = requirements(PYPROJECT["dependencies"])
    every = direct | requirements(*PYPROJECT["optional-dependencies"].values())
    for module, where in modules.items():
        provided = distributions(module)
        in_tests_alone = all(path.is_relative_to(ROOT / "tests") for path in where)
        allowed = set(every if in_tests_alone else direct)
        assert provided & allowed, f"{module} ({provided or 'not installed'}), imported in {sorted(where)[0]}"


def test_both_distributions_of_lightning_fabric_have_one_version() -> None:
    """One overwrites the other; pyclarity needs pytorch-lightning, which contains the module too."""
    pins = pinned()
    assert pins["lightning-fabric"].specifier == pins["pytorch-lightning"].specifier


def test_dependencies_of_dependencies_are_pinned() -> None:
    assert closure() <= set(pinned())


def test_no_dependency_is_unused() -> None:
    used = set().union(*(distributions(module) for module in imported())) | set(NOT_IMPORTED)
    for name in requirements(PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"].values()):
        assert name in used, f"{name} is asked for in pyproject.toml and imported nowhere"
