"""Queue of drafts to be written, in the database of the store.

Every method of :class:`Jobs` is one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app import database, review
from app.database import Database
from app.review import ReviewError

if TYPE_CHECKING:
    from app.imported import ImportedDraft


@dataclass(frozen=True)
class Job:
    """Draft to be written.

    Attributes:
        id: of the job.
        study: id of the study that the draft is for.
        owner: of the study.
        batch: id of the batch that the study was uploaded in, or None.
        grounded: write bounding boxes for the sentences.
    """

    id: int
    study: str
    owner: str
    batch: str | None
    grounded: bool = False


class Jobs:
    """Drafts of all users.

    Args:
        file: database of the store.
    """

    def __init__(self, file: Database) -> None:
        self._database = file

    def add(
        self, owner: str, study: str, *, replace: bool = False, grounded: bool = False, revision: int | None = None
    ) -> Job:
        """Request a draft; a job that is already waiting or running is returned instead.

        Args:
            owner: of the study.
            study: its id.
            replace: allow the draft to replace sentences that a reviewer has decided.
            grounded: request bounding boxes for the sentences.
            revision: of the study that the request was made on; None is not checked.

        Raises:
            NotFound: if the study does not exist.
            StaleError: if the study has changed since the revision.
            ReviewError: if it is signed or discarded, or has decided sentences and ``replace`` is false.
        """
        with self._database.write() as connection:
            row = database.study_row(connection, owner, study)
            database.require_revision(row, revision)
            database.require_open(row)
            if review.decided(json.loads(row["document"])) and not replace:
                raise ReviewError("sentences of this study are decided already: a new draft would replace them")
            waiting = connection.execute(
                "SELECT * FROM jobs WHERE study = ? AND state IN ('queued', 'running')", (study,)
            ).fetchone()
            if waiting is not None:
                return _job(waiting)
            made = connection.execute(
                "INSERT INTO jobs (study, owner, state, inputs) VALUES (?, ?, 'queued', ?) RETURNING *",
                (study, row["owner"], database.dump({"grounded": True}) if grounded else None),
            ).fetchone()
            return _job(made)

    def next(self) -> Job | None:
        """Mark the first waiting job as running and return it; None if no job is waiting.

        Users take turns; a user's single requests come before their batches.
        """
        with self._database.write() as connection:
            order = waiting_jobs(connection)
            if not order:
                return None
            chosen = order[0]
            connection.execute("UPDATE jobs SET state = 'running' WHERE id = ?", (chosen.id,))
            connection.execute(
                "INSERT INTO turns VALUES (?, (SELECT coalesce(max(last), 0) + 1 FROM turns)) "
                "ON CONFLICT (owner) DO UPDATE SET last = excluded.last",
                (chosen.owner,),
            )
            return chosen

    def progress(self, job: Job, text: str) -> None:
        """Save the text that has been written so far."""
        with self._database.write() as connection:
            connection.execute("UPDATE jobs SET text = ? WHERE id = ? AND state = 'running'", (text, job.id))

    def finish(
        self, job: Job, state: str, *, text: str = "", sentences: Sequence[str] = (), impression: Sequence[str] = (),
        boxes: Sequence[Sequence[Mapping[str, float]]] = (), report: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None, inputs: Mapping[str, Any] | None = None, error: str | None = None,
    ) -> bool:  # fmt: skip
        """End a running job and, in the same transaction, put its sentences into the study.

        Args:
            job: returned by :meth:`next`.
            state: ``done``, ``stopped`` or ``failed``.
            text: of the draft.
            sentences: of the draft's findings.
            impression: sentences of its impression; if both are empty, the study keeps its sentences.
            boxes: of each sentence: ``x_min``, ``y_min``, ``x_max``, ``y_max`` as shares of the image's sides.
            report: the report in the format of ``llava-rad generate``.
            model: id and SHA-256 of the model.
            inputs: study inputs that the draft was written from, besides the image.
            error: reason of a failure, on one line.

        Returns:
            True if the study took the draft; False if it has been signed or discarded in the meantime.
        """
        with self._database.write() as connection:
            ended = connection.execute(
                "UPDATE jobs SET state = ?, text = ?, error = ? WHERE id = ? AND state = 'running'",
                (state, text, error, job.id),
            ).rowcount
            row = connection.execute("SELECT * FROM studies WHERE id = ?", (job.study,)).fetchone()
            if not ended or row is None or row["status"] not in database.OPEN:
                return False
            if sentences or impression:
                connection.execute(
                    "UPDATE jobs SET report = ?, model = ?, inputs = ? WHERE id = ?",
                    (*(None if part is None else database.dump(part) for part in (report, model, inputs)), job.id),
                )
                step = review.drafted(json.loads(row["document"]), sentences, boxes, job.id, impression)
                _put(connection, row, step, model)
            database.next_revision(connection, job.study)
            return True

    def stop(self, owner: str, study: str) -> Job | None:
        """Remove a study's waiting job from the queue.

        Returns:
            The study's job if it is already running; the caller has to stop its writer.

        Raises:
            NotFound: if the study does not exist.
        """
        with self._database.write() as connection:
            database.study_row(connection, owner, study)
            cancel_waiting(connection, study)
            running = connection.execute(
                "SELECT * FROM jobs WHERE study = ? AND state = 'running'", (study,)
            ).fetchone()
            return None if running is None else _job(running)

    def draft(self, owner: str, study: str) -> dict[str, Any] | None:
        """Return ``state``, ``position`` in the queue and ``text`` of the study's last job; None if it has none.

        Raises:
            NotFound: if the study does not exist.
        """
        with self._database.snapshot() as connection:
            row = database.study_row(connection, owner, study)
            found = last_draft(connection, study, json.loads(row["document"]))
        return None if found is None else {key: found[key] for key in ("state", "position", "text")}

    def drop_waiting(self) -> None:
        """Remove the waiting and running jobs of all users, for an application without a model."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM jobs WHERE state IN ('queued', 'running')")

    def imported(self, table: str) -> set[int]:
        """Return the rows of a table of drafts that studies use.

        Args:
            table: SHA-256 of the table.
        """
        found = self._database.read().execute(
            "SELECT DISTINCT json_extract(model, '$.row') FROM jobs WHERE json_extract(model, '$.table') = ?", (table,)
        )
        return {row[0] for row in found}

    def requeue_running(self) -> int:
        """Put jobs that a crash interrupted back into the queue; returns their number."""
        with self._database.write() as connection:
            return connection.execute("UPDATE jobs SET state = 'queued', text = '' WHERE state = 'running'").rowcount


