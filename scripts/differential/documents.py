"""Structured reports and FHIR bundles, read back by pydicom, highdicom, fhir.resources and our own reader.

A case is a report, its images with their identifiers, and a review or none. Every statement of it is looked for in the
documents: sentences in their order, CheXpert findings, boxes, measurements, people, dates, warnings and images.
"""

from __future__ import annotations

import base64
import io
import json
import random
import warnings
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from encoder.reader.identity import Identity, read_identity
from encoder.reader.radiograph import ImageFacts
from llava_rad.outputs.document import FINDINGS, Document, Measurement, Review, Signature
from llava_rad.outputs.fhir import to_fhir
from llava_rad.outputs.report import (
    NOTICE,
    BoxFacts,
    Finding,
    GenerationFacts,
    Impression,
    InputFacts,
    ModelFacts,
    RecipeFacts,
    Report,
    ReportBody,
    Sentence,
    SoftwareFacts,
    StudyImageFacts,
    clean,
    one_line,
    sentences,
)
from llava_rad.outputs.sr import to_sr
from scripts.differential import texts
from scripts.differential.harness import Case, Outcome, Subject, different

_UIDS: Final = ("study_uid", "series_uid", "instance_uid", "class_uid")
_PEOPLE: Final = (
    "Doe^Jane", "Müller^Jürg", "Yamada^Tarou=山田^太郎=やまだ^たろう", "=田中^太郎", "O'Neil^Ann^B.^Dr.^PhD", "Doe",
    "^Ann",    "de la Cruz ^ José", "Doe^Jane^^^", "Ωμέγα^Ά", "Smith & Sons^<b>", "Doe^Jane=", "A^B^C^D^E^F",
    "x" * 70, "=", "Doe\\Roe",
)  # fmt: skip
_IDS: Final = (
    "P-17",
    "0",
    "a b",
    "Ä/7",
    "1=2^3",
    "<&>",
    '"',
    " 7",
    "9" * 64,
    "9" * 65,
    "胸-1",
    "a\\b",
    "\u200b",
    "7\n",
)
_DATES: Final = ("19800102", "20240229", "20230229", "17991231", "18000101", "1980", "", "２０２００１０１")
_TIMES: Final = ("12", "1205", "120559", "235960", "120559.123456", "240000", "12:05", "120559.1234567")
_CLASSES: Final = (
    "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.7.2",
)  # fmt: skip
_SIZE: Final = (64, 48)
_SAID: Final = {"Present": "positive", "Absent": "negative", "Undetermined": "uncertain"}


def draw(rng: random.Random) -> Case:
    """Draw a report with its images, and a review or none."""
    findings, impression = _sentences(rng), _sentences(rng) if rng.random() < 0.5 else []
    boxed = rng.random() < 0.5
    report = {
        "findings": findings, "impression": impression, "boxes": _boxes(rng, len(findings)) if boxed else None,
        "model": rng.choice(("m", "microsoft/llava-rad", "m" * 80)), "revision": rng.choice((None, "main")),
        "warnings": ["look"] * rng.randrange(2),
        "roles": rng.choice(([], ["lateral"], ["prior"], ["lateral", "prior"])),
        "rotated": rng.choice((0, 0, 90, 180, 270)), "mirrored": rng.random() < 0.3,
    }  # fmt: skip
    review = None
    if rng.random() < 0.6:
        told = _sentences(rng)
        review = {
            "findings": told, "impression": _sentences(rng) if rng.random() < 0.5 else [],
            "boxes": _boxes(rng, len(told)) if boxed else [], "warnings": ["seen"] * rng.randrange(2),
            "corrections": {
                name: rng.choice(("positive", "negative", "uncertain", "not mentioned"))
                for name in rng.sample(FINDINGS, rng.choice((0, 0, 2, 5)))
            },
            "measurements": [_measurement(rng) for _ in range(rng.choice((0, 0, 1, 3)))],
        }  # fmt: skip
    signed = review is not None and rng.random() < 0.6
    return {
        "report": report, "review": review,
        "reviewer": rng.choice(("ann", *_PEOPLE[:8], "Dr. 胸", "a=b", "back\\slash")) if signed else None,
        "at": [rng.randrange(4_000_000_000), rng.choice((-600, -210, 0, 60, 345, 840))],
        "identities": [_identity(rng, number) for number in range(3)] if rng.random() < 0.7 else None,
    }  # fmt: skip


def _sentences(rng: random.Random) -> list[str]:
    """Draw sentences as drafts and reviews have them: cleaned, and not empty."""
    whole = [clean(texts.text(rng, odd=0.15, most=12)).strip() for _ in range(rng.randrange(4))]
    return [one_line(one) for part in whole for one in sentences(part)]


