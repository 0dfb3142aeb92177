"""Time reports by HTTP against a serial loop of the same writer, and against LitServe around the same engine.

    python -m scripts.bench.service [--images 500] [--clients 16] [--batch-size 8] [--rounds 5] [--data FOLDER]

Each round takes other images, and every side writes the reports of all of them: ``llava-rad api`` and LitServe for as
many clients at a time, each in a process of its own, and this process one after the other ("serial": image by image;
"serial, read ahead": a loop of ``ReportWriter.write``, which reads the next images meanwhile). The images are files of
``--data``, and crops of one radiograph without it. Exits 1 unless all texts are those of the serial loop.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from llava_rad.commands.serve import share_cores
from scripts.bench.harness import Report, parser, ratio, require, seconds, take_turns
from scripts.bench.worker import ROOT, Cost, measured
from scripts.soak.serving import reporting

SERIAL = "serial"
OURS = "llava-rad api"
PEER = "LitServe"
COLUMNS = {"reports/s": ".2f", "x serial": "", "x LitServe": "", "identical": "d"}


def images_of(folder: Path | None, count: int, into: Path) -> list[Path]:
    """Files of a folder, evenly spread, or crops of the real radiograph RG1.

    Raises:
        SystemExit: if the folder has too few.
    """
    if folder is not None:
        found = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".dcm"))
        require(len(found) >= count, f"{folder} holds {len(found)} images only")
        return [found[number * len(found) // count] for number in range(count)]
    import numpy as np
    from PIL import Image

    from encoder.reader.sandbox import Reader
    from llava_rad.generation.sources import example

    with Reader() as reader:
        pixels = reader.read(example()).pixels[::3, ::3]
    rng, paths = np.random.default_rng(0), [into / f"{number}.png" for number in range(count)]
    for path in paths:
        height, width = (int(side * rng.uniform(0.6, 0.95)) for side in pixels.shape)
        top, left = (
            int(rng.uniform(0, whole - side)) for whole, side in zip(pixels.shape, (height, width), strict=True)
        )
        Image.fromarray(pixels[top : top + height, left : left + width]).save(path)
    return paths


def post(port: int, path: str, body: bytes, kind: str) -> dict[str, Any]:
    """Send an image; returns the report."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("POST", path, body, {"content-type": kind})
        answer = connection.getresponse()
        content = answer.read()
        require(answer.status == 200, f"{path}: {answer.status} {content[:200]!r}")
        found: dict[str, Any] = json.loads(content)
        return found
    finally:
        connection.close()


def ask_ours(port: int, path: Path) -> dict[str, Any]:
    """Report of ``llava-rad api``."""
    return post(port, "/v1/reports", path.read_bytes(), "application/octet-stream")


def ask_peer(port: int, path: Path) -> dict[str, Any]:
    """Report of LitServe."""
    body = json.dumps({"image": base64.b64encode(path.read_bytes()).decode()}).encode()
    return post(port, "/predict", body, "application/json")


@contextlib.contextmanager
def peer(batch_size: int, timeout_s: float) -> Iterator[int]:
    """Run LitServe until the end of the context; its port.

    Raises:
        SystemExit: if it does not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.bench.service_peer", str(port), str(batch_size), str(timeout_s)],
        env=os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}, cwd=ROOT, stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while True:
            require(process.poll() is None and time.monotonic() < end, "LitServe does not start")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it leaves its workers behind otherwise
        process.wait()


class Sides:
    """The sides' calls: each writes the reports of the next images, and compares them with the serial loop's.

    Args:
        parts: images of each round.
        expected: report of each image.
    """

    def __init__(self, parts: Sequence[Sequence[Path]], expected: dict[Path, dict[str, Any]]) -> None:
        self._parts, self._expected = parts, expected
        self._turn: dict[str, int] = {}
        self.identical: dict[str, int] = {}

    def take(self, name: str, write: Callable[[Sequence[Path]], Sequence[dict[str, Any]]]) -> Cost:
        """Write the reports of a side's next images."""
        turn = self._turn.get(name, 0)
        self._turn[name] = turn + 1
        paths = self._parts[turn]
        found: list[dict[str, Any]] = []
        cost = measured(lambda: found.extend(write(paths)))
        same = sum(report == self._expected[path] for path, report in zip(paths, found, strict=True))
        require(same == len(paths), f"{name}: {len(paths) - same} of {len(paths)} reports differ")
        self.identical[name] = self.identical.get(name, 0) + same
        return cost


