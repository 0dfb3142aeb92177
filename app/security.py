"""What stands before every page and call: who asks, from where, and what the browser may do with the answer."""

from __future__ import annotations

from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "llava_rad_session"
CALL_HEADER = "x-llava-rad"
"""Our pages send it with every change. A page of another origin cannot without the browser asking first."""
OPEN = ("/health", "/login", "/ui/login.css", "/favicon.ico")
"""What can be seen without having logged in."""
GRADIO = (
    "/assets/", "/static/", "/svelte/", "/theme.css", "/config", "/gradio_api/heartbeat/", "/gradio_api/info",
    "/manifest.json", "/favicon.ico",
)  # fmt: skip
"""What the page needs of Gradio. The rest (uploads, files of its cache, calls, proxies) is shut."""
OURS = ("/api/", "/health", "/login", "/logout", "/ui/")
SAFE = {"GET", "HEAD"}
HEADERS = {
    # Gradio's page has scripts in line and makes functions of text; nothing may come from, or go to, another host
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer, browsers send the login form with the origin "null"
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
}


class Guard:
    """ASGI middleware before everything else.

    It refuses hosts that the server was not started for (DNS rebinding), changes from other origins, routes of Gradio
    that the page does not need, and whoever has not logged in; the others find ``request.state.user``.

    Args:
        app: what is guarded.
        hosts: names that browsers may call the server by; empty allows all.
        user_of: the name behind a session's token, or None.
    """

    def __init__(self, app: ASGIApp, *, hosts: set[str], user_of: Callable[[str | None], str | None]) -> None:
        self._app, self._hosts, self._user_of = app, hosts, user_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Guard one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            return
        path: str = scope["path"]

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if not path.startswith(("/assets/", "/static/", "/svelte/")):
                    headers["cache-control"] = "no-store"
            await send(message)

        headers = Headers(scope=scope)
        user = self._user_of(token_of(headers))
        refusal = self._refusal(scope["method"], path, headers, user)
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        scope.setdefault("state", {})["user"] = user
        await self._app(scope, receive, guarded)

    def _refusal(self, method: str, path: str, headers: Headers, user: str | None) -> ASGIApp | None:
        host = headers.get("host", "")
        if self._hosts and name_of(host) not in self._hosts:
            return error(421, "this server does not go by that name")
        if not (path == "/" or path.startswith(OURS) or path.startswith(GRADIO)):
            return error(404, "there is no such page")
        if method not in SAFE:
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != host:
                return error(403, "the request came from another site")
            if path.startswith("/api/") and headers.get(CALL_HEADER) is None:
                return error(403, f"the request lacks the header {CALL_HEADER}")
        if user is None and path not in OPEN:
            return RedirectResponse("/login", 303) if path == "/" else error(401, "log in first")
        return None


def error(status: int, message: str, **more: object) -> JSONResponse:
    """A refusal in the form that all of our calls have."""
    return JSONResponse({"error": message, **more}, status)


def token_of(headers: Headers) -> str | None:
    """The session's token that a request carries."""
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return cookie.value if cookie else None


def name_of(host: str) -> str:
    """The host's name without its port, as a Host header states it."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
