"""Uploads: single images, zip files and folders on the server; each image becomes a study."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from app import archives
from app.batches import MAX_FILES
from app.readers import Readers, always
from app.review import ReviewError
from encoder.errors import LlavaRadError, ReadError
from encoder.files import reported, sync
from encoder.reader.sandbox import MAX_FILE_BYTES
from llava_rad.generation.sources import Source
from llava_rad.generation.study import prepare

if TYPE_CHECKING:
    from app.archives import Archive
    from app.batches import Waiting
    from app.images import ImageFolder
    from app.store import ContextImage, Store
    from encoder.reader.radiograph import Radiograph
    from encoder.reader.sandbox import Reader

MAX_ZIP_BYTES = 8 << 30
_RETRY_S = 5.0


class TooLarge(LlavaRadError):
    """The upload or request is larger than its limit."""


class Uploads:
    """Reads uploaded images and creates studies; one image of a user at a time, users in turn.

    Files of batches are kept on disk until they are read, so that a batch continues after a crash.

    Args:
        incoming: folder for files that are being received or read; emptied at the start.
        kept: folder for accepted files of batches that wait to be read.
        store: receives the studies.
        images: receives their pixels.
        readers: decode image files in sandboxed processes, one file of a user at a time.
        on_study: called after a file of a batch has become a study, whose draft is in the queue.
        keep_names: name studies after their files; file names may identify a patient.
        identifiers: keep patient and study identifiers, for DICOM and FHIR documents.
    """

    def __init__(
        self,
        incoming: Path,
        kept: Path,
        store: Store,
        images: ImageFolder,
        readers: Readers,
        on_study: Callable[[], object],
        *,
        keep_names: bool = False,
        identifiers: bool = False,
    ) -> None:
        self._incoming, self._kept, self._store, self._images, self._readers = incoming, kept, store, images, readers
        self._on_study, self._keep_names, self._identifiers = on_study, keep_names, identifiers
        self._closed = threading.Event()
        self._lock, self._at_work = threading.Lock(), dict[str, threading.Thread]()
        store.batches.recover()
        waiting = store.batches.paths()
        for folder in (incoming, kept):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for left in folder.iterdir():
                if left not in waiting:
                    left.unlink(missing_ok=True)

    def resume(self) -> None:
        """Continue with the batches that an earlier process of the server left."""
        for owner in self._store.batches.owners():
            self._begin(owner)

    def close(self) -> None:
        """Stop reading batches after their current image; they continue after the next start."""
        self._closed.set()
        with self._lock:
            at_work = list(self._at_work.values())
        for thread in at_work:
            thread.join(timeout=15)

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

    @staticmethod
    async def receive(
        chunks: AsyncIterator[bytes], file: IO[bytes], limit: int = MAX_FILE_BYTES, *, whole: bool = False
    ) -> None:
        """Write an upload to a file.

        Args:
            chunks: of the upload.
            file: receives them.
            limit: largest number of bytes.
            whole: receive a file that is too large to its end, so that its sender sees the answer.

        Raises:
            TooLarge: if it is longer than ``limit`` bytes.
        """
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > limit and not (whole and size <= MAX_ZIP_BYTES):
                break
            if size <= limit:
                file.write(chunk)
        if size > limit:
            raise TooLarge(f"the upload holds more than {limit >> 20} MiB")
        file.flush()

    def study(
        self, owner: str, path: Path, *, file_name: str | None = None, name: str | None = None, force: bool = False,
        file: tuple[str, int] | None = None, wanted: Callable[[], bool] = always,
    ) -> str:  # fmt: skip
        """Create a study from an image file.

        Args:
            owner: of the study.
            path: of the image file.
            file_name: uploaded name of the file, used as the study's name if names are kept.
            name: of the study, instead.
            force: accept images that are not frontal chest radiographs.
            file: batch and number, if it is a file of a batch: its draft is requested as well.
            wanted: returns False if nobody waits for the study any more.

        Returns:
            The study's id.

        Raises:
            ReadError: if the file is refused.
        """
        with self._readers.turn(owner, wanted) as reader:
            image = reader.read(path, force=force)
            identity, warnings = self._identity(reader, path)
        return self._store.create(
            owner,
            name=name or (file_name if self._keep_names else None),
            sha256=image.sha256,
            facts=image.facts.to_dict(),
            warnings=[*image.warnings, *warnings],
            image=self._images.keep(image) | identity,
            file=file,
        )

    def _identity(self, reader: Reader, path: Path) -> tuple[dict[str, Any], list[str]]:
        """Return the identifiers to keep, and a warning if a DICOM file has none that can be used."""
        if not self._identifiers:
            return {}, []
        try:
            return {"identity": reader.identity(path).to_dict()}, []
        except ReadError as error:
            return {}, [] if error.reason == "not_an_image" else [str(error)]

    def context_image(
        self,
        owner: str,
        study: str,
        kind: ContextImage,
        path: Path,
        *,
        force: bool = False,
        revision: int | None = None,
        wanted: Callable[[], bool] = always,
    ) -> None:
        """Add a lateral or prior image to a study.

        Raises:
            ReadError: if the file is refused.
            NotFound: if the study does not exist.
            StaleError: if the study has changed since the revision.
            ReviewError: if it is signed or discarded.
        """
        with self._readers.turn(owner, wanted) as reader:
            image: Radiograph = prepare(
                kind, Source(1, path), lambda source, forced: reader.read(path, force=forced), force=force
            )
        kept: dict[str, Any] = {
            "image": self._images.keep(image),
            "facts": image.facts.to_dict(),
            "warnings": list(image.warnings),
            "sha256": image.sha256,
        }
        self._store.set_context(owner, study, kind, kept, revision=revision)

    def accept(self, owner: str, batch: str, number: int, path: Path, *, file_name: str | None) -> None:
        """Keep a received file of a batch on disk, to be read in the background.

        Without effect if a file of that number has been accepted before.

        Raises:
            NotFound: if the batch does not exist.
            ReviewError: if it has no file of that number.
            LlavaRadError: if the disk refuses.
        """
        kept = self._keep(path)
        try:
            name = file_name if self._keep_names else None
            if self._store.batches.accept(owner, batch, number, kept, name):
                self._begin(owner)
                return
        except BaseException:
            kept.unlink(missing_ok=True)
            raise
        kept.unlink(missing_ok=True)

    def unpack(self, owner: str, archive: Path, *, received: bool = True) -> str:
        """Start reading the images of a zip file in the background.

        Args:
            owner: of the batch.
            archive: the zip file.
            received: it was uploaded: keep it until its images are read, then remove it.

        Returns:
            The batch's id.

        Raises:
            ReadError: if the file is no zip file, is empty, or too large.
            LlavaRadError: if the disk refuses.
        """
        with archives.opened(archive) as opened:
            stems = [Path(entry.filename).stem[:100] for entry in opened.entries]
        files = [(None, stem if self._keep_names else None) for stem in stems]
        source = self._keep(archive) if received else archive.absolute()
        try:
            return self._create(owner, source, files)
        except BaseException:
            if received:
                source.unlink(missing_ok=True)
            raise

    def folder(self, owner: str, folder: Path) -> str:
        """Start reading the images of a folder and its subfolders in the background.

        Returns:
            The batch's id.

        Raises:
            ReadError: if it has none, or too many.
        """
        from llava_rad.generation.sources import expand

        found = expand([folder], recursive=True).sources if folder.is_dir() else []
        paths = [source.path.absolute() for source in found if source.path is not None]
        if not paths:
            raise ReadError("missing", "there is no image in the folder")
        if len(paths) > MAX_FILES:
            raise ReadError("too_large", f"the folder holds more than {MAX_FILES:,} images")
        files = [(path, path.stem if self._keep_names else None) for path in paths]
        return self._create(owner, folder.absolute(), files)

    def _keep(self, path: Path) -> Path:
        """Move a received file to the folder of accepted ones; it is on the disk afterwards."""
        kept = self._kept / secrets.token_hex(16)
        with reported("the upload"):
            sync(path)
            path.replace(kept)
            sync(self._kept)
        return kept

    def _create(self, owner: str, source: Path, files: Sequence[tuple[Path | None, str | None]]) -> str:
        batch = self._store.batches.create(owner, len(files), source=source, files=files)
        self._begin(owner)
        return batch

    def _begin(self, owner: str) -> None:
        """Start a thread that reads the user's waiting files, if none does."""
        with self._lock:
            if owner not in self._at_work and not self._closed.is_set():
                thread = threading.Thread(target=self._work, args=(owner,), name="batches", daemon=True)
                self._at_work[owner] = thread
                thread.start()

    def _work(self, owner: str) -> None:
        with contextlib.ExitStack() as held:
            archive: tuple[Path, Archive | ReadError] | None = None
            while not self._closed.is_set():
                try:
                    with self._lock:
                        file = self._store.batches.next(owner)
                        if file is None:
                            del self._at_work[owner]
                            return
                    if file.archive is not None and (archive is None or archive[0] != file.archive):
                        held.close()
                        archive = (file.archive, _opened(file.archive, held))
                    self._read(file, archive[1] if archive else None)
                except (LlavaRadError, OSError, sqlite3.Error):
                    # the disk is full or the database locked: the file keeps waiting
                    self._closed.wait(_RETRY_S)

    def _read(self, file: Waiting, archive: Archive | ReadError | None) -> None:
        """Make a study of a file, or record why it is refused."""
        path, sha256 = file.path, None
        with contextlib.ExitStack() as stack:
            try:
                if path is None:
                    if not isinstance(archive, archives.Archive):
                        raise archive or ReadError("missing", "the file is no longer on the server's disk")
                    unpacked, path = stack.enter_context(self.file())
                    archive.copy(file.number, unpacked)
                sha256 = Source(file.number, path).sha256()
                self.study(file.owner, path, file_name=file.name, file=(file.batch, file.number))
            except ReadError as error:
                self._refuse(file, sha256, str(error))
            except (LlavaRadError, OSError, sqlite3.Error) as error:
                if not isinstance(error, ReviewError):  # it has been read already
                    raise
            except Exception as error:  # a fault of ours must not stop the files after it
                self._refuse(file, sha256, f"unexpected {type(error).__name__}")
        self._on_study()
        self._remove(file)

    def _refuse(self, file: Waiting, sha256: str | None, reason: str) -> None:
        self._store.batches.refuse(file.owner, file.batch, file.number, sha256=sha256, reason=reason)

    def _remove(self, file: Waiting) -> None:
        """Remove what was uploaded once it is read; a folder or zip file of the server's own disk stays."""
        for path in (file.path, file.archive if self._store.batches.ended(file.batch) else None):
            if path is not None and path.parent == self._kept:
                path.unlink(missing_ok=True)


def _opened(path: Path, held: contextlib.ExitStack) -> Archive | ReadError:
    try:
        return held.enter_context(archives.opened(path))
    except ReadError as error:
        return error
