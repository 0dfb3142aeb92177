"""Undo and redo against a plain stack of states, over random walks through all steps, drafts and versions."""

from __future__ import annotations

import random
from typing import Any

import pytest

from app import review
from app.review import ReviewError
from app.store import Store
from metrics.findings.errors import Category
from tests.app.reviews import MODEL, act, study_of, taken

KEYS = ("sentences", "fields", "corrections")


def content(state: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a state that steps change: the document, and its draft."""
    drafted = any(one["draft"] is not None for one in state["sentences"])
    return {key: state[key] for key in KEYS} | {"of": state["draft"]["report"] if drafted else None}


def redraft(store: Store, study: str, number: int) -> dict[str, Any]:
    store.jobs.add("ann", study, replace=True)
    texts = [f"Draft {number}, {at}." for at in range(1 + number % 3)]
    report = {"number": number, "warnings": []}
    store.jobs.finish(taken(store), "done", text=" ".join(texts), sentences=texts, report=report, model=MODEL)
    return store.state("ann", study)


def chosen(draw: random.Random, state: dict[str, Any], number: int) -> dict[str, Any]:
    ids = [one["id"] for one in state["sentences"]] or ["s1"]
    return {
        "action": draw.choice(review.UNDOABLE), "sentence": draw.choice(ids), "text": f"text {number % 4}",
        "after": draw.choice([None, *ids]), "section": draw.choice(review.SECTIONS), "done": draw.random() < 0.7,
        "category": draw.choice([None, *Category]), "finding": draw.choice(["Edema", "Fracture"]),
        "value": draw.choice([None, *review.LABELS]), "field": draw.choice(review.FIELDS),
    }  # fmt: skip


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, 40))])
def test_undo_and_redo_follow_a_plain_stack(store: Store, seed: int) -> None:
    draw = random.Random(seed)
    study = study_of(store)
    now = redraft(store, study, 0) if seed % 2 else store.state("ann", study)
    past: list[dict[str, Any]] = []
    future: list[dict[str, Any]] = []
    for number in range(1, 60):
        before, kind = content(now), draw.random()
        if kind < 0.2 or (kind < 0.35 and past):
            if not past:
                with pytest.raises(ReviewError, match="nothing to undo"):
                    act(store, study, "undo")
                continue
            future.append(before)
            now = act(store, study, "undo")
            assert content(now) == past.pop()
        elif kind < 0.45:
            if not future:
                with pytest.raises(ReviewError, match="nothing to redo"):
                    act(store, study, "redo")
                continue
            past.append(before)
            now = act(store, study, "redo")
            assert content(now) == future.pop()
        elif kind < 0.5:
            now = redraft(store, study, number)
            past, future = ([*past, before], []) if before["sentences"] else ([], [])
        elif kind < 0.53 and not now["undecided"] and review.text_of(now):
            act(store, study, "sign")
            now = act(store, study, "reopen")
            assert content(now) == before
            past, future = [], []
        else:
            try:
                now = act(store, study, **chosen(draw, now, number))
            except ReviewError:
                assert content(store.state("ann", study)) == before
                continue
            if content(now) != before:
                past, future = [*past, before], []
        assert (now["can_undo"], now["can_redo"]) == (bool(past), bool(future))
        assert [one["section"] for one in now["sentences"]] == sorted(one["section"] for one in now["sentences"])
        assert len({one["id"] for one in now["sentences"]}) == len(now["sentences"])
