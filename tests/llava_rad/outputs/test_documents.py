"""DICOM structured reports, and labels of documents, checked with DCMTK and pydicom."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import UID

from encoder.errors import ReadError
from encoder.reader.identity import Identity
from encoder.reader.sandbox import Reader
from llava_rad.generation.sources import example
from llava_rad.outputs.document import FINDINGS, Document, Review, Signature, anonymous, labels_of, uid_of
from llava_rad.outputs.fhir import to_fhir
from llava_rad.outputs.report import NOTICE, Finding, Report
from llava_rad.outputs.sr import to_sr
from tests.llava_rad.outputs.reports import resources

pytestmark = pytest.mark.acceptance(row=23)

AT = datetime(2026, 11, 26, 13, 5, 7, tzinfo=UTC)
IDENTITY = Identity(
    "1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.840.10008.5.1.4.1.1.1.1",
    {"PatientID": "P-17", "PatientName": "Doe^Jane", "PatientBirthDate": "19800102", "PatientSex": "F",
     "StudyDate": "20261125", "AccessionNumber": "A-9"},
)  # fmt: skip


def signed(report: Report, *sentences: str, version: int = 1, identity: Identity | None = None) -> Document:
    review = Review(sentences or ("Heart normal.", "No pneumothorax."), warnings=tuple(report.warnings))
    return Document.of(report, AT, identity=identity, signature=Signature("ann", AT, version), review=review)


def several(report: Report, count: int) -> list[Document]:
    """Documents that differ in text, signature and identity."""
    found = []
    for number in range(count):
        text = f'Sentence {number} with ünïcode, quotes " and <markup>. There is no effusion.'
        findings = [Finding(text=part) for part in (text[: text.index(".") + 1], "There is no effusion.")]
        body = report.report.model_copy(update={"text": text, "findings": findings})
        changed = report.model_copy(update={"report": body, "warnings": ["look"] * (number % 3)})
        identity = IDENTITY if number % 2 else None
        if number % 4 > 1:
            document = signed(changed, f"Signed {number}.", identity=identity)
            found.append(replace(document, review=REVIEWED) if number % 2 else document)
        else:
            found.append(Document.of(changed, AT, identity=identity))
    return found


def opened(content: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(content))


def texts(found: pydicom.Dataset, concept: str) -> list[str]:
    """Values of all text items of a concept code, in order."""
    values = []
    for item in found.get("ContentSequence", ()):
        names = item.get("ConceptNameCodeSequence", ())
        if names and names[0].CodeValue == concept and item.ValueType == "TEXT":
            values.append(str(item.TextValue))
        values += texts(item, concept)
    return values


# labels


def test_each_finding_is_said_denied_doubted_or_not_mentioned() -> None:
    found = labels_of("The heart is enlarged. There is no pneumothorax. Possible pneumonia in the left lower lobe.")
    said = {finding: value for finding, value in found.items() if value != "not mentioned"}
    assert said == {"Cardiomegaly": "positive", "Pneumothorax": "negative", "Pneumonia": "uncertain"}


def test_the_fourteen_findings_come_in_the_metrics_order() -> None:
    names = (
        "Enlarged Cardiomediastinum, Cardiomegaly, Lung Opacity, Lung Lesion, Edema, Consolidation, Pneumonia, "
        "Atelectasis, Pneumothorax, Pleural Effusion, Pleural Other, Fracture, Support Devices, No Finding"
    )
    assert ", ".join(FINDINGS) == ", ".join(labels_of("The lungs are clear.")) == names


def test_a_normal_report_has_no_finding_but_an_empty_one_says_nothing() -> None:
    assert labels_of("The lungs are clear.")["No Finding"] == "positive"
    assert set(labels_of(" \n").values()) == {"not mentioned"}


def test_labels_need_no_torch() -> None:
    code = "import sys, llava_rad.outputs.document as l; l.labels_of('Edema.'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# identifiers


def test_identifiers_are_valid_and_follow_from_what_they_name() -> None:
    first = uid_of("a", "b")
    assert first == uid_of("a", "b") != uid_of("ab", "") and UID(first).is_valid and len(first) <= 64
    assert uuid.UUID(int=int(first.removeprefix("2.25."))).version == 8


def test_another_model_image_text_version_or_kind_is_another_document(report: Report) -> None:
    other = report.model_copy(update={"model": report.model.model_copy(update={"sha256": "0" * 64})})
    words = report.report.model_copy(update={"findings": report.report.findings[:1]})  # another prompt or precision
    documents = [
        Document.of(report, AT), Document.of(other, AT), Document.of(report, AT, identity=IDENTITY),
        Document.of(report.model_copy(update={"report": words}), AT), signed(report), signed(report, version=2),
    ]  # fmt: skip
    uids = {document.uid(kind) for document in documents for kind in ("report", "labels")}
    assert len(uids) == 12
    assert Document.of(report, datetime(2027, 1, 1, tzinfo=UTC)).uid("report") in uids, "the time changes nothing"


def test_the_identity_is_read_in_the_limited_process_and_only_of_dicom() -> None:
    with Reader() as reader:
        found = reader.identity(example())
        source = pydicom.dcmread(example(), stop_before_pixels=True)
        assert (found.study_uid, found.instance_uid) == (source.StudyInstanceUID, source.SOPInstanceUID)
        assert found.attributes["PatientID"] == source.PatientID
        with pytest.raises(ReadError, match="no DICOM header"):
            reader.identity(b"\x89PNG\r\n\x1a\n" + bytes(200))


# structured reports


@pytest.mark.acceptance(row=24)
def test_a_draft_says_that_it_is_one(report: Report) -> None:
    for content in to_sr(Document.of(report, AT)):
        found = opened(content)
        flags = found.CompletionFlag, found.VerificationFlag, found.PreliminaryFlag
        assert flags == ("PARTIAL", "UNVERIFIED", "PRELIMINARY")
        assert "VerifyingObserverSequence" not in found
        assert found.SeriesDescription == "AI-generated draft, research use only" and found.Modality == "SR"


def test_a_signed_report_names_its_reviewer(report: Report) -> None:
    for content in to_sr(signed(report, identity=IDENTITY)):
        found = opened(content)
        flags = found.CompletionFlag, found.VerificationFlag, found.PreliminaryFlag
        assert flags == ("COMPLETE", "VERIFIED", "FINAL")
        (observer,) = found.VerifyingObserverSequence
        assert (observer.VerifyingObserverName, observer.VerificationDateTime) == ("ann^", "20261126130507")


def test_the_report_holds_every_sentence_the_model_and_the_notice(report: Report) -> None:
    document = Document.of(report, AT)
    found = opened(to_sr(document).report)
    assert texts(found, "121071") == [one.text for one in report.report.findings]
    assert texts(found, "121106")[0] == NOTICE
    assert texts(found, "121016") == [report.model.sha256] and texts(found, "121013") == [report.model.id]
    assert found.SOPClassUID.name == "Enhanced SR Storage"
    changed = opened(to_sr(signed(report)).report)
    assert texts(changed, "121071") == ["Heart normal.", "No pneumothorax."]


REVIEWED = Review(
    ("There is a nodule.",), ("Follow up in <6 weeks> & compare.",), ("look",),
    {"Lung Lesion": "uncertain", "Fracture": "positive", "No Finding": "not mentioned"},
)  # fmt: skip


def test_a_review_that_is_not_signed_is_a_draft_with_its_own_text(report: Report) -> None:
    document = Document.of(report.model_copy(update={"warnings": ["of the draft"]}), AT, review=REVIEWED)
    for content in to_sr(document):
        assert opened(content).VerificationFlag == "UNVERIFIED"
    found = opened(to_sr(document).report)
    assert texts(found, "121071") == ["There is a nodule."]
    assert texts(found, "121073") == ["Follow up in <6 weeks> & compare."]
    titles = [
        one.ConceptNameCodeSequence[0].CodeMeaning for one in found.ContentSequence if one.ValueType == "CONTAINER"
    ]
    assert titles == ["Findings", "Impressions"]
    assert texts(found, "121106")[:2] == [NOTICE, "look"]
    later = Document.of(report, AT.replace(hour=14), review=REVIEWED)
    assert later.uid("report") != document.uid("report"), "one UID never names two contents"


def test_a_review_that_is_not_signed_by_sections_in_fhir(report: Report) -> None:
    found = resources(Document.of(report, AT, review=REVIEWED))
    (diagnostic,), (composition,) = found["DiagnosticReport"], found["Composition"]
    assert diagnostic["status"] == composition["status"] == "preliminary"
    assert diagnostic["conclusion"] == "There is a nodule.\n\nFollow up in <6 weeks> & compare."
    shown = base64.b64decode(diagnostic["presentedForm"][0]["data"]).decode()
    assert shown == (
        f"{NOTICE}\n\nWARNINGS:\n- look\n\nFINDINGS:\nThere is a nodule.\n\n"
        "IMPRESSION:\nFollow up in <6 weeks> & compare.\n"
    )
    assert [one["code"]["coding"][0]["code"] for one in composition["section"]] == ["59776-5", "19005-8"]
    assert "<p>Follow up in &lt;6 weeks&gt; &amp; compare.</p>" in composition["section"][1]["text"]["div"]


@pytest.mark.parametrize(
    ("field", "section", "loinc"),
    [
        ("indication", "IndicationsForProcedure", "18785-6"),
        ("technique", "CurrentProcedureDescriptions", "55111-9"),
        ("comparison", "PreviousFindings", "18834-2"),
    ],
)
def test_what_was_typed_above_the_findings_is_in_the_documents(
    report: Report, field: str, section: str, loinc: str
) -> None:
    """Codes: PS3.16 CID 7001, as pydicom lists it; earlier editions of the same sections are of DCM."""
    from pydicom.sr.codedict import codes

    review = replace(REVIEWED, context={field: "Fever < 3 days.", "prior_report": "Before."})
    document = Document.of(report, AT, review=review)
    found = opened(to_sr(document).report)
    first, *others = [one for one in found.ContentSequence if one.ValueType == "CONTAINER"]
    title, known = first.ConceptNameCodeSequence[0], getattr(codes.DCM, section)
    assert (title.CodeValue, title.CodeMeaning) == (known.value, known.meaning)
    (item,) = first.ContentSequence
    assert item.TextValue == "Fever < 3 days." and "ContentSequence" not in item
    assert [one.ConceptNameCodeSequence[0].CodeMeaning for one in others] == ["Findings", "Impressions"]
    assert all("ContentSequence" in item for one in others for item in one.ContentSequence)
    parts = resources(document)
    (diagnostic,), (composition,) = parts["DiagnosticReport"], parts["Composition"]
    assert getattr(codes.cid7001, section).value == loinc == composition["section"][0]["code"]["coding"][0]["code"]
    shown = base64.b64decode(diagnostic["presentedForm"][0]["data"]).decode()
    assert f"\n{field.upper()}:\nFever < 3 days.\n\nFINDINGS:" in shown and "Before." not in shown
    assert diagnostic["conclusion"] == document.text == Document.of(report, AT, review=REVIEWED).text
    assert document.uid("report") != Document.of(report, AT, review=REVIEWED).uid("report")


def test_a_version_that_replaces_another_is_amended(report: Report) -> None:
    """https://hl7.org/fhir/R4/valueset-diagnostic-report-status.html: amended, "subsequent to being final"."""
    first = signed(report)
    second = replace(first, review=replace(REVIEWED, predecessor=first), signature=Signature("ann", AT, 2))
    before, after = resources(first), resources(second)
    changing = ("DiagnosticReport", "Composition", "Observation")
    assert {one["status"] for name in changing for one in before[name]} == {"final"}
    assert {one["status"] for name in changing for one in after[name]} == {"amended"}
    revised = [one["what"]["identifier"] for one in after["Provenance"][0]["entity"] if one["role"] == "revision"]
    assert [one["value"] for one in revised] == [f"urn:uuid:{before['DiagnosticReport'][0]['id']}"]


