"""Credentials, redirects, delays and memory of requests."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from llava_rad.pacs.client import Instance, Pacs
from llava_rad.pacs.transport import PASSWORD, TOKEN, USER, PacsError, PacsUsageError
from tests.llava_rad.pacs.running import answers
from tests.llava_rad.pacs.scripted import END, PART, Handler, Reply, Server, serving

ONE = Instance("1.2.3.0", "1.2.3.0.1", "1.2.3.0.1.1")


def authorization(server: Server, url: str = "") -> str | None:
    assert list(Pacs(url or server.url).studies())
    return server.asked[-1].headers["Authorization"]


@pytest.mark.parametrize("word", ["secret", "Grüße", "пароль", "密码", "a:b", "€ 😀", " pad "])
def test_passwords_are_sent_in_utf_8(server: Server, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    expected = "Basic " + base64.b64encode(f"änn:{word}".encode()).decode()  # RFC 7617
    monkeypatch.setenv(USER, "änn")
    monkeypatch.setenv(PASSWORD, word)
    assert authorization(server) == expected


def test_other_credentials(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert authorization(server) is None
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login änn password пароль\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("PYTHONUTF8", "1")
    assert authorization(server) == "Basic " + base64.b64encode("änn:пароль".encode()).decode()
    in_url = server.url.replace("//", "//ann:p%C3%A4ss%40@")
    assert authorization(server, in_url) == "Basic " + base64.b64encode("ann:päss@".encode()).decode()
    monkeypatch.setenv(TOKEN, "abc.def\n")
    assert authorization(server, in_url) == "Bearer abc.def"


@pytest.mark.parametrize(
    ("name", "value"), [(TOKEN, "a b"), (TOKEN, "a\nX: y"), (TOKEN, "tök"), (USER, "a:b"), (USER, "a\nb")]
)
def test_credentials_that_http_cannot_hold_are_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(PacsUsageError) as refused:
        Pacs(server.url)
    assert value not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["", "pacs", "ftp://pacs", "http://", "file:///etc/passwd", "http:// x", "http://h:99999/x", "http://h:x/", "http://h/x?a=b",
     "http://h/#x", "http://[::1/x", "http://h\\@i/x", "http://a\nb/", "http://" + "a" * 70 + ".b/", "http://./"],
)  # fmt: skip
def test_addresses_of_another_kind_are_refused(url: str) -> None:
    with pytest.raises(PacsUsageError, match="not a URL"):
        Pacs(url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_within_the_archive_is_followed(server: Server, status: int) -> None:
    def redirect(request: Handler, good: Reply) -> None:
        request.send(Reply(status, "text/html", b"", {"Location": f"{request.path}?again"}))

    server.misbehave, server.meant = redirect, lambda request: "?again" not in request.path
    assert Pacs(server.url).image(ONE) == server.images[ONE.instance]
    assert len(server.asked) == 2


@pytest.mark.parametrize(("status", "stored"), [(301, 0), (302, 0), (303, 0), (307, 1), (308, 1)])
def test_a_document_is_redirected_within_the_archive_only_if_it_stays_a_document(
    server: Server, status: int, stored: int
) -> None:
    server.misbehave = lambda request, good: request.send(Reply(status, headers={"Location": "/dicom-web/studies/"}))
    server.meant = lambda request: not request.path.endswith("/")
    if stored:
        Pacs(server.url).store([b"SR"])
    else:
        with pytest.raises(PacsError, match="redirects a document"):
            Pacs(server.url).store([b"SR"])
    assert len([one for one in server.asked if one.path.endswith("/")]) == stored


@pytest.mark.parametrize(
    "after",
    ["31536000", format_datetime(datetime.now(UTC) + timedelta(days=30)), "0"],
    ids=["a year", "a date", "none"],
)
def test_a_wait_that_the_archive_asks_for_is_limited_and_said(server: Server, after: str) -> None:
    server.misbehave = answers(429, Retry_After=after)
    server.meant = lambda request: server.misbehaved < 2
    said: list[str] = []
    assert len(list(Pacs(server.url, tell=said.append).studies())) == 4
    wait = "0" if after == "0" else "0.002"
    assert said == [f"the archive is busy (HTTP 429); waiting {wait} s as it asks"] * 2


def test_an_archive_that_reads_slowly_gets_the_whole_document(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # a socket's timeout counts for all bytes of one call of send
    monkeypatch.setattr("llava_rad.pacs.transport.TIMEOUT_S", (0.6, 10.0))
    document = bytes(12 << 20)

    def read(self: Handler) -> None:
        length = int(self.headers["content-length"])
        while length:
            length -= len(self.rfile.read(min(length, 1 << 20)))
            server.ended.wait(0.1)
        server.stored.append(b"all")
        self.send(Reply().json({"00081199": {"vr": "SQ", "Value": [{}]}}))

    monkeypatch.setattr(Handler, "do_POST", read)
    Pacs(server.url).store([document])
    assert server.stored == [b"all"]


def test_an_image_is_held_once_in_memory(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_rad.pacs.client.MAX_FILE_BYTES", 256 << 20)
    size = 48 << 20
    image = server.images[ONE.instance]
    element = b"\xfc\xff\xfc\xffOB\0\0" + size.to_bytes(4, "little")  # trailing padding
    body = b"".join((PART, image, element, bytes(size), END))
    server.misbehave = lambda request, good: request.send(Reply(200, good.kind, body))
    pacs = Pacs(server.url)
    tracemalloc.start()
    try:
        content = pacs.image(ONE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(content) == len(image) + len(element) + size and content.startswith(image)
    assert peak < 1.4 * size


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_an_own_authority_and_a_token_go_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setattr("llava_rad.pacs.transport.BACKOFF_S", 0.001)
    with serving(context) as server:
        url = server.url.replace("http:", "https:")
        with pytest.raises(PacsError, match="certificate is not trusted"):
            list(Pacs(url).studies())
        for bundle in (tmp_path / "none.pem", Path(__file__)):
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
            with pytest.raises(PacsError, match="REQUESTS_CA_BUNDLE names cannot be read"):
                list(Pacs(url).studies())
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        monkeypatch.setenv(TOKEN, "abc")
        assert list(Pacs(url).studies()) == []
        assert server.asked[-1].headers["Authorization"] == "Bearer abc"
        monkeypatch.setattr("llava_rad.pacs.transport.DEADLINE_S", 0.5)
        server.misbehave = lambda request, good: request.raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 999, pause=0.02)
        with pytest.raises(PacsError, match="in time"):
            list(Pacs(url).studies(modalities=["DX"]))
