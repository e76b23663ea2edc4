"""Parameters of notebooks: what the `parameters` cell declares, and values that are checked against it.

A notebook has one cell tagged `parameters` with one annotated assignment per line. The cell is read with `ast` and not
with `papermill.inspect_notebook`, which silently skips lines that hold two equals signs or a `|`.
"""

import ast
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Union

import yaml
from pydantic import AfterValidator, FiniteFloat, TypeAdapter, ValidationError, ValidationInfo

from cadenza_lib.core.documents import load_yaml, read_text
from cadenza_lib.core.errors import ParameterError

__all__ = [
    "Parameter",
    "check_parameters",
    "named_paths",
    "notebook_parameters",
    "parse_parameters",
    "replace_paths",
]


@dataclass(frozen=True)
class Parameter:
    """One line of the `parameters` cell of a notebook."""

    annotation: str
    default: Any


def notebook_parameters(notebook: Path | str) -> dict[str, Parameter]:
    """Return the parameters of a notebook, declared by lines such as `n_pairs: int = 0  # how many pairs; 0 is all`.

    Annotations are made of int, float, str, bool, NameOrPath, list[...], dict[str, ...], Union and None; defaults are
    literals.

    Raises
    ------
    ParameterError
        If the notebook cannot be read or its parameters cell breaks these rules.
    """
    notebook = Path(notebook)
    source = _parameters_source(notebook)
    try:
        lines = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ParameterError(f"{notebook} has a parameters cell that is not Python ({error}); repair it.") from error
    parameters = {}
    for line in lines:
        text = ast.unparse(line)
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None):
            raise ParameterError(f"{notebook} has {text!r} in its parameters cell; write it as name: type = default.")
        annotation = ast.unparse(line.annotation)
        try:
            default = _convert(ast.literal_eval(line.value), annotation)
        except (TypeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ParameterError(
                f"{notebook} has {text!r} in its parameters cell; the default must be a literal of that type, and the "
                "type made of int, float, str, bool, NameOrPath, list, dict[str, ...], Union and None."
            ) from error
        parameters[line.target.id] = Parameter(annotation, default)
    return parameters


def _parameters_source(notebook: Path) -> str:
    try:
        cells = json.loads(read_text(notebook))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    except FileNotFoundError as error:
        raise ParameterError(f"Notebook {notebook} does not exist; check the path.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ParameterError(f"{notebook} is not a readable notebook of format 4 ({error!r}); repair it.") from error
    if len(sources) != 1:
        raise ParameterError(f"{notebook} has {len(sources)} cells tagged parameters; it needs exactly one.")
    return sources[0]


def parse_parameters(notebook: Path | str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return texts, as typed on a command line, as values of the types that the notebook declares.

    Raises
    ------
    ParameterError
        If a parameter is unknown or its text is not of its type.
    """
    declared = notebook_parameters(notebook)
    values = {}
    for name, text in texts.items():
        annotation = declared[name].annotation if name in declared else "str"
        try:
            loaded = load_yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            loaded = text
        values[name] = text  # or the last candidate that fits
        for candidate in (loaded, text) if annotation in ("str", "NameOrPath") else (text, loaded):
            with suppress(ValueError):
                values[name] = _convert(candidate, annotation)
    return check_parameters(notebook, declared, values)


def check_parameters(
    notebook: Path | str, declared: Mapping[str, Parameter], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the given parameters in the types that the notebook declares.

    Raises
    ------
    ParameterError
        If a parameter is unknown or of another type, or the notebook has no `out_dir`.
    """
    file = Path(notebook).name
    if "out_dir" not in declared:
        raise ParameterError(f"{file} has no parameter out_dir; add out_dir: str to its parameters cell.")
    checked = {}
    for name, value in given.items():
        if name == "out_dir":
            raise ParameterError(f"{file} gets out_dir from its run, not as a parameter; leave it out.")
        if name not in declared:
            raise ParameterError(
                f"{file} has no parameter {name} (value {value!r}); it has {', '.join(sorted(declared))}."
            )
        try:
            checked[name] = _convert(value, declared[name].annotation)
        except ValueError as error:
            raise ParameterError(
                f"{file} wants {name} as {declared[name].annotation}, not {value!r} "
                f"({type(value).__name__}); correct it."
            ) from error
    return checked


def replace_paths(
    declared: Mapping[str, Parameter], parameters: Mapping[str, Any], replace: Callable[[str], str]
) -> dict[str, Any]:
    """Return checked parameters with each `NameOrPath` replaced, in lists and mappings too."""
    try:
        return {name: _convert(value, declared[name].annotation, replace) for name, value in parameters.items()}
    except ValidationError as error:  # around what `replace` has raised, since the values have been checked
        causes = [details["ctx"]["error"] for details in error.errors() if "error" in details.get("ctx", {})]
        raise causes[0] from error


def named_paths(declared: Mapping[str, Parameter], parameters: Mapping[str, Any]) -> list[str]:
    """Return each `NameOrPath` in checked parameters, without repetitions."""
    paths: dict[str, None] = {}

    def collect(text: str) -> str:
        paths[text] = None
        return text

    replace_paths(declared, parameters, collect)
    return list(paths)


def _replace(text: str, info: ValidationInfo) -> str:
    return info.context(text) if info.context else text


_TYPES = {
    "int": int,
    "float": FiniteFloat,
    "str": str,
    "bool": bool,
    "NameOrPath": Annotated[str, AfterValidator(_replace)],
    "list": list,
    "dict": dict,
    "Union": Union,
}


def _convert(value: Any, annotation: str, replace: Callable[[str], str] | None = None) -> Any:
    """Return a value in an annotated type, with paths replaced; ValueError if it is of another type."""
    return _adapter(annotation).validate_python(value, strict=True, context=replace)


@cache
def _adapter(annotation: str) -> TypeAdapter[Any]:
    """Return the validator of an annotation; TypeError if it is not made of the allowed types."""
    # Papermill turns every key of a mapping into a text.
    if not re.fullmatch(r"[\w\[\], |]+", annotation) or re.search(r"dict(?!\[str, )", annotation):
        raise TypeError(f"{annotation} is not a type of a parameter")
    try:
        return TypeAdapter(eval(annotation, {"__builtins__": {}}, _TYPES))
    except Exception as error:  # of Python or of pydantic, which has several for what is not a type
        raise TypeError(f"{annotation} is not a type of a parameter") from error
