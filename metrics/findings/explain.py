"""Explanation of a comparison: what matched, what is missing, false or different, with the words and their spans.

Explanations quote the reports and are as confidential as those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from metrics.findings.compare import Comparison, Error, Match
from metrics.findings.parse import Finding, Report


def to_dict(one: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON content; spans are start and end in the texts."""
    return {
        "score": one.score,
        "weight": {"reference": one.total, "earned": one.credit, "false": one.false},
        "matches": [
            {
                "reference": _finding(match.reference, one.reference),
                "candidate": _finding(match.candidate, one.candidate),
                "credit": match.credit,
            }
            for match in one.matches
        ],
        "errors": [
            {
                "category": error.category,
                "significance": error.significance,
                "finding": error.name,
                "detail": error.detail,
                "loss": error.loss,
                "reference": _finding(error.reference, one.reference, error.attribute),
                "candidate": _finding(error.candidate, one.candidate, error.attribute),
            }
            for error in one.errors
        ],
    }


def lines(ids: Sequence[str], compared: Sequence[Comparison]) -> Iterator[str]:
    """Yield a JSON line for each of N comparisons."""
    for key, one in zip(ids, compared, strict=True):
        yield json.dumps({"id": key, **to_dict(one)}, ensure_ascii=False) + "\n"


def to_text(one: Comparison, heading: str = "") -> str:
    """Return a comparison as text for a reader."""
    earned = f"{one.credit:.2f} of {one.total:.2f} earned, {one.false:.2f} false"
    rows = [f"{heading}score {one.score:.2f} ({earned})"]
    rows += [f"  = {_named(match)}" for match in one.matches if not match.errors]
    for match in one.matches:
        if match.errors:
            rows.append(f"  ~ {_named(match)}, credit {match.credit:.2f}")
            rows += [f"      {_error(error)}" for error in match.errors]
    for error in one.errors:
        if error.reference is None and error.candidate is not None:
            rows.append(f"  + {error.name} {_quoted(error.candidate, one.candidate)}: {_error(error)}")
        elif error.candidate is None and error.reference is not None:
            rows.append(f"  - {error.name} {_quoted(error.reference, one.reference)}: {_error(error)}")
    if len(rows) == 1:
        rows.append("  no findings in either report")
    return "\n".join(rows) + "\n"


def _named(match: Match) -> str:
    return match.reference.known[0].name


def _error(error: Error) -> str:
    return f"{error.category.label.lower()}, {error.significance.label.lower()}: {error.detail}"


def _quoted(finding: Finding, report: Report) -> str:
    return " ... ".join(f'"{report.text[start:end]}"' for start, end in finding.spans[:2])


def _finding(finding: Finding | None, report: Report, attribute: str = "") -> dict[str, Any] | None:
    if finding is None:
        return None
    content: dict[str, Any] = {"names": list(finding.entities), "spans": [list(span) for span in finding.spans]}
    if attribute in finding.where:
        content["attribute"] = {"kind": attribute, "span": list(finding.where[attribute])}
    return content
