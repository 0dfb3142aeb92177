"""Uploads: single images, zip files and folders on the server become studies; images of one study become one."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from app import archives
from app.batches import BatchFile
from app.grouping import Group
from app.readers import Readers, always
from app.review import ReviewError
from encoder.errors import LlavaRadError, ReadError
from encoder.files import reported, sync
from llava_rad.generation.sources import Source
from llava_rad.generation.study import prepare, read_view

if TYPE_CHECKING:
    from app.archives import Archive
    from app.batches import Waiting
    from app.grouping import Grouping
    from app.images import ImageFolder
    from app.imported import ImportedDrafts
    from app.store import ContextImage, Store
    from encoder.reader.identity import Identity
    from encoder.reader.radiograph import Radiograph
    from encoder.reader.sandbox import Reader

_RETRY_S = 5.0


class Opened(NamedTuple):
    """Study that an uploaded image belongs to.

    Attributes:
        study: its id.
        joined: the study existed before.
    """

    study: str
    joined: bool


class Uploads:
    """Reads uploaded images and creates studies; one image of a user at a time, users in turn.

    Files of batches are kept on disk until they are read, so that a batch continues after a crash.

    Args:
        incoming: folder for files that are being received or read; emptied at the start.
        kept: folder for accepted files of batches that wait to be read.
        store: receives the studies.
        images: receives their pixels.
        readers: decode image files in sandboxed processes, one file of a user at a time.
        grouping: derives the keys by which images join a study.
        on_study: called after a file of a batch has become a study, whose draft is in the queue.
        takes: returns the context images that the model takes: a draft that lacks one that came later is written anew.
        drafts: of others, which studies get as soon as an image fits.
        on_read: called when all accepted files of a user have been read.
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
        grouping: Grouping,
        on_study: Callable[[], object],
        *,
        takes: Callable[[], Collection[str]] = frozenset,
        drafts: ImportedDrafts | None = None,
        on_read: Callable[[], object] = lambda: None,
        keep_names: bool = False,
        identifiers: bool = False,
    ) -> None:
        self._incoming, self._kept, self._store, self._images, self._readers = incoming, kept, store, images, readers
        self._grouping, self._on_study, self._takes = grouping, on_study, takes
        self._drafts, self._on_read = drafts, on_read
        self._keep_names, self._identifiers = keep_names, identifiers
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

    def study(
        self, owner: str, path: Path, *, file_name: str | None = None, name: str | None = None, force: bool = False,
        file: Waiting | None = None, place: str | None = None, wanted: Callable[[], bool] = always,
    ) -> Opened:  # fmt: skip
        """Create a study from an image file, or add the image to the open study that it belongs to.

        A file that is sent again by itself opens a study of its own; in a batch it is counted only.

        Args:
            owner: of the study.
            path: of the image file.
            file_name: uploaded name of the file, used as the study's name if names are kept.
            name: of the study, instead.
            force: accept images that are not frontal chest radiographs.
            file: the file of a batch: a draft is requested as well.
            place: path of the file in the folder or zip file of a batch, by which drafts of others name it.
            wanted: returns False if nobody waits for the study any more.

        Raises:
            ReadError: if the file is refused. A lateral view is refused unless its study is open.
        """
        with self._readers.turn(owner, wanted) as reader:  # in turn: images of one study come one after the other
            group, identity, warnings, found = self._identity(reader, path)
            if file is not None and group.study is None:
                group = self._grouping.named(file.folder)
            open_study = self._store.open_study(owner, group.study)
            image = read_view(reader, path, force=force) if open_study else reader.read(path, force=force)
            if group.lateral and open_study is None and file is not None and not file.last:
                raise ReadError("lateral", "the image is a lateral view by its name")
            position = None if file is None else (file.batch, file.number)
            if open_study is not None and self._store.holds(owner, open_study, image.sha256):
                if position is not None:
                    self._store.batches.count(*position)
                    return Opened(open_study, joined=True)
                open_study = None
            part = self._part(image, identity, warnings)
            lateral = group.lateral or image.facts.view == "lateral"
            draft = None if self._drafts is None else self._drafts.find(image.sha256, place, found)
            more: dict[str, Any] = {"takes": self._takes(), "file": position}
            if open_study is not None and self._store.join(owner, open_study, part, lateral=lateral, **more):
                if self._drafts is not None and draft is not None:
                    self._drafts.give(self._store, owner, open_study, draft)
                self._on_study()
                return Opened(open_study, joined=True)
            named = name or (file_name if self._keep_names else None)
            created = self._store.create(owner, name=named, group=group, draft=draft, **more, **part)
            if file is None:
                self._begin(owner)  # laterals may have waited for it
            return Opened(created, joined=False)

    def add(
        self, owner: str, study: str, path: Path, *, force: bool = False, wanted: Callable[[], bool] = always
    ) -> None:
        """Add an image to a study: as its lateral view if it is one and the study has none, or else as a further image.

        Raises:
            ReadError: if the file is refused; also, unless forced, if it is known to be of another patient or study.
            NotFound: if the study does not exist.
            ReviewError: if it is signed or discarded, or has too many images.
        """
        with self._readers.turn(owner, wanted) as reader:
            group, identity, warnings, _ = self._identity(reader, path)
            if not force:
                self._store.require_group(owner, study, group, same_study=True)
            image = read_view(reader, path, force=force)
            part = self._part(image, identity, warnings)
            self._store.add_image(owner, study, part, lateral=image.facts.view == "lateral", takes=self._takes())
        self._on_study()

    def _part(self, image: Radiograph, identity: dict[str, Any], warnings: Sequence[str]) -> dict[str, Any]:
        """Keep an image's pixels; returns what a study says about it."""
        return {
            "image": self._images.keep(image) | identity, "facts": image.facts.to_dict(),
            "warnings": [*image.warnings, *warnings], "sha256": image.sha256,
        }  # fmt: skip

    def _identity(self, reader: Reader, path: Path) -> tuple[Group, dict[str, Any], list[str], Identity | None]:
        """Return group and identifiers of an image, those to keep, and a warning if a DICOM file has none of use."""
        try:
            found = reader.identity(path)
        except ReadError as error:
            unusable = self._identifiers and error.reason != "not_an_image"
            return Group(), {}, [str(error)] if unusable else [], None
        return self._grouping.of(found), {"identity": found.to_dict()} if self._identifiers else {}, [], found

    def context_image(
        self, owner: str, study: str, kind: ContextImage, path: Path, *, force: bool = False,
        revision: int | None = None, wanted: Callable[[], bool] = always,
    ) -> None:  # fmt: skip
        """Add a lateral or prior image to a study.

        Raises:
            ReadError: if the file is refused.
            NotFound: if the study does not exist.
            StaleError: if the study has changed since the revision.
            ReviewError: if it is signed or discarded.
        """
        with self._readers.turn(owner, wanted) as reader:
            group, identity, warnings, _ = self._identity(reader, path)
            if not force:
                self._store.require_group(owner, study, group, same_study=False)
            image: Radiograph = prepare(
                kind, Source(1, path), lambda source, forced: reader.read(path, force=forced), force=force
            )
        self._store.set_context(owner, study, kind, self._part(image, identity, warnings), revision=revision)

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
        names = archives.names(archive)
        files = self._files([None] * len(names), names)
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
        names = archives.names(folder)
        files = self._files([Path(name) for name in names], names)
        return self._create(owner, folder.absolute(), files)

    def _keep(self, path: Path) -> Path:
        """Move a received file to the folder of accepted ones; it is on the disk afterwards."""
        kept = self._kept / secrets.token_hex(16)
        with reported("the upload"):
            sync(path)
            path.replace(kept)
            sync(self._kept)
        return kept

    def _files(self, paths: Sequence[Path | None], names: Sequence[str]) -> list[BatchFile]:
        """Return the files of a batch; ``names`` are their paths in the folder or zip file."""
        titles = archives.titles(names) if self._keep_names else [None] * len(names)
        return [BatchFile(*file) for file in zip(paths, titles, self._grouping.folders(names), strict=True)]

    def _create(self, owner: str, source: Path, files: Sequence[BatchFile]) -> str:
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
                    if file is None:
                        self._on_read()
                        return
                    if file.archive is not None and (archive is None or archive[0] != file.archive):
                        held.close()
                        archive = (file.archive, archives.tried(file.archive, held))
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
                place = archives.place(file.path, file.number, archive)
                if sha256 is None or not self._known(file, sha256, place):
                    self.study(file.owner, path, file_name=file.name, file=file, place=place)
            except ReadError as error:
                if error.reason == "lateral" and not file.last and self._waits(file, path):
                    return
                self._refuse(file, sha256, str(error))
            except (LlavaRadError, OSError, sqlite3.Error) as error:
                if not isinstance(error, ReviewError):  # it has been read already
                    raise
            except Exception as error:  # a fault of ours must not stop the files after it
                self._refuse(file, sha256, f"unexpected {type(error).__name__}")
        self._on_study()
        self._remove(file)

    def _known(self, file: Waiting, sha256: str, place: str | None) -> bool:
        """Count a file on the server's own disk that is in a study already: it was read before a restart."""
        source = file.archive or file.path
        sent = source is None or source.parent == self._kept
        if sent or (study := self._store.study_with(file.owner, sha256)) is None:
            return False
        self._store.batches.count(file.batch, file.number)
        if self._drafts is not None and (draft := self._drafts.find(sha256, place)) is not None:
            self._drafts.give(self._store, file.owner, study, draft)
        return True

    def _waits(self, file: Waiting, path: Path | None) -> bool:
        """Let a lateral view wait for the frontal one of its study; returns False if its study is not known."""
        assert path is not None
        with self._readers.turn(file.owner) as reader:
            key = self._identity(reader, path)[0].study or self._grouping.named(file.folder).study
        if key is None:
            return False
        self._store.batches.wait_for(file.batch, file.number, key)
        return True

    def refuse(self, owner: str, batch: str, number: int, reason: str) -> None:
        """Refuse a file of a batch that has not been kept; raises as :meth:`app.batches.Batches.refuse`."""
        self._store.batches.refuse(owner, batch, number, sha256=None, reason=reason)
        self._begin(owner)  # laterals may have waited for it

    def _refuse(self, file: Waiting, sha256: str | None, reason: str) -> None:
        named = f"{file.name}: {reason}" if file.name else reason
        self._store.batches.refuse(file.owner, file.batch, file.number, sha256=sha256, reason=named)

    def _remove(self, file: Waiting) -> None:
        """Remove what was uploaded once it is read; a folder or zip file of the server's own disk stays."""
        for path in (file.path, file.archive if self._store.batches.ended(file.batch) else None):
            if path is not None and path.parent == self._kept:
                path.unlink(missing_ok=True)
