"""What a visitor expects of a repository: a citation file, hooks that equal `make lint`, and a complete package."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from cadenza_lib import __version__

ROOT = Path(__file__).resolve().parents[1]

# The Citation File Format 1.2.0, https://github.com/citation-file-format/citation-file-format: the keys in use here.
CITATION_REQUIRED = {"cff-version", "message", "title", "authors"}
CITATION_KEYS = CITATION_REQUIRED | {"abstract", "keywords", "license", "preferred-citation", "references", "type"}
CITATION_KEYS |= {"version"}
REFERENCE_REQUIRED = {"type", "title", "authors"}
REFERENCE_KEYS = REFERENCE_REQUIRED | {"conference", "doi", "end", "issue", "journal", "start", "volume", "year"}
REFERENCE_TYPES = {"article", "conference-paper"}

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def test_the_citation_file_is_valid() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    references = [citation["preferred-citation"], *citation["references"]]
    assert CITATION_REQUIRED <= set(citation) <= CITATION_KEYS
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["version"] == __version__
    assert re.search(rf'^license = "{citation["license"]}"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for reference in references:
        assert REFERENCE_REQUIRED <= set(reference) <= REFERENCE_KEYS
        assert reference["type"] in REFERENCE_TYPES
        assert isinstance(reference["year"], int)
        assert re.fullmatch(r"10\.\d{4,9}(\.\d+)?/\S+", reference.get("doi", "10.1234/none"))
        assert "name" in reference.get("conference", {"name": ""})
    for author in [author for work in [citation, *references] for author in work["authors"]]:
        assert set(author) in ({"name"}, {"family-names", "given-names"})
        assert all(isinstance(name, str) and name for name in author.values())


def test_the_preferred_citation_is_the_paper_of_the_readme() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    title = citation["preferred-citation"]["title"]
    assert f'- "{title}", {citation["preferred-citation"]["conference"]["name"]}.' in (ROOT / "README.md").read_text()


def test_the_hooks_run_what_make_lint_runs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    recipe = re.search(r"^lint: env\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == re.findall(
        r"^\t(.+)$", recipe[1].replace("$(BIN)", ".venv/bin"), re.MULTILINE
    )
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in repository["hooks"])


def test_the_wheel_contains_every_file_of_the_package(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "cadenza_lib", tmp_path / "cadenza_lib", ignore=shutil.ignore_patterns("__pycache__"))
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(wheels)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if "No module named 'setuptools'" in done.stderr:
        pytest.skip("setuptools is not installed")
    assert done.returncode == 0, done.stderr
    (wheel,) = wheels.glob("*.whl")
    files = {str(path.relative_to(tmp_path)) for path in (tmp_path / "cadenza_lib").rglob("*") if path.is_file()}
    assert "cadenza_lib/py.typed" in files
    with zipfile.ZipFile(wheel) as archive:
        assert files <= set(archive.namelist())
