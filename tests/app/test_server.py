"""The server as others meet it: who gets in, what of whom, and what of it leaves."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.accounts import add_user
from app.server import Settings, loopback
from encoder.errors import ConfigError
from llava_rad.inputs import example
from scripts.soak.serving import Client, Served, served

RG1 = example().read_bytes()


def picture(seed: int = 0) -> bytes:
    """A small image that no other seed has."""
    pixels = np.random.default_rng(seed).integers(0, 256, (128, 128), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Without accounts."""
    with served(tmp_path_factory.mktemp("local"), "--no-example") as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With the users ann and bob."""
    folder = tmp_path_factory.mktemp("shared")
    for name in ("ann", "bob"):
        add_user(folder / "users", name, f"{name}'s secret")
    with served(folder, "--auth-file", str(folder / "users")) as running:
        yield running


@pytest.fixture
def ann(shared: Served) -> Client:
    return logged_in(shared, "ann")


@pytest.fixture
def bob(shared: Served) -> Client:
    return logged_in(shared, "bob")


def logged_in(shared: Served, name: str) -> Client:
    client = shared.client()
    assert client.login(name, f"{name}'s secret").status == 303
    return client


# who gets in


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_a_public_address_needs_accounts(host: str, tmp_path: Path) -> None:
    assert not loopback(host)
    with pytest.raises(ConfigError, match="this machine alone"):
        Settings(host=host, data=tmp_path).check()
    (tmp_path / "users").write_text("")
    Settings(host=host, data=tmp_path, auth_file=tmp_path / "users").check()
    Settings(host="127.0.0.1", data=tmp_path).check()


@pytest.mark.parametrize(
    "path",
    [
        "/api/me", "/api/studies", "/api/statistics", "/api/export.jsonl", "/config", "/theme.css", "/gradio_api/info",
        "/gradio_api/startup-events", "/openapi.json", "/gradio_api/app_id", "/ui/session.js",
    ],
)  # fmt: skip
def test_nothing_is_open_without_a_login(shared: Served, path: str) -> None:
    assert shared.client().call("GET", path).status in (401, 404)


def test_the_page_sends_a_stranger_to_the_login(shared: Served) -> None:
    answer = shared.client().call("GET", "/")
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    assert shared.client().call("GET", "/health").json()["status"] == "ok"


def test_the_cookie_cannot_be_read_or_sent_from_elsewhere(shared: Served) -> None:
    cookie = shared.client().login("ann", "ann's secret").headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie


def test_logging_out_ends_the_session(ann: Client) -> None:
    assert ann.call("GET", "/api/me").json()["user"] == "ann"
    assert ann.call("POST", "/logout").status == 303
    assert ann.call("GET", "/api/me").status == 401


def test_guessing_is_braked_and_does_not_tell_who_exists(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "ann", "ann's secret")
    with served(tmp_path, "--auth-file", str(tmp_path / "users")) as running:
        client = running.client()
        known = [client.login("ann", "wrong") for _ in range(2)]
        unknown = [client.login("nobody", "wrong") for _ in range(2)]
        assert {answer.status for answer in [*known, *unknown]} == {401}
        assert known[0].body == unknown[0].body
        rest = [client.login("ann", "wrong") for _ in range(16)]
        assert [answer.status for answer in rest] == [401] * 3 + [429] * 13, "five tries in all"
        refused = client.login("ann", "ann's secret")
        assert refused.status == 429 and int(refused.headers["retry-after"]) > 0


def test_changes_from_other_sites_are_refused(local: Served) -> None:
    client = local.client()
    study = client.study(picture())["id"]
    assert client.call("POST", f"/api/studies/{study}/stop", {}, origin="http://evil.example").status == 403
    bare = Client("127.0.0.1", local.port, headers={})
    assert bare.call("POST", f"/api/studies/{study}/stop", {}).status == 403
    assert client.call("GET", "/api/studies", host="evil.example").status == 421, "DNS rebinding"


def test_headers_keep_the_browser_at_home(local: Served) -> None:
    for path in ("/", "/api/me", "/ui/session.js", "/no-such-page"):
        headers = local.client().call("GET", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    assert local.client().call("GET", "/api/me").headers["cache-control"] == "no-store"


GRADIO = (
    "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/gradio_api/file=http://127.0.0.1:1/", "/gradio_api/proxy=http://x",
    "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/run/predict", "/gradio_api/call/predict",
    "/gradio_api/component_server", "/gradio_api/stream/a/b/c/playlist.m3u8", "/gradio_api/mcp/", "/monitoring",
    "/gradio_api/deep_link", "/openapi.json", "/docs",
)  # fmt: skip


@pytest.mark.parametrize("path", GRADIO)
def test_what_gradio_has_beside_its_page_is_shut(local: Served, path: str) -> None:
    for method in ("GET", "POST"):
        assert local.client().call(method, path, b"{}" if method == "POST" else None).status == 404


PATHS = (
    "../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "%00", "a%00b",
    "..\\..\\x", "http://127.0.0.1:1/", "file:///etc/passwd", ".", "..", "~root", "reviews.sqlite",
    "../reviews.sqlite", "' OR 1=1 --", "%27%20OR%201=1", "*", "a" * 5000, "\u202e", "con",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_the_studies(local: Served, path: str) -> None:
    from urllib.parse import quote

    client = local.client()
    study = client.study(picture())["id"]
    safe = quote(path, safe="%/.")
    for place in (f"/api/studies/{safe}", f"/api/studies/{study}/image/{safe}", f"/ui/{safe}"):
        answer = client.call("GET", place)
        assert answer.status in (400, 404, 414), place
        assert b"root:" not in answer.body and b"SQLite" not in answer.body


def test_a_files_name_goes_nowhere(local: Served) -> None:
    client = local.client()
    names = ("../../../../tmp/owned", "/tmp/owned", "DOE^JANE.dcm", "<script>alert(1)</script>", "a\\..\\b")
    before = {path for path in local.data.rglob("*") if path.is_file()}
    for name in names:
        from urllib.parse import quote

        answer = client.call("POST", "/api/studies", picture(), **{"x-file-name": quote(name)})
        assert answer.status == 201 and answer.json()["name"].startswith("Radiograph ")
    made = {path for path in local.data.rglob("*") if path.is_file()} - before
    assert all(path.parent.name == "images" and len(path.stem) == 32 for path in made if path.suffix != ".sqlite-wal")
    assert not Path("/tmp/owned").exists()


# what of whom


def test_users_have_nothing_of_each_other(ann: Client, bob: Client) -> None:
    state = ann.study(RG1)
    study, image = state["id"], state["image"]["id"]
    ann.drafted(study)
    mine = bob.study(picture())["id"]
    tries = [
        ("GET", f"/api/studies/{study}", None),
        ("GET", f"/api/studies/{study}/image/{image}", None),
        ("GET", f"/api/studies/{mine}/image/{image}", None),
        ("GET", f"/api/studies/{study}/draft", None),
        ("GET", f"/api/studies/{study}/evidence?sentence=s1", None),
        ("GET", f"/api/studies/{study}/report.txt", None),
        ("GET", f"/api/studies/{study}/report.json", None),
        ("POST", f"/api/studies/{study}/draft", {}),
        ("POST", f"/api/studies/{study}/stop", {}),
        ("POST", f"/api/studies/{study}/prior", picture()),
        ("DELETE", f"/api/studies/{study}/prior", None),
        ("POST", f"/api/studies/{study}/actions", {"revision": 1, "action": "sign"}),
    ]
    answers = [bob.call(method, path, body) for method, path, body in tries]  # type: ignore[arg-type]
    assert [answer.status for answer in answers] == [404] * 12
    assert all(b"consolidation" not in answer.body for answer in answers)
    assert study not in bob.call("GET", "/api/studies").body.decode()
    assert study not in bob.call("GET", "/api/export.jsonl").body.decode()
    batch = ann.call("POST", "/api/batches", {"total": 1}).json()["batch"]
    assert bob.call("POST", f"/api/studies?batch={batch}", picture()).status == 404
    assert bob.call("GET", "/api/batches").json() == []


# what is read


def test_bad_files_are_refused_with_the_reason(local: Served) -> None:
    client = local.client()
    before = len(client.call("GET", "/api/studies").json()["studies"])
    for content, reason in ((b"", "empty"), (b"nothing" * 99, "not"), (RG1[: len(RG1) // 2], "")):
        answer = client.call("POST", "/api/studies", content)
        assert answer.status == 415 and reason in (answer.json()["error"] + answer.json()["reason"])
    assert len(client.call("GET", "/api/studies").json()["studies"]) == before
    assert list((local.data / "incoming").iterdir()) == []


def test_the_viewer_gets_the_readers_pixels(local: Served) -> None:
    from encoder.sandbox import Reader

    client = local.client()
    state = client.study(RG1)
    answer = client.call("GET", f"/api/studies/{state['id']}/image/{state['image']['id']}")
    with Reader() as reader:
        expected = reader.read(example()).pixels
    found = np.frombuffer(answer.body, "<u2").reshape(state["image"]["height"], state["image"]["width"])
    assert np.array_equal(found, expected)


def test_a_zip_becomes_a_worklist(local: Served) -> None:
    client = local.client()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as written:
        for number in range(3):
            written.writestr(f"../../evil/{number}.png", picture(100 + number))
        written.writestr("notes.txt", "nothing to see")
        written.writestr("__MACOSX/._0.png", b"")
    sent = client.call("POST", "/api/batches", archive.getvalue(), **{"content-type": "application/zip"})
    assert sent.status == 201
    batch = ended_batch(client, sent.json()["batch"])
    assert (batch["total"], batch["read"], batch["drafted"]) == (4, 3, 3)
    assert [failed["number"] for failed in batch["failed"]] == [4]
    assert client.call("POST", "/api/batches", b"no zip", **{"content-type": "application/zip"}).status == 415


def test_a_folder_is_read_file_by_file(local: Served) -> None:
    client = local.client()
    batch = client.call("POST", "/api/batches", {"total": 2}).json()["batch"]
    for number, content in enumerate((picture(200), b"broken"), 1):
        assert client.call("POST", f"/api/studies?batch={batch}&number={number}", content).status == 201
    ended = ended_batch(client, batch)
    assert (ended["read"], ended["drafted"], [one["number"] for one in ended["failed"]]) == (1, 1, [2])


def ended_batch(client: Client, batch: str) -> dict[str, Any]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found: dict[str, Any] = next(one for one in client.call("GET", "/api/batches").json() if one["id"] == batch)
        if found["read"] + len(found["failed"]) == found["total"] and not found["waiting"]:
            return found
        time.sleep(0.05)
    raise AssertionError("the batch does not end")


# the review


def test_the_draft_is_what_generate_writes(local: Served) -> None:
    import llava_rad

    client = local.client()
    state = client.drafted(client.study(RG1)["id"])
    report = llava_rad.generate(example())[0]
    assert state["draft"]["text"] == report.text
    assert state["draft"]["report"] == json.loads(report.to_json())
    assert [one["draft"] for one in state["sentences"]] == [one.text for one in report.report.findings]


@pytest.mark.slow
def test_saves_go_through_while_thirty_drafts_wait(local: Served) -> None:
    client = local.client()
    states = [client.study(picture(300 + number)) for number in range(30)]
    for state in states:
        client.call("POST", f"/api/studies/{state['id']}/draft", {})
    waited = []
    for state in states:
        start = time.monotonic()
        now = client.call("GET", f"/api/studies/{state['id']}").json()
        answer = client.act(now, "field", field="indication", text="Cough.")
        waited.append(time.monotonic() - start)
        # a draft that came in between the two is another revision, which the page takes up and tries again on
        assert answer.status in (200, 409)
        if answer.status == 409:
            assert client.act(answer.json()["state"], "field", field="indication", text="Cough.").status == 200
    assert max(waited) < 1
    for state in states:
        ended = client.ended(state["id"])
        assert ended["fields"]["indication"] == "Cough." and ended["draft"]["state"] == "done"


def test_a_draft_is_written_whether_anyone_looks_or_not(local: Served) -> None:
    client = local.client()
    study = client.study(picture(400))["id"]
    assert client.call("POST", f"/api/studies/{study}/draft", {}).status == 200
    # nobody follows
    assert client.ended(study)["draft"]["state"] == "done"


def test_following_shows_the_text_grow(local: Served) -> None:
    client = local.client()
    study = client.study(RG1)["id"]
    client.call("POST", f"/api/studies/{study}/draft", {})
    events = [
        json.loads(line[5:]) for line in client.call("GET", f"/api/studies/{study}/draft").body.decode().splitlines()
        if line.startswith("data:")
    ]  # fmt: skip
    assert events[-1]["state"] == "done" and events[-1]["text"]
    texts = [event["text"] for event in events]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))


def test_signing_asks_for_every_decision_and_takes_the_decided_text_alone(local: Served) -> None:
    client = local.client()
    state = client.drafted(client.study(RG1)["id"])
    refused = client.act(state, "sign")
    assert refused.status == 422 and "decided" in refused.json()["error"]
    for number, sentence in enumerate(state["sentences"]):
        action = {"action": "accept"} if number else {"action": "edit", "text": "<b>Mine</b> & only mine."}
        state = client.act(state, sentence=sentence["id"], **action).json()
    stale = client.act(state | {"revision": state["revision"] - 1}, "sign")
    assert stale.status == 409 and stale.json()["state"]["revision"] == state["revision"]
    signed = client.act(state, "sign", seconds=12.5).json()
    expected = " ".join(["<b>Mine</b> & only mine.", *(one["draft"] for one in state["sentences"][1:])])
    assert signed["status"] == "signed" and signed["signed"][0]["text"] == expected
    text = client.call("GET", f"/api/studies/{state['id']}/report.txt")
    assert expected in text.body.decode() and "Not for clinical use" in text.body.decode()
    assert text.headers["content-disposition"].startswith("attachment")
    assert client.act(signed, "accept", sentence="s1").status == 422


def test_labels_mark_what_the_reviewer_changed(local: Served) -> None:
    client = local.client()
    state = client.drafted(client.study(RG1)["id"])
    last = state["sentences"][-1]
    assert "pneumothorax" in last["draft"]
    state = client.act(state, "reject", sentence=last["id"]).json()
    labels = {one["finding"]: (one["draft"], one["present"]) for one in state["labels"]}
    assert len(labels) == 14
    assert labels["Pneumothorax"] == ("positive", "not mentioned")
    assert labels["Consolidation"] == ("positive", "positive")


def test_odd_requests_get_an_answer_and_no_traceback(local: Served) -> None:
    client = local.client()
    study = client.study(picture())["id"]
    odd: list[tuple[bytes | dict[str, Any], int]] = [
        (b"{", 422), (b"[]", 422), (b"null", 422), (b"x" * (2 << 20), 413), ({}, 422), ({"revision": "1"}, 422),
        ({"revision": 1}, 422), ({"revision": 1, "action": ["sign"]}, 422), ({"revision": 1, "action": "add"}, 422),
        ({"revision": 1, "action": "add", "text": "   "}, 422),
        ({"revision": 1, "action": "add", "text": "x" * 9999}, 422),
        ({"revision": 1, "action": "accept", "sentence": {"id": 1}}, 422),
        ({"revision": 10**30, "action": "sign"}, 409),
    ]  # fmt: skip
    for body, status in odd:
        answer = client.call("POST", f"/api/studies/{study}/actions", body)
        assert answer.status == status, body
        assert set(answer.json()) >= {"error"}
    assert client.call("GET", f"/api/studies/{study}/report.txt").status == 422
    assert client.call("GET", f"/api/studies/{study}/evidence?sentence=s1").status == 422
    assert "Traceback" not in local.log.read_text()


@pytest.mark.slow
def test_sixteen_people_lose_nothing_and_mix_nothing_up(local: Served) -> None:
    def person(number: int) -> tuple[str, list[str]]:
        client = local.client()
        state = client.drafted(client.study(picture(1000 + number))["id"])
        for sentence in state["sentences"][:5]:
            answer = client.act(state, "edit", sentence=sentence["id"], text=f"Person {number}, {sentence['id']}.")
            assert answer.status == 200
            state = answer.json()
        kept = client.call("GET", f"/api/studies/{state['id']}").json()
        return kept["sha256"], [one["text"] for one in kept["sentences"] if one["state"] == "edited"]

    with ThreadPoolExecutor(16) as people:
        found = list(people.map(person, range(16)))
    assert len({sha256 for sha256, _ in found}) == 16
    for number, (_, texts) in enumerate(found):
        assert texts and all(text.startswith(f"Person {number}, ") for text in texts)


def test_hospital_formats_of_draft_and_signed_report(tmp_path: Path) -> None:
    import pydicom

    source = pydicom.dcmread(example(), stop_before_pixels=True)
    with served(tmp_path, "--no-example", "--identifiers") as running:
        client = running.client()
        state = client.drafted(client.study(RG1)["id"])
        assert "identity" not in state["image"], "the page has no use for it"
        path = f"/api/studies/{state['id']}"
        draft = pydicom.dcmread(io.BytesIO(client.call("GET", f"{path}/report.dcm").body))
        assert (draft.VerificationFlag, draft.PatientID) == ("UNVERIFIED", source.PatientID)
        assert draft.StudyInstanceUID == source.StudyInstanceUID
        for sentence in state["sentences"]:
            state = client.act(state, "accept", sentence=sentence["id"]).json()
        client.act(state, "sign")
        signed = pydicom.dcmread(io.BytesIO(client.call("GET", f"{path}/labels.dcm").body))
        assert (signed.VerificationFlag, signed.CompletionFlag) == ("VERIFIED", "COMPLETE")
        bundle = client.call("GET", f"{path}/report.fhir.json").json()
        report = bundle["entry"][0]["resource"]
        assert report["status"] == "final" and report["subject"]["identifier"]["value"] == source.PatientID
        assert client.call("GET", f"{path}/other.dcm").status == 404
        picture_only = client.study(picture())["id"]
        assert client.call("GET", f"/api/studies/{picture_only}/report.dcm").status == 422


def test_hospital_formats_name_no_patient_unless_asked_to(local: Served) -> None:
    client = local.client()
    state = client.drafted(client.study(RG1)["id"])
    for name in ("report.dcm", "labels.dcm", "report.fhir.json"):
        answer = client.call("GET", f"/api/studies/{state['id']}/{name}")
        assert answer.status == 200 and b"RG1" not in answer.body and b"1.3.6.1.4.1.5962" not in answer.body


def test_a_research_set_has_pixels_reports_labels_and_no_names(tmp_path: Path) -> None:
    import pydicom

    from tests.encoder.dicom_files import to_bytes
    from tests.encoder.test_privacy import canaries

    source, words = canaries()
    with served(tmp_path, "--no-example", "--show-paths", "--identifiers") as running:
        client = running.client()
        sent = {"x-file-name": "CANARY97"}
        state = client.call("POST", "/api/studies?force=true", to_bytes(source), **sent).json()
        assert state["name"] == "CANARY97"
        state = client.drafted(state["id"])
        for sentence in state["sentences"]:
            state = client.act(state, "accept", sentence=sentence["id"]).json()
        text = client.act(state, "sign").json()["signed"][0]["text"]
        client.study(picture())  # not signed: stays here
        found = client.call("GET", "/api/export.zip").body
        with zipfile.ZipFile(io.BytesIO(found)) as archive:
            names, parts = archive.namelist(), {name: archive.read(name) for name in archive.namelist()}
        image = f"images/{state['id']}.png"
        assert names == [image, "reports.jsonl", "labels.csv", "README.txt"]
        said = b"".join(parts.values()) + found
        assert [word for word in [*words, "CANARY97"] if word.encode() in said] == []
        record = json.loads(parts["reports.jsonl"])
        assert (record["image"], record["text"]) == (image, text) and "Not for clinical use" in record["notice"]
        kept = client.call("GET", f"/api/studies/{state['id']}/image/{state['image']['id']}").body
        assert np.asarray(Image.open(io.BytesIO(parts[image]))).astype("<u2").tobytes() == kept
        assert parts["labels.csv"].decode().splitlines()[0].startswith("image,Enlarged Cardiomediastinum")
        found = client.call("GET", "/api/export.zip?dicom=true").body
        with zipfile.ZipFile(io.BytesIO(found)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        said = b"".join(parts.values())
        assert [word for word in [*words, "CANARY97", "local"] if word.encode() in said] == []
        image_file, report_file = (
            pydicom.dcmread(io.BytesIO(parts[f"{name}/{state['id']}.dcm"])) for name in ("images", "reports")
        )
        assert image_file.PatientIdentityRemoved == "YES" and image_file.pixel_array.astype("<u2").tobytes() == kept
        assert image_file.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert report_file.StudyInstanceUID == image_file.StudyInstanceUID
        end = time.monotonic() + 5
        while list((running.data / "incoming").iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        assert list((running.data / "incoming").iterdir()) == []
