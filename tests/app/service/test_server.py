"""Limits, keys, health, reload and end of the service."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import re
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import Request

import llava_rad
from app.service.application import Settings
from app.service.batcher import Job, QueueFull, _in_turns
from app.service.keys import Key, Keys, Limited, add_key, read_keys, remove_key
from app.service.receiving import BadRequest, Room
from encoder.errors import ConfigError
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.study import StudyInputs
from tests.app.service.conftest import Service, serving, waiting
from tests.app.service.test_reports import form

pytestmark = pytest.mark.acceptance(row=29)


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_full_queue_is_429_and_what_was_accepted_is_answered(tiny: Path, chest: list[Path], accept: str) -> None:
    data = chest[0].read_bytes()
    with serving(Settings(queue=4, options=GenerationOptions(model=tiny))) as service, ThreadPoolExecutor(4) as pool:
        with waiting(service.batcher, 3):
            found = [pool.submit(service.client.call, "POST", "/v1/reports", data, accept=accept) for _ in range(4)]
            while len(service.batcher._jobs) < 3:
                time.sleep(0.01)
            time.sleep(0.5)  # headers of a stream of events are sent before its job has ended
            refused = service.client.call("POST", "/v1/reports", data)
            assert (refused.status, refused.json()["reason"]) == (429, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
            assert service.client.call("GET", "/health/live").status == 200
        assert [one.result().status for one in found] == [200] * 4
        assert service.client.call("POST", "/v1/reports", data).status == 200
        assert (
            'llava_rad_refusals_total{reason="queue_full"} 1.0' in service.client.call("GET", "/metrics").body.decode()
        )


def test_a_cancelled_request_leaves_the_queue(service: Service, chest: list[Path]) -> None:
    with ThreadPoolExecutor(1) as pool, waiting(service.batcher, 0):
        first = pool.submit(service.client.call, "POST", "/v1/reports", chest[0].read_bytes())
        time.sleep(1)
        connection = http.client.HTTPConnection(service.client.host, service.client.port)
        connection.request("POST", "/v1/reports", chest[1].read_bytes())
        while not service.batcher._jobs:
            time.sleep(0.01)
        connection.close()
        end = time.monotonic() + 10
        while service.batcher._jobs:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert first.result().status == 200


def test_a_closed_stream_of_events_leaves_the_queue(service: Service, chest: list[Path]) -> None:
    with ThreadPoolExecutor(1) as pool, waiting(service.batcher, 0):
        first = pool.submit(service.client.call, "POST", "/v1/reports", chest[0].read_bytes())
        time.sleep(1)
        connection = http.client.HTTPConnection(service.client.host, service.client.port)
        connection.request("POST", "/v1/reports", chest[1].read_bytes(), {"accept": "text/event-stream"})
        connection.getresponse()
        (job,) = service.batcher._jobs
        connection.close()
        end = time.monotonic() + 10
        while service.batcher._jobs:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert job.cancelled
    assert first.result().status == 200


def test_keys_are_checked_and_limited(tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    file, data = tmp_path / "keys", chest[0].read_bytes()
    ann = add_key(file, "ann", per_minute=2, at_once=1, admin=False)
    root = add_key(file, "root", per_minute=60, at_once=1, admin=True)
    assert ann not in file.read_text() and file.stat().st_mode & 0o777 == 0o600
    assert read_keys(file)["ann"].sha256 == hashlib.sha256(ann.encode()).hexdigest()
    with serving(Settings(keys=file, options=GenerationOptions(model=tiny))) as service:

        def call(method: str, path: str, key: str | None, body: bytes = b"") -> tuple[int, str | None]:
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            answer = service.client.call(method, path, body, **headers)
            return answer.status, answer.json().get("reason")

        assert call("POST", "/v1/reports", None, data) == (401, "unauthorized")
        assert call("POST", "/v1/reports", ann[:-1], data) == (401, "unauthorized")
        assert call("GET", "/v1/batches/x", None) == (401, "unauthorized")
        assert call("POST", "/v1/admin/reload", ann) == (403, "forbidden")
        assert call("POST", "/v1/reports", ann, data) == (200, None)
        answer = service.client.call("POST", "/v1/reports", data, authorization=f"Bearer {ann}")
        assert (answer.status, answer.json()["reason"]) == (429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert call("POST", "/v1/admin/reload", root) == (200, None)
        assert call("GET", "/health/live", None) == (200, None)
        remove_key(file, "root")
        assert call("POST", "/v1/reports", root, data) == (401, "unauthorized")
    with pytest.raises(ConfigError):
        remove_key(file, "root")
    with pytest.raises(ConfigError, match="this machine only"):
        Settings(host="0.0.0.0").check()


def test_a_key_has_so_many_requests_a_minute_and_at_a_time(tmp_path: Path) -> None:
    now = 0.0
    add_key(tmp_path / "keys", "a", per_minute=6, at_once=2, admin=False)
    keys, key = Keys(tmp_path / "keys", lambda: now), Key(sha256="0" * 64, per_minute=6, at_once=2)
    with keys.use("a", key), keys.use("a", key), pytest.raises(Limited), keys.use("a", key):
        pass
    for _ in range(4):
        with keys.use("a", key):
            pass
    with pytest.raises(Limited) as refused, keys.use("a", key):
        pass
    assert refused.value.retry_after == pytest.approx(10)
    now = 10.0
    with keys.use("a", key):
        pass


def test_a_key_has_half_of_the_room_at_most() -> None:
    def request(size: int) -> Request:
        return Request({"type": "http", "headers": [(b"content-length", str(size).encode())]})

    room = Room(requests=4, largest=60, total=100, shared=True)
    with room.take(request(40), "a", 1.0):
        with pytest.raises(QueueFull), room.take(request(30), "a", 1.0):
            pass
        with room.take(request(20), "a", 1.0), pytest.raises(QueueFull), room.take(request(0), "a", 1.0):
            pass
        with room.take(request(40), "b", 1.0), room.take(request(10), "b", 1.0):
            pass
    with room.take(request(60), "a", 1.0), pytest.raises(BadRequest), room.take(request(61), "b", 1.0):
        pass
    alone = Room(requests=4, largest=60, total=100)
    with alone.take(request(60), "local", 1.0), alone.take(request(40), "local", 1.0):
        pass


def test_keys_take_turns_in_a_batch() -> None:
    jobs = [Job(caller, b"", StudyInputs(), print, frame=n) for n, caller in enumerate("aaaabac")]
    assert [job.frame for job in _in_turns(jobs)] == [0, 4, 6, 1, 2, 3, 5]


def test_a_batch_waits_for_images_that_are_being_decoded(tiny: Path, chest: list[Path]) -> None:
    with serving(Settings(options=GenerationOptions(model=tiny))) as service, ThreadPoolExecutor(3) as pool:
        batcher = service.batcher
        batcher._loaded.wait()
        batcher._gather_s = 60.0
        coming = Job("local", b"", StudyInputs(), print)
        batcher._coming.add(coming)
        first = pool.submit(service.client.call, "POST", "/v1/reports", chest[0].read_bytes())
        while not batcher._jobs:
            time.sleep(0.01)
        assert not first.done()
        batcher.cancel(coming)
        assert first.result().status == 200
        with batcher._busy:  # the batch has ended, not only its report been answered
            assert batcher._gather_s <= 1.0


def test_health_is_answered_by_address_and_tells_a_damaged_model(tiny: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    weights = next((model / "language_model").glob("*.safetensors"))
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"\xff")
    with serving(Settings(options=GenerationOptions(model=model))) as service:
        service.batcher._loaded.wait()
        ready = service.client.call("GET", "/health/ready", host="10.0.0.7")
        assert (ready.status, ready.json()["model"], ready.json()["decoders"]) == (503, "failed", "ready")
        assert service.client.call("GET", "/health/live", host="10.0.0.7").status == 200
        answer = service.client.call("POST", "/v1/reports", b"x")
        assert (answer.status, answer.json()["reason"]) == (503, "model")
        assert service.client.call("POST", "/v1/admin/reload").status == 503
        weights.write_bytes(good)
        assert service.client.call("POST", "/v1/admin/reload").json()["model"] == "ready"
        assert service.client.call("GET", "/health/ready").status == 200


def test_a_model_that_is_being_loaded_is_no_failure(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.batcher, "state", lambda: {"model": "loading"})
    answer = service.client.call("GET", "/health/ready")
    assert (answer.status, answer.json()["status"], answer.json()["model"]) == (503, "loading", "loading")


def test_reloading_loses_no_request(service: Service, tiny: Path, chest: list[Path]) -> None:
    expected = [report.to_json() for report in llava_rad.generate(chest, tiny)]
    reloads, ended = [], threading.Event()

    def reload() -> None:
        while not ended.is_set():
            reloads.append(service.client.call("POST", "/v1/admin/reload").status)

    thread = threading.Thread(target=reload)
    thread.start()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda path: service.client.call("POST", "/v1/reports", path.read_bytes()), chest * 2))
    ended.set()
    thread.join()
    assert [answer.body.decode() for answer in found] == expected * 2
    assert set(reloads) == {200}


def test_another_recipe_after_a_reload_reads_the_image_again(tiny: Path, chest: list[Path], tmp_path: Path) -> None:
    model = shutil.copytree(tiny, tmp_path / "model")
    with serving(Settings(options=GenerationOptions(model=model))) as service, ThreadPoolExecutor(2) as pool:
        with waiting(service.batcher, 1):
            found = [pool.submit(service.client.call, "POST", "/v1/reports", chest[0].read_bytes()) for _ in range(2)]
            while len(service.batcher._jobs) < 1:
                time.sleep(0.01)
            (job,) = service.batcher._jobs
            assert job.images is not None
            job.images = (None, *job.images[1:])  # type: ignore[assignment]  # of a recipe that is not the model's
        assert found[0].result().body == found[1].result().body


def test_ending_answers_what_was_accepted(tiny: Path, chest: list[Path]) -> None:
    with serving(Settings(options=GenerationOptions(model=tiny))) as service, ThreadPoolExecutor(4) as pool:
        with waiting(service.batcher, 3):
            found = [pool.submit(service.client.call, "POST", "/v1/reports", chest[0].read_bytes()) for _ in range(4)]
            while len(service.batcher._jobs) < 3:
                time.sleep(0.01)
            service.server.should_exit = True
            time.sleep(0.3)
        assert [one.result().status for one in found] == [200] * 4


def test_the_log_has_request_ids_and_no_identifiers(
    service: Service, chest: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.service")
    answers = [
        service.client.call("POST", "/v1/reports?frame=1", chest[0].read_bytes()),
        service.client.call("GET", "/v1/batches/Jane-Doe"),
    ]
    lines, end = list[str](), time.monotonic() + 30
    for number in (answer.headers["x-request-id"] for answer in answers):
        while not (found := [one.getMessage() for one in caplog.records if one.getMessage().startswith(number)]):
            assert time.monotonic() < end  # a line is written after its response was sent
            time.sleep(0.01)
        lines += found
    assert re.fullmatch(r"[0-9a-f]{16} POST /v1/reports 200 [0-9.]+ s", lines[0])
    assert re.fullmatch(r"[0-9a-f]{16} GET /v1/batches/\{batch\} 404 [0-9.]+ s", lines[1])


def test_the_log_is_one_line_a_message_and_quotes_no_unexpected_error() -> None:
    from app.log import OneLine

    def quoting() -> object:
        raise ValueError("Jane^Doe\nis unexpected")

    try:
        quoting()
    except ValueError:
        record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "Exception\n", (), sys.exc_info())
    told = OneLine("%(message)s").format(record)
    assert re.fullmatch(r"Exception: unexpected ValueError in [a-z_.]+, line [0-9]+", told)
    record = logging.LogRecord("app.service", logging.ERROR, "", 0, "there is no %s", ("a\n\x1b[31mb\u202e",), None)
    assert OneLine("%(levelname)s %(message)s").format(record) == "ERROR there is no a\\n\\x1b[31mb\\u202e"


def test_batches_are_polled(service: Service, tiny: Path, chest: list[Path], lateral: Path) -> None:
    files = [chest[0], lateral, chest[1]]
    body, kind = form(*(("images", path.read_bytes()) for path in files))
    answer = service.client.call("POST", "/v1/batches", body, **{"content-type": kind})
    assert answer.status == 202 and answer.json()["images"] == 3
    number, end = answer.json()["id"], time.monotonic() + 60
    while (state := service.client.call("GET", f"/v1/batches/{number}").json())["state"] != "done":
        assert time.monotonic() < end
        time.sleep(0.05)
    first, second, third = state["results"]
    reports = llava_rad.generate([chest[0], chest[1]], tiny)
    assert [first["report"], third["report"]] == [json.loads(report.to_json()) for report in reports]
    assert (second["number"], second["reason"]) == (2, "lateral")
    assert service.client.call("DELETE", f"/v1/batches/{number}").status == 204
    assert service.client.call("GET", f"/v1/batches/{number}").json()["reason"] == "no_batch"
    lost = service.client.call("GET", f"/v1/batches/00000000-{0:024}")
    assert (lost.status, lost.json()["reason"]) == (410, "lost")


def test_a_long_batch_does_not_hold_up_another(service: Service, chest: list[Path]) -> None:
    def begun(files: list[bytes]) -> str:
        body, kind = form(*(("images", data) for data in files))
        return str(service.client.call("POST", "/v1/batches", body, **{"content-type": kind}).json()["id"])

    def done(number: str) -> int:
        return int(service.client.call("GET", f"/v1/batches/{number}").json()["done"])

    long = begun([chest[0].read_bytes()] * 60)
    short = begun([chest[1].read_bytes()])
    while not done(short):
        time.sleep(0.01)
    assert done(long) < 60
    assert service.client.call("DELETE", f"/v1/batches/{long}").status == 204
    assert service.client.call("POST", "/v1/reports", chest[0].read_bytes()).status == 200


def test_the_openapi_document_names_every_route(service: Service) -> None:
    found = service.client.call("GET", "/openapi.json").json()["paths"]
    assert set(found) == {
        "/health/live", "/health/ready", "/metrics", "/v1/reports", "/v1/batches", "/v1/batches/{batch}",
        "/v1/admin/reload",
    }  # fmt: skip
    page = service.client.call("GET", "/docs").body.decode()
    assert all(path in page for path in found) and "http" not in page
