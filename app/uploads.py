"""Images that come in: one at a time, from a zip file, or from a folder on the server; each becomes a study."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from encoder.errors import LlavaRadError, ReadError
from encoder.reader.sandbox import MAX_FILE_BYTES
from llava_rad.generation.sources import Source
from llava_rad.generation.study import prepare

if TYPE_CHECKING:
    from app.images import ImageFolder
    from app.store import ContextImage, Store
    from encoder.reader.radiograph import Radiograph
    from encoder.reader.sandbox import Reader

MAX_ZIP_BYTES = 8 << 30
MAX_FILES, MAX_UNPACKED = 10_000, 64 << 30
_CHUNK = 1 << 20


class TooLarge(LlavaRadError):
    """An upload that holds more than is taken."""


class Uploads:
    """Reads what comes in and makes studies of it.

    Args:
        incoming: folder for files that are being read; emptied at the start.
        store: where studies go.
        images: where their pixels go.
        reader: decodes in a limited process.
        written: told after a study of a batch has come in, so that it is drafted.
        keep_names: call studies by their files' names, which may identify a patient.
        identifiers: keep what ties images to patient and study, for documents that go back to an archive.
    """

    def __init__(
        self,
        incoming: Path,
        store: Store,
        images: ImageFolder,
        reader: Reader,
        written: Callable[[str, str, str], object],
        *,
        keep_names: bool = False,
        identifiers: bool = False,
    ) -> None:
        self._incoming, self._store, self._images, self._reader = incoming, store, images, reader
        self._written, self._keep_names, self._identifiers = written, keep_names, identifiers
        self._closed = threading.Event()
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in incoming.iterdir():
            left.unlink(missing_ok=True)

    def close(self) -> None:
        """Let batches end after the image that they are at."""
        self._closed.set()

    @contextlib.contextmanager
    def file(self) -> Iterator[tuple[IO[bytes], Path]]:
        """A file of its own for one upload, and its path; gone afterwards."""
        number, name = tempfile.mkstemp(dir=self._incoming)
        try:
            with os.fdopen(number, "w+b") as file:
                yield file, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def path(self) -> Path:
        """A name for a file that goes out, in the folder that is emptied at the start."""
        return self._incoming / f"out-{secrets.token_hex(16)}"

    async def receive(self, chunks: AsyncIterator[bytes], file: IO[bytes], limit: int = MAX_FILE_BYTES) -> None:
        """Write an upload to a file.

        Raises:
            TooLarge: it holds more than ``limit`` bytes.
        """
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"the upload holds more than {limit >> 20} MiB")
            file.write(chunk)
        file.flush()

    def study(
        self, owner: str, path: Path, *, file_name: str | None = None, name: str | None = None, force: bool = False
    ) -> str:
        """Make a study of an image file, called by ``name``, or by its file's where those are kept.

        Returns:
            Its id.

        Raises:
            ReadError: the file is refused.
        """
        image = self._reader.read(path, force=force)
        return self._store.create(
            owner,
            name=name or (file_name if self._keep_names else None),
            sha256=image.sha256,
            facts=image.facts.to_dict(),
            warnings=list(image.warnings),
            image=self._images.keep(image) | self._identity(path),
        )

    def _identity(self, path: Path) -> dict[str, Any]:
        if not self._identifiers:
            return {}
        try:
            return {"identity": self._reader.identity(path).to_dict()}
        except ReadError:  # a picture file has none
            return {}

    def context_image(self, owner: str, study: str, kind: ContextImage, path: Path, *, force: bool = False) -> None:
        """Add a lateral or prior image to a study.

        Raises:
            ReadError: the file is refused.
        """
        image: Radiograph = prepare(
            kind, Source(1, path), lambda source, forced: self._reader.read(path, force=forced), force=force
        )
        kept: dict[str, Any] = {
            "image": self._images.keep(image),
            "facts": image.facts.to_dict(),
            "warnings": list(image.warnings),
            "sha256": image.sha256,
        }
        self._store.set_context(owner, study, kind, kept)

    def of_batch(self, owner: str, batch: str, number: int, path: Path, *, file_name: str | None) -> None:
        """As ``study``, for one file of a batch: a refusal is written down, not raised."""
        try:
            study = self.study(owner, path, file_name=file_name)
        except ReadError as error:
            self._store.jobs.batch_failed(
                owner, batch, number=number, sha256=Source(number, path).sha256(), reason=str(error)
            )
            return
        self._store.jobs.batch_read(owner, batch)
        self._written(owner, study, batch)

    def unpack(self, owner: str, archive: Path) -> str:
        """Begin to read a zip file's images in the background.

        Returns:
            The batch's id.

        Raises:
            ReadError: it is no zip file, or holds too much or nothing.
        """
        names = _entries(archive)
        batch = self._store.jobs.create_batch(owner, len(names))
        # the file's own name goes with the request that brought it: this descriptor keeps the bytes
        held = archive.open("rb")
        threading.Thread(target=self._unpack, args=(owner, batch, held, names), name="unpack", daemon=True).start()
        return batch

    def folder(self, owner: str, folder: Path) -> str:
        """Begin to read a folder's images in the background, with its subfolders.

        Returns:
            The batch's id.

        Raises:
            ReadError: there are none.
        """
        from llava_rad.generation.sources import expand

        paths = [source.path for source in expand([folder], recursive=True).sources if source.path is not None]
        if not paths or not folder.is_dir():
            raise ReadError("missing", "there is no image in the folder")
        batch = self._store.jobs.create_batch(owner, len(paths))

        def read() -> None:
            for number, path in enumerate(paths, 1):
                if self._closed.is_set():
                    return
                self.of_batch(owner, batch, number, path, file_name=path.stem)

        threading.Thread(target=read, name="folder", daemon=True).start()
        return batch

    def _unpack(self, owner: str, batch: str, held: IO[bytes], names: list[str]) -> None:
        with held, zipfile.ZipFile(held) as archive:
            for number, name in enumerate(names, 1):
                if self._closed.is_set():
                    return
                with self.file() as (file, path):
                    try:
                        _copy(archive, name, file)
                    except (LlavaRadError, zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
                        # RuntimeError: encrypted; NotImplementedError: a compression that Python has not
                        reason = "the file cannot be taken out of the archive, or is too large"
                        self._store.jobs.batch_failed(owner, batch, number=number, sha256=None, reason=reason)
                        continue
                    self.of_batch(owner, batch, number, path, file_name=Path(name).stem)


def _entries(archive: Path) -> list[str]:
    try:
        with zipfile.ZipFile(archive) as opened:
            found = [
                entry for entry in opened.infolist()
                if not entry.is_dir() and not Path(entry.filename).name.startswith(".")
                and "__MACOSX" not in entry.filename and Path(entry.filename).name.upper() != "DICOMDIR"
            ]  # fmt: skip
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise ReadError("corrupt", "this is no zip file that can be read") from None
    if not found:
        raise ReadError("missing", "there is no file in the archive")
    # zipfile reads no more of an entry than its stated size
    if len(found) > MAX_FILES or sum(entry.file_size for entry in found) > MAX_UNPACKED:
        limits = f"{MAX_FILES:,} files or {MAX_UNPACKED >> 30} GiB"
        raise ReadError("too_large", f"the archive holds more than {limits}")
    return [entry.filename for entry in found]


def _copy(archive: zipfile.ZipFile, name: str, file: IO[bytes]) -> None:
    """One entry into a file, no more than an image may have whatever the archive says of its size."""
    size = 0
    with archive.open(name) as entry:
        while chunk := entry.read(_CHUNK):
            size += len(chunk)
            if size > MAX_FILE_BYTES:
                raise TooLarge("too large")
            file.write(chunk)
    file.flush()
