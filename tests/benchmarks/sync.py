"""What it costs that finished files survive a power cut: how often and how long a process waits for the disk.

    python tests/benchmarks/sync.py [FOLDER]      # on the disk of FOLDER, by default that of the current directory

`200 small files`: settings of a few bytes; `one of 100 MB`: as a training state; `03_evaluate`: the notebook on two
pairs of the twin with its network, and what its kernel waits for.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cadenza_lib.core import files
from cadenza_lib.core.documents import write_json
from cadenza_lib.runs import notebooks

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "03_evaluate.ipynb"
TIMED = """
import os, time
_fsync = os.fsync
def timed(file):
    started = time.perf_counter()
    _fsync(file)
    elapsed_s = time.perf_counter() - started
    with open({!r}, "a") as log:
        log.write(f"{{elapsed_s}}\\n")
os.fsync = timed
"""


def small(folder: Path) -> None:
    for number in range(200):
        write_json(folder / f"{number}.json", {"number": number})


def large(folder: Path) -> None:
    with files.atomic_path(folder / "large.bin") as path:
        path.write_bytes(os.urandom(100_000_000))


def evaluate(folder: Path) -> None:
    notebooks.execute(NOTEBOOK, {"n_pairs": 2}, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=".", type=Path)
    arguments = parser.parse_args()
    works: dict[str, Callable[[Path], None]] = {
        "200 small files": small,
        "one of 100 MB": large,
        "03_evaluate": evaluate,
    }
    with tempfile.TemporaryDirectory(dir=arguments.folder) as directory:
        root = Path(directory).resolve()
        log = root / "log"
        (root / "sitecustomize.py").write_text(TIMED.format(str(log)))
        os.environ["PYTHONPATH"] = str(root)  # of kernels
        exec(TIMED.format(str(log)), {})
        print("| what | elapsed, s | waits | waiting for the disk, s | share |\n|---|---:|---:|---:|---:|")
        for name, work in works.items():
            log.write_text("")
            started = time.perf_counter()
            work(root / name)
            elapsed_s = time.perf_counter() - started
            waits_s = [float(line) for line in log.read_text().splitlines()]
            share = sum(waits_s) / elapsed_s
            print(f"| {name} | {elapsed_s:.2f} | {len(waits_s)} | {sum(waits_s):.3f} | {share:.1%} |", flush=True)


if __name__ == "__main__":
    main()
