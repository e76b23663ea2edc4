"""Tables of scores: each number beside the ear it belongs to, means, and who and what is told about them."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cadenza_lib.analysis import tables
from cadenza_lib.analysis.statistics import correlation_table
from cadenza_lib.analysis.tables import summary_table, system_label, tidy_table
from cadenza_lib.core.documents import write_json
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.data.listeners import Audiogram, Listener, standard_audiogram
from cadenza_lib.scoring.evaluation import COLUMNS, OFFICIAL_COLUMNS, Settings
from cadenza_lib.training.files import Result

LISTENERS = {
    "A": Listener(standard_audiogram("N2"), standard_audiogram("N3"), id="A"),
    "B": Listener(standard_audiogram("S1"), standard_audiogram("N1"), id="B"),
    "C": Listener(standard_audiogram("N5"), standard_audiogram("N5"), id="C"),
}
PARTS = (-20.0, -21.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)  # from left_loudness_lufs to right_spectrum
ROWS = [
    ("scene_10001", "Tiny 1-hlp_0001", "A", 0.9, 0.7, 0.8, 0.0, 0.25, *PARTS),
    ("scene_10001", "Tiny 1-hlp_0001", "B", 0.6, 0.5, 0.55, 0.125, 0.0, *PARTS),
    ("scene_10002", "Tiny 2-hlp_0004", "A", 0.4, 0.2, 0.3, 0.5, 1.0, *PARTS),
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


# Labels


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        (Settings("twin", "valid", "oracle"), "oracle"),
        (Settings("twin", "valid", "/models/fine_tuned.safetensors", mixture_weight=0.15), "fine_tuned, w = 0.15"),
        (Settings("twin", "valid", "mixture", output_level_db=-12, output_stage="none"), "mixture, -12 dB, no clip"),
        (
            Settings("twin", "valid", "oracle", output_stage="compressor", reference="same"),
            "oracle, compressor, reference same",
        ),
    ],
)
def test_label_tells_the_system_and_what_is_not_official(settings: Settings, label: str) -> None:
    assert system_label(settings) == label


# Tidy tables


def test_tidy_table_has_one_row_per_system_scene_listener_and_ear(tmp_path: Path) -> None:
    oracle = write_scores(tmp_path / "a", settings=Settings("twin", "valid", "oracle"))
    mixture = write_scores(tmp_path / "b", settings=Settings("twin", "valid", "mixture"))
    gains_db = {scene: {"vocals": 6, "drums": 0, "bass": -3, "other": 0} for scene in ("scene_10001", "scene_10002")}
    table = tidy_table([oracle, mixture], LISTENERS, gains_db)
    assert list(table) == [
        *("system", "scene", "song", "listener", "ear", "haaqi"),
        *("clipped_share", "loudness_lufs", "cepstral_correlation", "fine_structure", "loudness", "spectrum"),
        *("music", "gain_vocals_db", "gain_drums_db", "gain_bass_db", "gain_other_db"),
        *("pta_db_hl", "low_db_hl", "high_db_hl", "slope_db_per_octave", "asymmetry_db"),
        *("better_ear_pta_db_hl", "severity"),
        *(f"threshold_{f}_hz_db_hl" for f in (250, 375, 500, 750, 1000, 1500, 2000, 3000, 4000, 6000, 8000)),
    ]
    assert len(table) == 2 * 3 * 2
    assert not table.duplicated(["system", "scene", "listener", "ear"]).any()
    assert not table.isna().any(axis=None)


def test_tidy_table_puts_each_score_beside_its_own_ear(tmp_path: Path) -> None:
    table = tidy_table([write_scores(tmp_path / "a", settings=Settings("twin", "valid", "oracle"))], LISTENERS)
    rows = table.set_index(["scene", "listener", "ear"])
    left, right = rows.loc[("scene_10001", "A", "left")], rows.loc[("scene_10001", "A", "right")]
    assert (left["haaqi"], left["clipped_share"], left["pta_db_hl"]) == (0.9, 0.0, 31.25)  # N2
    assert (right["haaqi"], right["clipped_share"], right["pta_db_hl"]) == (0.7, 0.25, 46.25)  # N3
    assert left["song"] == "Tiny 1-hlp_0001"
    assert left["severity"] == right["severity"] == "mild"
    assert rows.loc[("scene_10002", "A", "right"), "haaqi"] == 0.2
    assert rows.loc[("scene_10001", "B", "left"), "pta_db_hl"] == 22.5  # S1
    assert (left["threshold_500_hz_db_hl"], right["threshold_500_hz_db_hl"]) == (20, 35)
    assert (left["loudness_lufs"], right["loudness_lufs"], left["spectrum"], right["spectrum"]) == (-20, -21, 0.3, 0.2)
    assert left["music"] == "Tiny 1"
    assert np.isnan(left["gain_bass_db"])  # not given


def test_official_table_is_named_after_its_directory_and_has_no_clipping(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "baseline", columns=OFFICIAL_COLUMNS)
    published = (folder / "scores.csv").rename(folder / "team_E001.csv")
    (folder / "scores.csv").write_bytes(published.read_bytes())
    for given, name in [(folder, "baseline"), (folder / "scores.csv", "baseline"), (str(published), "team_E001")]:
        table = tidy_table([given], LISTENERS)
        assert table["system"].unique().tolist() == [name]
        assert table["clipped_share"].isna().all()
        assert table["haaqi"].sum() == pytest.approx(0.9 + 0.7 + 0.6 + 0.5 + 0.4 + 0.2, abs=ROUNDING)


def to_4_and_2_khz() -> dict[str, Listener]:
    """Return two of the listeners without thresholds above 4 and 2 kHz, and the third as it is."""
    people = dict(LISTENERS)
    for name, highest in (("A", 4000), ("B", 2000)):
        part = Audiogram(np.array([20.0, 30.0, 60.0]), np.array([250.0, 500.0, highest]))
        people[name] = Listener(part, part, id=name)
    return people


def test_scores_of_ears_without_a_pure_tone_average_are_counted_and_left_out_of_what_needs_one(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "a", settings=Settings("twin", "valid", "oracle"))
    table = tidy_table([folder], to_4_and_2_khz())
    assert tables.describe(table).endswith("6 scores of ears, 2 of them of ears without a pure-tone average.")
    correlation = correlation_table(table, "pta_db_hl").iloc[0]
    assert (correlation["n_ears"], correlation["n_listeners"]) == (4, 1)
    assert summary_table(table).loc[0, "haaqi"] == pytest.approx((0.8 + 0.55 + 0.3) / 3, abs=ROUNDING)
    assert tables.featured_listener(table)[0] == "A"
    name, sentence = tables.featured_listener(table[table["listener"] == "B"])
    assert (name, sentence[-42:]) == ("B", "in these scores; shown is B: no asymmetry is known."[-42:])


def test_names_of_a_table_are_found_in_another_normal_form_and_told_in_another_case(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "a", [("s1", "song", "Zoe\u0308", 0.5, 0.5, 0.5)], columns=OFFICIAL_COLUMNS)
    people = {"Zo\u00eb": LISTENERS["A"], "zo\u00cb": LISTENERS["B"]}
    for name, listener in people.items():
        people[name] = Listener(listener.audiogram_left, listener.audiogram_right, id=name)
    assert tidy_table([folder], people)["listener"].tolist() == ["Zo\u00eb"] * 2
    with pytest.raises(
        CorpusError, match=r"listener 'Zo\u00eb', who is not in this split .it has 'zo\u00cb'.; give the corpus"
    ):
        tidy_table([folder], {"zo\u00cb": people["zo\u00cb"]})


def test_pair_that_a_table_has_twice_is_named_with_its_lines(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "a", [*ROWS, ROWS[0]])
    with pytest.raises(
        CorpusError, match=rf"^{folder}/scores.csv, line 5 has scene_10001, A .*, which line 2 has already"
    ):
        tidy_table([folder], LISTENERS)


def test_table_may_have_any_suffix(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "a", columns=OFFICIAL_COLUMNS)
    published = (folder / "scores.csv").rename(folder / "team.txt")
    assert tidy_table(published, LISTENERS)["system"].unique().tolist() == ["team"]


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
    with pytest.raises(CorpusError, match=rf"{tmp_path}/scores\.csv has no column 'scene'"):
        tidy_table([tmp_path], LISTENERS)


def test_table_without_an_official_column_names_it(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "a", columns=OFFICIAL_COLUMNS[:4])
    with pytest.raises(CorpusError, match=r"scores\.csv has no column 'right_score'"):
        tidy_table([folder], LISTENERS)


def test_unknown_listener_is_named(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "a")
    with pytest.raises(CorpusError, match=r"scores\.csv, line 3 has the listener 'B', who is not in this split"):
        tidy_table([folder], {"A": LISTENERS["A"]})


def test_scores_given_twice_are_an_error(tmp_path: Path) -> None:
    folder = write_scores(tmp_path / "a", settings=Settings("twin", "valid", "oracle"))
    with pytest.raises(ParameterError, match="Scores called 'oracle' were given twice"):
        tidy_table([folder, folder / "scores.csv"], LISTENERS)


# Summary


def test_summary_mean_is_the_official_mean_over_pairs(tmp_path: Path) -> None:
    first = write_scores(tmp_path / "z", settings=Settings("twin", "valid", "oracle"))
    second = write_scores(tmp_path / "a", [ROWS[1]], Settings("twin", "valid", "mixture"))
    summary = summary_table(tidy_table([first, second], LISTENERS))
    assert list(summary) == [
        "system",
        "n_pairs",
        "n_listeners",
        "n_left_out",
        "haaqi",
        "ci_low",
        "ci_high",
        "clipped_share",
    ]
    assert summary["system"].tolist() == ["oracle", "mixture"]  # as given, not sorted
    assert summary["n_pairs"].tolist() == [3, 1]
    assert summary["n_listeners"].tolist() == [2, 1]
    np.testing.assert_allclose(summary["haaqi"], [(0.8 + 0.55 + 0.3) / 3, 0.55], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(summary["clipped_share"], [1.875 / 6, 0.0625], rtol=0, atol=ROUNDING)
    assert summary.loc[0, "ci_low"] < summary.loc[0, "haaqi"] < summary.loc[0, "ci_high"]
    assert summary.loc[1, ["ci_low", "ci_high"]].isna().all()  # one pair


def test_scores_of_silence_are_told(tmp_path: Path) -> None:
    table = tidy_table([write_scores(tmp_path / "a", ROWS, Settings("twin", "valid", "oracle"))], LISTENERS)
    assert "silent" not in tables.describe(table)
    table.loc[0, "loudness_lufs"] = -np.inf
    assert tables.describe(table).endswith(" scores of ears, 1 of them of a silent signal.")


def test_missing_scores_stay_in_the_table_are_counted_and_left_out_of_means(tmp_path: Path) -> None:
    rows = [ROWS[0], (*ROWS[1][:3], np.nan, np.nan, np.nan, *ROWS[1][6:])]
    table = tidy_table([write_scores(tmp_path / "a", rows, Settings("twin", "valid", "oracle"))], LISTENERS)
    assert len(table) == 4
    said = tables.describe(table)
    assert said == "1 system, 2 listeners, 1 song, 1 scene, 4 scores of ears, 2 of them missing and left out."
    summary = summary_table(table).iloc[0]
    assert summary["haaqi"] == pytest.approx((0.9 + 0.7) / 2, abs=ROUNDING)
    nothing = summary_table(table.assign(haaqi=np.nan)).iloc[0]
    assert (summary["n_left_out"], nothing["n_left_out"]) == (2, 4)
    assert nothing["n_pairs"] == 0
    assert np.isnan(nothing["haaqi"])


def test_frequencies_that_were_not_measured_in_a_listener_are_missing(tmp_path: Path) -> None:
    few = Audiogram(levels=np.array([20.0, 30.0, 40.0]), frequencies=np.array([500.0, 1000.0, 4000.0]))
    listeners = {**LISTENERS, "B": Listener(few, few, id="B")}
    table = tidy_table([write_scores(tmp_path / "a", settings=Settings("twin", "valid", "oracle"))], listeners)
    b = table[table["listener"] == "B"].iloc[0]
    assert b[["threshold_500_hz_db_hl", "threshold_4000_hz_db_hl"]].tolist() == [20, 40]
    assert np.isnan(b["threshold_2000_hz_db_hl"])
    assert b["pta_db_hl"] == pytest.approx((20 + 30 + 35 + 40) / 4)  # 2 kHz interpolated, half way in octaves
    assert tables.threshold_columns(table)[0] == "threshold_250_hz_db_hl"


def test_the_paper_s_listener_is_featured_or_the_most_asymmetric_one(tmp_path: Path) -> None:
    table = tidy_table([write_scores(tmp_path / "a", settings=Settings("twin", "valid", "oracle"))], LISTENERS)
    name, sentence = tables.featured_listener(table)
    assert name == "A"  # N2 and N3 differ by 15 dB, S1 and N1 by 6.25 dB
    assert sentence == (
        "The paper's listener L5000 is not in these scores; shown is A, the most asymmetric one "
        "(right minus left pure-tone average +15.0 dB)."
    )
    assert tables.featured_listener(table, "B")[0] == "B"
    ears = tables.ear_columns(table, "A").set_index("ear")
    assert ears["haaqi"].to_dict() == pytest.approx({"left": (0.9 + 0.4) / 2, "right": (0.7 + 0.2) / 2})
    assert ears["n_scenes"].tolist() == [2, 2]


def test_gain_table_averages_the_scenes_with_a_gain(tmp_path: Path) -> None:
    gains_db = {
        "scene_10001": {"vocals": 6, "drums": 0, "bass": -3, "other": 0},
        "scene_10002": {"vocals": -6, "drums": 0, "bass": 3, "other": 0},
    }
    folder = write_scores(tmp_path / "a", settings=Settings("twin", "valid", "oracle"))
    gains = tables.gain_table(tidy_table([folder], LISTENERS, gains_db)).set_index(["stem", "gain_db"])
    assert gains.loc[("vocals", 6), "haaqi"] == pytest.approx((0.9 + 0.7 + 0.6 + 0.5) / 4)
    assert gains.loc[("vocals", -6), "haaqi"] == pytest.approx(0.3)
    assert np.isnan(gains.loc[("vocals", -6), "ci_low"])  # one listener
    assert gains.loc[("drums", 0), ["n_ears", "n_listeners"]].tolist() == [6, 2]
    assert gains.loc[("drums", 0), "ci_low"] < 0.55 < gains.loc[("drums", 0), "ci_high"]
    assert tables.gain_table(tidy_table([folder], LISTENERS)).empty  # gains are not known


def test_listeners_come_from_the_corpus_or_from_a_file(tmp_path: Path) -> None:
    people, gains_db = tables.listeners_and_gains_db("twin", "valid")
    assert "like-L5000" in people
    assert set(gains_db["scene_10001"]) == {"vocals", "drums", "bass", "other"}
    entry = {"name": "X", "audiogram_cfs": [500, 4000], "audiogram_levels_l": [1, 2], "audiogram_levels_r": [3, 4]}
    write_json(tmp_path / "listeners.json", {"X": entry})
    alone, unknown = tables.listeners_and_gains_db("", "", str(tmp_path / "listeners.json"))
    assert (list(alone), unknown) == (["X"], {})
    (tmp_path / "people.csv").write_text("listener;L500;L4000;R500;R4000\nX;1;2;3;4\n")
    own, gains_db = tables.listeners_and_gains_db("twin", "valid", str(tmp_path / "people.csv"))
    assert own["X"].audiogram_right.levels[[0, -1]].tolist() == [3, 4]
    assert "scene_10001" in gains_db
    with pytest.raises(ParameterError, match="There are no audiograms: give the corpus"):
        tables.listeners_and_gains_db("", "")


def test_data_size_table_averages_runs_and_puts_the_papers_row_beside_them(tmp_path):
    for number, (n_scenes, haaqi) in enumerate([(6, 0.5), (6, 0.6), (24, 0.7), (48, 0.8), (12, 0.65), (5, 0.4)]):
        result = Result(3, 3, 0.1, 0.05, 0.3, haaqi, n_scenes, 24, 0.0)
        write_json(tmp_path / str(number) / "result.json", asdict(result))
    table = tables.data_size_table([tmp_path / str(number) for number in range(6)]).set_index("n_scenes")
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
        tables.data_size_table([tmp_path])
    with pytest.raises(ParameterError, match="No runs were given"):
        tables.data_size_table([])
