"""Rules of the jobs: what ends a run, what is refused, what is tried again and when."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from encoder.errors import LlavaRadError, ModelError, ReadError
from llava_rad.generation import chat_server
from llava_rad.generation.chat_server import DownError
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.report_writer import ReportWriter
from llava_rad.generation.study_writer import StudyWriter
from llava_rad.outputs.files import OutputError
from llava_rad.pacs import jobs, watch
from llava_rad.pacs.client import Pacs
from llava_rad.pacs.processed import READ_TRIES, Pauses, ProcessedImages, RecordError
from llava_rad.pacs.transport import SlowError, UnreachableError
from llava_rad.pacs.watch import watch_once
from tests.llava_rad.pacs.running import IMAGES, Writer, answers, hashes, kept, pulled, watched, written
from tests.llava_rad.pacs.scripted import Server
from tests.llava_rad.standins.chat_server import standing_in, status


def refusing(*errors: Exception | None) -> Writer:
    """A writer that fails for the first images with these errors, and writes the others."""
    left = list(errors)

    class Refusing(Writer):
        def write(self, groups: list[Any]) -> Any:
            self.refused = left.pop(0) if left else None
            return super().write(groups)

    return Refusing()


def test_only_the_image_itself_is_refused_for_good(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    writer = refusing(
        ReadError("lateral", "a lateral image"), ReadError("timeout", "took too long"), RuntimeError("Doe^Jane 1.2.3")
    )
    count = watched(server, tmp_path, said, writer)
    assert (count.new, count.refused, count.failed, count.exit_code) == (IMAGES - 3, 1, 2, 3)
    assert "unexpected RuntimeError; it will be tried again" in said[-1]
    again = watched(server, tmp_path, said)
    assert (again.new, again.known, again.refused, again.exit_code) == (2, IMAGES - 2, 0, 0)
    assert len(written(tmp_path)) == IMAGES - 1


def test_identifiers_that_no_document_can_hold_are_a_refusal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [LlavaRadError("malformed identifiers"), ReadError("no_identity", "no identifiers"), ValueError("x")]

    def documents(report: Any, content: bytes, reader: object) -> list[bytes]:
        if left:
            raise left.pop(0)
        return [report.sha256.encode()]

    monkeypatch.setattr(watch, "_documents", documents)
    count = watched(server, tmp_path, [], store=True)
    assert (count.new, count.refused, count.failed) == (IMAGES - 3, 2, 1)
    again = watched(server, tmp_path, [], store=True)
    assert (again.new, again.known) == (1, IMAGES - 1)
    assert len(set(server.stored)) == IMAGES - 2 and written(tmp_path) == hashes(server)


@pytest.mark.parametrize("error", [ModelError("no model"), OutputError("no space")])
def test_faults_of_the_run_end_it_and_lose_nothing(server: Server, tmp_path: Path, error: LlavaRadError) -> None:
    with pytest.raises(type(error)):
        watched(server, tmp_path, [], refusing(None, error))
    assert watched(server, tmp_path, []).new == IMAGES - 1


def test_what_an_earlier_version_recorded_for_a_busy_machine_is_tried_again(server: Server, tmp_path: Path) -> None:
    record = ProcessedImages(tmp_path / "watch.sqlite", json.dumps({"store": False}))
    for number, outcome in enumerate(("refused: timeout", "refused: lateral", "refused at every try: timeout")):
        record.done(f"1.2.3.{number}", {f"1.2.3.{number}.1.1": outcome})
    record.close()
    count = watched(server, tmp_path, [])
    assert (count.new, count.known) == (IMAGES - 2, 2)


def test_pauses_grow_between_the_tries_of_an_image() -> None:
    now = 0.0
    pauses = Pauses(60.0, clock=lambda: now)
    tries = []
    for minute in range(250):
        now = minute * 60.0
        if not pauses.waiting("image"):
            tries.append(minute)
            pauses.failed("image")
    assert tries == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243], "one minute, doubled up to an hour"


def test_a_watch_keeps_the_pauses(server: Server, tmp_path: Path) -> None:
    now = 0.0
    pauses = Pauses(60.0, clock=lambda: now)
    server.misbehave, server.meant = answers(), lambda request: request.path.endswith("1.2.3.0.1.1")
    assert watched(server, tmp_path, [], pauses=pauses).failed == 1
    server.heal()
    count = watched(server, tmp_path, [], pauses=pauses)
    assert (count.waiting, count.known, count.failed, count.exit_code) == (1, IMAGES - 1, 0, 0)
    now = 60.0
    assert watched(server, tmp_path, [], pauses=pauses).new == 1


def test_an_image_that_a_busy_machine_cannot_read_is_refused_in_the_end(server: Server, tmp_path: Path) -> None:
    server.images = {"1.2.3.0.1.1": server.images["1.2.3.0.1.1"]}
    pauses = Pauses(0.0)
    for number in range(READ_TRIES):
        count = watched(server, tmp_path, [], refusing(ReadError("timeout", "took too long")), pauses=pauses)
        assert (count.failed, count.refused) == ((1, 0) if number + 1 < READ_TRIES else (0, 1))
    assert watched(server, tmp_path, [], pauses=pauses).known == 1


def test_a_run_ends_when_nothing_is_answered_in_time(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.misbehave, server.meant = answers(503), lambda request: "/instances/" in request.path
    with pytest.raises(SlowError):
        jobs.pull(Pacs(server.url), tmp_path)
    assert server.misbehaved == 3 * 6, "three images, each with five retries"
    with pytest.raises(UnreachableError):
        jobs.pull(Pacs("http://127.0.0.1:9"), tmp_path)


@pytest.mark.parametrize("damage", [b"<html>login</html>", b"", None], ids=["a page", "nothing", "half a file"])
def test_kept_files_that_are_no_dicom_are_fetched_again(server: Server, tmp_path: Path, damage: bytes | None) -> None:
    assert pulled(server, tmp_path, []).new == IMAGES
    for path in sorted(tmp_path.glob("*.dcm"))[:2]:
        path.write_bytes(path.read_bytes()[:2000] if damage is None else damage)
    count = pulled(server, tmp_path, [])
    assert (count.new, count.known) == (2, IMAGES - 2) and kept(tmp_path) == hashes(server)


def test_a_named_study_without_images_is_said(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    count = jobs.pull(Pacs(server.url), tmp_path, studies=["1.2.3.1", "9.9", "1.2.3.1"], tell=said.append)
    assert (count.new, count.known, count.failed, count.exit_code) == (1, 0, 1, 3)
    assert len(said) == 1 and "the archive has no such study" in said[0] and "9.9" not in said[0]


def test_series_without_modality_are_counted(server: Server, tmp_path: Path) -> None:
    server.results = lambda path, asked, found: [
        *([{"0020000E": {"vr": "UI", "Value": ["1.9"]}}] if path.endswith("1.2.3.2/series") else []), *found
    ] if not asked.get("offset") else []  # fmt: skip
    pacs = Pacs(server.url)
    assert jobs.pull(pacs, tmp_path).new == IMAGES and pacs.passed_over == 1


def test_a_record_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "watch.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(RecordError, match="record of processed images"):
        ProcessedImages(tmp_path / "watch.sqlite", "")
    record = ProcessedImages(tmp_path / "other.sqlite", "")
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("DROP TABLE done")
    with pytest.raises(RecordError):
        record.outcome("1.2")
    with pytest.raises(RecordError):
        record.done("1", {"1.2": "written"})


def test_a_failing_server_of_the_model_loses_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_server, "BACKOFF_S", 0.001)
    said: list[str] = []
    with standing_in() as model:
        writer = ReportWriter(GenerationOptions(model=model.model))
        model.faults = [status(400)]
        count = watch_once(Pacs(server.url), tmp_path, StudyWriter(writer), tell=said.append)
        assert (count.new, count.failed) == (IMAGES - 1, 1)
        assert "HTTP 400" in said[0] and "it will be tried again" in said[0]
        assert not any(b"1.2.3." in request for request in model.received)
    with writer, pytest.raises(DownError, match="cannot be reached"):
        watch_once(Pacs(server.url), tmp_path, StudyWriter(writer))
    assert len(list(tmp_path.glob("*.json"))) == IMAGES - 1
