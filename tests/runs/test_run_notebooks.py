"""Single runs, of tiny notebooks."""

import hashlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from stubs import count, count_ended, read, write_notebook

from cadenza_lib.__main__ import main
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.core.paths import DATA
from cadenza_lib.runs import notebooks
from cadenza_lib.runs.kernel import RunError
from cadenza_lib.runs.notebooks import execute
from cadenza_lib.runs.parameters import Parameter, notebook_parameters, parse_parameters


def test_manifest_tells_all_that_decides_a_result(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "scores.csv").write_text("score\n1\n")
    monkeypatch.chdir(elsewhere)
    manifest = execute(
        "../notebooks/point.ipynb", {"source": "scores.csv", "share": 1, "label": "é\"\\{x}'"}, "out {y}"
    )
    found = read(manifest)
    out_dir = elsewhere / "out {y}"
    assert manifest == out_dir / "manifest.json"
    assert found["notebook"] == "point.ipynb"
    assert found["parameters"] == {
        "value": 0,
        "share": 1.0,
        "label": "é\"\\{x}'",
        "source": str(elsewhere / "scores.csv"),
        "weights": None,
        "seed": 7,
        "wait": False,
        "wait_for": "",
        "out_dir": str(out_dir),
    }
    assert found["notebook_sha256"] == hashlib.sha256(notebook.read_bytes()).hexdigest()
    assert found["inputs"] == {str(elsewhere / "scores.csv"): hashlib.sha256(b"score\n1\n").hexdigest()}
    assert found["seeds"] == {"seed": 7}
    assert found["versions"]["papermill"] == importlib.metadata.version("papermill")
    assert found["status"] == "finished"
    assert found["started"] <= found["ended"]
    assert found["started"].endswith("+00:00")
    assert 0 < found["duration_s"] < 60
    seen = read(out_dir / "seen.json")
    assert seen["cwd"] == str(notebook.parent)  # as under JupyterLab
    assert seen["label"] == "é\"\\{x}'"
    assert seen["python"] == sys.prefix
    assert Path.cwd() == elsewhere
    assert not caplog.records
    executed = nbformat.read(out_dir / "point.ipynb", as_version=4)
    assert executed.cells[-1].execution_count == 7  # names, parameters, injected parameters, four cells


def test_finished_run_is_not_run_again_until_its_inputs_change(notebook: Path, tmp_path: Path) -> None:
    source, out_dir = tmp_path / "scores.csv", tmp_path / "out"
    source.write_text("1")
    for _ in range(2):
        execute(notebook, {"source": str(source)}, out_dir)
        assert count(out_dir) == 1
    source.write_text("2")
    execute(notebook, {"source": str(source)}, out_dir)
    assert count(out_dir) == 2
    execute(notebook, {"source": str(source), "value": 1}, out_dir)
    assert count(out_dir) == 3
    execute(notebook, {"source": str(source), "value": 1}, out_dir, force=True)
    assert count(out_dir) == 4


