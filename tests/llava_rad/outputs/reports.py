"""Reports made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from encoder.reader.radiograph import ImageFacts
from llava_rad.outputs.document import Document
from llava_rad.outputs.fhir import to_fhir
from llava_rad.outputs.report import (
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
)

LATERAL, PRIOR = "d" * 64, "e" * 64
"""SHA-256 of the other images of :func:`study_report`."""
BOX = BoxFacts(x_min=0.25, y_min=0.5, x_max=0.75, y_max=1.0)
OLD: dict[str, Any] = {
    "schema": "llava-rad.report/1",
    "ai_generated": True,
    "notice": "AI-generated draft. Research use only. Not for clinical use.",
    "report": {"text": "Clear. Normal.", "findings": [{"text": "Clear."}, {"text": "Normal."}]},
    "model": {"id": "m", "revision": None, "sha256": "b" * 64, "demonstration": False},
    "input": {
        "sha256": "a" * 64, "path": None, "format": "png", "view": "PA", "recipe": {"name": "r", "version": 1},
        "facts": {"format": "png", "rows": 64, "columns": 48, "view": "PA", "frames": 1, "frame": 1},
    },
    "generation": {
        "max_new_tokens": 1, "num_beams": 1, "temperature": 0.0, "seed": 0, "prompt": "p", "dtype": "float32",
    },
    "warnings": ["look"],
    "software": {"name": "llava-rad", "version": "0"},
}  # fmt: skip
"""A report as version 1 of the schema has it."""
OLD_WITH_BOXES: dict[str, Any] = OLD | {
    "schema": "llava-rad.report/2",
    "report": {
        "text": "Clear. Normal.",
        "findings": [
            {"text": "Clear.", "boxes": [{"x_min": 0.25, "y_min": 0.5, "x_max": 0.75, "y_max": 1.0}]},
            {"text": "Normal.", "boxes": []},
        ],
    },
}
"""A report as version 2 of the schema has it."""


def report(
    sha256: str = "a" * 64,
    *sentences: str,
    model: str = "b" * 64,
    seed: int = 0,
    facts: ImageFacts | None = None,
) -> Report:
    """A report of these sentences on the image with this SHA-256."""
    sentences = sentences or ("Clear.",)
    facts = facts or ImageFacts(format="png", rows=64, columns=64)
    return Report(
        report=ReportBody(text=" ".join(sentences), findings=[Finding(text=one) for one in sentences]),
        model=ModelFacts(id="m", revision=None, sha256=model, demonstration=False),
        input=InputFacts(
            sha256=sha256, format=facts.format, view=facts.view, recipe=RecipeFacts(name="r", version=1), facts=facts
        ),
        images=[StudyImageFacts(role="frontal", sha256=sha256, view=facts.view)],
        generation=GenerationFacts(
            max_new_tokens=1, num_beams=1, temperature=0.0, seed=seed, prompt="p", dtype="float32"
        ),
        warnings=[],
        software=SoftwareFacts(version="0"),
    )


def study_report(
    *,
    impression: Sequence[str] = ("No acute disease.", "Follow up."),
    boxes: Sequence[Sequence[BoxFacts]] = ((BOX,), ()),
    facts: ImageFacts | None = None,
) -> Report:
    """A report on frontal, lateral and prior image with two findings, boxes and an impression."""
    plain = report("a" * 64, "There is a nodule.", "No effusion.", facts=facts)
    findings = [
        finding.model_copy(update={"boxes": list(found)})
        for finding, found in zip(plain.report.findings, boxes, strict=True)
    ]
    section = Impression(text=" ".join(impression), sentences=[Sentence(text=one) for one in impression])
    body = plain.report.model_copy(update={"findings": findings, "impression": section if impression else None})
    images = [
        *plain.images,
        StudyImageFacts(role="lateral", sha256=LATERAL, view="lateral"),
        StudyImageFacts(role="prior", sha256=PRIOR, view="PA"),
    ]
    return plain.model_copy(update={"report": body, "images": images})


def resources(document: Document) -> dict[str, list[dict[str, Any]]]:
    """Resources of the bundle by type; their addresses are those of their ids."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in to_fhir(document)["entry"]:
        assert entry["fullUrl"] == f"urn:uuid:{entry['resource']['id']}"
        found.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    return found
