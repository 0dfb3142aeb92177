"""Logging in and out: one form, one cookie."""

from __future__ import annotations

import asyncio
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from app.security import COOKIE, token_of
from llava_rad.outputs.report import NOTICE

if TYPE_CHECKING:
    from app.accounts import Accounts

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
_PLAIN = "<p class='warning'>This connection is not encrypted: the password can be read on the way.</p>"


def router(accounts: Accounts, *, https: bool) -> APIRouter:
    """``/login`` and ``/logout``.

    Args:
        accounts: who may log in.
        https: the cookie may travel over HTTPS alone.
    """
    from app.accounts import LoginRefused
    from app.server import loopback

    pages = APIRouter()

    def form(request: Request, refusal: str = "", status: int = 200, wait: int | None = None) -> HTMLResponse:
        plain = not https and not loopback(request.client.host if request.client else "")
        shown = _PAGE.format(notice=NOTICE, refusal=escape(refusal), warning=_PLAIN if plain else "")
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
            token = await asyncio.to_thread(accounts.login, name, password, client)
        except LoginRefused as refused:
            wait = refused.retry_after
            return form(request, str(refused), 429 if wait else 401, None if not wait else round(wait))
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=https, path="/")
        return answer

    @pages.post("/logout")
    def leave(request: Request) -> RedirectResponse:
        token = token_of(request.headers)
        if token is not None:
            accounts.logout(token)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, path="/")
        return answer

    return pages
