"""Exports carry the notice, are complete, and contain no spreadsheet formulas."""

from __future__ import annotations

import csv
import io
import json

import pytest

from app import exports
from app.review import ReviewError
from app.store import Store
from llava_rad.outputs.report import NOTICE
from tests.app.reviews import MODEL, act, drafted, study_of


def signed(store: Store) -> str:
    study = drafted(store, "One.", "Two.")
    act(store, study, "field", field="indication", text="Cough.")
    act(store, study, "accept", sentence="s1")
    act(store, study, "edit", sentence="s2", text="=HYPERLINK(1)")
    act(store, study, "sign")
    return study


def test_text_names_signer_and_model(store: Store) -> None:
    study = signed(store)
    text = exports.report_text(store.state("ann", study))
    assert text.startswith(NOTICE) and "INDICATION:\nCough." in text and "FINDINGS:\nOne. =HYPERLINK(1)" in text
    assert "Signed by ann at 20" in text and "Draft by: small" in text and "- look" in text
    act(store, study, "reopen")
    state = act(store, study, "reject", sentence="s2")
    now = exports.report_text(state)
    assert exports.NOT_SIGNED in now and "FINDINGS:\nOne.\n" in now and NOTICE in now
    assert "One. =HYPERLINK(1)" in exports.report_text(state, 1)
    with pytest.raises(ReviewError, match="no signed report of that version"):
        exports.report_text(state, 2)
    with pytest.raises(ReviewError, match="no report yet"):
        exports.report_text(store.state("ann", study_of(store)))


def test_a_signed_version_is_exported_as_it_was_signed(store: Store) -> None:
    study = signed(store)
    before = exports.report_text(store.state("ann", study)), exports.report_json(store.state("ann", study))
    assert before[1]["draft"] == {"a": 1}
    act(store, study, "reopen")
    act(store, study, "field", field="indication", text="Trauma.")
    store.jobs.add("ann", study, replace=True)
    job = store.jobs.next()
    assert job is not None
    store.jobs.finish(job, "done", text="B.", sentences=["B."], report={"b": 2}, model=MODEL | {"id": "other"})
    act(store, study, "reject", sentence="s1")
    state = act(store, study, "add", text="Own.", after=None)
    assert exports.report_text(state, 1) == before[0]
    after = exports.report_json(state, 1)
    for key in ("status", "signed", "fields", "text", "sentences", "draft", "ai_generated"):
        assert after[key] == before[1][key], key
    now = exports.report_text(state)
    assert "Trauma." in now and "Draft by: other" in now and exports.report_json(state)["draft"] == {"b": 2}


def test_the_model_of_a_draft_is_named_after_another_draft_was_stopped(store: Store) -> None:
    study = drafted(store, "One.")
    store.jobs.add("ann", study)
    store.jobs.stop("ann", study)
    assert "Draft by: small" in exports.report_text(store.state("ann", study))
    own = study_of(store)
    assert "Without a draft" in exports.report_text(act(store, own, "add", text="Mine.", after=None))


def test_json_has_the_draft_and_every_decision(store: Store) -> None:
    record = exports.report_json(store.state("ann", signed(store)))
    assert (record["schema"], record["ai_generated"], record["notice"]) == ("llava-rad.review/1", True, NOTICE)
    assert [(one["draft"], one["state"]) for one in record["sentences"]] == [("One.", "accepted"), ("Two.", "edited")]
    assert record["signed"]["by"] == "ann" and record["draft"] == {"a": 1}
    own = study_of(store)
    act(store, own, "add", text="By hand.", after=None)
    assert exports.report_json(store.state("ann", own))["ai_generated"] is False


def test_jsonl_has_all_studies_with_their_events(store: Store) -> None:
    study, other = signed(store), study_of(store)
    drafted(store, "Not ann's.", owner="bob")
    records = [json.loads(line) for line in exports.jsonl(store, "ann")]
    assert [record["study"]["id"] for record in records] == [study, other]
    assert [one["action"] for one in records[0]["events"]] == ["open", "drafted", "field", "accept", "edit", "sign"]
    assert records[0]["versions"][0]["text"] == "One. =HYPERLINK(1)" and records[1]["versions"] == []
    assert all(record["notice"] == NOTICE for record in records)


@pytest.mark.parametrize("first", "=+-@\t\r", ids=["equals", "plus", "minus", "at", "tab", "return"])
def test_csv_cells_are_never_formulas(first: str) -> None:  # OWASP's list of first characters
    cells = [f"{first}1+1", f"x{first}1", 1.5, None]
    (read,) = csv.reader(io.StringIO(exports.csv_row(cells), newline=""))
    assert read == [f"'{first}1+1", f"x{first}1", "1.5", ""]


def test_csv_has_one_row_per_sentence_and_no_formulas(store: Store) -> None:
    study = signed(store)
    rows = list(csv.DictReader(io.StringIO("".join(exports.csv(store, "ann")))))
    assert [(row["study"], row["sentence"], row["state"]) for row in rows] == [
        (study, "s1", "accepted"), (study, "s2", "edited"),
    ]  # fmt: skip
    assert rows[1]["text"] == "'=HYPERLINK(1)" and rows[1]["draft"] == "Two."
    assert {row["reviewer"] for row in rows} == {"ann"} and {row["notice"] for row in rows} == {NOTICE}
