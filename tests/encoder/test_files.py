"""Atomic writes, appended lines, locks, hashes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from encoder.errors import LlavaRadError
from encoder.files import Digests, LineFile, check_writable, publish_folder, sha256_of, write, writing, writing_folder
from encoder.locks import locked


def test_sha256_is_hashlibs(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()
    handle = os.open(tmp_path / "a", os.O_RDONLY)
    os.lseek(handle, 5, os.SEEK_SET)
    assert sha256_of(handle) == sha256_of(tmp_path / "a") and os.lseek(handle, 0, os.SEEK_CUR) == 5
    os.close(handle)  # still open


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Names of the files that were hashed; files count as settled at once."""
    found: list[Path] = []
    monkeypatch.setattr("encoder.files.sha256_of", lambda path: found.append(path) or sha256_of(path))  # type: ignore[func-returns-value]
    monkeypatch.setattr("encoder.files._SETTLED_NS", -1)
    return found


def digests_of(folder: Path, *names: str) -> list[str]:
    digests = Digests(folder / "memory.json")
    found = digests.of([folder / name for name in names])
    digests.save()
    return found


def test_digests_are_those_of_the_bytes_and_unchanged_files_are_read_once(tmp_path: Path, read: list[Path]) -> None:
    contents = {"a": b"abc", "b": b"", "c": b"x" * 200_000}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    expected = [hashlib.sha256(content).hexdigest() for content in contents.values()]
    told: list[int] = []
    assert Digests().of([tmp_path / name for name in "abcab"], told.append) == [*expected, *expected[:2]]
    assert sum(told) == 5 and len(read) == 3
    assert digests_of(tmp_path, *"abc") == expected and len(read) == 6
    assert digests_of(tmp_path, *"cba") == expected[::-1] and len(read) == 6
    assert str(tmp_path) not in (tmp_path / "memory.json").read_text(), "paths may identify patients"


@pytest.mark.parametrize("change", ["overwritten", "replaced", "linked", "exchanged"])
def test_a_file_with_other_bytes_of_the_same_size_and_time_is_read_again(
    tmp_path: Path, read: list[Path], change: str
) -> None:
    for name, content in {"a": b"first", "b": b"other"}.items():
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    (tmp_path / "l").symlink_to("a")
    digests_of(tmp_path, *"abl")
    time.sleep(0.02)  # more than the clock of time stamps counts in
    if change == "overwritten":
        (tmp_path / "a").write_bytes(b"other")
    elif change == "replaced":
        (tmp_path / "b").replace(tmp_path / "a")
    elif change == "exchanged":
        for source, target in ("ac", "ba", "cb"):
            (tmp_path / source).rename(tmp_path / target)
    else:
        (tmp_path / "l").unlink()
        (tmp_path / "l").symlink_to("b")
    name = "l" if change == "linked" else "a"
    os.utime(tmp_path / name, ns=(10**18, 10**18))
    assert digests_of(tmp_path, name) == [hashlib.sha256(b"other").hexdigest()]


def test_a_touched_file_is_read_again_and_is_the_same(tmp_path: Path, read: list[Path]) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    first = digests_of(tmp_path, "a")
    (tmp_path / "a").touch()
    assert digests_of(tmp_path, "a") == first and len(read) == 2
    assert digests_of(tmp_path, "a") == first and len(read) == 2


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path) -> None:
    """Otherwise a second change within the resolution of time stamps would go unseen."""
    (tmp_path / "a").write_bytes(b"abc")
    digests_of(tmp_path, "a")
    assert not (tmp_path / "memory.json").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": 1}', b"\xff", b"null"])
def test_a_damaged_memory_is_passed_over(tmp_path: Path, read: list[Path], content: bytes) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "memory.json").write_bytes(content)
    for _ in range(2):
        assert digests_of(tmp_path, "a") == [hashlib.sha256(b"abc").hexdigest()]
    assert len(read) == 1


def test_what_is_no_readable_file_has_no_digest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    assert digests_of(tmp_path, "absent", "fifo", ".", "loop") == [""] * 4


def test_a_block_that_raises_leaves_the_earlier_content_and_no_temporary_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write(file, "before")
    with pytest.raises(ZeroDivisionError), writing(file, "w") as stream:
        stream.write("half")
        raise ZeroDivisionError
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_existing_file_is_replaced_only_on_request(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write(file, b"1", overwrite=False)
    with pytest.raises(FileExistsError):
        write(file, b"2", overwrite=False)
    assert file.read_bytes() == b"1"
    write(file, b"3")
    assert file.read_bytes() == b"3"


def test_a_name_of_the_longest_length_is_written(tmp_path: Path) -> None:
    write(tmp_path / ("n" * 255), "kept")
    assert (tmp_path / ("n" * 255)).read_text() == "kept"


def test_permissions_and_links(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link", "new", permissions=0o600)
    assert (tmp_path / "target").read_text() == "kept", "a link is replaced, not written through"
    assert (tmp_path / "link").stat().st_mode & 0o777 == 0o600


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for content in ("1", "2"):
        with writing_folder(target) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "a").write_text(content)
            assert not (target / "sub").exists() or (target / "sub" / "a").read_text() != content
        assert (target / "sub" / "a").read_text() == content
    with pytest.raises(ZeroDivisionError), writing_folder(target):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_left_aside_by_a_kill_does_not_stand_in_the_way(tmp_path: Path) -> None:
    for name in ("new", "out", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    publish_folder(tmp_path / "new", tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


_HOLD = """
import sys, time
from pathlib import Path
from encoder.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_refused_or_waited_for_and_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(LlavaRadError, match="somebody else"), locked(lock, busy="somebody else has it"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    start = time.monotonic()
    with locked(lock):
        assert time.monotonic() - start < 60


def test_lines_survive_and_a_half_line_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"one\ntwo\nthr")
    with LineFile(file, busy="busy") as lines:
        assert lines.lines() == [b"one\n", b"two\n"]
        with pytest.raises(LlavaRadError, match="busy"):
            LineFile(file, busy="busy")
        assert file.read_bytes() == b"one\ntwo\nthr", "nothing is changed before the first append"
        lines.append(b"3\n4\n")
        lines.append(b"5\n")
        assert file.read_bytes() == b"one\ntwo\n3\n4\n5\n"
    with LineFile(file, busy="busy") as lines:
        lines.clear()
        lines.append(b"new\n")
    assert file.read_bytes() == b"new\n"


def test_a_new_file_without_lines_is_removed(tmp_path: Path) -> None:
    with LineFile(tmp_path / "lines", busy="busy"):
        assert (tmp_path / "lines").exists()
    assert not (tmp_path / "lines").exists()


def test_folders_that_cannot_be_made_or_written_are_refused_and_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "there", tmp_path / "new", tmp_path / "a" / "b" / "c"):
        check_writable(folder)
    for folder, says in (
        (tmp_path / "file", "the output is a file"),
        (tmp_path / "file" / "below", "the output's folder is a file"),
        (tmp_path / ("x" * 300), "the output cannot be used \\(File name too long\\)"),
        (Path("/proc/self/out"), "cannot be used|read-only"),  # takes no files, from root neither
        (Path("/proc/self"), "cannot be used|read-only"),
    ):
        with pytest.raises(LlavaRadError, match=says):
            check_writable(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there"] and not any(
        (tmp_path / "there").iterdir()
    )
