"""A DICOMweb archive on loopback that answers honestly, or misbehaves for chosen requests as a test asks it to."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

JSON = "application/dicom+json"
PART = b"--XX\r\nContent-Type: application/dicom\r\n\r\n"
END = b"\r\n--XX--\r\n"


@dataclass
class Reply:
    """An answer of HTTP."""

    status: int = 200
    kind: str = JSON
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def json(self, found: Any) -> Reply:
        return Reply(self.status, JSON, json.dumps(found).encode(), self.headers)


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    command: str
    path: str
    headers: Message


class Handler(BaseHTTPRequestHandler):
    """One request: an honest reply is made, and given to the misbehaviour if that is meant for the request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits for an acknowledgement
    server: Server
    content: bytes

    def do_GET(self) -> None:
        self.content = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append(Asked(self.command, self.path, self.headers))
        reply = self.server.honest(self)
        if self.server.misbehave is not None and self.server.meant(self):
            self.server.misbehaved += 1
            self.server.misbehave(self, reply)
        else:
            self.send(reply)

    do_POST = do_GET

    def send(self, reply: Reply, *, cut: int | None = None, pause: float = 0.0) -> None:
        """Send a reply; ``cut`` of its bytes only, ``pause`` seconds between them."""
        headers = {"Content-Type": reply.kind, "Content-Length": str(len(reply.body)), **reply.headers}
        self.send_response(reply.status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.raw(reply.body[:cut], pause=pause)
        if cut is not None or not headers["Content-Length"]:
            self.drop()

    def raw(self, content: bytes, *, pause: float = 0.0) -> None:
        """Send bytes as they are."""
        with suppress(OSError):
            for piece in (content[at : at + 1] for at in range(len(content))) if pause else (content,):
                self.wfile.write(piece)
                self.wfile.flush()
                if pause and self.server.ended.wait(pause):
                    return

    def drop(self, *, reset: bool = False) -> None:
        """End the connection."""
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """An archive.

    Attributes:
        images: content of each image by its SOP Instance UID, which begins with the UID of its study.
        stored: documents, in the order in which they came.
        asked: all requests that came.
        meant: tells whether the misbehaviour is meant for a request.
        misbehave: receives the request and the honest reply.
        results: changes the results of a search, and receives its path and parameters.
        ended: set when the server ends.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ended = threading.Event()
        self.reset({})

    def reset(self, images: dict[str, bytes]) -> None:
        """Behave again, with these images and no documents."""
        self.images, self.misbehaved = images, 0
        self.stored: list[bytes] = []
        self.asked: list[Asked] = []
        self.heal()

    def heal(self) -> None:
        """Behave again."""
        self.meant: Callable[[Handler], bool] = lambda request: True
        self.misbehave: Callable[[Handler, Reply], None] | None = None
        self.results: Callable[[str, dict[str, str], list[Any]], Any] = page

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that has gone."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"

    def honest(self, request: Handler) -> Reply:
        parts = urlsplit(request.path)
        path, asked = parts.path.removeprefix("/dicom-web"), dict(parse_qsl(parts.query))
        if request.command == "POST":
            self.stored += _parts(request.content)
            return Reply().json({"00081199": {"vr": "SQ", "Value": [{}] * len(_parts(request.content))}})
        steps = path.strip("/").split("/")
        if steps == ["studies"]:
            found = [{"0020000D": text(uid.removesuffix(".1.1"), "UI")} for uid in self.images]
            if asked.get("ModalitiesInStudy") != "DX":
                found = []
        elif steps[-1] == "series":
            found = [{"0020000E": text(f"{steps[1]}.1", "UI"), "00080060": text("DX", "CS")}]
            found = found if f"{steps[1]}.1.1" in self.images else []
        elif steps[-1] == "instances":
            found = [{"00080018": text(f"{steps[3]}.1", "UI")}]
        elif content := self.images.get(steps[-1]):
            return Reply(200, 'multipart/related; type="application/dicom"; boundary=XX', PART + content + END)
        else:
            return Reply(404, "text/plain")
        return Reply().json(self.results(path, asked, found))


def text(value: str, representation: str) -> dict[str, Any]:
    return {"vr": representation, "Value": [value]}


def page(path: str, asked: dict[str, str], found: list[Any]) -> list[Any]:
    """Results of the page that was asked for."""
    start = int(asked.get("offset", 0))
    return found[start : start + int(asked["limit"])]


def _parts(body: bytes) -> list[bytes]:
    boundary = body.split(b"\r\n", 1)[0]
    return [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in body.split(boundary)[1:-1]]


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server until the end of the context."""
    with Server() as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()
