"""OpenAI-compatible servers: addresses, streams, and the faults of servers and networks."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from encoder.errors import ConfigError
from llava_rad.generation import chat_server
from llava_rad.generation.chat_server import KEY, TRIES, Address, BusyError, ChatServer, Request, ServerError
from tests.llava_rad.standins.chat_server import NAME, StandIn, breaks_off, sends, slow, standing_in, status

SECRET = "QCANARYQ"


@pytest.fixture(scope="module")
def _server() -> Iterator[StandIn]:
    with standing_in(reply=lambda body: "The lungs are clear.") as running:
        yield running


@pytest.fixture
def server(_server: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.delenv(KEY, raising=False)
    _server.faults, _server.received, _server.questions, _server.cut_off = [], [], [], False
    _server.names = [NAME]
    return _server


def request(**more: Any) -> Request:
    return Request([{"role": "user", "content": [{"type": "text", "text": SECRET}]}], **{"max_tokens": 20} | more)


def client(server: StandIn, seconds: float = 30.0, waits: list[float] | None = None) -> ChatServer:
    waited = [] if waits is None else waits
    return ChatServer(Address.parse(server.model), seconds=seconds, sleep=waited.append)


def answer(server: StandIn, seconds: float = 30.0, waits: list[float] | None = None, **more: Any) -> tuple[str, bool]:
    """Return text and completeness of one answer."""
    pieces, text = client(server, seconds, waits).stream(request(**more)), ""
    while True:
        try:
            text += next(pieces)
        except StopIteration as ended:
            return text, ended.value


def fault(server: StandIn, seconds: float = 30.0, waits: list[float] | None = None) -> ServerError:
    with pytest.raises(ServerError) as raised:
        answer(server, seconds, waits)
    assert SECRET not in str(raised.value), "servers repeat the prompt in their errors"
    return raised.value


@pytest.mark.parametrize(
    ("source", "url", "name"),
    [
        ("openai:http://127.0.0.1:8000/v1#a/b", "http://127.0.0.1:8000/v1", "a/b"),
        ("openai:http://localhost:11434#llava:7b", "http://localhost:11434/v1", "llava:7b"),
        ("openai:https://gpu.example.org/serve/v1/#x", "https://gpu.example.org/serve/v1", "x"),
        ("openai:http://[::1]:1234/v1#y z", "http://[::1]:1234/v1", "y z"),
    ],
)
def test_an_address_has_a_url_and_a_name(source: str, url: str, name: str) -> None:
    assert Address.parse(source) == Address(url, name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("openai:", "no.*URL|not a URL"),
        ("openai:ftp://a/v1#x", "not a URL"),
        ("openai:http://#x", "not a URL"),
        ("openai:http://a b/v1#x", "not a URL"),
        ("openai:http://a:99999/v1#x", "not a URL"),
        ("openai:http://[::1/v1#x", "not a URL"),
        (f"openai:http://user:{SECRET}@a/v1#x", "holds a key"),
        (f"openai:http://a/v1?key={SECRET}#x", "holds a key"),
        ("openai:http://a/v1", "name of the model"),
        ("openai:http://a/v1#", "name of the model"),
        ("openai:http://a/v1#\x1b[2J", "name of the model"),
    ],
)
def test_other_addresses_are_refused_without_repeating_them(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        Address.parse(source)
    assert SECRET not in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
        ("10.0.0.1", False), ("[fe80::1]", False), ("example.org", False), ("localhost.example.org", False),
        ("127.0.0.1.example.org", False), ("2130706433", False),
    ],
)  # fmt: skip
def test_only_this_machine_is_local(host: str, local: bool) -> None:
    assert Address.parse(f"openai:http://{host}:1/v1#x").local is local


def test_a_localhost_that_leads_elsewhere_is_not_local(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", ("127.0.0.1", 0)), (2, 1, 6, "", ("10.1.2.3", 0))]
    monkeypatch.setattr(chat_server.socket, "getaddrinfo", lambda *given, **more: found)
    assert not Address.parse("openai:http://localhost:1/v1#x").local


def test_an_answer_is_streamed_and_its_settings_are_sent(server: StandIn) -> None:
    assert answer(server, max_tokens=7) == ("The lungs are clear. ", True)
    assert answer(server, temperature=0.5, seed=3) == ("The lungs are clear. ", True)
    server.cut_off = True
    assert answer(server) == ("The lungs are clear. ", False)
    greedy, sampled, _ = server.questions
    assert (greedy["model"], greedy["max_tokens"], greedy["temperature"], greedy["stream"]) == (NAME, 7, 0.0, True)
    assert "seed" not in greedy and (sampled["temperature"], sampled["seed"]) == (0.5, 3)


def test_the_key_comes_from_the_environment_only(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-company")
    answer(server)
    monkeypatch.setenv(KEY, "open-sesame")
    answer(server)
    without, with_key = server.received
    assert b"authorization" not in without.lower() and b"sk-of-another" not in without
    assert b"authorization: Bearer open-sesame" in with_key
    monkeypatch.setenv(KEY, "two words")
    with pytest.raises(ConfigError, match=KEY):
        answer(server)


def test_no_proxy_of_the_environment_gets_what_is_for_this_machine(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    assert answer(server)[1]


def test_a_busy_server_is_asked_again_as_it_wishes(server: StandIn) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server.faults = [status(429, retry_after="7"), status(503, retry_after=date), status(503, retry_after="9999")]
    waits: list[float] = []
    assert answer(server, waits=waits)[0] == "The lungs are clear. "
    assert waits[0] == 7 and 20 < waits[1] <= 30 and waits[2] == chat_server.MAX_WAIT_S


@pytest.mark.parametrize("code", [500, 502, 429])
def test_a_server_that_keeps_failing_is_given_up(server: StandIn, code: int) -> None:
    server.faults = [status(code) for _ in range(TRIES)]
    waits: list[float] = []
    assert f"HTTP {code}" in str(fault(server, waits=waits))
    assert len(server.questions) == TRIES and waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("code", "hint"), [(400, "images"), (401, KEY), (403, KEY), (404, "--model"), (413, "short"), (418, "")]
)
def test_a_refused_request_is_not_repeated(server: StandIn, code: int, hint: str) -> None:
    server.faults = [status(code)]
    error = fault(server)
    assert f"HTTP {code}" in str(error) and hint in (error.hint or "")
    assert len(server.questions) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_refused(server: StandIn, code: int) -> None:
    with standing_in() as other:
        server.faults = [status(code, location=f"{other.url}/chat/completions")]
        assert "redirects are not followed" in str(fault(server))
        assert other.received == [] and len(server.questions) == 1


def test_an_answer_that_breaks_off_is_asked_for_again_unless_it_was_shown(server: StandIn) -> None:
    server.faults = [breaks_off(0), breaks_off(0)]
    assert answer(server) == ("The lungs are clear. ", True)
    assert len(server.questions) == 3
    server.faults = [breaks_off(2)]
    pieces = client(server).stream(request())
    assert [next(pieces), next(pieces)] == ["Half ", "Half "]
    with pytest.raises(BusyError, match=r"no valid JSON|breaks its answer off"):
        next(pieces)
    assert len(server.questions) == 4, "its pieces would come twice"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'data: {"error": {"message": "QCANARYQ"}}\n\n', "reports an error"),
        (b'{"error": {"message": "QCANARYQ"}}', "reports an error"),
        (b'data: {"choices": "QCANARYQ"}\n\n', "not answer with a chat completion"),
        (b'data: {"choices": [{"delta": {"content": ["QCANARYQ"]}}]}\n\n', "something else than text"),
        (b"data: [1, 2]\n\n", "reports an error"),
        (b"<html>QCANARYQ</html>", "breaks its answer off"),
        (b"", "breaks its answer off"),
        (b"data: {\n\n", "no valid JSON"),
        (b'{"choices": [{"message": {"content": "QCANARYQ"', "no valid JSON"),
        (b"[" * 200_000, "breaks its answer off"),
        (b'{"a":' * 200_000, "no valid JSON"),
    ],
)
def test_nonsense_is_one_line(server: StandIn, data: bytes, message: str) -> None:
    server.faults = [sends(data)] * TRIES
    assert message in str(fault(server))


def test_a_compressed_answer_is_refused(server: StandIn) -> None:
    server.faults = [sends(b"\x1f\x8b", content_encoding="gzip")]
    assert "compressed" in str(fault(server))


def test_an_answer_is_limited_in_size(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_server, "MAX_ANSWER", 1 << 20)
    server.faults = [sends(b"x" * (3 << 20))]
    assert "more than 1 MiB" in str(fault(server))
    assert len(server.questions) == 1


def test_a_slow_answer_ends_in_time(server: StandIn) -> None:
    server.faults = [slow(3)]
    assert "does not answer in time" in str(fault(server, seconds=0.2))
    assert len(server.questions) == 1


def test_an_answer_that_drips_ends_in_time(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def drip(handler: Any, body: Any) -> None:
        handler.begin()
        while not ended.wait(0.05):
            handler.wfile.write(b": still there\n")

    server.faults = [drip]
    assert "does not end its answer in time" in str(fault(server, seconds=0.5))
    ended.set()


def test_headers_that_drip_end_in_time() -> None:
    """Each byte comes well within the timeout of a read, and the headers never end."""
    stop = threading.Event()

    def drip(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nx-slow: ")
                while not stop.wait(0.05):
                    connection.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        address = Address.parse(f"openai:http://127.0.0.1:{listener.getsockname()[1]}/v1#m")
        client = ChatServer(address, seconds=0.5, sleep=lambda _: None)
        begin = time.monotonic()
        with pytest.raises(ServerError, match="does not answer in time"):
            list(client.stream(request()))
        assert time.monotonic() - begin < 10
        stop.set()
        client.close()


def test_a_server_that_is_not_there_is_named_after_bounded_tries() -> None:
    with standing_in() as gone:
        address = Address.parse(gone.model)
    waits: list[float] = []
    with pytest.raises(BusyError, match="cannot be reached"):
        ChatServer(address, seconds=5, sleep=waits.append).names()
    assert len(waits) == TRIES - 1


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_streams_are_read_as_the_standard_has_them(server: StandIn, end: bytes) -> None:
    """By hand from WHATWG HTML, 9.2.6: comments, other fields, no space after the colon, several data lines."""
    event = [
        b": comment", b"id: 1", b"event: message",
        'data:{"choices": [{"delta": {"content": "Größe "}}]}'.encode(), b"",
        b'data: {"choices":', b'data: [{"delta": {"content": "3 cm"}, "finish_reason": "stop"}]}', b"",
        b"data: [DONE]", b"",
    ]  # fmt: skip
    server.faults = [sends(end.join(event) + end)]
    assert answer(server) == ("Größe 3 cm", True)


def test_a_server_that_does_not_stream_is_understood(server: StandIn) -> None:
    body = {"choices": [{"message": {"role": "assistant", "content": "Clear."}, "finish_reason": "length"}]}
    server.faults = [lambda handler, asked: handler.whole(200, json.dumps(body, indent=2).encode())]
    assert answer(server) == ("Clear.", False)


def test_the_list_of_models_may_be_missing(server: StandIn) -> None:
    assert client(server).names() == [NAME]
    server.names = None
    assert client(server).names() is None
