"""Reports of studies: of several images one is the current frontal, others are lateral or prior, as the model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from encoder.errors import ReadError
from llava_rad.generation.grouping import Group, group
from llava_rad.generation.report_writer import Failure, Outcome
from llava_rad.generation.study import prepare
from llava_rad.model.templates import Study

if TYPE_CHECKING:
    from encoder.reader.identity import Identity
    from encoder.reader.radiograph import PreparedImage
    from llava_rad.generation.report_model import Description
    from llava_rad.generation.report_writer import ReportWriter
    from llava_rad.generation.sources import Source

CHOICE: Final = "the study has "
"""Begin of the warnings that say which of several images of a kind is used."""
_PREFERRED = {"PA": 0, "AP": 1, "frontal": 2}
_KEPT = 64
"""Frontal images that are kept for studies whose prior they are."""


@dataclass
class _Read:
    """Images of a study: the current frontal one, its lateral, and those that cannot be read."""

    frontal: PreparedImage | None
    source: Source | None
    lateral: PreparedImage | None
    failures: list[Failure]


class StudyWriter:
    """Writes one report for each study.

    Args:
        writer: with the model and its options.
        say: called with notes on inputs that the model does not take.
    """

    def __init__(self, writer: ReportWriter, say: Callable[[str], None] = lambda message: None) -> None:
        self._writer, self._say = writer, say
        self._frontals: dict[Group, PreparedImage | None] = {}

    @property
    def places(self) -> frozenset[str]:
        """Inputs that the model takes, as ``Study.used`` spells them."""
        return self._writer.config().places

    def settings(self) -> dict[str, Any]:
        """Return model, recipe and generation settings as reports state them."""
        return self._writer.settings()

    def identity(self, source: Source) -> Identity:
        """Read the identifiers of a source."""
        return self._writer.identity(source)

    def groups(self, sources: Sequence[Source], *, together: bool = False) -> list[Group]:
        """Group sources by study; see :func:`llava_rad.generation.grouping.group`."""
        return group(sources, self.identity, together=together)

    def write(self, groups: Sequence[Group]) -> Iterator[Outcome]:
        """Yield a report for each study with a frontal image, in order, and a failure for each image that is refused.

        Raises:
            ModelError: if the model is missing or damaged.
            LlavaRadError: if nothing can be written with the writer's options.
        """
        config, places = self._writer.config(), self.places
        self._note(groups, places)
        waiting: list[tuple[Study, PreparedImage, list[tuple[str, PreparedImage]], Source]] = []
        for one in groups:
            found = self._read(one, config)
            prior = self._frontal(one.prior, config) if one.prior is not None and "prior" in places else None
            if found.failures or found.frontal is None:
                yield from self._flush(waiting)
                yield from found.failures
            if found.frontal is None or found.source is None:
                continue
            lateral = found.lateral if "lateral" in places else None
            context = [(name, image) for name, image in (("lateral", lateral), ("prior", prior)) if image is not None]
            study = replace(self._writer.options.study, lateral=lateral is not None, prior=prior is not None)
            if waiting and (waiting[0][0] != study or len(waiting) == self._writer.options.batch_size):
                yield from self._flush(waiting)
            waiting.append((study, found.frontal, context, found.source))
        yield from self._flush(waiting)
        self._frontals.clear()

    def _flush(self, waiting: list[Any]) -> Iterator[Outcome]:
        """Write the reports of studies of one kind, in their order."""
        if not waiting:
            return
        batch = [(image, context) for _, image, context, _ in waiting]
        written: dict[int, Any] = {}
        for number, part in self._writer.stream_batch(batch, waiting[0][0]):
            if not isinstance(part, str):
                written[number] = part
        for number, (_, _, _, source) in enumerate(waiting):
            path, report = self._writer.path_of(source), written[number]
            if path is not None:
                report = report.model_copy(update={"input": report.input.model_copy(update={"path": path})})
            yield report
        waiting.clear()

    def _read(self, study: Group, config: Description) -> _Read:
        frontals: list[tuple[int, Source, PreparedImage]] = []
        laterals: list[tuple[int, PreparedImage]] = []
        failures: list[Failure] = []
        seen, copies = set[bytes](), 0
        for number, source in enumerate(study.sources, 1):
            try:
                image = prepare("lateral", source, partial(self._writer.read, config.preprocessing), force=False)
            except ReadError as error:
                plain = str(error).removeprefix("the lateral image: ")
                failures.append(
                    Failure(
                        source,
                        ReadError(error.reason, plain, forcible=error.forcible, hint=error.hint),
                        source.sha256(),
                    )
                )
                continue
            pixels = image.pixels.tobytes()
            if pixels in seen:
                copies += 1
            elif image.facts.view == "lateral":
                laterals.append((number, image))
            else:
                frontals.append((number, source, image))
            seen.add(pixels)
        if not frontals:
            failures += [
                self._alone(source) for source in study.sources if not any(f.source is source for f in failures)
            ]
            return _Read(None, None, None, failures)
        number, source, image = min(frontals, key=lambda one: _PREFERRED.get(one[2].facts.view, len(_PREFERRED)))
        notes = []
        if len(frontals) > 1:
            views = ", ".join(one.facts.view for *_, one in frontals)
            notes.append(f"{CHOICE}{len(frontals)} frontal images ({views}): image {number} of the study is used")
        if len(laterals) > 1:
            notes.append(f"{CHOICE}{len(laterals)} lateral images: image {laterals[0][0]} of the study is used")
        if copies:
            notes.append(f"{CHOICE}{copies} images that are copies of others: each is used once")
        image = replace(image, warnings=(*image.warnings, *notes))
        self._keep(study, image)
        return _Read(image, source, laterals[0][1] if laterals else None, failures)

    def _alone(self, source: Source) -> Failure:
        return Failure(source, ReadError("lateral", "the study has no frontal image"), source.sha256())

    def _frontal(self, study: Group, config: Description) -> PreparedImage | None:
        if study not in self._frontals:
            self._keep(study, self._read(study, config).frontal)
        return self._frontals[study]

    def _keep(self, study: Group, image: PreparedImage | None) -> None:
        while len(self._frontals) >= _KEPT:
            self._frontals.pop(next(iter(self._frontals)))
        self._frontals[study] = image

    def _note(self, groups: Sequence[Group], places: frozenset[str]) -> None:
        several, priors = sum(len(one.sources) > 1 for one in groups), sum(one.prior is not None for one in groups)
        self._say(f"{len(groups):,} studies, {several:,} of several images, {priors:,} with an earlier study")
        lacking = [name for name in ("lateral", "prior") if name not in places]
        if lacking and (several or priors):
            self._say(f"the model takes no {' and no '.join(lacking)} images: they are not used")
