"""HTTP routes of the review application under ``/api``: JSON requests and responses, limited to the user's studies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.background import BackgroundTask

from app import exports, review
from app.batches import MAX_FILES
from app.database import NotFound
from app.review import ReviewError, StaleError
from app.security import error
from app.store import CONTEXT_IMAGES
from app.uploads import MAX_ZIP_BYTES, TooLarge
from encoder.errors import LlavaRadError, ReadError
from llava_rad.outputs.formats import OutputFormat, document_formats
from llava_rad.outputs.report import NOTICE

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.drafting import Drafting
    from app.images import ImageFolder
    from app.store import ContextImage, Store
    from app.uploads import Uploads

MAX_BODY = 1 << 20
_TICK_S, _HEARTBEAT_S = 0.04, 10.0


@dataclass(frozen=True)
class Services:
    """Components that the routes use.

    Attributes:
        store: studies, events and signed reports.
        images: pixels of the studies.
        uploads: creates studies from images.
        drafting: writes drafts.
        named_users: users log in; otherwise there is one local user.
        keep_names: studies are named after their files.
    """

    store: Store
    images: ImageFolder
    uploads: Uploads
    drafting: Drafting
    named_users: bool
    keep_names: bool


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
            more = {"hint": raised.hint} if raised.hint else {}
            if isinstance(raised, ReadError):
                more["reason"] = raised.reason
            return error(status(raised), str(raised), **more)

        return answer

    app.add_exception_handler(RequestValidationError, lambda request, raised: error(422, "a parameter is not valid"))
    app.add_exception_handler(NotFound, handler(lambda raised: 404))
    app.add_exception_handler(ReviewError, handler(lambda raised: 422))
    app.add_exception_handler(ReadError, handler(lambda raised: 415))
    app.add_exception_handler(TooLarge, handler(lambda raised: 413))
    app.add_exception_handler(LlavaRadError, handler(lambda raised: 503))


async def _json(request: Request) -> dict[str, Any]:
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


Body = Annotated[dict[str, Any], Depends(_json)]


def shown(state: dict[str, Any], services: Services) -> dict[str, Any]:
    """Add to a study's state the labels of its draft and its current text, and whether its draft is outdated.

    The page marks findings whose labels differ, and drafts whose inputs have changed.
    """
    from llava_rad.outputs.document import labels_of

    before, now = labels_of(review.drafted_text(state)), labels_of(review.text_of(state))
    labels = [{"finding": finding, "draft": before[finding], "present": now[finding]} for finding in now]
    image = {name: value for name, value in state["image"].items() if name != "identity"}
    outdated = services.drafting.outdated(state)
    return state | {"image": image, "labels": labels if state["sentences"] else [], "outdated": outdated}


def router(services: Services) -> APIRouter:
    """Create all routes."""
    api = APIRouter(prefix="/api")
    _add_studies(api, services)
    for kind in CONTEXT_IMAGES:
        _add_context(api, services, kind)
    _add_drafts(api, services)
    _add_reading(api, services)
    _add_batches(api, services)
    return api


def _name(request: Request) -> str | None:
    """Return the file name that the page sent, without folders and ending."""
    sent = unquote(request.headers.get("x-file-name", ""))
    return Path(sent.replace("\\", "/")).stem[:100] or None


def _force(request: Request) -> bool:
    return request.query_params.get("force") == "true"


def _add_studies(api: APIRouter, services: Services) -> None:
    store, uploads = services.store, services.uploads

    @api.get("/me")
    def me(user: User) -> dict[str, Any]:
        return {
            "user": user,
            "named_users": services.named_users,
            "keep_names": services.keep_names,
            "notice": NOTICE,
            "model": services.drafting.status(),
            "exports": downloads(),
        }

    @api.get("/studies")
    def worklist(
        user: User, status: str | None = None, search: str = "", limit: int = 100, offset: int = 0
    ) -> dict[str, Any]:
        return store.worklist(
            user,
            status=status or None,
            search=search[:200],
            limit=min(max(limit, 1), 500),
            offset=min(max(offset, 0), 1 << 32),
        )

    @api.post("/studies", status_code=201)
    async def upload(request: Request, user: User) -> dict[str, Any]:
        if (batch := request.query_params.get("batch")) is not None:
            return await _accept(request, user, batch, services)
        with uploads.file() as (file, path):
            await uploads.receive(request.stream(), file)
            study = await asyncio.to_thread(uploads.study, user, path, file_name=_name(request), force=_force(request))
        return shown(await asyncio.to_thread(store.state, user, study), services)

    @api.get("/studies/{study}")
    def state(study: str, user: User) -> dict[str, Any]:
        return shown(store.state(user, study), services)

    @api.post("/studies/{study}/actions", response_model=None)
    def act(study: str, user: User, body: Body) -> dict[str, Any] | JSONResponse:
        revision = body.pop("revision", None)
        if type(revision) is not int:
            raise ReviewError("the action lacks the revision of the study that it was made on")
        try:
            return shown(store.act(user, study, revision, body, user=user), services)
        except StaleError as stale:
            return error(409, str(stale), state=shown(store.state(user, study), services))


async def _accept(request: Request, user: str, batch: str, services: Services) -> dict[str, Any]:
    """Receive a file of a batch; one that is too large is listed as refused."""
    uploads, batches = services.uploads, services.store.batches
    sent = request.query_params.get("number", "")
    number = int(sent) if sent.isascii() and sent.isdecimal() and len(sent) < 9 else 0
    wanted = await asyncio.to_thread(batches.require, user, batch, number)
    with uploads.file() as (file, path):
        try:
            await uploads.receive(request.stream(), file, whole=True)
        except TooLarge as error:
            await asyncio.to_thread(batches.refuse, user, batch, number, sha256=None, reason=str(error))
        else:
            if wanted:
                await asyncio.to_thread(uploads.accept, user, batch, number, path, file_name=_name(request))
    return {"batch": batch}


def _add_context(api: APIRouter, services: Services, kind: ContextImage) -> None:
    """Routes that add and remove a study's lateral or prior image."""
    store, uploads = services.store, services.uploads

    @api.post(f"/studies/{{study}}/{kind}")
    async def add(request: Request, study: str, user: User) -> dict[str, Any]:
        await asyncio.to_thread(store.state, user, study)  # refuse unknown studies before reading the upload
        with uploads.file() as (file, path):
            await uploads.receive(request.stream(), file)
            await asyncio.to_thread(uploads.context_image, user, study, kind, path, force=_force(request))
        return shown(await asyncio.to_thread(store.state, user, study), services)

    @api.delete(f"/studies/{{study}}/{kind}")
    def remove(study: str, user: User) -> dict[str, Any]:
        store.set_context(user, study, kind, None)
        return shown(store.state(user, study), services)


