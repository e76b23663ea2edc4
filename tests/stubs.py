"""Small notebooks, and studies of them, for the tests of runs, studies and their execution."""

import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

# Comments with an equals sign make papermill complain; nobody should hear of it.
POINT_PARAMETERS = """
value: int = 0  # what to write, 13 = fail
share: float = 0.5  # a share, 0 = none
label: str = "a = b"  # any text
source: NameOrPath = ""  # a file to read
weights: list[float] | None = None  # one per model
seed: int = 7  # of the generator
wait: bool = False  # until the other point has started
wait_for: str = ""  # name of a file beside the points, to wait for
out_dir: str = "."  # where results go
"""
POINT_CELLS = (
    """
import fcntl, json, os, random, sys, time
from pathlib import Path
out = Path(out_dir)
alone = (out / "alone").open("w")  # as long as this kernel lives
fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if another kernel is at work in this directory
(out / "worker.txt").write_text(str(os.getppid()))
with (out / "count.txt").open("a") as file:
    file.write("x")
""",
    """
if value == 13:
    raise ValueError("no such luck")
if value == 14:
    from cadenza_lib.core.errors import CorpusError
    raise CorpusError("songs.json lists no song; add one.")
if value == 15:
    os._exit(1)
""",
    """
deadline = time.monotonic() + 60
while wait and len(list(out.parent.glob("*/count.txt"))) < 2:
    assert time.monotonic() < deadline, "the other point never started"
    time.sleep(0.01)
while wait_for and not (out.parent / wait_for).exists():
    assert time.monotonic() < deadline, "nobody wrote the file"
    time.sleep(0.01)
""",
    """
seen = {"value": value, "source": source, "cwd": os.getcwd(), "python": sys.prefix, "label": label,
        "threads": os.environ.get("OMP_NUM_THREADS")}
(out / "seen.json").write_text(json.dumps(seen))
(out / "table.csv").write_text(f"scene,score\\n<b>s{value}</b>,0.123456789012\\n")
item = {"kind": "table", "file": "table.csv", "title": "Scores <1>", "caption": "R & D"}
(out / "report.json").write_text(json.dumps([item]))
(out / "number.txt").write_text(str(random.Random(value).random()))
with (out / "ended.txt").open("a") as file:
    file.write("x")
""",
)
COLLECT_PARAMETERS = """
points: list[NameOrPath] = []  # directories of points
out_dir: str = "."  # where results go
"""
COLLECT_CELL = """
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
values = [json.loads(Path(point, "seen.json").read_text())["value"] for point in points]
Path(out_dir, "sum.txt").write_text(str(sum(values)))
"""


def write_notebook(path: Path, parameters: str, *cells: str) -> Path:
    tagged = new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]})
    path.parent.mkdir(parents=True, exist_ok=True)
    names = new_code_cell("NameOrPath = str")  # not imported from the library, which takes a kernel a second
    nbformat.write(new_notebook(cells=[names, tagged, *map(new_code_cell, cells)]), path)
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def count(directory: Path) -> int:
    """How often a notebook has been started in this directory."""
    return len((directory / "count.txt").read_text())


def count_ended(directory: Path) -> int:
    """How often a notebook has come to its end in this directory."""
    return len((directory / "ended.txt").read_text())


class Inline(Executor):
    """Runs each task when it is submitted: spawning processes takes seconds."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


GOOD = """
title: A <small> study
parameters: {seed: 3}
steps:
  - name: points
    notebook: point.ipynb
    parameters: {wait: true}
    grid: {value: [1, 2]}
  - name: sum
    notebook: collect.ipynb
    parameters: {points: "{points}"}
"""
