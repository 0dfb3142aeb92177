"""Training runs as processes of their own, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.forked import Command
from tests.llava_rad.conftest import Ran, finished

LIMIT = 420
PRELOAD = (
    "llava_rad.cli", "llava_rad.training.run", "accelerate", "peft", "matplotlib.pyplot", "torch._dynamo",
    "torch.distributed.tensor", "torch.utils.tensorboard", "transformers.models.llama.modeling_llama",
    "transformers.models.dinov2.modeling_dinov2", *([] if torch.cuda.is_available() else ["deepspeed"]),
)  # fmt: skip


def start(arguments: Sequence[str | Path], *, processes: int = 1) -> Command:
    """Start ``llava-rad train`` in one process or in several that work together."""
    return Command(["train", "--config", "tiny", *arguments], processes, PRELOAD)


def train(folder: Path, overrides: Sequence[str | Path], *, processes: int = 1) -> Ran:
    """A whole run, which must succeed."""
    ran = finished(start([*overrides, "-o", folder], processes=processes), timeout=LIMIT)
    assert ran.code == 0, ran.err[-3000:]
    assert ran.out == ""
    return ran


def torchrun(folder: Path, overrides: Sequence[str | Path], *, processes: int) -> None:
    """A whole run as the guide starts it on several processes."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
        "--no-python", sys.executable, "-c", "from llava_rad.cli import main; main()", "train", "--config", "tiny",
        *overrides, "-o", folder,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == b""


def kill_after(folder: Path, checkpoint: str, overrides: Sequence[str | Path], *, processes: int = 1) -> None:
    """Begin a run and kill -9 all of it as soon as a checkpoint is there."""
    process = start([*overrides, "-o", folder], processes=processes)
    deadline = time.monotonic() + LIMIT
    while not (folder / "checkpoints" / checkpoint).is_dir():
        assert process.poll() is None, process.communicate()[1].decode()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()


def losses(folder: Path) -> dict[int, float]:
    """Training loss by step."""
    return {line["step"]: line["loss"] for line in lines(folder) if "loss" in line}


def lines(folder: Path) -> list[dict[str, float]]:
    """The journal."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def close(one: dict[int, float], other: dict[int, float], tolerance: float) -> bool:
    """Return True if two runs have the same steps and, within a relative tolerance, the same losses."""
    return one.keys() == other.keys() and all(abs(one[n] - other[n]) <= tolerance * abs(one[n]) for n in one)
