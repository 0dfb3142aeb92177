"""Where the image lies and which of its pixels are real: padding, turning, square pixels (rows 11, 19, 20)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.errors import ReadError

if TYPE_CHECKING:
    import numpy.typing as npt

    from encoder.reader.admission import Admission
    from encoder.reader.header import Header

MAX_PIXELS = 64 << 20
MIN_SIDE = 64
# PatientOrientation (row direction, column direction) -> (clockwise quarter turns, then mirror left-right) so that rows
# run to the patient's left and columns to the feet.
TURNS = {
    ("L", "F"): (0, False), ("R", "F"): (0, True), ("R", "H"): (2, False), ("L", "H"): (2, True),
    ("F", "R"): (1, False), ("H", "L"): (3, False), ("F", "L"): (1, True), ("H", "R"): (3, True),
}  # fmt: skip


def turns(header: Header, admission: Admission, *, lateral: bool) -> tuple[int, bool, str | None]:
    """How the image must be turned (row 19).

    Args:
        header: the file's.
        admission: collects warnings.
        lateral: the image is a (forced) lateral view, which is left as it lies.

    Returns:
        Clockwise quarter turns, whether left and right are then exchanged, and the orientation as stored.
    """
    stated = header.codes("PatientOrientation")
    flipped = (
        header.code("FieldOfViewHorizontalFlip") == "YES" or (header.number("FieldOfViewRotation") or 0) % 360 != 0
    )
    if len(stated) != 2 or any(not word or len(word) > 3 or set(word) - set("LRAPFH") for word in stated):
        if stated:
            admission.warn("the patient orientation is not readable: left and right are not checked")
        elif flipped:
            admission.warn(
                "the detector image was flipped or rotated without stated orientation: left and right are not checked"
            )
        else:
            admission.warn("the patient orientation is not stated: left and right are not checked")
        return 0, False, None
    name = "\\".join(stated)
    if lateral:
        return 0, False, name
    key = (stated[0][0], stated[1][0])
    if key not in TURNS:
        admission.refuse("orientation", "the stated patient orientation is not that of a frontal radiograph")
        return 0, False, name
    quarter, mirror = TURNS[key]
    if quarter:
        admission.warn(
            f"the image was rotated {90 * quarter} degrees clockwise to stand upright, by its patient orientation"
        )
    if mirror:
        admission.warn("the image was mirrored: its patient orientation has left and right exchanged")
    return quarter, mirror, name


def turn(image: npt.NDArray[Any], quarter: int, mirror: bool) -> npt.NDArray[Any]:
    """Rotate [H, W] clockwise by quarter turns, then exchange left and right."""
    turned = np.rot90(image, -quarter) if quarter else image
    return np.ascontiguousarray(turned[:, ::-1] if mirror else turned)


def aspect(header: Header, admission: Admission) -> float:
    """Height of a pixel over its width (row 20); 1.0 where equal within 1 %, unknown or absurd."""
    for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        pair = header.numbers(keyword)
        if len(pair) == 2 and all(math.isfinite(value) and value > 0 for value in pair):
            ratio = pair[0] / pair[1]
            if abs(ratio - 1) <= 0.01:
                return 1.0
            if not 0.25 <= ratio <= 4:
                admission.warn("the stated pixel aspect ratio is absurd and was ignored")
                return 1.0
            return ratio
    return 1.0


def square(
    pixels: npt.NDArray[np.uint16], valid: npt.NDArray[np.bool_] | None, ratio: float
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_] | None]:
    """Resample to square pixels by stretching the axis with the larger pixels (bicubic; nearest for the mask)."""
    from PIL import Image

    height, width = pixels.shape
    size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    if size[0] * size[1] > MAX_PIXELS:
        raise ReadError("too_large", f"with square pixels the image has more than {MAX_PIXELS >> 20} Mi pixels")
    top = int(pixels.max())
    image = Image.fromarray(pixels.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    resized = np.clip(np.rint(np.asarray(image)), 0, top).astype(np.uint16)
    if valid is None:
        return resized, None
    mask = np.asarray(Image.fromarray(valid.view(np.uint8)).resize(size, Image.Resampling.NEAREST)).astype(np.bool_)
    resized[~mask] = 0
    return resized, mask


def valid_pixels(
    header: Header, stored: npt.NDArray[Any], bits_stored: int, *, signed: bool
) -> npt.NDArray[np.bool_] | None:
    """Row 11: False where pixels hold the padding value or lie in its range; None where none do."""
    low = header.word("PixelPaddingValue")
    if low is None:
        return None
    high = header.word("PixelPaddingRangeLimit")
    mask = (1 << bits_stored) - 1
    sign = 1 << (bits_stored - 1) if signed else 0
    # in the order of values: flipping the sign bit maps signed patterns onto 0..mask
    low, high = ((word & mask) ^ sign for word in (low, low if high is None else high))
    low, high = min(low, high), max(low, high)
    order = (stored.astype(np.uint16) & np.uint16(mask)) ^ np.uint16(sign)
    outside = (order < low) | (order > high)
    return None if outside.all() else outside
