"""The test suites of scikit-learn and rouge_score, run on this project's F1, AUROC, average precision and ROUGE-L.

The suites are those of the installed packages; of sacrebleu's, sentences and scores. What they compute beyond that (F
of other beta, curves, several classes, precision and recall of ROUGE) stays theirs; each test fails if it asks nothing
of ours.
"""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rouge_score import rouge_scorer, rouge_scorer_test, tokenize_test
from sklearn.metrics.tests import test_classification as classification
from sklearn.metrics.tests import test_ranking as ranking

from encoder.probing.logistic import auroc, average_precision
from metrics.bleu import bleu_4
from metrics.labels import CLASSES, label_f1
from metrics.rouge import rouge_l, rouge_tokens

pytestmark = pytest.mark.referee
LABELS = len(CLASSES)
CASES = {
    classification: (
        "test_precision_recall_f1_score_multilabel_1", "test_precision_recall_f1_score_multilabel_2",
        "test_precision_recall_f1_score_with_an_empty_prediction",
    ),
    ranking: (
        "test_average_precision_constant_values", "test_multiclass_ovo_roc_auc_toydata",
        "test_multiclass_ovo_roc_auc_toydata_binary", "test_multiclass_ovr_roc_auc_toydata",
        "test_precision_recall_curve", "test_precision_recall_curve_toydata", "test_roc_curve",
        "test_roc_curve_toydata", "test_score_scale_invariance",
    ),
}  # fmt: skip
globals().update({name: getattr(module, name) for module, names in CASES.items() for name in names})  # collected here


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Put this project's metrics in place of the packages' own, and list those that were asked."""
    calls: list[Any] = []

    def ranked(mine: Any, theirs: Any) -> Any:
        def score(y_true: Any, y_score: Any, **options: Any) -> Any:
            truth, scores = np.asarray(y_true), np.asarray(y_score)
            if options or truth.ndim != 1 or set(truth.tolist()) != {0, 1}:
                return theirs(y_true, y_score, **options)
            calls.append(mine)
            return mine(truth.astype(bool), scores)

        return score

    def support(y_true: Any, y_pred: Any, **options: Any) -> Any:
        """Precision, recall, F1 and support of up to 14 labels, as scikit-learn returns them."""
        precision, recall, f1, count = theirs(y_true, y_pred, **options)
        absent, size = options.get("zero_division", 0), np.shape(y_true)[1]
        if absent not in (0, "warn"):
            return precision, recall, f1, count
        calls.append(label_f1)
        padded = [np.pad(np.asarray(one, np.int8), ((0, 0), (0, LABELS - size))) for one in (y_pred, y_true)]
        found = label_f1(*padded).point()
        of_classes = [[found[f"{key}/{name}"] for name in CLASSES[:size]] for key in ("precision", "recall", "f1")]
        average = options.get("average")
        if average is None:
            return *map(np.asarray, of_classes), count
        if average == "macro":
            return *map(np.mean, of_classes), count
        return precision, recall, found[f"{average}_f1_14"], count

    theirs = classification.precision_recall_fscore_support
    monkeypatch.setattr(classification, "precision_recall_fscore_support", support)
    monkeypatch.setattr(ranking, "roc_auc_score", ranked(auroc, ranking.roc_auc_score))
    monkeypatch.setattr(ranking, "average_precision_score", ranked(average_precision, ranking.average_precision_score))
    score = rouge_scorer.RougeScorer.score

    def rouge(scorer: Any, target: str, prediction: str) -> Any:
        found = score(scorer, target, prediction)
        if "rougeL" in found and not scorer._tokenizer._stemmer:
            calls.append(rouge_l)
            found["rougeL"] = found["rougeL"]._replace(fmeasure=rouge_l([prediction], [target])["rouge_l"])
        return found

    monkeypatch.setattr(rouge_scorer.RougeScorer, "score", rouge)
    yield calls
    assert calls, "the test asks nothing of this project"


def passed(case: unittest.TestCase) -> None:
    result = unittest.TestResult()
    case.run(result)
    assert [text for _, text in (*result.errors, *result.failures)] == [] and result.testsRun == 1


class RougeCases(rouge_scorer_test.RougeScorerTest):  # type: ignore[misc, unused-ignore]
    """The suite of rouge_score without the files that its wheel lacks."""

    __test__ = False

    def setUp(self) -> None:
        pass


@pytest.mark.parametrize(
    "name",
    [
        "testRougeAllMulti", "testRougeEmpty2", "testRougeLConsecutive", "testRougeLNonConsecutive",
        "testMultipleRougeTypes", "testValidRougeTypes2",
    ],
)  # fmt: skip
def test_rouge_score_cases(name: str) -> None:
    passed(RougeCases(name))


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        ("Producția de zahăr primă va fi exprimată în ceea ce privește zahărul alb;",
         "producţia de zahăr brut se exprimă în zahăr alb;", 8.493),
        ("this is a cat", "okay thanks", 0.0),
        ("this is a test", "this is a test", 100.0),
    ],
)  # fmt: skip
def test_sacrebleu_cases(calls: list[Any], hypothesis: str, reference: str, expected: float) -> None:
    """Sentences with the scores that sacrebleu 2.6.0 asserts for its defaults; its wheel has no tests.

    ``test/test_sentence_bleu.py`` and ``test/test_bleu.py`` of https://github.com/mjpost/sacrebleu; the other cases
    have several references, other smoothing or other tokens.
    """
    calls.append(bleu_4)
    (found,) = bleu_4([hypothesis], [reference]).per_sample["bleu_4"]
    assert 100 * found == pytest.approx(expected, abs=1e-3)


def test_rouge_score_tokens(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize_test.tokenize, "tokenize", lambda text, _: calls.append(text) or rouge_tokens(text))
    passed(tokenize_test.TokenizeTest("test_give_me_a_name"))
