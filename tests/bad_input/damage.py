"""What disks, downloads, editors and attackers make of a sound file, and what a loader may answer to it."""

import copy
import json
import math
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from hypothesis import strategies as st

from cadenza_lib.core.errors import CadenzaError

HANG_S = 30  # no input of a few kilobytes takes a second
MEMORY_BYTES = 2 << 30  # beyond what the process has already

NAMES = (
    "",
    " ",
    ".",
    "..",
    "../../outside",
    "/etc/passwd",
    "C:\\windows",
    "a/b",
    "~",
    "*",
    "{x}",
    "{{",
    "%s",
    "-rf",
    "\0",
    "two\nlines. And two sentences",
    "\x1b[31mred",
    "\ud800",
    "\N{MUSICAL NOTE}" * 100,
    "ü" * 300,
    "<script>alert(1)</script>",
    "'\"`$(touch x)",
    "twin",
    "nan",
)
"""Texts that are no usual name."""

NUMBERS = (0, -1, 0.5, -0.0, 2**31, 2**63, -(10**400), 10**400, 1e308, 5e-324, math.nan, math.inf, -math.inf)
TOKENS = (
    *("NaN", "-Infinity", "1e400", "-1e400", "9" * 5000, "0x10", "1_000", "null", "true", '"', "{", "}", "[", "]", ","),
    *(
        ":",
        "\\",
        "\\ud800",
        "\0",
        "\N{MUSICAL NOTE}",
        "&a",
        "*a",
        "!!python/object/apply:os.system [date]",
        "<<",
        "---",
    ),
    *("\t", "\n", "'", "#", "? ", "|", "nan", "inf"),
)
"""Pieces of text that mean something to a reader of JSON, YAML, CSV or Python."""

_PLACE = re.compile(r'"[^"\n]*"|[\w.+-]+|[^\w\s]')


