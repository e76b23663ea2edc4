"""Every long operation on the smallest inputs that go through all of it.

HAAQI is replaced by the level of what is heard, since what it computes is not the point; all that writes is real.
"""

import importlib
import json
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from stubs import COLLECT_CELL, COLLECT_PARAMETERS, POINT_PARAMETERS, Inline, write_notebook

from cadenza_lib import figures
from cadenza_lib.core import processes
from cadenza_lib.core.conventions import STEMS
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.data.simulation import simulate
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.haaqi import Components
from cadenza_lib.runs import page
from cadenza_lib.runs.execution import run_study
from cadenza_lib.runs.kernel import RunError
from cadenza_lib.runs.study import load_study
from cadenza_lib.scoring import evaluation, optimiser, sweep
from cadenza_lib.scoring.levels import evaluate_levels
from cadenza_lib.scoring.pairs import PairReference, PairScore
from cadenza_lib.separation import checkpoints, estimates, separators
from cadenza_lib.separation.openunmix import OpenUnmix
from cadenza_lib.training.files import Config
from cadenza_lib.training.finetuning import finetune

Contents = dict[str, Any]

_LOCKS = {".lock", ".scores.lock", ".simulation.lock", ".training.lock"}
_LATE = (
    "IPython",
    "lightning_fabric",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "nbconvert.exporters",
    "numba",
    "optuna.storages",
    "papermill",
    "PIL.PngImagePlugin",
)
_CIRCUMSTANCES = {"started", "ended", "duration_s", "waited_share", "git", "inputs", "identity"}
"""What may differ; inputs are hashes of manifests, which have times, and an identity follows from them."""


@dataclass(frozen=True)
class Operation:
    """What is run on a directory, and what of the result may differ from run to run."""

    name: str
    run: Callable[[Path, Path], None]  # on the inputs and a directory
    prepare: Callable[[Path, Path], Any] = lambda _inputs, _folder: None
    only_there: tuple[str, ...] = ()  # files whose content tells times, hosts or versions
    has_workers: bool = False
    in_short: bool = True  # whether the short campaign has it

    def contents(self, folder: Path) -> Contents:
        """Return what a run left: what its files say, whatever the order of rows and the time that it took."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _LOCKS]
        return {str(path.relative_to(folder)): self._content(path, folder) for path in files}

    def _content(self, path: Path, folder: Path) -> Any:
        if any(fnmatch(path.name, pattern) for pattern in self.only_there):
            return "there"
        if path.suffix == ".csv":
            return sorted(path.read_text().splitlines())
        if path.suffix == ".jsonl":
            return [_timeless(json.loads(line), folder) for line in path.read_text().splitlines()]
        if path.suffix == ".json":
            return _timeless(json.loads(path.read_text()), folder)
        if path.suffix == ".pt":
            return {name: _plain(value) for name, value in torch.load(path, weights_only=True).items()}
        content = path.read_bytes()
        if path.suffix == ".safetensors":  # the order of its header is that of a hash
            start = 8 + int.from_bytes(content[:8], "little")
            return json.loads(content[8:start]), content[start:]
        return content


def _timeless(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(item, folder) for name, item in value.items() if name not in _CIRCUMSTANCES}
    if isinstance(value, list):
        return [_timeless(item, folder) for item in value]
    return value.replace(str(folder), "FOLDER") if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else str(value)


# The operations


def make_inputs(root: Path) -> None:
    """Write what all operations read: a corpus, a network and notebooks."""
    tiny_corpus(root / "corpus", duration_s=0.6)
    _write_network(root / "network.safetensors", seed=0)
    point = 'import json, pathlib\npathlib.Path(out_dir, "seen.json").write_text(json.dumps({"value": value}))'
    point += '\npathlib.Path(out_dir, "table.csv").write_text(f"value\\n{value}\\n")'
    write_notebook(root / "point.ipynb", POINT_PARAMETERS, point)
    write_notebook(root / "collect.ipynb", COLLECT_PARAMETERS, COLLECT_CELL)
    (root / "study.yaml").write_text("""
title: Two points and their sum
steps:
  - {name: points, notebook: point.ipynb, grid: {value: [1, 2]}}
  - {name: sum, notebook: collect.ipynb, parameters: {points: "{points}"}}
