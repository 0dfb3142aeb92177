"""Counting on meta tensors: bytes, kernels, products and waits worked out by hand, and the aims of a whole step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from encoder.pretraining.validation import cost_of
from scripts.bench.causes import Counts, Device, count, main
from scripts.bench.pretraining import CASES
from scripts.bench.pretraining_ours import settings


def counted(step: Callable[[torch.Tensor], object]) -> Counts:
    """Of a step on 4 x 6 float32 numbers, 96 bytes."""
    device = Device()
    with device:
        x = torch.empty(4, 6, device="meta")
        device.phase("step")
        step(x)
    return device.now


@pytest.mark.parametrize(
    ("step", "moved", "kernels"),
    [
        (lambda x: x + x, 3 * 96, 1),
        (lambda x: x.t(), 0, 0),
        (lambda x: torch.empty_like(x), 0, 0),
        (lambda x: x.zero_(), 96, 1),
        (lambda x: x.mul_(2), 2 * 96, 1),
        (lambda x: x.to(torch.bfloat16), 96 + 48, 1),
        (lambda x: x[:, :1].expand(4, 6) * 2, 4 * 4 + 96, 1),
        (lambda x: x.index_select(0, torch.zeros(2, dtype=torch.long, device="meta")), 2 * 48 + 2 * 8, 2),
        (lambda x: x.index_add_(0, torch.zeros(2, dtype=torch.long, device="meta"), x[:2]), 3 * 48 + 2 * 8, 2),
        (lambda x: torch._foreach_mul_([x, x[:2]], 2), 2 * (96 + 48), 1),
    ],
    ids=["add", "view", "allocation", "zero_", "mul_", "cast", "expanded", "gather", "add rows", "list"],
)
def test_bytes_and_kernels(step: Callable[[torch.Tensor], object], moved: int, kernels: int) -> None:
    found = counted(step)
    assert (sum(found.moved.values()), sum(found.kernels.values()), found.flops) == (moved, kernels, 0)


def test_products_are_counted_in_flops_not_bytes() -> None:
    found = counted(lambda x: x @ x.t())
    assert (found.flops, found.moved, found.kernels["mm"]) == (2 * 4 * 6 * 4, {}, 1)


@pytest.mark.parametrize(
    ("step", "waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: bool(torch.isfinite(x).all()), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: (x > 0).nonzero(), 1),
        (lambda x: torch.ones(3, device="meta").tolist(), 1),
        (lambda x: torch.where(x > 0, x, 1), 0),
        (lambda x: torch.ones(3).sum().item(), 0),  # on the host
    ],
    ids=["item", "bool", "cpu", "nonzero", "tolist", "where", "host"],
)
def test_waits(step: Callable[[torch.Tensor], object], waits: int) -> None:
    assert sum(counted(step).waits.values()) == waits


def test_what_is_sent_keeps_its_value() -> None:
    found: list[object] = []
    counts = counted(lambda x: found.extend(torch.tensor([0, 1, 1]).to("meta").nonzero().flatten().tolist()))
    assert found == [1, 2] and counts.sent == 1


def test_a_small_step_waits_for_nothing_and_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick"]) == 0
    together = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("together"))
    assert together.split()[4] == "0"


@pytest.mark.slow
def test_the_papers_step_keeps_its_aims() -> None:
    """Before: 1,134 GB, 2,563 kernels and 23 waits. The FLOPs are those that ``--validate`` counts otherwise."""
    case = replace(CASES["vitb-bf16"], batch=64)
    phases = count(case).values()
    assert sum(sum(phase.moved.values()) for phase in phases) < 400e9
    assert sum(sum(phase.kernels.values()) for phase in phases) <= 1500
    assert sum(sum(phase.waits.values()) for phase in phases) == 0
    flops = sum(phase.flops for phase in phases) / 1e12
    assert flops == pytest.approx(64 * cost_of(settings(case)).tera_flops_run, rel=0.02)
