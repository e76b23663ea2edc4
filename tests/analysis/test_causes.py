"""The cause of the correlation: simulated clips and levels whose effect is known, and what is said without data."""

import numpy as np
import pandas as pd
import pytest

from cadenza_lib.analysis import causes
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.data.listeners import Audiogram, Listener
from cadenza_lib.scoring.levels import LEVEL_COLUMNS

ROUNDING = 1e-12
LEVELS_DB = (0.0, -6.0, -12.0)


def flat_listeners(n: int) -> dict[str, Listener]:
    """Return listeners with flat losses from 10 dB HL in steps of 4 dB, the right ear 2 dB worse."""

    def ear(loss: float) -> Audiogram:
        return Audiogram(levels=np.full(2, float(loss)), frequencies=np.array([250.0, 8000.0]))

    return {f"L{i}": Listener(ear(10 + 4 * i), ear(12 + 4 * i), id=f"L{i}") for i in range(n)}


def simulated_levels(n_listeners: int, clip_slope: float, free_slope: float, noise_sd: float = 0.0) -> pd.DataFrame:
    """Return levels in which HAAQI has one slope per dB HL with the clip and another without."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(n_listeners):
        for scene, song in (("s1", "A-hlp_0001"), ("s2", "A-hlp_0002"), ("s3", "B-hlp_0001")):
            for ear, loss in (("left", 10 + 4 * number), ("right", 12 + 4 * number)):
                for system, start in (("net", 0.8), ("oracle", 0.95)):
                    for clip, slope in ((True, clip_slope), (False, free_slope if system == "net" else 0.0)):
                        haaqi = start + slope * loss + noise_sd * rng.normal()
                        rows.append((system, scene, song, f"L{number}", ear, 0.0, clip, haaqi, 0.1, *[0.5] * 5))
    return pd.DataFrame(rows, columns=LEVEL_COLUMNS)


def table(levels: pd.DataFrame, n_listeners: int) -> pd.DataFrame:
    return causes.level_table(levels, flat_listeners(n_listeners))


@pytest.mark.parametrize(("free_slope", "explained"), [(-0.01, 0.0), (-0.0025, 0.75), (0.0, 1.0), (0.002, 1.2)])
def test_explained_part_is_that_of_the_slopes_that_were_simulated(free_slope: float, explained: float) -> None:
    levels = table(simulated_levels(12, -0.01, free_slope, noise_sd=0.01), 12)
    row = causes.clip_effect_table(levels).set_index(["system", "predictor"]).loc[("net", "pta_db_hl")]
    # The slope of 72 ears spread by 14 dB with noise of 0.01 is known to 0.01 / (14 sqrt(72)) = 8e-5 per dB, so the
    # part, a ratio to a slope of 0.01, to 0.012; three of these.
    assert row["explained"] == pytest.approx(explained, abs=0.036)
    assert row["ci_low"] < row["explained"] < row["ci_high"] < row["ci_low"] + 0.1
    assert row["slope_clip"] == pytest.approx(-0.1, abs=0.0025)  # per 10 dB
    x, y = (causes.official_scores(levels).query("system == 'net'")[name] for name in ("pta_db_hl", "haaqi"))
    assert row["r_clip"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=ROUNDING)
    assert row["slope_clip"] == pytest.approx(10 * np.polyfit(x, y, 1)[0], abs=1e-9)
    assert row["note"] == ""


@pytest.mark.filterwarnings("error")
def test_what_is_not_there_cannot_be_explained() -> None:
    noise = causes.clip_effect_table(table(simulated_levels(12, 0.0, 0.0, noise_sd=0.05), 12)).query("system == 'net'")
    assert noise["explained"].isna().all()
    assert (noise["note"] == "the slope with the clip may be zero, so there is no effect to explain").all()
    few = causes.clip_effect_table(table(simulated_levels(2, -0.01, 0.0), 2))
    assert few["note"].str.startswith("not enough data: 2 listeners").all()
    holed = simulated_levels(6, -0.01, 0.0)
    holed.loc[holed["listener"] == "L3", "haaqi"] = np.nan
    assert (causes.clip_effect_table(table(holed, 6))["n_listeners"] == 5).all()


def test_losses_add_up_to_what_is_missing_from_one() -> None:
    levels = table(simulated_levels(5, -0.01, 0.001), 5)
    parts = causes.losses_table(levels, "net").pivot(index=["scene", "listener", "ear"], columns="cause", values="lost")
    official = causes.official_scores(levels).query("system == 'net'").set_index(["scene", "listener", "ear"])
    np.testing.assert_allclose(parts.sum(axis=1), 1 - official["haaqi"].loc[parts.index], rtol=0, atol=ROUNDING)
    loss = official["pta_db_hl"].loc[parts.index]
    np.testing.assert_allclose(parts["separation"], 0.15 - 0.001 * loss, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(parts["clipping"], 0.011 * loss, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(parts["rest"], 0.05, rtol=0, atol=ROUNDING)
    with pytest.raises(ParameterError, match="no scores of 'umx'"):
        causes.losses_table(levels, "umx")


def level_scores(scores: dict[str, dict[str, tuple[float, ...]]]) -> pd.DataFrame:
    """Return levels of one system from HAAQI over `LEVELS_DB` by listener and song, the same at both ears."""
    rows = [
        ("net", f"{song} {listener}", f"{song}-hlp_0001", listener, ear, level_db, True, haaqi, 0.1, *[0.5] * 5)
        for listener, songs in scores.items()
        for song, values in songs.items()
        for level_db, haaqi in zip(LEVELS_DB, values, strict=True)
        for ear in ("left", "right")
    ]
    return table(pd.DataFrame(rows, columns=LEVEL_COLUMNS), len(scores))


def test_level_is_chosen_on_other_songs_than_it_is_tested_on() -> None:
    levels = level_scores(
        {
            "L0": {"A": (0.9, 0.5, 0.1), "B": (0.8, 0.6, 0.2)},  # 0 dB is best on both
            "L1": {"A": (0.2, 0.3, 0.7), "B": (0.3, 0.5, 0.6)},  # -12 dB is best on both
            "L2": {"A": (0.2, 0.9, 0.1), "B": (0.3, 0.1, 0.9)},  # what is best on one is bad on the other
        }
    )
    found = causes.output_level_choices(levels, "net").set_index("listener")
    assert found["own_level_db"].to_dict() == {"L0": 0, "L1": -12, "L2": -9}
    expected = {"L0": 0.0, "L1": ((0.7 - 0.2) + (0.6 - 0.3)) / 2, "L2": ((0.1 - 0.2) + (0.1 - 0.3)) / 2}
    assert found["gain_own"].to_dict() == pytest.approx(expected)
    # One for all: on B the means are 0.467, 0.4, 0.567, so A is heard at -12 dB; on A 0.433, 0.567, 0.3, so B at -6.
    assert found.loc["L0", "haaqi_common"] == pytest.approx((0.1 + 0.6) / 2)
    assert (found["n_songs"] == 2).all()
    gains = causes.level_gain_table(found.reset_index()).set_index("severity")
    assert gains.loc["all", "gain_own"] == pytest.approx(np.mean(list(expected.values())))
    assert gains.loc["all", "n_listeners"] == 3
    assert gains.loc["none", "note"] == ""


@pytest.mark.filterwarnings("error")
def test_one_song_teaches_nothing_about_another() -> None:
    levels = level_scores({"L0": {"A": (0.9, 0.5, 0.1)}, "L1": {"A": (0.2, 0.3, 0.7)}})
    choices = causes.output_level_choices(levels, "net")
    assert choices.empty
    (row,) = causes.level_gain_table(choices).itertuples()
    assert (row.severity, row.n_listeners) == ("all", 0)
    assert row.note == "not enough data for an interval: 0 listeners"


@pytest.mark.filterwarnings("error")
def test_without_an_experiment_every_table_is_empty(tmp_path) -> None:
    levels = causes.level_experiment("", "", "demo_hdemucs", 5, 2, tmp_path)
    assert levels.empty
    assert causes.official_scores(levels).empty
    assert causes.clip_effect_table(levels).empty
    assert causes.losses_table(levels, "demo_hdemucs").empty
    assert causes.output_level_choices(levels, "demo_hdemucs").empty
    assert not list(tmp_path.iterdir())
