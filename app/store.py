"""Studies and their reviews, in one SQLite file: every call is one transaction, and what it acknowledged is on disk."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from app import review
from app.database import Database
from app.review import ReviewError, StaleError
from encoder.errors import LlavaRadError

MAX_SECONDS = 600.0
"""That one step of a review may claim."""
_OPEN = ("pending", "draft")


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
    """

    id: int
    study: str
    owner: str
    batch: str | None


class Store:
    """The reviews of all users.

    Args:
        path: of the SQLite file.

    Raises:
        LlavaRadError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._base = Database(path, files("app").joinpath("schema.sql").read_text(encoding="utf-8"))

    # studies

    def create(
        self, owner: str, *, name: str | None, sha256: str, facts: Mapping[str, Any], warnings: Sequence[str],
        image: Mapping[str, Any],
    ) -> str:  # fmt: skip
        """A new study; without a name it is called by its number among its owner's.

        Returns:
            Its id, which says nothing about it.
        """
        study, now = secrets.token_hex(16), _now()
        with self._base.write() as base:
            (count,) = base.execute("SELECT count(*) FROM studies WHERE owner = ?", (owner,)).fetchone()
            called = name or f"Radiograph {count + 1}"
            document = review.empty()
            base.execute(
                "INSERT INTO studies VALUES (?, ?, ?, ?, 'pending', 1, 1, ?, ?, ?, ?, ?, NULL, ?, ?)",
                (study, owner, called, sha256, now, now, _dump(facts), _dump(list(warnings)), _dump(image),
                 _dump(document), _words(called, document)),
            )  # fmt: skip
            _event(base, study, 1, owner, "open")
        return study

    def set_prior(self, owner: str, study: str, prior: Mapping[str, Any] | None) -> None:
        """Put an earlier image beside the study's own, or take it away.

        Raises:
            NotFound: there is no such study.
            ReviewError: it is signed or discarded.
        """
        with self._base.write() as base:
            row = _row(base, owner, study)
            _refuse_closed(row)
            base.execute("UPDATE studies SET prior = ? WHERE id = ?", (None if prior is None else _dump(prior), study))
            _event(base, study, row["version"], owner, "prior" if prior else "no prior")
            _touch(base, study)

    def state(self, owner: str, study: str) -> dict[str, Any]:
        """All that the page shows of a study.

        Raises:
            NotFound: there is no such study.
        """
        base = self._base.read()
        base.execute("BEGIN")  # one moment's view of all tables
        try:
            return self._state(base, _row(base, owner, study))
        finally:
            base.execute("COMMIT")

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
            row = _row(base, owner, study)
            if row["revision"] != revision:
                raise StaleError("the study was changed elsewhere in the meantime")
            name = str(action.get("action"))
            step = _CLOSING.get(name)
            if step is not None:
                step(base, row, who, _seconds(action))
            else:
                _review(base, row, action, who)
            _touch(base, study)
            return self._state(base, _row(base, owner, study))

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
        return {"studies": [_line(row) for row in found], "counts": dict(map(tuple, counts.fetchall()))}

    def studies(self, owner: str) -> list[str]:
        """Ids of the owner's studies, the oldest first."""
        rows = self._base.read().execute("SELECT id FROM studies WHERE owner = ? ORDER BY created, rowid", (owner,))
        return [row["id"] for row in rows]

    def events(self, owner: str, study: str) -> list[dict[str, Any]]:
        """Everything that was done to a study, in order.

        Raises:
            NotFound: there is no such study.
        """
        base = self._base.read()
        _row(base, owner, study)
        return [dict(row) for row in base.execute("SELECT * FROM events WHERE study = ? ORDER BY id", (study,))]

    def signed(self, owner: str) -> list[dict[str, Any]]:
        """The owner's signed reports, every version, with the documents that they were made of."""
        rows = self._base.read().execute(
            "SELECT signed.* FROM signed JOIN studies ON studies.id = study WHERE owner = ? ORDER BY signed.at",
            (owner,),
        )
        return [dict(row) | {"document": json.loads(row["document"])} for row in rows]

    def check(self) -> list[str]:
        """What SQLite finds wrong with the file; empty where nothing is."""
        return self._base.check()

    # drafts

    def queue(self, owner: str, study: str, *, replace: bool = False, batch: str | None = None) -> Job:
        """Ask for a draft; a job that waits or runs already is returned.

        Args:
            owner: whose study.
            study: its id.
            replace: give up the sentences that have been decided.
            batch: the batch that it belongs to.

        Raises:
            NotFound: there is no such study.
            ReviewError: it is signed or discarded, or has decided sentences.
        """
        with self._base.write() as base:
            row = _row(base, owner, study)
            _refuse_closed(row)
            if review.decided(json.loads(row["document"])) and not replace:
                raise ReviewError("sentences of this study are decided already: a new draft would replace them")
            waiting = base.execute(
                "SELECT * FROM jobs WHERE study = ? AND state IN ('queued', 'running')", (study,)
            ).fetchone()
            if waiting is not None:
                return _job(waiting)
            made = base.execute(
                "INSERT INTO jobs (study, owner, batch, state) VALUES (?, ?, ?, 'queued') RETURNING *",
                (study, owner, batch),
            ).fetchone()
            return _job(made)

    def next_job(self) -> Job | None:
        """The job whose turn it is, marked as running: users take turns, and people come before their own batches."""
        with self._base.write() as base:
            order = _order(base)
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
        report: Mapping[str, Any] | None = None, model: Mapping[str, Any] | None = None, error: str | None = None,
    ) -> bool:  # fmt: skip
        """End a running job and, in one step with it, put its sentences into the study.

        Args:
            job: that was taken by ``next_job``.
            state: done, stopped or failed.
            text: what was written.
            sentences: of it; none leaves the study's own.
            report: the report as ``llava-rad generate`` would give it.
            model: which model wrote it.
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
            if not ended or row is None or row["status"] not in _OPEN:
                return False
            if sentences:
                base.execute(
                    "UPDATE jobs SET report = ?, model = ? WHERE id = ?",
                    (_dump(report) if report else None, _dump(model) if model else None, job.id),
                )
                before = json.loads(row["document"])
                document = review.drafted(before, sentences)
                _keep(base, row, document, status="draft")
                _event(
                    base, job.study, row["version"], job.owner, "drafted", before=before["sentences"],
                    after=document["sentences"], model=_model_name(model),
                )  # fmt: skip
            _touch(base, job.study)
            return True

    def stop(self, owner: str, study: str) -> Job | None:
        """Take a waiting job out of the queue.

        Returns:
            The job where it is running: its writer has to end it.

        Raises:
            NotFound: there is no such study.
        """
        with self._base.write() as base:
            _row(base, owner, study)
            base.execute("UPDATE jobs SET state = 'stopped' WHERE study = ? AND state = 'queued'", (study,))
            running = base.execute("SELECT * FROM jobs WHERE study = ? AND state = 'running'", (study,)).fetchone()
            return None if running is None else _job(running)

    def draft(self, owner: str, study: str) -> dict[str, Any] | None:
        """State, place in the queue and text of the study's last job, or None.

        Raises:
            NotFound: there is no such study.
        """
        base = self._base.read()
        _row(base, owner, study)
        found = _draft(base, study)
        return None if found is None else {key: found[key] for key in ("state", "position", "text")}

    def requeue_running(self) -> int:
        """After a crash: jobs that were being written wait again, until their owners' turn. Their number."""
        with self._base.write() as base:
            return base.execute("UPDATE jobs SET state = 'queued', text = '' WHERE state = 'running'").rowcount

    def waiting(self) -> int:
        """How many jobs wait that somebody sits in front of."""
        count: int = (
            self._base.read()
            .execute("SELECT count(*) FROM jobs WHERE state = 'queued' AND batch IS NULL")
            .fetchone()[0]
        )
        return count

    # batches

    def create_batch(self, owner: str, total: int) -> str:
        """A new batch of so many files; its id."""
        batch = secrets.token_hex(16)
        with self._base.write() as base:
            base.execute("INSERT INTO batches VALUES (?, ?, ?, ?, 0)", (batch, owner, _now(), total))
        return batch

    def batch_read(self, owner: str, batch: str) -> None:
        """One more file of the batch has become a study.

        Raises:
            NotFound: there is no such batch.
        """
        with self._base.write() as base:
            _batch(base, owner, batch)
            base.execute("UPDATE batches SET read = read + 1 WHERE id = ?", (batch,))

    def batch_failed(self, owner: str, batch: str, *, number: int, sha256: str | None, reason: str) -> None:
        """A file of the batch was refused.

        Raises:
            NotFound: there is no such batch.
        """
        with self._base.write() as base:
            _batch(base, owner, batch)
            base.execute("INSERT INTO refused VALUES (?, ?, ?, ?)", (batch, number, sha256, reason))

    def batch_progress(self, owner: str) -> list[dict[str, Any]]:
        """The owner's last batches, the newest first."""
        base, found = self._base.read(), []
        rows = base.execute("SELECT * FROM batches WHERE owner = ? ORDER BY rowid DESC LIMIT 20", (owner,)).fetchall()
        for row in rows:
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
            "prior": None if row["prior"] is None else json.loads(row["prior"]),
            **document,
            "draft": _draft(base, study),
            "undecided": review.undecided(document),
            "can_undo": row["status"] in _OPEN and _last_step(base, row) is not None,
            "signed": [dict(one) | {"document": json.loads(one["document"])} for one in signed],
        }


