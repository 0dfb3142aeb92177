"""Reviews that leave the application: text and JSON of one study, JSONL and CSV of all. All carry the notice."""

from __future__ import annotations

import csv as tables
import io
import json
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from app import review
from encoder.reader.identity import Identity
from llava_rad.outputs.compose import software_version
from llava_rad.outputs.report import NOTICE

if TYPE_CHECKING:
    from app.store import Store
    from llava_rad.outputs.document import Document

SCHEMA: Final = "llava-rad.review/1"
NOT_SIGNED: Final = "NOT SIGNED: a draft under review."
COLUMNS: Final = (
    "study", "name", "status", "version", "sha256", "view", "model", "reviewer", "signed_at", "seconds", "sentence",
    "state", "draft", "text", "notice",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

State = dict[str, Any]


def report_text(state: State, version: int | None = None) -> str:
    """A study's report as plain text: the signed one of a version, or what there is, marked as not signed.

    Raises:
        ReviewError: there is no such version, or no text.
    """
    signed = _signed(state, version)
    shown = signed["document"] if signed else state
    text = signed["text"] if signed else review.text_of(state)
    if not text:
        raise review.ReviewError("there is no report yet")
    fields = [f"{name.replace('_', ' ').upper()}:\n{value}\n" for name, value in shown["fields"].items() if value]
    warnings = ["WARNINGS:", *(f"- {warning}" for warning in state["warnings"]), ""] if state["warnings"] else []
    by = f"Signed by {signed['by']} at {signed['at']}, version {signed['version']}" if signed else NOT_SIGNED
    lines = [
        NOTICE, "", *fields, "FINDINGS:", text, "", *warnings, by, f"Input: sha256 {state['sha256']}",
        _writer(shown), "",
    ]  # fmt: skip
    return "\n".join(lines)


def report_json(state: State, version: int | None = None) -> dict[str, Any]:
    """A study's review as data.

    Raises:
        ReviewError: there is no such version.
    """
    signed = _signed(state, version)
    shown = signed["document"] if signed else state
    return {
        "schema": SCHEMA,
        "ai_generated": ai_generated(shown),
        "notice": NOTICE,
        "status": "signed" if signed else state["status"],
        "signed": signed and {key: signed[key] for key in ("version", "at", "by", "text")},
        "study": {key: state[key] for key in ("id", "name", "version", "created", "changed")},
        "input": {"sha256": state["sha256"], "facts": state["facts"], "warnings": state["warnings"]},
        "fields": shown["fields"],
        "text": signed["text"] if signed else review.text_of(state),
        "sentences": shown["sentences"],
        **{name: (shown.get("draft") or {}).get(key) for name, key in (("draft", "report"), ("inputs", "inputs"))},
        "software": {"name": "llava-rad", "version": software_version()},
    }


def document(state: State, version: int | None = None) -> Document:
    """A study's report for hospital formats: the signed one of a version, or the model's draft.

    Raises:
        ReviewError: there is no such version, or no draft to say which model wrote it.
    """
    from llava_rad.outputs.document import Document, Signature
    from llava_rad.outputs.report import from_data

    signed = _signed(state, version)
    shown = signed["document"] if signed else state
    kept = (shown["draft"] or {}).get("report")
    if kept is None:
        raise review.ReviewError("hospital formats say which model wrote the draft, and this study has none")
    signature = None
    if signed is not None:
        at = datetime.fromisoformat(signed["at"])
        texts = tuple(one["text"] for one in shown["sentences"] if one["state"] != "rejected")
        signature = Signature(signed["by"], at, texts, signed["version"])
    identity = state["image"].get("identity")
    return Document.of(
        from_data(kept),
        datetime.fromisoformat(state["changed"]),
        identity=None if identity is None else Identity.from_dict(identity),
        signature=signature,
    )


def jsonl(store: Store, owner: str) -> Iterator[str]:
    """All of an owner's studies, one JSON object a line, with every event and every signed version."""
    for study in store.studies(owner):
        state = store.state(owner, study)
        record = report_json(state)
        record["versions"] = state["signed"]
        record["events"] = store.events(owner, study)
        yield json.dumps(record, ensure_ascii=False) + "\n"


def csv(store: Store, owner: str) -> Iterator[str]:
    """All of an owner's studies as a table, one row a sentence of the last signed version, or of the present text."""
    yield csv_row(COLUMNS)
    for study in store.studies(owner):
        state = store.state(owner, study)
        signed = last_signed(state)
        model = (state["draft"] or {}).get("model") or {}
        head = [
            study, state["name"], state["status"], state["version"], state["sha256"], state["facts"].get("view"),
            signed["model"] if signed else "@".join(str(model[key]) for key in ("id", "sha256") if key in model),
            signed["by"] if signed else "", signed["at"] if signed else "", signed["seconds"] if signed else "",
        ]  # fmt: skip
        for one in (signed["document"] if signed else state)["sentences"]:
            yield csv_row([*head, one["id"], one["state"], one["draft"] or "", one["text"], NOTICE])


def ai_generated(shown: dict[str, Any]) -> bool:
    """Whether a machine wrote any of the sentences, or what they were made of."""
    return any(one["draft"] is not None for one in shown["sentences"])


def _writer(shown: dict[str, Any]) -> str:
    if not ai_generated(shown):
        return "Without a draft"
    model = (shown.get("draft") or {}).get("model")
    return f"Draft by: {model['id']}, sha256 {model['sha256']}" if model else "Draft by: a model that is not recorded"


def last_signed(state: State) -> dict[str, Any] | None:
    """The last signed version, while the study is signed."""
    found: dict[str, Any] | None = state["signed"][-1] if state["status"] == "signed" else None
    return found


def _signed(state: State, version: int | None) -> dict[str, Any] | None:
    """The signed version that is meant; without a number the last one, while the study is signed."""
    if version is None:
        return last_signed(state)
    for one in state["signed"]:
        if one["version"] == version:
            found: dict[str, Any] = one
            return found
    raise review.ReviewError("there is no signed report of that version")


def csv_row(cells: tuple[str, ...] | list[Any]) -> str:
    """A line of a table, harmless in a spreadsheet."""
    line = io.StringIO()
    tables.writer(line).writerow([_harmless(cell) for cell in cells])
    return line.getvalue()


def _harmless(cell: Any) -> Any:
    """A cell that a spreadsheet would take for a formula begins with an apostrophe (OWASP: CSV injection)."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