def test_corrected_labels_are_those_of_the_reviewer(report: Report) -> None:
    document = Document.of(report, AT, review=REVIEWED)
    assert document.findings == {"Lung Lesion": "uncertain", "Fracture": "positive"}
    observations = {one["code"]["text"]: one for one in resources(document)["Observation"]}
    assert observations["Fracture"]["valueCodeableConcept"]["text"] == "positive"
    assert observations["Fracture"]["method"]["text"] == "CheXpert findings, corrected by the reviewer"
    groups: dict[str, set[str]] = {}

    def walk(items: Any, group: str) -> None:
        for item in items:
            name = item.ConceptNameCodeSequence[0]
            if name.CodeMeaning == "Tracking Identifier":
                group = str(item.TextValue)
            if item.ValueType == "CODE" and name.CodingSchemeDesignator == "99LLAVARAD":
                groups.setdefault(group, set()).add(name.CodeMeaning)
            walk(item.get("ContentSequence", ()), group)

    walk(opened(to_sr(document).labels).ContentSequence, "")
    assert groups == {"CheXpert findings corrected by the reviewer": {"Lung Lesion", "Fracture"}}


def test_every_sentence_points_at_the_image(report: Report) -> None:
    found = opened(to_sr(Document.of(report, AT, identity=IDENTITY)).report)
    (findings,) = [item for item in found.ContentSequence if item.ValueType == "CONTAINER"]
    for item in findings.ContentSequence:
        (source,) = item.ContentSequence
        (image,) = source.ReferencedSOPSequence
        assert source.RelationshipType == "INFERRED FROM"
        assert (image.ReferencedSOPInstanceUID, image.ReferencedSOPClassUID) == ("1.2.3.3", IDENTITY.class_uid)
    (evidence,) = found.CurrentRequestedProcedureEvidenceSequence
    assert evidence.StudyInstanceUID == found.StudyInstanceUID == "1.2.3.1"


