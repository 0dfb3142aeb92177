"""The report: a versioned schema that states the model, the input and that a machine wrote it; its text form.

A report holds no file name, no time, and of the header only the allow-listed image facts. The input is identified by
the SHA-256 of its bytes; the same input, model and settings give the same bytes again.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from encoder.reader.radiograph import ImageFacts
from encoder.reader.views import View

SCHEMA: Literal["llava-rad.report/1"] = "llava-rad.report/1"
GROUNDED_SCHEMA: Literal["llava-rad.report/2"] = "llava-rad.report/2"
NOTICE: Literal["AI-generated draft. Research use only. Not for clinical use."] = (
    "AI-generated draft. Research use only. Not for clinical use."
)
DEMONSTRATION_NOTICE = "Written by a demonstration model, whose findings are not reliable."

# A full stop ends a sentence if a space and a possible first character follow, but not after an abbreviation.
_BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])|(?<!\s)\s*\n\s*")
_LONGEST_ABBREVIATION = 12
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:dr|mr|mrs|ms|st|vs|approx|ca|e\.g|i\.e|fig|cf|[a-z])\.$", re.IGNORECASE)


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Finding(_Part):
    """One sentence of the report."""

    text: str


class ReportBody(_Part):
    """Findings of a report: the whole text as generated, and its sentences."""

    text: str
    findings: list[Finding]


class ModelFacts(_Part):
    """The model; ``sha256`` is that of its config.json, which holds the SHA-256 of every other file."""

    id: str
    revision: str | None
    sha256: Sha256
    demonstration: bool


class RecipeFacts(_Part):
    """The preprocessing recipe."""

    name: str
    version: int


class InputFacts(_Part):
    """The input image; ``path`` is null unless the user asked for it."""

    sha256: Sha256
    path: str | None = None
    format: str
    view: View
    recipe: RecipeFacts
    facts: ImageFacts

    @field_validator("path", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        """Write bytes of a path that are no UTF-8 as escapes: JSON has no form for them."""
        return os.fsencode(value).decode(errors="backslashreplace") if isinstance(value, str) else value


class GenerationFacts(_Part):
    """Settings that the text depends on, besides model and input."""

    max_new_tokens: int
    num_beams: int
    temperature: float
    seed: int
    prompt: str
    dtype: str


class SoftwareFacts(_Part):
    """The software that ran the model."""

    name: Literal["llava-rad"] = "llava-rad"
    version: str


class Report(_Part):
    """One findings report, schema ``llava-rad.report/1``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    schema_id: Literal["llava-rad.report/1"] = Field(default=SCHEMA, alias="schema")
    ai_generated: Literal[True] = True
    notice: Literal["AI-generated draft. Research use only. Not for clinical use."] = NOTICE
    report: ReportBody
    model: ModelFacts
    input: InputFacts
    generation: GenerationFacts
    warnings: list[str]
    software: SoftwareFacts

    @property
    def text(self) -> str:
        """The findings paragraph."""
        return self.report.text

    def to_json(self, *, indent: int | None = 2) -> str:
        """Return the report as JSON; ``indent=None`` gives one line, as in a JSONL file."""
        return self.model_dump_json(indent=indent)

    def to_text(self) -> str:
        """Return the report as plain text, ending in a line feed."""
        return header(demonstration=self.model.demonstration) + self.report.text + footer(self)

    @classmethod
    def from_json(cls, data: str | bytes) -> Report:
        """Parse a report.

        Raises:
            pydantic.ValidationError: if the data are not a report of this schema.
        """
        return cls.model_validate_json(data)


class BoxFacts(_Part):
    """Rectangle in fractions of the upright image's width (x) and height (y), from its upper left corner."""

    x_min: float = Field(ge=0, le=1)
    y_min: float = Field(ge=0, le=1)
    x_max: float = Field(ge=0, le=1)
    y_max: float = Field(ge=0, le=1)


class GroundedFinding(Finding):
    """One phrase of a grounded report with its boxes in the image; the list may be empty."""

    boxes: list[BoxFacts]


class GroundedBody(ReportBody):
    """Findings of a grounded report: the text without its boxes, and its phrases."""

    findings: list[GroundedFinding]  # type: ignore[assignment]


class GroundedReport(Report):
    """One findings report with boxes, schema ``llava-rad.report/2``: as ``Report``, with ``boxes`` in each finding."""

    schema_id: Literal["llava-rad.report/2"] = Field(default=GROUNDED_SCHEMA, alias="schema")  # type: ignore[assignment]
    report: GroundedBody


def from_data(data: dict[str, Any]) -> Report:
    """Build a report of either schema from the result of ``model_dump``.

    Raises:
        pydantic.ValidationError: if the data are not a report.
    """
    return (GroundedReport if data.get("schema") == GROUNDED_SCHEMA else Report).model_validate(data)


def json_schema(*, grounded: bool = False) -> dict[str, Any]:
    """Return the JSON Schema of a report, which is published as ``report-1.schema.json`` in this folder.

    Args:
        grounded: the schema of a report with boxes, ``report-2.schema.json``.
    """
    return (GroundedReport if grounded else Report).model_json_schema(mode="serialization")


def header(*, demonstration: bool) -> str:
    """Return the text form up to the findings: notice and section title."""
    lines = [NOTICE, *([DEMONSTRATION_NOTICE] if demonstration else []), "", "FINDINGS:", ""]
    return "\n".join(lines)


def footer(report: Report) -> str:
    """Return the text form after the findings: warnings, input and model."""
    warnings = ["WARNINGS:", *(f"- {warning}" for warning in report.warnings), ""] if report.warnings else []
    made_from, model = report.input, report.model
    recipe = f"{made_from.recipe.name} version {made_from.recipe.version}"
    lines = [
        "",
        "",
        *warnings,
        f"Input: {made_from.path + ', ' if made_from.path is not None else ''}sha256 {made_from.sha256}",
        f"Read as: {made_from.format}, view {made_from.view}, recipe {recipe}",
        f"Model: {model.id}{f', revision {model.revision}' if model.revision else ''}, sha256 {model.sha256}",
        "",
    ]
    return "\n".join(lines)


def clean(text: str) -> str:
    """Remove control characters other than line feeds, so that a model's text cannot control a terminal."""
    return "".join(c for c in text if c == "\n" or unicodedata.category(c) not in {"Cc", "Cf"})


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
