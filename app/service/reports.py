"""Routes ``/v1/reports`` and ``/v1/batches``: images in, reports out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.datastructures import FormData

from app.security import error
from app.service.batcher import Job, QueueFull
from app.service.events import EVENTS, EventStream
from app.service.receiving import BadRequest, bytes_of, hint_of, receive, refusal_of, text_of
from encoder.errors import ReadError
from llava_rad.generation.study import StudyInputs
from llava_rad.model.templates import TEXTS
from llava_rad.outputs.document import Document, with_uids
from llava_rad.outputs.formats import FORMATS
from llava_rad.outputs.report import Report

if TYPE_CHECKING:
    from app.service.batcher import Batcher
    from app.service.measures import Measures
    from app.service.polling import Batches
    from app.service.receiving import Room
    from encoder.reader.identity import Identity

BOTH_OBJECTS: Final = "multipart/related"
KINDS: Final = ("application/json", "text/plain", EVENTS, "application/dicom", BOTH_OBJECTS, "application/fhir+json")
"""Media types of a report, the preferred one first."""
_LOOK_S: Final = 0.25
_BOUNDARY: Final = "llava-rad-object"
_BINARY: Final = {"type": "string", "format": "binary"}
_TEXTS: Final[dict[str, Any]] = {name: {"type": "string"} for name in TEXTS}


class Problem(BaseModel):
    """Body of every error.

    Attributes:
        error: message of one line.
        reason: fixed identifier, for programs.
        hint: what helps.
        forcible: `force=true` reads the image all the same.
    """

    error: str
    reason: str
    hint: str | None = None
    forcible: bool | None = None


class Result(BaseModel):
    """Result of one image of a batch: a report, or an error.

    Attributes:
        number: of the image, from 1.
        report: of the image.
        error: message of one line.
        reason: fixed identifier, for programs.
    """

    number: int
    report: dict[str, Any] | None = None
    error: str | None = None
    reason: str | None = None


class BatchState(BaseModel):
    """State of a batch.

    Attributes:
        id: of the batch.
        state: running or done.
        images: number of images.
        done: number of results.
        results: so far.
    """

    id: str
    state: Literal["running", "done"]
    images: int
    done: int
    results: list[Result]


_PROBLEMS: Final = {
    400: "Bad form, or a study input that the model does not take", 401: "No valid API key",
    403: "Not allowed to this key, or from a web page", 404: "No such batch", 406: "No such media type",
    408: "Slow upload", 410: "The batch was lost in a restart", 413: "Too large", 421: "Unknown host name",
    422: "Image or parameter refused: `reason`", 429: "Limit reached or queue full: `Retry-After`",
    503: "No model, or the server is stopping",
}  # fmt: skip


def problems(*statuses: int) -> dict[int | str, Any]:
    """Describe the errors of a route, and those that every route has."""
    return {
        status: {"description": _PROBLEMS[status], "model": Problem}
        for status in sorted({401, 403, 421, 503, *statuses})
    }


@dataclass(frozen=True)
class Parts:
    """Components that the routes use.

    Attributes:
        batcher: writes the reports.
        measures: count refusals and seconds.
        room: for requests in memory.
        batches: that are polled.
    """

    batcher: Batcher
    measures: Measures
    room: Room
    batches: Batches


def refuse(raised: Exception, measures: Measures) -> JSONResponse:
    """Make the response of an error, ``{"error": MESSAGE, "reason": SLUG}``, and count it."""
    status, reason, message = refusal_of(raised)
    measures.refusals.labels(reason).inc()
    more: dict[str, object] = {"hint": hint} if (hint := hint_of(raised)) else {}
    if isinstance(raised, ReadError):
        more["forcible"] = raised.forcible
    answer = error(status, message, reason=reason, **more)
    if isinstance(raised, QueueFull):
        answer.headers["retry-after"] = str(int(raised.retry_after))
    return answer


def kind_of(accept: str) -> str:
    """Choose the media type of the answer by an ``Accept`` header.

    Raises:
        BadRequest: if it names none that there is.
    """
    asked = []
    for at, part in enumerate(accept.lower().split(",") if accept.strip() else ["*/*"]):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                with contextlib.suppress(ValueError):
                    weight = float(parameter[2:])
        if weight > 0:
            asked.append((-weight, at, name))
    for _, _, name in sorted(asked):
        for kind in KINDS:
            if name in (kind, "*/*") or (name.endswith("/*") and kind.startswith(name[:-1])):
                return kind
    raise BadRequest(406, "not_acceptable", f"a report is one of {', '.join(KINDS)}")


def router(parts: Parts) -> APIRouter:
    """Create the routes."""
    api = APIRouter(prefix="/v1")
    body = {
        "required": True,
        "content": {
            "application/dicom": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": _BINARY, "lateral": _BINARY, "prior": _BINARY, **_TEXTS}
                    | {"grounded": {"type": "string", "enum": ["true", "false"]}},
                }
            },
        },
    }
    content: dict[str, dict[str, object]] = {kind: {} for kind in KINDS}
    content["text/plain"] = {"schema": {"type": "string"}}

    @api.post(
        "/reports", openapi_extra={"requestBody": body}, response_class=Response,
        responses={
            200: {"description": "The report", "content": content, "model": Report},
            **problems(400, 406, 408, 413, 422, 429),
        },
    )  # fmt: skip
    async def report(
        request: Request, frame: int | None = None, force: bool = False, identifiers: bool = False
    ) -> Response:
        """Write the report of an image, in the form that `Accept` asks for.

        The body is the file, or a form of a study's files and texts. `identifiers` copies those of the DICOM files
        into SR and FHIR documents, and the UIDs of study and image into JSON.
        """
        with contextlib.ExitStack() as room:
            room.enter_context(parts.room.take(request, request.state.caller, parts.batcher.wait_s()))
            kind = kind_of(request.headers.get("accept", ""))
            if frame is not None and frame < 1:
                raise BadRequest(400, "parameter", "frames are counted from 1")
            loop = asyncio.get_running_loop()
            begun = loop.time()
            image, inputs = await _study(await receive(request, parts.room.largest))
            parts.measures.seconds.labels("upload").observe(loop.time() - begun)
            answers: asyncio.Queue[str | Report | Exception] = asyncio.Queue()

            def put(part: str | Report | Exception) -> None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(answers.put_nowait, part)

            job = Job(
                caller := request.state.caller, image, inputs, put, force=force, frame=frame, streamed=kind == EVENTS
            )
            await _read(parts.batcher, job, request.is_disconnected)
            room.callback(_leave, parts.batcher, job)
            parts.batcher.submit(job)
            if kind == EVENTS:
                return EventStream(answers, parts.measures, room.pop_all())
            answer = await _first(answers, request.is_disconnected)
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, Report)
            identify = partial(_identity, parts.batcher, caller, image, inputs) if identifiers else None
            return await loop.run_in_executor(parts.batcher.threads, _response, answer, kind, identify)

    images: dict[str, Any] = {"type": "object", "required": ["images"]}
    images["properties"] = {"images": {"type": "array", "items": _BINARY}}

    @api.post(
        "/batches", status_code=202, responses=problems(400, 408, 413, 422, 429), response_model=BatchState,
        response_model_exclude_unset=True,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": images}}}},
    )  # fmt: skip
    async def accept(request: Request, force: bool = False) -> dict[str, Any]:
        """Write the reports of several images; the results are polled. They are kept in memory for an hour."""
        with contextlib.ExitStack() as room:
            room.enter_context(parts.room.take(request, request.state.caller, parts.batcher.wait_s()))
            form = await receive(request, parts.room.largest)
            if not isinstance(form, FormData):
                raise BadRequest(400, "bad_form", "a batch is a form with the files in parts named images")
            if any(name != "images" for name, _ in form.multi_items()):
                raise BadRequest(400, "bad_form", "a part of the form has another name than images")
            files = [await bytes_of(part, "images") for part in form.getlist("images")]
            if not files:
                raise BadRequest(400, "bad_form", "the form has no part named images")
            return parts.batches.add(request.state.caller, files, force=force, room=room.pop_all())

    @api.get(
        "/batches/{batch}",
        responses=problems(404, 410, 422),
        response_model=BatchState,
        response_model_exclude_unset=True,
    )
    async def results(request: Request, batch: str) -> dict[str, Any]:
        """Return the state of a batch, and its reports and errors so far."""
        return parts.batches.state(request.state.caller, batch)

    @api.delete("/batches/{batch}", status_code=204, responses=problems(404, 410, 422))
    async def remove(request: Request, batch: str) -> Response:
        """Stop a batch, and forget its results."""
        parts.batches.remove(request.state.caller, batch)
        return Response(status_code=204)

    @api.post("/admin/reload", responses=problems(429))
    async def reload(request: Request) -> dict[str, str]:
        """Load the model again; requests go on meanwhile."""
        if not request.state.admin:
            raise BadRequest(403, "forbidden", "the key may not load the model")
        await asyncio.to_thread(parts.batcher.reload)
        return parts.batcher.state()

    return api


async def _study(body: bytes | FormData) -> tuple[bytes, StudyInputs]:
    """Frontal image and other inputs of a request."""
    if not isinstance(body, FormData):
        return body, StudyInputs()
    known = {"image", "lateral", "prior", *TEXTS, "grounded"}
    given = body.multi_items()
    names = [name for name, _ in given]
    if unknown := [name for name in names if name not in known]:
        raise BadRequest(400, "bad_form", f"{len(unknown)} parts of the form have unknown names")
    if len(set(names)) < len(names):
        raise BadRequest(400, "bad_form", "two parts of the form have one name")
    inputs: dict[str, Any] = {}
    for name, part in given:
        if name in ("image", "lateral", "prior"):
            inputs[name] = await bytes_of(part, name)
        elif name == "grounded":
            flag = text_of(part, name)
            if flag not in ("true", "false"):
                raise BadRequest(400, "bad_form", "grounded is true or false")
            inputs[name] = flag == "true"
        else:
            inputs[name] = text_of(part, name)
    if "image" not in inputs:
        raise BadRequest(400, "bad_form", "the form has no part named image")
    return inputs.pop("image"), StudyInputs(**inputs)


async def _read(batcher: Batcher, job: Job, closed: Callable[[], Awaitable[bool]]) -> None:
    """Decode the images of a job as long as somebody waits for it."""
    reading = asyncio.get_running_loop().run_in_executor(batcher.threads, batcher.read, job)
    try:
        while not (await asyncio.wait([reading], timeout=_LOOK_S))[0]:
            if await closed():
                raise BadRequest(499, "closed", "the connection was closed")
        await reading
    except BaseException:
        batcher.cancel(job)
        reading.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody waits for it
        raise


def _leave(batcher: Batcher, job: Job) -> None:
    if not job.answered:
        batcher.cancel(job)


async def _first(
    answers: asyncio.Queue[str | Report | Exception], closed: Callable[[], Awaitable[bool]]
) -> str | Report | Exception:
    """Wait for an answer as long as somebody waits for it."""
    while True:
        try:
            return await asyncio.wait_for(answers.get(), _LOOK_S)
        except TimeoutError:
            if await closed():
                raise BadRequest(499, "closed", "the connection was closed") from None


def _identity(batcher: Batcher, caller: str, image: bytes, inputs: StudyInputs, sha256: str) -> Identity:
    """Read the identifiers of the file with a SHA-256 among those of a request.

    Raises:
        ReadError: if it has none.
    """
    files = [image, *(source.data or b"" for _, source in inputs.images)]
    return batcher.identity(caller, next(one for one in files if hashlib.sha256(one).hexdigest() == sha256))


def _response(report: Report, kind: str, identify: Callable[[str], Identity] | None) -> Response:
    """A report in one of the media types ``KINDS``, with identifiers if they are asked for."""
    if kind == "text/plain":
        return Response(report.to_text(), media_type=kind)
    if kind == "application/json":
        return Response((report if identify is None else with_uids(report, identify)).to_json(), media_type=kind)
    at = datetime.now(UTC)
    document = Document.of(report, at) if identify is None else Document.identified(report, at, identify)
    row = FORMATS["fhir" if kind == "application/fhir+json" else "sr"]
    first, *rest = row.load()().files(document)
    if kind != BOTH_OBJECTS:
        return Response(first, media_type=kind)
    head = f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + one + b"\r\n" for one in (first, *rest)) + f"--{_BOUNDARY}--\r\n".encode()
    return Response(body, headers={"content-type": f'{kind}; type="application/dicom"; boundary={_BOUNDARY}'})
