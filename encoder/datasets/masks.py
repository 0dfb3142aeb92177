"""Masks of structures: reading them, preparing them like their image, and writing drawn ones."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.errors import LlavaRadError, ReadError
from encoder.files import reported, write

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    from encoder.datasets.mask_decoding import Mask
    from encoder.preprocessing import Recipe
    from encoder.reader.sandbox import Reader

Draw = Callable[[tuple[int, int]], "Mask | None"]
"""A mask [H, W] of an image of size (H, W); None where there is none."""


def read_mask(
    path: Path, size: tuple[int, int], *, file: tuple[int, int] | None = None, reader: Reader | None = None
) -> npt.NDArray[np.bool_]:
    """Read a mask in the limited process that reads images (:mod:`encoder.reader.sandbox`).

    Args:
        path: PNG or another picture file of at least 64 pixels a side; pixels other than 0 are inside.
        size: (H, W) of the upright image that it belongs to. The file may have another size of the same aspect ratio,
            to one pixel of the coarser of both; it is resized by nearest neighbours then.
        file: rows and columns of the image's file, if that is squashed (``Row.aspect``), as the mask may be, too.
        reader: shared by many masks: each costs a fork then, not the start of a process.

    Returns:
        [H, W], True inside.

    Raises:
        ReadError: if the file is missing, damaged, in colour, or too large.
        LlavaRadError: if its aspect ratio is not the image's.
    """
    from encoder.reader.sandbox import Reader

    with contextlib.nullcontext(reader) if reader is not None else Reader() as one:
        inside: npt.NDArray[np.bool_] = one.read(path, force=True).pixels != 0
    (height, width), (rows, columns) = size, inside.shape
    alike = [size] if file is None else [size, file]
    if all(abs(rows * wide - columns * high) > max(high, wide, rows, columns) for high, wide in alike):
        raise LlavaRadError("a mask has another aspect than its image", hint="masks are of the image's own pixels")
    if inside.shape == size:
        return inside
    return _take(inside, _nearest(height, rows), _nearest(width, columns))


def prepare_mask(mask: npt.NDArray[np.bool_], recipe: Recipe) -> npt.NDArray[np.bool_]:
    """Resize, pad and crop a mask as a recipe does its image, by nearest neighbours.

    Args:
        mask: [H, W], of the upright image.
        recipe: preprocessing of the image.

    Returns:
        [S, S], S the recipe's size; element (i, j) belongs to pixel (i, j) of the prepared image.
    """
    import numpy as np

    height, width = mask.shape
    if recipe.pad_to is not None:
        side, longest = recipe.pad_to, max(mask.shape)
        positions = []
        for length in mask.shape:
            inner = max(1, int(length * (side / longest)))
            bar = (side - inner) // 2
            positions.append(((np.arange(recipe.size) + 0.5) * (side / recipe.size) - bar) * (length / inner))
        rows, columns = (np.floor(axis).astype(int) for axis in positions)
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


class MaskFiles:
    """Destination of drawn masks: ``FOLDER/STRUCTURE/IMAGE.png``, 1 bit.

    Args:
        folder: created when the first mask is written. None: no mask is drawn, and rows lack those masks.
        redraw: replace existing masks; otherwise they are kept, so that an interrupted run can be resumed.
    """

    def __init__(self, folder: Path | None = None, *, redraw: bool = False) -> None:
        self._folder = None if folder is None else Path(os.path.normpath(folder.absolute()))
        self._redraw = redraw
        self._reader: Reader | None = None

    def __enter__(self) -> MaskFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def draw(self, path: Path, image: str, structures: Mapping[str, Draw]) -> dict[str, Path]:
        """Draw the masks of one image; empty ones are not written.

        Args:
            path: the image's file; if it is missing, nothing is drawn.
            image: its name within the data set.
            structures: name -> function that draws it.

        Returns:
            name -> file of each mask that is not empty.

        Raises:
            LlavaRadError: if the image cannot be read, its name is not a file name, or drawing fails.
        """
        if self._folder is None or not structures or not path.is_file():
            return {}
        if re.fullmatch(r"\w[\w.-]*", image) is None:
            raise LlavaRadError("the image's name cannot be the name of a mask file")
        files: dict[str, Path] = {}
        size: tuple[int, int] | None = None
        for name, draw in structures.items():
            file = self._folder / name.replace(" ", "-") / f"{image}.png"
            if self._redraw or not file.is_file():
                size = size or self.size(path)
                mask = draw(size)
                if mask is None or not mask.any():
                    continue
                _save(mask, file)
            files[name] = file
        return files

    def size(self, path: Path) -> tuple[int, int]:
        """Read the size (H, W) of an upright image.

        Raises:
            LlavaRadError: if it cannot be read.
        """
        try:
            height, width = self._read().read(path, force=True).pixels.shape
        except ReadError as error:
            raise LlavaRadError(f"the image cannot be read: {error}", hint="without the file it is left out") from None
        return int(height), int(width)

    def read(self, path: Path, size: tuple[int, int]) -> Mask:
        """Read a mask file of the data set with :func:`read_mask`."""
        return read_mask(path, size, reader=self._read())

    def _read(self) -> Reader:
        if self._reader is None:
            from encoder.reader.sandbox import Reader

            self._reader = Reader()
        return self._reader


@contextlib.contextmanager
def naming(of: str, number: int) -> Iterator[None]:
    """Prefix the message of an error with the data set and the number of the row."""
    try:
        yield
    except LlavaRadError as error:
        raise LlavaRadError(f"{of}: row {number} of its table: {error}", hint=error.hint) from None


def _save(mask: Mask, file: Path) -> None:
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(mask).save(png, format="PNG")
    with reported("the mask"):
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, png.getvalue())


def _nearest(count: int, length: int) -> npt.NDArray[np.intp]:
    """Index of the pixel, of ``length``, that holds the centre of each of ``count`` equal parts."""
    import numpy as np

    return (2 * np.arange(count, dtype=np.intp) + 1) * length // (2 * count)


def _take(
    mask: npt.NDArray[np.bool_], rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> npt.NDArray[np.bool_]:
    taken: npt.NDArray[np.bool_] = mask[rows[:, None], columns]
    return taken
