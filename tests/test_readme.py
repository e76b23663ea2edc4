"""The README is true: its files exist, its example runs, and so does every command, in its order.

Commands run in a folder that looks like the repository, with `my_corpus` of a few half seconds in it. They run as they
stand but for what `runnable` does; those in `ELSEWHERE` are run by something else, which is named.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from stubs import POINT_CELLS, POINT_PARAMETERS, write_notebook

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.documents import write_json
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.demo import tiny_corpus
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.scoring.evaluation import Settings, evaluate
from cadenza_lib.separation.separators import load

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

ELSEWHERE = {
    "make demo": (".ci/run", "make demo"),
    "make test": (".ci/run", "make test"),
    "make lab": ("Makefile", "jupyter lab --ip 127.0.0.1"),  # the browser tests work in a JupyterLab of their own
    ".venv/bin/pip install -e '.[cluster]'": ("pyproject.toml", '"cadenza-companion[cluster]"'),  # make env
}
SHORTER = {
    '.venv/bin/papermill notebooks/03_evaluate.ipynb out.ipynb -p system mixture -p out_dir "$PWD/runs/mixture"': (
        " -p n_pairs 1"
    ),
    ".venv/bin/python tests/benchmarks/simulation.py": " --minutes 0.02 --rounds 1",
    ".venv/bin/python tests/benchmarks/haaqi.py": " --seconds 0.5 --repeats 1 --memory",
}
GOES_ON = (".venv/bin/dask scheduler", ".venv/bin/dask worker")  # until the study is done
STUDY = """
title: "Two points"
steps:
  - name: points
    notebook: ../point.ipynb
    grid: {value: [1, 2]}
"""


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [re.sub(r"\s+# .*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the repository's parts, real data, a finished evaluation, and songs to import."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("cadenza_lib", "notebooks", "tests", "data"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    corpus = Corpus(tiny_corpus(folder / "my_corpus", 0.5))
    write_json(corpus.metadata / "scene_listeners.train.json", {scene: ["A"] for scene in corpus.split("train").scenes})
    shutil.copytree(corpus.root, folder / "other_corpus")
    corpus = Corpus(folder / "other_corpus")
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    settings = Settings(str(corpus.root), "train", "mixture")
    evaluation = folder / "runs/my_evaluation"
    evaluate(corpus, load("mixture"), settings, pairs, evaluation, progress=False)
    shutil.copy(evaluation / "scores.csv", folder)
    shutil.copy(corpus.metadata / "listeners.train.json", folder / "listeners.valid.json")
    song = sorted(corpus.root.glob("**/vocals.wav"))[0].parent
    files = [str((song / f"{stem}.wav").relative_to(folder)) for stem in STEMS]
    (folder / "songs.csv").write_text(f"song,{','.join(STEMS)}\nMine,{','.join(files)}\n")
    write_notebook(folder / "small/point.ipynb", POINT_PARAMETERS, *POINT_CELLS)
    (folder / "small/studies").mkdir()
    (folder / "small/studies/small.yaml").write_text(STUDY)
    return folder


def runnable(command: str, folder: Path, port: int) -> str:
    """Return a command of the README with addresses and paths that are there, and less to do."""
    line = command.replace("/path/to", str(folder)).replace("HOST", "127.0.0.1").replace("8786", str(port))
    line = line.replace("--nworkers 16", "--nworkers 1 --no-nanny").replace("n_pairs 10", "n_pairs 4")
    if "--dry-run" not in line:  # make demo runs the demo's study, here it is one of two points
        line = line.replace("notebooks/studies/demo.yaml", "small/studies/small.yaml")
    return line + SHORTER.get(command, "")


def test_every_command_of_the_readme_runs(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands():
            if command in ELSEWHERE:
                file, text = ELSEWHERE[command]
                assert text in (ROOT / file).read_text(encoding="utf-8")
                continue
            line = runnable(command, folder, port)
            if command.startswith(GOES_ON):
                line = f"exec {line} --host 127.0.0.1"
                started.append(subprocess.Popen(line, shell=True, cwd=folder, env=environment))
                continue
            done = subprocess.run(
                line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            # The kernel of plain papermill, which we do not start, may log this while it closes its sockets at the end.
            tracebacks = done.stderr.split("Traceback")[1:]
            assert all("Socket operation on non-socket" in text for text in tracebacks), f"{line}\n{done.stderr}"
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()
    assert len(started) == len(GOES_ON)


def test_the_python_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    left, right = map(float, re.findall(r"^\((\S+), (\S+)\) ", capsys.readouterr().out)[0])
    assert 0 < right < left < 1  # the listener of the example hears worse on the right


def test_every_file_the_readme_names_exists() -> None:
    named = set(re.findall(r"(?:notebooks|data|tests)/[\w/.-]+\.\w+", README))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
