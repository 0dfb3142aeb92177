"""SQLite files of the review application, and the access to studies that the store and the draft queue share."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from app import review
from app.review import ReviewError, StaleError
from encoder.errors import LlavaRadError

BUSY_S: Final = 5.0
"""Longest wait for the transaction of another thread or program."""
OPEN: Final = ("pending", "draft")
"""Statuses of studies that can be edited."""


class NotFound(LlavaRadError):
    """The study, batch or document does not exist, or belongs to another user; the message does not say which."""


class Database:
    """SQLite file, readable by its owner only, with one connection per thread.

    Args:
        path: of the file, created with mode 0600 if missing.
        schema: SQL statements that create missing tables.
        newer: (table, column) pairs of text columns to add to files of earlier versions.

    Raises:
        LlavaRadError: if the file cannot be used.
    """

    def __init__(self, path: Path, schema: str, newer: Sequence[tuple[str, str]] = ()) -> None:
        self._path = path
        self._connections = threading.local()
        self._writing = threading.Lock()  # SQLite's own waiting is by chance: a busy thread might wait for ever
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            with self.write() as connection:
                for statement in _statements(schema):
                    connection.execute(statement)
                for table, column in newer:
                    if column not in {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}:
                        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT")
        except (OSError, sqlite3.Error) as error:
            raise LlavaRadError(
                f"the file {path.name} of the data folder cannot be used ({type(error).__name__})"
            ) from None

    def read(self) -> sqlite3.Connection:
        """Return this thread's connection."""
        found: sqlite3.Connection | None = getattr(self._connections, "current", None)
        if found is None:
            found = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
            found.row_factory = sqlite3.Row
            found.execute("PRAGMA journal_mode = WAL")
            found.execute("PRAGMA synchronous = FULL")
            found.execute("PRAGMA foreign_keys = ON")
            self._connections.current = found
        return found

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Open a read transaction: all queries of the block see the same state."""
        connection = self.read()
        connection.execute("BEGIN")
        try:
            yield connection
        finally:
            connection.execute("COMMIT")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Open a write transaction: durable when the block ends, rolled back if it raises."""
        if not self._writing.acquire(timeout=BUSY_S):
            raise sqlite3.OperationalError("database is locked")
        try:
            connection = self.read()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        finally:
            self._writing.release()

    def check(self) -> list[str]:
        """Run SQLite's integrity check and return the problems it finds."""
        found = [row[0] for row in self.read().execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found


def _statements(schema: str) -> Iterator[str]:
    """Split a script into statements (``executescript`` would end the transaction)."""
    statement = ""
    for line in schema.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


# Access to the table of studies, inside the caller's transaction


def study_row(connection: sqlite3.Connection, user: str, study: str) -> sqlite3.Row:
    """Return a study that a user owns or is assigned to.

    Raises:
        NotFound: if the study does not exist, or belongs to another user who has not assigned it.
    """
    found: sqlite3.Row | None = connection.execute(
        "SELECT * FROM studies WHERE id = ? AND (owner = ? OR assigned = ?)", (study, user, user)
    ).fetchone()
    if found is None:
        raise NotFound("there is no such study")
    return found


def require_revision(row: sqlite3.Row, revision: int | None) -> None:
    """Check that a study has not changed since a revision; None is not checked.

    Raises:
        StaleError: if it has.
    """
    if revision is not None and row["revision"] != revision:
        raise StaleError


def require_open(row: sqlite3.Row) -> None:
    """Check that a study can be edited.

    Raises:
        ReviewError: if it is signed or discarded.
    """
    if row["status"] not in OPEN:
        raise ReviewError(f"the study is {row['status']}")


def set_document(connection: sqlite3.Connection, row: sqlite3.Row, document: review.Document, *, status: str) -> None:
    """Replace a study's document and update its search text and findings."""
    connection.execute(
        "UPDATE studies SET document = ?, words = ?, findings = ?, status = ? WHERE id = ?",
        (dump(document), search_text(row["name"], document), dump(findings_of(document)), status, row["id"]),
    )


def next_revision(connection: sqlite3.Connection, study: str) -> None:
    """Increment a study's revision and set the time of its last change."""
    connection.execute("UPDATE studies SET revision = revision + 1, changed = ? WHERE id = ?", (timestamp(), study))


def add_event(
    connection: sqlite3.Connection, study: str, version: int, user: str, action: str, *, sentence: str | None = None,
    before: Any = None, after: Any = None, undoes: int | None = None, model: str | None = None, seconds: float = 0.0,
    step: str | None = None,
) -> None:  # fmt: skip
    """Append to a study's event log, which is never changed."""
    kept = [None if part is None else dump(part) for part in (before, after)]
    connection.execute(
        "INSERT INTO events (study, version, at, who, action, sentence, before, after, undoes, model, seconds, step) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (study, version, timestamp(), user, action, sentence, *kept, undoes, model, seconds, step),
    )


def search_text(name: str, document: review.Document) -> str:
    """Return the lower-case text that the worklist's search looks in."""
    return "\n".join([name, review.text_of(document), *document["fields"].values()]).lower()


def findings_of(document: review.Document) -> list[str]:
    """Return the positive CheXpert findings: of a document's current text, or as the reviewer corrected them."""
    from llava_rad.outputs.document import labels_of

    said = labels_of(review.text_of(document)) | document.get("corrections", {})
    return [finding for finding in said if said[finding] == "positive"]


def model_name(model: Mapping[str, Any] | None) -> str | None:
    """Return ``ID@SHA256``, the form in which events and signed reports name a model."""
    return None if model is None else f"{model['id']}@{model['sha256']}"


def dump(value: Any) -> str:
    """Serialise a value as compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def timestamp() -> str:
    """Return the current time in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
