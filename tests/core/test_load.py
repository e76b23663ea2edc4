"""What very many pairs cost in memory; the whole is in `tests/benchmarks/load.py`."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "load.py"


def test_memory_does_not_grow_with_the_number_of_pairs() -> None:
    command = [sys.executable, str(SCRIPT), "--pairs", "40", "400", "--points", "--minutes"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    peak_mb = {int(n): float(peak) for n, peak in re.findall(r"^\| pairs (\d+) .* (\d+) \|$", table, re.MULTILINE)}
    # A pair held in memory would be its song or its output: 0.35 and 0.13 MB here.
    assert peak_mb[400] - peak_mb[40] < 25
