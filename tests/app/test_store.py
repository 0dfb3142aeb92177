"""Store of studies and reviews: durable, private to each owner, and opens files of earlier versions."""

from __future__ import annotations

import json
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from app.database import NotFound
from app.drafting import outdated
from app.review import ReviewError, StaleError
from app.store import Store
from encoder.errors import LlavaRadError
from llava_rad.model.templates import TEMPLATES
from tests.app.reviews import FACTS, MODEL, act, drafted, study_of

pytestmark = pytest.mark.acceptance(row=10)

BEFORE_LATERALS_AND_BOXES = (
    """CREATE TABLE studies (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'draft', 'signed', 'discarded')),
    version INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    created TEXT NOT NULL,
    changed TEXT NOT NULL,
    facts TEXT NOT NULL,
    warnings TEXT NOT NULL,
    image TEXT NOT NULL,
    prior TEXT,
    document TEXT NOT NULL,
    words TEXT NOT NULL -- what is searched, in lower case
)""",
    """CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    study TEXT NOT NULL REFERENCES studies (id),
    owner TEXT NOT NULL,
    batch TEXT,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'stopped', 'failed')),
    text TEXT NOT NULL DEFAULT '',
    model TEXT,
    report TEXT,
    error TEXT
)""",
)


def test_a_new_study_is_pending_and_called_by_its_number(store: Store) -> None:
    first, second = study_of(store), study_of(store)
    state = store.state("ann", second)
    assert first != second and len(first) == 32
    assert (state["name"], state["status"], state["version"], state["revision"]) == ("Radiograph 2", "pending", 1, 1)
    assert state["draft"] is None and state["sentences"] == [] and state["prior"] is None
    assert store.state("bob", study_of(store, "bob"))["name"] == "Radiograph 1"


def test_the_file_is_readable_by_its_owner_only(store: Store, tmp_path: Path) -> None:
    study_of(store)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reviews.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(LlavaRadError, match="cannot be used"):
        Store(tmp_path / "reviews.sqlite")


def test_a_store_of_an_earlier_version_opens(tmp_path: Path) -> None:
    study, fields = "ab" * 16, {"indication": "Cough.", "comparison": "", "prior_report": ""}
    sentence = {"id": "s1", "draft": "One.", "text": "One.", "state": "undecided"}
    connection = sqlite3.connect(tmp_path / "reviews.sqlite")
    for statement in BEFORE_LATERALS_AND_BOXES:
        connection.execute(statement)
    document = json.dumps({"sentences": [sentence], "fields": fields})
    connection.execute(
        "INSERT INTO studies VALUES (?, 'ann', 'Old', ?, 'draft', 1, 2, '', '', ?, '[]', '{}', NULL, ?, 'old')",
        (study, "c" * 64, json.dumps(FACTS), document),
    )
    job = (study, json.dumps(MODEL), json.dumps({"a": 1}))
    connection.execute("INSERT INTO jobs VALUES (1, ?, 'ann', NULL, 'done', 'One.', ?, ?, NULL)", job)
    connection.commit()
    connection.close()
    old = Store(tmp_path / "reviews.sqlite")
    state = old.state("ann", study)
    assert state["fields"] == fields | {"technique": ""}
    assert (state["lateral"], state["draft"]["inputs"], state["draft"]["model"]) == (None, None, MODEL)
    assert not outdated(state, TEMPLATES["maira-2"].places), "nobody knows what it was written from"
    assert act(old, study, "field", field="technique", text="PA.")["fields"]["technique"] == "PA."
    assert act(old, study, "undo")["fields"]["technique"] == ""
    old.set_context("ann", study, "lateral", {"sha256": "e" * 64})
    old.set_context("ann", study, "prior", {"sha256": "f" * 64})
    act(old, study, "accept", sentence="s1")
    signed = act(old, study, "sign")
    assert signed["lateral"] == {"sha256": "e" * 64} and signed["signed"][0]["document"]["draft"]["inputs"] is None
    assert study_of(old) and Store(tmp_path / "reviews.sqlite").state("ann", study) == signed


def test_a_report_is_drafted_edited_signed_and_reopened(store: Store) -> None:
    study = drafted(store, "One.", "Two.")
    assert store.state("ann", study)["status"] == "draft"
    act(store, study, "accept", sentence="s1", seconds=3)
    state = act(store, study, "edit", sentence="s2", text="Two, mine.", seconds=4.5)
    assert state["undecided"] == 0 and state["can_undo"]
    signed = act(store, study, "sign", seconds=10_000)
    assert signed["status"] == "signed" and not signed["can_undo"]
    assert [(one["version"], one["by"], one["text"]) for one in signed["signed"]] == [(1, "ann", "One. Two, mine.")]
    (kept,) = store.signed("ann")
    assert kept["seconds"] == pytest.approx(3 + 4.5 + 600), "one step claims ten minutes at most"
    assert kept["model"] == f"small@{'ab' * 32}"
    for action in ("accept", "undo", "sign", "discard"):
        with pytest.raises(ReviewError, match="the study is signed"):
            act(store, study, action, sentence="s1")
    reopened = act(store, study, "reopen")
    assert (reopened["status"], reopened["version"], reopened["undecided"]) == ("draft", 2, 0)
    assert not reopened["can_undo"], "what led to the signed version is not undone"
    act(store, study, "reject", sentence="s1")
    again = act(store, study, "sign")
    assert [one["text"] for one in again["signed"]] == ["One. Two, mine.", "Two, mine."]


