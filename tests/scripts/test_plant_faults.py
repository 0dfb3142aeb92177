"""The table of planted faults: each is still found in the code, exactly once, and leaves code that can be parsed."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from scripts.plant_faults import PACKAGES, Fault, PlantError, locate, planted, related_first, table
from tests.source_tree import ROOT


def test_at_least_ten_faults_a_package_are_found_exactly_once() -> None:
    faults = table()
    counts = Counter(fault.package for fault in faults)
    assert all(counts[package] >= 10 for package in PACKAGES)
    places = locate(faults, ROOT)
    assert len(places) == len({fault.name for fault in faults}) == len(faults)
    for fault in faults:
        path, place = places[fault.name]
        faulty = planted(fault, place)
        assert faulty != place.string
        if path.suffix == ".py":
            ast.parse(faulty)


def test_a_snippet_is_found_however_it_is_indented_and_planted_as_deep(tmp_path: Path) -> None:
    code = tmp_path / "app" / "one.py"
    code.parent.mkdir()
    code.write_text("if a:\n    if b:\n        first()\n        second(1)\n")
    fault = Fault("swapped", "app", "ordering", "first()\nsecond(1)", "second(1)\nif c:\n    first()")
    path, place = locate([fault], tmp_path)["swapped"]
    assert path == code
    assert planted(fault, place) == "if a:\n    if b:\n        second(1)\n        if c:\n            first()\n"
    code.write_text(code.read_text() * 2)
    with pytest.raises(PlantError, match=r"swapped \(2 times\)"):
        locate([fault], tmp_path)


def test_related_tests_come_first(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "app"
    folder.mkdir(parents=True)
    texts = {
        "a": "", "b": "the store", "c": "from app.store import Store", "store": "", "d": "from app import x, store",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / f"test_{name}.py").write_text(text)
    names = [
        Path(file).stem.removeprefix("test_") for file in related_first(tmp_path, "app", tmp_path / "app/store.py")
    ]
    assert names == ["c", "d", "store", "b", "a"]
