"""Batches whose results are polled. Images and results are in memory only: a batch does not survive a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from app.service.batcher import Job, QueueFull
from app.service.receiving import BadRequest, refusal_of
from llava_rad.generation.study import StudyInputs
from llava_rad.outputs.report import Report

if TYPE_CHECKING:
    from app.service.batcher import Batcher

KEPT_S: Final = 3600.0
_MOST: Final = 100
_NUMBER: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{24}")
_MOST_OF_ONE: Final = 20


@dataclass(eq=False)
class _Batch:
    owner: str
    results: list[dict[str, Any] | None]
    task: asyncio.Task[None] | None = field(default=None)


class Batches:
    """Batches of one process of the server; used on the event loop only.

    Args:
        batcher: writes the reports.
        at_once: images of all batches in the queue at a time, so that single requests find room; and images of one
            owner that are decoded.
        kept_s: seconds after its end for which a batch is kept.
    """

    def __init__(self, batcher: Batcher, at_once: int, kept_s: float = KEPT_S) -> None:
        self._batcher, self._at_once, self._kept_s = batcher, at_once, kept_s
        self._process = secrets.token_hex(4)
        self._turns = asyncio.Semaphore(at_once)
        self._decoded: dict[str, asyncio.Semaphore] = {}
        self._batches: dict[str, _Batch] = {}

    def add(self, owner: str, files: list[bytes], *, force: bool, room: ExitStack) -> dict[str, Any]:
        """Begin a batch, which gives its room back at its end.

        Raises:
            QueueFull: if there are too many, of this owner or of all.
        """
        own = sum(batch.owner == owner for batch in self._batches.values())
        if own >= _MOST_OF_ONE or len(self._batches) >= _MOST:
            room.close()
            raise QueueFull(60.0)
        number = f"{self._process}-{secrets.token_hex(12)}"
        batch = _Batch(owner, [None] * len(files))
        self._batches[number] = batch
        batch.task = asyncio.create_task(self._run(number, batch, files, force, room))
        return self.state(owner, number)

    def state(self, owner: str, number: str) -> dict[str, Any]:
        """Return state and results of a batch.

        Raises:
            BadRequest: if there is none, or it was lost in a restart.
        """
        batch = self._of(owner, number)
        done = sum(result is not None for result in batch.results)
        state = "done" if done == len(batch.results) else "running"
        results = [{"number": at, **result} for at, result in enumerate(batch.results, 1) if result is not None]
        return {"id": number, "state": state, "images": len(batch.results), "done": done, "results": results}

    def remove(self, owner: str, number: str) -> None:
        """Stop and forget a batch.

        Raises:
            BadRequest: if there is none.
        """
        task = self._of(owner, number).task
        del self._batches[number]
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop all batches."""
        tasks = [batch.task for batch in self._batches.values() if batch.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _of(self, owner: str, number: str) -> _Batch:
        batch = self._batches.get(number)
        if batch is None and _NUMBER.fullmatch(number) and not number.startswith(f"{self._process}-"):
            raise BadRequest(410, "lost", "the batch is of another process of the server: send it again")
        if batch is None or batch.owner != owner:
            raise BadRequest(404, "no_batch", "there is no such batch")
        return batch

    async def _run(self, number: str, batch: _Batch, files: list[bytes], force: bool, room: ExitStack) -> None:
        free = asyncio.Semaphore(self._at_once)  # more would stand before another batch of the owner
        decoded = self._decoded.setdefault(batch.owner, asyncio.Semaphore(self._at_once))

        async def one(at: int) -> None:
            async with free, decoded:
                batch.results[at] = await self._write(batch.owner, files[at], force)
                files[at] = b""

        with room:
            async with asyncio.TaskGroup() as group:
                for at in range(len(files)):
                    group.create_task(one(at))
        asyncio.get_running_loop().call_later(self._kept_s, self._batches.pop, number, None)

    async def _write(self, owner: str, data: bytes, force: bool) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str | Report | Exception] = loop.create_future()

        def deliver(part: str | Report | Exception) -> None:
            if not answer.done():
                answer.set_result(part)

        def put(part: str | Report | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(deliver, part)

        job = Job(owner, data, StudyInputs(), put, force=force)
        try:
            await loop.run_in_executor(self._batcher.threads, partial(self._batcher.read, job, soon=False))
            async with self._turns:
                while True:
                    try:
                        self._batcher.submit(job)
                        break
                    except QueueFull:
                        await asyncio.sleep(0.2)
                found = await answer
        except Exception as error:  # of one image: it is told in the results, the others go on
            found = error
        finally:
            if not job.answered:
                self._batcher.cancel(job)
        if isinstance(found, Report):
            return {"report": json.loads(found.to_json())}
        _, reason, message = refusal_of(found) if isinstance(found, Exception) else (500, "internal", "no report")
        return {"error": message, "reason": reason}
