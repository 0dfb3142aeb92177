"""Reading of untrusted image files in child processes with limits on memory and time.

:class:`Reader` starts one server process (:mod:`encoder.reader.sandbox_worker`), which forks a worker for every image.
The parent opens the file and passes the descriptor, so that children need no access to paths; it imports neither
pydicom nor Pillow. Children return only JSON and raw arrays.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
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
from encoder.reader.radiograph import ImageFacts, PreparedImage, Radiograph
from encoder.reader.replies import (
    CRASHED,
    MAX_PIXEL_BYTES,
    MAX_REPLY_BYTES,
    MAX_REPLY_HEADER,
    check_texts,
    radiograph,
    receive_exactly,
    well_formed,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from encoder.preprocessing import Recipe

MAX_FILE_BYTES = 256 << 20
START_TIMEOUT_S = 120.0  # imports on a busy machine
_ENVIRONMENT = (
    "PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_", "LOCALE_", "LD_", "DYLD_", "PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX",
    "MALLOC_", "GLIBC_", "COVERAGE_",
)  # fmt: skip
"""Beginnings of the environment variables that children get: not those that hold passwords and tokens."""
_LOOK_S = 0.25


class Reader:
    """Reader of image files in a limited child process.

    The constructor does not wait for the child's imports. Methods are thread-safe and read one image at a time.

    Args:
        timeout_s: time limit for one image in seconds.
        memory_bytes: address space of one worker.

    Attributes:
        wanted: returns False if nobody waits for the image any more: its worker is ended. Looked at four times a
            second.
    """

    def __init__(self, *, timeout_s: float = 10.0, memory_bytes: int = 3 << 30) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self.wanted: Callable[[], bool] = lambda: True
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
        try:  # noqa: SIM105  at the end of the process contextlib may be gone, and other modules with it
            self.close()
        except (AttributeError, OSError, TypeError):
            pass

    def read(
        self,
        source: Path | bytes,
        *,
        force: bool = False,
        frame: int | None = None,
        inverted: bool = False,
        aspect: float | None = None,
    ) -> Radiograph:
        """Read one frontal chest radiograph.

        Args:
            source: path of a regular file, or bytes of a file.
            force: override refusals of the content.
            frame: number of the frame from 1; required if the file has several.
            inverted: invert the grey values of a picture file; a DICOM file states its own polarity and is refused.
            aspect: width of the radiograph divided by its height: a picture file that was squashed is stretched; a
                DICOM file states its own pixels and is refused.

        Raises:
            ReadError: if the file is refused; ``reason`` tells why.
        """
        output = _shared_memory()
        try:
            header, body, digest = self._job(
                source, {"force": force, "frame": frame, "inverted": inverted, "aspect": aspect, "recipe": None}, output
            )
            with well_formed():
                return radiograph(header, body, digest, output)
        finally:
            if output is not None:
                os.close(output)

    def prepare(
        self,
        source: Path | bytes,
        recipe: Recipe,
        *,
        force: bool = False,
        frame: int | None = None,
        crop: bool = True,
        inverted: bool = False,
        aspect: float | None = None,
    ) -> PreparedImage:
        """Read one image and apply a preprocessing recipe in the child, which returns only the small result.

        Args:
            source: path of a regular file, or bytes of a file.
            recipe: from :mod:`encoder.preprocessing`.
            force: override refusals of the content.
            frame: number of the frame from 1; required if the file has several.
            crop: False omits the recipe's centre crop: [h, w], the shorter side of the recipe's size.
            inverted: as for :meth:`read`.
            aspect: as for :meth:`read`.

        Raises:
            ReadError: if the file is refused; ``reason`` tells why.
        """
        job = {"force": force, "frame": frame, "recipe": recipe.to_dict(), "crop": crop} | {
            "inverted": inverted,
            "aspect": aspect,
        }
        header, body, digest = self._job(source, job)
        with well_formed():
            pixels = np.frombuffer(body, np.uint8).reshape(header["shape"])
            return PreparedImage(pixels, ImageFacts.from_dict(header["facts"]), tuple(header["warnings"]), digest)

    def identity(self, source: Path | bytes) -> Identity:
        """Read the identifiers of patient and study, for documents that must carry them.

        Raises:
            ReadError: if it is not a DICOM file, or has no valid unique identifiers.
        """
        header, _, _ = self._job(source, {"identity": True})
        with well_formed():
            return Identity.from_dict(header["identity"])

    def close(self) -> None:
        """End the child processes; the next image starts new ones."""
        with self._lock:
            self._stop()

    def _job(
        self, source: Path | bytes, job: dict[str, Any], output: int | None = None
    ) -> tuple[dict[str, Any], bytearray, str]:
        file = open_source(source)
        try:
            before = os.fstat(file)
            with self._lock:
                answer = self._exchange(file, job, output)
            after = os.fstat(file)
            # the child decodes and the parent hashes the same file: they must have seen the same bytes
            if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
                raise ReadError("changed", "the file was changed while it was read")
            return answer
        finally:
            os.close(file)

    def _exchange(self, file: int, job: dict[str, Any], output: int | None) -> tuple[dict[str, Any], bytearray, str]:
        message = json.dumps(job | {"timeout_s": self._timeout_s}).encode()
        for _ in range(3):  # replaces a server or waiting worker that has died
            ours, theirs = socket.socketpair()
            with ours, theirs:
                descriptors = [file, theirs.fileno()] + ([] if output is None else [output])
                if not self._send(struct.pack("!I", len(message)) + message, descriptors):
                    continue
                theirs.close()
                ours.settimeout(START_TIMEOUT_S)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    if ours.recv(1):  # a worker has started
                        started = time.monotonic()
                        digest = sha256_of(file)  # while the child decodes
                        return *self._receive(ours, started), digest
            self._stop()
        raise ReadError("crashed", "the decoding process does not start", hint="llava-rad doctor")

    def _send(self, packet: bytes, descriptors: list[int]) -> bool:
        """Pass a job to the waiting worker, starting the server if necessary; return False if it has died."""
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
        """Receive the worker's answer: a JSON header, then the arrays."""
        try:
            self._await_answer(channel, started + self._timeout_s + 2)
            end = time.monotonic() + self._timeout_s + 2
            length = struct.unpack("!I", receive_exactly(channel, 4, end))[0]
            if length > MAX_REPLY_HEADER:
                raise ConnectionError
            with well_formed():
                header: dict[str, Any] = json.loads(bytes(receive_exactly(channel, length, end)))
                check_texts(header)
                if header["ok"]:
                    size = header["bytes"]
                    if not 0 <= size <= MAX_REPLY_BYTES:
                        raise ValueError
                    return header, receive_exactly(channel, size, end)
                error = ReadError(header["reason"], header["message"], forcible=header["forcible"], hint=header["hint"])
        except TimeoutError:
            self._stop()
            raise self._timed_out() from None
        except ConnectionError:
            # The worker ended without an answer, by its alarm or a crash of a decoder. The server continues.
            if time.monotonic() - started >= self._timeout_s - 0.05:
                raise self._timed_out() from None
            raise ReadError("crashed", CRASHED) from None
        raise error

    def _await_answer(self, channel: socket.socket, end: float) -> None:
        """Wait for the first byte of an answer.

        Raises:
            TimeoutError: if none comes.
            ReadError: if it is no longer wanted; the worker ends when the channel is closed.
        """
        channel.settimeout(_LOOK_S)
        while True:
            try:
                channel.recv(1, socket.MSG_PEEK)
                return
            except TimeoutError:
                if time.monotonic() > end:
                    raise
                if not self.wanted():
                    raise ReadError("abandoned", "nobody waits for the image any more") from None

    def _timed_out(self) -> ReadError:
        return ReadError("timeout", f"the image took longer than {self._timeout_s:g} s to read")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        # -P: no module is imported from the working directory. The appended root serves checkouts.
        code = (
            f"import sys; sys.path.append({root!r}); from encoder.reader.sandbox_worker import main; "
            f"main({theirs.fileno()}, {self._memory_bytes})"
        )
        settings = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
        # Huge pages: page faults otherwise take a fifth of a new worker's time.
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
                env={name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)} | settings,
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
    """Open a file for reading, or write bytes to an anonymous file.

    Returns:
        A descriptor, to be closed by the caller.

    Raises:
        ReadError: with the reason missing, unreadable, not_an_image (not a regular file), empty or too_large.
    """
    if isinstance(source, bytes):
        size = len(source)
        _check_size(size)
        with _memory_file() if hasattr(os, "memfd_create") else tempfile.TemporaryFile() as file:
            file.write(source)
            file.flush()
            return os.dup(file.fileno())
    try:
        # O_NONBLOCK: do not wait for the writer of a FIFO
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
    """Create the memory for the pixels: sparse, and sealed so that the child cannot shrink it."""
    if not hasattr(os, "memfd_create"):
        return None  # not Linux: the pixels are sent through the socket
    descriptor = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, MAX_PIXEL_BYTES)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def _check_size(size: int) -> None:
    if size == 0:
        raise ReadError("empty", "the file is empty")
    if size > MAX_FILE_BYTES:
        raise ReadError("too_large", f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
