"""Accounts: scrypt hashes, equal answers to every failure, limited attempts, sessions that expire."""

from __future__ import annotations

import hashlib
import sqlite3
import stat
import time
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.accounts import _N, _NOBODY, Accounts, LoginRefused, add_user, read_users, remove_user
from encoder.errors import ConfigError

pytestmark = pytest.mark.acceptance(row=17)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Accounts:
    """The user ann, with hashes that cost a hundredth of the real ones."""
    monkeypatch.setattr("app.accounts._NOBODY", _NOBODY.replace(f"${_N}$", "$256$"))
    monkeypatch.setattr("app.accounts._N", 256)
    add_user(tmp_path / "users", "ann", "correct horse")
    return Accounts(tmp_path / "users", tmp_path / "sessions.sqlite", now=clock)


def test_the_file_holds_scrypt_hashes_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "users"
    add_user(path, "ann", "correct horse")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kind, n, r, p, salt, expected = read_users(path)["ann"].split("$")
    found = hashlib.scrypt(
        b"correct horse", salt=b64decode(salt), n=int(n), r=int(r), p=int(p), maxmem=1 << 28, dklen=32
    )
    assert (kind, n, r, p, found) == ("scrypt", "32768", "8", "1", b64decode(expected)), "OWASP's parameters"
    add_user(path, "bob", "correct horse")
    assert read_users(path)["bob"] != read_users(path)["ann"], "a salt for each"
    remove_user(path, "bob")
    assert set(read_users(path)) == {"ann"}


@pytest.mark.parametrize("name", ["", "a b", "a:b", "ann\n", "a" * 65, "ännchen"])
def test_invalid_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="a name has"):
        add_user(tmp_path / "users", name, "long enough")


def test_short_passwords_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        add_user(tmp_path / "users", "ann", "1234567")
    with pytest.raises(ConfigError, match="no such user"):
        remove_user(tmp_path / "users", "ann")
    for line in ("ann", "ann:secret", "ann:scrypt$0$8$1$AAAA$AAAA", "ann:scrypt$32768$8$1$!$!", ":x"):
        (tmp_path / "users").write_text(f"# comment\n\n{line}\n")
        with pytest.raises(ConfigError, match="line 3"):
            read_users(tmp_path / "users")


def test_an_unreadable_auth_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "users").write_bytes(b"\xff\xfe:x\n")
    with pytest.raises(ConfigError, match="line 1"):
        read_users(tmp_path / "users")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        add_user(tmp_path / "folder", "ann", "correct horse")


def test_a_session_identifies_its_user_until_it_expires(accounts: Accounts, clock: Clock) -> None:
    token = accounts.login("ann", "correct horse", "1.2.3.4")
    assert accounts.user_of(token) == "ann"
    assert accounts.user_of(token[:-1]) is accounts.user_of("") is accounts.user_of(None) is None
    clock.seconds += 11 * 3600
    assert accounts.user_of(token) == "ann"
    clock.seconds += 11 * 3600
    assert accounts.user_of(token) == "ann", "twelve hours count from the last use"
    clock.seconds += 13 * 3600
    assert accounts.user_of(token) is None
    other = accounts.login("ann", "correct horse", "1.2.3.4")
    accounts.logout(other)
    assert accounts.user_of(other) is None


def test_a_new_password_or_a_removal_ends_open_sessions(tmp_path: Path, accounts: Accounts) -> None:
    token = accounts.login("ann", "correct horse", "1.2.3.4")
    add_user(tmp_path / "users", "ann", "another one")
    assert accounts.user_of(token) is None
    token = accounts.login("ann", "another one", "1.2.3.4")
    add_user(tmp_path / "users", "bob", "something else")
    assert accounts.user_of(token) == "ann"
    remove_user(tmp_path / "users", "ann")
    assert accounts.user_of(token) is None


