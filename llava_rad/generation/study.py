"""What a user gives beside the frontal image: further images, the earlier report, what the referrer wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from encoder.errors import ConfigError, ReadError
from llava_rad.generation.sources import Source
from llava_rad.model.templates import FRONTAL_ONLY, Study

if TYPE_CHECKING:
    from collections.abc import Callable

    from encoder.reader.radiograph import PreparedImage, Radiograph

Image = TypeVar("Image", "PreparedImage", "Radiograph")

MAX_TEXT = 1 << 16
_BY_FORCE = "read by force: "


@dataclass(frozen=True)
class Further:
    """Inputs beside the frontal image.

    Attributes:
        study: what they are.
        lateral: the lateral image.
        prior: the frontal image of an earlier study.
    """

    study: Study = FRONTAL_ONLY
    lateral: Source | None = None
    prior: Source | None = None

    @property
    def images(self) -> tuple[tuple[str, Source], ...]:
        """The further images and what they are, in the order in which a prompt has them."""
        named = (("lateral", self.lateral), ("prior", self.prior))
        return tuple((name, source) for name, source in named if source is not None)


def gather(
    *,
    lateral: str | Path | bytes | None = None,
    prior: str | Path | bytes | None = None,
    prior_report: str | None = None,
    indication: str | None = None,
    technique: str | None = None,
    comparison: str | None = None,
    grounded: bool = False,
) -> Further:
    """Put the inputs together; nothing is read. Texts of white space count as none.

    Raises:
        ConfigError: a text is longer than 64 KiB.
    """

    def text(name: str, value: str | None) -> str | None:
        if value is not None and len(value) > MAX_TEXT:
            raise ConfigError(f"the {name} holds more than {MAX_TEXT >> 10} KiB")
        return (value or "").strip() or None

    study = Study(
        lateral=lateral is not None,
        prior=prior is not None,
        prior_report=text("prior report", prior_report),
        indication=text("indication", indication),
        technique=text("technique", technique),
        comparison=text("comparison", comparison),
        grounded=grounded,
    )
    return Further(study, _source(lateral), _source(prior))


def read_text(path: Path) -> str:
    """A report from a file.

    Raises:
        ReadError: it cannot be read, is no text, or is longer than 64 KiB. The message names no file.
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
    """Read a further image; a lateral one may be lateral.

    Args:
        name: what it is.
        source: where it is.
        read: reads it, forced or not.
        force: read what would be refused for what it shows.

    Raises:
        ReadError: it is refused.
    """
    try:
        try:
            return read(source, force)
        except ReadError as error:
            if name != "lateral" or error.reason != "lateral":
                raise
            image, refusal = read(source, True), f"{_BY_FORCE}{error}"
            if others := [
                warning for warning in image.warnings if warning.startswith(_BY_FORCE) and warning != refusal
            ]:
                raise ReadError("refused", others[0].removeprefix(_BY_FORCE), forcible=True, hint=error.hint) from None
            return image
    except ReadError as error:
        raise ReadError(error.reason, f"the {name} image: {error}", forcible=error.forcible, hint=error.hint) from None


def _source(given: str | Path | bytes | None) -> Source | None:
    if given is None:
        return None
    return Source(1, data=given) if isinstance(given, bytes) else Source(1, path=Path(given))
