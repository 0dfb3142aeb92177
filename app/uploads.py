"""Uploads: single images, zip files and folders on the server; each image becomes a study."""

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
    """The upload or request is larger than its limit."""


class Uploads:
    """Reads uploaded images and creates studies.

    Args:
        incoming: folder for files that are being read; emptied at the start.
        store: receives the studies.
        images: receives their pixels.
        reader: decodes image files in a sandboxed process.
        on_study: called with owner, study and batch after a file of a batch has become a study.
        keep_names: name studies after their files; file names may identify a patient.
        identifiers: keep patient and study identifiers, for DICOM and FHIR documents.
    """

    def __init__(
        self,
        incoming: Path,
        store: Store,
        images: ImageFolder,
        reader: Reader,
        on_study: Callable[[str, str, str], object],
        *,
        keep_names: bool = False,
        identifiers: bool = False,
    ) -> None:
        self._incoming, self._store, self._images, self._reader = incoming, store, images, reader
        self._on_study, self._keep_names, self._identifiers = on_study, keep_names, identifiers
        self._closed = threading.Event()
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in incoming.iterdir():
            left.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop reading batches after their current image."""
        self._closed.set()

    @contextlib.contextmanager
    def file(self) -> Iterator[tuple[IO[bytes], Path]]:
        """Open a temporary file for one upload; yields the file and its path, removed at the end of the block."""
        number, name = tempfile.mkstemp(dir=self._incoming)
        try:
            with os.fdopen(number, "w+b") as file:
                yield file, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def path(self) -> Path:
        """Return a new path for an outgoing file, in the folder that is emptied at the start."""
        return self._incoming / f"out-{secrets.token_hex(16)}"

    async def receive(self, chunks: AsyncIterator[bytes], file: IO[bytes], limit: int = MAX_FILE_BYTES) -> None:
        """Write an upload to a file.

        Raises:
            TooLarge: if it is longer than ``limit`` bytes.
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
        """Create a study from an image file.

        Args:
            owner: of the study.
            path: of the image file.
            file_name: uploaded name of the file, used as the study's name if names are kept.
            name: of the study, instead.
            force: accept images that are not frontal chest radiographs.

        Returns:
            The study's id.

        Raises:
            ReadError: if the file is refused.
        """
        image = self._reader.read(path, force=force)
        identity, warnings = self._identity(path)
        return self._store.create(
            owner,
            name=name or (file_name if self._keep_names else None),
            sha256=image.sha256,
            facts=image.facts.to_dict(),
            warnings=[*image.warnings, *warnings],
            image=self._images.keep(image) | identity,
        )

    def _identity(self, path: Path) -> tuple[dict[str, Any], list[str]]:
        """Return the identifiers to keep, and a warning if a DICOM file has none that can be used."""
        if not self._identifiers:
            return {}, []
        try:
            return {"identity": self._reader.identity(path).to_dict()}, []
        except ReadError as error:
            return {}, [] if error.reason == "not_an_image" else [str(error)]

    def context_image(self, owner: str, study: str, kind: ContextImage, path: Path, *, force: bool = False) -> None:
        """Add a lateral or prior image to a study.

        Raises:
            ReadError: if the file is refused.
            NotFound: if the study does not exist.
            ReviewError: if it is signed or discarded.
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
        """Create a study from a file of a batch; a refused file is recorded in the batch instead of raised."""
        try:
            study = self.study(owner, path, file_name=file_name)
        except ReadError as error:
            self._store.jobs.batch_failed(
                owner, batch, number=number, sha256=Source(number, path).sha256(), reason=str(error)
            )
            return
        self._store.jobs.batch_read(owner, batch)
        self._on_study(owner, study, batch)

    def unpack(self, owner: str, archive: Path) -> str:
        """Start reading the images of a zip file in the background.

        Returns:
            The batch's id.

        Raises:
            ReadError: if the file is no zip file, is empty, or exceeds ``MAX_FILES`` or ``MAX_UNPACKED``.
        """
        entries = _entries(archive)
        batch = self._store.jobs.create_batch(owner, len(entries))
        # the request removes the file when it ends: the open descriptor keeps its content
        held = archive.open("rb")
        threading.Thread(target=self._unpack, args=(owner, batch, held, entries), name="unpack", daemon=True).start()
        return batch

    def folder(self, owner: str, folder: Path) -> str:
        """Start reading the images of a folder and its subfolders in the background.

        Returns:
            The batch's id.

        Raises:
            ReadError: if it has none.
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

    def _unpack(self, owner: str, batch: str, held: IO[bytes], entries: list[zipfile.ZipInfo]) -> None:
        with held, zipfile.ZipFile(held) as archive:
            for number, entry in enumerate(entries, 1):
                if self._closed.is_set():
                    return
                with self.file() as (file, path):
                    try:
                        _copy(archive, entry, file)
                    except (LlavaRadError, zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
                        # RuntimeError: encrypted; NotImplementedError: unsupported compression
                        reason = "the file cannot be taken out of the archive, or is too large"
                        self._store.jobs.batch_failed(owner, batch, number=number, sha256=None, reason=reason)
                        continue
                    self.of_batch(owner, batch, number, path, file_name=Path(entry.filename).stem)


def _entries(archive: Path) -> list[zipfile.ZipInfo]:
    """List the entries that may be images. Names may repeat: an entry is read by its position, never by its name."""
    try:
        with zipfile.ZipFile(archive) as opened:
            found = [
                entry for entry in opened.infolist()
                if not entry.is_dir() and not Path(entry.filename).name.startswith(".")
                and "__MACOSX" not in entry.filename and Path(entry.filename).name.upper() != "DICOMDIR"
            ]  # fmt: skip
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise ReadError("corrupt", "the file is not a readable zip file") from None
    if not found:
        raise ReadError("missing", "there is no file in the archive")
    # zipfile reads no more of an entry than its stated size
    if len(found) > MAX_FILES or sum(entry.file_size for entry in found) > MAX_UNPACKED:
        limits = f"{MAX_FILES:,} files or {MAX_UNPACKED >> 30} GiB"
        raise ReadError("too_large", f"the archive holds more than {limits}")
    return found


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: IO[bytes]) -> None:
    """Unpack one entry, up to ``MAX_FILE_BYTES`` whatever size the archive states."""
    size = 0
    with archive.open(entry) as content:
        while chunk := content.read(_CHUNK):
            size += len(chunk)
            if size > MAX_FILE_BYTES:
                raise TooLarge("too large")
            file.write(chunk)
    file.flush()
