"""Parameters of notebooks and arguments of the library: whatever is given, the answer is a value or one sentence."""

import math
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from damage import NAMES, NUMBERS, TOKENS, VALUES, accepts, changed_text
from hypothesis import given
from hypothesis import strategies as st

from cadenza_lib.chain.pipeline import ChainSettings, enhance
from cadenza_lib.data.audiograms import read_audiograms
from cadenza_lib.data.listeners import Listener, spread_listeners, standard_audiogram
from cadenza_lib.data.opening import open_corpus
from cadenza_lib.data.scenes import choose_pairs, sample_scene_listeners, sample_scenes
from cadenza_lib.data.tiny import tiny_song
from cadenza_lib.runs.parameters import check_parameters, notebook_parameters, parse_parameters
from cadenza_lib.scoring import optimiser, sweep
from cadenza_lib.training.files import Config

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
_OF_ANNOTATION = {"int": int, "float": float, "str": str, "bool": bool}


@pytest.fixture(params=NOTEBOOKS, ids=lambda notebook: notebook.stem)
def notebook(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_no_notebook_takes_a_value_of_another_type(notebook: Path, count_input: Callable[[str, bool], None]) -> None:
    known = notebook_parameters(notebook)
    for name, parameter in known.items():
        for value in VALUES:
            check = partial(check_parameters, notebook, known, {name: value})
            accepted = accepts(check, notebook.name)
            count_input("values of parameters", accepted)
            if accepted and parameter.annotation in _OF_ANNOTATION:
                assert type(check()[name]) is _OF_ANNOTATION[parameter.annotation]


def test_no_notebook_takes_a_parameter_that_it_does_not_have(
    notebook: Path, count_input: Callable[[str, bool], None]
) -> None:
    for name in NAMES:
        accepted = accepts(lambda name=name: parse_parameters(notebook, {name: "1"}), notebook.name)
        count_input("names of parameters", accepted)
        assert not accepted


def test_texts_of_the_command_line_become_values_or_are_refused(
    notebook: Path, count_input: Callable[[str, bool], None]
) -> None:
    for name in notebook_parameters(notebook):
        for text in (*NAMES, *TOKENS, *map(str, NUMBERS), "[1, .nan]", "{a: [", "2024-99-99", "!!int x", "1:60:61"):
            accepted = accepts(lambda name=name, text=text: parse_parameters(notebook, {name: text}), notebook.name)
            count_input("texts of parameters", accepted)


# The library's own arguments, of the right types, as notebooks and scripts give them

WHOLE = st.sampled_from((-(2**63), -1, 0, 1, 2, 3, 1000, 2**31, 2**64))
REAL = st.sampled_from([float(number) for number in NUMBERS if abs(number) < 10**309 or number != number])
TEXT = st.sampled_from((*(name for name in NAMES if name != "\ud800"), "stems", "amplified", "32-true", "train"))
AUDIOGRAM = st.one_of(
    st.lists(st.sampled_from(("L ", "right:", "250:20 ", "500:>9,", "1k=3.5;", "8 kHz:NR\n", "k"))).map("".join),
    changed_text("L 250:20 1k=30.5, 8 kHz:NR\nright 500:>90; 4000:-5").map(bytes.decode),
)
_STRATEGIES = {int: WHOLE, float: REAL, str: TEXT, bool: st.booleans()}

CORPUS = open_corpus("twin")
SPLIT = CORPUS.split("valid")
SONG = tiny_song(0.5)
LISTENER = Listener(standard_audiogram("N2"), standard_audiogram("N3"), id="x")

CALLS: dict[str, tuple[Callable[..., Any], tuple[st.SearchStrategy[Any], ...]]] = {
    "choose_pairs": (lambda n, seed: choose_pairs(SPLIT.scene_listeners, n, seed), (WHOLE, WHOLE)),
    "search_and_test": (
        lambda n, m, seed: sweep.search_and_test(CORPUS, "valid", "test", n, m, seed),
        (WHOLE, WHOLE, WHOLE),
    ),
    "spread_listeners": (lambda n, name: spread_listeners(SPLIT.listeners, n, [name]), (WHOLE, TEXT)),
    "sample_scenes": (lambda n: sample_scenes(SPLIT.songs, CORPUS.gains, CORPUS.head_positions, n), (WHOLE,)),
    "sample_scene_listeners": (lambda n: sample_scene_listeners(SPLIT.scenes, SPLIT.listeners, n), (WHOLE,)),
    "split": (CORPUS.split, (TEXT,)),
    "read_audiograms": (read_audiograms, (AUDIOGRAM,)),
    "Space": (
        lambda n, share, low, high: optimiser.Space(n, share, (low, high)).bounds(),
        (st.sampled_from((-1, 0, 1, 3)), REAL, REAL, REAL),
    ),
    "simplex_grid": (sweep.simplex_grid, (st.sampled_from((-1, 0, 1, 3)), st.sampled_from((-1, 0, 1, 4)))),
    "enhance": (
        lambda share, level, place, prescription, stage, reference: (
            enhance(
                SONG,
                [SONG.stems],
                CORPUS.gains_db(next(iter(SPLIT.scenes.values()))),
                LISTENER,
                ChainSettings(
                    mixture_weight=share,
                    output_level_db=level,
                    mixture_into=place,
                    prescription=prescription,
                    output_stage=stage,
                    reference=reference,
                ),
            ).signal
        ),
        (
            *(REAL, REAL, TEXT, st.sampled_from(("nal_r", "none", "x", ""))),
            *(st.sampled_from(("soft_clip", "limiter", "compressor", "none", "x")), st.sampled_from(("same", "x"))),
        ),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_argument_out_of_bounds_is_refused(name: str, count_input: Callable[[str, bool], None]) -> None:
    call, strategies = CALLS[name]

    @given(st.tuples(*strategies))
    def checked(arguments: tuple[Any, ...]) -> None:
        count_input("arguments", accepts(lambda: call(*arguments), ""))

    checked()


def test_configuration_out_of_bounds_is_refused(count_input: Callable[[str, bool], None]) -> None:
    kinds = {field.name: field.type for field in fields(Config) if field.type in _STRATEGIES}

    @given(st.sampled_from(sorted(kinds)).flatmap(lambda name: st.tuples(st.just(name), _STRATEGIES[kinds[name]])))
    def checked(change: tuple[str, Any]) -> None:
        accepted = accepts(lambda: Config(**dict([change])), "")
        count_input("arguments", accepted)
        assert not accepted or not isinstance(change[1], float) or math.isfinite(change[1])

    checked()
