"""Share of false verdicts between two systems that do not differ, by the correlation within patients.

    python -m scripts.simulate_verdicts

Each run draws a test set of the size of MIMIC-CXR's (2,461 reports of 290 patients, who have between one and some
hundred) and two systems whose scores differ by chance only: the difference of a report is normal, with mean 0 and an
intraclass correlation within patients. A verdict for either system is false. ``by report`` is the verdict of an
interval that resamples reports, ``by patient`` that of one that resamples patients, ``p`` that of the randomisation
test at 5 %, ``verdict`` that of :class:`metrics.bootstrap.Difference`, which asks for both of the latter.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from metrics.bootstrap import ALPHA, PERMUTATIONS, SAMPLES, Bootstrap, Interval
from metrics.scores import mean_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

REPORTS, PATIENTS, RUNS = 2_461, 290, 2_000
CORRELATIONS = (0.0, 0.05, 0.1, 0.2, 0.3)
WAYS = ("by report", "by patient", "p", "verdict")
_EVENNESS = 0.6  # of the Dirichlet distribution of the patients' shares: the mean report has some 20 of its patient


@dataclass(frozen=True)
class Simulation:
    """Size of the simulation.

    Attributes:
        reports: number of reports of a test set.
        patients: number of their patients.
        runs: number of test sets.
        bootstrap: settings of intervals and tests; each run has a seed of its own.
    """

    reports: int = REPORTS
    patients: int = PATIENTS
    runs: int = RUNS
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def false_verdicts(self, correlation: float) -> dict[str, float]:
        """Return the share of runs with a false verdict, by the way of judging."""
        found = dict.fromkeys(WAYS, 0)
        for run in range(self.runs):
            for way in self._one(correlation, run):
                found[way] += 1
        return {way: count / self.runs for way, count in found.items()}

    def _one(self, correlation: float, run: int) -> list[str]:
        rng = np.random.default_rng([run, round(1000 * correlation)])
        patients = self._patients(rng)
        shared, own = rng.standard_normal(self.patients)[patients], rng.standard_normal(self.reports)
        values = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
        first, second = (mean_scores({"x": one}, "simulated") for one in (values, np.zeros(self.reports)))
        bootstrap = Bootstrap(self.bootstrap.samples, run, self.bootstrap.permutations)
        by_report = bootstrap.intervals(first)["x"]
        by_patient = bootstrap.differences(first, second, bootstrap.patients(list(map(str, patients))))["x"]
        false = {
            "by report": _excludes_zero(by_report),
            "by patient": _excludes_zero(by_patient),
            "p": by_patient.p is not None and by_patient.p < ALPHA,
            "verdict": by_patient.verdict != "no difference shown",
        }
        return [way for way, is_false in false.items() if is_false]

    def _patients(self, rng: np.random.Generator) -> NDArray[np.intp]:
        """Draw the patient of each report; every patient has one at least."""
        shares = rng.dirichlet(np.full(self.patients, _EVENNESS))
        sizes = 1 + rng.multinomial(self.reports - self.patients, shares)
        return np.repeat(np.arange(self.patients), sizes)


def _excludes_zero(interval: Interval) -> bool:
    return interval.low is not None and interval.high is not None and (interval.low > 0 or interval.high < 0)


def main(arguments: list[str] | None = None) -> None:
    """Print the shares as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--reports", type=int, default=REPORTS)
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--permutations", type=int, default=PERMUTATIONS)
    parser.add_argument(
        "--correlation", type=float, action="append", help="repeatable; default: 0, 0.05, 0.1, 0.2, 0.3"
    )
    given = parser.parse_args(arguments)
    if not 1 <= given.patients <= given.reports or given.runs < 1 or given.permutations < 1:
        parser.error("there must be a run, a permutation, a patient, and a report for each patient")
    if any(not 0 <= one <= 1 for one in given.correlation or ()):
        parser.error("a correlation is between 0 and 1")
    bootstrap = Bootstrap(SAMPLES, permutations=given.permutations)
    simulation = Simulation(given.reports, given.patients, given.runs, bootstrap)
    print(f"| correlation | {' | '.join(WAYS)} |\n|{'---|' * (len(WAYS) + 1)}")
    for correlation in given.correlation or CORRELATIONS:
        shares = simulation.false_verdicts(correlation)
        print(f"| {correlation:g} | {' | '.join(f'{100 * shares[way]:.1f} %' for way in WAYS)} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
