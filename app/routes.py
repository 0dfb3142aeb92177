"""HTTP routes of the review application under ``/api``: JSON requests and responses, limited to the user's studies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.background import BackgroundTask

from app import exports, research_set, review, study_routes
from app.batches import MAX_FILES
from app.database import NotFound
from app.lanes import Connection, Lanes, never
from app.requests import MAX_ZIP_BYTES, Body, TooLarge, User, file_name, forced, json_body, receive, revision_of
from app.review import ReviewError, StaleError
from app.security import error
from app.store import CONTEXT_IMAGES
from llava_rad.outputs.formats import OutputFormat, document_formats
from llava_rad.outputs.report import NOTICE
from metrics.findings.errors import Category, Significance

if TYPE_CHECKING:
    from app.drafting import Drafting
    from app.fetching import Fetching
    from app.images import ImageFolder
    from app.store import ContextImage, Store
    from app.uploads import Uploads
    from app.without_model import WithoutModel

_TICK_S, _HEARTBEAT_S = 0.04, 10.0


@dataclass(frozen=True)
class Services:
    """Components that the routes use.

    Attributes:
        store: studies, events and signed reports.
        images: pixels of the studies.
        uploads: creates studies from images.
        drafting: writes drafts, if there is a model.
        named_users: users log in; otherwise there is one local user.
        keep_names: studies are named after their files.
        users: returns the names of all users; none without accounts.
        fetching: opens studies of the archive, if there is one.
        viewer: address of studies in a viewer, with ``{uid}`` in the place of the StudyInstanceUID.
        lanes: threads of the routes.
    """

    store: Store
    images: ImageFolder
    uploads: Uploads
    drafting: Drafting | WithoutModel
    named_users: bool
    keep_names: bool
    users: Callable[[], list[str]] = list
    fetching: Fetching | None = None
    viewer: str | None = None
    lanes: Lanes = field(default_factory=Lanes)


def shown(state: dict[str, Any], services: Services) -> dict[str, Any]:
    """Add to a study's state the labels of its findings, its address in a viewer, and whether its draft is outdated.

    Labels are those of the draft, of the current text, and those that the reviewer corrected.
    """
    from llava_rad.outputs.document import labels_of

    before, now = labels_of(review.drafted_text(state)), labels_of(review.text_of(state))
    corrected = state["corrections"]
    labels = [
        {"finding": finding, "draft": before[finding], "present": now[finding], "corrected": corrected.get(finding)}
        for finding in now
    ]
    parts: dict[str, Any] = {name: state[name] and _without_identity(state[name]) for name in CONTEXT_IMAGES}
    parts["further"] = [_without_identity(one) for one in state["further"]]
    parts["image"] = _without_identity(state)["image"]
    parts["signed"] = [exports.without_images(one) for one in state["signed"]]
    return (
        state
        | parts
        | {
            "labels": labels if state["sentences"] or corrected else [],
            "outdated": services.drafting.outdated(state),
            "viewer": _viewer(services.viewer, state),
        }
    )


def _viewer(template: str | None, state: dict[str, Any]) -> str | None:
    """Return the address of a study in the viewer; None without a viewer, or if the study's UID is not kept."""
    identity = state["image"].get("identity")
    return None if template is None or identity is None else template.replace("{uid}", quote(identity["study_uid"]))


def _without_identity(part: dict[str, Any]) -> dict[str, Any]:
    """Return an image without the identifiers of its file."""
    kept = part.get("image")
    return part if kept is None else part | {"image": {name: kept[name] for name in kept if name != "identity"}}


def changed(services: Services, user: str, study: str, change: Callable[[], object]) -> dict[str, Any] | JSONResponse:
    """Change a study and return its state; the answer is 409 with the state if the study has changed elsewhere."""
    try:
        change()
    except StaleError as stale:
        return error(409, str(stale), state=shown(services.store.state(user, study), services))
    return shown(services.store.state(user, study), services)


def router(services: Services) -> APIRouter:
    """Create all routes."""
    api = APIRouter(prefix="/api")
    study_routes.add(api, services, changed)
    _add_studies(api, services)
    for kind in CONTEXT_IMAGES:
        _add_context(api, services, kind)
    _add_drafts(api, services)
    _add_reading(api, services)
    _add_batches(api, services)
    return api


