"""The rules of a review: what may be done to a report, and how it is undone. No storage, no time, no people here.

A document is what a reviewer works on: ``{"sentences": [...], "fields": {...}}``. A sentence has an ``id``, the
``draft`` that a model wrote (None where the reviewer added it), its present ``text`` and a ``state``; where the model
said in which places of the image it is seen, also the draft's ``boxes``.
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
    """A step that the state of the review does not allow."""


class StaleError(LlavaRadError):
    """A step that was made on an older revision of the study than there is now."""


@dataclass(frozen=True)
class Step:
    """One change of a document, with what it takes to undo it.

    Attributes:
        document: after the change.
        sentence: id of the sentence that changed, or None.
        before: ``{"at": index, "sentence": ... or None}`` or ``{"field": name, "text": ...}``.
        after: the same after the change.
    """

    document: Document
    sentence: str | None
    before: dict[str, Any]
    after: dict[str, Any]


def empty() -> Document:
    """A document without sentences."""
    return {"sentences": [], "fields": dict.fromkeys(FIELDS, "")}


def whole(document: Document) -> Document:
    """The document with every field: those that an earlier version kept lack the newer ones."""
    return document | {"fields": dict.fromkeys(FIELDS, "") | document["fields"]}


def drafted(document: Document, texts: Sequence[str], boxes: Sequence[Sequence[Mapping[str, float]]] = ()) -> Document:
    """The document with a new draft's sentences, and the boxes of each, in place of what it had."""
    sentences: list[Sentence] = [
        {"id": f"s{number}", "draft": text, "text": text, "state": "undecided"} for number, text in enumerate(texts, 1)
    ]
    for at, found in enumerate(boxes):
        if found:
            sentences[at]["boxes"] = list(found)
    return document | {"sentences": sentences[:MAX_SENTENCES]}


def undecided(document: Document) -> int:
    """How many sentences wait for a decision."""
    return sum(one["state"] == "undecided" for one in document["sentences"])


def decided(document: Document) -> bool:
    """Whether a person has done anything to the sentences."""
    return any(one["state"] != "undecided" for one in document["sentences"])


def text_of(document: Document) -> str:
    """The report as it stands: every sentence that is not rejected, in order."""
    return " ".join(one["text"] for one in document["sentences"] if one["state"] != "rejected")


def drafted_text(document: Document) -> str:
    """What a model wrote of the report, whatever became of it."""
    return " ".join(one["draft"] for one in document["sentences"] if one["draft"] is not None)


def signable(document: Document) -> str:
    """The text of a report that may be signed: the decided sentences alone.

    Raises:
        ReviewError: a sentence is undecided, or nothing would be left.
    """
    left = undecided(document)
    if left:
        raise ReviewError(f"{left} {'sentence is' if left == 1 else 'sentences are'} still to be decided")
    text = text_of(document)
    if not text:
        raise ReviewError("there is no sentence to sign")
    return text


def apply(document: Document, action: Mapping[str, Any]) -> Step:
    """Make one step.

    Args:
        document: left as it is.
        action: ``action`` and what it takes: ``sentence``, ``text``, ``after``, ``field``.

    Raises:
        ReviewError: there is no such action or sentence, or it cannot be done.
    """
    make = _STEPS.get(str(action.get("action")))
    if make is None:
        raise ReviewError("there is no such action")
    return make(copy.deepcopy(document), action)


def undo(document: Document, step: Mapping[str, Any]) -> Step:
    """Take a step back.

    Args:
        document: left as it is.
        step: ``before`` and ``after`` of that step, which must be the last one that was not undone.
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
    """The text of an action, on one line where it is a sentence's, without control characters."""
    from llava_rad.outputs.report import clean

    text = action.get("text")
    if not isinstance(text, str):
        raise ReviewError("the action has no text")
    # tabs and returns part words: they become white space that ``clean`` leaves
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
            raise ReviewError("a sentence that you added is edited or removed")
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
        raise ReviewError("a sentence of the draft is rejected, not removed")
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
