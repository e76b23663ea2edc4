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
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from cadenza_lib.core.errors import CadenzaError, ParameterError
from cadenza_lib.core.files import atomic_path, is_inside, read_json, write_json

__all__ = ["PointResult", "write_items", "write_page"]

_LOGGER = logging.getLogger(__name__)
_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}
_ITEM_KEYS = {"kind", "file", "title", "caption", "alt"}
_MAX_ROWS = 200  # a longer table is data, not something to read

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2733; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d5dbe3; } h3, h4 { margin: 1.5rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: #5a6675; } dd { margin: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid #e3e8ee; text-align: left; vertical-align: top; }
th { background: #f4f6f9; } td.number { text-align: right; } table.data td { white-space: nowrap; }
figure { margin: 1rem 0 2rem; } img { max-width: 100%; height: auto; } figcaption { color: #46515f; }
.failed { color: #a30d1f; font-weight: 600; } .skipped { color: #8a5a00; } .finished, .kept { color: #13693a; }
"""


@dataclass(frozen=True)
class PointResult:
    """What became of one point of a study."""

    step: str
    name: str  # the grid values of the point; empty for a step without a grid
    out_dir: Path
    notebook: str  # file name of the executed notebook inside out_dir
    status: Literal["finished", "kept", "failed", "skipped"]  # kept = finished by an earlier call
    duration_s: float | None = None
    error: str = ""  # one sentence: why it failed, or why it was skipped


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
    path = Path(path).resolve()
    body = [f"<h1>{escape(title)}</h1>", "<dl>"]
    body += [f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()]
    body += ["</dl>", "<h2>Points</h2>", '<div class="scroll"><table>']
    body += ["<tr><th>step</th><th>point</th><th>status</th><th>duration</th><th>notebook</th></tr>"]
    body += [_point_row(result, path.parent) for result in results]
    body += ["</table></div>"]
    for step, points in groupby(results, key=lambda result: result.step):
        shown = [section for point in points if (section := _report(point))]
        if shown:
            body += [f"<h2>{escape(step)}</h2>", *shown]
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _point_row(result: PointResult, root: Path) -> str:
    status = {"kept": "finished earlier"}.get(result.status, result.status)
    detail = f"<br>{escape(result.error)}" if result.error else ""
    duration = "" if result.duration_s is None else f"{result.duration_s:.1f} s"
    return (
        f"<tr><td>{escape(result.step)}</td><td>{escape(result.name)}</td>"
        f'<td><span class="{result.status}">{escape(status)}</span>{detail}</td>'
        f'<td class="number">{duration}</td><td>{_notebook_link(result, root)}</td></tr>'
    )


def _notebook_link(result: PointResult, root: Path) -> str:
    notebook = result.out_dir / result.notebook
    if result.status == "skipped" or not notebook.is_file():
        return ""
    target = _convert_to_html(notebook)
    address = quote(Path(os.path.relpath(target, root)).as_posix())
    return f'<a href="{escape(address)}">{escape(result.notebook)}</a>'


def _convert_to_html(notebook: Path) -> Path:
    """Convert an executed notebook to HTML beside it; return the notebook itself if that cannot be done."""
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
    except Exception as error:  # a notebook that cannot be shown must not lose the page of the whole study
        _LOGGER.warning("%s cannot be converted to HTML (%s); its link opens the notebook itself.", notebook, error)
        return notebook
    return page


def _report(result: PointResult) -> str:
    """Return the tables and figures of one point as HTML, or the reason why they cannot be shown."""
    if result.status not in ("finished", "kept") or not (result.out_dir / "report.json").is_file():
        return ""
    heading = f"<h3>{escape(result.name)}</h3>" if result.name else ""
    try:
        items = read_json(result.out_dir / "report.json")
        if not isinstance(items, list):
            raise ParameterError(f"{result.out_dir / 'report.json'} must hold a list of items.")
    except CadenzaError as error:
        return heading + _complaint(error)
    return heading + "".join(_item(item, result.out_dir) for item in items)


def _item(item: Any, out_dir: Path) -> str:
    report = out_dir / "report.json"
    try:
        if not isinstance(item, dict) or not all(isinstance(value, str) for value in item.values()):
            raise ParameterError(f"{report} has an item that is not a mapping of texts: {item!r}.")
        if unknown := set(item) - _ITEM_KEYS:
            raise ParameterError(f"{report} has an item with unknown keys {sorted(unknown)}; use {sorted(_ITEM_KEYS)}.")
        path = _inside(out_dir, item.get("file", ""), report)
        if item.get("kind") == "table":
            shown = _table(path)
        elif item.get("kind") == "figure":
            shown = _figure(path, item.get("alt") or item.get("title") or "")
        else:
            raise ParameterError(f"{report} has an item of kind {item.get('kind')!r}; use table or figure.")
    except CadenzaError as error:
        return _complaint(error)
    title = f"<h4>{escape(item['title'])}</h4>" if item.get("title") else ""
    caption = f"<figcaption>{escape(item['caption'])}</figcaption>" if item.get("caption") else ""
    return f"{title}<figure>{shown}{caption}</figure>"


def _complaint(error: CadenzaError) -> str:
    _LOGGER.warning("%s", error)
    return f'<p class="failed">{escape(str(error))}</p>'


def _inside(out_dir: Path, name: str, report: Path) -> Path:
    """Return the file `name` of a run; a page must not carry off files from elsewhere, through links either."""
    path = out_dir / name
    if not is_inside(path, out_dir):
        raise ParameterError(f"{report} names {name!r}, which lies outside of its directory; copy the file into it.")
    if not os.path.isfile(path):  # unlike Path.is_file, no error if a name is too long
        raise ParameterError(f"{report} names {name!r}, which is not a file in its directory; write it first.")
    return path


def _table(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ParameterError(f"{path} cannot be read as CSV ({error}); write it with pandas or csv.") from error
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in header) + "</tr>"]
    lines += ["<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows[:_MAX_ROWS]]
    more = f"<p>The first {_MAX_ROWS} of {len(rows)} rows of {escape(path.name)}.</p>" if len(rows) > _MAX_ROWS else ""
    return f'<div class="scroll"><table class="data">{"".join(lines)}</table></div>{more}'


def _cell(text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        return f"<td>{escape(text)}</td>"
    # Pandas writes all 17 digits of a float; five can be read. Whole numbers may be identifiers, so they stay.
    return f'<td class="number">{escape(f"{number:.5g}" if "." in text and len(text) > 7 else text)}</td>'


def _figure(path: Path, alt: str) -> str:
    media_type = _MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise ParameterError(f"{path} is not a figure a browser shows; save it as one of {', '.join(_MEDIA_TYPES)}.")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img src="data:{media_type};base64,{data}" alt="{escape(alt)}">'