""")
    _make_changed_inputs(root)


def _make_changed_inputs(root: Path) -> None:
    """Write inputs to `changed`, and to `kept` what was computed before they became what they are."""
    changed, kept = root / "changed", root / "kept"
    shutil.copytree(root / "corpus", changed / "corpus")
    shutil.copy(root / "network.safetensors", changed / "network.safetensors")
    shutil.copy(root / "network.json", changed / "network.json")
    _evaluate_network(changed, kept / "evaluation")
    _grid(changed, kept / "sweep")
    _levels(changed, kept / "levels")
    _write_network(changed / "network.safetensors", seed=1)
    _change_corpus(changed / "corpus")
    shutil.copytree(root / "corpus", kept / "simulation")
    _simulate(root, kept / "simulation")
    _change_corpus(kept / "simulation")


def _write_network(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    arguments: dict[str, Any] = {"sources": list(STEMS), "hidden_size": 4, "n_fft": 512, "hop_length": 128}
    card = {"architecture": "openunmix", "arguments": arguments}
    checkpoints.save_checkpoint(OpenUnmix(**arguments), path, card, torch.float32)


def _change_corpus(corpus: Path) -> None:
    """Correct a threshold, and replace a stem by another take."""
    path = corpus / "metadata/listeners.train.json"
    listeners = json.loads(path.read_text())
    listeners["A"]["audiogram_levels_l"][4] += 10
    path.write_text(json.dumps(listeners))
    song = corpus / "audio/music/train/Tiny 1"
    shutil.copy(song / "drums.wav", song / "vocals.wav")


def prepare_process() -> None:
    """Import what is imported when it is needed, replace HAAQI by the level, and let workers be forked."""
    for name in _LATE:
        importlib.import_module(name)

    def level(_: PairReference, output: Any) -> PairScore:
        left, right = (Components(float(np.tanh(np.std(signal))), *[0.5] * 6) for signal in output.signal)
        return PairScore((left, right), tuple(map(float, output.clipped_share)), (-20.0, -20.0))

    PairReference.score = level
    PairReference._ear = lambda *_: None
    fork = multiprocessing.get_context("fork")
    processes.multiprocessing = SimpleNamespace(
        get_context=lambda _: fork, parent_process=multiprocessing.parent_process
    )


def _copy_corpus(inputs: Path, folder: Path) -> None:
    shutil.copytree(inputs / "corpus", folder, dirs_exist_ok=True)


def _simulate(_: Path, folder: Path) -> None:
    simulate(Corpus(folder), "train", jobs=2, progress=False)


def _cache(inputs: Path, folder: Path) -> None:
    corpus = Corpus(inputs / "corpus")
    split = corpus.split("train")
    separator = estimates.cached_separator(str(inputs / "network.safetensors"), folder, "cpu")
    for scene in split.scenes.values():
        separator(corpus.at_ear_song(split, scene))


def _finetune(inputs: Path, folder: Path) -> None:
    config = Config(
        corpus=str(inputs / "corpus"),
        valid_split="train",
        init=str(inputs / "network.safetensors"),
        segment_s=0.5,
        batch_size=1,
        learning_rate=1e-2,
        max_steps=5,
        valid_every=2,
        checkpoint_every=2,
        n_valid_segments=1,
        n_valid_pairs=1,
        device="cpu",
    )
    finetune(config, folder, progress=False)


def _evaluate(inputs: Path, folder: Path, jobs: int = 1) -> None:
    corpus = Corpus(inputs / "corpus")
    settings = evaluation.Settings(corpus.name, "train", "mixture")
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    evaluation.evaluate(corpus, separators.load("mixture"), settings, pairs, folder, progress=False, jobs=jobs)


def _evaluate_network(inputs: Path, folder: Path) -> None:
    corpus, name = Corpus(inputs / "corpus"), str(inputs / "network.safetensors")
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    settings = evaluation.Settings(corpus.name, "train", name)
    evaluation.evaluate(corpus, separators.load(name, "cpu"), settings, pairs, folder, progress=False)


def _grid(inputs: Path, folder: Path) -> None:
    searched, _ = sweep.search_and_test(Corpus(inputs / "corpus"), "train", "train", 0, 0)
    scorer = sweep.Sweep(str(inputs / "corpus"), ["oracle", "mixture"], folder, device="cpu", progress=False)
    scorer.scores(sweep.grid(sweep.simplex_grid(2, 2), [0.15]), searched).to_csv(folder / "grid.csv", index=False)


def _levels(inputs: Path, folder: Path) -> None:
    corpus = Corpus(inputs / "corpus")
    pairs = choose_pairs(corpus.split("train").scene_listeners)
    evaluate_levels(corpus, "train", ["oracle", "mixture"], pairs, folder, (0.0, -6.0), "cpu", progress=False)


def _changed(compute: Callable[[Path, Path], None], name: str, in_short: bool = False) -> Operation:
    """Return an operation that finds in its directory what was computed before its inputs changed."""
    return Operation(
        f"{name}, changed inputs",
        lambda inputs, folder: compute(inputs / "changed", folder),
        lambda inputs, folder: shutil.copytree(inputs / "kept" / name, folder, dirs_exist_ok=True),
        in_short=in_short,
    )


def _evaluate_with_workers(inputs: Path, folder: Path) -> None:
    _evaluate(inputs, folder, jobs=2)


def _sweep(inputs: Path, folder: Path, executor: Executor | None = None) -> None:
    corpus = str(inputs / "corpus")
    searched, held_out = sweep.search_and_test(Corpus(corpus), "train", "train", 0, 0)
    models = [str(inputs / "network.safetensors"), "mixture"]
    scorer = sweep.Sweep(corpus, models, folder, device="cpu", executor=executor, progress=False)
    tried = scorer.scores(sweep.grid(sweep.simplex_grid(2, 2), [0.0, 0.15]), searched)
    best = sweep.best_of(tried)
    found = optimiser.search(scorer, searched, optimiser.Space(2), n_trials=4, start=best)
    scorer.scores([best, *found], held_out).to_csv(folder / "held_out.csv", index=False)


def _sweep_with_workers(inputs: Path, folder: Path) -> None:
    with processes.process_pool(2) as pool:
        _sweep(inputs, folder, pool)


def _study(inputs: Path, folder: Path, executor: Executor | None = None) -> None:
    result = run_study(load_study(inputs / "study.yaml"), folder, executor=executor or Inline())
    if result.failed:
        raise RunError("\n".join(point.error for point in result.failed if point.status == "failed"))


def _study_with_workers(inputs: Path, folder: Path) -> None:
    with processes.process_pool(2) as pool:
        _study(inputs, folder, pool)


def _run_notebook(inputs: Path, folder: Path) -> None:
    (folder / "point").mkdir()
    shutil.copyfile(inputs / "point.ipynb", folder / "point" / "point.ipynb")


def _report(_: Path, folder: Path) -> None:
    out_dir = folder / "point"
    table = pd.DataFrame({"gain_db": [0.0, 6.0], "score": [0.5, 0.25]})
    figure, axes = plt.subplots(figsize=(2, 2))
    axes.plot(table["gain_db"], table["score"])
    figures.save(figure, out_dir / "score", table)
    plt.close(figure)
    page.write_items(out_dir, ("score.csv", "Scores", ""), ("score.png", "Scores", ""))
    point = page.PointResult("step", "", out_dir, "point.ipynb", "finished", 1.0)
    page.write_page(folder / "index.html", "A study", {}, [point])


OPERATIONS = (
    Operation("simulation", _simulate, _copy_corpus),
    Operation("separation cache", _cache),
    Operation("fine-tuning", _finetune),
    Operation("evaluation", _evaluate),
    _changed(_evaluate_network, "evaluation", in_short=True),
    Operation("evaluation, 2 workers", _evaluate_with_workers, has_workers=True, in_short=False),
    Operation("sweep", _sweep),
    _changed(_grid, "sweep"),
    Operation("sweep, 2 workers", _sweep_with_workers, has_workers=True, in_short=False),
    _changed(_levels, "levels"),
    _changed(_simulate, "simulation"),
    Operation("study", _study, only_there=("*.ipynb", "*.html")),
    Operation(
        "study, 2 workers", _study_with_workers, only_there=("*.ipynb", "*.html"), has_workers=True, in_short=False
    ),
    Operation("report", _report, _run_notebook, only_there=("*.png", "*.pdf")),
)
