"""Threads for each kind of work, shared fairly: one call per user at a time, in the order of arrival."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_LOOK_S: Final = 0.25
"""Time between two looks whether the connection of a waiting call is still open."""


class ConnectionClosed(Exception):
    """The connection of a waiting call was closed: nobody waits for its result."""


class Lane:
    """Threads for one kind of work.

    Args:
        name: of the threads.
        threads: number of calls of different users at a time.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._users: dict[str, tuple[asyncio.Lock, list[object]]] = {}

    async def run(
        self, user: str, closed: Callable[[], Awaitable[bool]], call: Callable[P, T], *args: P.args, **more: P.kwargs
    ) -> T:
        """Run a call in a thread, after the user's earlier calls.

        Args:
            user: who may have one call at a time.
            closed: returns True if the connection is closed: a call that has not begun is then dropped, as is the
                result of one that has. The user's turn lasts until its thread is free.
            call: to be run.
            args: of the call.
            more: keyword arguments of the call.

        Raises:
            ConnectionClosed: if the connection is closed before the call ends.
        """
        lock, waiting = self._users.setdefault(user, (asyncio.Lock(), []))
        mine = object()
        waiting.append(mine)
        try:
            await _acquire(lock, closed)
            try:
                if await closed():
                    raise ConnectionClosed
                running = asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*args, **more))
                try:
                    gone = False
                    while not (await asyncio.wait([running], timeout=_LOOK_S))[0]:
                        gone = gone or await closed()
                    if gone:
                        running.exception()
                        raise ConnectionClosed
                    return running.result()
                except asyncio.CancelledError:
                    await asyncio.wait([running])
                    raise
            finally:
                lock.release()
        finally:
            waiting.remove(mine)
            if not waiting:
                self._users.pop(user, None)

    def close(self) -> None:
        """End the threads after their current calls."""
        self._executor.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Lanes:
    """Threads of the routes, so that one kind of work does not wait for another.

    Attributes:
        archive: of studies that are fetched from the archive, which may be slow.
        reading: of uploaded images; threads wait for a process that decodes.
        saving: of steps of reviews and requests of drafts.
        drafts: the progress of drafts.
        images: pixels and previews.
        maps: attention maps, one at a time.
        exports: documents, exports and statistics.
    """

    archive: Lane = field(default_factory=lambda: Lane("archive", 4))
    reading: Lane = field(default_factory=lambda: Lane("reading", 64))
    saving: Lane = field(default_factory=lambda: Lane("saving", 8))
    drafts: Lane = field(default_factory=lambda: Lane("drafts", 2))
    images: Lane = field(default_factory=lambda: Lane("images", 3))
    maps: Lane = field(default_factory=lambda: Lane("maps", 1))
    exports: Lane = field(default_factory=lambda: Lane("exports", 2))


class Connection:
    """Connection of a call, for the event loop and for the thread that the call runs in.

    Args:
        closed: returns True if it is closed.
    """

    def __init__(self, closed: Callable[[], Awaitable[bool]]) -> None:
        self._closed, self._seen = closed, threading.Event()

    async def closed(self) -> bool:
        """Look whether it is closed; on the event loop."""
        if await self._closed():
            self._seen.set()
        return self._seen.is_set()

    def open(self) -> bool:
        """Return False once it was seen closed; in any thread."""
        return not self._seen.is_set()


async def never() -> bool:
    """Answer for calls that run even if their connection is closed, such as saving."""
    return False


async def _acquire(lock: asyncio.Lock, closed: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a lock as long as the connection is open."""
    acquiring = asyncio.ensure_future(lock.acquire())
    try:
        while not (await asyncio.wait([acquiring], timeout=_LOOK_S))[0]:
            if await closed():
                raise ConnectionClosed
    except BaseException:
        if not acquiring.cancel() and not acquiring.cancelled() and acquiring.result():
            lock.release()
        raise