def test_failed_cell_leaves_error_and_partial_notebook_but_no_manifest(
    notebook: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    (out_dir / "manifest.json").write_text("{}")  # of an earlier run
    assert main(["run", str(notebook), "-p", "value", "13", "-o", str(out_dir)]) == 1
    expected = f"point.ipynb failed in cell [5] with ValueError: no such luck; see {out_dir / 'point.ipynb'}."
    error = capsys.readouterr().err
    assert f"cadenza: error: {expected}" in error
    assert "Traceback" not in error
    text = (out_dir / "error.txt").read_text()
    assert text.startswith(expected)
    assert 'raise ValueError("no such luck")' in text
    assert "\x1b" not in text
    assert not (out_dir / "manifest.json").exists()
    assert count(out_dir) == 1
    assert "ValueError" in (out_dir / "point.ipynb").read_text()
    execute(notebook, {"value": 1}, out_dir)
    assert not (out_dir / "error.txt").exists()


def test_full_disk_under_a_cell_is_a_sentence_that_tells_what_to_do(tmp_path: Path) -> None:
    cell = "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'table.csv')"
    path = write_notebook(tmp_path / "full.ipynb", 'out_dir: str = "."  # where', cell)
    with pytest.raises(RunError, match=rf"full.ipynb could not write to {tmp_path}/out \(.*No space.*\); make room or"):
        execute(path, {}, tmp_path / "out")


def test_page_of_an_earlier_notebook_does_not_stay_whatever_the_clock_says(notebook: Path, tmp_path: Path) -> None:
    page = tmp_path / "point.html"
    page.write_text("of an earlier run")
    os.utime(page, (2**32, 2**32))
    execute(notebook, {}, tmp_path)
    assert not page.exists()


def test_sentence_of_our_own_error_is_the_message(notebook: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^songs\.json lists no song; add one\.$"):
        execute(notebook, {"value": 14}, tmp_path / "out")


def test_dead_kernel_is_a_failed_run(notebook: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^point\.ipynb stopped because its kernel died"):
        execute(notebook, {"value": 15}, tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
    assert (tmp_path / "out/error.txt").exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"valeu": 1}, r"point\.ipynb has no parameter valeu \(value 1\); it has label, .*, value, wait, "),
        ({"value": "1"}, r"point\.ipynb wants value as int, not '1' \(str\); correct it"),
        ({"value": True}, r"wants value as int, not True \(bool\)"),
        ({"value": 1.0}, r"wants value as int, not 1\.0 \(float\)"),
        ({"share": "0.5"}, r"wants share as float, not '0\.5' \(str\)"),
        ({"share": False}, r"wants share as float, not False"),
        ({"wait": 1}, r"wants wait as bool, not 1 \(int\)"),
        ({"label": None}, r"wants label as str, not None"),
        ({"weights": [1, "2"]}, r"wants weights as list\[float\] \| None, not \[1, '2'\] \(list\)"),
        ({"weights": 1.0}, r"wants weights as list\[float\] \| None, not 1\.0"),
        ({"out_dir": "x"}, r"gets out_dir from its run"),
    ],
)
def test_unknown_and_ill_typed_parameters_are_refused(
    notebook: Path, tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        execute(notebook, parameters, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parameters_cell_gives_types_and_defaults(notebook: Path) -> None:
    declared = notebook_parameters(notebook)
    assert list(declared) == ["value", "share", "label", "source", "weights", "seed", "wait", "wait_for", "out_dir"]
    assert declared["weights"] == Parameter("list[float] | None", None)
    assert declared["label"].default == "a = b"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("n = 1  # n", r"has 'n = 1' in its parameters cell; write it as name: type = default"),
        ("n: int  # n", r"has 'n: int' in its parameters cell"),
        ("import os", r"has 'import os' in its parameters cell"),
        ("n: int = 1.5  # n", r"has 'n: int = 1\.5' .* the default must be a literal of that type"),
        ("n: float = 1 / 3  # n", r"the default must be a literal"),
        ("n: Path = 'x'  # n", r"the type made of int, float"),
        ("n: dict[int, str] = {}  # papermill turns keys into texts", r"dict\[str, \.\.\.\]"),
        ("%matplotlib inline", r"parameters cell that is not Python"),
        ("n: int = 1  # n", r"bad\.ipynb has no parameter out_dir"),
    ],
)
def test_parameters_cell_that_breaks_the_grammar_is_refused(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        execute(write_notebook(tmp_path / "bad.ipynb", source), {}, tmp_path / "out")


def test_notebook_that_is_missing_broken_or_without_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"none\.ipynb does not exist"):
        notebook_parameters(tmp_path / "none.ipynb")
    (tmp_path / "broken.ipynb").write_text("{")
    with pytest.raises(ParameterError, match=r"broken\.ipynb is not a readable notebook"):
        notebook_parameters(tmp_path / "broken.ipynb")
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), tmp_path / "plain.ipynb")
    with pytest.raises(ParameterError, match=r"plain\.ipynb has 0 cells tagged parameters"):
        notebook_parameters(tmp_path / "plain.ipynb")


def test_output_directory_that_cannot_be_written_is_refused(notebook: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match=r"Output directory .*file/out cannot be written"):
        execute(notebook, {}, tmp_path / "file/out")


def test_run_cannot_overwrite_its_notebook(notebook: Path) -> None:
    with pytest.raises(ParameterError, match=r"holds point\.ipynb itself"):
        execute(notebook, {}, notebook.parent)


