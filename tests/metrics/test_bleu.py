"""BLEU against golden values, sacrebleu, and pycocoevalcap 1.2."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from metrics.base import is_empty
from metrics.bleu import Variant, bleu_4, tokens_13a
from metrics.suite import r2gen_clean
from tests.metrics.conftest import Lexical

WORDS = st.lists(
    st.sampled_from(["no", "effusion", "2.5", "cm", ",", "the", "heart.", "A&amp;B", "-\n", "co-op"]), max_size=30
)
TEXTS = WORDS.map(" ".join)


@pytest.mark.parametrize(
    ("variant", "row", "scale"),
    [
        ("bleu_4", "sacrebleu_corpus", 100),
        ("bleu_4_lower", "sacrebleu_lc", 100),
        ("bleu_4_nosmooth", "evaluate_bleu4", 1),
        ("bleu_4_coco", "coco_bleu4", 1),
    ],
)
def test_golden_values_of_single_pairs(
    golden: dict[str, Any], lexical: Lexical, variant: Variant, row: str, scale: int
) -> None:
    compared = 0
    for one, candidate, reference in zip(
        golden["lexical"]["rows"], lexical.candidates, lexical.references, strict=True
    ):
        if one["id"] != "empty_hyp" or row != "evaluate_bleu4":  # the evaluate library ends with an error there
            compared += 1
            assert scale * bleu_4([candidate], [reference], variant=variant)[variant] == pytest.approx(
                one[row], abs=1e-9
            )
    assert compared >= 15


@pytest.mark.parametrize(
    ("variant", "corpus", "scale"),
    [
        ("bleu_4", "sacrebleu_corpus", 100),
        ("bleu_4_lower", "sacrebleu_lowercase", 100),
        ("bleu_4_nosmooth", "evaluate_bleu4_corpus", 1),
        ("bleu_4_coco", "coco_corpus_ws", 1),
    ],
)
def test_golden_values_of_the_corpus(
    golden: dict[str, Any], lexical: Lexical, variant: Variant, corpus: str, scale: int
) -> None:
    scores = bleu_4(lexical.candidates, lexical.references, variant=variant)
    assert scale * scores[variant] == pytest.approx(golden["lexical"]["corpus"][corpus], abs=1e-9)


def test_the_values_of_reports_are_sentence_bleu_and_not_the_corpus_score(
    golden: dict[str, Any], lexical: Lexical
) -> None:
    scores = bleu_4(lexical.candidates, lexical.references)
    rows = golden["lexical"]["rows"]
    np.testing.assert_allclose(
        100 * scores.per_sample["bleu_4"], [one["sacrebleu_sent_eff"] for one in rows], atol=1e-9
    )
    assert 100 * scores.per_sample["bleu_4"].mean() == pytest.approx(41.5515486822)
    assert 100 * scores["bleu_4"] == pytest.approx(43.7206482631)


@pytest.mark.parametrize(("order", "expected"), [(1, 0.5470906869), (2, 0.4789572458), (3, 0.4275940485)])
def test_shorter_ngrams_are_those_of_coco(lexical: Lexical, order: int, expected: float) -> None:
    """Values of pycocoevalcap's ``Bleu(4)`` on the sixteen pairs."""
    variant = cast(Variant, f"bleu_{order}_coco")
    assert bleu_4(lexical.candidates, lexical.references, variant=variant)[variant] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_shorter_ngrams_equal_sacrebleu(lexical: Lexical, order: int) -> None:
    variant = cast(Variant, f"bleu_{order}")
    scores = bleu_4(lexical.candidates, lexical.references, variant=variant)
    theirs = sacrebleu.BLEU(max_ngram_order=order)
    assert 100 * scores[variant] == pytest.approx(
        theirs.corpus_score(lexical.candidates, [lexical.references]).score, abs=1e-9
    )
    sentences = sacrebleu.BLEU(max_ngram_order=order, effective_order=True)
    expected = [
        sentences.sentence_score(found, [there]).score
        for found, there in zip(lexical.candidates, lexical.references, strict=True)
    ]
    np.testing.assert_allclose(100 * scores.per_sample[variant], expected, atol=1e-9)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.booleans())
def test_any_corpus_equals_sacrebleu(pairs: list[tuple[str, str]], lower: bool) -> None:
    candidates, references = (list(side) for side in zip(*pairs, strict=True))
    variant: Variant = "bleu_4_lower" if lower else "bleu_4"
    # a text without a letter or digit is empty in every metric of ours
    said = [["" if is_empty(text) else text for text in side] for side in (candidates, references)]
    expected = sacrebleu.corpus_bleu(said[0], [said[1]], lowercase=lower).score
    assert 100 * bleu_4(candidates, references, variant=variant)[variant] == pytest.approx(expected, abs=1e-9)


@given(st.text(max_size=60))
def test_any_text_is_tokenised_as_by_sacrebleu(text: str) -> None:
    assert tokens_13a(text) == Tokenizer13a()(text.rstrip()).split()


def test_swapping_changes_it_and_identity_gives_one(lexical: Lexical) -> None:
    ours = bleu_4(lexical.candidates, lexical.references)["bleu_4"]
    assert ours != pytest.approx(bleu_4(lexical.references, lexical.candidates)["bleu_4"])
    long = [text for text in lexical.references if len(text.split()) > 4]
    assert bleu_4(long, long)["bleu_4"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('1. The heart is "large". 2. Stable. 3. No change.', "the heart is large . stable . no change ."),
        ("Right-sided PICC.", "right-sided picc ."),  # in R2Gen's pattern the hyphen is the sign of a range
        ("A 2.5 cm nodule.", "a 25 cm nodule ."),
        ("Clear.No edema. x < 3 @ y = z?", "clearno edema . x 3 y z ."),
        ("5. Clear. 6. Normal.", "5 . clear . 6 . normal ."),
        ("Normal.  2. Clear.", "normal . . clear ."),
        ("effusion/edema (mild)... ", "effusionedema mild ."),
        ("", "."),
    ],
)
def test_cleaning_as_r2gen_does(text: str, expected: str) -> None:
    """By hand from the substitutions of R2Gen's ``clean_report_iu_xray``."""
    assert r2gen_clean(text) == r2gen_clean(expected) == expected
    assert r2gen_clean(text, 3) == " ".join(expected.split()[:3])
