"""Requests and their errors: user, JSON bodies, revisions, one-line messages for what users can act on."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from app.database import NotFound
from app.lanes import ConnectionClosed
from app.review import ReviewError
from app.security import error
from encoder.errors import LlavaRadError, ReadError, printable
from encoder.reader.sandbox import MAX_FILE_BYTES

if TYPE_CHECKING:
    from fastapi import FastAPI

MAX_BODY = 1 << 20
MAX_ZIP_BYTES = 8 << 30


class TooLarge(LlavaRadError):
    """The upload or request is larger than its limit."""


async def receive(
    chunks: AsyncIterator[bytes], file: IO[bytes], limit: int = MAX_FILE_BYTES, *, whole: bool = False
) -> None:
    """Write an upload to a file.

    Args:
        chunks: of the upload.
        file: receives them.
        limit: largest number of bytes.
        whole: receive a file that is too large to its end, so that its sender sees the answer.

    Raises:
        TooLarge: if it is longer than ``limit`` bytes.
    """
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit and not (whole and size <= MAX_ZIP_BYTES):
            break
        if size <= limit:
            file.write(chunk)
    if size > limit:
        raise TooLarge(f"the upload holds more than {limit >> 20} MiB")
    file.flush()


def user(request: Request) -> str:
    """Return the user's name, which the guard has put into the request."""
    name: str = request.state.user
    return name


User = Annotated[str, Depends(user)]


def add_error_handlers(app: FastAPI) -> None:
    """Turn errors that users can act on into a status and a one-line message."""

    def handler(status: Callable[[LlavaRadError], int]) -> Callable[[Request, Exception], Response]:
        def answer(request: Request, raised: Exception) -> Response:
            assert isinstance(raised, LlavaRadError)
            more: dict[str, object] = {}
            if raised.hint and not raised.hint.startswith("--"):  # options of the command line are no advice here
                more["hint"] = raised.hint
            if isinstance(raised, ReadError):
                more["reason"] = raised.reason
            if isinstance(raised, ReadError | TooLarge):
                more["forcible"] = isinstance(raised, ReadError) and raised.forcible
            return error(status(raised), str(raised), **more)

        return answer

    app.add_exception_handler(RequestValidationError, lambda request, raised: error(422, "a parameter is not valid"))
    app.add_exception_handler(NotFound, handler(lambda raised: 404))
    app.add_exception_handler(ReviewError, handler(lambda raised: 422))
    app.add_exception_handler(ReadError, handler(lambda raised: 415))
    app.add_exception_handler(TooLarge, handler(lambda raised: 413))
    app.add_exception_handler(sqlite3.Error, _not_saved)
    app.add_exception_handler(OSError, _not_saved)
    app.add_exception_handler(ConnectionClosed, lambda request, raised: error(499, "the connection was closed"))
    app.add_exception_handler(ClientDisconnect, lambda request, raised: error(499, "the connection was closed"))
    app.add_exception_handler(LlavaRadError, handler(lambda raised: 503))


def _not_saved(request: Request, raised: Exception) -> Response:
    """Say why the disk or the database refused."""
    code = getattr(raised, "sqlite_errorcode", None)
    full = code == sqlite3.SQLITE_FULL or getattr(raised, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if full or str(raised) == "database or disk is full":
        return error(507, "the server's disk is full: nothing was saved")
    if isinstance(raised, sqlite3.OperationalError):
        busy = code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or str(raised) == "database is locked"
        reason = "is used by another program" if busy else "cannot be written"
        return error(503, f"the server's database {reason}: nothing was saved, try again")
    return error(500, "something went wrong on the server")


async def json_body(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise TooLarge("the request is too large")
    try:
        found = json.loads(body or b"{}", parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()  # lone surrogates are no text
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ReviewError("the request is not a JSON object")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def revision_of(sent: object) -> int:
    """Return the revision of a study that a request was made on."""
    if isinstance(sent, str) and sent.isascii() and sent.isdecimal() and len(sent) < 19:
        sent = int(sent)
    if type(sent) is not int:
        raise ReviewError("the request lacks the revision of the study that it was made on")
    return sent


Body = Annotated[dict[str, Any], Depends(json_body)]


def file_name(request: Request) -> str | None:
    """Return the file name that the page sent, without folders and ending."""
    sent = unquote(request.headers.get("x-file-name", ""))
    return printable(Path(sent.replace("\\", "/")).stem)[:100] or None


def forced(request: Request) -> bool:
    """Return True if the user decided to read an image that is not admitted."""
    return request.query_params.get("force") in ("true", "1")
