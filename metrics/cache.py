"""Annotations kept on disk, so that no text goes through the same model twice: one SQLite file for all processes.

A key is the SHA-256 of the text and the id of the weights. Neither texts nor their words are stored, and only the user
can read the file. Every ``put`` is one transaction: annotations are on the disk when it returns, and processes may
read and write at the same time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

_TABLE = "CREATE TABLE IF NOT EXISTS annotations (model TEXT, text TEXT, value TEXT, PRIMARY KEY (model, text))"
_ROWS_AT_A_TIME = 500
Result = TypeVar("Result")
_logger = logging.getLogger(__name__)


def default_path() -> Path:
    """Return ``$XDG_CACHE_HOME/llava-rad/annotations.sqlite``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llava-rad" / "annotations.sqlite"


class Cache:
    """A file of annotations.

    A cache never raises. If the file cannot be used (read-only, locked for longer than ``timeout``, damaged, disk
    full), it says so in one line, and from then on it returns and keeps nothing. Results do not depend on it.

    Args:
        path: SQLite file, made with its folder if missing.
        timeout: seconds to wait for another process that writes.
        say: called with the line about a file that cannot be used; None logs it as a warning.
    """

    def __init__(self, path: Path, *, timeout: float = 60, say: Callable[[str], None] | None = None) -> None:
        self._path, self._timeout = path, timeout
        self._say = say or _logger.warning
        self._connection: sqlite3.Connection | None = None
        self._usable = True

    def get(self, model: str, texts: Iterable[str]) -> dict[str, Any]:
        """Return the known annotations of texts, by text."""
        keys = {_key(text): text for text in texts}
        every = list(keys)

        def read(connection: sqlite3.Connection) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for start in range(0, len(every), _ROWS_AT_A_TIME):
                some = every[start : start + _ROWS_AT_A_TIME]
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    f"SELECT text, value FROM annotations WHERE model = ? AND text IN ({marks})", (model, *some)
                )
                found |= {keys[key]: json.loads(value) for key, value in rows}
            return found

        return self._run(read, {})

    def put(self, model: str, values: Mapping[str, Any]) -> None:
        """Keep annotations, anything that JSON can hold, by text. They are on the disk when this returns."""
        rows = [(model, _key(text), json.dumps(value, separators=(",", ":"))) for text, value in values.items()]

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR REPLACE INTO annotations VALUES (?, ?, ?)", rows)

        self._run(write, None)

    def close(self) -> None:
        """Release the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, work: Callable[[sqlite3.Connection], Result], otherwise: Result) -> Result:
        """Do work in one transaction; report the first failure, after which the file is left alone."""
        if not self._usable:
            return otherwise
        try:
            connection = self._open()
            with connection:
                return work(connection)
        except (sqlite3.Error, OSError, ValueError) as error:
            self._usable = False
            self.close()
            self._say(
                f"the cache of annotations cannot be used ({type(error).__name__}: {error}): {self._path}; going on "
                "without it (delete the file, or give another with --cache, or --no-cache)"
            )
            return otherwise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self._path, timeout=self._timeout)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                with connection:
                    connection.execute(_TABLE)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def _key(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
