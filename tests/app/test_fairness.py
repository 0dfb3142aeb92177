"""Fairness: the work of one user, and a disk or database that refuses, do not stop the others."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.accounts import add_user
from app.database import BUSY_S
from app.lanes import ConnectionClosed, Lane, never
from app.requests import _not_saved
from app.security import HEADERS
from scripts.soak.serving import Client, Served, picture, served
from tests.app.reviews import act, study_of

pytestmark = pytest.mark.acceptance(row=30)

# threads of one kind of work


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.001)


def test_a_user_has_one_call_at_a_time_and_others_do_not_wait() -> None:
    lane, order, gate = Lane("test", 2), list[str](), threading.Event()

    def work(name: str) -> None:
        order.append(name)
        if name.startswith("ann"):
            gate.wait(60)

    async def all_of() -> None:
        anns = [asyncio.ensure_future(lane.run("ann", never, work, f"ann {n}")) for n in range(20)]
        await until(lambda: order == ["ann 0"])
        await asyncio.wait_for(lane.run("bob", never, work, "bob"), 60)
        assert order == ["ann 0", "bob"]
        gate.set()
        await asyncio.gather(*anns)

    asyncio.run(all_of())
    assert order[2:] == [f"ann {n}" for n in range(1, 20)], "in the order of arrival"


def test_calls_of_closed_connections_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.lanes._LOOK_S", 0.01)
    lane, done, gate, gone, seen = Lane("test", 2), list[int](), threading.Event(), set[int](), set[int]()

    def closed(number: int) -> Callable[[], Awaitable[bool]]:
        async def answer() -> bool:
            if number in gone:
                seen.add(number)
            return number in gone

        return answer

    def work(number: int) -> None:
        done.append(number)
        gate.wait(60)

    async def all_of() -> list[object]:
        calls = [asyncio.ensure_future(lane.run("ann", closed(n), work, n)) for n in range(5)]
        await until(lambda: done == [0])
        gone.update({0, 1, 3})
        await until(lambda: 0 in seen and calls[1].done() and calls[3].done())
        calls[2].cancel()
        gate.set()
        return list(await asyncio.gather(*calls, return_exceptions=True))

    outcomes = asyncio.run(all_of())
    assert done == [0, 4], "what has begun ends and its result is dropped, what waits is dropped"
    assert [type(one) for one in outcomes] == [
        ConnectionClosed, ConnectionClosed, asyncio.CancelledError, ConnectionClosed, type(None)
    ]  # fmt: skip
    assert lane._users == {}


# a server under the load of one user


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fair")
    for name in ("ann", "bob"):
        add_user(folder / "users", name, f"{name}'s secret")
    with served(folder, "--auth-file", str(folder / "users")) as running:
        yield running


def logged_in(shared: Served, name: str) -> Client:
    client = shared.client()
    assert client.login(name, f"{name}'s secret").status == 303
    return client


@contextmanager
def open_requests(
    client: Client, count: int, method: str, path: str, body: bytes = b"", size: int = 0
) -> Iterator[None]:
    """Requests whose answers nobody reads; with a ``size``, bodies that never end."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\nx-llava-rad: 1\r\n"
        f"Cookie: llava_rad_session={client.cookie}\r\nContent-Length: {size or len(body)}\r\n\r\n"
    ).encode()
    sockets = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(count)]
    try:
        for one in sockets:
            one.sendall(head + body)
        yield
    finally:
        for one in sockets:
            one.close()


