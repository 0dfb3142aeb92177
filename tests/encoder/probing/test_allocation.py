"""Images of the runs of a linear probe: fifths, folds and draws, by subject."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from encoder.probing.allocation import Allocation, How


def rows(train: int = 60, val: int = 0, test: int = 20, images: int = 2) -> list[Row]:
    """Subjects with two images each; label A is that of every other subject, B of every image of the first ten."""
    found = []
    for split, number in (("train", train), ("val", val), ("test", test)):
        for subject in range(number):
            for image in range(images):
                labels = {"A": float(subject % 2), "B": float(subject < 10)}
                found.append(
                    Row(
                        Path(f"/{split}{subject}-{image}.png"), "d", f"{split}{subject}", split=split, labels=labels,
                        number=len(found) + 1,
                    )
                )  # fmt: skip
    return found


def subjects(some: tuple[Row, ...]) -> set[str]:
    return {row.subject for row in some}


def test_fifths_leave_each_training_subject_out_once_and_judge_the_same_test_images() -> None:
    found = Allocation.of(rows(), how="fifths", seeds=range(5))
    every = subjects(tuple(row for row in rows() if row.split == "train"))
    left = [every - subjects(split.train) for split in found.splits]
    assert [len(some) for some in left] == [12] * 5 and set.union(*left) == every
    assert {split.judged for split in found.splits} == {found.judged} and len(found.judged) == 40
    again = Allocation.of(rows(), how="fifths", seeds=range(10))
    assert again.splits[:5] == found.splits and again.splits[5] != found.splits[0], "another division"


def test_folds_judge_every_image_once_and_train_on_three_fifths_as_in_table_1b() -> None:
    given = rows(30, 10, 10)
    found = Allocation.of(given, ["A"], "folds", seeds=range(5))
    assert Counter(row.path for split in found.splits for row in split.judged) == {row.path: 1 for row in given}
    for split in found.splits:
        assert not subjects(split.train) & subjects(split.judged)
        assert (len(subjects(split.train)), len(subjects(split.judged))) == (30, 10), "60/20/20"
    assert found.judged == tuple(given)


def test_pooled_folds_train_on_four_fifths_and_are_one_run() -> None:
    found = Allocation.of(rows(30, 0, 10), ["A"], "train-folds", pooled=True)
    assert [len(subjects(split.train)) for split in found.splits] == [24] * 5
    assert all(row.split == "train" for row in found.judged) and len(found.judged) == 60
    odds = [np.full((len(split.judged), 1), float(number)) for number, split in enumerate(found.splits)]
    (one,) = found.runs(odds)
    assert Counter(one[:, 0].tolist()) == {float(number): 12 for number in range(5)}
    place = {row.path: number for number, row in enumerate(found.judged)}
    assert all(one[place[row.path], 0] == number for number, split in enumerate(found.splits) for row in split.judged)


def test_runs_of_folds_are_empty_elsewhere() -> None:
    found = Allocation.of(rows(30, 0, 10), ["A"], "folds", seeds=(0, 1))
    runs = found.runs([np.zeros((len(split.judged), 1)) for split in found.splits])
    assert [int((~np.isnan(run)).sum()) for run in runs] == [16, 16]
    assert not (~np.isnan(runs[0]) & ~np.isnan(runs[1])).any()


def test_draws_divide_subjects_anew_for_every_seed_by_the_data_sets_shares() -> None:
    given = rows(50, 25, 25)
    found = Allocation.of(given, ["A"], "draws", seeds=(0, 1, 2), shares=(0.8, 0.1, 0.1))
    for split in found.splits:
        assert (len(subjects(split.train)), len(subjects(split.judged))) == (80, 10)
        assert not subjects(split.train) & subjects(split.judged)
    assert len({subjects(split.judged).__repr__() for split in found.splits}) == 3


def test_a_label_needs_both_classes_in_every_run() -> None:
    given = rows(10, 0, 10)
    rare = [row for row in given if row.split == "test"]
    some = [
        Row(row.path, "d", row.subject, split="train", labels={"A": row.labels["A"], "R": float(number == 0)})
        for number, row in enumerate(row for row in given if row.split == "train")
    ]
    test = [
        Row(row.path, "d", row.subject, split="test", labels={**row.labels, "R": float(n % 2)})
        for n, row in enumerate(rare)
    ]
    assert Allocation.of([*some, *test], ["A", "R"]).labels == ("A", "R")
    found = Allocation.of([*some, *test], ["A", "R"], "fifths", seeds=range(5))
    assert found.labels == ("A",) and found.splits[0].left_out == ("R",), "one run has no training image with it"


def test_pooled_labels_need_both_classes_among_all_judged_images_only() -> None:
    given = rows(50, 0, 0)
    some = [Row(r.path, "d", r.subject, split="train", labels={"R": float(n < 8)}) for n, r in enumerate(given)]
    assert Allocation.of(some, ["R"], "train-folds", pooled=True).labels == ("R",)
    with pytest.raises(LlavaRadError, match="no label"):
        Allocation.of(some, ["R"], "train-folds", seeds=range(5))


@pytest.mark.parametrize("how", ["whole", "fifths", "folds", "train-folds", "draws"])
def test_images_left_out_are_as_if_the_manifest_did_not_have_them(how: How) -> None:
    given = rows(40, 0, 20)
    found = Allocation.of(given, ["A"], how, seeds=(0, 1))
    gone = {given[3].path, given[90].path}
    expected = Allocation.of([row for row in given if row.path not in gone], ["A"], how, seeds=(0, 1))
    assert found.without(gone) == expected and found.without(()) is found


def test_rows_without_subject_are_each_their_own() -> None:
    given = [Row(Path(f"/{n}.png"), "d", split="train", labels={"A": float(n % 2)}) for n in range(50)]
    found = Allocation.of(given, how="folds", seeds=(0,))
    assert (len(found.splits[0].train), len(found.splits[0].judged)) == (30, 10)


def test_folds_need_no_split_of_the_manifest_but_fifths_do() -> None:
    given = [Row(Path(f"/{n}.png"), "d", f"p{n}", labels={"A": float(n % 2)}) for n in range(50)]
    assert len(Allocation.of(given, how="folds", seeds=range(5)).judged) == 50
    with pytest.raises(LlavaRadError, match="needs images of the split train"):
        Allocation.of(given, how="fifths")
    with pytest.raises(LlavaRadError, match="needs images of the split train"):
        Allocation.of(given, how="train-folds")


@pytest.mark.parametrize("how", ["whole", "fifths", "train-folds"])
def test_a_run_that_judges_bytes_it_trains_on_is_refused(how: How) -> None:
    given = rows(20, 0, 10)
    found = Allocation.of(given, ["A"], how, seeds=range(5))
    digests = {row.path: str(row.path) for row in given}
    found.check_contents(digests)
    twice = digests | {Path("/train0-1.png"): digests[Path("/train0-0.png")]}
    found.check_contents(twice)  # two images of one subject are on the same side
    other = "/train1-0.png" if how == "train-folds" else "/test0-0.png"
    shared = digests | {Path(f"/train{n}-0.png"): digests[Path(other)] for n in (0, 2, 3, 4, 5, 6, 7)}
    with pytest.raises(LlavaRadError, match="images with the same bytes in two splits"):
        found.check_contents(shared)
    found.check_contents(digests | dict.fromkeys((Path("/train0-0.png"), Path("/test0-0.png")), ""))  # unreadable ones
