"""Batches across requests: one thread writes the reports of all requests with one model.

A batch begins as soon as the thread is free, with the reports that wait. If it is not full, it waits for images that
are being decoded, a quarter of the last batch's time at most, and for nothing else. This is our own code, not a server
library for models, so that a cancelled request leaves a running batch, each report is answered when it has ended, and
the model is exchanged between two batches.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from app.readers import Readers
from encoder.errors import LlavaRadError, ModelError, ReadError
from llava_rad.commands.console import explained
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.report_writer import Context, ReportWriter
from llava_rad.generation.study import StudyInputs, prepare
from llava_rad.outputs.report import Report

if TYPE_CHECKING:
    from app.service.measures import Measures
    from encoder.preprocessing import Recipe
    from encoder.reader.identity import Identity
    from encoder.reader.radiograph import PreparedImage
    from encoder.reader.sandbox import Reader
    from llava_rad.generation.sources import Source

_LOG: Final = logging.getLogger("app.service")
_DOT: Final = bytes.fromhex(  # a picture of one pixel: too small, but decoded before that is known
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a4944415478da6360000000020001e527defc0000000049454e44ae426082"
)
HEALTH: Final = " health"
"""Caller of the check of the decoders; no key has such a name."""
_LONGEST_GATHER_S: Final = 1.0
_BROKEN: Final = {"crashed", "timeout", "memory"}


class QueueFull(LlavaRadError):
    """Too many reports wait.

    Attributes:
        retry_after: seconds after which there is probably room.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many requests wait: try again later")
        self.retry_after = retry_after


@dataclass(eq=False)
class Job:
    """One report.

    Attributes:
        caller: name of the key.
        data: bytes of the frontal image.
        inputs: other images and texts of the study.
        put: takes the pieces (if ``streamed``), then the report or an error; called by another thread.
        force: read an image that would be refused for what it shows.
        frame: number of the frame.
        streamed: hand out pieces.
    """

    caller: str
    data: bytes
    inputs: StudyInputs
    put: Callable[[str | Report | Exception], object]
    force: bool = False
    frame: int | None = None
    streamed: bool = False
    cancelled: bool = False
    begun: bool = False
    answered: bool = False
    since: float = 0.0
    images: tuple[Recipe, PreparedImage, Context] | None = field(default=None, repr=False)


