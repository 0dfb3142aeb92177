"""Record of the images that a watch has processed, and the pauses before it tries others again."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from encoder.errors import LlavaRadError

RETRIED: Final = ("timeout", "crashed", "memory")
"""Reasons of the reader that may lie in the load of this machine: tried again ``READ_TRIES`` times."""
READ_TRIES: Final = 3
MAX_PAUSE_S: Final = 3600.0


class RecordError(LlavaRadError):
    """The record of processed images cannot be used."""


class ProcessedImages:
    """Record of processed images, an SQLite file.

    An image is identified by the SHA-256 of its SOP Instance UID, together with the settings: another model processes
    all images again.

    Args:
        path: of the file.
        settings: text that identifies model and options.

    Raises:
        RecordError: if the file cannot be used.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self._settings = hashlib.sha256(settings.encode()).hexdigest()
        with _reported():
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS done "
                "(image TEXT, settings TEXT, outcome TEXT, PRIMARY KEY (image, settings))"
            )

    def outcome(self, instance: str) -> str | None:
        """Return the outcome of an image, or None if it is not processed yet.

        Raises:
            RecordError: if the file cannot be read.
        """
        with _reported():
            found = self._connection.execute(
                "SELECT outcome FROM done WHERE image = ? AND settings = ?", (name_of(instance), self._settings)
            ).fetchone()
        return None if found is None else str(found[0])

    def done(self, instance: str, outcome: str) -> None:
        """Record that an image is processed; the record is on the disk when this returns.

        Raises:
            RecordError: if the file cannot be written.
        """
        with _reported():
            self._connection.execute(
                "INSERT OR REPLACE INTO done VALUES (?, ?, ?)", (name_of(instance), self._settings, outcome)
            )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class Pauses:
    """Growing pauses between the tries of images that failed, for one run of a watch.

    Args:
        first: seconds after the first try; doubled after each later one, up to ``MAX_PAUSE_S``.
        clock: seconds.
    """

    def __init__(self, first: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = first
        self._clock = clock
        self._failed: dict[str, tuple[int, float]] = {}

    def waiting(self, instance: str) -> bool:
        """Tell whether the pause of an image is not over yet."""
        return self._clock() < self._failed.get(instance, (0, float("-inf")))[1]

    def failed(self, instance: str) -> int:
        """Begin the next pause of an image, and return how often it failed."""
        tries = self._failed.get(instance, (0, 0.0))[0] + 1
        pause = min(self._first * 2.0 ** min(tries - 1, 60), MAX_PAUSE_S)
        self._failed[instance] = tries, self._clock() + pause
        return tries

    def over(self, instance: str) -> None:
        """Forget an image that has been processed."""
        self._failed.pop(instance, None)


def name_of(instance: str) -> str:
    """Return the name of an image in files and table, which does not reveal its UID."""
    return hashlib.sha256(instance.encode()).hexdigest()[:32]


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        # SQLite's own words, such as "database or disk is full": they quote names of columns, no values
        raise RecordError(f"the record of processed images cannot be used ({error})") from None
