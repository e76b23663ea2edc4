"""Errors are one line that can be printed and written, whatever they tell of."""

import pickle

import pytest

from cadenza_lib.errors import AudioError, CadenzaError, ParameterError


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


def test_message_survives_the_way_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(ParameterError("a\nb.")))
    assert isinstance(error, ParameterError)
    assert str(error) == "a b."
