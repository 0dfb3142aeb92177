"""FHIR bundles of drafts and signed reports, checked with fhir.resources and against R4's required fields."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import datetime

import pytest

from llava_rad.outputs.document import Document
from llava_rad.outputs.fhir import to_fhir
from llava_rad.outputs.report import NOTICE, Report
from tests.llava_rad.outputs.reports import resources
from tests.llava_rad.outputs.test_documents import AT, IDENTITY, several, signed

pytestmark = pytest.mark.acceptance(row=23)


@pytest.mark.parametrize("number", range(4))
def test_bundles_have_the_structure_of_r4(report: Report, number: int) -> None:
    bundle = pytest.importorskip("fhir.resources.R4B.bundle", reason="fhir.resources is not installed")
    document = several(report, 4)[number]
    found = to_fhir(document)
    parsed = bundle.Bundle.model_validate(found)
    assert json.loads(parsed.model_dump_json(exclude_none=True))["entry"][0]["resource"]["status"] in (
        "preliminary", "final",
    )  # fmt: skip
    assert to_fhir(document) == found


@pytest.mark.parametrize("number", range(4))
def test_required_fields_and_codes(report: Report, number: int) -> None:
    """https://hl7.org/fhir/R4: cardinality 1.. and required bindings, which fhir.resources does not look at."""
    document = several(report, 4)[number]
    found = resources(document)
    (diagnostic,), (device,), (provenance,) = (found[name] for name in ("DiagnosticReport", "Device", "Provenance"))
    assert diagnostic["status"] == ("final" if document.signature else "preliminary")
    assert diagnostic["code"]["coding"][0]["system"] == "http://loinc.org"
    assert diagnostic["meta"]["security"][0]["code"] == "AIAST"
    assert provenance["target"] == [{"reference": f"urn:uuid:{diagnostic['id']}"}] and provenance["recorded"]
    assert provenance["agent"][0]["who"] == {"reference": f"urn:uuid:{device['id']}"}
    assert provenance["entity"][0]["role"] == "source" and provenance["entity"][0]["what"]["identifier"]["value"]
    assert device["deviceName"][0]["type"] == "model-name"
    for observation in found.get("Observation", []):
        assert observation["status"] in ("preliminary", "final") and observation["code"]["text"]
    references = {one["reference"] for one in diagnostic.get("result", [])}
    assert references == {f"urn:uuid:{one['id']}" for one in found.get("Observation", [])}
    assert all(str(uuid.UUID(one["id"])) == one["id"] for ones in found.values() for one in ones)
    for moment in (diagnostic["issued"], provenance["recorded"]):
        assert datetime.fromisoformat(moment).tzinfo is not None
    assert diagnostic["conclusion"] == document.text
    (form,) = diagnostic["presentedForm"]
    shown = base64.b64decode(form["data"]).decode()
    assert (
        shown.startswith(NOTICE)
        and form["title"] == NOTICE
        and all(sentence in shown for sentence in (*document.sentences, *document.impression))
    )


def test_the_patient_is_named_only_where_identifiers_are_known(report: Report) -> None:
    bare = json.dumps(to_fhir(Document.of(report, AT)))
    assert "subject" not in bare and "imagingStudy" not in bare
    found = resources(Document.of(report, AT, identity=IDENTITY))
    (diagnostic,), (patient,) = found["DiagnosticReport"], found["Patient"]
    assert all(one["subject"]["reference"] == f"urn:uuid:{patient['id']}" for one in found["Observation"])
    assert diagnostic["subject"] == {
        "reference": f"urn:uuid:{patient['id']}", "identifier": {"value": "P-17"}, "display": "Doe Jane",
    }  # fmt: skip
    assert (patient["gender"], patient["birthDate"]) == ("female", "1980-01-02")
    assert diagnostic["imagingStudy"][0]["identifier"]["value"] == "urn:oid:1.2.3.1"


def test_a_signature_adds_a_verifier(report: Report) -> None:
    found = resources(signed(report))
    (provenance,), (diagnostic,) = found["Provenance"], found["DiagnosticReport"]
    assert provenance["agent"][1]["type"]["coding"][0]["code"] == "verifier"
    assert provenance["agent"][1]["who"] == {"display": "ann"} and diagnostic["resultsInterpreter"] == [
        {"display": "ann"}
    ]
    assert {one["code"]["text"]: one["valueCodeableConcept"]["text"] for one in found["Observation"]} == {
        "Cardiomegaly": "negative", "Pneumothorax": "negative", "No Finding": "positive",
    }  # fmt: skip
