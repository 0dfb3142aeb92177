"""What the steps of a review do to the store; all within a transaction of the caller's."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from app import review, rows
from app.review import ReviewError


def review_step(base: sqlite3.Connection, row: sqlite3.Row, action: Mapping[str, Any], who: str) -> None:
    """One step on the sentences or fields, or back."""
    rows.refuse_closed(row)
    document, undoes = json.loads(row["document"]), None
    if action.get("action") == "undo":
        last = last_step(base, row)
        if last is None:
            raise ReviewError("there is nothing to undo")
        undoes = last["id"]
        step = review.undo(document, {key: json.loads(last[key]) for key in ("before", "after")})
    else:
        step = review.apply(document, action)
    if step.sentence is not None:
        rows.refuse_writing(base, row["id"])  # the draft that comes in would take its place
    rows.keep(base, row, step.document, status="draft" if step.document["sentences"] else "pending")
    rows.add_event(
        base, row["id"], row["version"], who, str(action["action"]), sentence=step.sentence, before=step.before,
        after=step.after, undoes=undoes, seconds=rows.seconds_of(action),
    )  # fmt: skip


def last_step(base: sqlite3.Connection, row: sqlite3.Row) -> sqlite3.Row | None:
    """The last step of this version that was not undone, after the last draft came in."""
    marks = ", ".join("?" * len(review.UNDOABLE))
    found: sqlite3.Row | None = base.execute(
        f"SELECT * FROM events WHERE study = ? AND version = ? AND action IN ({marks}) "
        "AND id > coalesce((SELECT max(id) FROM events WHERE study = ? AND action = 'drafted'), 0) "
        "AND id NOT IN (SELECT undoes FROM events WHERE study = ? AND undoes IS NOT NULL) ORDER BY id DESC LIMIT 1",
        (row["id"], row["version"], *review.UNDOABLE, row["id"], row["id"]),
    ).fetchone()
    return found


def _sign(base: sqlite3.Connection, row: sqlite3.Row, who: str, seconds: float) -> None:
    rows.refuse_closed(row)
    study, version = row["id"], row["version"]
    rows.refuse_writing(base, study)
    document = json.loads(row["document"])
    text = review.signable(document)
    draft = rows.draft_of(base, study)
    kept = document | {"draft": draft and {key: draft[key] for key in ("model", "report", "inputs")}}
    (before,) = base.execute(
        "SELECT coalesce(sum(seconds), 0) FROM events WHERE study = ? AND version = ?", (study, version)
    ).fetchone()
    base.execute(
        "INSERT INTO signed VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            study,
            version,
            rows.now(),
            who,
            text,
            rows.dump(kept),
            rows.model_name(draft and draft["model"]),
            before + seconds,
        ),
    )
    _become(base, row, "signed", "sign", who, seconds)


def _discard(base: sqlite3.Connection, row: sqlite3.Row, who: str, seconds: float) -> None:
    rows.refuse_closed(row)
    base.execute("UPDATE jobs SET state = 'stopped' WHERE study = ? AND state = 'queued'", (row["id"],))
    _become(base, row, "discarded", "discard", who, seconds)


def _restore(base: sqlite3.Connection, row: sqlite3.Row, who: str, seconds: float) -> None:
    if row["status"] != "discarded":
        raise ReviewError("the study is not discarded")
    has = bool(json.loads(row["document"])["sentences"])
    _become(base, row, "draft" if has else "pending", "restore", who, seconds)


def _reopen(base: sqlite3.Connection, row: sqlite3.Row, who: str, seconds: float) -> None:
    if row["status"] != "signed":
        raise ReviewError("only a signed report is reopened")
    base.execute("UPDATE studies SET version = version + 1 WHERE id = ?", (row["id"],))
    _become(base, row, "draft", "reopen", who, seconds, version=row["version"] + 1)


CLOSING = {"sign": _sign, "discard": _discard, "restore": _restore, "reopen": _reopen}


def _become(
    base: sqlite3.Connection, row: sqlite3.Row, status: str, action: str, who: str, seconds: float,
    version: int | None = None,
) -> None:  # fmt: skip
    base.execute("UPDATE studies SET status = ? WHERE id = ?", (status, row["id"]))
    rows.add_event(base, row["id"], version or row["version"], who, action, seconds=seconds)