def run(report: Report, options: argparse.Namespace) -> None:
    """Measure and print."""
    from llava_rad.generation.options import GenerationOptions
    from llava_rad.generation.report_writer import ReportWriter
    from llava_rad.generation.sources import Source

    rounds, clients = options.rounds, options.clients
    each = options.images // rounds
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        images = images_of(options.data, each * rounds, folder)
        parts = [images[:each], *(images[at * each : (at + 1) * each] for at in range(rounds))]
        writer = stack.enter_context(ReportWriter(GenerationOptions(batch_size=1)))
        people = stack.enter_context(ThreadPoolExecutor(clients))

        def facts(outcome: object) -> dict[str, Any]:
            found: dict[str, Any] = json.loads(outcome.to_json())  # type: ignore[attr-defined]
            return found

        def one_by_one(paths: Sequence[Path]) -> list[dict[str, Any]]:
            return [facts(next(iter(writer.write([Source(1, path)])))) for path in paths]

        def ahead(paths: Sequence[Path]) -> list[dict[str, Any]]:
            return [facts(outcome) for outcome in writer.write([Source(n, path) for n, path in enumerate(paths, 1)])]

        sides = Sides(parts, dict(zip(images, one_by_one(images), strict=True)))
        batch = ("--batch-size", str(options.batch_size))
        ours = stack.enter_context(reporting(folder, *batch)).port
        calls: dict[str, Callable[[Sequence[Path]], Sequence[dict[str, Any]]]] = {
            SERIAL: one_by_one,
            f"{SERIAL}, read ahead": ahead,
            OURS: lambda paths: list(people.map(partial(ask_ours, ours), paths)),
        }
        if options.peer:
            theirs = stack.enter_context(peer(options.batch_size, options.batch_timeout))
            calls[PEER] = lambda paths: list(people.map(partial(ask_peer, theirs), paths))
        times = take_turns({name: partial(sides.take, name, call) for name, call in calls.items()}, rounds)
    title = f"{rounds} rounds of {each} images, {clients} clients, batches of {options.batch_size}"
    report.table("service", COLUMNS, title)
    for name, costs in times.items():
        row: dict[str, Any] = {"reports/s": each * len(costs) / sum(seconds(costs)), "rounds": costs}
        row["identical"] = sides.identical[name]
        for column, other in (("x serial", SERIAL), ("x LitServe", PEER)):
            if other in times and other != name:
                row[column] = ratio(seconds(times[other]), seconds(costs))
        report.row(name, row)


def main() -> None:
    """Measure and print."""
    made = parser(__doc__, rounds=5, quick="12 images, one round, batches of 4")
    made.add_argument("--images", type=int, default=500, help="default: 500")
    made.add_argument("--clients", type=int, default=16, help="default: 16")
    made.add_argument("--batch-size", type=int, default=8, help="default: 8")
    made.add_argument("--batch-timeout", type=float, default=0.02, help="of LitServe, in seconds; default: 0.02")
    made.add_argument("--data", type=Path, help="folder of images; default: crops of the example")
    made.add_argument("--no-peer", dest="peer", action="store_false", help="leave LitServe out")
    options = made.parse_args()
    share_cores()  # as the service does: all sides wait alike
    if options.quick:
        options.images, options.rounds, options.batch_size = 12, 1, 4
    report = Report(options)
    run(report, options)
    report.close()


if __name__ == "__main__":
    main()
