"""SQLite as the store uses it: a file for its owner alone, a connection for each thread, writes that last."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from encoder.errors import LlavaRadError

BUSY_S = 30.0


class Database:
    """A database file.

    Args:
        path: made with mode 0600 where it is not there.
        schema: statements that make what is not there.
        newer: tables and columns (TEXT) that the schema has and files of earlier versions lack.

    Raises:
        LlavaRadError: the file cannot be used.
    """

    def __init__(self, path: Path, schema: str, newer: Sequence[tuple[str, str]] = ()) -> None:
        self._path = path
        self._connections = threading.local()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            with self.write() as base:
                for statement in _statements(schema):
                    base.execute(statement)
                for table, column in newer:
                    if column not in {row["name"] for row in base.execute(f"PRAGMA table_info({table})")}:
                        base.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT")
        except (OSError, sqlite3.Error) as error:
            raise LlavaRadError(
                f"the file {path.name} of the data folder cannot be used ({type(error).__name__})"
            ) from None

    def read(self) -> sqlite3.Connection:
        """This thread's connection."""
        found: sqlite3.Connection | None = getattr(self._connections, "base", None)
        if found is None:
            found = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
            found.row_factory = sqlite3.Row
            found.execute("PRAGMA journal_mode = WAL")
            found.execute("PRAGMA synchronous = FULL")
            found.execute("PRAGMA foreign_keys = ON")
            self._connections.base = found
        return found

    @contextmanager
    def moment(self) -> Iterator[sqlite3.Connection]:
        """One moment's view of all tables, whatever is written meanwhile."""
        base = self.read()
        base.execute("BEGIN")
        try:
            yield base
        finally:
            base.execute("COMMIT")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees what it changes: begun for writing, on disk at the end, gone after an exception."""
        base = self.read()
        base.execute("BEGIN IMMEDIATE")
        try:
            yield base
            base.execute("COMMIT")
        except BaseException:
            if base.in_transaction:
                base.execute("ROLLBACK")
            raise

    def check(self) -> list[str]:
        """What is wrong with the file, by SQLite's own check; empty where nothing is."""
        found = [row[0] for row in self.read().execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found


def _statements(schema: str) -> Iterator[str]:
    """Single statements: ``executescript`` would end the transaction."""
    statement = ""
    for line in schema.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
