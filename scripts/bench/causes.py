"""Count what a pre-training step asks of a GPU, without one: products, bytes moved outside of them, kernels, waits.

    python -m scripts.bench.causes [--batch 64] [--format json]

The step (forward, backward, clipping, AdamW, moving average) of ViT-B/14 with 2 x 518 + 8 x 196 px, 65,536 prototypes
and drop path 0.3 runs uncompiled in bfloat16 on meta tensors, which have shapes but no values; a dispatch mode sees
every operator. Tensors on the CPU stay real: they are the host's. The rules:

- Bytes of an operator are those of its inputs and outputs once each; of what it gathers from or adds to, the rows that
  it touches. Operators that torch builds of several passes over memory count each (`_PASSES`).
- Products (matrix products and attention) are counted in FLOPs; their bytes are not those "outside products".
- Every operator that is no view and no allocation is a kernel; lists of tensors take one for each 320 blocks of 65,536
  numbers, or each 30 tensors, as in torch's multi_tensor_apply.
- The host waits for the device where it needs a value: ``item``, ``tolist``, ``nonzero``, a boolean index, ``cpu``.
- What is sent to the device is counted too; sent from page-locked memory, it needs no waiting.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from encoder.pretraining import fused_layers, losses
from encoder.pretraining.data import Batch, MicroBatches
from encoder.pretraining.optimization import Schedules, clip_gradients, make_optimizer, set_rates
from encoder.pretraining.student_teacher import StudentTeacher
from scripts.bench.harness import Report, parser
from scripts.bench.pretraining import CASES, QUICK, Case
from scripts.bench.pretraining_ours import settings

aten = torch.ops.aten
_PASSES = {"logsumexp": (6, 7)}
"""Operators of several kernels: passes over the input, kernels (ATen's ReduceOps.cpp: amax, sub, exp_, sum, log_)."""
_GATHERS = ("index_select", "index", "gather", "embedding")
_WRITES_ONLY = ("copy_", "fill_", "zero_")
_WAITS = ("nonzero", "_local_scalar_dense", "masked_select", "equal")
_KNOWN = 1 << 20
"""Values are kept for tensors up to this size that follow from the host's, since waits need them."""


@dataclass
class Counts:
    """Of one phase of a step."""

    flops: int = 0
    moved: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    sent: int = 0

    def row(self) -> dict[str, float]:
        """Its row of the table, and the largest causes."""
        row: dict[str, Any] = {"TFLOP": self.flops / 1e12, "GB": sum(self.moved.values()) / 1e9}
        row |= {"kernels": sum(self.kernels.values()), "waits": sum(self.waits.values()), "sent": self.sent}
        return row | {
            "GB by operator": self.moved,
            "kernels by operator": self.kernels,
            "waits by operator": self.waits,
        }


class Device(TorchDispatchMode):
    """Runs operators on meta tensors and counts them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phases: dict[str, Counts] = {}
        self.values: Any = WeakIdKeyDictionary()
        self.phase("set-up")

    def phase(self, name: str) -> None:
        """Count under this name from now on."""
        self.now = self.phases.setdefault(name, Counts())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        name = func._schema.name.removeprefix("aten::")
        wanted = kwargs.get("device")
        if all(tensor.device.type == "cpu" for tensor in tensors):
            if wanted is None or torch.device(wanted).type == "cpu":
                return func(*args, **kwargs)
            if name == "_to_copy":
                self.now.sent += 1
        value = self._value(func, name, tensors, args, kwargs)
        if name in _WAITS or (name == "_to_copy" and wanted is not None and torch.device(wanted).type == "cpu"):
            self.now.waits[name] += 1
            if name == "nonzero":
                value = torch.zeros(1, args[0].ndim, dtype=torch.long) if value is None else value
            elif name == "_to_copy":
                return torch.zeros(args[0].shape, dtype=args[0].dtype) if value is None else value
            else:
                return 1 if value is None else value
        if name == "index" and any(one is not None and one.dtype == torch.bool for one in args[1]):
            self.now.waits["boolean index"] += 1
        out = torch.empty_like(value, device="meta") if name == "nonzero" else func(*args, **kwargs)
        if value is not None:
            for one, known in zip(tree_leaves(out), tree_leaves(value), strict=True):
                if isinstance(known, torch.Tensor) and known.numel() <= _KNOWN:
                    self.values[one] = known
        self._count(func, name, tensors, args, kwargs, out)
        return out

    def _value(self, func: Any, name: str, tensors: list[torch.Tensor], args: Any, kwargs: Any) -> Any:
        """The result, where it follows from values of the host and is small."""
        if "empty" in name or not all(tensor.device.type == "cpu" or tensor in self.values for tensor in tensors):
            return None
        if sum(tensor.numel() for tensor in tensors) > 4 * _KNOWN:
            return None

        def real(leaf: Any) -> Any:
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "meta":
                return self.values[leaf]
            return torch.device("cpu") if isinstance(leaf, torch.device) else leaf

        args, kwargs = tree_map(real, (args, kwargs))
        return func(*args, **kwargs)

    def _count(self, func: Any, name: str, tensors: list[torch.Tensor], args: Any, kwargs: Any, out: Any) -> None:
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        packet = func._overloadpacket
        if packet in flop_registry:
            self.now.flops += flop_registry[packet](*args, **kwargs, out_val=out)
            self.now.kernels[name] += 1
            return
        mutated, outside = _mutated(func, args, kwargs)
        storages = {tensor.untyped_storage()._cdata for tensor in tensors}
        if not mutated and (
            "empty" in name or (all(one.untyped_storage()._cdata in storages for one in outputs) and outputs)
        ):
            return  # an allocation or a view
        if "foreach" in name or "fused_adam" in name:
            numbers = [tensor.numel() for tensor in mutated or outputs]
            blocks = sum(math.ceil(number / 65536) for number in numbers)
            self.now.kernels[name] += max(math.ceil(blocks / 320), math.ceil(len(numbers) / 30))
        else:
            self.now.kernels[name] += _PASSES[name][1] if name in _PASSES else 1
        rows = name.removesuffix("_")
        if rows == "index_add":
            source = _bytes(args[3])
            self.now.moved[name] += 3 * source + (0 if name.endswith("_") else 2 * _bytes(args[0]))
        elif rows == "index_put":
            values = _bytes(outputs[0]) if args[2].ndim == 0 else _bytes(args[2])
            self.now.moved[name] += 2 * values + (0 if name.endswith("_") else 2 * _bytes(args[0]))
        elif name in _GATHERS:
            self.now.moved[name] += 2 * _bytes(outputs[0])
        elif name in _PASSES:
            self.now.moved[name] += _PASSES[name][0] * _bytes(args[0])
        else:
            read = [one for one in tensors if id(one) not in outside]
            if name in _WRITES_ONLY:
                read = [one for one in read if all(one is not other for other in mutated)]
            written = mutated or outputs
            self.now.moved[name] += sum(map(_bytes, read)) + sum(map(_bytes, written))


def _mutated(func: Any, args: Any, kwargs: Any) -> tuple[list[torch.Tensor], set[int]]:
    """The tensors that an operator writes to, and the ids of those that it does not read first (``out=``)."""
    mutated, outside = [], set()
    for number, argument in enumerate(func._schema.arguments):
        given = args[number] if number < len(args) else kwargs.get(argument.name)
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        for leaf in tree_leaves(given):
            if isinstance(leaf, torch.Tensor):
                mutated.append(leaf)
                if argument.is_out:
                    outside.add(id(leaf))
    return mutated, outside


def _bytes(tensor: torch.Tensor) -> int:
    """Of the memory that a tensor covers: an expanded dimension counts once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or size == 0]
    return math.prod(sizes) * tensor.element_size()


