"""The work that readers share keeps its order and counts all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_rad.reports.registry import in_threads, there


@pytest.mark.parametrize("number", [0, 1, 256, 1000])
def test_every_item_is_done_once_and_in_order(number: int) -> None:
    done: list[int] = []
    assert in_threads(lambda item: item * 2, range(number), done.append) == [2 * item for item in range(number)]
    assert sum(done) == number


def test_an_error_ends_the_work() -> None:
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 // item, range(1000), lambda done: None)


def test_a_place_that_cannot_be_looked_at_holds_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    names = ("file", "none", "file/below", "x" * 300)
    assert [there(tmp_path / name) for name in names] == [True, False, False, False]
    assert not there(tmp_path), "a folder is no file"
