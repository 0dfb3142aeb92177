"""Record of the images that a watch has processed, and the times for which it waits."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
            for table in ("seen", "begun"):
                self._connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} "
                    "(study TEXT, settings TEXT, images TEXT, since REAL, PRIMARY KEY (study, settings))"
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

    def done(self, study: str, outcomes: Mapping[str, str]) -> None:
        """Record that images of a study are processed, all or none; the record is on the disk when this returns.

        Args:
            study: Study Instance UID.
            outcomes: by SOP Instance UID.

        Raises:
            RecordError: if the file cannot be written.
        """
        with _reported(), self._transaction():
            self._connection.executemany(
                "INSERT OR REPLACE INTO done VALUES (?, ?, ?)",
                [(name_of(instance), self._settings, outcome) for instance, outcome in outcomes.items()],
            )
            for table in ("seen", "begun"):
                self._connection.execute(
                    f"DELETE FROM {table} WHERE study = ? AND settings = ?", (name_of(study), self._settings)
                )

    def unchanged(self, study: str, instances: Iterable[str], now: float) -> float:
        """Return the seconds since which a study has had these images; 0 if it had others the last time.

        Args:
            study: Study Instance UID.
            instances: SOP Instance UIDs.
            now: seconds of the wall clock, so that the time is known to later runs.

        Raises:
            RecordError: if the file cannot be used.
        """
        images = _set_of(instances)
        with _reported():
            found = self._row("seen", study)
            if found is not None and found[0] == images and found[1] <= now:
                return now - float(found[1])
            self._put("seen", study, images, now)
        return 0.0

    def begin(self, study: str, instances: Iterable[str]) -> None:
        """Record of which images a report is that is about to be stored, so that a repetition stores the same one.

        Raises:
            RecordError: if the file cannot be written.
        """
        with _reported():
            self._put("begun", study, _set_of(instances), 0.0)

    def begun(self, study: str, instances: Sequence[str]) -> list[str]:
        """Return those of a study's images of which a report was about to be stored; all if none was.

        Raises:
            RecordError: if the file cannot be read.
        """
        with _reported():
            found = self._row("begun", study)
        names = set() if found is None else set(str(found[0]).split())
        return [instance for instance in instances if name_of(instance) in names] or list(instances)

    def _row(self, table: str, study: str) -> tuple[str, float] | None:
        key = (name_of(study), self._settings)
        found: tuple[str, float] | None = self._connection.execute(
            f"SELECT images, since FROM {table} WHERE study = ? AND settings = ?", key
        ).fetchone()
        return found

    def _put(self, table: str, study: str, images: str, since: float) -> None:
        row = (name_of(study), self._settings, images, since)
        self._connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)", row)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # a full disk has ended it
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class Pauses:
    """Growing pauses between the tries of studies that failed, for one run of a watch; each has a name.

    Args:
        first: seconds after the first try; doubled after each later one, up to ``MAX_PAUSE_S``.
        clock: seconds.
    """

    def __init__(self, first: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = first
        self._clock = clock
        self._failed: dict[str, tuple[int, float]] = {}

    def waiting(self, name: str) -> bool:
        """Tell whether the pause of a study is not over yet."""
        return self._clock() < self._failed.get(name, (0, float("-inf")))[1]

    def tries(self, name: str) -> int:
        """Return how often a study has failed."""
        return self._failed.get(name, (0, 0.0))[0]

    def failed(self, name: str) -> None:
        """Begin the next pause of a study."""
        tries = self.tries(name) + 1
        pause = min(self._first * 2.0 ** min(tries - 1, 60), MAX_PAUSE_S)
        self._failed[name] = tries, self._clock() + pause

    def over(self, name: str) -> None:
        """Forget a study that has been processed."""
        self._failed.pop(name, None)


def name_of(instance: str) -> str:
    """Return the name of an image or study in files and tables, which does not reveal its UID."""
    return hashlib.sha256(instance.encode()).hexdigest()[:32]


def _set_of(instances: Iterable[str]) -> str:
    return " ".join(sorted(map(name_of, instances)))


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        # SQLite's own words, such as "database or disk is full": they quote names of columns, no values
        raise RecordError(f"the record of processed images cannot be used ({error})") from None
