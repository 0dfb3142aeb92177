"""Export of reviews: text, JSON and hospital formats of one study; JSONL and CSV of all.

Every export carries the notice of ``llava_rad.outputs.report.NOTICE``, and of the same state of a study (draft, under
review or signed) the same text and the same warnings (:mod:`app.notices`).
"""

from __future__ import annotations

import csv as tables
import io
import json
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from app import measurements, notices, review
from encoder.reader.identity import Identity
from encoder.reader.radiograph import ImageFacts
from llava_rad.outputs.compose import software_version
from llava_rad.outputs.document import anonymous
from llava_rad.outputs.report import NOTICE

if TYPE_CHECKING:
    from app.store import Store
    from llava_rad.outputs.document import Document
    from llava_rad.outputs.report import BoxFacts, Report

SCHEMA: Final = "llava-rad.review/1"
NOT_SIGNED: Final = "NOT SIGNED: a draft under review."
COLUMNS: Final = (
    "study", "name", "status", "version", "sha256", "view", "model", "reviewer", "signed_at", "seconds", "sentence",
    "state", "draft", "text", "notice", "section", "error_category", "error_significance", "corrections", "warnings",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

State = dict[str, Any]


def report_text(state: State, version: int | None = None) -> str:
    """Format a study's report as plain text: a signed version, or the current text marked as not signed.

    Raises:
        ReviewError: if the version does not exist or has no text.
    """
    signed = _signed(state, version)
    state, shown = _with_images(state, signed), shown_document(state, signed)
    if not review.text_of(shown):
        raise review.ReviewError("there is no report yet")
    fields = [f"{name.replace('_', ' ').upper()}:\n{value}\n" for name, value in shown["fields"].items() if value]
    texts = {section: " ".join(review.texts_of(shown, section)) for section in review.SECTIONS}
    sections = [f"{section.upper()}:\n{text}\n" for section, text in texts.items() if text]
    known = [f"- {notices.line(one)}" for one in notices_of(state, signed)]
    measured = [f"- {measurements.line(one)}" for one in shown["measurements"]]
    by = f"Signed by {signed['by']} at {signed['at']}, version {signed['version']}" if signed else NOT_SIGNED
    lines = [
        NOTICE, "", *(["WARNINGS:", *known, ""] if known else []), *fields, *sections,
        *(["MEASUREMENTS:", *measured, ""] if measured else []), by,
        f"Input: sha256 {state['sha256']}", _writer(shown), "",
    ]  # fmt: skip
    return "\n".join(lines)


def report_json(state: State, version: int | None = None) -> dict[str, Any]:
    """Return a study's review as JSON data.

    Raises:
        ReviewError: if the version does not exist.
    """
    signed = _signed(state, version)
    state, shown = _with_images(state, signed), shown_document(state, signed)
    return {
        "schema": SCHEMA,
        "ai_generated": ai_generated(shown),
        "notice": NOTICE,
        "status": "signed" if signed else state["status"],
        "signed": signed and {key: signed[key] for key in ("version", "at", "by", "text")},
        "study": {key: state[key] for key in ("id", "name", "version", "created", "changed")},
        "input": {"sha256": state["sha256"], "facts": state["facts"], "warnings": state["warnings"]},
        "notices": notices_of(state, signed),
        "fields": shown["fields"],
        "text": review.text_of(shown),
        "sentences": shown["sentences"],
        "corrections": shown["corrections"],
        "measurements": shown["measurements"],
        **{name: (shown.get("draft") or {}).get(key) for name, key in (("draft", "report"), ("inputs", "inputs"))},
        "software": {"name": "llava-rad", "version": software_version()},
    }


def document(state: State, version: int | None = None) -> Document:
    """Return a study's report for DICOM and FHIR: a signed version, or the current text, which is not signed.

    Raises:
        ReviewError: if the version does not exist, or no draft records the model.
    """
    from llava_rad.outputs.document import Document, Review, Signature

    signed = _signed(state, version)
    state, shown = _with_images(state, signed), shown_document(state, signed)
    report = report_of(shown, state)
    if report is None:
        raise review.ReviewError("hospital formats name the model that wrote the draft, and this study has no draft")
    signature = None
    if signed is not None:
        signature = Signature(signed["by"], datetime.fromisoformat(signed["at"]), signed["version"])
    known = state["image"].get("identity")
    identity = anonymous(state["sha256"]) if known is None else Identity.from_dict(known)
    findings, impression = (tuple(review.texts_of(shown, section)) for section in review.SECTIONS)
    warnings = tuple(notices.line(one) for one in notices_of(state, signed))
    return Document.of(
        report,
        datetime.fromisoformat(signed["at"] if signed else state["changed"]),
        identity=identity,
        others=_others(state, report, identity, disclosed=known is not None),
        signature=signature,
        review=Review(
            findings,
            impression,
            warnings,
            shown["corrections"],
            measurements.for_documents(shown, state, identity),
            _predecessor(state, signed),
            _boxes(shown),
            shown["fields"],
        ),
    )


def report_of(shown: State, state: State) -> Report | None:
    """Return the report that the draft comes from, or None.

    Imported drafts have none: it is made of what is known, so that documents name model and input. What is not known,
    recipe and generation, is in no document.
    """
    from llava_rad.outputs import report

    draft = shown["draft"] or {}
    if draft.get("report") is not None:
        return report.Report.model_validate(draft["report"])
    model = draft.get("model") or {}
    if "table" not in model:
        return None
    facts = ImageFacts.from_dict(state["facts"])
    said = {
        section: [one["draft"] for one in shown["sentences"] if one["draft"] and review.section_of(one) == section]
        for section in review.SECTIONS
    }
    impression = report.Impression(
        text=" ".join(said["impression"]), sentences=[report.Sentence(text=text) for text in said["impression"]]
    )
    return report.Report(
        report=report.ReportBody(
            text=" ".join(said["findings"]), findings=[report.Finding(text=text) for text in said["findings"]],
            impression=impression if said["impression"] else None,
        ),
        model=report.ModelFacts(**{name: model[name] for name in report.ModelFacts.model_fields}),
        input=report.InputFacts(
            sha256=state["sha256"], format=facts.format, view=facts.view, facts=facts,
            recipe=report.RecipeFacts(name="not known", version=0),
        ),
        images=[report.StudyImageFacts(role="frontal", sha256=state["sha256"], view=facts.view)],
        generation=report.GenerationFacts(
            max_new_tokens=0, num_beams=0, temperature=0.0, seed=0, prompt="", dtype="not known"
        ),
        warnings=[], software=report.SoftwareFacts(version=software_version()),
    )  # fmt: skip


def _others(state: State, drafted: Report, identity: Identity, *, disclosed: bool) -> dict[str, Identity]:
    """Return the identities of the lateral and the prior image of a draft, by SHA-256.

    Args:
        state: of the study, which may no longer have the images.
        drafted: the draft.
        identity: of the frontal image.
        disclosed: identifiers are known; an image without any is then left out.
    """
    found = {}
    for image in drafted.images[1:]:
        part = state.get(image.role)
        if part is not None and part["sha256"] == image.sha256:
            if not disclosed or part["image"].get("identity") is not None:
                found[image.sha256] = measurements.identity_of(part, image.role, identity)
        elif not disclosed:
            found[image.sha256] = anonymous(image.sha256, None if image.role == "prior" else identity)
    return found


def _boxes(shown: dict[str, Any]) -> tuple[tuple[BoxFacts, ...], ...]:
    """Return the boxes of each sentence of the findings that stands as it was drafted: they locate the draft."""
    from llava_rad.outputs.report import BoxFacts

    kept = [one for one in shown["sentences"] if one["state"] != "rejected" and review.section_of(one) == "findings"]
    return tuple(
        tuple(BoxFacts(**box) for box in one.get("boxes", ())) if one["text"] == one["draft"] else () for one in kept
    )


def _predecessor(state: State, signed: dict[str, Any] | None) -> Document | None:
    """Return the version that was signed before this one, or before the current text; None if it has no draft."""
    before = [one for one in state["signed"] if signed is None or one["version"] < signed["version"]]
    if not before or report_of(before[-1]["document"], state) is None:
        return None
    return document(state, before[-1]["version"])


def notices_of(state: State, signed: dict[str, Any] | None = None) -> list[notices.Notice]:
    """Return the notices of a study, or those that were known when a version was signed."""
    if signed is None:
        current: list[notices.Notice] = state["notices"]
        return current
    shown = signed["document"]
    if "notices" in shown:
        kept: list[notices.Notice] = shown["notices"]
        return kept
    return notices.of(state["warnings"], **notices.of_draft(shown["sentences"], shown.get("draft")))


def shown_document(state: State, signed: dict[str, Any] | None) -> dict[str, Any]:
    """Return the document of a signed version, or the current one, with the keys that earlier versions lack."""
    return review.whole(signed["document"]) if signed else state


def jsonl(store: Store, owner: str) -> Iterator[str]:
    """Yield the owner's studies, one JSON object per line, with all events and signed versions."""
    for study in store.studies(owner):
        state = store.state(owner, study)
        record = report_json(state)
        record["versions"] = [without_images(one) for one in state["signed"]]
        record["events"] = store.events(owner, study)
        yield json.dumps(record, ensure_ascii=False) + "\n"


def csv(store: Store, owner: str) -> Iterator[str]:
    """Yield the owner's studies as a table, one row per sentence of the last signed version or the current text.

    ``seconds`` is the working time of all signed versions.
    """
    yield csv_row(COLUMNS)
    for study in store.studies(owner):
        state = store.state(owner, study)
        signed = last_signed(state)
        shown = shown_document(state, signed)
        model = (state["draft"] or {}).get("model") or {}
        head = [
            study, state["name"], state["status"], state["version"], state["sha256"], state["facts"].get("view"),
            signed["model"] if signed else "@".join(str(model[key]) for key in ("id", "sha256") if key in model),
            signed["by"] if signed else "", signed["at"] if signed else "",
            sum(one["seconds"] for one in state["signed"]) if signed else "",
        ]  # fmt: skip
        corrections = "; ".join(f"{finding}: {label}" for finding, label in shown["corrections"].items())
        warnings = "; ".join(notices.line(one) for one in notices_of(state, signed))
        for one in shown["sentences"]:
            error = one["error"] or {"category": "", "significance": ""}
            yield csv_row([
                *head, one["id"], one["state"], one["draft"] or "", one["text"], NOTICE, one["section"],
                error["category"], error["significance"] or "", corrections, warnings,
            ])  # fmt: skip


def ai_generated(shown: dict[str, Any]) -> bool:
    """Return True if a model drafted any of the sentences."""
    return any(one["draft"] is not None for one in shown["sentences"])


def _writer(shown: dict[str, Any]) -> str:
    if not ai_generated(shown):
        return "Without a draft"
    model = (shown.get("draft") or {}).get("model")
    return f"Draft by: {model['id']}, sha256 {model['sha256']}" if model else "Draft by: a model that is not recorded"


def last_signed(state: State) -> dict[str, Any] | None:
    """Return the last signed version, or None if the study is not currently signed."""
    found: dict[str, Any] | None = state["signed"][-1] if state["status"] == "signed" else None
    return found


def without_images(signed: dict[str, Any]) -> dict[str, Any]:
    """Return a signed version without its images, whose descriptions may have identifiers."""
    return {key: value for key, value in signed.items() if key != "images"}


def _with_images(state: State, signed: dict[str, Any] | None) -> State:
    """Return a study with the images that it had when a version was signed."""
    return state | ((signed or {}).get("images") or {})


def _signed(state: State, version: int | None) -> dict[str, Any] | None:
    """Return a signed version; without a number, see :func:`last_signed`."""
    if version is None:
        return last_signed(state)
    for one in state["signed"]:
        if one["version"] == version:
            found: dict[str, Any] = one
            return found
    raise review.ReviewError("there is no signed report of that version")


def csv_row(cells: tuple[str, ...] | list[Any]) -> str:
    """Format a CSV line without cells that a spreadsheet would run as formulas."""
    line = io.StringIO()
    tables.writer(line).writerow([_harmless(cell) for cell in cells])
    return line.getvalue()


def _harmless(cell: Any) -> Any:
    """Prefix cells that a spreadsheet would take for a formula with an apostrophe (OWASP, CSV injection)."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
