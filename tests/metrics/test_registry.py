"""The registry of metrics: the score that represents each."""

from __future__ import annotations

import pytest

from metrics.registry import is_headline


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("findings", True), ("findings_place", False), ("rg_xl_er", True), ("rg_xl_e", False), ("rg_er_lower", True),
        ("bleu_4_lower", True), ("chexbert_macro_f1_14+", True), ("chexbert_micro_f1_14", False),
        ("radcliq_v1_inverse", True), ("radcliq_v1", False), ("prior_claims", False),
    ],
)  # fmt: skip
def test_one_score_represents_a_metric(score: str, expected: bool) -> None:
    assert is_headline(score) is expected
