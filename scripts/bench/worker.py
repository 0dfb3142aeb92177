"""Processes that answer commands over their pipes, one JSON object a line, so that two implementations can take turns.

Both sides run `serve`, whatever their interpreter is: this file needs nothing but Python, and torch on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUT_OF_MEMORY = {"error": "out of memory"}
Answer = Callable[[], dict[str, Any]]
Cost = dict[str, Any]
"""Seconds: ``wall_s``, ``cpu_s`` of this process, and ``kernel_s``, the kernel's part of the latter."""


class Worker:
    """The parent's end of one process.

    Args:
        python: interpreter.
        module: run with ``python -m``.
        argv: its arguments.
        threads: for OpenMP and torch.
    """

    def __init__(self, python: str, module: str, argv: Sequence[str], threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        environment |= {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "PYTHONWARNINGS": "ignore"}
        command = [python, "-m", module, *argv]
        self.name = module
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )

    def ask(self, command: str) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            SystemExit: if the process has ended; its traceback is on standard error.
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

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process by closing its input."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Pipe:
    """The child's end: commands from standard input; standard output of libraries goes to standard error."""

    def __init__(self) -> None:
        self._replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def commands(self) -> Iterator[str]:
        """Commands until the parent closes its end."""
        for line in sys.stdin:
            yield json.loads(line)

    def reply(self, answer: Mapping[str, Any]) -> None:
        """Answer the last command."""
        self._replies.write(json.dumps(answer) + "\n")
        self._replies.flush()


def serve(make: Callable[[], Mapping[str, Answer]]) -> None:
    """Answer the parent's commands until it closes its end.

    A GPU that is too small is an answer, ``OUT_OF_MEMORY``; every other exception ends the process.
    """
    pipe = Pipe()
    answers = make()
    for command in pipe.commands():
        try:
            pipe.reply(answers[command]())
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":
                raise
            pipe.reply(OUT_OF_MEMORY)


def clocks(device: str) -> Cost:
    """CPU seconds of this process, the kernel's part of them, and wall seconds, once a GPU has finished its work."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return {"kernel_s": os.times().system, "cpu_s": time.process_time(), "wall_s": time.perf_counter()}


def since(start: Cost, device: str) -> Cost:
    """Seconds since ``start``, which `clocks` gave. The kernel's part is mostly memory that is handed out anew."""
    return {name: end - start[name] for name, end in clocks(device).items()}


def measured(call: Callable[[], object], device: str = "cpu") -> Cost:
    """Seconds of one call."""
    start = clocks(device)
    call()
    return since(start, device)


def memory(device: str, base: int) -> dict[str, int]:
    """Peak bytes, and those of Python and its libraries alone, which count for the resident set only."""
    return {"peak": peak_bytes(device), "base": base if device == "cpu" else 0}


def peak_bytes(device: str) -> int:
    """Most memory so far: of the GPU's allocator, or this process's resident set."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    # not getrusage's ru_maxrss: a process begins with that of its parent
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
