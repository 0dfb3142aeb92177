"""Rules of a review: steps that change a report, and their reversal. Pure functions of documents.

A document is ``{"sentences": [...], "fields": {...}, "corrections": {...}, "job": id}``. A sentence has an ``id``, the
model's ``draft`` (None if the reviewer added the sentence), its current ``text``, a ``state`` of :data:`STATES`, a
``section`` of :data:`SECTIONS`, ``error`` (category and significance, or None), ``confidence`` (None unless a
calibrated one is known) and, if the model located the draft in the image, ``boxes``. All findings come before the
impression. ``corrections`` are labels of findings that the reviewer set; ``job`` wrote the drafts of the sentences.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from encoder.errors import LlavaRadError
from metrics.findings.errors import Category, Significance
from metrics.labels import CLASSES

STATES: Final = ("undecided", "accepted", "edited", "rejected", "added")
SECTIONS: Final = ("findings", "impression")
FIELDS: Final = ("indication", "technique", "comparison", "prior_report")
LABELS: Final = ("positive", "negative", "uncertain", "not mentioned")
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
        before: before the change: ``{"at": index, "sentence": SENTENCE or None}``, ``{"field": name, "text": text}``,
            ``{"label": finding, "value": label or None}``, or ``{"sentences": [...], "job": id or None}``.
        after: the same after the change.
    """

    document: Document
    sentence: str | None
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def changes(self) -> bool:
        """False if the document is the same as before: accepting what is accepted is no step."""
        return self.before != self.after

    @property
    def of_sentences(self) -> bool:
        """True if sentences change, which a draft that is being written would replace."""
        return "sentence" in self.before or "sentences" in self.before


def empty() -> Document:
    """Return a document without sentences."""
    return {"sentences": [], "fields": dict.fromkeys(FIELDS, ""), "corrections": {}}


def whole(document: Document) -> Document:
    """Add the keys that documents of earlier versions lack."""
    return document | {
        "sentences": [
            {"section": "findings", "error": None, "confidence": None} | one for one in document["sentences"]
        ],
        "fields": dict.fromkeys(FIELDS, "") | document["fields"],
        "corrections": document.get("corrections", {}),
        "measurements": document.get("measurements", []),
    }


def section_of(sentence: Mapping[str, Any]) -> str:
    """Return a sentence's section; sentences of earlier versions are findings."""
    return str(sentence.get("section", "findings"))


def drafted(
    document: Document,
    texts: Sequence[str],
    boxes: Sequence[Sequence[Mapping[str, float]]] = (),
    job: int | None = None,
    impression: Sequence[str] = (),
) -> Step:
    """Replace a document's sentences by those of a new draft; the reviewer's own sentences of the impression are kept.

    Args:
        document: not modified.
        texts: sentences of the draft's findings.
        boxes: of each of them.
        job: id of the job that wrote it.
        impression: sentences of the draft's impression.
    """
    own = [one for one in document["sentences"] if section_of(one) == "impression" and one["draft"] is None]
    room = max(MAX_SENTENCES - len(own), 0)
    drafts = [*(("findings", text) for text in texts), *(("impression", text) for text in impression)][:room]
    sentences: list[Sentence] = [
        {"id": f"s{number}", "draft": text, "text": text, "state": "undecided", "section": section}
        for number, (section, text) in enumerate(drafts, 1)
    ]
    for at, found in enumerate(boxes[: min(len(texts), room)]):
        if found:
            sentences[at]["boxes"] = list(found)
    sentences += [one | {"id": f"s{number}"} for number, one in enumerate(own, len(sentences) + 1)]
    before = {"sentences": document["sentences"], "job": document.get("job")}
    after = {"sentences": sentences, "job": job}
    return Step(document | after, None, before, after)


def undecided(document: Document) -> int:
    """Count the undecided sentences."""
    return sum(one["state"] == "undecided" for one in document["sentences"])


def decided(document: Document) -> bool:
    """Return True if a reviewer has changed or decided any sentence."""
    return any(one["state"] != "undecided" or one["text"] != one["draft"] for one in document["sentences"])