class _Autocast(TorchFunctionMode):
    """Autocast for meta tensors, which torch has none for: linear layers and attention cast their inputs."""

    enabled = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (functional.linear, functional.scaled_dot_product_attention):
            meta = any(isinstance(one, torch.Tensor) and one.device.type == "meta" for one in args)
            if meta and self.enabled:
                args, kwargs = tree_map(_to_bf16, (args, kwargs))
            if meta and func is functional.scaled_dot_product_attention:
                return _Attention.apply(*args, args[0].numel() * args[1].shape[-2])  # [rows, heads, length, width]
        return func(*args, **kwargs)

    def is_enabled(self, device: str | None = None) -> bool:
        """As `torch.is_autocast_enabled`."""
        return self.enabled and device == "meta"

    @contextmanager
    def switch(self, device: str, dtype: Any = None, enabled: bool = True, **_: Any) -> Iterator[None]:
        """As `torch.autocast`."""
        before, self.enabled = self.enabled, enabled
        yield
        self.enabled = before


def _to_bf16(leaf: Any) -> Any:
    floating = isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float32
    return leaf.to(torch.bfloat16) if floating else leaf


class _Attention(torch.autograd.Function):
    """A fused kernel each way, as on a GPU; on the meta device torch would take plain products."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, macs: int) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.macs = macs
        mixed: torch.Tensor = _attention_forward(query, key, value, macs)
        return mixed

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*_attention_backward(grad_outputs[0], *ctx.saved_tensors, ctx.macs), None)


@torch.library.custom_op("llava_rad_bench::attention", mutates_args=())
def _attention_forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, macs: int) -> torch.Tensor:
    raise NotImplementedError


@_attention_forward.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, macs: int) -> torch.Tensor:
    return torch.empty_like(query)


@torch.library.custom_op("llava_rad_bench::attention_backward", mutates_args=())
def _attention_backward(
    grad_out: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, macs: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    raise NotImplementedError


@_attention_backward.register_fake
def _(
    grad_out: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, macs: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


# two products forward; backward, these and three more, since the first is computed again
flop_registry[torch.ops.llava_rad_bench.attention] = lambda *shapes, out_val: 4 * shapes[3]
flop_registry[torch.ops.llava_rad_bench.attention_backward] = lambda *shapes, out_val: 10 * shapes[4]


class _VariableLengths:
    """`fused_layers.starts_of` and `varlen_attn` as they are on CUDA."""

    def __init__(self) -> None:
        self._squares: Any = WeakIdKeyDictionary()

    def starts_of(self, shapes: Sequence[tuple[int, int]], device: torch.device) -> torch.Tensor:
        """Offsets of the crops, without values."""
        starts = torch.empty(1 + sum(rows for rows, _ in shapes), dtype=torch.int32, device=device)
        self._squares[starts] = sum(rows * length**2 for rows, length in shapes)
        return starts

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *starts: Any) -> torch.Tensor:
        """Attention of [T, heads, width]."""
        macs = self._squares[starts[0]] * math.prod(query.shape[1:])
        mixed: torch.Tensor = _Attention.apply(query, key, value, macs)
        return mixed


class _Grey:
    """As many images as are asked for."""

    def __init__(self, case: Case) -> None:
        self.side, self.count = case.global_size, case.batch

    def __len__(self) -> int:
        return self.count

    def image(self, i: int) -> Any:
        return torch.zeros(self.side, self.side, dtype=torch.uint8).numpy()


def count(case: Case) -> dict[str, Counts]:
    """The counts of one step by phase."""
    config = settings(case)
    batch = MicroBatches(_Grey(case), config, rank=0, world=1)[0]
    assert isinstance(batch, Batch)
    values = Schedules.from_config(config).at(0)
    with torch.device("meta"):
        model = StudentTeacher(config).train()
    optimizer = make_optimizer(model.student, config.optimization)
    set_rates(optimizer, values)
    device, autocast = Device(), _Autocast()
    with ExitStack() as stack:
        for name, stand_in in {
            "torch.is_autocast_enabled": autocast.is_enabled,
            "torch.get_autocast_dtype": lambda device: torch.bfloat16,
            "torch.autocast": autocast.switch,
            "torch.utils._foreach_utils._get_foreach_kernels_supported_devices": lambda: ["meta"],
        }.items():
            stack.enter_context(mock.patch(name, stand_in))
        cuda = torch.device("cuda")  # its sizes of chunks, by whatever rule this version has
        stack.enter_context(mock.patch.object(losses, "_chunk", lambda _, k, rule=losses._chunk: rule(cuda, k)))
        if hasattr(fused_layers, "starts_of"):
            packed = _VariableLengths()
            stack.enter_context(mock.patch("encoder.pretraining.packing.starts_of", packed.starts_of))
            stack.enter_context(mock.patch("torch.nn.attention.varlen.varlen_attn", packed.attend))
        stack.enter_context(autocast)
        stack.enter_context(device)
        for state in model.student.parameters():  # AdamW makes its state in the first step
            optimizer.state[state] = {
                "step": torch.zeros((), device="meta"),
                "exp_avg": torch.empty_like(state),
                "exp_avg_sq": torch.empty_like(state),
            }
        device.phase("forward")
        there = batch.to("meta", non_blocking=True)
        with autocast.switch("meta", enabled=case.precision == "bf16"):
            total = model(there, values.teacher_temperature).total
        device.phase("backward")
        total.backward()
        device.phase("optimizer")
        clip_gradients(model.student, config.optimization.clip)
        optimizer.step()
        model.update_teacher(values.momentum)
    del device.phases["set-up"]
    return device.phases


def main(argv: Sequence[str] | None = None) -> int:
    """Print the counts by phase, and the operators that move most."""
    made = parser(__doc__, quick="a toy size")
    made.add_argument("--batch", type=int, default=64, help="images; default: 64")
    options = made.parse_args(argv)
    report = Report(options)
    case = replace(CASES["vitb-bf16"], **({"layers": 2} | QUICK if options.quick else {"batch": options.batch}))
    phases = count(case)
    columns = {"TFLOP": ".1f", "GB": ".0f", "kernels": ".0f", "waits": ".0f", "sent": ".0f"}
    report.table("step", columns, f"{case.batch} images")
    total = Counts()
    for name, counts in phases.items():
        report.row(name, counts.row())
        total.flops, total.sent = total.flops + counts.flops, total.sent + counts.sent
        total.moved, total.kernels = total.moved + counts.moved, total.kernels + counts.kernels
        total.waits += counts.waits
    report.row("together", total.row())
    report.table("operators", {"GB": ".1f", "kernels": ".0f"}, "most bytes outside products")
    for name, moved in total.moved.most_common(12):
        report.row(name, {"GB": moved / 1e9, "kernels": total.kernels[name]})
    report.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
