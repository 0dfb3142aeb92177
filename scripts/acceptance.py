"""Every promise of reliability and security on one table: its tests are run, what they say is printed and kept.

    python scripts/acceptance.py [--rows 1,2,9] [--output docs/acceptance.md]

A row is kept when all of its tests pass and its long run (``scripts/soak``) ends with status 0; a skipped test counts
as not run. An hour on two cores. Exit code 0 if every row that was run is kept, else 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """One promise.

    Attributes:
        number: of the table.
        promise: what users may rely on.
        mark: when it is kept.
        tests: arguments of pytest: files, or single tests.
        soak: module of ``scripts.soak`` with its arguments, or nothing.
    """

    number: int
    promise: str
    mark: str
    tests: tuple[str, ...]
    soak: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a row: counts of tests, what the long run printed, seconds."""

    passed: int
    failed: int
    skipped: int
    soak: str
    kept: bool
    seconds: float


ROWS = (
    Row(1, "no input crashes us", "10,000 mutations over 7 transfer syntaxes: 0 crashes, each < 10 s, parent < 300 MB",
        ("tests/encoder/reader/test_hostile.py::test_mutations",
        "tests/encoder/reader/test_hostile.py::test_parent_stays_small")),
    Row(2, "bombs", "20 crafted files refused < 5 s, child at most 3 GB",
        ("tests/encoder/reader/test_hostile.py::test_bombs",
        "tests/encoder/reader/test_hostile.py::test_there_are_20_bombs",
         "tests/encoder/reader/test_hostile.py::test_worker_memory_is_limited")),
    Row(3, "right pixels", "1,400 cases against highdicom: at most 1 grey level, lossless identical",
        ("tests/encoder/reader/test_oracle.py",)),
    Row(4, "polarity and side", "RG1, RG3 and 20 flipped copies", ("tests/encoder/reader/test_sandbox.py",)),
    Row(5, "wrong inputs refused", "30 of 30 for the right reason, exit code 4",
    ("tests/encoder/reader/test_refusals.py",)),
    Row(6, "same answer", "command line, Python, page and batches: identical text and tokens",
        ("tests/llava_rad/generation/test_report_writer.py", "tests/llava_rad/generation/test_decoding.py",
        "tests/llava_rad/test_demo.py",
         "tests/app/test_routes.py::test_the_draft_is_what_generate_writes")),
    Row(7, "recipe fixed", "golden tensors by SHA-256; without a recipe refused",
        ("tests/encoder/test_preprocessing.py", "tests/llava_rad/model/test_checkpoint.py")),
    Row(8, "resume", "kill -9 at 20 random steps: bit-exact, 20 of 20",
        ("tests/encoder/pretraining/test_train.py", "tests/llava_rad/training/test_run.py")),
    Row(9, "no lost review", "50 people, 8 browsers: 0 lost, 0 mixed",
        ("tests/app/test_routes.py::test_sixteen_people_lose_nothing_and_mix_nothing_up",
         "tests/app/browser/test_safety.py::test_eight_browsers_at_once_lose_nothing_and_mix_nothing_up"), ("users",)),
    Row(10, "crash of the app", "40 kills during saves: 0 acknowledged lost", ("tests/app/test_store.py",), ("kills",)),
    Row(11, "full queue", "30 drafts waiting, 30 saves < 1 s",
        ("tests/app/test_routes.py::test_saves_go_through_while_thirty_drafts_wait",)),
    Row(12, "stop, close, reload, network cut", "stops within a token, the draft is kept",
        ("tests/app/test_drafting.py",
         "tests/app/browser/test_safety.py::test_a_draft_outlives_reload_closing_and_a_cut_line",
         "tests/app/browser/test_review_page.py::test_a_reload_in_the_middle_of_a_draft_finds_it_again")),
    Row(13, "stale screen", "the old image, text and labels are gone before the new ones",
        ("tests/app/browser/test_review_page.py::test_a_bad_file_after_a_good_one_leaves_nothing_of_the_good_one",
         "tests/app/browser/test_review_page.py::test_a_second_study_while_the_first_is_being_drafted",
         "tests/app/browser/test_review_page.py::test_two_tabs_do_not_overwrite_each_other",
         "tests/app/browser/test_viewer.py::test_nothing_is_left_of_the_last_image_while_the_next_one_loads")),
    Row(14, "own data only", "requests for other people's data: 403 or 404",
        ("tests/app/test_security.py::test_users_have_nothing_of_each_other",
         "tests/app/test_security.py::test_nothing_is_open_without_a_login",
         "tests/app/test_store.py::test_nobody_has_anything_of_anothers",
         "tests/app/browser/test_safety.py::test_two_people_on_one_server_see_their_own")),
    Row(15, "paths", "0 outside, 0 fetched",
        ("tests/llava_rad/commands/test_paths.py", "tests/app/test_security.py::test_no_path_leads_out_of_the_studies",
         "tests/app/test_security.py::test_a_files_name_goes_nowhere")),
    Row(16, "script in any text", "0 run", ("tests/app/browser/test_safety.py::test_no_text_becomes_a_script",)),
    Row(17, "login", "brake after 5, nobody enumerated, cookie flags",
        ("tests/app/test_accounts.py", "tests/app/test_security.py")),
    Row(18, "no patient's data", "canaries in every header field and the file name: 0 come out",
        ("tests/encoder/reader/test_privacy.py", "tests/llava_rad/test_privacy.py", "tests/app/test_privacy.py",
         "tests/llava_rad/pacs/test_archive.py::test_header_values_stay_out_of_everything_but_the_archive")),
    Row(19, "offline", "0 connections beyond this machine",
        ("tests/llava_rad/commands/test_offline.py", "tests/app/test_privacy.py::test_the_server_talks_to_nobody")),
    Row(20, "model files", "bit flips, truncation, swapped files, pickles, remote code: all refused, exit code 5",
        ("tests/llava_rad/model/test_checkpoint.py",)),
    Row(21, "no pickle", "0 unsafe calls in the sources", ("tests/test_security.py",)),
    Row(22, "contract of the command line", "help, version, exit codes, JSON, standard input; help < 0.5 s",
        ("tests/llava_rad/commands/test_cli.py", "tests/llava_rad/commands/test_process.py",
        "tests/llava_rad/commands/test_inspect.py")),
    Row(23, "outputs valid", "dsrdump, Orthanc and back, FHIR R4, JSON schema",
        ("tests/llava_rad/outputs", "tests/llava_rad/outputs/test_document_files.py",
        "tests/llava_rad/pacs/test_archive.py")),
    Row(24, "marking", "notice in text, JSON, SR, FHIR, page, export",
        ("tests/llava_rad/test_marking.py", "tests/app/test_privacy.py::test_everything_that_leaves_is_marked",
         "tests/llava_rad/outputs/test_documents.py::test_a_draft_says_that_it_is_one")),
    Row(25, "accessibility", "axe WCAG 2.1 AA: 0 violations of ours; the whole review by keyboard",
        ("tests/app/browser/test_review_page.py::test_no_accessibility_violation_of_ours",
         "tests/app/browser/test_review_page.py::test_the_whole_review_by_keyboard_alone")),
    Row(26, "browser end to end", "all cases", ("tests/app/browser",)),
    Row(27, "soak", "500 reports in one process: memory +5 % at most, no open files", (), ("reports",)),
    Row(28, "dependencies", "floors, pip check, no GPL by default", ("tests/test_packaging.py",)),
)  # fmt: skip
"""The table of promises; ``SECURITY.md`` says what they are for."""


