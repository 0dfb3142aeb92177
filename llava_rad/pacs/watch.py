"""Drafts for new studies of an archive: one report for a study, from its images and the patient's earlier study.

Every step may be killed and repeated without duplicates. A fault of one study is reported and counted, and the others
are processed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import date as Day
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from encoder.errors import LlavaRadError, ModelError, ReadError
from llava_rad.generation.chat_server import DownError
from llava_rad.generation.grouping import Group, group
from llava_rad.generation.report_writer import Failure
from llava_rad.generation.sources import Source
from llava_rad.generation.study_writer import CHOICE
from llava_rad.outputs.document import Document
from llava_rad.outputs.files import OutputError, write_whole
from llava_rad.outputs.formats import archive_formats
from llava_rad.pacs.client import MODALITIES, Instance, Pacs
from llava_rad.pacs.jobs import Count, studies_of
from llava_rad.pacs.processed import READ_TRIES, RETRIED, Pauses, ProcessedImages, RecordError, name_of
from llava_rad.pacs.transport import PacsError, SlowError, Tell, UnreachableError
from llava_rad.reports.studies import moment

if TYPE_CHECKING:
    from encoder.reader.identity import Identity
    from encoder.reader.sandbox import Reader
    from llava_rad.generation.study_writer import StudyWriter
    from llava_rad.outputs.report import Report

SETTLE_S: Final = 60.0
"""Seconds for which a study must have had the same images before its report is written."""
MAX_IMAGES: Final = 16
MAX_BYTES: Final = 1 << 30
"""Images of a study that are fetched, and their size: the others are not used."""
PRIORS: Final = 3
"""Earlier studies that are looked at for one that is certainly of the same patient."""
_WRITTEN, _BESIDE, _LATE, _SURPLUS = "written", "in the report of its study", "too late for its report", "not used"


def watch_once(
    pacs: Pacs, folder: Path, writer: StudyWriter, *, date: str | None = None, modalities: Sequence[str] = MODALITIES,
    store: bool = False, tell: Tell = lambda text: None, pauses: Pauses | None = None, settle: float = 0.0,
    clock: Callable[[], float] = time.time,
) -> Count:  # fmt: skip
    """Write a draft for each study without one, and optionally store it in the archive.

    The images of a study are recorded as processed once its report is in the folder and, with ``store``, in the
    archive, or once all of them are refused. After any other failure the study is tried again by a later call. The UIDs
    of stored documents are derived from image and model, so that a repeated upload is a duplicate of the first. Images
    that come after the report change nothing.

    Args:
        pacs: the archive.
        folder: of the reports and of the record of processed images.
        writer: generates the reports.
        date: of studies, see ``Pacs.studies``.
        modalities: of images.
        store: store documents of all DICOM output formats, with the identifiers of patient and study.
        tell: receives a line for each refused image, failed study, late image, and choice among repeated views.
        pauses: of the studies that failed in earlier calls.
        settle: seconds for which a study must have had the same images.
        clock: seconds of the wall clock.

    Raises:
        PacsError: if the archive is out of reach or does not answer; processed images stay processed.
        ModelError: if the model is missing or damaged.
        DownError: if the server of the model cannot be reached.
        OutputError: if a report cannot be written.
        RecordError: if the record of processed images cannot be used.
    """
    from encoder.reader.sandbox import Reader

    count, pauses = Count(), pauses or Pauses(0.0)
    processed = ProcessedImages(
        folder / "watch.sqlite", json.dumps(writer.settings() | {"store": store}, sort_keys=True)
    )
    with closing(processed), Reader() as reader:
        watch = _Watch(pacs, folder, writer, processed, reader if store else None, tell, modalities)
        for study in studies_of(pacs, count, tell, studies=(), date=date, modalities=modalities):
            name = name_of(study)
            try:
                images = list(pacs.images(study, modalities))
                outcomes = {image.instance: processed.outcome(image.instance) for image in images}
                new = [image for image in images if _is_open(outcomes[image.instance])]
                count.known += len(images) - len(new)
                if not new:
                    continue
                if pauses.waiting(name) or (settle and processed.unchanged(study, outcomes, clock()) < settle):
                    count.waiting += len(new)
                    continue
                if _WRITTEN in outcomes.values():
                    processed.done(study, dict.fromkeys((image.instance for image in new), _LATE))
                    tell(f"study {name[:12]}: {len(new)} images came after its report, which stays as it is")
                    count.known += len(new)
                    continue
                found = watch.draft(study, images, last=pauses.tries(name) + 1 >= READ_TRIES)
            except (ModelError, DownError, OutputError, RecordError):
                raise  # of the run, not of the study
            except Exception as error:  # one study never ends the run: named by type, counted, tried again
                fault = error if isinstance(error, LlavaRadError) else _unexpected(error)
                tell(f"study {name[:12]}: {fault}; it will be tried again")
                pauses.failed(name)
                count.fail(fault)
                continue
            pauses.over(name)
            processed.done(study, found.outcomes)
            count.new += found.written
            count.refused += len(found.refused)
            for instance, reason in found.refused.items():
                tell(f"image {name_of(instance)[:12]}: {reason}")
    return count


def _is_open(outcome: str | None) -> bool:
    return outcome is None or outcome.removeprefix("refused: ") in RETRIED


@dataclass
class _Drafted:
    """Result of a study.

    Attributes:
        outcomes: of its images, by SOP Instance UID.
        refused: why images are refused, likewise.
        written: there is a report.
    """

    outcomes: dict[str, str]
    refused: dict[str, LlavaRadError] = field(default_factory=dict)
    written: bool = False

    def refuse(self, instance: str, error: LlavaRadError) -> None:
        """Record a refusal."""
        self.refused[instance] = error
        reason = getattr(error, "reason", "no document")
        self.outcomes[instance] = f"refused{' at every try' * _by_reader(error)}: {reason}"


@dataclass(frozen=True)
class _Watch:
    """Parts of a watch; ``reader`` reads the identifiers of documents, and is None where none are stored."""

    pacs: Pacs
    folder: Path
    writer: StudyWriter
    processed: ProcessedImages
    reader: Reader | None
    tell: Tell
    modalities: Sequence[str]

    def draft(self, study: str, images: Sequence[Instance], *, last: bool) -> _Drafted:
        """Write the draft of a study, and store it.

        Args:
            study: Study Instance UID.
            images: of the study.
            last: faults that may lie in the load of this machine refuse an image now.

        Raises:
            Exception: for a fault that is not of an image.
        """
        name = name_of(study)
        chosen = set(self.processed.begun(study, [image.instance for image in images]))
        late = {image.instance: _LATE for image in images if image.instance not in chosen}
        used = [image for image in images if image.instance in chosen]
        if late:
            self.tell(f"study {name[:12]}: {len(late)} images came after its report, which stays as it is")
        sources = self._fetched(study, used)
        if len(sources) < len(used):
            self.tell(f"study {name[:12]}: {len(used)} images are too many, the first {len(sources)} are read")
        rest = {image.instance: _SURPLUS for image in used[len(sources) :]}
        instance = {source.number: image.instance for source, image in zip(sources, used[: len(sources)], strict=True)}
        found = _Drafted(late | rest | dict.fromkeys(instance.values(), _BESIDE))
        report: Report | None = None
        own = self._group(sources, last=last)
        if own is None:
            for uid in instance.values():
                found.refuse(uid, ReadError("no_identity", "the images of its study name several patients or studies"))
            return found
        for outcome in self.writer.write([own]):
            if not isinstance(outcome, Failure):
                report = outcome
            elif _by_reader(outcome.error) and not last:
                raise outcome.error
            else:
                found.refuse(instance[outcome.source.number], outcome.error)
        if report is None:
            return found
        for warning in report.warnings:
            if warning.startswith(CHOICE):
                self.tell(f"study {name[:12]}: {warning}")
        frontal = next(source for source in sources if source.sha256() == report.input.sha256)
        found.outcomes[instance[frontal.number]] = _WRITTEN
        write_whole(self.folder / f"{name}.json", (report.to_json() + "\n").encode(), overwrite=True)
        if self.reader is not None:
            files = [*sources, *(own.prior.sources if own.prior else ())]
            try:
                documents = _documents(report, files, self.reader)
            except LlavaRadError as error:
                if _by_reader(error) and not last:
                    raise
                found.refuse(instance[frontal.number], error)
                return found
            self.processed.begin(study, chosen)
            self.pacs.store(documents)
        found.written = True
        return found

    def _fetched(self, study: str, images: Sequence[Instance], first: int = 1) -> list[Source]:
        """Fetch images of a study, numbered from ``first``, as many as the limits allow.

        Raises:
            PacsError: if one cannot be fetched, or is of another study by its header.
        """
        sources: list[Source] = []
        size = 0
        for number, image in enumerate(images[:MAX_IMAGES], first):
            content = self.pacs.image(image)
            size += len(content)
            if sources and size > MAX_BYTES:
                break
            sources.append(Source(number, data=content))
            with suppress(ReadError):  # without identifiers: whether it can be used is decided later
                if self.writer.identity(sources[-1]).study_uid != study:
                    raise PacsError("the archive sends an image of another study")
        return sources

    def _group(self, sources: Sequence[Source], *, last: bool) -> Group | None:
        """Group the images of a study, with the patient's earlier study as the prior if the model takes one.

        Returns:
            None if the images name several patients or studies.
        """
        takes = "prior" in self.writer.places
        if len(sources) == 1 and not takes:
            return Group(list(sources))

        def identify(source: Source) -> Identity:
            try:
                return self.writer.identity(source)
            except ReadError as error:
                if _by_reader(error) and not last:
                    raise _Busy(str(error)) from None
                raise

        groups = group(sources, identify, together=True)
        if len(groups) > 1:
            return None
        own = groups[0]
        if not takes or own.patient is None or own.when is None or own.when.day is None:
            return own
        until = f"{Day.fromordinal(own.when.day):%Y%m%d}"
        try:
            known = self.pacs.of_patient(own.patient[0], until, self.modalities)
            dated = {study: moment(*when) for study, when in known.items()}
            earlier = {study: when.last for study, when in dated.items() if when and when.last < own.when.first}
            for study in sorted(earlier, key=earlier.__getitem__, reverse=True)[:PRIORS]:
                more = self._fetched(study, list(self.pacs.images(study, self.modalities)), len(sources) + 1)
                both = group([*sources, *more], identify, together=True)
                if both[0].prior is not None:
                    return both[0]
        except (UnreachableError, SlowError):
            raise
        except PacsError as error:
            self.tell(f"the earlier study of a patient cannot be fetched, the report is written without it: {error}")
        return own


class _Busy(LlavaRadError):
    """Identifiers could not be read for a reason that may lie in the load of this machine."""


def _documents(report: Report, sources: Sequence[Source], reader: Reader) -> Sequence[bytes]:
    """Write the documents of a report with the identifiers of its images, which are among the sources."""
    contents = {source.sha256() or "": source.content() for source in sources}
    document = Document.identified(
        report, datetime.now().astimezone(), lambda sha256: reader.identity(contents[sha256])
    )
    return [file for row in archive_formats() for file in row.load()().files(document)]


def _by_reader(error: LlavaRadError) -> bool:
    """Tell whether the reader failed for a reason that may lie in the load of this machine."""
    return isinstance(error, ReadError) and error.reason in RETRIED


def _unexpected(error: Exception) -> LlavaRadError:
    """Name an error by its type: its message may quote a header."""
    return LlavaRadError(f"unexpected {type(error).__name__}")
