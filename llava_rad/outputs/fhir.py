"""FHIR R4: a Bundle of DiagnosticReport, Observations, Device, Provenance and Composition (https://hl7.org/fhir/R4/).

With identifiers also the Patient, and an ImagingStudy for each study with images that the report was written from.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Sequence
from datetime import date
from html import escape
from typing import Any, Final

from llava_rad.outputs.document import Document, Measurement
from llava_rad.outputs.formats import DocumentWriter
from llava_rad.outputs.report import NOTICE

SHA256_SYSTEM: Final = "https://llava-rad.invalid/input-sha256"
_AI: Final = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
_SAID: Final = {
    "positive": ("52101004", "Present"),
    "negative": ("2667000", "Absent"),
    "uncertain": ("373068000", "Undetermined"),
}

_UNITS: Final = {"mm": ("mm", "mm"), "px": ("pixels", "{pixels}"), "ratio": ("ratio", "{ratio}")}
"""Units by name, with their UCUM codes."""
_ABOVE: Final = {"indication": "18785-6", "technique": "55111-9", "comparison": "18834-2"}
_LABELED: Final = "CheXpert findings of the text, by the labeler 'rules'"
_CORRECTED: Final = "CheXpert findings, corrected by the reviewer"
_DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
_MODALITY: Final = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
}
"""Modalities by SOP class, for images whose header is not kept."""
_GENDER: Final = {"M": "male", "F": "female", "O": "other"}
_GROUPS: Final = ("ABC", "IDE", "SYL")
"""Alphabetic, ideographic and phonetic, by http://terminology.hl7.org/CodeSystem/v3-EntityNameUse."""
_REPRESENTATION: Final = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"


def to_fhir(document: Document) -> dict[str, Any]:
    """Build the bundle as JSON data; equal documents give equal bundles."""
    report = _diagnostic_report(document)
    observations = [_observation(document, finding, said) for finding, said in document.findings.items()]
    observations += [_measurement(document, number, one) for number, one in enumerate(document.measurements, 1)]
    report["result"] = [{"reference": f"urn:uuid:{one['id']}"} for one in observations]
    if not observations:
        del report["result"]
    named = [_patient(document), *_imaging_studies(document)] if document.identity.attributes else []
    parts = [report, *observations, *named, _device(document), _provenance(document), _composition(document)]
    return {
        "resourceType": "Bundle",
        "id": str(_uuid(document, "Bundle")),
        "meta": {"security": [_AI]},
        "type": "collection",
        "timestamp": _instant(document),
        "entry": [{"fullUrl": f"urn:uuid:{part['id']}", "resource": part} for part in parts],
    }


class BundleWriter(DocumentWriter):
    """Files of the format ``fhir``."""

    def files(self, document: Document) -> Sequence[bytes]:
        return [(json.dumps(to_fhir(document), ensure_ascii=False, indent=2) + "\n").encode()]


def _diagnostic_report(document: Document) -> dict[str, Any]:
    warnings = "".join(f"- {warning}\n" for warning in document.warnings)
    above = f"WARNINGS:\n{warnings}\n" if warnings else ""
    sections = "\n".join(f"{title.upper()}:\n{text}\n" for title, _, text in _sections(document))
    shown = f"{NOTICE}\n\n{above}{sections}"
    identity, signature = document.identity, document.signature
    found = {
        "resourceType": "DiagnosticReport",
        "id": str(_uuid(document, "DiagnosticReport")),
        "meta": {"security": [_AI]},
        "identifier": [{"system": SHA256_SYSTEM, "value": document.report.input.sha256}],
        "status": _status(document),
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}]}],
        "code": {
            "coding": [{"system": "http://loinc.org", "code": "18748-4", "display": "Diagnostic imaging study"}],
            "text": "Findings of a chest radiograph",
        },
        "issued": _instant(document),
        "presentedForm": [
            {
                "contentType": "text/plain; charset=utf-8",
                "language": "en",
                "data": base64.b64encode(shown.encode()).decode(),
                "title": NOTICE,
            }
        ],
    }
    if document.text:  # a string of FHIR is not empty
        found["conclusion"] = document.text
    if identity.attributes:
        found["subject"] = _subject(document)
        found["imagingStudy"] = [
            {
                "reference": f"urn:uuid:{study['id']}",
                "type": "ImagingStudy",
                "identifier": study["identifier"][0],
            }
            for study in _imaging_studies(document)
        ]
    if signature is not None:
        found["resultsInterpreter"] = [{"display": signature.reviewer}]
    return found


