"""Pulling images, and watching for new ones: each step may be killed and is done again, none leaves anything twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.errors import ReadError
from llava_rad.generation.report_writer import Failure
from llava_rad.generation.sources import Source
from llava_rad.outputs.document import Document
from llava_rad.outputs.files import write_whole
from llava_rad.outputs.formats import archive_formats
from llava_rad.pacs.client import MODALITIES, Instance, Pacs
from llava_rad.pacs.processed import Journal, name_of

if TYPE_CHECKING:
    from encoder.reader.identity import Identity
    from llava_rad.generation.report_writer import ReportWriter
    from llava_rad.outputs.report import Report

Tell = Callable[[str], None]


@dataclass
class Count:
    """What became of images."""

    new: int = 0
    known: int = 0
    refused: int = 0


def wanted(pacs: Pacs, *, studies: Sequence[str], date: str | None, modalities: Sequence[str]) -> Iterator[Instance]:
    """The images of the named studies, or of all that a search finds."""
    for study in studies or pacs.studies(date=date, modalities=modalities):
        yield from pacs.images(study, modalities)


def pull(
    pacs: Pacs, folder: Path, *, studies: Sequence[str] = (), date: str | None = None,
    modalities: Sequence[str] = MODALITIES,
) -> Count:  # fmt: skip
    """Fetch images into a folder; those that are there are not fetched again.

    Raises:
        PacsError: the archive does not answer as it should; what has come stays.
    """
    count = Count()
    for instance in wanted(pacs, studies=studies, date=date, modalities=modalities):
        path = folder / f"{name_of(instance.instance)}.dcm"
        if path.exists():  # files are never half there
            count.known += 1
            continue
        write_whole(path, pacs.image(instance), overwrite=True)
        count.new += 1
    return count


def watch_once(
    pacs: Pacs, folder: Path, writer: ReportWriter, *, date: str | None = None, modalities: Sequence[str] = MODALITIES,
    store: bool = False, tell: Tell = lambda text: None,
) -> Count:  # fmt: skip
    """Write drafts for the images that have none yet, and store them as structured reports where asked for.

    A report is in the folder and, with ``store``, in the archive before its image counts as done. Structured reports
    have identifiers that follow from image and model, so that a second storing is none.

    Args:
        pacs: the archive.
        folder: for reports, journal and nothing else.
        writer: the model.
        date: of studies, see ``Pacs.studies``.
        modalities: of images.
        store: also store structured reports beside the images; they carry the identifiers of patient and study.
        tell: told of refusals, one line each.

    Raises:
        PacsError: the archive does not answer as it should; what is done stays done.
    """
    from encoder.reader.sandbox import Reader

    count = Count()
    journal = Journal(folder / "watch.sqlite", json.dumps(writer.settings() | {"store": store}, sort_keys=True))
    with closing(journal), Reader() as reader:
        for instance in wanted(pacs, studies=(), date=date, modalities=modalities):
            if journal.outcome(instance.instance):
                count.known += 1
                continue
            content = pacs.image(instance)
            (outcome,) = writer.write([Source(1, data=content)])
            if isinstance(outcome, Failure):
                tell(f"image {name_of(instance.instance)[:12]}: {outcome.error}")
                journal.done(instance.instance, f"refused: {outcome.error.reason}")
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
            journal.done(instance.instance, "written")
            count.new += 1
    return count


def _documents(report: Report, identity: Identity) -> Sequence[bytes]:
    document = Document.of(report, datetime.now().astimezone(), identity=identity)
    return [content for row in archive_formats() for content in row.load()().files(document)]
