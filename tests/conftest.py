"""Fixtures that several test files share."""

from pathlib import Path

import pytest

_CADENZA_MINI = Path(__file__).resolve().parents[2] / "shared" / "data" / "cadenza_mini"


@pytest.fixture(scope="session")
def cadenza_mini() -> Path:
    """Return a miniature of the challenge's data with real audiograms, or skip: its licence keeps it out of here."""
    if not _CADENZA_MINI.is_dir():
        pytest.skip(f"{_CADENZA_MINI} is not there: real data is not part of the repository")
    return _CADENZA_MINI
