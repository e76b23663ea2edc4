"""Studies: YAML files of steps, each a notebook at many points; `load_study` reads and checks one.

`execution` runs them: each point as soon as those that it reads are finished.
"""

import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cadenza_lib.core.documents import load_yaml, read_text, validation_message
from cadenza_lib.core.errors import ParameterError
from cadenza_lib.core.paths import absolute_path, cut_name, file_name
from cadenza_lib.runs.parameters import check_parameters, named_paths, notebook_parameters, parse_parameters

__all__ = ["PLACED", "Point", "Step", "Study", "load_study"]

PLACED = re.compile(r"^\{([\w./+-]+)\}")
"""How the parameters of a point name the output directory of an earlier one."""

_PLACEHOLDER = re.compile(r"\{([\w.-]+)\}(/.*)?")  # as written in a study: {step} or {step}/file
_MAX_NAME_BYTES = 80  # of the directory of a point


@dataclass(frozen=True)
class Point:
    """One run of a step."""

    directory: str  # relative to the study's output directory: "<step>", "<step>/<name>" or "<step>/<grid values>"
    parameters: Mapping[str, Any]  # as given; "{evaluate/oracle}" stands for the directory of an earlier point
    name: str = ""  # for people: the name, or the values that the grid varies
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


def _check_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or file_name(name) != name:
        raise ParameterError(f"the name {name!r} must consist of at most 200 letters, digits, '_', '-' and dots.")
    return name


