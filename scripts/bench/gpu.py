"""Measure on a GPU, in the minutes that there are: decoding, pre-training, reports, fine-tuning, probing.

    python -m scripts.bench.gpu --minutes 9 --output DIR [--only NAME ...] [--device cpu --toy]

Every measurement is a process of its own with its own time limit, the most valuable ones first. Rows are printed and
appended to ``DIR/rows.jsonl`` as they come; what a process writes to standard error is in ``DIR/NAME.log``. One that
crashes or takes too long leaves the others. Weights are random, at the sizes of RAD-DINO and Vicuna-7B.

Needs torch, transformers, safetensors, tokenizers, pydantic and typer; ``lora`` also peft, ``decode-4bit``
bitsandbytes. The compiler's kernels are kept in the user's cache, see ``llava_rad.generation.compiled``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from scripts.bench.worker import ROOT

MEASUREMENTS = {
    "decode-compiled": 150, "pretraining-compiled": 150, "decode-eager": 60, "reports": 200, "first-word": 100,
    "decode-transformers": 100, "pretraining-eager": 80, "lora": 90, "full": 90, "decode-4bit": 120, "probing": 60,
}  # fmt: skip
"""Seconds that each may take, the most valuable first."""
_LEAST = 15
"""Seconds under which nothing is begun."""

Row = dict[str, Any]


class Rows:
    """The file of rows, and what is printed of them.

    Args:
        folder: made if missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "rows.jsonl"

    def add(self, row: Row) -> None:
        """Append a row, and print it."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        facts = "  ".join(f"{key} {_short(value)}" for key, value in row.items() if key not in ("name", "row"))
        print(f"{row.get('row', row['name']):36} {facts}", flush=True)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def measure(name: str, words: Sequence[str], seconds: float, log: Path) -> Iterator[Row]:
    """Run one measurement; yields its rows as they come, at last one with its seconds, or with the error.

    Args:
        name: of :data:`MEASUREMENTS`.
        words: further arguments of the process.
        seconds: after which it is ended.
        log: file for its standard error.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", "scripts.bench.gpu_measurements", name, *words]
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, start_new_session=True
        )
        assert process.stdout is not None
        lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        end: Row = {"name": name}
        try:
            while (line := lines.get(timeout=max(0.0, start + seconds - time.monotonic()))) is not None:
                yield {"name": name, **json.loads(line)}
            if process.wait(timeout=max(1.0, start + seconds - time.monotonic())):
                end["error"] = _last_line(log) or f"exit code {process.returncode}"
        except (queue.Empty, subprocess.TimeoutExpired):
            end["error"] = f"stopped after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # the compiler's processes, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    yield end | {"seconds": time.monotonic() - start}


def _read(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run all measurements for which there is time; exit code 1 if one failed."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--minutes", type=float, default=9, help="for everything (9)")
    made.add_argument("--output", type=Path, required=True, metavar="DIR")
    made.add_argument("--only", nargs="+", choices=list(MEASUREMENTS), metavar="NAME", help=", ".join(MEASUREMENTS))
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--toy", action="store_true", help="toy sizes")
    options = made.parse_args(argv)
    end, rows, failed = time.monotonic() + 60 * options.minutes, Rows(options.output), False
    words = ["--device", options.device, *(["--toy"] if options.toy else [])]
    for name, limit in MEASUREMENTS.items():
        if options.only and name not in options.only:
            continue
        left = end - time.monotonic()
        if left < _LEAST:
            rows.add({"name": name, "error": "no time left"})
            failed = True
            continue
        for row in measure(name, words, min(limit, left), options.output / f"{name}.log"):
            rows.add(row)
            failed |= "error" in row
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
