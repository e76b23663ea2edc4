"""Studies: YAML files of steps, each a notebook at many points; `load_study` tells what a file holds.

`execution` runs them: each point as soon as those that it reads are finished.
"""

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cadenza_lib.core.errors import ParameterError
from cadenza_lib.core.files import absolute_path, cut_name, file_name, read_text
from cadenza_lib.runs.notebooks import (
    Parameter,
    check_parameters,
    load_yaml,
    named_paths,
    notebook_parameters,
    parse_parameters,
)

__all__ = ["PLACED", "Point", "Step", "Study", "load_study"]

PLACED = re.compile(r"^\{([\w./+-]+)\}")
"""How the parameters of a point name the output directory of an earlier one."""

_PLACEHOLDER = re.compile(r"\{([\w.-]+)\}(/.*)?")  # as written in a study: {step} or {step}/file
_MAX_NAME = 80  # of the directory of a point, in bytes


@dataclass(frozen=True)
class Point:
    """One run of a step."""

    directory: str  # relative to the study's output directory: "<step>", "<step>/<name>" or "<step>/<grid values>"
    parameters: Mapping[str, Any]  # as given; "{evaluate/oracle}" stands for the directory of an earlier point
    name: str = ""  # what people read: the name, or the values that the grid varies
    needs: tuple[str, ...] = ()  # directories of the earlier points that it reads


@dataclass(frozen=True)
class Step:
    """One notebook of a study, with all its points."""

    name: str
    notebook: Path
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Study:
    """A checked study file."""

    name: str
    title: str
    steps: tuple[Step, ...]


