"""Fetching images, and drafts for new images; every step may be killed and repeated without duplicates."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.errors import LlavaRadError, ReadError
from llava_rad.generation.report_writer import Failure
from llava_rad.generation.sources import Source
from llava_rad.outputs.document import Document
from llava_rad.outputs.files import write_whole
from llava_rad.outputs.formats import archive_formats
from llava_rad.pacs.client import MODALITIES, Instance, Pacs

if TYPE_CHECKING:
    from encoder.reader.identity import Identity
    from llava_rad.generation.report_writer import ReportWriter
    from llava_rad.outputs.report import Report

Tell = Callable[[str], None]


@dataclass
class Count:
    """Numbers of new, already processed and refused images."""

    new: int = 0
    known: int = 0
    refused: int = 0


def wanted(pacs: Pacs, *, studies: Sequence[str], date: str | None, modalities: Sequence[str]) -> Iterator[Instance]:
    """Yield the images of the named studies, or of all studies that a search finds."""
    for study in studies or pacs.studies(date=date, modalities=modalities):
        yield from pacs.images(study, modalities)


def pull(
    pacs: Pacs, folder: Path, *, studies: Sequence[str] = (), date: str | None = None,
    modalities: Sequence[str] = MODALITIES,
) -> Count:  # fmt: skip
    """Fetch images into a folder, except those that it holds.

    Raises:
        PacsError: if a request fails; fetched images stay.
    """
    count = Count()
    for instance in wanted(pacs, studies=studies, date=date, modalities=modalities):
        path = folder / f"{name_of(instance.instance)}.dcm"
        if path.exists():  # files are written atomically
            count.known += 1
            continue
        write_whole(path, pacs.image(instance), overwrite=True)
        count.new += 1
    return count


def watch_once(
    pacs: Pacs, folder: Path, writer: ReportWriter, *, date: str | None = None, modalities: Sequence[str] = MODALITIES,
    store: bool = False, tell: Tell = lambda text: None,
) -> Count:  # fmt: skip
    """Write drafts for images without one, and optionally store them in the archive.

    An image is recorded as processed once its report is in the folder and, with ``store``, in the archive. The UIDs of
    stored documents are derived from image and model, so that a repeated upload is a duplicate of the first.

    Args:
        pacs: the archive.
        folder: of the reports and of the record of processed images.
        writer: generates the reports.
        date: of studies, see ``Pacs.studies``.
        modalities: of images.
        store: store documents of all DICOM output formats, with the identifiers of patient and study.
        tell: receives one line per refused image.

    Raises:
        PacsError: if a request fails; processed images stay processed.
    """
    from encoder.reader.sandbox import Reader

    count = Count()
    processed = ProcessedImages(
        folder / "watch.sqlite", json.dumps(writer.settings() | {"store": store}, sort_keys=True)
    )
    with closing(processed), Reader() as reader:
        for instance in wanted(pacs, studies=(), date=date, modalities=modalities):
            if processed.outcome(instance.instance):
                count.known += 1
                continue
            content = pacs.image(instance)
            (outcome,) = writer.write([Source(1, data=content)])
            if isinstance(outcome, Failure):
                tell(f"image {name_of(instance.instance)[:12]}: {outcome.error}")
                processed.done(instance.instance, f"refused: {outcome.error.reason}")
                count.refused += 1
                continue
            write_whole(
                folder / f"{name_of(instance.instance)}.json", (outcome.to_json() + "\n").encode(), overwrite=True
            )
            if store:
                try:
                    pacs.store(_documents(outcome, reader.identity(content)))
                except ReadError as error:
                    tell(f"image {name_of(instance.instance)[:12]}: {error}")
            processed.done(instance.instance, "written")
            count.new += 1
    return count


def _documents(report: Report, identity: Identity) -> Sequence[bytes]:
    document = Document.of(report, datetime.now().astimezone(), identity=identity)
    return [content for row in archive_formats() for content in row.load()().files(document)]


class ProcessedImages:
    """Record of processed images, an SQLite file.

    An image is identified by the SHA-256 of its SOP Instance UID, together with the settings: another model processes
    all images again.

    Args:
        path: of the file.
        settings: text that identifies model and options.

    Raises:
        LlavaRadError: if the file cannot be used.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self._settings = hashlib.sha256(settings.encode()).hexdigest()
        try:
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS done "
                "(image TEXT, settings TEXT, outcome TEXT, PRIMARY KEY (image, settings))"
            )
        except sqlite3.Error as error:
            raise LlavaRadError(f"the journal of the folder cannot be used ({type(error).__name__})") from None

    def outcome(self, instance: str) -> str | None:
        """Return the outcome of an image, or None if it is not processed yet."""
        found = self._connection.execute(
            "SELECT outcome FROM done WHERE image = ? AND settings = ?", (name_of(instance), self._settings)
        ).fetchone()
        return None if found is None else str(found[0])

    def done(self, instance: str, outcome: str) -> None:
        """Record that an image is processed; the record is on the disk when this returns."""
        self._connection.execute(
            "INSERT OR REPLACE INTO done VALUES (?, ?, ?)", (name_of(instance), self._settings, outcome)
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def name_of(instance: str) -> str:
    """Return the name of an image in files and table, which does not reveal its UID."""
    return hashlib.sha256(instance.encode()).hexdigest()[:32]
