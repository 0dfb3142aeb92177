"""Bodies of requests, in memory only: a file, or a form of files and texts; and the reasons of refusals."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.service.batcher import QueueFull
from encoder.errors import ConfigError, LlavaRadError, ModelError, ReadError

if TYPE_CHECKING:
    from fastapi import Request

UPLOAD_S: Final = 60.0
MAX_FILES: Final = 1000
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,70}")  # RFC 2046
_END: Final = 256
"""Bytes of a form's end that hold its last boundary."""
_OPTION: Final = re.compile(r"--([a-z][a-z-]*)(?: ([A-Z]+)\b)?")
_OPTIONS: Final = {
    "force", "frame", "lateral", "prior", "prior-report", "indication", "technique", "comparison", "grounded",
}  # fmt: skip
"""Options of the command line that a request has, too."""


class BadRequest(LlavaRadError):
    """A request is refused before an image is read.

    Attributes:
        status: of the answer.
        reason: fixed identifier, for programs.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass
class Room:
    """Requests and bytes that may be in memory at a time.

    Attributes:
        requests: most requests.
        largest: bytes of one request.
        total: bytes of all.
        shared: several callers share the room: each has half of it at most, or one request of the largest size.
    """

    requests: int
    largest: int
    total: int
    shared: bool = False
    _open: Counter[str] = field(default_factory=Counter, init=False)
    _bytes: Counter[str] = field(default_factory=Counter, init=False)

    @contextmanager
    def take(self, request: Request, caller: str, wait_s: float) -> Iterator[None]:
        """Reserve room for a request; only called on the event loop.

        Raises:
            BadRequest: if the request is too large.
            QueueFull: if there is no room now.
        """
        stated = request.headers.get("content-length", "")
        size = int(stated) if stated.isascii() and stated.isdecimal() and len(stated) < 19 else self.largest
        if size > self.largest:
            raise BadRequest(413, "too_large", f"the request holds more than {self.largest >> 20} MiB")
        full = self._open.total() >= self.requests or self._bytes.total() + size > self.total
        if self.shared:
            full |= self._open[caller] >= max(1, self.requests // 2)
            full |= self._bytes[caller] + size > max(self.largest, self.total // 2)
        if full:
            raise QueueFull(wait_s)
        self._open[caller] += 1
        self._bytes[caller] += size
        try:
            yield
        finally:
            self._open[caller] -= 1
            self._bytes[caller] -= size


async def receive(request: Request, largest: int) -> bytes | FormData:
    """Receive a body: bytes, or the parts of a form.

    Raises:
        BadRequest: if it is too large, too slow, or no valid form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(UPLOAD_S):
            if kind != "multipart/form-data":
                return b"".join([chunk async for chunk in _chunks(request, largest)])
            parameters = parse_options_header(request.headers["content-type"])[1]
            boundary = parameters.get(b"boundary", b"").decode("latin-1")
            if not _BOUNDARY.fullmatch(boundary):
                raise BadRequest(400, "bad_form", "the form has no valid boundary")
            if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
                raise BadRequest(400, "bad_form", "the texts of a form are UTF-8")
            end = bytearray()
            # Latin-1 keeps every byte: the parser would take texts that are no UTF-8 for Latin-1 without a word
            exact = Headers({"content-type": f'multipart/form-data; charset=latin-1; boundary="{boundary}"'})
            parser = MultiPartParser(
                exact, _chunks(request, largest, end), max_files=MAX_FILES, max_fields=20,
                max_part_size=1 << 18,
            )  # fmt: skip
            parser.spool_max_size = largest  # nothing goes to the disk
            form = await parser.parse()
            if not end.rstrip().endswith(
                f"--{boundary}--".encode("latin-1")
            ):  # the parser drops an unfinished part silently
                raise BadRequest(400, "bad_form", "the form is cut off")
            return form
    except TimeoutError:
        raise BadRequest(408, "upload_timeout", f"the upload took longer than {UPLOAD_S:.0f} s") from None
    except MultiPartException:
        raise BadRequest(400, "bad_form", "the form cannot be read") from None


async def bytes_of(part: object, name: str) -> bytes:
    """Return the content of a form's file.

    Raises:
        BadRequest: if the part is a text.
    """
    if not isinstance(part, UploadFile):
        raise BadRequest(400, "bad_form", f"the part {name} is no file")
    return await part.read()


def text_of(part: object, name: str) -> str:
    """Return a form's text.

    Raises:
        BadRequest: if the part is a file, or no UTF-8.
    """
    if not isinstance(part, str):
        raise BadRequest(400, "bad_form", f"the part {name} is no text")
    try:
        return part.encode("latin-1").decode("utf-8")  # see receive
    except UnicodeDecodeError:
        raise BadRequest(400, "bad_form", f"the part {name} is no UTF-8 text") from None


async def _chunks(request: Request, largest: int, end: bytearray | None = None) -> AsyncGenerator[bytes, None]:
    """Chunks of a body; ``end`` receives its last bytes."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if end is not None:
            end[:] = (end + chunk[-_END:])[-_END:]
        if size > largest:
            raise BadRequest(413, "too_large", f"the request holds more than {largest >> 20} MiB")
        yield chunk


def refusal_of(raised: Exception) -> tuple[int, str, str]:
    """Return status, reason and message of an error; unexpected ones tell nothing but that they happened."""
    message = _OPTION.sub(_parameter, str(raised))
    if isinstance(raised, BadRequest):
        return raised.status, raised.reason, message
    if isinstance(raised, QueueFull):
        return 429, "queue_full", message
    if isinstance(raised, ReadError):
        status = {"too_large": 413, "crashed": 503, "unreadable": 503}.get(raised.reason, 422)
        return status, raised.reason, message
    if isinstance(raised, ConfigError):
        return 400, "not_taken", message
    if isinstance(raised, ModelError):
        return 503, "model", message
    if isinstance(raised, LlavaRadError):
        return 503, "failed", message
    return 500, "internal", "something went wrong on the server"


def hint_of(raised: Exception) -> str | None:
    """Return the advice of an error for a client; None where it names options of the command line, not of a request."""
    hint = raised.hint if isinstance(raised, LlavaRadError) else None
    if hint is None or {option for option, _ in _OPTION.findall(hint)} - _OPTIONS:
        return None
    return _OPTION.sub(_parameter, hint)


def _parameter(found: re.Match[str]) -> str:
    """Write an option of the command line as a request has it: ``force=true``, ``frame=N``, ``prior_report``."""
    option, value = found[1].replace("-", "_"), found[2]
    return "force=true" if option == "force" else f"{option}={value}" if value else option