def load_study(path: Path | str, overrides: Mapping[str, str] | None = None) -> Study:
    """Load a study and check everything that can be checked before it runs.

    A study file has a `title`, shared `parameters` (for those notebooks which have them) and `steps`. A step has a
    `name`, a `notebook` (relative to the parent of the study's folder, or to its folder), `parameters`, and either a
    `grid` of lists, whose product gives the points, or the `points` themselves as a list of mappings. The values of a
    point name its directory, unless it has a `name`.

    A path `"{name}"`, or `"{name}/file"`, stands for the output directories of all points of the earlier step
    `name`: the list of them for a parameter of type list[NameOrPath], the only one for a NameOrPath, and one after the
    other in a grid.

    Parameters
    ----------
    path : Path or str
        The study file.
    overrides : Mapping[str, str], optional
        Texts of parameters, as typed on a command line, which replace shared ones and those of the steps.

    Raises
    ------
    ParameterError
        If the study breaks a rule, or has a parameter that is unknown or of the wrong type.
    """
    path = absolute_path(path)
    content = _read_yaml(path)
    _check_keys(path, "the study", content, {"title", "parameters", "steps"}, {"steps"})
    shared = _mapping(path, "parameters of the study", content.get("parameters", {}))
    if not isinstance(content["steps"], list) or not content["steps"]:
        raise ParameterError(f"{path} must have a list of at least one step under steps.")
    overrides = overrides or {}
    steps: dict[str, Step] = {}
    unused = set(shared) | set(overrides)
    for index, raw in enumerate(content["steps"]):
        raw = _mapping(path, f"step {index + 1}", raw)
        name = raw.get("name", index + 1)
        _check_keys(
            path, f"step {name}", raw, {"name", "notebook", "parameters", "grid", "points"}, {"name", "notebook"}
        )
        name = _check_name(path, "step", name)
        if name in steps:
            raise ParameterError(f"{path} has two steps named {name}; rename one.")
        notebook = _find_notebook(path, name, raw["notebook"])
        try:
            known = notebook_parameters(notebook)
        except ParameterError as error:
            raise ParameterError(f"{path} cannot run step {name}: {error}") from error
        forced = parse_parameters(notebook, {key: text for key, text in overrides.items() if key in known})
        base = {key: value for key, value in shared.items() if key in known}
        base |= _mapping(path, f"parameters of step {name}", raw.get("parameters", {})) | forced
        unused -= set(known)
        earlier = {step: [point.directory for point in found.points] for step, found in steps.items()}
        varied = _expand(path, name, raw, known, earlier)
        if clash := {key for values in varied for key in values} & set(overrides):
            raise ParameterError(f"{path} varies {', '.join(sorted(clash))} in step {name}; change it there.")
        points = [_point(path, name, notebook, known, base, values, earlier) for values in varied]
        names = [point.directory for point in points]
        if twice := {directory for directory in names if names.count(directory) > 1}:
            raise ParameterError(
                f"{path} has several points called {min(twice)}; make the values of step {name} differ."
            )
        steps[name] = Step(name, notebook, tuple(points))
    if unused:
        raise ParameterError(
            f"{path} has no notebook with the parameter {', '.join(sorted(unused))}; correct its name or leave it out."
        )
    return Study(path.stem, str(content.get("title", path.stem)), tuple(steps.values()))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(read_text(path))
    except FileNotFoundError as error:
        raise ParameterError(f"Study {path} does not exist; check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"Study {path} cannot be read ({error}); check that it is a text file.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise ParameterError(
            f"{path} is not valid YAML{line} ({getattr(error, 'problem', error)}); repair it."
        ) from error
    except (ValueError, RecursionError) as error:  # a date or number without a value, thousands of brackets, aliases
        raise ParameterError(f"{path} cannot be read as YAML ({error}); repair it.") from error
    return _mapping(path, "the study", content)


def _mapping(path: Path, what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ParameterError(f"{path} has {value!r} for {what}; it must be a mapping of names.")
    return value


def _check_keys(path: Path, what: str, value: Mapping[str, Any], allowed: set[str], needed: set[str]) -> None:
    if unknown := set(value) - allowed:
        raise ParameterError(f"{path} has unknown keys in {what}: {sorted(unknown)}; use {sorted(allowed)}.")
    if missing := needed - set(value):
        raise ParameterError(f"{path} lacks {sorted(missing)} in {what}; add it.")


def _find_notebook(path: Path, step: str, name: Any) -> Path:
    candidates = [folder / str(name) for folder in (path.parent.parent, path.parent)]
    for candidate in candidates:
        if os.path.isfile(candidate):  # unlike Path.is_file, no error if a name is too long
            return candidate
    raise ParameterError(
        f"{path} names the notebook {name} in step {step}, which is neither {' nor '.join(map(str, candidates))}."
    )


def _expand(
    path: Path,
    step: str,
    raw: Mapping[str, Any],
    known: Mapping[str, Parameter],
    earlier: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """List the parameters in which the points of a step differ."""
    if "grid" in raw and "points" in raw:
        raise ParameterError(f"{path} has both grid and points in step {step}; use one of them.")
    if "points" in raw:
        if not isinstance(raw["points"], list) or not raw["points"]:
            raise ParameterError(f"{path} must have a list of at least one mapping under points of step {step}.")
        return [_mapping(path, f"a point of step {step}", point) for point in raw["points"]]
    axes = _mapping(path, f"grid of step {step}", raw.get("grid", {}))
    spread = {}
    for name, axis in axes.items():
        values = axis if isinstance(axis, list) else [axis]
        where = (path, step, name)
        spread[name] = [item for value in values for item in _directories(where, value, known, earlier) or [value]]
        is_list = isinstance(axis, list) or spread[name] != [axis]
        if not is_list or not spread[name]:
            raise ParameterError(f"{path} has {axis!r} for {name} in the grid of step {step}; it must be a list.")
    return [dict(zip(spread, values, strict=True)) for values in itertools.product(*spread.values())]


def _directories(
    where: tuple[Path, str, str], value: Any, known: Mapping[str, Parameter], earlier: Mapping[str, Sequence[str]]
) -> list[str] | None:
    """Resolve the placeholder of an earlier step to one of `{directory}` per point; None if `value` has none."""
    path, step, name = where
    match = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
    is_path = name not in known or "NameOrPath" in known[name].annotation
    if match is None or not (is_path or match[1] in earlier):
        return None
    if not is_path:
        raise ParameterError(
            f"{path} has {value} for {name} in step {step}, which is no path; if it should be, the type of {name} in "
            f"the notebook must be NameOrPath."
        )
    if match[1] not in earlier:
        names = ", ".join(earlier) or "none"
        raise ParameterError(f"{path} has {value} in step {step}, which names no earlier step ({names}); correct it.")
    return [f"{{{directory}}}{match[2] or ''}" for directory in earlier[match[1]]]


def _point(
    path: Path,
    step: str,
    notebook: Path,
    known: Mapping[str, Parameter],
    base: Mapping[str, Any],
    values: Mapping[str, Any],
    earlier: Mapping[str, Sequence[str]],
) -> Point:
    values = dict(values)
    label = (
        ""
        if "name" in known or "name" not in values
        else _check_name(path, f"point in step {step}", values.pop("name"))
    )
    parameters: dict[str, Any] = {}
    for name, value in {**base, **values}.items():
        where = (path, step, name)
        directories = _directories(where, value, known, earlier)
        if isinstance(value, list):
            value = [item for element in value for item in _directories(where, element, known, earlier) or [element]]
        elif directories is not None:
            is_list = name in known and "list" in known[name].annotation
            if not is_list and len(directories) != 1:
                raise ParameterError(
                    f"{path} has {value} for {name} in step {step}, which is one directory, but that step has "
                    f"{len(directories)} points; give {notebook.name} a list[NameOrPath], or put it in the grid."
                )
            value = directories if is_list else directories[0]
        parameters[name] = value
    try:
        parameters = check_parameters(notebook, known, parameters)
    except ParameterError as error:
        raise ParameterError(f"{path} cannot run step {step}: {error}") from error
    matches = [match[1] for text in named_paths(known, parameters) if (match := PLACED.match(text))]
    needs = [directory for directory in matches if any(directory in points for points in earlier.values())]
    shown = {name: parameters[name] for name in values}
    last = label or (_slug(shown) if shown else "")
    directory = f"{step}/{last}" if last else step
    label = label or ", ".join(f"{name} = {value}" for name, value in shown.items())
    return Point(directory, parameters, label, tuple(dict.fromkeys(needs)))


def _check_name(path: Path, what: str, name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or file_name(name) != name:
        raise ParameterError(f"{path} has a {what} named {name!r}; use at most 200 letters, digits, '_', '-' and '.'.")
    return name


def _slug(values: Mapping[str, Any]) -> str:
    texts = [json.dumps(value) if isinstance(value, dict | list) else str(value) for value in values.values()]
    slug = "-".join(re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "empty" for text in texts)
    if len(slug.encode()) > _MAX_NAME:
        slug = cut_name(slug, slug, _MAX_NAME)
    return slug
