"""Decoders of published annotations into masks: run lengths, outlines, boxes, and one mask of both lungs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from encoder.errors import LlavaRadError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Mask = npt.NDArray[np.bool_]

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels from the top left corner of the image."""
_TILTS = tuple(math.tan(math.radians(degrees)) for degrees in range(-14, 15, 2))
_CUT = 0.1  # largest share of the lungs' height over which the line between them may cross them


def from_runs(text: str, size: tuple[int, int]) -> Mask:
    """Decode run lengths as in the SIIM-ACR pneumothorax challenge and CANDID-PTX.

    ``"start length start length ..."``: pixels are counted down the columns, from the leftmost; the first start counts
    from 0 and each later one from the end of the run before. ``"-1"`` is an empty mask.

    Args:
        text: the run lengths.
        size: (H, W) of the image.

    Raises:
        LlavaRadError: if the text holds no run lengths, or they exceed the image.
    """
    import numpy as np

    height, width = size
    flat = np.zeros(height * width, np.bool_)
    numbers = text.split()
    if numbers != ["-1"]:
        if not numbers or len(numbers) % 2 or not all(re.fullmatch(r"[0-9]{1,9}", number) for number in numbers):
            raise LlavaRadError("the run lengths are damaged: they are not pairs of a start and a length")
        end = 0
        for gap, length in zip(map(int, numbers[::2]), map(int, numbers[1::2]), strict=True):
            end += gap + length
            if end > len(flat):
                raise LlavaRadError("the run lengths are damaged: they go beyond the image")
            flat[end - length : end] = True
    return flat.reshape(width, height).T


def from_outline(points: Sequence[tuple[float, float]], size: tuple[int, int]) -> Mask:
    """Fill a closed polygon of (x, y) in pixels, its edge included; parts outside of the image are cut off.

    Raises:
        LlavaRadError: if there are fewer than three points, or one is far from the image.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    height, width = size
    if len(points) < 3 or not all(-width <= x <= 2 * width and -height <= y <= 2 * height for x, y in points):
        raise LlavaRadError("the outline is damaged: it has fewer than three points, or points far from the image")
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).polygon(list(points), fill=1)
    inside: Mask = np.asarray(image) != 0
    return inside


def from_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> Mask:
    """Fill the union of boxes: the pixels whose centre is inside one of them.

    Raises:
        LlavaRadError: if a box has no area.
    """
    import numpy as np

    mask = np.zeros(size, np.bool_)
    for x0, y0, x1, y1 in boxes:
        if not (x0 < x1 and y0 < y1) or not all(map(math.isfinite, (x0, y0, x1, y1))):
            raise LlavaRadError("the box is damaged: it has no area")
        rows, columns = (
            slice(max(0, math.ceil(low - 0.5)), max(0, math.ceil(high - 0.5))) for low, high in ((y0, y1), (x0, x1))
        )
        mask[rows, columns] = True
    return mask


def sides(lungs: Mask) -> tuple[Mask, Mask] | None:
    """Separate the patient's left and right lung in one mask of an upright frontal image; left is at image right.

    The separating line is at most 14 degrees from the vertical, lies between the lungs' centres and crosses the fewest
    pixels of the mask, in the middle of the widest such gap.

    Returns:
        (left, right), or None if no line separates them: it would cross them over more than a tenth of their height,
        or leave less than a twentieth of the mask on one side.
    """
    import numpy as np

    height, width = lungs.shape
    step = max(1, max(lungs.shape) // 512)
    y, x = (axis * step + step // 2 for axis in np.nonzero(lungs[step // 2 :: step, step // 2 :: step]))
    if not len(x):
        return None
    middle = (x < x.mean(), x >= x.mean())
    low, high = (x[side].mean() if side.any() else x.mean() for side in middle)
    best: tuple[float, float, float, float] | None = None
    for tilt in _TILTS:
        places = np.round((x - tilt * (y - height / 2)) / step).astype(int)
        first = math.floor(low / step)
        counts = np.bincount((places - first).clip(0), minlength=1)[1 : max(2, math.ceil((high - low) / step))]
        if not len(counts):
            continue
        edges = np.flatnonzero(np.diff(np.concatenate([[False], counts == counts.min(), [False]])))
        widest = int(np.argmax(edges[1::2] - edges[::2]))
        start, end = int(edges[2 * widest]), int(edges[2 * widest + 1])
        found = (float(counts.min()), float(start - end), tilt, (first + 1 + (start + end - 1) / 2) * step)
        best = min(best, found) if best is not None else found
    if best is None or best[0] * step > _CUT * (y.max() - y.min() + step):
        return None
    row, column = np.ogrid[:height, :width]
    beyond = column - best[2] * (row - height / 2) > best[3]
    left, right = lungs & beyond, lungs & ~beyond
    return (left, right) if min(left.sum(), right.sum()) >= 0.05 * lungs.sum() else None
