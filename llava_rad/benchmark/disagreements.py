"""Disagreements of models: cases ordered by how little their reports have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from llava_rad.outputs.document import labels_of
from metrics.findings.metric import reward


@dataclass(frozen=True)
class Disagreement:
    """Disagreement of the models about one case.

    Attributes:
        case: its number, from 0.
        value: 1 minus the mean score ``findings`` of all pairs of models, each as the other's reference; 0 if all texts
            are equal, below 2.
        positive: CheXpert finding (labeler ``rules``) -> models whose report has it, where not all have.
    """

    case: int
    value: float
    positive: Mapping[str, tuple[str, ...]]


def disagreements(texts: Mapping[str, Sequence[str]]) -> list[Disagreement]:
    """Order N cases by disagreement, the largest first.

    Args:
        texts: N texts of each of at least two models.
    """
    numbers = range(len(next(iter(texts.values()))))
    sums = [0.0] * len(numbers)
    pairs = list(combinations(texts, 2))
    for first, second in pairs:
        ours, theirs = texts[first], texts[second]
        there, back = reward(ours, theirs), reward(theirs, ours)
        for number in numbers:
            if ours[number] != theirs[number]:
                sums[number] += 1 - (there[number] + back[number]) / 2
    found = [Disagreement(number, sums[number] / len(pairs), _positive(texts, number)) for number in numbers]
    return sorted(found, key=lambda one: (-one.value, one.case))


def _positive(texts: Mapping[str, Sequence[str]], number: int) -> dict[str, tuple[str, ...]]:
    said = {name: labels_of(column[number]) for name, column in texts.items()}
    findings = [one for one in next(iter(said.values())) if one != "No Finding"]  # it follows from the others
    having = {one: tuple(name for name in said if said[name][one] == "positive") for one in findings}
    return {finding: names for finding, names in having.items() if 0 < len(names) < len(said)}


def lines(found: Sequence[Disagreement], ids: Sequence[str]) -> str:
    """Return one line of JSON for each case, the largest disagreement first."""
    return "".join(
        json.dumps(
            {"id": ids[one.case], "disagreement": round(one.value, 4), "positive": one.positive}, ensure_ascii=False
        )
        + "\n"
        for one in found
    )
