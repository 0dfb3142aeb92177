"""Modality LUT, VOI LUT and windows of a DICOM header (PS3.3 C.11.1, C.11.2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from encoder.reader.radiograph import Window

if TYPE_CHECKING:
    import numpy.typing as npt

    from encoder.reader.admission import Admission
    from encoder.reader.header import Header
    from encoder.reader.radiograph import WindowFunction

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
LABELS = {
    "NORMAL", "HARDER", "SOFTER", "BONE", "LUNG", "MEDIASTINUM", "SOFT_TISSUE", "CHEST", "STANDARD", "DEFAULT",
    "WINDOW1", "WINDOW2", "WINDOW3", "USER", "MANUFACTURER",
}  # fmt: skip
MAX_WINDOWS = 16


class LookupTable(NamedTuple):
    """Item of a modality or VOI LUT sequence.

    Attributes:
        values: [N] uint16.
        first: input value of the first entry.
        maximum: 2^bits - 1.
    """

    values: npt.NDArray[np.uint16]
    first: int
    maximum: int


def lookup_table(item: Header, *, signed: bool) -> LookupTable | None:
    """Read LUTDescriptor and LUTData; None if they are missing or damaged.

    Args:
        item: item of a LUT sequence.
        signed: True if the first mapped value is signed (PS3.3 C.11.1.1.1, C.11.2.1.1).
    """
    descriptor = item.words("LUTDescriptor")
    data = item.raw("LUTData")
    if len(descriptor) != 3:
        return None
    entries, first, bits = descriptor[0] or 65536, descriptor[1], descriptor[2]
    if (item.vr("LUTDescriptor") == "SS" or signed) and first >= 0x8000:
        first -= 0x10000
    if not 8 <= bits <= 16:
        return None
    word = "<u2" if item.little_endian else ">u2"
    if len(data) >= 2 * entries:
        values = np.frombuffer(data, word, entries).astype(np.uint16)
    elif bits == 8 and len(data) >= entries:  # 8-bit entries packed into bytes
        values = np.frombuffer(data, np.uint8, entries).astype(np.uint16)
    else:
        return None
    maximum = (1 << bits) - 1
    return LookupTable(np.minimum(values, maximum).astype(np.uint16), first, maximum)


def modality_lut(
    header: Header, bits: int, *, signed: bool, admission: Admission
) -> tuple[npt.NDArray[np.uint16], int] | None:
    """Expand the modality LUT to every stored bit pattern.

    Returns:
        [2^bits] uint16 indexed by bit pattern and the largest possible output, or None if there is no usable LUT.
    """
    items = header.items("ModalityLUTSequence")
    if not items:
        return None
    table = lookup_table(items[0], signed=signed)
    if table is None:
        admission.warn("the modality lookup table is damaged and was ignored")
        return None
    patterns = np.arange(1 << bits, dtype=np.int64)
    stored = np.where(patterns >> (bits - 1), patterns - (1 << bits), patterns) if signed else patterns
    index = np.clip(stored - table.first, 0, len(table.values) - 1)
    return table.values[index], table.maximum


def windows_of(header: Header, admission: Admission, *, signed: bool) -> tuple[Window, ...]:
    """Return the windows of the header: lookup tables first, then pairs of centre and width in their order.

    Args:
        header: attributes of the file.
        admission: receives warnings.
        signed: True if modality values may be negative, which decides on the sign of a table's first value.
    """
    windows = []
    for number, item in enumerate(header.items("VOILUTSequence")[:MAX_WINDOWS], 1):
        table = lookup_table(item, signed=signed)
        if table is None:
            admission.warn("a VOI lookup table is damaged and was ignored")
            continue
        windows.append(Window("LUT", label=f"LUT {number}", lut=table.values, first=table.first, maximum=table.maximum))
    function = header.code("VOILUTFunction") or "LINEAR"
    if function not in FUNCTIONS:
        admission.warn("the VOI function is unknown: LINEAR was used")
        function = "LINEAR"
    centers, widths = header.numbers("WindowCenter"), header.numbers("WindowWidth")
    if len(centers) != len(widths):
        admission.warn("window centres and widths differ in number")
    labels = header.codes("WindowCenterWidthExplanation")
    count = min(len(centers), len(widths), MAX_WINDOWS)
    for number, (center, width) in enumerate(zip(centers[:count], widths[:count], strict=True), 1):
        least = 1.0 if function == "LINEAR" else 1e-9
        if not (math.isfinite(center) and math.isfinite(width)) or width < least:
            admission.warn("a window is not usable and was ignored")
            continue
        label = labels[number - 1].replace(" ", "_") if number <= len(labels) else ""
        name = label if label in LABELS else f"window {number}"
        windows.append(Window(cast("WindowFunction", function), center, width, name))
    return tuple(windows)


def warn_of_blank(windows: tuple[Window, ...], levels: npt.NDArray[np.float64], admission: Admission) -> None:
    """Add a warning if a window shows all of the different modality values ``levels`` alike."""
    if any(np.ptp(np.floor(window.apply(levels) * 255 + 0.5)) == 0 for window in windows):
        admission.warn("a window of the file shows all values of the image alike")
