"""Plain page with two viewers, and images made by tests, on a server in this process."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote, urlsplit

import numpy as np
from PIL import Image

import app

if TYPE_CHECKING:
    import numpy.typing as npt
    from playwright.sync_api import Page

STATIC = Path(app.__file__).parent / "static"
SIDE = 512  # CSS pixels of a viewer's image area
KINDS = {".js": "text/javascript", ".css": "text/css"}
PAGE = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Viewer</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="/ui/shell.css"><link rel="stylesheet" href="/ui/viewer.css">
<style>.lr {{ display: flex; align-items: start }}
.lr .lr-viewer .lr-stage {{ flex: none; width: {SIDE}px; height: {SIDE}px }}
.lr .lr-toolbar {{ height: 36px; box-sizing: border-box; flex-wrap: nowrap }} body {{ margin: 8px }}</style>
<div class="lr"><div id="one"></div><div id="two"></div></div>
<script type="module">import {{ createViewer }} from "/ui/viewer.js";
window.measured = [];
const note = (...found) => measured.push(found);
window.one = createViewer(document.getElementById("one"), {{ label: "Viewer one", measured: note }});
window.two = createViewer(document.getElementById("two"), {{ label: "Viewer two" }});
window.ready = true;</script></html>"""
READ = """one => {
  const { data, width, height } = one.getContext("2d").getImageData(0, 0, one.width, one.height);
  let text = "";
  for (let at = 0; at < data.length; at += 32768) text += String.fromCharCode(...data.subarray(at, at + 32768));
  return [width, height, btoa(text)];
}"""


@dataclass
class Images:
    """Content of the server. An image in ``held`` is sent when its event is set, its preview at once.

    The first ``broken`` answers of an image are cut off.
    """

    url: str
    pixels: dict[str, npt.NDArray[np.uint16]] = field(default_factory=dict)
    held: dict[str, threading.Event] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, pixels: npt.NDArray[Any], *presets: dict[str, Any]) -> dict[str, Any]:
        """Add an image and return the argument of ``viewer.show``; the default preset shows all values."""
        self.pixels[name] = pixels.astype("<u2")
        height, width = pixels.shape
        return {
            "id": name, "url": f"/image/{quote(name)}", "width": width, "height": height,
            "presets": list(presets) or [linear(32767.5, 65535)],
        }  # fmt: skip

    def with_preview(self, name: str, pixels: npt.NDArray[Any], *presets: dict[str, Any]) -> dict[str, Any]:
        """Add an image with a preview, whose full depth comes as a plane of high and a plane of low bytes."""
        image = self.add(name, pixels, *presets)
        return image | {"url": f"{image['url']}?planes=1", "planes": True, "preview": f"{image['url']}?preview=1024"}

    def answer(self, path: str) -> tuple[int, str, bytes]:
        part, _, name = unquote(urlsplit(path).path).strip("/").partition("/")
        query = urlsplit(path).query
        self.asked.append(path)
        if query.startswith("preview") and name in self.pixels:
            return 200, "image/png", preview(self.pixels[name])
        if part == "ui":
            return 200, KINDS[Path(name).suffix], (STATIC / name).read_bytes()
        if part == "image" and name in self.held:
            self.held[name].wait(20)
        if part == "image" and name in self.pixels:
            pixels = self.pixels[name]
            planes = np.stack([pixels >> 8, pixels & 255]).astype(np.uint8)
            return 200, "application/octet-stream", (planes if query == "planes=1" else pixels).tobytes()
        return (404, "text/plain", b"") if part else (200, "text/html", PAGE.encode())