class Batcher:
    """Queue of reports and the thread that writes them.

    Args:
        options: model and decoding.
        measures: take sizes and times.
        most: reports that may wait.
        readers: processes that decode images; one caller has all but one at most.
    """

    def __init__(self, options: GenerationOptions, measures: Measures, *, most: int = 64, readers: int = 3) -> None:
        self._options, self._measures, self._most = options, measures, most
        self._jobs, self._changed = deque[Job](), threading.Condition()
        self._coming = set[Job]()  # are decoded, and then wait at once
        self._writer: ReportWriter | None = None
        self._failed: str | None = None
        self._closed, self._reloading, self._busy = False, threading.Lock(), threading.Lock()
        self._each_s, self._gather_s = 1.0, 0.1
        self._readers = Readers(readers, each=max(1, readers - 1))
        self.threads = ThreadPoolExecutor(2 * most, thread_name_prefix="reading")
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def state(self) -> dict[str, str]:
        """Return ``model``: loading, ready or failed (with ``error``), and its id and hash."""
        if self._failed is not None:
            return {"model": "failed", "error": self._failed}
        if self._writer is None or not self._thread.is_alive():
            return {"model": "loading" if self._thread.is_alive() else "stopped"}
        model = self._writer.model()
        return {"model": "ready", "id": model.model_id, "sha256": model.sha256}

    def decodes(self) -> bool:
        """Return True if the processes that decode images work."""
        try:
            with self._readers.turn(HEALTH) as reader:
                reader.read(_DOT)
        except ReadError as error:
            return error.reason not in _BROKEN
        return True

    def identity(self, caller: str, data: bytes) -> Identity:
        """Read the identifiers of a DICOM file.

        Raises:
            ReadError: if it has none.
        """
        with self._readers.turn(caller) as reader:
            return reader.identity(data)

    def read(self, job: Job, *, soon: bool = True) -> None:
        """Decode the images of a job; to be called in one of ``threads``, where callers wait for their turn.

        Args:
            job: to be read.
            soon: it is submitted at once: a batch that is not full may wait for it.

        Raises:
            ReadError: if an image is refused, or the job was cancelled meanwhile.
            ConfigError: if the model's prompt does not take a study input.
            ModelError: if there is no model.
        """
        self._loaded.wait()
        writer = self._writer
        if writer is None:
            raise ModelError(self._failed or "the server is stopping")
        with self._changed:
            if soon and not job.cancelled:
                self._coming.add(job)
        try:
            self._read(job, writer)
        except BaseException:
            self._forget(job)
            raise

    def submit(self, job: Job) -> None:
        """Put a job into the queue.

        Raises:
            QueueFull: if too many wait.
            LlavaRadError: if the server is stopping.
        """
        with self._changed:
            if self._closed:
                raise LlavaRadError("the server is stopping: send the request again")
            if len(self._jobs) >= self._most:
                self._coming.discard(job)
                raise QueueFull(self.wait_s())
            job.since = time.monotonic()
            self._coming.discard(job)
            self._jobs.append(job)
            self._measures.waiting.set(len(self._jobs))
            self._changed.notify()

    def wait_s(self) -> float:
        """Estimate the seconds until the reports that wait are written."""
        return max(1.0, math.ceil(len(self._jobs) * self._each_s))

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or out of the batch that is being written."""
        job.cancelled = True
        self._forget(job)
        with self._changed, contextlib.suppress(ValueError):
            self._jobs.remove(job)
            self._measures.waiting.set(len(self._jobs))

    def _forget(self, job: Job) -> None:
        """Let no batch wait for a job."""
        with self._changed:
            self._coming.discard(job)
            self._changed.notify()

    def reload(self) -> None:
        """Load the model again, then use it from the next batch on; requests wait or go on with the one before.

        Raises:
            LlavaRadError: if it cannot be loaded (the one before stays), or is being loaded already.
        """
        if not self._reloading.acquire(blocking=False):
            raise LlavaRadError("the model is being loaded already")
        try:
            writer = self._load()
            with self._changed:
                before, self._writer, self._failed = self._writer, writer, None
            if before is not None:
                self._last_batch(before)
            self._measures.reloads.labels("done").inc()
            _LOG.info("the model was loaded again: %s", writer.model().sha256)
        except BaseException:
            self._measures.reloads.labels("failed").inc()
            raise
        finally:
            self._reloading.release()

    def close(self, wait_s: float = 10.0) -> None:
        """Write the current batch to its end; jobs that still wait are answered with an error."""
        with self._changed:
            self._closed = True
            left = list(self._jobs)
            self._jobs.clear()
            self._changed.notify()
        for job in left:
            _answer(job, LlavaRadError("the server was stopped: send the request again"))
        self._loaded.set()
        self._thread.join(wait_s)
        if self._writer is not None:
            self._writer.close()
        self.threads.shutdown(wait=False, cancel_futures=True)
        self._readers.close()

    def _load(self) -> ReportWriter:
        writer = ReportWriter(self._options)
        try:
            writer.stop_reading()  # the images come decoded
            writer.warm_up()
        except BaseException:
            writer.close()
            raise
        return writer

    def _last_batch(self, writer: ReportWriter) -> None:
        """Close a writer after the batch that it is writing."""
        with self._busy:
            writer.close()

    def _read(self, job: Job, writer: ReportWriter) -> None:
        model, begun = writer.model(), time.monotonic()
        model.config.check(job.inputs.study)
        recipe = model.recipe
        force = job.force or self._options.force
        with self._readers.turn(job.caller, lambda: not job.cancelled) as reader:
            image = reader.prepare(job.data, recipe, force=force, frame=job.frame)
            read = partial(_prepare, reader, recipe)
            others = [(name, prepare(name, one, read, force=force)) for name, one in job.inputs.images]
        job.images = recipe, image, others
        self._measures.seconds.labels("read").observe(time.monotonic() - begun)

    def _work(self) -> None:
        try:
            writer = self._load()
            with self._changed:
                self._writer = self._writer or writer
        except Exception as error:  # whatever keeps the model from loading is answered and shown by /health/ready
            known = error if isinstance(error, LlavaRadError) else explained(error)
            self._failed = f"unexpected {type(error).__name__}" if known is None else str(known)
            advice = f" ({known.hint})" if known is not None and known.hint else ""
            _LOG.error("the model cannot be loaded: %s%s", self._failed, advice)
        self._loaded.set()
        while batch := self._next():
            with self._busy:
                self._write(batch)

    def _next(self) -> list[Job]:
        """Wait for reports; take those with the study inputs of the first one, callers in turns. Empty at the end."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return []
                self._changed.wait()
            end = time.monotonic() + self._gather_s
            while self._coming and len(self._jobs) < self._options.batch_size and not self._closed:
                if (left := end - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            if not self._jobs:  # all were cancelled
                return self._next()
            study = self._jobs[0].inputs.study
            batch = _in_turns(job for job in self._jobs if job.inputs.study == study)[: self._options.batch_size]
            for job in batch:
                self._jobs.remove(job)
            self._measures.waiting.set(len(self._jobs))
        return batch

    def _write(self, batch: list[Job]) -> None:
        begun, writer = time.monotonic(), self._writer
        if writer is None:
            for job in batch:
                _answer(job, ModelError(self._failed or "there is no model"))
            return
        try:
            for job in batch:
                self._measures.seconds.labels("wait").observe(begun - job.since)
            self._run(writer, batch)
        except Exception as error:  # torch and CUDA raise errors of many types
            left = [job for job in batch if not (job.answered or job.cancelled)]
            if len(batch) > 1:  # one of them may be the reason
                for job in left:
                    _answer(job, error) if job.begun else self._write([job])
            else:
                for job in left:
                    _answer(job, error)
        else:
            self._measures.batch.observe(len(batch))
            took = time.monotonic() - begun
            self._measures.seconds.labels("write").observe(took)
            self._each_s = 0.8 * self._each_s + 0.2 * took / len(batch)
            self._gather_s = min(took / 4, _LONGEST_GATHER_S)

    def _run(self, writer: ReportWriter, batch: list[Job]) -> None:
        images: list[tuple[PreparedImage, Context]] = []
        for job in list(batch):
            if job.cancelled:
                batch.remove(job)
                continue
            if job.images is None or job.images[0] != writer.model().recipe:  # the model was loaded again
                try:
                    self._read(job, writer)
                except LlavaRadError as error:
                    _answer(job, error)
            if job.answered or job.images is None:
                batch.remove(job)
            else:
                images.append(job.images[1:])
        if not batch:
            return
        dropped, streamed = _Cancelled(batch), {n for n, job in enumerate(batch) if job.streamed}
        for number, part in writer.stream_batch(images, batch[0].inputs.study, streamed=streamed, dropped=dropped):
            if isinstance(part, Report):
                _answer(batch[number], part)
            elif not batch[number].cancelled:
                batch[number].begun = True
                batch[number].put(part)
        for job in batch:
            if not (job.answered or job.cancelled):
                _answer(job, LlavaRadError("the model wrote no report"))


class _Cancelled:
    """Numbers of the jobs of a batch that are cancelled, as they are when they are asked for."""

    def __init__(self, batch: list[Job]) -> None:
        self._batch = batch

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self._batch[number].cancelled


def _prepare(reader: Reader, recipe: Recipe, source: Source, force: bool) -> PreparedImage:
    return reader.prepare(source.content(), recipe, force=force)


def _in_turns(jobs: Iterable[Job]) -> list[Job]:
    """Order jobs so that the first ones of all callers come before the second ones."""
    before, numbered = Counter[str](), list[tuple[int, Job]]()
    for job in jobs:
        numbered.append((before[job.caller], job))
        before[job.caller] += 1
    return [job for _, job in sorted(numbered, key=lambda one: one[0])]


def _answer(job: Job, answer: Report | Exception) -> None:
    job.answered = True
    job.data, job.images = b"", None
    job.put(answer)
