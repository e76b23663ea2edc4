"""The page of a study: what ran, for how long, and the tables and figures that the notebooks left.

A notebook shows something on the page by writing `report.json` into its output directory: a list of items such as
`{"kind": "table", "file": "summary.csv", "title": "…", "caption": "…"}` or `{"kind": "figure", "file": "x.png",
"title": "…", "caption": "…", "alt": "…"}`. The page needs no network and no second file: figures are embedded, and all
text is escaped. Each executed notebook is converted to HTML beside it, so that its link opens in a browser.
"""

import base64
import csv
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from cadenza_lib.core.documents import read_json, validation_message, write_json
from cadenza_lib.core.errors import CadenzaError, ParameterError
from cadenza_lib.core.files import atomic_path
from cadenza_lib.core.paths import is_inside

__all__ = ["PointResult", "Status", "write_items", "write_page"]

_LOGGER = logging.getLogger(__name__)
_TEMPLATE = Path(__file__).with_name("page.html")
_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}
_MAX_ROWS = 200  # a longer table is data, not something to read

Status = Literal["finished", "kept", "failed", "skipped"]
"""What became of a point; kept: an earlier call has finished it."""


@dataclass(frozen=True)
class PointResult:
    """What became of one point of a study."""

    step: str
    name: str  # the grid values of the point; empty for a step without a grid
    out_dir: Path
    notebook: str  # file name of the executed notebook inside out_dir
    status: Status
    duration_s: float | None = None
    error: str = ""  # one sentence: why it failed, or why it was skipped


class ReportItem(BaseModel):
    """One table or figure of a `report.json`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["table", "figure"]
    file: str
    title: str = ""
    caption: str = ""
    alt: str = ""


def write_items(out_dir: Path, *items: tuple[str, str, str]) -> None:
    """Write the `report.json` of a notebook: file, title and caption of each table (CSV) and figure (picture)."""
    content = [
        {"kind": "table" if file.endswith(".csv") else "figure", "file": file, "title": title, "caption": caption}
        for file, title, caption in items
    ]
    write_json(out_dir / "report.json", content)


def write_page(path: Path | str, title: str, facts: Mapping[str, str], results: Sequence[PointResult]) -> Path:
    """Write the page of a study, complete or not at all, and return its absolute path.

    Parameters
    ----------
    path : Path or str
        Where to write it; links are relative to its directory.
    title : str
        Heading of the page.
    facts : Mapping[str, str]
        Shown under the title: when, where and with what the study ran.
    results : Sequence[PointResult]
        All points, in the order of the steps.
    """
    from jinja2 import Environment  # slow to import

    path = Path(path).resolve()
    sections: dict[str, list[Any]] = {}
    for result in results:
        if items := _report_items(result):
            sections.setdefault(result.step, []).append((result.name, items))
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        facts=facts,
        results=results,
        sections=sections,
        link=cache(lambda result: _notebook_link(result, path.parent)),
        max_rows=_MAX_ROWS,
        is_number=_is_number,
        shorten=_shorten,
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _notebook_link(result: PointResult, root: Path) -> str:
    """Return the address of an executed notebook as HTML, empty if there is none."""
    notebook = result.out_dir / result.notebook
    if result.status == "skipped" or not notebook.is_file():
        return ""
    return quote(Path(os.path.relpath(_convert_to_html(notebook), root)).as_posix())


def _convert_to_html(notebook: Path) -> Path:
    """Convert an executed notebook to HTML beside it; return the notebook itself if that fails."""
    page = notebook.with_suffix(".html")
    if page.is_file() and page.stat().st_mtime >= notebook.stat().st_mtime:
        return page
    from nbconvert.exporters import HTMLExporter  # slow to import

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quiet = logging.Logger("nbconvert", logging.CRITICAL)  # it warns of images without alternative text
            offline = {"require_js_url": "", "mathjax_url": "", "jquery_url": ""}  # the page fetches nothing
            html, _ = HTMLExporter(log=quiet, **offline).from_filename(str(notebook))
        with atomic_path(page) as temporary:
            temporary.write_text(html, encoding="utf-8")
    except Exception as error:  # one notebook that cannot be shown must not lose the page of the whole study
        _LOGGER.warning("%s cannot be converted to HTML (%s); its link opens the notebook itself.", notebook, error)
        return notebook
    return page


def _report_items(result: PointResult) -> list[dict[str, Any]]:
    """Return the tables and figures of a point as the template needs them, or why they cannot be shown."""
    report = result.out_dir / "report.json"
    if result.status not in ("finished", "kept") or not report.is_file():
        return []
    try:
        content = read_json(report)
        if not isinstance(content, list):
            raise ParameterError(f"{report} must hold a list of items.")
    except CadenzaError as error:
        return [_complaint(error)]
    return [_load_item(item, report) for item in content]


def _load_item(content: Any, report: Path) -> dict[str, Any]:
    try:
        item = ReportItem.model_validate(content)
        path = _inside(item.file, report)
        shown = _table(path) if item.kind == "table" else {"picture": _picture(path)}
    except ValidationError as error:
        return _complaint(ParameterError(f"{report} has a wrong item ({validation_message(error)}); correct it."))
    except CadenzaError as error:
        return _complaint(error)
    return {"title": item.title, "caption": item.caption, "alt": item.alt or item.title, "file": path.name, **shown}


def _complaint(error: CadenzaError) -> dict[str, Any]:
    _LOGGER.warning("%s", error)
    return {"error": str(error)}


def _inside(name: str, report: Path) -> Path:
    """Return the file `name` of a run; a page must not carry off files from elsewhere, through links either."""
    path = report.parent / name
    if not is_inside(path, report.parent):
        raise ParameterError(f"{report} names {name!r}, which lies outside of its directory; copy the file into it.")
    if not os.path.isfile(path):  # unlike Path.is_file, it does not fail on a name that is too long
        raise ParameterError(f"{report} names {name!r}, which is not a file in its directory; write it first.")
    return path


def _table(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ParameterError(f"{path} cannot be read as CSV ({error}); write it with pandas or csv.") from error
    return {"header": header, "rows": rows}


def _is_number(cell: str) -> bool:
    with suppress(ValueError):
        float(cell)
        return True
    return False


def _shorten(cell: str) -> str:
    """Return a float with five digits instead of the 17 that pandas writes; whole numbers may be identifiers."""
    return f"{float(cell):.5g}" if _is_number(cell) and "." in cell and len(cell) > 7 else cell


def _picture(path: Path) -> str:
    """Return a picture as the address that embeds it."""
    media_type = _MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise ParameterError(f"{path} is not a figure a browser shows; save it as one of {', '.join(_MEDIA_TYPES)}.")
    return f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
