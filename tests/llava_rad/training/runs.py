"""Training runs as processes of their own, and what they leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.llava_rad.conftest import Ran, finished, spawn

LIMIT = 420


def start(arguments: Sequence[str | Path], *, processes: int = 1) -> subprocess.Popen[bytes]:
    """Start ``llava-rad train``, with torchrun where there are several processes."""
    if processes == 1:
        return spawn("train", "--config", "tiny", *arguments)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        "--no-python", sys.executable, "-c", "from llava_rad.cli import main; main()",
    ]  # fmt: skip
    import os

    return subprocess.Popen(
        [*command, "train", "--config", "tiny", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def train(folder: Path, overrides: Sequence[str | Path], *, processes: int = 1) -> Ran:
    """A whole run, which must succeed."""
    ran = finished(start([*overrides, "-o", folder], processes=processes), timeout=LIMIT)
    assert ran.code == 0, ran.err[-3000:]
    assert ran.out == ""
    return ran


def kill_after(folder: Path, checkpoint: str, overrides: Sequence[str | Path], *, processes: int = 1) -> None:
    """Begin a run and kill -9 all of it as soon as a checkpoint is there."""
    import os
    import signal

    process = start([*overrides, "-o", folder], processes=processes)
    deadline = time.monotonic() + LIMIT
    while not (folder / "checkpoints" / checkpoint).is_dir():
        assert process.poll() is None, process.communicate()[1].decode()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for pid in (*_children(process.pid), process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [number for child in map(int, listed) for number in (*_children(child), child)]


def losses(folder: Path) -> dict[int, float]:
    """Training loss by step."""
    return {line["step"]: line["loss"] for line in lines(folder) if "loss" in line}


def lines(folder: Path) -> list[dict[str, float]]:
    """The journal."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def close(one: dict[int, float], other: dict[int, float], tolerance: float) -> bool:
    """Return True if two runs have the same steps and, within a relative tolerance, the same losses."""
    return one.keys() == other.keys() and all(abs(one[n] - other[n]) <= tolerance * abs(one[n]) for n in one)
