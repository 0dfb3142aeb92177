"""Jobs run against the scripted archive, with a writer of reports that takes no time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from encoder.errors import ReadError
from encoder.reader.identity import Identity, read_identity
from llava_rad.generation.report_writer import Failure
from llava_rad.generation.sources import Source
from llava_rad.pacs import jobs
from llava_rad.pacs.client import Pacs
from llava_rad.pacs.jobs import Count
from llava_rad.pacs.transport import PacsError
from llava_rad.pacs.watch import watch_once
from tests.llava_rad.pacs.scripted import Handler, Reply, Server

Kind = Callable[[Handler, Reply], None]
IMAGES = 4


def answers(status: int = 200, kind: str = "text/html", body: bytes = b"<html>login</html>", **headers: str) -> Kind:
    return lambda request, good: request.send(
        Reply(status, kind, body, {name.replace("_", "-"): value for name, value in headers.items()})
    )


def changes(change: Callable[[bytes], bytes], kind: str | None = None, **headers: str) -> Kind:
    """The honest answer with another body, type or header."""
    return lambda request, good: request.send(
        Reply(good.status, kind or good.kind, change(good.body), {k.replace("_", "-"): v for k, v in headers.items()})
    )


class Writer:
    """A writer of reports that only repeats the hash of its input, and refuses what a test says."""

    refused: ReadError | Exception | None = None
    places = frozenset[str]()

    def settings(self) -> dict[str, Any]:
        return {}

    def identity(self, source: Source) -> Identity:
        return read_identity(source.data or b"")

    def write(self, groups: list[Any]) -> Iterator[Any]:
        ((source,),) = (one.sources for one in groups)
        if isinstance(self.refused, ReadError):
            yield Failure(source, self.refused, source.sha256())
        elif self.refused is not None:
            raise self.refused
        else:
            yield Written(source.sha256())


class Written:
    warnings = ()

    def __init__(self, sha256: str) -> None:
        self.sha256, self.input = sha256, SimpleNamespace(sha256=sha256)

    def to_json(self) -> str:
        return json.dumps(self.sha256)


def hashes(server: Server) -> list[str]:
    return sorted(hashlib.sha256(content).hexdigest() for content in server.images.values())


def attempt(call: Callable[[], Count], said: list[str]) -> Count:
    """Run a job to its end, which comes soon, and without a word about the study."""
    started = time.monotonic()
    try:
        count = call()
    except PacsError as error:
        said.append(str(error))
        count = Count(failed=1)
    assert time.monotonic() - started < 9
    assert not [line for line in said if "1.2.3" in line or "Doe" in line or "\n" in line]
    return count


def pulled(server: Server, folder: Path, said: list[str]) -> Count:
    folder.mkdir(exist_ok=True)
    return attempt(lambda: jobs.pull(Pacs(server.url, tell=said.append), folder, tell=said.append), said)


def watched(server: Server, folder: Path, said: list[str], writer: Writer | None = None, **options: Any) -> Count:
    folder.mkdir(exist_ok=True)
    pacs = Pacs(server.url, tell=said.append)
    return attempt(
        lambda: watch_once(pacs, folder, writer or Writer(), tell=said.append, **options),  # type: ignore[arg-type]
        said,
    )


def pushed(server: Server, files: list[Path], said: list[str]) -> Count:
    pacs = Pacs(server.url)
    return attempt(lambda: jobs.push(files, lambda path: pacs.store([path.read_bytes()]), tell=said.append), said)


def kept(folder: Path) -> list[str]:
    return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.dcm"))


def written(folder: Path) -> list[str]:
    return sorted(json.loads(path.read_text()) for path in folder.glob("*.json"))
