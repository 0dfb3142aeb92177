"""Masks of structures: from a picture file to pixels, and through a recipe beside the image they belong to."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.errors import LlavaRadError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from encoder.reader.sandbox import Reader


def read_mask(path: Path, size: tuple[int, int], *, reader: Reader | None = None) -> npt.NDArray[np.bool_]:
    """Read a mask in the limited process that reads images (:mod:`encoder.reader.sandbox`).

    Args:
        path: a PNG or another picture file of at least 64 pixels a side; what is not 0 is inside.
        size: (H, W) of the upright image that it belongs to. The file may be of another size with the same aspect,
            to one pixel of the coarser of both; nearest neighbours then.
        reader: one for many masks: each costs a fork then, not the start of a process.

    Returns:
        [H, W], True inside.

    Raises:
        ReadError: the file is missing, damaged, in colour, or too large.
        LlavaRadError: it has another aspect than the image.
    """
    from encoder.reader.sandbox import Reader

    with contextlib.nullcontext(reader) if reader is not None else Reader() as one:
        inside: npt.NDArray[np.bool_] = one.read(path).pixels != 0
    (height, width), (rows, columns) = size, inside.shape
    if abs(rows * width - columns * height) > max(*size, *inside.shape):
        raise LlavaRadError("a mask has another aspect than its image", hint="masks are of the image's own pixels")
    if inside.shape == size:
        return inside
    return _take(inside, _nearest(height, rows), _nearest(width, columns))


def prepare_mask(mask: npt.NDArray[np.bool_], recipe: Recipe) -> npt.NDArray[np.bool_]:
    """Take a mask where a recipe takes its image: the same resizing, bars and crop, by nearest neighbours.

    Args:
        mask: [H, W], of the upright image.
        recipe: whose ``apply`` makes the image.

    Returns:
        [S, S], S the recipe's size: element (i, j) lies where pixel (i, j) of the prepared image lies.
    """
    import numpy as np

    height, width = mask.shape
    if recipe.pad_to is not None:
        side, longest = recipe.pad_to, max(mask.shape)
        places = []
        for length in mask.shape:
            inner = max(1, int(length * (side / longest)))
            bar = (side - inner) // 2
            places.append(((np.arange(recipe.size) + 0.5) * (side / recipe.size) - bar) * (length / inner))
        rows, columns = (np.floor(place).astype(int) for place in places)
        known: npt.NDArray[np.bool_] = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
        inside = _take(mask, rows.clip(0, height - 1), columns.clip(0, width - 1))
        inside &= known
        return inside
    short, long = min(mask.shape), max(mask.shape)
    other = int(recipe.side * long / short)
    target = (recipe.side, other) if height <= width else (other, recipe.side)
    resized = _take(mask, _nearest(target[0], height), _nearest(target[1], width))
    prepared: npt.NDArray[np.bool_] = recipe.crop(resized.view(np.uint8)) != 0
    return prepared


def _nearest(count: int, length: int) -> npt.NDArray[np.intp]:
    """In which of ``length`` pixels the centre of each of ``count`` equal parts lies."""
    import numpy as np

    return (2 * np.arange(count, dtype=np.intp) + 1) * length // (2 * count)


def _take(
    mask: npt.NDArray[np.bool_], rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> npt.NDArray[np.bool_]:
    taken: npt.NDArray[np.bool_] = mask[rows[:, None], columns]
    return taken
