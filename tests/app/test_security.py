"""Access: logins, hosts and origins, blocked routes, users apart from each other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from app.accounts import add_user, is_loopback
from app.lanes import Lane
from app.security import COOKIE, HOST_COOKIE, Guard, login_router, token_of
from app.server import Settings
from encoder.errors import ConfigError
from llava_rad.generation.sources import example
from scripts.soak.serving import Client, Served, picture, served

pytestmark = pytest.mark.acceptance(row=17)

RG1 = example().read_bytes()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with accounts for ann, bob and cat."""
    folder = tmp_path_factory.mktemp("shared")
    for name in ("ann", "bob", "cat"):
        add_user(folder / "users", name, f"{name}'s secret")
    with served(folder, "--auth-file", str(folder / "users")) as running:
        yield running


@pytest.fixture
def ann(shared: Served) -> Client:
    return logged_in(shared, "ann")


@pytest.fixture
def bob(shared: Served) -> Client:
    return logged_in(shared, "bob")


def logged_in(shared: Served, name: str) -> Client:
    client = shared.client()
    assert client.login(name, f"{name}'s secret").status == 303
    return client


@pytest.mark.parametrize(("microphone", "said"), [(False, "microphone=()"), (True, "microphone=(self)")])
def test_the_microphone_is_allowed_only_on_request(microphone: bool, said: str) -> None:
    sent: list[Message] = []

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("no request gets this far")

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    guard = Guard(refuse, hosts=set(), user_of=lambda token: None, logins=True, microphone=microphone)
    scope = {"type": "http", "method": "GET", "path": "/api/me", "headers": [(b"host", b"localhost")]}
    asyncio.run(guard(scope, receive, send))
    policy = dict(sent[0]["headers"])[b"permissions-policy"].decode()
    assert said in policy.split(", ") and "camera=()" in policy


# who gets in


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_a_public_address_needs_accounts(host: str, tmp_path: Path) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="this machine only"):
        Settings(host=host, data=tmp_path).check()
    (tmp_path / "users").write_text("")
    Settings(host=host, data=tmp_path, auth_file=tmp_path / "users").check()
    Settings(host="127.0.0.1", data=tmp_path).check()


@pytest.mark.acceptance(row=14)
@pytest.mark.parametrize(
    "path",
    [
        "/api/me", "/api/studies", "/api/statistics", "/api/export.jsonl", "/config", "/theme.css", "/gradio_api/info",
        "/gradio_api/startup-events", "/openapi.json", "/gradio_api/app_id", "/ui/session.js",
    ],
)  # fmt: skip
def test_nothing_is_open_without_a_login(shared: Served, path: str) -> None:
    assert shared.client().call("GET", path).status in (401, 404)


def test_the_page_redirects_to_the_login(shared: Served) -> None:
    answer = shared.client().call("GET", "/")
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    assert shared.client().call("GET", "/health").json()["status"] == "ok"


def test_the_cookie_is_http_only_and_same_site(shared: Served) -> None:
    cookie = shared.client().login("ann", "ann's secret").headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie


def test_over_https_only_this_host_can_set_the_cookie() -> None:
    """A neighbour in the domain could log a user in as somebody else, who then gets the user's images."""
    logins = asyncio.run(sent_cookies(https=True)), asyncio.run(sent_cookies(https=False))
    for cookie, name in zip(logins, (HOST_COOKIE, COOKIE), strict=True):
        assert cookie.startswith(f"{name}=fresh;")
    parts = logins[0].lower().split("; ")
    assert {"secure", "httponly", "samesite=strict", "path=/"} <= set(parts), "as the prefix demands (RFC 6265bis)"
    assert not [part for part in parts if part.startswith("domain")]
    headers = Headers({"cookie": f"{COOKIE}=neighbour; {HOST_COOKIE}=own"})
    assert (token_of(headers, HOST_COOKIE), token_of(headers)) == ("own", "neighbour")


