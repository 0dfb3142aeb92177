"""Rules of a review."""

from __future__ import annotations

import random
from typing import Any

import pytest

from app import review
from app.review import ReviewError
from metrics.findings.errors import Category


def document(*texts: str) -> review.Document:
    return review.drafted(review.empty(), texts or ("One.", "Two.", "Three.")).document


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


def test_only_edit_and_revert_change_a_text() -> None:
    edited = do(document(), "edit", sentence="s1", text="Mine.")
    assert states(do(edited, "accept", sentence="s1"))[0] == ("Mine.", "edited")
    rejected = do(edited, "reject", sentence="s1")
    assert states(rejected)[0] == ("Mine.", "rejected")
    assert states(do(rejected, "accept", sentence="s1"))[0] == ("Mine.", "edited")
    undecided = do(edited, "undecide", sentence="s1")
    assert states(undecided)[0] == ("Mine.", "undecided")
    assert states(do(undecided, "accept", sentence="s1"))[0] == ("Mine.", "edited")
    for found in (edited, rejected, undecided):
        assert states(do(found, "revert", sentence="s1"))[0] == ("One.", "accepted")
    assert states(do(edited, "edit", sentence="s1", text="One."))[0] == ("One.", "accepted")


def test_a_step_that_changes_nothing_is_none() -> None:
    found = do(document(), "accept", sentence="s1")
    found = do(found, "edit", sentence="s2", text="Mine.")
    found = do(found, "label", finding="Edema", value="negative")
    for action in (
        {"action": "accept", "sentence": "s1"}, {"action": "accept", "sentence": "s2"},
        {"action": "revert", "sentence": "s1"}, {"action": "edit", "sentence": "s2", "text": " Mine. "},
        {"action": "undecide", "sentence": "s3"}, {"action": "annotate", "sentence": "s1", "category": None},
        {"action": "label", "finding": "Edema", "value": "negative"}, {"action": "label", "finding": "Fracture"},
        {"action": "field", "field": "indication", "text": " "},
    ):  # fmt: skip
        assert not review.apply(found, action).changes, action
    assert review.apply(found, {"action": "undecide", "sentence": "s2"}).changes


def test_accepting_the_rest_keeps_texts_and_decisions_and_is_one_step() -> None:
    found = do(document(), "reject", sentence="s1")
    found = do(found, "edit", sentence="s2", text="Half", done=False)
    step = review.apply(found, {"action": "accept_rest"})
    assert states(step.document) == [("One.", "rejected"), ("Half", "edited"), ("Three.", "accepted")]
    assert step.changes and step.of_sentences
    assert review.undo(step.document, {"before": step.before, "after": step.after}).document == found
    assert not review.apply(step.document, {"action": "accept_rest"}).changes


def test_an_accepted_sentence_has_no_error_that_a_change_corrects() -> None:
    found = do(document("One.", "Two."), "reject", sentence="s1")
    found = do(found, "annotate", sentence="s1", category=str(Category.FALSE_FINDING))
    later = do(found, "undecide", sentence="s1")
    for accepted in (do(found, "accept", sentence="s1"), do(later, "accept", sentence="s1"), do(later, "accept_rest")):
        assert accepted["sentences"][0]["state"] == "accepted" and not accepted["sentences"][0]["error"]
    edited = do(do(found, "edit", sentence="s1", text="Mine."), "undecide", sentence="s1")
    assert do(edited, "accept", sentence="s1")["sentences"][0]["error"], "its change is kept"


def test_several_sentences_are_added_in_one_step() -> None:
    found = do(document("One.", "Two."), "add", text="Normal.", section="impression")
    step = review.apply(found, {"action": "add", "texts": ["A.", " B. "], "after": "s1"})
    assert [one["text"] for one in step.document["sentences"]] == ["One.", "A.", "B.", "Two.", "Normal."]
    assert step.sentence == "s5" and step.of_sentences and step.document["sentences"][2]["id"] == "s5"
    reverse = review.undo(step.document, {"before": step.before, "after": step.after})
    assert reverse.document == found
    again = review.undo(found, {"before": reverse.before, "after": reverse.after})
    assert again.document == step.document
    ends = do(found, "add", texts=["A.", "B."], section="impression", after="s1")
    assert [one["text"] for one in ends["sentences"]] == ["One.", "Two.", "Normal.", "A.", "B."]
    for texts, message in (
        ([], "no list of texts"), ("A.", "no list of texts"), (["A.", " "], "cannot be empty"), (["A.", 1], "no text"),
        (["A."] * 201, "at most 200 sentences"), (["A."] * 198, "at most 200 sentences"),
    ):  # fmt: skip
        with pytest.raises(ReviewError, match=message):
            review.apply(found, {"action": "add", "texts": texts, "after": "s1"})


