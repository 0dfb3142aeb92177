"""Metrics of a run by step: JSON lines, and TensorBoard where it is installed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from encoder.errors import LlavaRadError
from encoder.files import write

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends to ``metrics.jsonl`` in the run folder.

    Args:
        folder: the run folder.
        step: optimiser steps done; lines of later steps, written by a killed run, are removed; 0 removes all lines.

    Raises:
        LlavaRadError: if the disk refuses; raised by ``write`` too.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        path = folder / METRICS
        try:
            if path.is_file():
                kept = [line for line in path.read_bytes().splitlines() if step and _step(line) <= step]
                write(path, b"".join(line + b"\n" for line in kept))
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise _unwritten(error) from error
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        # events from this step on, which a killed run has written, do not count any more
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else 0)

    def write(self, step: int, values: Mapping[str, float], warnings: Sequence[str] = ()) -> None:
        """Write one line and flush it. Numbers that are not finite become null in JSON."""
        line: dict[str, Any] = {"step": step}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        if warnings:
            line["warnings"] = list(warnings)
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
                for warning in warnings:
                    self._board.add_text("warnings", warning, step)
                self._board.flush()
        except OSError as error:
            raise _unwritten(error) from error

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run folder's ``metrics.jsonl``, except one that is still being written.

    Raises:
        LlavaRadError: if the folder has none.
    """
    try:
        lines = (folder / METRICS).read_bytes().splitlines()
    except OSError:
        raise LlavaRadError(f"the folder {folder.name} has no {METRICS}: it is no run folder") from None
    return [json.loads(line) for line in lines if _step(line) < math.inf]


def _step(line: bytes) -> float:
    """A line's step; infinite for one that was cut short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return math.inf


def _unwritten(error: OSError) -> LlavaRadError:
    return LlavaRadError(f"{METRICS} could not be written: {error.strerror or type(error).__name__}")