def test_the_labels_are_a_measurement_report(report: Report) -> None:
    found = opened(to_sr(Document.of(report, AT)).labels)
    assert found.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    said: dict[str, str] = {}

    def walk(items: Any) -> None:
        for item in items:
            name = item.ConceptNameCodeSequence[0]
            if item.ValueType == "CODE" and name.CodingSchemeDesignator == "99LLAVARAD":
                said[name.CodeMeaning] = item.ConceptCodeSequence[0].CodeMeaning
            walk(item.get("ContentSequence", ()))

    walk(found.ContentSequence)
    assert said["Lung Lesion"] == "Present" and said["Pleural Effusion"] == "Absent"
    assert "Fracture" not in said, "what is not mentioned is left out"


@pytest.mark.parametrize("number", range(4))
def test_other_tools_read_them(report: Report, number: int, tmp_path: Path) -> None:
    if shutil.which("dsrdump") is None:
        pytest.skip("dcmtk is not installed (Debian: apt-get install dcmtk)")
    document = several(report, 4)[number]
    for kind, content in zip(("report", "labels"), to_sr(document), strict=True):
        (tmp_path / kind).write_bytes(content)
        done = subprocess.run(["dsrdump", str(tmp_path / kind)], capture_output=True, text=True)
        assert done.returncode == 0 and "E:" not in done.stderr, done.stderr
    assert to_sr(document) == to_sr(document), "the same document gives the same bytes"


