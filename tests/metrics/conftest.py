"""Golden values and the sixteen pairs that they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Lexical(NamedTuple):
    """The 16 pairs of the specification's table."""

    ids: list[str]
    candidates: list[str]
    references: list[str]


@pytest.fixture(scope="session")
def golden(shared_dir: Path) -> dict[str, Any]:
    """Values of reference implementations: lexical, radgraph, chexbert, bootstrap."""
    names = ("lexical", "radgraph", "chexbert", "bootstrap")
    return {name: json.loads((shared_dir / "golden" / f"golden_{name}.json").read_text()) for name in names}


@pytest.fixture(scope="session")
def lexical(shared_dir: Path, golden: dict[str, Any]) -> Lexical:
    """Ids, candidates and references, in the golden file's order."""
    ids = [row["id"] for row in golden["lexical"]["rows"]]
    texts: dict[str, tuple[str, str]] = {}
    for line in (shared_dir / "spec" / "metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 9 and cells[0] in ids:
            first, second = ("" if cell == "(empty)" else cell.replace("\\n", "\n") for cell in cells[1:3])
            texts[cells[0]] = first, second
    assert list(texts) == ids
    return Lexical(ids, [texts[key][0] for key in ids], [texts[key][1] for key in ids])
