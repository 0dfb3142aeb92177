"""Clinical significance of a finding, by its kind, its wording, and the age and indication of the patient."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from metrics.findings import weights
from metrics.findings.errors import Significance
from metrics.findings.parse import Finding

_LUNG_NODULE: Final = 6.0  # mm: Fleischner's follow-up of solid nodules begins there (MacMahon et al. 2017)
_URGENT_TIPS: Final = {"endotracheal tube": "main bronchus", "enteric tube": "main bronchus"}


@dataclass(frozen=True)
class Context:
    """Age and indication of a patient.

    Attributes:
        age: in years, or None.
        indication: reason for the examination, or "".
    """

    age: float | None = None
    indication: str = ""


NOTHING_KNOWN: Final = Context()


def placement(finding: Finding) -> str | None:
    """Return "good" or "bad" for the position of a line or tube, by its tip where the text does not say; or None."""
    if finding.position is not None:
        return finding.position
    name = finding.entities[0]
    if finding.distance is not None and name == "endotracheal tube":
        low, high = weights.TUBE_ABOVE_CARINA
        return "good" if low <= finding.distance <= high else "bad"
    good = weights.GOOD_TIPS.get(name)
    return None if good is None or not finding.tips else "good" if finding.tips <= good else "bad"


@lru_cache(maxsize=8192)
def significance(finding: Finding, context: Context = NOTHING_KNOWN) -> Significance:
    """Return how much a finding matters; see the tables of :mod:`metrics.findings.weights`."""
    order = weights.LEVELS
    return max((_of(entity.name, entity.significance, finding, context) for entity in finding.known), key=order.index)


def weight(finding: Finding, context: Context = NOTHING_KNOWN) -> float:
    """Return the weight of a finding, less if it is only possible."""
    return weights.WEIGHTS[significance(finding, context)] * (1.0 if finding.certain else weights.UNCERTAIN)


def _of(name: str, initial: str, finding: Finding, context: Context) -> Significance:
    order = weights.LEVELS
    level = order.index(weights.INITIALS[initial])
    actionable = order.index(Significance.ACTIONABLE)
    severity = finding.severity
    if severity is not None:
        slight = severity <= weights.MINOR or (severity <= 1 and name in weights.MINOR_MILD)
        if slight and level >= actionable:
            level -= 1
        if severity >= 3 and name in weights.SEVERE_URGENT:
            level = order.index(Significance.URGENT)
    if finding.old and name in weights.OLD_ENTITIES:
        level = min(level, actionable - 1)
    if name == "nodule" and finding.size is not None and finding.size < _LUNG_NODULE:
        level = min(level, actionable - 1)
    if placement(finding) == "bad":
        level = max(level, actionable)
        if _URGENT_TIPS.get(name) in finding.tips:
            level = order.index(Significance.URGENT)
    for rule in weights.CONTEXT:
        if name in rule.entities and _holds(rule, finding, context):
            level += rule.steps
    return order[min(max(level, 0), len(order) - 1)]


def _holds(rule: weights.Rule, finding: Finding, context: Context) -> bool:
    if rule.indication and not mentions(rule.indication, context.indication):
        return False
    if rule.unless and mentions(rule.unless, context.indication):
        return False
    if (rule.youngest > 0 or rule.oldest < 200) and (
        context.age is None or not rule.youngest <= context.age < rule.oldest
    ):
        return False
    return finding.severity is None or finding.severity <= rule.most


@lru_cache(maxsize=4096)
def mentions(pattern: str, indication: str) -> bool:
    """Return if an indication has words of a pattern."""
    return bool(indication) and re.search(rf"\b(?:{pattern})", indication.lower()) is not None
