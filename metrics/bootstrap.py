"""Intervals by 500 seeded resamples, of reports or of patients, and paired tests of two systems by patient.

The paper gives "median and 95% confidence intervals from 500 bootstrap samples" (table 2), of reports. For BLEU and
macro-F1 the median is not the score itself, so both are given. Reports of one patient resemble each other: intervals
that resample reports are then too narrow, and comparisons resample patients with all their reports (cluster bootstrap,
Davison & Hinkley 1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from metrics.base import InputError
from metrics.scores import alike

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from metrics.scores import Floats, Scores

SAMPLES, SEED, PERMUTATIONS = 500, 42, 10_000
ALPHA = 0.05
"""Level of a verdict: its interval has 95 % and its corrected p is below 5 %."""
_ROWS = 500  # permutations that are scored at a time
_ROUNDING = 1e-12

Verdict = Literal["first", "second", "no difference shown"]


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
class Difference(Interval):
    """A first system's score minus a second one's, with its interval by patient.

    Attributes:
        p: p-value of the paired randomisation test by patient; None if a score is not defined.
        p_holm: p after Holm's correction for all systems compared; see :func:`corrected`.
        lower_is_better: the better system is that with the lower score.
    """

    p: float | None = None
    p_holm: float | None = None
    lower_is_better: bool = False

    @property
    def verdict(self) -> Verdict:
        """The better system: the interval must exclude 0 and the corrected p be below 0.05."""
        if self.low is None or self.high is None or self.p_holm is None or self.p_holm >= ALPHA:
            return "no difference shown"
        if self.low <= 0 <= self.high:
            return "no difference shown"
        return "first" if (self.low > 0) != self.lower_is_better else "second"


@dataclass(frozen=True)
class Patients:
    """Random draws of patients with all their reports; see :meth:`Bootstrap.patients`.

    Attributes:
        rows: ``[N]``, number of each report's patient.
        reports: ``[P]``, number of each patient's reports.
        bootstrap: settings of the draws.
    """

    rows: NDArray[np.intp]
    reports: Floats
    bootstrap: Bootstrap

    def __len__(self) -> int:
        return len(self.reports)

    def sums(self, statistics: Floats) -> Floats:
        """Return the sums ``[P, S]`` of the statistics ``[N, S]`` of each patient's reports."""
        import numpy as np

        sums = np.zeros((len(self), statistics.shape[1]))
        np.add.at(sums, self.rows, statistics)
        return sums

    def draws(self, scores: Scores) -> dict[str, Floats]:
        """Return the score of every resample, ``[samples]`` each."""
        return scores.of_sums(self.weights @ self.sums(scores.statistics), self.weights @ self.reports)

    def p_values(self, first: Scores, second: Scores) -> dict[str, float | None]:
        """Test the null hypothesis that the two systems' reports of a patient are exchangeable.

        The statistic is the absolute difference of the scores. All 2^P exchanges are scored if these are few, else
        random ones, and p = (extreme + 1) / (permutations + 1) (Phipson & Smyth 2010). Exchanges for which a score is
        not defined count as extreme.
        """
        import numpy as np

        points = second.point()
        observed = {name: value - points[name] for name, value in first.point().items()}
        extreme, number = dict.fromkeys(observed, 0), 0
        moved = self.sums(second.statistics - first.statistics)
        sums = first.statistics.sum(axis=0), second.statistics.sum(axis=0)
        for exchanged in self.exchanges():
            change, counts = exchanged @ moved, np.full(len(exchanged), float(len(first)))
            number += len(exchanged)
            found, others = first.of_sums(sums[0] + change, counts), second.of_sums(sums[1] - change, counts)
            for name, value in observed.items():
                less = np.abs(found[name] - others[name]) < abs(value) - _ROUNDING
                extreme[name] += len(exchanged) - int(less.sum())
        return {
            name: None if np.isnan(value) else self.p_value(extreme[name], number) for name, value in observed.items()
        }

    def p_value(self, extreme: int, number: int) -> float:
        """Return p of a test in which ``extreme`` of ``number`` exchanges are as extreme as the observation."""
        one = 0 if self.exact else 1
        return (extreme + one) / (number + one)

    @cached_property
    def weights(self) -> Floats:
        """Number of times that each patient is in each resample, ``[samples, P]``."""
        return self.bootstrap.weights(len(self))

    @property
    def exact(self) -> bool:
        """All exchanges are tried."""
        return (1 << min(len(self), 62)) <= self.bootstrap.permutations

    @cached_property
    def _bits(self) -> NDArray[np.uint8]:
        """Exchanged patients of each permutation, eight to a byte."""
        import numpy as np

        if self.exact:
            return np.packbits((np.arange(1 << len(self))[:, None] >> np.arange(len(self))) & 1, axis=1)
        rng = np.random.default_rng(self.bootstrap.seed)
        return rng.integers(0, 256, (self.bootstrap.permutations, -(-len(self) // 8)), dtype=np.uint8)

    def exchanges(self) -> Iterator[Floats]:
        """Yield the exchanges of the randomisation test, ``[<=500, P]``, 1 where a patient's are exchanged."""
        import numpy as np

        for start in range(0, len(self._bits), _ROWS):
            yield np.unpackbits(self._bits[start : start + _ROWS], axis=1, count=len(self)).astype(np.float64)


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the bootstrap and of the randomisation test.

    Attributes:
        samples: number of resamples, each as large as the set itself.
        seed: seed of ``numpy.random.default_rng``.
        permutations: number of random exchanges of the test.
    """

    samples: int = SAMPLES
    seed: int = SEED
    permutations: int = PERMUTATIONS

    @property
    def signature(self) -> str:
        """All choices of the intervals in one line."""
        return f"bootstrap|samples:{self.samples}|seed:{self.seed}|interval:percentile-95"

    @property
    def comparisons(self) -> str:
        """All choices of comparisons in one line."""
        return f"{self.signature}|resampled:patients|test:randomisation-{self.permutations}|correction:holm"

    def weights(self, units: int) -> Floats:
        """Draw the number of times that each report, or each patient, is in each resample: ``[samples, units]``.

        Row by row the draws equal ``default_rng(seed).choice(units, units, replace=True)``.
        """
        import numpy as np

        if self.samples < 1 or units < 1:
            raise InputError("a bootstrap needs at least one sample and one report")
        rng = np.random.default_rng(self.seed)
        weights = np.empty((self.samples, units))
        for row in weights:
            row[:] = np.bincount(rng.integers(0, units, units), minlength=units)
        return weights

    def patients(self, names: Sequence[str]) -> Patients:
        """Return draws of patients.

        Args:
            names: patient of each of N reports; a report with "" is a patient of its own.
        """
        import numpy as np

        numbers: dict[tuple[str, int], int] = {}
        rows = [numbers.setdefault((name, -1 if name else row), len(numbers)) for row, name in enumerate(names)]
        return Patients(np.array(rows, dtype=np.intp), np.bincount(rows).astype(np.float64), self)

    def intervals(self, scores: Scores, weights: Floats | None = None) -> dict[str, Interval]:
        """Return point, median and 95 % interval of every score, by resampling reports as the paper does.

        Args:
            scores: scores of N reports.
            weights: result of :meth:`weights`, to draw once for many metrics.
        """
        weights = self.weights(len(scores)) if weights is None else weights
        draws = scores.of_sums(weights @ scores.statistics, weights.sum(axis=1))
        return {name: interval(value, draws[name]) for name, value in scores.point().items()}

    def by_patient(self, scores: Scores, patients: Patients) -> dict[str, Interval]:
        """Return point, median and 95 % interval of every score, by resampling patients with all their reports.

        One patient has no interval.
        """
        draws = patients.draws(scores) if len(patients) > 1 else {}
        return {name: interval(value, draws.get(name)) for name, value in scores.point().items()}

    def differences(self, first: Scores, second: Scores, patients: Patients | None = None) -> dict[str, Difference]:
        """Return first minus second by score, with intervals on the same resampled patients and p-values.

        ``p_holm`` is the p of this comparison alone.

        Args:
            first: scores of N reports.
            second: scores of the same reports.
            patients: of the N reports; by default each report is a patient of its own.

        Raises:
            InputError: if the two are not of the same reports or of the same metric.
        """
        if len(first) != len(second) or first.signature != second.signature:
            raise InputError("only the same metric on the same reports can be compared")
        first, second = alike([first, second])
        patients = patients or self.patients([""] * len(first))
        draws, others = (patients.draws(scores) if len(patients) > 1 else {} for scores in (first, second))
        points, p_values = second.point(), patients.p_values(first, second)
        found = {}
        for name, value in first.point().items():
            one = interval(value - points[name], draws[name] - others[name] if draws else None)
            p, cost = p_values[name], name in first.costs
            found[name] = Difference(one.point, one.median, one.low, one.high, p, p, lower_is_better=cost)
        return found


def corrected(tables: Sequence[dict[str, Difference]]) -> list[dict[str, Difference]]:
    """Set ``p_holm`` of several comparisons: for each score Holm's step-down p-values (Holm 1979) over all of them."""
    found = [dict(table) for table in tables]
    for name in dict.fromkeys(name for table in tables for name in table):
        tested = {row: one.p for row, table in enumerate(tables) if (one := table.get(name)) and one.p is not None}
        highest = 0.0
        for rank, row in enumerate(sorted(tested, key=lambda row: tested[row])):
            highest = max(highest, min(1.0, (len(tested) - rank) * tested[row]))
            found[row][name] = replace(tables[row][name], p_holm=highest)
    return found


def interval(point: float, draws: Floats | None) -> Interval:
    import numpy as np

    draws = None if draws is None else draws[~np.isnan(draws)]
    if np.isnan(point) or draws is None or not len(draws):
        return Interval(None if np.isnan(point) else point, None, None, None)
    low, median, high = (float(value) for value in np.quantile(draws, [0.025, 0.5, 0.975]))
    return Interval(point, median, low, high)
