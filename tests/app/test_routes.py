"""HTTP routes of the page: uploads, drafts and reviews."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import statistics
import time
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llava_rad
from encoder.reader.sandbox import Reader
from llava_rad.generation.sources import example
from llava_rad.outputs.document import labels_of
from llava_rad.outputs.report import sentences as split
from scripts.soak.serving import Client, Served, picture
from tests.llava_rad import small_files

RG1 = example().read_bytes()


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
    client = local.client()
    state = client.study(RG1)
    answer = client.call("GET", f"/api/studies/{state['id']}/image/{state['image']['id']}")
    with Reader() as reader:
        expected = reader.read(example()).pixels
    found = np.frombuffer(answer.body, "<u2").reshape(state["image"]["height"], state["image"]["width"])
    assert np.array_equal(found, expected)


def test_images_are_kept_by_the_browser_and_have_previews(local: Served) -> None:
    client = local.client()
    state = client.study(RG1)
    study, image = state["id"], state["image"]["id"]
    at = f"/api/studies/{study}/image/{image}"
    answers = {
        what: client.call("GET", at + what)
        for what in ("", "?planes=1", "?preview=1024", "?preview=1500", "?preview=1")
    }
    for what, answer in answers.items():
        assert answer.status == 200
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
        again = client.call("GET", at + what, **{"if-none-match": answer.headers["etag"]})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    assert len({answer.headers["etag"] for answer in answers.values()}) == 4, "1500 is answered with 1024 pixels"
    assert len(answers["?preview=1024"].body) < 150_000
    assert int(answers["?preview=1024"].headers["x-low"]) < int(answers["?preview=1024"].headers["x-high"])
    planes = np.frombuffer(gzip.decompress(answers["?planes=1"].body), np.uint8).reshape(2, -1)
    assert np.array_equal(planes[0].astype("<u2") << 8 | planes[1], np.frombuffer(answers[""].body, "<u2"))
    (row,) = [one for one in client.call("GET", "/api/studies").json()["studies"] if one["id"] == study]
    assert client.call("GET", row["thumbnail"]).headers["content-type"] == "image/jpeg"
    assert "immutable" not in client.call("GET", f"/api/studies/{study}/thumbnail").headers["cache-control"]
    assert client.call("GET", "/api/studies").headers["cache-control"] == "no-store"
    assert client.call("GET", f"/api/studies/{study}/neighbours?sort=created&descending=0").json()["next"] is None


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


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_of_one_name_in_a_zip_are_studies_of_their_own(local: Served) -> None:
    client = local.client()
    images = [picture(300 + number) for number in range(2)]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        for image in images:
            written.writestr("IM1.png", image)
    sent = client.call("POST", "/api/batches", archive.getvalue(), **{"content-type": "application/zip"})
    batch = ended_batch(client, sent.json()["batch"])
    assert (batch["total"], batch["read"], batch["failed"]) == (2, 2, [])
    listed = client.call("GET", "/api/studies").json()["studies"]
    found = {client.call("GET", f"/api/studies/{one['id']}").json()["sha256"] for one in listed}
    assert {hashlib.sha256(image).hexdigest() for image in images} <= found


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


def test_a_lateral_and_a_prior_come_and_go_with_their_pixels(local: Served, tmp_path: Path) -> None:
    client = local.client()
    state = client.study(RG1)
    study = state["id"]
    sent = {
        "lateral": small_files.dicom(tmp_path / "lateral.dcm", ViewPosition="LL").read_bytes(), "prior": picture(500),
    }  # fmt: skip
    for which, content in sent.items():
        at = f"/api/studies/{study}/{which}?revision="
        state = client.call("POST", f"{at}{state['revision']}", content).json()
        pixels = client.call("GET", f"/api/studies/{study}/image/{state[which]['image']['id']}")
        assert len(pixels.body) == 2 * state[which]["image"]["width"] * state[which]["image"]["height"]
        assert "Doe" not in json.dumps(state) and "4711" not in json.dumps(state)
        assert client.call("POST", f"{at}{state['revision']}", b"nothing").status == 415
    for which in sent:
        state = client.call("DELETE", f"/api/studies/{study}/{which}?revision={state['revision']}").json()
        assert state[which] is None
    assert client.call("POST", f"/api/studies/{'0' * 32}/lateral", RG1).status == 404
    assert client.call("POST", f"/api/studies/{study}/another", RG1).status in (404, 405)


def test_images_of_a_study_join_it_and_others_can_be_added(local: Served, tmp_path: Path) -> None:
    client, uids = local.client(), {"StudyInstanceUID": "1.2.826.0.1.7", "SeriesInstanceUID": "1.2.826.0.1.7.1"}
    first = client.study(small_files.dicom(tmp_path / "1.dcm", seed=1, **uids).read_bytes())
    assert first["joined"] is False and first["further"] == []
    lateral = small_files.dicom(tmp_path / "2.dcm", seed=2, ViewPosition="LL", **uids).read_bytes()
    second = client.study(lateral)
    assert (second["joined"], second["id"]) == (True, first["id"]) and second["lateral"]["facts"]["view"] == "lateral"
    added = client.call("POST", f"/api/studies?study={first['id']}", picture(700)).json()
    (further,) = added["further"]
    at = f"/api/studies/{first['id']}/image/{further['image']['id']}"
    assert client.call("GET", at + "?preview=256").headers["content-type"] == "image/jpeg"
    points = [[1, 1], [4, 5]]
    action = {"kind": "length", "image": further["image"]["id"], "points": points}
    (measured,) = client.act(added, "measure", **action).json()["measurements"]
    assert (measured["value"], measured["unit"]) == (5.0, "px")
    other = small_files.dicom(tmp_path / "3.dcm", seed=3, PatientID="another", **uids).read_bytes()
    refused = client.call("POST", f"/api/studies?study={first['id']}", other)
    assert refused.status == 415 and refused.json()["forcible"] and "another patient" in refused.json()["error"]
    assert client.call("POST", f"/api/studies?study={'0' * 32}", lateral).status == 404
    texts = json.dumps(client.call("GET", f"/api/studies/{first['id']}").json())
    assert "1.2.826" not in texts and "4711" not in texts and "key" not in json.loads(texts)


@pytest.mark.parametrize("force", ["1", "true"])
def test_a_refusal_says_whether_it_can_be_overridden(local: Served, tmp_path: Path, force: str) -> None:
    client = local.client()
    lateral = small_files.dicom(tmp_path / "lateral.dcm", ViewPosition="LL").read_bytes()
    refused = client.call("POST", "/api/studies", lateral)
    assert (refused.status, refused.json()["reason"], refused.json()["forcible"]) == (415, "lateral", True)
    broken = client.call("POST", "/api/studies", b"nothing" * 99)
    assert broken.json()["forcible"] is False
    assert b"--" not in refused.body + broken.body, "the page has no options"
    read = client.call("POST", f"/api/studies?force={force}", lateral)
    assert read.status == 201
    loud = [one["text"] for one in read.json()["notices"] if one["level"] == "loud"]
    assert "read although it was refused: the image is a lateral view, but a frontal view is needed" in loud
    assert "--" not in json.dumps(read.json()["notices"])


# the page's own


def test_settings_are_kept(local: Served) -> None:
    client = local.client()
    assert client.call("GET", "/api/settings").json() == {}
    macros = [{"name": ".normal chest", "text": "The lungs are clear.", "section": "findings"}]
    client.call("PUT", "/api/settings", {"macros": macros, "theme": "dark", "of a later version": {"a": 1}})
    assert client.call("PUT", "/api/settings", {"theme": None}).json() == {
        "macros": macros,
        "of a later version": {"a": 1},
    }
    assert client.call("GET", "/api/settings").json()["macros"] == macros
    for body, status in ((b"[]", 422), (b"{", 422), ({"macros": "x" * (64 << 10)}, 422), (b"x" * (2 << 20), 413)):
        refused = client.call("PUT", "/api/settings", body)
        assert refused.status == status and refused.json()["error"]
    assert client.call("GET", "/api/settings").json()["macros"] == macros


def test_the_palette_is_of_normal_sentences(local: Served) -> None:
    palette = local.client().call("GET", "/api/palette").json()
    assert [one["anatomy"] for one in palette][:2] == ["Lungs", "Pleura"]
    sentences = [sentence for one in palette for sentence in one["sentences"]]
    assert len(set(sentences)) == len(sentences) >= 20
    for sentence in sentences:
        said = {finding for finding, label in labels_of(sentence).items() if label in ("positive", "uncertain")}
        assert said <= {"No Finding"}, sentence
        assert split(sentence) == [sentence], "one sentence each"


def test_the_page_is_told_the_kinds_of_error(local: Served) -> None:
    errors = local.client().call("GET", "/api/me").json()["errors"]
    assert [one["value"] for one in errors["categories"]][:2] == ["false_finding", "missed_finding"]
    assert len(errors["categories"]) == 7 and len(errors["significance"]) == 4
    assert all(one.keys() == {"value", "title", "definition"} for kind in errors.values() for one in kind)


# the review


@pytest.mark.acceptance(row=6)
def test_the_draft_is_what_generate_writes(local: Served) -> None:
    client = local.client()
    state = client.drafted(client.study(RG1)["id"])
    report = llava_rad.generate(example())[0]
    assert state["draft"]["text"] == report.text
    assert state["draft"]["report"] == json.loads(report.to_json())
    assert [one["draft"] for one in state["sentences"]] == [one.text for one in report.report.findings]


@pytest.mark.acceptance(row=11)
@pytest.mark.nightly
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
    assert statistics.median(waited) < 1  # other work on the machine may delay one or two
    last = client.call("GET", f"/api/studies/{states[-1]['id']}").json()
    assert last["draft"]["state"] != "done", "saves do not wait for drafts"
    for state in states:
        ended = client.ended(state["id"])
        assert ended["fields"]["indication"] == "Cough." and ended["draft"]["state"] == "done"


def test_the_event_stream_shows_the_text_grow(local: Served) -> None:
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


def test_signing_requires_every_decision_and_keeps_the_decided_text(local: Served) -> None:
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


def test_a_step_whose_answer_was_lost_is_applied_once(local: Served) -> None:
    client = local.client()
    state = client.study(picture(1))
    step: dict[str, Any] = {"action": "add", "text": "Clear.", "section": "impression", "step": "b2b7", "seconds": 3}
    first = client.act(state, **step)
    assert (first.status, client.act(state, **step).json()) == (200, first.json())
    again = client.act(state, **(step | {"step": "b2b8"}))
    assert again.status == 409 and again.json()["state"]["revision"] == first.json()["revision"]
    assert client.act(again.json()["state"], **(step | {"step": "b2b8", "text": "Mine."})).status == 200
    undone = client.act(client.act(first.json(), **step).json(), "undo").json()
    assert [one["text"] for one in undone["sentences"]] == ["Clear."] and undone["can_redo"]
    assert [one["text"] for one in client.act(undone, "redo").json()["sentences"]] == ["Clear.", "Mine."]


def test_labels_mark_what_the_reviewer_changed(local: Served) -> None:
    client = local.client()
    state = client.drafted(client.study(RG1)["id"])
    last = state["sentences"][-1]
    assert "pneumothorax" in last["draft"]
    state = client.act(state, "reject", sentence=last["id"]).json()
    state = client.act(state, "label", finding="Fracture", value="positive").json()
    assert [one["finding"] for one in state["labels"] if one["corrected"]] == ["Fracture"]
    labels = {one["finding"]: (one["draft"], one["present"]) for one in state["labels"]}
    assert len(labels) == 14
    assert labels["Pneumothorax"] == ("negative", "not mentioned")
    assert labels["Lung Lesion"] == ("positive", "positive")


def test_malformed_requests_get_an_error_without_traceback(local: Served) -> None:
    client = local.client()
    study = client.study(picture(0))["id"]
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
    assert "Traceback" not in local.log.read_text() and "unexpected" not in local.log.read_text()