def test_names_stay_and_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twin").mkdir()
    (tmp_path / "scores.csv").write_text("")
    parameters = """
one: NameOrPath = ""  # a path
some: Union[list[NameOrPath], NameOrPath] = []  # several
named: dict[str, list[NameOrPath]] = {}  # by label
label: str = ""  # a text
labels: list[str] = []  # texts
out_dir: str = "."  # where results go
"""
    notebook = write_notebook(tmp_path / "notebooks/n.ipynb", parameters)
    values = ["twin", "oracle", "./twin", "scores.csv", "hf://model/x", "", "L 1k:20; R 1k=NR", "new/cache", "ü" * 5000]
    paths = [
        "twin",
        "oracle",
        f"{tmp_path}/twin",
        f"{tmp_path}/scores.csv",
        "hf://model/x",
        "",
        "L 1k:20; R 1k=NR",
        f"{tmp_path}/new/cache",
    ]
    paths.append("ü" * 5000)
    given = {"some": values, "named": {"w/o clip": values}, "label": "scores.csv", "labels": ["w/o separation"]}
    run = notebooks.prepare(notebook, given, tmp_path / "out")
    assert run.given == {**given, "some": paths, "named": {"w/o clip": paths}}
    assert list(run.inputs) == [str(DATA / "twin"), f"{tmp_path}/scores.csv"]
    assert [notebooks.prepare(notebook, {"one": text}, "out").given["one"] for text in values] == paths


def test_texts_of_the_command_line_become_values_of_the_annotated_types(notebook: Path) -> None:
    texts = {"value": "3", "share": "6e-4", "label": "007", "weights": "[1, 0.5]", "wait": "true"}
    assert parse_parameters(notebook, texts) == {
        "value": 3,
        "share": 6e-4,
        "label": "007",
        "weights": [1.0, 0.5],
        "wait": True,
    }
    assert parse_parameters(notebook, {"weights": "null"}) == {"weights": None}
    with pytest.raises(ParameterError, match=r"wants value as int, not '3x'"):
        parse_parameters(notebook, {"value": "3x"})


def test_commit_is_told_only_for_a_file_that_git_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a git hook runs the tests
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / "module.py"
    path.write_text("1")
    assert notebooks.git_state(path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init"], ["add", "."], ["commit", "-m", "x", "--no-verify"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    clean = notebooks.git_state(path)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as in a git hook of another repository
    assert notebooks.git_state(path) == clean
    path.write_text("2")
    assert notebooks.git_state(path) == {**clean, "dirty": True}


def test_what_a_notebook_wrote_is_on_the_disk_before_the_manifest_says_so(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = [], os.fsync

    def noted_fsync(file: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    execute(notebook, {}, tmp_path / "out")
    before = synced[: synced.index(".manifest.unfinished.json")]
    assert {"point.ipynb", "seen.json", "table.csv", "report.json", "number.txt"} <= set(before)


EXECUTE = (
    "import sys; from cadenza_lib.runs.notebooks import execute; execute(sys.argv[1], {'wait_for': 'go'}, sys.argv[2])"
)


def wait_until(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} was never written"
        time.sleep(0.01)


def test_run_whose_process_was_killed_is_taken_up_only_when_its_kernel_is_dead(notebook: Path, tmp_path: Path) -> None:
    out_dir = tmp_path / "out"
    first = subprocess.Popen([sys.executable, "-c", EXECUTE, str(notebook), str(out_dir)])
    wait_until(out_dir / "worker.txt")
    assert (out_dir / "worker.txt").read_text() == str(first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    (tmp_path / "go").touch()
    # The kernel's own lock fails where the first kernel is still alive.
    execute(notebook, {"wait_for": "go"}, out_dir)
    assert count(out_dir) == 2


def test_second_process_waits_for_the_first_and_finds_its_run_finished(
    notebook: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out_dir = tmp_path / "out"
    threads = [threading.Thread(target=execute, args=(notebook, {"wait_for": "go"}, out_dir)) for _ in range(2)]
    for thread in threads:
        thread.start()
    while "is in use by another process" not in caplog.text:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join()
    assert count_ended(out_dir) == count(out_dir) == 1


def test_parameters_with_several_types_take_each_of_them() -> None:
    path = Path(__file__).resolve().parents[2] / "notebooks" / "03_evaluate.ipynb"
    for text, value in (("oracle", "oracle"), ("[oracle, mixture]", ["oracle", "mixture"])):
        assert parse_parameters(path, {"system": text}) == {"system": value}
    assert parse_parameters(path, {"model_weights": "[1, 3]"}) == {"model_weights": [1.0, 3.0]}
    with pytest.raises(ParameterError, match="model_weights"):
        parse_parameters(path, {"model_weights": "many"})
