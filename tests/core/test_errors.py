"""Errors are one line that can be printed and written, whatever they tell of."""

import ast
import pickle
import re
from pathlib import Path

import pytest

import cadenza_lib
from cadenza_lib.core.errors import AudioError, CadenzaError, ParameterError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A plain sentence of /data/my  songs/ä.wav.", "A plain sentence of /data/my  songs/ä.wav."),
        ("It holds a\nb\r\n  c.\n", "It holds a b c."),
        ("It holds \x1b[31m and \ud800 and \0.", "It holds \\x1b[31m and \\ud800 and \\x00."),
    ],
)
def test_message_is_one_line_that_can_be_printed_and_written(text: str, line: str) -> None:
    assert str(CadenzaError(text)) == line
    assert line.isprintable()
    assert line.encode()


def test_long_message_keeps_its_beginning_and_its_remedy() -> None:
    line = str(AudioError(f"/data/x.json holds {'9' * 100_000}; repair it."))
    assert line.startswith("/data/x.json holds 999")
    assert line.endswith("999; repair it.")
    assert len(line) < 1300


def test_no_message_advises_to_delete_what_a_person_has_made_or_paid_for() -> None:
    advice = re.compile(r"\b(delete|erase|remove)\b|\brm ", re.IGNORECASE)
    messages = [
        (path.name, node.value)
        for path in sorted(Path(cadenza_lib.__file__).parent.rglob("*.py"))
        for error in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(error, ast.Call)
        for node in ast.walk(error)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert len(messages) > 1000
    assert [message for message in messages if advice.search(message[1])] == []


def test_message_survives_the_way_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(ParameterError("a\nb.")))
    assert isinstance(error, ParameterError)
    assert str(error) == "a b."