@pytest.mark.slow
def test_uploads_and_maps_of_one_user_do_not_slow_another(shared: Served) -> None:
    ann, bob = logged_in(shared, "ann"), logged_in(shared, "bob")
    large = ann.study(picture(6, 1500))
    drawn = ann.drafted(ann.study(picture(1, 512))["id"])["id"]
    state = bob.study(picture(2))
    seconds: dict[str, list[float]] = {"login": [], "me": [], "save": []}
    start = time.monotonic()
    logged_in(shared, "bob")
    alone = time.monotonic() - start  # a slower machine is given more time
    with (
        open_requests(ann, 40, "POST", "/api/studies", picture(3)[:100], size=1 << 20),
        open_requests(ann, 120, "GET", f"/api/studies/{drawn}/evidence?sentence=s1"),
        open_requests(ann, 40, "POST", "/api/studies", picture(4, 2000)),
        open_requests(ann, 120, "GET", f"/api/studies/{large['id']}/image/{large['image']['id']}?planes=true"),
    ):
        for number in range(5):
            start = time.monotonic()
            logged_in(shared, "bob")
            seconds["login"].append(time.monotonic() - start)
            start = time.monotonic()
            assert bob.call("GET", "/api/me").status == 200
            seconds["me"].append(time.monotonic() - start)
            start = time.monotonic()
            answer = bob.act(state, "field", field="indication", text=f"Cough {number}.")
            seconds["save"].append(time.monotonic() - start)
            assert answer.status == 200
            state = answer.json()
    middle = {name: sorted(found)[2] for name, found in seconds.items()}
    assert max(middle.values()) < 1 + 10 * alone, seconds  # other work on the machine may delay single ones
    end = time.monotonic() + 30
    while ann.call("GET", "/api/me").status == 200:
        start = time.monotonic()
        assert ann.call("GET", f"/api/studies/{drawn}/evidence?sentence=s1").status == 200
        if time.monotonic() - start < 10:
            break
        assert time.monotonic() < end, "the maps of closed connections are still being computed"


@pytest.mark.slow
def test_a_locked_database_leaves_reading_and_says_what_is_wrong(shared: Served) -> None:
    client = logged_in(shared, "bob")
    state = client.study(picture(5))
    other = sqlite3.connect(shared.data / "reviews.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with ThreadPoolExecutor(12) as people:
            begun = time.monotonic()
            saves = [people.submit(client.act, state, "field", field="indication", text="x") for _ in range(2)]
            time.sleep(0.2)
            for path in ("/api/me", "/api/studies", f"/api/studies/{state['id']}", "/", "/health"):
                start = time.monotonic()
                assert client.call("GET", path).status == 200
                assert time.monotonic() - start < 3, path
            for save in saves:
                answer = save.result()
                assert answer.status == 503 and "used by another program" in answer.json()["error"]
                assert set(HEADERS) <= set(answer.headers) and "\n" not in answer.json()["error"]
            assert time.monotonic() - begun < 3 * BUSY_S + 5
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert client.act(state, "field", field="indication", text="x").status == 200


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (OSError(28, "No space left on device"), 507, "disk is full"),
        (OSError(122, "Disk quota exceeded"), 507, "disk is full"),
        (sqlite3.OperationalError("database or disk is full"), 507, "disk is full"),
        (sqlite3.OperationalError("database is locked"), 503, "another program"),
        (sqlite3.OperationalError("attempt to write a readonly database"), 503, "cannot be written"),
        (OSError(5, "Input/output error"), 500, "something went wrong"),
        (sqlite3.IntegrityError("UNIQUE"), 500, "something went wrong"),
    ],
    ids=["disk", "quota", "database", "locked", "read-only", "other", "fault"],
)
def test_errors_of_disk_and_database_have_a_status(raised: Exception, status: int, said: str) -> None:
    answer = _not_saved(None, raised)  # type: ignore[arg-type]
    assert answer.status_code == status and said in bytes(answer.body).decode()


def test_a_full_database_can_be_read(tmp_path: Path) -> None:
    """SQLite's own limit of pages stands for the disk: a file system cannot be made without privileges."""
    from app.store import Store

    store = Store(tmp_path / "reviews.sqlite")
    study = study_of(store)
    pages = store._database.read().execute("PRAGMA page_count").fetchone()[0]
    store._database.read().execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.Error) as full:
        for _ in range(500):
            act(store, study, "field", field="indication", text="x" * 4000)
    assert _not_saved(None, full.value).status_code == 507  # type: ignore[arg-type]
    assert store.state("ann", study)["id"] == study and store.check() == []
