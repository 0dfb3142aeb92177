"""Metrics and scores against rouge_score, sacrebleu, nltk, scikit-learn and scipy.

A case is one of five kinds: pairs of reports (ROUGE-L, corpus and sentence BLEU, CIDEr-D on n-gram counts of
scikit-learn), labels of the fourteen CheXpert classes (F1, precision, recall), predictions of a classifier (AUROC,
average precision), intervals of resampled reports and patients (every resample scored anew), and the exact
randomisation test.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from encoder.probing import logistic
from llava_rad.probes import comparison
from metrics.base import is_empty
from metrics.bleu import Variant, bleu_4, sentence_bleu_2
from metrics.bootstrap import Bootstrap
from metrics.cider import cider
from metrics.labels import CLASSES, TOP_5, Uncertain, label_f1
from metrics.rouge import rouge_l
from scripts.differential import texts
from scripts.differential.harness import Case, Outcome, Subject, different

Floats = npt.NDArray[np.float64]
Compared = Iterator[tuple[str, Any, Any]]
"""Yields the name of a compared score, our value, and that of the other package."""
_NEAR: Final = 1e-9
_SAMPLES: Final = 8
_BLEU: Final[tuple[Variant, ...]] = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "bleu_4_lower", "bleu_4_nosmooth")


def draw(rng: random.Random) -> Case:
    """Draw a case of one of :data:`KINDS`."""
    kind = rng.choice(list(KINDS))
    if kind == "curves":
        images, levels = rng.randint(2, 40), rng.choice((1, 2, 5, 1000))
        truth = [1, 0, *(rng.randrange(2) for _ in range(images - 2))]
        return {"kind": kind, "truth": truth, "predicted": [rng.randrange(levels) / 7 for _ in range(images)]}
    number = rng.choice((1, 2, 3, 4, 5, 6, 8))
    share = rng.choice((0.0, 0.1, 0.3, 0.6, 1.0))
    case: Case = {"kind": kind, "seed": rng.randrange(1000)}
    if kind in ("labels", "intervals"):
        case["labels"] = [
            [[rng.randrange(1, 4) if rng.random() < share else 0 for _ in CLASSES] for _ in range(number)]
            for _ in range(2)
        ]
    if kind == "labels":
        return case
    references = [texts.text(rng) for _ in range(number)]
    candidates = [
        rng.choice((texts.changed(rng, one), texts.changed(rng, one), texts.text(rng), one, "")) for one in references
    ]
    patients = [rng.choice("abc") if rng.random() < 0.7 else "" for _ in range(number)]
    return case | {"candidates": candidates, "references": references, "patients": patients}


def compare(case: Case) -> Outcome:
    """Score a case with both."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for what, ours, theirs in KINDS[case["kind"]](case):
            if not np.allclose(ours, theirs, rtol=_NEAR, atol=_NEAR, equal_nan=True):
                return different(f"{what}: {np.asarray(ours).tolist()} and {np.asarray(theirs).tolist()}")
    return Outcome(f"equal: {case['kind']}")


def _pairs(case: Case) -> tuple[list[str], list[str]]:
    """Return candidates and references; a text without a letter or digit scores 0 in all of our metrics, as "" does."""
    candidates, references = (
        ["" if is_empty(text) else text for text in case[side]] for side in ("candidates", "references")
    )
    return candidates, references


def _texts(case: Case) -> Compared:
    raw, (candidates, references) = (case["candidates"], case["references"]), _pairs(case)
    for name in ("rouge_l", "rouge_l_stem"):
        theirs = [
            _rouge(name == "rouge_l_stem").score(there, found)["rougeL"].fmeasure
            for found, there in zip(candidates, references, strict=True)
        ]
        ours = rouge_l(*raw, variant=cast(Any, name))
        yield name, ours.per_sample[name], theirs
        yield name, ours[name], np.mean(theirs)
    for variant in _BLEU:
        yield variant, bleu_4(*raw, variant=variant)[variant], _bleu(variant, candidates, references)
    sentences = [_bleu("sentence", [one], [other]) for one, other in zip(candidates, references, strict=True)]
    yield "sentence BLEU-4", bleu_4(*raw).per_sample["bleu_4"], sentences
    twos = [_bleu_2(one, other) for one, other in zip(candidates, references, strict=True)]
    yield "sentence BLEU-2", sentence_bleu_2(*raw).per_sample["bleu_2_sentence"], twos
    yield "CIDEr-D", cider(*raw).per_sample["cider"], _cider(candidates, references)


@cache
def _rouge(stemmed: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=stemmed)


@cache
def _scorer(variant: str) -> Any:
    from sacrebleu.metrics import BLEU

    if variant == "sentence":
        return BLEU(effective_order=True)
    smoothing = "none" if variant.endswith("nosmooth") else "exp"
    return BLEU(lowercase=variant.endswith("lower"), smooth_method=smoothing, max_ngram_order=int(variant[5]))


def _bleu(variant: str, candidates: Sequence[str], references: Sequence[str]) -> float:
    if variant == "sentence":
        return float(_scorer(variant).sentence_score(candidates[0], [references[0]]).score) / 100
    return float(_scorer(variant).corpus_score(list(candidates), [list(references)]).score) / 100


