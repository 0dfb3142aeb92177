"""Optional study inputs: lateral view, prior image, prior report, indication, technique, comparison; and boxes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from encoder.errors import ConfigError, ReadError
from encoder.reader.admission import OVERRIDDEN
from llava_rad.generation.options import option
from llava_rad.generation.sources import Source, checked_kind
from llava_rad.model.templates import TEXTS, Study

if TYPE_CHECKING:
    from collections.abc import Callable

    from encoder.reader.radiograph import PreparedImage, Radiograph
    from encoder.reader.sandbox import Reader

Image = TypeVar("Image", "PreparedImage", "Radiograph")

MAX_TEXT = 1 << 16
_PANEL = "Study (of models whose prompt has a place for it)"


@dataclass(frozen=True)
class StudyInputs:
    """Inputs of a report besides its frontal image; nothing is read yet.

    Attributes:
        lateral: Lateral image of the same study.
        prior: Frontal image of an earlier study.
        prior_report: Text file with the earlier study's findings.
        indication: Reason for which the images were taken.
        technique: Technique by which they were taken.
        comparison: Studies that they are compared with.
        grounded: Ask for boxes: in json and jsonl each finding has its own.

    In Python an image is a path or the file's bytes, and ``prior_report`` is the text itself. Texts lose surrounding
    white space; an empty one counts as none.

    Raises:
        ConfigError: if a text is longer than 64 KiB, or an image is neither path nor bytes.
    """

    lateral: str | Path | bytes | None = option(None, _PANEL, kind=Path, metavar="FILE")
    prior: str | Path | bytes | None = option(None, _PANEL, kind=Path, metavar="FILE")
    prior_report: str | None = option(None, _PANEL, kind=Path, metavar="FILE", file=True)
    indication: str | None = option(None, _PANEL)
    technique: str | None = option(None, _PANEL)
    comparison: str | None = option(None, _PANEL)
    grounded: bool = option(False, _PANEL)

    def __post_init__(self) -> None:
        for image in (self.lateral, self.prior):
            if image is not None:
                checked_kind(image)
        for name in TEXTS:
            text: str | None = getattr(self, name)
            if text is not None and len(text) > MAX_TEXT:
                raise ConfigError(f"the {name.replace('_', ' ')} holds more than {MAX_TEXT >> 10} KiB")
            object.__setattr__(self, name, (text or "").strip() or None)

    @property
    def study(self) -> Study:
        """The inputs as a prompt takes them: images by their presence, texts by their words."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Study(**given | {"lateral": self.lateral is not None, "prior": self.prior is not None})

    @property
    def images(self) -> tuple[tuple[str, Source], ...]:
        """Name and source of the lateral and the prior image, in the order in which a prompt has them."""
        named = (("lateral", self.lateral), ("prior", self.prior))
        return tuple((name, _source(given)) for name, given in named if given is not None)


def read_text(path: Path) -> str:
    """Read the text of a prior report from a file.

    Raises:
        ReadError: if it cannot be read, is no UTF-8 text, or is longer than 64 KiB. The message names no file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT + 1)
        if len(data) <= MAX_TEXT:
            return data.decode("utf-8")
    except (OSError, ValueError):
        raise ReadError("missing", "the prior report is no file of text (UTF-8) that can be read") from None
    raise ReadError("too_large", f"the prior report holds more than {MAX_TEXT >> 10} KiB")


def prepare(name: str, source: Source, read: Callable[[Source, bool], Image], *, force: bool) -> Image:
    """Read a lateral or a prior image. A lateral one is not refused for being lateral.

    Args:
        name: ``"lateral"`` or ``"prior"``.
        source: the image's source.
        read: reads a source; its second argument forces images that would be refused.
        force: read images that would be refused for what they show.

    Raises:
        ReadError: if the image is refused.
    """
    try:
        try:
            return read(source, force)
        except ReadError as error:
            if name != "lateral" or error.reason != "lateral":
                raise
            image, refusal = read(source, True), f"{OVERRIDDEN}{error}"
            if image.facts.view != "lateral":
                raise ReadError(
                    error.reason, "the image is neither a lateral nor a frontal view", forcible=True, hint=error.hint
                ) from None
            return _expected(image, refusal, error)
    except ReadError as error:
        raise ReadError(error.reason, f"the {name} image: {error}", forcible=error.forcible, hint=error.hint) from None


def read_view(reader: Reader, path: Path, *, force: bool) -> Radiograph:
    """Read an image of a study that has a frontal one: it is not refused for being lateral, oblique or a special view.

    Raises:
        ReadError: if the image is refused.
    """
    try:
        return reader.read(path, force=force)
    except ReadError as error:
        if error.reason != "lateral":
            raise
        return _expected(reader.read(path, force=True), f"{OVERRIDDEN}{error}", error)


def _expected(image: Image, refusal: str, error: ReadError) -> Image:
    """Return an image without the warning of a refusal that does not concern it.

    Raises:
        ReadError: if it was refused for something else, too.
    """
    kept = tuple(warning for warning in image.warnings if warning != refusal)
    if others := [warning for warning in kept if warning.startswith(OVERRIDDEN)]:
        raise ReadError("refused", others[0].removeprefix(OVERRIDDEN), forcible=True, hint=error.hint) from None
    return dataclasses.replace(image, warnings=kept)


def _source(given: str | Path | bytes) -> Source:
    return Source(1, data=given) if isinstance(given, bytes) else Source(1, path=Path(given))
