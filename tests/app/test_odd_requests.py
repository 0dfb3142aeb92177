"""Odd requests: a status below 500 with the security headers, and nothing made."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.accounts import add_user
from app.security import HEADERS
from scripts.soak.serving import Answer, Client, Served, picture, served

pytestmark = pytest.mark.acceptance(row=30)


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with accounts for ann and bob, behind a trusted proxy at 127.0.0.1."""
    folder = tmp_path_factory.mktemp("odd")
    for name in ("ann", "bob"):
        add_user(folder / "users", name, f"{name}'s secret")
    with served(folder, "--auth-file", str(folder / "users"), "--trusted-proxy", "127.0.0.1") as running:
        yield running


def refused(answer: Answer, *statuses: int) -> None:
    assert answer.status in statuses, answer.body
    assert set(HEADERS) <= set(answer.headers)


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "http://a:b:c", "http://x:99999", "]", "null"])
def test_malformed_origins_are_refused(local: Served, origin: str) -> None:
    client = local.client()
    study = client.study(picture(0))["id"]
    refused(client.call("POST", f"/api/studies/{study}/stop", {}, origin=origin), 400, 403)
    assert client.call("GET", "/api/me", origin=origin).status in (200, 400)
    assert client.call("GET", "/", origin=origin).status in (200, 400)


@pytest.mark.parametrize("host", ["[", "[::1", "127.0.0.1:x", "127.0.0.1:99999", ""])
def test_malformed_hosts_are_refused(local: Served, host: str) -> None:
    refused(local.client().call("GET", "/api/me", host=host), 400, 421)


