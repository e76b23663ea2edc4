"""Files that are complete or absent, by two writers at once, after a kill, and on a full disk."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cadenza_lib.errors import CorpusError, ParameterError
from cadenza_lib.files import (
    append_row,
    atomic_path,
    locked,
    publish,
    read_json,
    repair_table,
    write_errors,
    write_json,
)


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
    code = f"import os, sys\nfrom cadenza_lib.files import *\nwith {block}(sys.argv[1]) as opened:\n"
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
    with pytest.raises(CorpusError, match=r"gains\.json cannot be read as JSON \(.* which is no finite number\)"):
        read_json(path)
    with pytest.raises(ParameterError, match=r"gains\.json is not written \(.*\); give finite numbers"):
        write_json(path, json.loads(text))
    assert path.read_text() == text
