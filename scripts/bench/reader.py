"""Milliseconds per image: our sandboxed reader against highdicom and torchxrayvision, in every transfer syntax.

    python -m scripts.bench.reader --runs 9 --json runs/reader.json

The image is RG1 of pydicom-data (1955 x 1841, 15 bits). "read" is the full-size radiograph through the sandbox,
"prepare" the 518-pixel model input through it; highdicom gives its display frame (modality, VOI, presentation),
torchxrayvision its scaled array, both in process. Rounds are interleaved, so that a busy machine hurts all alike;
minimum and median are given. highdicom does not read big endian files.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from encoder.preprocessing import RECIPES
from encoder.reader.sandbox import Reader
from scripts.bench import pydicom_jpeg8
from scripts.phantom.transfer_syntaxes import SYNTAXES, rewrite

NAMES = ("read", "prepare", "highdicom", "torchxrayvision")


def rg1() -> Path:
    """The real chest radiograph of pydicom-data."""
    import data_store

    return Path(data_store.__file__).parent / "data" / "RG1_UNCI.dcm"


def with_highdicom(path: Path) -> Any:
    """The display frame, 0..255 as float64."""
    import highdicom

    return highdicom.imread(path).get_frame(1, apply_voi_transform=True, voi_output_range=(0.0, 255.0))


def with_torchxrayvision(path: Path) -> Any:
    """Values scaled to -1024..1024."""
    from torchxrayvision.utils import read_xray_dcm

    return read_xray_dcm(path)


def check(reader: Reader, path: Path, *, highdicom_reads: bool) -> None:
    """All three see the same image.

    Raises:
        SystemExit: they do not.
    """
    ours = reader.read(path)
    top = (1 << (ours.facts.bits_stored or 16)) - 1
    scaled = (2 * (ours.pixels / top) - 1) * 1024
    wrong = float(np.abs(scaled - with_torchxrayvision(path)).max()) > 2 * 2048 / top
    if highdicom_reads:
        levels = 4 if top == 255 else 1  # baseline JPEG: two decoders, and the window multiplies their difference
        wrong |= float(np.abs(ours.display().astype(np.float64) - with_highdicom(path)).max()) > levels
    if wrong:
        raise SystemExit(f"{ours.facts.transfer_syntax}: the readers disagree")


def measure(reader: Reader, path: Path, runs: int, *, highdicom_reads: bool) -> dict[str, list[float]]:
    """Seconds per call of each reader, ``runs`` interleaved rounds after one warm-up; NaN where one cannot read."""
    recipe = RECIPES["rad-dino"]
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: reader.read(path),
        "prepare": lambda: reader.prepare(path, recipe),
        "highdicom": lambda: with_highdicom(path),
        "torchxrayvision": lambda: with_torchxrayvision(path),
    }
    if not highdicom_reads:
        del calls["highdicom"]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if run:
                seconds[name].append(time.perf_counter() - started)
    return {"highdicom": [math.nan], **seconds}


def throughput(path: Path, readers: list[Reader], count: int) -> float:
    """Images per second of ``prepare`` with one thread for each reader."""

    def work(reader: Reader) -> None:
        for _ in range(count):
            reader.prepare(path, RECIPES["rad-dino"])

    threads = [threading.Thread(target=work, args=(reader,)) for reader in readers]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count * len(readers) / (time.perf_counter() - started)


def row(name: str, path: Path, readers: list[Reader], runs: int) -> dict[str, Any]:
    """All numbers of one transfer syntax."""
    highdicom_reads = name != "explicit-be"
    check(readers[0], path, highdicom_reads=highdicom_reads)
    seconds = measure(readers[0], path, runs, highdicom_reads=highdicom_reads)
    result: dict[str, Any] = {"syntax": name, "uid": SYNTAXES[name], "megabytes": path.stat().st_size / 1e6}
    for reader in NAMES:
        result[f"{reader}_min_ms"] = 1e3 * min(seconds[reader])
        result[f"{reader}_median_ms"] = 1e3 * statistics.median(seconds[reader])
    for other in ("highdicom", "torchxrayvision"):
        result[f"{other}_over_read"] = result[f"{other}_min_ms"] / result["read_min_ms"]
    result["prepared_per_second_2_readers"] = throughput(path, readers, max(3, runs // 2))
    return result


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    heads = " ".join(f"{name:>15}" for name in NAMES)
    print(f"{'transfer syntax':18} {'MB':>5} | {heads} | x hd  x xrv  img/s")
    for result in rows:
        cells = " ".join(f"{result[f'{n}_min_ms']:7.1f}/{result[f'{n}_median_ms']:7.1f}" for n in NAMES)
        ratios = f"{result['highdicom_over_read']:4.1f}  {result['torchxrayvision_over_read']:5.1f}"
        rate = result["prepared_per_second_2_readers"]
        print(f"{result['syntax']:18} {result['megabytes']:5.1f} | {cells} | {ratios}  {rate:5.1f}")
    print("ms per image, minimum/median; ratios of the minima to read; img/s: prepare with two readers")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="rounds for each transfer syntax")
    parser.add_argument("--syntax", nargs="*", choices=list(SYNTAXES), default=list(SYNTAXES))
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    options = parser.parse_args()
    import pydicom

    pydicom_jpeg8.register()
    source = pydicom.dcmread(rg1())
    rows = []
    with tempfile.TemporaryDirectory() as folder, Reader(timeout_s=60) as first, Reader(timeout_s=60) as second:
        for name in options.syntax:
            path = Path(folder) / f"{name}.dcm"
            path.write_bytes(rewrite(source, name))
            rows.append(row(name, path, [first, second], options.runs))
    show(rows)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "image": "RG1",
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            "runs": options.runs,
            "rows": rows,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
