"""Confidence intervals by 500 seeded resamples of the reports, the same for every metric and every model.

The paper gives "median and 95% confidence intervals from 500 bootstrap samples" (table 2). For BLEU and macro-F1 the
median is not the score itself, so both are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metrics.base import InputError

if TYPE_CHECKING:
    from metrics.scores import Floats, Scores

SAMPLES, SEED = 500, 42


@dataclass(frozen=True)
class Interval:
    """A score with its bootstrap interval.

    Attributes:
        point: score of the reports themselves; None if it is not defined.
        median: median of the resamples.
        low: 2.5th percentile of the resamples.
        high: 97.5th percentile.
    """

    point: float | None
    median: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the bootstrap.

    Attributes:
        samples: number of resamples, each as large as the set itself.
        seed: seed of ``numpy.random.default_rng``.
    """

    samples: int = SAMPLES
    seed: int = SEED

    @property
    def signature(self) -> str:
        """All choices in one line."""
        return f"bootstrap|samples:{self.samples}|seed:{self.seed}|interval:percentile-95"

    def weights(self, reports: int) -> Floats:
        """Draw the number of times that each report is in each resample: ``[samples, reports]``.

        Row by row the draws equal ``default_rng(seed).choice(reports, reports, replace=True)``.
        """
        import numpy as np

        if self.samples < 1 or reports < 1:
            raise InputError("a bootstrap needs at least one sample and one report")
        rng = np.random.default_rng(self.seed)
        weights = np.empty((self.samples, reports))
        for row in weights:
            row[:] = np.bincount(rng.integers(0, reports, reports), minlength=reports)
        return weights

    def intervals(self, scores: Scores, weights: Floats | None = None) -> dict[str, Interval]:
        """Return point, median and 95 % interval of every score.

        Args:
            scores: scores of N reports.
            weights: result of :meth:`weights`, to draw once for many metrics.
        """
        weights = self.weights(len(scores)) if weights is None else weights
        draws = _draws(scores, weights)
        return {name: _interval(value, draws[name]) for name, value in scores.point().items()}

    def differences(self, first: Scores, second: Scores, weights: Floats | None = None) -> dict[str, Interval]:
        """Return the intervals of first minus second, on the same resamples of the same reports.

        Raises:
            InputError: if the two are not of the same reports or of the same metric.
        """
        if len(first) != len(second) or first.signature != second.signature:
            raise InputError("only the same metric on the same reports can be compared")
        weights = self.weights(len(first)) if weights is None else weights
        draws, others = _draws(first, weights), _draws(second, weights)
        points = second.point()
        return {
            name: _interval(value - points[name], draws[name] - others[name]) for name, value in first.point().items()
        }


def _draws(scores: Scores, weights: Floats) -> dict[str, Floats]:
    return scores.of_sums(weights @ scores.statistics, weights.sum(axis=1))


def _interval(point: float, draws: Floats) -> Interval:
    import numpy as np

    draws = draws[~np.isnan(draws)]
    if np.isnan(point) or not len(draws):
        return Interval(None if np.isnan(point) else point, None, None, None)
    low, median, high = (float(value) for value in np.quantile(draws, [0.025, 0.5, 0.975]))
    return Interval(point, median, low, high)