def test_undo_reverses_step_by_step_and_is_logged(store: Store) -> None:
    study = drafted(store, "One.", "Two.")
    act(store, study, "accept", sentence="s1")
    act(store, study, "field", field="indication", text="Cough.")
    act(store, study, "add", text="Three.", after=None)
    assert len(act(store, study, "undo")["sentences"]) == 2
    assert act(store, study, "undo")["fields"]["indication"] == ""
    state = act(store, study, "undo")
    assert state["sentences"][0]["state"] == "undecided" and not state["can_undo"]
    with pytest.raises(ReviewError, match="nothing to undo"):
        act(store, study, "undo")
    actions = [one["action"] for one in store.events("ann", study)]
    assert actions == ["open", "drafted", "accept", "field", "add", "undo", "undo", "undo"]
    act(store, study, "reject", sentence="s2")
    assert act(store, study, "undo")["sentences"][1]["state"] == "undecided"


def test_what_was_undone_can_be_redone_until_the_next_step(store: Store) -> None:
    study = drafted(store, "One.", "Two.")
    act(store, study, "accept", sentence="s1")
    act(store, study, "edit", sentence="s2", text="Mine.")
    done = act(store, study, "label", finding="Edema", value="positive")
    assert done["can_undo"] and not done["can_redo"] and done["corrections"] == {"Edema": "positive"}
    for _ in range(3):
        undone = act(store, study, "undo")
    assert undone["can_redo"] and not undone["can_undo"] and undone["corrections"] == {}
    for _ in range(3):
        redone = act(store, study, "redo")
    same = ("sentences", "fields", "corrections", "can_undo", "can_redo", "undecided")
    assert [redone[key] for key in same] == [done[key] for key in same]
    with pytest.raises(ReviewError, match="nothing to redo"):
        act(store, study, "redo")
    act(store, study, "undo")
    act(store, study, "undo")
    act(store, study, "redo")
    assert act(store, study, "reject", sentence="s1")["can_redo"] is False
    act(store, study, "undo")
    assert [one["state"] for one in act(store, study, "undo")["sentences"]] == ["accepted", "undecided"]


def test_a_step_that_changes_nothing_costs_no_undo_but_counts_its_time(store: Store) -> None:
    study = drafted(store, "One.")
    before = act(store, study, "accept", sentence="s1", seconds=2)
    for _ in range(2):  # sent again
        assert act(store, study, "accept", sentence="s1", seconds=3, step="same") == before
    assert act(store, study, "accept", sentence="s1") == before
    assert act(store, study, "undo")["sentences"][0]["state"] == "undecided"
    assert [one["action"] for one in store.events("ann", study)] == ["open", "drafted", "accept", "work", "undo"]
    act(store, study, "reject", sentence="s1")
    act(store, study, "add", text="Mine.")
    act(store, study, "sign", seconds=1)
    assert store.signed("ann")[0]["seconds"] == 6


def test_a_step_that_is_sent_again_is_applied_once(store: Store) -> None:
    study = drafted(store, "One.", "Two.")
    revision = store.state("ann", study)["revision"]
    step = {"action": "add", "text": "Mine.", "after": "s1", "step": "9f5ae9a4-6a3f-4ef2-a1a9-0c1ea8fbb2f0"}
    done = store.act("ann", study, revision, step, user="ann")
    act(store, study, "accept", sentence="s1")
    again = store.act("ann", study, revision, step, user="ann")
    assert (
        [one["text"] for one in again["sentences"]]
        == ["One.", "Mine.", "Two."]
        == [one["text"] for one in done["sentences"]]
    )
    with pytest.raises(StaleError):
        store.act("ann", study, revision, step | {"step": "another"}, user="ann")
    with pytest.raises(ReviewError, match="another step has the same id"):
        act(store, study, "accept", sentence="s2", step=step["step"])
    wrongs: tuple[object, ...] = ("", "x" * 65, 7, [], True)
    for wrong in wrongs:
        with pytest.raises(ReviewError, match="the id of a step"):
            act(store, study, "accept", sentence="s2", step=wrong)
    act(store, study, "accept", sentence="s2", step="s")
    undone = act(store, study, "undo", step="u")
    assert act(store, study, "undo", step="u") == undone, "once"
    act(store, study, "redo")
    signed = act(store, study, "sign", step="signed")
    assert act(store, study, "sign", step="signed") == signed
    other = drafted(store, "One.")
    assert act(store, other, "accept", sentence="s1", step="s")["undecided"] == 0, "ids are those of a study"


