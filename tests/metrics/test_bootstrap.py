"""The bootstrap against golden values, recomputation, and sacrebleu on each resample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sacrebleu

from metrics.base import InputError
from metrics.bleu import bleu_4
from metrics.bootstrap import Bootstrap, Interval
from metrics.labels import label_f1
from metrics.rouge import rouge_l
from tests.metrics.conftest import Lexical


def ends(interval: Interval) -> list[float | None]:
    return [interval.low, interval.median, interval.high]


def test_golden_values(golden: dict[str, Any], lexical: Lexical) -> None:
    bootstrap, expected = Bootstrap(), golden["bootstrap"]
    assert np.bincount(expected["first_row"], minlength=16).tolist() == bootstrap.weights(16)[0].tolist()
    rouge = bootstrap.intervals(rouge_l(lexical.candidates, lexical.references))["rouge_l"]
    assert ends(rouge) == pytest.approx(expected["rouge"], abs=1e-9)
    assert rouge.point == pytest.approx(0.6400630096)
    bleu = bootstrap.intervals(bleu_4(lexical.candidates, lexical.references))["bleu_4"]
    assert [100 * (value or 0) for value in ends(bleu)] == pytest.approx(expected["bleu"], abs=1e-9)
    labels = golden["chexbert"]
    macro = bootstrap.intervals(label_f1(labels["hyp"], labels["ref"]))["macro_f1_14"]
    assert ends(macro) == pytest.approx(expected["macro14"], abs=1e-9)


def test_the_draws_are_those_of_numpy() -> None:
    generator = np.random.default_rng(7)
    expected = [np.bincount(generator.choice(9, 9, replace=True), minlength=9) for _ in range(20)]
    assert Bootstrap(20, 7).weights(9).tolist() == np.array(expected).tolist()


def test_sums_give_what_scoring_each_resample_gives(lexical: Lexical) -> None:
    bootstrap = Bootstrap(25)
    scores = bleu_4(lexical.candidates, lexical.references)
    generator = np.random.default_rng(42)
    expected = []
    for _ in range(25):
        rows = generator.choice(16, 16, replace=True)
        found, there = [lexical.candidates[row] for row in rows], [lexical.references[row] for row in rows]
        expected.append(sacrebleu.corpus_bleu(found, [there]).score)
    interval = bootstrap.intervals(scores)["bleu_4"]
    assert [100 * (value or 0) for value in ends(interval)] == pytest.approx(
        np.quantile(expected, [0.025, 0.5, 0.975]).tolist(), abs=1e-9
    )


def test_differences_are_paired(lexical: Lexical) -> None:
    bootstrap = Bootstrap(50)
    first = rouge_l(lexical.candidates, lexical.references)
    second = rouge_l(lexical.references, lexical.candidates)  # the same values
    assert bootstrap.differences(first, second)["rouge_l"] == Interval(0, 0, 0, 0)
    shifted = rouge_l([*lexical.candidates[1:], ""], lexical.references)
    found = bootstrap.differences(first, shifted)["rouge_l"]
    weights = bootstrap.weights(16) / 16
    draws = weights @ (first.per_sample["rouge_l"] - shifted.per_sample["rouge_l"])
    assert ends(found) == pytest.approx(np.quantile(draws, [0.025, 0.5, 0.975]).tolist(), abs=1e-12)
    with pytest.raises(InputError, match="the same metric on the same reports"):
        bootstrap.differences(first, rouge_l(["a"], ["a"]))
    with pytest.raises(InputError, match="the same metric on the same reports"):
        bootstrap.differences(first, rouge_l(lexical.candidates, lexical.references, variant="rouge_l_coco"))


def test_a_class_seen_rarely_pulls_the_median_down() -> None:
    """A class with one case, found perfectly, is missed by about exp(-1) of the resamples."""
    labels = np.zeros((400, 14), dtype=int)
    labels[0, 5] = 1
    scores = label_f1(labels, labels)
    draws = scores.of_sums(Bootstrap(2000).weights(400) @ scores.statistics, np.full(2000, 400.0))
    assert np.mean(draws["f1/Consolidation"] == 0) == pytest.approx(np.exp(-1), abs=0.03)


def test_what_is_not_defined_has_no_number() -> None:
    labels = np.zeros((4, 14), dtype=int)
    interval = Bootstrap(10).intervals(label_f1(labels, labels, absent=float("nan")))["f1/Edema"]
    assert interval == Interval(None, None, None, None)
