"""Reports of drawn radiographs, whose findings are known: other words for the same, and planted errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metrics.findings.metric import compare_all
from scripts.phantom.cohort import Request, Study, studies
from scripts.phantom.findings import Finding
from scripts.phantom.patient import generator
from scripts.phantom.report import write_report

OTHER = {"left": "right", "right": "left"}
NONE: Any = None


@pytest.fixture(scope="module")
def cohort() -> list[Study]:
    """Two hundred studies; no image is drawn."""
    return list(studies(Request(Path(), 200, 64, 0, NONE), "words", views=[(("PA",), 1.0)]))


def written(study: Study, findings: tuple[Finding, ...]) -> str:
    """Return a report of findings in other words than the study's own."""
    return write_report(generator("other words", study.key), findings).findings


def scores(pairs: list[tuple[str, Study]]) -> list[float]:
    found = compare_all([text for text, _ in pairs], [study.report.findings for _, study in pairs])
    return [one.score for one in found]


def test_the_same_findings_in_other_words_score_nearly_one(cohort: list[Study]) -> None:
    found = scores([(written(study, study.findings), study) for study in cohort])
    assert sum(found) / len(found) >= 0.98
    assert min(found) > 0.5


def test_a_normal_report_scores_the_share_of_normal_studies(cohort: list[Study]) -> None:
    normal = write_report(generator("normal"), ()).findings
    found = scores([(normal, study) for study in cohort])
    assert all(score == 1 for score, study in zip(found, cohort, strict=True) if not study.findings)
    assert sum(found) / len(found) == pytest.approx(sum(not study.findings for study in cohort) / 200, abs=0.02)


def dropped(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return findings[1:]


def swapped(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    at = next((at for at, one in enumerate(findings) if one.side), None)
    if at is None:
        return findings
    return (*findings[:at], replace(findings[at], side=OTHER[findings[at].side]), *findings[at + 1 :])


def added(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    kinds = {one.kind for one in findings}
    return findings if kinds & {"mass", "nodule"} else (*findings, Finding("mass", "right", "upper", 0.9))


@pytest.mark.parametrize(("change", "share"), [(dropped, 0.99), (swapped, 0.97), (added, 0.99)])
def test_planted_errors_lower_the_score(
    change: Callable[[tuple[Finding, ...]], tuple[Finding, ...]], share: float, cohort: list[Study]
) -> None:
    """Against a report of the right findings in the same words."""
    chosen = [study for study in cohort if change(study.findings) != study.findings]
    wrong = scores([(written(study, change(study.findings)), study) for study in chosen])
    right = scores([(written(study, study.findings), study) for study in chosen])
    assert len(chosen) > 50
    assert sum(low < high for low, high in zip(wrong, right, strict=True)) >= share * len(chosen)
