"""Studies and their reviews, in one SQLite file: every call is one transaction, and what it acknowledged is on disk."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from app import review, rows, steps
from app.database import Database
from app.review import ReviewError, StaleError
from app.rows import Job

Beside = Literal["lateral", "prior"]


class Store:
    """The reviews of all users.

    Args:
        path: of the SQLite file.

    Raises:
        LlavaRadError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        schema = files("app").joinpath("schema.sql").read_text(encoding="utf-8")
        self._base = Database(path, schema, newer=(("studies", "lateral"), ("jobs", "inputs")))

    # studies

    def create(
        self, owner: str, *, name: str | None, sha256: str, facts: Mapping[str, Any], warnings: Sequence[str],
        image: Mapping[str, Any],
    ) -> str:  # fmt: skip
        """A new study; without a name it is called by its number among its owner's.

        Returns:
            Its id, which says nothing about it.
        """
        study, now = secrets.token_hex(16), rows.now()
        with self._base.write() as base:
            (count,) = base.execute("SELECT count(*) FROM studies WHERE owner = ?", (owner,)).fetchone()
            called = name or f"Radiograph {count + 1}"
            document = review.empty()
            base.execute(
                "INSERT INTO studies VALUES (?, ?, ?, ?, 'pending', 1, 1, ?, ?, ?, ?, ?, NULL, ?, ?, NULL)",
                (study, owner, called, sha256, now, now, rows.dump(facts), rows.dump(list(warnings)), rows.dump(image),
                 rows.dump(document), rows.words_of(called, document)),
            )  # fmt: skip
            rows.add_event(base, study, 1, owner, "open")
        return study

    def set_beside(self, owner: str, study: str, which: Beside, image: Mapping[str, Any] | None) -> None:
        """Put a lateral or an earlier image beside the study's own, or take it away.

        What the owner has signed about the earlier image becomes the prior report, where that is still empty.

        Raises:
            NotFound: there is no such study.
            ReviewError: it is signed or discarded.
        """
        with self._base.write() as base:
            row = rows.row_of(base, owner, study)
            rows.refuse_closed(row)
            kept = None if image is None else rows.dump(image)
            base.execute(f"UPDATE studies SET {which} = ? WHERE id = ?", (kept, study))
            rows.add_event(base, study, row["version"], owner, which if image else f"no {which}")
            if which == "prior" and image and not json.loads(row["document"])["fields"]["prior_report"]:
                text = rows.signed_text(base, owner, image["sha256"])
                if 0 < len(text) <= review.MAX_TEXT:
                    step = {"action": "field", "field": "prior_report", "text": text}
                    steps.review_step(base, row, step, owner)
            rows.touch(base, study)

    def state(self, owner: str, study: str) -> dict[str, Any]:
        """All that the page shows of a study.

        Raises:
            NotFound: there is no such study.
        """
        with self._base.moment() as base:
            return self._state(base, rows.row_of(base, owner, study))

    def act(self, owner: str, study: str, revision: int, action: Mapping[str, Any], *, who: str) -> dict[str, Any]:
        """Do one step of a review.

        Args:
            owner: whose study.
            study: its id.
            revision: that the step was made on.
            action: ``action`` with what it takes, and ``seconds`` of work since the last step.
            who: does it.

        Returns:
            The study's new state.

        Raises:
            NotFound: there is no such study.
            StaleError: the study has changed since that revision.
            ReviewError: the step is not allowed.
        """
        with self._base.write() as base:
            row = rows.row_of(base, owner, study)
            if row["revision"] != revision:
                raise StaleError("the study was changed elsewhere in the meantime")
            name = str(action.get("action"))
            step = steps.CLOSING.get(name)
            if step is not None:
                step(base, row, who, rows.seconds_of(action))
            else:
                steps.review_step(base, row, action, who)
            rows.touch(base, study)
            return self._state(base, rows.row_of(base, owner, study))

    def worklist(
        self, owner: str, *, status: str | None = None, search: str = "", limit: int = 200, offset: int = 0
    ) -> dict[str, Any]:
        """The owner's studies, those that changed last first.

        Args:
            owner: whose.
            status: of this status only.
            search: words of name, text or fields, or the beginning of id or SHA-256.
            limit: at most so many.
            offset: after so many.
        """
        base = self._base.read()
        wanted = search.strip().lower()
        where, values = "owner = ?", [owner]
        if status:
            where, values = where + " AND status = ?", [*values, status]
        if wanted:
            where += " AND (instr(words, ?) > 0 OR substr(sha256, 1, length(?)) = ? OR substr(id, 1, length(?)) = ?)"
            values = [*values, *[wanted] * 5]
        found = base.execute(
            "SELECT *, (SELECT state FROM jobs WHERE study = studies.id ORDER BY id DESC LIMIT 1) AS draft "
            f"FROM studies WHERE {where} ORDER BY changed DESC, rowid DESC LIMIT ? OFFSET ?",
            (*values, limit, offset),
        )
        counts = base.execute("SELECT status, count(*) FROM studies WHERE owner = ? GROUP BY status", (owner,))
        return {"studies": [rows.line_of(row) for row in found], "counts": dict(map(tuple, counts.fetchall()))}

    def studies(self, owner: str) -> list[str]:
        """Ids of the owner's studies, the oldest first."""
        lines = self._base.read().execute("SELECT id FROM studies WHERE owner = ? ORDER BY created, rowid", (owner,))
        return [row["id"] for row in lines]

    def events(self, owner: str, study: str) -> list[dict[str, Any]]:
        """Everything that was done to a study, in order.

        Raises:
            NotFound: there is no such study.
        """
        base = self._base.read()
        rows.row_of(base, owner, study)
        return [dict(row) for row in base.execute("SELECT * FROM events WHERE study = ? ORDER BY id", (study,))]

    def signed(self, owner: str) -> list[dict[str, Any]]:
        """The owner's signed reports, every version, with the documents that they were made of."""
        lines = self._base.read().execute(
            "SELECT signed.* FROM signed JOIN studies ON studies.id = study WHERE owner = ? ORDER BY signed.at",
            (owner,),
        )
        return [dict(row) | {"document": json.loads(row["document"])} for row in lines]

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file; empty where nothing is."""
        return self._base.check()

    # drafts

    def queue(
        self, owner: str, study: str, *, replace: bool = False, batch: str | None = None, grounded: bool = False
    ) -> Job:
        """Ask for a draft; a job that waits or runs already is returned.

        Args:
            owner: whose study.
            study: its id.
            replace: give up the sentences that have been decided.
            batch: the batch that it belongs to.
            grounded: ask for boxes.

        Raises:
            NotFound: there is no such study.
            ReviewError: it is signed or discarded, or has decided sentences.
        """
        with self._base.write() as base:
            row = rows.row_of(base, owner, study)
            rows.refuse_closed(row)
            if review.decided(json.loads(row["document"])) and not replace:
                raise ReviewError("sentences of this study are decided already: a new draft would replace them")
            waiting = base.execute(
                "SELECT * FROM jobs WHERE study = ? AND state IN ('queued', 'running')", (study,)
            ).fetchone()
            if waiting is not None:
                return rows.job_of(waiting)
            made = base.execute(
                "INSERT INTO jobs (study, owner, batch, state, inputs) VALUES (?, ?, ?, 'queued', ?) RETURNING *",
                (study, owner, batch, rows.dump({"grounded": True}) if grounded else None),
            ).fetchone()
            return rows.job_of(made)

    def next_job(self) -> Job | None:
        """The job whose turn it is, marked as running: users take turns, and people come before their own batches."""
        with self._base.write() as base:
            order = rows.waiting_jobs(base)
            if not order:
                return None
            chosen = order[0]
            base.execute("UPDATE jobs SET state = 'running' WHERE id = ?", (chosen.id,))
            base.execute(
                "INSERT INTO turns VALUES (?, (SELECT coalesce(max(last), 0) + 1 FROM turns)) "
                "ON CONFLICT (owner) DO UPDATE SET last = excluded.last",
                (chosen.owner,),
            )
            return chosen

    def progress(self, job: Job, text: str) -> None:
        """Keep what is written so far."""
        with self._base.write() as base:
            base.execute("UPDATE jobs SET text = ? WHERE id = ? AND state = 'running'", (text, job.id))

    def finish(
        self, job: Job, state: str, *, text: str = "", sentences: Sequence[str] = (),
        boxes: Sequence[Sequence[Mapping[str, float]]] = (), report: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None, inputs: Mapping[str, Any] | None = None, error: str | None = None,
    ) -> bool:  # fmt: skip
        """End a running job and, in one step with it, put its sentences into the study.

        Args:
            job: that was taken by ``next_job``.
            state: done, stopped or failed.
            text: what was written.
            sentences: of it; none leaves the study's own.
            boxes: of each sentence, where there are any.
            report: the report as ``llava-rad generate`` would give it.
            model: which model wrote it.
            inputs: what it was written from besides the image.
            error: why it failed, one line.

        Returns:
            Whether the study took it: one that was signed or discarded meanwhile does not.
        """
        with self._base.write() as base:
            ended = base.execute(
                "UPDATE jobs SET state = ?, text = ?, error = ? WHERE id = ? AND state = 'running'",
                (state, text, error, job.id),
            ).rowcount
            row = base.execute("SELECT * FROM studies WHERE id = ?", (job.study,)).fetchone()
            if not ended or row is None or row["status"] not in rows.OPEN:
                return False
            if sentences:
                base.execute(
                    "UPDATE jobs SET report = ?, model = ?, inputs = ? WHERE id = ?",
                    (*(None if part is None else rows.dump(part) for part in (report, model, inputs)), job.id),
                )
                before = json.loads(row["document"])
                document = review.drafted(before, sentences, boxes)
                rows.keep(base, row, document, status="draft")
                rows.add_event(
                    base, job.study, row["version"], job.owner, "drafted", before=before["sentences"],
                    after=document["sentences"], model=rows.model_name(model),
                )  # fmt: skip
            rows.touch(base, job.study)
            return True

    def stop(self, owner: str, study: str) -> Job | None:
        """Take a waiting job out of the queue.

        Returns:
            The job where it is running: its writer has to end it.

        Raises:
            NotFound: there is no such study.
        """
        with self._base.write() as base:
            rows.row_of(base, owner, study)
            base.execute("UPDATE jobs SET state = 'stopped' WHERE study = ? AND state = 'queued'", (study,))
            running = base.execute("SELECT * FROM jobs WHERE study = ? AND state = 'running'", (study,)).fetchone()
            return None if running is None else rows.job_of(running)

    def draft(self, owner: str, study: str) -> dict[str, Any] | None:
        """State, place in the queue and text of the study's last job, or None.

        Raises:
            NotFound: there is no such study.
        """
        with self._base.moment() as base:
            rows.row_of(base, owner, study)
            found = rows.draft_of(base, study)
        return None if found is None else {key: found[key] for key in ("state", "position", "text")}

    def requeue_running(self) -> int:
        """After a crash: jobs that were being written wait again, until their owners' turn. Their number."""
        with self._base.write() as base:
            return base.execute("UPDATE jobs SET state = 'queued', text = '' WHERE state = 'running'").rowcount

    # batches

    def create_batch(self, owner: str, total: int) -> str:
        """A new batch of so many files; its id."""
        batch = secrets.token_hex(16)
        with self._base.write() as base:
            base.execute("INSERT INTO batches VALUES (?, ?, ?, ?, 0)", (batch, owner, rows.now(), total))
        return batch

    def batch_read(self, owner: str, batch: str) -> None:
        """One more file of the batch has become a study.

        Raises:
            NotFound: there is no such batch.
        """
        with self._base.write() as base:
            rows.own_batch(base, owner, batch)
            base.execute("UPDATE batches SET read = read + 1 WHERE id = ?", (batch,))

    def batch_failed(self, owner: str, batch: str, *, number: int, sha256: str | None, reason: str) -> None:
        """A file of the batch was refused.

        Raises:
            NotFound: there is no such batch.
        """
        with self._base.write() as base:
            rows.own_batch(base, owner, batch)
            base.execute("INSERT INTO refused VALUES (?, ?, ?, ?)", (batch, number, sha256, reason))

    def batch_progress(self, owner: str) -> list[dict[str, Any]]:
        """The owner's last batches, the newest first."""
        base, found = self._base.read(), []
        lines = base.execute("SELECT * FROM batches WHERE owner = ? ORDER BY rowid DESC LIMIT 20", (owner,)).fetchall()
        for row in lines:
            failed = base.execute("SELECT number, sha256, reason FROM refused WHERE batch = ?", (row["id"],))
            states = base.execute("SELECT state, count(*) FROM jobs WHERE batch = ? GROUP BY state", (row["id"],))
            counts: dict[str, int] = dict(map(tuple, states.fetchall()))
            waiting = counts.get("queued", 0) + counts.get("running", 0)
            found.append({
                "id": row["id"], "created": row["created"], "total": row["total"], "read": row["read"],
                "failed": [dict(one) for one in failed], "drafted": counts.get("done", 0), "waiting": waiting,
            })  # fmt: skip
        return found

    def _state(self, base: sqlite3.Connection, row: sqlite3.Row) -> dict[str, Any]:
        document, study = json.loads(row["document"]), row["id"]
        signed = base.execute(
            'SELECT version, at, who AS "by", text, document, model, seconds FROM signed WHERE study = ? '
            "ORDER BY version",
            (study,),
        )
        return {
            **{
                key: row[key] for key in ("id", "name", "sha256", "status", "version", "revision", "created", "changed")
            },
            **{key: json.loads(row[key]) for key in ("facts", "warnings", "image")},
            **{key: json.loads(row[key] or "null") for key in ("prior", "lateral")},
            **review.whole(document),
            "draft": rows.draft_of(base, study),
            "undecided": review.undecided(document),
            "can_undo": row["status"] in rows.OPEN and steps.last_step(base, row) is not None,
            "signed": [dict(one) | {"document": json.loads(one["document"])} for one in signed],
        }
