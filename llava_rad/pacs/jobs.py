"""Fetching images, storing documents, drafts for new images; every step may be killed and repeated without duplicates.

A fault of one image, file or study is said and counted, and the others are processed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from encoder.errors import LlavaRadError, ModelError, ReadError
from llava_rad.generation.report_writer import Failure
from llava_rad.generation.sources import Source
from llava_rad.outputs.document import Document
from llava_rad.outputs.files import OutputError, write_whole
from llava_rad.outputs.formats import archive_formats
from llava_rad.pacs.client import MODALITIES, Instance, Pacs
from llava_rad.pacs.completeness import fault_of, is_whole_file
from llava_rad.pacs.processed import READ_TRIES, RETRIED, Pauses, ProcessedImages, RecordError, name_of
from llava_rad.pacs.transport import PacsError, PacsUsageError, SlowError, Tell, UnreachableError

if TYPE_CHECKING:
    from encoder.reader.sandbox import Reader
    from llava_rad.generation.report_writer import ReportWriter
    from llava_rad.outputs.report import Report

SLOW_IN_A_ROW = 3
"""Requests without an answer in time after which a run ends."""


@dataclass
class Count:
    """Numbers of images: new, already processed, refused, failed, and waiting to be tried again."""

    new: int = 0
    known: int = 0
    refused: int = 0
    failed: int = 0
    waiting: int = 0
    _slow: int = 0
    _progress: int = 0

    def fail(self, error: LlavaRadError) -> None:
        """Count a failure.

        Raises:
            PacsError: if the archive is out of reach, or fails to answer several times in a row.
        """
        self.failed += 1
        progress = self.new + self.refused
        if not isinstance(error, SlowError) or progress != self._progress:
            self._slow = 0
        self._slow, self._progress = self._slow + isinstance(error, SlowError), progress
        if isinstance(error, UnreachableError | PacsUsageError) or self._slow == SLOW_IN_A_ROW:
            raise error

    @property
    def exit_code(self) -> int:
        """Exit code of a command: 0, 1 if nothing else than failures came, or 3 if some images or files failed."""
        if self.failed and not (self.new or self.known or self.refused):
            return 1
        return 3 if self.failed or self.refused else 0


def wanted(
    pacs: Pacs, count: Count, tell: Tell, *, studies: Sequence[str], date: str | None, modalities: Sequence[str]
) -> Iterator[Instance]:
    """Yield the images of the named studies, or of all studies that a search finds.

    A study whose images cannot be listed is counted and said; so is a named one without any.

    Raises:
        PacsError: see ``Count.fail``.
    """
    found = iter(dict.fromkeys(studies) if studies else pacs.studies(date=date, modalities=modalities))
    while True:
        try:
            study = next(found, None)
        except PacsError as error:
            if not (count.new or count.known or count.refused or count.waiting):
                raise
            tell(f"search: {error}")
            count.fail(error)
            return
        if study is None:
            return
        number = 0
        try:
            for number, image in enumerate(pacs.images(study, modalities), 1):  # noqa: B007
                yield image
            if studies and not number:
                raise PacsError(f"the archive has no such study, or none with {', '.join(modalities)} images")
        except PacsError as error:
            tell(f"study {name_of(study)[:12]}: {error}")
            count.fail(error)


def pull(
    pacs: Pacs, folder: Path, *, studies: Sequence[str] = (), date: str | None = None,
    modalities: Sequence[str] = MODALITIES, tell: Tell = lambda text: None,
) -> Count:  # fmt: skip
    """Fetch images into a folder, except those that it holds; a file there that is no whole DICOM file is replaced.

    Args:
        pacs: the archive.
        folder: of the images.
        studies: their Study Instance UIDs; empty for those that a search finds.
        date: of studies that are searched, see ``Pacs.studies``.
        modalities: of images.
        tell: receives one line for each failure.

    Raises:
        PacsError: if the archive is out of reach or does not answer; fetched images stay.
    """
    count = Count()
    for instance in wanted(pacs, count, tell, studies=studies, date=date, modalities=modalities):
        name = name_of(instance.instance)
        path = folder / f"{name}.dcm"
        if _is_kept(path):
            count.known += 1
            continue
        try:
            content = pacs.image(instance)
        except PacsError as error:
            tell(f"image {name[:12]}: {error}")
            count.fail(error)
        else:
            write_whole(path, content, overwrite=True)
            count.new += 1
    return count


def _is_kept(path: Path) -> bool:
    try:
        return path.is_file() and is_whole_file(path)
    except OSError:
        return False


def push(files: Sequence[Path], store: Callable[[Path], None], *, tell: Tell = lambda text: None) -> Count:
    """Store files one after the other.

    Args:
        files: paths.
        store: stores one file.
        tell: receives one line for each failure, with the path as it was given.

    Raises:
        PacsError: if the archive is out of reach or does not answer; stored files stay.
    """
    count = Count()
    for path in files:
        try:
            _check(path)
            store(path)
        except PacsError as error:
            name = str(path)
            tell(
                f"{name if name.isprintable() else ascii(name)}: {error}"
            )  # a line break would begin a line of its own
            count.fail(error)
        else:
            count.new += 1
    return count


def _check(path: Path) -> None:
    try:
        if not is_whole_file(path):
            raise PacsError(fault_of(path.read_bytes()) or "changed while it was read")
    except OSError as error:
        raise PacsError(f"the file cannot be read ({error.strerror})") from None


def watch_once(
    pacs: Pacs, folder: Path, writer: ReportWriter, *, date: str | None = None, modalities: Sequence[str] = MODALITIES,
    store: bool = False, tell: Tell = lambda text: None, pauses: Pauses | None = None,
) -> Count:  # fmt: skip
    """Write drafts for images without one, and optionally store them in the archive.

    An image is recorded as processed once its report is in the folder and, with ``store``, in the archive, or once the
    image itself is refused. After any other failure it is tried again by a later call. The UIDs of stored documents are
    derived from image and model, so that a repeated upload is a duplicate of the first.

    Args:
        pacs: the archive.
        folder: of the reports and of the record of processed images.
        writer: generates the reports.
        date: of studies, see ``Pacs.studies``.
        modalities: of images.
        store: store documents of all DICOM output formats, with the identifiers of patient and study.
        tell: receives one line per refused or failed image.
        pauses: of the images that failed in earlier calls.

    Raises:
        PacsError: if the archive is out of reach or does not answer; processed images stay processed.
        ModelError: if the model is missing or damaged.
        OutputError: if a report cannot be written.
        RecordError: if the record of processed images cannot be used.
    """
    from encoder.reader.sandbox import Reader

    count, pauses = Count(), pauses or Pauses(0.0)
    processed = ProcessedImages(
        folder / "watch.sqlite", json.dumps(writer.settings() | {"store": store}, sort_keys=True)
    )
    with closing(processed), Reader() as reader:
        for instance in wanted(pacs, count, tell, studies=(), date=date, modalities=modalities):
            name = name_of(instance.instance)
            outcome = processed.outcome(instance.instance)
            if outcome is not None and outcome.removeprefix("refused: ") not in RETRIED:
                count.known += 1
            elif pauses.waiting(name):
                count.waiting += 1
            else:
                try:
                    refusal = _draft(pacs, instance, folder / f"{name}.json", writer, reader if store else None)
                except (ModelError, OutputError, RecordError):
                    raise  # of the run, not of the image
                except Exception as error:  # one image never ends the run: named by type, counted, tried again
                    fault = error if isinstance(error, LlavaRadError) else _unexpected(error)
                    if pauses.failed(name) < READ_TRIES or not _by_reader(fault):
                        tell(f"image {name[:12]}: {fault}; it will be tried again")
                        count.fail(fault)
                        continue
                    refusal = fault
                pauses.over(name)
                if refusal is None:
                    processed.done(instance.instance, "written")
                    count.new += 1
                else:
                    tell(f"image {name[:12]}: {refusal}")
                    reason = getattr(refusal, "reason", "no document")
                    processed.done(instance.instance, f"refused{' at every try' * _by_reader(refusal)}: {reason}")
                    count.refused += 1
    return count


def _draft(
    pacs: Pacs, instance: Instance, path: Path, writer: ReportWriter, reader: Reader | None
) -> LlavaRadError | None:
    """Write the draft of an image, and store it if there is a reader of identifiers; return why the image is refused.

    Raises:
        Exception: for a fault that is not of the image.
    """
    content = pacs.image(instance)
    (outcome,) = writer.write([Source(1, data=content)])
    if isinstance(outcome, Failure):
        if _by_reader(outcome.error):
            raise outcome.error
        return outcome.error
    write_whole(path, (outcome.to_json() + "\n").encode(), overwrite=True)
    if reader is None:
        return None
    try:
        documents = _documents(outcome, content, reader)
    except LlavaRadError as error:
        if _by_reader(error):
            raise
        return error
    pacs.store(documents)
    return None


def _documents(report: Report, content: bytes, reader: Reader) -> Sequence[bytes]:
    document = Document.of(report, datetime.now().astimezone(), identity=reader.identity(content))
    return [file for row in archive_formats() for file in row.load()().files(document)]


def _by_reader(error: LlavaRadError) -> bool:
    """Tell whether the reader failed for a reason that may lie in the load of this machine."""
    return isinstance(error, ReadError) and error.reason in RETRIED


def _unexpected(error: Exception) -> LlavaRadError:
    """Name an error by its type: its message may quote a header."""
    return LlavaRadError(f"unexpected {type(error).__name__}")
