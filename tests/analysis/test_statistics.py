"""Inference from repeated measures: against scipy and statsmodels, and on simulated listeners with a known answer."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from cadenza_lib.analysis import statistics
from cadenza_lib.analysis.statistics import (
    bootstrap,
    correlation_table,
    mean_interval,
    mixed_model,
    partial_correlation_table,
    regression_line,
)
from cadenza_lib.data.scenes import seeded

ROUNDING = 1e-12  # the same sums in another order, float64


def simulated_table(
    n_listeners: int, n_scenes: int, listener_sd: float, rng: np.random.Generator, slope: float = 0.0
) -> pd.DataFrame:
    """Return ear scores around 0.5 in which each listener has an effect of their own, and loss one slope per dB."""
    listener = np.repeat(np.arange(n_listeners), n_scenes)
    pta_db_hl = rng.uniform(10, 80, n_listeners)[listener]
    effect = rng.normal(0, listener_sd, n_listeners)[listener]
    haaqi = 0.5 + slope * (pta_db_hl - 45) + effect + rng.normal(0, 0.05, len(listener))
    return pd.DataFrame(
        {
            "system": "simulated",
            "listener": [f"L{number}" for number in listener],
            "music": [f"song {number}" for number in np.tile(np.arange(n_scenes), n_listeners)],
            "pta_db_hl": pta_db_hl,
            "haaqi": haaqi,
        }
    )


def haaqi_interval(table: pd.DataFrame, seed: int = 0, n_resamples: int = 2000) -> tuple[float, ...]:
    """Return the bootstrap's interval over listeners."""
    haaqi = table["haaqi"].to_numpy()
    means = bootstrap(table["listener"], lambda weights: weights @ haaqi / weights.sum(1), seed, n_resamples)
    return tuple(statistics.percentiles(means))


def resampled(table: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], seed: int) -> tuple[float, ...]:
    """Return the interval of a statistic of whole rows, one resample after the other."""
    rows_of = list(table.groupby("listener", sort=False).indices.values())
    draws = seeded(seed).integers(len(rows_of), size=(2000, len(rows_of)))
    values = [statistic(table.iloc[np.concatenate([rows_of[index] for index in drawn])]) for drawn in draws]
    return tuple(np.quantile(values, [0.025, 0.975]))


# Bootstrap


@pytest.mark.parametrize(("listeners", "songs"), [("AA", "XY"), ("AB", "XX"), ("A", "X"), ("", "")])
def test_one_listener_or_one_song_has_no_interval(listeners: str, songs: str) -> None:
    values = np.linspace(0.4, 0.6, len(listeners))
    assert np.isnan(mean_interval(values, pd.Series(list(listeners)), pd.Series(list(songs)))).all()


def test_the_interval_over_listeners_and_songs_is_that_of_another_library() -> None:
    rng = np.random.default_rng(7)
    listener, song = pd.Series(rng.integers(20, size=150)), pd.Series(rng.integers(12, size=150))
    values = rng.normal(size=20)[listener] + rng.normal(size=12)[song] + rng.normal(size=150)
    groups = np.column_stack([listener, song])
    # statsmodels corrects each of the three variances for its number of clusters, too, with (n - 1) / (n - k) = 1.
    fit = sm.OLS(values, np.ones(150)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    low, high = mean_interval(values, listener, song)
    half = stats.t.ppf(0.975, 11) * fit.bse[0]
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=ROUNDING)


@pytest.mark.parametrize("crossed", [True, False])
def test_the_interval_over_listeners_and_songs_covers_the_truth_as_often_as_it_says(crossed: bool) -> None:
    rng, covered, repetitions = np.random.default_rng(8), 0, 200
    for _ in range(repetitions):
        listener = np.repeat(np.arange(25), 4)
        song = np.tile(np.arange(20), 5) if crossed else rng.integers(20, size=100)
        values = 0.1 * (rng.normal(size=25)[listener] + rng.normal(size=20)[song] + rng.normal(size=100))
        low, high = mean_interval(values, pd.Series(listener), pd.Series(song))
        covered += low <= 0 <= high
    assert 0.90 <= covered / repetitions <= 0.99  # 0.95 has a standard deviation of 0.015 here


