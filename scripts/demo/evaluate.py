"""Label F1 of reports against NIH's labels, by a small rule-based labeler, and of baselines that ignore the image.

The labeler turns findings text into NIH's 14 labels. It measures the demonstration model and nothing else. It knows
phrases of general radiology prose and NegEx-like scopes (Chapman et al. 2001), not the grammar's own sentences: a
negation covers the rest of its clause, and a few negations cover the words before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_rad.generation.abstention import CANNOT
from scripts.demo import grammar
from scripts.demo.nih import LABELS, NO_FINDING, Case

if TYPE_CHECKING:
    import torch


import re

_PHRASES: dict[str, str] = {
    "Atelectasis": r"atelecta\w+|volume loss|collapse[ds]?\b",
    "Cardiomegaly": (
        r"cardiomegaly|(?:heart|cardiac|cardiomediastinal)[\w ]{0,25}\b(?:enlarged|increased|enlargement|prominent)"
        r"|(?:enlarged|large|prominent|enlargement of the) (?:heart|cardi\w+)"
    ),
    "Effusion": r"effusions?\b|pleural fluid|blunt\w+ of (?:the )?[\w ]*costophrenic",
    "Infiltration": r"infiltrat\w+",
    "Mass": r"\bmass(?:es)?\b(?! effect)|mass-like",
    "Nodule": r"nodul\w+",
    "Pneumonia": r"pneumoni\w+",
    "Pneumothorax": r"pneumothora\w+",
    "Consolidation": r"consolidat\w+",
    "Edema": r"o?edema|vascular congestion",
    "Emphysema": r"emphysem\w+|bullous",
    "Fibrosis": r"fibro\w+|interstitial scarring",
    "Pleural_Thickening": r"pleura[\w ]{0,15}thicken\w+|thicken\w+ of the [\w ]*pleura",
    "Hernia": r"herni\w+",
}
_FINDINGS = {label: re.compile(pattern) for label, pattern in _PHRASES.items()}

_NEGATION_BEFORE = re.compile(
    r"\b(?:no|not|without|neither|nor|never|free of|free from|clear of|absence of|negative for|lack of|rather than)\b"
)
_NEGATION_AFTER = re.compile(
    r"^[\w ,]{0,40}?(?:\b(?:is|are|was|were|has|have|been)\s+(?:absent|excluded|resolved|cleared|not\b|ruled out)"
    r"|: (?:none|absent|no)\b)"
)
# The scope of a negation ends at these words: "no effusion but consolidation", "no mass, there is atelectasis".
_BREAK = re.compile(
    r"\b(?:but|however|although|though|there (?:is|are)|which|apart from|except|other than)\b|;"
    r"|:(?! (?:none|absent|no)\b)"
)
_WITH = re.compile(r"\bwith\b(?!in)")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def label_text(text: str) -> frozenset[str]:
    """Find the labels that a paragraph affirms.

    Args:
        text: Findings in English prose.

    Returns:
        A subset of `LABELS`; empty if the text affirms none of them ("No Finding").
    """
    found: set[str] = set()
    for sentence in _SENTENCE.split(text.lower()):
        if CANNOT in sentence:
            continue
        for label, phrase in _FINDINGS.items():
            if label not in found and any(not _is_negated(sentence, match) for match in phrase.finditer(sentence)):
                found.add(label)
    return frozenset(found)


def _is_negated(sentence: str, match: re.Match[str]) -> bool:
    """True if the mention is in the scope of a negation."""
    # "heart ... not ... enlarged": the negation may be inside the phrase.
    if _NEGATION_BEFORE.search(match[0]):
        return True
    before = sentence[: match.start()]
    breaks = [m.end() for m in _BREAK.finditer(before)] + [m.end() for m in _WITH.finditer(before)]
    clause = before[max(breaks, default=0) :]
    if _NEGATION_BEFORE.search(clause):
        return True
    after = sentence[match.end() :]
    stop = re.search(r"\bbut\b|;|\bwith\b", after)
    return _NEGATION_AFTER.match(after[: stop.start()] if stop else after) is not None


def as_row(labels: frozenset[str]) -> list[int]:
    """0/1 in the order of `LABELS`, then `No Finding` (1 if no other is)."""
    return [int(label in labels) for label in LABELS] + [int(not labels)]


ROW_NAMES = (*LABELS, NO_FINDING)
"""Columns of `as_row`."""


@dataclass(frozen=True)
class Scores:
    """Agreement of reports with NIH labels.

    Attributes:
        images: number of scored reports.
        macro_f1: mean of the 14 findings' F1; a finding that is never predicted correctly counts 0.
        micro_f1: F1 over all image-finding pairs.
        no_finding_f1: F1 of "none of the 14".
        per_class: finding -> precision, recall, F1, positives in the labels, positives in the reports.
        distinct_reports: number of distinct texts divided by that of texts.
    """

    images: int
    macro_f1: float
    micro_f1: float
    no_finding_f1: float
    per_class: dict[str, dict[str, float]]
    distinct_reports: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, rounded to four places."""
        rounded: dict[str, Any] = _round(asdict(self))
        return rounded


def score(reports: Sequence[str], truth: Sequence[frozenset[str]]) -> Scores:
    """Score reports.

    Args:
        reports: One text per image.
        truth: The findings of the same images.
    """
    predicted = [label_text(report) for report in reports]
    return score_labels(predicted, truth, len(set(reports)) / max(1, len(reports)))


