"""Orientation, pixel aspect and padding (docs/dicom.md: left and right, pixel aspect, pixel padding value)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from encoder.errors import ReadError
from encoder.reader.admission import orientation
from encoder.reader.radiograph import Spacing

if TYPE_CHECKING:
    import numpy.typing as npt

    from encoder.reader.admission import Admission
    from encoder.reader.header import Header

MAX_PIXELS = 64 << 20
MIN_SIDE = 64
SAME_ASPECT = 0.01
"""Pixels are square if their sides differ by no more than this share."""
ASPECTS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
"""Attributes of the pixels' shape; the ratio is for images without a physical spacing (PS3.3 C.7.6.3.1.7)."""
# Of 5,000 real radiographs (five public sets), the darkest 9 of 256 grey levels take 4 % of the pixels in the median,
# 54 % in one of 1,000, at most 67 %; the lightest 9, at most 37 %.
MAX_PADDING = 0.8
# PatientOrientation (row direction, column direction) -> (clockwise quarter turns, then mirror left-right); the result
# has rows that run to the patient's left and columns that run to the feet
TURNS = {
    ("L", "F"): (0, False), ("R", "F"): (0, True), ("R", "H"): (2, False), ("L", "H"): (2, True),
    ("F", "R"): (1, False), ("H", "L"): (3, False), ("F", "L"): (1, True), ("H", "R"): (3, True),
}  # fmt: skip


def turns(header: Header, admission: Admission, *, lateral: bool) -> tuple[int, bool, str | None]:
    """Return the rotation and reflection that bring the image upright with the patient's left on its right.

    Args:
        header: attributes of the file.
        admission: receives warnings.
        lateral: True for a lateral view, which is not turned.

    Returns:
        Clockwise quarter turns, True if left and right are exchanged afterwards, and the stored orientation.

    Raises:
        ReadError: if the orientation is not that of a frontal image, unless forced.
    """
    stated = orientation(header)
    flipped = (
        header.code("FieldOfViewHorizontalFlip") == "YES" or (header.number("FieldOfViewRotation") or 0) % 360 != 0
    )
    if stated is None:
        if header.codes("PatientOrientation"):
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
    """Return the height of a pixel divided by its width; 1.0 if equal within 1 %, unknown or implausible."""
    pairs = [pair for keyword in ASPECTS if (pair := _pair(header, keyword))]
    ratio, *others = [rows / columns for rows, columns in pairs] or [1.0]
    if not 0.25 <= ratio <= 4:
        admission.warn("the stated pixel aspect ratio is implausible and was ignored")
        return 1.0
    if any(abs(other / ratio - 1) > SAME_ASPECT for other in others):
        admission.warn("pixel spacings and aspect ratio contradict each other: the first stated spacing was followed")
    return ratio if abs(ratio - 1) > SAME_ASPECT else 1.0


def spacing(header: Header, ratio: float) -> Spacing | None:
    """Return the distance between the pixels of the image after :func:`square`; None if no usable one is stated.

    PixelSpacing that differs from ImagerPixelSpacing, or names its calibration, was calibrated (PS3.3 10.7.1.3).

    Args:
        header: attributes of the file.
        ratio: returned by :func:`aspect`.
    """
    stated, detector = (_pair(header, keyword) for keyword in ("PixelSpacing", "ImagerPixelSpacing"))
    rows, columns = stated or detector or (0.0, 0.0)
    if not 0.01 <= min(rows, columns) <= max(rows, columns) <= 2 or abs(rows / columns / ratio - 1) > SAME_ASPECT:
        return None
    if stated is None or (detector and math.isclose(stated[0], detector[0], rel_tol=1e-4)):
        at: Literal["patient", "detector", "unknown"] = "detector"
    elif detector or header.code("PixelSpacingCalibrationType") in ("GEOMETRY", "FIDUCIAL"):
        at = "patient"
    else:
        at = "unknown"
    return Spacing(min(rows, columns), at)


def _pair(header: Header, keyword: str) -> tuple[float, float] | None:
    """Return two positive numbers of an attribute, or None."""
    found = header.numbers(keyword)
    return (found[0], found[1]) if len(found) == 2 and all(value > 0 for value in found) else None


def square(
    pixels: npt.NDArray[np.uint16], valid: npt.NDArray[np.bool_] | None, ratio: float
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_] | None]:
    """Resample to square pixels by stretching the axis with the larger pixels.

    Args:
        pixels: [H, W], resampled bicubically.
        valid: [H, W] or None, resampled to the nearest neighbour.
        ratio: height of a pixel divided by its width.

    Raises:
        ReadError: if the result would have more than ``MAX_PIXELS`` pixels.
    """
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
    header: Header, stored: npt.NDArray[Any], bits: int, signed: bool, admission: Admission
) -> npt.NDArray[np.bool_] | None:
    """Return a mask [H, W] that is False on pixels with a padding value; None if there are none.

    Args:
        header: attributes of the file.
        stored: [H, W] bit patterns of ``bits`` bits.
        bits: number of bits.
        signed: PixelRepresentation; a negative padding value may be written as an unsigned word (PS3.3 C.7.5.1.1.2).
        admission: receives warnings.
    """
    words = [header.words(keyword)[:1] for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if not words[0]:
        return None
    stated = [word for (word,) in filter(None, words)]
    if signed or (header.vr("PixelPaddingValue") == "SS" and bits < 16):  # of 16 bits, the pattern counts
        stated = [((word + 0x8000) & 0xFFFF) - 0x8000 for word in stated]
    # flipping the sign bit of signed patterns maps them to 0..top in the order of their values
    sign, top = (1 << (bits - 1) if signed else 0), (1 << bits) - 1
    low, high = min(stated) + sign, max(stated) + sign
    if high < 0 or low > top:
        return None
    order = stored ^ stored.dtype.type(sign)
    outside = (order < max(low, 0)) | (order > min(high, top))
    share = 1 - np.count_nonzero(outside) / outside.size
    if share > MAX_PADDING:
        admission.warn("the stated padding would cover nearly the whole image: it was ignored")
        return None
    return outside if share else None
