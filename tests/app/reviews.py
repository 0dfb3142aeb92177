"""Studies, drafts and review steps for tests of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.jobs import Job
from app.store import Store

FACTS = {"format": "png", "rows": 4, "columns": 4, "view": "PA"}
MODEL = {"id": "small", "revision": None, "sha256": "ab" * 32, "demonstration": True}


def study_of(store: Store, owner: str = "ann", sha256: str = "c" * 64) -> str:
    """Create a study without pixels."""
    return store.create(owner, name=None, sha256=sha256, facts=FACTS, warnings=["look"], image={"id": "i"})


def of_batch(store: Store, batch: str, number: int, owner: str = "ann") -> str:
    """Create the study of a file of a batch."""
    assert store.batches.accept(owner, batch, number, Path(f"{number}.png"), None)
    return store.create(
        owner, name=None, sha256="c" * 64, facts=FACTS, warnings=[], image={"id": "i"}, file=(batch, number)
    )


def taken(store: Store) -> Job:
    """Take the next job of the queue, which must not be empty."""
    job = store.jobs.next()
    assert job is not None
    return job


def drafted(store: Store, *texts: str, owner: str = "ann") -> str:
    """Create a study with a finished draft of these sentences."""
    study = study_of(store, owner)
    store.jobs.add(owner, study)
    store.jobs.finish(taken(store), "done", text=" ".join(texts), sentences=texts, report={"a": 1}, model=MODEL)
    return study


def act(store: Store, study: str, action: str, **more: Any) -> dict[str, Any]:
    """Perform a step on the current revision."""
    state = store.state("ann", study)
    return store.act("ann", study, state["revision"], {"action": action, **more}, user="ann")
