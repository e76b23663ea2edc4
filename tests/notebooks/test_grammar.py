"""The grammar of notebooks: title, imports, parameters, numbered sections, references; short cells, no output."""

import ast
import re
import subprocess
import sys
import tokenize
from io import StringIO
from pathlib import Path

import click
import nbformat
import pytest
from nbformat import NotebookNode
from papermill.inspection import display_notebook_help

from cadenza_lib.runs.parameters import notebook_parameters

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

MAX_CODE_CELLS = 15
MAX_LINES = 12  # of a code cell, as a reader counts them
MAX_FUNCTION_LINES = 5
ABSOLUTE_PATH = re.compile(r"(?<![\w.])/(?:home|work|tmp|root|Users|mnt|content)\b|\b[A-Za-z]:\\")
FORBIDDEN = {
    "Output": "deadlocks headless runs beside Audio",
    "interact": "deadlocks headless runs beside Audio",
    "Audio": "normalises its level; use cadenza_lib.listening.player",
}


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_cell(notebook: NotebookNode) -> NotebookNode:
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def trees(notebook: NotebookNode) -> list[ast.Module]:
    return [ast.parse(cell.source) for cell in code_cells(notebook)]


def test_there_are_notebooks() -> None:
    assert {"01_scenes", "03_evaluate", "05_haaqi_vs_audiogram"} <= {path.stem for path in NOTEBOOKS}


def test_notebook_is_valid(notebook: NotebookNode) -> None:
    nbformat.validate(notebook)


def test_notebook_is_named_by_number_and_runs_in_any_python_3_kernel(path: Path, notebook: NotebookNode) -> None:
    assert re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)
    assert notebook.metadata.kernelspec.name == "python3"


def test_title_then_imports_then_parameters_open_the_notebook(notebook: NotebookNode) -> None:
    title, first, second = notebook.cells[:3]
    assert title.cell_type == "markdown"
    assert title.source.startswith("# ")
    assert len(title.source.splitlines()) > 2, "the purpose follows the title"
    statements = ast.parse(first.source).body
    assert first.cell_type == "code"
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in statements)
    assert second is parameters_cell(notebook)
    others = [node for tree in trees(notebook)[1:] for node in ast.walk(tree)]
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in others), "imports stand in one cell"


def test_each_parameter_is_one_annotated_line_with_default_and_comment(notebook: NotebookNode) -> None:
    source = parameters_cell(notebook).source
    lines = source.splitlines()
    statements = ast.parse(source).body
    assert len(statements) == len(lines)
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for number, node in enumerate(statements, 1):
        assert isinstance(node, ast.AnnAssign), lines[number - 1]
        assert isinstance(node.target, ast.Name)
        assert node.value is not None, f"{lines[number - 1]} has no default"
        ast.literal_eval(node.value)  # papermill and runs read it without executing it
        assert len(comments.get(number, "").strip("# ")) > 3, f"{lines[number - 1]} has no comment"


PATHS = {
    *("corpus", "init", "system", "systems", "models", "scores", "listeners_file", "audiogram", "song"),
    *("data_size_runs", "evaluations", "target_evaluations", "fusion_run", "listener_run"),
    *("explain_corpus", "explain_system"),
}


def test_parameters_that_are_paths_say_so_and_no_others(path: Path) -> None:
    known = notebook_parameters(path)
    paths = {name for name, parameter in known.items() if "NameOrPath" in parameter.annotation}
    assert paths == PATHS & set(known)


