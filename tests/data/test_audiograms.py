"""Audiograms as people have them: each form means the same; what is supplied is said, what is in doubt refused."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadenza_lib.core.conventions import EARS
from cadenza_lib.core.errors import CorpusError
from cadenza_lib.data import read_audiograms
from cadenza_lib.data.listeners import AUDIOGRAM_FREQUENCIES, Listener, audiogram_table, ear_audiogram
from cadenza_lib.data.population import sample_listeners

Read = Callable[..., tuple[dict[str, Listener], str]]
EXACT_DB = 1e-12  # interpolation of a few thresholds: nothing but rounding of float64
PEOPLE = sample_listeners(3, seed=0)
PEOPLE["listener02"]["audiogram_levels_l"][3] = 22.5


def table(separator: str, header: list[str], *, is_by_ear: bool, comma: bool = False) -> str:
    """Return `PEOPLE` as a table with a row for each ear, or for each listener."""
    rows = [header]
    for name, person in PEOPLE.items():
        left, right = ([f"{level:g}" for level in person[f"audiogram_levels_{ear}"]] for ear in "lr")
        rows += [[name, "Left", *left], [name, "r", *right]] if is_by_ear else [[name, *left, *right]]
    lines = [[cell.replace(".", ",") if comma else cell for cell in row] for row in rows]
    return "".join(separator.join(line) + "\n" for line in lines)


def columns(pattern: str, ears: tuple[str, ...] = ("",)) -> list[str]:
    return [pattern.format(ear=ear, hz=hz, khz=hz / 1000) for ear in ears for hz in AUDIOGRAM_FREQUENCIES]


EAR, LISTENER = ["listener", "ear"], ["listener"]
TABLES = {
    "by ear": table(",", [*EAR, *columns("{hz}")], is_by_ear=True).encode(),
    "by ear, Hz, semicolons": table(";", ["Listener", "EAR", *columns("{hz} Hz")], is_by_ear=True).encode("utf-8-sig"),
    "by ear, kHz, decimal commas": table(";", [*EAR, *columns("{khz:g} kHz")], is_by_ear=True, comma=True).encode(),
    "by ear, k, tabs": table("\t", [*EAR, *columns("{khz:g}K")], is_by_ear=True, comma=True).encode("utf-16"),
    "by listener": table(",", [*LISTENER, *columns("{ear}{hz}", ("L", "R"))], is_by_ear=False).encode(),
    "by listener, words": table(",", [*LISTENER, *columns("{ear}_{hz}", EARS)], is_by_ear=False).encode(),
    "by listener, Hz": table(";", [*LISTENER, *columns("{ear} {hz} Hz", EARS)], is_by_ear=False, comma=True).encode(),
    "by listener, kHz": table(
        ";", [*LISTENER, *columns("{ear}-{khz:g}kHz", ("l", "r"))], is_by_ear=False, comma=True
    ).encode(),
}


def levels(listeners: dict[str, Listener], name: str, ear: str) -> dict[float, float]:
    audiogram = ear_audiogram(listeners[name], ear)
    return dict(zip(audiogram.frequencies.tolist(), audiogram.levels.tolist(), strict=True))


@pytest.fixture
def read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Read:
    """Return a reader of a table or text that also returns what was said."""

    def read_source(content: str, strict: bool = False) -> tuple[dict[str, Listener], str]:
        caplog.clear()
        (tmp_path / "people.csv").write_text(content, encoding="utf-8")
        is_text = ":" in content or "=" in content
        with caplog.at_level(logging.INFO):
            listeners = read_audiograms(content if is_text else tmp_path / "people.csv", strict)
        assert len(caplog.messages) < 2, "one sentence for each file"
        return listeners, caplog.text

    return read_source


# Forms


@pytest.mark.parametrize("case", TABLES)
def test_every_table_means_what_the_challenges_file_means(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "listeners.json").write_text(json.dumps(PEOPLE))
    (tmp_path / "people.csv").write_bytes(TABLES[case])
    expected = read_audiograms(str(tmp_path / "listeners.json"))
    listeners = read_audiograms(tmp_path / "people.csv", strict=True)
    assert audiogram_table(listeners.values()).equals(audiogram_table(expected.values()))
    assert list(listeners) == list(PEOPLE)
    assert not caplog.text


def test_file_of_the_challenge_is_read_by_its_strict_rules(tmp_path: Path) -> None:
    person = {**PEOPLE["listener01"], "audiogram_cfs": [*AUDIOGRAM_FREQUENCIES[:-1], 4000]}
    (tmp_path / "listeners.JSON").write_text(json.dumps({"listener01": person}))
    with pytest.raises(CorpusError, match="must rise; sort it and its levels"):
        read_audiograms(tmp_path / "listeners.JSON")


TEXTS = (
    "L 250:20 500:22.5 1000:30 2000:40 3000:50 4000:60 6000:65 8000:70 "
    "R 250:15 500:15 1000:15 2000:15 3000:15 4000:15 6000:15 8000:-10",
    "left 250:20,500:22.5,1k:30,2k:40,3 kHz:50,4kHz:60,6k:65,8k:70\n"
    "RIGHT 0.25k:15,0,5k:15,1k:15,2k:15,3k:15,4k:15,6k:15,8k:-10",
    "right: 250 Hz=15; 500 Hz=15; 1000 Hz=15; 2000 Hz=15; 3000 Hz=15; 4000 Hz=15; 6000 Hz=15; 8000 Hz=-10\n"
    "left: 250 Hz=20; 500 Hz=22.5; 1000 Hz=30; 2000 Hz=40; 3000 Hz=50; 4000 Hz=60; 6000 Hz=65; 8000 Hz=70\n",
)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_every_spelling_mean_the_same(text: str, caplog: pytest.LogCaptureFixture) -> None:
    own = read_audiograms(text, strict=True)
    assert list(own["own"].audiogram_left.levels) == [20, 22.5, 30, 40, 50, 60, 65, 70]
    assert list(own["own"].audiogram_right.levels) == [15] * 7 + [-10]
    assert own["own"].audiogram_left.frequencies.tolist() == list(AUDIOGRAM_FREQUENCIES)
    assert not caplog.text


def test_table_of_one_person_has_the_name_of_the_file(
    read: Read,
) -> None:
    listeners, _ = read("ear,500,4000\nL,10,20\nR,30,40\n")
    assert list(listeners) == ["people"]
    assert levels(listeners, "people", "right")[500] == 30


def test_columns_of_other_things_are_ignored(read: Read) -> None:
    listeners, _ = read("listener,age,ear,500,PTA 4,4000,note\nA,70,left,10,99,20,NR at 8k\nA,70,right,30,99,40,\n")
    assert levels(listeners, "A", "left")[4000] == 20


# What is supplied, and said


def test_frequencies_that_were_not_measured_lie_on_the_line_and_are_named(
    read: Read,
) -> None:
    listeners, said = read("listener,ear,500,1500,4000\nA,left,10,20,60\nA,right,5,,45\n")
    left = levels(listeners, "A", "left")
    assert sorted(left) == sorted([*AUDIOGRAM_FREQUENCIES, 1500])
    assert (left[250], left[500], left[1500], left[4000], left[8000]) == (10, 10, 20, 60, 60)
    assert left[3000] == pytest.approx(20 + 40 * np.log(3000 / 1500) / np.log(4000 / 1500), abs=EXACT_DB)
    assert levels(listeners, "A", "right")[2000] == pytest.approx(5 + 40 * 2 / 3, abs=EXACT_DB)  # two of three octaves
    assert "people.csv: 250, 1000, 2000, 3000, 6000, 8000 Hz not measured, so taken from the frequencies beside" in said
    assert "them (A left, A right)." in said


@pytest.mark.parametrize(
    ("written", "expected", "hz"),
    [
        *(("NR", 105, 8000), ("nr", 125, 1000), (">100", 105, 1000), ("> 90", 95, 8000), (">120", 125, 2000)),
        *(("105", 105, 8000), ("110", 105, 8000), ("120", 120, 1000), ("100", 100, 8000)),
    ],
)
def test_no_response_is_the_limit_of_the_audiometer_and_a_step(
    written: str, expected: float, hz: int, read: Read
) -> None:
    text = f"L 250:20 {hz}:{written} R 250:20 {hz}:60"
    row = f"listener,L250,L{hz},R250,R{hz}\nown,20,{written},20,60\n"
    is_measured = written in ("100", "120")
    for content in (text, row):
        listeners, said = read(content)
        assert levels(listeners, "own", "left")[hz] == expected
        assert (f"no response at {hz} Hz, taken as {expected} dB HL (own left);" in said) != is_measured
        if is_measured:
            read(content, strict=True)
        else:
            with pytest.raises(CorpusError, match=f"is not complete: no response at {hz} Hz, .* without strict"):
                read(content, strict=True)


@pytest.mark.parametrize("ear", EARS)
def test_ear_that_was_not_measured_is_a_copy(ear: str, read: Read) -> None:
    other = EARS[1 - EARS.index(ear)]
    forms = (
        f"{other} 250:20 8k:60",
        f"listener,ear,250,8000\nown,{other},20,60\n",
        f"listener,ear,250,8000\nown,{other},20,60\nown,{ear},,\n",
        f"listener,{other}250,{other} 8000,{ear}250\nown,20,60,\n",
    )
    for content in forms:
        listeners, said = read(content)
        assert levels(listeners, "own", ear) == levels(listeners, "own", other)
        assert f"not measured, so a copy of the other ear (own {ear});" in said
        with pytest.raises(CorpusError, match=rf"is not complete: .* a copy of the other ear \(own {ear}\)"):
            read(content, strict=True)


MEASURED = st.dictionaries(
    st.sampled_from((125, 250, 500, 750, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12500)),
    st.integers(-20, 160).map(lambda half: half / 2),
    min_size=2,
)


@given(MEASURED, MEASURED)
def test_measured_thresholds_stay_and_all_others_lie_between_them(
    left: dict[int, float], right: dict[int, float]
) -> None:
    ears = [dict(sorted(ear.items())) for ear in (left, right)]
    text = " ".join(
        f"{ear} " + " ".join(f"{hz}:{level}" for hz, level in measured.items())
        for ear, measured in zip(EARS, ears, strict=True)
    )
    own = read_audiograms(text)
    for ear, measured in zip(EARS, ears, strict=True):
        supplied = levels(own, "own", ear)
        assert {hz: supplied[hz] for hz in measured} == measured
        expected = np.interp(np.log10(list(supplied)), np.log10(list(measured)), list(measured.values()))
        np.testing.assert_allclose(list(supplied.values()), expected, rtol=0, atol=EXACT_DB)
        assert {*AUDIOGRAM_FREQUENCIES} <= {*supplied}


# What is refused

HEADER = "listener,ear,250,500\n"
REFUSED = {
    "one frequency": ("listener,ear,250\nA,left,20\nA,right,20\n", r"people\.csv: A left has .* one frequency only"),
    "one frequency, text": ("L 250:20 R 250:20 500:20", r"'L 250:20 R 250:20 500:20': own left has .* one frequency"),
    "words": (HEADER + "A,left,20,good\n", r"line 2 has 'good' at 500 Hz, which is no threshold; .* or NR"),
    "words, text": ("L 250:20 500:x", "has 'x' at 500 Hz, which is no threshold"),
    "not a number": (HEADER + "A,left,20,nan\n", "line 2 has 'nan' at 500 Hz, which is no threshold"),
    "number of Python": (HEADER + "A,left,20,1_0\n", "line 2 has '1_0' at 500 Hz, which is no threshold"),
    "too low": (HEADER + "A,left,20,-10.5\n", "line 2 has '-10.5' at 500 Hz, which lies outside -10 to 120 dB HL"),
    "too high": (HEADER + "A,left,20,121\n", "line 2 has '121' at 500 Hz, which lies outside -10 to 120 dB HL"),
    "limit too high": ("L 250:20 500:>130", "has '>130' at 500 Hz, which lies outside -10 to 120 dB HL"),
    "order": ("listener,ear,500,250\nA,left,20,20\n", "line 2 has 250 Hz after 500 Hz for A, left; .* lowest first"),
    "order, text": ("L 500:20 250:20", "has 250 Hz after 500 Hz for own, left"),
    "frequency twice": ("listener,ear,250,250 Hz\nA,left,20,20\n", "has 250 Hz after 250 Hz for A, left; .* once"),
    "frequency twice, text": ("L 250:20 500:20 R 500:20 L 500:20", "has 500 Hz after 500 Hz for own, left"),
    "column twice": ("listener,ear,250,250\nA,left,20,20\n", "has two columns of one name"),
    "ear twice": (HEADER + "A,left,20,20\nA,L,20,20\n", "line 3 has 250 Hz after 500 Hz for A, left"),
    "listener twice": ("listener,L250,L500\nA,20,20\nA,20,20\n", "line 3 has 250 Hz after 500 Hz for A, left"),
    "frequency in kHz": ("listener,ear,0.25,0.5\nA,left,20,20\n", "line 2 has 0.25 Hz, .* write kHz after"),
    "frequency beyond hearing": ("L 250:20 250k:20", "has 250000 Hz, which lies outside 20 to 20000 Hz"),
    "unknown ear": (HEADER + "A,both,20,20\n", "line 2 has 'both' in the place of an ear; write left or right"),
    "no ear": ("listener,250,500\nA,20,20\n", "line 2 has '' in the place of an ear"),
    "no ear, text": ("250:20 500:20", "has '' in the place of an ear"),
    "no listener": (HEADER + " ,left,20,20\n", "line 2 has no listener"),
    "no thresholds": (HEADER + "A,left,,\n", "listener A has no threshold"),
    "no rows": (HEADER, "people.csv has no audiogram; give it rows and the columns listener, ear, 250"),
    "no frequencies": ("listener,ear\nA,left\n", "people.csv has no audiogram; give it rows and the columns"),
    "nothing": ("", "people.csv has no audiogram"),
    "decimal comma in a text": ("L 250:22,5 500:30", "is no file and has '5 500:30'; write an audiogram as 'L 250"),
    "other text": ("left ear: 250:20", "is no file and has 'left ear: 250:20'"),
    "ear without thresholds": ("L 250:20 500:20 R", "is no file and has 'R'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_audiogram_in_doubt_is_refused_in_one_sentence(case: str, read: Read) -> None:
    content, match = REFUSED[case]
    with pytest.raises(CorpusError, match=match) as caught:
        read(content)
    assert str(caught.value).endswith(".")


def test_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "people.csv", tmp_path / "people.json", "people.csv"):
        with pytest.raises(CorpusError, match=r"people\.(csv|json) does not exist; check the path"):
            read_audiograms(path)
