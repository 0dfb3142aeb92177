"""Worker processes of torch's data loader: how they start and send, and the message when one is lost.

They send tensors by their pipe. torch would put each into shared memory, of which a container has 64 MB (/dev/shm) and
a few processes with batches ahead need hundreds.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from encoder.errors import LlavaRadError

Item = TypeVar("Item")
PREFETCH = 2
"""Items that each worker prepares ahead."""


def worker_context(*preload: str) -> BaseContext:
    """Choose a start method that never forks this process, which may hold threads and a CUDA context.

    Args:
        preload: modules that are imported once, not by each worker.
    """
    check_shared_memory()
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *preload])
    return context


def check_shared_memory() -> None:
    """Check that processes can share locks, which they need in any case.

    Raises:
        LlavaRadError: if there is no shared memory.
    """
    try:
        multiprocessing.Lock()
    except (OSError, ImportError):  # the latter where Python was built without
        raise LlavaRadError(
            "there is no shared memory for worker processes: /dev/shm is missing, full or read-only",
            hint="mount it (64 MB are enough: docker run --shm-size 64m), or use data.workers=0",
        ) from None


def begin_worker(worker: int) -> None:
    """Prepare a worker: it sends by its pipe.

    Ctrl-C, which reaches every process of the terminal, is left to the process that the worker works for.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    send_by_pipe()


def send_by_pipe() -> None:
    """Send tensors from a worker by its pipe from now on; nothing in other processes."""
    if get_worker_info() is not None:
        ForkingPickler.register(torch.Tensor, _sent)


def _sent(tensor: torch.Tensor) -> tuple[Callable[..., torch.Tensor], tuple[Any, ...]]:
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()  # NumPy does not know every type
    return _received, (data, tensor.dtype, tuple(tensor.shape))


def _received(data: npt.NDArray[np.uint8], dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(data).view(dtype).view(shape)


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
