"""Locks of files and folders that two processes could write to; a lock ends with its process, however it ends."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from encoder.errors import LlavaRadError

_PATIENCE = 30.0
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_LOOK_S = 0.2
"""Time between two attempts to get a lock."""


@contextlib.contextmanager
def locked(path: Path, *, busy: str | None = None, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file; it is released when the block or the process ends, however it ends.

    On file systems that know no locks the block runs without one.

    Args:
        path: of the lock file, which is made and holds nothing.
        busy: message of the error if another process holds the lock; None waits for it.
        waiting: called when the wait begins, and every half minute.

    Raises:
        LlavaRadError: if another process holds the lock.
        OSError: if the lock file cannot be made.
    """
    from filelock import FileLock, Timeout

    lock, timeout = FileLock(path), 0.0
    try:
        while not lock.is_locked:
            try:
                lock.acquire(timeout=timeout)
            except Timeout:
                if busy is not None:
                    raise LlavaRadError(busy) from None
                waiting()
                timeout = _PATIENCE
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        yield
        return
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def locked_folder(folder: Path, *, busy: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder of results; no file is made in it. It is released when the process ends, however it ends.

    A missing folder is made, so that two first runs exclude each other, and removed if nothing was written to it. A
    folder that cannot be made or opened is not held: whoever writes to it reports the error.

    Args:
        folder: the folder.
        busy: message of the error if another process holds it.
        patience: seconds to wait for it. Workers of a killed process live a few seconds longer and hold it, too.

    Raises:
        LlavaRadError: if another process holds it.
    """
    made = False

    def make() -> bool:
        """Make the folder, which its last holder may have removed; return False if it cannot be there."""
        nonlocal made
        try:
            folder.mkdir(parents=True)
            made = True
        except FileExistsError:
            return not folder.is_symlink() or folder.exists()
        except (OSError, ValueError):  # ValueError: a NUL in the name
            return False
        return True

    with _held(folder, os.O_RDONLY, busy, patience, make):
        try:
            yield
        finally:
            if made:
                with contextlib.suppress(OSError):  # it is not empty
                    folder.rmdir()


@contextlib.contextmanager
def locked_output(path: Path, *, busy: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the name of an output that is replaced in one step, whether it exists or not.

    A hidden file beside it is locked, and removed at the end. If that file cannot be made the name is not held: whoever
    writes the output reports the error.

    Args:
        path: of the output file or folder.
        busy: message of the error if another process holds it.
        patience: seconds to wait for it.

    Raises:
        LlavaRadError: if another process holds it.
    """
    lock = path.parent / f".llava-rad-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.lock"
    with _held(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), busy, patience) as held:
        try:
            yield
        finally:
            if held:
                with contextlib.suppress(OSError):
                    lock.unlink()


@contextlib.contextmanager
def _held(
    path: Path, flags: int, busy: str, patience: float, make: Callable[[], bool] = lambda: False
) -> Iterator[bool]:
    """Hold a file or folder by a lock of its descriptor; give False if it cannot be opened or knows no locks.

    Its last holder may have removed it before it let go: a lock counts if the name still is what was locked.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield False
        return
    until, handle, held = time.monotonic() + patience, -1, False
    try:
        while not held:
            there = make()
            try:
                handle = os.open(path, flags | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                if there:  # removed in between
                    continue
                break
            except (OSError, ValueError):
                break
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise LlavaRadError(busy) from None
                time.sleep(_LOOK_S)
            except OSError as error:
                if error.errno not in {*_NO_LOCKS, errno.EBADF, errno.EINVAL}:
                    raise
                break
            else:
                held = _is(path, handle)
            if not held:
                os.close(handle)
                handle = -1
        yield held
    finally:
        if handle >= 0:
            os.close(handle)


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
