"""Result of ``llava-rad inspect``: the allow-listed facts of one image, as data and as text."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from encoder.errors import printable
from encoder.reader.radiograph import ImageFacts
from llava_rad.outputs.report import InputFacts


class Refusal(BaseModel):
    """The reason for which ``generate`` refuses the image without ``--force``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str
    message: str


class Inspection(BaseModel):
    """One inspected image, schema ``llava-rad.inspection/1``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    schema_id: Literal["llava-rad.inspection/1"] = Field(default="llava-rad.inspection/1", alias="schema")
    input: InputFacts
    refused: Refusal | None
    warnings: list[str]

    def to_json(self) -> str:
        """Return the inspection as JSON."""
        return self.model_dump_json(indent=2)

    def to_text(self) -> str:
        """Return the inspection as lines of ``name: value``."""
        facts, recipe = self.input.facts, self.input.recipe
        rows = {
            "input": None if self.input.path is None else printable(self.input.path),
            "sha256": self.input.sha256,
            "format": _format(facts),
            "size": f"{facts.columns} x {facts.rows} pixels, {facts.bits_stored or '?'} bits",
            "frame": f"{facts.frame} of {facts.frames}" if facts.frames > 1 else None,
            "modality": facts.modality,
            "body part": facts.body_part,
            "view": f"{facts.view} (from {facts.view_source})" if facts.view_source != "none" else facts.view,
            "polarity": _polarity(facts),
            "orientation": _orientation(facts),
            "intent": facts.presentation_intent,
            "burned-in text": facts.burned_in_annotation,
            "overlays": "present, not shown" if facts.overlays else None,
            "recipe": f"{recipe.name} version {recipe.version}",
            "refused": f"{self.refused.message} ({self.refused.reason})" if self.refused else None,
        }
        lines = [f"{name + ':':<16}{value}" for name, value in rows.items() if value is not None]
        return "\n".join([*lines, *(f"{'warning:':<16}{warning}" for warning in self.warnings), ""])


def _format(facts: ImageFacts) -> str:
    parts = [facts.format, facts.transfer_syntax, "lossy compression" if facts.lossy else None]
    return ", ".join(part for part in parts if part)


def _polarity(facts: ImageFacts) -> str:
    stored = facts.photometric_interpretation or "not stated"
    return f"{stored}, {'inverted' if facts.inverted else 'kept'}: brighter is denser"


def _orientation(facts: ImageFacts) -> str:
    done = []
    if facts.rotated:
        done.append(f"turned {facts.rotated} degrees clockwise")
    if facts.mirrored:
        done.append("mirrored left to right")
    if facts.resampled:
        done.append("made square pixels")
    return f"{facts.orientation or 'not stated'}, {', '.join(done) or 'kept'}"
