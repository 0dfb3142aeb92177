"""The paper's numbers against the paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llava_rad.benchmark.published import REPORTS, SCORES, TABLE_2, WORST_GROUP

_NUMBERS = re.compile(r"(\d+\.\d) \[(\d+\.\d), (\d+\.\d)\]")


def _paper(shared: Path) -> list[str]:
    (text,) = (path.read_text(encoding="utf-8") for path in (shared / "seeds").glob("003_*.txt"))
    return text.splitlines()


@pytest.mark.parametrize(("dataset", "caption"), [("mimic-cxr", "MIMIC-CXR (N"), ("iu-xray", "IU-Xray (N")])
def test_table_2_is_the_papers(shared_dir: Path, dataset: str, caption: str) -> None:
    lines = _paper(shared_dir)
    (start,) = (n for n, line in enumerate(lines) if "Results for" in line and caption in line)
    assert f"{REPORTS[dataset]}" in lines[start]
    rows = [line for line in lines[start : start + 14] if len(_NUMBERS.findall(line)) == 4]
    assert len(rows) == len(TABLE_2[dataset]) == 8
    for line, row in zip(rows, TABLE_2[dataset], strict=True):
        assert line.replace("R ad-", "RAD-").split(" ")[0].split("[")[0] == row.encoder
        assert f" {row.tokens} " in line
        published = [tuple(map(float, found)) for found in _NUMBERS.findall(line)]
        assert published == [tuple(getattr(row, name)) for name in SCORES]


def test_worst_groups_are_the_papers(shared_dir: Path) -> None:
    (line,) = (line for line in _paper(shared_dir) if line.startswith("Encoder ROUGE-L avg ROUGE-L worst"))
    published = [tuple(map(float, found)) for found in re.findall(r"(\d+\.\d) (\d+\.\d)(?= |$)", line)]
    assert published == [(row.average, row.worst) for row in WORST_GROUP]


def test_intervals_hold_their_median() -> None:
    values = [getattr(row, name) for rows in TABLE_2.values() for row in rows for name in SCORES]
    assert all(value.low <= value.median <= value.high for value in values)
