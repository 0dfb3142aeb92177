"""Reference points on examples that are worked out by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from encoder.errors import LlavaRadError
from llava_rad.benchmark import reference_points as points
from llava_rad.benchmark.task import Case


def cases(*pairs: tuple[str, str]) -> list[Case]:
    """Cases with a patient and a report each."""
    return [Case(f"i{number}", text, subject=patient) for number, (patient, text) in enumerate(pairs)]


def test_most_frequent_report_of_other_patients() -> None:
    """p1 has "x" three times: p1 alone gets "y", which two other patients have."""
    some = cases(("p1", "x"), ("p1", "x"), ("p1", "x"), ("p2", "y"), ("p3", "y"), ("p4", "z"))
    assert points.most_frequent(some, some) == ["y", "y", "y", "x", "x", "x"]


def test_most_frequent_report_of_a_training_split() -> None:
    bank = cases(("t1", "a"), ("t2", "b"), ("t3", "b"), ("t4", "a"))
    assert points.most_frequent(cases(("p", "c")), bank) == ["a"], "of equally frequent ones the first"


def test_random_report_is_another_patients_and_does_not_depend_on_the_other_cases() -> None:
    some = cases(*((f"p{number % 5}", f"text {number}") for number in range(40)))
    dealt = points.random(some, some, 1)
    own = {case.reference: case.patient for case in some}
    assert all(own[text] != case.patient for text, case in zip(dealt, some, strict=True))
    assert points.random(some[7:9], some, 1) == dealt[7:9]
    assert points.random(some, some, 2) != dealt
    assert len(set(dealt)) > 15, "not the same for all"


def test_nearest_neighbour_by_cosine_without_the_own_patient() -> None:
    some = cases(("p1", "one"), ("p1", "two"), ("p2", "three"), ("p3", "four"))
    vectors = np.array([[1, 0], [1, 0.01], [10, 4], [0, 1]], np.float32)
    # i0 and i1 are of one patient; [10, 4] is nearer to them by angle than [0, 1]; i2 is nearest to i1, i3 to i2
    assert points.nearest(some, vectors, some, vectors) == ["three", "three", "two", "three"]


def test_nearest_neighbour_in_a_training_split_passes_over_what_could_not_be_read() -> None:
    bank = cases(("t1", "a"), ("t2", "b"))
    vectors = np.array([[np.nan, np.nan], [1, 0]], np.float32)
    asked = np.array([[0, 1], [np.nan, np.nan]], np.float32)
    assert points.nearest(cases(("p", "x"), ("q", "y")), asked, bank, vectors) == ["b", ""]


def test_nearest_of_equal_ones_is_the_first() -> None:
    bank = cases(("t1", "a"), ("t2", "b"))
    same = np.ones((2, 3), np.float32)
    assert points.nearest(cases(("p", "x")), same[:1], bank, same) == ["a"]


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_reports_are_all_used_once_and_never_for_the_own_patient(seed: int) -> None:
    some = cases(*((patient, "") for patient in "aaabbcddddeffg"))
    texts = [f"{case.patient}{number}" for number, case in enumerate(some)]
    dealt = points.shuffled(some, texts, seed)
    assert Counter(dealt) == Counter(texts)
    assert all(text[0] != case.patient for text, case in zip(dealt, some, strict=True))


def test_one_patient_alone_has_no_reference_points() -> None:
    some = cases(("p", "a"), ("p", "b"))
    for make in (lambda: points.most_frequent(some, some), lambda: points.random(some, some, 0)):
        with pytest.raises(LlavaRadError, match="one patient"):
            make()


def test_without_subjects_studies_tell_patients_apart_and_else_images() -> None:
    assert Case("i", "", study="s").patient == "s"
    assert Case("i", "").patient == "i"
