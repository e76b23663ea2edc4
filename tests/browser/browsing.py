"""A JupyterLab of its own for a test, on the loopback, behind a token, with settings of its own; and pages on it."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 180  # a machine that is busy with other tests must not fail these

EXPLORER = ".cadenza-explorer"
KERNEL_IDLE = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
SCROLL = f"""() => {{
  const notebook = window.jupyterapp.shell.currentWidget.content;
  return notebook.scrollToItem(notebook.widgets.findIndex((cell) => cell.node.querySelector("{EXPLORER}")));
}}"""
READY = "document.querySelector('.cadenza-status')?.textContent === 'Ready.'"


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab."""

    url: str
    token: str
    folder: Path  # its notebooks

    def address(self, notebook: str) -> str:
        return f"{self.url}/lab/tree/{notebook}?token={self.token}"


@dataclass
class Watched:
    """A page of playwright, and all that went wrong on it or left this machine."""

    page: Any
    complaints: list[str] = field(default_factory=list)


def write_tour(folder: Path, **parameters: Any) -> None:
    """Write the interactive tour with other parameters, and results beside it."""
    notebook = load_notebook_node(str(ROOT / "notebooks" / "00_tour.ipynb"))
    parameters |= {"interactive": True, "out_dir": str(folder / "out")}
    nbformat.write(parameterize_notebook(notebook, parameters), folder / "00_tour.ipynb")


def open_tour(page: Any, lab: Lab) -> None:
    """Open the tour in JupyterLab, run all its cells, and go to its knobs."""
    page.goto(lab.address("00_tour.ipynb"))
    page.wait_for_function(KERNEL_IDLE)
    page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_selector(EXPLORER, state="attached")
    page.wait_for_function(READY)
    page.evaluate(SCROLL)  # JupyterLab 4.2 hides the cells that are far from the window
    page.wait_for_selector(EXPLORER)
    page.evaluate(f"document.querySelector('{EXPLORER}').scrollIntoView()")


@contextmanager
def jupyterlab(folder: Path, theme: str = "JupyterLab Light") -> Iterator[Lab]:
    """Run JupyterLab on the notebooks in a folder."""
    token, home = secrets.token_hex(16), folder / ".jupyter"
    settings = {
        "notification": {"fetchNews": "false", "checkForUpdates": False},  # no network
        "themes": {"theme": theme},
    }
    for name, content in settings.items():
        path = home / "settings" / "@jupyterlab" / "apputils-extension" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}", "--ServerApp.port_retries=0"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    command += ["--allow-root"] if os.geteuid() == 0 else []
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, folder / "lab.log")
        yield Lab(f"http://127.0.0.1:{port}", token, folder)
    finally:
        server.terminate()  # it stops its kernels
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
        except OSError:
            time.sleep(0.3)
        else:
            return
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
