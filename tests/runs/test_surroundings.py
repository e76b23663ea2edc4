"""What a shell, a user's configuration, a container or a cluster sets, and what is made in spite of it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib import pyplot as plt
from stubs import read, write_notebook

from cadenza_lib import figures
from cadenza_lib.core import processes
from cadenza_lib.runs import kernel, notebooks
from cadenza_lib.runs.kernel import RunError

ROOT = Path(__file__).resolve().parents[2]
PICTURE = """
from pathlib import Path
import pandas as pd
from matplotlib import pyplot as plt
from cadenza_lib import figures
with figures.style():
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([1, 2], [3, 4], label="$x_1$ 5 %")
    axes.legend()
    figures.save(figure, Path(out_dir, "Bild"), pd.DataFrame({"song": ["Für Elise"]}))
    plt.show()
print("Für Elise")
assert Path(out_dir).name == "Für Elise"
"""


def cadenza(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    """Run the command as a person does, with some variables set in the shell."""
    command = [sys.executable, "-m", "cadenza_lib", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(command, env=environment, capture_output=True)


def test_no_setting_of_a_person_changes_a_picture_or_stops_a_run(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "picture.ipynb", 'out_dir: str = "."  # where results go', PICTURE)
    startup = tmp_path / "ipython/profile_default/startup/hello.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("raise SystemExit('this is my start-up file')")
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\nfont.size: 31\nsavefig.dpi: 31\nsavefig.facecolor: red\n"
    )
    mine = {"MPLBACKEND": "nonsense", "MATPLOTLIBRC": str(tmp_path), "TMPDIR": "/proc/nowhere"}
    mine |= {"PYTHONSTARTUP": str(startup), "IPYTHONDIR": str(tmp_path / "ipython"), "PYTHONWARNINGS": "error"}
    mine |= {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    mine |= {"OMP_NUM_THREADS": "nonsense", "NUMBA_NUM_THREADS": "0", "MKL_NUM_THREADS": ""}
    mine |= {f"JUPYTER_{name}_DIR": "/proc/nowhere" for name in ("CONFIG", "DATA", "RUNTIME")}
    out_dir = tmp_path / "Für Elise"
    done = cadenza("run", str(notebook), "-o", str(out_dir), **mine)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode("ascii").endswith("F\\xfcr Elise/manifest.json\n")

    outputs = [output for cell in read(out_dir / "picture.ipynb")["cells"] for output in cell.get("outputs", [])]
    assert [output["text"] for output in outputs if output["output_type"] == "stream"] == [["Für Elise\n"]]
    assert [sorted(output["data"]) for output in outputs if "data" in output] == [["image/png", "text/plain"]]
    assert (out_dir / "Bild.csv").read_text(encoding="utf-8") == "song\nFür Elise\n"
    here = tmp_path / "here/Für Elise"
    here.mkdir(parents=True)
    exec(PICTURE.replace("plt.show()", "plt.close()"), {"out_dir": str(here)})
    assert (out_dir / "Bild.png").read_bytes() == (here / "Bild.png").read_bytes()


def test_settings_of_a_shell_that_cannot_be_used_are_named_by_the_check() -> None:
    program = "from cadenza_lib.runs import check\nfor line in check.unusable_variables(): print(*vars(line).values())"
    variables = {
        "TMPDIR": "/proc/nowhere",
        "MPLBACKEND": "nonsense",
        "OMP_NUM_THREADS": "all",
        "NUMBA_NUM_THREADS": "0",
    }
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment | variables, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "False TMPDIR /proc/nowhere is not a writable directory; correct or unset it False",
        "False OMP_NUM_THREADS 'all' is not a number of threads; correct or unset it False",
        "False NUMBA_NUM_THREADS '0' is not a number of threads; correct or unset it False",
        "False MPLBACKEND 'nonsense' is not a backend of matplotlib; correct or unset it False",
    ]


@pytest.mark.parametrize("saved_in_style", [True, False])
def test_figure_is_the_same_whatever_matplotlibrc_says(saved_in_style: bool, tmp_path: Path) -> None:
    def draw(name: str) -> bytes:
        with figures.style():
            figure, axes = plt.subplots(figsize=(3, 2))
            axes.plot([1, 2], [3, 4], label="$x_1$ 5 %")
            axes.legend()
            if saved_in_style:
                figures.save(figure, tmp_path / name, pd.DataFrame())
        if not saved_in_style:
            figures.save(figure, tmp_path / name, pd.DataFrame())
        plt.close(figure)
        return (tmp_path / f"{name}.png").read_bytes()

    with plt.rc_context({"text.usetex": True, "savefig.dpi": 31, "savefig.facecolor": "red", "lines.linewidth": 9}):
        theirs = draw("theirs")
    assert theirs == draw("ours")


# Kernels


@pytest.fixture
def at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that lets every interpreter that is started do something first."""

    def do(program: str) -> None:
        (tmp_path / "first").mkdir()
        (tmp_path / "first/sitecustomize.py").write_text(program)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "first"))

    return do


def test_kernel_that_dies_while_it_starts_is_noticed_at_once(
    notebook: Path, tmp_path: Path, at_start: Callable[[str], None]
) -> None:
    at_start("import os; os._exit(3)")
    assert kernel._START_TIMEOUT_S == 600  # for which this test would wait
    with pytest.raises(RunError, match=r"point\.ipynb could not be run \(RuntimeError: Kernel died before replying"):
        notebooks.execute(notebook, {}, tmp_path / "out")


def test_kernel_gets_as_long_to_start_as_we_say(
    notebook: Path, tmp_path: Path, at_start: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_start("import time; time.sleep(60)")
    monkeypatch.setattr(kernel, "_START_TIMEOUT_S", 1)
    with pytest.raises(RunError, match=r"point\.ipynb could not be run \(RuntimeError: Kernel didn't respond in 1 sec"):
        notebooks.execute(notebook, {}, tmp_path / "out")


def test_interpreters_that_we_start_take_no_more_threads_than_a_quota_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in processes.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(processes, "core_count", lambda: 3)
    environment = processes.child_environment()
    assert {name: environment[name] for name in processes.THREAD_VARIABLES} == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
        "NUMBA_NUM_THREADS": "1",
    }
