"""The report: a versioned schema that states the model, the input and that a machine wrote it; its text form.

A report holds no file name, no time, and of the header only the allow-listed image facts. The input is identified by
the SHA-256 of its bytes; the same input, model and settings give the same bytes again.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from encoder.errors import printable
from encoder.reader.radiograph import ImageFacts
from encoder.reader.views import View
from llava_rad.model.sections import SHOWN_HEADING

SCHEMA: Literal["llava-rad.report/3"] = "llava-rad.report/3"
EARLIER_SCHEMAS: Final = ("llava-rad.report/1", "llava-rad.report/2")
"""Schemas that are read: findings of one image, and those with boxes."""
NOTICE: Literal["AI-generated draft. Research use only. Not for clinical use."] = (
    "AI-generated draft. Research use only. Not for clinical use."
)
DEMONSTRATION_NOTICE = "Written by a demonstration model, whose findings are not reliable."

# A full stop ends a sentence if a space and a possible first character follow, but not after an abbreviation.
_BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])|(?<!\s)\s*\n\s*")
_LONGEST_ABBREVIATION = 12
_BREAK = re.compile("\\s*[\n\u2028\u2029]\\s*")
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:dr|mr|mrs|ms|st|vs|approx|ca|e\.g|i\.e|fig|cf|[a-z])\.$", re.IGNORECASE)


def clean(text: str) -> str:
    """Remove control characters other than line feeds, which could control a terminal, and lone surrogates."""
    return "".join(c for c in text if c == "\n" or unicodedata.category(c) not in {"Cc", "Cf", "Cs"})


def one_line(text: str) -> str:
    """Clean a text, and replace its line breaks by spaces: a line cannot look like another part of a document."""
    return _BREAK.sub(" ", clean(text))


def _if_text(change: Callable[[str], str]) -> BeforeValidator:
    return BeforeValidator(lambda value: change(value) if isinstance(value, str) else value)


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, _if_text(clean)]
"""Text of a model or of a file of others, with line feeds."""
Line = Annotated[str, _if_text(one_line)]
"""The same on one line."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sentence(_Part):
    """One sentence of the impression."""

    text: Line


class BoxFacts(_Part):
    """Rectangle in fractions of the upright image's width (x) and height (y), from its upper left corner.

    ``image`` is the image's place in ``images``, from 0.
    """

    image: int = Field(default=0, ge=0)
    x_min: float = Field(ge=0, le=1)
    y_min: float = Field(ge=0, le=1)
    x_max: float = Field(ge=0, le=1)
    y_max: float = Field(ge=0, le=1)


class Finding(Sentence):
    """One sentence or phrase of the findings; ``boxes`` is null unless the model was asked for them."""

    boxes: list[BoxFacts] | None = None


class Impression(_Part):
    """The section Impression: the whole text as generated, and its sentences."""

    text: Text
    sentences: list[Sentence]


class ReportBody(_Part):
    """Sections of a report. ``text`` is that of the findings as generated, without boxes; ``findings`` its sentences.

    ``impression`` is null if the model wrote none.
    """

    text: Text
    findings: list[Finding]
    impression: Impression | None = None


class ModelFacts(_Part):
    """The model; ``sha256`` is that of its config.json, which holds the SHA-256 of every other file."""

    id: Line
    revision: Line | None
    sha256: Sha256
    demonstration: bool


class RecipeFacts(_Part):
    """The preprocessing recipe."""

    name: Line
    version: int


