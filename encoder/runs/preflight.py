"""Estimate what a run takes before it starts: parameters, floating-point operations, memory, time.

Parameters are counted on modules built on the meta device. Operations and memory are measured on fake tensors, which
have shapes but no values: torch's ``FlopCounterMode`` counts the matrix products, and autograd's hooks see what the
backward pass needs. Workspaces of kernels, communication buffers and fragmentation come on top.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from encoder.backbones.linear import works_in_float32
from encoder.datasets.manifest import Row
from encoder.errors import ConfigError, LlavaRadError, ReadError
from encoder.preprocessing import rad_dino
from encoder.runs.processor import slow_precision
from encoder.units import gigabytes

Module = TypeVar("Module", bound=nn.Module)

SHARE_OF_RATE = 0.4
"""Assumed speed of a training step, as a share of the measured rate of large matrix products."""
_CHECKED_FILES, _CHECKED_SIDE = 64, 64


class Need(NamedTuple):
    """Something that a run writes: its name, size in words, folder and bytes."""

    name: str
    what: str
    folder: Path
    size: float


def cache_need(images: int, side: int, folder: Path) -> Need:
    """The pixel cache of so many images; a complete one needs nothing more."""
    size = 1.2 * images * side**2
    left = 0.0 if (folder / "index.npy").is_file() else size
    return Need("the pixel cache", f"pixel cache of {side} px about {gigabytes(size)}", folder, left)


def checkpoints_need(number: int, size: float, folder: Path) -> Need:
    """The checkpoints of a run, of which so many are on the disk while one is written."""
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    text = f"checkpoints {gigabytes(size)} each, up to {number} at a time"
    return Need("checkpoints", text, folder, max(0.0, number * size - there))


@dataclass
class Report:
    """Result of ``--validate``.

    Attributes:
        lines: description of the run.
        warnings: settings that run, but perhaps not as intended.
        problems: errors that prevent the run.
    """

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[LlavaRadError] = field(default_factory=list)

    def attempt(self, check: Callable[[], None]) -> None:
        """Run a check and keep its error as a problem."""
        try:
            check()
        except LlavaRadError as error:
            self.problems.append(error)

    def to_text(self) -> str:
        """Return the description and the warnings as text."""
        return "\n".join([*self.lines, *(f"warning: {warning}" for warning in self.warnings)]) + "\n"

    def check_files(self, rows: Sequence[Row], allowed: float, *, force: bool = False) -> None:
        """Decode some of the image files, spread evenly, and say how many cannot be read.

        Args:
            rows: images of the run.
            allowed: largest share of unreadable images.
            force: override refusals of the content, as probes do; a lateral view is never refused here.

        Raises:
            ConfigError: if more cannot be read.
        """
        from encoder.reader.sandbox import Reader

        count = min(len(rows), _CHECKED_FILES)
        reasons: Counter[str] = Counter()
        recipe = rad_dino(_CHECKED_SIDE)
        with Reader(timeout_s=60.0) as reader:
            for number in range(count):
                row = rows[number * len(rows) // count]
                try:
                    try:
                        reader.prepare(row.path, recipe, crop=False, force=force, **row.reading)
                    except ReadError as error:
                        if error.reason != "lateral":
                            raise
                        reader.prepare(row.path, recipe, crop=False, force=True, **row.reading)
                except ReadError as error:
                    reasons[error.reason] += 1
        bad = reasons.total()
        self.lines.append(f"read        {count - bad:,} of {count:,} image files that were decoded")
        if not bad:
            return
        text = f"{bad} of {count} image files that were decoded cannot be read: " + ", ".join(
            f"{reason} {number}" for reason, number in reasons.most_common()
        )
        if bad > allowed * count:
            raise ConfigError(
                text,
                hint="is the disk mounted, were they moved? Manifests hold paths; llava-rad manifest writes them anew",
            )
        self.warnings.append(text)

    def tell_time(
        self, operations: float, processes: int, each: str, *, precision: str, tflops: float | None = None
    ) -> float:
        """Add a line with the time of a run.

        Args:
            operations: floating-point operations of all of it, in units of 1e12.
            processes: number of processes that share them.
            each: operations of one image or sample, in words.
            precision: ``bf16`` or ``fp32``.
            tflops: TFLOP/s that the run reaches on each process; None for a share of what is measured here.

        Returns:
            TFLOP/s of each process.
        """
        if tflops is None:
            if slow := slow_precision(precision):
                self.warnings.append(slow)
            measured = matrix_rate(precision) / 1e12
            reached, how = SHARE_OF_RATE * measured, f"{SHARE_OF_RATE:.0%} of the {measured:.3g} TFLOP/s measured here"
        else:
            reached, how = tflops, f"the given {tflops:g} TFLOP/s"
        hours = operations / reached / 3600
        kind = "GPU-hours" if tflops is not None or torch.cuda.is_available() else "process-hours"
        where = f"{processes}{'' if tflops else ' like this one'}"
        taken = duration(3600 * hours / processes)
        self.lines.append(f"time        about {taken} on {where}: {hours:,.3g} {kind}; {each}, at {how}")
        return reached

    def check_disks(self, needs: Sequence[Need]) -> None:
        """Add a line with what a run writes, and warn where a disk has no room for it."""
        self.lines.append("disk        " + "; ".join(need.what for need in needs))
        disks: dict[int, tuple[float, int, list[str]]] = {}
        for need in needs:
            folder = need.folder.absolute()
            while not folder.exists() and folder != folder.parent:
                folder = folder.parent
            size, _, names = disks.get(folder.stat().st_dev, (0.0, 0, []))
            disks[folder.stat().st_dev] = size + need.size, shutil.disk_usage(folder).free, [*names, need.name]
        for size, free, names in disks.values():
            if size > free:
                self.warnings.append(
                    f"{' and '.join(names)} need {gigabytes(size)}, their disk has {gigabytes(free)} free"
                )

    def check_memory(self, needed: float, remedy: str) -> None:
        """Warn if each process needs more bytes than the GPU has; ``remedy`` names the settings to change."""
        available = gpu_memory()
        if available is not None and needed > available:
            self.warnings.append(
                f"about {gigabytes(needed)} are needed for each process, the GPU has {gigabytes(available)}: {remedy}"
            )


class Trace(NamedTuple):
    """Cost of one forward pass.

    Attributes:
        flops: floating-point operations of its matrix products, 2 for each multiplication with addition; causal
            attention counts half.
        kept: bytes that autograd keeps for the backward pass, parameters excepted.
    """

    flops: float
    kept: float

    def __add__(self, other: tuple[float, ...]) -> Trace:  # type: ignore[override]
        return Trace(self.flops + other[0], self.kept + other[1])

    def __sub__(self, other: Trace) -> Trace:
        return self + (-1 * other)

    def __rmul__(self, factor: float) -> Trace:  # type: ignore[override]
        return Trace(factor * self.flops, factor * self.kept)


def parameters_of(build: Callable[[], nn.Module]) -> int:
    """Count the parameters of the module that ``build`` makes, without memory for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def trace(build: Callable[[], Module], run: Callable[[Module], Any], *, bf16: bool = False) -> Trace:
    """Measure a forward pass on fake tensors.

    Args:
        build: makes the module, on the meta device.
        run: makes inputs on the CPU and calls the module.
        bf16: run it under autocast to bfloat16.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    kept: dict[int, tuple[int, torch.Tensor]] = {}  # tensors are held, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes(), tensor
        return tensor

    works_in_float32()  # tried on numbers, which fake tensors have none of
    with torch.device("meta"):
        module = build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.to_empty(device="cpu")
        counter = FlopCounterMode(display=False, custom_mapping=_uncounted())
        with (
            counter,
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext(),
        ):
            run(module)
    return Trace(counter.get_total_flops(), sum(size for size, _ in kept.values()))


def by_depth(measure: Callable[[int, int], Trace]) -> tuple[Trace, Trace]:
    """Divide the cost of one sample between the blocks of a network and the rest.

    Args:
        measure: (blocks, samples) -> cost. It is called for 1 and 2 of each; costs that do not grow with the samples,
            such as weights cast to bfloat16, cancel.

    Returns:
        Cost of one sample outside of the blocks, and in each block.
    """
    one, two = (measure(blocks, 2) - measure(blocks, 1) for blocks in (1, 2))
    block = two - one
    return one - block, block


def _linear_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * _product(x) * weight[0]


def _attention_flops(
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> int:
    share = 2 if is_causal else 1
    return 2 * _product(query[:-1]) * key[-2] * (query[-1] + value[-1]) // share


def _product(sizes: Sequence[int]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def _uncounted() -> dict[Any, Callable[..., int]]:
    """Operations on CPUs that torch's counter does not know; it passes shapes in place of tensors."""
    formulas: tuple[tuple[Any, str, Callable[..., int]], ...] = (
        (torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", _attention_flops),
        (torch.ops.mkldnn, "_linear_pointwise", _linear_flops),
    )
    return {getattr(space, name): formula for space, name, formula in formulas if hasattr(space, name)}


def transformer_flops(parameters: int, tokens: int, width: int, depth: int) -> float:
    """Operations of one image in a transformer of which only sizes are known: products with all weights, attention."""
    return 2 * parameters * tokens + 4 * width * tokens**2 * depth


def gpu_memory() -> int | None:
    """Return the bytes of the first GPU, or None without one."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def available_memory(device: torch.device | str) -> int:
    """Return the free bytes of a GPU, or of this machine and control group."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError, IndexError):  # another system than Linux
        (line,) = [one for one in Path("/proc/meminfo").read_text().splitlines() if one.startswith("MemAvailable:")]
        found.append(1024 * int(line.split()[1]))
    with suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(found))


def matrix_rate(precision: str) -> float:
    """Measure the FLOP/s of large matrix products on this device, in about half a second."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side = 8192 if device.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    rate = 0.0
    begin = time.perf_counter()
    while time.perf_counter() - begin < 0.5:
        start = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        rate = max(rate, 2 * side**3 / (time.perf_counter() - start))
    return rate


def flop(tera: float) -> str:
    """Format a number of 1e12 floating-point operations: "3.33 TFLOP", "20 GFLOP"."""
    return f"{tera:.3g} TFLOP" if tera >= 0.1 else f"{1000 * tera:.3g} GFLOP"


def duration(seconds: float) -> str:
    """Format a time: "1.5 s", "90 s", "5 min", "2.5 h"."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
