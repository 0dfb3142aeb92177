"""The cache of annotations: what is kept, for whom, and what goes through a model."""

from __future__ import annotations

import hashlib
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from metrics.annotations import annotate
from metrics.cache import Cache


class Model:
    """Gives the length of a text, two texts at a time, and remembers what it saw."""

    def __init__(self, fail_after: int = 1000) -> None:
        self.saw: list[str] = []
        self._fail_after = fail_after

    def __call__(self, texts: list[str]) -> Iterator[list[int]]:
        for start in range(0, len(texts), 2):
            if len(self.saw) >= self._fail_after:
                raise KeyboardInterrupt
            self.saw += texts[start : start + 2]
            yield [len(text) for text in texts[start : start + 2]]


def test_no_text_goes_through_the_model_twice(tmp_path: Path) -> None:
    path, texts = tmp_path / "sub" / "cache.sqlite", ["aa", "b", "aa", "", "ccc"]
    first, second, other = Model(), Model(), Model()
    cache = Cache(path)
    assert annotate(texts, first, model="m", cache=cache) == [2, 1, 2, 0, 3]
    assert first.saw == ["aa", "b", "", "ccc"]
    cache.close()
    cache = Cache(path)
    assert annotate([*texts, "new"], second, model="m", cache=cache) == [2, 1, 2, 0, 3, 3]
    assert second.saw == ["new"]
    annotate(texts, other, model="other weights", cache=cache)
    assert other.saw == first.saw
    assert annotate(texts, Model(), model="m") == [2, 1, 2, 0, 3]


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    texts = [str(number) * number for number in range(1, 8)]
    cache, again = Cache(tmp_path / "c"), Model()
    with pytest.raises(KeyboardInterrupt):
        annotate(texts, Model(fail_after=4), model="m", cache=cache)
    assert annotate(texts, again, model="m", cache=cache) == list(range(1, 8))
    assert again.saw == texts[4:]


def test_progress_counts_every_text_once(tmp_path: Path) -> None:
    done: list[int] = []
    annotate(["a", "b", "a", "c"], Model(), model="m", progress=done.append)
    assert sum(done) == 3


def test_only_the_user_can_read_it_and_it_holds_no_text(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    cache = Cache(path)
    annotate(["Pneumothorax of Jane Doe"], Model(), model="m", cache=cache)
    cache.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"Jane" not in path.read_bytes() and b"Pneumothorax" not in path.read_bytes()


def test_a_file_that_cannot_be_used_is_one_line_and_computing_goes_on(tmp_path: Path) -> None:
    damaged, other, folder, under_file, locked = (tmp_path / name for name in ("a", "b", "c", "d/e", "f"))
    damaged.write_bytes(b"no database" * 100)
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE annotations (something TEXT)")
    folder.mkdir()
    (tmp_path / "d").write_bytes(b"")
    Cache(locked).put("m", {"known": 5})
    holder = sqlite3.connect(locked)
    holder.execute("BEGIN EXCLUSIVE")
    for path in (damaged, other, folder, under_file, locked):
        said: list[str] = []
        cache, model = Cache(path, timeout=0.1, say=said.append), Model()
        assert annotate(["known", "b", "c"], model, model="m", cache=cache) == [5, 1, 1]
        assert model.saw == ["known", "b", "c"]
        assert len(said) == 1 and "\n" not in said[0]
        assert said[0].startswith("the cache of annotations cannot be used (") and "--no-cache" in said[0]
    holder.close()
    assert damaged.read_bytes() == b"no database" * 100, "a file of somebody else is left alone"


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    path, key = tmp_path / "cache.sqlite", hashlib.sha256(b"text").hexdigest()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE annotations (model TEXT, text TEXT, value TEXT, PRIMARY KEY (model, text))")
        connection.execute("INSERT INTO annotations VALUES ('m', ?, '[1,2]')", (key,))
    assert Cache(path).get("m", ["text", "other"]) == {"text": [1, 2]}


WRITER = """
import sys
from pathlib import Path
from metrics.cache import Cache
path, name, count = sys.argv[1:]
cache = Cache(Path(path))
for number in range(int(count)):
    cache.put("m", {f"{name}-{number}": number, f"{name}-{number} too": number})
    print(number, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def acknowledged(path: Path, name: str, lines: list[str]) -> None:
    """Check that every annotation whose writing was acknowledged is there, and both of a transaction or none."""
    texts = [f"{name}-{number}{end}" for number in range(1000) for end in ("", " too")]
    found = Cache(path).get("m", texts)
    assert found.keys() >= {f"{name}-{line.strip()}" for line in lines}
    assert all((f"{name}-{number}" in found) == (f"{name}-{number} too" in found) for number in range(1000))


def test_many_processes_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    processes = {name: writer(path, name, 20) for name in ("a", "b", "c")}
    for name, process in processes.items():
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        acknowledged(path, name, out.splitlines())
        assert len(out.splitlines()) == 20


@pytest.mark.parametrize("rounds", [2, pytest.param(60, marks=pytest.mark.nightly)])
def test_a_kill_loses_nothing_acknowledged(tmp_path: Path, rounds: int) -> None:
    path = tmp_path / "cache.sqlite"
    for number in range(rounds):
        process = writer(path, f"run{number}", 1000)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(1 + number % 7)]
        process.kill()
        lines += process.stdout.read().splitlines()
        process.communicate(timeout=60)
        acknowledged(path, f"run{number}", lines)
