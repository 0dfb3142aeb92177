"""From what a user names (files, folders, patterns, standard input) to a list of sources; nothing is decoded here."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from encoder.errors import LlavaRadError, ReadError

MAX_BYTES = 256 << 20
_SUFFIXES = {".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Source:
    """One thing to read: a file, or bytes that came through standard input or the Python API.

    Attributes:
        number: position among the inputs of this run, from 1.
        path: the file, or None.
        data: the bytes, or None.
    """

    number: int
    path: Path | None = field(default=None, repr=False)
    data: bytes | None = field(default=None, repr=False)

    def content(self) -> Path | bytes:
        """What the reader takes."""
        return self.path if self.data is None else self.data  # type: ignore[return-value]

    def sha256(self) -> str | None:
        """SHA-256 of the bytes, or None where they cannot be read."""
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        from encoder.reader.sandbox import open_source  # NumPy

        try:
            with open(open_source(self.content()), "rb") as file:  # noqa: PTH123 (a descriptor, no path)
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (ReadError, OSError):
            return None


@dataclass(frozen=True)
class Inputs:
    """The sources in the order of the arguments, and how many files of folders were passed over as no images."""

    sources: list[Source]
    passed_over: int = 0


def expand(
    arguments: Iterable[str | Path | bytes], *, recursive: bool = False, stdin: BinaryIO | None = None
) -> Inputs:
    """Turn arguments into sources.

    A file stands for itself, whatever its suffix. A folder stands for the images in it, sorted by name (with
    ``recursive``, in its subfolders too): files with an image's suffix or first bytes. Hidden files, DICOMDIR, and
    symbolic links that lead out of the folder are passed over. A pattern that is no file's name is expanded here, so
    that it may be quoted. ``"-"`` is standard input, ``bytes`` are the file itself.

    Raises:
        LlavaRadError: standard input is named twice, or holds too much.
    """
    found: list[Path | bytes] = []
    passed_over, stdin_read = 0, False
    for argument in arguments:
        if isinstance(argument, bytes):
            found.append(argument)
        elif argument == "-" and stdin is not None:
            if stdin_read:
                raise LlavaRadError("standard input (-) can be named once only")
            stdin_read = True
            found.append(_read_all(stdin))
        else:
            path = Path(argument)
            if _is_dir(path):
                images, others = _folder(path, recursive)
                found += images
                passed_over += others
            elif not _exists(path) and glob.has_magic(str(argument)) and "\0" not in str(argument):
                found += _pattern(str(argument), recursive) or [path]
            else:
                found.append(path)
    sources = [
        Source(n, data=item) if isinstance(item, bytes) else Source(n, path=item) for n, item in enumerate(found, 1)
    ]
    return Inputs(sources, passed_over)


def example() -> Path:
    """The real chest radiograph (CR, PA, MONOCHROME1) of the PyPI package pydicom-data; nothing is imported or fetched.

    Raises:
        LlavaRadError: the package is not installed.
    """
    from importlib.util import find_spec

    spec = find_spec("data_store")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / "data" / "RG1_UNCI.dcm"
        if path.is_file():
            return path
    raise LlavaRadError("the example image is not installed", hint="pip install pydicom-data")


def _read_all(stream: BinaryIO) -> bytes:
    data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ReadError("too_large", f"standard input holds more than {MAX_BYTES >> 20} MiB")
    return data


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _pattern(pattern: str, recursive: bool) -> list[Path | bytes]:
    """The files that a shell pattern names, sorted; Path.glob takes no absolute patterns."""
    try:
        expanded = str(Path(pattern).expanduser())
    except RuntimeError:  # no such user
        return []
    paths = map(Path, sorted(glob.glob(expanded, recursive=recursive or "**" in pattern)))  # noqa: PTH207
    return [path for path in paths if not path.is_dir()]


def _folder(folder: Path, recursive: bool) -> tuple[list[Path | bytes], int]:
    """The images of a folder and the number of its other files."""
    root = folder.resolve()
    images: list[Path | bytes] = []
    others = 0
    for path in _walk(folder, recursive):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            others += 1
        elif _is_image(path):
            images.append(path)
        else:
            others += 1
    return images, others


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):  # does not follow links to folders
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(parent, name)


def _is_image(path: Path) -> bool:
    """By suffix, else by the first bytes: DICOM files often have no suffix. A DICOMDIR only lists other files."""
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    if path.suffix.lower() in _SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or start.startswith(_MAGIC) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
