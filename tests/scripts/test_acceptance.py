"""The table of promises: every test and long run that it names exists, and what they say is counted right."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scripts import acceptance
from scripts.acceptance import ROWS, Outcome, counts, table
from tests.source_tree import ROOT


def test_the_table_has_28_rows_in_order() -> None:
    assert [row.number for row in ROWS] == list(range(1, 29))
    assert all(row.tests or row.soak for row in ROWS)


@pytest.mark.parametrize("target", sorted({target for row in ROWS for target in row.tests}))
def test_every_named_test_exists(target: str) -> None:
    file, _, name = target.partition("::")
    assert (ROOT / file).exists()
    if name:
        functions = [
            one.name for one in ast.parse((ROOT / file).read_text("utf-8")).body if isinstance(one, ast.FunctionDef)
        ]
        assert name in functions


def test_every_long_run_exists() -> None:
    for row in ROWS:
        assert not row.soak or (ROOT / "scripts" / "soak" / f"{row.soak[0]}.py").is_file()


def test_junit_counts(tmp_path: Path) -> None:
    file = tmp_path / "report.xml"
    assert counts(file) == (0, 1, 0)  # pytest did not even start
    file.write_text('<testsuites><testsuite tests="9" failures="1" errors="2" skipped="3"/></testsuites>')
    assert counts(file) == (3, 3, 3)


def test_table_says_what_is_not_kept_and_what_was_not_run() -> None:
    text = table({1: Outcome(8, 0, 0, "", True, 61.2), 9: Outcome(1, 1, 2, "lost 0; users 50", False, 5.0)})
    lines = text.splitlines()[2:]
    assert lines[0].startswith("| 1 | no input crashes us |") and lines[0].endswith("| 8 of 8 |  | yes | 61 |")
    assert lines[1].endswith("| 1 of 2, 2 not run | lost 0; users 50 | **no** | 5 |") and len(lines) == 2


def test_one_row_for_real(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    quick = acceptance.Row(21, "no pickle", "0", ("tests/test_security.py::test_the_scanner_leaves_alone",))
    monkeypatch.setattr(acceptance, "ROWS", (quick,))
    assert acceptance.main(["--rows", "21", "--output", str(tmp_path / "a.md")]) == 0
    assert "| yes |" in capfd.readouterr().out
    kept = (tmp_path / "a.md").read_text()
    assert kept.startswith("# Acceptance\n\n`make acceptance` on 2") and " cores of " in kept
    with pytest.raises(SystemExit) as ended:
        acceptance.main(["--rows", "99"])
    assert ended.value.code == 2
