"""Draw cases of a subject, compare our results with those of other packages, and count: what all subjects share.

A case is drawn from seed and number alone, so that a run can be divided into parts and a case be drawn again.
"""

from __future__ import annotations

import base64
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Case = dict[str, Any]
"""Input of a comparison: JSON data and bytes."""


@dataclass(frozen=True)
class Outcome:
    """Result of one comparison.

    Attributes:
        kind: result in a few words, which are counted.
        fault: the results differ, and neither a refusal nor a warning says so.
    """

    kind: str
    fault: bool = False


def different(what: str) -> Outcome:
    """Return the outcome of a difference that nothing tells of."""
    return Outcome(f"different: {what}", fault=True)


def _none() -> Iterator[Case]:
    return iter(())


@dataclass(frozen=True)
class Subject:
    """Part of the project that other packages can do as well.

    Attributes:
        name: on the command line.
        oracles: the other packages.
        share: share of the cases of a run of all subjects.
        draw: function that draws a case.
        compare: function that compares our result with the oracles'.
        fixed: function that yields cases that are not drawn; they are compared before the first drawn one.
    """

    name: str
    oracles: str
    share: float
    draw: Callable[[random.Random], Case]
    compare: Callable[[Case], Outcome]
    fixed: Callable[[], Iterator[Case]] = _none


@dataclass
class Tally:
    """Counts of one subject.

    Attributes:
        cases: number of drawn cases that are done; the next one has this number.
        fixed: number of other cases.
        cpu_s: processor time in seconds.
        kinds: outcome -> number of cases.
        faults: drawn number of the case, or -1, and outcome.
    """

    cases: int = 0
    fixed: int = 0
    cpu_s: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON data."""
        return {**vars(self), "kinds": dict(self.kinds)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Tally:
        """Create an instance from the result of :meth:`to_dict`."""
        faults = [(int(number), str(kind)) for number, kind in data["faults"]]
        return cls(data["cases"], data["fixed"], data["cpu_s"], Counter(data["kinds"]), faults)


def case_of(subject: Subject, seed: int, number: int) -> Case:
    """Draw the case with a number."""
    return subject.draw(random.Random(f"{subject.name}/{seed}/{number}"))


def run(subject: Subject, seed: int, cases: int, tally: Tally, *, keep: Path | None = None) -> None:
    """Compare the next cases of a subject.

    Args:
        subject: the subject.
        seed: of the run.
        cases: number of drawn cases, from the first that is not done.
        tally: counts so far; changed.
        keep: folder for a file of each case with a fault.
    """
    start = time.process_time()
    if not tally.cases and not tally.fixed:
        for number, case in enumerate(subject.fixed()):
            tally.fixed += 1
            _count(subject, case, tally, -1, keep and keep / f"{subject.name}-fixed-{number}.json")
    for number in range(tally.cases, tally.cases + cases):
        path = keep and keep / f"{subject.name}-{seed}-{number}.json"
        _count(subject, case_of(subject, seed, number), tally, number, path)
        tally.cases += 1
    tally.cpu_s += time.process_time() - start


def _count(subject: Subject, case: Case, tally: Tally, number: int, path: Path | None) -> None:
    try:
        outcome = subject.compare(case)
    except Exception as error:  # one of the programs has failed on the case: a fault of either
        outcome = Outcome(f"error: {type(error).__name__}: {error}"[:300], fault=True)
    tally.kinds[outcome.kind] += 1
    if outcome.fault:
        tally.faults.append((number, outcome.kind))
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(to_json(case), encoding="utf-8")


def to_json(case: Case) -> str:
    """Return a case as JSON; bytes become objects with the key ``base64``."""

    def encoded(value: object) -> dict[str, str]:
        if not isinstance(value, bytes):
            raise TypeError(f"a case holds {type(value).__name__}")
        return {"base64": base64.b64encode(value).decode()}

    return json.dumps(case, default=encoded, indent=1) + "\n"


def from_json(text: str) -> Case:
    """Return the case of the result of :func:`to_json`."""

    def decoded(value: dict[str, Any]) -> Any:
        return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value

    case: Case = json.loads(text, object_hook=decoded)
    return case


def save(path: Path, seed: int, tallies: dict[str, Tally]) -> None:
    """Write the counts of a run, from which :func:`load` continues."""
    content = {"seed": seed, "subjects": {name: tally.to_dict() for name, tally in tallies.items()}}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> tuple[int, dict[str, Tally]]:
    """Read seed and counts of a run."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["seed"], {name: Tally.from_dict(tally) for name, tally in content["subjects"].items()}
