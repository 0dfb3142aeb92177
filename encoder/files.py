"""Durable files: atomic writes, appended lines and hashes. The only place that does these; locks are in locks.py.

A file or folder that is written here is complete or absent after a crash at any moment: content goes to a temporary
name in the same folder, reaches the disk (fsync), is renamed, and the folder's entry reaches the disk too.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal, overload

from encoder.errors import LlavaRadError
from encoder.json_files import read_json
from encoder.units import gigabytes

TEMPORARY = ".tmp"
"""Suffix of files and folders that are being written, or left over from a killed process: never read."""
DIGESTS = "digests.json"
"""Name of the memory of :class:`Digests` in a folder of results or of vectors."""
_ANY_SIZE = 1 << 40  # a million files take 200 MB
_OLD = ".old"
_SETTLED_NS = 2_000_000_000  # the coarsest time stamps of file systems in use (FAT)
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def sha256_of(path: str | Path | int) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Args:
        path: of the file, or an open descriptor, which is read from the start without moving its position.

    Raises:
        OSError: if it cannot be read.
    """
    if not isinstance(path, int):
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest, position = hashlib.sha256(), 0
    while block := os.pread(path, 1 << 20, position):
        digest.update(block)
        position += len(block)
    return digest.hexdigest()


class Digests:
    """SHA-256 of the contents of files, which are read again only if size, times or inode differ from the last reading.

    The time of the last change of status (``ctime``) is one of these, since any program can set the modification time.
    Files that changed within two seconds before a reading are read again the next time: a later change could have the
    same time stamp.

    Args:
        memory: file of the digests known so far, which :meth:`save` writes; None for none. Files are named in it by the
            hash of their path, since paths may identify patients.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._new = False
        self._known: dict[str, list[int | str]] = {}
        if memory is not None:
            with contextlib.suppress(OSError, ValueError):  # absent or damaged: everything is read again
                content = read_json(memory, limit=_ANY_SIZE)
                self._known = content if isinstance(content, dict) else {}

    def of(self, paths: Iterable[Path], progress: Callable[[int], None] = lambda number: None) -> list[str]:
        """Return the SHA-256 of each file, in hexadecimal; "" if it cannot be read or is no regular file.

        Args:
            paths: of N files; repeated ones are read once.
            progress: called with numbers of completed files, N in all.
        """
        paths = list(paths)
        found: dict[Path, str] = {}
        left = iter(dict.fromkeys(paths))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while some := list(itertools.islice(left, 64)):  # few at a time, so that Ctrl-C need not wait for all
                found |= zip(some, pool.map(self._one, some), strict=True)
                progress(len(some))
        progress(len(paths) - len(found))
        return [found[path] for path in paths]

    def save(self) -> None:
        """Write what is known to the memory, whose folder is made if it is missing.

        A memory that cannot be written only costs time, so that it is no error.
        """
        if self._memory is not None and self._new:
            with contextlib.suppress(OSError):
                self._memory.parent.mkdir(parents=True, exist_ok=True)
                write(self._memory, json.dumps(self._known, separators=(",", ":")) + "\n")
                self._new = False

    def _one(self, path: Path) -> str:
        name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a FIFO would be waited for
                return ""
            state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            known = self._known.get(name)
            if isinstance(known, list) and known[:-1] == state and isinstance(known[-1], str):
                return known[-1]
            settled = time.time_ns() - status.st_ctime_ns > _SETTLED_NS
            digest = sha256_of(path)
        except (OSError, ValueError):  # ValueError: a NUL in the path
            return ""
        if settled:
            self._known[name], self._new = [*state, digest], True
        return digest


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk.

    File systems that cannot sync a folder are left alone.

    Raises:
        OSError: if it cannot be opened or synchronised.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def reported(what: str) -> Iterator[None]:
    """Turn an ``OSError`` of the block into ``LlavaRadError``: "WHAT cannot be written (No space left on device)".

    Names of files that are no UTF-8 are errors too: a table in UTF-8 cannot hold them.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise LlavaRadError(
            f"{what} cannot be written: a name of a file in it is not UTF-8", hint="rename the file"
        ) from error
    except OSError as error:
        raise LlavaRadError(f"{what} cannot be written ({os.strerror(error.errno or 0)})") from error


def check_writable(folder: Path) -> None:
    """Check that a folder of results can be made, or written to if it is there, before anything is computed for it.

    A hidden folder is made for a moment: permissions alone do not tell whether a file system takes files.

    Raises:
        LlavaRadError: if it cannot.
    """
    folder = folder.absolute()
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            folder.lstat()  # refuses a name that is too long
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir():
            raise LlavaRadError("the output is a file" if there == folder else "the output's folder is a file")
        tried = _temporary(there / "tried")
        tried.mkdir()
        tried.rmdir()
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise LlavaRadError("the output's folder is read-only") from error
        raise LlavaRadError(f"the output cannot be used ({os.strerror(error.errno or 0)})") from error


