"""Validation drawn by subject."""

from __future__ import annotations

from pathlib import Path

from encoder.datasets.manifest import Row
from llava_rad.reports.pairs import Pair
from llava_rad.reports.splits import redraw_validation


def pairs(subjects: int, split: str = "train", first: int = 0, images: int = 3) -> list[Pair]:
    """Subjects with one, two, ... images in turn."""
    numbered = range(first, first + subjects)
    return [
        Pair(Row(Path(f"{s}-{i}"), "d", f"p{s}", image=f"{s}-{i}", split=split), "Clear.")
        for s in numbered
        for i in range(1 + s % images)
    ]


def chosen(found: list[Pair], split: str = "val") -> set[str]:
    return {pair.row.subject for pair in found if pair.row.split == split}


def test_the_share_is_met_as_nearly_as_whole_subjects_allow() -> None:
    there = pairs(1000)
    for share in (0.01, 0.047, 0.25, 0.9):
        number = sum(pair.row.split == "val" for pair in redraw_validation(there, share, 0))
        assert abs(number - share * len(there)) <= 1.5


def test_subjects_stay_whole_and_nothing_else_changes() -> None:
    there = [*pairs(50), *pairs(20, "val", 50), *pairs(300, "test", 70), *pairs(10, "", 370)]
    found = redraw_validation(there, 0.2, 7)
    drawn_from = [pair for pair in found if pair.row.split in ("train", "val")]
    assert abs(sum(pair.row.split == "val" for pair in drawn_from) - 0.2 * len(drawn_from)) <= 1.5
    assert not chosen(found) & chosen(found, "train")
    assert chosen(found) & chosen(there, "train") and chosen(found, "train") & chosen(there, "val")
    for before, after in zip(there, found, strict=True):
        assert (before.id, before.findings) == (after.id, after.findings)
        assert before.row.split in ("train", "val") or after == before


def test_the_seed_decides_and_the_order_of_the_pairs_does_not() -> None:
    there = pairs(200)
    assert chosen(redraw_validation(there, 0.1, 1)) == chosen(redraw_validation(there[::-1], 0.1, 1))
    assert chosen(redraw_validation(there, 0.1, 1)) != chosen(redraw_validation(there, 0.1, 2))
    # a longer download keeps most of the draw: subjects are taken in an order of their own
    more = chosen(redraw_validation(pairs(220), 0.1, 1))
    assert len(more & chosen(redraw_validation(there, 0.1, 1))) > 0.7 * len(more)


def test_same_names_in_two_data_sets_are_two_subjects() -> None:
    other = [Pair(Row(p.row.path, "e", p.row.subject, image=f"e{p.id}", split="train"), "x") for p in pairs(300)]
    found = redraw_validation([*pairs(300), *other], 0.3, 0)
    by_set = [{p.row.subject for p in found if p.row.split == "val" and p.row.dataset == name} for name in ("d", "e")]
    assert by_set[0] != by_set[1]


def test_pairs_without_subject_are_drawn_one_by_one() -> None:
    there = [Pair(Row(Path(f"{n}"), image=f"{n}", split="train"), "x") for n in range(100)]
    assert sum(pair.row.split == "val" for pair in redraw_validation(there, 0.1, 0)) == 10
