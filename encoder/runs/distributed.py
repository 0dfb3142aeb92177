"""One process or many: Accelerate's part of a run, and weights spread over processes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from accelerate import Accelerator

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_PATIENCE = timedelta(hours=12)
"""Time-out of processes that wait for one another: the first may be reading a million images into the cache."""


def keep_freed_memory() -> None:
    """Tell glibc not to return to the kernel what is freed: every step needs the same pages again.

    Without it, a step of a ViT-S on a CPU spends up to a tenth of its time on page faults.
    """
    with suppress(OSError, AttributeError):  # another system, or another C library
        glibc = ctypes.CDLL("libc.so.6")
        glibc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the largest that it takes
        glibc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def start(*, bf16: bool) -> Accelerator:
    """Join the processes that torchrun or ``accelerate launch`` has started; alone where there are none."""
    from accelerate import Accelerator, InitProcessGroupKwargs

    keep_freed_memory()
    return Accelerator(
        cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
        mixed_precision="bf16" if bf16 else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


def spread(model: nn.Module, accelerator: Accelerator, shards: Sequence[nn.Module] | None) -> nn.Module:
    """Move the model to the device and make its gradients those of all processes together.

    Args:
        model: complete on every process.
        accelerator: of this process.
        shards: modules to gather one at a time: each process keeps a part of every parameter (torch's FSDP2), and the
            optimiser must be made afterwards. None keeps the parameters whole (DDP).

    Returns:
        The module to call in place of ``model``, whose attributes stay accessible.
    """
    model.to(accelerator.device)
    if shards is None:
        wrapped: nn.Module = accelerator.prepare_model(model)
        return wrapped
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in shards:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


@contextmanager
def synchronised(wrapped: nn.Module, accelerator: Accelerator, wanted: bool) -> Iterator[None]:
    """Sum gradients over processes in the backward pass of the block if ``wanted``, else add to this process's."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(wanted)
        yield
    elif wanted:
        yield
    else:
        with accelerator.no_sync(wrapped):
            yield


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor without gradient, gathered if it is spread over processes; then all of them must call this."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Spread a whole tensor over processes and devices as ``parameter`` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor


def part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a tensor; writing to it writes to the tensor."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.data
