"""What a pair, a notebook and a minute of music cost in time and memory when there are very many of them.

    python tests/benchmarks/load.py                                    # 10,000 pairs, 1,000 notebooks, 10 minutes
    python tests/benchmarks/load.py --pairs 100 1000 --points 10 100 --minutes 0.5

`pairs`: an evaluation whose enhancement and HAAQI are stubs, so that reading songs of half a second, writing FLAC files
and rows, and the book-keeping are left. `points`: `cadenza run STUDY --dry-run` of as many evaluations. `minutes`: one
song, separated by the twin's network, enhanced and scored in full. Each runs in a process of its own, whose peak memory
is read at its end; what the imports alone take is in the first row.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from simulation import write_song

from cadenza_lib.__main__ import main as cadenza
from cadenza_lib.chain.output import Output
from cadenza_lib.core.documents import write_json
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.scenes import Scene, choose_pairs
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.haaqi import Components
from cadenza_lib.scoring import evaluation
from cadenza_lib.scoring.evaluation import Settings, evaluate
from cadenza_lib.scoring.pairs import PairScore
from cadenza_lib.separation import separators

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "03_evaluate.ipynb"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--points", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--minutes", type=float, nargs="*", default=[1, 10])
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "AMOUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, amount = arguments.child
        with tempfile.TemporaryDirectory() as folder:
            elapsed_s = CHILDREN[what](Path(folder), float(amount))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        print(json.dumps([elapsed_s, peak_mb]))
        return
    print("| what | elapsed s | ms for each | peak memory, MB |\n|---|---:|---:|---:|")
    for what, amounts in (("imports", [0]), ("pairs", arguments.pairs), ("points", arguments.points)):
        for amount in amounts:
            elapsed_s, peak_mb = measured(what, amount)
            each = f"{1000 * elapsed_s / amount:.1f}" if amount else ""
            print(f"| {what} {amount or ''} | {elapsed_s:.1f} | {each} | {peak_mb:.0f} |", flush=True)
    for minutes in arguments.minutes:
        elapsed_s, peak_mb = measured("minutes", minutes)
        print(f"| minutes {minutes:g} | {elapsed_s:.1f} | | {peak_mb:.0f} |", flush=True)


def measured(what: str, amount: float) -> tuple[float, float]:
    """Return the elapsed seconds and the peak memory in MB of one child."""
    command = [sys.executable, __file__, "--child", what, str(amount)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    elapsed_s, peak_mb = json.loads(done.stdout.splitlines()[-1])
    return elapsed_s, peak_mb


def imports(_: Path, __: float) -> float:
    return 0.0


def pairs(folder: Path, amount: float) -> float:
    """Evaluate pairs whose output is silence and whose score is made up."""
    corpus = Corpus(tiny_corpus(folder / "corpus", 0.5))
    names = sorted({scene.music for scene in corpus.split("train").scenes.values()})
    every = itertools.cycle(itertools.product(names, corpus.gains, corpus.head_positions))
    scenes = {
        f"scene_{10001 + n}": asdict(Scene(*one)) for n, one in enumerate(itertools.islice(every, round(amount) // 2))
    }
    write_json(corpus.metadata / "scenes.train.json", scenes)
    write_json(corpus.metadata / "scene_listeners.train.json", {scene: ["A", "B"] for scene in scenes})
    corpus = Corpus(corpus.root)
    chosen = choose_pairs(corpus.split("train").scene_listeners)
    assert len(chosen) == amount
    silence = Output(np.zeros((2, 16_000), np.float32), np.zeros(2), is_16_bit=True)
    made_up = PairScore((Components(*[0.5] * len(fields(Components))),) * 2, (0.0, 0.0), (-20.0, -20.0))
    stubs = mock.patch.multiple(evaluation, render=lambda *_: silence, score=lambda *_: made_up)
    settings = Settings(str(corpus.root), "train", "oracle")
    started = time.perf_counter()
    with stubs:
        table = evaluate(corpus, separators.load("oracle"), settings, chosen, folder / "out", progress=False)
    assert len(table) == amount
    return time.perf_counter() - started


def points(folder: Path, amount: float) -> float:
    """Plan a study of evaluations."""
    study = folder / "study.yaml"
    grid = f"{{seed: {list(range(round(amount)))}}}"
    study.write_text(f"steps: [{{name: points, notebook: {NOTEBOOK}, parameters: {{system: mixture}}, grid: {grid}}}]")
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert cadenza(["run", str(study), "--out-dir", str(folder / "out"), "--dry-run"]) == 0
    assert f"{round(amount)}" in told.getvalue()
    return time.perf_counter() - started


def minutes(folder: Path, amount: float) -> float:
    """Separate, enhance and score one song."""
    write_song(folder / "corpus", amount, 1)
    corpus = Corpus(folder / "corpus")
    chosen = choose_pairs(corpus.split("train").scene_listeners)
    settings = Settings(str(corpus.root), "train", "twin_hdemucs")
    started = time.perf_counter()
    evaluate(corpus, separators.load("twin_hdemucs", "cpu"), settings, chosen, folder / "out", progress=False)
    return time.perf_counter() - started


CHILDREN: dict[str, Callable[[Path, float], float]] = {
    child.__name__: child for child in (imports, pairs, points, minutes)
}


if __name__ == "__main__":
    main()
