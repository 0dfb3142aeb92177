"""Training steps of two processes side by side: equal losses first, then seconds and memory of each step.

`scripts.bench.pretraining` and `scripts.bench.training` define cases and workers. This process never imports torch:
the peak memory of a child is never less than its parent's was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from scripts.bench.harness import Report, median, parser, ratio, seconds, take_turns
from scripts.bench.worker import OUT_OF_MEMORY, ROOT, Cost, Order, Worker

TOLERANCE = 1e-4
"""Largest relative difference of losses and gradient norms."""

PEAK_TERA_FLOPS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "L40S": 362, "L4": 121, "RTX 4090": 165}
"""Dense bfloat16, from NVIDIA's data sheets; the first name that the card's name contains."""

COLUMNS = {"s": ".4f", "kernel s": ".3f", "per s": ".2f", "peak MB": ".0f", "libraries MB": ".0f", "of peak": ".1%"}
COLUMNS |= {"of peak, computed": ".1%", "error": ""}
RATIOS = {"time": "", "speed": "", "time without kernel": ".3f", "memory": ".3f", "memory without libraries": ".3f"}

Start = Callable[..., Worker]


@dataclass(frozen=True)
class Case:
    """Sizes of a step and numbers of steps; ``batch`` counts samples."""

    name: str
    precision: str
    batch: int
    steps: int
    warmup: int


def options(doc: str | None, cases: Sequence[str]) -> argparse.ArgumentParser:
    """The options that both benchmarks of training steps share."""
    made = parser(doc, quick="toy sizes and two steps")
    made.add_argument("--case", nargs="+", choices=cases, help="default: all of the device")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--steps", type=int, help="timed steps; default: of the case")
    made.add_argument("--warmup", type=int, help="steps before them; default: of the case")
    return made


@contextmanager
def starter(package: str, case: Case, order: Order, pythons: Mapping[str, str | None]) -> Iterator[Start]:
    """Prepare the inputs of a case in a temporary folder.

    Args:
        package: module whose ``_ours`` prepares the inputs; ``package_NAME`` is the worker of a side.
        case: sizes.
        order: further settings of the workers; ``threads`` is needed.
        pythons: side -> interpreter, where it is not this one.

    Yields:
        A call that starts the worker of a side, and takes another case of the same sizes.
    """
    with tempfile.TemporaryDirectory() as folder:

        def text(changed: Case) -> str:
            return json.dumps({"case": asdict(changed), "folder": folder, **order})

        def start(name: str, changed: Case = case) -> Worker:
            return Worker(pythons.get(name) or sys.executable, f"{package}_{name}", [text(changed)], order["threads"])

        command = [sys.executable, "-m", f"{package}_ours", text(case), "prepare"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        yield start


def check(report: Report, title: str, answers: Mapping[str, Mapping[str, float]]) -> bool:
    """Print losses and gradient norms of both sides; true if all of them agree."""
    columns = {"ours": "12.6f", "peer": "12.6f", "difference": "11.1e", "": ""}
    report.table(f"check: {title}", columns, f"same result? {title}")
    same = True
    for name, ours in answers["ours"].items():
        peer = answers["peer"][name]
        difference = abs(ours - peer) / abs(peer)
        agrees = difference <= TOLERANCE
        row = {"ours": ours, "peer": peer, "difference": difference, "": None if agrees else "<- differs"}
        report.row(name, row)
        same &= agrees
    return same


def compare(report: Report, start: Start, case: Case, names: Sequence[str], clock: str, unit: str = "") -> bool:
    """Time the steps of a case and print a row for each side, then ours over the peer's.

    Args:
        report: takes the rows.
        start: of `starter`.
        case: numbers of steps.
        names: sides: ``ours``, ``peer``.
        clock: that is compared: ``cpu_s`` of processes in turns, or ``wall_s`` of one process after the other.
        unit: fact of our side that says how much a sample counts in ``per s``; default: 1.

    Returns:
        False if a side ran out of memory.
    """
    costs: dict[str, list[Cost]] = {}
    memory: dict[str, dict[str, int]] = {}
    about: dict[str, dict[str, Any]] = {}
    for group in [list(names)] if clock == "cpu_s" else [[name] for name in names]:
        with ExitStack() as stack:
            workers = {name: stack.enter_context(start(name, case)) for name in group}
            about |= {name: worker.ask("about") for name, worker in workers.items()}
            sides = {name: partial(worker.ask, "step") for name, worker in workers.items()}
            costs |= take_turns(sides, case.steps, case.warmup)
            memory |= {name: worker.ask("memory") for name, worker in workers.items() if costs[name]}
    amount = case.batch * about["ours"].get(unit, 1.0)
    label = f"{case.name}, {case.batch} samples"
    report.table(label, COLUMNS, label)
    for name in names:
        row: dict[str, Any] = {"about": about[name], "case": asdict(case)}
        if costs[name]:
            steps = seconds(costs[name], clock)
            row |= {"s": statistics.median(steps), "kernel s": median(costs[name], "kernel_s"), "steps": steps}
            row |= {"per s": amount / row["s"], "wall_s": median(costs[name])}
            row |= {"peak MB": memory[name]["peak"] / 1e6, "libraries MB": memory[name]["base"] / 1e6}
            row |= shares(about["ours"], case.batch / row["s"])
        report.row(about[name]["name"], row if costs[name] else row | OUT_OF_MEMORY)
    if len(names) == 2 and all(costs.values()):
        report.table("ratios", RATIOS)
        report.row(f"{label}: ours / peer", versus(costs, memory, clock))
    return all(costs.values())


def versus(costs: Mapping[str, Any], memory: Mapping[str, Mapping[str, int]], clock: str) -> dict[str, Any]:
    """Time of ours over the peer's, speed, both with intervals, time without the kernel's part, and memory."""
    times = [seconds(costs[name], clock) for name in ("ours", "peer")]
    users = [[cost["cpu_s"] - cost["kernel_s"] for cost in costs[name]] for name in ("ours", "peer")]
    peaks = [memory[name]["peak"] for name in ("ours", "peer")]
    own = [peak - memory[name]["base"] for name, peak in zip(("ours", "peer"), peaks, strict=True)]
    return {
        "time": ratio(times[0], times[1]), "speed": ratio(times[1], times[0]),
        "time without kernel": ratio(users[0], users[1]).value, "memory": peaks[0] / peaks[1],
        "memory without libraries": own[0] / max(own[1], 1),  # toy sizes may add nothing to the peer's
    }  # fmt: skip


def shares(about: Mapping[str, Any], samples_per_s: float) -> dict[str, float]:
    """Shares of the card's bfloat16 rate: of the model's FLOPs, and of those computed. Empty for an unknown card."""
    rate = next((rate for name, rate in PEAK_TERA_FLOPS.items() if name in about["device"]), None)
    flops = about["tera_flops"]
    found = {"of peak": flops["model"], "of peak, computed": flops["run"]}
    return {name: samples_per_s * flops / rate for name, flops in found.items()} if rate else {}
