"""Compare implementations: equal results first, then timed turns, ratios with intervals, rows printed as they come.

A benchmark names its sides and its rows; turns, statistics, printing, JSON and common options are here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.bench.worker import Cost, measured

Side = Callable[[], Cost]


@dataclass(frozen=True)
class Ratio:
    """Ratio of two medians with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def take_turns(sides: Mapping[str, Side], rounds: int, warmup: int = 1) -> dict[str, list[Cost]]:
    """Call every side once a round, so that other work on the machine disturbs all of them alike.

    Args:
        sides: name -> a call that returns its cost. The first side changes every round.
        rounds: number of costs of each side.
        warmup: rounds before them, which do not count.

    Returns:
        Name -> costs; empty for a side that answered ``{"error": ...}``.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    order = list(sides)
    for turn in range(warmup + rounds):
        for name in list(order):
            cost = sides[name]()
            if "error" in cost:
                costs[name] = []
                order.remove(name)
            elif turn >= warmup:
                costs[name].append(cost)
        order.reverse()
    return costs


def time_calls(
    calls: Mapping[str, Callable[[], object]], rounds: int, *, warmup: int = 0, device: str = "cpu"
) -> dict[str, list[Cost]]:
    """`take_turns` with calls of this process."""
    return take_turns({name: partial(measured, call, device) for name, call in calls.items()}, rounds, warmup)


def seconds(costs: Sequence[Cost], clock: str = "wall_s") -> list[float]:
    """One clock's seconds of each round."""
    return [cost[clock] for cost in costs]


def median(costs: Sequence[Cost], clock: str = "wall_s") -> float:
    """Median seconds of a side."""
    return statistics.median(seconds(costs, clock))


def ratio(first: Sequence[float], second: Sequence[float], samples: int = 2000) -> Ratio:
    """Ratio of the medians of two sides. Rounds are resampled as pairs, since both sides ran in each of them."""
    rng, rounds = random.Random(0), range(len(first))
    drawn = []
    for _ in range(samples):
        chosen = rng.choices(rounds, k=len(rounds))
        drawn.append(statistics.median(first[i] for i in chosen) / statistics.median(second[i] for i in chosen))
    drawn.sort()
    value = statistics.median(first) / statistics.median(second)
    return Ratio(value, drawn[int(0.025 * samples)], drawn[int(0.975 * samples)])


def equal_rows(found: Sequence[Any], expected: Sequence[Any]) -> int:
    """Number of results that are equal, one for each input."""
    return sum(a == b for a, b in zip(found, expected, strict=True))


def require(condition: bool, message: str) -> None:
    """End the benchmark with exit code 1 unless the sides agree.

    Raises:
        SystemExit: if the condition is false.
    """
    if not condition:
        raise SystemExit(message)


def machine() -> dict[str, Any]:
    """Processor, cores, load and Python version."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(), "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2), "python": platform.python_version(),
    }  # fmt: skip


class Report:
    """The rows of a benchmark: printed as they come, written as JSON at the end.

    Args:
        options: of `parser`.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.data: dict[str, Any] = {"machine": machine()}
        self._file: Path | None = options.json
        self._text = options.format == "text"
        self._columns: dict[str, str] = {}
        self._rows: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """Print a line."""
        if self._text:
            print(text, flush=True)

    def table(self, name: str, columns: Mapping[str, str], title: str = "") -> None:
        """Begin a table.

        Args:
            name: key of its rows in the JSON file.
            columns: heading -> format of the numbers below it; "" for text and ratios.
            title: above the labels of the rows.
        """
        self._columns, self._rows = dict(columns), self.data.setdefault(name, {})
        self.say(f"\n{title:40}" + "".join(f" {head:>{self._width(head)}}" for head in columns))

    def row(self, label: str, values: Mapping[str, Any]) -> None:
        """Print the columns of one row; values without a column are for the JSON file alone."""
        self._rows[label] = dict(values)
        text = f"{label:40}"
        for head, form in self._columns.items():
            value = values.get(head)
            cell = "" if value is None else format(value, form) if form else str(value)
            text += f" {cell:>{self._width(head)}}"
        self.say(text.rstrip())

    def race(
        self, calls: Mapping[str, Callable[[], object]], rounds: int, baseline: str = "", *, count: int = 1,
        device: str = "cpu", facts: Mapping[str, Mapping[str, Any]] | None = None, prefix: str = "",
    ) -> None:  # fmt: skip
        """Time calls in turns and print a row for each.

        Args:
            calls: name -> call; called before, if it needs to warm up.
            rounds: calls of each.
            baseline: the call that ratios refer to: ``x time`` and ``x speed``, and ``x CPU speed`` of CPU seconds.
            count: number of items that each processes; ``s``, ``least s`` and ``CPU s`` are of one item.
            device: waited for, if it is ``cuda``.
            facts: name -> further values of its row.
            prefix: of the labels.
        """
        times = time_calls(calls, rounds, device=device)
        for name, costs in times.items():
            each = median(costs) / count
            row: dict[str, Any] = {"s": each, "per s": 1 / each, "rounds": costs}
            row |= {"least s": min(seconds(costs)) / count, "CPU s": median(costs, "cpu_s") / count}
            if baseline and name != baseline:
                ours, theirs = seconds(costs), seconds(times[baseline])
                row |= {"x time": ratio(ours, theirs), "x speed": ratio(theirs, ours)}
                row["x CPU speed"] = ratio(seconds(times[baseline], "cpu_s"), seconds(costs, "cpu_s"))
            self.row(prefix + name, row | dict((facts or {}).get(name, {})))

    def close(self) -> None:
        """Write the JSON file, and print the JSON where that is the format."""
        text = json.dumps(self.data, indent=1, default=_plain) + "\n"
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(text, encoding="utf-8")
        if not self._text:
            sys.stdout.write(text)

    def _width(self, head: str) -> int:
        return max(len(head), 8 if self._columns[head] else 22)


def _plain(value: object) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def parser(doc: str | None, *, rounds: int | None = None, quick: str) -> argparse.ArgumentParser:
    """The command line that all benchmarks share.

    Args:
        doc: docstring of the benchmark.
        rounds: default of ``--rounds``; None for a benchmark that counts otherwise.
        quick: effect of ``--quick``.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        made.add_argument("--rounds", "--runs", type=int, default=rounds, help=f"default: {rounds}")
    made.add_argument("--quick", "--tiny", action="store_true", help=quick)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers to this file")
    made.add_argument("--format", choices=("text", "json"), default="text", help="of what is printed (text)")
    return made
