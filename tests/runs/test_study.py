"""Loading studies, of tiny notebooks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from stubs import GOOD

from cadenza_lib.core.errors import ParameterError
from cadenza_lib.runs.study import load_study


def test_grid_is_a_product_and_a_placeholder_spreads_over_it(write_study: Callable[[str], Path]) -> None:
    study = load_study(
        write_study("""
title: Spread
steps:
  - {name: train, notebook: point.ipynb, grid: {value: [1, 2], share: [0, 6e-4]}}
  - {name: use, notebook: point.ipynb, grid: {source: ["", "{train}/model.bin"]}}
  - {name: one, notebook: point.ipynb, points: [{value: 1, weights: [1, 0]}]}
  - {name: read, notebook: point.ipynb, parameters: {source: "{one}/seen.json"}}
""")
    )
    train, use, one, last = study.steps
    assert [point.directory for point in train.points] == [
        "train/1-0.0",
        "train/1-0.0006",
        "train/2-0.0",
        "train/2-0.0006",
    ]
    assert train.points[1].name == "value = 1, share = 0.0006"
    assert train.points[1].parameters == {"value": 1, "share": 6e-4}
    assert [point.parameters["source"] for point in use.points[:2]] == ["", "{train/1-0.0}/model.bin"]
    assert use.points[1].directory == "use/train-1-0.0-model.bin"
    assert use.points[1].needs == ("train/1-0.0",)
    assert len(use.points) == 5
    assert one.points[0].directory == "one/1-1.0-0.0"
    assert last.points[0].directory == "read"
    assert last.points[0].parameters["source"] == "{one/1-1.0-0.0}/seen.json"


def test_only_paths_have_placeholders(write_study: Callable[[str], Path]) -> None:
    steps = """
steps:
  - {name: train, notebook: point.ipynb}
  - {name: use, notebook: point.ipynb, parameters: {source: "{train}/x", label: "%s"}}
"""
    for label in ("{w/o} separation", "{train} 2", "{x}"):
        point = load_study(write_study(steps % label)).steps[1].points[0]
        assert point.parameters == {"source": "{train}/x", "label": label}
        assert point.needs == ("train",)
    with pytest.raises(ParameterError, match=r"step use: label is \{train\}, but not a path; if it should be"):
        load_study(write_study(steps % "{train}"))


def test_parameters_of_the_command_line_win(write_study: Callable[[str], Path]) -> None:
    path = write_study(GOOD)
    assert load_study(path, {"seed": "9", "wait": "false"}).steps[0].points[0].parameters == {
        "seed": 9,
        "wait": False,
        "value": 1,
    }
    with pytest.raises(ParameterError, match="wrong step points: it varies value"):
        load_study(path, {"value": "3"})


STEP = "steps: [{name: a, notebook: point.ipynb%s}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [", r"small\.yaml is not valid YAML in line 1"),
        ("- 1", r"not a study \(the content is \[1\]: input should be a valid dictionary"),
        ("title: x", r"not a study \(steps is missing\)"),
        ("steps: []", r"steps is \[\]: list should have at least 1 item"),
        ("step: []\nsteps: [{name: a, notebook: point.ipynb}]", r"step is \[\]: extra inputs are not permitted"),
        ("steps: [{name: a}]", r"steps\.0\.notebook is missing"),
        ("steps: [{name: ../a, notebook: point.ipynb}]", r"the name '\.\./a' must consist of at most 200 letters"),
        (
            "steps: [{name: a, notebook: nothing.ipynb}]",
            r"step a: the notebook is neither .*nothing\.ipynb nor",
        ),
        (STEP % ", gird: {}", r"steps\.0\.gird is \{\}: extra inputs are not permitted"),
        (STEP % ", grid: {value: [1]}, points: [{}]", r"step a: it has both grid and points"),
        (STEP % ", points: [{name: a/b, value: 1}]", r"step a: the name 'a/b' must consist of at most 200 letters"),
        (STEP % ", grid: {value: 1}", r"step a: value is 1 in the grid; it must be a list"),
        (STEP % ", grid: {value: []}", r"it must be a list"),
        (STEP % ", grid: {value: [1, 1]}", r"several points are called a/1"),
        (STEP % ", grid: {value: [1, x]}", r"wants value as int, not 'x'"),
        (STEP % ", parameters: {valeu: 1}", r"no parameter valeu"),
        (STEP % ", parameters: {source: '{b}'}", r"step a: \{b\} names no earlier step \(none\)"),
        ("parameters: {valeu: 1}\n" + STEP % "", r"no notebook with the parameter valeu"),
        (
            "steps: [{name: a, notebook: point.ipynb}, {name: a, notebook: point.ipynb}]",
            r"two steps named a",
        ),
        (
            "steps: [{name: a, notebook: point.ipynb, grid: {value: [1, 2]}},"
            " {name: b, notebook: point.ipynb, parameters: {source: '{a}'}}]",
            r"step b: source is \{a\}, which are 2 directories; give point\.ipynb a list",
        ),
    ],
)
def test_wrong_study_is_refused_before_anything_runs(
    write_study: Callable[[str], Path], text: str, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        load_study(write_study(text))


def test_point_with_a_name_lies_under_it(write_study: Callable[[str], Path]) -> None:
    study = load_study(
        write_study("""
steps:
  - {name: train, notebook: point.ipynb, points: [{name: small, value: 1, share: 0.1}, {value: 2}]}
  - {name: read, notebook: collect.ipynb, parameters: {points: "{train}"}}
""")
    )
    small, other = study.steps[0].points
    assert (small.directory, small.name) == ("train/small", "small")
    assert small.parameters == {"value": 1, "share": 0.1}
    assert (other.directory, other.name) == ("train/2", "value = 2")
    assert study.steps[1].points[0].parameters == {"points": ["{train/small}", "{train/2}"]}


def test_missing_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"none\.yaml does not exist"):
        load_study(tmp_path / "none.yaml")
