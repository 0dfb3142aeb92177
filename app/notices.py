"""Notices of a study: warnings of the reader about its images and of the model about its draft.

They are the one source of warnings for page, worklist and every export.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypedDict

from encoder.reader.admission import OVERRIDDEN
from encoder.reader.identity import Identity

Level = Literal["loud", "quiet"]
About = Literal["image", "lateral", "prior", "further", "draft"]
_TITLES: Final = {"lateral": "Lateral", "prior": "Prior", "further": "Further image"}
_NOT_STATED: Final = ("is not stated", "are not checked", "none of them is checked")
_TECHNICAL: Final = (
    "the file has no DICOM preamble",
    "the pixels were not square",
    "the stated pixel aspect ratio",
    "the file has overlays",
    "the file states a display shutter",
    "colour image with equal channels",
    "colour picture with equal channels",
    "the alpha channel was dropped",
    "16-bit ",
    "secondary capture or other image",
    "PixelData holds more bytes",
    "the bits above BitsStored",
    "rescale slope or intercept",
    "a VOI lookup table",
    "the VOI function",
    "window centres and widths",
    "a window is not usable",
    "identifiers that are malformed",
    "written from more than this image",
)
"""Beginnings of the warnings that do not change the reading. All that are not listed here are loud."""
_EXPECTED: Final = {"lateral": ": the image is a lateral", "further": "but a frontal view is needed"}
"""Part of the overridden refusal of every image of that kind, which is not to be frontal."""
NOTHING: Final = "the model wrote nothing"
DEMONSTRATION: Final = "written by a demonstration model, whose findings are not reliable"


class Notice(TypedDict):
    """One warning: ``loud`` if it may change the reading or the trust in the draft, what it is about, and its text."""

    level: Level
    about: About
    text: str


def level_of(text: str) -> Level:
    """Return whether a warning is loud or quiet."""
    flipped = text.startswith("the detector image was flipped")
    unstated = any(part in text for part in _NOT_STATED) and not flipped
    return "quiet" if unstated or text.startswith((*_TECHNICAL, DEMONSTRATION)) else "loud"


def of(
    image: Iterable[str],
    *,
    lateral: Mapping[str, Any] | None = None,
    prior: Mapping[str, Any] | None = None,
    further: Iterable[Mapping[str, Any]] = (),
    draft: Iterable[str] = (),
    demonstration: bool = False,
) -> list[Notice]:
    """Return the notices of a study, loud ones first, each once.

    Args:
        image: warnings of the frontal image.
        lateral: the lateral image, with its ``warnings``.
        prior: the prior image.
        further: images beyond these.
        draft: warnings of the draft, which repeat those of the image.
        demonstration: a demonstration model wrote the draft.
    """
    of_image, own = list(image), [*draft, *([DEMONSTRATION] if demonstration else [])]
    found: list[tuple[About, str]] = [("draft", text) for text in own if text not in of_image]
    found += [("image", text) for text in of_image]
    found += [("lateral", text) for text in _warnings(lateral) if _EXPECTED["lateral"] not in text]
    found += [("prior", text) for text in _warnings(prior)]
    found += [("further", text) for one in further for text in _warnings(one) if _EXPECTED["further"] not in text]
    made: list[Notice] = []
    for about, text in dict.fromkeys(found):
        plain = text.replace(OVERRIDDEN, "read although it was refused: ")
        made.append({"level": level_of(text), "about": about, "text": plain})
    return sorted(made, key=lambda one: one["level"] != "loud")


def of_row(row: sqlite3.Row, draft: Mapping[str, Any] | None) -> list[Notice]:
    """Return the notices of a study's row.

    Args:
        row: of the table of studies.
        draft: model and report of the draft that its sentences come from (:func:`app.jobs.last_draft`).
    """
    context = {name: json.loads(row[name] or "null") for name in ("lateral", "prior")}
    further = json.loads(row["further"] or "[]")
    sentences = json.loads(row["document"])["sentences"]
    identity = json.loads(row["image"]).get("identity")
    left_out = None if identity is None else Identity.from_dict(identity).warning
    image = [*json.loads(row["warnings"]), *([left_out] if left_out else [])]
    return of(image, **context, further=further, **of_draft(sentences, draft))


def of_draft(sentences: Iterable[Mapping[str, Any]], draft: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments ``draft`` and ``demonstration`` of :func:`of`; empty if no sentence is of a draft."""
    if draft is None:
        return {}
    nothing = [NOTHING] if draft.get("state") == "done" and not draft["text"] else []
    if all(one["draft"] is None for one in sentences):
        return {"draft": nothing}
    warnings = (draft.get("report") or {}).get("warnings", ())
    demonstration = (draft.get("model") or {}).get("demonstration") is True
    return {"draft": [*warnings, *nothing], "demonstration": demonstration}


def line(notice: Notice) -> str:
    """Return a notice as one line, which names the image if it is not the frontal one."""
    title = _TITLES.get(notice["about"])
    return f"{title}: {notice['text']}" if title else notice["text"]


def _warnings(image: Mapping[str, Any] | None) -> list[str]:
    return [] if image is None else list(image.get("warnings", ()))
