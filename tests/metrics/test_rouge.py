"""ROUGE-L against golden values, the package rouge_score, and plain dynamic programming."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.base import InputError
from metrics.rouge import Variant, lcs_length, rouge_l
from tests.metrics.conftest import Lexical

TOKENS = st.lists(st.sampled_from("abcd"), max_size=80)


@pytest.mark.parametrize(
    ("variant", "row", "corpus"),
    [
        ("rouge_l", "rougeL", "rougeL_mean"),
        ("rouge_l_stem", "rougeL_stem", "rougeL_stem_mean"),
        ("rouge_l_coco", "coco_rougeL", "coco_rougeL_mean"),
    ],
)
def test_golden_values(golden: dict[str, Any], lexical: Lexical, variant: Variant, row: str, corpus: str) -> None:
    scores = rouge_l(lexical.candidates, lexical.references, variant=variant)
    np.testing.assert_allclose(scores.per_sample[variant], [one[row] for one in golden["lexical"]["rows"]], atol=1e-12)
    assert scores[variant] == pytest.approx(golden["lexical"]["corpus"][corpus], abs=1e-12)


@given(TOKENS, TOKENS)
def test_longest_common_subsequence(first: list[str], second: list[str]) -> None:
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
    assert lcs_length(first, second) == table[-1, -1]


@given(st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), min_size=1, max_size=5), st.booleans())
def test_any_text_equals_the_package(pairs: list[tuple[str, str]], stem: bool) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=stem)
    variant: Variant = "rouge_l_stem" if stem else "rouge_l"
    ours = rouge_l([pair[0] for pair in pairs], [pair[1] for pair in pairs], variant=variant).per_sample[variant]
    assert ours.tolist() == [scorer.score(reference, found)["rougeL"].fmeasure for found, reference in pairs]


def test_swapping_keeps_it_and_identity_gives_one(lexical: Lexical) -> None:
    ours = rouge_l(lexical.candidates, lexical.references).per_sample["rouge_l"]
    np.testing.assert_array_equal(ours, rouge_l(lexical.references, lexical.candidates).per_sample["rouge_l"])
    texts = [text for text in lexical.references if text]
    assert rouge_l(texts, texts)["rouge_l"] == 1


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a"], ["a", "b"], "1 candidates and 2 references"),
        (["a", None], ["a", "b"], "candidates: number 2 is NoneType"),
        (["a"], [3], "references: number 1 is int"),
        ("a", "a", "a list of strings, not str"),
        ([], [], "there are none"),
    ],
)
def test_bad_input_is_one_clear_line(candidates: Any, references: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rouge_l(candidates, references)
