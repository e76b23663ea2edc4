"""Listeners and audiograms: the real 83, hand-computed averages, published standards, and everything that is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cadenza_lib.core.conventions import EARS
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.data.listeners import (
    BISGAARD_FREQUENCIES,
    BISGAARD_THRESHOLDS_DB_HL,
    Audiogram,
    Listener,
    audiogram_table,
    better_ear_pta_db_hl,
    ear_audiogram,
    ear_table,
    load_listeners,
    measurement_note,
    pure_tone_average_db_hl,
    severity_class,
    spread_listeners,
    standard_audiogram,
)
from cadenza_lib.data.tiny import tiny_listener

CHALLENGE_FREQUENCIES = [250, 500, 1000, 2000, 3000, 4000, 6000, 8000]
EXACT_DB = 1e-12  # means of a few thresholds: nothing but rounding of float64


def entry() -> dict[str, Any]:
    """Return a sound entry of a listener file."""
    return {
        "name": "L1",
        "audiogram_cfs": [250, 1000, 4000],
        "audiogram_levels_l": [10, 20, 30],
        "audiogram_levels_r": [15, 25, 35],
    }


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


# Loading


def test_all_83_listeners_of_the_challenge_load(cadenza_mini: Path) -> None:
    path = cadenza_mini / "metadata" / "listeners.train.json"
    listeners = load_listeners(path)
    assert len(listeners) == 83
    for name, raw in json.loads(path.read_text()).items():
        listener = listeners[name]
        assert listener.id == name
        for ear, key in (("left", "audiogram_levels_l"), ("right", "audiogram_levels_r")):
            audiogram = ear_audiogram(listener, ear)
            assert audiogram.frequencies.tolist() == CHALLENGE_FREQUENCIES
            assert audiogram.levels.tolist() == raw[key]


def test_listeners_load_as_pyclarity_loads_them(cadenza_mini: Path) -> None:
    path = cadenza_mini / "metadata" / "listeners.train.json"
    ours, theirs = load_listeners(path), Listener.load_listener_dict(path)
    assert list(ours) == list(theirs)
    for name, listener in ours.items():
        for ear in EARS:
            np.testing.assert_array_equal(ear_audiogram(listener, ear).levels, ear_audiogram(theirs[name], ear).levels)


def test_listeners_keep_the_order_of_the_file(tmp_path: Path) -> None:
    names = ["L3", "L1", "L2"]
    path = write(tmp_path / "listeners.json", {name: entry() | {"name": name} for name in names})
    assert list(load_listeners(path)) == names


def test_thresholds_at_the_bounds_are_accepted(tmp_path: Path) -> None:
    content = {"L1": entry() | {"audiogram_levels_l": [-20, 0, 130]}}
    assert load_listeners(write(tmp_path / "listeners.json", content))["L1"].audiogram_left.levels.max() == 130


def test_listeners_of_other_tools_mean_the_same(tmp_path: Path) -> None:
    plain = load_listeners(write(tmp_path / "plain.json", {"Zo\u00eb": entry() | {"name": "Zo\u00eb"}}))
    other = entry() | {"name": "Zoe\u0308", "audiogram_cfs": [250.0, 1000.0, 4000.0], "birthday": None}
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"Zoe\u0308": other}), encoding="utf-8-sig")
    assert list(load_listeners(path)) == list(plain)
    table = audiogram_table(load_listeners(path).values())
    assert table.equals(audiogram_table(plain.values()))


# Bad audiograms


def change(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda listener: listener | changes


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda listener: {name: value for name, value in listener.items() if name != key}


BAD_AUDIOGRAMS = {
    "no name": (without("name"), "has no name"),
    "no frequencies": (without("audiogram_cfs"), "has no audiogram_cfs"),
    "no left levels": (without("audiogram_levels_l"), "has no audiogram_levels_l"),
    "no right levels": (without("audiogram_levels_r"), "has no audiogram_levels_r"),
    "not an object": (lambda listener: list(listener), "must be an object .* not list"),
    "other name inside": (change(name="L2"), "is called 'L2' inside"),
    "text as level": (change(audiogram_levels_l=[10, "20", 30]), "audiogram_levels_l holds '20'"),
    "null as level": (change(audiogram_levels_r=[10, None, 30]), "audiogram_levels_r holds None"),
    "truth as level": (change(audiogram_levels_r=[10, True, 30]), "audiogram_levels_r holds True"),
    "NaN as level": (change(audiogram_levels_l=[10, float("nan"), 30]), "audiogram_levels_l, item 2 is nan"),
    "infinity as level": (change(audiogram_levels_l=[10, float("inf"), 30]), "audiogram_levels_l, item 2 is inf"),
    "integer beyond all floats": (change(audiogram_levels_l=[10, 10**400, 30]), "audiogram_levels_l, item 2 is 10000"),
    "text as frequency": (change(audiogram_cfs=[250, "1k", 4000]), "audiogram_cfs holds '1k'"),
    "NaN as frequency": (change(audiogram_cfs=[250, float("nan"), 4000]), "audiogram_cfs, item 2 is nan"),
    "levels not a list": (change(audiogram_levels_l=20), "audiogram_levels_l must be a list of numbers, not int"),
    "unsorted frequencies": (change(audiogram_cfs=[1000, 250, 4000]), r"\[1000.0, 250.0, 4000.0\] must rise"),
    "duplicate frequency": (change(audiogram_cfs=[250, 250, 4000]), r"\[250.0, 250.0, 4000.0\] must rise"),
    "zero frequency": (change(audiogram_cfs=[0, 1000, 4000]), r"\[0.0, .* above 0 Hz"),
    "one frequency": (change(audiogram_cfs=[1000]), "at least two frequencies"),
    "no frequency": (change(audiogram_cfs=[]), "at least two frequencies"),
    "too few levels": (change(audiogram_levels_r=[15, 25]), "audiogram_levels_r has 2 thresholds for 3 frequencies"),
    "too many levels": (change(audiogram_levels_l=[1, 2, 3, 4]), "audiogram_levels_l has 4 thresholds for 3"),
    "frequencies in kHz": (
        change(audiogram_cfs=[0.25, 1, 4]),
        r"audiogram_cfs \[0.25, 1.0, 4.0\] must be frequencies in Hz, from 20 to 20000; they look like kHz, so",
    ),
    "one frequency in kHz": (
        change(audiogram_cfs=[0.25, 1000, 4000]),
        "in Hz, from 20 to 20000; correct the audiogram",
    ),
    "frequency in mHz": (change(audiogram_cfs=[250, 1000, 4e6]), "in Hz, from 20 to 20000; correct the audiogram"),
    "level too high": (change(audiogram_levels_r=[15, 25, 130.5]), "right threshold 130.5 dB HL lies outside -20 to"),
    "level too low": (change(audiogram_levels_l=[-20.5, 20, 30]), "left threshold -20.5 dB HL lies outside -20 to"),
}


@pytest.mark.parametrize(("damage", "match"), BAD_AUDIOGRAMS.values(), ids=BAD_AUDIOGRAMS)
def test_bad_audiogram_is_one_sentence_with_file_and_listener(
    damage: Callable[[dict[str, Any]], Any], match: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "listeners.json", {"L1": damage(entry())})
    with pytest.raises(CorpusError, match=match) as caught:
        load_listeners(path)
    message = str(caught.value)
    assert message.startswith((f"{path}: listener L1", f"{path} cannot be read as JSON (L1, "))
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("content", [{}, [], None, "L1", 3])
def test_file_without_listeners_is_refused(content: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "listeners.json", content)
    with pytest.raises(CorpusError, match=f"{path} must hold a non-empty object of listeners"):
        load_listeners(path)


# Averages and severity


def test_pta_of_the_first_listener_equals_the_hand_computed(cadenza_mini: Path) -> None:
    listener = load_listeners(cadenza_mini / "metadata" / "listeners.train.json")["L0001"]
    left, right = (pure_tone_average_db_hl(ear_audiogram(listener, ear)) for ear in EARS)
    assert left == pytest.approx((45 + 35 + 45 + 65) / 4, abs=EXACT_DB)
    assert right == pytest.approx((40 + 45 + 45 + 65) / 4, abs=EXACT_DB)
    assert better_ear_pta_db_hl(listener) == left
    assert severity_class(left) == "moderate"


def test_threshold_between_measured_frequencies_lies_on_the_log_frequency_line() -> None:
    audiogram = Audiogram(levels=np.array([0.0, 20.0]), frequencies=np.array([250.0, 4000.0]))
    assert pure_tone_average_db_hl(audiogram, [1000]) == pytest.approx(10.0, abs=EXACT_DB)  # two of four octaves
    assert pure_tone_average_db_hl(audiogram, [500, 2000]) == pytest.approx((5 + 15) / 2, abs=EXACT_DB)


def test_better_ear_may_be_the_right_one() -> None:
    listener = Listener(standard_audiogram("N5"), standard_audiogram("N2"), id="right is better")
    assert better_ear_pta_db_hl(listener) == pure_tone_average_db_hl(standard_audiogram("N2")) == 31.25


@pytest.mark.parametrize(
    ("pta_db_hl", "name"),
    [
        (-10.0, "none"),
        (19.99, "none"),
        (20.0, "mild"),
        (34.99, "mild"),
        (35.0, "moderate"),
        (49.99, "moderate"),
        (50.0, "moderately severe"),
        (64.99, "moderately severe"),
        (65.0, "severe"),
        (79.99, "severe"),
        (80.0, "profound"),
        (94.99, "profound"),
        (95.0, "complete"),
        (130.0, "complete"),
    ],
)
def test_severity_changes_at_the_who_borders(pta_db_hl: float, name: str) -> None:
    assert severity_class(pta_db_hl) == name


def test_no_number_has_no_severity() -> None:
    with pytest.raises(ParameterError, match="nan dB HL has no severity class"):
        severity_class(float("nan"))


# Standard audiograms

# Means of 500, 1000, 2000 and 4000 Hz in table 2 (flat) and table 4 (steep) of Bisgaard et al. 2010, by hand.
BISGAARD_PTA_DB_HL = {
    "N1": (10 + 10 + 15 + 30) / 4,
    "N2": (20 + 25 + 35 + 45) / 4,
    "N3": (35 + 40 + 50 + 60) / 4,
    "N4": (55 + 55 + 65 + 75) / 4,
    "N5": (70 + 75 + 80 + 80) / 4,
    "N6": (80 + 85 + 90 + 100) / 4,
    "N7": (95 + 105 + 105 + 105) / 4,
    "S1": (10 + 10 + 15 + 55) / 4,
    "S2": (20 + 25 + 55 + 95) / 4,
    "S3": (35 + 60 + 75 + 80) / 4,
}


@pytest.mark.parametrize("name", BISGAARD_PTA_DB_HL)
def test_standard_audiogram_has_the_published_pta(name: str) -> None:
    assert pure_tone_average_db_hl(standard_audiogram(name)) == pytest.approx(BISGAARD_PTA_DB_HL[name], abs=EXACT_DB)


def test_standard_audiograms_are_bisgaards_ten() -> None:
    assert set(BISGAARD_THRESHOLDS_DB_HL) == set(BISGAARD_PTA_DB_HL)


def test_standard_audiogram_n4_equals_the_publication_at_every_frequency() -> None:
    n4 = standard_audiogram("N4")
    published = {250: 55, 375: 55, 500: 55, 750: 55, 1000: 55, 1500: 60, 2000: 65, 3000: 70, 4000: 75, 6000: 80}
    assert dict(zip(n4.frequencies[:-1], n4.levels[:-1], strict=True)) == published


@pytest.mark.parametrize("name", BISGAARD_PTA_DB_HL)
def test_standard_audiogram_never_falls_with_frequency_and_8_khz_repeats_6_khz(name: str) -> None:
    audiogram = standard_audiogram(name)
    assert (np.diff(audiogram.levels) >= 0).all()
    assert audiogram.frequencies.tolist() == list(BISGAARD_FREQUENCIES)
    assert audiogram.levels[-1] == audiogram.levels[-2]


def test_unknown_standard_audiogram_is_an_error() -> None:
    with pytest.raises(ParameterError, match=r"Standard audiogram 'N8' is unknown; use one of .*'S3'"):
        standard_audiogram("N8")


def test_unknown_ear_is_an_error() -> None:
    with pytest.raises(ParameterError, match="Ear 'middle' is unknown"):
        ear_audiogram(tiny_listener(), "middle")


# Tables


def test_audiogram_table_has_one_row_per_listener_ear_and_frequency(cadenza_mini: Path) -> None:
    table = audiogram_table(load_listeners(cadenza_mini / "metadata" / "listeners.train.json").values())
    assert list(table) == ["listener", "ear", "frequency", "threshold_db_hl"]
    assert len(table) == 83 * 2 * len(CHALLENGE_FREQUENCIES)
    one = table.query("listener == 'L0001' and ear == 'right' and frequency == 6000")
    assert one["threshold_db_hl"].tolist() == [80.0]


MEASURED = {250: 20, 500: 20, 1000: 30, 2000: 40, 3000: 55, 4000: 65, 6000: 70, 8000: 75}


def measured_to(highest: float, lowest: float = 250) -> Listener:
    """Return a listener with thresholds, the same in both ears, in part of the frequencies."""
    part = {frequency: level for frequency, level in MEASURED.items() if lowest <= frequency <= highest}
    audiogram = Audiogram(levels=np.array(list(part.values()), float), frequencies=np.array(list(part), float))
    return Listener(audiogram, audiogram, id=f"{lowest:g}-{highest:g}")


NAN = float("nan")


@pytest.mark.parametrize(
    ("lowest", "highest", "pta", "low", "high", "slope", "severity"),
    [
        (250, 8000, 38.75, 30, (40 + 55 + 65 + 70 + 75) / 5, 15, "moderate"),
        (250, 6000, 38.75, 30, 57.5, 15, "moderate"),
        (250, 4000, 38.75, 30, 160 / 3, 15, "moderate"),
        (250, 2000, NAN, 30, 40, NAN, None),
        (250, 1000, NAN, NAN, NAN, NAN, None),
        (1000, 8000, NAN, NAN, 61, NAN, None),
    ],
)
def test_averages_and_slope_are_over_measured_thresholds_alone(
    lowest: float, highest: float, pta: float, low: float, high: float, slope: float, severity: str | None
) -> None:
    table = ear_table([measured_to(highest, lowest)])
    columns = ["pta_db_hl", "low_db_hl", "high_db_hl", "slope_db_per_octave", "better_ear_pta_db_hl"]
    for row in table[columns].to_numpy(float):
        np.testing.assert_allclose(row, [pta, low, high, slope, pta], rtol=0, atol=EXACT_DB)
    assert table["severity"].isna().all() if severity is None else (table["severity"] == severity).all()


def test_better_ear_is_unknown_if_one_ear_is() -> None:
    listener = Listener(measured_to(2000).audiogram_left, standard_audiogram("N2"), id="half")
    assert np.isnan(better_ear_pta_db_hl(listener))


def test_note_counts_the_listeners_whose_averages_mean_something_else() -> None:
    people = [measured_to(highest) for highest in (8000, 6000, 4000, 4000, 2000)]
    assert measurement_note(people[:1]) == ""
    assert measurement_note(people) == (
        "4 of 5 listeners are not measured to 8 kHz (1 to 2 kHz, 2 to 4 kHz, 1 to 6 kHz), so their high-frequency "
        "average ends there; 1 of 5 have no pure-tone average and slope, which need thresholds from 0.5 to 4 kHz"
    )


def test_listeners_without_a_pure_tone_average_are_not_chosen_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    people = {one.id: one for one in (measured_to(2000), measured_to(6000), tiny_listener())}
    assert spread_listeners(people, 2, ["250-2000"]) == ["250-6000", "tiny"]
    assert "1 of 3 listeners have no pure-tone average." in caplog.text
    with pytest.raises(ParameterError, match="n_listeners 3 must lie between 1 and 2, those with a pure-tone"):
        spread_listeners(people, 3)


def test_ear_table_holds_hand_computed_averages() -> None:
    table = ear_table([tiny_listener()]).set_index("ear")  # N2 on the left, N3 on the right
    assert list(table) == [
        "listener",
        "pta_db_hl",
        "low_db_hl",
        "high_db_hl",
        "slope_db_per_octave",
        "asymmetry_db",
        "better_ear_pta_db_hl",
        "severity",
    ]
    expected = {
        "pta_db_hl": (31.25, 46.25),
        "low_db_hl": ((20 + 25 + 35) / 3, (35 + 40 + 50) / 3),
        "high_db_hl": ((35 + 40 + 45 + 50 + 50) / 5, (50 + 55 + 60 + 65 + 65) / 5),
        "slope_db_per_octave": ((45 - 20) / 3, (60 - 35) / 3),
        "asymmetry_db": (15.0, 15.0),
        "better_ear_pta_db_hl": (31.25, 31.25),
    }
    for column, values in expected.items():
        np.testing.assert_allclose(table.loc[list(EARS), column], values, rtol=0, atol=EXACT_DB)
    assert table["severity"].tolist() == ["mild", "mild"]
    assert table["listener"].tolist() == ["tiny", "tiny"]
