"""Read files of scripts/make_phantom.py without its own code, and write a folder as NIH's open sample."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scripts.demo.nih import LABELS


def table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    reader = csv.DictReader(io.StringIO(text))
    rows = list(reader)
    return list(reader.fieldnames or []), rows


def truth(data: Path, layout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / "truth" / f"{layout}.jsonl").read_text().splitlines()]


def write_nih(folder: Path, rows: list[dict[str, Any]], side: int = 0) -> Path:
    """Write ``labels.csv``; without a name of its own a row is an image of noise of ``side`` pixels."""
    (folder / "images").mkdir(parents=True)
    columns = ["image", "nih_image_index", "patient_id", "age", "sex", "view", "split", *LABELS, "No Finding"]
    rng = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval=0)
        writer.writeheader()
        for number, row in enumerate(rows):
            name = row.get("nih_image_index", f"{number:08d}_000.png")
            if side:
                Image.fromarray(rng.integers(0, 255, (side, side), dtype=np.uint8)).save(folder / "images" / name)
            usual = {"image": f"images/{name}", "nih_image_index": name, "age": 40, "sex": "M", "view": "PA"}
            writer.writerow(usual | row)
    return folder
