"""Verdicts, agreement and diversity against hand calculations and published tables."""

from __future__ import annotations

import pytest

from llava_rad.benchmark.scoring import Agreement, Compared, Diversity, score
from llava_rad.benchmark.task import Case, Task
from metrics.base import Settings
from metrics.bootstrap import Bootstrap, Interval
from metrics.rouge import rouge_l


@pytest.mark.parametrize(
    ("different", "sample", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # Brown, Cai, DasGupta 2001, and any table of Wilson's interval
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (3, 64, 0.0161, 0.1290),
    ],
)
def test_the_interval_of_agreement_is_wilsons(different: int, sample: int, low: float, high: float) -> None:
    assert Agreement(sample, different).interval == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.3, "first"),
        (-0.3, -0.1, "second"),
        (-0.1, 0.1, "no difference shown"),
        (0.0, 0.2, "no difference shown"),
        (None, None, "no difference shown"),
    ],
)
def test_an_interval_without_zero_decides(low: float | None, high: float | None, verdict: str) -> None:
    assert Compared("a", "b", {"x": Interval(0.1, 0.1, low, high)}).verdict("x") == verdict


def test_diversity_is_counted() -> None:
    assert Diversity.of(["one two", "one two", "three", " "]) == Diversity(3, 0.75, 5 / 4, 1)


@pytest.fixture(scope="module")
def task() -> Task:
    words = ["heart", "lungs", "clear", "effusion", "normal", "opacity", "large", "small"]
    texts = [f"the {words[n % 8]} and the {words[(n * 3) % 8]} are {words[(n * 5 + 2) % 8]}" for n in range(30)]
    return Task(
        "csv", "", [Case(str(n), text) for n, text in enumerate(texts)], strata={"half": ["a"] * 10 + ["b"] * 20}
    )


def test_every_two_models_and_every_model_with_every_point_are_compared_on_the_same_resamples(task: Task) -> None:
    good = task.references
    bad = ["the heart"] * len(good)
    found = score(
        task,
        {"good": good, "bad": bad, "same": list(bad)},
        {"point": bad},
        Settings(metrics=("rouge_l",)),
        Bootstrap(200, 1),
    )
    compared = {(one.first, one.second): one for one in found.compared}
    assert list(compared) == [
        ("good", "bad"), ("good", "same"), ("bad", "same"), ("good", "point"), ("bad", "point"), ("same", "point")
    ]  # fmt: skip
    assert compared["good", "bad"].verdict("rouge_l") == "first"
    assert compared["bad", "same"].differences["rouge_l"] == Interval(0.0, 0.0, 0.0, 0.0)
    assert compared["bad", "point"].verdict("rouge_l") == "no difference shown"
    both = Bootstrap(200, 1).differences(rouge_l(good, task.references), rouge_l(bad, task.references))
    assert compared["good", "bad"].differences["rouge_l"] == both["rouge_l"]
    assert found.models == ["good", "bad", "same"]
    assert found.diversity["references"].distinct == len(set(task.references))


def test_groups_have_mean_worst_and_gap(task: Task) -> None:
    texts = [*task.references[:10], *["nothing"] * 20]
    found = score(task, {"m": texts}, {}, Settings(metrics=("rouge_l",)), Bootstrap(50, 1))
    strata = found.evaluation.models[0].strata["half"]["rouge_l"]
    assert strata.average == pytest.approx(1 / 3)
    assert strata.worst == "b" and strata.gap == pytest.approx(1 / 3)