def _bleu_2(candidate: str, reference: str) -> float:
    """Sentence BLEU-2 of nltk on the tokens of CXR-Report-Metric."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    found, there = (
        [word for word in text.lower().replace(".", " .").split(" ") if word] for text in (candidate, reference)
    )
    smoothing = SmoothingFunction(epsilon=0.1).method1
    return float(sentence_bleu([there], found, weights=(0.5, 0.5), smoothing_function=smoothing))


def _cider(candidates: Sequence[str], references: Sequence[str]) -> Floats:
    """CIDEr-D (Vedantam et al. 2015, equation 4) in matrices, on the n-gram counts of scikit-learn."""
    from sklearn.feature_extraction.text import CountVectorizer

    total, lengths = np.zeros(len(references)), np.zeros(len(references))
    for n in range(1, 5):
        counter = CountVectorizer(
            analyzer="word", tokenizer=str.split, token_pattern=None, lowercase=False, ngram_range=(n, n)
        )
        try:
            both = counter.fit_transform([*candidates, *references]).toarray().astype(float)
        except ValueError:  # no text has as many words
            continue
        ours, theirs = both[: len(candidates)], both[len(candidates) :]
        weights = np.log(len(references)) - np.log(np.maximum((theirs > 0).sum(axis=0), 1))
        if n == 2:  # COCO's code measures lengths in bigrams
            lengths = ours.sum(axis=1) - theirs.sum(axis=1)
        ours, theirs = ours * weights, theirs * weights
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        total += np.divide(
            (np.minimum(ours, theirs) * theirs).sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0
        )
    return np.asarray(10 * np.exp(-(lengths**2) / 72) * total / 4)


def _labels(case: Case) -> Compared:
    from sklearn.metrics import f1_score, precision_score, recall_score

    found, there = (np.array(rows) for rows in case["labels"])
    for uncertain, plus in (("negative", ""), ("positive", "+")):
        scores = label_f1(found, there, uncertain=cast(Uncertain, uncertain)).point()
        positive = [1, 3] if plus else [1]
        ours, theirs = np.isin(found, positive), np.isin(there, positive)
        five = [CLASSES.index(name) for name in TOP_5]
        for average in ("macro", "micro", "weighted", "samples"):
            expected = f1_score(theirs, ours, average=average, zero_division=0)
            yield f"{average} F1", scores[f"{average}_f1_14{plus}"], expected
        for average in ("macro", "micro"):
            expected = f1_score(theirs[:, five], ours[:, five], average=average, zero_division=0)
            yield f"{average} F1 of 5", scores[f"{average}_f1_5{plus}"], expected
        for name, function in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            expected = function(theirs, ours, average=None, zero_division=0)
            yield name, [scores[f"{name}{plus}/{one}"] for one in CLASSES], expected


def _curves(case: Case) -> Compared:
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth, predicted = np.array(case["truth"]) == 1, np.array(case["predicted"])
    area, precision = roc_auc_score(truth, predicted), average_precision_score(truth, predicted)
    yield "AUROC", logistic.auroc(truth, predicted), area
    yield "average precision", logistic.average_precision(truth, predicted), precision
    places = np.unique(predicted, return_inverse=True)[1]
    counts = [np.bincount(places[truth == kind], minlength=places.max() + 1).astype(float) for kind in (True, False)]
    yield "scores of counts", comparison.scores(*counts), (precision, area)


def _intervals(case: Case) -> Compared:
    """Score every resample anew with sacrebleu and scikit-learn."""
    from sklearn.metrics import f1_score

    bootstrap, (candidates, references) = Bootstrap(_SAMPLES, case["seed"]), _pairs(case)
    scores = bleu_4(candidates, references)
    labels = [np.array(rows) == 1 for rows in case["labels"]]
    macro = label_f1(*case["labels"])
    groups: dict[Any, list[int]] = {}
    for row, name in enumerate(case["patients"]):
        groups.setdefault(name or row, []).append(row)
    for what, units in (("reports", [[row] for row in range(len(candidates))]), ("patients", list(groups.values()))):
        if what == "patients" and len(units) < 2:
            continue
        rng = np.random.default_rng(case["seed"])
        drawn = [
            [row for unit in rng.choice(len(units), len(units), replace=True) for row in units[unit]]
            for _ in range(_SAMPLES)
        ]
        expected = {
            "bleu_4": [
                _bleu("bleu_4", [candidates[row] for row in rows], [references[row] for row in rows]) for rows in drawn
            ],
            "macro_f1_14": [
                f1_score(labels[1][rows], labels[0][rows], average="macro", zero_division=0) for rows in drawn
            ],
        }
        for name, one in (("bleu_4", scores), ("macro_f1_14", macro)):
            if what == "reports":
                found = bootstrap.intervals(one)[name]
            else:
                found = bootstrap.by_patient(one, bootstrap.patients(case["patients"]))[name]
            ends = np.percentile(expected[name], [2.5, 50, 97.5])
            yield f"interval of {name} by {what}", [found.low, found.median, found.high], ends


def _test(case: Case) -> Compared:
    candidates, references = case["candidates"], case["references"]
    first, second = rouge_l(candidates, references), rouge_l(candidates[::-1], references)
    values = [one.per_sample["rouge_l"] for one in (first, second)]
    found = Bootstrap(_SAMPLES, case["seed"]).differences(first, second)["rouge_l"]
    yield "p of the randomisation test", found.p, _exact(values) if len(candidates) > 1 else 1.0


def _exact(values: list[Floats]) -> float:
    from scipy.stats import permutation_test

    return float(
        permutation_test(
            values, lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=math.inf,
            alternative="two-sided", vectorized=True,
        ).pvalue
    )  # fmt: skip


KINDS: dict[str, Callable[[Case], Compared]] = {
    "texts": _texts, "labels": _labels, "curves": _curves, "intervals": _intervals, "test": _test,
}  # fmt: skip
"""Kinds of cases."""
SUBJECT = Subject("scores", "rouge_score, sacrebleu, nltk, scikit-learn and scipy", 0.20, draw, compare)