def texts_of(document: Document, section: str) -> list[str]:
    """Return the sentences of a section that are not rejected, in order."""
    return [one["text"] for one in document["sentences"] if one["state"] != "rejected" and section_of(one) == section]


def text_of(document: Document) -> str:
    """Return the current report: a paragraph of findings, then one of the impression, without rejected sentences."""
    paragraphs = (" ".join(texts_of(document, section)) for section in SECTIONS)
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def drafted_text(document: Document) -> str:
    """Return the report as the model drafted it: a paragraph of findings, then one of the impression."""
    drafted = [one for one in document["sentences"] if one["draft"] is not None]
    paragraphs = (" ".join(one["draft"] for one in drafted if section_of(one) == section) for section in SECTIONS)
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


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
        action: ``action`` (accept, accept_rest, revert, reject, undecide, edit, add, remove, annotate, label or field)
            with its arguments: ``sentence``; ``text``, or ``texts`` of several new sentences; ``done`` (False: the
            text is not finished); ``after`` (id of the sentence before a new one) and ``section``; ``category`` and
            ``significance``; ``finding`` and ``value``; ``field``.

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
    if "label" in before:
        _set_label(changed, before["label"], before["value"])
        return Step(changed, None, after, before)
    if "sentences" in before:
        return Step(changed | before, None, after, before)
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


def _one_of(action: Mapping[str, Any], name: str, allowed: Sequence[str], what: str) -> str:
    value = action.get(name)
    if not isinstance(value, str) or value not in allowed:
        raise ReviewError(f"there is no such {what}")
    return value


def _become(document: Document, at: int, **changes: Any) -> Step:
    old = document["sentences"][at]
    new = old | changes
    document["sentences"][at] = new
    return Step(document, old["id"], {"at": at, "sentence": old}, {"at": at, "sentence": new})


def _done(sentence: Sentence, text: str) -> str:
    """Return the state of a decided sentence with that text."""
    return "added" if sentence["draft"] is None else "accepted" if text == sentence["draft"] else "edited"


def _accept(document: Document, action: Mapping[str, Any]) -> Step:
    at, old = _find(document, action)
    return _become(document, at, **_accepted(old))


def _accepted(sentence: Sentence) -> dict[str, Any]:
    """Return the changes of a sentence that is accepted as it is: an error was named of a change that is none now."""
    state = _done(sentence, sentence["text"])
    return {"state": state} | (_no_error(sentence) if state == "accepted" else {})


def _accept_rest(document: Document, action: Mapping[str, Any]) -> Step:
    """Accept all undecided sentences as they are, in one step."""
    before = {"sentences": document["sentences"], "job": document.get("job")}
    after = [one | _accepted(one) if one["state"] == "undecided" else one for one in document["sentences"]]
    return Step(document | {"sentences": after}, None, before, before | {"sentences": after})


def _decide(state: str) -> Callable[[Document, Mapping[str, Any]], Step]:
    def step(document: Document, action: Mapping[str, Any]) -> Step:
        at, old = _find(document, action)
        if old["draft"] is None:
            raise ReviewError("a sentence that you added can only be edited or removed")
        return _become(document, at, state=state)

    return step


def _revert(document: Document, action: Mapping[str, Any]) -> Step:
    """Go back to the draft; the error of the change, if one was named, goes with the change."""
    at, old = _find(document, action)
    if old["draft"] is None:
        raise ReviewError("a sentence that you added has no draft")
    return _become(document, at, state="accepted", text=old["draft"], **_no_error(old))


def _edit(document: Document, action: Mapping[str, Any]) -> Step:
    at, old = _find(document, action)
    text = _text(action)
    if action.get("done") is False:
        return _become(document, at, state="undecided", text=text)
    state = _done(old, text)
    gone = _no_error(old) if state == "accepted" and old["text"] != text else {}
    return _become(document, at, state=state, text=text, **gone)


def _no_error(sentence: Sentence) -> dict[str, None]:
    return {"error": None} if sentence.get("error") else {}