class InputFacts(_Part):
    """The input image; ``path`` is null unless the user asked for it."""

    sha256: Sha256
    path: str | None = None
    format: Line
    view: View
    recipe: RecipeFacts
    facts: ImageFacts

    @field_validator("path", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        """Write bytes of a path that are no UTF-8 as escapes: JSON has no form for them."""
        return os.fsencode(value).decode(errors="backslashreplace") if isinstance(value, str) else value


class StudyImageFacts(_Part):
    """One image that the report was written from; the first is the frontal image of ``input``.

    UIDs are null unless the user asked for identifiers and the file has them.
    """

    role: Literal["frontal", "lateral", "prior"]
    sha256: Sha256
    view: View
    study_uid: str | None = None
    sop_instance_uid: str | None = None


class GenerationFacts(_Part):
    """Settings that the text depends on, besides model and input."""

    max_new_tokens: int
    num_beams: int
    temperature: float
    seed: int
    prompt: str
    dtype: str
    unsure: Literal["written", "unsaid", "stated"] = "written"

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Values of settings that reports of earlier versions do not state."""
        return {name: field.default for name, field in cls.model_fields.items() if not field.is_required()}


class SoftwareFacts(_Part):
    """The software that ran the model."""

    name: Literal["llava-rad"] = "llava-rad"
    version: str


class Report(_Part):
    """One report, schema ``llava-rad.report/3``; data of the schemas before it are read too."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    schema_id: Literal["llava-rad.report/3"] = Field(default=SCHEMA, alias="schema")
    ai_generated: Literal[True] = True
    notice: Literal["AI-generated draft. Research use only. Not for clinical use."] = NOTICE
    report: ReportBody
    model: ModelFacts
    input: InputFacts
    images: list[StudyImageFacts] = Field(min_length=1)
    generation: GenerationFacts
    warnings: list[Line]
    software: SoftwareFacts

    @model_validator(mode="before")
    @classmethod
    def _upgraded(cls, data: Any) -> Any:
        """Convert data of an earlier schema, which has one image and no impression."""
        if not isinstance(data, dict) or data.get("schema") not in EARLIER_SCHEMAS:
            return data
        try:
            findings = [
                {**one, "boxes": [{**box, "image": 0} for box in one["boxes"]]} if "boxes" in one else one
                for one in data["report"]["findings"]
            ]
            image = {"role": "frontal", "sha256": data["input"]["sha256"], "view": data["input"]["view"]}
            return {
                **data,
                "schema": SCHEMA,
                "report": {**data["report"], "findings": findings},
                "images": [image],
            }
        except (KeyError, TypeError):
            raise ValueError("no report of an earlier schema") from None

    @property
    def text(self) -> str:
        """The findings paragraph."""
        return self.report.text

    @property
    def impression(self) -> str:
        """The impression paragraph, "" if there is none."""
        return self.report.impression.text if self.report.impression else ""

    @property
    def shown(self) -> str:
        """The findings, then the impression under its heading."""
        return self.text + (SHOWN_HEADING + self.impression if self.impression else "")

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the report as JSON; ``indent=None`` gives one line, as in a JSONL file."""
        return self.model_dump_json(indent=indent)

    def to_text(self) -> str:
        """Return the report as plain text, ending in a line feed."""
        return header(demonstration=self.model.demonstration) + self.shown + footer(self)

    @classmethod
    def from_json(cls, data: str | bytes) -> Report:
        """Parse a report.

        Raises:
            pydantic.ValidationError: if the data are not a report of this schema.
        """
        return cls.model_validate_json(data)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a report, which is published as ``report-3.schema.json`` in this folder."""
    return Report.model_json_schema(mode="serialization")


def header(*, demonstration: bool) -> str:
    """Return the text form up to the findings: notice and title of the section."""
    lines = [NOTICE, *([DEMONSTRATION_NOTICE] if demonstration else []), "", "FINDINGS:", ""]
    return "\n".join(lines)


def footer(report: Report) -> str:
    """Return the text form after the sections: warnings, input and model."""
    warnings = ["WARNINGS:", *(f"- {warning}" for warning in report.warnings), ""] if report.warnings else []
    made_from, model = report.input, report.model
    recipe = f"{made_from.recipe.name} version {made_from.recipe.version}"
    lines = [
        "",
        "",
        *warnings,
        f"Input: {printable(made_from.path) + ', ' if made_from.path is not None else ''}sha256 {made_from.sha256}",
        *(f"With: {image.role} image, sha256 {image.sha256}" for image in report.images[1:]),
        f"Read as: {made_from.format}, view {made_from.view}, recipe {recipe}",
        f"Model: {model.id}{f', revision {model.revision}' if model.revision else ''}, sha256 {model.sha256}",
        "",
    ]
    return "\n".join(lines)


def cleaned(pieces: Iterable[str]) -> Iterator[str]:
    """Clean a stream of text: the joined result equals ``clean("".join(pieces)).strip()``."""
    held, begun = "", False
    for piece in pieces:
        text = held + clean(piece)
        text = text if begun else text.lstrip()
        # trailing white space waits for the next piece: the whole text may end here
        visible = text.rstrip()
        held = text[len(visible) :]
        if visible:
            begun = True
            yield visible


def sentences(text: str) -> list[str]:
    """Split a findings paragraph into sentences, keeping every character but the white space between them."""
    parts: list[str] = []
    start = 0
    for match in _BOUNDARY.finditer(text):
        # closing quotes or brackets before the space belong to the sentence they close
        end = match.start() + len(match.group()) - len(match.group().lstrip("\"')]"))
        if "\n" not in match.group() and _ABBREVIATION.search(text[max(start, end - _LONGEST_ABBREVIATION) : end]):
            continue
        if sentence := text[start:end].strip():
            parts.append(sentence)
        start = match.end()
    rest = text[start:].strip()
    return [*parts, rest] if rest else parts
