"""The calls that the page makes, under ``/api``: JSON in, JSON out, every study its owner's alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.background import BackgroundTask

from app import exports, review
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
    """What the calls work on.

    Attributes:
        store: studies, events, signed reports.
        images: their pixels.
        uploads: what makes studies.
        drafting: what writes drafts.
        named_users: people log in; otherwise everyone is one local user.
        keep_names: files' names are kept.
    """

    store: Store
    images: ImageFolder
    uploads: Uploads
    drafting: Drafting
    named_users: bool
    keep_names: bool


def user(request: Request) -> str:
    """Who asks; the guard has seen to it that somebody does."""
    name: str = request.state.user
    return name


User = Annotated[str, Depends(user)]


def add_error_handlers(app: FastAPI) -> None:
    """Every error that a user can act on becomes a status and one line."""

    def said(status: Callable[[LlavaRadError], int]) -> Callable[[Request, Exception], Response]:
        def answer(request: Request, raised: Exception) -> Response:
            assert isinstance(raised, LlavaRadError)
            more = {"hint": raised.hint} if raised.hint else {}
            if isinstance(raised, ReadError):
                more["reason"] = raised.reason
            return error(status(raised), str(raised), **more)

        return answer

    app.add_exception_handler(NotFound, said(lambda raised: 404))
    app.add_exception_handler(ReviewError, said(lambda raised: 422))
    app.add_exception_handler(ReadError, said(lambda raised: 415))
    app.add_exception_handler(TooLarge, said(lambda raised: 413))
    app.add_exception_handler(LlavaRadError, said(lambda raised: 503))


async def _json(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise TooLarge("the request is too large")
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ReviewError("the request is not a JSON object")
    return found


Body = Annotated[dict[str, Any], Depends(_json)]


def shown(state: dict[str, Any], services: Services) -> dict[str, Any]:
    """A study as the page gets it: with the findings that its draft and its present text name.

    Where they differ the reviewer has changed what the report says, which the page marks. So it does where the draft
    was written from other inputs than there are now.
    """
    from llava_rad.outputs.document import labels_of

    before, now = labels_of(review.drafted_text(state)), labels_of(review.text_of(state))
    labels = [{"finding": finding, "draft": before[finding], "present": now[finding]} for finding in now]
    image = {name: value for name, value in state["image"].items() if name != "identity"}
    outdated = services.drafting.outdated(state)
    return state | {"image": image, "labels": labels if state["sentences"] else [], "outdated": outdated}


def router(services: Services) -> APIRouter:
    """All calls."""
    calls = APIRouter(prefix="/api")
    _add_studies(calls, services)
    for kind in CONTEXT_IMAGES:
        _add_context(calls, services, kind)
    _add_drafts(calls, services)
    _add_reading(calls, services)
    _add_batches(calls, services)
    return calls


def _name(request: Request) -> str | None:
    """The file's name that the page sent, where names are kept at all."""
    sent = unquote(request.headers.get("x-file-name", ""))
    return Path(sent.replace("\\", "/")).stem[:100] or None


def _force(request: Request) -> bool:
    return request.query_params.get("force") == "true"


def _add_studies(calls: APIRouter, services: Services) -> None:
    store, uploads = services.store, services.uploads

    @calls.get("/me")
    def me(who: User) -> dict[str, Any]:
        return {
            "user": who,
            "named_users": services.named_users,
            "keep_names": services.keep_names,
            "notice": NOTICE,
            "model": services.drafting.status(),
            "exports": downloads(),
        }

    @calls.get("/studies")
    def worklist(
        who: User, status: str | None = None, search: str = "", limit: int = 100, offset: int = 0
    ) -> dict[str, Any]:
        return store.worklist(
            who, status=status or None, search=search[:200], limit=min(max(limit, 1), 500), offset=max(offset, 0)
        )

    @calls.post("/studies", status_code=201)
    async def upload(request: Request, who: User) -> dict[str, Any]:
        batch, number = request.query_params.get("batch"), request.query_params.get("number", "0")
        with uploads.file() as (file, path):
            await uploads.receive(request.stream(), file)
            if batch:
                place = int(number) if number.isdecimal() else 0
                await asyncio.to_thread(uploads.of_batch, who, batch, place, path, file_name=_name(request))
                return {"batch": batch}
            study = await asyncio.to_thread(uploads.study, who, path, file_name=_name(request), force=_force(request))
        return shown(await asyncio.to_thread(store.state, who, study), services)

    @calls.get("/studies/{study}")
    def state(study: str, who: User) -> dict[str, Any]:
        return shown(store.state(who, study), services)

    @calls.post("/studies/{study}/actions", response_model=None)
    def act(study: str, who: User, body: Body) -> dict[str, Any] | JSONResponse:
        revision = body.pop("revision", None)
        if type(revision) is not int:
            raise ReviewError("the action does not say which revision of the study it was made on")
        try:
            return shown(store.act(who, study, revision, body, user=who), services)
        except StaleError as stale:
            return error(409, str(stale), state=shown(store.state(who, study), services))


