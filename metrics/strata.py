"""Scores by group of patients or images: average, groups with their own intervals, worst group, and gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metrics.base import MIN_GROUP, InputError

if TYPE_CHECKING:
    from metrics.bootstrap import Bootstrap, Interval
    from metrics.scores import Scores

UNKNOWN = "unknown"
"""Value of reports of no group: nothing is known, or the patient declined to answer."""
NOT_ESTIMABLE = "not estimable"


@dataclass(frozen=True)
class Group:
    """One group's score.

    Attributes:
        n: number of reports.
        patients: number of patients.
        score: score with its interval by patient; None if it cannot be estimated. The ends of the interval are None
            for a single patient.
        note: reason for a value that is None.
    """

    n: int
    patients: int
    score: Interval | None
    note: str = ""


@dataclass(frozen=True)
class Strata:
    """A score by group.

    Attributes:
        average: score of all reports, the paper's "avg" (appendix C.6), not the mean of the groups.
        groups: results by name of the group.
        worst: name of the group with the lowest score among those with ``minimum`` reports, the highest where lower is
            better; None if fewer than two groups have as many.
        gap: average minus the worst group's score, or None.
        unknown: number of reports of no group.
        minimum: number of reports from which on a group can be the worst.
    """

    average: float | None
    groups: dict[str, Group]
    worst: str | None
    gap: float | None
    unknown: int
    minimum: int


def by_group(
    scores: Scores,
    groups: Sequence[str],
    bootstrap: Bootstrap,
    patients: Sequence[str] = (),
    minimum: int = MIN_GROUP,
) -> dict[str, Strata]:
    """Return every score by group; the patients of each group are resampled by themselves.

    Args:
        scores: scores of N reports.
        groups: group of each report; reports of :data:`UNKNOWN` are counted, and in the average only.
        bootstrap: settings of the intervals.
        patients: patient of each report, as for :meth:`metrics.bootstrap.Bootstrap.patients`; empty if none is known.
        minimum: number of reports from which on a group can be the worst.

    Raises:
        InputError: if there are not as many groups as reports.
    """
    import numpy as np

    if len(groups) != len(scores):
        raise InputError(f"{len(groups)} groups for {len(scores)} reports")
    tables: dict[str, dict[str, Group]] = {name: {} for name in scores.point()}
    names, people = np.array(groups, dtype=object), list(patients) or [""] * len(groups)
    for group in sorted(set(groups) - {UNKNOWN}, key=lambda group: (not group.startswith("<"), group)):
        rows = np.flatnonzero(names == group)
        part, drawn = scores.subset(rows), bootstrap.patients([people[row] for row in rows])
        positives = part.positives(part.statistics.sum(axis=0))
        for name, interval in bootstrap.by_patient(part, drawn).items():
            tables[name][group] = _group(len(part), len(drawn), interval, positives.get(name))
    points, unknown = scores.point(), int(np.count_nonzero(names == UNKNOWN))
    return {
        name: _strata(points[name], table, unknown, minimum, -1 if name in scores.costs else 1)
        for name, table in tables.items()
    }


def _group(n: int, patients: int, interval: Interval, positives: int | None) -> Group:
    if positives == 0:
        return Group(n, patients, None, f"{NOT_ESTIMABLE}: no positive label among the references")
    if interval.point is None:
        return Group(n, patients, None, f"{NOT_ESTIMABLE}: not defined")
    return Group(n, patients, interval, f"interval {NOT_ESTIMABLE}: one patient" if patients < 2 else "")


def _strata(average: float, groups: dict[str, Group], unknown: int, minimum: int, sign: int) -> Strata:
    points = {
        name: group.score.point for name, group in groups.items() if group.score is not None and group.n >= minimum
    }
    values = {name: point for name, point in points.items() if point is not None}
    worst = min(values, key=lambda name: (sign * values[name], name)) if len(values) > 1 else None
    defined = None if average != average else average
    gap = None if worst is None or defined is None else defined - values[worst]
    return Strata(defined, groups, worst, gap, unknown, minimum)