def _add_drafts(api: APIRouter, services: Services) -> None:
    store, drafting = services.store, services.drafting

    @api.post("/studies/{study}/draft")
    def write(study: str, user: User, body: Body) -> dict[str, Any]:
        drafting.queue(user, study, replace=body.get("replace") is True, grounded=body.get("grounded") is True)
        return shown(store.state(user, study), services)

    @api.post("/studies/{study}/stop")
    def stop(study: str, user: User) -> dict[str, Any]:
        drafting.stop(user, study)
        return shown(store.state(user, study), services)

    @api.get("/studies/{study}/draft")
    async def follow(request: Request, study: str, user: User) -> StreamingResponse:
        await asyncio.to_thread(store.state, user, study)

        async def pieces() -> AsyncIterator[str]:
            last, silent = None, 0.0
            while not await request.is_disconnected():
                now = await asyncio.to_thread(drafting.now, user, study)
                if now != last:
                    last, silent = now, 0.0
                    yield f"data: {json.dumps(now)}\n\n"
                if now is None or now["state"] not in ("queued", "running"):
                    return
                await asyncio.sleep(_TICK_S)
                silent += _TICK_S
                if silent > _HEARTBEAT_S:
                    silent = 0.0
                    yield ": still there\n\n"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    @api.get("/studies/{study}/evidence")
    def evidence(study: str, user: User, sentence: str = "", of: str = "sentence") -> dict[str, Any]:
        return drafting.evidence(user, study, sentence=sentence or None, encoder=of == "encoder")


