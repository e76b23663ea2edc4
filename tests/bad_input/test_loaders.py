"""Damaged files by the thousand: each is refused in one sentence, or read as something sound; nothing is left behind.

`pytest tests/bad_input --hypothesis-profile campaign` tries twenty times as many.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from damage import accepts, in_place_of, tree
from hypothesis import given
from loaders import LOADERS, Loader


@pytest.fixture(params=LOADERS, ids=lambda loader: loader.name)
def loader(request: pytest.FixtureRequest) -> Loader:
    return request.param


@pytest.mark.filterwarnings("ignore")
def test_damaged_file_is_refused_in_one_sentence_or_read_as_something_sound(
    loader: Loader, tmp_path: Path, count_input: Callable[[str, bool], None]
) -> None:
    path = loader.write(tmp_path)
    sound = path.read_bytes()
    assert accepts(lambda: loader.load(path))
    before = tree(tmp_path)

    @given(loader.damage(sound))
    def damaged(content: bytes) -> None:
        path.write_bytes(content)
        accepted = accepts(lambda: loader.load(path), str(tmp_path), path.name)
        count_input(loader.name, accepted)
        assert accepted or tree(tmp_path) == before

    damaged()


@pytest.mark.filterwarnings("ignore")
def test_other_things_in_place_of_a_file_are_refused_in_one_sentence(
    loader: Loader, tmp_path: Path, count_input: Callable[[str, bool], None]
) -> None:
    path = loader.write(tmp_path)
    for _ in in_place_of(path):
        before = tree(tmp_path)
        accepted = accepts(lambda: loader.load(path), str(tmp_path), path.name, "/dev/zero")
        count_input(loader.name, accepted)
        assert accepted or tree(tmp_path) == before
