"""Scores by group against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest

from metrics.base import InputError
from metrics.bootstrap import Bootstrap, Interval
from metrics.labels import label_f1
from metrics.scores import mean_scores
from metrics.strata import by_group


def test_the_average_is_over_all_reports_and_not_over_the_groups() -> None:
    scores = mean_scores({"rouge_l": np.array([1.0, 1.0, 1.0, 0.0])}, "given")
    found = by_group(scores, ["a", "a", "a", "b"], Bootstrap(20))["rouge_l"]
    assert (found.average, found.worst, found.gap) == (0.75, "b", 0.75)
    assert (found.groups["a"].n, found.groups["a"].score) == (3, Interval(1, 1, 1, 1))
    assert found.groups["b"].score == Interval(0, None, None, None), "one report has no interval"
    assert "not estimable" in found.groups["b"].note


def test_each_group_is_resampled_by_itself() -> None:
    values = np.array([0.0, 1.0, 0.5, 0.25, 0.75])
    found = by_group(mean_scores({"x": values}, "given"), list("abaab"), Bootstrap(30))["x"]
    draws = Bootstrap(30).weights(3) @ values[[0, 2, 3]] / 3
    score = found.groups["a"].score
    assert score is not None
    assert [score.low, score.median, score.high] == pytest.approx(np.quantile(draws, [0.025, 0.5, 0.975]).tolist())


def test_a_group_without_a_positive_label_is_not_estimable() -> None:
    labels = np.zeros((6, 14), dtype=int)
    labels[:3, 4] = 1
    found = by_group(label_f1(labels, labels), ["f", "f", "f", "m", "m", "m"], Bootstrap(10))
    edema = found["f1/Edema"]
    assert edema.groups["f"].score is not None and edema.groups["f"].score.point == 1
    assert (edema.groups["m"].n, edema.groups["m"].score) == (3, None)
    assert edema.groups["m"].note == "not estimable: no positive label among the references"
    assert found["macro_f1_14"].groups["m"].score is None
    assert edema.worst == "f"
    assert found["f1/Fracture"].worst is None


def test_what_is_unknown_is_a_group_of_its_own() -> None:
    found = by_group(mean_scores({"x": np.arange(4.0)}, "given"), ["unknown", ">=80", "20-40", "<20"], Bootstrap(5))
    assert list(found["x"].groups) == ["<20", "20-40", ">=80", "unknown"]
    with pytest.raises(InputError, match="3 groups for 4 reports"):
        by_group(mean_scores({"x": np.arange(4.0)}, "given"), ["a", "b", "c"], Bootstrap(5))
