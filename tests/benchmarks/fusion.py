"""How many fusion candidates a sweep scores per second, against the official way: recipe functions and pyclarity.

    python tests/benchmarks/fusion.py                              # 4 s of a scene, about three minutes
    python tests/benchmarks/fusion.py --seconds 10 --rounds 5

The official way fuses the stems, and then gains, remixes, normalises, amplifies, writes the FLAC file, reads it, and
scores both ears with pyclarity's HAAQI, for each candidate. Separation is left out of both. The two take turns, one
candidate each in every round; the table has CPU time, which a busy machine disturbs least. The sweep's bases and
reference are a cost of the pair, shown on its own, and so is `ascent.optimise_fusion`, which needs no candidates.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from clarity.enhancer.nalr import NALR
from clarity.evaluator.haaqi import compute_haaqi
from clarity.utils.flac_encoder import read_flac_signal, save_flac_signal
from clarity.utils.signal_processing import compute_rms, resample
from recipes.cad_icassp_2024.baseline import evaluate as recipe

from cadenza_lib.analysis.ascent import optimise_fusion
from cadenza_lib.chain.fusion import fuse
from cadenza_lib.chain.pipeline import ChainSettings
from cadenza_lib.core.conventions import STEMS
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import choose_pairs
from cadenza_lib.scoring.bases import PairBases, SceneBases
from cadenza_lib.separation import separators

MODELS = ("twin_hdemucs", "demo_openunmix", "mixture")
STEPS, EXCERPT_S = 10, 3.0  # as `04_fusion_sweep` has for each listener


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of music")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    corpus = open_corpus("twin")
    split = corpus.split("valid")
    pair = choose_pairs(split.scene_listeners)[0]
    scene, listener = split.scenes[pair.scene], split.listeners[pair.listener]
    song, length = corpus.at_ear_song(split, scene), round(arguments.seconds * 44100)
    song = replace(song, stems=song.stems[..., :length], mixture=song.mixture[..., :length])
    estimates = [separators.load(name, "cpu")(song) for name in MODELS]
    gains_db = corpus.gains[scene.gain]
    mixture = song.mixture.numpy().T
    audiograms = (listener.audiogram_left, listener.audiogram_right)
    enhancer = NALR(nfir=220, sample_rate=44100)

    def remix(stems: np.ndarray) -> np.ndarray:
        named = {name: stems[STEMS.index(name)].T for name in STEMS}
        return recipe.remix_stems(recipe.apply_gains(named, 44100, gains_db), mixture, 44100)

    def fit(signal: np.ndarray) -> np.ndarray:
        return np.stack([recipe.apply_ha(enhancer, None, signal[:, i], audiograms[i]) for i in (0, 1)], axis=1)

    def official(candidate: ChainSettings) -> float:
        stems = fuse(estimates, song.mixture, candidate.model_weights, candidate.mixture_weight)
        with tempfile.TemporaryDirectory() as folder:
            save_flac_signal(fit(remix(stems.numpy())), Path(folder) / "x.flac", 44100, 32000, do_clip_signal=True)
            enhanced, _ = read_flac_signal(Path(folder) / "x.flac")
        reference = remix(song.stems.numpy())
        fitted = fit(reference)
        recipe.set_song_seed(pair.scene)
        scores = [
            compute_haaqi(
                processed_signal=resample(enhanced[:, i], 32000, 24000),
                reference_signal=resample(fitted[:, i], 44100, 24000),
                processed_sample_rate=24000,
                reference_sample_rate=24000,
                audiogram=audiograms[i],
                equalisation=2,
                level1=65 - 20 * np.log10(compute_rms(reference[:, i])),
            )
            for i in (0, 1)
        ]
        return float(np.mean(scores))

    for _ in range(2):  # the first time, kernels are loaded
        start = time.process_time()
        bases = PairBases(SceneBases(song, estimates, corpus.gains_db(scene)), listener, pair.scene)
        bases.score(ChainSettings(model_weights=(1.0, 0.0, 0.0)))
        prepared = time.process_time() - start

    ways: dict[str, Callable[[ChainSettings], float]] = {"official": official, "sweep": lambda c: bases.score(c).mean}
    times: dict[str, list[float]] = {name: [] for name in ways}
    deviation = 0.0
    generator = np.random.default_rng(0)
    for _ in range(arguments.rounds):
        candidate = ChainSettings(
            model_weights=generator.dirichlet(np.ones(len(MODELS))).tolist(), mixture_weight=generator.uniform(0, 0.5)
        )
        scores = []
        for name, way in ways.items():
            start = time.process_time()
            scores.append(way(candidate))
            times[name].append(time.process_time() - start)
        deviation = max(deviation, abs(scores[0] - scores[1]))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"{arguments.seconds:g} s of music, both ears, {arguments.rounds} candidates; scores differ by {deviation:.1e}"
    )
    print("\n| | CPU s per candidate and pair | candidates per CPU s | ratio |\n|---|---:|---:|---:|")
    for name, cpu in medians.items():
        print(f"| {name} | {cpu:.3f} | {1 / cpu:.3f} | {medians['official'] / cpu:.1f} |")
    print(f"\nBases and reference of a pair, once: {prepared:.3f} CPU s, {prepared / medians['sweep']:.1f} candidates.")
    optimise_fusion([bases], 1, EXCERPT_S)
    start = time.process_time()
    optimise_fusion([bases], STEPS, EXCERPT_S)
    climbed = time.process_time() - start
    print(
        f"Gradient ascent for the pair, {STEPS} steps on {EXCERPT_S:g} s: {climbed:.1f} CPU s, "
        f"{climbed / medians['sweep']:.0f} candidates."
    )


if __name__ == "__main__":
    main()