def _add_studies(api: APIRouter, services: Services) -> None:
    store, uploads = services.store, services.uploads

    @api.get("/me")
    def me(user: User) -> dict[str, Any]:
        return {
            "user": user,
            "named_users": services.named_users,
            "users": services.users(),
            "keep_names": services.keep_names,
            "notice": NOTICE,
            "model": services.drafting.status(),
            "exports": downloads(),
            "errors": {"categories": described(Category), "significance": described(Significance)},
        }

    @api.get("/settings")
    def settings(user: User) -> dict[str, Any]:
        return store.settings.get(user)

    @api.put("/settings")
    async def update(user: User, body: Body) -> dict[str, Any]:
        return await services.lanes.saving.run(user, never, store.settings.update, user, body)

    @api.get("/palette")
    def palette() -> Any:
        return json.loads(files("app").joinpath("palette.json").read_text(encoding="utf-8"))

    @api.post("/studies", status_code=201)
    async def upload(request: Request, user: User) -> dict[str, Any]:
        if (batch := request.query_params.get("batch")) is not None:
            return await _accept(request, user, batch, services)
        with uploads.file() as (file, path):
            await receive(request.stream(), file)

            connection = Connection(request.is_disconnected)

            def read() -> dict[str, Any]:
                force, study = forced(request), request.query_params.get("study")
                if study is not None:
                    uploads.add(user, study, path, force=force, wanted=connection.open)
                    return shown(store.state(user, study), services) | {"joined": True}
                opened = uploads.study(user, path, file_name=file_name(request), force=force, wanted=connection.open)
                return shown(store.state(user, opened.study), services) | {"joined": opened.joined}

            return await services.lanes.reading.run(user, connection.closed, read)

    @api.post("/archive/study")
    async def fetch(request: Request, user: User, body: Body) -> dict[str, Any]:
        fetching, uid = services.fetching, body.get("uid")
        if fetching is None:
            raise NotFound("the application was started without an archive")
        if not isinstance(uid, str):
            raise ReviewError("the request names no StudyInstanceUID")
        connection = Connection(request.is_disconnected)
        found = await services.lanes.archive.run(
            user, connection.closed, fetching.study, user, uid, wanted=connection.open
        )  # fmt: skip
        return shown(store.state(user, found.study), services) | {"notes": found.notes}

    @api.get("/studies/{study}")
    def state(study: str, user: User) -> dict[str, Any]:
        return shown(store.state(user, study), services)

    @api.post("/studies/{study}/actions", response_model=None)
    async def act(study: str, user: User, body: Body) -> dict[str, Any] | JSONResponse:
        revision = revision_of(body.pop("revision", None))
        return await services.lanes.saving.run(
            user, never, changed, services, user, study, lambda: store.act(user, study, revision, body, user=user)
        )


async def _accept(request: Request, user: str, batch: str, services: Services) -> dict[str, Any]:
    """Receive a file of a batch; one that is too large is listed as refused."""
    uploads, batches = services.uploads, services.store.batches
    sent = request.query_params.get("number", "")
    number = int(sent) if sent.isascii() and sent.isdecimal() and len(sent) < 9 else 0
    saving = services.lanes.saving
    wanted = await saving.run(user, never, batches.require, user, batch, number)
    with uploads.file() as (file, path):
        try:
            await receive(request.stream(), file, whole=True)
        except TooLarge as error:
            await saving.run(user, never, uploads.refuse, user, batch, number, str(error))
        else:
            if wanted:
                await saving.run(user, never, uploads.accept, user, batch, number, path, file_name=file_name(request))
    return {"batch": batch}


def _add_context(api: APIRouter, services: Services, kind: ContextImage) -> None:
    """Routes that add and remove a study's lateral or prior image."""
    store, uploads = services.store, services.uploads

    @api.post(f"/studies/{{study}}/{kind}", response_model=None)
    async def add(request: Request, study: str, user: User) -> dict[str, Any] | JSONResponse:
        # refuse unknown studies before reading the upload
        await services.lanes.saving.run(user, never, store.state, user, study)
        revision, force = revision_of(request.query_params.get("revision")), forced(request)
        with uploads.file() as (file, path):
            await receive(request.stream(), file)
            connection = Connection(request.is_disconnected)
            return await services.lanes.reading.run(
                user, connection.closed, changed, services, user, study,
                lambda: uploads.context_image(
                    user, study, kind, path, force=force, revision=revision, wanted=connection.open
                ),
            )  # fmt: skip

    @api.delete(f"/studies/{{study}}/{kind}", response_model=None)
    async def remove(request: Request, study: str, user: User) -> dict[str, Any] | JSONResponse:
        await services.lanes.saving.run(user, never, store.state, user, study)
        revision = revision_of(request.query_params.get("revision"))
        return await services.lanes.saving.run(
            user, never, changed, services, user, study,
            lambda: store.set_context(user, study, kind, None, revision=revision),
        )  # fmt: skip