def _add_reading(api: APIRouter, services: Services) -> None:
    store, images = services.store, services.images

    @api.get("/studies/{study}/image/{image}")
    def pixels(study: str, image: str, user: User) -> FileResponse:
        state = store.state(user, study)
        for kept in (state["image"], *((state[kind] or {}).get("image") for kind in CONTEXT_IMAGES)):
            if kept is not None and kept["id"] == image:
                return FileResponse(images.file(kept), media_type="application/octet-stream")
        raise NotFound("there is no such image")

    @api.get("/studies/{study}/report.txt")
    def text(study: str, user: User, version: int | None = None) -> PlainTextResponse:
        found = exports.report_text(store.state(user, study), version)
        return PlainTextResponse(found, headers=_attachment(f"report-{study[:12]}.txt"))

    @api.get("/studies/{study}/report.json")
    def record(study: str, user: User, version: int | None = None) -> Response:
        found = exports.report_json(store.state(user, study), version)
        return JSONResponse(found, headers=_attachment(f"report-{study[:12]}.json"))

    for format in document_formats():
        for number, name in enumerate(format.downloads):
            _add_download(api, store, format, number, name)

    @api.get("/export.jsonl")
    def lines(user: User) -> StreamingResponse:
        return StreamingResponse(
            exports.jsonl(store, user), media_type="application/jsonl", headers=_attachment("reviews.jsonl")
        )

    @api.get("/export.zip")
    def research_set(user: User, dicom: bool = False) -> FileResponse:
        path = services.uploads.path()
        try:
            exports.research_set(store, images, user, path, dicom=dicom)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return FileResponse(
            path, media_type="application/zip", headers=_attachment("reviewed.zip"),
            background=BackgroundTask(path.unlink, missing_ok=True),
        )  # fmt: skip

    @api.get("/export.csv")
    def table(user: User) -> StreamingResponse:
        return StreamingResponse(exports.csv(store, user), media_type="text/csv", headers=_attachment("reviews.csv"))

    @api.get("/statistics")
    def statistics(user: User) -> dict[str, Any]:
        from app.statistics import summary
        from llava_rad.outputs.document import labels_of

        return summary(store, user, labels_of)


def downloads() -> list[dict[str, str]]:
    """List the document formats that the page offers, each by its first file."""
    return [{"name": row.name, "title": row.title, "file": row.downloads[0]} for row in document_formats()]


def _add_download(api: APIRouter, store: Store, format: OutputFormat, number: int, name: str) -> None:
    """Add the route of one file of a registered document format."""

    @api.get(f"/studies/{{study}}/{name}")
    def download(study: str, user: User, version: int | None = None) -> Response:
        content = format.load()().files(exports.document(store.state(user, study), version))[number]
        stem, _, ending = name.partition(".")
        return Response(content, media_type=format.media_type, headers=_attachment(f"{stem}-{study[:12]}.{ending}"))


def _add_batches(api: APIRouter, services: Services) -> None:
    store, uploads = services.store, services.uploads

    @api.get("/batches")
    def batches(user: User) -> list[dict[str, Any]]:
        return store.batches.progress(user)

    @api.post("/batches", status_code=201)
    async def begin(request: Request, user: User) -> dict[str, Any]:
        if request.headers.get("content-type", "").startswith("application/json"):
            total = (await _json(request)).get("total")
            if type(total) is not int or not 0 < total <= MAX_FILES:
                raise ReviewError(f"a batch has 1 to {MAX_FILES:,} files")
            return {"batch": await asyncio.to_thread(store.batches.create, user, total)}
        with uploads.file() as (file, path):
            await uploads.receive(request.stream(), file, MAX_ZIP_BYTES)
            return {"batch": await asyncio.to_thread(uploads.unpack, user, path)}


def _attachment(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}
