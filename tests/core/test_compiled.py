"""Kernels of an installation that cannot be written, and of another processor."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clarity.utils.audiogram import AUDIOGRAM_MILD
from plain_cpu import PLAIN_CPU

from cadenza_lib.audio.loudness import integrated_loudness
from cadenza_lib.core import compiled
from cadenza_lib.haaqi import compute_haaqi

# Let nothing be written but below the directory TMPDIR: an audit hook, because root may write to any directory.
READ_ONLY = """
import errno, os, sys
writable = os.environ["TMPDIR"]
def refuse(event, arguments):
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in ("os.mkdir", "os.rename"):
        path = arguments[0]
        if isinstance(path, (str, os.PathLike)) and not os.fspath(path).startswith((writable, "/dev/")):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
sys.addaudithook(refuse)
"""

SCORE = """
import json
import numpy as np
from clarity.utils.audiogram import AUDIOGRAM_MILD
from cadenza_lib.haaqi import compute_haaqi, kernels
x = np.random.default_rng(0).standard_normal(12000)
score = compute_haaqi(np.clip(x, -1, 1), x, 24000, 24000, AUDIOGRAM_MILD, 2, 75.0, seed=0)
stats = kernels.neural.stats
print(json.dumps({"score": score, "directory": stats.cache_path, "loaded": sum(stats.cache_hits.values())}))
"""


def run(code: str, **environment: str) -> tuple[Any, str]:
    """Return what a process of its own printed as JSON, and its standard error."""
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def score_here() -> float:
    x = np.random.default_rng(0).standard_normal(12000)
    return compute_haaqi(np.clip(x, -1, 1), x, 24000, 24000, AUDIOGRAM_MILD, 2, 75.0, seed=0)


@pytest.mark.slow
def test_read_only_installation_without_a_home_keeps_its_kernels_in_the_temporary_directory(tmp_path: Path) -> None:
    (first, told), (second, then_told) = (run(READ_ONLY + SCORE, TMPDIR=str(tmp_path)) for _ in range(2))
    assert first["score"] == second["score"] == score_here()
    assert Path(first["directory"]).is_relative_to(tmp_path)
    assert (first["loaded"], second["loaded"]) == (0, 1)
    assert "Compiling HAAQI's kernels into" in told
    assert "Compiling" not in then_told


def test_where_no_directory_is_safe_each_process_compiles_and_the_check_tells(tmp_path: Path) -> None:
    (tmp_path / f"cadenza-kernels-{os.getuid()}").mkdir()
    (tmp_path / f"cadenza-kernels-{os.getuid()}").chmod(0o777)  # where others may put code that we would execute
    code = """
import torch
from cadenza_lib.runs.check import _kernels, _line
from cadenza_lib.haaqi import score
from cadenza_lib.audio.loudness import integrated_loudness
score._announce_compilation()
line = _line("kernels", _kernels)
signal = torch.linspace(-0.5, 0.5, 40000, dtype=torch.float64).expand(2, -1)
print(json.dumps([float(integrated_loudness(signal, 44100)), line.ok, line.required, line.detail]))
"""
    (loudness, *line), told = run(READ_ONLY + "import json" + code, TMPDIR=str(tmp_path))
    signal = torch.linspace(-0.5, 0.5, 40000, dtype=torch.float64).expand(2, -1)
    assert loudness == float(integrated_loudness(signal, 44100))
    assert line[:2] == [False, False]
    assert line[2].endswith("each process compiles them again; set NUMBA_CACHE_DIR to a writable directory")
    assert "ten seconds or so, in each process, because no directory can keep them" in told


def test_kernels_of_one_processor_are_not_those_of_another(tmp_path: Path) -> None:
    code = """
import json
import torch
from cadenza_lib.audio.loudness import _weighted_energy, integrated_loudness
integrated_loudness(torch.ones(2, 40000, dtype=torch.float64), 44100)
print(json.dumps(sum(_weighted_energy.stats.cache_hits.values())))
"""
    first, same, other = (run(code, NUMBA_CACHE_DIR=str(tmp_path), **setting)[0] for setting in ({}, {}, PLAIN_CPU))
    assert (first, same, other) == (0, 1, 0)


def test_kernels_are_compiled_again_when_a_module_beside_them_changes(tmp_path: Path) -> None:
    code = f"""
import json, sys
sys.path.insert(0, {str(tmp_path)!r})
import kernel
print(json.dumps(kernel.scaled(2.0)))
"""
    imports = "from cadenza_lib.core.compiled import compiled\nfrom neighbour import FACTOR\n"
    (tmp_path / "kernel.py").write_text(f"{imports}@compiled\ndef scaled(x):\n    return FACTOR * x\n")
    for factor in (3.0, 5.0, 3.0):
        (tmp_path / "neighbour.py").write_text(f"FACTOR = {factor}\n")
        assert run(code, NUMBA_CACHE_DIR=str(tmp_path / "kept"), PYTHONDONTWRITEBYTECODE="1")[0] == 2 * factor
    assert list(tmp_path.rglob("kernel.scaled-*.nbi")), "nothing was kept"


@pytest.mark.slow
def test_score_is_the_same_on_a_processor_without_wide_vectors() -> None:
    """Largest difference of 47 signals over eleven settings of numpy, OpenBLAS and numba: 3e-13."""
    plain, _ = run(SCORE, **PLAIN_CPU)
    assert plain["score"] == pytest.approx(score_here(), abs=1e-11)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has a temporary directory for each user")
def test_directory_that_others_can_write_to_keeps_no_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = tmp_path / f"cadenza-kernels-{os.getuid()}"
    assert compiled._temporary_directory() == str(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o777)
    assert compiled._temporary_directory() == ""
    directory.rmdir()
    directory.symlink_to(tmp_path)
    assert compiled._temporary_directory() == ""
