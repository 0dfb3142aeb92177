"""Measurements: values by hand, undoable, and part of the signed version."""

from __future__ import annotations

from typing import Any

import pytest

from app.review import ReviewError
from app.store import Store
from tests.app.reviews import FACTS, act, drafted


def study_with(store: Store, spacing: dict[str, Any] | None) -> str:
    image = {"id": "i", "width": 400, "height": 300, "spacing": spacing}
    return store.create("ann", name=None, sha256="c" * 64, facts=FACTS, warnings=[], image=image)


def measured(store: Store, study: str, points: Any, **more: Any) -> dict[str, Any]:
    action = {"kind": "length", "image": "i", "points": points} | more
    found: dict[str, Any] = act(store, study, "measure", **action)["measurements"][-1]
    return found


@pytest.mark.parametrize(
    ("spacing", "value", "unit", "note"),
    [
        ({"mm": 0.2, "at": "patient"}, 10.0, "mm", ""),
        ({"mm": 0.144, "at": "detector"}, 7.2, "mm", "at the detector: the structure itself is smaller"),
        ({"mm": 0.2, "at": "unknown"}, 10.0, "mm", "the file does not tell whether its pixel spacing was calibrated"),
        (None, 50.0, "px", "the file states no pixel spacing"),
    ],
    ids=["calibrated", "detector", "unknown", "none"],
)
def test_a_length_is_the_distance_times_the_spacing(
    store: Store, spacing: dict[str, Any] | None, value: float, unit: str, note: str
) -> None:
    study = study_with(store, spacing)
    found = measured(store, study, [[10, 20.5], [40, 60.5]])  # 30 and 40: 50 pixels
    assert (found["value"], found["unit"], found["note"]) == (value, unit, note)
    assert found["points"] == [[10.0, 20.5], [40.0, 60.5]]


def test_a_cardiothoracic_ratio_needs_no_spacing(store: Store) -> None:
    study = study_with(store, None)
    points = [[100, 200], [250, 200], [50, 220], [350, 220]]
    found = measured(store, study, points, kind="cardiothoracic", note=" portable\tfilm ")
    assert (found["value"], found["unit"], found["note"]) == (0.5, "ratio", "portable film")


def test_measurements_are_undone_and_removed_like_other_steps(store: Store) -> None:
    study = drafted(store, "Clear.")
    store.set_context("ann", study, "prior", {"sha256": "e" * 64, "image": {"id": "p", "width": 9, "height": 9}})
    first = measured(store, study, [[0, 0], [9, 9]], image="p")
    act(store, study, "accept", sentence="s1")
    second = measured(store, study, [[0, 0], [0, 9]], image="p")
    state = act(store, study, "unmeasure", id=first["id"])
    assert state["measurements"] == [second]
    assert act(store, study, "undo")["measurements"] == [first, second]
    state = act(store, study, "undo")
    assert state["measurements"] == [first] and state["sentences"][0]["state"] == "accepted"
    signed = act(store, study, "sign")
    assert signed["signed"][0]["document"]["measurements"] == [first]
    with pytest.raises(ReviewError, match="signed"):
        measured(store, study, [[0, 0], [9, 9]], image="p")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "area"}, "no such kind"),
        ({"image": "another"}, "no such image"),
        ({"points": [[1, 2]]}, "needs 2 points"),
        ({"points": [[1, 2], [3, 4], [5, 6]]}, "needs 2 points"),
        ({"points": "1,2"}, "needs 2 points"),
        ({"points": [[1, 2], [3]]}, "pair of numbers"),
        ({"points": [[1, 2], [400.5, 4]]}, "outside"),
        ({"points": [[-0.1, 2], [3, 4]]}, "outside"),
        ({"points": [[1, 2], [float("nan"), 4]]}, "outside"),
        ({"points": [[1, 2], [True, 4]]}, "outside"),
        ({"points": [[1, 2], ["3", 4]]}, "outside"),
        ({"points": [[1, 2], [1, 2]]}, "same point"),
        ({"points": [[1, 2], [1.001, 2]]}, "same point"),
        ({"kind": "cardiothoracic", "points": [[1, 2], [3, 4], [5, 5], [5, 5]]}, "same point"),
        ({"note": 7}, "is a text"),
        ({"note": "x" * 201}, "at most 200"),
    ],
    ids=[str(number) for number in range(16)],
)
def test_wrong_measurements_are_refused_and_change_nothing(store: Store, changes: Any, reason: str) -> None:
    study = study_with(store, None)
    before = store.state("ann", study)
    with pytest.raises(ReviewError, match=reason):
        measured(store, study, **{"points": [[1, 2], [3, 4]]} | changes)
    assert store.state("ann", study) == before


def test_a_measurement_that_is_not_there_cannot_be_removed(store: Store) -> None:
    study = study_with(store, None)
    with pytest.raises(ReviewError, match="no such measurement"):
        act(store, study, "unmeasure", id="m1")


def test_there_is_a_largest_number_of_measurements(store: Store) -> None:
    study = study_with(store, None)
    for _ in range(50):
        measured(store, study, [[1, 2], [3, 4]])
    with pytest.raises(ReviewError, match="at most 50"):
        measured(store, study, [[1, 2], [3, 4]])