def test_settings_of_a_user(store: Store) -> None:
    assert store.settings.get("ann") == {}
    store.settings.update("ann", {"theme": "dark", "macros": [{"name": ".normal", "text": "Clear."}], "later": [1]})
    assert store.settings.update("ann", {"theme": "light", "macros": None}) == {"theme": "light", "later": [1]}
    assert store.settings.get("ann") == {"theme": "light", "later": [1]} and store.settings.get("bob") == {}
    with pytest.raises(ReviewError, match="at most 64 kB"):
        store.settings.update("ann", {"macros": "ä" * 32768})
    assert store.settings.get("ann") == {"theme": "light", "later": [1]}


def test_the_second_of_two_steps_on_one_revision_is_refused(store: Store) -> None:
    study = drafted(store, "One.", "Two.")
    revision = store.state("ann", study)["revision"]
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def step(sentence: str) -> None:
        barrier.wait()
        try:
            store.act("ann", study, revision, {"action": "accept", "sentence": sentence}, user="ann")
            outcomes.append("done")
        except StaleError:
            outcomes.append("stale")

    threads = [threading.Thread(target=step, args=(sentence,)) for sentence in ("s1", "s2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["done", "stale"]
    assert store.state("ann", study)["undecided"] == 1


def test_events_and_signed_reports_cannot_be_changed(store: Store, tmp_path: Path) -> None:
    study = drafted(store, "One.")
    act(store, study, "accept", sentence="s1")
    act(store, study, "sign")
    connection = sqlite3.connect(tmp_path / "reviews.sqlite")
    for statement in (
        "UPDATE events SET who = 'bob'", "DELETE FROM events", "UPDATE signed SET text = ''", "DELETE FROM signed",
    ):  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            connection.execute(statement)


@pytest.mark.acceptance(row=14)
def test_nobody_has_anything_of_anothers(store: Store) -> None:
    study = drafted(store, "One.")
    batch = store.batches.create("ann", 1)
    for forbidden in (
        lambda: store.state("bob", study),
        lambda: store.act("bob", study, 2, {"action": "sign"}, user="bob"),
        lambda: store.set_context("bob", study, "prior", None),
        lambda: store.jobs.add("bob", study),
        lambda: store.jobs.stop("bob", study),
        lambda: store.jobs.draft("bob", study),
        lambda: store.events("bob", study),
        lambda: store.batches.require("bob", batch, 1),
        lambda: store.batches.accept("bob", batch, 1, Path("file"), None),
        lambda: store.batches.refuse("bob", batch, 1, sha256=None, reason=""),
    ):
        with pytest.raises(NotFound):
            forbidden()
    assert store.worklist("bob") == {"studies": [], "counts": {}, "total": 0}
    assert store.studies("bob") == [] and store.signed("bob") == [] and store.batches.progress("bob") == []


def test_invalid_seconds_are_clamped(store: Store) -> None:
    study = drafted(store, "One.")
    claims = (10**400, float("inf"), float("nan"), -5, "7", True, None)
    for claim in claims:
        act(store, study, "reject", sentence="s1", seconds=claim)
        act(store, study, "accept", sentence="s1")
    assert [one["seconds"] for one in store.events("ann", study)[2::2]] == [600, 600, 0, 0, 0, 0, 0]


def test_the_worklist_is_filtered_searched_and_counted(store: Store) -> None:
    first, second = drafted(store, "Large effusion."), study_of(store, sha256="d" * 64)
    third = study_of(store)
    act(store, third, "discard")
    act(store, second, "field", field="indication", text="Dyspnoea")
    found = store.worklist("ann")
    assert found["counts"] == {"draft": 1, "pending": 1, "discarded": 1}
    assert [one["id"] for one in found["studies"]] == [second, third, first], "the last change first"
    assert {one["id"] for one in store.worklist("ann", status="draft")["studies"]} == {first}
    searched = {
        "EFFUSION": {first}, "dyspnoea": {second}, "radiograph 3": {third}, "dddd": {second}, first[:10]: {first},
        "nothing": set(), "%": set(), "' OR 1=1": set(),
    }  # fmt: skip
    for words, expected in searched.items():
        assert {one["id"] for one in store.worklist("ann", search=words)["studies"]} == expected, words
    assert [one["id"] for one in store.worklist("ann", limit=1, offset=1)["studies"]] == [third]
    (line,) = store.worklist("ann", status="draft")["studies"]
    assert (line["view"], line["sentences"], line["undecided"], line["warnings"], line["draft"]) == (
        "PA",
        1,
        1,
        1,
        "done",
    )


@pytest.mark.parametrize(
    "rounds", [pytest.param(1, marks=pytest.mark.slow), pytest.param(12, marks=pytest.mark.nightly)]
)
def test_nothing_acknowledged_is_lost_when_the_server_is_killed(rounds: int) -> None:
    from scripts.soak.kills import count

    found = count(rounds=rounds, writers=2)
    assert found["acknowledged"] > 3 * rounds
    assert (found["lost"], found["applied twice"], found["faults of the file"]) == (0, 0, 0)