def _add_context(calls: APIRouter, services: Services, kind: ContextImage) -> None:
    """Routes that add and remove a study's lateral or prior image."""
    store, uploads = services.store, services.uploads

    @calls.post(f"/studies/{{study}}/{kind}")
    async def add(request: Request, study: str, who: User) -> dict[str, Any]:
        await asyncio.to_thread(store.state, who, study)  # before anything is read
        with uploads.file() as (file, path):
            await uploads.receive(request.stream(), file)
            await asyncio.to_thread(uploads.context_image, who, study, kind, path, force=_force(request))
        return shown(await asyncio.to_thread(store.state, who, study), services)

    @calls.delete(f"/studies/{{study}}/{kind}")
    def remove(study: str, who: User) -> dict[str, Any]:
        store.set_context(who, study, kind, None)
        return shown(store.state(who, study), services)


def _add_drafts(calls: APIRouter, services: Services) -> None:
    store, drafting = services.store, services.drafting

    @calls.post("/studies/{study}/draft")
    def write(study: str, who: User, body: Body) -> dict[str, Any]:
        drafting.queue(who, study, replace=body.get("replace") is True, grounded=body.get("grounded") is True)
        return shown(store.state(who, study), services)

    @calls.post("/studies/{study}/stop")
    def stop(study: str, who: User) -> dict[str, Any]:
        drafting.stop(who, study)
        return shown(store.state(who, study), services)

    @calls.get("/studies/{study}/draft")
    async def follow(request: Request, study: str, who: User) -> StreamingResponse:
        await asyncio.to_thread(store.state, who, study)

        async def pieces() -> AsyncIterator[str]:
            last, silent = None, 0.0
            while not await request.is_disconnected():
                now = await asyncio.to_thread(drafting.now, who, study)
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

    @calls.get("/studies/{study}/evidence")
    def evidence(study: str, who: User, sentence: str = "", of: str = "sentence") -> dict[str, Any]:
        return drafting.evidence(who, study, sentence=sentence or None, encoder=of == "encoder")


def _add_reading(calls: APIRouter, services: Services) -> None:
    store, images = services.store, services.images

    @calls.get("/studies/{study}/image/{image}")
    def pixels(study: str, image: str, who: User) -> FileResponse:
        state = store.state(who, study)
        for kept in (state["image"], *((state[kind] or {}).get("image") for kind in CONTEXT_IMAGES)):
            if kept is not None and kept["id"] == image:
                return FileResponse(images.file(kept), media_type="application/octet-stream")
        raise NotFound("there is no such image")

    @calls.get("/studies/{study}/report.txt")
    def text(study: str, who: User, version: int | None = None) -> PlainTextResponse:
        found = exports.report_text(store.state(who, study), version)
        return PlainTextResponse(found, headers=_attachment(f"report-{study[:12]}.txt"))

    @calls.get("/studies/{study}/report.json")
    def record(study: str, who: User, version: int | None = None) -> Response:
        found = exports.report_json(store.state(who, study), version)
        return JSONResponse(found, headers=_attachment(f"report-{study[:12]}.json"))

    for format in document_formats():
        for number, name in enumerate(format.downloads):
            _add_download(calls, store, format, number, name)

    @calls.get("/export.jsonl")
    def lines(who: User) -> StreamingResponse:
        return StreamingResponse(
            exports.jsonl(store, who), media_type="application/jsonl", headers=_attachment("reviews.jsonl")
        )

    @calls.get("/export.zip")
    def research_set(who: User, dicom: bool = False) -> FileResponse:
        path = services.uploads.path()
        try:
            exports.research_set(store, images, who, path, dicom=dicom)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return FileResponse(
            path, media_type="application/zip", headers=_attachment("reviewed.zip"),
            background=BackgroundTask(path.unlink, missing_ok=True),
        )  # fmt: skip

    @calls.get("/export.csv")
    def table(who: User) -> StreamingResponse:
        return StreamingResponse(exports.csv(store, who), media_type="text/csv", headers=_attachment("reviews.csv"))

    @calls.get("/statistics")
    def statistics(who: User) -> dict[str, Any]:
        from app.statistics import summary
        from llava_rad.outputs.document import labels_of

        return summary(store, who, labels_of)


def downloads() -> list[dict[str, str]]:
    """Formats of documents that the page offers, each by its first file."""
    return [{"name": row.name, "title": row.title, "file": row.downloads[0]} for row in document_formats()]


def _add_download(calls: APIRouter, store: Store, format: OutputFormat, number: int, name: str) -> None:
    """One file of a registered format of documents."""

    @calls.get(f"/studies/{{study}}/{name}")
    def download(study: str, who: User, version: int | None = None) -> Response:
        content = format.load()().files(exports.document(store.state(who, study), version))[number]
        stem, _, ending = name.partition(".")
        return Response(content, media_type=format.media_type, headers=_attachment(f"{stem}-{study[:12]}.{ending}"))


def _add_batches(calls: APIRouter, services: Services) -> None:
    store, uploads = services.store, services.uploads

    @calls.get("/batches")
    def batches(who: User) -> list[dict[str, Any]]:
        return store.jobs.batches(who)

    @calls.post("/batches", status_code=201)
    async def begin(request: Request, who: User) -> dict[str, Any]:
        if request.headers.get("content-type", "").startswith("application/json"):
            total = (await _json(request)).get("total")
            if type(total) is not int or not 0 < total <= 10_000:
                raise ReviewError("a batch has 1 to 10,000 files")
            return {"batch": await asyncio.to_thread(store.jobs.create_batch, who, total)}
        with uploads.file() as (file, path):
            await uploads.receive(request.stream(), file, MAX_ZIP_BYTES)
            return {"batch": await asyncio.to_thread(uploads.unpack, who, path)}


def _attachment(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}
