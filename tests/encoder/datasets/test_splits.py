"""Splits by subject: shares, disjointness, seeds; and shares from text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from encoder.datasets.manifest import Row
from encoder.datasets.splits import shares_of, split_by_subject
from encoder.errors import LlavaRadError


def cohort(subjects: int = 200, dataset: str = "a") -> list[Row]:
    return [
        Row(Path(f"/{dataset}/{s}_{i}"), dataset, f"p{s}", "", f"{s}_{i}") for s in range(subjects) for i in range(3)
    ]


def test_every_subject_in_one_split_in_the_shares_asked_for() -> None:
    rows = cohort()
    split = split_by_subject(rows, (0.7, 0.15, 0.15), 3)
    assert [(r.path, r.subject) for r in split] == [(r.path, r.subject) for r in rows]
    assert Counter(r.split for r in split) == {"train": 420, "val": 90, "test": 90}
    assert len({(r.subject, r.split) for r in split}) == 200


def test_a_split_depends_on_seed_and_subjects_alone() -> None:
    rows = cohort()
    first = {r.image: r.split for r in split_by_subject(rows, (0.6, 0.2, 0.2), 1)}
    assert {r.image: r.split for r in split_by_subject(rows[::-1], (0.6, 0.2, 0.2), 1)} == first
    other = {r.image: r.split for r in split_by_subject(rows, (0.6, 0.2, 0.2), 2)}
    # drawn again, a subject is in the same split with chance 0.6² + 0.2² + 0.2² = 0.44 (5 sigma of 200: 0.18)
    assert 0.26 < sum(first[image] == other[image] for image in first) / len(first) < 0.62
    both = split_by_subject([*rows, *cohort(50, "b")], (0.6, 0.2, 0.2), 1)
    assert {r.image: r.split for r in both if r.dataset == "a"} == first
    assert Counter(r.split for r in both if r.dataset == "b") == {"train": 90, "val": 30, "test": 30}


def test_without_subjects_images_are_split() -> None:
    rows = [Row(Path(f"/{i}.png"), "a") for i in range(100)]
    assert Counter(r.split for r in split_by_subject(rows, (0.8, 0.1, 0.1))) == {"train": 80, "val": 10, "test": 10}


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (0.5, 0.2, 0.2)])
def test_shares_add_up(shares: tuple[float, float, float]) -> None:
    with pytest.raises(LlavaRadError, match="add up to 1"):
        split_by_subject(cohort(3), shares)


def test_shares_from_text() -> None:
    assert shares_of("70/15/15") == (0.7, 0.15, 0.15)
    assert shares_of("80/20/0") == (0.8, 0.2, 0.0)
    for text in ("70/15", "70/15/10", "0.7/0.15/0.15", "a/b/c", ""):
        with pytest.raises(LlavaRadError, match="three percentages"):
            shares_of(text)