def _review(base: sqlite3.Connection, row: sqlite3.Row, action: Mapping[str, Any], who: str) -> None:
    """One step on the sentences or fields, or back."""
    _refuse_closed(row)
    document, undoes = json.loads(row["document"]), None
    if action.get("action") == "undo":
        last = _last_step(base, row)
        if last is None:
            raise ReviewError("there is nothing to undo")
        undoes = last["id"]
        step = review.undo(document, {key: json.loads(last[key]) for key in ("before", "after")})
    else:
        step = review.apply(document, action)
    if step.sentence is not None:
        _refuse_writing(base, row["id"])  # the draft that comes in would take its place
    _keep(base, row, step.document, status="draft" if step.document["sentences"] else "pending")
    _event(
        base, row["id"], row["version"], who, str(action["action"]), sentence=step.sentence, before=step.before,
        after=step.after, undoes=undoes, seconds=_seconds(action),
    )  # fmt: skip


def _last_step(base: sqlite3.Connection, row: sqlite3.Row) -> sqlite3.Row | None:
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
    _refuse_closed(row)
    study, version = row["id"], row["version"]
    _refuse_writing(base, study)
    document = json.loads(row["document"])
    text = review.signable(document)
    draft = _draft(base, study)
    kept = document | {"draft": draft and {key: draft[key] for key in ("model", "report")}}
    model = base.execute(
        "SELECT model FROM events WHERE study = ? AND action = 'drafted' ORDER BY id DESC LIMIT 1", (study,)
    ).fetchone()
    (before,) = base.execute(
        "SELECT coalesce(sum(seconds), 0) FROM events WHERE study = ? AND version = ?", (study, version)
    ).fetchone()
    base.execute(
        "INSERT INTO signed VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (study, version, _now(), who, text, _dump(kept), model and model["model"], before + seconds),
    )
    _become(base, row, "signed", "sign", who, seconds)


