"""The worklist: filters, order, neighbours, and studies assigned to others."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from app.database import NotFound
from app.store import Store
from tests.app.reviews import act, drafted, study_of

CLEAR, EFFUSION = "The lungs are clear.", "There is a left pleural effusion."


def ids(store: Store, user: str = "ann", **query: Any) -> list[str]:
    return [one["id"] for one in store.worklist(user, **query)["studies"]]


def test_studies_are_sorted_by_each_column_in_both_directions(store: Store) -> None:
    first, second, third = (drafted(store, CLEAR, EFFUSION), drafted(store, CLEAR), study_of(store))
    act(store, second, "accept", sentence="s1")
    assert ids(store) == [second, third, first], "last changed first"
    assert ids(store, descending=False) == [first, third, second]
    assert ids(store, sort="created") == [third, second, first]
    assert ids(store, sort="name") == [first, second, third]
    assert ids(store, sort="name", descending=True) == [third, second, first]
    assert ids(store, sort="undecided", descending=True)[0] == first
    assert ids(store, sort="status") == [third, first, second], "pending ones come first, others as they came"
    assert ids(store, sort="nonsense") == ids(store)
    store.set_context("ann", second, "prior", {"sha256": "e" * 64, "warnings": ["one", "two"]})
    assert ids(store, sort="notices") == [second, third, first], "the newest of those with the same number"
    assert store.neighbours("ann", third, sort="notices") == {
        "previous": second,
        "next": first,
        "next_undecided": first,
    }


def test_rows_stay_where_they_are_when_studies_change(store: Store) -> None:
    studies = [drafted(store, CLEAR) for _ in range(5)]
    before = ids(store, sort="created")
    act(store, studies[2], "accept", sentence="s1")
    act(store, studies[0], "edit", sentence="s1", text=EFFUSION)
    assert ids(store, sort="created") == before


def test_findings_of_the_present_text_are_listed_and_can_be_filtered(store: Store) -> None:
    study, other = drafted(store, EFFUSION), drafted(store, CLEAR)
    (row,) = store.worklist("ann", finding="Pleural Effusion")["studies"]
    assert row["id"] == study and row["findings"] == ["Pleural Effusion"]
    act(store, study, "edit", sentence="s1", text="There is no pleural effusion.")
    assert store.worklist("ann", finding="Pleural Effusion") == {"studies": [], "counts": {"draft": 2}, "total": 0}
    act(store, study, "undo")
    assert ids(store, finding="Pleural Effusion") == [study]
    assert other in ids(store)
    act(store, study, "label", finding="Pleural Effusion", value="negative")
    act(store, study, "label", finding="Fracture", value="positive")
    assert (ids(store, finding="Pleural Effusion"), ids(store, finding="Fracture")) == ([], [study])


def test_findings_of_studies_of_earlier_versions_are_named(tmp_path: Path) -> None:
    study = drafted(Store(tmp_path / "reviews.sqlite"), EFFUSION)
    with sqlite3.connect(tmp_path / "reviews.sqlite") as connection:
        connection.execute("UPDATE studies SET findings = NULL")
    connection.close()
    assert ids(Store(tmp_path / "reviews.sqlite"), finding="Pleural Effusion") == [study]


def test_pages_of_a_worklist_join_without_gap(store: Store) -> None:
    for _ in range(7):
        study_of(store)
    whole = ids(store, sort="name")
    assert [one for at in range(0, 8, 2) for one in ids(store, sort="name", limit=2, offset=at)] == whole
    assert store.worklist("ann", limit=2, offset=6)["total"] == 7


def test_neighbours_are_the_open_studies_around_one_in_the_lists_order(store: Store) -> None:
    a, b, c, d = (drafted(store, CLEAR) for _ in range(4))
    for study in (b, d):
        act(store, study, "accept", sentence="s1")
    act(store, b, "sign")

    def around(study: str, **query: Any) -> tuple[str | None, ...]:
        found = store.neighbours("ann", study, sort="created", descending=False, **query)
        return found["previous"], found["next"], found["next_undecided"]

    assert around(a) == (None, c, c)
    assert around(b) == (a, c, c), "a signed study keeps its place"
    assert around(c) == (a, d, a), "the undecided ones go round"
    assert around(d) == (c, None, a)
    assert around(c, search="no such text") == (None, None, None), "a study that no filter matches has no neighbours"
    assert around(a, status="signed") == (None, None, None)
    with pytest.raises(NotFound):
        store.neighbours("bob", a)


def test_a_study_without_draft_is_next_to_be_decided(store: Store) -> None:
    first, second = drafted(store, CLEAR), study_of(store)
    assert store.neighbours("ann", first, sort="created", descending=False)["next_undecided"] == second


def test_an_assigned_study_is_seen_reviewed_and_signed_by_the_assignee(store: Store) -> None:
    study, own = drafted(store, CLEAR), drafted(store, EFFUSION, owner="bob")
    with pytest.raises(NotFound):
        store.assign("bob", study, "bob")
    store.assign("ann", study, "bob")
    assert ids(store, "bob", sort="created") == [own, study] and ids(store) == [study]
    assert ids(store, "bob", mine=True, sort="created") == [own, study] and ids(store, mine=True) == []
    row = store.worklist("bob", sort="created")["studies"][1]
    assert (row["owner"], row["assigned"]) == ("ann", "bob")
    assert store.worklist("bob")["counts"] == {"draft": 2}
    for action in ({"action": "accept", "sentence": "s1"}, {"action": "sign"}):
        store.act("bob", study, store.state("bob", study)["revision"], action, user="bob")
    assert [(one["by"], one["text"]) for one in store.state("ann", study)["signed"]] == [("bob", CLEAR)]
    assert store.studies("ann") == [study] and store.studies("bob") == [own], "exports stay the owner's"
    store.assign("bob", study, None)
    with pytest.raises(NotFound):
        store.state("bob", study)
    assert [one["action"] for one in store.events("ann", study)].count("assign") == 2


def test_a_draft_of_an_assigned_study_is_the_owners(store: Store) -> None:
    study = study_of(store)
    store.assign("ann", study, "bob")
    assert store.jobs.add("bob", study).owner == "ann"


def test_the_images_of_a_study_are_counted_without_its_prior(store: Store) -> None:
    study = study_of(store)
    for kind in ("lateral", "prior"):
        store.set_context("ann", study, kind, {"sha256": "e" * 64, "image": {"id": kind}})
    (row,) = store.worklist("ann")["studies"]
    assert row["images"] == 2 and row["thumbnail"] == f"/api/studies/{study}/thumbnail?image=i"
    state = store.state("ann", study)
    assert state["prior"] == {
        "sha256": "e" * 64, "image": {"id": "prior"}, "study": None, "report": None, "date": None, "found": False,
    }  # fmt: skip
    assert state["further"] == [] and json.dumps(state)
