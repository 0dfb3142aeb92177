"""Long runs against the real review application; their counts go into the table of acceptance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from scripts.acceptance import LONG_RUN
from scripts.soak import hostile, kills, reports, users

pytestmark = pytest.mark.nightly


def record(counts: Mapping[str, float], record_property: Callable[[str, object], None]) -> None:
    """Record counts as text."""
    record_property(
        LONG_RUN,
        "; ".join(
            f"{name} {value:g}" if value == int(value) else f"{name} {value:.3f}" for name, value in counts.items()
        ),
    )


@pytest.mark.acceptance(row=9)
def test_fifty_users_lose_nothing_and_see_nothing_of_others(record_property: Callable[[str, object], None]) -> None:
    found = users.count(50, 16)
    record(found, record_property)
    assert (found["signed"], found["lost"], found["mixed up"], found["seen by others"]) == (50, 0, 0, 0)


@pytest.mark.acceptance(row=10)
def test_forty_kills_lose_no_acknowledged_decision(record_property: Callable[[str, object], None]) -> None:
    found = kills.count(40, 2)
    record(found, record_property)
    assert (found["kills"], found["lost"], found["applied twice"], found["faults of the file"]) == (40, 0, 0, 0)
    assert found["acknowledged"] > 0


@pytest.mark.acceptance(row=27)
def test_five_hundred_reports_leave_nothing_behind(record_property: Callable[[str, object], None]) -> None:
    found = reports.measure(500, 50)
    record(found, record_property)
    assert found["growth"] < reports.MOST_GROWTH
    assert found["open files at the end"] <= found["open files after the warm-up"]
    assert found["connections to the database, most"] <= reports.MOST_CONNECTIONS
    assert found["files left behind"] == 0


def test_hostile_users_cost_others_nothing_that_was_saved(record_property: Callable[[str, object], None]) -> None:
    found = hostile.measure(10, 5, 1 / 3)
    record(found, record_property)
    assert (found["lost"], found["unexpected"], found["server errors"], found["faults in the log"]) == (0, 0, 0, 0)
    assert found["alive"] and found["saves acknowledged"] >= 5 and found["attacks answered"] > 0
