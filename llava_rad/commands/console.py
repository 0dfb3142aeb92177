"""Messages on standard error: notes, errors, progress. Standard output is reserved for results."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from encoder.errors import LlavaRadError, printable
from encoder.runs.progress import ProgressLines

if TYPE_CHECKING:
    from llava_rad.generation.sources import Source
    from metrics.base import MetricError

DEBUG = "LLAVA_RAD_DEBUG"
STDOUT_ERROR = "standard output cannot be written"
_LIMITS = "free memory, or a higher limit of it (ulimit -v, the container's) is needed"


def debugging() -> bool:
    """Tell whether tracebacks are requested. They may quote a file's header."""
    return os.environ.get(DEBUG, "") not in {"", "0"}


def note(message: str) -> None:
    """Write one line to standard error; nothing if it is closed."""
    _put(f"llava-rad: {printable(message)}\n")


def warn_of_slow_type(dtype: str, device: str, advice: str = "use --dtype float32") -> None:
    """Note that a type was asked for in which this processor takes many times as long.

    Raises:
        LlavaRadError: if there is no such device.
    """
    if dtype != "bfloat16":
        return
    import torch

    from encoder.runs.processor import slow_type
    from llava_rad.generation.engine import choose_device

    if slow := slow_type(torch.bfloat16, choose_device(device)):
        note(f"warning: {slow}: {advice}")


def hint(advice: str) -> None:
    """Write the line of advice below an error."""
    _put(f"  hint: {printable(advice)}\n")


def _put(line: str) -> None:
    if sys.stderr is None:
        return
    with suppress(OSError, ValueError):  # closed, or nobody reads it any more
        sys.stderr.write(line)
        sys.stderr.flush()


def show_error(error: LlavaRadError | MetricError, *, of: str = "") -> None:
    """Write an error in one line and, below it, its hint."""
    note(f"error: {of}{error}")
    if error.hint:
        hint(error.hint)


def name_of(source: Source, total: int, sha256: str | None, *, show_paths: bool) -> str:
    """Name an input in messages by position and SHA-256, by its path only with ``--show-paths``."""
    name = f"input {source.number} of {total}"
    if show_paths and source.path is not None:
        return f"{name} ({source.path})"
    return f"{name} (sha256 {sha256[:12]})" if sha256 else name


def bar(what: str, total: int) -> Callable[[int], None]:
    """Show progress on standard error, a bar or lines; call the result with the number of steps done."""
    if not sys.stderr.isatty():
        return ProgressLines(total, what).update
    from tqdm import tqdm

    shown = tqdm(total=total, desc=what, file=sys.stderr, leave=False)

    def advance(done: int) -> None:
        shown.update(done)
        if shown.n >= total:
            shown.close()

    return advance


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Redirect to standard error whatever libraries and their child processes write to standard output."""
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
    """Defer an interrupt (Ctrl-C) to the end of a short block that must not be left half done."""
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


class _StandardOutput:
    """Standard output whose own errors are told from those of other files; a reader that has enough is none."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._told():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._told():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            with suppress(OSError, ValueError):  # what is left in the buffer would fail again at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), self._stream.fileno())
            raise LlavaRadError(f"{STDOUT_ERROR} ({os.strerror(error.errno or 0)})") from error


@contextmanager
def standard_output() -> Iterator[None]:
    """Make errors of writing to standard output a ``LlavaRadError`` that says so."""
    before = sys.stdout
    sys.stdout = cast("TextIO", _StandardOutput(before))
    try:
        yield
    finally:
        sys.stdout = before


def explained(error: Exception) -> LlavaRadError | None:
    """Explain an error of the machine: home directory, temporary folder, memory, threads, libraries."""
    if line_of(error).startswith("tempfile,") and isinstance(error, FileNotFoundError):
        return LlavaRadError("there is no writable temporary folder", hint="set TMPDIR to one")
    if isinstance(error, RuntimeError) and str(error) == "Could not determine home directory.":
        return LlavaRadError(
            "the home directory is unknown, in which caches are kept", hint="set HOME, or XDG_CACHE_HOME and HF_HOME"
        )
    said = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in said):
        return LlavaRadError("there is not enough memory", hint=_LIMITS)
    if isinstance(error, RuntimeError) and said == "can't start new thread":
        return LlavaRadError(
            "no further thread can be started", hint="ulimit -u, or the container's limit of processes"
        )
    if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError):  # of a shared object
        return LlavaRadError(f"a library cannot be loaded: {said}", hint=f"install it again; or {_LIMITS}")
    if isinstance(error, RuntimeError) and said == "Failed to initialize cpuinfo!":
        return LlavaRadError("PyTorch cannot read /proc/cpuinfo", hint="mount /proc")
    return None


def line_of(error: BaseException) -> str:
    """Module and line in which an error was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "an unknown module"
    return f"{traceback.tb_frame.f_globals.get('__name__', '?')}, line {traceback.tb_lineno}"
