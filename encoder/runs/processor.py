"""Speed of bfloat16 on this processor: without instructions for it, products take many times as long as in float32."""

from __future__ import annotations

import time
from functools import cache

import torch

SLOW = 2.0
"""Times of float32's that count as slow."""


@cache
def bfloat16_slowdown() -> float:
    """Measure the time of a matrix product on the CPU in bfloat16, divided by that in float32.

    About a half with AMX, about one with AVX-512, 30 to 60 on processors without AVX-512: desktops, and servers before
    2020 (Intel) or 2022 (AMD). On one thread: several would wait for each other where other work runs.
    """
    seconds, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            one, other = (torch.ones(256, 256, dtype=dtype) for _ in range(2))
            times = []
            for _ in range(4):  # the first call is slower
                begin = time.perf_counter()
                one @ other
                times.append(time.perf_counter() - begin)
            seconds[dtype] = min(times)
    torch.set_num_threads(threads)
    return seconds[torch.bfloat16] / seconds[torch.float32]


def fast_type() -> torch.dtype:
    """bfloat16 where this processor is not slow in it, else float32."""
    return torch.float32 if bfloat16_slowdown() > SLOW else torch.bfloat16


def slow_precision(precision: str) -> str | None:
    """Return a warning if a run on this CPU is slow in its precision, ``bf16`` or ``fp32``; None if it is not."""
    if precision != "bf16" or torch.cuda.is_available() or torch.backends.mps.is_available():
        return None
    slow = slow_type(torch.bfloat16, torch.device("cpu"))
    return slow and f"{slow}: use engine.precision=fp32"


def slow_type(dtype: torch.dtype, device: torch.device) -> str | None:
    """Return in words that a type is slow on a device, if it is bfloat16 on a CPU without it."""
    if dtype != torch.bfloat16 or device.type != "cpu" or (times := bfloat16_slowdown()) <= SLOW:
        return None
    return f"matrix products in bfloat16 take {times:.0f} times as long as in float32 on this processor"
