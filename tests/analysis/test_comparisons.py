import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cadenza_lib.analysis import comparisons
from cadenza_lib.analysis.statistics import mean_interval
from cadenza_lib.core.documents import write_json
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.scoring.evaluation import Settings
from cadenza_lib.training.files import Config

N_LISTENERS, N_SCENES = 60, 3


def _scores(effects: dict[str, float], spread: float = 0.02, split: str = "valid") -> pd.DataFrame:
    """Return scores of systems that differ by known effects, on scenes and listeners that differ much more."""
    generator = np.random.default_rng(0)
    pairs = [(f"scene_{(j + 20 * i) % 60}", f"L{j}") for j in range(N_LISTENERS) for i in range(N_SCENES)]
    base = generator.uniform(0.2, 0.8, len(pairs))
    tables = []
    for system, effect in effects.items():
        score = base + effect + generator.normal(0, spread, len(pairs))
        tables.append(pd.DataFrame(pairs, columns=["scene", "listener"]).assign(score=score, system=system))
    scores = pd.concat(tables, ignore_index=True).assign(split=split)
    return scores.assign(song=scores["scene"] + "-hlp_0001")


def test_paired_differences_are_those_of_the_paired_t_test_where_listeners_do_not_matter():
    scores = _scores({"a": 0.0, "b": 0.01})
    row = comparisons.compare(scores, "system", {"system": "a"}).set_index("system").loc["b"]
    wide = scores.pivot(index=["scene", "listener"], columns="system", values="score")
    expected = stats.ttest_rel(wide["b"], wide["a"]).confidence_interval()
    assert row["difference"] == pytest.approx((wide["b"] - wide["a"]).mean(), abs=1e-12)
    # Another method: the ends agree to a tenth of the interval, which is far narrower than that of the scores.
    width = expected.high - expected.low
    assert row["difference_low"] == pytest.approx(expected.low, abs=0.15 * width)
    assert row["difference_high"] == pytest.approx(expected.high, abs=0.15 * width)
    assert row["ci_high"] - row["ci_low"] > 5 * width
    assert (row["n_pairs"], row["n_listeners"]) == (N_LISTENERS * N_SCENES, N_LISTENERS)


def test_the_interval_of_a_mean_is_over_listeners_and_songs():
    scores = _scores({"a": 0.0})
    row = comparisons.compare(scores, "system", {"system": "a"}).iloc[0]
    expected = mean_interval(scores["score"].to_numpy(), scores["listener"], scores["scene"])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(expected), abs=1e-12)
    assert (row["difference"], row["difference_low"], row["difference_high"]) == (0, 0, 0)


def test_one_listener_has_no_interval():
    scores = _scores({"a": 0.0, "b": 0.1})
    table = comparisons.compare(scores[scores["listener"] == "L1"], "system", {"system": "a"})
    assert table[["ci_low", "ci_high", "difference_low", "difference_high"]].isna().all(axis=None)


def test_systems_scored_on_other_pairs_are_not_compared():
    scores = _scores({"a": 0.0, "b": 0.1})
    with pytest.raises(ParameterError, match="was scored on other pairs than the rest"):
        comparisons.compare(scores.iloc[:-1], "system", {"system": "a"})
    with pytest.raises(ParameterError, match="no scores of the reference"):
        comparisons.compare(scores, "system", {"system": "c"})
    scores.loc[0, "score"] = np.nan
    with pytest.raises(ParameterError, match=r"1 of \d+ scores are missing"):
        comparisons.compare(scores, "system", {"system": "a"})


@pytest.mark.parametrize(
    ("effects", "best", "words"),
    [
        ({0.0: 0.0, 0.1: 0.05, 0.2: 0.0}, 0.1, "inside the range"),
        ({0.0: 0.05, 0.1: 0.03, 0.2: 0.0}, 0.0, "at the border of the range, so there is no interior optimum"),
        ({0.0: 0.0, 0.1: 0.03, 0.2: 0.05}, 0.2, "at the border of the range, so there is no interior optimum"),
    ],
)
def test_an_optimum_is_called_interior_only_where_it_is(effects, best, words):
    scores = _scores({str(weight): effect for weight, effect in effects.items()})
    scores = scores.assign(mixture_weight=scores["system"].astype(float))
    sentence = comparisons.optimum_sentence(scores)
    assert f"at w = {best:g}, {words}: +0.05" in sentence or f"at w = {best:g}, {words}: +0.04" in sentence
    assert "contains 0" not in sentence


