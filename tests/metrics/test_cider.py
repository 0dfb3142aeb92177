"""CIDEr-D against values of pycocoevalcap 1.2 and a hand calculation."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest

from metrics.bootstrap import Bootstrap
from metrics.cider import cider
from tests.metrics.conftest import Lexical

OF_PAIRS = [
    10.0, 0.0, 3.07810102, 7.98357143, 1.62241944, 0.02639596, 0.02639596, 0.18032183, 1.96759259, 5.68501567,
    5.91143921, 5.3988644, 10.0, 0.0, 0.0, 2.5,
]  # fmt: skip
"""pycocoevalcap's ``Cider`` on the sixteen lexical pairs."""


def test_values_are_those_of_coco(lexical: Lexical) -> None:
    scores = cider(lexical.candidates, lexical.references)
    assert scores.per_sample["cider"].tolist() == pytest.approx(OF_PAIRS, abs=1e-8)
    assert scores["cider"] == pytest.approx(3.3987573454, abs=1e-9)


def test_a_pair_by_hand() -> None:
    """Two references, no n-gram in both: every weight is log 2, and the n-grams of one length have one norm."""
    values = cider(["a b x", "p q"], ["a b c d", "p q"]).per_sample["cider"]
    unigrams, bigrams = 2 / (3 * 4) ** 0.5, 1 / (2 * 3) ** 0.5  # of 3 and 4, 2 and 3
    assert values[0] == pytest.approx(10 / 4 * (unigrams + bigrams) * exp(-1 / 72))
    assert values[1] == pytest.approx(10 / 4 * 2), "no trigram, no fourgram"


def test_a_frequent_word_weighs_less() -> None:
    references = ["no fracture", "no effusion", "no opacity", "clear lungs"]
    values = cider(["no", "effusion", "", "clear lungs"], references).per_sample["cider"]
    rare, frequent = log(4), log(4 / 3)
    assert values[0] == pytest.approx(10 / 4 * frequent / (rare**2 + frequent**2) ** 0.5 * exp(-1 / 72))
    assert values[1] == pytest.approx(10 / 4 * rare / (rare**2 + frequent**2) ** 0.5 * exp(-1 / 72))
    assert values[2] == 0


@pytest.mark.parametrize("texts", [["the heart is large"], ["the heart is large"] * 3])
def test_ngrams_of_all_references_weigh_nothing(texts: list[str]) -> None:
    assert cider(texts, texts)["cider"] == 0


def test_resamples_keep_the_frequencies_of_the_whole_set(lexical: Lexical) -> None:
    scores = cider(lexical.candidates, lexical.references)
    draws = Bootstrap(30).weights(16) @ np.array(OF_PAIRS) / 16
    interval = Bootstrap(30).intervals(scores)["cider"]
    assert [interval.low, interval.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist(), abs=1e-7)
