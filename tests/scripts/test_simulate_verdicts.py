"""False verdicts between equal systems: many by report, few by patient."""

from __future__ import annotations

import numpy as np
import pytest

from metrics.bootstrap import Bootstrap
from scripts.simulate_verdicts import Simulation, main


def test_verdicts_by_patient_are_seldom_false_where_those_by_report_are_often() -> None:
    """The design effect at 0.3 is about 1 + 0.3 x 19: an interval by report is 2.6 times too narrow."""
    small = Simulation(reports=500, patients=60, runs=150, bootstrap=Bootstrap(200, permutations=400))
    found = small.false_verdicts(0.3)
    assert found["by report"] > 0.2
    assert max(found["by patient"], found["p"], found["verdict"]) < 0.11
    assert found["verdict"] <= min(found["by patient"], found["p"])


def test_simulated_patients_are_of_the_sizes_that_are_described() -> None:
    sizes = np.bincount(Simulation()._patients(np.random.default_rng(0)))
    assert (len(sizes), sizes.sum(), sizes.min()) == (290, 2461, 1)
    assert 15 < (sizes**2).sum() / sizes.sum() < 27


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--runs", "2", "--reports", "30", "--patients", "10", "--permutations", "50", "--correlation", "0.1"])
    head, _, row = capsys.readouterr().out.splitlines()
    assert head == "| correlation | by report | by patient | p | verdict |" and row.startswith("| 0.1 | ")
    with pytest.raises(SystemExit):
        main(["--patients", "5", "--reports", "3"])
