"""``serve --drafts`` and ``serve --no-model`` as processes: from the worklist to exports, without a model."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.soak.serving import Client, served
from tests.llava_rad import small_files
from tests.llava_rad.conftest import Run

pytestmark = pytest.mark.slow
CLEAR, LARGE = "The lungs are clear.", "The heart is large."


def read(client: Client, number: int) -> list[dict[str, Any]]:
    """Wait until a batch has been read, and return the states of all studies, oldest first."""
    end = time.monotonic() + 120
    while sum(one["read"] + len(one["failed"]) for one in client.call("GET", "/api/batches").json()) < number:
        assert time.monotonic() < end
        time.sleep(0.1)
    rows = client.call("GET", "/api/studies?sort=created&descending=false").json()["studies"]
    return [client.call("GET", f"/api/studies/{row['id']}").json() for row in rows]


def until_in(log: Path, words: str) -> str:
    end = time.monotonic() + 60
    while words not in (text := log.read_text()):
        assert time.monotonic() < end, text
        time.sleep(0.1)
    return next(line for line in text.splitlines() if words in line)


@pytest.fixture
def worklist(tmp_path: Path) -> Path:
    """Two studies of DICOM files, one of them with a lateral view, and two pictures."""
    folder = tmp_path / "images"
    for name in ("p1", "p2", "p3"):
        (folder / name).mkdir(parents=True)
    first = {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.1"}
    small_files.dicom(folder / "p1" / "1.dcm", seed=1, AccessionNumber="QCANARYQ", **first)
    small_files.dicom(folder / "p1" / "2.dcm", seed=2, ViewPosition="LL", **first)
    small_files.dicom(folder / "p2" / "1.dcm", seed=3, StudyInstanceUID="1.2.2", SeriesInstanceUID="1.2.2.1")
    small_files.picture(folder / "p3" / "a.png", seed=4)
    small_files.picture(folder / "p3" / "b.png", seed=5)
    return folder


@pytest.fixture
def drafts(tmp_path: Path, worklist: Path) -> Path:
    """By accession number, path and hash; a second draft of the first study, and a row of no image."""
    sha256 = hashlib.sha256((worklist / "p3" / "a.png").read_bytes()).hexdigest()
    rows = [
        {"id": "QCANARYQ", "prediction": f"Findings: {CLEAR} Impression: Normal."},
        {"id": "p2/1.png", "prediction": LARGE},
        {"id": sha256, "prediction": CLEAR},
        {"id": "p1/2.dcm", "prediction": LARGE},
        {"id": "QCANARYQ-nobody", "prediction": LARGE},
    ]
    file = tmp_path / "theirs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_drafts_of_others_reach_the_archive_and_every_row_is_accounted_for(
    tmp_path: Path, worklist: Path, drafts: Path
) -> None:
    options = ("--drafts", str(drafts), "--worklist", str(worklist))
    with served(tmp_path, *options) as running:
        client = running.client()
        states = read(client, 5)
        texts = [[one["text"] for one in state["sentences"]] for state in states]
        assert sorted(texts) == sorted([[CLEAR, "Normal."], [LARGE], [CLEAR], []])
        with_lateral = next(state for state in states if state["lateral"])
        assert [one["text"] for one in with_lateral["sentences"]] == [CLEAR, "Normal."]
        line = until_in(running.log, "drafts belong to studies")
        assert line == (
            "llava-rad: 3 of 5 drafts belong to studies; not used (its study has another draft: row 4; "
            "no image fits it: row 5)"
        )
        found = client.call("GET", "/api/drafts").json()
        assert (found["name"], found["rows"], [one["row"] for one in found["unused"]]) == ("theirs", 5, [4, 5])
        me = client.call("GET", "/api/me").json()
        assert (me["model"]["state"], me["model"]["id"]) == ("imported", "theirs")
        assert client.call("GET", "/health/ready").status == 200
        refused = client.call("POST", f"/api/studies/{with_lateral['id']}/draft", {})
        assert refused.status == 422 and "there is no model" in refused.json()["error"], refused.body
        signed = client.signed(with_lateral)
        for name in ("report.txt", "report.dcm", "labels.dcm", "report.fhir.json"):
            answer = client.call("GET", f"/api/studies/{signed['id']}/{name}")
            assert answer.status == 200 and b"theirs" in answer.body and b"not known" not in answer.body, name
        statistics = client.call("GET", "/api/statistics").json()
        assert [one["model"].partition("@")[0] for one in statistics["models"]] == ["theirs"]
        assert "QCANARYQ" not in running.log.read_text()
    with served(tmp_path, *options) as running:
        client = running.client()
        again = read(client, 10)
        assert [one["row"] for one in client.call("GET", "/api/drafts").json()["unused"]] == [4, 5]
        assert next(one for one in again if one["id"] == signed["id"])["status"] == "signed"


def test_reports_begin_empty_without_a_model(tmp_path: Path) -> None:
    with served(tmp_path, "--no-model") as running:
        client = running.client()
        (row,) = client.call("GET", "/api/studies").json()["studies"]
        state = client.call("GET", f"/api/studies/{row['id']}").json()
        assert (state["status"], state["sentences"], state["draft"]) == ("pending", [], None)
        assert client.call("GET", "/api/me").json()["model"] == {"state": "none", "takes": []}
        assert client.call("GET", "/api/drafts").json() is None
        state = client.act(state, "add", text=CLEAR).json()
        state = client.act(state, "add", text="Normal.", section="impression").json()
        state = client.act(state, "sign").json()
        assert state["status"] == "signed"
        text = client.call("GET", f"/api/studies/{state['id']}/report.txt").body.decode()
        assert f"FINDINGS:\n{CLEAR}\n" in text and "IMPRESSION:\nNormal." in text and "Without a draft" in text
        assert client.call("GET", f"/api/studies/{state['id']}/report.json").json()["ai_generated"] is False
        assert client.call("GET", f"/api/studies/{state['id']}/report.dcm").status == 422


def test_what_does_not_go_together_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("id,prediction\na,x\na,y\n")
    data = ("--data-dir", tmp_path / "data", "--port", "0")
    for more in (("--no-model",), ("--drafts", tmp_path / "d.csv")):
        done = run("serve", *data, *more, "--model", "some/model")
        assert done.code == 2 and "--model" in done.err
    done = run("serve", *data, "--drafts", tmp_path / "d.csv")
    assert done.code == 2 and "rows 1 and 2 are different drafts of the same image" in done.err
    assert not (tmp_path / "data").exists()
