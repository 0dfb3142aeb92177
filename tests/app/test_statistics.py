"""Statistics of reviews, counted by hand."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from app.statistics import edit_distance, levenshtein, summary
from app.store import Store
from tests.app.reviews import act, drafted, study_of


def labels_of(text: str) -> dict[str, str]:
    return {"Effusion": "positive" if "effusion" in text else "not mentioned"}


@pytest.mark.parametrize(
    ("before", "after", "distance"),
    [
        ("", "", 0), ("abc", "abc", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2),
        ("intention", "execution", 5), ("Saturday", "Sunday", 3), ("aaa", "aa", 1), ("abab", "ab", 2),
    ],
)  # fmt: skip
def test_levenshtein_of_textbook_pairs(before: str, after: str, distance: int) -> None:
    assert levenshtein(before, after) == levenshtein(after, before) == distance


def test_levenshtein_equals_the_plain_recursion() -> None:
    def table(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(table(a[1:], b) + 1, table(a, b[1:]) + 1, table(a[1:], b[1:]) + (a[0] != b[0]))

    draw = random.Random(0)
    for _ in range(200):
        before, after = ("".join(draw.choices("ab", k=draw.randint(0, 5))) for _ in range(2))
        assert levenshtein(before, after) == table(before, after), (before, after)


def sentence(draft: str | None, text: str, state: str) -> dict[str, str | None]:
    return {"id": "s", "draft": draft, "text": text, "state": state}


def test_edit_distance_counts_characters_by_sentence() -> None:
    def distance(*sentences: dict[str, str | None]) -> float:
        return edit_distance({"document": {"sentences": list(sentences)}})

    assert distance(sentence("abcd", "abcd", "accepted")) == 0
    assert distance(sentence("abcd", "abcd", "rejected")) == 1
    assert distance(sentence("kitten", "sitting", "edited")) == pytest.approx(3 / 7)
    assert distance(sentence("abcd", "abcd", "accepted"), sentence(None, "xy", "added")) == pytest.approx(2 / 6)
    assert distance() == 0


def test_a_summary_of_two_reports(tmp_path: Path) -> None:
    store = Store(tmp_path / "reviews.sqlite")
    empty = summary(store, "ann", labels_of)
    assert (empty["signed"], empty["shares"]["accepted"], empty["seconds"]["median"]) == (0, None, None)

    first = drafted(store, "Large effusion.", "abcd")
    act(store, first, "reject", sentence="s1", seconds=10)
    act(store, first, "accept", sentence="s2", seconds=20)
    act(store, first, "sign")
    second = drafted(store, "Clear.", "abcd")
    act(store, second, "accept", sentence="s1", seconds=5)
    act(store, second, "edit", sentence="s2", text="abXd", seconds=5)
    act(store, second, "sign")
    drafted(store, "Not signed.")

    found = summary(store, "ann", labels_of)
    assert found["studies"] == {"signed": 2, "draft": 1}
    assert (found["signed"], found["sentences"]) == (2, 4)
    assert found["shares"] == {"accepted": 0.5, "edited": 0.25, "rejected": 0.25}
    # 15 of 19 characters went from the first draft, 1 of 10 changed in the second
    assert found["edit_distance"]["mean"] == pytest.approx((15 / 19 + 1 / 10) / 2)
    assert found["seconds"]["median"] == 20
    assert found["labels"] == [{"finding": "Effusion", "from": "positive", "to": "not mentioned", "count": 1}]
    assert sum(found["days"].values()) == 2
    (model,) = found["models"]
    assert model["model"] == f"small@{'ab' * 32}" and model["signed"] == 2


def test_the_middle_half_is_between_the_shortest_and_the_longest_time(tmp_path: Path) -> None:
    store = Store(tmp_path / "reviews.sqlite")
    for seconds in (10, 100):
        study = drafted(store, "Clear.")
        act(store, study, "accept", sentence="s1", seconds=seconds)
        act(store, study, "sign")
    found = summary(store, "ann", labels_of)["seconds"]
    assert [found["low"], found["median"], found["high"]] == pytest.approx(np.quantile([10, 100], [0.25, 0.5, 0.75]))


def test_reports_without_a_draft_change_no_findings(tmp_path: Path) -> None:
    store = Store(tmp_path / "reviews.sqlite")
    study = study_of(store)
    act(store, study, "add", text="Small effusion.")
    act(store, study, "sign")
    assert summary(store, "ann", labels_of)["labels"] == []


def test_a_report_that_is_signed_again_counts_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "reviews.sqlite")
    study = drafted(store, "Clear.")
    act(store, study, "accept", sentence="s1")
    act(store, study, "sign")
    act(store, study, "reopen")
    act(store, study, "edit", sentence="s1", text="Mostly clear.")
    act(store, study, "add", text="Mine.", after=None)
    act(store, study, "sign")
    found = summary(store, "ann", labels_of)
    assert (found["signed"], found["sentences"], found["shares"]["edited"], found["added"]) == (1, 1, 1.0, 1)


def test_the_time_of_all_versions_counts(tmp_path: Path) -> None:
    store = Store(tmp_path / "reviews.sqlite")
    study = drafted(store, "Clear.")
    act(store, study, "accept", sentence="s1", seconds=100)
    act(store, study, "sign", seconds=20)
    act(store, study, "reopen", seconds=3)
    act(store, study, "edit", sentence="s1", text="Mostly clear.", seconds=4)
    assert summary(store, "ann", labels_of)["seconds"]["median"] == 120, "the version that is not signed does not count"
    act(store, study, "sign")
    found = summary(store, "ann", labels_of)
    assert found["seconds"]["median"] == found["models"][0]["seconds"]["median"] == 127


def test_errors_by_category_and_significance_of_each_model(tmp_path: Path) -> None:
    store = Store(tmp_path / "reviews.sqlite")
    assert summary(store, "ann", labels_of)["errors"]["total"] == 0
    study = drafted(store, "Effusion.", "Edema.", "Clear.")
    act(store, study, "reject", sentence="s1")
    act(store, study, "annotate", sentence="s1", category="false_finding", significance="urgent")
    act(store, study, "edit", sentence="s2", text="Left edema.")
    act(store, study, "annotate", sentence="s2", category="place")
    act(store, study, "accept", sentence="s3")
    act(store, study, "add", text="Nodule.")
    act(store, study, "annotate", sentence="s4", category="missed_finding", significance="urgent")
    act(store, study, "label", finding="Fracture", value="positive")
    act(store, study, "sign")
    drafted(store, "Not signed.")
    found = summary(store, "ann", lambda text: labels_of(text) | {"Fracture": "not mentioned"})
    for errors in (found["errors"], found["models"][0]["errors"]):
        assert errors["total"] == 3
        assert {name: count for name, count in errors["categories"].items() if count} == {
            "false_finding": 1, "missed_finding": 1, "place": 1,
        }  # fmt: skip
        assert {name: count for name, count in errors["significance"].items() if count} == {"urgent": 2, "not rated": 1}
        assert {"category": "place", "significance": "not rated", "count": 1} in errors["both"]
    assert {"finding": "Fracture", "from": "not mentioned", "to": "positive", "count": 1} in found["labels"]


def test_a_report_counts_for_its_owner_and_for_who_signed_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "reviews.sqlite")
    study = drafted(store, "Clear.")
    act(store, study, "accept", sentence="s1")
    store.assign("ann", study, "bob")
    store.act("bob", study, store.state("bob", study)["revision"], {"action": "sign", "seconds": 7}, user="bob")
    store.assign("bob", study, None)
    for name, signed in (("ann", 1), ("bob", 1), ("cat", 0)):
        assert summary(store, name, labels_of)["signed"] == signed
