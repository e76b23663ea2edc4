"""Weights are read without running what else a file may hold, wherever they come from."""

import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import accepts, changed_bytes
from hypothesis import given
from loaders import write_checkpoint

from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.separation import separators
from cadenza_lib.training import finetuning as module
from cadenza_lib.training.files import Config
from cadenza_lib.training.finetuning import finetune


class _RunsCode:
    """Makes a directory when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def _evil_files(folder: Path, trace: Path) -> list[Path]:
    """Write pickles that run code in every way in which torch has written weights."""
    folder.mkdir()
    evil = {"network": _RunsCode(trace)}
    torch.save(evil, folder / "zip.pt")
    torch.save(evil, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    (folder / "bare.pt").write_bytes(pickle.dumps(evil))
    with zipfile.ZipFile(folder / "outside.pt", "w") as file:
        file.writestr("../../outside/data.pkl", pickle.dumps(evil))
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["network.pt", "network.safetensors", "network.json"])
def test_pickle_in_place_of_weights_or_card_does_not_run(name: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    write_checkpoint(tmp_path)
    for evil in _evil_files(tmp_path / "evil", trace):
        path = tmp_path / name
        path.write_bytes(evil.read_bytes())
        network = path if name.endswith(".pt") else tmp_path / "network.safetensors"
        assert not accepts(lambda network=network: separators.load(str(network), "cpu"), str(tmp_path))
        assert not trace.exists()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """Return a run of one step, which another step can go on from."""
    root = tmp_path_factory.mktemp("run")
    config = Config(
        corpus=str(tiny_corpus(root / "tiny")),
        valid_split="train",
        init=str(write_checkpoint(root)),
        segment_s=0.5,
        batch_size=1,
        max_steps=1,
        n_valid_segments=1,
        device="cpu",
    )
    finetune(config, root / "out", progress=False)
    return replace(config, max_steps=2), root / "out"


@pytest.mark.filterwarnings("ignore")
def test_training_state_that_runs_code_is_refused(started: tuple[Config, Path], tmp_path: Path) -> None:
    config, out_dir = started
    state = out_dir / "training_state.pt"
    sound = state.read_bytes()
    run = module._Run(config, out_dir, progress=False)
    for evil in _evil_files(tmp_path / "evil", tmp_path / "trace"):
        state.write_bytes(evil.read_bytes())
        assert not accepts(run._resume, str(state))
        assert not (tmp_path / "trace").exists()
    state.write_bytes(sound)


@pytest.mark.filterwarnings("ignore")
def test_training_state_that_is_damaged_or_of_something_else_is_refused(
    started: tuple[Config, Path], count_input: Callable[[str, bool], None]
) -> None:
    config, out_dir = started
    state = out_dir / "training_state.pt"
    sound = state.read_bytes()
    content = torch.load(state, weights_only=True)
    run = module._Run(config, out_dir, progress=False)
    changes: list[dict[str, Any]] = [{name: value} for name in content for value in (None, "x", [], {}, -1.5)]
    changes += [{name: {**content[name], "x": 1}} for name in ("network", "averaged")]
    nan = {name: value * float("nan") for name, value in content["network"].items()}
    changes += [{"network": nan}, {"averaged": nan}, {"step": -1}]
    for change in changes:
        torch.save({**content, **change}, state)
        assert not accepts(run._resume, str(state)), change

    @given(changed_bytes(sound))
    def damaged(content: bytes) -> None:
        state.write_bytes(content)
        count_input("training_state.pt", accepts(run._resume, str(state)))

    damaged()
    state.write_bytes(sound)
    assert finetune(config, out_dir, progress=False).steps == 2
