"""The environment check and the `cadenza` command around it."""

import importlib.metadata
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from cadenza_lib import __version__
from cadenza_lib.__main__ import main
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.runs import check
from cadenza_lib.runs.check import CheckLine, environment_report


@pytest.fixture(autouse=True)
def no_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CADENZA_CORPUS", raising=False)


def test_every_package_that_the_project_needs_has_a_line_with_its_version() -> None:
    lines = {line.name: line for line in environment_report()}
    for name in ("jupyterlab", "torch", "demucs", "numpy", "matplotlib", "seaborn", "pandas", "pyclarity", "papermill"):
        assert lines[name] == CheckLine(True, name, importlib.metadata.version(name))
    assert "ruff" not in lines  # an extra


def test_this_environment_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    output = capsys.readouterr().out
    assert "FAIL" not in output
    assert output.endswith("Ready.\n")


def test_package_of_another_version_than_pinned_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = ["torch==0.1", "numpy>=2", "no-such-package>=1", "ruff; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: requirements)
    torch, numpy, missing = [
        line for line in environment_report() if line.name in ("torch", "numpy", "no-such-package")
    ]
    assert not torch.ok
    assert torch.detail.endswith("but ==0.1 is needed; run pip install 'torch==0.1'")
    assert numpy.ok
    assert not missing.ok
    assert "No package metadata was found for no-such-package; run pip install -e ." in missing.detail


def test_chain_with_another_score_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check._line("chain", check._chain) == CheckLine(True, "chain", "HAAQI 0.339140")
    monkeypatch.setattr(check, "_HAAQI", 0.5)
    assert check._line("chain", check._chain) == CheckLine(
        False, "chain", "HAAQI is 0.339140 instead of 0.500000; install the versions of constraints.txt"
    )


def test_corpus_is_read_and_tells_its_splits(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "tiny", 0.5)
    assert check._line("data", partial(check._data, root)) == CheckLine(True, "data", f"{root} has the splits train")
    (root / "metadata/gains.json").write_text("{")
    assert not check._line("data", partial(check._data, root)).ok
    assert "gains.json is not valid JSON" in check._line("data", partial(check._data, root)).detail


def test_corpus_of_the_environment_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CADENZA_CORPUS", str(tmp_path / "nowhere"))
    assert main(["check"]) == 1
    assert capsys.readouterr().out.endswith("1 to repair: data.\n")


def test_no_corpus_is_no_failure() -> None:
    assert check._data(None) == "none given; the corpus twin is built in"


def test_check_does_not_import_torchaudio() -> None:
    program = "import sys; from cadenza_lib.runs.check import main; main(); sys.exit('torchaudio' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_usage_error_exits_with_two_and_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["rnu"])
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"cadenza {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.ipynb"], "cadenza: error: Notebook none.ipynb does not exist; check the path.\n"),
        (["run", "x.txt"], "x.txt is neither a notebook (.ipynb) nor a study (.yaml)"),
        (["run", "x.ipynb", "--jobs", "2"], "x.ipynb is one notebook"),
    ],
)
def test_error_is_one_sentence_and_exits_with_one(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


def test_help_loads_no_heavy_library() -> None:
    program = (
        "import sys\nfrom cadenza_lib.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n"
        "    sys.exit(bool({'torch', 'papermill', 'numpy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "main", interrupt)
    assert main(["check"]) == 130