# Inside the caller's transaction


def give(connection: sqlite3.Connection, study: str, draft: ImportedDraft, batch: str | None = None) -> bool:
    """Put a draft of others into an open study.

    Returns:
        False if the study has another draft of others, or decided sentences: it stays as it is.
    """
    row = connection.execute("SELECT * FROM studies WHERE id = ?", (study,)).fetchone()
    document = json.loads(row["document"])
    before = connection.execute(
        "SELECT json_extract(model, '$.table') AS of, json_extract(model, '$.row') AS number FROM jobs "
        "WHERE study = ? AND of IS NOT NULL ORDER BY id DESC LIMIT 1", (study,),
    ).fetchone()  # fmt: skip
    if before is not None:
        return (before["of"], before["number"]) == (draft.model["table"], draft.row)
    if row["status"] not in database.OPEN or review.decided(document):
        return False
    report, model = (None if part is None else database.dump(part) for part in (draft.report, dict(draft.model)))
    job = connection.execute(
        "INSERT INTO jobs (study, owner, batch, state, text, report, model) VALUES (?, ?, ?, 'done', ?, ?, ?) "
        "RETURNING id", (study, row["owner"], batch, draft.text, report, model),
    ).fetchone()["id"]  # fmt: skip
    if draft.text:
        _put(connection, row, review.drafted(document, draft.findings, draft.boxes, job, draft.impression), draft.model)
    database.next_revision(connection, study)
    return True


def _put(connection: sqlite3.Connection, row: sqlite3.Row, step: review.Step, model: Mapping[str, Any] | None) -> None:
    """Put the sentences of a draft into its study."""
    database.set_document(connection, row, step.document, status="draft")
    # a draft in place of other sentences can be undone; the first one cannot
    first = not step.before["sentences"]
    before, after = ([], step.after["sentences"]) if first else (step.before, step.after)
    database.add_event(
        connection, row["id"], row["version"], row["owner"], "drafted", before=before, after=after,
        model=database.model_name(model),
    )  # fmt: skip


def waiting_jobs(connection: sqlite3.Connection) -> list[Job]:
    """Return the waiting jobs in the order in which :meth:`Jobs.next` will take them."""
    rows = connection.execute(
        "SELECT jobs.*, coalesce(last, 0) AS last FROM jobs LEFT JOIN turns USING (owner) WHERE state = 'queued' "
        "ORDER BY last, owner, batch IS NOT NULL, jobs.id"
    ).fetchall()
    waiting: dict[str, list[Job]] = {}
    for row in rows:
        waiting.setdefault(row["owner"], []).append(_job(row))
    order: list[Job] = []
    while waiting:
        for owner in list(waiting):
            order.append(waiting[owner].pop(0))
            if not waiting[owner]:
                del waiting[owner]
    return order


def last_draft(connection: sqlite3.Connection, study: str, document: review.Document) -> dict[str, Any] | None:
    """Return a study's last job, with model, report and inputs of the job that wrote the document's drafts."""
    row = connection.execute("SELECT * FROM jobs WHERE study = ? ORDER BY id DESC LIMIT 1", (study,)).fetchone()
    if row is None:
        return None
    position = 0
    if row["state"] == "queued":
        position = 1 + next(at for at, job in enumerate(waiting_jobs(connection)) if job.id == row["id"])
    wrote = connection.execute(  # documents of earlier versions do not name the job: it is the last one
        "SELECT model, report, inputs FROM jobs WHERE study = ? AND model IS NOT NULL AND id = coalesce(?, id) "
        "ORDER BY id DESC LIMIT 1",
        (study, document.get("job")),
    ).fetchone()
    return {
        "state": row["state"], "position": position, "text": row["text"], "error": row["error"],
        **{key: json.loads(wrote[key]) if wrote and wrote[key] else None for key in ("model", "report", "inputs")},
    }  # fmt: skip


def require_no_draft(connection: sqlite3.Connection, study: str) -> None:
    """Check that no draft of a study is waiting or being written.

    Raises:
        ReviewError: if there is one.
    """
    query = "SELECT 1 FROM jobs WHERE study = ? AND state IN ('queued', 'running')"
    if connection.execute(query, (study,)).fetchone():
        raise ReviewError("a draft of this study is being written: wait for it, or stop it")


def cancel_waiting(connection: sqlite3.Connection, study: str) -> None:
    """Remove a study's waiting job from the queue."""
    connection.execute("UPDATE jobs SET state = 'stopped' WHERE study = ? AND state = 'queued'", (study,))


def _job(row: sqlite3.Row) -> Job:
    return Job(row["id"], row["study"], row["owner"], row["batch"], "grounded" in json.loads(row["inputs"] or "{}"))