def nested(depth: int) -> Any:
    """Return lists within lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


VALUES = (*NAMES, *NUMBERS, None, True, False, [], {}, [None], [[]], {"": None}, {"a": math.nan}, nested(50))


@st.composite
def changed_values(draw: st.DrawFn, sound: Any) -> Any:
    """Change one or two places of a value of JSON or YAML: replaced, left out, doubled, renamed or added."""
    value = {"whole": copy.deepcopy(sound)}
    for _ in range(draw(st.integers(1, 2))):
        container, key = draw(st.sampled_from(list(_places(value))))
        changes = ["replace", "replace", "replace", "wrap"]
        if container is not value:
            changes += ["remove", "double", "rename"] if isinstance(container, dict) else ["remove", "double"]
        change = draw(st.sampled_from(changes))
        if change == "replace":
            container[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif change == "wrap":
            container[key] = draw(st.sampled_from(([container[key]], {"a": container[key]}, str(container[key]))))
        elif change == "remove":
            del container[key]
        elif change == "rename":
            container[draw(st.sampled_from(NAMES))] = container.pop(key)
        elif isinstance(container, dict):
            container[f"{key} "] = copy.deepcopy(container[key])
        else:
            container.append(copy.deepcopy(container[key]))
    return value["whole"]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


@st.composite
def changed_text(draw: st.DrawFn, sound: str) -> bytes:
    """Put something else in the place of one or two pieces of a text."""
    for _ in range(draw(st.integers(1, 2))):
        pieces = list(_PLACE.finditer(sound))
        if not pieces:
            break
        piece = draw(st.sampled_from(pieces))
        new = draw(st.sampled_from(TOKENS))
        sound = sound[: piece.start()] + new + sound[piece.end() * draw(st.booleans()) or piece.start() :]
    return sound.encode("utf-8", "surrogatepass")


@st.composite
def changed_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """Cut, flip, insert, leave out or repeat bytes, more often near the beginning, where headers are."""
    for _ in range(draw(st.integers(1, 3))):
        end = len(sound)
        place = draw(st.one_of(st.integers(0, min(end, 80)), st.integers(0, end)))
        size = draw(st.sampled_from((1, 2, 4, 8, 64)))
        change = draw(st.sampled_from(("cut", "flip", "fill", "fill", "insert", "leave out", "repeat", "recode")))
        if change == "cut":
            sound = sound[:place]
        elif change == "flip" and place < end:
            sound = sound[:place] + bytes([sound[place] ^ (1 << draw(st.integers(0, 7)))]) + sound[place + 1 :]
        elif change == "fill":
            sound = sound[:place] + draw(st.sampled_from((b"\0", b"\xff", b"\x7f"))) * size + sound[place + size :]
        elif change == "insert":
            sound = sound[:place] + draw(st.binary(max_size=8)) + sound[place:]
        elif change == "leave out":
            sound = sound[:place] + sound[place + size :]
        elif change == "repeat":
            sound = sound[:place] + sound
        elif change == "recode":
            text = sound.decode("utf-8", "replace")
            sound = text.encode(draw(st.sampled_from(("utf-16", "utf-8-sig", "latin-1"))), "replace")
    return sound


def damaged_json(sound: bytes) -> st.SearchStrategy[bytes]:
    values = changed_values(json.loads(sound)).map(lambda value: json.dumps(value).encode())
    return st.one_of(values, values, changed_text(sound.decode()), changed_bytes(sound))


def damaged_yaml(sound: bytes) -> st.SearchStrategy[bytes]:
    values = changed_values(yaml.safe_load(sound)).map(lambda value: yaml.safe_dump(value).encode())
    return st.one_of(values, values, changed_text(sound.decode()), changed_bytes(sound))


def damaged_text(sound: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(changed_text(sound.decode()), changed_text(sound.decode()), changed_bytes(sound))


def in_place_of(path: Path) -> Iterator[str]:
    """Put other things than a file where a file was, one after the other, and tell what."""
    path.unlink()
    path.mkdir()
    yield "directory"
    path.rmdir()
    path.symlink_to(path.with_name("nothing"))
    yield "link to nothing"
    path.unlink()
    path.symlink_to(path.name)
    yield "link to itself"
    path.unlink()
    os.mkfifo(path)
    yield "pipe that nobody writes to"
    path.unlink()
    path.symlink_to("/dev/zero")
    yield "device without an end"
    path.unlink()
    yield "nothing"


@contextmanager
def bounded() -> Iterator[None]:
    """Fail what hangs or takes gigabytes, instead of the machine."""

    def hung(*_: object) -> None:
        raise TimeoutError("it hangs")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, limits[1]))
    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def accepts(load: Callable[[], Any], *names: str) -> bool:
    """Tell whether something is loaded, and then it is sound; or else the error is one sentence with one of `names`."""
    try:
        with bounded():
            value = load()
    except CadenzaError as error:
        sentence = str(error)
        assert sentence.isprintable(), sentence
        assert sentence.endswith("."), sentence
        assert len(sentence) < 2000, f"a sentence of {len(sentence)} characters"
        assert any(name in sentence for name in names), f"{sentence!r} names none of {names}"
        return False
    check_finite(value)
    return True


def check_finite(value: Any) -> None:
    """Assert that nothing in a value is NaN or infinite."""
    if isinstance(value, torch.Tensor):
        assert torch.isfinite(value).all()
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
        assert np.isfinite(value).all()
    elif isinstance(value, float):
        assert math.isfinite(value), value
    elif isinstance(value, pd.DataFrame):
        check_finite(value.select_dtypes("number").to_numpy(float))
    elif isinstance(value, dict):
        check_finite(list(value.values()))
    elif isinstance(value, list | tuple | set):
        for item in value:
            check_finite(item)
    elif is_dataclass(value):
        check_finite([getattr(value, field.name) for field in fields(value)])


def tree(root: Path) -> set[str]:
    """Return the names of everything in a directory."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}
