"""Server of the service: routes, health, measures, and how it starts, reloads and ends."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from app.accounts import is_loopback
from app.log import OneLine
from app.security import error
from app.server import configured, listen, run_until_stopped
from app.service import reports
from app.service.batcher import Batcher
from app.service.guarding import KeyGuard
from app.service.keys import Keys
from app.service.measures import Measures
from app.service.polling import Batches
from app.service.receiving import BadRequest, Room
from encoder.errors import ConfigError, LlavaRadError
from llava_rad.generation.options import GenerationOptions
from llava_rad.outputs.compose import software_version
from llava_rad.outputs.report import NOTICE

_LOG: Final = logging.getLogger("app.service")
_CHECKED_S: Final = 10.0


@dataclass(frozen=True)
class Settings:
    """Settings of the service.

    Attributes:
        host: address to listen on.
        port: to listen on; 0 selects a free one.
        keys: file of API keys; required for every address that other machines can reach.
        queue: reports that may wait, and requests in memory.
        largest: bytes of one request.
        memory: bytes of all requests.
        grace_s: seconds that requests have to end after SIGTERM.
        options: model and decoding.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    queue: int = 64
    largest: int = 256 << 20
    memory: int = 2 << 30
    grace_s: int = 30
    options: GenerationOptions = field(default_factory=GenerationOptions)

    def check(self) -> None:
        """Check that other machines can reach the server only with keys.

        Raises:
            ConfigError: if they could without, or a request may be larger than all together.
        """
        if self.keys is None and not is_loopback(self.host):
            raise ConfigError(
                "without API keys the service is offered to this machine only",
                hint="--host 127.0.0.1, or --keys FILE",
            )
        if self.largest > self.memory:
            raise ConfigError("a request may not be larger than the memory of all requests")


class Health:
    """Readiness, looked at every few seconds at most.

    Args:
        batcher: whose model and decoders are looked at.
    """

    def __init__(self, batcher: Batcher) -> None:
        self._batcher, self._lock = batcher, threading.Lock()
        self._at, self._decodes = -_CHECKED_S, False

    def state(self) -> tuple[bool, dict[str, str]]:
        """Return whether reports can be written, and what stands in the way."""
        with self._lock:
            if time.monotonic() - self._at >= _CHECKED_S:
                self._decodes, self._at = self._batcher.decodes(), time.monotonic()
            found = self._batcher.state() | {"decoders": "ready" if self._decodes else "failed"}
        return self._decodes and found["model"] == "ready", found


def application(settings: Settings, batcher: Batcher, measures: Measures) -> ASGIApp:
    """Build the ASGI application."""
    batches = Batches(batcher, at_once=max(1, min(settings.queue // 2, 2 * settings.options.batch_size)))
    room = Room(settings.queue, settings.largest, settings.memory, shared=settings.keys is not None)
    health = Health(batcher)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await batches.close()

    served = FastAPI(
        title="LLaVA-Rad reports", version=software_version(), description=NOTICE, docs_url=None, redoc_url=None,
        lifespan=lifespan,
    )  # fmt: skip

    def refused(request: Request, raised: Exception) -> Response:
        return reports.refuse(raised, measures)

    served.add_exception_handler(LlavaRadError, refused)
    served.add_exception_handler(
        RequestValidationError, lambda request, raised: reports.refuse(_not_valid(raised), measures)
    )
    served.add_exception_handler(
        ClientDisconnect, lambda request, raised: error(499, "the connection was closed", reason="closed")
    )
    served.add_exception_handler(HTTPException, _no_route)
    served.add_exception_handler(500, refused)

    @served.get("/health/live")
    def live() -> dict[str, str]:
        """Answer if the process works."""
        return {"status": "ok", "version": software_version()}

    @served.get("/health/ready", responses={503: {"description": "No report can be written now"}})
    def ready() -> JSONResponse:
        """Answer 200 if the model is loaded and images are decoded."""
        good, found = health.state()
        status = "ok" if good else "loading" if found["model"] == "loading" else "failed"
        return JSONResponse({"status": status, **found}, 200 if good else 503)

    @served.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Measures for Prometheus."""
        return Response(measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @served.get("/docs", include_in_schema=False)
    def page() -> HTMLResponse:
        return HTMLResponse(_page(served.openapi()))

    served.include_router(reports.router(reports.Parts(batcher, measures, room, batches)))
    keys = None if settings.keys is None else Keys(settings.keys)
    return KeyGuard(served, keys, {"127.0.0.1", "localhost", "::1", settings.host.lower()}, measures)


def run(settings: Settings) -> None:
    """Serve until interrupted or terminated; SIGHUP loads the model again.

    Raises:
        LlavaRadError: if the port is in use, or a setting is invalid.
    """
    import uvicorn

    settings.check()
    sys.setswitchinterval(0.0005)  # the thread that writes otherwise holds up each step of a request by 5 ms
    measures = Measures()
    listening = listen(settings.host, settings.port)
    batcher = Batcher(settings.options, measures, most=settings.queue)
    try:
        config = configured(
            application(settings, batcher, measures), timeout_graceful_shutdown=settings.grace_s, proxy_headers=False
        )
        _log_to_stderr()
        signal.signal(signal.SIGHUP, lambda number, frame: _reload(batcher))
        run_until_stopped(uvicorn.Server(config), listening, settings.host, "service")
    finally:
        batcher.close()


def _reload(batcher: Batcher) -> None:
    def load() -> None:
        try:
            batcher.reload()
        except LlavaRadError as failed:
            _LOG.error("the model was not loaded again: %s", failed)

    threading.Thread(target=load, name="reload", daemon=True).start()


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False


def _not_valid(raised: Exception) -> BadRequest:
    """Name the parameter that the framework refused: it looks at none but those of the routes."""
    assert isinstance(raised, RequestValidationError)
    return BadRequest(422, "parameter", f"the parameter {raised.errors()[0]['loc'][-1]} is not valid")


def _no_route(request: Request, raised: Exception) -> Response:
    assert isinstance(raised, HTTPException)
    reason = {404: "no_route", 405: "method"}.get(raised.status_code, "request")
    answer = error(raised.status_code, str(raised.detail).lower(), reason=reason)
    answer.headers.update(raised.headers or {})
    return answer


def _page(schema: dict[str, Any]) -> str:
    """The OpenAPI description as a page that loads nothing from elsewhere."""
    rows = [
        f"<tr><td><code>{method.upper()} {escape(path)}</code><td>{escape(route.get('description', ''))}"
        f"<td>{escape(', '.join(route['responses']))}"
        for path, methods in schema["paths"].items()
        for method, route in methods.items()
    ]
    title = escape(schema["info"]["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><h1>{title}</h1>"
        f"<p>{escape(schema['info']['description'])}<p><a href=openapi.json>openapi.json</a>"
        f"<table><tr><th>Route<th>Purpose<th>Answers{''.join(rows)}</table></html>"
    )
