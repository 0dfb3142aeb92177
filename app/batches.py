"""Batches of uploaded files in the database of the store: what was accepted, what is read, what was refused.

Every method of :class:`Batches` is one transaction. A file that was accepted becomes a study or a refusal exactly once,
also if the server is killed in between.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from app import database
from app.database import Database, NotFound
from app.review import ReviewError

MAX_FILES: Final = 10_000
"""Largest number of files of a batch."""
NOT_RECEIVED: Final = "the file did not arrive before the server ended: send it again"


@dataclass(frozen=True)
class Waiting:
    """Accepted file of a batch that has not been read yet.

    Attributes:
        owner: of the batch.
        batch: its id.
        number: position of the file in the batch, from 1.
        path: of the file; None for an entry of the archive.
        archive: zip file that the batch was uploaded as, or None.
        name: of the study, if names are kept.
        folder: group of a picture by its folder, see :meth:`app.grouping.Grouping.folders`.
        last: it has waited for the frontal image of its study: it is now read or refused.
    """

    owner: str
    batch: str
    number: int
    path: Path | None
    archive: Path | None
    name: str | None
    folder: str | None = None
    last: bool = False


class BatchFile(NamedTuple):
    """File of a folder or zip file: path (None in a zip file), and name and folder as in :class:`Waiting`."""

    path: Path | None
    name: str | None
    folder: str | None


class Batches:
    """Batches of all users.

    Args:
        file: database of the store.
    """

    def __init__(self, file: Database) -> None:
        self._database = file

    def create(
        self,
        owner: str,
        total: int,
        *,
        source: Path | None = None,
        files: Sequence[BatchFile] = (),
    ) -> str:
        """Create a batch.

        Args:
            owner: of the batch.
            total: number of its files.
            source: zip file or folder that the files are taken from; None if they are sent one by one.
            files: of the source.

        Returns:
            The batch's id.
        """
        batch = secrets.token_hex(16)
        rows = [(batch, at, one.path and _stored(one.path), one.name, one.folder) for at, one in enumerate(files, 1)]
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO batches (id, owner, created, total, read, source) VALUES (?, ?, ?, ?, 0, ?)",
                (batch, owner, database.timestamp(), total, None if source is None else _stored(source)),
            )
            connection.executemany(
                "INSERT INTO batch_files (batch, number, state, path, name, folder) VALUES (?, ?, 'waiting', ?, ?, ?)",
                rows,
            )
        return batch

    def require(self, owner: str, batch: str, number: int) -> bool:
        """Check that a file belongs to a batch; returns False if it has been accepted before.

        Raises:
            NotFound: if the batch does not exist.
            ReviewError: if it has no file of that number.
        """
        connection = self._database.read()
        _require_number(connection, owner, batch, number)
        return not _known(connection, batch, number)

    def accept(self, owner: str, batch: str, number: int, path: Path, name: str | None) -> bool:
        """Record a file that is on disk; returns False if a file of that number has been accepted before.

        Raises:
            NotFound: if the batch does not exist.
            ReviewError: if it has no file of that number.
        """
        with self._database.write() as connection:
            _require_number(connection, owner, batch, number)
            if _known(connection, batch, number):
                return False
            _forget_refusal(connection, batch, number)
            connection.execute(
                "INSERT INTO batch_files (batch, number, state, path, name) VALUES (?, ?, 'waiting', ?, ?)",
                (batch, number, _stored(path), name),
            )
            return True

    def refuse(self, owner: str, batch: str, number: int, *, sha256: str | None, reason: str) -> None:
        """Record that a file was refused; without effect if it has been read or refused before.

        Raises:
            NotFound: if the batch does not exist.
            ReviewError: if it has no file of that number.
        """
        with self._database.write() as connection:
            _require_number(connection, owner, batch, number)
            if not _known(connection, batch, number):
                _forget_refusal(connection, batch, number)
                connection.execute(
                    "INSERT INTO batch_files (batch, number, state) VALUES (?, ?, 'waiting')", (batch, number)
                )
            if end_file(connection, batch, number):
                connection.execute("INSERT INTO refused VALUES (?, ?, ?, ?)", (batch, number, sha256, reason))

    def next(self, owner: str) -> Waiting | None:
        """Return the first file of the owner's batches that waits to be read, or None.

        Files that wait for another image of their study come when all others of their batch have been read.
        """
        row = self._database.read().execute(
            "SELECT batch_files.*, owner, source FROM batch_files JOIN batches ON batches.id = batch "
            f"WHERE owner = ? AND state = 'waiting' AND (waits_for IS NULL OR {_OTHERS_READ}) "
            "ORDER BY batches.rowid, number LIMIT 1", (owner,),
        ).fetchone()  # fmt: skip
        if row is None:
            return None
        path, source = (None if part is None else _path(part) for part in (row["path"], row["source"]))
        archive = source if path is None else None
        last = row["waits_for"] is not None
        return Waiting(row["owner"], row["batch"], row["number"], path, archive, row["name"], row["folder"], last)

    def count(self, batch: str, number: int) -> None:
        """Count a file whose image is already part of a study.

        Raises:
            ReviewError: if the file has been read before.
        """
        with self._database.write() as connection:
            count_file(connection, batch, number)

    def wait_for(self, batch: str, number: int, key: str) -> None:
        """Put a file back until another image of its study has been read, or all other files of the batch."""
        with self._database.write() as connection:
            connection.execute(
                "UPDATE batch_files SET waits_for = ? WHERE batch = ? AND number = ?", (key, batch, number)
            )

    def owners(self) -> list[str]:
        """Return the users who have files that wait to be read."""
        query = "SELECT DISTINCT owner FROM batch_files JOIN batches ON batches.id = batch WHERE state = 'waiting'"
        return [row["owner"] for row in self._database.read().execute(query)]

    def ended(self, batch: str) -> bool:
        """Return True if no file of a batch waits and none is still to be sent."""
        row = self._database.read().execute(
            "SELECT total, (SELECT count(*) FROM batch_files WHERE batch = id AND state = 'ended') AS ended "
            "FROM batches WHERE id = ?", (batch,),
        ).fetchone()  # fmt: skip
        return row is None or row["ended"] >= row["total"]

    def unfinished(self, owner: str, source: Path) -> bool:
        """Return True if files of a folder or zip file wait to be read."""
        query = (
            "SELECT 1 FROM batches JOIN batch_files ON batch = id WHERE owner = ? AND source = ? AND state = 'waiting'"
        )
        return self._database.read().execute(query, (owner, _stored(source))).fetchone() is not None

    def recover(self) -> None:
        """End batches that an earlier process left incomplete: files that never arrived are listed as refused."""
        with self._database.write() as connection:
            for row in connection.execute("SELECT * FROM batches").fetchall():
                batch = row["id"]
                query = (
                    "SELECT number FROM batch_files WHERE batch = ? UNION SELECT number FROM refused WHERE batch = ?"
                )
                known = {one["number"] for one in connection.execute(query, (batch, batch))}
                (waiting,) = connection.execute(
                    "SELECT count(*) FROM batch_files WHERE batch = ? AND state = 'waiting'", (batch,)
                ).fetchone()
                (refused,) = connection.execute("SELECT count(*) FROM refused WHERE batch = ?", (batch,)).fetchone()
                missing = row["total"] - row["read"] - refused - waiting
                free = (number for number in range(1, row["total"] + 1) if number not in known)
                connection.executemany(
                    "INSERT INTO refused VALUES (?, ?, NULL, ?)",
                    [(batch, number, NOT_RECEIVED) for number in islice(free, missing)],
                )

    def paths(self) -> set[Path]:
        """Return the paths of all files that wait, and of the archives that they are taken from."""
        query = (
            "SELECT path FROM batch_files WHERE state = 'waiting' AND path IS NOT NULL UNION "
            "SELECT source FROM batches JOIN batch_files ON batch = id WHERE state = 'waiting' AND source IS NOT NULL"
        )
        return {_path(row[0]) for row in self._database.read().execute(query)}

    def progress(self, owner: str) -> list[dict[str, Any]]:
        """Return the progress of the owner's last 20 batches, newest first."""
        connection, found = self._database.read(), []
        rows = connection.execute("SELECT * FROM batches WHERE owner = ? ORDER BY rowid DESC LIMIT 20", (owner,))
        for row in rows.fetchall():
            failed = connection.execute(
                "SELECT number, sha256, reason FROM refused WHERE batch = ? ORDER BY number", (row["id"],)
            )
            states = connection.execute("SELECT state, count(*) FROM jobs WHERE batch = ? GROUP BY state", (row["id"],))
            counts: dict[str, int] = dict(map(tuple, states.fetchall()))
            waiting = counts.get("queued", 0) + counts.get("running", 0)
            found.append({
                "id": row["id"], "created": row["created"], "total": row["total"], "read": row["read"],
                "failed": [dict(one) for one in failed], "drafted": counts.get("done", 0), "waiting": waiting,
            })  # fmt: skip
        return found


