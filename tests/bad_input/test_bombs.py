"""Small files that stand for much: they are refused before they fill the memory or the day."""

import json
import struct
from pathlib import Path

import pytest
import soundfile
import torch
from damage import accepts
from loaders import LOADERS, SMALL_OPENUNMIX, write_checkpoint
from stubs import write_notebook

from cadenza_lib.audio.acoustics import read_audio
from cadenza_lib.core.conventions import SAMPLE_RATE
from cadenza_lib.core.documents import read_json
from cadenza_lib.runs.parameters import notebook_parameters, parse_parameters
from cadenza_lib.runs.study import load_study
from cadenza_lib.separation import separators

DEEP = 1_000_000
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)
"""A hundred lines that stand for 10^12 values."""


@pytest.mark.parametrize(
    "text",
    [
        "[" * DEEP,
        '{"a":' * DEEP,
        "[" * 5000 + "]" * 5000,
        "9" * DEEP,
        "1e" + "9" * DEEP,
        '"\\ud800"',
        "[NaN]",
        '{"a": 1, "a": 2}',
    ],
)
def test_json_that_is_deep_or_huge_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert not accepts(lambda: read_json(path), str(path))


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"{LAUGHS}{key}: {value}\n"
            for key, value in (("steps", "*a11"), ("title", "x"), ("parameters", "{a: *a11}"))
        ),
        "parameters: &a {a: *a}\nsteps: []\n",
        "steps: " + "[" * 20000,
        "title: 2024-99-99\nsteps: []\n",
        "title: !!python/object/apply:os.getcwd []\nsteps: []\n",
    ],
)
def test_study_with_bombs_of_yaml_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert not accepts(lambda: load_study(path), str(path))


def test_aliases_that_anyone_would_write_are_understood(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "n.ipynb", 'value: int = 0  # v\nout_dir: str = "."  # o')
    path = tmp_path / "study.yaml"
    path.write_text(
        "steps:\n- {name: a, notebook: n.ipynb, parameters: &same {value: 3}}\n"
        "- {name: b, notebook: n.ipynb, parameters: *same}\n"
    )
    assert [step.points[0].parameters for step in load_study(path).steps] == [{"value": 3}] * 2
    assert notebook.exists()


def test_parameter_of_the_command_line_that_is_a_bomb_is_refused(tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "n.ipynb", 'values: list[int] = []  # v\nout_dir: str = "."  # o')
    for text in (f"{{{LAUGHS.strip().replace(chr(10), ', ')}}}", "[" * 20000, "[1, &a [*a]]"):
        assert not accepts(lambda text=text: parse_parameters(notebook, {"values": text}), notebook.name)


@pytest.mark.parametrize(
    "source", ["(" * 5000, "-" * 5000 + "1", "a: int = " + "[" * 300, "a: int = 1\0", "a: int = '''"]
)
def test_notebook_with_parameters_that_break_the_parser_is_refused(source: str, tmp_path: Path) -> None:
    notebook = write_notebook(tmp_path / "n.ipynb", source)
    assert not accepts(lambda: notebook_parameters(notebook), str(notebook))


def test_sound_file_that_promises_gigabytes_is_refused_or_read_as_what_it_holds(tmp_path: Path) -> None:
    wav, flac = tmp_path / "x.wav", tmp_path / "x.flac"
    for path in (wav, flac):
        soundfile.write(path, torch.ones(700, 2).numpy() / 4, SAMPLE_RATE)
    content = bytearray(wav.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", 0xFFFFFFF0)
    wav.write_bytes(content)
    assert accepts(lambda: read_audio(wav, SAMPLE_RATE), str(wav))
    assert read_audio(wav, SAMPLE_RATE).shape == (2, 700)
    content = bytearray(flac.read_bytes())
    content[21] |= 0x0F  # the highest of 36 bits that count samples
    content[22:26] = b"\xff" * 4
    flac.write_bytes(content)
    assert not accepts(lambda: read_audio(flac, SAMPLE_RATE), str(flac))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_checkpoint_whose_header_has_an_impossible_length_is_refused(length: int, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path)
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    assert not accepts(lambda: separators.load_network(str(path)), str(path))


@pytest.mark.parametrize("argument", ["hidden_size", "n_fft", "hop_length", "bandwidth_hz"])
@pytest.mark.parametrize("value", [0, -1, 10**6, 10**12, 2**63])
def test_card_with_an_impossible_size_is_refused(argument: str, value: int, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path)
    card = {"architecture": "openunmix", "arguments": {**SMALL_OPENUNMIX, argument: value}}
    path.with_suffix(".json").write_text(json.dumps(card))
    assert not accepts(lambda: separators.load(str(path), "cpu"), str(path.with_suffix("")))


def test_every_reader_has_a_name_of_its_own() -> None:
    assert len({loader.name for loader in LOADERS}) == len(LOADERS)
