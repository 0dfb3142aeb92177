"""User accounts: a file of names and scrypt hashes, sessions that expire, and limits on login attempts."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from app.database import Database
from encoder.errors import ConfigError, LlavaRadError
from encoder.files import write
from encoder.locks import locked_output

SESSION_S: Final = 12 * 3600.0
"""Lifetime of a session after its last use."""
FREE_TRIES: Final = {"pair": 5, "name": 50, "client": 20}
"""Failed attempts before the first wait: on a name from one address, on a name from all, from an address on all names.
Few for the pair only, so that nobody can lock out somebody else from another address."""
FIRST_WAIT_S, LONGEST_WAIT_S = 30.0, 900.0
MIN_PASSWORD: Final = 8
_BUSY: Final = "another process is changing the auth file"
_PATIENCE_S: Final = 10.0
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_N, _R, _P = 1 << 15, 8, 1  # scrypt parameters recommended by OWASP: 32 MiB, about 0.1 s
_REMEMBERED = 10_000
_SAVED_S: Final = 60.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    token TEXT PRIMARY KEY, name TEXT NOT NULL, hash TEXT NOT NULL, used REAL NOT NULL
);
"""


class LoginRefused(LlavaRadError):
    """The login failed; the message does not tell whether the name or the password was wrong.

    Attributes:
        retry_after: seconds until the next attempt is accepted, or 0.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _Tries(NamedTuple):
    failed: int
    not_before: float


@dataclass
class _Session:
    name: str
    hash: str
    used: float


class Accounts:
    """Users of one auth file and their sessions.

    Args:
        path: of the auth file; it is read again when it changes.
        sessions: path of the SQLite file of open sessions.
        by_address: the addresses of attempts are those of users, not of a proxy in between: limit the attempts from
            one address on all names as well. Behind a proxy, that would lock out everyone.
        now: returns the current time in seconds.

    Raises:
        ConfigError: if the auth file cannot be read.
    """

    def __init__(
        self, path: Path, sessions: Path, *, by_address: bool = False, now: Callable[[], float] = time.time
    ) -> None:
        self._path, self._now, self.by_address = path, now, by_address
        self._database = Database(sessions, _SCHEMA)
        self._lock, self._saving = threading.Lock(), threading.Lock()
        self._tries: dict[tuple[str, str], _Tries] = {}
        self._read_at: tuple[int, int, int] | None = None
        self._users: dict[str, str] = {}
        self._known()
        # sessions are looked up in memory: no request waits for the disk
        rows = self._database.read().execute("SELECT * FROM sessions").fetchall()
        self._sessions = {row["token"]: _Session(row["name"], row["hash"], row["used"]) for row in rows}
        self._changed: set[str] = set()  # tokens that were opened, used or closed since they were saved

    def login(self, name: str, password: str, client: str) -> str:
        """Check name and password and open a session.

        Args:
            name: of the user.
            password: of the user.
            client: network address of the attempt.

        Returns:
            The session's token.

        Raises:
            LoginRefused: if name or password is wrong, or after too many failed attempts.
        """
        keys = [("pair", f"{name[:64]} {client}"), ("name", name[:64])]
        theirs = ("client", client)
        with self._lock:
            limited = [*keys, theirs] if self.by_address else keys
            wait = max(self._tries.get(key, _Tries(0, 0.0)).not_before for key in limited) - self._now()
            if wait > 0:
                raise LoginRefused("Too many attempts. Wait before the next one.", wait)
            for key in keys:  # before hashing, so that simultaneous attempts count too
                self._count(key)
        kept = self._known().get(name)
        right = _matches(password, kept or _NOBODY) and kept is not None
        if not right or kept is None:
            with self._lock:
                self._count(theirs)
            raise LoginRefused("Name or password is wrong.")
        token, now = secrets.token_urlsafe(32), self._now()
        with self._lock:
            for key in keys:  # not ``theirs``: somebody with an account could try those of others without end
                self._tries.pop(key, None)
            expired = {key for key, one in self._sessions.items() if one.used < now - SESSION_S}
            for key in expired:
                del self._sessions[key]
            self._sessions[_digest(token)] = _Session(name, kept, now)
            self._changed |= {*expired, _digest(token)}
        with contextlib.suppress(sqlite3.OperationalError):  # a full disk keeps nobody from reading: saved later
            self.save()
        return token

    def user_of(self, token: str | None) -> str | None:
        """Return the user of a session token; None if the session has expired or the user's password has changed."""
        if not token:
            return None
        digest, now = _digest(token), self._now()
        with self._lock:
            found = self._sessions.get(digest)
            if found is None or found.used < now - SESSION_S or self._known().get(found.name) != found.hash:
                return None
            if now - found.used > _SAVED_S:
                found.used = now
                self._changed.add(digest)
            return found.name

    def save(self) -> None:
        """Write sessions that were opened, used or closed to the disk; called now and then, off the event loop."""
        with self._saving:  # in order: a session that was closed must not be written as open
            with self._lock:
                changed, self._changed = self._changed, set()
                found = {one: self._sessions.get(one) for one in changed}
                opened = [(one, kept.name, kept.hash, kept.used) for one, kept in found.items() if kept is not None]
            if not changed:
                return
            closed = [(one,) for one, kept in found.items() if kept is None]
            try:
                with self._database.write() as connection:
                    connection.executemany("DELETE FROM sessions WHERE token = ?", closed)
                    connection.executemany("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)", opened)
            except BaseException:
                with self._lock:
                    self._changed |= changed
                raise

    def logout(self, token: str) -> None:
        """Close a session."""
        with self._lock:
            if self._sessions.pop(_digest(token), None) is not None:
                self._changed.add(_digest(token))
        with contextlib.suppress(sqlite3.OperationalError):  # it is closed; the disk follows
            self.save()

    def _count(self, key: tuple[str, str]) -> None:
        if len(self._tries) > _REMEMBERED:
            now = self._now()
            self._tries = {one: tries for one, tries in self._tries.items() if tries.not_before > now - LONGEST_WAIT_S}
        last = self._tries.get(key, _Tries(0, 0.0))
        forgotten = key[0] == "client" and last.not_before < self._now() - LONGEST_WAIT_S
        failed = 1 if forgotten else last.failed + 1
        beyond = failed - FREE_TRIES[key[0]]
        wait = 0.0 if beyond < 0 else min(FIRST_WAIT_S * 2 ** min(beyond, 20), LONGEST_WAIT_S)
        self._tries[key] = _Tries(failed, self._now() + wait)

    def _known(self) -> dict[str, str]:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._read_at:
                self._users, self._read_at = read_users(self._path), seen
        except OSError:
            raise ConfigError("the auth file cannot be read") from None
        return self._users


