"""Processes that decode images, shared fairly between callers: users of the review application, keys of the service."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from encoder.errors import ReadError
from encoder.reader.sandbox import Reader

HALF_LIFE_S: Final = 60.0
"""Time after which reading counts half."""
MUCH_S: Final = 2.0
"""Seconds of reading beyond which a caller shares all processes but one with the others beyond it."""
_LOOK_S: Final = 0.25


def always() -> bool:
    """Answer for images that are read to their end."""
    return True


@dataclass(eq=False)
class _Waiting:
    caller: str
    chosen: Reader | None = None


@dataclass
class _Used:
    """Seconds of reading of one caller, which fade."""

    seconds: float = 0.0
    at: float = 0.0

    def now(self, now: float) -> float:
        return float(self.seconds * 0.5 ** ((now - self.at) / HALF_LIFE_S))

    def add(self, seconds: float, now: float) -> None:
        self.seconds, self.at = self.now(now) + seconds, now


class Readers:
    """Processes that decode images.

    The next process goes to the caller who has used the least time lately. Callers whose images took long share all
    processes but one, so that damaged or hostile images of some do not stop those of others.

    Args:
        processes: images that are decoded at a time.
        each: images of one caller at a time; None does not limit them.
        now: returns the current time in seconds.
    """

    def __init__(self, processes: int = 2, each: int | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._readers = [Reader() for _ in range(processes)]
        self._free, self._each, self._now = list(self._readers), each, now
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._running, self._used = Counter[str](), dict[str, _Used]()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def turn(self, caller: str, wanted: Callable[[], bool] = always) -> Iterator[Reader]:
        """Wait for a process, and hold it.

        Args:
            caller: whose image it is.
            wanted: returns False if nobody waits for the image any more; looked at while it waits for its turn, and
                while it is decoded.

        Raises:
            ReadError: if it is no longer wanted.
        """
        mine = _Waiting(caller)
        with self._changed:
            self._waiting.append(mine)
            self._give()
            while mine.chosen is None:
                self._changed.wait(_LOOK_S)
                if mine.chosen is None and not wanted():
                    self._waiting.remove(mine)
                    raise ReadError("abandoned", "nobody waits for the image any more")
        begun, mine.chosen.wanted = self._now(), wanted
        try:
            yield mine.chosen
        finally:
            mine.chosen.wanted = always
            with self._changed:
                ended = self._now()
                self._used.setdefault(caller, _Used(at=ended)).add(ended - begun, ended)
                self._running[caller] -= 1
                self._free.append(mine.chosen)
                self._forget(ended)
                self._give()

    def close(self) -> None:
        """End the processes after their current images."""
        for reader in self._readers:
            reader.close()

    def _give(self) -> None:
        """Give free processes to those who wait."""
        now, given = self._now(), False
        while self._free and (waiting := self._next(now)) is not None:
            waiting.chosen, given = self._free.pop(), True
            self._waiting.remove(waiting)
            self._running[waiting.caller] += 1
        if given:
            self._changed.notify_all()

    def _next(self, now: float) -> _Waiting | None:
        """Return who gets the next free process; None if nobody may have it."""
        if not self._waiting:
            return None
        used = {one.caller: self._used.get(one.caller, _Used()).now(now) for one in self._waiting}
        much = sum(
            count for caller, count in self._running.items() if self._used.get(caller, _Used()).now(now) > MUCH_S
        )
        shared = max(1, len(self._readers) - 1)
        able = [
            one for one in self._waiting
            if (self._each is None or self._running[one.caller] < self._each)
            and (used[one.caller] <= MUCH_S or much < shared)
        ]  # fmt: skip
        return min(able, key=lambda one: (self._running[one.caller], used[one.caller]), default=None)

    def _forget(self, now: float) -> None:
        """Drop callers who have not read for long."""
        if len(self._used) > 1000:
            self._used = {caller: used for caller, used in self._used.items() if used.now(now) > 0.01}
        self._running = +self._running