def test_bootstrap_of_one_row_per_listener_is_the_ordinary_one() -> None:
    table = simulated_table(30, 1, 0.1, np.random.default_rng(1))
    expected = stats.bootstrap(
        (table["haaqi"].to_numpy(),), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(2)
    )
    # The 2.5 % quantile of 2000 resamples of a normal statistic has a standard deviation of
    # sqrt(0.025 * 0.975 / 2000) / 0.058 = 0.06 standard errors; four of these and scipy's own error.
    tolerance = 0.25 * expected.standard_error
    assert haaqi_interval(table) == pytest.approx(tuple(expected.confidence_interval), abs=tolerance)


def test_scenes_of_one_listener_count_no_more_than_one_when_they_are_equal() -> None:
    one = simulated_table(12, 1, 0.1, np.random.default_rng(3))
    eight = pd.concat([one] * 8, ignore_index=True)
    assert haaqi_interval(eight) == pytest.approx(haaqi_interval(one), abs=ROUNDING)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    repetitions = 120
    covered = 0
    for repetition in range(repetitions):
        table = simulated_table(25, 4, listener_sd=0.1, rng=rng)
        low, high = haaqi_interval(table, seed=repetition, n_resamples=200)
        covered += low <= 0.5 <= high
    # The percentile interval of 25 listeners covers about 93 %, with a standard deviation of 2.3 % here. Resampling
    # rows as if they were independent would cover about 70 %.
    assert 0.86 <= covered / repetitions <= 0.99


def test_same_seed_gives_the_same_interval_and_leaves_the_global_generator_alone() -> None:
    table = simulated_table(10, 2, 0.1, np.random.default_rng(5))
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    intervals = [haaqi_interval(table, seed, n_resamples=50) for seed in (0, 0, 1)]
    assert np.random.random() == expected
    assert intervals[0] == intervals[1] != intervals[2]


def test_weights_are_the_resamples_of_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_WEIGHTS_AT_ONCE", 500)  # several batches
    table = simulated_table(9, 3, 0.1, np.random.default_rng(6)).sample(frac=1, random_state=1)
    batches: list[np.ndarray] = []

    def means_of(weights: np.ndarray) -> np.ndarray:
        batches.append(weights)
        return weights @ table["haaqi"].to_numpy() / 27

    means = bootstrap(table["listener"], means_of, seed=3)
    assert len(batches) > 2
    weights = np.concatenate(batches)
    assert weights.shape == (2000, 27)
    assert (weights.sum(1) == 27).all()
    expected = resampled(table, lambda rows: float(rows["haaqi"].mean()), seed=3)
    assert np.quantile(means, [0.025, 0.975]) == pytest.approx(expected, abs=ROUNDING)
    assert haaqi_interval(table, 3) == pytest.approx(expected, abs=ROUNDING)


# Correlations


def two_systems(rng: np.random.Generator) -> list[pd.DataFrame]:
    tables = [simulated_table(12, 3, 0.03, rng, slope) for slope in (-0.002, -0.01)]
    return [table.assign(system=name) for table, name in zip(tables, ("oracle", "mixture"), strict=True)]


def test_correlations_are_scipys_for_each_system() -> None:
    tables = two_systems(np.random.default_rng(7))
    tables[1]["haaqi"] = tables[1]["haaqi"].round(1)  # ties
    result = correlation_table(pd.concat(tables, ignore_index=True))
    assert result["system"].tolist() == ["oracle", "mixture"]
    assert result[["n_ears", "n_listeners"]].to_numpy().tolist() == [[36, 12], [36, 12]]
    assert (result["note"] == "").all()
    for row, table in zip(result.itertuples(), tables, strict=True):
        assert row.predictor == "pta_db_hl"
        pearson = stats.pearsonr(table["pta_db_hl"], table["haaqi"]).statistic
        spearman = stats.spearmanr(table["pta_db_hl"], table["haaqi"]).statistic
        assert row.pearson_r == pytest.approx(pearson, abs=ROUNDING)
        assert row.spearman_rho == pytest.approx(spearman, abs=ROUNDING)
        assert -1 <= row.ci_low < row.pearson_r < row.ci_high <= 1
        assert -1 <= row.spearman_low < row.spearman_rho < row.spearman_high <= 1


