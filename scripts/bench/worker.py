"""Processes that answer commands over their pipes, one JSON object a line, so that two implementations can take turns.

Both sides run `work`, whatever their interpreter is: this file needs nothing but Python, and torch on a GPU.
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
OUT_OF_MEMORY = {"error": "out of memory"}
Order = dict[str, Any]
"""Settings of a process: ``case``, ``device``, ``threads``, ``folder`` and further ones of the benchmark."""
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
            self.process.stdin.write(f"{command}\n")
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
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


class Side:
    """One implementation in its process; methods without arguments answer the command of their name."""

    base: int
    """Peak bytes before anything is made."""

    def loop(self, turns: Turns) -> None:
        """Do steps: wait before each, finish after it."""
        while True:
            turns.wait()
            self.train()
            turns.finish()

    def train(self) -> None:
        """One step."""
        raise NotImplementedError


class Turns:
    """The child's end: answers commands, and lets a loop do a step when it is asked for one.

    Standard output of libraries goes to standard error.

    Args:
        make: builds the side.
        order: its settings.
    """

    def __init__(self, make: Callable[[Order], Side], order: Order) -> None:
        self._replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.side, self.device, self._start = make(order), order["device"], Cost()

    def wait(self) -> None:
        """Answer commands until the next step is asked for, and start the clocks.

        Raises:
            SystemExit: if the parent has closed its end.
        """
        for line in sys.stdin:
            command = line.strip()
            if command == "step":
                self._start = clocks(self.device)
                return
            self._reply(self.memory() if command == "memory" else getattr(self.side, command)())
        raise SystemExit

    def finish(self, result: Mapping[str, Any] | None = None) -> None:
        """Answer with the costs and the result of a step."""
        self._reply({**(result or {}), **since(self._start, self.device)})

    def memory(self) -> dict[str, int]:
        """Peak bytes, and those of Python and its libraries alone, which count for the resident set only."""
        return {"peak": peak_bytes(self.device), "base": self.side.base if self.device == "cpu" else 0}

    def _reply(self, answer: Mapping[str, Any]) -> None:
        self._replies.write(json.dumps(answer) + "\n")
        self._replies.flush()


def work(make: Callable[[Order], Side], prepare: Callable[[Order], object] | None = None) -> None:
    """Main function of a process: prepare the inputs of all sides, or answer the parent until it closes its end.

    A GPU that is too small is the answer to every further step, ``OUT_OF_MEMORY``; other exceptions end the process.
    """
    order = json.loads(sys.argv[1])
    if sys.argv[2:] == ["prepare"]:
        assert prepare is not None
        prepare(order)
        return
    turns = Turns(make, order)
    try:
        turns.side.loop(turns)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        while True:
            turns.finish(OUT_OF_MEMORY)
            turns.wait()


class Turning:
    """Mixin of a Trainer's callback that logs every step: waits before each of them."""

    turns: Turns

    def on_train_begin(self, args: Any, state: Any, control: Any, **words: Any) -> Any:
        """Wait, so that the set-up is not part of the first step."""
        control = super().on_train_begin(args, state, control, **words)  # type: ignore[misc]
        self.turns.wait()
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **words: Any) -> Any:
        """Answer and wait; logging is the end of a step."""
        control = super().on_log(args, state, control, logs=logs, **words)  # type: ignore[misc]
        if logs is not None and "loss" in logs:
            self.turns.finish({name: float(logs[name]) for name in ("loss", "grad_norm")})
            self.turns.wait()
        return control


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


def peak_bytes(device: str) -> int:
    """Most memory so far: of the GPU's allocator, or this process's resident set."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    # not getrusage's ru_maxrss: a process begins with that of its parent
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
