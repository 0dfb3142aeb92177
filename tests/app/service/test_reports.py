"""Reports by HTTP are those of ``generate``, in every form; refusals carry the reader's reasons."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydicom
import pytest

import llava_rad
from app.service.application import Settings
from app.service.receiving import hint_of, refusal_of
from encoder.errors import ConfigError, LlavaRadError, ReadError
from llava_rad import Report
from llava_rad.generation.options import GenerationOptions
from tests.app.service.conftest import Service, serving, waiting
from tests.llava_rad import small_files, vision_language

pytestmark = pytest.mark.acceptance(row=29)

BOUNDARY = "b0undary"


def form(*parts: tuple[str, bytes | str]) -> tuple[bytes, str]:
    """Body and content type of a form; bytes are files."""
    body = b""
    for name, content in parts:
        file = "" if isinstance(content, str) else '; filename="f"'
        data = content.encode() if isinstance(content, str) else content
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


def test_json_and_text_are_those_of_generate(service: Service, tiny: Path, chest: list[Path]) -> None:
    (report,) = llava_rad.generate(chest[0], tiny)
    for accept in ("", "*/*", "application/json", "text/html;q=0.5, application/json;q=0.9"):
        answer = service.client.call("POST", "/v1/reports", chest[0].read_bytes(), accept=accept)
        assert (answer.status, answer.body.decode()) == (200, report.to_json()), accept
    answer = service.client.call("POST", "/v1/reports", chest[0].read_bytes(), accept="text/plain")
    assert answer.body.decode() == report.to_text()
    assert answer.headers["cache-control"] == "no-store"


def test_a_form_is_read_like_the_file(service: Service, chest: list[Path]) -> None:
    body, kind = form(("image", chest[1].read_bytes()))
    answer = service.client.call("POST", "/v1/reports", body, **{"content-type": kind})
    assert answer.body == service.client.call("POST", "/v1/reports", chest[1].read_bytes()).body


def test_requests_at_a_time_are_written_together(tiny: Path, chest: list[Path]) -> None:
    expected = [report.to_json() for report in llava_rad.generate(chest, tiny)]
    with serving(Settings(options=GenerationOptions(model=tiny))) as service, ThreadPoolExecutor(12) as pool:
        with waiting(service.batcher, 11):
            found = [pool.submit(service.client.call, "POST", "/v1/reports", path.read_bytes()) for path in chest * 2]
        assert [one.result().body.decode() for one in found] == expected * 2
        value = service.measures.registry.get_sample_value
        end = time.monotonic() + 10
        while value("llava_rad_batch_size_sum") != 12:  # the last batch is counted after its answers
            assert time.monotonic() < end
            time.sleep(0.01)
        assert value("llava_rad_batch_size_count") == 4  # 1, 4, 4, 3


def test_structured_report_and_bundle(service: Service, tiny: Path, chest: list[Path]) -> None:
    (report,) = llava_rad.generate(chest[0], tiny)
    answer = service.client.call("POST", "/v1/reports", chest[0].read_bytes(), accept="application/dicom")
    assert answer.headers["content-type"] == "application/dicom"
    found = pydicom.dcmread(io.BytesIO(answer.body))
    assert found.Modality == "SR" and found.PatientID == ""
    answer = service.client.call("POST", "/v1/reports", chest[0].read_bytes(), accept="multipart/related")
    _, first, second, end = answer.body.split(b"--llava-rad-object")
    assert [pydicom.dcmread(io.BytesIO(part.partition(b"\r\n\r\n")[2])).Modality for part in (first, second)] == [
        "SR"
    ] * 2
    assert end == b"--\r\n"
    answer = service.client.call("POST", "/v1/reports", chest[0].read_bytes(), accept="application/fhir+json")
    assert answer.json()["resourceType"] == "Bundle"
    assert report.report.findings[0].text in answer.body.decode()


def test_identifiers_are_copied_on_request_only(service: Service, chest: list[Path], tmp_path: Path) -> None:
    uids: dict[str, Any] = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.5", "SOPInstanceUID": "1.2.3.6"}
    path = small_files.dicom(tmp_path / "a.dcm", **uids, PatientID="P1")
    for query, same in (("", False), ("?identifiers=true", True)):
        answer = service.client.call("POST", f"/v1/reports{query}", path.read_bytes(), accept="application/dicom")
        found = pydicom.dcmread(io.BytesIO(answer.body))
        assert (found.StudyInstanceUID == "1.2.3.4") is (found.PatientID == "P1") is same
        (image,) = service.client.call("POST", f"/v1/reports{query}", path.read_bytes()).json()["images"]
        assert (image["study_uid"], image["sop_instance_uid"]) == (("1.2.3.4", "1.2.3.6") if same else (None, None))
    picture = service.client.call("POST", "/v1/reports?identifiers=true", chest[0].read_bytes())
    assert picture.status == 200 and picture.json()["images"][0]["study_uid"] is None
    answer = service.client.call(
        "POST", "/v1/reports?identifiers=true", chest[0].read_bytes(), accept="application/fhir+json"
    )
    assert (answer.status, answer.json()["reason"]) == (422, "no_identity")


def test_pieces_are_the_report(service: Service, tiny: Path, chest: list[Path]) -> None:
    (report,) = llava_rad.generate(chest[0], tiny)
    answer = service.client.call("POST", "/v1/reports", chest[0].read_bytes(), accept="text/event-stream")
    events = [event.split("\n") for event in answer.body.decode().removesuffix("\n\n").split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    data = [data.removeprefix("data: ") for _, data in events]
    assert names == ["text"] * (len(names) - 1) + ["report"] and len(names) > 2
    assert "".join(json.loads(one)["text"] for one in data[:-1]) == report.text
    assert Report.from_json(data[-1]) == report


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [("lateral", 422, "lateral"), ("empty", 422, "empty"), ("noise", 422, "not_an_image"), ("cut", 422, "truncated")],
)
def test_images_are_refused_with_the_readers_reason(
    service: Service, lateral: Path, chest: list[Path], name: str, status: int, reason: str
) -> None:
    data = {
        "lateral": lateral.read_bytes(), "empty": b"", "noise": b"no image at all" * 99,
        "cut": chest[0].read_bytes()[:-200],
    }[name]  # fmt: skip
    answer = service.client.call("POST", "/v1/reports", data)
    assert (answer.status, answer.json()["reason"]) == (status, reason)


@pytest.mark.parametrize(
    ("raised", "message", "hint"),
    [
        (ReadError("x", "hand", hint="--force overrides this refusal"), "hand", "force=true overrides this refusal"),
        (ReadError("x", "two", hint="--frame N picks one, counted from 1"), "two", "frame=N picks one, counted from 1"),
        (ConfigError("no place for --prior-report", hint="it takes --lateral, --prior"),
         "no place for prior_report", "it takes lateral, prior"),
        (LlavaRadError("too late", hint="--server-timeout"), "too late", None),
        (LlavaRadError("no room", hint="--dtype 4bit, or a CPU"), "no room", None),
        (LlavaRadError("crashed", hint="llava-rad doctor"), "crashed", "llava-rad doctor"),
    ],
)  # fmt: skip
def test_refusals_name_parameters_of_the_request(raised: LlavaRadError, message: str, hint: str | None) -> None:
    assert (refusal_of(raised)[2], hint_of(raised)) == (message, hint)


def test_force_reads_a_lateral(service: Service, tiny: Path, lateral: Path) -> None:
    answer = service.client.call("POST", "/v1/reports?force=true", lateral.read_bytes())
    assert answer.body.decode() == llava_rad.generate(lateral, tiny, force=True)[0].to_json()


def test_odd_requests_are_refused_with_a_reason(service: Service, chest: list[Path]) -> None:
    data = chest[0].read_bytes()
    twice, kind = form(("image", data), ("image", data))
    unknown, _ = form(("image", data), ("patient", "x"))
    texts, _ = form(("image", "text"))
    none, _ = form(("indication", "cough"))
    prompt, _ = form(("image", data), ("indication", "cough"))  # the tiny model's prompt has no place for it
    for status, reason, path, body, headers in (
        (406, "not_acceptable", "/v1/reports", data, {"accept": "image/png"}),
        (422, "parameter", "/v1/reports?frame=x", data, {}),
        (400, "parameter", "/v1/reports?frame=0", data, {}),
        (400, "bad_form", "/v1/reports", twice, {"content-type": kind}),
        (400, "bad_form", "/v1/reports", unknown, {"content-type": kind}),
        (400, "bad_form", "/v1/reports", texts, {"content-type": kind}),
        (400, "bad_form", "/v1/reports", none, {"content-type": kind}),
        (400, "not_taken", "/v1/reports", prompt, {"content-type": kind}),
        (400, "bad_form", "/v1/reports", b"--x", {"content-type": "multipart/form-data"}),
        (400, "bad_form", "/v1/reports", twice[:-40], {"content-type": kind}),
        (400, "bad_form", "/v1/reports", prompt.replace(b"cough", b"\xe4"), {"content-type": kind}),
        (400, "bad_form", "/v1/reports", prompt, {"content-type": f"{kind}; charset=utf-16"}),
        (400, "bad_form", "/v1/batches", unknown, {"content-type": kind}),
        (404, "no_batch", "/v1/batches/x", None, {}),
        (404, "no_route", "/v1/nothing", b"", {}),
        (403, "origin", "/v1/reports", data, {"origin": "https://example.org"}),
        (421, "host", "/v1/reports", data, {"host": "example.org"}),
        (413, "too_large", "/v1/reports", b"", {"content-length": str(1 << 40)}),
    ):  # fmt: skip
        answer = service.client.call("GET" if body is None else "POST", path, body, **headers)
        assert (answer.status, answer.json().get("reason")) == (status, reason), (path, answer.body)
        assert "--" not in answer.json()["error"] + answer.json().get("hint", "")
        assert reason != "parameter" or "frame" in answer.json()["error"]
    assert service.client.call("GET", "/v1/reports").json()["reason"] == "method"


@pytest.mark.slow
def test_a_model_that_others_trained_is_served(replica: Callable[[str], Path], chest: list[Path]) -> None:
    folder = replica(vision_language.FAST)
    (expected,) = llava_rad.generate(chest[0], folder, profile=str(folder / "profile.yaml"), device="cpu")
    with serving(Settings(options=vision_language.options(folder))) as service:
        answer = service.client.call("POST", "/v1/reports", chest[0].read_bytes())
        assert answer.json() == json.loads(expected.to_json())
