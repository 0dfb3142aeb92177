"""An OpenAI-compatible server on this machine whose faults a test chooses, and which keeps every byte that it gets."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

NAME = "stand-in/tiny"
Fault = Callable[["Handler", dict[str, Any]], None]


@dataclass
class StandIn:
    """The server's state.

    Attributes:
        url: of its API.
        faults: what it does with the next requests for an answer, before it answers as it should.
        names: of the models that it lists; None: it has no list.
        reply: makes the answer of a request.
        cut_off: answers reach ``max_tokens``.
        received: every request, as it came: first line, headers, body.
        questions: parsed bodies of the requests for answers.
    """

    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    names: list[str] | None = field(default_factory=lambda: [NAME])
    reply: Callable[[dict[str, Any]], str] = lambda body: f"The mean grey level is {grey(body)}. No pneumothorax."
    cut_off: bool = False
    received: list[bytes] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def model(self) -> str:
        """The value of ``--model``."""
        return f"openai:{self.url}#{NAME}"


def pictures(body: dict[str, Any]) -> list[Image.Image]:
    """Decode the images of a request."""
    parts = [part for message in body["messages"] if isinstance(message["content"], list)
             for part in message["content"]]  # fmt: skip
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def grey(body: dict[str, Any]) -> str:
    """Mean grey level of each image of a request, so that an answer depends on its pixels."""
    return " and ".join(f"{np.asarray(one).mean():.3f}" for one in pictures(body))


def words(body: dict[str, Any]) -> list[str]:
    """Return the texts of a request, and ``IMAGE`` for each image, in order."""
    return ["IMAGE" if part["type"] == "image_url" else part["text"] for part in body["messages"][-1]["content"]]


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    state: StandIn

    def log_message(self, format: str, *args: Any) -> None:
        """Be silent."""

    def _taken(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.state.received.append(self.raw_requestline + bytes(self.headers) + body)
        return body

    def do_GET(self) -> None:
        """List the models."""
        self._taken()
        if self.path != "/v1/models" or self.state.names is None:
            return self.whole(404, b"{}")
        rows = [{"id": name, "object": "model"} for name in self.state.names]
        return self.whole(200, json.dumps({"object": "list", "data": rows}).encode())

    def do_POST(self) -> None:
        """Answer a question, or do what the test has planned."""
        body = json.loads(self._taken())
        if self.path != "/v1/chat/completions":
            return self.whole(404, b"{}")
        self.state.questions.append(body)
        if self.state.faults:
            return self.state.faults.pop(0)(self, body)
        return self.answer(body)

    def whole(self, status: int, body: bytes, **headers: str) -> None:
        """Send an answer in one piece."""
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin(self) -> None:
        """Begin a stream, which ends with the connection."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def event(self, data: str) -> None:
        """Send one event of a stream."""
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def piece(self, text: str, reason: str | None = None) -> None:
        """Send a piece of an answer."""
        self.event(json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}))

    def answer(self, body: dict[str, Any]) -> None:
        """Answer as vLLM, llama.cpp, Ollama and TGI do."""
        assert body["stream"] is True
        self.begin()
        self.event(json.dumps({"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}))
        for word in self.state.reply(body).split(" "):
            self.piece(word if not word or word[0] == "\n" else f"{word} ")
        self.piece("", "length" if self.state.cut_off else "stop")
        self.event(json.dumps({"choices": [], "usage": {"total_tokens": 1}}))
        self.event("[DONE]")


def status(code: int, **headers: str) -> Fault:
    """Answer with an HTTP status; the body repeats the request, as some servers do."""
    return lambda handler, body: handler.whole(code, json.dumps({"error": {"message": body}}).encode(), **headers)


def breaks_off(pieces: int) -> Fault:
    """End the connection in the middle of an event, after some pieces of the answer."""

    def act(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin()
        for _ in range(pieces):
            handler.piece("Half ")
        handler.wfile.write(b'data: {"choices": [{"del')

    return act


def slow(seconds: float) -> Fault:
    """Send nothing for some time."""

    def act(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(seconds)
        handler.answer(body)

    return act


def sends(data: bytes, **headers: str) -> Fault:
    """Answer with these bytes, one at a time if they are few."""

    def act(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_response(200)
        for name, value in {"content-type": "text/event-stream", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("connection", "close")
        handler.end_headers()
        handler.close_connection = True
        step = 1 if len(data) < 1000 else len(data)
        for at in range(0, len(data), step):
            handler.wfile.write(data[at : at + step])
            handler.wfile.flush()

    return act


class Server(ThreadingHTTPServer):
    """Says nothing about clients that close their connection."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent."""


@contextmanager
def standing_in(**state: Any) -> Iterator[StandIn]:
    """Run the server until the end of the context."""
    found = StandIn(**state)
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"state": found}))
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
