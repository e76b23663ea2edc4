"""Fixtures that several test files share."""

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from stubs import COLLECT_CELL, COLLECT_PARAMETERS, POINT_CELLS, POINT_PARAMETERS, write_notebook

# The same inputs each time, unless `--hypothesis-profile campaign` asks for many more.
settings.register_profile("short", max_examples=60, deadline=None, derandomize=True, database=None)
settings.register_profile("campaign", max_examples=1200, deadline=None, database=None)
settings.load_profile("short")

_CADENZA_MINI = Path(__file__).resolve().parents[2] / "shared" / "data" / "cadenza_mini"


@pytest.fixture(scope="session")
def cadenza_mini() -> Path:
    """Return a miniature of the challenge's data with real audiograms, or skip: its licence keeps it out of here."""
    if not _CADENZA_MINI.is_dir():
        pytest.skip(f"{_CADENZA_MINI} is not there: real data is not part of the repository")
    return _CADENZA_MINI


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    write_notebook(tmp_path / "notebooks/collect.ipynb", COLLECT_PARAMETERS, COLLECT_CELL)
    return write_notebook(tmp_path / "notebooks/point.ipynb", POINT_PARAMETERS, *POINT_CELLS)


@pytest.fixture
def write_study(notebook: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = notebook.parent / "studies/small.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def headless() -> Iterator[None]:
    """Draw without a display, and close what was drawn."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    backend = mpl.get_backend()
    plt.switch_backend("Agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture
def axes(headless: None) -> Any:  # noqa: ARG001
    from matplotlib import pyplot as plt

    return plt.subplots()[1]


@pytest.fixture
def quick_score(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace HAAQI, which these tests do not look at, by the level of the processed signal; list the calls."""
    import numpy as np

    from cadenza_lib.haaqi import Components
    from cadenza_lib.scoring.pairs import PairReference, PairScore

    calls = []

    def level(_: Any, output: Any) -> PairScore:
        calls.append(output)
        components = [Components(float(np.tanh(np.std(signal))), *[0.5] * 6) for signal in output.signal]
        return PairScore(tuple(components), tuple(map(float, output.clipped_share)), (-20.0, -20.0))

    monkeypatch.setattr(PairReference, "score", level)
    return calls


@pytest.fixture(scope="session")
def real_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus of six seconds of real music, or skip the test where it cannot be made."""
    from cadenza_lib.data.sample import sample_corpus

    for module, extra in (("stempeg", "real"), ("av", "media")):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} (the extra {extra}) is not installed")
    return sample_corpus(tmp_path_factory.mktemp("real") / "sample").root


@pytest.fixture
def count_input(request: pytest.FixtureRequest) -> Iterator[Callable[[str, bool], None]]:
    """Count a bad input of a kind, and whether it was accepted; the end of the report has a table of them."""
    counts: Counter[tuple[str, bool]] = Counter()
    yield lambda kind, accepted: counts.update([(kind, accepted)])
    request.node.user_properties += [("bad input", [*key, count]) for key, count in counts.items()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests at the beginning of each half, so that two processes begin with them and end together.

    Files stay whole, because their fixtures are shared.
    """
    slow = dict.fromkeys(item.path for item in items if item.get_closest_marker("slow"))
    quick = [path for path in dict.fromkeys(item.path for item in items) if path not in slow]
    half = len(quick) // 2
    order = [*list(slow)[::2], *quick[:half], *list(slow)[1::2], *quick[half:]]
    places = {path: place for place, path in enumerate(order)}
    items.sort(key=lambda item: places[item.path])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many bad inputs there were, by kind."""
    counts: Counter[tuple[str, bool]] = Counter()
    reports = [one for reports in terminalreporter.stats.values() for one in reports]
    for report in reports:
        if getattr(report, "when", "") == "teardown":
            for kind, accepted, count in (value for name, value in report.user_properties if name == "bad input"):
                counts[kind, accepted] += count
    kinds = dict.fromkeys(kind for kind, _ in counts)
    rows = [(kind, counts[kind, False], counts[kind, True]) for kind in kinds]
    rows.append(("all", *(sum(row[column] for row in rows) for column in (1, 2))))
    if kinds:
        terminalreporter.section("bad inputs")
        terminalreporter.write_line(f"{'':<28}{'inputs':>8}{'refused':>9}{'accepted':>10}")
        for kind, refused, accepted in rows:
            terminalreporter.write_line(f"{kind:<28}{refused + accepted:>8}{refused:>9}{accepted:>10}")
