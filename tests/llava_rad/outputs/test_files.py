"""Output files: refusals to overwrite, and logs that are continued."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llava_rad.outputs.files import OutputError, ReportLog, settings_of, write_whole
from llava_rad.outputs.report import Report
from tests.llava_rad.outputs.reports import OLD, OLD_WITH_BOXES, report

pytestmark = pytest.mark.acceptance(row=23)

SETTINGS = settings_of(report().model_dump(by_alias=True))


def test_whole_file_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", b"one")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(OutputError, match="exists already"):
        write_whole(tmp_path / "a.txt", b"two")
    assert (tmp_path / "a.txt").read_bytes() == b"one"
    write_whole(tmp_path / "a.txt", b"two", overwrite=True)
    assert (tmp_path / "a.txt").read_bytes() == b"two"
    assert len(list(tmp_path.iterdir())) == 1


def test_whole_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a.txt", b"one")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_existing_file_survives_a_write_that_fails_half_way(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError):
            write_whole(path, bytes(5000), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_log_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with ReportLog(path) as log:
        assert not log.holds_reports
        log.append([report("1" * 64)])
        log.append([report("2" * 64), report("2" * 64)])
    first = path.read_bytes()
    with ReportLog(path) as log:
        assert log.done(SETTINGS) == {("1" * 64, 1): 1, ("2" * 64, 1): 2}
        log.append([report("3" * 64)])
    assert path.read_bytes().startswith(first)
    assert [Report.from_json(line).input.sha256[0] for line in path.read_text().splitlines()] == list("1223")


def test_log_cuts_a_half_written_line_off_at_any_place(tmp_path: Path) -> None:
    line = (report("1" * 64).to_json(indent=None) + "\n").encode()
    other = (report("2" * 64).to_json(indent=None) + "\n").encode()
    path = tmp_path / "log.jsonl"
    for length in (0, 1, 9, 27, 28, 29, 30, 31, len(line) // 2, len(line) - 1):
        path.write_bytes(other + line[:length])
        with ReportLog(path) as log:
            assert log.done(SETTINGS) == {("2" * 64, 1): 1}
            log.append([report("1" * 64)])
        assert path.read_bytes() == other + line


@pytest.mark.parametrize("old", [OLD, OLD_WITH_BOXES])
def test_log_of_an_earlier_schema_is_continued(tmp_path: Path, old: dict[str, Any]) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(old, separators=(",", ":")) + "\n")
    with ReportLog(path) as log:
        assert log.done(settings_of(old)) == {("a" * 64, 1): 1}
        log.append([report("2" * 64)])
    first, second = (Report.from_json(line) for line in path.read_text().splitlines())
    assert (first.input.sha256[0], second.input.sha256[0]) == ("a", "2")


@pytest.mark.parametrize(("unsure", "same"), [(None, True), ("written", True), ("unsaid", False)])
def test_a_setting_that_earlier_versions_did_not_know_is_at_its_default(unsure: str | None, same: bool) -> None:
    made = report().model_dump(by_alias=True)
    made["generation"].pop("unsure")
    if unsure:
        made["generation"]["unsure"] = unsure
    assert (settings_of(made) == SETTINGS) is same


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"hello",
        b'{"a":1}\n',
        b"\n",
        b'{"schema":"llava-rad.report/1" oops}\n',
        b'{"schema":"llava-rad.report/4"}\n',
        b"\x00" * 9,
    ],
)
def test_log_refuses_what_it_did_not_write(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(OutputError, match="not a file of reports"):
        ReportLog(path)
    assert path.read_bytes() == content


def test_log_refuses_another_model_or_other_settings(tmp_path: Path) -> None:
    for other in (report(model="c" * 64), report(seed=1)):
        path = tmp_path / "log.jsonl"
        path.write_text(other.to_json(indent=None) + "\n")
        with ReportLog(path) as log, pytest.raises(OutputError, match="another model"):
            log.done(SETTINGS)


def test_log_is_overwritten_on_request_at_the_first_report_only(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"precious\n")
    with ReportLog(path, overwrite=True):
        pass
    assert path.read_bytes() == b"precious\n"
    with ReportLog(path, overwrite=True) as log:
        log.append([report()])
    assert path.read_text() == report().to_json(indent=None) + "\n"


def test_log_that_nothing_was_written_to_is_not_left_behind(tmp_path: Path) -> None:
    with ReportLog(tmp_path / "log.jsonl"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_log_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    code = f"from pathlib import Path; from llava_rad.outputs.files import ReportLog; ReportLog(Path({str(path)!r}))"
    with ReportLog(path) as log:
        log.append([report()])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process" in done.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
