import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_python_example_of_the_readme_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    left, right = map(float, re.findall(r"^\((\S+), (\S+)\) ", capsys.readouterr().out)[0])
    assert 0 < right < left < 1  # the listener of the example hears worse on the right


def test_every_file_the_readme_names_exists():
    root = Path(__file__).parents[1]
    named = set(re.findall(r"(?:notebooks|data|tests)/[\w/.-]+\.\w+", README))
    assert named
    assert not [name for name in named if not (root / name).exists()]


def test_ci_runs_the_readmes_test_command():
    assert "make test" in README
    assert "make test" in (Path(__file__).parents[1] / ".ci/run").read_text()
