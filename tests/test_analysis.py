"""Tables of scores, bootstrap intervals and correlations, against scipy and against simulated listeners."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cadenza_lib import analysis
from cadenza_lib.analysis import bootstrap_interval, correlation_table, summary_table, system_label, tidy_table
from cadenza_lib.errors import CorpusError, ParameterError
from cadenza_lib.evaluation import COLUMNS, OFFICIAL_COLUMNS, Settings
from cadenza_lib.files import write_json
from cadenza_lib.finetune import Result
from cadenza_lib.listeners import Listener, standard_audiogram

LISTENERS = {
    "A": Listener(standard_audiogram("N2"), standard_audiogram("N3"), id="A"),
    "B": Listener(standard_audiogram("S1"), standard_audiogram("N1"), id="B"),
    "C": Listener(standard_audiogram("N5"), standard_audiogram("N5"), id="C"),
}
ROWS = [
    ("scene_10001", "Tiny 1-hlp_0001", "A", 0.9, 0.7, 0.8, 0.0, 0.25),
    ("scene_10001", "Tiny 1-hlp_0001", "B", 0.6, 0.5, 0.55, 0.125, 0.0),
    ("scene_10002", "Tiny 2-hlp_0004", "A", 0.4, 0.2, 0.3, 0.5, 1.0),
]
ROUNDING = 1e-12  # the same sums in another order, float64


def write_scores(
    folder: Path, rows: list[tuple] = ROWS, settings: Settings | None = None, columns: tuple[str, ...] = COLUMNS
) -> Path:
    """Write what an evaluation leaves."""
    folder.mkdir()
    pd.DataFrame([row[: len(columns)] for row in rows], columns=columns).to_csv(folder / "scores.csv", index=False)
    if settings is not None:
        (folder / "settings.json").write_text(json.dumps(asdict(settings)))
    return folder


def simulated_table(
    n_listeners: int, n_scenes: int, listener_sd: float, rng: np.random.Generator, noise_sd: float = 0.05
) -> pd.DataFrame:
    """Return ear scores around 0.5 in which each listener has an effect of their own."""
    listener = np.repeat(np.arange(n_listeners), n_scenes)
    effect = rng.normal(0, listener_sd, n_listeners)[listener]
    haaqi = 0.5 + effect + rng.normal(0, noise_sd, len(listener))
    return pd.DataFrame({"listener": [f"L{number}" for number in listener], "haaqi": haaqi})


def mean_haaqi(rows: pd.DataFrame) -> float:
    return float(rows["haaqi"].mean())


# Labels


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        (Settings("demo", "valid", "oracle"), "oracle"),
        (Settings("demo", "valid", "/models/fine_tuned.safetensors", mixture_weight=0.15), "fine_tuned, w = 0.15"),
        (Settings("demo", "valid", "mixture", output_level_db=-12, clip=False), "mixture, -12 dB, no clip"),
    ],
)
def test_label_tells_the_system_and_what_is_not_official(settings: Settings, label: str) -> None:
    assert system_label(settings) == label


# Tidy tables


def test_tidy_table_has_one_row_per_system_scene_listener_and_ear(tmp_path: Path) -> None:
    oracle = write_scores(tmp_path / "a", settings=Settings("demo", "valid", "oracle"))
    mixture = write_scores(tmp_path / "b", settings=Settings("demo", "valid", "mixture"))
    table = tidy_table([oracle, mixture], LISTENERS)
    assert list(table) == [
        "system",
        "scene",
        "song",
        "listener",
        "ear",
        "haaqi",
        "clipped_share",
        "pta_db_hl",
        "low_db_hl",
        "high_db_hl",
        "asymmetry_db",
        "better_ear_pta_db_hl",
        "severity",
    ]
    assert len(table) == 2 * 3 * 2
    assert not table.duplicated(["system", "scene", "listener", "ear"]).any()
    assert not table.isna().any(axis=None)


def test_tidy_table_puts_each_score_beside_its_own_ear(tmp_path: Path) -> None:
    table = tidy_table([write_scores(tmp_path / "a", settings=Settings("demo", "valid", "oracle"))], LISTENERS)
    rows = table.set_index(["scene", "listener", "ear"])
    left, right = rows.loc[("scene_10001", "A", "left")], rows.loc[("scene_10001", "A", "right")]
    assert (left["haaqi"], left["clipped_share"], left["pta_db_hl"]) == (0.9, 0.0, 31.25)  # N2
    assert (right["haaqi"], right["clipped_share"], right["pta_db_hl"]) == (0.7, 0.25, 46.25)  # N3
    assert left["song"] == "Tiny 1-hlp_0001"
    assert left["severity"] == right["severity"] == "mild"
    assert rows.loc[("scene_10002", "A", "right"), "haaqi"] == 0.2
    assert rows.loc[("scene_10001", "B", "left"), "pta_db_hl"] == 22.5  # S1


def test_official_table_is_named_after_its_directory_and_has_no_clipping(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "baseline", columns=OFFICIAL_COLUMNS)
    for given in (folder, folder / "scores.csv", str(folder)):
        table = tidy_table([given], LISTENERS)
        assert table["system"].unique().tolist() == ["baseline"]
        assert table["clipped_share"].isna().all()
        assert table["haaqi"].sum() == pytest.approx(0.9 + 0.7 + 0.6 + 0.5 + 0.4 + 0.2, abs=ROUNDING)


def test_listener_whose_id_looks_like_a_number_is_found(tmp_path: Path) -> None:
    listener = Listener(standard_audiogram("N2"), standard_audiogram("N2"), id="0007")
    folder = write_scores(tmp_path / "a", [("scene_1", "song", "0007", 0.5, 0.5, 0.5)], columns=OFFICIAL_COLUMNS)
    assert tidy_table([folder], {"0007": listener})["listener"].tolist() == ["0007", "0007"]


def test_no_scores_are_an_error() -> None:
    with pytest.raises(ParameterError, match="No scores were given"):
        tidy_table([], LISTENERS)


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=rf"{tmp_path}/none/scores\.csv does not exist"):
        tidy_table([tmp_path / "none"], LISTENERS)


def test_table_without_rows_is_an_error(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "a", [])
    with pytest.raises(CorpusError, match=rf"{folder}/scores\.csv has no rows yet"):
        tidy_table([folder], LISTENERS)


def test_file_without_a_header_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("")
    with pytest.raises(CorpusError, match=rf"{tmp_path}/scores\.csv is not a table of scores"):
        tidy_table([tmp_path], LISTENERS)


def test_table_without_an_official_column_names_it(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "a", columns=OFFICIAL_COLUMNS[:4])
    with pytest.raises(CorpusError, match=r"scores\.csv has no column 'right_score'"):
        tidy_table([folder], LISTENERS)


def test_unknown_listener_is_named(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "a")
    with pytest.raises(CorpusError, match=r"scores\.csv has the listener 'B', who is not in this split"):
        tidy_table([folder], {"A": LISTENERS["A"]})


def test_scores_given_twice_are_an_error(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "a", settings=Settings("demo", "valid", "oracle"))
    with pytest.raises(ParameterError, match="Scores called 'oracle' were given twice"):
        tidy_table([folder, folder / "scores.csv"], LISTENERS)


# Summary


def test_summary_mean_is_the_official_mean_over_pairs(tmp_path: Path) -> None:
    first = write_scores(tmp_path / "z", settings=Settings("demo", "valid", "oracle"))
    second = write_scores(tmp_path / "a", [ROWS[1]], Settings("demo", "valid", "mixture"))
    summary = summary_table(tidy_table([first, second], LISTENERS))
    assert list(summary) == ["system", "n_pairs", "n_listeners", "haaqi", "ci_low", "ci_high", "clipped_share"]
    assert summary["system"].tolist() == ["oracle", "mixture"]  # as given, not sorted
    assert summary["n_pairs"].tolist() == [3, 1]
    assert summary["n_listeners"].tolist() == [2, 1]
    np.testing.assert_allclose(summary["haaqi"], [(0.8 + 0.55 + 0.3) / 3, 0.55], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(summary["clipped_share"], [1.875 / 6, 0.0625], rtol=0, atol=ROUNDING)
    # With two listeners, resampling can do no more than leave one of them out: A alone has the mean 0.55, as has B.
    np.testing.assert_allclose(summary.loc[0, ["ci_low", "ci_high"]].astype(float), 0.55, rtol=0, atol=ROUNDING)


def test_one_listener_has_no_interval() -> None:
    table = pd.DataFrame({"listener": ["A", "A"], "haaqi": [0.4, 0.6]})
    assert all(math.isnan(limit) for limit in bootstrap_interval(table, mean_haaqi))


# Bootstrap


def test_bootstrap_of_one_row_per_listener_is_the_ordinary_one() -> None:
    table = simulated_table(30, 1, 0.1, np.random.default_rng(1))
    expected = stats.bootstrap(
        (table["haaqi"].to_numpy(),), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(2)
    )
    # The 2.5 % quantile of 2000 resamples of a normal statistic has a standard deviation of
    # sqrt(0.025 * 0.975 / 2000) / 0.058 = 0.06 standard errors; four of these and scipy's own error.
    tolerance = 0.25 * expected.standard_error
    assert bootstrap_interval(table, mean_haaqi) == pytest.approx(tuple(expected.confidence_interval), abs=tolerance)


def test_scenes_of_one_listener_count_no_more_than_one_when_they_are_equal() -> None:
    one = simulated_table(12, 1, 0.1, np.random.default_rng(3))
    eight = pd.concat([one] * 8, ignore_index=True)
    assert bootstrap_interval(eight, mean_haaqi) == pytest.approx(bootstrap_interval(one, mean_haaqi), abs=ROUNDING)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    repetitions = 120
    covered = 0
    for repetition in range(repetitions):
        table = simulated_table(25, 4, listener_sd=0.1, rng=rng)
        low, high = bootstrap_interval(table, mean_haaqi, seed=repetition, n_resamples=200)
        covered += low <= 0.5 <= high
    # The percentile interval of 25 listeners covers about 93 %, with a standard deviation of 2.3 % here. Resampling
    # rows as if they were independent would cover about 70 %.
    assert 0.86 <= covered / repetitions <= 0.99


def test_same_seed_gives_the_same_interval_and_leaves_the_global_generator_alone() -> None:
    table = simulated_table(10, 2, 0.1, np.random.default_rng(5))
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    intervals = [bootstrap_interval(table, mean_haaqi, seed, n_resamples=50) for seed in (0, 0, 1)]
    assert np.random.random() == expected
    assert intervals[0] == intervals[1] != intervals[2]


# Correlations


def test_correlation_equals_scipys_for_each_system() -> None:
    rng = np.random.default_rng(6)
    tables = []
    for system, slope in (("oracle", -0.002), ("mixture", -0.01)):
        table = simulated_table(12, 3, 0.03, rng).assign(system=system, clipped_share=0.0)
        table["pta_db_hl"] = np.repeat(rng.uniform(10, 80, 12), 3)
        table["haaqi"] += slope * table["pta_db_hl"]
        tables.append(table)
    result = correlation_table(pd.concat(tables, ignore_index=True))
    assert list(result) == ["system", "predictor", "n_ears", "n_listeners", "pearson_r", "ci_low", "ci_high"]
    assert result["system"].tolist() == ["oracle", "mixture"]
    assert result[["n_ears", "n_listeners"]].to_numpy().tolist() == [[36, 12], [36, 12]]
    for row, table in zip(result.itertuples(), tables, strict=True):
        expected = stats.pearsonr(table["pta_db_hl"], table["haaqi"]).statistic
        assert row.predictor == "pta_db_hl"
        assert row.pearson_r == pytest.approx(expected, abs=ROUNDING)
        assert -1 <= row.ci_low < row.pearson_r < row.ci_high <= 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3])  # the mean of many 0.1 is not 0.1 in float64
def test_correlation_with_a_constant_column_is_nan_and_warns_of_nothing(constant: float) -> None:
    table = simulated_table(6, 3, 0.1, np.random.default_rng(7)).assign(system="oracle", clipped_share=constant)
    result = correlation_table(table, "clipped_share")
    assert result[["pearson_r", "ci_low", "ci_high"]].isna().all(axis=None)


@pytest.mark.filterwarnings("error")
def test_correlation_with_unknown_clipping_is_nan_and_warns_of_nothing(tmp_path: Path) -> None:
    table = tidy_table([write_scores(tmp_path / "baseline", columns=OFFICIAL_COLUMNS)], LISTENERS)
    assert correlation_table(table, "clipped_share")[["pearson_r", "ci_low", "ci_high"]].isna().all(axis=None)


def test_data_size_table_averages_runs_and_puts_the_papers_row_beside_them(tmp_path):
    for number, (n_scenes, haaqi) in enumerate([(6, 0.5), (6, 0.6), (24, 0.7), (48, 0.8), (12, 0.65), (5, 0.4)]):
        result = Result(3, 3, 0.1, 0.05, 0.3, haaqi, n_scenes, 24, 0.0)
        write_json(tmp_path / str(number) / "result.json", asdict(result))
    table = analysis.data_size_table([tmp_path / str(number) for number in range(6)]).set_index("n_scenes")
    assert table["share"].to_dict() == {5: 5 / 24, 6: 0.25, 12: 0.5, 24: 1.0, 48: 2.0}
    assert table["n_runs"].to_dict() == {5: 1, 6: 2, 12: 1, 24: 1, 48: 1}
    assert table.loc[6, "haaqi"] == pytest.approx(0.55)
    assert table.loc[6, "sd"] == pytest.approx(0.1 / 2**0.5)
    assert np.isnan(table.loc[24, "sd"])
    paper = table["paper_haaqi"].dropna().to_dict()  # Table 1: 100, 200, 400 and 800 of 400 scenes
    assert paper == {6: 0.6766, 12: 0.6792, 24: 0.6785, 48: 0.6796}


def test_data_size_table_refuses_runs_without_scores(tmp_path):
    write_json(tmp_path / "result.json", asdict(Result(3, 3, 0.1, 0.05, None, None, 6, 24, 0.0)))
    with pytest.raises(ParameterError, match="has no validation HAAQI; train with n_valid_pairs above 0"):
        analysis.data_size_table([tmp_path])
    with pytest.raises(ParameterError, match="No runs were given"):
        analysis.data_size_table([])
