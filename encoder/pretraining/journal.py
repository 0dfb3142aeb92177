"""The run's numbers by step: JSON lines, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encoder.pretraining.checkpoints import replace_file


class Journal:
    """Appends to ``metrics.jsonl`` in the run folder.

    Args:
        folder: the run folder.
        step: optimiser steps done: lines of later steps, which a killed run has written, are cut off.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        path = folder / "metrics.jsonl"
        if path.is_file():
            kept = [line for line in path.read_bytes().splitlines(keepends=True) if _step(line) <= step]
            replace_file(path, b"".join(kept))
        self._file = path.open("a", encoding="utf-8")
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line; it has reached the file when this returns."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _step(line: bytes) -> float:
    """A line's step; infinite for one that was cut short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
