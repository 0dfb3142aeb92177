"""Reports from sources: images are read while the model is loaded, written in batches, and failures are kept apart."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import ConfigError, LlavaRadError, ReadError
from encoder.reader.sandbox import Reader
from llava_rad.generation.found import find
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.pieces import Draft, Pieces
from llava_rad.generation.sources import Source, as_sources
from llava_rad.generation.study import StudyInputs, prepare
from llava_rad.model.sections import ShownStream
from llava_rad.model.templates import Study
from llava_rad.outputs.compose import compose, generation_facts, recipe_facts
from llava_rad.outputs.report import Report, cleaned

if TYPE_CHECKING:
    from encoder.preprocessing import Recipe
    from encoder.reader.identity import Identity
    from encoder.reader.radiograph import PreparedImage
    from llava_rad.generation.engine import Engine
    from llava_rad.generation.report_model import Description, FoundModel, ReportModel


@dataclass(frozen=True)
class Failure:
    """An input without a report.

    Attributes:
        source: the input.
        error: reason; its text quotes neither the file's name nor its header.
        sha256: SHA-256 of the input's bytes, or None if they cannot be read.
    """

    source: Source
    error: ReadError
    sha256: str | None


Outcome = Report | Failure
Context = Sequence[tuple[str, "PreparedImage"]]
"""Name and pixels of the lateral and the prior image, in the order of ``StudyInputs.images``."""
_Item = tuple[Source, "PreparedImage | ReadError"]


class ReportWriter:
    """Writer of reports with one model; a context manager. Threads may share it: the model is loaded once.

    The process that reads images starts at once; ``write`` and ``stream`` read the first inputs while torch is imported
    and the model is loaded.

    Args:
        options: model, reading, decoding and output; its ``study`` is that of ``inputs``.
        inputs: optional study inputs; they belong to every image that is written about. Kept as an attribute.
    """

    def __init__(self, options: GenerationOptions | None = None, inputs: StudyInputs | None = None) -> None:
        self._reader = Reader()
        self.inputs = inputs or StudyInputs()
        self._options = replace(options or GenerationOptions(), study=self.inputs.study)
        self._context: list[tuple[str, PreparedImage]] = []
        self._stopped = threading.Event()
        self._loading = threading.RLock()
        self._found: FoundModel | None = None
        self._model: ReportModel | None = None

    def __enter__(self) -> ReportWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading images, and end processes and connections of the model."""
        self.stop_reading()
        if self._model is not None:
            self._model.close()

    def stop_reading(self) -> None:
        """Stop reading images, without waiting for one that takes long."""
        self._stopped.set()
        closing = threading.Thread(target=self._reader.close, name="close", daemon=True)
        closing.start()
        closing.join(timeout=1.0)

    @property
    def frame(self) -> int:
        """Number of the frame that is read, from 1."""
        return self._options.frame or 1

    def model(self) -> ReportModel:
        """Return the model, loaded on first use.

        Raises:
            ModelError: if it is missing or damaged.
            LlavaRadError: if vLLM is to decode, and cannot be started.
        """
        with self._loading:
            if self._model is None:
                self._model = self._located().load(self._options)
            return self._model

    def engine(self) -> Engine:
        """Return the engine of a checkpoint of this project, for what only it has: maps and image vectors.

        Raises:
            ModelError: if the model is missing or damaged.
            LlavaRadError: if the model is none of this project's checkpoints.
        """
        from llava_rad.generation.checkpoint_model import CheckpointModel

        model = self.model()
        if not isinstance(model, CheckpointModel):
            raise LlavaRadError(f"{model.model_id} has no attention maps: only this project's checkpoints have them")
        return model.engine

    @property
    def options(self) -> GenerationOptions:
        """Options, with the study inputs of the writer's own."""
        return self._options

    def config(self) -> Description:
        """Return the description of the model, which need not be loaded."""
        return self._located().config

    def identity(self, source: Source) -> Identity:
        """Read the identifiers of a source, see ``Reader.identity``."""
        return self._reader.identity(source.content())

    def read(self, recipe: Recipe, source: Source, force: bool) -> PreparedImage:
        """Read and prepare one image; ``force`` or the options' own overrides refusals of what it shows.

        Raises:
            ReadError: if it is refused.
        """
        forced, frame = force or self._options.force, self._options.frame
        return self._sendable(self._reader.prepare(source.content(), recipe, force=forced, frame=frame))

    def settings(self) -> dict[str, Any]:
        """Return model, recipe and generation settings as reports state them (see ``outputs.files.settings_of``)."""
        model = self.model()
        return {
            "model": model.sha256,
            "recipe": recipe_facts(model).model_dump(),
            "generation": generation_facts(model, self._settings()).model_dump(exclude_defaults=True),
        }

    def without(self, sources: Sequence[Source], done: Counter[tuple[str, int]]) -> list[Source]:
        """Leave out sources that already have a report, identified by SHA-256 and frame."""
        left = Counter(done)
        rest = []
        for source in sources:
            key = (source.sha256() or "", self.frame)
            if left[key] > 0:
                left[key] -= 1
            else:
                rest.append(source)
        return rest

    def write(self, images: Iterable[Source | str | Path | bytes]) -> Iterator[Outcome]:
        """Yield a report or a failure for each image, in order.

        Args:
            images: sources, or what ``llava_rad.generate`` takes: files, folders, patterns, bytes of files.

        Raises:
            ModelError: if the model is missing or damaged.
            LlavaRadError: if nothing can be written with these options, or the writer is closed.
            ConfigError: if an image is something else, such as an array.
        """
        sources = as_sources(images)
        window: list[_Item] = []
        batch_size = self._options.batch_size
        for item in self._prepared(sources, ahead=2 * batch_size):
            window.append(item)
            read = sum(not isinstance(image, ReadError) for _, image in window)
            # a failure waits only for the images before it, to keep the order; the window bounds the wait
            if read in (0, self.model().together(self._options)) or len(window) == 8 * batch_size:
                yield from self._write_batch(window)
                window = []
        yield from self._write_batch(window)

    def warm_up(self) -> None:
        """Load the model, and compile decoding where it is compiled, before the first report is asked for."""
        self.model().warm_up(self._options)

    def stream(self, image: Source | str | Path | bytes) -> Iterator[str | Outcome]:
        """Yield the text of one image piece by piece, then the whole report; or only a failure.

        Raises:
            ConfigError: if it is not one image, but a folder or pattern of several.
            ModelError, LlavaRadError: as for :meth:`write`.
        """
        sources = as_sources([image])
        if len(sources) != 1:
            raise ConfigError(f"one image is streamed at a time, not {len(sources)}")
        (source,) = sources
        ((_, prepared),) = self._prepared([source], ahead=1)
        if isinstance(prepared, ReadError):
            yield Failure(source, prepared, source.sha256())
            return
        yield from self.stream_image(prepared, path=self.path_of(source))

    def stream_image(
        self,
        image: PreparedImage,
        *,
        path: str | None = None,
        study: Study | None = None,
        context: Context | None = None,
    ) -> Iterator[str | Report]:
        """Yield the text of a prepared image piece by piece, then the whole report.

        Args:
            image: frontal image, prepared by the model's recipe.
            path: name of the input, if the user wants it in the report.
            study: study inputs in place of the writer's own; the pieces of a grounded report hold the tags of boxes.
            context: lateral and prior image of the study.
        """
        images = [image, *(other for _, other in (self._context if context is None else context))]
        pixels = [self._sendable(one).pixels for one in images]
        pieces = Pieces(self.model().stream(pixels, self._settings(study)))
        sections = ShownStream(with_impression=self.model().config.with_impression)
        for piece in cleaned(pieces):
            yield from sections.add(piece)
        yield from sections.end()
        yield self._report(image, pieces.draft, path=path, study=study, context=context)

    def stream_batch(
        self,
        batch: Sequence[tuple[PreparedImage, Context]],
        study: Study,
        *,
        streamed: Container[int] = (),
        dropped: Container[int] = (),
    ) -> Iterator[tuple[int, str | Report]]:
        """Write reports of one kind of study together; yield each with its number as soon as it has ended.

        Args:
            batch: frontal image and context of each report.
            study: study inputs of all of them.
            streamed: numbers of reports whose pieces are yielded before them, as they are generated: a stream of them
                is cleaned by ``outputs.report.cleaned``. They come as one piece from a beam search or vLLM.
            dropped: numbers of reports that nobody waits for any more; they leave the batch and are not yielded.
        """
        images = [one for image, context in batch for one in (image, *(other for _, other in context))]
        pixels = [self._sendable(one).pixels for one in images]
        found = self.model().stream_batch(pixels, self._settings(study), streamed=streamed, dropped=dropped)
        begun = set[int]()
        sections = [ShownStream(with_impression=self.model().config.with_impression) for _ in batch]
        for number, part in found:
            if isinstance(part, str):
                begun.add(number)
                yield from ((number, more) for more in sections[number].add(part))
            elif number not in dropped:
                image, context = batch[number]
                if number in streamed:
                    rest = [] if number in begun else sections[number].add(part.text)
                    yield from ((number, more) for more in (*rest, *sections[number].end()))
                yield number, self._report(image, part, study=study, context=context)

    def report(
        self, image: PreparedImage, text: str, *, study: Study | None = None, context: Context | None = None
    ) -> Report:
        """Make the report of a text that ``stream_image`` did not write to its end."""
        draft = Draft(text, (), complete=True, unfamiliar=self.model().unfamiliar(image.pixels))
        return self._report(image, draft, study=study, context=context)

    def _report(
        self, image: PreparedImage, draft: Draft, *, path: str | None = None, study: Study | None = None,
        context: Context | None = None,
    ) -> Report:  # fmt: skip
        context = self._context if context is None else context
        warnings = (f"{name} image: {warning}" for name, other in context for warning in other.warnings)
        image = replace(image, warnings=(*image.warnings, *warnings))
        return compose(self.model(), self._settings(study), image, draft, path=path, context=context)

    def _settings(self, study: Study | None = None) -> GenerationOptions:
        return self._options if study is None else replace(self._options, study=study)

    def _prepared(self, sources: Sequence[Source], *, ahead: int) -> Iterator[_Item]:
        """Read images in a thread, ``ahead`` of the model, which is loaded in this thread meanwhile."""
        items: queue.Queue[_Item | BaseException | None] = queue.Queue(max(ahead, 1))
        config = self.config()
        config.check(self._options.study)  # refused before the model is loaded

        abandoned = threading.Event()

        def put(item: _Item | BaseException | None) -> None:
            while not (self._stopped.is_set() or abandoned.is_set()):
                with contextlib.suppress(queue.Full):
                    items.put(item, timeout=0.2)
                    return

        def decode() -> None:
            try:
                recipe = config.preprocessing
                self._context = [
                    (name, prepare(name, source, partial(self._read, recipe), force=self._options.force))
                    for name, source in self.inputs.images
                ]
                for source in sources:
                    if self._stopped.is_set() or abandoned.is_set():
                        return
                    put((source, self._prepare(source, recipe)))
                put(None)
            except BaseException as error:
                put(error)

        def taken() -> _Item | BaseException | None:
            while True:
                with contextlib.suppress(queue.Empty):
                    return items.get(timeout=0.2)
                if self._stopped.is_set():  # nothing more is read
                    raise LlavaRadError("the writer of reports is closed")

        threading.Thread(target=decode, name="decode", daemon=True).start()
        try:
            self.model()
            while (item := taken()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            abandoned.set()

    def _read(self, recipe: Recipe, source: Source, force: bool) -> PreparedImage:
        return self._sendable(self._reader.prepare(source.content(), recipe, force=force))

    def _prepare(self, source: Source, recipe: Recipe) -> PreparedImage | ReadError:
        try:
            return self.read(recipe, source, force=False)
        except ReadError as error:
            return error

    def _sendable(self, image: PreparedImage) -> PreparedImage:
        """Refuse an image with burned-in text, which may name the patient, if its pixels would leave this machine.

        Raises:
            ReadError: if its header states such text, and the options do not force it.
        """
        if image.facts.burned_in_annotation == "yes" and self._located().remote and not self._options.force:
            message = "the image has burned-in text, and the model is on another machine"
            raise ReadError("burned_in", message, forcible=True, hint="--force sends it")
        return image

    def _write_batch(self, window: Sequence[_Item]) -> Iterator[Outcome]:
        images = [image for _, image in window if not isinstance(image, ReadError)]
        drafts = iter(self._drafts(images))
        for source, image in window:
            if isinstance(image, ReadError):
                yield Failure(source, image, source.sha256())
            else:
                yield self._report(image, next(drafts), path=self.path_of(source))

    def _drafts(self, images: Sequence[PreparedImage]) -> list[Draft]:
        pixels = [one.pixels for image in images for one in (image, *(other for _, other in self._context))]
        try:
            return self.model().generate(pixels, self._options) if pixels else []
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for this
                raise
            raise LlavaRadError(
                f"the device's memory does not hold a batch of {min(len(images), self._options.batch_size)}",
                hint="lower --batch-size, or use --device cpu",
            ) from None

    def _located(self) -> FoundModel:
        with self._loading:
            if self._found is None:
                self._found = find(self._options)
            return self._found

    def path_of(self, source: Source) -> str | None:
        """Return the input's path, if the options show paths."""
        return str(source.path) if self._options.show_paths and source.path is not None else None