BODIES = {
    "deep": b'{"a":' * 100_000, "deep list": b'{"revision": 1, "action": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "surrogate": b'{"revision": 1, "action": "add", "text": "\\ud800"}',
    "surrogate field": b'{"revision": 1, "action": "field", "field": "indication", "text": "a\\udfff"}',
    "surrogate name": b'{"revision": 1, "action": "\\ud800"}', "surrogate key": b'{"\\ud800": 1}',
    "bytes": b'{"revision": 1, "action": "add", "text": "\xed\xa0\x80"}', "utf-16": '{"revision": 1}'.encode("utf-16"),
    "infinity": b'{"revision": Infinity}', "seconds": b'{"revision": 1, "action": "add", "text": "x", "seconds": NaN}',
    "digits": b'{"revision": ' + b"9" * 5000 + b"}", "beyond": b'{"revision": 9223372036854775808, "action": "sign"}',
    "minus": b'{"revision": -9223372036854775809, "action": "sign"}',
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_odd_bodies_are_refused(local: Served, name: str) -> None:
    client = local.client()
    study = client.study(picture(0))["id"]
    refused(client.call("POST", f"/api/studies/{study}/actions", BODIES[name]), 409, 422)
    state = client.call("GET", f"/api/studies/{study}").json()
    assert (state["sentences"], state["fields"]["indication"], state["revision"]) == ([], "", 1)
    if name != "beyond":
        for path in (f"/api/studies/{study}/draft", "/api/batches"):
            answer = client.call("POST", path, BODIES[name], **{"content-type": "application/json"})
            assert answer.status < 500 and set(HEADERS) <= set(answer.headers)


@pytest.mark.parametrize(
    "path",
    [
        "/api/studies?offset=9223372036854775808", "/api/studies?limit=99999999999999999999", "/api/studies?limit=x",
        "/api/studies?search=%ED%A0%80&status=%00", "/api/studies/%ED%A0%80", "/api/studies?status=%ff",
        "/api/studies/STUDY/report.txt?version=9223372036854775808", "/api/studies/STUDY/report.json?version=-1",
        "/api/studies/STUDY/evidence?sentence=%ED%A0%80", "/login/", "/logout", "/login", "/api/export.zip?dicom=maybe",
    ],
)  # fmt: skip
def test_odd_parameters_are_no_error_of_the_server(local: Served, path: str) -> None:
    client = local.client()
    study = client.study(picture(0))["id"]
    refused(client.call("GET", path.replace("STUDY", study)), 200, 404, 405, 422)


def logged_in(accounts: Served, name: str) -> Client:
    client = accounts.client()
    assert client.login(name, f"{name}'s secret").status == 303
    return client


def test_a_file_of_anothers_batch_makes_nothing(accounts: Served) -> None:
    ann, bob = logged_in(accounts, "ann"), logged_in(accounts, "bob")
    batch = ann.call("POST", "/api/batches", {"total": 1}).json()["batch"]
    before = sorted(accounts.data.rglob("*"))
    for number in ("1", "0", "9" * 30, "x", "-1", ""):
        refused(bob.call("POST", f"/api/studies?batch={batch}&number={number}", picture(1)), 404)
    for number in ("0", "2", "9" * 30, "x", "-1", ""):
        refused(ann.call("POST", f"/api/studies?batch={batch}&number={number}", picture(1)), 422)
    for user in (ann, bob):
        assert user.call("GET", "/api/studies").json()["studies"] == []
    assert sorted(accounts.data.rglob("*")) == before


def test_headers_of_strangers_lead_nowhere_else(local: Served, accounts: Served) -> None:
    evil: dict[str, Any] = {
        "x-forwarded-host": "evil.example", "x-forwarded-proto": "https", "x-gradio-server": "http://evil.example",
        "x-direct-url": "http://evil.example", "forwarded": "host=evil.example", "x-forwarded-prefix": "//evil.example",
    }  # fmt: skip
    for server in (local, accounts):
        for client in (server.client(), *([logged_in(server, "ann")] if server is accounts else [])):
            for path in ("/", "/config", "/login", "/login/", "/login/callback", "/logout", "/theme.css", "/health"):
                for method in ("GET", "POST"):
                    answer = client.call(method, path, b"" if method == "POST" else None, **evil)
                    assert answer.status < 500 and b"evil.example" not in answer.body, path
                    assert answer.headers.get("location", "/").startswith("/"), path
                    assert not answer.headers.get("location", "/").startswith("//"), path


def test_failed_logins_count_for_the_address_behind_a_trusted_proxy(accounts: Served) -> None:
    client = accounts.client()

    def tried(name: str, password: str, address: str) -> int:
        client.headers = {"x-forwarded-for": address}
        return client.login(name, password).status

    assert [tried("ann", "wrong", "203.0.113.9") for _ in range(6)] == [401] * 5 + [429]
    assert tried("ann", "ann's secret", "203.0.113.9") == 429
    assert tried("ann", "ann's secret", "198.51.100.7") == 303


def test_a_body_that_is_never_sent_gets_no_error_of_the_server(local: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", local.port, timeout=30)
    connection.putrequest("POST", "/api/studies")
    connection.putheader("content-length", "1000")
    connection.putheader("x-llava-rad", "1")
    connection.endheaders(b"abc")
    connection.close()
    assert json.loads(local.client().call("GET", "/health").body)["status"] == "ok"


@pytest.mark.parametrize("first", [b"GET /", b"GET / HTTP/1.1\r\nhost: a\r\nx-long: "], ids=["address", "header"])
def test_a_request_without_end_is_refused_before_it_fills_the_memory(local: Served, first: bytes) -> None:
    with socket.create_connection(("127.0.0.1", local.port), timeout=30) as connection:
        connection.sendall(first)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(b"a" * 65536)
            pytest.fail("4 MiB were taken")
    assert local.client().call("GET", "/health").status == 200


@pytest.mark.parametrize("kind", [[], {}, ["length"], None, 1])
def test_a_measurement_of_no_kind_is_refused(local: Served, kind: Any) -> None:
    client = local.client()
    state = client.study(picture(0))
    sent = client.act(state, "measure", kind=kind, image=state["image"]["id"], points=[[1, 1], [5, 5]])
    refused(sent, 422)


def test_a_trusted_proxy_is_an_address(tmp_path: Path) -> None:
    from app.server import Settings
    from encoder.errors import ConfigError

    for wrong in ("*", "proxy.example", "10.0.0.0/40", ""):
        with pytest.raises(ConfigError, match="trusted proxy"):
            Settings(data=tmp_path, trusted_proxies=(wrong,)).check()
    Settings(data=tmp_path, trusted_proxies=("10.0.0.0/24", "::1", "192.0.2.1")).check()
