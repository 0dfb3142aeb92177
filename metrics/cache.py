"""Labels and annotations kept on disk, so that no text is given to the same model twice.

Keys are the SHA-256 of the text and the id of the weights. Neither texts nor their tokens are stored, and only the
user can read the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from metrics.errors import MetricError

Progress = Callable[[int], None]
_TABLE = "CREATE TABLE IF NOT EXISTS annotations (model TEXT, text TEXT, value TEXT, PRIMARY KEY (model, text))"
_ROWS_AT_A_TIME = 500


def default_path() -> Path:
    """``$XDG_CACHE_HOME/llava-rad/annotations.sqlite``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llava-rad" / "annotations.sqlite"


class Cache:
    """A file of annotations.

    Args:
        path: made, with its folder, where absent.

    Raises:
        MetricError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._base = sqlite3.connect(path, timeout=60)
            with self._base:
                self._base.execute(_TABLE)
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error

    def get(self, model: str, texts: Iterable[str]) -> dict[str, Any]:
        """What is known of these texts, by text."""
        keys = {_key(text): text for text in texts}
        found: dict[str, Any] = {}
        every = list(keys)
        try:
            for start in range(0, len(every), _ROWS_AT_A_TIME):
                some = every[start : start + _ROWS_AT_A_TIME]
                marks = ",".join("?" * len(some))
                rows = self._base.execute(
                    f"SELECT text, value FROM annotations WHERE model = ? AND text IN ({marks})", (model, *some)
                )
                found |= {keys[key]: json.loads(value) for key, value in rows}
        except (sqlite3.Error, ValueError) as error:
            raise self._unusable(error) from error
        return found

    def put(self, model: str, values: dict[str, Any]) -> None:
        """Keep annotations (anything JSON can hold) by text."""
        rows = [(model, _key(text), json.dumps(value, separators=(",", ":"))) for text, value in values.items()]
        try:
            with self._base:
                self._base.executemany("INSERT OR REPLACE INTO annotations VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Release the file."""
        self._base.close()

    def _unusable(self, error: Exception) -> MetricError:
        return MetricError(
            f"the cache of annotations cannot be used ({type(error).__name__}): {self._path}",
            hint="delete the file, or give another with --cache, or --no-cache",
        )


def annotate(
    texts: Sequence[str],
    run: Callable[[list[str]], Iterable[Sequence[Any]]],
    *,
    model: str,
    cache: Cache | None = None,
    progress: Progress | None = None,
) -> list[Any]:
    """Annotate N texts, each different one at most once in all.

    Args:
        run: from texts to their annotations, in the same order and in portions of any size; called only if
            something is not known yet. Each portion is kept as it comes, so that an interrupted run goes on.
        model: id of weights and settings.
        progress: called with the number of different texts that are done.
    """
    different = list(dict.fromkeys(texts))
    known = cache.get(model, different) if cache else {}
    missing = [text for text in different if text not in known]
    if progress:
        progress(len(different) - len(missing))
    if missing:
        done = 0
        for portion in run(missing):
            new = dict(zip(missing[done : done + len(portion)], portion, strict=True))
            done += len(portion)
            known |= new
            if cache:
                cache.put(model, new)
            if progress:
                progress(len(portion))
    return [known[text] for text in texts]


def _key(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
