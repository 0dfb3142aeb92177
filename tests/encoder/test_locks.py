"""Locks: one process at a time, from the first start on; nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from encoder.errors import LlavaRadError
from encoder.locks import locked_folder, locked_output

Lock = Callable[..., AbstractContextManager[None]]
HOLD = """
import sys
from pathlib import Path
from encoder import locks
with getattr(locks, sys.argv[1])(Path(sys.argv[2]), busy="busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(lock: Lock, path: Path) -> subprocess.Popen[str]:
    """A process that holds a lock until its standard input ends."""
    command = [sys.executable, "-c", HOLD, lock.__name__, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("lock", [locked_folder, locked_output], ids=["folder", "output"])
def test_the_second_first_start_is_refused_and_nothing_stays(lock: Lock, tmp_path: Path) -> None:
    with holder(lock, tmp_path / "new"):
        with pytest.raises(LlavaRadError, match="busy"), lock(tmp_path / "new", busy="busy"):
            pass
        with lock(tmp_path / "other", busy="busy"):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lock", [locked_folder, locked_output], ids=["folder", "output"])
def test_a_killed_process_holds_nothing(lock: Lock, tmp_path: Path) -> None:
    process = holder(lock, tmp_path / "new")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with lock(tmp_path / "new", busy="busy"):
        pass
    assert all(path.name == "new" for path in tmp_path.iterdir()), "at most the empty folder"


@pytest.mark.parametrize("lock", [locked_folder, locked_output], ids=["folder", "output"])
def test_who_waits_gets_it_and_excludes_the_next(lock: Lock, tmp_path: Path) -> None:
    """The first holder removes what it locked: the waiting one must not hold something without a name."""
    got, done = threading.Event(), threading.Event()

    def wait() -> None:
        with lock(tmp_path / "new", busy="busy", patience=60):
            got.set()
            done.wait(60)

    waiting = threading.Thread(target=wait)
    with lock(tmp_path / "new", busy="busy"):
        waiting.start()
    assert got.wait(60)
    with pytest.raises(LlavaRadError, match="busy"), lock(tmp_path / "new", busy="busy"):
        pass
    done.set()
    waiting.join()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lock", [locked_folder, locked_output], ids=["folder", "output"])
def test_one_at_a_time_of_many(lock: Lock, tmp_path: Path) -> None:
    inside, most = list[int](), list[int]()

    def work(number: int) -> None:
        for _ in range(5):
            with lock(tmp_path / "new", busy="busy", patience=300):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 30 and list(tmp_path.iterdir()) == []


def test_a_folder_that_its_last_holder_removes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making and opening it, the first holder ends: the second must hold a folder, not nothing."""
    folder, opened = tmp_path / "new", os.open
    removals = iter([True])

    def removed(path: Any, *more: Any, **named: Any) -> int:
        if Path(path) == folder and next(removals, False):
            folder.rmdir()
        return opened(path, *more, **named)

    monkeypatch.setattr("encoder.locks.os.open", removed)
    with locked_folder(folder, busy="busy"):
        assert folder.is_dir()
        with pytest.raises(LlavaRadError, match="busy"), locked_folder(folder, busy="busy"):
            pass


def test_a_link_to_nothing_is_not_held(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with locked_folder(tmp_path / "link", busy="busy"):
        assert not (tmp_path / "nowhere").exists()


def test_what_was_written_to_a_folder_stays(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "a" / "run", busy="busy"):
        (tmp_path / "a" / "run" / "result").write_text("1")
    assert (tmp_path / "a" / "run" / "result").read_text() == "1"
    (tmp_path / "own").mkdir()
    with locked_folder(tmp_path / "own", busy="busy"):
        pass
    assert (tmp_path / "own").is_dir(), "it was there before"


@pytest.mark.parametrize("lock", [locked_folder, locked_output], ids=["folder", "output"])
@pytest.mark.parametrize("name", ["file/new", "x" * 300, "a\0b"], ids=["file", "long", "nul"])
def test_a_name_that_cannot_be_made_is_left_to_the_writer(lock: Lock, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with lock(tmp_path / name, busy="busy"):
        pass
