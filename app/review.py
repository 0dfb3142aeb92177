"""Rules of a review: steps that change a report, and their reversal. Pure functions of documents.

A document is ``{"sentences": [...], "fields": {...}}``. A sentence has an ``id``, the model's ``draft`` (None if the
reviewer added the sentence), its current ``text``, a ``state`` of :data:`STATES` and, if the model located the draft
in the image, ``boxes``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from encoder.errors import LlavaRadError

STATES: Final = ("undecided", "accepted", "edited", "rejected", "added")
FIELDS: Final = ("indication", "technique", "comparison", "prior_report")
MAX_TEXT: Final = 4000
MAX_SENTENCES: Final = 200

Document = dict[str, Any]
Sentence = dict[str, Any]


class ReviewError(LlavaRadError):
    """The step is not allowed in the current state of the review."""


class StaleError(LlavaRadError):
    """The step was made on an earlier revision of the study than the current one."""

    def __init__(self) -> None:
        super().__init__("the study was changed elsewhere in the meantime")


@dataclass(frozen=True)
class Step:
    """Change of a document, with the information to undo it.

    Attributes:
        document: after the change.
        sentence: id of the changed sentence, or None.
        before: ``{"at": index, "sentence": SENTENCE or None}`` or ``{"field": name, "text": text}`` before the change.
        after: the same after the change.
    """

    document: Document
    sentence: str | None
    before: dict[str, Any]
    after: dict[str, Any]


def empty() -> Document:
    """Return a document without sentences."""
    return {"sentences": [], "fields": dict.fromkeys(FIELDS, "")}


def whole(document: Document) -> Document:
    """Add the fields that documents of earlier versions lack."""
    return document | {"fields": dict.fromkeys(FIELDS, "") | document["fields"]}


def drafted(document: Document, texts: Sequence[str], boxes: Sequence[Sequence[Mapping[str, float]]] = ()) -> Document:
    """Replace a document's sentences by those of a new draft, with the boxes of each."""
    sentences: list[Sentence] = [
        {"id": f"s{number}", "draft": text, "text": text, "state": "undecided"} for number, text in enumerate(texts, 1)
    ]
    for at, found in enumerate(boxes):
        if found:
            sentences[at]["boxes"] = list(found)
    return document | {"sentences": sentences[:MAX_SENTENCES]}


def undecided(document: Document) -> int:
    """Count the undecided sentences."""
    return sum(one["state"] == "undecided" for one in document["sentences"])


def decided(document: Document) -> bool:
    """Return True if a reviewer has changed or decided any sentence."""
    return any(one["state"] != "undecided" for one in document["sentences"])


def text_of(document: Document) -> str:
    """Return the current report: all sentences that are not rejected, in order."""
    return " ".join(one["text"] for one in document["sentences"] if one["state"] != "rejected")


def drafted_text(document: Document) -> str:
    """Return the report as the model drafted it."""
    return " ".join(one["draft"] for one in document["sentences"] if one["draft"] is not None)


def signable(document: Document) -> str:
    """Return the text of a report that is ready to be signed.

    Raises:
        ReviewError: if a sentence is undecided, or none is left.
    """
    left = undecided(document)
    if left:
        raise ReviewError(f"{left} {'sentence is' if left == 1 else 'sentences are'} still to be decided")
    text = text_of(document)
    if not text:
        raise ReviewError("there is no sentence to sign")
    return text


def apply(document: Document, action: Mapping[str, Any]) -> Step:
    """Perform one step.

    Args:
        document: not modified.
        action: ``action`` (accept, reject, undecide, edit, add, remove or field) with its arguments: ``sentence``,
            ``text``, ``after`` (id of the sentence before a new one), ``field``.

    Raises:
        ReviewError: if the action or the sentence does not exist, or the step is not allowed.
    """
    make = _STEPS.get(str(action.get("action")))
    if make is None:
        raise ReviewError("there is no such action")
    return make(copy.deepcopy(document), action)


