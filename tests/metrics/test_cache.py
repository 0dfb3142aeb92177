"""The cache of annotations: what is kept, for whom, and what goes through a model."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from metrics.cache import Cache, annotate
from metrics.errors import MetricError


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


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(MetricError, match="the cache of annotations cannot be used") as error:
        Cache(path)
    assert "--no-cache" in str(error.value.hint)
    cache = Cache(tmp_path / "other")
    with sqlite3.connect(tmp_path / "other") as base:
        base.execute("DROP TABLE annotations")
    with pytest.raises(MetricError, match="cannot be used"):
        annotate(["a"], Model(), model="m", cache=cache)
