"""Fixtures that several test files share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from stubs import COLLECT_CELL, COLLECT_PARAMETERS, POINT_CELLS, POINT_PARAMETERS, write_notebook

_CADENZA_MINI = Path(__file__).resolve().parents[2] / "shared" / "data" / "cadenza_mini"


@pytest.fixture(scope="session")
def cadenza_mini() -> Path:
    """Return a miniature of the challenge's data with real audiograms, or skip: its licence keeps it out of here."""
    if not _CADENZA_MINI.is_dir():
        pytest.skip(f"{_CADENZA_MINI} is not there: real data is not part of the repository")
    return _CADENZA_MINI


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    write_notebook(tmp_path / "notebooks/collect.ipynb", COLLECT_PARAMETERS, COLLECT_CELL)
    return write_notebook(tmp_path / "notebooks/point.ipynb", POINT_PARAMETERS, *POINT_CELLS)


@pytest.fixture
def write_study(notebook: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = notebook.parent / "studies/small.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write
