"""Metrics that combine the values that others give to single reports; an evaluation computes each of those once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from metrics import registry
from metrics.base import Metric
from metrics.scores import Scores


class CombinedMetric(Metric):
    """A metric of the scores of other registered metrics.

    :func:`metrics.suite.evaluate` computes every part once, whether it is wanted by itself, by this metric, or by
    several.

    Attributes:
        parts: rows of the registry that it needs.
    """

    parts: ClassVar[tuple[str, ...]]

    @abstractmethod
    def combine(self, parts: Mapping[str, Scores]) -> Scores:
        """Score N reports.

        Args:
            parts: scores of the same N reports by row.
        """

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> Scores:
        """Score N pairs; the parts are computed for this metric alone."""
        metrics = {row: registry.load(row)(row, self.settings) for row in self.parts}
        return self.combine({row: metric.scores(candidates, references) for row, metric in metrics.items()})
