"""The masks that a reader draws: PNG files in a folder beside the manifest, each written in one step and once."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.errors import LlavaRadError, ReadError

if TYPE_CHECKING:
    from types import TracebackType

    from encoder.datasets.mask_decoding import Mask
    from encoder.reader.sandbox import Reader

Draw = Callable[[tuple[int, int]], "Mask | None"]
"""A mask [H, W] of an image of size (H, W); None where there is none."""


class MaskFiles:
    """Where drawn masks go: ``FOLDER/STRUCTURE/IMAGE.png``, 1 bit.

    Args:
        folder: made when the first mask is written. None: none is drawn, and rows come without those masks.
        redraw: replace masks that are there; else they are kept, so that an interrupted run is taken up.
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
        """Draw the masks of one image. Empty ones are not written.

        Args:
            path: the image's file; where it is absent nothing is drawn.
            image: its name within the data set.
            structures: name -> how to draw it.

        Returns:
            name -> file, of the masks that there are.

        Raises:
            LlavaRadError: the image cannot be read, its name is no file name, or drawing fails.
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
        """(H, W) of an image, upright.

        Raises:
            LlavaRadError: it cannot be read.
        """
        try:
            height, width = self._read().read(path, force=True).pixels.shape
        except ReadError as error:
            raise LlavaRadError(f"the image cannot be read: {error}", hint="without the file it is left out") from None
        return int(height), int(width)

    def read(self, path: Path, size: tuple[int, int]) -> Mask:
        """A mask file of the data set, see :func:`encoder.datasets.masks.read_mask`."""
        from encoder.datasets.masks import read_mask

        return read_mask(path, size, reader=self._read())

    def _read(self) -> Reader:
        if self._reader is None:
            from encoder.reader.sandbox import Reader

            self._reader = Reader()
        return self._reader


@contextmanager
def naming(of: str, number: int) -> Iterator[None]:
    """Put the data set and the number of the row before the message of an error."""
    try:
        yield
    except LlavaRadError as error:
        raise LlavaRadError(f"{of}: row {number} of its table: {error}", hint=error.hint) from None


def _save(mask: Mask, file: Path) -> None:
    from PIL import Image

    temporary = file.with_name(f".llava-rad-{secrets.token_hex(8)}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            Image.fromarray(mask).save(temporary, format="PNG")
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise LlavaRadError(f"the mask cannot be written ({os.strerror(error.errno or 0)})") from None
