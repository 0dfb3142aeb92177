"""Rows of the store and what they stand for; all within a transaction of the caller's."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app import review
from app.review import ReviewError
from encoder.errors import LlavaRadError

OPEN = ("pending", "draft")
"""A study of these statuses can be worked on."""
MAX_SECONDS = 600.0
"""That one step of a review may claim."""


class NotFound(LlavaRadError):
    """There is no such thing, or it is another user's: an answer does not tell which."""


@dataclass(frozen=True)
class Job:
    """A draft to be written.

    Attributes:
        id: of the job.
        study: whose draft.
        owner: whose study.
        batch: part of a batch, for which nobody waits in front of a screen.
        grounded: boxes are asked for.
    """

    id: int
    study: str
    owner: str
    batch: str | None
    grounded: bool = False


def waiting_jobs(base: sqlite3.Connection) -> list[Job]:
    """Waiting jobs in the order in which they will be taken."""
    lines = base.execute(
        "SELECT jobs.*, coalesce(last, 0) AS last FROM jobs LEFT JOIN turns USING (owner) WHERE state = 'queued' "
        "ORDER BY last, owner, batch IS NOT NULL, jobs.id"
    ).fetchall()
    waiting: dict[str, list[Job]] = {}
    for row in lines:
        waiting.setdefault(row["owner"], []).append(job_of(row))
    order: list[Job] = []
    while waiting:
        for owner in list(waiting):
            order.append(waiting[owner].pop(0))
            if not waiting[owner]:
                del waiting[owner]
    return order


def draft_of(base: sqlite3.Connection, study: str) -> dict[str, Any] | None:
    """The study's last job, with model, report and inputs of the last one that brought sentences."""
    row = base.execute("SELECT * FROM jobs WHERE study = ? ORDER BY id DESC LIMIT 1", (study,)).fetchone()
    if row is None:
        return None
    position = 0
    if row["state"] == "queued":
        position = 1 + next(at for at, job in enumerate(waiting_jobs(base)) if job.id == row["id"])
    wrote = base.execute(
        "SELECT model, report, inputs FROM jobs WHERE study = ? AND model IS NOT NULL ORDER BY id DESC LIMIT 1",
        (study,),
    ).fetchone()
    return {
        "state": row["state"], "position": position, "text": row["text"], "error": row["error"],
        **{key: json.loads(wrote[key]) if wrote and wrote[key] else None for key in ("model", "report", "inputs")},
    }  # fmt: skip


def row_of(base: sqlite3.Connection, owner: str, study: str) -> sqlite3.Row:
    """An owner's study.

    Raises:
        NotFound: there is none of that id, or it is another's.
    """
    found: sqlite3.Row | None = base.execute(
        "SELECT * FROM studies WHERE id = ? AND owner = ?", (study, owner)
    ).fetchone()
    if found is None:
        raise NotFound("there is no such study")
    return found


def own_batch(base: sqlite3.Connection, owner: str, batch: str) -> None:
    """Refuse a batch that is not there, or another's.

    Raises:
        NotFound: that.
    """
    if base.execute("SELECT 1 FROM batches WHERE id = ? AND owner = ?", (batch, owner)).fetchone() is None:
        raise NotFound("there is no such batch")


def refuse_closed(row: sqlite3.Row) -> None:
    """Refuse a study that is signed or discarded.

    Raises:
        ReviewError: that.
    """
    if row["status"] not in OPEN:
        raise ReviewError(f"the study is {row['status']}")


def refuse_writing(base: sqlite3.Connection, study: str) -> None:
    """Refuse a study whose draft is on its way.

    Raises:
        ReviewError: that.
    """
    if base.execute("SELECT 1 FROM jobs WHERE study = ? AND state IN ('queued', 'running')", (study,)).fetchone():
        raise ReviewError("a draft of this study is being written: wait for it, or stop it")


def keep(base: sqlite3.Connection, row: sqlite3.Row, document: review.Document, *, status: str) -> None:
    """Give a study its new document, and what is searched of it."""
    base.execute(
        "UPDATE studies SET document = ?, words = ?, status = ? WHERE id = ?",
        (dump(document), words_of(row["name"], document), status, row["id"]),
    )


def touch(base: sqlite3.Connection, study: str) -> None:
    """A study has changed: its next revision."""
    base.execute("UPDATE studies SET revision = revision + 1, changed = ? WHERE id = ?", (now(), study))


def add_event(
    base: sqlite3.Connection, study: str, version: int, who: str, action: str, *, sentence: str | None = None,
    before: Any = None, after: Any = None, undoes: int | None = None, model: str | None = None, seconds: float = 0.0,
) -> None:  # fmt: skip
    """Write down what was done."""
    kept = [None if part is None else dump(part) for part in (before, after)]
    base.execute(
        "INSERT INTO events (study, version, at, who, action, sentence, before, after, undoes, model, seconds) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (study, version, now(), who, action, sentence, *kept, undoes, model, seconds),
    )


def line_of(row: sqlite3.Row) -> dict[str, Any]:
    """A study in the worklist."""
    document = json.loads(row["document"])
    return {
        **{key: row[key] for key in ("id", "name", "status", "version", "created", "changed", "draft")},
        "view": json.loads(row["facts"]).get("view", "unknown"),
        "undecided": review.undecided(document),
        "sentences": len(document["sentences"]),
        "warnings": len(json.loads(row["warnings"])),
    }


def job_of(row: sqlite3.Row) -> Job:
    """A row of the table of jobs."""
    return Job(row["id"], row["study"], row["owner"], row["batch"], "grounded" in json.loads(row["inputs"] or "{}"))


def signed_text(base: sqlite3.Connection, owner: str, sha256: str) -> str:
    """What the owner last signed about an image, or nothing."""
    found = base.execute(
        "SELECT text FROM signed JOIN studies ON studies.id = study WHERE owner = ? AND sha256 = ? "
        "ORDER BY signed.at DESC LIMIT 1",
        (owner, sha256),
    ).fetchone()
    return "" if found is None else str(found["text"])


def seconds_of(action: Mapping[str, Any]) -> float:
    """The seconds that a step claims, as far as they can be true."""
    claimed = action.get("seconds", 0)
    known = isinstance(claimed, int | float) and not isinstance(claimed, bool) and claimed == claimed
    return float(min(max(claimed, 0.0), MAX_SECONDS)) if known else 0.0


def model_name(model: Mapping[str, Any] | None) -> str | None:
    """How events and signed reports name a model."""
    return None if model is None else f"{model['id']}@{model['sha256']}"


def words_of(name: str, document: review.Document) -> str:
    """What a study is found by."""
    return "\n".join([name, review.text_of(document), *document["fields"].values()]).lower()


def dump(value: Any) -> str:
    """JSON as the store keeps it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def now() -> str:
    """This moment as the store keeps it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
