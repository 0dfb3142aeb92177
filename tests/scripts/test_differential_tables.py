"""The comparison of our reader of tables with pandas, on a sample."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from scripts import differential_tables as script


def test_100_drawn_tables_have_no_silent_difference(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    result = script.compare(100, 4, tmp_path)
    assert result.silent == []
    assert result.kinds["the same cells"] > 30
    assert sum(result.kinds.values()) == 100


def test_a_reader_that_drops_cells_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    right = script.ours

    def wrong(path: Path) -> script.Rows | str:
        rows = right(path)
        return rows if isinstance(rows, str) else rows[1:]

    monkeypatch.setattr(script, "ours", wrong)
    assert len(script.compare(30, 0, tmp_path).silent) > 5


def test_a_table_is_the_same_for_the_same_seed() -> None:
    assert script.draw(random.Random("1")) == script.draw(random.Random("1"))
