"""Revisions: what replaces or removes something names the revision that it was made from; numbers order, not clocks."""

from __future__ import annotations

import itertools

import pytest

from app import database, statistics
from app.review import StaleError
from app.store import Store
from scripts.soak.serving import Served, picture
from tests.app.reviews import act, drafted, study_of


def test_a_draft_and_context_images_of_an_earlier_revision_are_refused(store: Store) -> None:
    study = drafted(store, "One.")
    before = store.state("ann", study)["revision"]
    act(store, study, "edit", sentence="s1", text="Mine.")
    with pytest.raises(StaleError):
        store.jobs.add("ann", study, replace=True, revision=before)
    for image in ({"sha256": "e" * 64}, None):
        with pytest.raises(StaleError):
            store.set_context("ann", study, "lateral", image, revision=before)
    state = store.state("ann", study)
    assert (state["sentences"][0]["text"], state["lateral"], state["revision"]) == ("Mine.", None, before + 1)
    store.set_context("ann", study, "lateral", {"sha256": "e" * 64}, revision=state["revision"])
    store.jobs.add("ann", study, replace=True, revision=state["revision"] + 1)


def test_requests_without_or_of_an_earlier_revision_change_nothing(local: Served) -> None:
    client = local.client()
    state = client.drafted(client.study(picture(7))["id"])
    study, old = state["id"], state["revision"]
    state = client.act(state, "edit", sentence="s1", text="Mine.").json()
    tries = [
        ("POST", "draft", {"replace": True}), ("POST", "draft", {"replace": True, "revision": str(old) + "x"}),
        ("DELETE", "prior", None), ("POST", "lateral", picture(8)), ("DELETE", "prior?revision=-1", None),
        ("DELETE", "prior?revision=" + "9" * 40, None), ("POST", "lateral?revision=", picture(8)),
    ]  # fmt: skip
    for method, path, body in tries:
        assert client.call(method, f"/api/studies/{study}/{path}", body).status == 422, path  # type: ignore[arg-type]
    for method, path, body in (
        ("POST", "draft", {"replace": True, "revision": old}), ("POST", "draft", {"revision": old}),
        ("DELETE", f"prior?revision={old}", None), ("POST", f"prior?revision={old}", picture(8)),
    ):  # fmt: skip
        answer = client.call(method, f"/api/studies/{study}/{path}", body)
        assert answer.status == 409 and answer.json()["state"]["sentences"][0]["text"] == "Mine.", path
    now = client.call("GET", f"/api/studies/{study}").json()
    assert (now["revision"], now["prior"], now["lateral"]) == (state["revision"], None, None)
    again = {"replace": True, "revision": now["revision"]}
    assert client.call("POST", f"/api/studies/{study}/draft", again).status == 200


@pytest.fixture
def clock_that_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(0)
    monkeypatch.setattr(database, "timestamp", lambda: f"2026-01-01T00:00:{59 - next(seconds):02}.000000Z")


@pytest.mark.usefixtures("clock_that_goes_back")
def test_versions_are_ordered_by_number_when_the_clock_goes_back(store: Store) -> None:
    study = study_of(store)
    act(store, study, "add", text="First.", after=None)
    act(store, study, "sign")
    act(store, study, "reopen")
    act(store, study, "edit", sentence="s1", text="Second.")
    act(store, study, "sign")
    assert [one["version"] for one in store.state("ann", study)["signed"]] == [1, 2]
    assert [(one["version"], one["text"]) for one in store.signed("ann")] == [(1, "First."), (2, "Second.")]
    later = study_of(store, sha256="d" * 64)
    store.set_context("ann", later, "prior", {"sha256": "c" * 64})
    assert store.state("ann", later)["fields"]["prior_report"] == "Second.", "the last report of the prior image"
    assert store.studies("ann") == [study, later]
    assert statistics.summary(store, "ann", lambda text: {"Second": str("Second." in text)})["signed"] == 1
