"""Scores by group against sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metrics.base import InputError
from metrics.bootstrap import Bootstrap, Interval
from metrics.labels import label_f1
from metrics.scores import mean_scores
from metrics.strata import by_group

pytestmark = pytest.mark.acceptance(row=33)


def test_the_average_is_over_all_reports_and_not_over_the_groups() -> None:
    scores = mean_scores({"rouge_l": np.array([1.0, 1.0, 1.0, 0.0])}, "given")
    found = by_group(scores, ["a", "a", "a", "b"], Bootstrap(20), minimum=1)["rouge_l"]
    assert (found.average, found.worst, found.gap) == (0.75, "b", 0.75)
    assert (found.groups["a"].n, found.groups["a"].score) == (3, Interval(1, 1, 1, 1))
    assert found.groups["b"].score == Interval(0, None, None, None), "one patient has no interval"
    assert "not estimable" in found.groups["b"].note


def test_where_lower_is_better_the_worst_group_is_the_highest() -> None:
    scores = replace(mean_scores({"errors": np.array([1.0, 1.0, 4.0, 4.0])}, "given"), costs=frozenset(("errors",)))
    found = by_group(scores, ["a", "a", "b", "b"], Bootstrap(5), minimum=1)["errors"]
    assert (found.average, found.worst, found.gap) == (2.5, "b", -1.5)


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
    found = by_group(label_f1(labels, labels), ["f", "f", "f", "m", "m", "m"], Bootstrap(10), minimum=1)
    edema = found["f1/Edema"]
    assert edema.groups["f"].score is not None and edema.groups["f"].score.point == 1
    assert (edema.groups["m"].n, edema.groups["m"].score) == (3, None)
    assert edema.groups["m"].note == "not estimable: no positive label among the references"
    assert found["macro_f1_14"].groups["m"].score is None
    assert edema.worst is None, "a single group with a value is not the worst of several"
    assert found["f1/Fracture"].worst is None


def test_what_is_unknown_is_counted_and_is_no_group() -> None:
    values = np.array([0.0, 3.0, 2.0, 1.0])
    groups = ["unknown", ">=80", "20-40", "<20"]
    found = by_group(mean_scores({"x": values}, "given"), groups, Bootstrap(5), minimum=1)["x"]
    assert list(found.groups) == ["<20", "20-40", ">=80"]
    assert (found.unknown, found.average, found.worst, found.gap) == (1, 1.5, "<20", 0.5)
    none = by_group(mean_scores({"x": values}, "given"), ["unknown"] * 4, Bootstrap(5), minimum=1)["x"]
    assert (none.groups, none.unknown, none.worst, none.gap) == ({}, 4, None, None)
    with pytest.raises(InputError, match="3 groups for 4 reports"):
        by_group(mean_scores({"x": np.arange(4.0)}, "given"), ["a", "b", "c"], Bootstrap(5))


@pytest.mark.parametrize(("sizes", "minimum", "worst"), [
    ((30, 40, 29), 30, "a"), ((30, 40, 30), 30, "c"), ((29, 40, 29), 30, None), ((5, 9, 3), 3, "c"),
    ((5, 9, 3), 4, "a"),
])  # fmt: skip
def test_a_small_group_is_never_the_worst(sizes: tuple[int, ...], minimum: int, worst: str | None) -> None:
    groups = [name for name, size in zip("abc", sizes, strict=True) for _ in range(size)]
    values = np.array([{"a": 0.5, "b": 0.8, "c": 0.1}[name] for name in groups])
    found = by_group(mean_scores({"x": values}, "given"), groups, Bootstrap(5), minimum=minimum)["x"]
    assert (found.worst, found.minimum) == (worst, minimum)
    assert [found.groups[name].n for name in "abc"] == list(sizes)
    assert (found.gap is None) is (worst is None)


def test_patients_of_a_group_are_resampled_with_all_reports() -> None:
    values, groups = np.array([0.0, 1.0, 0.5, 0.25, 0.75, 1.0]), list("abaaba")
    found = by_group(mean_scores({"x": values}, "given"), groups, Bootstrap(30), ["p", "q", "p", "r", "q", ""])["x"]
    rng, draws = np.random.default_rng(42), []
    for _ in range(30):
        rows = [row for patient in rng.choice(3, 3) for row in ([0, 2], [3], [5])[patient]]
        draws.append(values[rows].mean())
    score = found.groups["a"].score
    assert score is not None and (found.groups["a"].n, found.groups["a"].patients) == (4, 3)
    assert [score.low, score.median, score.high] == pytest.approx(np.quantile(draws, [0.025, 0.5, 0.975]).tolist())
    assert (found.groups["b"].patients, found.groups["b"].note) == (1, "interval not estimable: one patient")
