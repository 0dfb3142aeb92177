"""HTTP routes of studies as a whole: worklist, neighbours, assignment, and their images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from app import measurements
from app.database import NotFound
from app.images import PREVIEW_SIDES
from app.lanes import never
from app.requests import Body, User, revision_of
from app.review import ReviewError

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.routes import Services

    Changed = Callable[[Services, str, str, Callable[[], object]], dict[str, Any] | JSONResponse]

CACHED = {"cache-control": "private, max-age=31536000, immutable", "vary": "Cookie"}
"""Images never change: their ids are random. After another login they are asked for anew."""


def query(
    status: str = "",
    search: str = "",
    finding: str = "",
    mine: bool = False,
    sort: str = "changed",
    descending: bool | None = None,
) -> dict[str, Any]:
    """Return the query of a worklist from a request's parameters."""
    return {
        "status": status, "search": search[:200], "finding": finding, "mine": mine, "sort": sort,
        "descending": descending,
    }  # fmt: skip


Query = Annotated[dict[str, Any], Depends(query)]


def add(api: APIRouter, services: Services, changed: Changed) -> None:
    """Add the routes; ``changed`` answers requests that change a study (:func:`app.routes.changed`)."""
    _add_worklist(api, services)
    _add_images(api, services, changed)


def _add_worklist(api: APIRouter, services: Services) -> None:
    store, lane = services.store, services.lanes.saving

    @api.get("/studies")
    def worklist(user: User, wanted: Query, limit: int = 100, offset: int = 0) -> dict[str, Any]:
        return store.worklist(
            user, limit=min(max(limit, 1), 500), offset=min(max(offset, 0), 1 << 32), **wanted
        )  # fmt: skip

    @api.get("/studies/{study}/neighbours")
    async def neighbours(study: str, user: User, wanted: Query) -> dict[str, str | None]:
        return await lane.run(user, never, store.neighbours, user, study, **wanted)

    @api.post("/studies/{study}/assign")
    async def assign(study: str, user: User, body: Body) -> dict[str, str | None]:
        name = body.get("user")
        if not services.named_users:
            raise ReviewError("studies are assigned where users log in")
        if name is not None and name not in services.users():
            raise ReviewError("there is no such user")
        await lane.run(user, never, store.assign, user, study, name)
        return {"assigned": name}


def _add_images(api: APIRouter, services: Services, changed: Changed) -> None:
    store, images, lane = services.store, services.images, services.lanes.images

    @api.get("/studies/{study}/image/{image}", response_model=None)
    async def pixels(
        request: Request, study: str, image: str, user: User, preview: int | None = None, planes: bool = False
    ) -> Response:
        def made() -> Response:
            state = store.state(user, study)
            kept = next((one for one in measurements.images_of(state) if one["id"] == image), None)
            if kept is None:
                raise NotFound("there is no such image")
            if preview is not None:
                side = max((one for one in PREVIEW_SIDES if one <= preview), default=PREVIEW_SIDES[0])
                return _cached(request, f"{image}-{side}", lambda: _preview(services, kept, side))
            if planes:
                return _cached(request, f"{image}-planes", lambda: Response(
                    images.planes(kept), media_type="application/octet-stream", headers={"content-encoding": "gzip"}
                ))  # fmt: skip
            return _cached(
                request, image, lambda: FileResponse(images.file(kept), media_type="application/octet-stream")
            )  # fmt: skip

        return await lane.run(user, request.is_disconnected, made)

    @api.get("/studies/{study}/thumbnail", response_model=None)
    async def thumbnail(request: Request, study: str, user: User) -> Response:
        def made() -> Response:
            kept = store.state(user, study)["image"]
            answer = _cached(request, f"{kept['id']}-96", lambda: _preview(services, kept, PREVIEW_SIDES[0]))
            if request.query_params.get("image") != kept["id"]:
                answer.headers["cache-control"] = "private, no-cache"  # the study's image may be another one later
            return answer

        return await lane.run(user, request.is_disconnected, made)

    @api.delete("/studies/{study}/further/{image}", response_model=None)
    async def remove(request: Request, study: str, image: str, user: User) -> dict[str, Any] | JSONResponse:
        revision = revision_of(request.query_params.get("revision"))
        return await services.lanes.saving.run(
            user, never, changed, services, user, study,
            lambda: store.remove_further(user, study, image, revision=revision),
        )  # fmt: skip


def _preview(services: Services, kept: dict[str, Any], side: int) -> Response:
    found = services.images.preview(kept, side)
    return Response(
        found.content, media_type="image/jpeg", headers={"x-low": str(found.low), "x-high": str(found.high)}
    )  # fmt: skip


def _cached(request: Request, tag: str, made: Callable[[], Response]) -> Response:
    """Return a response that browsers keep, or 304 if the browser has it."""
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    answer = Response(status_code=304) if f'"{tag}"' in known else made()
    answer.headers.update(CACHED | {"etag": f'"{tag}"'})
    return answer
