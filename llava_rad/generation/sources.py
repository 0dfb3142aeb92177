"""Sources of images: files, folders, patterns and standard input are expanded to a list; no image is decoded."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from encoder.errors import ConfigError, LlavaRadError, ReadError
from encoder.files import sha256_of

MAX_BYTES = 256 << 20
_SUFFIXES = {".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Source:
    """One input: a file, or bytes from standard input or the Python interface.

    Attributes:
        number: position among the inputs of this run, from 1.
        path: path of the file, or None.
        data: bytes of the file, or None.
    """

    number: int
    path: Path | None = field(default=None, repr=False)
    data: bytes | None = field(default=None, repr=False)

    def content(self) -> Path | bytes:
        """Return the argument of the reader: path or bytes."""
        return self.path if self.data is None else self.data  # type: ignore[return-value]

    def sha256(self) -> str | None:
        """Compute the SHA-256 of the bytes; None if they cannot be read."""
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        from encoder.reader.sandbox import open_source  # NumPy

        try:
            handle = open_source(self.content())
            try:
                return sha256_of(handle)
            finally:
                os.close(handle)
        except (ReadError, OSError):
            return None


@dataclass(frozen=True)
class Inputs:
    """Sources in the order of the arguments, and the number of files in folders that are no images."""

    sources: list[Source]
    skipped: int = 0


def expand(
    arguments: Iterable[str | Path | bytes], *, recursive: bool = False, stdin: BinaryIO | None = None
) -> Inputs:
    """Expand arguments to sources.

    A file is taken whatever its suffix. Of a folder (with ``recursive``, of its subfolders too) the images are taken,
    sorted by name: files with an image's suffix or first bytes. Hidden files, DICOMDIR, and symbolic links that lead
    out of the folder are skipped. A pattern that is no file's name is expanded, so that it may be quoted. ``"-"`` is
    standard input, ``bytes`` are the content of a file.

    Args:
        arguments: paths, patterns, ``"-"`` or bytes.
        recursive: look into subfolders.
        stdin: standard input; None takes ``"-"`` as a path.

    Raises:
        LlavaRadError: if standard input is named twice, or holds too much.
        ConfigError: if an argument is something else, such as an array.
    """
    found: list[Path | bytes] = []
    skipped, stdin_read = 0, False
    for argument in arguments:
        checked_kind(argument)
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
                skipped += others
            elif not _exists(path) and glob.has_magic(str(argument)) and "\0" not in str(argument):
                found += _pattern(str(argument), recursive) or [path]
            else:
                found.append(path)
    sources = [
        Source(n, data=item) if isinstance(item, bytes) else Source(n, path=item) for n, item in enumerate(found, 1)
    ]
    return Inputs(sources, skipped)


def as_sources(images: Iterable[Source | str | Path | bytes] | str | Path | bytes) -> list[Source]:
    """Return sources as they are, and expand one or several other arguments as :func:`expand` does.

    Raises:
        ConfigError: if an argument is something else, such as an array.
    """
    given = list(images) if isinstance(images, Iterable) and not isinstance(images, str | bytes) else [images]
    sources = [one for one in given if isinstance(one, Source)]
    return sources if len(sources) == len(given) else expand(given).sources  # type: ignore[arg-type]


def checked_kind(image: object) -> None:
    """Check that something names an image or is the content of a file.

    Raises:
        ConfigError: if it is something else, such as an array.
    """
    if not isinstance(image, str | os.PathLike | bytes):
        raise ConfigError(
            f"an image is a path or the bytes of a file, not {type(image).__name__}",
            hint="write pixels to a PNG file of 8 or 16 bits",
        )


def example() -> Path:
    """Find the chest radiograph (CR, PA, MONOCHROME1) of the PyPI package pydicom-data; nothing is imported or fetched.

    Raises:
        LlavaRadError: if the package is not installed.
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
    """List the files of a shell pattern, sorted; Path.glob takes no absolute patterns."""
    try:
        expanded = str(Path(pattern).expanduser())
    except RuntimeError:  # no such user
        return []
    paths = map(Path, sorted(glob.glob(expanded, recursive=recursive or "**" in pattern)))  # noqa: PTH207
    return [path for path in paths if not path.is_dir()]


def _folder(folder: Path, recursive: bool) -> tuple[list[Path | bytes], int]:
    """List the images of a folder, and count its other files."""
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
    """Recognise images by suffix, else by the first bytes: DICOM files often have no suffix."""
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
