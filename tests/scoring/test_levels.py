"""Scores over output levels: the official ones among them, the clip, resuming, and the crossed design."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cadenza_lib.chain.pipeline import ChainSettings, enhance, reference_remix
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.corpus import Corpus
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.tiny import tiny_corpus
from cadenza_lib.scoring import levels as levels_module
from cadenza_lib.scoring.levels import LEVEL_COLUMNS, crossed_pairs, evaluate_levels
from cadenza_lib.scoring.pairs import score
from cadenza_lib.separation.separators import load

SYSTEMS = ["mixture", "oracle"]
LEVELS_DB = [0.0, -12.0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tiny_corpus(tmp_path_factory.mktemp("corpus") / "tiny"))


@pytest.fixture(scope="module")
def levels(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    pairs = crossed_pairs(corpus.split("train"), 2, 1)
    return evaluate_levels(corpus, "train", SYSTEMS, pairs, tmp_path_factory.mktemp("levels"), LEVELS_DB, "cpu", False)


def test_every_ear_is_scored_with_the_clip_at_each_level_and_the_oracle_also_without(levels: pd.DataFrame) -> None:
    assert tuple(levels.columns) == LEVEL_COLUMNS
    found = levels.groupby(["system", "clip"])["output_level_db"].unique().map(sorted).to_dict()
    assert found == {
        ("mixture", False): [0],
        ("mixture", True): [-12, 0],
        ("oracle", False): [-12, 0],
        ("oracle", True): [-12, 0],
    }
    assert len(levels) == 2 * 2 * (3 + 4)  # listeners, ears, conditions
    assert not levels.isna().any(axis=None)


def test_official_level_with_the_clip_is_the_official_score(corpus: Corpus, levels: pd.DataFrame) -> None:
    split = corpus.split("train")
    official = levels[(levels["output_level_db"] == 0) & levels["clip"]].set_index(["system", "listener", "ear"])
    for pair in crossed_pairs(split, 2, 1):
        song = corpus.at_ear_song(split, split.scenes[pair.scene])
        gains_db, listener = corpus.gains_db(split.scenes[pair.scene]), split.listeners[pair.listener]
        for system in SYSTEMS:
            output = enhance(song, [load(system)(song)], gains_db, listener)
            expected = score(output, reference_remix(song, gains_db), listener, pair.scene)
            for index, ear in enumerate(("left", "right")):
                row = official.loc[(system, pair.listener, ear)]
                # The same operations on the same numbers, but for the last digit, which pandas' reader may lose.
                assert row["haaqi"] == pytest.approx(expected.haaqi[index], rel=1e-14)
                assert row["clipped_share"] == pytest.approx(expected.clipped_share[index], rel=1e-14)


def test_what_is_compared_with_the_same_stage_is_limited_alike(corpus: Corpus, tmp_path: Path) -> None:
    pairs = crossed_pairs(corpus.split("train"), 1, 1)
    settings = ChainSettings(output_stage="limiter", reference="same")
    arguments = (corpus, "train", ["oracle"], pairs, tmp_path, LEVELS_DB, "cpu", False)
    levels = evaluate_levels(*arguments, settings)
    assert levels.loc[levels["clip"], "clipped_share"].max() > 0.01  # there is something to limit
    assert levels["haaqi"].min() > 0.99  # but perfect stems, limited or not and at any level, are the reference itself


def test_a_level_lowers_loudness_by_as_many_decibels_and_clips_less(levels: pd.DataFrame) -> None:
    oracle = levels[levels["system"] == "oracle"].set_index(["listener", "ear", "clip", "output_level_db"])
    unlimited = oracle.xs(False, level="clip")["loudness_lufs"].unstack()
    np.testing.assert_allclose(unlimited[0.0] - unlimited[-12.0], 12, rtol=0, atol=1e-9)
    share = oracle.xs(True, level="clip")["clipped_share"].unstack()
    assert (share[-12.0] <= share[0.0]).all()


def test_a_stopped_run_goes_on_with_the_same_result(
    corpus: Corpus, levels: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = crossed_pairs(corpus.split("train"), 2, 1)
    scored = []
    original = levels_module.references

    def stopping(*arguments: object) -> object:
        scored.append(arguments[1])
        if len(scored) == 2:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(levels_module, "references", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate_levels(corpus, "train", SYSTEMS, pairs, tmp_path, LEVELS_DB, "cpu", False)
    resumed = evaluate_levels(corpus, "train", SYSTEMS, pairs, tmp_path, LEVELS_DB, "cpu", False)
    assert len(scored) == 3  # the first pair was kept
    pd.testing.assert_frame_equal(resumed, levels, check_exact=True)
    official = evaluate_levels(corpus, "train", SYSTEMS, pairs, tmp_path, [0.0], "cpu", False)
    at_0_db = levels[levels["output_level_db"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(official, at_0_db, check_exact=True)  # both sets of levels have their files


def test_wrong_levels_and_systems_are_refused_before_anything_is_written(corpus: Corpus, tmp_path: Path) -> None:
    pairs = crossed_pairs(corpus.split("train"), 1, 1)
    for systems, levels_db, match in [
        (SYSTEMS, [-3.0], "must contain 0 dB, the official level"),
        (SYSTEMS, [0.0, 0.0], "and each level once"),
        (["oracle", "oracle"], [0.0], "must name at least one system, and each once"),
    ]:
        with pytest.raises(ParameterError, match=match):
            evaluate_levels(corpus, "train", systems, pairs, tmp_path / "x", levels_db)
    assert not (tmp_path / "x").exists()


def test_every_listener_hears_every_scene_and_songs_take_turns() -> None:
    split = open_corpus("twin").split("valid")
    pairs = crossed_pairs(split, 5, 3)
    listeners, scenes = {pair.listener for pair in pairs}, {pair.scene for pair in pairs}
    assert (len(pairs), len(listeners), len(scenes)) == (15, 5, 3)
    assert len({split.scenes[scene].music for scene in scenes}) == 3
    assert "like-L5000" in listeners  # 45 and 75 dB HL: the largest difference of the twin's listeners
    assert {"normal", "valid43"} <= listeners  # the best and the worst hearing
    assert "valid06" in {pair.listener for pair in crossed_pairs(split, 2, 1, preferred=["L5000", "valid06"])}
    for n_listeners, n_scenes in ((0, 1), (53, 1), (1, 0), (1, 121)):
        with pytest.raises(ParameterError, match="must lie between 1 and"):
            crossed_pairs(split, n_listeners, n_scenes)
