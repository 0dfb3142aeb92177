"""Worker processes of torch's data loader: how they start, and what is said when one is lost."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from typing import TypeVar

from encoder.errors import LlavaRadError

Item = TypeVar("Item")
PREFETCH = 2
"""Items that each worker prepares ahead."""


def worker_context(*preload: str) -> BaseContext:
    """Choose a start method that never forks this process, which may hold threads and a CUDA context.

    Args:
        preload: modules that are imported once, not by each worker.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *preload])
    return context


def ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which reaches every process of the terminal, to the process that the worker works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def next_item(stream: Iterator[Item], loss: LlavaRadError | None) -> Item:
    """Take the next item of a data loader.

    Args:
        stream: of the loader.
        loss: raised if a worker process ended; None for a loader without workers.
    """
    try:
        return next(stream)
    except (RuntimeError, OSError, EOFError) as error:
        if loss is None or not _is_loss(error):
            raise
        raise loss from error


def _is_loss(error: Exception) -> bool:
    """Return True if a worker process ended, False if it raised an error."""
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker")
    return "in DataLoader worker process" not in str(error)  # the connection to one broke
