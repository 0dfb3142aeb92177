"""Server-sent events of a report that is being written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from fastapi.responses import StreamingResponse

from app.service.receiving import refusal_of
from llava_rad.outputs.report import Report, clean

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from app.service.measures import Measures

EVENTS: Final = "text/event-stream"


class EventStream(StreamingResponse):
    """Events ``text`` with pieces of the report, then ``report`` or ``error``.

    Args:
        answers: of the job, which are awaited.
        measures: count errors.
        room: of the request; free when the stream has ended, however it ends.
    """

    def __init__(self, answers: asyncio.Queue[str | Report | Exception], measures: Measures, room: ExitStack) -> None:
        super().__init__(_events(answers, measures), media_type=EVENTS)
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with self._room:
            await super().__call__(scope, receive, send)


async def _events(answers: asyncio.Queue[str | Report | Exception], measures: Measures) -> AsyncIterator[str]:
    raw, shown = "", ""
    while True:
        part = await answers.get()
        if isinstance(part, str):
            raw += part
            text = clean(raw).strip()
            if text.startswith(shown) and text != shown:
                yield _event("text", {"text": text[len(shown) :]})
                shown = text
        elif isinstance(part, Report):
            yield f"event: report\ndata: {part.to_json(indent=None)}\n\n"
            return
        else:
            _, reason, message = refusal_of(part)
            measures.refusals.labels(reason).inc()
            yield _event("error", {"error": message, "reason": reason})
            return


def _event(name: str, data: dict[str, str]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
