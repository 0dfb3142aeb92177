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
from encoder.reader.identity import Identity
from llava_rad.outputs.document import Measurement, anonymous
from llava_rad.outputs.grounding import in_file

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
    if after["measurement"] is not None:
        kept[:] = [one for one in kept if one["id"] != after["measurement"]["id"]]
    if before["measurement"] is not None:
        kept.insert(min(before["at"], len(kept)), before["measurement"])
    return Step(changed, None, after, before)


def line(one: Mapping[str, Any]) -> str:
    """Return a measurement in words."""
    note = f" ({one['note']})" if one["note"] else ""
    if one["kind"] == "cardiothoracic":
        return f"Cardiothoracic ratio {one['value']:.3f}{note}"
    return f"Length {one['value']:.1f} {one['unit']}{note}"


def for_documents(
    document: Document, parts: Mapping[str, Any], identity: Identity, *, upright: bool = False
) -> tuple[Measurement, ...]:
    """Return the measurements of a review for hospital formats; those in images that are gone are left out.

    Args:
        document: with the measurements.
        parts: state of the study.
        identity: of its frontal image.
        upright: return points in the stored pixels instead of those of the file.
    """
    found, images = [], {part["image"]["id"]: (part, role) for part, role in parts_of(parts)}
    for one in document.get("measurements", []):
        if one["image"] not in images:
            continue
        part, role = images[one["image"]]
        spacing = part["image"].get("spacing")
        scale, unit = (1.0, "px") if spacing is None else (spacing["mm"], "mm")
        pairs = zip(one["points"][::2], one["points"][1::2], strict=True)
        lengths = tuple(math.dist(*pair) * scale for pair in pairs)
        kept = [(x, y) for x, y in one["points"]]
        points = kept if upright else [file_point(x, y, part["image"], part["facts"]) for x, y in kept]
        image = identity if role == "frontal" else identity_of(part, role, identity)
        found.append(Measurement(one["kind"], tuple(points), image, lengths, unit, one["note"]))
    return tuple(found)


def identity_of(part: Mapping[str, Any], role: str, frontal: Identity) -> Identity:
    """Return the identity of another image than the frontal one; without identifiers it is derived from its SHA-256."""
    own = part["image"].get("identity")
    if own is not None:
        return Identity.from_dict(own)
    return anonymous(part["sha256"], None if role == "prior" else frontal)


def file_point(x: float, y: float, image: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[float, float]:
    """Return the place of a point in its file's pixels: before resampling, mirroring and rotation by the reader."""
    return in_file(
        x / image["width"], y / image["height"], rows=facts["rows"], columns=facts["columns"],
        rotated=facts.get("rotated", 0), mirrored=facts.get("mirrored", False),
    )  # fmt: skip


def parts_of(parts: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield all images of a study's state with their roles: frontal, lateral, prior and further."""
    yield parts, "frontal"
    for role, one in (
        ("lateral", parts["lateral"]), ("prior", parts["prior"]), *(("further", one) for one in parts["further"]),
    ):  # fmt: skip
        if one is not None and "image" in one:
            yield one, role


def images_of(parts: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the descriptions of all images of a study's state."""
    return (part["image"] for part, _ in parts_of(parts))


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
    """Add a measurement, or replace the measurement ``id`` of the same kind and image by one with other points.

    Args:
        document: is changed.
        action: ``kind``, ``image`` (description of the image, from the store), ``points``, ``note`` and ``id``.

    Raises:
        ReviewError: if the kind, the points or the note are not valid, there are too many, or there is no such
            measurement to replace.
    """
    kept = document.setdefault("measurements", [])
    kind, image, note = action.get("kind"), action["image"], action.get("note", "")
    if not isinstance(kind, str) or kind not in POINTS:
        raise ReviewError("there is no such kind of measurement")
    before, at = None, len(kept)
    if "id" in action:
        at, before = _find(kept, action["id"])
        if (before["kind"], before["image"]) != (kind, image["id"]):
            raise ReviewError("a measurement keeps its kind and image")
    elif at >= MAX_MEASUREMENTS:
        raise ReviewError(f"a study has at most {MAX_MEASUREMENTS} measurements")
    points = _points(action.get("points"), POINTS[kind], image)
    value, unit, about = _value(kind, points, image.get("spacing"))
    new = {
        "id": before["id"] if before else f"m{secrets.token_hex(4)}", "kind": kind, "image": image["id"],
        "points": points, "value": value, "unit": unit,
        "note": before["note"] if before else "; ".join(filter(None, (about, _note(note)))),
    }  # fmt: skip
    kept[at : at + 1] = [new]
    return Step(document, None, {"at": at, "measurement": before}, {"at": at, "measurement": new})


def _unmeasure(document: Document, action: Mapping[str, Any]) -> Step:
    """Remove the measurement ``id``.

    Raises:
        ReviewError: if it does not exist.
    """
    kept = document.get("measurements", [])
    at, one = _find(kept, action.get("id"))
    del kept[at]
    return Step(document, None, {"at": at, "measurement": one}, {"at": at, "measurement": None})


def _find(kept: list[dict[str, Any]], wanted: object) -> tuple[int, dict[str, Any]]:
    for at, one in enumerate(kept):
        if one["id"] == wanted:
            return at, one
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