def test_every_parameter_is_used(notebook: NotebookNode) -> None:
    names = {node.target.id for node in ast.parse(parameters_cell(notebook).source).body}  # type: ignore[attr-defined]
    read = {
        node.id
        for tree in trees(notebook)
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    assert "out_dir" in names
    assert names <= read


def test_code_cells_are_few_and_short(notebook: NotebookNode) -> None:
    cells = code_cells(notebook)
    assert len(cells) <= MAX_CODE_CELLS
    for cell in cells:
        assert cell.source.strip(), "an empty cell"
        if cell is not parameters_cell(notebook):  # which has a line for each
            assert len(cell.source.splitlines()) <= MAX_LINES, cell.source


def test_functions_are_short(notebook: NotebookNode) -> None:
    for tree in trees(notebook):
        for node in ast.walk(tree):
            assert not isinstance(node, ast.ClassDef), f"class {node.name} belongs into the library"
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{node.name} belongs into the library"


def test_cells_are_plain_python_without_magics(notebook: NotebookNode) -> None:
    for cell in code_cells(notebook):
        for line in cell.source.splitlines():
            assert not line.lstrip().startswith(("!", "%", "?")), line
    trees(notebook)  # raises where a cell is not Python


def test_no_cell_holds_an_absolute_path(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        assert not ABSOLUTE_PATH.search(cell.source), cell.source


@pytest.mark.parametrize("text", ['"/home/me/x"', "open('/tmp/x')", "/work", r"C:\data", "see /Users/me"])
def test_absolute_paths_are_recognised(text: str) -> None:
    assert ABSOLUTE_PATH.search(text)


@pytest.mark.parametrize("text", ["runs/tmp", "./home/x", "demixing/remixing", "a/b", "https://doi.org/10.1/x"])
def test_relative_paths_are_not_taken_for_absolute(text: str) -> None:
    assert not ABSOLUTE_PATH.search(text)


def test_outputs_are_stripped(notebook: NotebookNode) -> None:
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert "papermill" not in cell.metadata
    assert "papermill" not in notebook.metadata


def test_sections_are_numbered_and_references_close_the_notebook(notebook: NotebookNode) -> None:
    headings = [
        line
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("#")
    ]
    title, *sections, last = headings
    assert title.startswith("# ")
    assert last == "## References"
    assert len(sections) >= 2
    for number, section in enumerate(sections, 1):
        assert re.match(rf"## {number}\. \w", section), section
    assert notebook.cells[-1].cell_type == "markdown"
    assert notebook.cells[-1].source.startswith("## References\n")
    assert re.search(r"^- .+\b(19|20)\d\d\b", notebook.cells[-1].source, re.MULTILINE), "a reference has a year"


def test_no_widget_or_player_that_deadlocks_or_changes_the_level(notebook: NotebookNode) -> None:
    for tree in trees(notebook):
        for node in ast.walk(tree):
            names = [alias.name.split(".")[-1] for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            names += [node.id] if isinstance(node, ast.Name) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            for name in names:
                assert name not in FORBIDDEN, f"{name} {FORBIDDEN[name]}"


def test_help_tells_type_default_and_meaning_of_every_parameter(
    path: Path, notebook: NotebookNode, capsys: pytest.CaptureFixture[str]
) -> None:
    command = click.Context(click.Command("papermill"), info_name="papermill")
    assert display_notebook_help(command, str(path), {}) == 0
    manual = capsys.readouterr().out
    for node, line in zip(
        ast.parse(parameters_cell(notebook).source).body, parameters_cell(notebook).source.splitlines(), strict=True
    ):
        assert isinstance(node, ast.AnnAssign)
        comment = line.rsplit("# ", 1)[1]
        entry = f"{node.target.id}: {ast.unparse(node.annotation)}"  # type: ignore[attr-defined]
        assert entry in manual
        assert re.sub(r"\s+", "", comment) in re.sub(r"\s+", "", manual), f"papermill does not show: {comment}"


def prose(path: Path) -> str:
    """Return the prose of a notebook, with its comments, or the whole text of another file."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    comments = [
        token.string
        for cell in code_cells(notebook)
        for token in tokenize.generate_tokens(StringIO(cell.source).readline)
        if token.type == tokenize.COMMENT
    ]
    return "\n".join([*texts, *comments]) + "\n"


def misspelled(text: str) -> str:
    """Return the report of codespell on a text, empty if it finds no error."""
    command = [sys.executable, "-m", "codespell_lib", "--builtin", "clear,rare", "--ignore-words-list", "firs", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True).stdout


DOCUMENTS = sorted([*FOLDER.parent.glob("*.md"), *FOLDER.parent.glob("data/*.md"), *FOLDER.glob("*.md"), *NOTEBOOKS])


def test_prose_is_spelled_correctly() -> None:
    documents = [*DOCUMENTS, *FOLDER.glob("studies/*.yaml"), FOLDER.parent / "CITATION.cff"]
    assert misspelled("The recieved signal.\n"), "codespell finds nothing at all"
    assert misspelled("\n".join(map(prose, documents))) == ""


LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")  # and of images


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(FOLDER.parent)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", target):
            assert re.fullmatch(r"https://[\w.-]+\.[a-z]{2,}(/[^\s]*)?", target), target
        else:
            assert (document.parent / target.split("#")[0]).exists(), target