async def sent_cookies(*, https: bool) -> str:
    """Return the cookie that a login sets."""
    accounts = SimpleNamespace(by_address=False, login=lambda name, password, client: "fresh")
    served = FastAPI()
    served.include_router(login_router(accounts, Lane("login", 1), https=https))  # type: ignore[arg-type]
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"name=ann&password=x", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/login", "headers": [], "query_string": b"", "client": ("::1", 1),
    }  # fmt: skip
    await served(scope, receive, send)
    return dict(sent[0]["headers"])[b"set-cookie"].decode()


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-origin", 404), ("none", 404), (None, 404)])
def test_another_site_cannot_have_a_browser_ask_for_an_export(site: str | None, status: int) -> None:
    """An image of another page that is an address of ours: the answer is not shown, but was made."""
    sent: list[Message] = []

    async def missing(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    guard = Guard(missing, hosts=set(), user_of=lambda token: "local", logins=False)
    headers = [(b"host", b"localhost"), *([(b"sec-fetch-site", site.encode())] if site else [])]
    scope = {"type": "http", "method": "GET", "path": "/api/export.zip", "headers": headers}
    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == status


def test_logging_out_ends_the_session(ann: Client) -> None:
    assert ann.call("GET", "/api/me").json()["user"] == "ann"
    assert ann.call("POST", "/logout").status == 303
    assert ann.call("GET", "/api/me").status == 401


def test_failed_logins_are_limited_and_do_not_reveal_names(shared: Served) -> None:
    client = shared.client()
    known = [client.login("cat", "wrong") for _ in range(2)]
    unknown = [client.login("nobody", "wrong") for _ in range(2)]
    assert {answer.status for answer in [*known, *unknown]} == {401}
    assert known[0].body == unknown[0].body
    rest = [client.login("cat", "wrong") for _ in range(8)]
    assert [answer.status for answer in rest] == [401] * 3 + [429] * 5, "five attempts in all"
    refused = client.login("cat", "cat's secret")
    assert refused.status == 429 and int(refused.headers["retry-after"]) > 0


def test_changes_from_other_sites_are_refused(local: Served) -> None:
    client = local.client()
    study = client.study(picture(0))["id"]
    assert client.call("POST", f"/api/studies/{study}/stop", {}, origin="http://evil.example").status == 403
    bare = Client("127.0.0.1", local.port, headers={})
    assert bare.call("POST", f"/api/studies/{study}/stop", {}).status == 403
    assert client.call("GET", "/api/studies", host="evil.example").status == 421, "DNS rebinding"


def test_health_is_answered_by_address_without_a_login(shared: Served) -> None:
    for path in ("/health", "/health/live", "/health/ready"):
        answer = Client("127.0.0.1", shared.port).call("GET", path, host="10.0.0.7:8000")
        assert answer.status == (200 if path != "/health/ready" else answer.status) and answer.status in (200, 503)
        assert "error" not in answer.json() and answer.json()["status"] in ("ok", "loading")
    assert shared.client().call("GET", "/", host="10.0.0.7").status == 421


def test_security_headers_are_on_every_response(local: Served) -> None:
    for path in ("/", "/api/me", "/ui/session.js", "/no-such-page"):
        headers = local.client().call("GET", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    assert local.client().call("GET", "/api/me").headers["cache-control"] == "no-store"


GRADIO = (
    "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/gradio_api/file=http://127.0.0.1:1/", "/gradio_api/proxy=http://x",
    "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/run/predict", "/gradio_api/call/predict",
    "/gradio_api/component_server", "/gradio_api/stream/a/b/c/playlist.m3u8", "/gradio_api/mcp/", "/monitoring",
    "/gradio_api/deep_link", "/openapi.json", "/docs",
)  # fmt: skip


@pytest.mark.parametrize("path", GRADIO)
def test_gradios_other_routes_are_blocked(local: Served, path: str) -> None:
    for method in ("GET", "POST"):
        assert local.client().call(method, path, b"{}" if method == "POST" else None).status == 404


PATHS = (
    "../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "%00", "a%00b",
    "..\\..\\x", "http://127.0.0.1:1/", "file:///etc/passwd", ".", "..", "~root", "reviews.sqlite",
    "../reviews.sqlite", "' OR 1=1 --", "%27%20OR%201=1", "*", "a" * 5000, "\u202e", "con",
)  # fmt: skip


@pytest.mark.acceptance(row=15)
def test_no_path_leads_out_of_the_studies(local: Served) -> None:
    client = local.client()
    study = client.study(picture(0))["id"]
    for path in PATHS:
        safe = quote(path, safe="%/.")
        for target in (f"/api/studies/{safe}", f"/api/studies/{study}/image/{safe}", f"/ui/{safe}"):
            answer = client.call("GET", target)
            assert answer.status in (400, 404, 414), target
            assert b"root:" not in answer.body and b"SQLite" not in answer.body


@pytest.mark.acceptance(row=15)
def test_a_files_name_goes_nowhere(local: Served, tmp_path: Path) -> None:
    client, owned = local.client(), tmp_path / "owned"
    up = "../" * len(local.data.parts)
    names = (f"{up}{owned}", str(owned), "DOE^JANE.dcm", "<script>alert(1)</script>", "a\\..\\b")
    before = {path for path in local.data.rglob("*") if path.is_file()}
    for name in names:
        answer = client.call("POST", "/api/studies", picture(0), **{"x-file-name": quote(name)})
        assert answer.status == 201 and answer.json()["name"].startswith("Radiograph ")
    made = {path for path in local.data.rglob("*") if path.is_file()} - before
    assert all(
        path.parent.name == "images" and len(path.name.partition(".")[0]) == 32
        for path in made
        if path.suffix != ".sqlite-wal"
    )
    assert not owned.exists()


# what of whom


@pytest.mark.acceptance(row=14)
def test_users_have_nothing_of_each_other(ann: Client, bob: Client) -> None:
    state = ann.study(RG1)
    study, image = state["id"], state["image"]["id"]
    ann.drafted(study)
    mine = bob.study(picture(0))["id"]
    tries = [
        ("GET", f"/api/studies/{study}", None),
        ("GET", f"/api/studies/{study}/image/{image}", None),
        ("GET", f"/api/studies/{mine}/image/{image}", None),
        ("GET", f"/api/studies/{study}/image/{image}?preview=1024", None),
        ("GET", f"/api/studies/{study}/thumbnail", None),
        ("GET", f"/api/studies/{study}/neighbours", None),
        ("POST", f"/api/studies?study={study}", picture(0)),
        ("GET", f"/api/studies/{study}/draft", None),
        ("GET", f"/api/studies/{study}/evidence?sentence=s1", None),
        ("GET", f"/api/studies/{study}/report.txt", None),
        ("GET", f"/api/studies/{study}/report.json", None),
        ("POST", f"/api/studies/{study}/draft", {}),
        ("POST", f"/api/studies/{study}/stop", {}),
        ("POST", f"/api/studies/{study}/prior", picture(0)),
        ("DELETE", f"/api/studies/{study}/prior", None),
        ("POST", f"/api/studies/{study}/lateral", picture(0)),
        ("DELETE", f"/api/studies/{study}/lateral", None),
        ("POST", f"/api/studies/{study}/actions", {"revision": 1, "action": "sign"}),
    ]
    answers = [bob.call(method, path, body) for method, path, body in tries]  # type: ignore[arg-type]
    assert [answer.status for answer in answers] == [404] * len(tries)
    assert all(b"consolidation" not in answer.body for answer in answers)
    assert study not in bob.call("GET", "/api/studies").body.decode()
    assert study not in bob.call("GET", "/api/export.jsonl").body.decode()
    batch = ann.call("POST", "/api/batches", {"total": 1}).json()["batch"]
    assert bob.call("POST", f"/api/studies?batch={batch}", picture(0)).status == 404
    assert bob.call("GET", "/api/batches").json() == []


def test_a_study_is_assigned_to_a_user_who_then_sees_it(ann: Client, bob: Client) -> None:
    study = ann.study(picture(77))["id"]
    assert {"ann", "bob"} <= set(ann.call("GET", "/api/me").json()["users"])
    at = f"/api/studies/{study}"
    assert bob.call("POST", f"{at}/assign", {"user": "bob"}).status == 404
    assert ann.call("POST", f"{at}/assign", {"user": "nobody"}).status == 422
    assert ann.call("POST", f"{at}/assign", {"user": "bob"}).json() == {"assigned": "bob"}
    assert bob.call("GET", at).json()["assigned"] == "bob"
    assert bob.call("GET", f"{at}/thumbnail").status == 200
    assert bob.call("POST", f"{at}/assign", {"user": None}).json() == {"assigned": None}
    assert bob.call("GET", at).status == bob.call("GET", f"{at}/neighbours").status == 404


def test_without_accounts_nothing_is_assigned(local: Served) -> None:
    client = local.client()
    study = client.study(picture(78))["id"]
    assert client.call("POST", f"/api/studies/{study}/assign", {"user": "local"}).status == 422
    assert client.call("GET", "/api/me").json()["users"] == []


@pytest.mark.parametrize(
    "cookie",
    [
        'a="' + '\\"' * 100_000 + '"', f'{COOKIE}="' + "\\041" * 100_000 + '"', f"{COOKIE}=;" * 20_000,
        "=" * 200_000, f"{COOKIE}={'a' * 200_000}", "; " * 100_000, f"; {' ' * 100_000}{COOKIE}", "\xff" * 1000,
    ],
    ids=["quotes", "octal", "many", "equals", "long", "empty", "blank", "bytes"],
)  # fmt: skip
def test_cookies_of_others_cost_nothing_and_go_no_further(cookie: str) -> None:
    """Python's own parser takes minutes for the first, on the event loop and before any login."""
    seen: list[tuple[str | None, Headers]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["state"]["user"], Headers(scope=scope)))

    async def nothing(*_: object) -> Message:
        return {"type": "http.request"}

    guard = Guard(app, hosts=set(), user_of=lambda token: {"right": "ann"}.get(token or "", "nobody"), logins=True)
    for sent in (cookie, f"theme=dark; {COOKIE}=right; {cookie}", f"{cookie};{COOKIE}=right"):
        headers = [(b"host", b"a"), (b"cookie", sent.encode("latin-1"))]
        scope = {"type": "http", "method": "GET", "path": "/api/me", "headers": headers}
        asyncio.run(guard(scope, nothing, nothing))  # type: ignore[arg-type]
    assert [user for user, _ in seen] == ["nobody", "ann", "ann"]
    assert [headers.getlist("cookie") for _, headers in seen] == [[], *[[f"{COOKIE}=right"]] * 2]
