"""What has been done with which image of an archive: one SQLite file in the output folder, read again after a kill."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from encoder.errors import LlavaRadError


class Journal:
    """Images that are done.

    They are known by the SHA-256 of their identifier, under the settings that they were done with: another model begins
    anew.

    Args:
        path: of the file.
        settings: text that stands for what is done.

    Raises:
        LlavaRadError: the file cannot be used.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self._settings = hashlib.sha256(settings.encode()).hexdigest()
        try:
            self._base = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS done "
                "(image TEXT, settings TEXT, outcome TEXT, PRIMARY KEY (image, settings))"
            )
        except sqlite3.Error as error:
            raise LlavaRadError(f"the journal of the folder cannot be used ({type(error).__name__})") from None

    def outcome(self, instance: str) -> str | None:
        """What became of an image, or None while it is not done."""
        found = self._base.execute(
            "SELECT outcome FROM done WHERE image = ? AND settings = ?", (name_of(instance), self._settings)
        ).fetchone()
        return None if found is None else str(found[0])

    def done(self, instance: str, outcome: str) -> None:
        """Write down that an image is done; on disk when this returns."""
        self._base.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?)", (name_of(instance), self._settings, outcome))

    def close(self) -> None:
        """Close the file."""
        self._base.close()


def name_of(instance: str) -> str:
    """How files and journal call an image: nothing that an archive could be asked for."""
    return hashlib.sha256(instance.encode()).hexdigest()[:32]
