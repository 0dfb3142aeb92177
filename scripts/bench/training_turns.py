"""A training loop that waits before every step until it is asked for one: both halves of ``scripts.bench.training``."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from queue import Queue
from typing import Any

import torch
from transformers import TrainerCallback

from scripts.bench.worker import Answer, measured, peak_bytes, serve

_LOGGED = ("loss", "grad_norm")


class Turns:
    """Hands single steps of a loop in the main thread to whoever asks in another one.

    Args:
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, device: str) -> None:
        self.device, self.base = device, peak_bytes("cpu")
        self._asked: Queue[bool] = Queue()
        self._done: Queue[dict[str, Any]] = Queue()

    def wait(self) -> None:
        """In the loop: until the next step is asked for.

        Raises:
            SystemExit: none will be.
        """
        if not self._asked.get():
            raise SystemExit

    def finish(self, answer: dict[str, Any]) -> None:
        """In the loop: a step is done, or what else became of it."""
        self._done.put(answer)

    def end(self) -> None:
        """No further step will be asked for."""
        self._asked.put(False)

    def step(self) -> dict[str, Any]:
        """One step: its costs, its loss and gradient norm; all of it, from fetching the samples to logging."""
        answer: dict[str, Any] = {}

        def turn() -> None:
            self._asked.put(True)
            answer.update(self._done.get())

        costs = measured(turn, self.device)
        return answer | costs

    def memory(self) -> dict[str, Any]:
        """Peak bytes, and those of Python and its libraries alone."""
        return {"peak": peak_bytes(self.device), "base": self.base if self.device == "cpu" else 0}

    def run(self, loop: Callable[[], object]) -> None:
        """Run the loop here until it is ended; a device that is too small is an answer."""
        try:
            loop()
        except torch.OutOfMemoryError:
            self.finish({"error": "out of memory"})
            while self._asked.get():
                self.finish({"error": "out of memory"})


class Turning(TrainerCallback):  # type: ignore[misc]
    """Makes a Trainer that logs every step take turns. Goes before another callback in a class's bases, or alone."""

    turns: Turns

    def on_train_begin(self, args: Any, state: Any, control: Any, **words: Any) -> Any:
        """Everything before the first step is no step's cost."""
        control = super().on_train_begin(args, state, control, **words)
        self.turns.wait()
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **words: Any) -> Any:
        """The last that happens in a step."""
        control = super().on_log(args, state, control, logs=logs, **words)
        if logs is not None and "loss" in logs:
            self.turns.finish({name: float(logs[name]) for name in _LOGGED})
            self.turns.wait()
        return control


def serve_turns(turns: Turns, loop: Callable[[], object], about: Answer) -> None:
    """Answer the parent in a thread, and run the loop in the main thread: allocators treat the main thread apart."""

    def answer() -> None:
        serve(lambda: {"step": turns.step, "memory": turns.memory, "about": about})
        turns.end()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        turns.run(loop)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # the thread waits for the parent's next word
    thread.join()
