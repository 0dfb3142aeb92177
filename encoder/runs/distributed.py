"""One process or many: Accelerate's part of a run, and weights spread over processes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed, nn

from encoder.errors import ConfigError, LlavaRadError, ModelError

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


def choose_deepspeed_device() -> None:
    """Tell DeepSpeed to use the CPU if there is no GPU; it is otherwise said on standard output.

    Where DeepSpeed is installed, accelerate imports it, and transformers does so when it saves a model.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def start(*, bf16: bool) -> Accelerator:
    """Join the processes that torchrun or ``accelerate launch`` has started; alone where there are none."""
    from accelerate import Accelerator, InitProcessGroupKwargs

    keep_freed_memory()
    return Accelerator(
        cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
        mixed_precision="bf16" if bf16 else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


Result = TypeVar("Result")


def on_first(make: Callable[[], Result]) -> Result:
    """Call a function on the first process; its result, or its error, becomes that of all (all processes must call).

    Args:
        make: returns something small, which is pickled.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return make()
    found: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            found[0] = make()
        except LlavaRadError as error:
            kind = next((kind for kind in (ConfigError, ModelError) if isinstance(error, kind)), LlavaRadError)
            distributed.broadcast_object_list([None, (kind, str(error), error.hint)])
            raise
    distributed.broadcast_object_list(found)
    if found[1] is not None:
        kind, message, hint = found[1]
        raise kind(message, hint=hint)
    result: Result = found[0]
    return result


def everyone(value: Result) -> list[Result]:
    """Return the values of all processes, small ones, by rank (all processes must call)."""
    if not distributed.is_initialized():
        return [value]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found


def rank_and_world() -> tuple[int, int]:
    """Return the number of this process, from 0, and the number of processes."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def share(groups: Mapping[str, Mapping[str, torch.Tensor]], device: torch.device) -> dict[str, dict[str, torch.Tensor]]:
    """Send named tensors of the first process to all (all processes must call).

    Args:
        groups: on the CPU; only those of the first process count.
        device: of this process, through which they are sent one at a time.
    """
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    kinds = on_first(
        lambda: {
            group: {name: (tensor.shape, tensor.dtype) for name, tensor in named.items()}
            for group, named in groups.items()
        }
    )
    if not distributed.is_initialized():
        return {group: dict(named) for group, named in groups.items()}
    shared: dict[str, dict[str, torch.Tensor]] = {}
    for group, named in kinds.items():
        shared[group] = {}
        for name, (shape, dtype) in named.items():
            tensor = groups[group][name] if first else torch.empty(shape, dtype=dtype)
            sent = tensor.to(device).contiguous()
            distributed.broadcast(sent.view(-1).view(torch.uint8), 0)  # bytes: not every backend knows every type
            shared[group][name] = tensor if first else sent.cpu()
    return shared


def spread(model: nn.Module, accelerator: Accelerator, shards: Sequence[Sequence[nn.Module]] | None) -> nn.Module:
    """Move the model to the device and make its gradients those of all processes together.

    Args:
        model: complete on every process.
        accelerator: of this process.
        shards: chains of modules to gather one at a time, each while the one before it computes: each process keeps a
            part of every parameter (torch's FSDP2), and the optimiser must be made afterwards. In mixed precision they
            are gathered in bfloat16, half of the bytes, and gradients are added up in float32. None keeps the
            parameters whole (DDP).

    Returns:
        The module to call in place of ``model``, whose attributes stay accessible.
    """
    model.to(accelerator.device)
    if shards is None:
        wrapped: nn.Module = accelerator.prepare_model(model)
        return wrapped
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    half = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    policy = MixedPrecisionPolicy(half, torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for chain in shards:
        parts = [fully_shard(module, mesh=mesh, mp_policy=policy) for module in chain]
        for before, after in pairwise(parts):
            before.set_modules_to_forward_prefetch([after])
            after.set_modules_to_backward_prefetch([before])
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
