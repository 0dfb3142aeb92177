"""Images in uploaded zip files: bounded in memory, taken by position, each entry refused for itself.

Only stored and deflated entries are taken: the zip format's other methods inflate a whole block at once, whatever its
size (4.6 kB of bzip2 take 4.6 GB).
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final

from encoder.errors import ReadError, printable
from encoder.reader.sandbox import MAX_FILE_BYTES
from llava_rad.generation.sources import expand

MAX_FILES, MAX_UNPACKED = 10_000, 64 << 30
MAX_DIRECTORY: Final = 4 << 20
"""Largest central directory in bytes: 10,000 entries with names of 300 characters."""
_CHUNK = 1 << 20


class _Bounded(io.RawIOBase):
    """Binary file that refuses to read much at once; ``zipfile`` reads the whole central directory in one call."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int | None = -1) -> bytes:
        wanted = MAX_DIRECTORY + 1 if size is None or size < 0 else size
        if wanted > MAX_DIRECTORY + 1:
            raise ReadError("too_large", f"the archive holds more than {MAX_FILES:,} files")
        return self._file.read(wanted)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


class Archive:
    """Open zip file.

    Args:
        file: the zip file, which stays open as long as the archive is used.

    Attributes:
        entries: that may be images, in the order of the archive. Names may repeat.

    Raises:
        ReadError: if the file is no zip file, holds no file, or exceeds ``MAX_FILES`` or ``MAX_UNPACKED``.
    """

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._zip = zipfile.ZipFile(_Bounded(file))
        except ReadError:
            raise
        except Exception:  # zipfile raises errors of many kinds for damaged directories
            raise ReadError("corrupt", "the file is not a readable zip file") from None
        self.entries = [
            entry for entry in self._zip.infolist()
            if not entry.is_dir() and not Path(entry.filename).name.startswith(".")
            and "__MACOSX" not in entry.filename and Path(entry.filename).name.upper() != "DICOMDIR"
        ]  # fmt: skip
        if not self.entries:
            raise ReadError("missing", "there is no file in the archive")
        # no more of an entry is inflated than its stated size
        if len(self.entries) > MAX_FILES or sum(entry.file_size for entry in self.entries) > MAX_UNPACKED:
            limits = f"{MAX_FILES:,} files or {MAX_UNPACKED >> 30} GiB"
            raise ReadError("too_large", f"the archive holds more than {limits}")

    def copy(self, number: int, file: IO[bytes]) -> None:
        """Write the content of an entry to a file.

        Args:
            number: position of the entry, from 1.
            file: receives the content.

        Raises:
            ReadError: if the entry is too large, encrypted, damaged, or neither stored nor deflated.
            OSError: if the file cannot be written.
        """
        if number > len(self.entries):
            raise ReadError("missing", "the file is no longer in the archive")
        entry = self.entries[number - 1]
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ReadError("unsupported", "the file is compressed by a method that is not supported: use deflate")
        if entry.file_size > MAX_FILE_BYTES:
            raise ReadError("too_large", f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
        for chunk in self._chunks(entry):
            file.write(chunk)
        file.flush()

    def _chunks(self, entry: zipfile.ZipInfo) -> Iterator[bytes]:
        try:
            with self._zip.open(entry) as content:
                while chunk := content.read(_CHUNK):
                    yield chunk
        except GeneratorExit:
            raise
        except Exception:  # zipfile and zlib raise errors of many kinds for damaged and encrypted entries
            raise ReadError("corrupt", "the file cannot be taken out of the archive") from None


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open the zip file of a path until the end of the block.

    Raises:
        ReadError: see :class:`Archive`; also if the file cannot be opened.
    """
    try:
        file = path.open("rb")
    except OSError:
        raise ReadError("missing", "the archive is no longer on the server's disk") from None
    with file:
        yield Archive(file)


def tried(path: Path, held: ExitStack) -> Archive | ReadError:
    """Open the zip file of a path until ``held`` is closed, or return why it cannot be opened."""
    try:
        return held.enter_context(opened(path))
    except ReadError as error:
        return error


def names(path: Path) -> list[str]:
    """List the files of a zip file, or the absolute paths of the images of a folder and its subfolders.

    Raises:
        ReadError: if there are none or too many, or the zip file cannot be opened.
    """
    if not path.is_dir():
        with opened(path) as archive:
            return [entry.filename for entry in archive.entries]
    found = [one.path.absolute().as_posix() for one in expand([path], recursive=True).sources if one.path is not None]
    if not found:
        raise ReadError("missing", "there is no image in the folder")
    if len(found) > MAX_FILES:
        raise ReadError("too_large", f"the folder holds more than {MAX_FILES:,} images")
    return found


def titles(names: Sequence[str]) -> list[str]:
    """Return a title for each of :func:`names`: its name without suffix, with the folder where several are equal."""
    paths = [PurePosixPath(name) for name in names]
    count = Counter(path.stem for path in paths)
    titled = [path.stem if count[path.stem] == 1 else f"{path.parent.name}/{path.stem}" for path in paths]
    return [printable(title.removeprefix("/"))[:100] for title in titled]


def place(path: Path | None, number: int, archive: Archive | ReadError | None) -> str | None:
    """Return a file's element of :func:`names`.

    Args:
        path: of the file; None for an entry of the archive.
        number: of the entry, from 1.
        archive: the zip file.
    """
    if path is not None:
        return path.as_posix()
    return archive.entries[number - 1].filename if isinstance(archive, Archive) else None