def score_labels(predicted: Sequence[frozenset[str]], truth: Sequence[frozenset[str]], distinct: float = 0.0) -> Scores:
    """Score findings read from reports; ``distinct`` is passed on."""
    per_class: dict[str, dict[str, float]] = {}
    total = np.zeros(3, int)
    for label in LABELS:
        each = [_counts(label in a, label in b) for a, b in zip(predicted, truth, strict=True)]
        counts = np.array(each).reshape(-1, 3).sum(0)
        total += counts
        per_class[label] = _prf(*counts)
    empty = np.array([_counts(not a, not b) for a, b in zip(predicted, truth, strict=True)]).reshape(-1, 3).sum(0)
    per_class[NO_FINDING] = _prf(*empty)
    return Scores(
        images=len(predicted), macro_f1=float(np.mean([per_class[label]["f1"] for label in LABELS])),
        micro_f1=_prf(*total)["f1"], no_finding_f1=per_class[NO_FINDING]["f1"], per_class=per_class,
        distinct_reports=distinct,
    )  # fmt: skip


def _counts(predicted: bool, true: bool) -> tuple[int, int, int]:
    return int(predicted and true), int(predicted), int(true)


def _prf(hits: int, predicted: int, true: int) -> dict[str, float]:
    return {
        "precision": float(hits / predicted) if predicted else 0.0,
        "recall": float(hits / true) if true else 0.0,
        "f1": float(2 * hits / (predicted + true)) if predicted + true else 0.0,
        "positives": int(true),
        "reported": int(predicted),
    }


def always_normal(images: int) -> list[str]:
    """Baseline: the same normal paragraph for every image."""
    return [grammar.text_of(grammar.write((), {}, np.random.default_rng(0), author=0))] * images


def prior_sampled(images: int, train: Sequence[Case], seed: int) -> list[str]:
    """Baseline: paragraphs of a random training image's labels, with their prevalence and co-occurrence."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(train), size=images)
    return [grammar.text_of(grammar.write(train[i].labels, {}, rng)) for i in drawn]


def baselines(train: Sequence[Case], truth: Sequence[frozenset[str]], draws: int = 100) -> dict[str, dict[str, Any]]:
    """Score both baselines; the sampled one as mean and 2.5th and 97.5th percentile over `draws` seeds."""
    sampled = [score(prior_sampled(len(truth), train, seed), truth) for seed in range(draws)]
    summary: dict[str, Any] = {}
    for name in ("macro_f1", "micro_f1", "no_finding_f1", "distinct_reports"):
        values = np.array([getattr(s, name) for s in sampled])
        summary[name] = float(values.mean())
        summary[f"{name}_95"] = [float(v) for v in np.percentile(values, [2.5, 97.5])]
    return {
        "always_normal": score(always_normal(len(truth)), truth).to_dict(),
        "prior_sampled": {**_round(summary), "draws": draws},
    }


def nearest_neighbour(train: Sequence[Case], known: torch.Tensor, images: torch.Tensor) -> list[str]:
    """Baseline: labels of the nearest training image, by the cosine of centred mean patch vectors.

    Args:
        train: N cases.
        known: [N, patches, width], their features.
        images: [M, patches, width].
    """
    from torch.nn.functional import normalize

    vectors, asked = known.float().mean(1), images.float().mean(1)
    centre = vectors.mean(0)
    nearest = (normalize(asked - centre, dim=1) @ normalize(vectors - centre, dim=1).t()).argmax(1)
    rng = np.random.default_rng(0)
    return [grammar.text_of(grammar.write(train[i].labels, {}, rng)) for i in nearest.tolist()]


def intervals(
    reports: Sequence[str],
    truth: Sequence[frozenset[str]],
    patients: Sequence[str] | None = None,
    draws: int = 500,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of the three F1 scores over resampled images, or patients with all their images."""
    predicted, true = (
        np.array([as_row(labels) for labels in of], np.float64).reshape(-1, len(ROW_NAMES))
        for of in ([label_text(report) for report in reports], truth)
    )
    groups = list(patients or map(str, range(len(reports))))
    members = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    rng = np.random.default_rng(3)
    drawn = np.stack(
        [np.bincount(rng.integers(len(members), size=len(members)), minlength=len(members)) for _ in range(draws)]
    )
    weights = drawn[:, [members[group] for group in groups]]
    hits, total = weights @ (predicted * true), weights @ (predicted + true)
    each = 2 * hits / np.maximum(total, 1)
    values = {
        "macro_f1": each[:, :-1].mean(1),
        "micro_f1": 2 * hits[:, :-1].sum(1) / np.maximum(total[:, :-1].sum(1), 1),
        "no_finding_f1": each[:, -1],
    }
    ends = {name: np.percentile(one, [2.5, 97.5]) for name, one in values.items()}
    return {name: (round(float(low), 4), round(float(high), 4)) for name, (low, high) in ends.items()}


def with_interval(
    reports: Sequence[str], truth: Sequence[frozenset[str]], patients: Sequence[str] | None = None
) -> dict[str, Any]:
    """Score with intervals by image or by patient, which are under ``NAME_95``."""
    found = intervals(reports, truth, patients)
    return score(reports, truth).to_dict() | {f"{name}_95": list(ends) for name, ends in found.items()}


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_round(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