def _add_drafts(api: APIRouter, services: Services) -> None:
    drafting, lanes = services.drafting, services.lanes

    @api.post("/studies/{study}/draft", response_model=None)
    async def write(study: str, user: User, body: Body) -> dict[str, Any] | JSONResponse:
        replace, grounded = body.get("replace") is True, body.get("grounded") is True
        sent = body.get("revision")
        revision = revision_of(sent) if replace or sent is not None else None
        return await lanes.saving.run(
            user, never, changed, services, user, study,
            lambda: drafting.queue(user, study, replace=replace, grounded=grounded, revision=revision),
        )  # fmt: skip

    @api.post("/studies/{study}/stop", response_model=None)
    async def stop(study: str, user: User) -> dict[str, Any] | JSONResponse:
        return await lanes.saving.run(
            user, never, changed, services, user, study, lambda: drafting.stop(user, study)
        )  # fmt: skip

    @api.get("/studies/{study}/draft")
    async def follow(request: Request, study: str, user: User) -> StreamingResponse:
        await lanes.drafts.run(user, request.is_disconnected, drafting.now, user, study)

        async def pieces() -> AsyncIterator[str]:
            last, silent = None, 0.0
            while not await request.is_disconnected():
                now = await lanes.drafts.run(user, never, drafting.now, user, study)
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
    async def evidence(
        request: Request, study: str, user: User, sentence: str = "", of: str = "sentence"
    ) -> dict[str, Any]:
        connection = Connection(request.is_disconnected)
        return await lanes.maps.run(
            user, connection.closed, drafting.evidence, user, study, sentence=sentence or None,
            encoder=of == "encoder", wanted=connection.open,
        )  # fmt: skip


def _add_reading(api: APIRouter, services: Services) -> None:
    store, images, lane = services.store, services.images, services.lanes.exports

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
            _add_download(api, services, format, number, name)

    @api.get("/export.jsonl")
    def lines(user: User) -> StreamingResponse:
        return StreamingResponse(
            exports.jsonl(store, user), media_type="application/jsonl", headers=_attachment("reviews.jsonl")
        )

    @api.get("/export.zip")
    async def signed_set(request: Request, user: User, dicom: bool = False) -> FileResponse:
        path = services.uploads.path()
        try:
            await lane.run(user, request.is_disconnected, research_set.write, store, images, user, path, dicom=dicom)
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
    async def statistics(request: Request, user: User) -> dict[str, Any]:
        from app.statistics import summary
        from llava_rad.outputs.document import labels_of

        return await lane.run(user, request.is_disconnected, summary, store, user, labels_of)


def described(choices: Iterable[Category | Significance]) -> list[dict[str, str]]:
    """List the choices that the page offers."""
    return [{"value": one.value, "title": one.label, "definition": one.definition} for one in choices]


def downloads() -> list[dict[str, str]]:
    """List the document formats that the page offers, each by its first file."""
    return [{"name": row.name, "title": row.title, "file": row.downloads[0]} for row in document_formats()]


def _add_download(api: APIRouter, services: Services, format: OutputFormat, number: int, name: str) -> None:
    """Add the route of one file of a registered document format."""
    store, lane = services.store, services.lanes.exports

    @api.get(f"/studies/{{study}}/{name}")
    async def download(request: Request, study: str, user: User, version: int | None = None) -> Response:
        def made() -> bytes:
            files: Sequence[bytes] = format.load()().files(exports.document(store.state(user, study), version))
            return files[number]

        content = await lane.run(user, request.is_disconnected, made)
        stem, _, ending = name.partition(".")
        return Response(content, media_type=format.media_type, headers=_attachment(f"{stem}-{study[:12]}.{ending}"))


def _add_batches(api: APIRouter, services: Services) -> None:
    store, uploads = services.store, services.uploads

    @api.get("/batches")
    def batches(user: User) -> list[dict[str, Any]]:
        return store.batches.progress(user)

    @api.get("/drafts")
    def imported(user: User) -> dict[str, Any] | None:
        """Return how many drafts of others there are, and which of them no study has."""
        found = getattr(services.drafting, "imported", None)
        return None if found is None else found()

    @api.post("/batches", status_code=201)
    async def begin(request: Request, user: User) -> dict[str, Any]:
        if request.headers.get("content-type", "").startswith("application/json"):
            total = (await json_body(request)).get("total")
            if type(total) is not int or not 0 < total <= MAX_FILES:
                raise ReviewError(f"a batch has 1 to {MAX_FILES:,} files")
            return {"batch": await services.lanes.saving.run(user, never, store.batches.create, user, total)}
        with uploads.file() as (file, path):
            await receive(request.stream(), file, MAX_ZIP_BYTES)
            return {"batch": await services.lanes.saving.run(user, never, uploads.unpack, user, path)}


def _attachment(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}