def _boxes(rng: random.Random, number: int) -> list[list[list[int]]]:
    """Draw boxes [left, top, right, bottom] of each sentence, in pixels of an upright square of 48."""
    found = []
    for _ in range(number):
        several = []
        for _ in range(rng.choice((0, 1, 2))):
            left, top = rng.randrange(40), rng.randrange(40)
            several.append([left, top, rng.randrange(left + 1, 48), rng.randrange(top + 1, 48)])
        found.append(several)
    return found


def _measurement(rng: random.Random) -> dict[str, Any]:
    kind = rng.choice(("length", "cardiothoracic"))
    pairs = 1 if kind == "length" else 2
    points = [[round(rng.random() * 48, 2), round(rng.random() * 64, 2)] for _ in range(2 * pairs)]
    lengths = [rng.choice((1e-3, 0.05, 12.25, rng.random() * 300, 1e4)) for _ in range(pairs)]
    return {
        "kind": kind, "points": points, "lengths": lengths, "unit": rng.choice(("mm", "px")),
        "note": rng.choice(("", "at the detector")),
    }  # fmt: skip


def _identity(rng: random.Random, number: int) -> dict[str, Any]:
    stated = {
        "PatientID": rng.choice(_IDS) if number == 0 else "P-17", "PatientName": rng.choice(_PEOPLE),
        "PatientBirthDate": rng.choice(_DATES), "PatientSex": rng.choice(("M", "F", "O", "X")),
        "IssuerOfPatientID": rng.choice(_IDS), "StudyID": rng.choice(_IDS), "StudyDate": rng.choice(_DATES),
        "StudyTime": rng.choice(_TIMES), "AccessionNumber": rng.choice(_IDS),
        "ReferringPhysicianName": rng.choice(_PEOPLE),
    }  # fmt: skip
    kept = {name: value for name, value in stated.items() if rng.random() < 0.6}
    study = 4 if number == 2 else 3
    uids = (f"1.2.{study}.1", f"1.2.{study}.2.{number}", f"1.2.{study}.3.{number}", rng.choice(_CLASSES))
    return {**dict(zip(_UIDS, uids, strict=True)), "attributes": kept}


def document_of(case: Case) -> Document:
    """Build the document of a case."""
    facts = case["report"]
    seconds, offset = case["at"]
    at = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).astimezone(timezone(timedelta(minutes=offset)))
    identities = None if case["identities"] is None else [Identity.from_dict(one) for one in case["identities"]]
    report, frontal = _report(facts), identities[0] if identities else None
    others = None
    if identities:
        others = {image.sha256: identities[1 if image.role == "lateral" else 2] for image in report.images[1:]}
    plain = Document.of(report, at, identity=frontal, others=others)
    review = None
    if (given := case["review"]) is not None:
        measurements = tuple(
            Measurement(
                one["kind"], tuple((x, y) for x, y in one["points"]), plain.identity, tuple(one["lengths"]),
                one["unit"], one["note"],
            )
            for one in given["measurements"]
        )  # fmt: skip
        review = Review(
            tuple(given["findings"]), tuple(given["impression"]), tuple(given["warnings"]), given["corrections"],
            measurements, None, tuple(tuple(_fractions(facts, box) for box in some) for some in given["boxes"]),
        )  # fmt: skip
    signature = None if case["reviewer"] is None else Signature(case["reviewer"], at)
    return Document.of(report, at, identity=frontal, others=others, signature=signature, review=review)


def _fractions(facts: dict[str, Any], box: list[int]) -> BoxFacts:
    height, width = _SIZE if facts["rotated"] % 180 == 0 else _SIZE[::-1]
    left, top, right, bottom = box
    return BoxFacts(x_min=left / width, y_min=top / height, x_max=right / width, y_max=bottom / height)


def _report(facts: dict[str, Any]) -> Report:
    boxes = facts["boxes"]
    findings = [
        Finding(text=text, boxes=None if boxes is None else [_fractions(facts, box) for box in boxes[number]])
        for number, text in enumerate(facts["findings"])
    ]
    impression = [Sentence(text=text) for text in facts["impression"]]
    hashes = {"frontal": "a" * 64, "lateral": "c" * 64, "prior": "d" * 64}
    image = ImageFacts(
        "dicom",
        *_SIZE,
        modality="DX",
        view="PA",
        rotated=facts["rotated"],
        mirrored=facts["mirrored"],
        frames=1,
        frame=1,
    )
    return Report(
        report=ReportBody(
            text=" ".join(facts["findings"]), findings=findings,
            impression=Impression(text=" ".join(facts["impression"]), sentences=impression) if impression else None,
        ),
        model=ModelFacts(id=facts["model"], revision=facts["revision"], sha256="b" * 64, demonstration=False),
        input=InputFacts(
            sha256=hashes["frontal"], format="dicom", view="PA", recipe=RecipeFacts(name="r", version=1), facts=image
        ),
        images=[StudyImageFacts(role=role, sha256=hashes[role], view="PA") for role in ("frontal", *facts["roles"])],
        generation=GenerationFacts(
            max_new_tokens=1, num_beams=1, temperature=0.0, seed=0, prompt="p", dtype="float32"
        ),
        warnings=facts["warnings"],
        software=SoftwareFacts(version="0"),
    )  # fmt: skip


