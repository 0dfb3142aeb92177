"""Measurements in the images of a study: lengths and cardiothoracic ratios. Pure functions of documents.

A measurement has an ``id``, a ``kind`` of :data:`POINTS`, the id of its ``image``, ``points`` in pixels of the stored
image (x to the right, y down, centre of the first pixel at 0.5), ``value``, ``unit`` and ``note``. The server computes
value and unit.
"""

from __future__ import annotations

import copy
import math
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Final

from app.review import Document, ReviewError, Step

POINTS: Final = {"length": 2, "cardiothoracic": 4}
"""Number of points of each kind; a cardiothoracic ratio has the ends of the heart's width, then of the chest's."""
STEPS: Final = ("measure", "unmeasure")
MAX_MEASUREMENTS: Final = 50
MAX_NOTE: Final = 200
PLANES: Final = {
    "patient": "",
    "detector": "at the detector: the structure itself is smaller",
    "unknown": "the file does not tell whether its pixel spacing was calibrated",
}
"""Notes about lengths by the plane of the pixel spacing (:class:`encoder.reader.radiograph.Spacing`)."""
NO_SPACING: Final = "the file states no pixel spacing"


def apply(document: Document, action: Mapping[str, Any], parts: Mapping[str, Any]) -> Step:
    """Perform a step ``measure`` or ``unmeasure``.

    Args:
        document: not modified.
        action: with its arguments.
        parts: images of the study: ``image``, ``lateral``, ``prior`` and ``further`` of its state.

    Raises:
        ReviewError: if the step is not allowed.
    """
    changed = copy.deepcopy(document)
    if action.get("action") == "unmeasure":
        return _unmeasure(changed, action)
    return _measure(changed, dict(action) | {"image": image_of(parts, action.get("image"))})


def undo(document: Document, step: Mapping[str, Any]) -> Step:
    """Reverse one of these steps, given by its ``before`` and ``after``."""
    changed, before, after = copy.deepcopy(document), step["before"], step["after"]
    kept = changed.setdefault("measurements", [])
    if before["measurement"] is None:
        kept[:] = [one for one in kept if one["id"] != after["measurement"]["id"]]
    else:
        kept.insert(min(before["at"], len(kept)), before["measurement"])
    return Step(changed, None, after, before)


def images_of(parts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the descriptions of all images of a study's state."""
    yield parts["image"]
    for one in (parts["lateral"], parts["prior"], *parts["further"]):
        if one is not None and "image" in one:
            yield one["image"]


def image_of(parts: Mapping[str, Any], image: object) -> dict[str, Any]:
    """Return the description of an image of a study.

    Raises:
        ReviewError: if the study has no such image.
    """
    for found in images_of(parts):
        if found["id"] == image:
            return found
    raise ReviewError("the study has no such image")


def _measure(document: Document, action: Mapping[str, Any]) -> Step:
    """Add a measurement.

    Args:
        document: is changed.
        action: ``kind``, ``image`` (description of the image, from the store), ``points`` and ``note``.

    Raises:
        ReviewError: if the kind, the points or the note are not valid, or there are too many.
    """
    kept = document.setdefault("measurements", [])
    if len(kept) >= MAX_MEASUREMENTS:
        raise ReviewError(f"a study has at most {MAX_MEASUREMENTS} measurements")
    kind, image, note = action.get("kind"), action["image"], action.get("note", "")
    if kind not in POINTS:
        raise ReviewError("there is no such kind of measurement")
    points = _points(action.get("points"), POINTS[kind], image)
    value, unit, about = _value(kind, points, image.get("spacing"))
    new = {
        "id": f"m{secrets.token_hex(4)}", "kind": kind, "image": image["id"], "points": points, "value": value,
        "unit": unit, "note": "; ".join(filter(None, (about, _note(note)))),
    }  # fmt: skip
    kept.append(new)
    at = len(kept) - 1
    return Step(document, None, {"at": at, "measurement": None}, {"at": at, "measurement": new})


def _unmeasure(document: Document, action: Mapping[str, Any]) -> Step:
    """Remove the measurement ``id``.

    Raises:
        ReviewError: if it does not exist.
    """
    kept = document.get("measurements", [])
    for at, one in enumerate(kept):
        if one["id"] == action.get("id"):
            del kept[at]
            return Step(document, None, {"at": at, "measurement": one}, {"at": at, "measurement": None})
    raise ReviewError("there is no such measurement")


def _points(sent: object, count: int, image: Mapping[str, Any]) -> list[list[float]]:
    """Return checked points, rounded to a hundredth of a pixel."""
    if not isinstance(sent, list) or len(sent) != count:
        raise ReviewError(f"the measurement needs {count} points")
    limits = (image["width"], image["height"])
    for point in sent:
        if not isinstance(point, list) or len(point) != 2:
            raise ReviewError("a point of a measurement is a pair of numbers")
        for value, limit in zip(point, limits, strict=True):
            if type(value) not in (int, float) or not 0 <= value <= limit:  # also refuses NaN
                raise ReviewError("a point of the measurement is outside of its image")
    points = [[round(float(x), 2), round(float(y), 2)] for x, y in sent]
    if any(math.dist(*points[at : at + 2]) == 0 for at in range(0, count, 2)):
        raise ReviewError("the ends of a measurement are the same point")
    return points


def _value(kind: str, points: list[list[float]], spacing: Mapping[str, Any] | None) -> tuple[float, str, str]:
    """Return value, unit and a note about the value. A ratio needs no spacing: all stored pixels are square."""
    length = math.dist(points[0], points[1])
    if kind == "cardiothoracic":
        return round(length / math.dist(points[2], points[3]), 3), "ratio", ""
    if spacing is None:
        return round(length, 1), "px", NO_SPACING
    return round(length * spacing["mm"], 1), "mm", PLANES[spacing["at"]]


def _note(sent: object) -> str:
    from llava_rad.outputs.report import clean

    if not isinstance(sent, str):
        raise ReviewError("the note of a measurement is a text")
    text = clean(" ".join(sent.split()))
    if len(text) > MAX_NOTE:
        raise ReviewError(f"a note holds at most {MAX_NOTE} characters")
    return text
