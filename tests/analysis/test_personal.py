"""Personal settings: what the gradient finds, the official chain and metric confirm."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from cadenza_lib.analysis import personal
from cadenza_lib.analysis.ascent import (
    MAX_TRIM_DB,
    PersonalFitting,
    optimise_fitting,
    optimise_fusion,
    score_fitting,
)
from cadenza_lib.analysis.personal import compare_settings, severity_table
from cadenza_lib.chain.pipeline import ChainSettings, enhance, reference_remix
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.scenes import Pair
from cadenza_lib.data.tiny import tiny_corpus, tiny_listener, tiny_song
from cadenza_lib.scoring.bases import PairBases, SceneBases
from cadenza_lib.scoring.pairs import score
from cadenza_lib.scoring.sweep import PairSet, Sweep, grid

GAINS_DB = torch.tensor([6.0, -6.0, 0.0, 3.0], dtype=torch.float64)
FIXED = ChainSettings(model_weights=(0.5, 0.5), mixture_weight=0.15)


@pytest.fixture(scope="module")
def case():
    """Return a loud song, the stems of two models (one of them is mostly noise), and the pair that they make."""
    song, listener = tiny_song(1.0), tiny_listener()
    song = replace(song, stems=2 * song.stems, mixture=2 * song.mixture)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(song.stems.shape, generator=generator, dtype=torch.float64) * song.stems.std()
    leaked = 0.8 * song.stems + 0.1 * song.mixture
    estimates = [leaked + 0.5 * noise, leaked]
    return song, estimates, PairBases(SceneBases(song, estimates, GAINS_DB), listener, "scene_10001")


def test_a_personal_fusion_raises_the_score_of_the_official_chain(case):
    song, estimates, pair = case

    def official(candidate: ChainSettings) -> float:
        output = enhance(song, estimates, GAINS_DB, pair.listener, candidate)
        reference = reference_remix(song, GAINS_DB)
        return score(output, reference, pair.listener, "scene_10001").mean

    found = optimise_fusion([pair], steps=8, excerpt_s=0)
    before, after = official(FIXED), official(found.candidate)
    # The same chain but for 16 bits and the ear's noise, which these steady tones feel more than music (8e-3).
    assert found.scores[0] == pytest.approx(before, abs=0.02)
    assert max(found.scores) == pytest.approx(after, abs=0.02)
    assert after > before + 0.05
    assert found.candidate.model_weights[1] > 0.6  # away from the noise
    assert sum(found.candidate.model_weights) == pytest.approx(1)


def test_a_fitting_without_trims_is_the_official_one_and_a_personal_one_is_better(case):
    _, _, pair = case
    flat = PersonalFitting(-3.0, ((0.0, 0.0),) * 6, [])
    expected = pair.score(replace(FIXED, output_level_db=-3.0))
    np.testing.assert_allclose(score_fitting(pair, FIXED, flat).haaqi, expected.haaqi, rtol=0, atol=1e-6)
    found = optimise_fitting([pair], FIXED, steps=6)
    assert np.abs(found.trims_db).max() < MAX_TRIM_DB
    assert max(found.scores) == pytest.approx(score_fitting(pair, FIXED, found).mean, abs=0.02)  # as above
    assert score_fitting(pair, FIXED, found).mean > pair.score(FIXED).mean + 0.05


def test_settings_are_chosen_on_some_scenes_and_scored_on_others(tmp_path, monkeypatch):
    corpus = str(tiny_corpus(tmp_path / "corpus"))
    sweep = Sweep(corpus, ["oracle", "mixture"], tmp_path / "sweep", progress=False)
    searched, held_out = (
        PairSet(name, "train", (Pair(scene, "A"),))
        for name, scene in zip(("search", "held-out"), sweep.split("train").scenes, strict=False)
    )
    candidates = grid([(1.0, 0.0), (0.0, 1.0)], [0.15], [0.0, -6.0])
    asked = {"candidates": candidates, "n_listeners": 2, "steps": 2, "excerpt_s": 0.5}
    table = compare_settings(sweep, searched, held_out, **asked)
    assert set(table["scene"]) == {held_out.pairs[0].scene}
    assert set(table["listener"]) == {"A", "B"}
    mean = table.groupby("setting")["score"].mean()
    assert mean["grid"] > mean["fixed"]  # the oracle
    by = ["listener", "setting"]
    chosen = table.set_index(by)["model_weights"]
    assert chosen["A", "grid"] == chosen["B", "grid"] == "[1.0, 0.0]"
    summary = severity_table(table).set_index(["severity", "setting"])
    assert summary.loc[("all", "no clip"), "won_back"] == pytest.approx(1)
    assert summary.loc[("all", "grid"), "difference"] == pytest.approx(mean["grid"] - mean["fixed"])

    for name in ("optimise_fusion", "optimise_fitting"):  # which is done already
        monkeypatch.setattr(personal, name, lambda *_: pytest.fail("optimised again"))
    again = compare_settings(sweep, searched, held_out, **asked)
    assert again.equals(table)
    with pytest.raises(pytest.fail.Exception, match="optimised again"):
        compare_settings(sweep, searched, held_out, **{**asked, "steps": 3})


@pytest.mark.parametrize(("steps", "excerpt_s", "empty"), [(0, 4.0, False), (1, -1.0, False), (1, 4.0, True)])
def test_wrong_arguments_are_errors(case, steps, excerpt_s, empty):
    pairs = [] if empty else [case[2]]
    for optimise in (optimise_fusion, lambda *values: optimise_fitting(values[0], FIXED, *values[1:])):
        with pytest.raises(ParameterError, match="at least one pair, one step"):
            optimise(pairs, steps, excerpt_s)


def test_a_trim_beyond_6_db_is_refused(case):
    trims = tuple(itertools.chain([(6.5, 0.0)], [(0.0, 0.0)] * 5))
    with pytest.raises(ParameterError, match="each from -6 to 6 dB"):
        score_fitting(case[2], FIXED, PersonalFitting(0.0, trims, []))
