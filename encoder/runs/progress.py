"""Progress of long runs on standard error, at a terminal and without one, and stop signals."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERVAL = 30.0
"""Seconds between two lines of progress, where standard error is no terminal."""


class ProgressLines:
    """Lines of progress for logs, in place of a bar: one at the first step that is done half a minute after the last.

    It has the attribute and the methods of tqdm's bar that the project uses.

    Args:
        total: number of steps.
        name: of the task.
        initial: steps done before.
        clock: seconds.
    """

    def __init__(self, total: int, name: str, initial: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.name, self.n = total, name, initial
        self._initial, self._clock, self._numbers = initial, clock, ""
        self._started = self._told = clock()

    def update(self, steps: int = 1) -> None:
        """Count completed steps, and write a line if it is time."""
        self.n += steps
        now = self._clock()
        if now - self._told < INTERVAL or self.n >= self.total:
            return
        self._told = now
        line = f"llava-rad: {self.name}: {self.n:,} of {self.total:,}"
        if rate := (self.n - self._initial) / (now - self._started):
            left = round((self.total - self.n) / rate)
            speed = f"{rate:.1f} per second" if rate >= 1 else f"{1 / rate:.1f} seconds each"
            line += f", {speed}, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        sys.stderr.write(f"{line}{self._numbers}\n")
        sys.stderr.flush()

    def set_postfix(self, **numbers: str) -> None:
        """Set the numbers that end a line."""
        self._numbers = "".join(f", {name} {value}" for name, value in numbers.items())

    def clear(self) -> None:
        """Do nothing: a line stays."""

    def refresh(self) -> None:
        """Do nothing: a line stays."""


@contextmanager
def progress_bar(total: int, name: str, wanted: bool, initial: int = 0) -> Iterator[Any]:
    """Show progress on standard error if ``wanted``: tqdm's bar at a terminal, else :class:`ProgressLines`."""
    if wanted and not sys.stderr.isatty():
        yield ProgressLines(total, name, initial)
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=initial, desc=name, disable=not wanted, file=sys.stderr) as bar:
        yield bar


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the current step can be finished and saved.

    Yields:
        The received signals; a second one raises KeyboardInterrupt at once.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        yield came
        return
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
