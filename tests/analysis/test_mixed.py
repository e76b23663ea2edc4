"""The mixed model: on simulated listeners and songs with known effects, and against least squares."""

import numpy as np
import pandas as pd
import pytest

from cadenza_lib.analysis import mixed
from cadenza_lib.analysis.mixed import mixed_model

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
    monkeypatch.setattr(mixed, "MAX_ROWS", 40)  # a song has 12 rows
    part = mixed_model(table)
    assert (part["n_songs"] == 3).all()
    assert part["note"].str.contains("fitted to 3 of 6 songs").all()
