"""Both halves of ``scripts.bench.training``: a training loop that waits before every step until one is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from scripts.bench.worker import OUT_OF_MEMORY, Answer, Cost, Pipe, clocks, memory, peak_bytes, since


class Turns:
    """Answers the parent's commands between the steps of a loop.

    Args:
        device: ``cpu`` or ``cuda``.
        about: answer to the command of that name.
    """

    def __init__(self, device: str, about: Answer) -> None:
        self.device, self.base, self.pipe = device, peak_bytes("cpu"), Pipe()
        self._about, self._start = about, Cost()

    def wait(self) -> None:
        """Wait until the next step is asked for, and start the clocks.

        Raises:
            SystemExit: if the parent has closed its end.
        """
        for command in self.pipe.commands():
            if command == "step":
                self._start = clocks(self.device)
                return
            self.pipe.reply(self._about() if command == "about" else memory(self.device, self.base))
        raise SystemExit

    def finish(self, result: dict[str, Any]) -> None:
        """Answer with the costs and the result of a step."""
        self.pipe.reply(result | since(self._start, self.device))

    def run(self, loop: Callable[[], object]) -> None:
        """Run the loop until it ends; memory that runs out is the answer to every further step."""
        try:
            loop()
        except torch.OutOfMemoryError:
            while True:
                self.finish(OUT_OF_MEMORY)
                self.wait()


class Turning(TrainerCallback):  # type: ignore[misc]
    """Callback of a Trainer that logs every step: waits before each. May precede another callback as a base class."""

    turns: Turns

    def on_train_begin(self, args: Any, state: Any, control: Any, **words: Any) -> Any:
        """Wait, so that the set-up is not part of the first step."""
        control = super().on_train_begin(args, state, control, **words)
        self.turns.wait()
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **words: Any) -> Any:
        """Answer and wait; logging is the end of a step."""
        control = super().on_log(args, state, control, logs=logs, **words)
        if logs is not None and "loss" in logs:
            self.turns.finish({name: float(logs[name]) for name in ("loss", "grad_norm")})
            self.turns.wait()
        return control
