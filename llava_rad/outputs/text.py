"""The report as plain text, whole or as it is being written; both ways give the same characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from llava_rad.outputs.report import DEMONSTRATION_NOTICE, NOTICE, clean

if TYPE_CHECKING:
    from llava_rad.outputs.report import Report

SEPARATOR = "-" * 72


def header(*, demonstration: bool) -> str:
    """What stands before the findings: the notice, and the title of the section."""
    lines = [NOTICE, *([DEMONSTRATION_NOTICE] if demonstration else []), "", "FINDINGS:", ""]
    return "\n".join(lines)


def footer(report: Report) -> str:
    """What stands after the findings: warnings, and which input and model the report belongs to."""
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


def to_text(report: Report) -> str:
    """The whole report as plain text, ending in a line feed."""
    return header(demonstration=report.model.demonstration) + report.report.text + footer(report)


def cleaned(pieces: Iterable[str]) -> Iterator[str]:
    """Pass pieces of generated text on so that, joined, they equal ``clean(whole).strip()``."""
    held, begun = "", False
    for piece in pieces:
        text = held + clean(piece)
        text = text if begun else text.lstrip()
        # white space at the end is held back: it may be the last there is
        visible = text.rstrip()
        held = text[len(visible) :]
        if visible:
            begun = True
            yield visible
