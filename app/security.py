"""Access control: a guard in front of all routes, security headers, login and logout."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders

from app.accounts import LoginRefused, is_loopback
from encoder.errors import LlavaRadError
from llava_rad.outputs.report import NOTICE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.accounts import Accounts
    from app.lanes import Lane

COOKIE = "llava_rad_session"
HOST_COOKIE = f"__Host-{COOKIE}"
"""Name over HTTPS: browsers take it from this host only, so that no neighbour in the domain sets a session."""
_SESSION = {
    name: re.compile(rf"(?:^|;)[ \t]*{name}=([A-Za-z0-9_-]{{1,128}})[ \t]*(?:;|$)") for name in (COOKIE, HOST_COOKIE)
}
CALL_HEADER = "x-llava-rad"
"""Header of every change that our pages make; pages of another origin cannot send it without a CORS preflight."""
HEALTH = ("/health", "/health/live", "/health/ready")
"""Paths that programs ask by IP address, without a login."""
OPEN = (
    *HEALTH, "/login", "/ui/login.css", "/favicon.ico", "/ui/open.html", "/ui/open.js", "/ui/returning.js",
)  # fmt: skip
"""Paths that need no login; links of other programs arrive at ``open.html``."""
GRADIO = (
    "/assets/", "/static/", "/svelte/", "/theme.css", "/config", "/gradio_api/heartbeat/", "/gradio_api/info",
    "/manifest.json", "/favicon.ico",
)  # fmt: skip
"""Paths of Gradio that the page needs; all others (uploads, cached files, calls, proxies) are blocked."""
OURS = ("/api/", "/ui/")
SAFE = {"GET", "HEAD"}
LOGIN = {"/login": ("GET", "POST"), "/logout": ("POST",)}
"""Our own pages; Gradio has others of these names, which redirect to where a request's headers say."""
_FORWARDED = (b"x-forwarded-", b"forwarded", b"x-gradio-", b"x-original-", b"x-direct-url")
HEADERS = {
    # Gradio's page needs inline scripts and eval; nothing is loaded from or sent to another host
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

MAX_FORM = 8 << 10
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>LLaVA-Rad review: log in</title><link rel="stylesheet" href="/ui/login.css"></head>
<body><main><h1>LLaVA-Rad review</h1><p class="notice">{notice}</p>
<form method="post" action="/login">
<label for="name">Name</label><input id="name" name="name" autocomplete="username" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<p role="alert" class="refusal">{refusal}</p><button type="submit">Log in</button></form>{warning}</main></body></html>
"""
_UNENCRYPTED = "<p class='warning'>This connection is not encrypted: the password can be read on the way.</p>"


class Guard:
    """ASGI middleware in front of the application.

    It refuses unknown host names (DNS rebinding), changes from other origins, Gradio's routes that the page does not
    need, and requests without a login. Accepted requests carry the user's name in ``request.state.user``.

    Args:
        app: application to protect.
        hosts: accepted host names; empty accepts all.
        user_of: returns the user of a session token, or None.
        logins: users log in.
        https: the session's cookie has its name for HTTPS.
        microphone: the page may use the browser's microphone.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: set[str], user_of: Callable[[str | None], str | None], logins: bool,
        https: bool = False, microphone: bool = False,
    ) -> None:  # fmt: skip
        self._cookie = HOST_COOKIE if https else COOKIE
        self._app, self._hosts, self._user_of, self._logins = app, hosts, user_of, logins
        policy = HEADERS["permissions-policy"]
        allowed = policy.replace("microphone=()", "microphone=(self)") if microphone else policy
        self._headers = HEADERS | {"permissions-policy": allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request, pass it on or refuse it, and add the security headers to the response."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets are served
            return
        path: str = scope["path"]

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                cached = path.startswith("/api/") and "immutable" in headers.get("cache-control", "")
                if not (cached or path.startswith(("/assets/", "/static/", "/svelte/"))):
                    headers["cache-control"] = "no-store"
            await send(message)

        # the server has used what trusted proxies say; Gradio would believe anybody, and build addresses from it
        scope["headers"] = [one for one in scope["headers"] if not one[0].lower().startswith(_FORWARDED)]
        headers = Headers(scope=scope)
        token = token_of(headers, self._cookie)
        # nobody else is to parse cookies: Python's parser takes minutes for 60 kB of escaped quotes
        scope["headers"] = [one for one in scope["headers"] if one[0].lower() != b"cookie"]
        if token is not None:
            scope["headers"].append((b"cookie", f"{COOKIE}={token}".encode()))
        try:
            user = self._user_of(token)
            refusal = self._refusal(scope["method"], path, headers, user)
        except LlavaRadError as unreadable:  # the file of accounts
            user, refusal = None, error(503, str(unreadable))
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        scope.setdefault("state", {})["user"] = user
        await self._app(scope, receive, guarded)

    def _refusal(self, method: str, path: str, headers: Headers, user: str | None) -> ASGIApp | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not (_well_formed(f"//{host}") and _well_formed(origin or "")):
            return error(400, "the request's host or origin is malformed")
        if self._hosts and name_of(host) not in self._hosts and path not in HEALTH:
            return error(421, "this server does not accept that host name")
        ours = path in ("/", *HEALTH) or path.startswith(OURS) or (self._logins and path in LOGIN)
        if not (ours or path.startswith(GRADIO)):
            return error(404, "there is no such page")
        if method not in LOGIN.get(path, (method,)):
            return error(405, "the page does not take that method")
        if path.startswith("/api/") and headers.get("sec-fetch-site") == "cross-site":
            return error(403, "the request came from another site")  # an image of another page may be an export
        if method not in SAFE:
            if origin is not None and urlsplit(origin).netloc != host:
                return error(403, "the request came from another site")
            if path.startswith("/api/") and headers.get(CALL_HEADER) is None:
                return error(403, f"the request lacks the header {CALL_HEADER}")
        if user is None and path not in OPEN:
            return RedirectResponse("/login", 303) if path == "/" else error(401, "log in first")
        return None


def error(status: int, message: str, **more: object) -> JSONResponse:
    """Return an error response in the format of all routes: ``{"error": MESSAGE, ...}``."""
    return JSONResponse({"error": message, **more}, status)


def _well_formed(address: str) -> bool:
    try:
        urlsplit(address).port  # noqa: B018 - is parsed here
    except ValueError:
        return False
    return True


def token_of(headers: Headers, name: str = COOKIE) -> str | None:
    """Return the session token in a request's cookie of a name; the guard passes it on as :data:`COOKIE`."""
    found = (_SESSION[name].search(sent) for sent in headers.getlist("cookie"))
    return next((one[1] for one in found if one), None)


def name_of(host: str) -> str:
    """Return the host name of a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def login_router(accounts: Accounts, lane: Lane, *, https: bool) -> APIRouter:
    """Create the routes ``/login`` and ``/logout``.

    Args:
        accounts: of the users.
        lane: threads that check passwords.
        https: send the session cookie over HTTPS only.
    """
    pages, cookie = APIRouter(), HOST_COOKIE if https else COOKIE

    def form(request: Request, refusal: str = "", status: int = 200, wait: int | None = None) -> HTMLResponse:
        plain = not https and not is_loopback(request.client.host if request.client else "")
        shown = _PAGE.format(notice=NOTICE, refusal=escape(refusal), warning=_UNENCRYPTED if plain else "")
        return HTMLResponse(shown, status, headers={} if wait is None else {"retry-after": str(wait)})

    @pages.get("/login")
    def ask(request: Request) -> HTMLResponse:
        return form(request)

    @pages.post("/login", response_model=None)
    async def take(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                return form(request, "The form is too large.", 413)
        fields = parse_qs(body.decode("utf-8", "replace"))
        name, password = (fields.get(key, [""])[0] for key in ("name", "password"))
        client = request.client.host if request.client else ""
        try:
            line = client if accounts.by_address else f"{client} {name}"
            token = await lane.run(line, request.is_disconnected, accounts.login, name, password, client)
        except LoginRefused as refused:
            wait = refused.retry_after
            return form(request, str(refused), 429 if wait else 401, None if not wait else round(wait))
        answer = RedirectResponse("/", 303)
        answer.set_cookie(cookie, token, httponly=True, samesite="strict", secure=https, path="/")
        return answer

    @pages.post("/logout")
    def leave(request: Request) -> RedirectResponse:
        token = token_of(request.headers)
        if token is not None:
            accounts.logout(token)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(cookie, path="/", secure=https)
        return answer

    return pages
