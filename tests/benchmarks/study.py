"""How the wall time of a study falls with jobs, and what a papermill run costs beyond its code.

    python tests/benchmarks/study.py                   # a study of 4 points, with 1 and 2 jobs
    python tests/benchmarks/study.py --points 8 --jobs 4 --work-s 20

A point scores a short song again and again, with one thread, for `--work-s` seconds of CPU; the same points run with 1
job and with several, and the rounds take turns. The page, which is written at the end of a study, is part of its time.
The overhead of a run is that of a notebook whose code does nothing, through `runs.execute`; beside it stands one
which imports what every notebook does.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from cadenza_lib.runs.execution import run_study
from cadenza_lib.runs.notebooks import execute
from cadenza_lib.runs.study import load_study

PARAMETERS = 'point: int = 0  # which\nrepeats: int = 0  # how much work\nout_dir: str = "."  # where results go'
IMPORTS = """
import torch
from cadenza_lib.scoring import evaluation
from cadenza_lib.data.tiny import tiny_listener, tiny_song
"""
WORK = """
song, listener = tiny_song(2.0), tiny_listener()
for _ in range(repeats):
    output = enhance(song, [song.stems], torch.zeros(4), listener)
    score(output, reference_remix(song, torch.zeros(4)), listener, "benchmark")
"""


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work-s", type=float, default=10.0, help="seconds of work in a point")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs(arguments, Path(folder))
        overhead(arguments, Path(folder))


def jobs(arguments: argparse.Namespace, root: Path) -> None:
    """Print the wall time of a study with 1 and with several jobs."""
    repeats = max(1, round(arguments.work_s / seconds_of_a_repeat()))
    write_notebook(root / "work.ipynb", IMPORTS, WORK)
    path = root / "studies/work.yaml"
    path.parent.mkdir()
    points = list(range(arguments.points))
    path.write_text(
        f"steps: [{{name: work, notebook: work.ipynb, parameters: {{repeats: {repeats}}}, grid: {{point: {points}}}}}]"
    )
    study = load_study(path)
    times: dict[int, list[float]] = {1: [], arguments.jobs: []}
    for turn in range(arguments.rounds):
        for number, found in times.items():
            found.append(timed(lambda n=number, t=turn: run_study(study, root / f"{n}-{t}", jobs=n)))
    alone = statistics.median(times[1])
    print(f"{arguments.points} points of {repeats} pairs each, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| jobs | wall time in s | against 1 job |\n|---:|---:|---:|")
    for number, found in times.items():
        print(f"| {number} | {statistics.median(found):.1f} | {alone / statistics.median(found):.2f} |")


def overhead(arguments: argparse.Namespace, root: Path) -> None:
    """Print what a run costs whose code does nothing, or only imports what every notebook imports."""
    nothing = write_notebook(root / "nothing.ipynb", "pass")
    imports = write_notebook(root / "imports.ipynb", IMPORTS)
    times: dict[str, list[float]] = {"a run of nothing": [], "a run of imports": [], "finished, found so": []}
    execute(nothing, {}, root / "warm")  # loads papermill
    for turn in range(arguments.rounds):
        times["a run of nothing"].append(timed(lambda t=turn: execute(nothing, {}, root / f"nothing-{t}")))
        times["a run of imports"].append(timed(lambda t=turn: execute(imports, {}, root / f"imports-{t}")))
        times["finished, found so"].append(timed(lambda t=turn: execute(nothing, {}, root / f"nothing-{t}")))
    print("\n| overhead | wall time in s |\n|---|---:|")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found):.3f} |")


def seconds_of_a_repeat() -> float:
    """Return the CPU time of one pair."""
    code = compile(IMPORTS + WORK, "work", "exec")
    exec(code, {"repeats": 1})  # loads the kernels
    started = time.process_time()
    exec(code, {"repeats": 1})
    return time.process_time() - started


def write_notebook(path: Path, *cells: str) -> Path:
    """Write a notebook with the parameters of this benchmark."""
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[parameters, *map(new_code_cell, cells)]), path)
    return path


def timed(run: Callable[[], object]) -> float:
    """Return elapsed seconds."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
