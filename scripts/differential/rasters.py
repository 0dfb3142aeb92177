"""Reader of picture files against Pillow, OpenCV, imagecodecs and the drawn values.

Files: PNG of every colour type, depth, filter and interlace (written here), PNG, JPEG, TIFF and WebP by Pillow, TIFF by
OpenCV, JPEG of 12 bits and lossless by imagecodecs; orientation, colour profile, transparency, palettes, pages. Some
have one pixel in colour, some a fault: cut, bytes changed or added. A file without a fault must be read as the others
read it, with all of its bits, or be refused for its kind; one with a fault read as they do, refused or warned of.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt

from encoder.errors import ReadError
from encoder.reader.sandbox_worker import read_image
from scripts.differential.harness import Case, Outcome, Subject, different
from scripts.differential.raster_files import draw, quiet

_ALWAYS: Final = "a picture file states no view"
_REFUSED: Final = ("colour", "unsupported", "multi_frame")
"""Reasons of refusal that a file without a fault may have."""
_ROUNDING: Final = 3
"""Grey levels by which decoders of lossy files differ."""


@quiet()
def compare(case: Case) -> Outcome:
    """Read a file with all; the drawn values, if they are known, decide between the readers."""
    try:
        image = read_image(case["data"], force=True, frame=case["frame"])
    except ReadError as error:
        stated = error.reason in _REFUSED
        wrong = case["sound"] and (case["readable"] is True or not stated) and error.reason != "multi_frame"
        return Outcome(f"refused: {error.reason}", fault=wrong)
    found = image.pixels.astype(np.int64)
    if case["sound"] and case["readable"] is False:
        return different("a file in colour or of another kind is read")
    others = {
        "Pillow": (_by_pillow(case), 0), "OpenCV": (_by_opencv(case), 0 if case["truth"] else _ROUNDING),
        "jpegsof3": (_by_jpegsof3(case, found), 0),
    }  # fmt: skip
    read = {name: other for name, other in others.items() if other[0] is not None}
    unlike = [
        name
        for name, (other, most) in read.items()
        if other is not None and not _alike(found, 65535 - other if case["inverted"] else other, most)
    ]
    if case["truth"] is not None and case["orientation"] is not None:
        truth = np.frombuffer(case["truth"], "<u2").reshape(case["shape"]).astype(np.int64)
        if _alike(found, _upright(truth, case["orientation"]), case["tolerance"]):
            return Outcome("equal" if not unlike else f"equal, unlike {' and '.join(unlike)}")
        if case["sound"]:
            return different(f"{case['kind']}: other than drawn")
    if read and not unlike and case["sound"]:
        return Outcome("equal")
    if len(unlike) < len(read) and not case["sound"]:  # decoders go on differently after damage
        changed = "other values than drawn" if case["truth"] is not None else "drawn values unknown"
        return Outcome(f"equal in spite of the fault, {changed}: {case['kind']}")
    warned = [text for text in image.warnings if not text.startswith(_ALWAYS)]
    if warned and not case["sound"]:
        return Outcome(f"warned: {warned[0][:60]}")
    return different(
        f"{case['kind']}: unlike {' and '.join(unlike)}" if unlike else f"{case['kind']}: only ours reads it"
    )


def _alike(found: npt.NDArray[np.int64], other: npt.NDArray[np.int64], most: int) -> bool:
    return found.shape == other.shape and int(np.abs(found - other).max()) <= most


def _upright(values: npt.NDArray[np.int64], orientation: int) -> npt.NDArray[np.int64]:
    """Turn stored values by the figure of the EXIF standard."""
    turned: dict[int, Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]] = {
        1: lambda one: one, 2: lambda one: one[:, ::-1], 3: lambda one: one[::-1, ::-1], 4: lambda one: one[::-1],
        5: lambda one: one.T, 6: lambda one: one[::-1].T, 7: lambda one: one[::-1, ::-1].T, 8: lambda one: one.T[::-1],
    }  # fmt: skip
    return turned[orientation](values)


def _by_pillow(case: Case) -> npt.NDArray[np.int64] | None:
    """Return Pillow's grey values, upright; None if it refuses the file."""
    from PIL import Image, ImageOps

    try:
        image: Image.Image = Image.open(BytesIO(case["data"]))
        image.seek((case["frame"] or 1) - 1)
        image = ImageOps.exif_transpose(image)
    except Exception:
        return None
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if image.mode == "1":
        image = image.convert("L")
    values = np.asarray(image).astype(np.int64)
    return values[..., int(image.mode.startswith("RGB"))] if values.ndim == 3 else values


def _by_opencv(case: Case) -> npt.NDArray[np.int64] | None:
    """Return OpenCV's grey values, upright; None if it refuses the file, or does not read grey values unchanged."""
    import cv2

    tiff = case["kind"].startswith("tiff")
    if case["frame"] not in (None, 1):
        return None
    try:
        # turns by EXIF
        image = cv2.imdecode(np.frombuffer(case["data"], np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    except cv2.error:
        return None
    if image is None or image.dtype.kind == "f" or (tiff and image.ndim == 3):  # it multiplies by alpha
        return None
    if image.ndim == 3:  # ours reads colour with 8 bits
        image = image[..., 1] >> (8 if image.dtype == np.uint16 else 0)
    found: npt.NDArray[np.int64] = image.astype(np.int64)
    return found


def _by_jpegsof3(case: Case, found: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """Return the values of a lossless JPEG by a decoder that is not libjpeg's; None if it is another file.

    The last value of a damaged file is that of ``found``: if its bits are missing, each decoder goes on differently.
    """
    import imagecodecs

    if case["kind"] != "jpeg by imagecodecs":
        return None
    try:
        values: npt.NDArray[np.int64] = imagecodecs.jpegsof3_decode(case["data"]).astype(np.int64)
    except (ValueError, RuntimeError):
        return None
    if not case["sound"] and values.shape == found.shape:
        values[-1, -1] = found[-1, -1]
    return values


SUBJECT = Subject("rasters", "Pillow, OpenCV, imagecodecs and the drawn values", 0.12, draw, compare)