def undo(document: Document, step: Mapping[str, Any]) -> Step:
    """Reverse a step.

    Args:
        document: not modified.
        step: ``before`` and ``after`` of the last step that has not been undone.
    """
    changed, before, after = copy.deepcopy(document), step["before"], step["after"]
    if "field" in before:
        changed["fields"][before["field"]] = before["text"]
        return Step(changed, None, after, before)
    sentences, at = changed["sentences"], before["at"]
    if before["sentence"] is None:
        del sentences[at]
    elif after["sentence"] is None:
        sentences.insert(at, before["sentence"])
    else:
        sentences[at] = before["sentence"]
    name = (before["sentence"] or after["sentence"])["id"]
    return Step(changed, name, after, before)


def _find(document: Document, action: Mapping[str, Any]) -> tuple[int, Sentence]:
    wanted = action.get("sentence")
    for at, one in enumerate(document["sentences"]):
        if one["id"] == wanted:
            return at, one
    raise ReviewError("there is no such sentence")


def _text(action: Mapping[str, Any], *, blank: bool = False) -> str:
    """Return an action's text without control characters; sentences on one line, fields (``blank``) also empty."""
    from llava_rad.outputs.report import clean

    text = action.get("text")
    if not isinstance(text, str):
        raise ReviewError("the action has no text")
    # tabs and carriage returns separate words: replace them by white space before ``clean`` removes them
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ") if blank else " ".join(text.split())
    text = clean(text).strip()
    if not text and not blank:
        raise ReviewError("a sentence cannot be empty: reject it instead")
    if len(text) > MAX_TEXT:
        raise ReviewError(f"a text holds at most {MAX_TEXT:,} characters")
    return text


def _become(document: Document, at: int, state: str, text: str) -> Step:
    old = document["sentences"][at]
    new = old | {"state": state, "text": text}
    document["sentences"][at] = new
    return Step(document, old["id"], {"at": at, "sentence": old}, {"at": at, "sentence": new})


def _decide(state: str) -> Callable[[Document, Mapping[str, Any]], Step]:
    def step(document: Document, action: Mapping[str, Any]) -> Step:
        at, old = _find(document, action)
        if old["draft"] is None:
            raise ReviewError("a sentence that you added can only be edited or removed")
        return _become(document, at, state, old["draft"])

    return step


def _edit(document: Document, action: Mapping[str, Any]) -> Step:
    at, old = _find(document, action)
    text = _text(action)
    state = "added" if old["draft"] is None else "accepted" if text == old["draft"] else "edited"
    return _become(document, at, state, text)


def _add(document: Document, action: Mapping[str, Any]) -> Step:
    text, after = _text(action), action.get("after")
    if len(document["sentences"]) >= MAX_SENTENCES:
        raise ReviewError(f"a report has at most {MAX_SENTENCES} sentences")
    at = len(document["sentences"]) if after is None else _find(document, {"sentence": after})[0] + 1
    number = 1 + max((int(one["id"][1:]) for one in document["sentences"]), default=0)
    new = {"id": f"s{number}", "draft": None, "text": text, "state": "added"}
    document["sentences"].insert(at, new)
    return Step(document, new["id"], {"at": at, "sentence": None}, {"at": at, "sentence": new})


def _remove(document: Document, action: Mapping[str, Any]) -> Step:
    at, old = _find(document, action)
    if old["draft"] is not None:
        raise ReviewError("a sentence of the draft can be rejected, but not removed")
    del document["sentences"][at]
    return Step(document, old["id"], {"at": at, "sentence": old}, {"at": at, "sentence": None})


def _field(document: Document, action: Mapping[str, Any]) -> Step:
    name = action.get("field")
    if name not in FIELDS:
        raise ReviewError("there is no such field")
    before, text = document["fields"].get(name, ""), _text(action, blank=True)
    document["fields"][name] = text
    return Step(document, None, {"field": name, "text": before}, {"field": name, "text": text})


_STEPS: Final[dict[str, Callable[[Document, Mapping[str, Any]], Step]]] = {
    "accept": _decide("accepted"),
    "reject": _decide("rejected"),
    "undecide": _decide("undecided"),
    "edit": _edit,
    "add": _add,
    "remove": _remove,
    "field": _field,
}
UNDOABLE: Final = tuple(_STEPS)
