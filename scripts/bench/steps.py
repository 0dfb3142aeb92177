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
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from scripts.bench.harness import Report, differences, median, ratio, seconds, take_turns
from scripts.bench.worker import OUT_OF_MEMORY, ROOT, Cost, Worker

TOLERANCE = 1e-4
"""Largest relative difference of losses and gradient norms."""

PEAK_TERA_FLOPS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "L40S": 362, "L4": 121, "RTX 4090": 165}
"""Dense bfloat16, from NVIDIA's data sheets; the first name that the card's name contains."""

COLUMNS = {"s": ".4f", "quartiles": "", "kernel s": ".3f", "per s": ".2f", "peak MB": ".0f", "libraries MB": ".0f"}
"""Of `side`: seconds are CPU seconds, on a GPU wall seconds."""

Start = Callable[..., Worker]


class Case(Protocol):
    """A dataclass of sizes, and the numbers of steps."""

    @property
    def name(self) -> str: ...

    @property
    def steps(self) -> int: ...

    @property
    def warmup(self) -> int: ...


def options(doc: str | None, cases: Sequence[str], *, threads: str, quick: str) -> argparse.ArgumentParser:
    """The options that both benchmarks of training steps share."""
    from scripts.bench.harness import parser

    made = parser(doc, quick=quick)
    made.add_argument("--case", nargs="+", choices=cases, help="default: all of the device")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--steps", type=int, help="timed steps; default: of the case")
    made.add_argument("--warmup", type=int, help="steps before them; default: of the case")
    made.add_argument("--threads", type=int, default=1, help=threads)
    made.add_argument("--no-check", action="store_true", help="do not compare results first")
    made.add_argument("--peak-tflops", type=float, help="of the card in bfloat16; default: from a table of cards")
    return made


@contextmanager
def starter(package: str, case: Case, order: Mapping[str, Any], pythons: Mapping[str, str]) -> Iterator[Start]:
    """Prepare the inputs of a case in a temporary folder.

    Args:
        package: module whose ``_ours`` prepares the inputs; ``package_NAME`` is the worker of a side.
        case: sizes, a dataclass.
        order: further settings of the workers; ``threads`` is needed.
        pythons: side -> interpreter, where it is not this one.

    Yields:
        A call that starts the worker of a side, and takes another case of the same sizes.
    """
    with tempfile.TemporaryDirectory() as folder:

        def text(changed: Case) -> str:
            return json.dumps({"case": asdict(changed), "folder": folder, **order})  # type: ignore[call-overload]

        def start(name: str, changed: Case = case) -> Worker:
            python = pythons.get(name, sys.executable)
            return Worker(python, f"{package}_{name}", [text(changed)], order["threads"])

        command = [sys.executable, "-m", f"{package}_ours", text(case), "prepare"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        yield start


def check(report: Report, title: str, answers: Mapping[str, Mapping[str, float]]) -> bool:
    """Print losses and gradient norms of both sides; true if all of them agree."""
    found = differences(answers["ours"], answers["peer"])
    columns = {"ours": "12.6f", "peer": "12.6f", "difference": "11.1e", "": ""}
    report.table(f"check: {title}", columns, f"same result? {title}")
    for name, difference in found.items():
        differs = None if difference <= TOLERANCE else "<- differs"
        row = {"ours": answers["ours"][name], "peer": answers["peer"][name], "difference": difference, "": differs}
        report.row(name, row)
    return all(difference <= TOLERANCE for difference in found.values())


def measure(start: Start, names: Sequence[str], case: Case, *, together: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Time the steps of a case.

    Args:
        start: of `starter`.
        names: sides.
        case: numbers of steps.
        together: take turns; else one process after the other.

    Returns:
        Side -> ``costs`` (none where memory ran out), ``memory``, ``about`` and, if the worker has it, ``split``; and
        the same of ``about`` alone.
    """
    found: dict[str, Any] = {}
    for group in [list(names)] if together else [[name] for name in names]:
        with ExitStack() as stack:
            workers = {name: stack.enter_context(start(name, case)) for name in group}
            about = {name: worker.ask("about") for name, worker in workers.items()}
            sides = {name: partial(worker.ask, "step") for name, worker in workers.items()}
            for name, costs in take_turns(sides, case.steps, case.warmup).items():
                memory = workers[name].ask("memory") if costs else {}
                found[name] = {"costs": costs, "memory": memory, "about": about[name]}
                if costs and about[name].get("splits"):
                    splits = [workers[name].ask("split") for _ in range(min(3, case.steps))]
                    found[name]["split"] = {part: statistics.median(one[part] for one in splits) for part in splits[0]}
    return found, {name: one["about"] for name, one in found.items()}


def side(found: Mapping[str, Any], clock: str, amount: float) -> dict[str, Any]:
    """The row of one side; ``amount`` is what a step processes."""
    costs: list[Cost] = found["costs"]
    if not costs:
        return dict(OUT_OF_MEMORY)
    each = seconds(costs, clock)
    low, _, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    middle = statistics.median(each)
    return {
        "s": middle, "quartiles": f"{low:.4f} to {high:.4f}", "kernel s": median(costs, "kernel_s"),
        "per s": amount / middle, "peak MB": found["memory"]["peak"] / 1e6,
        "libraries MB": found["memory"]["base"] / 1e6,
        "wall_s": median(costs), "steps": each,
    }  # fmt: skip


def versus(found: Mapping[str, Any], clock: str) -> dict[str, Any]:
    """Time of ours over the peer's, speed, both with intervals and without the kernel's part, and memory."""
    ours, peer = found["ours"], found["peer"]
    times = [seconds(one["costs"], clock) for one in (ours, peer)]
    users = [[cost["cpu_s"] - cost["kernel_s"] for cost in one["costs"]] for one in (ours, peer)]
    peaks = [one["memory"]["peak"] for one in (ours, peer)]
    own = [one["memory"]["peak"] - one["memory"]["base"] for one in (ours, peer)]
    return {
        "time": ratio(times[0], times[1]), "speed": ratio(times[1], times[0]),
        "time without kernel": ratio(users[0], users[1]).value, "speed without kernel": ratio(users[1], users[0]).value,
        "memory": peaks[0] / peaks[1],
        "memory without libraries": own[0] / max(own[1], 1),  # toy sizes may add nothing to the peer's
    }  # fmt: skip


def show_versus(report: Report, label: str, found: Mapping[str, Any], kind: str) -> None:
    """Print ours over the peer's; ``kind`` is ``time`` or ``speed``."""
    shown = {kind: found[kind], "without kernel": found[f"{kind} without kernel"]}
    shown |= {"memory": found["memory"], "without libraries": found["memory without libraries"]}
    columns = {kind: "", "without kernel": ".3f", "memory": ".3f", "without libraries": ".3f"}
    report.table("ratios", columns)
    report.row(label, shown | dict(found))


def peak_rate(card: str, given: float | None) -> float | None:
    """1e12 FLOP/s of a card in bfloat16, or None if it is unknown."""
    return given or next((rate for name, rate in PEAK_TERA_FLOPS.items() if name in card), None)