def test_tokens_are_stored_as_hashes_only(tmp_path: Path, accounts: Accounts) -> None:
    token = accounts.login("ann", "correct horse", "1.2.3.4")
    assert all(token.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def failed(accounts: Accounts, name: str, client: str, password: str = "wrong") -> tuple[str, float]:
    with pytest.raises(LoginRefused) as refused:
        accounts.login(name, password, client)
    return str(refused.value), refused.value.retry_after


def test_waits_grow_with_every_failure(accounts: Accounts, clock: Clock) -> None:
    assert [failed(accounts, "ann", "1.2.3.4")[1] for _ in range(5)] == [0] * 5
    for wait in (30, 60, 120, 240, 480, 900, 900):
        said, left = failed(accounts, "ann", "1.2.3.4", "correct horse")
        assert "Too many attempts" in said and left == wait, "the right password does not help"
        clock.seconds += wait
        assert failed(accounts, "ann", "1.2.3.4")[1] == 0
    clock.seconds += 900
    token = accounts.login("ann", "correct horse", "1.2.3.4")
    assert accounts.user_of(token) == "ann"
    assert failed(accounts, "ann", "1.2.3.4")[1] == 0, "a success forgets the failures"


def test_nobody_locks_out_somebody_at_another_address(accounts: Accounts) -> None:
    assert [failed(accounts, "ann", "6.6.6.6")[1] for _ in range(6)] == [0] * 5 + [30]
    assert accounts.login("ann", "correct horse", "1.2.3.4")


def test_attempts_on_one_name_are_limited_over_all_addresses(accounts: Accounts) -> None:
    assert [failed(accounts, "ann", f"client {n}")[1] for n in range(51)] == [0] * 50 + [30]


def test_a_proxy_does_not_lock_everyone_out(accounts: Accounts) -> None:
    """Forty failed attempts on many names from the one address that an unknown proxy shows."""
    assert {failed(accounts, f"name{number}", "10.0.0.1")[1] for number in range(40)} == {0}
    assert accounts.login("ann", "correct horse", "10.0.0.1")


def test_attempts_of_one_known_address_are_limited_over_all_names(accounts: Accounts) -> None:
    accounts.by_address = True
    answers = [failed(accounts, f"name{number}", "1.2.3.4") for number in range(21)]
    assert [wait for _, wait in answers] == [0] * 20 + [30]
    assert accounts.login("ann", "correct horse", "5.6.7.8")


def test_an_own_login_does_not_give_new_tries_of_other_names(accounts: Accounts, clock: Clock) -> None:
    accounts.by_address = True
    waits = []
    for number in range(21):
        waits.append(failed(accounts, f"name{number}", "1.2.3.4")[1])
        if number in (4, 9, 14, 18):
            accounts.login("ann", "correct horse", "1.2.3.4")
    assert waits == [0] * 20 + [30]
    clock.seconds += 1 + 30 + 900
    assert failed(accounts, "name", "1.2.3.4")[1] == 0 == failed(accounts, "other", "1.2.3.4")[1], "forgotten"


def test_sessions_outlive_the_server_with_their_last_use(tmp_path: Path, accounts: Accounts, clock: Clock) -> None:
    token = accounts.login("ann", "correct horse", "1.2.3.4")
    clock.seconds += 11 * 3600
    assert accounts.user_of(token) == "ann"
    accounts.save()
    clock.seconds += 11 * 3600
    again = Accounts(tmp_path / "users", tmp_path / "sessions.sqlite", now=clock)
    assert again.user_of(token) == "ann"
    again.logout(token)
    assert Accounts(tmp_path / "users", tmp_path / "sessions.sqlite", now=clock).user_of(token) is None


def test_sessions_are_known_while_their_file_is_locked(tmp_path: Path, accounts: Accounts, clock: Clock) -> None:
    token = accounts.login("ann", "correct horse", "1.2.3.4")
    other = sqlite3.connect(tmp_path / "sessions.sqlite")
    other.execute("BEGIN EXCLUSIVE")
    try:
        clock.seconds += 3600
        start = time.monotonic()
        assert accounts.user_of(token) == "ann"
        assert time.monotonic() - start < 1
    finally:
        other.rollback()
        other.close()


def test_logins_and_logouts_while_their_file_cannot_be_written_are_saved_later(
    tmp_path: Path, accounts: Accounts, clock: Clock
) -> None:
    first = accounts.login("ann", "correct horse", "1.2.3.4")
    other = sqlite3.connect(tmp_path / "sessions.sqlite")
    other.execute("BEGIN EXCLUSIVE")
    accounts._database.read().execute("PRAGMA busy_timeout = 1")
    try:
        second = accounts.login("ann", "correct horse", "1.2.3.4")
        accounts.logout(first)
        assert [accounts.user_of(token) for token in (first, second)] == [None, "ann"]
        with pytest.raises(sqlite3.OperationalError):
            accounts.save()
    finally:
        other.rollback()
        other.close()
    accounts.save()
    again = Accounts(tmp_path / "users", tmp_path / "sessions.sqlite", now=clock)
    assert [again.user_of(token) for token in (first, second)] == [None, "ann"], "no session comes back to life"


def test_people_behind_one_address_log_in_at_the_same_time(tmp_path: Path, accounts: Accounts) -> None:
    names = [f"user{number}" for number in range(8)]
    for name in names:
        add_user(tmp_path / "users", name, "correct horse")
    with ThreadPoolExecutor(8) as people:
        tokens = list(people.map(lambda name: accounts.login(name, "correct horse", "1.2.3.4"), names))
    assert [accounts.user_of(token) for token in tokens] == names


def test_simultaneous_attempts_on_one_name_are_counted(accounts: Accounts) -> None:
    def guess(number: int) -> float:
        return failed(accounts, "ann", "1.2.3.4")[1]

    with ThreadPoolExecutor(12) as people:
        waits = list(people.map(guess, range(12)))
    assert sum(wait == 0 for wait in waits) == 5


def test_unknown_names_get_the_same_answer_at_the_same_cost(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[bytes] = []
    scrypt = hashlib.scrypt

    def counted(password: bytes, **options: int) -> bytes:
        hashed.append(password)
        return scrypt(password, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "scrypt", counted)
    assert failed(accounts, "ann", "a") == failed(accounts, "nobody", "b")
    assert len(hashed) == 2, "a name that nobody has costs as much"


def test_users_added_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    """Each change reads the whole file and writes it anew: unordered, a removed user could come back."""
    add_user(tmp_path / "users", "gone", "password 1")
    with ThreadPoolExecutor(6) as threads:
        added = [threads.submit(add_user, tmp_path / "users", f"user{n}", "password 1") for n in range(8)]
        removed = threads.submit(remove_user, tmp_path / "users", "gone")
        for one in [*added, removed]:
            one.result()
    assert sorted(read_users(tmp_path / "users")) == [f"user{n}" for n in range(8)]
    assert [path.name for path in tmp_path.iterdir()] == ["users"]
