"""A deadline for the headers of an answer: httpx's timeouts are those of single reads."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2 as httpx


def begun(client: httpx.Client, request: httpx.Request, seconds: float) -> httpx.Response:
    """Send a request and return its answer, whose body is still to be read, once the headers are there.

    A server may send its headers byte by byte; each byte ends a read. A thread waits for them, which ends at the
    latest when the server closes the connection.

    Args:
        client: the connections.
        request: what to send, with the timeouts of its reads.
        seconds: longest time until the headers are there.

    Raises:
        httpx.TimeoutException: if it takes longer.
        httpx.HTTPError: if it fails.
    """
    import httpx2 as httpx

    came: queue.SimpleQueue[httpx.Response | BaseException] = queue.SimpleQueue()
    late = threading.Event()

    def send() -> None:
        try:
            response = client.send(request, stream=True)
        except BaseException as error:  # raised again in the thread that waits
            came.put(error)
            return
        came.put(response)
        if late.is_set():
            response.close()

    threading.Thread(target=send, name="request", daemon=True).start()
    try:
        found = came.get(timeout=seconds)
    except queue.Empty:
        late.set()
        raise httpx.ReadTimeout("the headers take too long", request=request) from None
    if isinstance(found, BaseException):
        raise found
    return found