def _add(document: Document, action: Mapping[str, Any]) -> Step:
    """Add a sentence, or several of them, one after the other, in one step."""
    if "texts" not in action:
        return _add_one(document, action)
    texts = action["texts"]
    if not isinstance(texts, list) or not texts:
        raise ReviewError("the action has no list of texts")
    before, after = {"sentences": list(document["sentences"]), "job": document.get("job")}, action.get("after")
    for text in texts:
        after = _add_one(document, {**action, "after": after, "text": text}).sentence
    return Step(document, after, before, before | {"sentences": document["sentences"]})


def _add_one(document: Document, action: Mapping[str, Any]) -> Step:
    text, after, sentences = _text(action), action.get("after"), document["sentences"]
    if len(sentences) >= MAX_SENTENCES:
        raise ReviewError(f"a report has at most {MAX_SENTENCES} sentences")
    at, previous = (len(sentences) - 1, None) if after is None else _find(document, {"sentence": after})
    if "section" in action:
        section = _one_of(action, "section", SECTIONS, "section")
    else:
        section = "findings" if previous is None else section_of(previous)
    if previous is None or section_of(previous) != section:  # at the end of its section
        findings = sum(section_of(one) == "findings" for one in sentences)
        at = (findings if section == "findings" else len(sentences)) - 1
    number = 1 + max((int(one["id"][1:]) for one in sentences), default=0)
    state = "undecided" if action.get("done") is False else "added"
    new = {"id": f"s{number}", "draft": None, "text": text, "state": state, "section": section}
    sentences.insert(at + 1, new)
    return Step(document, new["id"], {"at": at + 1, "sentence": None}, {"at": at + 1, "sentence": new})


def _remove(document: Document, action: Mapping[str, Any]) -> Step:
    at, old = _find(document, action)
    if old["draft"] is not None:
        raise ReviewError("a sentence of the draft can be rejected, but not removed")
    del document["sentences"][at]
    return Step(document, old["id"], {"at": at, "sentence": old}, {"at": at, "sentence": None})


def _annotate(document: Document, action: Mapping[str, Any]) -> Step:
    """Name the error that a change of a sentence corrects, or take the name away."""
    at, old = _find(document, action)
    if action.get("category") is None:
        if action.get("significance") is not None:
            raise ReviewError("an error of known significance needs a category")
        return _become(document, at, **_no_error(old))
    category = _one_of(action, "category", tuple(Category), "category of errors")
    rated = action.get("significance") is not None
    significance = _one_of(action, "significance", tuple(Significance), "significance") if rated else None
    return _become(document, at, error={"category": category, "significance": significance})


def _label(document: Document, action: Mapping[str, Any]) -> Step:
    """Set the label of a finding, or return to that of the text."""
    finding = _one_of(action, "finding", CLASSES, "finding")
    value = None if action.get("value") is None else _one_of(action, "value", LABELS, "label")
    before = document.get("corrections", {}).get(finding)
    _set_label(document, finding, value)
    return Step(document, None, {"label": finding, "value": before}, {"label": finding, "value": value})


def _set_label(document: Document, finding: str, value: str | None) -> None:
    corrections = document.setdefault("corrections", {})
    if value is None:
        corrections.pop(finding, None)
    else:
        corrections[finding] = value


def _field(document: Document, action: Mapping[str, Any]) -> Step:
    name = _one_of(action, "field", FIELDS, "field")
    before, text = document["fields"].get(name, ""), _text(action, blank=True)
    document["fields"][name] = text
    return Step(document, None, {"field": name, "text": before}, {"field": name, "text": text})


_STEPS: Final[dict[str, Callable[[Document, Mapping[str, Any]], Step]]] = {
    "accept": _accept,
    "accept_rest": _accept_rest,
    "revert": _revert,
    "reject": _decide("rejected"),
    "undecide": _decide("undecided"),
    "edit": _edit,
    "add": _add,
    "remove": _remove,
    "annotate": _annotate,
    "label": _label,
    "field": _field,
}
UNDOABLE: Final = tuple(_STEPS)
