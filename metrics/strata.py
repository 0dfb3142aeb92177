"""Scores by group of patients or images: average, groups with their own intervals, worst group, and gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metrics.base import InputError

if TYPE_CHECKING:
    from metrics.bootstrap import Bootstrap, Interval
    from metrics.scores import Scores

UNKNOWN = "unknown"
"""Name of the group of reports without a value."""
NOT_ESTIMABLE = "not estimable"


@dataclass(frozen=True)
class Group:
    """One group's score.

    Attributes:
        n: number of reports.
        score: interval of the score; None if it cannot be estimated. Its ends are None for a single report.
        note: reason for a value that is None.
    """

    n: int
    score: Interval | None
    note: str = ""


@dataclass(frozen=True)
class Strata:
    """A score by group.

    Attributes:
        average: score of all reports, the paper's "avg" (appendix C.6), not the mean of the groups.
        groups: results by name of the group.
        worst: name of the group with the lowest score, or None.
        gap: average minus the worst group's score, or None.
    """

    average: float | None
    groups: dict[str, Group]
    worst: str | None
    gap: float | None


def by_group(scores: Scores, groups: Sequence[str], bootstrap: Bootstrap) -> dict[str, Strata]:
    """Return every score by group; each group is resampled by itself.

    Args:
        scores: scores of N reports.
        groups: group of each report.
        bootstrap: settings of the intervals.

    Raises:
        InputError: if there are not as many groups as reports.
    """
    import numpy as np

    if len(groups) != len(scores):
        raise InputError(f"{len(groups)} groups for {len(scores)} reports")
    tables: dict[str, dict[str, Group]] = {}
    names = np.array(groups, dtype=object)
    for group in sorted(set(groups), key=_order):
        part = scores.subset(np.flatnonzero(names == group))
        positives = part.positives(part.statistics.sum(axis=0))
        for name, interval in bootstrap.intervals(part).items():
            tables.setdefault(name, {})[group] = _group(len(part), interval, positives.get(name))
    points = scores.point()
    return {name: _strata(points[name], table) for name, table in tables.items()}


def _order(group: str) -> tuple[bool, bool, str]:
    """Sort key of groups: bands of age in their order, unknown last."""
    return group == UNKNOWN, not group.startswith("<"), group


def _group(n: int, interval: Interval, positives: int | None) -> Group:
    from metrics.bootstrap import Interval

    if positives == 0:
        return Group(n, None, f"{NOT_ESTIMABLE}: no positive label among the references")
    if interval.point is None:
        return Group(n, None, f"{NOT_ESTIMABLE}: not defined")
    if n < 2:
        return Group(n, Interval(interval.point, None, None, None), f"interval {NOT_ESTIMABLE}: one report")
    return Group(n, interval)


def _strata(average: float, groups: dict[str, Group]) -> Strata:
    points = {name: group.score.point for name, group in groups.items() if group.score is not None}
    values = {name: point for name, point in points.items() if point is not None}
    worst = min(values, key=lambda name: (values[name], name)) if values else None
    defined = None if average != average else average
    gap = None if worst is None or defined is None else defined - values[worst]
    return Strata(defined, groups, worst, gap)
