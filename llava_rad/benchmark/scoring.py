"""Scores of a benchmark: metrics with intervals, paired comparisons of systems, diversity of the reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from math import sqrt
from typing import TYPE_CHECKING, Any

from llava_rad.benchmark.inputs import Worth, Written, worths
from llava_rad.benchmark.task import Task
from metrics.base import Settings, is_empty
from metrics.bootstrap import Bootstrap, Difference, Interval, Patients, Verdict, corrected
from metrics.strata import Strata, by_group
from metrics.suite import Evaluation, Model, Pairs, evaluate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from metrics.base import Report
    from metrics.cache import Cache
    from metrics.scores import Scores

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
        reports: number of reports compared; None for all.
    """

    first: str
    second: str
    differences: dict[str, Difference]
    reports: int | None = None

    def verdict(self, score: str) -> Verdict:
        """Return the better system; see :attr:`metrics.bootstrap.Difference.verdict`."""
        return self.differences[score].verdict


@dataclass(frozen=True)
class Diversity:
    """Diversity of a system's reports.

    Attributes:
        distinct: number of distinct texts.
        share: number of distinct texts divided by the number of texts.
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
        worths: of inputs, where models wrote from several sets of them.
    """

    evaluation: Evaluation
    compared: list[Compared]
    diversity: dict[str, Diversity]
    models: list[str]
    worths: list[Worth] = field(default_factory=list)


def score(
    task: Task,
    models: Mapping[str, Sequence[str]],
    points: Mapping[str, Sequence[str | None]],
    settings: Settings,
    bootstrap: Bootstrap,
    *,
    written: Mapping[str, Written] | None = None,
    priors: Mapping[str, Sequence[str]] | None = None,
    cache: Cache | None = None,
    report: Report | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Scored:
    """Score the texts of models and of reference points, N each in the order of the task's cases.

    Args:
        task: cases.
        models: texts by system.
        points: texts by reference point; None where it has no report: it is scored, and compared, without these cases.
        settings: of the metrics.
        bootstrap: resampling.
        written: models, and the inputs that they were given, by system.
        priors: whether each report was written with an earlier image, by system, as for
            :func:`metrics.comparisons.prior_claims`; systems that are missing here do not tell.
        cache: of annotations.
        report: shows progress.
        say: receives messages.

    Raises:
        InputError: if a metric is unknown.
    """
    written, priors = written or {}, priors or {}
    ids, references, people = [case.id for case in task.cases], task.references, task.patients
    systems = {
        name: Pairs(
            ids,
            [text or "" for text in texts],
            references,
            task.strata,
            people,
            {"prior": list(priors[name])} if name in priors else {},
        )
        for name, texts in {**models, **points}.items()
    }
    found = evaluate(systems, settings, bootstrap=bootstrap, cache=cache, report=report, say=say, compare=False)
    by_name = {one.name: one for one in found.models}
    partial = {name: _Part.of(texts, people, bootstrap) for name, texts in points.items() if None in texts}
    patients = bootstrap.patients(people)

    def compare(pairs: Sequence[tuple[str, str]]) -> list[Compared]:
        tables: list[dict[str, Difference]] = [{} for _ in pairs]
        for table, (first, second) in zip(tables, pairs, strict=True):
            for metric, scores in by_name[first].scores.items():
                other = by_name[second].scores[metric]
                if (part := partial.get(second)) is None:
                    table |= bootstrap.differences(scores, other, patients)
                else:
                    table |= bootstrap.differences(scores.subset(part.rows), other.subset(part.rows), part.patients)
        of_pairs = zip(pairs, corrected(tables), strict=True)
        return [
            Compared(*pair, table, len(partial[pair[1]].rows) if pair[1] in partial else None)
            for pair, table in of_pairs
        ]

    compared = compare([*combinations(models, 2)]) + compare([(model, point) for model in models for point in points])
    of_first = {one.second: one.differences for one in compared if one.first == found.models[0].name}
    diversity = {
        name: Diversity.of([text for text in texts if text is not None]) for name, texts in {**models, **points}.items()
    }
    results = [
        one if (part := partial.get(one.name)) is None else _restricted(one, part, task, settings, bootstrap)
        for one in found.models
    ]
    return Scored(
        replace(found, differences=of_first, models=results),
        compared,
        diversity | {"references": Diversity.of(references)},
        list(models),
        worths(written, by_name, people, bootstrap),
    )


@dataclass(frozen=True)
class _Part:
    """Cases of which a reference point has a report: their numbers, and the patients of these."""

    rows: NDArray[np.intp]
    people: list[str]
    patients: Patients

    @classmethod
    def of(cls, texts: Sequence[str | None], people: Sequence[str], bootstrap: Bootstrap) -> _Part:
        import numpy as np

        rows = [row for row, text in enumerate(texts) if text is not None]
        some = [people[row] for row in rows]
        return cls(np.array(rows, dtype=np.intp), some, bootstrap.patients(some))


def _restricted(model: Model, found: _Part, task: Task, settings: Settings, bootstrap: Bootstrap) -> Model:
    """Return the results of a system that has reports for some rows only; the values of other reports are NaN."""
    import numpy as np

    weights = bootstrap.weights(len(found.rows))
    scores: dict[str, Scores] = {}
    intervals: dict[str, Interval] = {}
    by_patient: dict[str, Interval] = {}
    strata: dict[str, dict[str, Strata]] = {column: {} for column in task.strata}
    for metric, whole in model.scores.items():
        part = whole.subset(found.rows)
        intervals |= bootstrap.intervals(part, weights)
        by_patient |= bootstrap.by_patient(part, found.patients)
        for column, groups in task.strata.items():
            of_rows = [groups[row] for row in found.rows]
            strata[column] |= by_group(part, of_rows, bootstrap, found.people, settings.min_group)
        values = {name: np.full(len(whole), np.nan) for name in whole.per_sample}
        for name, given in part.per_sample.items():
            values[name][found.rows] = given
        scores[metric] = replace(part, per_sample=values)
    return replace(model, scores=scores, intervals=intervals, by_patient=by_patient, strata=strata)


def as_json(difference: Difference) -> dict[str, Any]:
    """Return a difference with its verdict as JSON data."""
    return asdict(difference) | {"verdict": difference.verdict}
