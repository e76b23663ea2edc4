"""Files that are complete or absent, by two writers at once, after a kill, and on a full disk."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from cadenza_lib.core.documents import fill, read_json, read_metadata, write_json
from cadenza_lib.core.errors import CorpusError, ParameterError
from cadenza_lib.core.files import atomic_path, locked, make_directory, publish, write_errors
from cadenza_lib.core.paths import absolute_path, find_path, list_folder
from cadenza_lib.core.tables import append_row, read_table, repair_table


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError


def test_file_is_as_it_was_until_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(KeyError):
        write_half(path)
    assert path.read_text() == "old"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == {"scores.csv"}


def end_inside(block: str, path: Path) -> None:
    """Let a process end without any clearing up inside of a `with` block on a path."""
    code = f"import os, sys\nfrom cadenza_lib.core.files import *\nwith {block}(sys.argv[1]) as opened:\n"
    code += "    open(opened, 'wb').write(b'half of it'), os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 9


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    end_inside("atomic_path", tmp_path / "scores.csv")
    assert names(tmp_path) == {".scores.unfinished.csv"}
    with atomic_path(tmp_path / "scores.csv") as temporary, temporary.open("a") as file:
        file.write("whole")
    assert (tmp_path / "scores.csv").read_text() == "whole"
    assert names(tmp_path) == {"scores.csv"}


def test_writers_of_one_file_come_one_after_the_other(tmp_path: Path) -> None:
    path, n_writers, n_lines = tmp_path / "table.csv", 4, 200

    def write(number: int) -> None:
        for _ in range(5):
            with atomic_path(path) as temporary, temporary.open("a") as file:
                for _ in range(n_lines):
                    file.write(f"{number}\n")
                    file.flush()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(n_writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_text().splitlines()
    assert len(lines) == n_lines
    assert len(set(lines)) == 1
    assert names(tmp_path) == {"table.csv"}


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is synced and renamed from now on, in that order."""
    happened: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(file: int) -> None:
        happened.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    def noted_replace(source: Path, target: Path) -> None:
        happened.append(f"{source} -> {target}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return happened


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into Linux' /proc")
def test_file_is_on_the_disk_before_it_gets_its_name_and_then_its_directories(
    tmp_path: Path, on_disk: list[str]
) -> None:
    path = tmp_path.resolve() / "new/run/table.csv"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
    unfinished = path.with_name(".table.unfinished.csv")
    parents = [str(path.parents[1]), str(path.parents[2])]  # which have got a new directory
    assert on_disk == [*parents, str(unfinished), f"{unfinished} -> {path}", str(path.parent)]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into Linux' /proc")
def test_all_files_of_a_directory_are_on_the_disk_before_it_gets_its_name(tmp_path: Path, on_disk: list[str]) -> None:
    unfinished, path = tmp_path.resolve() / ".song.unfinished", tmp_path.resolve() / "song"
    unfinished.mkdir()
    files = [unfinished / "mixture.wav", unfinished / "bass.wav"]
    for file in files:
        file.write_text("x")
    (unfinished / "link.wav").symlink_to("nowhere")
    os.mkfifo(unfinished / "pipe")  # which would never open
    publish(unfinished, path)
    assert on_disk[-3:] == [str(unfinished), f"{unfinished} -> {path}", str(path.parent)]
    assert set(on_disk[:-2]) == set(map(str, [*files, unfinished]))


def test_new_file_has_the_rights_that_the_user_wants(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "settings.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "settings.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("writer failed.\nx")])
def test_writer_that_fails_is_one_sentence_about_the_file(error: Exception, tmp_path: Path) -> None:
    reason = "No space left on device" if isinstance(error, OSError) else "writer failed"
    sentence = (
        rf"^{tmp_path}/song\.flac cannot be written \({reason}\); make room or choose another directory, and start"
    )
    with pytest.raises(ParameterError, match=sentence), atomic_path(tmp_path / "song.flac"):
        raise error
    assert not names(tmp_path)