def preview(pixels: npt.NDArray[np.uint16]) -> bytes:
    """Every second pixel as an 8-bit PNG that stretches from 0 to 65,280 (its headers say so)."""
    file = io.BytesIO()
    Image.fromarray((pixels[::2, ::2] >> 8).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def linear(center: float, width: float, label: str = "made") -> dict[str, Any]:
    return {"label": label, "kind": "linear", "center": center, "width": width}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, kind, content = cast("_Server", self.server).images.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if kind == "image/png":
            self.send_header("X-Low", "0")
            self.send_header("X-High", "65280")
        self.end_headers()
        images, name = cast("_Server", self.server).images, unquote(urlsplit(self.path).path).rpartition("/")[2]
        if images.broken.get(name, 0) and kind == "application/octet-stream":
            images.broken[name] -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    images: Images

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore viewers that abort a load."""


@contextmanager
def serving() -> Iterator[Images]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.images = Images(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.images
        for event in server.images.held.values():
            event.set()
        server.shutdown()


class Viewed:
    """Handle of one viewer of the page. Points are CSS pixels from the corner of the image area."""

    def __init__(self, page: Page, name: str = "one") -> None:
        self.page, self.name = page, name

    def show(self, image: dict[str, Any]) -> None:
        self.start(image)
        self.page.wait_for_function(f"id => {self.name}.state().painted === id", arg=image["id"])
        self.frame()

    def start(self, image: dict[str, Any]) -> None:
        self.page.evaluate(f"image => {{ {self.name}.show(image); }}", image)

    def overlay(self, side: int, values: list[float], box: list[float]) -> None:
        self.page.evaluate(f"map => {self.name}.overlay(map)", {"side": side, "values": values, "box": box, "note": ""})

    def boxes(self, *boxes: tuple[float, float, float, float], selected: int = 0) -> None:
        """Show boxes (left, top, right, bottom), in shares of the image's sides."""
        sides = ("x_min", "y_min", "x_max", "y_max")
        drawn = [dict(zip(sides, box, strict=True)) | {"selected": at == selected} for at, box in enumerate(boxes)]
        self.page.evaluate(f"boxes => {self.name}.boxes(boxes)", drawn)

    def frame(self) -> None:
        """Wait for pending painting."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def state(self) -> dict[str, Any]:
        self.frame()
        found: dict[str, Any] = json.loads(self.page.eval_on_selector(f"#{self.name}", "one => one.dataset.state"))
        return found

    def colours(self) -> npt.NDArray[np.int64]:
        """Pixels of the canvas, [height, width, RGB], in device pixels."""
        self.frame()
        return base64_pixels(*self.page.eval_on_selector(f"#{self.name} canvas", READ))

    def greys(self) -> npt.NDArray[np.int64]:
        colours = self.colours()
        assert (colours == colours[..., :1]).all(), "a radiograph without a map has no colour"
        return colours[..., 0]

    def place(self, x: float, y: float) -> tuple[float, float]:
        box = self.page.locator(f"#{self.name} canvas").bounding_box()
        assert box is not None
        return box["x"] + x, box["y"] + y

    def drag(self, start: tuple[float, float], by: tuple[float, float], button: Any = "left") -> None:
        self.page.mouse.move(*self.place(*start))
        self.page.mouse.down(button=button)
        self.page.mouse.move(*self.place(start[0] + by[0], start[1] + by[1]), steps=4)
        self.page.mouse.up(button=button)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.locator(f"#{self.name} canvas").press(key)

    def text(self, part: str) -> str:
        return self.page.text_content(f"#{self.name} .{part}") or ""


def base64_pixels(width: int, height: int, text: str) -> npt.NDArray[np.int64]:
    """Decode the result of ``READ``: [height, width, RGB]."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[..., :3].astype(np.int64)


def opened(page: Page, images: Images) -> Viewed:
    """Open the page and return its first viewer."""
    page.set_default_timeout(60_000)
    page.goto(images.url)
    page.wait_for_function("window.ready")
    return Viewed(page)


def gradient(side: int = SIDE) -> npt.NDArray[np.uint16]:
    """Horizontal gradient: 128 more per column, 0 to 65,408 in 512 columns."""
    return np.tile(np.arange(side, dtype=np.uint16) * np.uint16(128), (side, 1))


def flat(value: int, side: int = SIDE) -> npt.NDArray[np.uint16]:
    """Image of one value."""
    return np.full((side, side), value, np.uint16)


def point(state: dict[str, Any], x: float, y: float) -> tuple[float, float]:
    """Convert a point of the canvas to pixels of an upright image."""
    return (x - state["x"]) / state["scale"], (y - state["y"]) / state["scale"]