def test_a_flat_curve_is_not_decided():
    scores = _scores({"0.0": 0.0, "0.1": 0.0, "0.2": 0.0})
    sentence = comparisons.optimum_sentence(scores.assign(mixture_weight=scores["system"].astype(float)))
    assert "an interval that contains 0 means that these pairs do not decide" in sentence


SYSTEMS = dict(zip(comparisons.PAPER_SYSTEMS, (0.0, -0.07, 0.02, 0.02), strict=True))


def test_table_2_has_the_papers_rows_beside_ours_and_keeps_the_bounds():
    scores = pd.concat([_scores({**SYSTEMS, "True stems": 0.1}, split=split) for split in ("valid", "test")])
    table = comparisons.paper_table(scores).set_index(["split", "system"])
    assert table.loc[("test", "Official-USTC"), "paper_haaqi"] == 0.5923
    assert table.loc[("test", "Official-USTC"), "paper_difference"] == pytest.approx(0.0226)
    assert table.loc[("valid", "Official-USTC"), "difference"] == pytest.approx(0.02, abs=0.01)
    assert np.isnan(table.loc[("valid", "True stems"), "paper_haaqi"])
    assert len(table) == 10


def test_evaluations_are_read_with_their_labels_and_splits(tmp_path):
    header = "scene,song,listener,left_score,right_score,score\n"
    for name, label in (("a", "Official-USTC"), ("b", "")):
        folder = tmp_path / name
        folder.mkdir()
        settings = {"corpus": "twin", "split": "valid", "system": ["x/best.safetensors", "oracle"], "label": label}
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "scores.csv").write_text(header + "scene_1,song,L1,0.5,0.7,0.6\n")
    scores = comparisons.system_scores([tmp_path / "a", tmp_path / "b"])
    assert scores["system"].tolist() == ["Official-USTC", "x/best + oracle"]
    with pytest.raises(ParameterError, match="'Official-USTC' was given twice for split 'valid'"):
        comparisons.system_scores([tmp_path / "a", tmp_path / "a"])
    with pytest.raises(ParameterError, match="No scores were given"):
        comparisons.system_scores([])


def test_a_training_target_is_judged_by_its_mean_over_seeds(tmp_path):
    pairs = [("scene_1", "A"), ("scene_1", "B"), ("scene_2", "A")]
    gains = {"start": 0.0, "haaqi-0": 0.01, "haaqi-1": 0.03, "stems-0": -0.02}
    folders = []
    for name, gain in gains.items():
        system, folder = "twin_hdemucs", tmp_path / "scores" / name
        folder.mkdir(parents=True)
        if name != "start":
            run = tmp_path / name
            run.mkdir()
            write_json(run / "config.json", asdict(Config(targets=(name[:-2],), seed=int(name[-1]))))
            system = str(run / "last.safetensors")
        write_json(folder / "settings.json", asdict(Settings("twin", "test", system)))
        rows = [(*pair, 0.5 + gain + 0.1 * index) for index, pair in enumerate(pairs)]
        table = pd.DataFrame(rows, columns=["scene", "listener", "score"])
        table.assign(song="x", left_score=table["score"], right_score=table["score"]).to_csv(folder / "scores.csv")
        folders.append(folder)
    table = comparisons.target_table(folders).set_index("target")
    assert table["difference"].to_dict() == pytest.approx({"start": 0, "haaqi": 0.02, "stems": -0.02})
    assert table["n_seeds"].to_dict() == {"start": 1, "haaqi": 2, "stems": 1}
    assert table.loc["haaqi", "sd"] == pytest.approx(0.02 / np.sqrt(2))  # of two numbers 0.02 apart
    assert np.isnan(table.loc["stems", "sd"])
    with pytest.raises(ParameterError, match="no scores of the reference"):
        comparisons.target_table(folders[1:])
