"""A disk that is full for real, a small file system: reading goes on, saving says why not, nothing is lost."""

from __future__ import annotations

import io
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.accounts import add_user
from app.security import HEADERS
from scripts.soak.serving import GATED, Answer, Client, Served, picture, served

pytestmark = pytest.mark.slow
SMALL = ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "private")
MOUNT = 'mount -t tmpfs -o size=3m,mode=700 none "$0" && exec "$@"'


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose data folder is a file system of 3 MB; its drafts can be held at a token."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "data").mkdir()
    tried = subprocess.run([*SMALL, "sh", "-c", MOUNT, str(folder / "data"), "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("file systems cannot be mounted in a namespace here")
    add_user(folder / "users", "ann", "ann's secret")
    within = (*SMALL, "sh", "-c", MOUNT, str(folder / "data"))
    with served(folder, "--auth-file", str(folder / "users"), "--no-example", first=GATED, within=within) as running:
        yield running


def logged_in(small: Served) -> Client:
    client = small.client()
    assert client.login("ann", "ann's secret").status == 303
    return client


@contextmanager
def full(small: Served) -> Iterator[None]:
    """Fill the server's disk to its last byte."""
    filler = Path(f"/proc/{small.process.pid}/root{small.data}/filler")
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == 28, error  # no space left on device
    try:
        yield
    finally:
        filler.unlink()


def refused(answer: Answer) -> None:
    """The one line that says why nothing was saved, under all headers of an answer."""
    assert answer.status == 507, (answer.status, answer.body)
    assert answer.json()["error"] == "the server's disk is full: nothing was saved"
    assert set(HEADERS) <= set(answer.headers)


def filled(client: Client, state: dict[str, Any]) -> tuple[Answer, dict[str, Any]]:
    """Write into a field until the server refuses; return its answer and the last acknowledged state."""
    for number in range(500):  # the database has some room of its own left
        answer = client.act(state, "field", field="indication", text=f"{number} " + "x" * 3900)
        if answer.status != 200:
            return answer, state
        state = answer.json()
    raise AssertionError("the disk is not full")


def of(client: Client, study: str) -> dict[str, Any]:
    state: dict[str, Any] = client.call("GET", f"/api/studies/{study}").json()
    return state


def test_reading_goes_on_and_no_acknowledged_step_is_lost(small: Served) -> None:
    client = logged_in(small)
    state = client.drafted(client.study(picture(1))["id"])
    with full(small):
        answer, state = filled(client, state)
        refused(answer)
        paths = ("/api/me", "/api/studies", "/api/statistics", "/api/batches", "/api/export.csv", "/", "/health/live")
        study = f"/api/studies/{state['id']}"
        for path in (*paths, study, f"{study}/report.txt", f"{study}/evidence?sentence=s1"):
            assert client.call("GET", path).status == 200, path
        assert of(client, state["id"]) == state
        assert logged_in(small).call("GET", study).status == 200, "a login needs no room"
        for sentence in state["sentences"]:  # some steps still fit into pages that the database has
            answer = client.act(state, "accept", sentence=sentence["id"])
            state = answer.json() if answer.status == 200 else state
        assert of(client, state["id"]) == state
    assert of(client, state["id"]) == state
    signed = client.signed(state)
    assert signed["fields"]["indication"] == state["fields"]["indication"]


def test_a_draft_that_ends_on_a_full_disk_is_there_once_there_is_room(small: Served) -> None:
    client = logged_in(small)
    state = client.study(picture(2))
    gate = small.data.parent / "gate"
    gate.write_bytes(bytes(3))
    try:
        assert client.call("POST", f"/api/studies/{state['id']}/draft", {}).status == 200
        end = time.monotonic() + 120
        while (of(client, state["id"])["draft"] or {}).get("state") != "running":
            assert time.monotonic() < end
            time.sleep(0.01)
        other = client.study(picture(3))
        with full(small):
            refused(filled(client, other)[0])
            gate.unlink()
            for _ in range(20):
                assert of(client, state["id"])["draft"]["state"] != "failed"
    finally:
        gate.unlink(missing_ok=True)
    found = client.ended(state["id"])
    assert found["draft"]["state"] == "done" and found["sentences"], found["draft"]


def test_what_a_full_disk_cannot_keep_is_not_acknowledged(small: Served) -> None:
    client = logged_in(small)
    other, before = client.study(picture(4)), client.call("GET", "/api/batches").json()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(10):
            archive.writestr(f"{number}.png", picture(10 + number))
    batch = client.call("POST", "/api/batches", {"total": 2}).json()["batch"]
    assert client.call("POST", f"/api/studies?batch={batch}&number=1", picture(20)).status == 201
    with full(small):
        refused(filled(client, other)[0])
        refused(client.call("POST", "/api/studies", picture(30, 512)))
        refused(client.call("POST", "/api/batches", content.getvalue(), **{"content-type": "application/zip"}))
        refused(client.call("POST", f"/api/studies?batch={batch}&number=2", picture(21, 512)))
        assert len(client.call("GET", "/api/batches").json()) == len(before) + 1
    incoming = Path(f"/proc/{small.process.pid}/root{small.data}/incoming")
    assert list(incoming.iterdir()) == [], "nothing half received stays"
    assert client.call("POST", f"/api/studies?batch={batch}&number=2", picture(21, 512)).status == 201
    assert client.call("POST", "/api/batches", content.getvalue(), **{"content-type": "application/zip"}).status == 201
