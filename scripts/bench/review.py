"""Time the review application in a real browser: first paint, frames while dragging, first words.

    python -m scripts.bench.review [--rounds 5] [--side 2000]

Starts ``llava-rad serve`` and Debian's chromium (software rendering, 1,440 x 1,000). First paint: from handing over a
16-bit PNG file to its pixels being on the canvas, with upload, decoding in the limited process and the way back.
Frames: time of each repaint of the canvas while the window is dragged. First words: from asking for a draft to the
first words on the page, against the first piece of ``ReportWriter.stream_image`` in this process on the same prepared
image and model, in turns; the texts must be equal, else the script exits 1. Medians over rounds.
"""

from __future__ import annotations

import io
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from encoder.reader.sandbox import Reader
from llava_rad.generation.report_writer import ReportWriter
from llava_rad.generation.sources import example
from scripts.bench.harness import Report, parser, ratio, require, seconds, take_turns
from scripts.bench.worker import Cost
from scripts.soak.serving import served

if TYPE_CHECKING:
    from playwright.sync_api import Page

VIEWER = "JSON.parse(document.querySelector('#viewer').dataset.state || '{}')"


def square(side: int, seed: int) -> bytes:
    """A 16-bit PNG file: smooth, with noise, different for every seed."""
    y, x = np.mgrid[:side, :side] / side
    noise = np.random.default_rng(seed).normal(0, 300, x.shape)
    values = 30_000 + 20_000 * np.sin(5 * x + seed) * np.cos(4 * y) + noise
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
    taken = page.evaluate(
        """() => new Promise((done) => {
            const stream = document.querySelector('#stream');
            const start = performance.now();
            new MutationObserver((_, self) => {
                if (!stream.textContent) return;
                self.disconnect();
                done((performance.now() - start) / 1000);
            }).observe(stream, {childList: true, characterData: true, subtree: true});
            document.querySelector('#write').click();
        })"""
    )
    page.wait_for_selector("#stream", state="hidden")
    return float(taken), " ".join(page.locator("#sentences .lr-text").all_text_contents())


def run(report: Report, rounds: int, side: int) -> None:
    """Measure and print.

    Raises:
        SystemExit: if chromium is missing, or page and process write different texts.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    require(chromium is not None, "chromium is not installed (Debian: apt-get install chromium)")
    with (
        ReportWriter() as writer, Reader() as reader, tempfile.TemporaryDirectory() as folder,
        served(Path(folder), "--no-example") as running, sync_playwright() as started,
    ):  # fmt: skip
        image = reader.prepare(example(), writer.engine().recipe)
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(running.url)
        page.wait_for_selector("#write")
        times: dict[str, list[float]] = {"first paint, s": [], "window frame, ms": []}
        for number in range(rounds + 1):
            file = Path(folder) / f"{number}.png"
            file.write_bytes(square(side, number))
            times["first paint, s"].append(first_paint(page, file))
            times["window frame, ms"] += frames(page)
        del times["first paint, s"][0]  # warms up
        page.set_input_files("#file", str(example()))
        page.wait_for_selector("#sentences li")
        texts = {}

        def there() -> Cost:
            taken, texts["page"] = first_words(page)
            return {"wall_s": taken}

        def here() -> Cost:
            start = time.perf_counter()
            pieces = writer.stream_image(image)
            first = str(next(pieces))
            taken = time.perf_counter() - start
            texts["process"] = first + "".join(piece for piece in pieces if isinstance(piece, str))
            return {"wall_s": taken}

        words = take_turns({"page": there, "process": here}, rounds)
        browser.close()
    require(texts["page"] == texts["process"], "the page and the command write different texts")
    times |= {f"first words, {name}, s": seconds(costs) for name, costs in words.items()}
    report.table("review", {"median": ".4f", "95 %": ".4f", "longest": ".4f"}, f"{rounds} rounds")
    for name, each in times.items():
        row = {"median": statistics.median(each), "95 %": sorted(each)[int(0.95 * len(each))], "longest": max(each)}
        report.row(name, row)
    report.data["page_over_process"] = ratio(seconds(words["page"]), seconds(words["process"]))
    report.say(f"page over process: {report.data['page_over_process']}")


def main() -> None:
    """Measure and print."""
    made = parser(__doc__, rounds=5, quick="one round")
    made.add_argument("--side", type=int, default=2000)
    options = made.parse_args()
    report = Report(options)
    run(report, 1 if options.quick else options.rounds, options.side)
    report.close()


if __name__ == "__main__":
    main()
