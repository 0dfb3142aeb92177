"""Run the tests that show that each promise of reliability and security is kept, and print one table.

    python scripts/acceptance.py [--rows 1,2,9] [--output docs/acceptance.md] [PYTEST-ARGUMENT...]

A test names its promise by a marker, ``@pytest.mark.acceptance(row=7)``; a module does so in ``pytestmark``. A row is
kept if at least one of its tests passed and none failed; skipped tests count as not run. Takes an hour on two cores.
This module is also the pytest plugin that makes the table. Exit code 0 if every row that was run is kept, else 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest

if __package__ in (None, ""):  # run as a file: the project's root holds the package `scripts`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.bench.harness import machine

ROOT = Path(__file__).resolve().parents[1]
ROWS = {
    1: ("no input crashes us", "10,000 mutations over 7 transfer syntaxes: 0 crashes, each < 10 s, parent < 300 MB"),
    2: ("bombs", "20 crafted files refused < 5 s, child at most 3 GB"),
    3: ("right pixels", "1,400 cases against highdicom: at most 1 grey level, lossless identical"),
    4: ("polarity and side", "RG1, RG3 and 20 flipped copies"),
    5: ("wrong inputs refused", "30 of 30 for the right reason, exit code 4"),
    6: ("same answer", "command line, Python, page and batches: identical text and tokens"),
    7: ("recipe fixed", "golden tensors by SHA-256; without a recipe refused"),
    8: ("resume", "kill -9 at 20 random steps: bit-exact, 20 of 20"),
    9: ("no lost review", "50 people, 8 browsers: 0 lost, 0 mixed"),
    10: ("crash of the app", "40 kills during saves: 0 acknowledged lost"),
    11: ("full queue", "30 drafts waiting, 30 saves < 1 s"),
    12: ("stop, close, reload, network cut", "stops within a token, the draft is kept"),
    13: ("stale screen", "the old image, text and labels are gone before the new ones"),
    14: ("own data only", "requests for other people's data: 403 or 404"),
    15: ("paths", "0 outside, 0 fetched"),
    16: ("script in any text", "0 run"),
    17: ("login", "brake after 5, nobody enumerated, cookie flags"),
    18: ("no patient's data", "canaries in every header field and the file name: 0 come out"),
    19: ("offline", "0 connections beyond this machine"),
    20: ("model files", "bit flips, truncation, swapped files, pickles, remote code: all refused, exit code 5"),
    21: ("no pickle", "0 unsafe calls in the sources"),
    22: ("contract of the command line", "help, version, exit codes, JSON, standard input; help < 0.5 s"),
    23: ("outputs valid", "dsrdump, Orthanc and back, FHIR R4, JSON schema"),
    24: ("marking", "notice in text, JSON, SR, FHIR, page, export"),
    25: ("accessibility", "axe WCAG 2.1 AA: 0 violations of ours; the whole review by keyboard"),
    26: ("browser end to end", "all cases"),
    27: ("soak", "500 reports in one process: memory +5 % at most, no open files"),
    28: ("dependencies", "floors, pip check, no GPL by default"),
    29: ("the service", "texts of generate; keys, limits; reload, SIGTERM, SIGKILL: answered, or failed aloud"),
    30: ("hostile users", "zips, floods, maps in a row, odd requests: 4xx with headers, others served meanwhile"),
    31: ("deployment", "unknown user, read-only root, 64 MB of shared memory; archive, draft, review, archive"),
    32: ("odd machines", "every command: closed streams, no home, full disk: one line, right code, nothing lost"),
    33: ("statistics by patient", "patients resampled with all reports, NumPy's draws, exact p-values, golden values"),
    34: (
        "study model",
        "loss of lateral, prior and texts as by hand; a kill changes nothing; same words as transformers",
    ),
    35: ("metric agreement", "finding metric: tau at least 0.60 with RadPref's ratings, 7 of 9 of RadJudge's orders"),
}
"""Number -> promise, and the criterion by which it is kept; ``SECURITY.md`` explains them."""

LONG_RUN = "long run"
"""Property by which a test records the counts of a long run."""


@dataclass
class Outcome:
    """Results of the tests of one row."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    long_runs: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """True if tests passed and none failed."""
        return self.passed > 0 and not self.failed


class Table:
    """Pytest plugin that collects the outcomes of all rows."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count the report of one phase of a test; a test passes in its call, and may fail or skip in any phase."""
        properties = dict(report.user_properties)
        rows = properties.get("acceptance", ())
        assert isinstance(rows, list | tuple)
        for row in rows:
            outcome = self.outcomes.setdefault(row, Outcome())
            outcome.seconds += report.duration
            outcome.passed += report.when == "call" and report.passed
            outcome.failed += report.failed
            outcome.skipped += report.skipped
            if report.when == "call" and LONG_RUN in properties:
                outcome.long_runs.append(str(properties[LONG_RUN]))

    def text(self) -> str:
        """The rows that were run, in Markdown."""
        lines = ["| # | promise | kept when | tests passed | s |", "|---|---|---|---|---|"]
        for number, one in sorted(self.outcomes.items()):
            ran = f"{one.passed} of {one.passed + one.failed}" + (f", {one.skipped} not run" if one.skipped else "")
            seen = "; ".join((ran, *one.long_runs)).replace("|", ",") + ("" if one.kept else ", **not kept**")
            lines.append(f"| {' | '.join(map(str, (number, *ROWS[number], seen)))} | {one.seconds:.0f} |")
        return "\n".join(lines) + "\n"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the rows of each test to its report; in processes of pytest-xdist, too."""
    for item in items:
        rows = sorted({mark.kwargs["row"] for mark in item.iter_markers("acceptance")})
        if rows:
            item.user_properties.append(("acceptance", rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests and print the table; exit code 1 if a row is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="numbers, separated by commas (all)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Markdown file for the table")
    options, more = parser.parse_known_args(argv)
    try:
        rows = sorted({int(number) for number in options.rows.split(",")} if options.rows else ROWS)
    except ValueError:
        parser.error("--rows takes numbers separated by commas")
    if unknown := set(rows) - set(ROWS):
        parser.error(f"there is no row {min(unknown)}")
    chosen = "acceptance" if not options.rows else "(" + " or ".join(f"acceptance(row={row})" for row in rows) + ")"
    table = Table()
    arguments = [f"--rootdir={ROOT}", "-q", "-p", "scripts.acceptance", "-m", f"{chosen} and not gpu"]
    pytest.main([*arguments, *(more or [str(ROOT / "tests")])], plugins=[table])
    text = table.text()
    if options.output is not None:
        facts = machine()
        about = f"{facts['cores']} cores of {facts['processor']}, Python {facts['python']}"
        head = f"# Acceptance\n\n`make acceptance` on {date.today().isoformat()}, {about}.\n\n"
        options.output.write_text(head + text, encoding="utf-8")
    print(text, end="")
    return 0 if set(rows) == {row for row, one in table.outcomes.items() if one.kept} else 1


if __name__ == "__main__":
    raise SystemExit(main())
