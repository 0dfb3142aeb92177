"""Drafting: equal to ``llava-rad generate``, streamed, stopped, interrupted and failing drafts, attention maps."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app import drafting, jobs
from app.database import NotFound
from app.drafting import STOPPED, Drafting
from app.images import ImageFolder
from app.review import ReviewError
from app.store import Store
from encoder.errors import LlavaRadError, ModelError, ReadError
from encoder.preprocessing import Recipe
from encoder.reader.radiograph import ImageFacts, PreparedImage
from encoder.reader.sandbox import Reader
from llava_rad import api
from llava_rad.generation.attention_maps import attention_by_sentence
from llava_rad.generation.engine import Engine
from llava_rad.generation.options import GenerationOptions
from llava_rad.generation.report_writer import ReportWriter
from llava_rad.generation.sources import example
from llava_rad.outputs.report import sentences
from tests.llava_rad import small_files, tiny_model

pytestmark = pytest.mark.acceptance(row=12)

FACTS = ImageFacts("dicom", 96, 96, view="PA")
SHA = "ab" * 32


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "_IDLE_S", 0.05)


def prepared(state: dict[str, Any], recipe: Recipe) -> PreparedImage:
    return PreparedImage(recipe.apply(small_files.pixels(3)), FACTS, (), SHA)


def new_study(store: Store, owner: str = "ann") -> str:
    image = {"id": "00", "width": 96, "height": 96}
    return store.create(owner, name=None, sha256=SHA, facts=FACTS.to_dict(), warnings=[], image=image)


@contextmanager
def at_work(
    store: Store, model: Path | None, images: Callable[[dict[str, Any], Recipe], PreparedImage] = prepared, **more: Any
) -> Iterator[Drafting]:
    worker = Drafting(store, images, GenerationOptions(model=model, device="cpu", **more))
    try:
        yield worker
    finally:
        worker.close()


def until(reached: Callable[[], Any], timeout_s: float = 60) -> Any:
    """Wait until a value is true and return it."""
    end = time.monotonic() + timeout_s
    while not (found := reached()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def ended(store: Store, study: str, owner: str = "ann") -> dict[str, Any]:
    """Wait for the end of a study's draft and return the study's state."""
    until(lambda: store.jobs.draft(owner, study)["state"] not in ("queued", "running"))  # type: ignore[index]
    return store.state(owner, study)


class Gate:
    """Lets the writer produce a given number of further pieces."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open = threading.Semaphore(0)
        stream = ReportWriter.stream_image

        def one_by_one(writer: ReportWriter, image: PreparedImage, **more: Any) -> Iterator[Any]:
            for piece in stream(writer, image, **more):
                self._open.acquire()
                yield piece

        monkeypatch.setattr(ReportWriter, "stream_image", one_by_one)

    def let(self, pieces: int) -> None:
        self._open.release(pieces)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.mark.slow
def test_the_draft_of_the_example_is_the_report_that_generate_writes(store: Store, tmp_path: Path) -> None:
    (expected,) = api.generate(example(), device="cpu")
    folder = ImageFolder(tmp_path / "images")
    with Reader() as reader:
        image = reader.read(example())
    study = store.create(
        "ann", name=None, sha256=image.sha256, facts=image.facts.to_dict(), warnings=image.warnings,
        image=folder.keep(image),
    )  # fmt: skip
    with at_work(store, None, folder.prepared) as worker:
        worker.queue("ann", study)
        state = ended(store, study)
        first = worker.evidence("ann", study, sentence="s1")
        whole = worker.evidence("ann", study, sentence=None, encoder=True)
    draft = state["draft"]
    assert (state["status"], draft["state"], draft["text"]) == ("draft", "done", expected.text)
    assert [one["draft"] for one in state["sentences"]] == [finding.text for finding in expected.report.findings]
    assert draft["report"] == expected.model_dump(mode="json")
    assert draft["model"] == expected.model.model_dump()
    for found in (first, whole):
        assert (found["side"], len(found["values"]), max(found["values"]), min(found["values"]) >= 0) == (
            16, 256, 1, True
        )  # fmt: skip
        assert "not proof" in found["note"]
        assert min(found["box"][2:]) < 1 == max(found["box"][2:])  # the example is no square
    assert first["values"] != whole["values"]


