"""API keys: a file of names, SHA-256 of keys and limits; the keys themselves are random and shown once."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from encoder.errors import ConfigError, LlavaRadError
from encoder.files import write
from encoder.locks import locked_output

_BUSY: Final = "another process is changing the file of API keys"
_PATIENCE_S: Final = 10.0
_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_SHA256: Final = r"^[0-9a-f]{64}$"


class Key(BaseModel):
    """One key.

    Attributes:
        sha256: of the key.
        per_minute: requests that are accepted each minute.
        at_once: requests that are accepted at a time.
        admin: the key may load the model again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=_SHA256)
    per_minute: int = Field(default=600, ge=1)
    at_once: int = Field(default=16, ge=1)
    admin: bool = False


_KEYS: Final = TypeAdapter(dict[str, Key])


class Limited(LlavaRadError):
    """A key's limit is reached.

    Attributes:
        retry_after: seconds after which the next request is accepted.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Keys:
    """Keys of one file, read again when it changes, and their use.

    Args:
        path: of the file.
        now: returns the current time in seconds.

    Raises:
        ConfigError: if the file cannot be read.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._path, self._now, self._lock = path, now, threading.Lock()
        self._read_at: tuple[int, int, int] | None = None
        self._keys: dict[str, tuple[str, Key]] = {}
        self._tokens: dict[str, tuple[float, float]] = {}
        self._open: dict[str, int] = {}
        self.find("")

    def find(self, key: str) -> tuple[str, Key] | None:
        """Return name and limits of a key, or None.

        Raises:
            ConfigError: if the file cannot be read.
        """
        digest = hashlib.sha256(key.encode()).hexdigest()
        with self._lock:
            try:
                stat = self._path.stat()
            except OSError as error:
                raise ConfigError(f"the file of API keys cannot be read: {error.strerror}") from None
            read_at = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if read_at != self._read_at:
                self._keys = {one.sha256: (name, one) for name, one in read_keys(self._path).items()}
                self._read_at = read_at
            return self._keys.get(digest)

    @contextmanager
    def use(self, name: str, key: Key) -> Iterator[None]:
        """Count one request against the limits of a key.

        Raises:
            Limited: if a limit is reached.
        """
        with self._lock:
            if self._open.get(name, 0) >= key.at_once:
                raise Limited(f"the key has {key.at_once} requests at a time", 1.0)
            now, each = self._now(), 60.0 / key.per_minute
            tokens, before = self._tokens.get(name, (float(key.per_minute), now))
            tokens = min(float(key.per_minute), tokens + (now - before) / each)
            if tokens < 1:
                self._tokens[name] = tokens, now
                raise Limited(f"the key has {key.per_minute} requests a minute", (1 - tokens) * each)
            self._tokens[name] = tokens - 1, now
            self._open[name] = self._open.get(name, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._open[name] -= 1


def read_keys(path: Path) -> dict[str, Key]:
    """Read a file of keys.

    Raises:
        ConfigError: if it cannot be read, or is no such file.
    """
    try:
        return _KEYS.validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"the file of API keys cannot be read: {error.strerror}") from None
    except ValidationError:
        raise ConfigError("the file holds no API keys", hint="llava-rad key add NAME --keys FILE makes one") from None


def add_key(path: Path, name: str, *, per_minute: int, at_once: int, admin: bool) -> str:
    """Add a key, or replace the one of that name; return it.

    Raises:
        ConfigError: if the name is not allowed, or the file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError("a name has 1 to 64 letters, digits or . _ @ -")
    key = secrets.token_urlsafe(32)
    made = Key(sha256=hashlib.sha256(key.encode()).hexdigest(), per_minute=per_minute, at_once=at_once, admin=admin)
    with locked_output(path, busy=_BUSY, patience=_PATIENCE_S):
        _write(path, (read_keys(path) if path.exists() else {}) | {name: made})
    return key


def remove_key(path: Path, name: str) -> None:
    """Remove a key.

    Raises:
        ConfigError: if there is none of that name, or the file cannot be read or written.
    """
    with locked_output(path, busy=_BUSY, patience=_PATIENCE_S):
        keys = read_keys(path)
        if keys.pop(name, None) is None:
            raise ConfigError("the file has no key of that name")
        _write(path, keys)


def _write(path: Path, keys: dict[str, Key]) -> None:
    text = json.dumps({name: key.model_dump() for name, key in keys.items()}, indent=1) + "\n"
    try:
        write(path, text, permissions=0o600)
    except OSError as error:
        raise ConfigError(f"the file of API keys cannot be written: {error.strerror}") from None
