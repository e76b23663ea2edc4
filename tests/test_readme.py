"""The documents are true: their files and modules exist, the example runs, and so does every command, in its order.

Commands run in a folder that looks like the repository and contains `my_corpus`, a corpus of half seconds. They run as
printed, except for the replacements in `runnable`. Commands in `ELSEWHERE` are run by something else, which is named.
"""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from stubs import POINT_CELLS, POINT_PARAMETERS, write_notebook
from test_imports import ROOMS

from cadenza_lib.core.conventions import STEMS
from cadenza_lib.core.documents import write_json
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.scoring.evaluation import Settings, evaluate
from cadenza_lib.separation.separators import load

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "data/README.md", "notebooks/README.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}

TRAIN = ".venv/bin/python data/train_demo.py --architecture"
ELSEWHERE = {
    "make demo": (".ci/run", "make demo"),
    "make test": (".ci/run", "make test"),
    "make lint": (".ci/run", "make lint"),
    "make test-plain-cpu": (".ci/run", "make test-plain-cpu"),
    "make test-lowest": (".ci/run", "make test-lowest"),
    "make faults": ("Makefile", "tests/faults/campaign.py"),  # tests/faults runs a short form of the campaign
    "make env": ("Makefile", "demo: env"),
    "make lab": ("Makefile", "jupyter lab --ip 127.0.0.1"),  # the browser tests work in a JupyterLab of their own
    ".venv/bin/pip install -e '.[cluster]'": ("pyproject.toml", '"cadenza-companion[cluster,'),  # make env
    # The cards of the networks record that these commands trained them.
    f"{TRAIN} hdemucs --steps 2000 --out demo_hdemucs_stage1.safetensors": (
        "data/demo_hdemucs.json",
        "--architecture hdemucs --steps 2000 --songs 64",
    ),
    f"{TRAIN} hdemucs_masked --init demo_hdemucs_stage1.safetensors --remix-weight 0.02 --learning-rate 7e-4"
    " --ema-decay 0.98 --steps 250 --songs 32 --seed 1 --out data/demo_hdemucs.safetensors": (
        "data/demo_hdemucs.json",
        "--architecture hdemucs_masked --steps 250 --songs 32",
    ),
    f"{TRAIN} hdemucs_consistent --init demo_hdemucs_stage1.safetensors --steps 3000 --decay 800 --songs 128"
    " --gain-range-db 8 --ema-decay 0.995 --bf16 --out data/twin_hdemucs.safetensors": (
        "data/twin_hdemucs.json",
        "--architecture hdemucs_consistent --steps 3000 --decay 800 --songs 128",
    ),
    ".venv/bin/cadenza run notebooks/studies/twin_training.yaml -o runs/twin_training --jobs 2": (
        "data/twin_stems.json",
        "notebooks/studies/twin_training.yaml, point stems",
    ),
    ".venv/bin/python data/ship.py runs/twin_training": (
        "data/twin_joint.json",
        "notebooks/studies/twin_training.yaml, point joint",
    ),
}
SHORTER = {
    '.venv/bin/papermill notebooks/03_evaluate.ipynb out.ipynb -p system mixture -p out_dir "$PWD/runs/mixture"': (
        " -p n_pairs 1"
    ),
    ".venv/bin/cadenza run notebooks/06_report.ipynb -p explain_corpus ./my_corpus -p explain_splits"
    ' "[valid, test]" -p explain_system hdemucs_high_musdb -p n_explain_pairs 200': (
        ' -p explain_splits "[train, train8]" -p explain_system mixture -p n_explain_pairs 1'
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


def commands(document: str) -> list[str]:
    """Return the commands of a document in their order, without comments, each on one line."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXTS[document], flags=re.DOTALL)
    blocks = [re.sub(r"\s*\\\n\s*", " ", block) for block in blocks]
    lines = [re.sub(r"\s+# .*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the repository's parts, real data, an archive of it, scores, and songs to import."""
    for name in ("cadenza_lib", "notebooks", "tests", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    corpus = Corpus(tiny_corpus(tmp_path / "my_corpus", 0.5))
    write_json(corpus.metadata / "scene_listeners.train.json", {scene: ["A"] for scene in corpus.split("train").scenes})
    with tarfile.open(tmp_path / "cad_icassp_2024_core.v1.1.tgz", "w:gz") as archive:
        archive.add(corpus.metadata / "gains.json", "metadata/gains.json")
    shutil.copytree(corpus.root, tmp_path / "other_corpus")
    corpus = Corpus(tmp_path / "other_corpus")
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    settings = Settings(str(corpus.root), "train", "mixture")
    evaluate(corpus, load("mixture"), settings, pairs, tmp_path / "runs/my_evaluation", progress=False)
    shutil.copy(tmp_path / "runs/my_evaluation/scores.csv", tmp_path)
    shutil.copy(corpus.metadata / "listeners.train.json", tmp_path / "listeners.valid.json")
    song = sorted(corpus.root.glob("**/vocals.wav"))[0].parent
    files = [str((song / f"{stem}.wav").relative_to(tmp_path)) for stem in STEMS]
    (tmp_path / "songs.csv").write_text(f"song,{','.join(STEMS)}\nMine,{','.join(files)}\n")
    shutil.copy(song / "mixture.wav", tmp_path / "my_song.wav")
    write_notebook(tmp_path / "small/point.ipynb", POINT_PARAMETERS, *POINT_CELLS)
    (tmp_path / "small/studies").mkdir()
    (tmp_path / "small/studies/small.yaml").write_text(STUDY)
    return tmp_path


def runnable(command: str, folder: Path, port: int) -> str:
    """Return a command of a document with existing addresses and paths, and less to do."""
    line = command.replace("/path/to", str(folder)).replace("HOST", "127.0.0.1").replace("8786", str(port))
    line = line.replace("--nworkers 16", "--nworkers 1 --no-nanny").replace("n_pairs 10", "n_pairs 4")
    if "--dry-run" not in line:  # make demo runs the demo's study, here it is one of two points
        line = line.replace("notebooks/studies/demo.yaml", "small/studies/small.yaml")
    return line + SHORTER.get(command, "")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_runs(document: str, folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands(document):
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


def test_no_exception_for_a_command_is_stale() -> None:
    printed = [command for document in DOCUMENTS for command in commands(document)]
    assert {*ELSEWHERE, *SHORTER} <= set(printed)
    assert all(any(command.startswith(start) for command in printed) for start in GOES_ON)


def test_the_python_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXTS["README.md"], flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    left, right = map(float, re.findall(r"^\((\S+), (\S+)\) ", capsys.readouterr().out)[0])
    assert 0 < right < left < 1  # the listener of the example hears worse on the right


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_is_named_exists(document: str) -> None:
    named = set(re.findall(r"(?<![\w./])(?:cadenza_lib|notebooks|data|tests)/[\w/.-]+\.\w+", TEXTS[document]))
    assert named
    assert not [name for name in named if not any((root / name).exists() for root in (ROOT, ROOT / "cadenza_lib"))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_module_that_is_named_exists(document: str) -> None:
    named = set(re.findall(r"`(cadenza_lib(?:\.\w+)*)`", TEXTS[document]))
    assert not [name for name in named if importlib.util.find_spec(name) is None]


def test_the_readme_lists_the_rooms_in_their_order() -> None:
    rooms = re.findall(r"^\| `(\w+)` \|", TEXTS["README.md"], flags=re.MULTILINE)
    assert rooms == list(ROOMS)


def test_every_notebook_and_study_is_listed() -> None:
    for path in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/studies/*.yaml")]:
        name = path.stem if path.suffix == ".ipynb" else path.name
        assert f"`{name}`" in TEXTS["notebooks/README.md"], name
