"""Result of every metric: scores, values of single reports, and sums from which any resample can be scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def _nothing(sums: Floats) -> dict[str, int]:
    return {}


@dataclass(frozen=True)
class Scores:
    """Scores of N reports by one metric: fractions between 0 and 1, which tables print times 100.

    Attributes:
        statistics: ``[N, S]``; a score of a set of reports depends only on the sums of its rows, so that a resample
            of the bootstrap is a weighted sum.
        of_sums: function from sums ``[..., S]`` and numbers of reports ``[...]`` to scores by name, ``[...]`` each;
            NaN if a score is not defined.
        per_sample: values of single reports by name, ``[N]`` each.
        signature: all choices that the numbers depend on, in one line.
        positives: function from sums ``[S]`` to the number of positive reference labels behind a score, for scores
            that depend on labels.
        costs: names of scores and values of which lower is better.
        absent: names of scores that no report bears on: they are 0, and are not shown.
    """

    statistics: Floats
    of_sums: Callable[[Floats, Floats], dict[str, Floats]]
    per_sample: Mapping[str, Floats]
    signature: str
    positives: Callable[[Floats], dict[str, int]] = field(default=_nothing)
    costs: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.statistics)

    def point(self) -> dict[str, float]:
        """Return the scores of all reports, by name."""
        import numpy as np

        scores = self.of_sums(self.statistics.sum(axis=0), np.asarray(float(len(self))))
        return {name: float(value) for name, value in scores.items() if name not in self.absent}

    def __getitem__(self, name: str) -> float:
        return self.point()[name]

    def subset(self, rows: NDArray[np.intp]) -> Scores:
        """Return the scores of some of the reports."""
        return replace(
            self,
            statistics=self.statistics[rows],
            per_sample={name: values[rows] for name, values in self.per_sample.items()},
        )


def alike(systems: Sequence[Scores]) -> list[Scores]:
    """Return the scores of several systems by one metric with the same names: what one of them has, all show."""
    absent = frozenset[str].intersection(*(scores.absent for scores in systems))
    return [replace(scores, absent=absent) for scores in systems]


def mean_scores(values: Mapping[str, Floats], signature: str) -> Scores:
    """Return scores that are means over reports.

    Args:
        values: values of single reports by name, ``[N]`` each.
        signature: all choices that the numbers depend on.
    """
    import numpy as np

    names = list(values)

    def of_sums(sums: Floats, counts: Floats) -> dict[str, Floats]:
        return {name: sums[..., column] / counts for column, name in enumerate(names)}

    return Scores(np.stack([values[name] for name in names], axis=1), of_sums, dict(values), signature)