def run(row: Row) -> Outcome:
    """Run a row's tests and its long run."""
    started, passed, failed, skipped, soak, kept = time.monotonic(), 0, 0, 0, "", True
    if row.tests:
        with TemporaryDirectory(prefix="llava-rad-acceptance-") as folder:
            report = Path(folder) / "report.xml"
            command = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu", f"--junit-xml={report}", *row.tests]
            subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
            passed, failed, skipped = counts(report)
        kept = passed > 0 and not failed
    if row.soak:
        command = [sys.executable, "-m", f"scripts.soak.{row.soak[0]}", *row.soak[1:]]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        soak = "; ".join(" ".join(line.split()) for line in done.stdout.strip().splitlines()) or "no output"
        kept = kept and done.returncode == 0
    return Outcome(passed, failed, skipped, soak, kept, time.monotonic() - started)


def counts(report: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of a JUnit file of our own making; expected failures count as skipped."""
    if not report.is_file():
        return 0, 1, 0
    suites = ET.parse(report).getroot().iter("testsuite")
    tests = failed = skipped = 0
    for suite in suites:
        tests += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return tests - failed - skipped, failed, skipped


def table(outcomes: dict[int, Outcome]) -> str:
    """The rows that were run, in Markdown."""
    lines = ["| # | promise | kept when | tests passed | long run | kept | s |", "|---|---|---|---|---|---|---|"]
    for row in ROWS:
        if (one := outcomes.get(row.number)) is not None:
            ran = f"{one.passed} of {one.passed + one.failed}" + (f", {one.skipped} not run" if one.skipped else "")
            cells = (row.number, row.promise, row.mark, ran if row.tests else "", one.soak.replace("|", ","))
            lines.append(f"| {' | '.join(map(str, cells))} | {'yes' if one.kept else '**no**'} | {one.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Processor, cores and Python, in words."""
    name = platform.machine()
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else ():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{os.cpu_count()} cores of {name}, Python {platform.python_version()}"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 all kept, 1 not all, 2 wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="numbers, with commas between [all]")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    options = parser.parse_args(argv)
    known = {row.number for row in ROWS}
    try:
        wanted = known if options.rows is None else {int(number) for number in options.rows.split(",")}
    except ValueError:
        parser.error("--rows takes numbers with commas between")
    if odd := wanted - known:
        parser.error(f"there is no row {min(odd)}")
    outcomes: dict[int, Outcome] = {}
    for row in ROWS:
        if row.number in wanted:
            print(f"row {row.number}: {row.promise}", file=sys.stderr, flush=True)
            outcomes[row.number] = run(row)
    text = table(outcomes)
    if options.output is not None:
        head = f"# Acceptance\n\n`make acceptance` on {date.today().isoformat()}, {machine()}.\n\n"
        options.output.write_text(head + text, encoding="utf-8")
    print(text, end="")
    return 0 if all(one.kept for one in outcomes.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
