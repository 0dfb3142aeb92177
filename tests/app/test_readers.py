"""Processes that decode images go to the callers in turns, and those whose images take long leave room for others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from app import readers
from app.readers import HALF_LIFE_S, MUCH_S, Readers
from encoder.errors import ReadError


class Idle:
    """Stands for a process."""

    def close(self) -> None:
        """Nothing to end."""


@dataclass
class Turns:
    """Turns of callers in threads: each lasts until it is ended by name."""

    shared: Readers
    clock: list[float]
    pool: ThreadPoolExecutor
    order: list[str] = field(default_factory=list)
    gates: dict[str, threading.Event] = field(default_factory=dict)

    def ask(self, name: str) -> Future[None]:
        """Ask for a turn of the caller that the name begins with, and wait until it is in the queue or has its turn."""
        self.gates[name] = threading.Event()
        before = len(self.order) + len(self.shared._waiting)

        def turn() -> None:
            with self.shared.turn(name.split()[0]):
                self.order.append(name)
                self.gates[name].wait(30)

        asked = self.pool.submit(turn)
        self.settle(lambda: len(self.order) + len(self.shared._waiting) > before)
        return asked

    def end(self, name: str, *, after_s: float = 0.0) -> None:
        """End a turn that lasted so many seconds of the clock."""
        begun = len(self.order)
        waiting = len(self.shared._waiting)
        self.clock[0] += after_s
        self.gates[name].set()
        self.settle(lambda: len(self.shared._waiting) < waiting or not waiting or len(self.order) > begun)

    @staticmethod
    def settle(done: object) -> None:
        end = time.monotonic() + 30
        while not done():  # type: ignore[operator]
            assert time.monotonic() < end
            time.sleep(0.002)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Turns]:
    monkeypatch.setattr(readers, "Reader", Idle)
    clock = [0.0]
    processes, each = request.param
    with ThreadPoolExecutor(32) as pool:
        found = Turns(Readers(processes, each, now=lambda: clock[0]), clock, pool)
        yield found
        for gate in found.gates.values():
            gate.set()


@pytest.mark.parametrize("turns", [(1, None)], indirect=True, ids=["one"])
def test_a_caller_who_has_read_less_is_next(turns: Turns) -> None:
    for number in range(4):
        turns.ask(f"ann {number}")
    turns.ask("bob 0")
    turns.end("ann 0", after_s=0.5)
    turns.settle(lambda: len(turns.order) == 2)
    assert turns.order == ["ann 0", "bob 0"]
    turns.end("bob 0", after_s=1.0)
    turns.settle(lambda: len(turns.order) == 3)
    assert turns.order[2] == "ann 1", "in the order of arrival"


@pytest.mark.parametrize("turns", [(3, 2)], indirect=True, ids=["three"])
def test_one_caller_leaves_a_process_for_others(turns: Turns) -> None:
    for number in range(4):
        turns.ask(f"ann {number}")
    assert turns.order == ["ann 0", "ann 1"]
    turns.ask("bob 0")
    assert turns.order[2] == "bob 0"


@pytest.mark.parametrize("turns", [(3, 2)], indirect=True, ids=["three"])
def test_callers_of_slow_images_share_all_processes_but_one(turns: Turns) -> None:
    for name in ("ann", "bob", "eve"):
        turns.ask(f"{name} 0")
    for name in ("ann", "bob", "eve"):
        turns.end(f"{name} 0", after_s=2 * MUCH_S)
    for name in ("ann", "bob", "eve"):
        turns.ask(f"{name} 1")
    assert len(turns.order) == 5, "two of the three"
    turns.ask("dan 0")
    assert turns.order[5] == "dan 0"
    turns.end("dan 0", after_s=10 * HALF_LIFE_S)  # forgotten
    turns.settle(lambda: len(turns.order) == 7)


@pytest.mark.parametrize("turns", [(1, 1)], indirect=True, ids=["one"])
def test_a_single_process_serves_callers_of_slow_images(turns: Turns) -> None:
    turns.ask("ann 0")
    turns.end("ann 0", after_s=100.0)
    turns.ask("ann 1")
    assert turns.order == ["ann 0", "ann 1"]


@pytest.mark.parametrize("turns", [(1, None)], indirect=True, ids=["one"])
def test_what_nobody_waits_for_leaves_the_queue(turns: Turns) -> None:
    turns.ask("ann 0")
    with pytest.raises(ReadError, match="nobody"), turns.shared.turn("bob", lambda: False):
        pass
    assert not turns.shared._waiting


@pytest.mark.parametrize("turns", [(1, None)], indirect=True, ids=["one"])
def test_a_failed_turn_gives_its_process_back(turns: Turns) -> None:
    for _ in range(3):
        with pytest.raises(ValueError), turns.shared.turn("ann"):
            raise ValueError
    assert len(turns.shared._free) == 1 and not +turns.shared._running