def test_weighted_intervals_are_those_of_resampled_rows() -> None:
    table = two_systems(np.random.default_rng(8))[0]
    table["haaqi"] = table["haaqi"].round(2)
    row = correlation_table(table, seed=5).iloc[0]

    def pearson(rows: pd.DataFrame) -> float:
        return float(stats.pearsonr(rows["pta_db_hl"], rows["haaqi"]).statistic)

    def spearman(rows: pd.DataFrame) -> float:
        return float(stats.spearmanr(rows["pta_db_hl"], rows["haaqi"]).statistic)

    assert (row["ci_low"], row["ci_high"]) == pytest.approx(resampled(table, pearson, 5), abs=1e-9)
    assert (row["spearman_low"], row["spearman_high"]) == pytest.approx(resampled(table, spearman, 5), abs=1e-9)


def test_interval_of_a_correlation_covers_the_one_it_was_simulated_with() -> None:
    rng = np.random.default_rng(9)
    slope, listener_sd, repetitions = -0.004, 0.06, 25
    signal = slope**2 * 70**2 / 12  # variance of a uniform loss from 10 to 80 dB HL
    truth = -math.sqrt(signal / (signal + listener_sd**2 + 0.05**2))
    covered = 0
    for repetition in range(repetitions):
        row = correlation_table(simulated_table(25, 2, listener_sd, rng, slope), seed=repetition).iloc[0]
        covered += row["ci_low"] <= truth <= row["ci_high"]
    assert 0.78 <= covered / repetitions <= 1  # 93 %, standard deviation 5 %


def test_p_values_hold_their_level_where_rows_taken_as_independent_do_not() -> None:
    rng = np.random.default_rng(10)
    repetitions, ours, naive = 150, 0, 0
    for _ in range(repetitions):
        table = simulated_table(20, 6, 0.1, rng)
        x, y = table["pta_db_hl"].to_numpy(), table["haaqi"].to_numpy()
        ours += statistics._cluster_p_value(x, y, table["listener"]) < 0.05
        naive += stats.pearsonr(x, y).pvalue < 0.05
    assert ours / repetitions < 0.12  # 5 to 7 %, standard deviation 2 %
    assert naive / repetitions > 0.3


def test_p_value_of_one_row_per_listener_is_that_of_a_robust_regression() -> None:
    table = simulated_table(40, 1, 0.1, np.random.default_rng(11), -0.002)
    row = correlation_table(table).iloc[0]
    fit = sm.OLS(table["haaqi"], sm.add_constant(table["pta_db_hl"])).fit(cov_type="HC1")
    # With clusters of one row the sandwich is HC1's; the reference is a t distribution with 39 degrees of freedom.
    expected = 2 * stats.t.sf(abs(fit.tvalues["pta_db_hl"]), 39)
    assert row["p_value"] == pytest.approx(expected, rel=1e-6)


def test_holm_multiplies_the_smallest_p_value_by_the_number_of_tests() -> None:
    table = pd.concat(two_systems(np.random.default_rng(12)), ignore_index=True)
    table["noise"] = np.random.default_rng(13).normal(size=len(table))
    table["constant"] = 1.0
    result = correlation_table(table, ["pta_db_hl", "noise", "constant"])
    tested = result.dropna(subset="p_value").sort_values("p_value")
    assert len(tested) == 4
    expected = np.maximum.accumulate(tested["p_value"].to_numpy() * [4, 3, 2, 1]).clip(max=1)  # Holm 1979
    assert tested["p_holm"].to_numpy() == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3])  # the mean of many 0.1 is not 0.1 in float64
def test_constant_scores_and_predictors_are_named(constant: float) -> None:
    table = simulated_table(6, 3, 0.1, np.random.default_rng(14))
    for changed, name in ((table.assign(share=constant), "share"), (table.assign(haaqi=constant), "haaqi")):
        result = correlation_table(changed, "share" if name == "share" else "pta_db_hl")
        assert result[["pearson_r", "ci_low", "spearman_rho", "p_value", "p_holm"]].isna().all(axis=None)
        assert result["note"].tolist() == [f"{name} is the same everywhere"]


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_inferred_is_said() -> None:
    table = simulated_table(5, 2, 0.1, np.random.default_rng(15))
    one = correlation_table(table[table["listener"] == "L0"])
    assert one["note"].tolist() == ["not enough data: 1 listener, at least 3 are needed"]
    unknown = correlation_table(table.assign(share=np.nan), "share")
    assert unknown["note"].tolist() == ["no row has both HAAQI and share"]
    assert correlation_table(table.iloc[:0]).empty
    for empty in (partial_correlation_table(table.iloc[:0], [("pta_db_hl", "share")]), regression_line(table.iloc[:0])):
        assert empty.empty


