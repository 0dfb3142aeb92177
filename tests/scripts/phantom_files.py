"""Read files of scripts/make_phantom.py without its own code."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any


def table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    reader = csv.DictReader(io.StringIO(text))
    rows = list(reader)
    return list(reader.fieldnames or []), rows


def truth(data: Path, layout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / "truth" / f"{layout}.jsonl").read_text().splitlines()]