def _stored(path: Path) -> str | bytes:
    """Return a path as it is stored: as text, or as its bytes where these are no UTF-8."""
    try:
        return str(path).encode().decode()
    except UnicodeEncodeError:
        return os.fsencode(path)


def _path(stored: str | bytes) -> Path:
    return Path(os.fsdecode(stored))


# Inside the caller's transaction

_OTHERS_READ: Final = (
    "(NOT EXISTS (SELECT 1 FROM batch_files AS other WHERE other.batch = batches.id AND other.state = 'waiting' "
    "AND other.waits_for IS NULL) AND total <= read + (SELECT count(*) FROM refused WHERE refused.batch = batches.id) "
    "+ (SELECT count(*) FROM batch_files AS other WHERE other.batch = batches.id AND other.state = 'waiting'))"
)
"""SQL: only files that wait for others are left of a batch."""


def end_file(connection: sqlite3.Connection, batch: str, number: int) -> bool:
    """Mark a waiting file as ended; returns False if it is not waiting."""
    # the name may identify a patient: it is the study's from now on, or nobody's
    ended = connection.execute(
        "UPDATE batch_files SET state = 'ended', path = NULL, name = NULL "
        "WHERE batch = ? AND number = ? AND state = 'waiting'", (batch, number),
    )  # fmt: skip
    return ended.rowcount == 1