def _imaging_studies(document: Document) -> list[dict[str, Any]]:
    """Build the ImagingStudy of each study, the current one first, with the images that the report was written from."""
    studies: dict[str, dict[str, dict[str, Any]]] = {}
    for image in document.images:
        identity, stated = image.identity, document.report.input.facts.modality
        modality = stated if image.role == "frontal" and stated not in (None, "OTHER") else None
        series = studies.setdefault(identity.study_uid, {}).setdefault(
            identity.series_uid,
            {
                "uid": identity.series_uid,
                "modality": {"system": _DCM, "code": modality or _MODALITY.get(identity.class_uid, "OT")},
                "instance": [],
            },
        )
        class_code = {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{identity.class_uid}"}
        series["instance"].append(
            {"uid": identity.instance_uid, "sopClass": class_code, "title": f"{image.role} image"}
        )
    return [
        {
            "resourceType": "ImagingStudy",
            "id": str(_uuid(document, f"ImagingStudy {uid}")),
            "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}],
            "status": "available",
            "subject": _subject(document),
            "series": list(series.values()),
        }
        for uid, series in studies.items()
    ]


def _observation(document: Document, finding: str, said: str) -> dict[str, Any]:
    code, display = _SAID[said]
    found = {
        "resourceType": "Observation",
        "id": str(_uuid(document, f"Observation {finding}")),
        "meta": {"security": [_AI]},
        "status": _status(document),
        "code": {"text": finding},
        "valueCodeableConcept": {
            "coding": [{"system": "http://snomed.info/sct", "code": code, "display": display}],
            "text": said,
        },
        "method": {"text": _CORRECTED if finding in document.corrections else _LABELED},
        "device": {"reference": _reference(document, "Device")},
    }
    if document.identity.attributes:
        found["subject"] = _subject(document)
    return found


def _measurement(document: Document, number: int, one: Measurement) -> dict[str, Any]:
    """Build the Observation of a length, or of a cardiothoracic ratio with its two widths."""
    sct, unit = "http://snomed.info/sct", _UNITS[one.unit]
    found: dict[str, Any] = {
        "resourceType": "Observation",
        "id": str(_uuid(document, f"Measurement {number}")),
        "meta": {"security": [_AI]},
        "status": _status(document),
        "method": {"text": "Measured by the reviewer in the image"},
    }
    if one.ratio is None:
        found["code"] = {"coding": [{"system": sct, "code": "410668003", "display": "Length"}], "text": "Length"}
        found["valueQuantity"] = _quantity(round(one.lengths[0], 1), unit)
    else:
        width = {"system": sct, "code": "103355008", "display": "Width"}
        found["code"] = {"text": "Cardiothoracic ratio"}
        found["valueQuantity"] = _quantity(one.ratio, _UNITS["ratio"])
        found["component"] = [
            {"code": {"coding": [width], "text": text}, "valueQuantity": _quantity(round(length, 1), unit)}
            for text, length in zip(("Width of the heart", "Width of the chest"), one.lengths, strict=True)
        ]
    if one.note:
        found["note"] = [{"text": one.note}]
    if document.identity.attributes:
        found["subject"] = _subject(document)
        image = {"system": "urn:dicom:uid", "value": f"urn:oid:{one.image.instance_uid}"}
        found["derivedFrom"] = [{"type": "ImagingStudy", "identifier": image, "display": "Measured image"}]
    return found


def _quantity(value: float, unit: tuple[str, str]) -> dict[str, Any]:
    name, code = unit
    return {"value": value, "unit": name, "system": "http://unitsofmeasure.org", "code": code}


def _composition(document: Document) -> dict[str, Any]:
    """Build the report by sections, coded as in DICOM PS3.20."""
    found: dict[str, Any] = {
        "resourceType": "Composition",
        "id": str(_uuid(document, "Composition")),
        "meta": {"security": [_AI]},
        "status": _status(document),
        "type": {"coding": [{"system": "http://loinc.org", "code": "18748-4", "display": "Diagnostic imaging study"}]},
        "date": _instant(document),
        "author": [{"reference": _reference(document, "Device")}],
        "title": NOTICE,
        "section": [
            {
                "title": title,
                "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                "text": {
                    "status": "generated",
                    "div": f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{escape(text)}</p></div>',
                },
            }
            for title, code, text in _sections(document)
        ],
    }
    if document.signature is not None:
        found["author"].append({"display": document.signature.reviewer})
    if document.identity.attributes:
        found["subject"] = _subject(document)
    if not found["section"]:
        del found["section"]
    return found