def test_a_half_typed_text_is_undecided() -> None:
    found = do(document("One."), "edit", sentence="s1", text="One and", done=False)
    assert states(found) == [("One and", "undecided")] and review.decided(found), "a new draft would replace it"
    found = do(found, "edit", sentence="s1", text="One.", done=False)
    assert states(found) == [("One.", "undecided")]
    assert states(do(found, "edit", sentence="s1", text="One and two.")) == [("One and two.", "edited")]
    own = do(found, "add", text="My", done=False)
    assert states(own)[1] == ("My", "undecided")
    assert states(do(own, "accept", sentence="s2"))[1] == ("My", "added")
    assert states(do(own, "edit", sentence="s2", text="My own."))[1] == ("My own.", "added")
    with pytest.raises(ReviewError, match="2 sentences are"):
        review.signable(own)


def test_added_sentences_can_only_be_edited_or_removed() -> None:
    found = do(document("One."), "add", text="Mine.", after=None)
    assert states(do(found, "edit", sentence="s2", text="Still mine."))[1] == ("Still mine.", "added")
    assert states(do(found, "remove", sentence="s2")) == [("One.", "undecided")]
    for action in ("reject", "undecide"):
        with pytest.raises(ReviewError, match="only be edited or removed"):
            do(found, action, sentence="s2")
    with pytest.raises(ReviewError, match="has no draft"):
        do(found, "revert", sentence="s2")
    with pytest.raises(ReviewError, match="rejected, but not removed"):
        do(found, "remove", sentence="s1")


def test_all_findings_come_before_the_impression() -> None:
    found = do(document("One.", "Two."), "add", text="Normal.", section="impression")
    found = do(found, "add", text="Three.")
    found = do(found, "add", text="Follow up.", after="s3")
    found = do(found, "add", text="First.", after="s1")
    found = do(found, "add", text="Four.", after="s3", section="findings")
    found = do(found, "add", text="Last.", after="s1", section="impression")
    assert [one["text"] for one in found["sentences"]] == [
        "One.", "First.", "Two.", "Three.", "Four.", "Normal.", "Follow up.", "Last.",
    ]  # fmt: skip
    found = do(do(found, "accept", sentence="s1"), "reject", sentence="s2")
    assert review.signable(found) == "One. First. Three. Four.\n\nNormal. Follow up. Last."
    assert review.texts_of(found, "impression") == ["Normal.", "Follow up.", "Last."]
    old = {"sentences": [{"id": "s1", "draft": "A.", "text": "A.", "state": "accepted"}], "fields": {}}
    assert review.text_of(do(old, "add", text="B.", section="impression")) == "A.\n\nB."
    assert review.text_of(do(review.empty(), "add", text="B.", section="impression")) == "B."


