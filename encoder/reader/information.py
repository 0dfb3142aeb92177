"""Check that a picture carries information, whatever made it lose it.

Every fault of pixel data that the reader knows has its own rule. This check looks at the result alone, as the last
guard: a picture that is (nearly) constant, lies at one end of its grey scale, has a large area without any variation,
or has the shape of half a radiograph is never reported on as if it were whole. The limits are set on 11,206 real chest
radiographs of five public sets, of which 0.1 % are warned of (docs/dicom.md, "Pictures without information").
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from encoder.errors import ReadError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

WARNING = "THE PICTURE IS PROBABLY DAMAGED OR INCOMPLETE, do not rely on a report about it: "
"""Start of every warning of this module."""
CELLS, SAMPLES = 32, 8
"""Number of cells on a side of the picture, and of sampled pixels on a side of a cell."""


def check(pixels: npt.NDArray[np.uint16], *, force: bool = False) -> list[str]:
    """Look for a loss of information in a picture.

    Args:
        pixels: [H, W], any range.
        force: return the message of a refusal as a warning.

    Returns:
        Warnings; empty for a picture that looks whole.

    Raises:
        ReadError: with the reason ``no_information``, if the picture is (nearly) constant; unless ``force`` is set.
    """
    height, width = pixels.shape
    rows, columns = (np.arange(CELLS * SAMPLES) * size // (CELLS * SAMPLES) for size in (height, width))
    sample = pixels[np.ix_(rows, columns)].astype(np.int32)
    lowest = int(sample.min())
    grey = (sample - lowest) * 255 // max(int(sample.max()) - lowest, 1)
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    spread = int(np.subtract(*np.searchsorted(np.cumsum(share), (0.95, 0.05))))
    if share.max() > 0.95 or spread < 4:
        message = "the picture is nearly constant: it shows nothing"
        if not force:
            raise ReadError("no_information", message, forcible=True, hint="--force overrides this refusal")
        return [WARNING + message]
    found = []
    if spread < 32 or np.count_nonzero(share) < 32:
        found.append("it has hardly any contrast, or few grey levels")
    if share[0] > 0.5 or share[255] > 0.15:
        found.append("much of it is at one end of the grey scale")
    elif share[8:255].max() > 0.25:
        found.append("much of it has one grey level")
    cells = grey.astype(np.uint8).reshape(CELLS, SAMPLES, CELLS, SAMPLES)
    low, high = cells.min(axis=(1, 3)), cells.max(axis=(1, 3))
    flat = high - low <= 1
    black = high <= 3
    if any(
        np.count_nonzero(cells) > limit * cells.size and _largest_rectangle(cells) > limit
        for cells, limit in ((flat, 0.3), (flat & ~black, 0.1))
    ):
        found.append("a large area has no variation")
    if not 0.65 <= height / width <= 1.6:
        found.append("it is much wider or taller than a radiograph of the chest")
    return [WARNING + "; ".join(found)] if found else []


def finding(warnings: Iterable[str]) -> str:
    """Return what :func:`check` found, of all warnings about an image: reasons divided by "; ", or ""."""
    return next((text.removeprefix(WARNING) for text in warnings if text.startswith(WARNING)), "")


def by_reason(findings: Iterable[str]) -> dict[str, int]:
    """Count images by reason; one may have several."""
    return dict(sorted(Counter(reason for found in findings if found for reason in found.split("; ")).items()))


def summary(findings: Iterable[str]) -> str:
    """Return a sentence that counts images with a finding, without identifiers; "" if there is none."""
    found = [text for text in findings if text]
    reasons = "; ".join(f"{reason}: {number:,}" for reason, number in by_reason(found).items())
    return f"Probably damaged or incomplete, but included: {len(found):,} images ({reasons})." if found else ""


def _largest_rectangle(cells: npt.NDArray[np.bool_]) -> float:
    """Return the share of the largest rectangle of True in [CELLS, CELLS].

    For each row of cells, a stack holds the columns in which taller runs of True begin (largest rectangle in a
    histogram).
    """
    largest, heights = 0, [0] * (cells.shape[1] + 1)
    for row in cells.tolist():
        stack: list[tuple[int, int]] = []
        for column, filled in enumerate([*row, False]):
            heights[column] = heights[column] + 1 if filled else 0
            start = column
            while stack and stack[-1][1] >= heights[column]:
                start, height = stack.pop()
                largest = max(largest, height * (column - start))
            stack.append((start, heights[column]))
    return largest / cells.size