def _sections(document: Document) -> list[tuple[str, str, str]]:
    """Return title, LOINC code and text of the sections that are not empty (PS3.16, CID 7001)."""
    above = [(name.capitalize(), _ABOVE[name], (text,)) for name, text in document.context.items()]
    both = (("Findings", "59776-5", document.sentences), ("Impression", "19005-8", document.impression))
    return [(title, code, " ".join(sentences)) for title, code, sentences in (*above, *both) if sentences]


def _status(document: Document) -> str:
    """Return the status of a draft, of the first signed version, or of one that replaces another."""
    if document.signature is None:
        return "preliminary"
    return "final" if document.signature.version == 1 else "amended"


def _device(document: Document) -> dict[str, Any]:
    model, software = document.report.model, document.report.software
    return {
        "resourceType": "Device",
        "id": str(_uuid(document, "Device")),
        "identifier": [{"system": "https://llava-rad.invalid/model-sha256", "value": model.sha256}],
        "manufacturer": "LLaVA-Rad",
        "deviceName": [{"name": document.model_name, "type": "model-name"}],
        "version": [{"value": f"{software.name} {software.version}"}],
        "note": [{"text": NOTICE}],
    }


def _provenance(document: Document) -> dict[str, Any]:
    kinds = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
    writer = {
        "type": {"coding": [{"system": kinds, "code": "assembler"}]},
        "who": {"reference": _reference(document, "Device")},
    }
    agents: list[dict[str, Any]] = [writer]
    if document.signature is not None:
        reviewer = {"display": document.signature.reviewer}
        agents.append({"type": {"coding": [{"system": kinds, "code": "verifier"}]}, "who": reviewer})
    entities = [("source", SHA256_SYSTEM, image.sha256) for image in document.images]
    if document.review is not None and document.review.predecessor is not None:
        entities.append(("revision", "urn:ietf:rfc:3986", _reference(document.review.predecessor, "DiagnosticReport")))
    return {
        "resourceType": "Provenance",
        "id": str(_uuid(document, "Provenance")),
        "target": [{"reference": _reference(document, "DiagnosticReport")}],
        "recorded": _instant(document),
        "agent": agents,
        "entity": [
            {"role": role, "what": {"identifier": {"system": system, "value": value}}}
            for role, system, value in entities
        ],
    }


def _patient(document: Document) -> dict[str, Any]:
    """Build the Patient; each component group of a DICOM name is a name of its own (PS3.5, 6.2.1)."""
    attributes = document.identity.attributes
    found: dict[str, Any] = {"resourceType": "Patient", "id": str(_uuid(document, "Patient"))}
    if "PatientID" in attributes:
        found["identifier"] = [{"value": attributes["PatientID"]}]
        if "IssuerOfPatientID" in attributes:
            found["identifier"][0]["assigner"] = {"display": attributes["IssuerOfPatientID"]}
    if "PatientName" in attributes:
        groups = attributes["PatientName"].split("=")[: len(_GROUPS)]
        found["name"] = [_human_name(group, _GROUPS[i]) for i, group in enumerate(groups) if group.strip("^ ")]
    if "PatientSex" in attributes:
        found["gender"] = _GENDER[attributes["PatientSex"]]
    if "PatientBirthDate" in attributes:
        found["birthDate"] = date.fromisoformat(attributes["PatientBirthDate"]).isoformat()
    return found


def _human_name(group: str, kind: str) -> dict[str, Any]:
    """Build a HumanName of the components family, given, middle, prefix and suffix; ``kind`` is ABC, IDE or SYL."""
    family, given, middle, prefix, suffix = (part.strip() for part in (group + "^^^^").split("^")[:5])
    lists = {"given": [given, middle], "prefix": [prefix], "suffix": [suffix]}
    parts: dict[str, Any] = {"family": family} if family else {}
    parts |= {name: kept for name, values in lists.items() if (kept := [value for value in values if value])}
    return {
        "extension": [{"url": _REPRESENTATION, "valueCode": kind}],
        "text": " ".join(part.strip() for part in group.split("^") if part.strip()),
        **parts,
    }


def _subject(document: Document) -> dict[str, Any]:
    patient = _patient(document)
    found: dict[str, Any] = {"reference": _reference(document, "Patient")}
    if "identifier" in patient:
        found["identifier"] = patient["identifier"][0]
    found["display"] = patient["name"][0]["text"] if "name" in patient else "not stated"
    return found


def _instant(document: Document) -> str:
    return document.made.isoformat(timespec="seconds")


def _reference(document: Document, part: str) -> str:
    return f"urn:uuid:{_uuid(document, part)}"


def _uuid(document: Document, part: str) -> uuid.UUID:
    return uuid.UUID(int=int(document.uid(f"fhir {part}").removeprefix("2.25.")))
