"""Comparisons with an earlier study that was not given: the recogniser against labels by hand, the metric by hand."""

from __future__ import annotations

import csv
import hashlib
import json
import textwrap
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from llava_rad.outputs.report import sentences
from metrics.base import InputError
from metrics.bootstrap import Bootstrap
from metrics.comparisons import GIVEN, NOT_GIVEN, PriorClaims, compares, counted, prior_claims, without_prior
from metrics.registry import PRIOR_CLAIMS, load

LABELS = Path(__file__).with_name("comparison_labels.csv")
"""Sentences of Open-i's reports by SHA-256, drawn with a fixed seed from three groups, and labelled by hand."""


@pytest.mark.parametrize(
    "sentence",
    [
        "There are old films for comparison, and the nodule is unchanged.", "Continued cardiomegaly.",
        "Opacities without significant change.", "Similar bronchiectatic changes.", "Not significantly changed.",
        "In the left lung there has been development of a nodule.", "Present on the old CT scan.",
        "The effusion is larger than before.", "Larger than on the prior.", "No new infiltrate.",
    ],
)  # fmt: skip
def test_more_sentences_that_compare(sentence: str) -> None:
    assert compares(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "Deformity from previous fractures.", "Clips of previous coronary artery bypass.", "No degenerative changes.",
        "The vasculature is increased.", "Increased calcifications of the aorta.", "If symptoms persist, repeat.",
        "Correlation with prior films would be helpful.", "Follow-up until clearing is recommended.",
        "High-resolution CT is suggested.", "The right hilum is more prominent than the left.",
        "Asymmetric compared to the left.", "A short interval follow-up is advised.",
    ],
)  # fmt: skip
def test_more_sentences_that_describe(sentence: str) -> None:
    assert not compares(sentence)


def test_precision_and_recall_on_real_sentences(shared_dir: Path) -> None:
    """Numbers of docs/metrics.md: precision of the recognised, recall weighted by the sizes of the three groups."""
    with LABELS.open(newline="") as file:
        labels = {row["sentence"]: (row["group"], row["compares"] == "1") for row in csv.DictReader(file)}
    found: dict[str, str] = {}
    with (shared_dir / "data" / "iu_xray_reports" / "reports.jsonl").open(encoding="utf-8") as file:
        for line in file:
            report = json.loads(line)
            for text in (report["findings"], report["impression"]):
                for sentence in sentences(text or ""):
                    found.setdefault(hashlib.sha256(sentence.encode()).hexdigest()[:16], sentence)
    assert len(labels) == 110 and labels.keys() <= found.keys()
    counts: dict[tuple[str, bool, bool], int] = defaultdict(int)
    for key, (group, truth) in labels.items():
        counts[group, truth, compares(found[key])] += 1
    sampled = {group: sum(one == group for one, _ in labels.values()) for group in ("recognised", "near", "other")}
    sizes = {"recognised": 1609, "near": 1005, "other": 6051}  # distinct sentences when the sample was drawn
    true = sum(sizes[g] * counts[g, True, True] / sampled[g] for g in sizes)
    missed = sum(sizes[g] * counts[g, True, False] / sampled[g] for g in sizes)
    wrong = sum(sizes[g] * counts[g, False, True] / sampled[g] for g in sizes)
    assert true / (true + wrong) >= 0.95
    assert true / (true + missed) >= 0.93


REPORTS = [
    "The heart is normal. The effusion is unchanged.",  # 2 sentences, 1 compares
    "Lungs are clear. No pneumothorax. Heart normal.",  # 3, none
    "New opacity. Stable heart.",  # 2, 2, with a prior
    "",
]
PRIOR = [NOT_GIVEN, NOT_GIVEN, GIVEN, NOT_GIVEN]


def test_sentences_are_counted() -> None:
    assert [counted(text) for text in REPORTS] == [(2, 1), (3, 0), (2, 2), (0, 0)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "  \n"])
def test_line_breaks_within_sentences_do_not_count(end: str) -> None:
    text = (
        "The effusion is larger than on the prior study. No focal consolidation. Heart size is stable compared to the "
        "prior."
    )
    for width in (45, 60):
        assert counted(end.join(textwrap.wrap(text, width))) == counted(text) == (3, 2)
    assert counted("NO\nCHANGE SINCE THE\nPRIOR STUDY.") == (1, 1)


def test_shares_are_of_the_reports_without_a_prior() -> None:
    """Of reports 1, 2 and 4 one compares, of their 5 sentences one; of their references ("New ...") two."""
    references = ["New opacity.", "Clear.", "Clear.", "Unchanged."]
    found = prior_claims(REPORTS, references, PRIOR)
    assert found.point() == pytest.approx(
        {"prior_claims": 1 / 3, "prior_claims_sentences": 1 / 5, "prior_claims_references": 2 / 3}
    )
    np.testing.assert_array_equal(found.per_sample["prior_claims"], [1, 0, np.nan, 0])
    assert without_prior(found) == 3
    part = found.subset(np.array([0, 2]))
    assert part["prior_claims"] == 1.0 and part["prior_claims_sentences"] == 0.5


def test_what_is_not_known_is_not_counted() -> None:
    assert np.isnan(prior_claims(REPORTS, REPORTS, [""] * 4)["prior_claims"])
    metric = load(PRIOR_CLAIMS)
    assert metric is PriorClaims
    unknown = Bootstrap(20, 1).intervals(prior_claims(REPORTS, REPORTS, [""] * 4))["prior_claims"]
    assert (unknown.point, unknown.low) == (None, None)
    with pytest.raises(InputError, match="3 values of prior for 4 reports"):
        prior_claims(REPORTS, REPORTS, PRIOR[:3])


def test_of_faults_less_is_better() -> None:
    clean, inventing = ["Clear."] * 12, ["Unchanged."] * 12
    pair = [prior_claims(texts, clean, [NOT_GIVEN] * 12) for texts in (clean, inventing)]
    differences = Bootstrap(50, 1).differences(*pair)
    assert differences["prior_claims"].point == -1
    assert differences["prior_claims"].verdict == "first"
    assert differences["prior_claims"].p_holm is not None and differences["prior_claims_references"].point == 0