@pytest.mark.filterwarnings("error")
def test_missing_scores_are_left_out_and_counted() -> None:
    table = simulated_table(10, 2, 0.1, np.random.default_rng(16), -0.003)
    holed = table.copy()
    holed.loc[[3, 8], "haaqi"] = np.nan
    holed.loc[5, "pta_db_hl"] = np.nan
    row = correlation_table(holed).iloc[0]
    kept = table.drop([3, 5, 8])
    assert row["pearson_r"] == pytest.approx(np.corrcoef(kept["pta_db_hl"], kept["haaqi"])[0, 1], abs=ROUNDING)
    assert (row["n_ears"], row["note"]) == (17, "3 of 20 rows lack a value")


# Partial correlations


def correlated_losses(rng: np.random.Generator, n_listeners: int = 400) -> pd.DataFrame:
    """HAAQI falls with the low loss alone, and the high loss goes along with the low one."""
    low = rng.normal(40, 15, n_listeners)
    high = low + rng.normal(20, 8, n_listeners)
    haaqi = 0.9 - 0.005 * low + rng.normal(0, 0.05, n_listeners)
    names = [f"L{number}" for number in range(n_listeners)]
    return pd.DataFrame({"system": "s", "listener": names, "low": low, "high": high, "haaqi": haaqi})


def test_partial_correlation_is_that_of_residuals_and_finds_which_loss_matters() -> None:
    table = correlated_losses(np.random.default_rng(17))
    result = partial_correlation_table(table, [("low", "high"), ("high", "low"), ("low", [])])

    def residual(name: str, given: str) -> np.ndarray:
        return sm.OLS(table[name], sm.add_constant(table[given])).fit().resid.to_numpy()

    for row in result.iloc[:2].itertuples():
        expected = np.corrcoef(residual(row.predictor, row.given), residual("haaqi", row.given))[0, 1]
        assert row.partial_r == pytest.approx(expected, abs=1e-9)
    low, high, plain = result.itertuples()
    # By construction: what is left of low given high has the standard deviation 15 * 8 / 17 = 7.06 dB.
    assert low.partial_r == pytest.approx(-0.005 * 7.06 / math.hypot(0.005 * 7.06, 0.05), abs=0.1)
    assert low.ci_high < 0
    assert high.ci_low < 0 < high.ci_high
    assert plain.partial_r == pytest.approx(np.corrcoef(table["low"], table["haaqi"])[0, 1], abs=1e-9)


@pytest.mark.filterwarnings("error")
def test_partial_correlation_given_the_same_thing_is_refused() -> None:
    table = correlated_losses(np.random.default_rng(18), 20)
    row = partial_correlation_table(table.assign(twice=2 * table["low"]), [("low", "twice")]).iloc[0]
    assert math.isnan(row["partial_r"])
    assert row["note"] == "low is a linear function of twice here"


# Regression


def test_line_is_scipys_and_its_band_covers_the_truth() -> None:
    rng = np.random.default_rng(19)
    covered = []
    for repetition in range(40):
        table = simulated_table(30, 3, 0.06, rng, -0.004)
        line = regression_line(table, seed=repetition, n_points=3)
        truth = 0.5 - 0.004 * (line["pta_db_hl"] - 45)
        covered.append((line["ci_low"] <= truth) & (truth <= line["ci_high"]))
    expected = stats.linregress(table["pta_db_hl"], table["haaqi"])
    assert line["haaqi"].to_numpy() == pytest.approx(expected.intercept + expected.slope * line["pta_db_hl"], abs=1e-9)
    assert line["pta_db_hl"].iloc[[0, -1]].tolist() == [table["pta_db_hl"].min(), table["pta_db_hl"].max()]
    assert 0.8 <= np.mean(covered) <= 1  # about 92 %, standard deviation at most 4.3 %


# Mixed model

SLOPE, LISTENER_SD, SONG_SD, RESIDUAL_SD = -0.005, 0.08, 0.05, 0.04


