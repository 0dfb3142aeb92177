"""Progress bar and stop signals of a run at a terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def progress_bar(total: int, name: str, wanted: bool, initial: int = 0) -> Iterator[Any]:
    """Show tqdm's bar on stderr, if that is a terminal and ``wanted``."""
    from tqdm import tqdm

    with tqdm(total=total, initial=initial, desc=name, disable=None if wanted else True, file=sys.stderr) as bar:
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