def test_a_draft_fills_both_sections_and_keeps_what_the_reviewer_added_to_the_impression() -> None:
    box = {"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.4}
    found = review.drafted(review.empty(), ["One.", "Two."], [[], [box]], 3, ["Normal."]).document
    assert [(one["id"], one["text"], one["section"], one["state"]) for one in found["sentences"]] == [
        ("s1", "One.", "findings", "undecided"), ("s2", "Two.", "findings", "undecided"),
        ("s3", "Normal.", "impression", "undecided"),
    ]  # fmt: skip
    assert [one.get("boxes") for one in found["sentences"]] == [None, [box], None]
    assert review.drafted_text(found) == review.text_of(found) == "One. Two.\n\nNormal."
    found = do(do(found, "add", text="Mine.", section="impression"), "edit", sentence="s3", text="Edited.")
    again = review.drafted(found, ["New."], job=4, impression=["Edema.", "Follow up."]).document
    assert [(one["text"], one["section"], one["draft"]) for one in again["sentences"]] == [
        ("New.", "findings", "New."), ("Edema.", "impression", "Edema."), ("Follow up.", "impression", "Follow up."),
        ("Mine.", "impression", None),
    ]  # fmt: skip
    many = review.drafted(found, ["x"] * 150, impression=["y"] * 150).document["sentences"]
    assert len(many) == review.MAX_SENTENCES and many[-1]["text"] == "Mine."


def test_a_new_draft_keeps_the_impression_and_can_be_undone() -> None:
    found = do(document("One.", "Two.", "Three."), "add", text="Normal.", section="impression")
    found = do(found, "edit", sentence="s2", text="Mine.")
    step = review.drafted(found, ["New."], job=7)
    assert [(one["id"], one["text"], one["section"]) for one in step.document["sentences"]] == [
        ("s1", "New.", "findings"), ("s2", "Normal.", "impression"),
    ]  # fmt: skip
    assert step.document["job"] == 7 and step.of_sentences
    back = review.undo(step.document, {"before": step.before, "after": step.after})
    assert review.whole(back.document) == review.whole(found)
    assert review.undo(back.document, {"before": back.before, "after": back.after}).document == step.document


def test_errors_are_named_with_the_change() -> None:
    found = do(document("One."), "edit", sentence="s1", text="Mine.")
    found = do(found, "annotate", sentence="s1", category="place", significance="urgent")
    assert found["sentences"][0]["error"] == {"category": "place", "significance": "urgent"}
    assert do(found, "annotate", sentence="s1", category="other")["sentences"][0]["error"]["significance"] is None
    assert do(found, "annotate", sentence="s1", category=None)["sentences"][0]["error"] is None
    assert do(found, "edit", sentence="s1", text="Mine, too.")["sentences"][0]["error"]
    for gone in (do(found, "revert", sentence="s1"), do(found, "edit", sentence="s1", text="One.")):
        assert gone["sentences"][0]["error"] is None, "there is no change left that it could explain"


def test_labels_are_corrected() -> None:
    found = do(document("One."), "label", finding="Edema", value="positive")
    found = do(found, "label", finding="Fracture", value="not mentioned")
    assert found["corrections"] == {"Edema": "positive", "Fracture": "not mentioned"}
    assert do(found, "label", finding="Edema", value=None)["corrections"] == {"Fracture": "not mentioned"}


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
        ({"action": "field", "field": ["indication"], "text": ""}, "no such field"),
        ({"action": "add", "text": "x", "section": "technique"}, "no such section"),
        ({"action": "add", "text": "x", "section": None}, "no such section"),
        ({"action": "annotate", "sentence": "s1", "category": "typo"}, "no such category"),
        ({"action": "annotate", "sentence": "s1", "category": {}}, "no such category"),
        ({"action": "annotate", "sentence": "s1", "category": "other", "significance": "high"}, "no such significance"),
        ({"action": "annotate", "sentence": "s1", "significance": "urgent"}, "needs a category"),
        ({"action": "annotate", "sentence": "s9", "category": "other"}, "no such sentence"),
        ({"action": "label", "finding": "Cough", "value": "positive"}, "no such finding"),
        ({"action": "label", "finding": "Edema", "value": True}, "no such label"),
        ({"action": "revert", "sentence": ["s1"]}, "no such sentence"),
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


def test_undoing_all_steps_restores_the_first_document_and_redoing_the_last() -> None:
    draw = random.Random(0)
    for _ in range(50):
        start = document(*(f"Sentence {number}." for number in range(draw.randint(1, 5))))
        now, steps = start, []
        for number in range(12):
            ids = [one["id"] for one in now["sentences"]]
            action = {
                "action": draw.choice(review.UNDOABLE), "sentence": draw.choice(ids), "text": f"text {number}",
                "after": draw.choice([None, *ids]), "field": draw.choice(review.FIELDS),
                "section": draw.choice(review.SECTIONS), "done": draw.choice([True, False]),
                "category": draw.choice([None, *Category]), "finding": draw.choice(["Edema", "Fracture"]),
                "value": draw.choice([None, *review.LABELS]),
            }  # fmt: skip
            try:
                step = review.apply(now, action)
            except ReviewError:
                continue
            steps.append(step)
            now = step.document
            sections = [one["section"] for one in now["sentences"]]
            assert sections == sorted(sections), "findings before impression"
        assert steps
        last = now
        for step in reversed(steps):
            now = review.undo(now, {"before": step.before, "after": step.after}).document
        assert now == start
        for step in steps:  # redo is the reversal of the reversal
            now = review.undo(now, {"before": step.after, "after": step.before}).document
        assert now == last