def check_room(folder: Path, needed: int, what: str, hint: str) -> None:
    """Check that a disk has room.

    Raises:
        LlavaRadError: "WHAT needs at least 9.0 GB, its disk has 1.0 GB free", with the hint.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise LlavaRadError(
            f"{what} needs at least {gigabytes(needed)}, its disk has {gigabytes(free)} free", hint=hint
        )


@overload
def writing(
    path: Path, mode: Literal["w"], *, overwrite: bool = ..., permissions: int = ...
) -> contextlib.AbstractContextManager[IO[str]]: ...
@overload
def writing(
    path: Path, mode: Literal["wb"] = ..., *, overwrite: bool = ..., permissions: int = ...
) -> contextlib.AbstractContextManager[IO[bytes]]: ...
@contextlib.contextmanager
def writing(
    path: Path, mode: Literal["w", "wb"] = "wb", *, overwrite: bool = True, permissions: int = 0o666
) -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name when the block ends, whole, and not at all if it raises.

    Args:
        path: of the file; links are replaced, not followed.
        mode: text (UTF-8, line ends as written) or bytes.
        overwrite: an existing file is replaced; otherwise ``FileExistsError`` is raised, also if it appeared meanwhile.
        permissions: before the umask.

    Raises:
        OSError: it cannot be written; the earlier content stays.
    """
    temporary = _temporary(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | os.O_CLOEXEC
    handle = os.open(temporary, flags, permissions)
    text = {} if mode == "wb" else {"encoding": "utf-8", "newline": ""}
    try:
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload] # a mode that is not literal
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def writing_path(path: Path) -> Iterator[Path]:
    """Give a path for a library to write to; when the block ends the file is synchronised and renamed to ``path``.

    Raises:
        OSError: it cannot be written; the earlier content stays.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def _temporary(path: Path) -> Path:
    """Return a new hidden name in the same folder; it does not contain the name, which may be of the longest length."""
    return path.with_name(f".llava-rad-{secrets.token_hex(8)}{TEMPORARY}")


def write(path: Path, data: bytes | str, *, overwrite: bool = True, permissions: int = 0o666) -> None:
    """Write a whole file in one step; see :func:`writing`."""
    with writing(path, "wb", overwrite=overwrite, permissions=permissions) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name; unlike a rename this fails if a file of that name appeared meanwhile."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
            raise
        if path.exists():  # a file system without hard links
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.replace(path)


@contextlib.contextmanager
def writing_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target``; when the block ends it takes the place of ``target``, synchronised.

    Files and folders in it become readable for all (temporary folders and safetensors files are private to their
    owner). If the block raises, ``target`` stays as it was.

    Raises:
        OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = _temporary(target)
    folder.mkdir()
    try:
        yield folder
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        publish_folder(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish_folder(temporary: Path, target: Path) -> None:
    """Synchronise a finished folder and rename it to ``target``.

    One folder cannot be renamed onto another: an existing one steps aside as ``NAME.old`` and is removed after the
    rename, so that one of the two is whole at any moment.
    """
    for path in [*temporary.rglob("*"), temporary]:
        sync(path)
    old = target.with_name(target.name + _OLD)
    if target.exists():
        if old.exists():
            shutil.rmtree(old)
        target.rename(old)
    temporary.rename(target)
    sync(target.parent)
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)


class LineFile:
    """A file of lines that only grows; every line that ``append`` returned from survives a crash.

    A half-written last line, left by a machine that went down, is cut off by the first ``append``. While it is open no
    other process can open it.

    Args:
        path: of the file, made if missing; a symbolic link is refused (``OSError``).
        busy: message of the error if another process has it open.

    Raises:
        LlavaRadError: another process has it open.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, *, busy: str) -> None:
        self.path = path
        self.new = not path.exists()
        self._stack = contextlib.ExitStack()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | os.O_CLOEXEC, 0o666)
        self._stack.callback(os.close, self._handle)
        try:
            self._lock(busy)
            content = path.read_bytes()
        except BaseException:
            self._stack.close()
            raise
        self._end = content.rfind(b"\n") + 1
        self._cut = len(content) > self._end

    def _lock(self, busy: str) -> None:
        # the descriptor itself is locked: a lock file beside a user's output would stay there
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LlavaRadError(busy) from None

    @property
    def size(self) -> int:
        """Bytes of all complete lines."""
        return self._end

    def lines(self) -> list[bytes]:
        """The complete lines, with their line ends."""
        return os.pread(self._handle, self._end, 0).splitlines(keepends=True)

    def clear(self) -> None:
        """Forget all lines; the file is emptied by the next ``append``."""
        self._cut, self._end = True, 0

    def append(self, data: bytes) -> None:
        """Add whole lines and wait until they are on the disk.

        Raises:
            OSError: the disk refuses; what was there before stays.
        """
        if self._cut:
            os.ftruncate(self._handle, self._end)
            self._cut = False
        view, at = memoryview(data), self._end
        while view:
            count = os.pwrite(self._handle, view, at)
            view, at = view[count:], at + count
        os.fsync(self._handle)
        self._end = at

    def close(self) -> None:
        """Release the file; one that was made here and holds nothing is removed."""
        if self.new and not self._end:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._stack.close()

    def __enter__(self) -> LineFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
