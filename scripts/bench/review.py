"""How fast does the review application feel? First paint, frames while dragging, first token, in a real browser.

    python -m scripts.bench.review [--rounds 5] [--side 2000]

Starts ``llava-rad serve`` and Debian's chromium (software rendering, 1,440 x 1,000). First paint: from handing over a
16-bit PNG file to its pixels being on the canvas, with upload, decoding in the limited process and the way back.
Frames: time of each repaint of the canvas while the window is dragged. First token: from asking for a draft to the
first words on the page, beside the first piece of ``ReportWriter.stream_image`` in this process on the same prepared
image and model, in turns; the texts must be equal, else the script exits 1. Medians over rounds.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from encoder.reader.sandbox import Reader
from llava_rad.generation.report_writer import ReportWriter
from llava_rad.generation.sources import example
from scripts.soak.serving import served

if TYPE_CHECKING:
    from playwright.sync_api import Page

VIEWER = "JSON.parse(document.querySelector('#viewer').dataset.state || '{}')"


def square(side: int, seed: int) -> bytes:
    """A 16-bit PNG file: smooth, with noise, different for every seed."""
    y, x = np.mgrid[:side, :side] / side
    values = (
        30_000 + 20_000 * np.sin(5 * x + seed) * np.cos(4 * y) + np.random.default_rng(seed).normal(0, 300, x.shape)
    )
    stream = io.BytesIO()
    Image.fromarray(values.clip(0, 65535).astype(np.uint16)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def first_paint(page: Page, file: Path) -> float:
    """Seconds from handing over a file to its pixels on the canvas."""
    before = page.evaluate(f"{VIEWER}.painted")
    start = time.perf_counter()
    page.set_input_files("#file", file)
    page.wait_for_function(f"before => {VIEWER}.painted && {VIEWER}.painted !== before", arg=before, polling=10)
    return time.perf_counter() - start


def frames(page: Page, steps: int = 60) -> list[float]:
    """Milliseconds of each repaint while the window is dragged."""
    box = page.locator("#viewer canvas").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    found = []
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(steps):
        page.mouse.move(x + step, y + step / 2)
        found.append(float(page.evaluate(f"new Promise(done => requestAnimationFrame(() => done({VIEWER}.frameMs)))")))
    page.mouse.up()
    return found


def first_words(page: Page) -> tuple[float, str]:
    """Seconds from asking for a draft to the first words on the page, and the whole text."""
    page.evaluate(
        """() => new Promise((done) => {
            const stream = document.querySelector('#stream');
            const start = performance.now();
            new MutationObserver((_, self) => {
                if (!stream.textContent) return;
                self.disconnect();
                window.firstWords = (performance.now() - start) / 1000;
            }).observe(stream, {childList: true, characterData: true, subtree: true});
            document.querySelector('#write').click();
            done();
        })"""
    )
    page.wait_for_function("window.firstWords")
    page.wait_for_selector("#stream", state="hidden")
    seconds = float(page.evaluate("window.firstWords"))
    page.evaluate("window.firstWords = null")
    return seconds, " ".join(page.locator("#sentences .lr-text").all_text_contents())


def measure(rounds: int, side: int) -> dict[str, Any]:
    """All numbers.

    Raises:
        SystemExit: chromium is missing, or page and command write different texts.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not installed (Debian: apt-get install chromium)")
    with ReportWriter() as writer, Reader() as reader:
        image = reader.prepare(example(), writer.engine().recipe)
        paints: list[float] = []
        repaints: list[float] = []
        there: list[float] = []
        here: list[float] = []
        with (
            tempfile.TemporaryDirectory() as folder, served(Path(folder), "--no-example") as running,
            sync_playwright() as started,
        ):  # fmt: skip
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            page.goto(running.url)
            page.wait_for_selector("#write")
            for round_ in range(rounds + 1):  # the first warms up
                image_file = Path(folder) / f"{round_}.png"
                image_file.write_bytes(square(side, round_))
                paints.append(first_paint(page, image_file))
                repaints += frames(page)
            page.set_input_files("#file", str(example()))
            page.wait_for_selector("#sentences li")
            for _ in range(rounds + 1):
                seconds, shown = first_words(page)
                there.append(seconds)
                start = time.perf_counter()
                pieces = writer.stream_image(image)
                written = str(next(pieces))
                here.append(time.perf_counter() - start)
                written += "".join(piece for piece in pieces if isinstance(piece, str))
                if shown != written:
                    raise SystemExit("the page and the command write different texts")
            browser.close()
    return {
        "first paint, s": statistics.median(paints[1:]),
        "first paint, longest, s": max(paints[1:]),
        "window frame, ms": statistics.median(repaints),
        "window frame, 95th percentile, ms": sorted(repaints)[int(0.95 * len(repaints))],
        "first words on the page, s": statistics.median(there[1:]),
        "first piece in process, s": statistics.median(here[1:]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    found = measure(options.rounds, options.side)
    for name, value in found.items():
        print(f"{name:36} {value:.3f}")
    print(f"{'page over process':36} {found['first words on the page, s'] / found['first piece in process, s']:.2f} x")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
