"""Data of a benchmark: splits, samples, groups, tables with and without images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from encoder.errors import LlavaRadError
from llava_rad.benchmark.task import Case, load, sample
from metrics.base import MetricError


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_table_of_texts_needs_no_images(tmp_path: Path) -> None:
    rows = [{"uid": "1", "findings": "A.", "subject_id": 7}, {"uid": "2", "findings": "B.", "subject_id": 8}]
    task = load("csv", table(tmp_path / "t.jsonl", rows))
    assert [(case.id, case.reference, case.patient) for case in task.cases] == [("1", "A.", "7"), ("2", "B.", "8")]
    assert not task.has_images and task.published is None and task.split == ""


def pairs(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    for row in rows:
        (tmp_path / row["image"]).write_bytes(b"x")
    return table(tmp_path / "pairs.jsonl", rows)


def test_the_training_split_is_the_bank_and_only_the_named_split_is_scored(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{split}{n}",
            "image": f"{split}{n}.png",
            "findings": f"{split} {n}",
            "split": split,
            "subject": f"{split}{n}",
        }
        for split in ("train", "val", "test")
        for n in range(2)
    ]
    task = load("csv", pairs(tmp_path, rows))
    assert [case.id for case in task.cases] == ["test0", "test1"]
    assert [case.id for case in task.bank] == ["train0", "train1"]
    assert [case.id for case in load("csv", tmp_path / "pairs.jsonl", split="val").cases] == ["val0", "val1"]
    assert load("csv", tmp_path / "pairs.jsonl", split="train").bank == [], "never the scored images themselves"


def test_a_table_without_splits_is_taken_whole(tmp_path: Path) -> None:
    rows = [{"id": "a", "image": "a.png", "findings": "A."}, {"id": "b", "image": "b.png", "findings": "B."}]
    task = load("csv", pairs(tmp_path, rows))
    assert len(task.cases) == 2 and task.bank == [] and task.split == "" and task.has_images


def test_missing_images_are_counted(tmp_path: Path) -> None:
    file = pairs(tmp_path, [{"id": n, "image": f"{n}.png", "findings": n} for n in "abc"])
    (tmp_path / "b.png").unlink()
    task = load("csv", file)
    assert task.missing == 1 and [case.id for case in task.cases] == ["a", "c"]


def test_a_sample_keeps_the_order_and_does_not_depend_on_what_else_there_is() -> None:
    cases = [Case(str(number), "") for number in range(100)]
    chosen = sample(cases, 10, 3)
    assert len(chosen) == 10 and chosen == sorted(chosen, key=lambda case: int(case.id))
    assert set(chosen) < set(sample(cases, 15, 3)), "more are the same ones and others"
    assert [case for case in sample(cases[:50], 50, 3) if case in chosen] == [c for c in chosen if int(c.id) < 50]
    assert sample(cases, 10, 4) != chosen


def test_a_limited_task_says_what_it_was_drawn_from(tmp_path: Path) -> None:
    file = table(tmp_path / "t.jsonl", [{"id": str(n), "findings": "x"} for n in range(9)])
    assert load("csv", file, limit=4).sampled_from == 9
    assert load("csv", file, limit=9).sampled_from is None


@pytest.mark.parametrize(
    ("key", "values"), [("id", ["1", "2", "3"]), ("study_id", ["s1", "s1", "s2"]), ("subject_id", ["p1", "p1", "p2"])]
)
def test_groups_are_found_by_id_study_or_subject(tmp_path: Path, key: str, values: list[str]) -> None:
    rows = [
        {"id": "1", "findings": "A.", "study_id": "s1", "subject_id": "p1"},
        {"id": "2", "findings": "B.", "study_id": "s1", "subject_id": "p1"},
        {"id": "3", "findings": "C.", "study_id": "s2", "subject_id": "p2"},
    ]
    ages = {"1": 25, "2": 25, "3": 85, "s1": 25, "s2": 85, "p1": 25, "p2": 85}
    groups = table(tmp_path / "g.jsonl", [{key: value, "age": ages[value]} for value in dict.fromkeys(values)])
    task = load("csv", table(tmp_path / "t.jsonl", rows), strata=["age"], groups=[groups])
    assert task.strata == {"age": ["20-40", "20-40", ">=80"]}


def test_groups_may_stand_in_the_table_itself_and_what_is_not_known_is_unknown(tmp_path: Path) -> None:
    rows = [{"id": "1", "findings": "A.", "sex": "F"}, {"id": "2", "findings": "B.", "sex": ""}]
    assert load("csv", table(tmp_path / "t.jsonl", rows), strata=["sex"]).strata == {"sex": ["F", "unknown"]}


def test_a_column_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    file = table(tmp_path / "t.jsonl", [{"id": "1", "findings": "A."}])
    with pytest.raises(LlavaRadError, match="no column 'ethnicity'"):
        load("csv", file, strata=["ethnicity"])
    other = table(tmp_path / "g.jsonl", [{"id": "9", "sex": "F"}])
    with pytest.raises(LlavaRadError, match="no case of the data set"):
        load("csv", file, strata=["sex"], groups=[other])
    bare = table(tmp_path / "h.jsonl", [{"name": "9", "sex": "F"}])
    with pytest.raises(MetricError, match="no column to find the cases by"):
        load("csv", file, strata=["sex"], groups=[bare])


def test_a_split_without_pairs_is_an_error(tmp_path: Path) -> None:
    file = pairs(tmp_path, [{"id": "a", "image": "a.png", "findings": "A.", "split": "train"}])
    with pytest.raises(LlavaRadError, match="no pair of the split 'test'"):
        load("csv", file)


def test_two_tasks_are_the_same_where_ids_and_references_are(tmp_path: Path) -> None:
    rows = [{"id": "1", "findings": "A."}, {"id": "2", "findings": "B."}]
    first = load("csv", table(tmp_path / "t.jsonl", rows)).facts()
    assert load("csv", table(tmp_path / "u.jsonl", rows)).facts() == first
    for other in ([rows[1], rows[0]], [rows[0]], [{"id": "1", "findings": "A"}, {"id": ".2", "findings": "B."}]):
        assert load("csv", table(tmp_path / "v.jsonl", other)).facts() != first


def test_of_several_rows_the_most_frequent_value_counts_as_in_mimic_ivs_admissions(tmp_path: Path) -> None:
    """MIMIC-IV has patients and their admissions in packed tables: subject_id comes once in one, often in the other."""
    import gzip

    rows = [{"id": str(n), "findings": "A.", "subject_id": f"p{n}"} for n in range(4)]
    races = {"p0": ["UNKNOWN?", "WHITE", "WHITE"], "p1": ["BLACK"], "p2": ["", "", "ASIAN"]}
    with gzip.open(tmp_path / "admissions.csv.gz", "wt") as file:
        file.write("subject_id,hadm_id,race\n" + "".join(f"{p},1,{race}\n" for p, of in races.items() for race in of))
    with gzip.open(tmp_path / "patients.csv.gz", "wt") as file:
        file.write("subject_id,gender,anchor_age\np0,F,52\np1,M,19\np2,F,81\n")
    task = load(
        "csv",
        table(tmp_path / "t.jsonl", rows),
        strata=["race", "gender", "anchor_age"],
        groups=[tmp_path / "patients.csv.gz", tmp_path / "admissions.csv.gz"],
    )
    assert task.strata == {
        "race": ["white", "black/african american", "asian", "unknown"],
        "gender": ["F", "M", "F", "unknown"],
        "anchor_age": ["40-60", "<20", ">=80", "unknown"],
    }


def test_a_damaged_packed_table_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "g.csv.gz").write_bytes(b"\x1f\x8b damaged")
    file = table(tmp_path / "t.jsonl", [{"id": "1", "findings": "A."}])
    with pytest.raises(MetricError, match=r"g\.csv\.gz.*cannot be read"):
        load("csv", file, strata=["sex"], groups=[tmp_path / "g.csv.gz"])
