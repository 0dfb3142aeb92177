"""Time a pre-training step against lightly-train's DINOv2, with its memory, after a check that both compute the same.

    python -m scripts.bench.pretraining --peer-python PEER/bin/python [--case vits-bf16] [--device cuda] [--format json]

PEER is an environment of its own with ``lightly-train`` 0.18 and ``safetensors``; without it our half is timed alone.
A step is the teacher's forward pass, the student's, the losses, the backward pass, clipping at 3.0, AdamW and the
teacher's moving average. Both get the same crops, masks and weights, in memory; ViT with MLP and no registers, a
shared head, centring by moving average, drop path 0.3.

On a CPU two processes with one thread each take turns, and CPU seconds are compared; memory is the peak resident set.
The kernel's part of the CPU seconds is shown too: it depends on how the C library hands out memory. On a GPU one
process runs after the other; wall seconds and the allocator's peak are compared, and the share of the card's peak
FLOP/s is given.

First, at drop path 0 in float32, both must give the same losses and gradient norms, twice: with the centres at zero
and after they first moved; else the script exits 1. Three things are made alike for this. Position embeddings:
lightly-train adds 0.1 patches to the wanted size where it has to interpolate them, here it is told not to. KoLeo: it
logs the sum over both views unweighted, ours has the weight 0.1 in it. DINO: it logs pairs of global crops and pairs
with local ones separately, both divided by the number of all pairs. Pixels: ours are grey bytes, as in the cache, and
the peer gets the same values normalised, as float32 in three equal channels, as from its own loader.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scripts.bench import steps
from scripts.bench.harness import Report
from scripts.bench.worker import Order

CUDA_BATCHES = (8, 16, 32)
PACKAGE = "scripts.bench.pretraining"


@dataclass(frozen=True)
class Case(steps.Case):
    """Sizes of a timed step, in pixels; ``image_size`` is that of the position embeddings."""

    peer_model: str
    width: int
    heads: int
    layers: int
    image_size: int
    global_size: int
    local_size: int
    local_crops: int
    prototypes: int
    drop_path: float = 0.3
    head_hidden: int = 2048
    bottleneck: int = 256
    teacher_temperature: float = 0.04

    def checked(self) -> Case:
        """The case in which losses are compared: float32, no dropped paths, crops of at most 224 px, a small batch."""
        large, small = min(self.global_size, 224), min(self.local_size, 98)
        case = replace(self, drop_path=0.0, precision="fp32", batch=min(self.batch, 8), name="check")
        return replace(case, global_size=large, local_size=small)


_VITS = Case("vits-fp32", "fp32", 8, 20, 4, "vits14-noreg-notpretrained", 384, 6, 12, 112, 112, 56, 4, 4096)
_VITB = Case("vitb-bf16", "bf16", 2, 6, 1, "vitb14-noreg-notpretrained", 768, 12, 12, 518, 518, 196, 8, 65536)
CASES = {case.name: case for case in (_VITS, replace(_VITS, name="vits-bf16", precision="bf16"), _VITB)}
QUICK: dict[str, Any] = {"batch": 2, "steps": 2, "warmup": 1, "prototypes": 64, "global_size": 56, "local_size": 28}


def answers(case: Case, order: Order, pythons: dict[str, str | None]) -> dict[str, dict[str, float]]:
    """Losses and gradient norms of both sides."""
    found = {}
    with steps.starter(PACKAGE, case, order, pythons) as start:
        for name in ("ours", "peer"):
            with start(name) as worker:
                found[name] = worker.ask("check")
    return found


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = steps.options(__doc__, list(CASES))
    made.add_argument("--peer-python", help="interpreter of the environment that has lightly-train")
    made.add_argument("--batch", nargs="+", type=int, help=f"images; default on a GPU: {CUDA_BATCHES}")
    made.add_argument("--compile", action="store_true", help="torch.compile our blocks, heads and losses")
    return made.parse_args(argv)


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that the command line asks for."""
    cuda = options.device == "cuda"
    cases = [CASES[name] for name in options.case or (["vitb-bf16"] if cuda else CASES)]
    changes: dict[str, Any] = {"steps": 20, "warmup": 5} if cuda else {}
    changes |= QUICK if options.quick else {}
    changes |= {key: value for key in ("steps", "warmup") if (value := getattr(options, key)) is not None}
    batches = options.batch or (CUDA_BATCHES if cuda and not options.quick else None)
    cases = [replace(case, **changes) for case in cases]
    return [replace(case, batch=batch) for case in cases for batch in batches] if batches else cases


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison and the times; exit code 1 where results differ."""
    options = arguments(argv)
    report, cases, same = Report(options), chosen(options), True
    order: Order = {"device": options.device, "threads": 1, "compile": options.compile}
    pythons = {"peer": options.peer_python}
    for small in dict.fromkeys(case.checked() for case in cases) if options.peer_python else []:
        title = f"{small.batch} x (2 x {small.global_size} + {small.local_crops} x {small.local_size}) px"
        same &= steps.check(report, title, answers(small, order, pythons))
    for case in cases if same else []:
        names = ["ours", "peer"] if options.peer_python else ["ours"]
        with steps.starter(PACKAGE, case, order, pythons) as start:
            steps.compare(report, start, case, names, "wall_s" if options.device == "cuda" else "cpu_s")
    report.close()
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
