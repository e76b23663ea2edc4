"""JupyterLab, as `make lab` starts it, answers this machine alone, and only those who have its token."""

import os
import re
import shlex
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120  # a hang guard: it starts within seconds


def test_make_lab_listens_on_loopback_and_asks_for_its_token(tmp_path: Path) -> None:
    lines = subprocess.run(
        ["make", "--no-print-directory", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    _, *arguments = shlex.split(lines.splitlines()[-1])
    assert arguments[0] == "lab"
    command = [sys.executable, "-m", "jupyter", *arguments, "--no-browser", "--port", "0"]
    command += ["--allow-root"] if os.geteuid() == 0 else []
    environment = os.environ | {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "RUNTIME", "DATA")}
    log = tmp_path / "lab.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=ROOT)
    try:
        pages = sorted((tmp_path / "RUNTIME").glob("jpserver-*-open.html"))
        for _ in range(10 * PATIENCE_S):
            if pages or server.poll() is not None:
                break
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(0.1)
            pages = sorted((tmp_path / "RUNTIME").glob("jpserver-*-open.html"))
        found = re.search(r"http://(\S+?):(\d+)/\S*\?token=(\w{32,})", log.read_text())
        assert found, log.read_text()
        host, port, token = found[1], int(found[2]), found[3]
        assert host in ("127.0.0.1", "localhost")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents", timeout=PATIENCE_S)
        answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/api/contents?token={token}", timeout=PATIENCE_S)
        assert answer.status == 200
        with socket.socket() as other, pytest.raises(OSError, match="refused"):
            other.connect(("127.0.0.2", port))  # it would answer there if it listened on every address
    finally:
        server.terminate()
        server.wait(PATIENCE_S)
