"""Processes that answer commands over their pipes, one JSON object a line, so that two tools can take turns.

Both sides of a comparison run `serve` and `measured`, whatever their interpreter: this file needs nothing but Python,
and torch where a worker has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Answer = Callable[[], dict[str, Any]]


class Worker:
    """The parent's end of one process.

    Args:
        python: interpreter.
        module: a module with `main`, whose arguments are ``argv``.
        threads: for OpenMP and torch.
    """

    def __init__(self, python: str, module: str, argv: Sequence[str], threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.name = module
        self.process = subprocess.Popen(
            [python, "-m", module, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment | {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "PYTHONWARNINGS": "ignore"},
        )

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            SystemExit: the process died; its own words are on stderr.
        """
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process by closing its input."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(make: Callable[[], Mapping[str, Answer]]) -> None:
    """The child's end: make the answers, and answer until the input ends. What libraries print goes to stderr.

    A GPU that is too small is an answer, ``{"error": "out of memory"}``; every other exception ends the process.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers = make()
    for line in sys.stdin:
        try:
            answer = answers[json.loads(line)]()
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":
                raise
            answer = {"error": "out of memory"}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


def measured(step: Callable[[], object], device: str) -> dict[str, float]:
    """CPU seconds of this process, those of them in the kernel, and wall seconds of one call.

    On a GPU the call's end is waited for. The kernel's share is mostly memory that is handed out anew.
    """
    import torch

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    finish()
    kernel, cpu, wall = os.times().system, time.process_time(), time.perf_counter()
    step()
    finish()
    return {
        "cpu_s": time.process_time() - cpu,
        "kernel_s": os.times().system - kernel,
        "wall_s": time.perf_counter() - wall,
    }


def peak_bytes(device: str) -> int:
    """Most memory so far: of the GPU's allocator, or this process's resident set."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    # not getrusage's ru_maxrss: a process begins with that of the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
