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
from dataclasses import asdict, dataclass, replace
from typing import Any

from scripts.bench import steps
from scripts.bench.harness import Report

CUDA_BATCHES = (8, 16, 32)
PACKAGE = "scripts.bench.pretraining"


@dataclass(frozen=True)
class Case:
    """Sizes of a timed step, in pixels; ``image_size`` is that of the position embeddings."""

    name: str
    peer_model: str
    width: int
    heads: int
    layers: int
    image_size: int
    global_size: int
    local_size: int
    local_crops: int
    batch: int
    prototypes: int
    precision: str
    steps: int
    warmup: int
    drop_path: float = 0.3
    head_hidden: int = 2048
    bottleneck: int = 256
    teacher_temperature: float = 0.04

    def checked(self) -> Case:
        """The case in which losses are compared: float32, no dropped paths, crops of at most 224 px, a small batch."""
        large, small = min(self.global_size, 224), min(self.local_size, 98)
        case = replace(self, drop_path=0.0, precision="fp32", batch=min(self.batch, 8), name="check")
        return replace(case, global_size=large, local_size=small)

    @property
    def label(self) -> str:
        """Name and sizes."""
        return f"{self.name}, {self.batch} x (2 x {self.global_size} + {self.local_crops} x {self.local_size}) px"


_VITS = Case("vits-fp32", "vits14-noreg-notpretrained", 384, 6, 12, 112, 112, 56, 4, 8, 4096, "fp32", 20, 4)
_VITB = Case("vitb-bf16", "vitb14-noreg-notpretrained", 768, 12, 12, 518, 518, 196, 8, 2, 65536, "bf16", 6, 1)
CASES = {case.name: case for case in (_VITS, replace(_VITS, name="vits-bf16", precision="bf16"), _VITB)}
QUICK: dict[str, Any] = {"batch": 2, "steps": 2, "warmup": 1, "prototypes": 64, "global_size": 56, "local_size": 28}


def run(report: Report, case: Case, options: argparse.Namespace) -> None:
    """Time one case and print its rows."""
    cuda = options.device == "cuda"
    clock = "wall_s" if cuda else "cpu_s"
    names = ["ours", "peer"] if options.peer_python else ["ours"]
    with steps.starter(PACKAGE, case, _order(options), _pythons(options)) as start:
        found, about = steps.measure(start, names, case, together=not cuda)
    report.say(f"\n{about['ours']['device']}, {options.threads} thread(s), torch {about['ours']['torch']}")
    if "peer" in about:
        xformers = "in use" if about["peer"]["xformers"] else "absent"
        report.say(f"{about['peer']['name']}, torch {about['peer']['torch']}, xFormers {xformers}")
    report.table(case.label, steps.COLUMNS, case.label)
    for name, one in found.items():
        row = steps.side(one, clock, case.batch)
        report.row(about[name]["name"], row | {"about": about[name], "case": asdict(case)})
        if "error" in row:
            report.say(f"  {row['error']}")
        elif cuda and (peak := steps.peak_rate(about["ours"]["device"], options.peak_tflops)):
            flops = about["ours"]["tera_flops"]
            shares = {kind: row["per s"] * value / peak for kind, value in flops.items()}
            report.say(f"  {shares['all']:.1%} of the card's peak with all paths, {shares['run']:.1%} computed")
            report.data.setdefault("share_of_peak", {})[f"{case.label}, {name}"] = shares
    if len(found) == 2 and all(one["costs"] for one in found.values()):
        steps.show_versus(report, f"{case.name}: ours / peer", steps.versus(found, clock), "time")
    if split := found["ours"].get("split"):
        total = sum(split.values())
        report.say("our step: " + ", ".join(f"{part} {taken / total:.0%}" for part, taken in split.items()))


def _order(options: argparse.Namespace) -> dict[str, Any]:
    return {key: getattr(options, key) for key in ("device", "threads", "compile")}


def _pythons(options: argparse.Namespace) -> dict[str, str]:
    return {"peer": options.peer_python} if options.peer_python else {}


def compare(case: Case, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Losses and gradient norms of both sides."""
    answers = {}
    with steps.starter(PACKAGE, case, _order(options), _pythons(options)) as start:
        for name in ("ours", "peer"):
            with start(name) as worker:
                answers[name] = worker.ask("check")
    return answers


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = steps.options(__doc__, list(CASES), threads="of each process", quick="toy sizes and two steps")
    made.add_argument("--peer-python", help="interpreter of the environment that has lightly-train")
    made.add_argument("--batch", nargs="+", type=int, help=f"images; default on a GPU: {CUDA_BATCHES}")
    made.add_argument("--compile", action="store_true", help="torch.compile our transformer blocks")
    return made.parse_args(argv)


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that the command line asks for."""
    cuda = options.device == "cuda"
    cases = [CASES[name] for name in options.case or (["vitb-bf16"] if cuda else CASES)]
    if cuda:
        cases = [replace(case, steps=20, warmup=5) for case in cases]
    if options.quick:
        cases = [replace(case, **QUICK) for case in cases]
    changes = {key: value for key in ("steps", "warmup") if (value := getattr(options, key)) is not None}
    batches = options.batch or (CUDA_BATCHES if cuda and not options.quick else None)
    cases = [replace(case, **changes) for case in cases]
    return [replace(case, batch=batch) for case in cases for batch in batches] if batches else cases


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison and the times; exit code 1 where results differ."""
    options = arguments(argv)
    report, cases, same = Report(options), chosen(options), True
    if options.peer_python and not options.no_check:
        for small in dict.fromkeys(case.checked() for case in cases):
            same &= steps.check(report, small.label, compare(small, options))
    for case in cases if same else []:
        run(report, case, options)
    report.close()
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
