"""The page of a study."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from cadenza_lib.runs.page import PointResult, write_page

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def result_with(out_dir: Path, items: Any) -> PointResult:
    out_dir.mkdir()
    (out_dir / "report.json").write_text(json.dumps(items))
    return PointResult("step", "", out_dir, "none.ipynb", "finished", 1.0)


def test_page_embeds_figures_and_escapes_text(tmp_path: Path) -> None:
    item = {"kind": "figure", "file": "x.png", "title": "<t>", "caption": "<c>", "alt": '"><a'}
    result = result_with(tmp_path / "run", [item])
    (tmp_path / "run/x.png").write_bytes(PNG)
    page = write_page(tmp_path / "index.html", "<h>", {"<k>": "<v>"}, [result]).read_text()
    assert f"data:image/png;base64,{base64.b64encode(PNG).decode()}" in page
    assert 'alt="&#34;&gt;&lt;a"' in page
    for text in ("t", "c", "h", "k", "v"):
        assert f"&lt;{text}&gt;" in page
        assert f"<{text}>" not in page


def test_page_shows_no_file_from_outside_of_the_run(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("password\n1234567\n")
    items = [{"kind": "table", "file": name} for name in ("../secret.csv", str(secret), "link.csv")]
    result = result_with(tmp_path / "run", items)
    (tmp_path / "run/link.csv").symlink_to(secret)
    page = write_page(tmp_path / "index.html", "x", {}, [result]).read_text()
    assert page.count("lies outside of its directory") == 3
    assert "1234567" not in page


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({}, "must hold a list of items"),
        ([1], "should be a valid dictionary"),
        ([{"kind": "table", "file": "none.csv"}], "is not a file in its directory"),
        (
            [{"kind": "film", "file": "report.json"}],
            "input should be &#39;table&#39; or &#39;figure&#39;",
        ),
        ([{"kind": "figure", "file": "report.json"}], "is not a figure a browser shows"),
        (
            [{"kind": "table", "file": "report.json", "tilte": "x"}],
            "tilte is &#39;x&#39;: extra inputs",
        ),
    ],
)
def test_page_tells_what_is_wrong_with_a_report(tmp_path: Path, items: Any, message: str) -> None:
    result = result_with(tmp_path / "run", items)
    assert message in write_page(tmp_path / "index.html", "x", {}, [result]).read_text()


def test_long_table_is_cut_and_says_so(tmp_path: Path) -> None:
    result = result_with(tmp_path / "run", [{"kind": "table", "file": "t.csv"}])
    (tmp_path / "run/t.csv").write_text("n\n" + "\n".join(map(str, range(10_000, 10_300))))
    page = write_page(tmp_path / "index.html", "x", {}, [result]).read_text()
    assert "The first 200 of 300 rows of t.csv." in page
    assert ">10199<" in page
    assert ">10200<" not in page
