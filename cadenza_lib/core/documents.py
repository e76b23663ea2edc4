"""Checked reading of JSON and YAML: finite numbers, proper text, unique keys, and objects as typed dataclasses."""

import codecs
import json
import math
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import atomic_path
from cadenza_lib.core.paths import normal_form, regular_file

__all__ = [
    "as_tuples",
    "fill",
    "load_yaml",
    "parse_json",
    "read_json",
    "read_metadata",
    "read_text",
    "validation_message",
    "write_json",
]

_MAX_YAML_VALUES = 100_000

Kind = TypeVar("Kind")


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 as spreadsheets write it, without its byte order mark.

    Raises
    ------
    OSError, UnicodeError
        If it cannot be read.
    """
    with regular_file(path).open("rb") as file:
        is_utf_16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return path.read_text(encoding="utf-16" if is_utf_16 else "utf-8-sig")


def parse_json(text: str) -> Any:
    """Return the content of a JSON text, in which all numbers are finite and no object has a key twice.

    Raises
    ------
    ValueError, RecursionError
        If the text is not JSON, breaks these rules, or has a lone surrogate, which no file can hold.
    """
    content = json.loads(text, object_pairs_hook=_unique)
    _check_values(content)
    return content


def _check_values(value: Any, *place: str) -> None:
    """Raise ValueError, which names the place, if JSON holds a number that is not finite, or a lone surrogate."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_values(key, *place)
            _check_values(item, *place, key)
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            _check_values(item, *place, f"item {number}")
    elif isinstance(value, str):
        value.encode()  # fails on lone surrogates
    elif isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        raise ValueError(f"{', '.join(place) or 'the content'} is {str(value)[:20]}, which is not a finite number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice in one place")
    return content


def read_json(path: Path | str) -> Any:
    """Read a JSON file; see `parse_json`.

    Raises
    ------
    CorpusError
        If the file is missing, unreadable or not JSON.
    """
    path = Path(path)
    try:
        return parse_json(read_text(path))
    except FileNotFoundError as error:
        raise CorpusError(f"{path} does not exist; check the path, or data/README.md for the expected tree.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} cannot be read ({error}); check that it is a readable text file.") from error
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"{path} is not valid JSON (line {error.lineno}: {error.msg}); repair it or download it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path} cannot be read as JSON ({error}); repair it or download it again.") from error


def read_metadata(path: Path | str) -> Any:
    """Read a JSON file with all texts in `normal_form`, so that names are equal however they were typed.

    Raises
    ------
    CorpusError
        As `read_json`, or if two keys of an object differ only in their normal form.
    """
    text = json.dumps(read_json(path), ensure_ascii=False)  # without escapes, whose normal form is unknown
    try:
        return parse_json(normal_form(text))
    except ValueError as error:
        raise CorpusError(f"{path} cannot be used ({error}, in two spellings of Unicode); rename one.") from error


def write_json(path: Path | str, content: Any, *, official: bool = False) -> None:
    """Write `content` as JSON, completely or not at all; `official`: byte by byte as the challenge's scripts do.

    Raises
    ------
    ParameterError
        If a number is NaN or infinite, a text has a lone surrogate, or the directory cannot be written.
    """
    try:
        text = json.dumps(content, indent=4, allow_nan=False, ensure_ascii=official) + "\n" * (not official)
        encoded = text.encode()
    except ValueError as error:
        raise ParameterError(f"{path} is not written ({error}); give finite numbers and proper text.") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded)


def fill(kind: type[Kind], content: Any, *, further_keys: bool = False) -> Kind:
    """Return a dataclass made of an object of JSON, whose values must have the types of the fields.

    Numbers become those of their field, since other tools write 4.0 for 4 and -30 for -30.0.

    Parameters
    ----------
    kind
        The dataclass.
    content
        The object.
    further_keys
        Whether unknown keys are ignored, as is right for metadata; in settings they would be mistakes.

    Raises
    ------
    TypeError
        If it is not an object, or a field is missing, unknown, of another type or refused by the dataclass.
    """
    text = json.dumps(_whole_numbers(content))
    try:
        return _adapter(kind).validate_json(  # type: ignore[arg-type]
            text, strict=True, extra="ignore" if further_keys else "forbid"
        )
    except ValidationError as error:
        raise TypeError(validation_message(error)) from error


@cache
def _adapter(kind: type[Kind]) -> TypeAdapter[Kind]:
    return TypeAdapter(kind)


def _whole_numbers(value: Any) -> Any:
    """Return JSON with integers instead of whole floats: strict validation takes them for fields of either type."""
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole_numbers(item) for item in value]
    is_whole = isinstance(value, float) and value.is_integer() and str(value) != "-0.0"
    return int(value) if is_whole else value


def validation_message(error: ValidationError) -> str:
    """Return the first complaint of a validation: which value it is about, and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    if "error" in first.get("ctx", {}):
        return str(first["ctx"]["error"]).rstrip(".")
    place = ".".join(map(str, first["loc"])) or "the content"
    problem = first["msg"][0].lower() + first["msg"][1:]
    return f"{place} is missing" if first["type"] == "missing" else f"{place} is {first['input']!r}: {problem}"


def as_tuples(value: Any) -> Any:
    """Return nested lists as nested tuples; anything else as it is."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


class _YamlLoader(yaml.SafeLoader):
    """Loads plain data, and 6e-4 as a number: YAML 1.1 takes it for a text."""


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """Return the plain data in a text of YAML.

    Raises
    ------
    yaml.YAMLError, ValueError, RecursionError
        If the text is not YAML, or its aliases expand to an unreasonable size.
    """
    content = yaml.load(text, _YamlLoader)
    if _count_values(content, {}) > _MAX_YAML_VALUES:
        raise ValueError(f"its aliases expand to more than {_MAX_YAML_VALUES} values, or refer to themselves")
    return content


def _count_values(value: Any, counts: dict[int, float]) -> float:
    """Return the number of values with every alias expanded; infinity if a value contains itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in counts:
        counts[id(value)] = math.inf  # until its items are counted
        items = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count_values(item, counts) for item in items)
    return counts[id(value)]
