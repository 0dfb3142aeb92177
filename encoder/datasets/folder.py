"""Any folder of images: DICOM, PNG, JPEG, TIFF and WebP files in it and below it. Nothing is known about them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError

_SUFFIXES = {".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}


def read(root: Path) -> Iterator[Row]:
    """The images in the order of their paths; files without suffix count if they begin as DICOM files do.

    Hidden files, DICOMDIR and symbolic links to folders are passed over.

    Raises:
        LlavaRadError: there is no such folder, or no image in it.
    """
    root = root.absolute()
    if not root.is_dir():
        raise LlavaRadError("the folder of images does not exist")
    number = 0
    for number, path in enumerate(_images(root), 1):
        yield Row(path, dataset=root.name, image=path.relative_to(root).as_posix(), number=number)
    if not number:
        raise LlavaRadError("there is no DICOM, PNG, JPEG, TIFF or WebP file in the folder")


def _images(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and (path.suffix.lower() in _SUFFIXES or _is_dicom(path)):
                yield path


def _is_dicom(path: Path) -> bool:
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
