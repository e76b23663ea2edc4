"""The environment check and the `cadenza` command around it."""

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cadenza_lib import __version__
from cadenza_lib.__main__ import main
from cadenza_lib.runs import check
from cadenza_lib.runs.check import CheckLine, environment_report


def line(name: str, corpus: Path | None = None) -> CheckLine:
    return next(line for line in environment_report(corpus) if line.name == name)


@pytest.fixture(autouse=True)
def demo_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the report independent of what lies in data/, and of the user's corpus."""
    monkeypatch.delenv("CADENZA_CORPUS", raising=False)
    monkeypatch.setattr(check, "_ROOT", tmp_path)
    path = tmp_path / "data/demo_hdemucs.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"0" * 1000)
    return path


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


def test_missing_demo_checkpoint_fails_the_check(demo_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo_checkpoint.unlink()
    assert main(["check"]) == 1
    output = capsys.readouterr().out
    assert f"{demo_checkpoint} is missing; run git checkout" in output
    assert output.endswith("1 to repair: demo model.\n")


def test_package_of_another_version_than_pinned_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = ["torch==0.1", "numpy>=2", "no-such-package>=1", "ruff; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: requirements)
    torch, numpy, missing = check._check_packages()
    assert not torch.ok
    assert torch.detail.endswith("but ==0.1 is needed; run pip install 'torch==0.1'")
    assert numpy.ok
    assert missing == CheckLine(False, "no-such-package", "not installed; run pip install 'no-such-package>=1'")


def test_corpus_tells_which_splits_it_has(tmp_path: Path) -> None:
    for name in ("scenes.train.json", "scenes.valid.json", "gains.json"):
        (tmp_path / "metadata").mkdir(exist_ok=True)
        (tmp_path / "metadata" / name).write_text("{}")
    assert line("data", tmp_path) == CheckLine(True, "data", f"{tmp_path} has the metadata of train, valid")


def test_corpus_without_metadata_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CADENZA_CORPUS", str(tmp_path))
    assert not line("data").ok
    assert line("data").required
    assert "has no metadata/scenes" in line("data").detail


def test_no_corpus_is_no_failure() -> None:
    assert line("data") == CheckLine(True, "data", "none given; the demo corpus is built in", required=False)


def test_full_disk_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9))
    assert not line("disk").ok
    assert line("disk").detail.startswith("1.0 GB free in")


def test_torchaudio_is_never_required_nor_imported() -> None:
    program = "import sys; from cadenza_lib.runs.check import main; main(); sys.exit('torchaudio' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert not line("torchaudio").required
    assert "not needed" in line("torchaudio").detail


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
