"""Run the real application in a process of its own, and call it by plain HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

COOKIE = "llava_rad_session"
GATED = """
import time
from pathlib import Path
from llava_rad.generation.report_writer import ReportWriter

gate, written = Path("../gate"), ReportWriter.stream_image

def stream_image(self, *given, **named):
    for number, piece in enumerate(written(self, *given, **named)):
        while allowed() <= number:
            time.sleep(0.01)
        yield piece

def allowed():
    try:
        return gate.stat().st_size
    except FileNotFoundError:
        return float("inf")

ReportWriter.stream_image = stream_image
"""
"""Program text that lets the server write one token for each byte of the file ``gate``, and all without the file."""


@dataclass
class Answer:
    """Response of the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """HTTP client of one user: keeps the cookie, sends the header of the page."""

    host: str
    port: int
    cookie: str = ""
    headers: dict[str, str] = field(default_factory=lambda: {"x-llava-rad": "1"})

    def call(self, method: str, path: str, body: bytes | dict[str, Any] | None = None, **headers: str) -> Answer:
        sent = self.headers | headers | ({"cookie": f"{COOKIE}={self.cookie}"} if self.cookie else {})
        if isinstance(body, dict):
            body, sent = json.dumps(body).encode(), sent | {"content-type": "application/json"}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def login(self, name: str, password: str) -> Answer:
        form = urlencode({"name": name, "password": password}).encode()
        answer = self.call("POST", "/login", form, **{"content-type": "application/x-www-form-urlencoded"})
        if found := re.search(f"{COOKIE}=([^;]+)", answer.headers.get("set-cookie", "")):
            self.cookie = found.group(1)
        return answer

    def study(self, image: bytes) -> dict[str, Any]:
        """Upload an image; returns the state of the study."""
        answer = self.call("POST", "/api/studies", image)
        assert answer.status == 201, answer.body
        state: dict[str, Any] = answer.json()
        return state

    def act(self, state: dict[str, Any], action: str, **more: Any) -> Answer:
        body = {"revision": state["revision"], "action": action, **more}
        return self.call("POST", f"/api/studies/{state['id']}/actions", body)

    def signed(self, state: dict[str, Any]) -> dict[str, Any]:
        """Accept every sentence and sign."""
        for sentence in state["sentences"]:
            state = self.act(state, "accept", sentence=sentence["id"]).json()
        signed: dict[str, Any] = self.act(state, "sign").json()
        assert signed["status"] == "signed", signed
        return signed

    def drafted(self, study: str, timeout_s: float = 120) -> dict[str, Any]:
        """Request a draft and wait for it."""
        assert self.call("POST", f"/api/studies/{study}/draft", {}).status == 200
        return self.ended(study, timeout_s)

    def ended(self, study: str, timeout_s: float = 120) -> dict[str, Any]:
        """Wait until the draft is written, stopped or failed."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            state: dict[str, Any] = self.call("GET", f"/api/studies/{study}").json()
            if state["draft"] and state["draft"]["state"] not in ("queued", "running"):
                return state
            time.sleep(0.05)
        raise AssertionError("the draft does not end")


@dataclass
class Served:
    """A running application."""

    process: subprocess.Popen[bytes]
    data: Path
    port: int
    log: Path
    headers: dict[str, str] = field(default_factory=lambda: {"x-llava-rad": "1"})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Client:
        return Client("127.0.0.1", self.port, headers=dict(self.headers))

    def kill(self) -> None:
        """Kill the process (SIGKILL), as a power failure does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def served(
    folder: Path, *options: str, wait_s: float = 120, first: str = "", within: Sequence[str] = ()
) -> Iterator[Served]:
    """Run ``llava-rad serve`` on a free port until the end of the context; see :func:`launched`."""
    data = ("--data-dir", str(folder / "data"))
    with launched(folder, "serve", *data, *options, wait_s=wait_s, first=first, within=within) as running:
        yield running


@contextmanager
def reporting(folder: Path, *options: str, wait_s: float = 120, first: str = "") -> Iterator[Served]:
    """Run ``llava-rad api`` on a free port until the end of the context; its model is loaded."""
    with launched(folder, "api", *options, wait_s=wait_s, first=first) as running:
        running.headers = {}
        await_status(running, "/health/ready", wait_s)
        yield running


@contextmanager
def launched(
    folder: Path, command: str, *options: str, wait_s: float, first: str = "", within: Sequence[str] = ()
) -> Iterator[Served]:
    """Run a server on a free port until the end of the context.

    Args:
        folder: for its data, its log and its empty working directory.
        command: of ``llava-rad``.
        options: of the command.
        wait_s: longest time until the server answers.
        first: Python code that the process runs before the command.
        within: command that runs the server's command line in its own process, such as ``unshare``.
    """
    log = folder / "server.log"
    code = f"{first}\nfrom llava_rad.cli import main\nmain()"
    line = [*within, sys.executable, "-c", code, command, "--port", "0", *options]
    # an empty working directory: Gradio may serve files of the one that it is started in
    (folder / "empty").mkdir(exist_ok=True)
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as written:
        process = subprocess.Popen(
            line, stdout=written, stderr=written, cwd=folder / "empty", env=environment, start_new_session=True
        )
    try:
        end = time.monotonic() + wait_s
        found = None
        while found is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            found = re.search(r"http://\S+:(\d+)", log.read_text())
            time.sleep(0.05)
        running = Served(process, folder / "data", int(found.group(1)), log)
        await_status(running, "/health/live", end - time.monotonic())
        yield running
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def await_status(running: Served, path: str, wait_s: float) -> None:
    """Wait until a server answers 200 at a path."""
    end = time.monotonic() + wait_s
    while True:
        try:
            if running.client().call("GET", path).status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        assert running.process.poll() is None and time.monotonic() < end, running.log.read_text()
        time.sleep(0.05)


def picture(seed: int, side: int = 128) -> bytes:
    """A small PNG file, different for every seed."""
    import io

    import numpy as np
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)).save(stream, "PNG")
    return stream.getvalue()