def read_users(path: Path) -> dict[str, str]:
    """Read names and password hashes of an auth file.

    Raises:
        ConfigError: if the file cannot be read or a line is malformed; the message gives the line's number.
    """
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        raise ConfigError("the auth file cannot be read") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, kept = line.strip().partition(":")
        if not _NAME.fullmatch(name) or _parts(kept) is None:
            raise ConfigError(f"line {number} of the auth file is not NAME:HASH", hint="llava-rad user add NAME")
        found[name] = kept
    return found


def add_user(path: Path, name: str, password: str) -> None:
    """Add a user to an auth file, or change a user's password.

    Raises:
        ConfigError: if name or password is not allowed, or the file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError("a name has 1 to 64 letters, digits or . _ @ -")
    if len(password) < MIN_PASSWORD:
        raise ConfigError(f"a password has at least {MIN_PASSWORD} characters")
    hashed = _hash(password)
    with locked_output(path, busy=_BUSY, patience=_PATIENCE_S):
        _write(path, (read_users(path) if path.exists() else {}) | {name: hashed})


def remove_user(path: Path, name: str) -> None:
    """Remove a user from an auth file.

    Raises:
        ConfigError: if the file has no such user, or cannot be written.
    """
    with locked_output(path, busy=_BUSY, patience=_PATIENCE_S):
        users = read_users(path) if path.exists() else {}
        if users.pop(name, None) is None:
            raise ConfigError("there is no such user in the auth file")
        _write(path, users)


def is_loopback(host: str) -> bool:
    """Return True if an address is reachable from this machine only, where no accounts are needed."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _write(path: Path, users: dict[str, str]) -> None:
    lines = ["# LLaVA-Rad review: NAME:HASH, written by 'llava-rad user'", *(f"{n}:{h}" for n, h in users.items())]
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError("the auth file cannot be written: it is a symbolic link, or no regular file")
    try:
        write(path, "\n".join(lines) + "\n", permissions=0o600)
    except OSError as error:
        raise ConfigError(f"the auth file cannot be written: {error.strerror}") from None


def _hash(password: str) -> str:
    salt = secrets.token_bytes(16)
    found = _scrypt(password, salt, _N, _R, _P)
    return "$".join(["scrypt", str(_N), str(_R), str(_P), *(base64.b64encode(part).decode() for part in (salt, found))])


def _matches(password: str, kept: str) -> bool:
    parts = _parts(kept)
    if parts is None:
        return False
    n, r, p, salt, expected = parts
    return hmac.compare_digest(_scrypt(password, salt, n, r, p), expected)


def _parts(kept: str) -> tuple[int, int, int, bytes, bytes] | None:
    try:
        kind, n, r, p, salt, expected = kept.split("$")
        found = int(n), int(r), int(p), base64.b64decode(salt, validate=True), base64.b64decode(expected, validate=True)
    except (ValueError, binascii.Error):
        return None
    fits = kind == "scrypt" and 1 < found[0] <= 1 << 20 and 0 < found[1] <= 32 and 0 < found[2] <= 16
    return found if fits and len(found[3]) >= 8 and len(found[4]) == 32 else None


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


# compared for unknown users, so that the response takes as long
_NOBODY: Final = "$".join(
    ["scrypt", str(_N), str(_R), str(_P), base64.b64encode(bytes(16)).decode(), base64.b64encode(bytes(32)).decode()]
)
