"""What a person sees on standard error. Results go to standard output and nowhere else."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encoder.errors import LlavaRadError
    from llava_rad.generation.sources import Source
    from metrics.errors import MetricError

DEBUG = "LLAVA_RAD_DEBUG"


def debugging() -> bool:
    """Whether tracebacks are wanted. They may quote what a file's header says."""
    return os.environ.get(DEBUG, "") not in {"", "0"}


def note(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"llava-rad: {message}\n")
    sys.stderr.flush()


def show_error(error: LlavaRadError | MetricError, *, of: str = "") -> None:
    """The one-line error and, below it, what to do."""
    note(f"error: {of}{error}")
    if error.hint:
        sys.stderr.write(f"  hint: {error.hint}\n")


def name_of(source: Source, total: int, sha256: str | None, *, show_paths: bool) -> str:
    """How messages call an input: by position and SHA-256; by its path only where asked for."""
    called = f"input {source.number} of {total}"
    if show_paths and source.path is not None:
        return f"{called} ({source.path})"
    return f"{called} (sha256 {sha256[:12]})" if sha256 else called


def bar(what: str, total: int) -> Callable[[int], None]:
    """A progress bar on standard error, where that is a terminal; the result is told the number of steps done."""
    if not sys.stderr.isatty():
        return lambda done: None
    from tqdm import tqdm

    shown = tqdm(total=total, desc=what, file=sys.stderr, leave=False)

    def advance(done: int) -> None:
        shown.update(done)
        if shown.n >= total:
            shown.close()

    return advance


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What libraries and their child processes write to standard output goes to standard error."""
    sys.stdout.flush()
    before = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(before, 1)
        os.close(before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put an interrupt (Ctrl-C) off until the end of a short piece of work that must not be left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, Any]] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])
