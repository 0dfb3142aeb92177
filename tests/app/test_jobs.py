"""Queue of drafts and batches: turns, interruptions, drafts that meet reviews."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.review import ReviewError
from app.store import Store
from tests.app.reviews import MODEL, act, drafted, of_batch, study_of, taken


def test_users_take_turns_and_single_requests_come_before_batches(store: Store) -> None:
    batch = store.batches.create("ann", 3)
    for number in range(1, 4):
        of_batch(store, batch, number)
    mine = study_of(store)
    store.jobs.add("ann", mine)
    others = [study_of(store, "bob") for _ in range(2)]
    for study in others:
        store.jobs.add("bob", study)
    places = [store.state("bob", study)["draft"]["position"] for study in others]
    taken = []
    while (job := store.jobs.next()) is not None:
        taken.append((job.owner, job.batch is not None))
        store.jobs.finish(job, "done", text="x.", sentences=["x."])
    assert taken == [("ann", False), ("bob", False), ("ann", True), ("bob", False), ("ann", True), ("ann", True)]
    assert places == [2, 4]


def test_a_draft_of_a_discarded_study_changes_nothing(store: Store) -> None:
    study = study_of(store)
    store.jobs.add("ann", study)
    job = taken(store)
    act(store, study, "discard")
    assert not store.jobs.finish(job, "done", text="Late.", sentences=["Late."])
    state = store.state("ann", study)
    assert state["status"] == "discarded" and state["sentences"] == []
    assert act(store, study, "restore")["status"] == "pending"


def test_nothing_is_signed_while_a_draft_is_being_written(store: Store) -> None:
    study = study_of(store)
    act(store, study, "add", text="Mine.", after=None)
    store.jobs.add("ann", study, replace=True)
    with pytest.raises(ReviewError, match="being written"):
        act(store, study, "sign")
    assert store.jobs.stop("ann", study) is None
    assert act(store, study, "sign")["status"] == "signed"


def test_no_sentence_changes_while_a_draft_is_being_written(store: Store) -> None:
    study = drafted(store, "One.", "Two.")
    act(store, study, "field", field="indication", text="Cough.")
    store.jobs.add("ann", study)
    for running in (False, True):
        job = store.jobs.next() if running else None
        for action in ({"action": "accept", "sentence": "s1"}, {"action": "add", "text": "Mine.", "after": None}):
            with pytest.raises(ReviewError, match="being written"):
                act(store, study, **action)
    assert act(store, study, "undo")["fields"]["indication"] == "", "fields are no draft's"
    act(store, study, "field", field="comparison", text="None.")
    assert job is not None
    store.jobs.finish(job, "done", text="New.", sentences=["New."], model=MODEL)
    state = act(store, study, "accept", sentence="s1")
    assert (state["sentences"][0]["state"], state["fields"]["comparison"]) == ("accepted", "None.")


def test_a_job_without_sentences_keeps_the_model_of_the_draft(store: Store) -> None:
    study = drafted(store, "One.")
    store.jobs.add("ann", study)
    store.jobs.stop("ann", study)
    draft = store.state("ann", study)["draft"]
    assert (draft["state"], draft["model"], draft["report"]) == ("stopped", MODEL, {"a": 1})
    store.jobs.add("ann", study)
    job = taken(store)
    act(store, study, "discard")
    store.jobs.finish(job, "done", text="Late.", sentences=["Late."], report={"a": 2}, model=MODEL | {"id": "other"})
    state = act(store, study, "restore")
    assert (state["sentences"][0]["text"], state["draft"]["model"]["id"]) == ("One.", "small")


def test_interrupted_jobs_are_queued_again(store: Store, tmp_path: Path) -> None:
    study = study_of(store)
    store.jobs.add("ann", study)
    job = taken(store)
    store.jobs.progress(job, "half a se")
    again = Store(tmp_path / "reviews.sqlite")
    assert again.state("ann", study)["draft"]["text"] == "half a se"
    assert again.jobs.requeue_running() == 1
    assert again.state("ann", study)["draft"] | {"text": ""} == again.state("ann", study)["draft"]
    assert again.jobs.next() == job


def test_an_interrupted_job_waits_for_its_owners_turn(store: Store) -> None:
    others = study_of(store, "bob")
    store.jobs.add("ann", study_of(store))
    job = store.jobs.next()
    store.jobs.add("bob", others)
    store.jobs.add("ann", study_of(store))
    store.jobs.requeue_running()
    bobs = store.jobs.next()
    assert job is not None and bobs is not None
    assert (bobs.study, store.jobs.next()) == (others, job)


def test_a_second_request_returns_the_waiting_job(store: Store) -> None:
    study = study_of(store)
    assert store.jobs.add("ann", study) == store.jobs.add("ann", study)
    job = store.jobs.next()
    assert job is not None and store.jobs.next() is None
    assert store.jobs.add("ann", study) == job


def test_a_new_draft_over_decided_sentences_is_undone_in_one_step(store: Store) -> None:
    study = drafted(store, "One.", "Two.")
    act(store, study, "accept", sentence="s1")
    act(store, study, "edit", sentence="s2", text="Mine.")
    before = act(store, study, "add", text="Normal.", section="impression")
    with pytest.raises(ReviewError, match="would replace them"):
        store.jobs.add("ann", study)
    store.jobs.add("ann", study, replace=True)
    with pytest.raises(ReviewError, match="is being written"):
        act(store, study, "undo")
    other = MODEL | {"id": "other"}
    store.jobs.finish(taken(store), "done", text="New.", sentences=["New."], report={"b": 2}, model=other)
    state = store.state("ann", study)
    assert [one["text"] for one in state["sentences"]] == ["New.", "Normal."] and state["can_undo"]
    assert state["draft"]["model"]["id"] == "other"
    act(store, study, "accept", sentence="s1")
    act(store, study, "undo")
    undone = act(store, study, "undo")
    assert undone["sentences"] == before["sentences"]
    assert (undone["draft"]["model"], undone["draft"]["report"]) == (MODEL, {"a": 1}), "the draft that is shown"
    assert undone["can_undo"] and undone["can_redo"]
    assert act(store, study, "undo")["sentences"][-1]["text"] == "Mine.", "what was before the draft can be undone, too"
    act(store, study, "redo")
    redone = act(store, study, "redo")
    assert redone["sentences"] == state["sentences"] and redone["draft"]["report"] == {"b": 2}


def test_the_first_draft_is_not_undone(store: Store) -> None:
    study = study_of(store)
    act(store, study, "field", field="indication", text="Cough.")
    store.jobs.add("ann", study)
    store.jobs.finish(taken(store), "done", text="One.", sentences=["One."], model=MODEL)
    state = store.state("ann", study)
    assert not state["can_undo"] and state["fields"]["indication"] == "Cough."
