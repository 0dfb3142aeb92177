"""Models behind a server in the review application and in the service: the same text as ``generate``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llava_rad
from app.images import ImageFolder
from app.service.application import Settings
from app.store import Store
from encoder.errors import LlavaRadError
from encoder.reader.sandbox import Reader
from llava_rad.generation import chat_server
from llava_rad.generation.options import GenerationOptions
from tests.app.service.conftest import serving
from tests.app.test_drafting import at_work, ended, until
from tests.llava_rad import small_files
from tests.llava_rad.standins.chat_server import NAME, StandIn, grey, standing_in, status, words


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(chat_server, "BACKOFF_S", 0.01)
    with standing_in() as running:
        yield running


def kept(store: Store, folder: ImageFolder, file: Path) -> tuple[str, dict[str, Any]]:
    """Create a study of an image; returns its id and the image as a part of a study."""
    with Reader() as reader:
        image = reader.read(file, force=True)
    part: dict[str, Any] = {
        "sha256": image.sha256, "facts": image.facts.to_dict(), "warnings": list(image.warnings),
        "image": folder.keep(image),
    }  # fmt: skip
    return store.create("ann", name=None, **part), part


@pytest.mark.slow
def test_drafts_of_a_server_are_reviewed(server: StandIn, store: Store, tmp_path: Path) -> None:
    files = [small_files.dicom(tmp_path / f"{n}.dcm", seed=n) for n in range(2)]
    (expected,) = llava_rad.generate(files[0], server.model)
    folder = ImageFolder(tmp_path / "images")
    (study, _), (_, other) = (kept(store, folder, file) for file in files)
    with at_work(store, server.model, folder.prepared) as worker:  # type: ignore[arg-type]
        worker.queue("ann", study)
        state = ended(store, study)
        assert state["draft"]["text"] == expected.text
        assert state["draft"]["report"] == expected.model_dump(mode="json")
        assert state["draft"]["model"]["id"] == f"openai:{NAME}"
        assert {"lateral", "prior", "prior-report", "indication"} <= set(worker.status()["takes"])
        with pytest.raises(LlavaRadError, match="no attention maps"):
            worker.evidence("ann", study, sentence="s1")
        store.set_context("ann", study, "prior", other)
        state = store.state("ann", study)
        text = {"action": "field", "field": "indication", "text": "Cough."}
        store.act("ann", study, state["revision"], text, user="ann")
        worker.queue("ann", study)
        until(lambda: len(server.questions) == 3)
        ended(store, study)
        assert words(server.questions[-1])[:-1] == ["Frontal image:", "IMAGE", "Earlier frontal image:", "IMAGE"]
        assert "Indication: Cough." in words(server.questions[-1])[-1]
        server.faults = [status(400)]
        worker.queue("ann", study)
        failed = ended(store, study)["draft"]
        assert failed["state"] == "failed" and "HTTP 400" in failed["error"]
        worker.queue("ann", study)
        until(lambda: store.jobs.draft("ann", study)["state"] == "done")  # type: ignore[index]


@pytest.mark.slow
def test_reports_of_a_server_are_served(server: StandIn, tmp_path: Path) -> None:
    server.reply = lambda body: f"The mean grey level is {grey(body)}." + 30 * " There is no pneumothorax."
    files = [small_files.dicom(tmp_path / f"{n}.dcm", seed=n) for n in range(2)]
    expected = [llava_rad.generate(file, server.model)[0] for file in files]
    with serving(Settings(options=GenerationOptions(model=server.model))) as service:
        until(lambda: service.client.call("GET", "/health/ready").status == 200)
        for file, report in zip(files, expected, strict=True):
            answer = service.client.call("POST", "/v1/reports", file.read_bytes())
            assert answer.json() == json.loads(report.to_json())
        streamed = service.client.call("POST", "/v1/reports", files[0].read_bytes(), accept="text/event-stream")
        events = [json.loads(line[6:]) for line in streamed.body.decode().splitlines() if line.startswith("data: ")]
        assert events[-1] == json.loads(expected[0].to_json()) and len(events) > 2
        server.faults = [status(400)]
        failed = service.client.call("POST", "/v1/reports", files[0].read_bytes())
        assert failed.status == 503 and "HTTP 400" in failed.json()["error"]