def _discard(base: sqlite3.Connection, row: sqlite3.Row, who: str, seconds: float) -> None:
    _refuse_closed(row)
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


_CLOSING = {"sign": _sign, "discard": _discard, "restore": _restore, "reopen": _reopen}


def _become(
    base: sqlite3.Connection, row: sqlite3.Row, status: str, action: str, who: str, seconds: float,
    version: int | None = None,
) -> None:  # fmt: skip
    base.execute("UPDATE studies SET status = ? WHERE id = ?", (status, row["id"]))
    _event(base, row["id"], version or row["version"], who, action, seconds=seconds)


def _order(base: sqlite3.Connection) -> list[Job]:
    """Waiting jobs in the order in which they will be taken."""
    rows = base.execute(
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


def _draft(base: sqlite3.Connection, study: str) -> dict[str, Any] | None:
    """The study's last job, with model and report of the last one that brought sentences."""
    row = base.execute("SELECT * FROM jobs WHERE study = ? ORDER BY id DESC LIMIT 1", (study,)).fetchone()
    if row is None:
        return None
    position = 0
    if row["state"] == "queued":
        position = 1 + next(at for at, job in enumerate(_order(base)) if job.id == row["id"])
    wrote = base.execute(
        "SELECT model, report FROM jobs WHERE study = ? AND model IS NOT NULL ORDER BY id DESC LIMIT 1", (study,)
    ).fetchone()
    return {
        "state": row["state"], "position": position, "text": row["text"], "error": row["error"],
        **{key: json.loads(wrote[key]) if wrote and wrote[key] else None for key in ("model", "report")},
    }  # fmt: skip


def _row(base: sqlite3.Connection, owner: str, study: str) -> sqlite3.Row:
    found: sqlite3.Row | None = base.execute(
        "SELECT * FROM studies WHERE id = ? AND owner = ?", (study, owner)
    ).fetchone()
    if found is None:
        raise NotFound("there is no such study")
    return found


def _batch(base: sqlite3.Connection, owner: str, batch: str) -> None:
    if base.execute("SELECT 1 FROM batches WHERE id = ? AND owner = ?", (batch, owner)).fetchone() is None:
        raise NotFound("there is no such batch")


def _refuse_closed(row: sqlite3.Row) -> None:
    if row["status"] not in _OPEN:
        raise ReviewError(f"the study is {row['status']}")


def _refuse_writing(base: sqlite3.Connection, study: str) -> None:
    if base.execute("SELECT 1 FROM jobs WHERE study = ? AND state IN ('queued', 'running')", (study,)).fetchone():
        raise ReviewError("a draft of this study is being written: wait for it, or stop it")


def _keep(base: sqlite3.Connection, row: sqlite3.Row, document: review.Document, *, status: str) -> None:
    base.execute(
        "UPDATE studies SET document = ?, words = ?, status = ? WHERE id = ?",
        (_dump(document), _words(row["name"], document), status, row["id"]),
    )


def _touch(base: sqlite3.Connection, study: str) -> None:
    base.execute("UPDATE studies SET revision = revision + 1, changed = ? WHERE id = ?", (_now(), study))


def _event(
    base: sqlite3.Connection, study: str, version: int, who: str, action: str, *, sentence: str | None = None,
    before: Any = None, after: Any = None, undoes: int | None = None, model: str | None = None, seconds: float = 0.0,
) -> None:  # fmt: skip
    kept = [None if part is None else _dump(part) for part in (before, after)]
    base.execute(
        "INSERT INTO events (study, version, at, who, action, sentence, before, after, undoes, model, seconds) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (study, version, _now(), who, action, sentence, *kept, undoes, model, seconds),
    )


def _line(row: sqlite3.Row) -> dict[str, Any]:
    """A study in the worklist."""
    document = json.loads(row["document"])
    return {
        **{key: row[key] for key in ("id", "name", "status", "version", "created", "changed", "draft")},
        "view": json.loads(row["facts"]).get("view", "unknown"),
        "undecided": review.undecided(document),
        "sentences": len(document["sentences"]),
        "warnings": len(json.loads(row["warnings"])),
    }


def _job(row: sqlite3.Row) -> Job:
    return Job(row["id"], row["study"], row["owner"], row["batch"])


def _seconds(action: Mapping[str, Any]) -> float:
    claimed = action.get("seconds", 0)
    known = isinstance(claimed, int | float) and not isinstance(claimed, bool) and claimed == claimed
    return float(min(max(claimed, 0.0), MAX_SECONDS)) if known else 0.0


def _model_name(model: Mapping[str, Any] | None) -> str | None:
    return None if model is None else f"{model['id']}@{model['sha256']}"


def _words(name: str, document: review.Document) -> str:
    return "\n".join([name, review.text_of(document), *document["fields"].values()]).lower()


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
