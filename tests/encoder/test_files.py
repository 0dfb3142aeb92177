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
from encoder.files import LineFile, locked, publish_folder, sha256_of, write, writing, writing_folder


def test_sha256_is_hashlibs(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()
    handle = os.open(tmp_path / "a", os.O_RDONLY)
    os.lseek(handle, 5, os.SEEK_SET)
    assert sha256_of(handle) == sha256_of(tmp_path / "a") and os.lseek(handle, 0, os.SEEK_CUR) == 5
    os.close(handle)  # still open


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
from encoder.files import locked
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
