"""The benchmark of images at toy size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts.bench import data


@pytest.mark.nightly
def test_all_rows_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["data", "--quick", "--json", str(tmp_path / "found.json")])
    data.main()
    found = json.loads((tmp_path / "found.json").read_text())["images"]
    assert list(found) == ["build", "copy", "read", "read by mmap", "crops, 0 workers", "crops, 2 workers"]
    assert all(row["per s"] > 0 for row in found.values())