def test_a_draft_outlives_a_store_that_cannot_be_written_for_a_while(
    store: Store, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its text, nor its end, nor its return to the queue can be saved at first."""
    monkeypatch.setattr(drafting, "SAVED_EVERY_S", 0.0)
    failing = {"progress": 3, "finish": 2, "requeue_running": 2}
    tried: list[str] = []

    def refusing(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def refused(*given: Any, **named: Any) -> Any:
            tried.append(name)
            if tried.count(name) <= failing[name]:
                raise sqlite3.OperationalError("database or disk is full")
            return call(*given, **named)

        return refused

    study = new_study(store)
    with at_work(store, tiny) as worker:
        until(lambda: worker.status()["state"] == "ready")
        for name in failing:
            monkeypatch.setattr(store.jobs, name, refusing(name, getattr(store.jobs, name)))
        worker.queue("ann", study)
        state = ended(store, study)
    assert state["draft"]["state"] == "done" and state["sentences"]
    assert [tried.count(name) > failing[name] for name in failing] == [True] * 3


def test_the_text_grows_by_pieces_and_is_saved(
    store: Store, tiny: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafting, "SAVED_EVERY_S", 0.0)
    study, seen = new_study(store), [""]
    with at_work(store, tiny) as worker:
        worker.queue("ann", study)
        for _ in range(3):
            gate.let(1)
            seen.append(until(lambda: len(text := worker.now("ann", study)["text"]) > len(seen[-1]) and text))  # type: ignore[index]
        kept = store.jobs.draft("ann", study)
        gate.let(1000)
        whole = ended(store, study)["draft"]["text"]
    assert all(later.startswith(sooner) for sooner, later in zip(seen, [*seen[1:], whole], strict=True))
    assert kept is not None and kept["state"] == "running" and kept["text"] in seen[-2:]


def test_stop_ends_after_one_token_and_keeps_the_text(store: Store, tiny: Path, gate: Gate) -> None:
    study = new_study(store)
    with at_work(store, tiny) as worker:
        worker.queue("ann", study)
        gate.let(1)  # the next token waits, so that the stop comes before it
        until(lambda: worker.now("ann", study)["text"])  # type: ignore[index]
        stopping = threading.Thread(target=worker.stop, args=("ann", study))
        stopping.start()
        until(lambda: worker._stopping)
        before = worker.now("ann", study)
        gate.let(1)  # and no more
        state = ended(store, study)
        stopping.join()
    draft = state["draft"]
    assert before is not None
    assert draft["state"] == "stopped" and draft["text"].startswith(before["text"]) and state["status"] == "draft"
    assert " ".join(one["text"] for one in state["sentences"]) == draft["text"]
    assert draft["report"]["warnings"] == [STOPPED]  # and not that the longest length cut it off


def test_a_waiting_draft_is_stopped_without_text(store: Store, tiny: Path, gate: Gate) -> None:
    first, second = new_study(store), new_study(store)
    with at_work(store, tiny) as worker:
        for study in (first, second):
            worker.queue("ann", study)
        until(lambda: store.jobs.draft("ann", first)["state"] == "running")  # type: ignore[index]
        assert worker.now("ann", second) == {"state": "queued", "position": 1, "text": ""}
        worker.stop("ann", second)
        gate.let(1000)
        ended(store, first)
    state = store.state("ann", second)
    assert (state["draft"]["state"], state["status"]) == ("stopped", "pending")


def test_a_draft_interrupted_by_shutdown_is_written_after_the_next_start(store: Store, tiny: Path, gate: Gate) -> None:
    study = new_study(store)
    with at_work(store, tiny) as worker:
        worker.queue("ann", study)
        gate.let(2)
        until(lambda: worker.now("ann", study)["text"])  # type: ignore[index]
        worker._closed.set()
        gate.let(1)
    assert store.jobs.draft("ann", study)["state"] == "running"  # type: ignore[index]
    gate.let(1000)
    with at_work(store, tiny):
        assert ended(store, study)["draft"]["state"] == "done"


def test_the_state_of_a_draft_is_consistent_while_its_job_is_taken(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, waiting_jobs = new_study(store), jobs.waiting_jobs
    store.jobs.add("ann", study)

    def taken_before(connection: sqlite3.Connection) -> list[jobs.Job]:
        monkeypatch.setattr(jobs, "waiting_jobs", waiting_jobs)
        with ThreadPoolExecutor(1) as other:
            other.submit(store.jobs.next).result()
        return waiting_jobs(connection)

    monkeypatch.setattr(jobs, "waiting_jobs", taken_before)
    assert store.jobs.draft("ann", study) == {"state": "queued", "position": 1, "text": ""}
    assert store.jobs.draft("ann", study) == {"state": "running", "position": 0, "text": ""}


def test_the_servers_length_and_prompt_are_used(store: Store, tiny: Path) -> None:
    study = new_study(store)
    with at_work(store, tiny, max_new_tokens=5, prompt="Describe.") as worker:
        worker.queue("ann", study)
        report = ended(store, study)["draft"]["report"]
        found = worker.evidence("ann", study, sentence="s1")["values"]
    engine, said = Engine.from_pretrained(tiny, device="cpu"), sentences(report["report"]["text"])
    pixels = prepared(store.state("ann", study), engine.recipe).pixels
    expected = attention_by_sentence(engine, pixels, said, prompt="Describe.")[0].ravel()
    assert found == pytest.approx(expected, abs=1e-3)
    assert found != pytest.approx(attention_by_sentence(engine, pixels, said)[0].ravel(), abs=1e-3)
    assert (report["generation"]["max_new_tokens"], report["generation"]["prompt"]) == (5, "Describe.")
    assert report["warnings"] == ["the report was cut off after 5 tokens"]


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ReadError("damaged", "the pixels are damaged"), "the pixels are damaged"),
        (LlavaRadError("too large", hint="take less"), "too large (take less)"),
        (ValueError("Doe^Jane\n4711"), "unexpected ValueError"),
    ],
    ids=["an image", "with a hint", "what may name a patient"],
)
def test_a_failed_draft_gives_the_reason_and_the_next_is_written(
    store: Store, tiny: Path, raised: Exception, said: str
) -> None:
    bad, good = new_study(store), new_study(store)

    def images(state: dict[str, Any], recipe: Recipe) -> PreparedImage:
        if state["id"] == bad:
            raise raised
        return prepared(state, recipe)

    with at_work(store, tiny, images) as worker:
        worker.queue("ann", bad)
        worker.queue("ann", good)
        draft = ended(store, bad)["draft"]
        assert (draft["state"], draft["error"]) == ("failed", said)
        assert ended(store, good)["draft"]["state"] == "done"


def test_without_a_model_drafts_fail_and_none_is_taken(store: Store, tmp_path: Path) -> None:
    waiting = new_study(store)
    store.jobs.add("ann", waiting)
    with at_work(store, tmp_path / "nothing", offline=True) as worker:
        status = until(lambda: worker.status() if worker.status()["state"] != "loading" else None)
        draft = ended(store, waiting)["draft"]
        assert status["state"] == "failed" and "\n" not in status["error"]
        assert (draft["state"], draft["error"]) == ("failed", status["error"])
        with pytest.raises(ModelError):
            worker.queue("ann", new_study(store))
        with pytest.raises(ModelError):
            worker.evidence("ann", waiting, sentence=None, encoder=True)


def test_the_status_names_the_model(store: Store, tiny: Path) -> None:
    with at_work(store, tiny) as worker:
        status = until(lambda: worker.status() if worker.status()["state"] != "loading" else None)
    assert (status["state"], status["id"], status["demonstration"]) == ("ready", "tiny test model", True)
    assert len(status["sha256"]) == 64


@pytest.mark.parametrize("call", ["next", "finish"])
def test_a_store_that_cannot_be_written_for_a_while_loses_no_draft(
    store: Store, tiny: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    works, failures = getattr(store.jobs, call), [0]

    def fails_at_first(*arguments: Any, **more: Any) -> Any:
        failures[0] += 1
        if failures[0] <= 2:
            raise sqlite3.OperationalError("database or disk is full")
        return works(*arguments, **more)

    monkeypatch.setattr(store.jobs, call, fails_at_first)
    study = new_study(store)
    with at_work(store, tiny) as worker:
        worker.queue("ann", study)
        assert ended(store, study)["draft"]["state"] == "done"
    assert failures[0] > 2


def test_a_map_does_not_wait_for_running_drafts(store: Store, tiny: Path, gate: Gate) -> None:
    done, busy, waiting = (new_study(store) for _ in range(3))
    with at_work(store, tiny) as worker:
        worker.queue("ann", done)
        gate.let(1000)
        ended(store, done)
        while gate._open.acquire(blocking=False):
            pass
        worker.queue("ann", busy)
        worker.queue("ann", waiting)
        until(lambda: store.jobs.draft("ann", busy)["state"] == "running")  # type: ignore[index]
        found = worker.evidence("ann", done, sentence="s1")
        assert store.jobs.draft("ann", waiting)["state"] == "queued"  # type: ignore[index]
        gate.let(1000)
        ended(store, waiting)
    assert (found["side"], len(found["values"]), found["box"]) == (4, 16, (0, 0, 1, 1))


def test_maps_require_own_studies_and_sentences_of_this_model(store: Store, tiny: Path, tmp_path: Path) -> None:
    study = new_study(store)
    with at_work(store, tiny) as worker:
        worker.queue("ann", study)
        state = ended(store, study)
        added = store.act(
            "ann", study, state["revision"], {"action": "add", "text": "Mine.", "after": None}, user="ann"
        )
        mine = added["sentences"][-1]["id"]
        for sentence in (mine, "s99", None):
            with pytest.raises(ReviewError, match="no draft of that sentence"):
                worker.evidence("ann", study, sentence=sentence)
        for call in (lambda: worker.evidence("bob", study, sentence="s1"), lambda: worker.now("bob", study)):
            with pytest.raises(NotFound):
                call()
    other = tiny_model.make(tmp_path / "other", seed=1)
    with at_work(store, other) as worker, pytest.raises(ReviewError, match="another model"):
        worker.evidence("ann", study, sentence="s1")
