"""Deadline of a whole HTTP request, headers and body; a timeout of a socket begins again with each byte."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from requests.adapters import HTTPAdapter

MIN_RATE: Final = 64 << 10
"""Bytes per second below which a transfer is given up."""


class Deadline:
    """Deadline of the request in progress: when it is over, the connection is shut down, whatever waits for it.

    Attributes:
        over: the deadline has passed.
        connected: the request reached the archive.
    """

    def __init__(self) -> None:
        self.over = self.connected = False
        self._seconds = 0.0
        self._sockets: list[Any] = []

    @contextmanager
    def running(self, seconds: float, sent: int) -> Iterator[Deadline]:
        """Run for a request.

        Args:
            seconds: for the request, beside the time of its bytes.
            sent: bytes of its body.
        """
        self.over = self.connected = False
        self._sockets, self._seconds, started, done = [], seconds + sent / MIN_RATE, time.monotonic(), threading.Event()

        def wait() -> None:
            while (left := started + self._seconds - time.monotonic()) > 0:
                if done.wait(left):
                    return
            self.over = True
            for one in self._sockets:
                with suppress(OSError, TypeError):
                    socket.socket.shutdown(one, socket.SHUT_RDWR)

        thread = threading.Thread(target=wait, name="deadline", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()

    def uses(self, connection: Any) -> None:
        """Take note of the socket of an open connection, which the connection forgets once the answer has begun.

        Raises:
            TimeoutError: if the deadline has passed.
        """
        if self.over:
            raise TimeoutError
        if connection.sock is not None:
            self._sockets.append(connection.sock)
            self.connected = True

    def extend(self, received: int) -> None:
        """Add the time of bytes that came."""
        self._seconds += received / MIN_RATE


def adapter(deadline: Deadline) -> HTTPAdapter:
    """Make an adapter whose connections are known to the deadline."""
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Known:
        def connect(self) -> None:
            super().connect()  # type: ignore[misc]
            deadline.uses(self)

        def request(self, *args: Any, **kwargs: Any) -> None:
            deadline.uses(self)
            super().request(*args, **kwargs)  # type: ignore[misc]

    class Plain(Known, HTTPConnection):  # type: ignore[misc]
        pass

    class Secure(Known, HTTPSConnection):  # type: ignore[misc]
        pass

    class PlainPool(HTTPConnectionPool):  # type: ignore[misc]
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):  # type: ignore[misc]
        ConnectionCls = Secure

    class Adapter(HTTPAdapter):  # type: ignore[misc]
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

        def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
            manager = super().proxy_manager_for(*args, **kwargs)
            manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
            return manager

    return Adapter(max_retries=0)