def test_only_times_differ_from_one_hour_to_the_next(report: Report) -> None:
    later = datetime(2026, 11, 27, 9, 0, 0, tzinfo=UTC)
    first, second = (opened(to_sr(Document.of(report, at)).report) for at in (AT, later))
    changed = {element.keyword for element in first if second[element.tag] != element}
    assert [str(element) for element in first.ContentSequence] == [str(element) for element in second.ContentSequence]
    assert changed == {
        "InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime", "SeriesDate", "SeriesTime",
        "ContributingEquipmentSequence",  # holds when the equipment contributed
    }  # fmt: skip


def test_without_identifiers_there_is_nothing_of_the_patient(report: Report) -> None:
    with Reader() as reader:
        values = {value for value in reader.identity(example()).attributes.values() if len(value) > 3}
    values |= {"1.3.6.1.4.1.5962"}
    for content in [*to_sr(Document.of(report, AT)), json.dumps(to_fhir(Document.of(report, AT))).encode()]:
        assert [value for value in values if value.encode() in content] == []
    found = opened(to_sr(Document.of(report, AT)).report)
    assert (found.PatientID, found.PatientName, found.StudyDate) == ("", "", "")
    assert found.StudyInstanceUID == anonymous(report.input.sha256).study_uid


def test_with_identifiers_they_are_where_archives_look(report: Report) -> None:
    found = opened(to_sr(Document.of(report, AT, identity=IDENTITY)).report)
    assert (found.PatientID, found.PatientName, found.AccessionNumber) == ("P-17", "Doe^Jane", "A-9")
