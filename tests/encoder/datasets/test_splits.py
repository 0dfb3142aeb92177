"""Splits by subject: shares, disjointness, seeds; and shares from text."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from encoder.datasets.manifest import Row
from encoder.datasets.splits import redraw_validation, shares_of, split_by_subject
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


def labelled(subjects: int, split: str = "train", first: int = 0) -> list[Row]:
    """Subjects with one, two and three images in turn."""
    return [
        Row(Path(f"{s}-{i}"), "d", f"p{s}", image=f"{s}-{i}", split=split)
        for s in range(first, first + subjects)
        for i in range(1 + s % 3)
    ]


def chosen(found: list[Row], split: str = "val") -> set[str]:
    return {row.subject for row in found if row.split == split}


def test_the_validation_share_is_met_as_nearly_as_whole_subjects_allow() -> None:
    there = labelled(1000)
    for share in (0.01, 0.047, 0.25, 0.9):
        number = sum(row.split == "val" for row in redraw_validation(there, share, 0))
        assert abs(number - share * len(there)) <= 1.5


def test_subjects_stay_whole_and_nothing_else_changes() -> None:
    there = [*labelled(50), *labelled(20, "val", 50), *labelled(300, "test", 70), *labelled(10, "", 370)]
    found = redraw_validation(there, 0.2, 7)
    drawn_from = [row for row in found if row.split in ("train", "val")]
    assert abs(sum(row.split == "val" for row in drawn_from) - 0.2 * len(drawn_from)) <= 1.5
    assert not chosen(found) & chosen(found, "train")
    assert chosen(found) & chosen(there, "train") and chosen(found, "train") & chosen(there, "val")
    for before, after in zip(there, found, strict=True):
        assert (before.path, before.subject) == (after.path, after.subject)
        assert before.split in ("train", "val") or after == before


def test_the_seed_decides_and_the_order_of_the_pairs_does_not() -> None:
    there = labelled(200)
    assert chosen(redraw_validation(there, 0.1, 1)) == chosen(redraw_validation(there[::-1], 0.1, 1))
    assert chosen(redraw_validation(there, 0.1, 1)) != chosen(redraw_validation(there, 0.1, 2))
    # a longer download keeps most of the draw: subjects are taken in an order of their own
    more = chosen(redraw_validation(labelled(220), 0.1, 1))
    assert len(more & chosen(redraw_validation(there, 0.1, 1))) > 0.7 * len(more)


def test_same_names_in_two_data_sets_are_two_subjects() -> None:
    other = [replace(p, dataset="e", image=f"e{p.image}") for p in labelled(300)]
    found = redraw_validation([*labelled(300), *other], 0.3, 0)
    by_set = [{p.subject for p in found if p.split == "val" and p.dataset == name} for name in ("d", "e")]
    assert by_set[0] != by_set[1]


def test_pairs_without_subject_are_drawn_one_by_one() -> None:
    there = [Row(Path(f"{n}"), image=f"{n}", split="train") for n in range(100)]
    assert sum(row.split == "val" for row in redraw_validation(there, 0.1, 0)) == 10
