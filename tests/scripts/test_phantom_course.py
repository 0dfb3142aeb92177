"""Phantom patients over time: what is drawn is what reports say, and the table of studies has their priors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from llava_rad.reports.registry import DATASETS, places
from scripts.phantom import course
from scripts.phantom.course import EXTENTS, QUESTIONS, SLOTS, CourseStudy, change, courses, findings_text
from scripts.phantom.statements import answers, behind, best_guess, changes, counts, extents, guessed


def patients(number: int) -> Iterator[list[CourseStudy]]:
    for _, studies in groupby(courses(number, 0), key=lambda study: study.subject):
        yield list(studies)


@pytest.mark.parametrize(
    ("before", "now", "word"),
    [
        (0, 0, None), (0, 1, "new"), (0, 2, "new"), (1, 0, "resolved"), (2, 0, "resolved"), (1, 2, "increased"),
        (2, 1, "decreased"), (1, 1, "unchanged"), (2, 2, "unchanged"),
    ],
)  # fmt: skip
def test_a_change_is_that_of_the_extent(before: int, now: int, word: str | None) -> None:
    assert change(before, now) == word


def test_a_report_in_full() -> None:
    fever = next(text for text in QUESTIONS if "fever" in text)
    assert findings_text((1, 0, 2, 0), (2, 1, 0, 0), True, fever) == (
        "Small right pleural effusion. It has decreased. No left pleural effusion. It has resolved. "
        "Large right upper lung consolidation. It is new. No left upper lung consolidation. "
        "Retrocardiac consolidation. Concerning for pneumonia."
    )
    assert findings_text((0, 0, 0, 0), None, None, fever).endswith("consolidation. No evidence of pneumonia.")


def test_reports_state_what_is_drawn_and_what_has_changed() -> None:
    for studies in patients(60):
        assert 2 <= len(studies) <= 4 and len({study.split for study in studies}) == 1
        before: tuple[int, ...] | None = None
        for study in studies:
            text = study.report.findings
            drawn = {(f.kind, f.side) for f in study.findings}
            assert drawn == {
                (slot.kind, slot.side) for slot, extent in zip(SLOTS, study.extents, strict=True) if extent
            }
            assert extents(text) == {
                (slot.name, EXTENTS[extent]) for slot, extent in zip(SLOTS, study.extents, strict=True) if extent
            }
            words = [None] * len(SLOTS) if before is None else map(change, before, study.extents)
            expected = {(slot.name, word) for slot, word in zip(SLOTS, words, strict=True) if word}
            assert changes(text) == expected
            assert bool(behind(text)) == (bool(study.hidden) and len(study.views) > 1)
            assert len(answers(text)) == bool(study.indication)
            before = study.extents
        days = [study.day for study in studies]
        assert days == sorted(set(days))


def test_laterals_alone_show_what_is_behind_the_heart() -> None:
    study = next(study for study in courses(30, 0) if study.hidden and len(study.views) > 1)
    bare = CourseStudy(**{name: getattr(study, name) for name in study.__dataclass_fields__} | {"hidden": ()})
    frontal, lateral = (
        [one.image(index, 96).pixels.astype(int) for one in (study, bare)] for index in range(len(study.views))
    )
    assert np.array_equal(*frontal)
    assert (lateral[0] - lateral[1]).max() > 300  # of 4095


@pytest.mark.parametrize("slot", SLOTS, ids=lambda slot: slot.name)
def test_large_findings_have_a_much_larger_area_than_small_ones(slot: course.Slot) -> None:
    name = {"pleural effusion": "effusion", "consolidation": "airspace"}[slot.kind]
    rng = np.random.default_rng(0)
    small, large = (
        np.mean([
            course.phantom_radiograph(n, (slot.drawn(extent, rng),), 96).mask(name).sum() for n in range(3)
        ])
        for extent in (1, 2)
    )  # fmt: skip
    assert large > 1.8 * small > 0


def test_the_table_of_studies_has_the_earlier_study_its_report_and_the_indication(tmp_path: Path) -> None:
    number = course.write(tmp_path / "data", 8, 64)
    cxr, jpg = (tmp_path / "data" / name for name in ("mimic-cxr", "mimic-cxr-jpg"))
    pairs = DATASETS["mimic-cxr"].find(places(cxr, None, jpg)).pairs
    assert len(pairs) == number
    found = {pair.row.study: pair for pair in pairs}
    for studies in patients(8):
        before: CourseStudy | None = None
        for study in studies:
            pair = found[str(course.study_id(study, 0))]
            context = pair.context
            assert (pair.findings, context.indication) == (study.report.findings, study.indication)
            assert (context.lateral is not None) == (len(study.views) > 1)
            assert (pair.row.split == "test") == (study.split == "test")
            if before is None or context.prior is None:
                assert before is None and (context.prior, context.prior_report) == (None, "")
            else:
                assert context.prior_report == before.report.findings
                assert context.prior.name == f"{course.dicom_id(before, 0)}.dcm"
                assert context.days == (study.day - before.day).days
            before = study


def test_an_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(course, "write_csv", stop)
    with pytest.raises(KeyboardInterrupt):
        course.write(tmp_path / "data", 2, 64)
    assert not list(tmp_path.iterdir())


# ---- statements


def test_statements_are_read_from_generated_texts_too() -> None:
    text = (
        "Large left pleural effusion. It has increased. It is new. The right pleural effusion. It is new. "
        "No retrocardiac consolidation. It is larger. Small heart. It is unchanged. No pneumothorax. No"
    )
    assert extents(text) == {("left pleural effusion", "Large")}
    assert changes(text) == {("left pleural effusion", "increased")}
    assert behind(text) == frozenset() and behind("Retrocardiac consolidation.") == {("behind", "")}
    assert answers(text) == {("No pneumothorax.", "")}
    assert not any(kind("") for kind in (extents, changes, behind, answers))


def test_counts_by_hand() -> None:
    found = [frozenset({("a", "new"), ("b", "new")}), frozenset[tuple[str, str]](), frozenset({("a", "new")})]
    true = [frozenset({("a", "new"), ("b", "resolved")}), frozenset({("c", "new")}), frozenset({("a", "new")})]
    assert counts(found, true).tolist() == [[1, 1, 1], [0, 0, 1], [1, 0, 0]]
    assert counts([], []).shape == (0, 3)


def test_the_best_guess_is_the_most_frequent_change_of_an_extent() -> None:
    texts = [
        findings_text((1, 0, 0, 0), (0, 0, 0, 0), None, ""),
        findings_text((1, 0, 0, 0), (0, 0, 0, 0), None, ""),
        findings_text((1, 0, 0, 0), (2, 1, 0, 0), None, ""),
    ]
    guesses = best_guess(texts)
    assert guesses["right pleural effusion", "Small"] == "new"
    assert guesses["left pleural effusion", "No"] is None  # twice nothing, once resolved
    assert guessed("Small right pleural effusion.", guesses) == {("right pleural effusion", "new")}
    assert guessed("Large right pleural effusion.", guesses) == frozenset()  # never seen
