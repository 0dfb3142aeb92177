"""Commands ``llava-rad serve`` and ``llava-rad user``: refused options, locks, end of the server."""

from __future__ import annotations

import os
import signal
import socket
import stat
import time
from pathlib import Path

import pytest

from app.accounts import read_users
from scripts.soak.serving import served
from tests.llava_rad.conftest import Ran, Run

pytestmark = pytest.mark.slow


def refused(done: Ran, code: int, message: str) -> None:
    assert (done.code, done.out) == (code, ""), done.err
    assert message in done.err and "Traceback" not in done.err


def test_invalid_options_of_serve_are_refused(run: Run, tmp_path: Path) -> None:
    data = ("--data-dir", tmp_path / "data", "--port", "0")
    refused(run("serve", *data, "--host", "0.0.0.0"), 2, "without accounts the application is served to this machine")
    refused(run("serve", *data, "--auth-file", tmp_path / "none"), 2, "there is no such auth file")
    done = run("serve", *data, "--worklist", tmp_path / "none")
    assert done.code == 2 and "--worklist" in done.err
    (tmp_path / "users").write_text("")
    both = ("--auth-file", tmp_path / "users", "--worklist", tmp_path)
    done = run("serve", *data, *both)
    assert done.code == 2 and "--worklist" in done.err
    assert not (tmp_path / "data").exists()
    (tmp_path / "file").write_text("")
    refused(run("serve", "--data-dir", tmp_path / "file", "--port", "0"), 1, "the data folder cannot be used")


def test_a_port_in_use_is_refused(run: Run, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("serve", "--no-example", "--data-dir", tmp_path, "--port", port)
    refused(done, 1, "cannot listen on that address and port")


def test_a_missing_model_a_second_server_and_ctrl_c(run: Run, tmp_path: Path) -> None:
    with served(tmp_path, "--no-example", "--model", str(tmp_path / "no-model")) as running:
        client = running.client()
        end = time.monotonic() + 60
        while (model := client.call("GET", "/api/me").json()["model"])["state"] == "loading":
            assert time.monotonic() < end
            time.sleep(0.05)
        assert model["state"] == "failed" and "no-model" in model["error"]
        statuses = {path: client.call("GET", f"/health{path}").status for path in ("", "/live", "/ready")}
        assert statuses == {"": 503, "/live": 200, "/ready": 503}
        refused(run("serve", "--data-dir", running.data, "--port", "0"), 1, "another review application is using")
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.process.wait(timeout=20) in (0, 130)
        assert "Traceback" not in running.log.read_text() and "unexpected" not in running.log.read_text()
        assert stat.S_IMODE(running.data.stat().st_mode) == 0o700


def test_users_are_added_and_removed(run: Run, tmp_path: Path) -> None:
    users = tmp_path / "users"
    assert run("user", "add", "ann", "--auth-file", users, stdin=b"correct horse\n").code == 0
    assert run("user", "add", "bob", "--auth-file", users, stdin=b"correct horse\n").code == 0
    assert set(read_users(users)) == {"ann", "bob"} and "correct horse" not in users.read_text()
    refused(run("user", "add", "a b", "--auth-file", users, stdin=b"correct horse\n"), 2, "a name has")
    refused(run("user", "add", "cat", "--auth-file", users, stdin=b"short\n"), 2, "at least 8 characters")
    assert run("user", "remove", "bob", "--auth-file", users).code == 0
    refused(run("user", "remove", "bob", "--auth-file", users), 2, "no such user")
    assert set(read_users(users)) == {"ann"}


@pytest.mark.slow
def test_a_folder_on_the_server_becomes_a_worklist(tmp_path: Path) -> None:
    from scripts.soak.serving import picture
    from tests.app.test_routes import ended_batch

    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.png").write_bytes(picture(1))
    (tmp_path / "in" / "deep" / "b.png").write_bytes(picture(2))
    with served(tmp_path, "--worklist", str(tmp_path / "in")) as running:
        client = running.client()
        (batch,) = client.call("GET", "/api/batches").json()
        ended = ended_batch(client, batch["id"])
        assert (ended["total"], ended["read"], ended["drafted"]) == (2, 2, 2)
