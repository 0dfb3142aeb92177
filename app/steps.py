"""Steps of a review in the database: changes of a report, undo and redo, signing. Inside the caller's transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from app import database, jobs, measurements, notices, review, study_images
from app.review import ReviewError

MAX_SECONDS: Final = 600.0
"""Longest working time that one step of a review can claim."""
MAX_STEP_ID: Final = 64
WORK: Final = "work"
"""Event of a step that changed nothing, but took time."""


class History(NamedTuple):
    """Ids of the events that can be undone, and of the undone ones that can be redone; the next one is the last."""

    undo: list[int]
    redo: list[int]


def history(connection: sqlite3.Connection, row: sqlite3.Row) -> History:
    """Return what can be undone and redone in the current version of a study.

    A draft that replaced sentences is a step; the first draft is none, and nothing before it is undone.
    """
    found = History([], [])
    query = "SELECT id, action, before LIKE '{%' AS replaces FROM events WHERE study = ? AND version = ? ORDER BY id"
    for event in connection.execute(query, (row["id"], row["version"])):
        action = event["action"]
        if action == "undo":
            found.redo.append(found.undo.pop())
        elif action == "redo":
            found.undo.append(found.redo.pop())
        elif action in (*review.UNDOABLE, *measurements.STEPS, "drafted"):
            if action == "drafted" and not event["replaces"]:
                found.undo.clear()
            else:
                found.undo.append(event["id"])
            found.redo.clear()
    return found


def repeated(connection: sqlite3.Connection, study: str, action: Mapping[str, Any]) -> bool:
    """Return True if the step has been applied before: its answer was lost, and the page sent it again.

    Raises:
        ReviewError: if ``step`` is no id, or the id of another step.
    """
    step = action.get("step")
    if step is None:
        return False
    if not isinstance(step, str) or not 0 < len(step) <= MAX_STEP_ID:
        raise ReviewError(f"the id of a step is a text of at most {MAX_STEP_ID} characters")
    known = connection.execute("SELECT action FROM events WHERE study = ? AND step = ?", (study, step)).fetchone()
    if known is not None and known["action"] not in (action.get("action"), WORK):
        raise ReviewError("another step has the same id")
    return known is not None


def perform(connection: sqlite3.Connection, row: sqlite3.Row, action: Mapping[str, Any], user: str) -> None:
    """Perform a step: change the report, undo, redo, sign, discard, restore or reopen.

    Raises:
        ReviewError: if the step is not allowed.
    """
    change_status = _STATUS_STEPS.get(str(action.get("action")))
    if change_status is None:
        edit(connection, row, action, user)
    else:
        change_status(connection, row, user, action)
        database.next_revision(connection, row["id"])


def edit(connection: sqlite3.Connection, row: sqlite3.Row, action: Mapping[str, Any], user: str) -> None:
    """Change sentences, fields or labels, or undo or redo the last change. A step that changes nothing is none."""
    database.require_open(row)
    name, document, undoes = str(action.get("action")), json.loads(row["document"]), None
    if name in ("undo", "redo"):
        steps = getattr(history(connection, row), name)
        if not steps:
            raise ReviewError(f"there is nothing to {name}")
        undoes = steps[-1]
        last = connection.execute("SELECT before, after FROM events WHERE id = ?", (undoes,)).fetchone()
        kept = [json.loads(last[key]) for key in ("before", "after")]
        before, after = kept if name == "undo" else kept[::-1]
        reverse = measurements.undo if "measurement" in before else review.undo
        step = reverse(document, {"before": before, "after": after})
    elif name in measurements.STEPS:
        step = measurements.apply(document, action, study_images.images_of(row))
    else:
        step = review.apply(document, action)
    seconds = working_time(action)
    if not step.changes:
        if seconds:  # the time was spent all the same
            database.add_event(
                connection, row["id"], row["version"], user, WORK, seconds=seconds, step=action.get("step")
            )
        return
    if step.of_sentences:
        jobs.require_no_draft(connection, row["id"])  # the draft would replace the change
    status = "draft" if step.document["sentences"] else "pending"
    database.set_document(connection, row, step.document, status=status)
    database.add_event(
        connection, row["id"], row["version"], user, name, sentence=step.sentence, before=step.before,
        after=step.after, undoes=undoes, seconds=seconds, step=action.get("step"),
    )  # fmt: skip
    database.next_revision(connection, row["id"])


def working_time(action: Mapping[str, Any]) -> float:
    """Return the working time that a step claims, between 0 and ``MAX_SECONDS``."""
    claimed = action.get("seconds", 0)
    known = isinstance(claimed, int | float) and not isinstance(claimed, bool) and claimed == claimed
    return float(min(max(claimed, 0.0), MAX_SECONDS)) if known else 0.0


def _sign(connection: sqlite3.Connection, row: sqlite3.Row, user: str, action: Mapping[str, Any]) -> None:
    database.require_open(row)
    study, version, seconds = row["id"], row["version"], working_time(action)
    jobs.require_no_draft(connection, study)
    document = json.loads(row["document"])
    text = review.signable(document)
    draft = jobs.last_draft(connection, study, document)
    kept = review.whole(document) | {
        "draft": draft and {key: draft[key] for key in ("model", "report", "inputs")},
        "notices": notices.of_row(row, draft),
        "images": study_images.kept(row),
    }
    (before,) = connection.execute(
        "SELECT coalesce(sum(seconds), 0) FROM events WHERE study = ? AND version = ?", (study, version)
    ).fetchone()
    model = database.model_name(draft and draft["model"])
    connection.execute(
        "INSERT INTO signed VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (study, version, database.timestamp(), user, text, database.dump(kept), model, before + seconds),
    )
    _set_status(connection, row, "signed", user, action)


def _discard(connection: sqlite3.Connection, row: sqlite3.Row, user: str, action: Mapping[str, Any]) -> None:
    database.require_open(row)
    jobs.cancel_waiting(connection, row["id"])
    _set_status(connection, row, "discarded", user, action)


def _restore(connection: sqlite3.Connection, row: sqlite3.Row, user: str, action: Mapping[str, Any]) -> None:
    if row["status"] != "discarded":
        raise ReviewError("the study is not discarded")
    has = bool(json.loads(row["document"])["sentences"])
    _set_status(connection, row, "draft" if has else "pending", user, action)


def _reopen(connection: sqlite3.Connection, row: sqlite3.Row, user: str, action: Mapping[str, Any]) -> None:
    if row["status"] != "signed":
        raise ReviewError("only a signed report can be reopened")
    connection.execute("UPDATE studies SET version = version + 1 WHERE id = ?", (row["id"],))
    _set_status(connection, row, "draft", user, action, version=row["version"] + 1)


_STATUS_STEPS: Final[dict[str, Callable[[sqlite3.Connection, sqlite3.Row, str, Mapping[str, Any]], None]]] = {
    "sign": _sign,
    "discard": _discard,
    "restore": _restore,
    "reopen": _reopen,
}


def _set_status(
    connection: sqlite3.Connection, row: sqlite3.Row, status: str, user: str, action: Mapping[str, Any],
    version: int | None = None,
) -> None:  # fmt: skip
    connection.execute("UPDATE studies SET status = ? WHERE id = ?", (status, row["id"]))
    database.add_event(
        connection, row["id"], version or row["version"], user, str(action["action"]),
        seconds=working_time(action), step=action.get("step"),
    )  # fmt: skip
