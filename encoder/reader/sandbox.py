"""Decoding of untrusted image files in a child process with limits on memory and time.

:class:`Reader` starts one warm server process (:mod:`encoder.reader.sandbox_worker`), which forks a fresh worker for
every
image. The parent opens the file, so that every trick with paths ends here, and hands over the open descriptor; it
imports neither pydicom nor Pillow. Nothing but JSON and raw arrays comes back.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from encoder.errors import ReadError
from encoder.files import sha256_of
from encoder.reader.identity import Identity
from encoder.reader.radiograph import ImageFacts, PreparedImage, Radiograph, Window

if TYPE_CHECKING:
    from types import TracebackType

    from encoder.preprocessing import Recipe

MAX_FILE_BYTES = 256 << 20
START_TIMEOUT_S = 120.0  # imports on a busy machine
MAX_REPLY_HEADER = 1 << 20
MAX_PIXEL_BYTES = 128 << 20  # 64 Mi pixels of 2 bytes


class Reader:
    """Reads image files in a limited child process.

    Args:
        timeout_s: longest time for one image.
        memory_bytes: address space that one worker may use.

    The constructor returns at once; the child does its imports meanwhile. Thread-safe: one image at a time.
    """

    def __init__(self, *, timeout_s: float = 10.0, memory_bytes: int = 3 << 30) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._owner = os.getpid()
        self._start()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self.close()

    def read(self, source: Path | bytes, *, force: bool = False, frame: int | None = None) -> Radiograph:
        """Read one frontal chest radiograph.

        Args:
            source: path of a regular file, or a file's bytes.
            force: read what is refused for what it shows.
            frame: which frame, counted from 1; needed only where there are several.

        Raises:
            ReadError: with the reason.
        """
        output = _shared_memory()
        try:
            header, body, digest = self._job(source, {"force": force, "frame": frame, "recipe": None}, output)
            rows, columns = header["shape"]
            position = 0 if output is not None else 2 * rows * columns
            memory = body if output is None else mmap.mmap(output, 2 * rows * columns, access=mmap.ACCESS_READ)
        finally:
            if output is not None:
                os.close(output)
        pixels = np.frombuffer(memory, np.uint16, rows * columns).reshape(rows, columns)
        valid = None
        if header["valid"]:
            valid = np.frombuffer(body, np.bool_, rows * columns, position).reshape(rows, columns)
            position += valid.nbytes
        windows = []
        for data in header["windows"]:
            entries = data.pop("entries")
            lut = np.frombuffer(body, np.uint16, entries, position) if entries else None
            position += 2 * entries
            windows.append(Window(lut=lut, **data))
        return Radiograph(
            pixels, valid, ImageFacts.from_dict(header["facts"]), tuple(header["warnings"]), digest, tuple(windows),
            header["scale"], header["offset"], header["monochrome1"],
        )  # fmt: skip

    def prepare(
        self,
        source: Path | bytes,
        recipe: Recipe,
        *,
        force: bool = False,
        frame: int | None = None,
        crop: bool = True,
    ) -> PreparedImage:
        """Read one image and apply a recipe to it in the child: only the small result crosses.

        Args:
            source: path of a regular file, or a file's bytes.
            recipe: from :mod:`encoder.preprocessing`.
            force: read what is refused for what it shows.
            frame: which frame, counted from 1; needed only where there are several.
            crop: False leaves the recipe's centre crop out: [h, w], the shorter side the recipe's size.

        Raises:
            ReadError: with the reason.
        """
        job = {"force": force, "frame": frame, "recipe": recipe.to_dict(), "crop": crop}
        header, body, digest = self._job(source, job)
        pixels = np.frombuffer(body, np.uint8).reshape(header["shape"])
        return PreparedImage(pixels, ImageFacts.from_dict(header["facts"]), tuple(header["warnings"]), digest)

    def identity(self, source: Path | bytes) -> Identity:
        """Read what ties a DICOM file to its study and patient: only for outputs that are to carry it.

        Raises:
            ReadError: it is no DICOM file, or has no valid unique identifiers.
        """
        header, _, _ = self._job(source, {"identity": True})
        return Identity.from_dict(header["identity"])

    def close(self) -> None:
        """End the child processes. The reader may be used again: it starts new ones."""
        with self._lock:
            self._stop()

    def _job(
        self, source: Path | bytes, job: dict[str, Any], output: int | None = None
    ) -> tuple[dict[str, Any], bytearray, str]:
        file = open_source(source)
        try:
            with self._lock:
                return self._exchange(file, job, output)
        finally:
            os.close(file)

    def _exchange(self, file: int, job: dict[str, Any], output: int | None) -> tuple[dict[str, Any], bytearray, str]:
        message = json.dumps(job | {"timeout_s": self._timeout_s}).encode()
        for _ in range(3):  # a server or waiting worker that has died is replaced
            ours, theirs = socket.socketpair()
            with ours, theirs:
                descriptors = [file, theirs.fileno()] + ([] if output is None else [output])
                if not self._send(struct.pack("!I", len(message)) + message, descriptors):
                    continue
                theirs.close()
                ours.settimeout(START_TIMEOUT_S)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    if ours.recv(1):  # a worker has begun
                        started = time.monotonic()
                        digest = sha256_of(
                            file
                        )  # while the child decodes; not mapped, because the file may be cut meanwhile
                        return *self._receive(ours, started), digest
            self._stop()
        raise ReadError("crashed", "the decoding process does not start", hint="llava-rad doctor")

    def _send(self, packet: bytes, descriptors: list[int]) -> bool:
        """Hand a job to the waiting worker, starting the server if there is none; False if it has died."""
        if self._control is None or self._owner != os.getpid():
            self._start()
        assert self._control is not None
        try:
            socket.send_fds(self._control, [packet], descriptors)
        except OSError:
            self._stop()
            return False
        return True

    def _receive(self, channel: socket.socket, started: float) -> tuple[dict[str, Any], bytearray]:
        """Read the worker's answer: a JSON header, then the arrays."""
        try:
            channel.settimeout(self._timeout_s + 2)
            length = struct.unpack("!I", _receive_exactly(channel, 4))[0]
            if length > MAX_REPLY_HEADER:
                raise ConnectionError
            header: dict[str, Any] = json.loads(bytes(_receive_exactly(channel, length)))
            if header["ok"]:
                return header, _receive_exactly(channel, header["bytes"])
        except TimeoutError:
            self._stop()
            raise self._timed_out() from None
        except ConnectionError:
            # The worker ended without an answer: its alarm clock, or a crash of a decoder. The server lives on.
            if time.monotonic() - started >= self._timeout_s - 0.05:
                raise self._timed_out() from None
            raise ReadError("crashed", "the image crashed its decoder, in a process of its own") from None
        raise ReadError(header["reason"], header["message"], forcible=header["forcible"], hint=header["hint"])

    def _timed_out(self) -> ReadError:
        return ReadError("timeout", f"the image took longer than {self._timeout_s:g} s to read")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        # -P: no module is taken from the working directory. The root comes last, for a checkout that is not installed.
        code = (
            f"import sys; sys.path.append({root!r}); from encoder.reader.sandbox_worker import main; "
            f"main({theirs.fileno()}, {self._memory_bytes})"
        )
        settings = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
        # Large pages for large arrays: a fresh worker touches all its memory for the first time, a fifth of its time.
        settings["GLIBC_TUNABLES"] = ":".join(
            filter(None, (os.environ.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1"))
        )
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, **settings},
            )
        self._control, self._owner = ours, os.getpid()

    def _stop(self) -> None:
        control, server = self._control, self._server
        self._control = self._server = None
        if control is not None:
            control.close()
        if server is not None and self._owner == os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def open_source(source: Path | bytes) -> int:
    """Open a file for reading, or put bytes into an anonymous one.

    Returns:
        A descriptor, which the caller closes.

    Raises:
        ReadError: missing, unreadable, not_an_image (not a regular file), empty, too_large.
    """
    if isinstance(source, bytes):
        size = len(source)
        _check_size(size)
        with _memory_file() if hasattr(os, "memfd_create") else tempfile.TemporaryFile() as file:
            file.write(source)
            file.flush()
            return os.dup(file.fileno())
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise ReadError("missing", "there is no such file") from None
    except (OSError, ValueError):  # ValueError: a NUL in the path
        raise ReadError("unreadable", "the file cannot be opened") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ReadError("not_an_image", "this is not a regular file")
        _check_size(status.st_size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _memory_file() -> IO[bytes]:
    return os.fdopen(os.memfd_create("image", os.MFD_CLOEXEC), "wb")


def _shared_memory() -> int | None:
    """Memory into which the child writes the pixels: sparse, and sealed so that the child cannot shrink it."""
    if not hasattr(os, "memfd_create"):
        return None  # not Linux: the pixels come through the socket
    descriptor = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, MAX_PIXEL_BYTES)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def _check_size(size: int) -> None:
    if size == 0:
        raise ReadError("empty", "the file is empty")
    if size > MAX_FILE_BYTES:
        raise ReadError("too_large", f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")


def _receive_exactly(channel: socket.socket, count: int) -> bytearray:
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        received = channel.recv_into(view)
        if not received:
            raise ConnectionError
        view = view[received:]
    return buffer
