"""Exports of the served application: hospital formats and the research set."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator

import numpy as np
import pydicom
import pytest
from PIL import Image

from llava_rad.generation.sources import example
from scripts.soak.serving import Served, picture, served
from tests.encoder.dicom_files import to_bytes
from tests.encoder.reader.test_privacy import canaries

RG1 = example().read_bytes()


@pytest.fixture(scope="module")
def identified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that keeps file names and identifiers."""
    folder = tmp_path_factory.mktemp("identified")
    with served(folder, "--no-example", "--show-paths", "--identifiers") as running:
        yield running


@pytest.mark.slow
def test_hospital_formats_of_draft_and_signed_report(identified: Served) -> None:
    source = pydicom.dcmread(example(), stop_before_pixels=True)
    client = identified.client()
    state = client.drafted(client.study(RG1)["id"])
    assert "identity" not in state["image"], "the page has no use for it"
    path = f"/api/studies/{state['id']}"
    draft = pydicom.dcmread(io.BytesIO(client.call("GET", f"{path}/report.dcm").body))
    assert (draft.VerificationFlag, draft.PatientID) == ("UNVERIFIED", source.PatientID)
    assert draft.StudyInstanceUID == source.StudyInstanceUID
    client.signed(state)
    signed = pydicom.dcmread(io.BytesIO(client.call("GET", f"{path}/labels.dcm").body))
    assert (signed.VerificationFlag, signed.CompletionFlag) == ("VERIFIED", "COMPLETE")
    bundle = client.call("GET", f"{path}/report.fhir.json").json()
    report = bundle["entry"][0]["resource"]
    assert report["status"] == "final" and report["subject"]["identifier"]["value"] == source.PatientID
    assert client.call("GET", f"{path}/other.dcm").status == 404
    picture_only = client.study(picture(0))["id"]
    assert client.call("GET", f"/api/studies/{picture_only}/report.dcm").status == 422


@pytest.mark.slow
def test_hospital_formats_have_no_identifiers_by_default(local: Served) -> None:
    client = local.client()
    state = client.drafted(client.study(RG1)["id"])
    for name in ("report.dcm", "labels.dcm", "report.fhir.json"):
        answer = client.call("GET", f"/api/studies/{state['id']}/{name}")
        assert answer.status == 200 and b"RG1" not in answer.body and b"1.3.6.1.4.1.5962" not in answer.body


@pytest.mark.slow
def test_a_research_set_has_pixels_reports_labels_and_no_names(identified: Served) -> None:
    source, words = canaries()
    client = identified.client()
    sent = {"x-file-name": "CANARY97"}
    state = client.call("POST", "/api/studies?force=true", to_bytes(source), **sent).json()
    assert state["name"] == "CANARY97"
    text = client.signed(client.drafted(state["id"]))["signed"][0]["text"]
    client.study(picture(0))  # not signed: stays here
    found = client.call("GET", "/api/export.zip").body
    with zipfile.ZipFile(io.BytesIO(found)) as archive:
        names, parts = archive.namelist(), {name: archive.read(name) for name in archive.namelist()}
    image = f"images/{state['id']}.png"
    assert image in names and names[-3:] == ["reports.jsonl", "labels.csv", "README.txt"]
    assert {name.split("/")[0] for name in names[:-3]} == {"images"}
    said = b"".join(parts.values()) + found
    assert [word for word in [*words, "CANARY97"] if word.encode() in said] == []
    (record,) = [one for one in map(json.loads, parts["reports.jsonl"].splitlines()) if one["image"] == image]
    assert record["text"] == text and "Not for clinical use" in record["notice"]
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
    while list((identified.data / "incoming").iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    assert list((identified.data / "incoming").iterdir()) == []
