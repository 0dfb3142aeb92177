"""Privacy: no identifiers on disk or in responses, no foreign connections, every export carries the notice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from llava_rad.outputs.report import NOTICE
from scripts.soak.serving import Client, Served, served
from tests.encoder.dicom_files import to_bytes
from tests.encoder.reader.test_privacy import canaries

pytestmark = [pytest.mark.acceptance(row=18), pytest.mark.slow]

FILE_NAME = "CANARY97^DOE.dcm"


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Client, str, list[str]]]:
    """A server on which a study full of canaries was uploaded, drafted and signed."""
    source, words = canaries()
    data, words = to_bytes(source), [*words, "CANARY97", "DOE"]
    with served(tmp_path_factory.mktemp("privacy"), "--no-example") as running:
        client = running.client()
        answer = client.call("POST", "/api/studies?force=true", data, **{"x-file-name": quote(FILE_NAME)})
        assert answer.status == 201, answer.body
        state = client.drafted(answer.json()["id"])
        refused = client.call("POST", "/api/studies", data[:-200], **{"x-file-name": quote(FILE_NAME)})
        assert refused.status == 415
        for which in ("prior", "lateral"):
            revision = client.call("GET", f"/api/studies/{state['id']}").json()["revision"]
            path = f"/api/studies/{state['id']}/{which}?force=true&revision={revision}"
            assert client.call("POST", path, data).status == 200
        client.signed(client.call("GET", f"/api/studies/{state['id']}").json())
        yield running, client, state["id"], words


def answers(client: Client, study: str) -> dict[str, bytes]:
    paths = (
        "/", "/api/me", "/api/studies", "/api/statistics", "/api/batches", "/api/export.jsonl", "/api/export.csv",
        f"/api/studies/{study}", f"/api/studies/{study}/report.txt", f"/api/studies/{study}/report.json",
        f"/api/studies/{study}/draft", f"/api/studies/{study}/report.dcm", f"/api/studies/{study}/labels.dcm",
        f"/api/studies/{study}/report.fhir.json",
    )  # fmt: skip
    found = {path: client.call("GET", path) for path in paths}
    return {path: answer.body + repr(answer.headers).encode() for path, answer in found.items()}


def test_no_canary_in_any_answer(used: tuple[Served, Client, str, list[str]]) -> None:
    _, client, study, words = used
    found = answers(client, study)
    assert [(path, word) for path, body in found.items() for word in words if word.encode() in body] == []
    assert b"Radiograph 1" in found["/api/studies"], "the search sees what is there"


def test_no_canary_on_disk(used: tuple[Served, Client, str, list[str]]) -> None:
    running, _, _, words = used
    files = [path for path in running.data.parent.rglob("*") if path.is_file()]
    assert any(path.name == "reviews.sqlite" for path in files) and running.log in files
    hits = [
        (path.name, word) for path in files for word in words
        if word in str(path) or word.encode() in path.read_bytes() or word.encode("utf-16-le") in path.read_bytes()
    ]  # fmt: skip
    assert hits == []


def test_no_image_file_is_kept(used: tuple[Served, Client, str, list[str]]) -> None:
    running, *_ = used
    assert list((running.data / "incoming").iterdir()) == []
    assert list((running.data / "gradio").rglob("*")) == []
    assert all(b"DICM" not in path.read_bytes()[:200] for path in running.data.rglob("*") if path.is_file())


@pytest.mark.acceptance(row=24)
def test_everything_that_leaves_is_marked(used: tuple[Served, Client, str, list[str]]) -> None:
    _, client, study, _ = used
    found = answers(client, study)
    for path in ("/api/export.jsonl", "/api/export.csv", f"/api/studies/{study}/report.txt",
                 f"/api/studies/{study}/report.json", "/api/me"):  # fmt: skip
        assert NOTICE.encode() in found[path], path
    assert client.call("GET", f"/api/studies/{study}/report.json").json()["ai_generated"] is True
    page = Path(__file__).resolve().parents[2] / "app" / "static" / "top.js"
    assert NOTICE in page.read_text(encoding="utf-8")


@pytest.mark.acceptance(row=19)
def test_the_server_talks_to_nobody(used: tuple[Served, Client, str, list[str]]) -> None:
    running, *_ = used
    # every socket of the process: what it listens on, and connections to it; remote addresses are 127.0.0.1 or none
    remote = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        sockets = {
            link.readlink().name for link in Path(f"/proc/{running.process.pid}/fd").iterdir() if link.is_symlink()
        }
        for line in Path(f"/proc/{running.process.pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if f"socket:[{columns[9]}]" in sockets:
                remote.add(columns[2].split(":")[0])
    assert remote <= {"00000000", "0100007F", "0" * 32}
    assert running.log.read_text().splitlines() == [f"llava-rad: the review application is at {running.url}"]


def test_no_telemetry_and_no_evaluated_text_in_the_sources() -> None:
    folder = Path(__file__).resolve().parents[2] / "app"
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not names & {"eval", "exec", "pickle"}, path.name
    for path in (folder / "static").glob("*.js"):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")  # a name, no address
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",  # must not occur in the page
            "new Function",
            "http:",
            "https:",
        ):
            assert word not in text, f"{path.name}: {word}"