def end_waits(connection: sqlite3.Connection, owner: str, key: str | None) -> None:
    """Have the files that wait for an image of a study read: it has been read."""
    connection.execute(
        "UPDATE batch_files SET waits_for = NULL WHERE waits_for = ? AND batch IN "
        "(SELECT id FROM batches WHERE owner = ?)", (key, owner),
    )  # fmt: skip


def count_file(connection: sqlite3.Connection, batch: str, number: int) -> None:
    """Count a file of a batch that has become a study or part of one.

    Raises:
        ReviewError: if the file has been read before.
    """
    if not end_file(connection, batch, number):
        raise ReviewError("this file of the batch has been read already")
    connection.execute("UPDATE batches SET read = read + 1 WHERE id = ?", (batch,))


def add_study(connection: sqlite3.Connection, batch: str, number: int, study: str, owner: str) -> None:
    """Count a file of a batch that has become a study, and request its draft.

    Raises:
        ReviewError: if the file has been read before.
    """
    count_file(connection, batch, number)
    connection.execute(
        "INSERT INTO jobs (study, owner, batch, state) VALUES (?, ?, ?, 'queued')", (study, owner, batch)
    )


def _require_number(connection: sqlite3.Connection, owner: str, batch: str, number: int) -> None:
    row = connection.execute("SELECT total FROM batches WHERE id = ? AND owner = ?", (batch, owner)).fetchone()
    if row is None:
        raise NotFound("there is no such batch")
    if not 0 < number <= row["total"]:
        raise ReviewError("the batch has no file of that number")


def _known(connection: sqlite3.Connection, batch: str, number: int) -> bool:
    query = "SELECT 1 FROM batch_files WHERE batch = ? AND number = ?"
    return connection.execute(query, (batch, number)).fetchone() is not None


def _forget_refusal(connection: sqlite3.Connection, batch: str, number: int) -> None:
    """Remove the note that a file did not arrive: it has arrived now."""
    connection.execute("DELETE FROM refused WHERE batch = ? AND number = ?", (batch, number))
