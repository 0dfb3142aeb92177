"""Guard of the service: request ids, API keys, log and measures of every request."""

from __future__ import annotations

import logging
import math
import secrets
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers, MutableHeaders

from app.security import error, name_of
from app.service.keys import Limited
from encoder.errors import ConfigError

if TYPE_CHECKING:
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.service.keys import Keys
    from app.service.measures import Measures

_LOG: Final = logging.getLogger("app.service")
OPEN: Final = ("/health/live", "/health/ready", "/metrics", "/openapi.json", "/docs")
"""Paths without a key: they tell nothing about requests but their number."""
NOBODY: Final = "local"
"""Name of the caller where there are no keys; the server then listens on this machine only."""
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def limited(refused: Limited, reason: str) -> JSONResponse:
    """Return 429 with ``Retry-After``."""
    answer = error(429, str(refused), reason=reason)
    answer.headers["retry-after"] = str(max(1, math.ceil(refused.retry_after)))
    return answer


class KeyGuard:
    """ASGI middleware: every response gets a request id, every request a line in the log.

    Accepted requests carry the name of the key in ``request.state.caller``, and ``request.state.admin``.

    Args:
        app: application to protect.
        keys: None accepts every program of this machine, but no web page.
        names: host names by which the server may be addressed where there are no keys.
        measures: count requests.
    """

    def __init__(self, app: ASGIApp, keys: Keys | None, names: set[str], measures: Measures) -> None:
        self._app, self._keys, self._names, self._measures = app, keys, names, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request, and pass it on or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets are served
            return
        number, begun, status = secrets.token_hex(8), time.monotonic(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS | {"x-request-id": number})
            await send(message)

        scope.setdefault("state", {})["request_id"] = number
        try:
            await self._answer(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "none")  # the pattern: an id of a batch is not logged
            took = time.monotonic() - begun
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE") else "other"
            self._measures.requests.labels(f"{method} {route}", status or 499).inc()
            self._measures.seconds.labels("request").observe(took)
            _LOG.info("%s %s %s %s %.3f s", number, method, route, status or 499, took)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        state = scope["state"]
        if path in OPEN:
            await self._app(scope, receive, send)
            return
        if self._keys is None:
            refusal = self._foreign(headers)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            state.update(caller=NOBODY, admin=True)
            await self._app(scope, receive, send)
            return
        kind, _, sent = headers.get("authorization", "").partition(" ")
        try:
            found = self._keys.find(sent.strip()) if kind.lower() == "bearer" else None
        except ConfigError as unreadable:
            await error(503, str(unreadable), reason="keys")(scope, receive, send)
            return
        if found is None:
            self._measures.refusals.labels("unauthorized").inc()
            answer = error(401, "the request has no valid API key", reason="unauthorized")
            answer.headers["www-authenticate"] = "Bearer"
            await answer(scope, receive, send)
            return
        name, key = found
        state.update(caller=name, admin=key.admin)
        polling = scope["method"] in ("GET", "HEAD", "DELETE")
        try:
            with nullcontext() if polling else self._keys.use(name, key):
                await self._app(scope, receive, send)
        except Limited as refused:
            self._measures.refusals.labels("rate_limited").inc()
            await limited(refused, "rate_limited")(scope, receive, send)

    def _foreign(self, headers: Headers) -> JSONResponse | None:
        """Refuse requests that a web page in this machine's browser may have made."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if name_of(host) not in self._names:
            return error(421, "this server does not accept that host name", reason="host")
        if origin is not None:
            return error(403, "web pages need an API key", reason="origin")
        return None
