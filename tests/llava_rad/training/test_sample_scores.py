"""Scores of the reports that a training writes for its validation pairs."""

from __future__ import annotations

import pytest
from sklearn.metrics import f1_score

from llava_rad.training.callbacks import score
from metrics.labels import POSITIVE
from metrics.rules.labeler import label


@pytest.mark.parametrize("empty", ["", " \n", "." * 150, "- - -"])
def test_empty_samples_score_0(empty: str) -> None:
    texts = ["The lungs are clear.", "No acute findings.", "Small left effusion."]
    scores = score([(empty, text) for text in texts])
    assert (scores["sample_rouge_l"], scores["sample_rules_micro_f1"]) == (0, 0)
    found = score([*zip(texts, texts, strict=True), (empty, texts[0])])["sample_rules_micro_f1"]
    there = [[code == POSITIVE for code in label(text)] for text in [*texts, texts[0]]]
    written = [*there[:-1], [False] * 14]
    assert found == pytest.approx(f1_score(there, written, average="micro"))
