"""Rules of a review."""

from __future__ import annotations

import random
from typing import Any

import pytest

from app import review
from app.review import ReviewError


def document(*texts: str) -> review.Document:
    return review.drafted(review.empty(), texts or ("One.", "Two.", "Three."))


def do(found: review.Document, action: str, **more: Any) -> review.Document:
    return review.apply(found, {"action": action, **more}).document


def states(found: review.Document) -> list[tuple[str, str]]:
    return [(one["text"], one["state"]) for one in found["sentences"]]


def test_every_drafted_sentence_starts_undecided() -> None:
    found = document()
    assert states(found) == [("One.", "undecided"), ("Two.", "undecided"), ("Three.", "undecided")]
    assert review.undecided(found) == 3 and not review.decided(found)
    with pytest.raises(ReviewError, match="3 sentences are still to be decided"):
        review.signable(found)


def test_the_signed_text_consists_of_decided_sentences() -> None:
    found = do(document(), "accept", sentence="s1")
    found = do(found, "edit", sentence="s2", text="  Two,\n corrected. ")
    found = do(found, "reject", sentence="s3")
    found = do(found, "add", text="Four.", after="s1")
    assert states(found) == [
        ("One.", "accepted"), ("Four.", "added"), ("Two, corrected.", "edited"), ("Three.", "rejected"),
    ]  # fmt: skip
    assert review.signable(found) == "One. Four. Two, corrected."


def test_an_empty_report_cannot_be_signed() -> None:
    with pytest.raises(ReviewError, match="no sentence to sign"):
        review.signable(do(document("One."), "reject", sentence="s1"))
    with pytest.raises(ReviewError, match="no sentence to sign"):
        review.signable(review.empty())
    with pytest.raises(ReviewError, match="1 sentence is"):
        review.signable(document("One."))


def test_a_decision_on_an_edited_sentence_restores_its_draft() -> None:
    edited = do(document(), "edit", sentence="s1", text="Mine.")
    assert states(do(edited, "accept", sentence="s1"))[0] == ("One.", "accepted")
    assert states(do(edited, "undecide", sentence="s1"))[0] == ("One.", "undecided")
    assert states(do(edited, "edit", sentence="s1", text="One."))[0] == ("One.", "accepted")


def test_added_sentences_can_only_be_edited_or_removed() -> None:
    found = do(document("One."), "add", text="Mine.", after=None)
    assert states(do(found, "edit", sentence="s2", text="Still mine."))[1] == ("Still mine.", "added")
    assert states(do(found, "remove", sentence="s2")) == [("One.", "undecided")]
    for action in ("accept", "reject", "undecide"):
        with pytest.raises(ReviewError, match="only be edited or removed"):
            do(found, action, sentence="s2")
    with pytest.raises(ReviewError, match="rejected, but not removed"):
        do(found, "remove", sentence="s1")


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ({"action": "dance"}, "no such action"),
        ({}, "no such action"),
        ({"action": "accept"}, "no such sentence"),
        ({"action": "accept", "sentence": "s9"}, "no such sentence"),
        ({"action": "edit", "sentence": "s1"}, "no text"),
        ({"action": "edit", "sentence": "s1", "text": " \n\t"}, "cannot be empty"),
        ({"action": "add", "text": "\x00\x1b", "after": None}, "cannot be empty"),
        ({"action": "add", "text": "x" * 4001, "after": None}, "at most 4,000"),
        ({"action": "add", "text": "x", "after": "s9"}, "no such sentence"),
        ({"action": "field", "field": "name", "text": "x"}, "no such field"),
        ({"action": "field", "field": "indication", "text": 3}, "no text"),
    ],
)
def test_invalid_steps_are_refused(action: dict[str, Any], said: str) -> None:
    found = document()
    before = states(found)
    with pytest.raises(ReviewError, match=said):
        review.apply(found, action)
    assert states(found) == before


def test_a_report_is_limited_in_length() -> None:
    found = document(*(f"{number}." for number in range(300)))
    assert len(found["sentences"]) == review.MAX_SENTENCES
    with pytest.raises(ReviewError, match="at most 200"):
        do(found, "add", text="One more.", after=None)


def test_fields_may_be_emptied_and_hold_several_lines() -> None:
    found = do(document(), "field", field="prior_report", text="FINDINGS:\nClear.\x07")
    assert found["fields"]["prior_report"] == "FINDINGS:\nClear."
    assert do(found, "field", field="prior_report", text="")["fields"]["prior_report"] == ""


def test_tabs_and_carriage_returns_separate_words() -> None:
    found = do(document("One."), "edit", sentence="s1", text="No\teffusion.\rNo\r\n\x0bedema.")
    assert found["sentences"][0]["text"] == "No effusion. No edema."
    found = do(found, "field", field="indication", text="a\tb\rc\r\nd")
    assert found["fields"]["indication"] == "a b\nc\nd"


def test_undoing_all_steps_restores_the_first_document() -> None:
    draw = random.Random(0)
    for _ in range(50):
        start = document(*(f"Sentence {number}." for number in range(draw.randint(1, 5))))
        now, steps = start, []
        for number in range(12):
            ids = [one["id"] for one in now["sentences"]]
            action = {
                "action": draw.choice(review.UNDOABLE), "sentence": draw.choice(ids), "text": f"text {number}",
                "after": draw.choice([None, *ids]), "field": draw.choice(review.FIELDS),
            }  # fmt: skip
            try:
                step = review.apply(now, action)
            except ReviewError:
                continue
            steps.append(step)
            now = step.document
        assert steps
        for step in reversed(steps):
            now = review.undo(now, {"before": step.before, "after": step.after}).document
        assert now == start