def compare(case: Case) -> Outcome:
    """Write the documents of a case and read them back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's and highdicom's about odd names and times
        for what, found, expected in _statements(case, document_of(case)):
            if found != expected:
                return different(f"{what}: {found!r} and {expected!r}")
    return Outcome("equal")


def _statements(case: Case, document: Document) -> Any:
    """Yield what is compared, what a reader finds, and what the case states."""
    report = document.report
    yield "report as JSON", Report.from_json(report.to_json()), report
    stated = case["review"] or case["report"]
    files = to_sr(document)
    yield from _structured(document, stated, files.report, case["report"])
    yield from _measured(document, stated, files.labels)
    yield from _bundle(document, stated)


def _structured(document: Document, stated: dict[str, Any], content: bytes, facts: dict[str, Any]) -> Any:
    """Read the Enhanced SR by pydicom and our reader of identifiers."""
    import numpy as np
    import pydicom

    found = pydicom.dcmread(io.BytesIO(content))
    sections = {
        one.ConceptNameCodeSequence[0].CodeMeaning: list(one.ContentSequence)
        for one in found.ContentSequence
        if one.ValueType == "CONTAINER"
    }
    told = {name: [str(one.TextValue) for one in items] for name, items in sections.items()}
    wanted = {"Findings": stated["findings"], "Impressions": stated["impression"]}
    yield "sentences in SR", told, {name: some for name, some in wanted.items() if some}
    images = [image.identity.instance_uid for image in document.images]
    for name, items in sections.items():
        for number, item in enumerate(items):
            kinds: dict[str, list[Any]] = {"IMAGE": [], "SCOORD": []}
            for one in item.ContentSequence:
                kinds[one.ValueType].append(one)
            referred = [one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in kinds["IMAGE"]]
            yield "images of a sentence", referred, images
            boxes = (stated["boxes"] or []) if name == "Findings" else []
            drawn = [
                [float(value) for value in np.reshape(one.GraphicData, (-1, 2)).T.ravel()] for one in kinds["SCOORD"]
            ]
            ends = [[min(one[:5]), min(one[5:]), max(one[:5]), max(one[5:])] for one in drawn]
            expected = [_in_file(facts, box) for box in (boxes[number] if number < len(boxes) else [])]
            yield "boxes in SR", np.round(ends, 3).tolist(), [[float(side) for side in box] for box in expected]
    comments = [str(one.TextValue) for one in found.ContentSequence if one.ValueType == "TEXT"]
    yield "notice and warnings", [text for text in (NOTICE, *stated["warnings"]) if text not in comments], []
    yield (
        "flags",
        (found.CompletionFlag, found.VerificationFlag, found.PreliminaryFlag),
        (("COMPLETE", "VERIFIED", "FINAL") if document.signature else ("PARTIAL", "UNVERIFIED", "PRELIMINARY")),
    )
    made = f"{found.ContentDate}{found.ContentTime}{found.TimezoneOffsetFromUTC}"
    yield "time", datetime.strptime(made, "%Y%m%d%H%M%S%z"), document.at.replace(microsecond=0)
    identity, read = document.identity, read_identity(content)
    # pydicom leaves out empty component groups at the end of a name, which mean nothing (PS3.5 6.2.1)
    yield "identifiers", dict(read.attributes), {key: one.rstrip("=") for key, one in identity.attributes.items()}
    yield "study", read.study_uid, identity.study_uid


def _in_file(facts: dict[str, Any], box: list[int]) -> list[int]:
    """Return the corners of a box of the upright image in the stored one, by turning a mask back."""
    import numpy as np

    left, top, right, bottom = box
    mask = np.zeros(_SIZE if facts["rotated"] % 180 == 0 else _SIZE[::-1], bool)
    mask[top:bottom, left:right] = True
    mask = np.rot90(mask[:, ::-1] if facts["mirrored"] else mask, facts["rotated"] // 90)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _measured(document: Document, stated: dict[str, Any], content: bytes) -> Any:
    """Read the TID 1500 report by highdicom."""
    from highdicom.sr import srread

    content_of = srread(io.BytesIO(content)).content
    groups = content_of.get_image_measurement_groups()
    labels = {
        one.name.meaning: _SAID[one.value.meaning] for group in groups for one in group.get_qualitative_evaluations()
    }
    yield "findings in SR", labels, dict(document.findings)
    boxes = stated["boxes"] or []
    rois = content_of.get_planar_roi_measurement_groups()
    named = [str(one.tracking_identifier) for one in rois]
    texts_of = [
        text for number, text in enumerate(stated["findings"]) for _ in (boxes[number] if number < len(boxes) else [])
    ]
    yield "sentences of regions", named, texts_of
    numbers = [
        [(one.name.meaning, float(one.value), one.unit.value) for one in group.get_measurements()]
        for group in groups
        if group.get_measurements()
    ]
    expected = []
    for one in stated.get("measurements", []):
        lengths, unit = one["lengths"], "mm" if one["unit"] == "mm" else "{pixels}"
        if one["kind"] == "length":
            expected.append([("Length", round(lengths[0], 1), unit)])
        else:
            widths = [("Width", round(length, 1), unit) for length in lengths]
            expected.append([("Cardiothoracic ratio", round(lengths[0] / lengths[1], 3), "{ratio}"), *widths])
    yield "measurements in SR", numbers, expected


def _bundle(document: Document, stated: dict[str, Any]) -> Any:
    """Read the bundle by fhir.resources and an XML parser."""
    from xml.etree import ElementTree

    from fhir.resources.R4B.bundle import Bundle
    from pydicom.valuerep import PersonName

    found = json.loads(json.dumps(to_fhir(document)))
    Bundle.model_validate(found)
    parts: dict[str, list[dict[str, Any]]] = {}
    for entry in found["entry"]:
        parts.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    (composition,), (report,) = parts["Composition"], parts["DiagnosticReport"]
    sections = {
        one["title"]: "".join(ElementTree.fromstring(one["text"]["div"]).itertext())
        for one in composition.get("section", [])
    }
    wanted = {"Findings": " ".join(stated["findings"]), "Impression": " ".join(stated["impression"])}
    yield "sections in FHIR", sections, {name: text for name, text in wanted.items() if text}
    yield "conclusion", report.get("conclusion", ""), "\n\n".join(text for text in wanted.values() if text)
    shown = base64.b64decode(report["presentedForm"][0]["data"]).decode()
    yield "text form", [text for text in (NOTICE, *wanted.values(), *stated["warnings"]) if text not in shown], []
    observations = parts.get("Observation", [])
    labels = {
        one["code"]["text"]: one["valueCodeableConcept"]["text"] for one in observations if "valueQuantity" not in one
    }
    yield "findings in FHIR", labels, dict(document.findings)
    numbers = [
        (one["valueQuantity"]["value"], one["valueQuantity"]["code"]) for one in observations if "valueQuantity" in one
    ]
    expected = []
    for one in stated.get("measurements", []):
        ratio = one["kind"] != "length"
        value = round(one["lengths"][0] / one["lengths"][1], 3) if ratio else round(one["lengths"][0], 1)
        expected.append((value, "{ratio}" if ratio else "mm" if one["unit"] == "mm" else "{pixels}"))
    yield "measurements in FHIR", numbers, expected
    yield "time in FHIR", datetime.fromisoformat(found["timestamp"]), document.at.replace(microsecond=0)
    texts_of_json = _strings(found)
    yield "empty strings", [text for text in texts_of_json if not text.strip()], []
    if attributes := document.identity.attributes:
        (patient,) = parts["Patient"]
        yield "patient ID", patient.get("identifier", [{}])[0].get("value"), attributes.get("PatientID")
        yield "birth date", patient.get("birthDate", "").replace("-", ""), attributes.get("PatientBirthDate", "")
        names = [
            (one.get("family", ""), *one.get("given", []), *one.get("prefix", []), *one.get("suffix", []))
            for one in patient.get("name", [])
        ]
        people = []
        for group in attributes.get("PatientName", "").split("="):
            name = PersonName(group)
            family, *rest = (
                name.family_name, name.given_name, name.middle_name, name.name_prefix, name.name_suffix,
            )  # fmt: skip
            if group.strip("^ "):
                people.append((family.strip(), *(part.strip() for part in rest if part.strip())))
        yield "name", names, people


def _strings(data: Any) -> list[str]:
    if isinstance(data, dict):
        return [text for value in data.values() for text in _strings(value)]
    if isinstance(data, list):
        return [text for value in data for text in _strings(value)]
    return [data] if isinstance(data, str) else []


SUBJECT = Subject("documents", "pydicom, highdicom and fhir.resources", 0.02, draw, compare)