def crossed(n_listeners: int, n_songs: int, seed: int) -> pd.DataFrame:
    """Return a table in which every listener hears every song with both ears."""
    rng = np.random.default_rng(seed)
    listener, song, ear = (index.ravel() for index in np.indices((n_listeners, n_songs, 2)))
    pta = rng.uniform(10, 80, (n_listeners, 2))[listener, ear]
    haaqi = 0.9 + SLOPE * pta + rng.normal(0, LISTENER_SD, n_listeners)[listener]
    haaqi += rng.normal(0, SONG_SD, n_songs)[song] + rng.normal(0, RESIDUAL_SD, len(pta))
    return pd.DataFrame(
        {
            "system": "simulated",
            "listener": [f"L{number}" for number in listener],
            "music": [f"song {number}" for number in song],
            "pta_db_hl": pta,
            "haaqi": haaqi,
        }
    )


def test_mixed_model_finds_the_effects_that_were_simulated() -> None:
    result = mixed_model(crossed(24, 12, seed=1)).set_index("term")
    assert list(result.index) == ["intercept", "pta_db_hl", "sd listener", "sd song", "sd residual"]
    slope = result.loc["pta_db_hl"]
    assert abs(slope["estimate"] - SLOPE) < 3 * slope["se"]
    assert slope["se"] < 0.1 * abs(SLOPE)
    assert slope["ci_high"] - slope["estimate"] == pytest.approx(1.96 * slope["se"], rel=1e-4)  # Wald
    # A standard deviation of n independent effects is known to 1 / sqrt(2 (n - 1)); three of these.
    for term, truth, n in (
        ("sd listener", LISTENER_SD, 24),
        ("sd song", SONG_SD, 12),
        ("sd residual", RESIDUAL_SD, 500),
    ):
        assert result.loc[term, "estimate"] == pytest.approx(truth, rel=3 / np.sqrt(2 * (n - 1)))
    assert (result["note"] == "").all()
    assert result[["n_ears", "n_listeners", "n_songs"]].iloc[0].tolist() == [576, 24, 12]


def test_balanced_variance_components_are_those_of_the_analysis_of_variance() -> None:
    table = crossed(10, 8, seed=2)
    # With one predictor value per listener the design is balanced, and REML is the classical ANOVA estimator.
    table["pta_db_hl"] = table["listener"].str[1:].astype(float) * 7
    table = table.groupby(["system", "listener", "music"], as_index=False)[["pta_db_hl", "haaqi"]].mean()
    result = mixed_model(table).set_index("term")["estimate"]
    square = table.pivot(index="listener", columns="music", values="haaqi")
    rest = square.sub(square.mean(axis=1), axis=0).sub(square.mean(axis=0), axis=1) + square.to_numpy().mean()
    residual = (rest.to_numpy() ** 2).sum() / (9 * 7)
    song = square.mean(axis=0).var(ddof=1) - residual / 10
    pta = table.groupby("listener")["pta_db_hl"].first()
    line = np.polyfit(pta, square.mean(axis=1)[pta.index], 1)
    listener = ((square.mean(axis=1)[pta.index] - np.polyval(line, pta)) ** 2).sum() / 8 - residual / 8
    assert result["pta_db_hl"] == pytest.approx(line[0], rel=1e-4)
    for term, variance in (("sd listener", listener), ("sd song", song), ("sd residual", residual)):
        assert result[term] == pytest.approx(np.sqrt(variance), rel=2e-3)  # where the optimiser stops


@pytest.mark.filterwarnings("error")
def test_what_the_model_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    table = crossed(6, 6, seed=3)
    assert mixed_model(table.iloc[:0]).empty
    alone = mixed_model(table[table["listener"] == "L0"])
    assert alone[["term", "note"]].to_numpy().tolist() == [
        ["intercept", "not enough data: 1 listener, at least 3 are needed"]
    ]
    one_song = mixed_model(table[table["music"] == "song 0"]).set_index("term")
    assert "sd song" not in one_song.index
    assert one_song["note"].str.contains("one song only, so no effect of songs").all()
    constant = mixed_model(table.assign(haaqi=0.5))
    assert constant["note"].tolist() == ["haaqi is the same everywhere"]
    monkeypatch.setattr(statistics, "MAX_ROWS", 40)  # a song has 12 rows
    part = mixed_model(table)
    assert (part["n_songs"] == 3).all()
    assert part["note"].str.contains("fitted to 3 of 6 songs").all()