class StepEntry(BaseModel):
    """A step as it is written in a study file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, AfterValidator(_check_name)]
    notebook: str
    parameters: dict[str, Any] = {}
    grid: dict[str, Any] = {}
    points: list[dict[str, Any]] | None = Field(None, min_length=1)


class StudyFile(BaseModel):
    """A study file as it is written."""

    model_config = ConfigDict(extra="forbid", strict=True)

    title: str = ""
    parameters: dict[str, Any] = {}
    steps: list[StepEntry] = Field(min_length=1)


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
    file = _read_file(path)
    overrides = overrides or {}
    steps: dict[str, Step] = {}
    unused = {*file.parameters, *overrides}
    for entry in file.steps:
        try:
            reader = _StepReader(path, entry, steps)
            steps[entry.name] = reader.read(file.parameters, overrides)
        except ParameterError as error:
            raise ParameterError(f"{path} has a wrong step {entry.name}: {error}") from error
        unused -= set(reader.declared)
    if unused:
        raise ParameterError(
            f"{path} has no notebook with the parameter {', '.join(sorted(unused))}; correct its name or leave it out."
        )
    return Study(path.stem, file.title or path.stem, tuple(steps.values()))


def _read_file(path: Path) -> StudyFile:
    try:
        return StudyFile.model_validate(load_yaml(read_text(path)))
    except FileNotFoundError as error:
        raise ParameterError(f"Study {path} does not exist; check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"Study {path} cannot be read ({error}); check that it is a text file.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", error)
        raise ParameterError(f"{path} is not valid YAML{line} ({problem}); repair it.") from error
    except ValidationError as error:
        raise ParameterError(f"{path} is not a study ({validation_message(error)}); correct it.") from error
    except (ValueError, RecursionError) as error:  # an impossible date, thousands of brackets, alias bombs
        raise ParameterError(f"{path} cannot be read as YAML ({error}); repair it.") from error


class _StepReader:
    """Reads one step of a study, whose errors need not name the study or the step."""

    def __init__(self, path: Path, entry: StepEntry, earlier: Mapping[str, Step]) -> None:
        if entry.name in earlier:
            raise ParameterError(f"there are two steps named {entry.name}; rename one.")
        folders = [folder / entry.notebook for folder in (path.parent.parent, path.parent)]
        existing = [notebook for notebook in folders if os.path.isfile(notebook)]  # no error if a name is too long
        if not existing:
            raise ParameterError(f"the notebook is neither {' nor '.join(map(str, folders))}; correct it.")
        self.entry = entry
        self.notebook = existing[0]
        self.declared = notebook_parameters(self.notebook)
        self.earlier = {name: [point.directory for point in step.points] for name, step in earlier.items()}

    def read(self, shared: Mapping[str, Any], overrides: Mapping[str, str]) -> Step:
        """Return the step with its points."""
        varied = self._varied()
        if clash := {name for values in varied for name in values} & set(overrides):
            raise ParameterError(f"it varies {', '.join(sorted(clash))}; change that in the file.")
        texts = {name: text for name, text in overrides.items() if name in self.declared}
        base = {name: value for name, value in shared.items() if name in self.declared}
        base |= self.entry.parameters | parse_parameters(self.notebook, texts)
        points = [self._point(base, values) for values in varied]
        directories = [point.directory for point in points]
        if twice := {directory for directory in directories if directories.count(directory) > 1}:
            raise ParameterError(f"several points are called {min(twice)}; make their values differ.")
        return Step(self.entry.name, self.notebook, tuple(points))

    def _varied(self) -> list[dict[str, Any]]:
        """Return the parameters in which the points differ, a mapping for each point."""
        if self.entry.points is not None:
            if self.entry.grid:
                raise ParameterError("it has both grid and points; use one of them.")
            return self.entry.points
        axes = {}
        for name, axis in self.entry.grid.items():
            values = axis if isinstance(axis, list) else self._directories(name, axis)
            if not values:
                raise ParameterError(f"{name} is {axis!r} in the grid; it must be a list.")
            axes[name] = self._resolved(name, values)
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]

    def _directories(self, name: str, value: Any) -> list[str] | None:
        """Return `{directory}` of each point that a placeholder stands for; None if `value` is not a placeholder."""
        match = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
        is_path = name not in self.declared or "NameOrPath" in self.declared[name].annotation
        if match is None or not (is_path or match[1] in self.earlier):
            return None
        if not is_path:
            raise ParameterError(
                f"{name} is {value}, but not a path; if it should be, its type in the notebook must be NameOrPath."
            )
        if match[1] not in self.earlier:
            raise ParameterError(f"{value} names no earlier step ({', '.join(self.earlier) or 'none'}); correct it.")
        return [f"{{{directory}}}{match[2] or ''}" for directory in self.earlier[match[1]]]

    def _resolved(self, name: str, values: list[Any]) -> list[Any]:
        """Return a list with each placeholder replaced by the directories that it stands for."""
        return [item for value in values for item in self._directories(name, value) or [value]]

    def _resolve(self, name: str, value: Any) -> Any:
        """Return the value of a parameter with placeholders replaced by directories."""
        if isinstance(value, list):
            return self._resolved(name, value)
        directories = self._directories(name, value)
        if directories is None:
            return value
        if name in self.declared and "list" in self.declared[name].annotation:
            return directories
        if len(directories) > 1:
            raise ParameterError(
                f"{name} is {value}, which are {len(directories)} directories; give {self.notebook.name} a "
                f"list[NameOrPath], or put {name} in the grid."
            )
        return directories[0]

    def _point(self, base: Mapping[str, Any], values: Mapping[str, Any]) -> Point:
        values = dict(values)
        name = _check_name(values.pop("name")) if "name" in values and "name" not in self.declared else ""
        parameters = {key: self._resolve(key, value) for key, value in {**base, **values}.items()}
        parameters = check_parameters(self.notebook, self.declared, parameters)
        placed = [match[1] for text in named_paths(self.declared, parameters) if (match := PLACED.match(text))]
        earlier = {directory for directories in self.earlier.values() for directory in directories}
        shown = {key: parameters[key] for key in values}
        folder = name or _slug(shown)
        return Point(
            f"{self.entry.name}/{folder}" if folder else self.entry.name,
            parameters,
            name or ", ".join(f"{key} = {value}" for key, value in shown.items()),
            tuple(dict.fromkeys(directory for directory in placed if directory in earlier)),
        )


def _slug(values: Mapping[str, Any]) -> str:
    """Return the name of a point's directory, made of its values."""
    texts = [json.dumps(value) if isinstance(value, dict | list) else str(value) for value in values.values()]
    slug = "-".join(re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "empty" for text in texts)
    return cut_name(slug, slug, _MAX_NAME_BYTES) if len(slug.encode()) > _MAX_NAME_BYTES else slug
