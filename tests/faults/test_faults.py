"""The fault campaign in its short form; `make faults` runs the full one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the campaign forks and looks into /proc", allow_module_level=True)

CAMPAIGN = Path(__file__).with_name("campaign.py")
OPERATIONS = (
    "simulation",
    "separation cache",
    "fine-tuning",
    "evaluation",
    "evaluation, changed inputs",
    "sweep",
    "study",
    "report",
)


def test_every_operation_ends_as_if_undisturbed_when_it_is_started_again_after_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "counts.json"  # of a process of its own: it forks, which no process with threads may do
    done = subprocess.run([sys.executable, CAMPAIGN, "--short", "--json", path], capture_output=True, text=True)
    assert path.exists(), done.stderr
    counts: dict[str, dict[str, dict[str, Any]]] = json.loads(path.read_text())
    assert tuple(counts) == OPERATIONS
    for operation, faults in counts.items():
        assert not [loss for fault in faults.values() for loss in fault["losses"]], operation
        injected, recovered = (sum(fault[name] for fault in faults.values()) for name in ("injected", "recovered"))
        assert injected == recovered, operation
        assert injected >= 3, operation  # one may have come too late


def check_a_loss_is_noticed(broken: str, operation: str, tmp_path: Path) -> None:
    """Run the campaign on code that is broken on purpose."""
    script = f"import sys, runpy\nsys.argv = ['campaign', '--short', '--operation', {operation!r}]\n{broken}\n"
    script += f"sys.path.insert(0, {str(CAMPAIGN.parent)!r})\nrunpy.run_path({str(CAMPAIGN)!r}, run_name='__main__')\n"
    path = tmp_path / "broken.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    assert "LOST" in done.stderr


def test_a_file_that_is_not_written_as_a_whole_is_noticed(tmp_path: Path) -> None:
    broken = """
import contextlib, pathlib
from cadenza_lib.core import files
@contextlib.contextmanager
def in_place(path):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path
files.atomic_path = in_place
"""
    check_a_loss_is_noticed(broken, "report", tmp_path)
