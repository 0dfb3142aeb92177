"""Settings of a user that the page keeps on the server: keys, theme, filters, macros, and whatever it adds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from app import database
from app.database import Database
from app.review import ReviewError

MAX_BYTES: Final = 64 << 10


class UserSettings:
    """Settings of all users: a JSON object for each.

    Args:
        file: database of the store.
    """

    def __init__(self, file: Database) -> None:
        self._database = file

    def get(self, user: str) -> dict[str, Any]:
        """Return a user's settings; empty until some are set."""
        return _settings(self._database.read(), user)

    def update(self, user: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Set the given keys; None removes one, all others are kept.

        Returns:
            All settings.

        Raises:
            ReviewError: if they would be larger than :data:`MAX_BYTES`.
        """
        with self._database.write() as connection:
            merged = _settings(connection, user) | dict(changes)
            kept = database.dump({key: value for key, value in merged.items() if value is not None})
            if len(kept.encode()) > MAX_BYTES:
                raise ReviewError(f"settings hold at most {MAX_BYTES >> 10} kB")
            connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (user, kept))
        return self.get(user)


def _settings(connection: Any, user: str) -> dict[str, Any]:
    row = connection.execute("SELECT value FROM settings WHERE owner = ?", (user,)).fetchone()
    found: dict[str, Any] = {} if row is None else json.loads(row["value"])
    return found
