"""What campaigns have found beyond the short form, so that it is not lost again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import accepts
from loaders import LOADERS

_LOADERS = {loader.name: loader for loader in LOADERS}
_LONG = "ü" * 300  # more bytes than the name of a file has


def _json(edit: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    def damage(sound: bytes) -> bytes:
        content = json.loads(sound)
        edit(content)
        return json.dumps(content).encode()

    return damage


def _text(old: str, new: str) -> Callable[[bytes], bytes]:
    def damage(sound: bytes) -> bytes:
        assert old.encode() in sound
        return sound.replace(old.encode(), new.encode(), 1)

    return damage


def _last_cell(cell: str) -> Callable[[bytes], bytes]:
    return lambda sound: sound.rstrip().rpartition(b",")[0] + f",{cell}\n".encode()


def _last_score(cell: str) -> Callable[[bytes], bytes]:
    """Replace the cell before the identity of a row."""
    return lambda sound: b",".join([*sound.rstrip().split(b",")[:-2], cell.encode(), sound.rpartition(b",")[2]])


REFUSED = [
    ("songs to simulate", _json(lambda songs: songs[0].update({"Track Name": ""}))),
    ("card", _json(lambda card: card.update(architecture=[]))),
    ("scores of a sweep", _last_score("-inf")),
    ("scores of a sweep", _last_score("nan")),
    ("scores.csv", _last_cell("inf")),
    ("data.json", _json(lambda card: card["stems"][0]["tracks"][0].update(id="/etc/passwd"))),
    ("data.json", _json(lambda card: card["stems"][0].update(stemName="../../outside"))),
    ("result.json", _json(lambda result: result.update(n_split_scenes=0))),
    ("levels", _text(",0.0,", ",,")),
    ("study.yaml", _text("point.ipynb", _LONG)),
    ("study.yaml", _text("point.ipynb", "/etc/passwd")),
    ("study.yaml", _text("{wait: true}", "{share: .nan}")),
    ("study.yaml", _text("{wait: true}", f"{{share: 1{'0' * 400}}}")),
    ("musdb18.train", _json(lambda songs: songs[0].update(Path=f"train/{_LONG}"))),
    ("manifest.json", _json(lambda manifest: manifest.update(duration_s="1 s"))),
    ("report.json", _json(lambda items: items[0].update(file=_LONG))),
]


@pytest.mark.parametrize(("name", "damage"), REFUSED, ids=[name for name, _ in REFUSED])
def test_what_a_campaign_found_is_refused(name: str, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    loader = _LOADERS[name]
    path = loader.write(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    accepted = accepts(lambda: loader.load(path), str(tmp_path), path.name)
    assert not accepted or name in ("manifest.json", "report.json")  # the one is made again, the other told on the page


def test_unfinished_manifest_is_not_taken_for_a_finished_run(tmp_path: Path) -> None:
    loader = _LOADERS["manifest.json"]
    path = loader.write(tmp_path)
    assert loader.load(path) == "1.0"
    path.write_bytes(_json(lambda manifest: manifest.update(duration_s="1 s"))(path.read_bytes()))
    assert loader.load(path) is None
