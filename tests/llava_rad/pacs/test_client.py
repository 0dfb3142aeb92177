"""Faulty answers of a server: each gives a message of one line that names no study."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llava_rad.pacs.client import Instance, Pacs
from llava_rad.pacs.transport import PacsError

Reply = tuple[int, str, bytes]
ONE = Instance("1.2.3", "1.2.4", "1.2.5")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_rad.pacs.transport.BACKOFF_S", 0.01)


@pytest.fixture
def answers() -> Iterator[tuple[str, list[Reply], list[tuple[str, bytes]]]]:
    """Address of a server, its answers in order (the last is repeated), and the requests that it received."""
    replies: list[Reply] = []
    asked: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            asked.append((f"{self.command} {self.path}", body))
            status, kind, content = replies.pop(0) if len(replies) > 1 else replies[0]
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web", replies, asked
    server.shutdown()
    server.server_close()


def studies(pacs: Pacs) -> object:
    return list(pacs.studies())


JSON = "application/dicom+json"
FAULTS: list[tuple[Reply, str]] = [
    ((401, "text/plain", b""), "refuses the credentials"),
    ((403, "text/plain", b""), "refuses the credentials"),
    ((404, "text/plain", b""), "no resource at that address"),
    ((500, "text/plain", b"Traceback 1.2.3"), "HTTP 500"),
    ((200, "text/html", b"<html>login</html>"), "not answer as DICOMweb"),
    ((200, JSON, b"[{"), "not answer as DICOMweb"),
    ((200, JSON, b'[{"0020000D": {"vr": "UI", "Value": ["../../etc"]}}]'), "wrong kind"),
    ((200, JSON, b'[{"0020000D": {"vr": "UI", "Value": [17]}}]'), "wrong kind"),
    ((200, JSON, b'[{"0020000D": {"vr": "UI"}}]'), "wrong kind"),
    ((200, JSON, b"[{}]"), "wrong kind"),
]


@pytest.mark.parametrize(("reply", "said"), FAULTS)
def test_faults_of_a_search_are_one_line(
    answers: tuple[str, list[Reply], list[tuple[str, bytes]]], reply: Reply, said: str
) -> None:
    url, replies, _ = answers
    replies.append(reply)
    with pytest.raises(PacsError, match=said) as raised:
        studies(Pacs(url))
    assert "1.2.3" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_busy_server_is_asked_again(answers: tuple[str, list[Reply], list[tuple[str, bytes]]]) -> None:
    url, replies, asked = answers
    found = json.dumps([{"0020000D": {"vr": "UI", "Value": ["1.2.3"]}}]).encode()
    replies += [(503, "text/plain", b""), (503, "text/plain", b""), (200, JSON, found), (200, JSON, b"[]")]
    assert studies(Pacs(url)) == ["1.2.3"]
    assert len(asked) == 5, "three tries of CR and its end, and DX"


def test_a_server_that_is_down_or_speaks_no_tls(answers: tuple[str, list[Reply], list[tuple[str, bytes]]]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(PacsError, match="cannot be reached"):
        studies(Pacs(f"http://127.0.0.1:{port}/dicom-web"))
    url, replies, _ = answers
    replies.append((200, JSON, b"[]"))
    with pytest.raises(PacsError, match=r"certificate is not trusted|cannot be reached"):
        studies(Pacs(url.replace("http:", "https:")))


def refusing(reason: int) -> bytes:
    failed = {"00081199": {}, "00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}
    return json.dumps(failed).encode()


@pytest.mark.parametrize(
    ("reply", "said"),
    [((409, JSON, refusing(0x0110)), "refuses 1 of 1"), ((200, JSON, refusing(0xA700)), "refuses 1 of 1"),
     ((413, "text/plain", b""), "HTTP 413"), ((401, "text/plain", b""), "refuses the credentials")],
)  # fmt: skip
def test_refusals_of_a_document(
    answers: tuple[str, list[Reply], list[tuple[str, bytes]]], reply: Reply, said: str
) -> None:
    url, replies, asked = answers
    replies.append(reply)
    with pytest.raises(PacsError, match=said):
        Pacs(url).store([b"SR"])
    assert asked[0][0] == "POST /dicom-web/studies" and b"\r\n\r\nSR\r\n--" in asked[0][1]


def test_a_duplicate_is_what_was_wanted(answers: tuple[str, list[Reply], list[tuple[str, bytes]]]) -> None:
    url, replies, _ = answers
    replies.append((409, JSON, refusing(0x0111)))
    Pacs(url).store([b"SR"])
