"""Scores of a benchmark: metrics with intervals, paired comparisons of systems, diversity of the reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import sqrt
from typing import TYPE_CHECKING, Any

from llava_rad.benchmark.task import Task
from metrics.base import Settings, is_empty
from metrics.bootstrap import Bootstrap, Difference, Verdict, corrected
from metrics.suite import Evaluation, Pairs, evaluate

if TYPE_CHECKING:
    from metrics.annotations import Report
    from metrics.cache import Cache

FEW = 0.1
"""Share of different reports below which the results warn that a model repeats itself."""


@dataclass(frozen=True)
class Compared:
    """Paired comparison of two systems on the same resampled patients.

    Attributes:
        first: name.
        second: name.
        differences: first minus second, by score; p is corrected over all pairs of models, or over all models with all
            reference points.
    """

    first: str
    second: str
    differences: dict[str, Difference]

    def verdict(self, score: str) -> Verdict:
        """Return the better system; see :attr:`metrics.bootstrap.Difference.verdict`."""
        return self.differences[score].verdict


@dataclass(frozen=True)
class Diversity:
    """Diversity of a system's reports.

    Attributes:
        distinct: number of different texts.
        share: number of different texts divided by the number of texts.
        words: mean number of words.
        empty: texts without a letter or digit.
    """

    distinct: int
    share: float
    words: float
    empty: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> Diversity:
        """Count different texts and words."""
        distinct = len(set(texts))
        words = sum(len(text.split()) for text in texts) / len(texts)
        return cls(distinct, distinct / len(texts), words, sum(map(is_empty, texts)))


@dataclass(frozen=True)
class Agreement:
    """Agreement of a protocol's reports with those of the paper's protocol, on a random sample.

    Attributes:
        sample: number of reports compared.
        different: number of reports that differ in at least one character.
    """

    sample: int
    different: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share of different reports (Wilson's score interval)."""
        n, p, z = self.sample, self.different / self.sample, 1.959964
        centre, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))


@dataclass(frozen=True)
class Scored:
    """Scores of all systems.

    Attributes:
        evaluation: scores with intervals, strata and values of each report.
        compared: all pairs of models, then every model with every reference point.
        diversity: by system; ``references`` are the references themselves.
        models: names of the systems that are models; the others are reference points.
    """

    evaluation: Evaluation
    compared: list[Compared]
    diversity: dict[str, Diversity]
    models: list[str]


def score(
    task: Task,
    models: Mapping[str, Sequence[str]],
    points: Mapping[str, Sequence[str]],
    settings: Settings,
    bootstrap: Bootstrap,
    *,
    cache: Cache | None = None,
    report: Report | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Scored:
    """Score the texts of models and of reference points, N each in the order of the task's cases.

    Raises:
        InputError: if a metric is unknown.
    """
    ids, references = [case.id for case in task.cases], task.references
    systems = {
        name: Pairs(ids, list(texts), references, task.strata, task.patients)
        for name, texts in {**models, **points}.items()
    }
    found = evaluate(systems, settings, bootstrap=bootstrap, cache=cache, report=report, say=say, compare=False)
    patients = bootstrap.patients(task.patients)
    by_name = {one.name: one for one in found.models}

    def compare(pairs: Sequence[tuple[str, str]]) -> list[Compared]:
        tables: list[dict[str, Difference]] = [{} for _ in pairs]
        for table, (first, second) in zip(tables, pairs, strict=True):
            for metric, scores in by_name[first].scores.items():
                table |= bootstrap.differences(scores, by_name[second].scores[metric], patients)
        return [Compared(*pair, table) for pair, table in zip(pairs, corrected(tables), strict=True)]

    compared = compare([*combinations(models, 2)]) + compare([(model, point) for model in models for point in points])
    of_first = {one.second: one.differences for one in compared if one.first == found.models[0].name}
    diversity = {name: Diversity.of(pairs.candidates) for name, pairs in systems.items()}
    return Scored(
        replace(found, differences=of_first),
        compared,
        diversity | {"references": Diversity.of(references)},
        list(models),
    )


def as_json(difference: Difference) -> dict[str, Any]:
    """Return a difference with its verdict as JSON data."""
    return asdict(difference) | {"verdict": difference.verdict}
