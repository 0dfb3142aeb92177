"""Content of structured reports and bundles: measurements, sections, boxes, further images, replaced versions."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from encoder.errors import ReadError
from encoder.reader.identity import Identity
from encoder.reader.radiograph import ImageFacts
from llava_rad.outputs.document import Document, Review, Signature, with_uids
from llava_rad.outputs.fhir import to_fhir
from llava_rad.outputs.report import BoxFacts
from llava_rad.outputs.sr import to_sr
from tests.llava_rad.outputs.kinds import LATERAL, OTHERS, PRIOR, measurements
from tests.llava_rad.outputs.reports import LATERAL as LATERAL_SHA
from tests.llava_rad.outputs.reports import PRIOR as PRIOR_SHA
from tests.llava_rad.outputs.reports import report, study_report
from tests.llava_rad.outputs.test_documents import AT, IDENTITY, opened


def test_measurements_are_groups_of_the_report_with_value_unit_and_coordinates() -> None:
    review = Review(("Clear.",), measurements=measurements(IDENTITY))
    document = Document.of(report(), AT, identity=IDENTITY, signature=Signature("ann", AT), review=review)
    containers = [one for one in opened(to_sr(document).labels).ContentSequence if one.ValueType == "CONTAINER"]
    groups = [one for part in containers for one in part.ContentSequence]
    groups = [one for one in groups if any(item.ValueType == "NUM" for item in one.ContentSequence)]
    assert {one.ConceptNameCodeSequence[0].CodeValue for one in groups} == {"125007"}
    found = []
    for item in (one for group in groups for one in group.ContentSequence if one.ValueType == "NUM"):
        (value,), name = item.MeasuredValueSequence, item.ConceptNameCodeSequence[0].CodeMeaning
        found.append((name, float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue))
    assert found == [
        ("Length", 50.1, "mm"), ("Length", 0.0, "{pixels}"), ("Cardiothoracic ratio", 0.484, "{ratio}"),
        ("Width", 31.0, "{pixels}"), ("Width", 64.0, "{pixels}"), ("Cardiothoracic ratio", 0.496, "{ratio}"),
        ("Width", 131.1, "mm"), ("Width", 264.4, "mm"),
    ]  # fmt: skip
    (length,) = [one for one in groups[0].ContentSequence if one.ValueType == "NUM"]
    line = length.ContentSequence[0]
    assert (line.GraphicType, list(line.GraphicData)) == ("POLYLINE", [10.5, 20.0, 40.0, 60.25])
    images = [one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for group in groups for one in group.ContentSequence
              if one.ValueType == "IMAGE"]  # fmt: skip
    assert images == [IDENTITY.instance_uid, LATERAL.instance_uid, IDENTITY.instance_uid, PRIOR.instance_uid]
    comments = [one.TextValue for one in opened(to_sr(document).report).ContentSequence if one.ValueType == "TEXT"]
    assert "Measurement: Length 50.1 mm (at the detector: the structure is smaller)" in comments


def test_a_later_version_names_the_objects_that_it_replaces() -> None:
    review = Review(("Clear.",))
    first = Document.of(report(), AT, identity=IDENTITY, signature=Signature("ann", AT, 1), review=review)
    again = replace(first, signature=Signature("ann", AT, 2), review=replace(review, predecessor=first))
    for before, after in zip(map(opened, to_sr(first)), map(opened, to_sr(again)), strict=True):
        assert "PredecessorDocumentsSequence" not in before
        (study,) = after.PredecessorDocumentsSequence
        (series,) = study.ReferencedSeriesSequence
        (kept,) = series.ReferencedSOPSequence
        assert (
            study.StudyInstanceUID == before.StudyInstanceUID and series.SeriesInstanceUID == before.SeriesInstanceUID
        )
        assert kept.ReferencedSOPInstanceUID == before.SOPInstanceUID != after.SOPInstanceUID
        assert kept.ReferencedSOPClassUID == before.SOPClassUID


def test_measurements_are_observations_with_ucum_units() -> None:
    from fhir.resources.R4B.bundle import Bundle

    review = Review(("Clear.",), measurements=measurements(IDENTITY))
    found = to_fhir(Document.of(report(), AT, identity=IDENTITY, review=review))
    Bundle.model_validate(found)
    parts = [part["resource"] for part in found["entry"]]
    measured = [one for one in parts if "valueQuantity" in one]
    assert [(one["code"]["text"], one["valueQuantity"]["value"], one["valueQuantity"]["code"]) for one in measured] == [
        ("Length", 50.1, "mm"), ("Length", 0.0, "{pixels}"), ("Cardiothoracic ratio", 0.484, "{ratio}"),
        ("Cardiothoracic ratio", 0.496, "{ratio}"),
    ]  # fmt: skip
    assert [one["valueQuantity"]["value"] for one in measured[3]["component"]] == [131.1, 264.4]
    assert measured[0]["derivedFrom"][0]["identifier"]["value"] == f"urn:oid:{IDENTITY.instance_uid}"
    results = [one["reference"] for one in parts[0]["result"]]
    assert {f"urn:uuid:{one['id']}" for one in measured} <= set(results)


def test_the_same_file_signed_twice_becomes_two_objects() -> None:
    first = Document.of(report(), AT, signature=Signature("ann", AT, 1), review=Review(("One.",)))
    second = replace(first, signature=Signature("ann", AT.replace(minute=6), 1), review=Review(("Two.",)))
    assert opened(to_sr(first).report).SOPInstanceUID != opened(to_sr(second).report).SOPInstanceUID


def of_study(**changes: Any) -> Document:
    facts = ImageFacts(format="dicom", rows=64, columns=48)
    given: dict[str, Any] = {"identity": IDENTITY, "others": OTHERS} | changes
    return Document.of(study_report(facts=facts), AT, **given)


def test_both_sections_refer_to_every_image_and_to_the_box() -> None:
    found = opened(to_sr(of_study()).report)
    sections = {
        one.ConceptNameCodeSequence[0].CodeMeaning: one.ContentSequence
        for one in found.ContentSequence
        if one.ValueType == "CONTAINER"
    }
    assert {name: [item.TextValue for item in items] for name, items in sections.items()} == {
        "Findings": ["There is a nodule.", "No effusion."], "Impressions": ["No acute disease.", "Follow up."],
    }  # fmt: skip
    three = [IDENTITY.instance_uid, LATERAL.instance_uid, PRIOR.instance_uid]
    for item in (one for items in sections.values() for one in items):
        images = [one for one in item.ContentSequence if one.ValueType == "IMAGE"]
        assert [one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in images] == three
        assert {one.RelationshipType for one in item.ContentSequence} == {"INFERRED FROM"}
    (region,) = [one for one in sections["Findings"][0].ContentSequence if one.ValueType == "SCOORD"]
    # a quarter to three quarters of 48 columns, the lower half of 64 rows, as a closed line
    assert region.GraphicType == "POLYLINE"
    assert list(region.GraphicData) == [12.0, 32.0, 36.0, 32.0, 36.0, 64.0, 12.0, 64.0, 12.0, 32.0]
    (image,) = region.ContentSequence
    assert image.RelationshipType == "SELECTED FROM"
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == IDENTITY.instance_uid
    assert not [one for one in sections["Findings"][1].ContentSequence if one.ValueType == "SCOORD"]
    current, other = found.CurrentRequestedProcedureEvidenceSequence, found.PertinentOtherEvidenceSequence
    assert [one.StudyInstanceUID for one in (*current, *other)] == [IDENTITY.study_uid, PRIOR.study_uid]
    assert len(current[0].ReferencedSeriesSequence) == 2, "frontal and lateral image are of the study"


def test_highdicom_reads_the_regions_back() -> None:
    from highdicom.sr import srread

    document = of_study()
    read = srread(io.BytesIO(to_sr(document).labels))
    (group,) = read.content.get_planar_roi_measurement_groups()
    assert group.tracking_identifier == "There is a nodule."
    assert group.roi.value.tolist() == [[12, 32], [36, 32], [36, 64], [12, 64], [12, 32]]
    assert read.content.get_image_measurement_groups(tracking_uid=document.uid("tracking"))
    report = srread(io.BytesIO(to_sr(document).report))
    referenced = {str(one[2]) for one in report.get_evidence()}
    assert referenced == {IDENTITY.instance_uid, LATERAL.instance_uid, PRIOR.instance_uid}


@pytest.mark.parametrize(
    ("facts", "corners"),
    [
        # the left upper pixel of the upright image, 1/48 wide and 1/64 high, by hand in the stored image
        ({}, (0, 0, 1, 1)),
        ({"mirrored": True}, (47, 0, 48, 1)),
        ({"rotated": 180}, (47, 63, 48, 64)),
    ],
)
def test_boxes_are_where_the_file_has_them(facts: dict[str, Any], corners: tuple[float, ...]) -> None:
    box = BoxFacts(x_min=0, y_min=0, x_max=1 / 48, y_max=1 / 64)
    stored = ImageFacts(format="dicom", rows=64, columns=48, **facts)
    (region,) = Document.of(study_report(facts=stored, boxes=((box,), ())), AT).regions(0)
    x, y = zip(*region, strict=True)
    assert (min(x), min(y), max(x), max(y)) == pytest.approx(corners, abs=0.002)


def test_a_prior_of_another_patient_is_not_referred_to() -> None:
    other = replace(PRIOR, attributes={"PatientID": "P-18"})
    document = of_study(others={**OTHERS, PRIOR_SHA: other})
    said = "the prior image has no identifiers of this patient: the document does not refer to it"
    assert document.warnings == [said] and [one.role for one in document.images] == ["frontal", "lateral"]
    for content in to_sr(document):
        assert PRIOR.instance_uid.encode() not in content and b"P-18" not in content
    assert PRIOR.instance_uid not in str(to_fhir(document))


def test_images_without_identifiers_are_one_study_and_the_prior_another() -> None:
    document = Document.of(study_report(), AT)
    frontal, lateral, prior = (one.identity for one in document.images)
    assert frontal.study_uid == lateral.study_uid != prior.study_uid
    assert len({one.instance_uid for one in (frontal, lateral, prior)}) == 3
    assert document.uid("report") != Document.of(report("a" * 64), AT).uid("report"), "another content, another UID"


def test_fhir_has_sections_and_refers_to_all_images() -> None:
    from fhir.resources.R4B.bundle import Bundle

    found = to_fhir(of_study())
    Bundle.model_validate(found)
    parts: dict[str, list[dict[str, Any]]] = {}
    for entry in found["entry"]:
        parts.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    (composition,), (diagnostic,) = parts["Composition"], parts["DiagnosticReport"]
    texts = {one["title"]: one["text"]["div"] for one in composition["section"]}
    assert "There is a nodule. No effusion." in texts["Findings"] and "No acute disease." in texts["Impression"]
    now, before = parts["ImagingStudy"]
    assert [one["reference"] for one in diagnostic["imagingStudy"]] == [
        f"urn:uuid:{now['id']}", f"urn:uuid:{before['id']}",
    ]  # fmt: skip
    listed = [
        (study["identifier"][0]["value"], series["modality"]["code"], image["uid"], image["title"])
        for study in (now, before)
        for series in study["series"]
        for image in series["instance"]
    ]
    assert listed == [
        (f"urn:oid:{IDENTITY.study_uid}", "DX", IDENTITY.instance_uid, "frontal image"),
        (f"urn:oid:{IDENTITY.study_uid}", "CR", LATERAL.instance_uid, "lateral image"),
        (f"urn:oid:{PRIOR.study_uid}", "OT", PRIOR.instance_uid, "prior image"),
    ]
    assert {one["status"] for one in parts["ImagingStudy"]} == {"available"}
    subject = diagnostic["subject"]
    assert all(one["subject"] == subject for one in parts["ImagingStudy"])
    (provenance,) = parts["Provenance"]
    sources = [one["what"]["identifier"]["value"] for one in provenance["entity"]]
    assert sources == ["a" * 64, LATERAL_SHA, PRIOR_SHA]
    assert "ImagingStudy" not in str(to_fhir(Document.of(study_report(), AT))), "which needs a patient"


def test_identifiers_are_read_by_hash_and_only_the_frontal_image_must_have_some() -> None:
    known = {"a" * 64: IDENTITY, PRIOR_SHA: PRIOR}

    def read(sha256: str) -> Identity:
        if sha256 not in known:
            raise ReadError("not_an_image", "no header")
        return known[sha256]

    made = with_uids(study_report(), read)
    assert [(one.study_uid, one.sop_instance_uid) for one in made.images] == [
        (IDENTITY.study_uid, IDENTITY.instance_uid), (None, None), (PRIOR.study_uid, PRIOR.instance_uid),
    ]  # fmt: skip
    document = Document.identified(study_report(), AT, read)
    assert [one.role for one in document.images] == ["frontal", "prior"] and document.unnamed == ("lateral",)
    known.clear()
    with pytest.raises(ReadError):
        Document.identified(study_report(), AT, read)

    def busy(sha256: str) -> Identity:
        raise ReadError("timeout", "took too long")

    with pytest.raises(ReadError):
        with_uids(study_report(), busy)
