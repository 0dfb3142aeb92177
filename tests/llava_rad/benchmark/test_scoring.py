"""Verdicts, agreement and diversity against hand calculations and published tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llava_rad.benchmark.scoring import Agreement, Compared, Diversity, score
from llava_rad.benchmark.task import Case, Task
from metrics.base import Settings
from metrics.bootstrap import Bootstrap, Difference
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
    ("low", "high", "p", "verdict"),
    [
        (0.1, 0.3, 0.04, "first"),
        (-0.3, -0.1, 0.04, "second"),
        (-0.1, 0.1, 0.04, "no difference shown"),
        (0.0, 0.2, 0.04, "no difference shown"),
        (0.1, 0.3, 0.05, "no difference shown"),
        (-0.3, -0.1, None, "no difference shown"),
        (None, None, 0.01, "no difference shown"),
    ],
)
def test_an_interval_without_zero_and_a_small_corrected_p_decide(
    low: float | None, high: float | None, p: float | None, verdict: str
) -> None:
    assert Compared("a", "b", {"x": Difference(0.1, 0.1, low, high, 0.001, p)}).verdict("x") == verdict


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
    assert compared["bad", "same"].differences["rouge_l"] == Difference(0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
    assert compared["bad", "point"].verdict("rouge_l") == "no difference shown"
    both = Bootstrap(200, 1).differences(rouge_l(good, task.references), rouge_l(bad, task.references))
    assert compared["good", "bad"].differences["rouge_l"] == replace(
        both["rouge_l"], p_holm=3 * (both["rouge_l"].p or 1)
    )
    assert found.evaluation.differences["point"] == compared["good", "point"].differences
    assert found.models == ["good", "bad", "same"]
    assert found.diversity["references"].distinct == len(set(task.references))


def test_systems_that_find_other_things_are_compared() -> None:
    cases = [Case("1", "Edema."), Case("2", "Rib fracture.")]
    models = {"a": ["Edema.", "Nodule."], "b": ["Pneumothorax.", "Rib fracture."]}
    settings = Settings(metrics=("findings",))
    found = score(Task("csv", "", cases), models, {"point": ["Scoliosis.", None]}, settings, Bootstrap(20, 1))
    assert len({tuple(one.intervals) for one in found.evaluation.models}) == 1
    differences = found.compared[0].differences
    names = ("pulmonary edema", "fracture", "nodule", "scoliosis")
    assert [differences[f"findings_f1/{name}"].point for name in names] == [1.0, -1.0, 0.0, 0.0]


def test_groups_have_mean_worst_and_gap(task: Task) -> None:
    texts = [*task.references[:10], *["nothing"] * 20]
    found = score(task, {"m": texts}, {}, Settings(metrics=("rouge_l",), min_group=10), Bootstrap(50, 1))
    strata = found.evaluation.models[0].strata["half"]["rouge_l"]
    assert strata.average == pytest.approx(1 / 3)
    assert strata.worst == "b" and strata.gap == pytest.approx(1 / 3)


def test_reports_of_a_patient_are_no_proof_each() -> None:
    """One patient of twenty has most reports and all of the difference."""
    cases = [Case(str(n), "the heart is normal", subject=f"p{max(0, n - 40)}") for n in range(60)]
    texts = ["the heart is normal"] * 40 + ["the heart"] * 20
    settings = Settings(metrics=("rouge_l",))
    models = {"a": texts, "b": ["the heart"] * 60}
    found = score(Task("csv", "", cases), models, {}, settings, Bootstrap(200, 1))
    assert found.evaluation.patients == 20
    assert found.compared[0].verdict("rouge_l") == "no difference shown"
    alone = Task("csv", "", [replace(case, subject="") for case in cases])
    found = score(alone, models, {}, settings, Bootstrap(200, 1))
    assert found.evaluation.patients is None and found.compared[0].verdict("rouge_l") == "first"


def test_patients_of_several_data_sets_are_not_mixed_and_unknown_ones_are_alone() -> None:
    cases = [
        Case("1", "x", subject="7", dataset="a"),
        Case("2", "x", subject="7", dataset="b"),
        Case("3", "x", study="7"),
    ]
    assert Task("csv", "", cases).patients == ["a/7", "b/7", ""]
    assert Task("csv", "", [replace(case, dataset="a") for case in cases]).patients == ["7", "7", ""]
    studies = Task("csv", "", [Case("1", "x", study="7"), Case("2", "x", study="7"), Case("3", "x")])
    assert studies.patients == ["7", "7", ""] and not studies.has_patients
