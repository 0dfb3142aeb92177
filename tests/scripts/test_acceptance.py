"""The table of promises: each has tests, and their outcomes are counted."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts import acceptance
from scripts.acceptance import LONG_RUN, ROWS, Table
from tests.source_tree import ROOT


def test_every_promise_has_tests() -> None:
    assert list(ROWS) == list(range(1, 36))
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    marked = {int(row) for text in texts for row in re.findall(r"mark\.acceptance\(row=(\d+)\)", text)}
    assert marked == set(ROWS)


def report(rows: list[int], outcome: str, when: str = "call", **properties: str) -> Any:
    """A report of pytest, as the plugin reads it."""
    user = [("acceptance", rows), *((name.replace("_", " "), value) for name, value in properties.items())]
    flags = {name: name == outcome for name in ("passed", "failed", "skipped")}
    return SimpleNamespace(user_properties=user, when=when, duration=20.4, **flags)


def test_table_counts_tests_by_row() -> None:
    table = Table()
    for one in (
        report([1], "passed", "setup"), report([1], "passed"), report([1, 9], "passed"), report([9], "failed"),
        report([9], "skipped", "setup"), report([27], "passed", long_run="lost 0"), report([11], "skipped", "setup"),
    ):  # fmt: skip
        table.pytest_runtest_logreport(one)
    assert LONG_RUN == "long run"
    lines = table.text().splitlines()[2:]
    assert lines[0].startswith("| 1 | no input crashes us |") and lines[0].endswith("| 2 of 2 | 61 |")
    assert lines[1].endswith("| 1 of 2, 1 not run, **not kept** | 61 |")
    assert lines[2].endswith("| 0 of 0, 1 not run, **not kept** | 20 |")  # nothing was shown
    assert lines[3].endswith("| 1 of 1; lost 0 | 20 |") and len(lines) == 4


@pytest.mark.slow
def test_marked_tests_alone_are_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_one.py").write_text(
        "import pytest\n@pytest.mark.acceptance(row=21)\n@pytest.mark.parametrize('n', range(3))\n"
        "def test_kept(n): pass\n@pytest.mark.acceptance(row=22)\ndef test_other(): assert False\n"
        "def test_none(): assert False\n"
    )
    arguments = ["--output", str(tmp_path / "a.md"), "-p", "no:cacheprovider", str(tmp_path)]
    assert acceptance.main(["--rows", "21", *arguments]) == 0
    assert "| 3 of 3 |" in capsys.readouterr().out
    kept = (tmp_path / "a.md").read_text()
    assert kept.startswith("# Acceptance\n\n`make acceptance` on 2") and " cores of " in kept
    assert acceptance.main(["--rows", "21,22", *arguments]) == 1
    with pytest.raises(SystemExit) as ended:
        acceptance.main(["--rows", "99"])
    assert ended.value.code == 2