def test_our_own_errors_pass_a_writer_unchanged(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"^no song$"), write_errors(tmp_path):
        raise CorpusError("no song")


def test_row_on_a_full_disk_is_one_sentence_about_the_table() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(ParameterError, match=r"^/dev/full cannot be written \(No space left on device\); make room"):
        append_row(Path("/dev/full"), ["a"])


@pytest.mark.parametrize("torn", ["", "b", 'b,"1', "b,1"])
def test_row_that_was_torn_is_cut_off(torn: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    repair_table(path, ["scene", "score"])
    append_row(path, ["a", 0.5])
    with path.open("a") as file:
        file.write(torn)
    repair_table(path, ["scene", "score"])
    append_row(path, ["b", 0.25])
    assert path.read_text().splitlines() == ["scene,score", "a,0.5", "b,0.25"]


def test_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    end_inside("locked", tmp_path / ".lock")
    with locked(tmp_path / ".lock"):
        assert names(tmp_path) == {".lock"}


@pytest.mark.parametrize("with_children", [False, True])
def test_lock_outlives_its_block_only_with_children_that_are_to_hold_it(with_children: bool, tmp_path: Path) -> None:
    with locked(tmp_path / ".lock", with_children=with_children) as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    with (tmp_path / ".lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        except BlockingIOError:
            is_free = False
    child.kill()
    child.wait()
    assert is_free is not with_children


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"score": -Infinity}'])
def test_numbers_that_json_does_not_have_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "gains.json"
    path.write_text(text)
    with pytest.raises(CorpusError, match=r"gains\.json cannot be read as JSON \(.* is not a finite number\)"):
        read_json(path)
    with pytest.raises(ParameterError, match=r"gains\.json is not written \(.*\); give finite numbers"):
        write_json(path, json.loads(text))
    assert path.read_text() == text


# Files that mean the same

TABLE = 'scene,listener,score\nscene_1,Zo\u00eb,0.5181789081262707\nscene_2,"B, the second",\n'
SPREADSHEET = "scene;listener;score\nscene_1;Zo\u00eb;0,5181789081262707\nscene_2;B, the second;\n"
TABLES = {
    "byte order mark": TABLE.encode("utf-8-sig"),
    "semicolons and decimal commas": SPREADSHEET.encode("utf-8-sig"),
    "semicolons and decimal points": SPREADSHEET.replace("0,5", "0.5").encode(),
    "tabs in UTF-16": SPREADSHEET.replace(";", "\t").encode("utf-16"),
    "commas and quoted decimal commas": TABLE.replace("0.5181789081262707", '"0,5181789081262707"').encode(),
    "empty rows": TABLE.replace("scene_2", "\n,,\n , ,\nscene_2").encode() + b",,\n\n",
    "lines of Windows": TABLE.replace("\n", "\r\n").encode(),
    "normal form D": TABLE.replace("\u00eb", "e\u0308").encode(),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_of_spreadsheets_mean_the_same(case: str, tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text(TABLE, encoding="utf-8")
    (tmp_path / "other.csv").write_bytes(TABLES[case])
    plain, other = (
        read_table(tmp_path / name, ("scene", "score"), ("score",), key=("scene", "listener")).reset_index(drop=True)
        for name in ("plain.csv", "other.csv")
    )
    assert plain["score"].tolist()[0] == 0.5181789081262707
    pd.testing.assert_frame_equal(plain, other, check_exact=True)


HEADER = "scene,listener,score\n"
BAD_TABLES = {
    "pair twice": (
        HEADER + "s1,A,0.5\n\ns1,B,0.5\ns1,A,0.6\n",
        r", line 5 has s1, A \(scene, listener\), which line 2 has",
    ),
    "percent": (
        HEADER + "s1,A,0.5\ns1,B,60.3\n",
        ", line 3: score is '60.3', but HAAQI lies between 0 and 1 .divide perc",
    ),
    "below zero": (HEADER + "s1,A,-0.5\n", ", line 2: score is '-0.5', but HAAQI lies between 0 and 1"),
    "no listener": (HEADER + "s1,A,0.5\ns2,,0.5\n", ", line 3 has no listener; correct it"),
    "text for a number": (HEADER + "s1,A,good\n", ", line 2: score is 'good', but a number is expected"),
    "commas and points": ("scene;listener;score\ns1;A;0.5\ns1;B;0,5\n", ", line 3: score is '0,5', but a number is"),
    "too many cells": (HEADER + "s1,A,0.5,1\n", r", line 2 has 4 cells \(.*\) instead of 3"),
    "other separator": (
        HEADER.replace(",", "|"),
        r" has no column 'scene' but scene\|listener\|score; .* by commas, sem",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_table_that_cannot_be_meant_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    text, sentence = BAD_TABLES[case]
    (tmp_path / "team.csv").write_text(text)
    with pytest.raises(CorpusError, match=rf"^{tmp_path}/team\.csv{sentence}"):
        read_table(tmp_path / "team.csv", ("scene", "listener", "score"), ("score",), key=("scene", "listener"))


@dataclass(frozen=True)
class Numbers:
    angle: float
    count: int
    name: str = ""
    weights: tuple[float, ...] | None = None


def test_numbers_become_those_of_their_field() -> None:
    content = {"angle": -30, "count": 4.0, "weights": [1, 2.5]}
    found = fill(Numbers, content)
    assert found == Numbers(-30.0, 4, weights=(1.0, 2.5))
    assert [type(value) for value in (found.angle, found.count, found.weights[0])] == [float, int, float]  # type: ignore[index]
    for wrong in ({"count": 4.5}, {"count": True}, {"angle": "1"}, {"weights": [1, "2"]}):
        (name,) = wrong
        with pytest.raises(TypeError, match=f"^{name}"):
            fill(Numbers, content | wrong)


def test_further_keys_are_left_out_of_metadata_and_refused_in_settings() -> None:
    content = {"angle": 1.0, "count": 1, "note": "measured twice"}
    assert fill(Numbers, content, further_keys=True) == Numbers(1.0, 1)
    with pytest.raises(TypeError, match="note"):
        fill(Numbers, content)


def test_names_of_metadata_are_equal_in_both_normal_forms(tmp_path: Path) -> None:
    path = tmp_path / "songs.json"
    path.write_text('[{"Track Name": "Cafe\\u0301"}]', encoding="utf-8-sig")
    assert read_metadata(path) == [{"Track Name": "Caf\u00e9"}]
    path.write_text('{"Caf\\u00e9": 1, "Cafe\\u0301": 2}')
    with pytest.raises(CorpusError, match=rf"^{path} cannot be used \(it has 'Caf\u00e9' twice .*spellings of Unicode"):
        read_metadata(path)


@pytest.mark.parametrize(
    ("there", "named"), [("Cafe\u0301", "Caf\u00e9"), ("Caf\u00e9", "Cafe\u0301"), ("CAFE\u0301", "caf\u00e9")]
)
def test_path_is_found_in_any_normal_form_and_case(there: str, named: str, tmp_path: Path) -> None:
    (tmp_path / there / "x").mkdir(parents=True)
    if (tmp_path / named).exists():
        pytest.skip("this file system itself does not tell these names apart")
    assert find_path(tmp_path / named / "X", tmp_path) == tmp_path / there / "x"


def test_name_that_is_not_utf_8_is_refused_wherever_it_is_read_or_written(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Caf\xe9"))
    sentence = rf"^{tmp_path}/Caf\\xe9 has a name that is not UTF-8; rename it\.$"
    for use in (absolute_path, make_directory):
        with pytest.raises(ParameterError, match=sentence):
            use(folder)
    assert not names(tmp_path)
    folder.mkdir()
    with pytest.raises(ParameterError, match=sentence):
        list_folder(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ParameterError, match=sentence):
        absolute_path(tmp_path / "link")
