"""Client of OpenAI-compatible servers (vLLM, llama.cpp, Ollama, TGI): chat completions, streamed.

Form of requests and answers: OpenAI's API reference, POST /v1/chat/completions; of the stream: server-sent events
(WHATWG HTML, section 9.2). Requests go to one address: redirects are refused, on this machine proxies are not asked.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from encoder.errors import ConfigError, LlavaRadError
from llava_rad.generation.header_deadline import begun
from llava_rad.pacs.transport import retry_after

if TYPE_CHECKING:
    import httpx2 as httpx

PREFIX: Final = "openai:"
KEY: Final = "LLAVA_RAD_MODEL_KEY"
"""Environment variable of the key, which is sent as a bearer token."""
CONNECT_S: Final = 10.0
LIST_S: Final = 30.0
"""Seconds for the list of models."""
TRIES: Final = 4
BACKOFF_S: Final = 0.5
"""Delay before the second try; doubled for each later one."""
MAX_WAIT_S: Final = 60.0
"""Longest delay that ``Retry-After`` causes."""
MAX_ANSWER: Final = 8 << 20
"""Most bytes of an answer: a streamed one has a few hundred for each token."""
_BUSY: Final = (408, 425, 429, 500, 502, 503, 504)
_DONE: Final = "[DONE]"
_EXAMPLE: Final = "--model openai:http://127.0.0.1:8000/v1#NAME"


class ServerError(LlavaRadError):
    """The server of a model fails; no message quotes its answer, which may repeat the prompt."""

    exit_code = 5


class BusyError(ServerError):
    """The server is busy, cannot be reached, or broke its answer off; another try may help.

    Attributes:
        after_s: seconds that it asks to wait, or None.
    """

    def __init__(self, message: str, *, after_s: float | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.after_s = after_s


class DownError(BusyError):
    """No connection to the server: no other request will succeed now."""


@dataclass(frozen=True)
class Address:
    """Address of a model behind a server.

    Attributes:
        url: of the API, without a slash at its end.
        name: of the model.
    """

    url: str
    name: str

    @classmethod
    def parse(cls, source: str) -> Address:
        """Read ``openai:URL#NAME``; a URL without a path gets ``/v1``.

        Raises:
            ConfigError: if it has another form, or holds a name and password.
        """
        text = source.removeprefix(PREFIX)
        try:
            parts = urlsplit(text)
            usable = bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.scheme not in ("http", "https") or re.search(r"[\s\x00-\x1f\x7f\\]", parts.netloc):
            raise ConfigError("the address of the model's server is not a URL of http or https", hint=_EXAMPLE)
        if parts.username is not None or parts.password is not None or parts.query:
            raise ConfigError("the address of the model's server holds a key or a query", hint=f"set {KEY} instead")
        if not parts.fragment or not parts.fragment.isprintable() or len(parts.fragment) > 200:
            raise ConfigError("the name of the model is missing after the address of its server", hint=_EXAMPLE)
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}", parts.fragment)

    @property
    def host(self) -> str:
        """Name or IP address of the server."""
        return urlsplit(self.url).hostname or ""

    @property
    def local(self) -> bool:
        """True if the server is this machine: an IP address of it, or ``localhost`` if that leads to one."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            pass
        if self.host != "localhost":
            return False
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except OSError:
            return False
        return all(ipaddress.ip_address(str(one[4][0])).is_loopback for one in found)


@dataclass(frozen=True)
class Request:
    """One chat completion.

    Attributes:
        messages: of the conversation, in the form of the API.
        max_tokens: longest answer.
        temperature: 0 takes the likeliest token.
        seed: of the sampling; sent if the temperature is not 0.
    """

    messages: list[dict[str, Any]]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0

    def body(self, name: str) -> bytes:
        """Return the request as JSON for the model of a name."""
        content: dict[str, Any] = {"model": name, "messages": self.messages, "max_tokens": self.max_tokens}
        content |= {"temperature": self.temperature, "stream": True}
        if self.temperature > 0:
            content["seed"] = self.seed
        return json.dumps(content).encode()


class ChatServer:
    """Connections to one server; threads may share them.

    Args:
        address: of the model.
        seconds: longest time of one answer.
        sleep: waits before another try.
    """

    def __init__(self, address: Address, *, seconds: float, sleep: Callable[[float], object] | None = None) -> None:
        import httpx2 as httpx

        key = os.environ.get(KEY, "").strip()
        if not re.fullmatch(r"[\x21-\x7e]*", key):
            raise ConfigError(f"{KEY} holds characters that a key cannot have")
        self._address, self._seconds = address, seconds
        self._closed = threading.Event()
        self._sleep = sleep or self._closed.wait
        self._client = httpx.Client(
            headers={
                "accept": "text/event-stream, application/json", "accept-encoding": "identity",
                "user-agent": "llava-rad", **({"authorization": f"Bearer {key}"} if key else {}),
            },
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
            follow_redirects=False,
            trust_env=not address.local,  # a proxy of the environment would be another machine
        )  # fmt: skip

    def close(self) -> None:
        """Close connections; waits for another try end."""
        self._closed.set()
        self._client.close()

    def names(self, tries: int = TRIES) -> list[str] | None:
        """Return the names of the models that the server lists; None if it has no list.

        Args:
            tries: of a busy server.

        Raises:
            ServerError: if it cannot be reached, refuses the key, or answers nonsense.
        """
        try:
            (body,) = self._tried(lambda: iter([b"".join(self._answer("GET", "models", b""))]), tries)
        except _Refused as error:
            if error.status in (404, 405, 501):
                return None
            raise
        data = _parsed(body)
        rows = data.get("data") if isinstance(data, dict) else None
        if not isinstance(rows, list):
            return None
        return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row]

    def stream(self, request: Request) -> Generator[str, None, bool]:
        """Yield an answer piece by piece.

        A failed request is repeated, unless a piece of its answer has been yielded.

        Returns:
            False if the answer reached ``max_tokens``.

        Raises:
            ServerError: if no whole answer comes.
        """
        body = request.body(self._address.name)
        ended: list[bool] = []
        yield from self._tried(lambda: self._pieces(body, ended), TRIES)
        return ended[-1]

    def _tried(self, start: Callable[[], Iterator[Any]], tries: int) -> Iterator[Any]:
        """Run a request again while the server is busy and nothing has come of it."""
        for number in range(tries):
            begun = False
            try:
                for piece in start():
                    begun = True
                    yield piece
                return
            except BusyError as error:
                if begun or number == tries - 1 or self._closed.is_set():
                    raise
                wait = BACKOFF_S * 2**number if error.after_s is None else error.after_s
            self._sleep(min(wait, MAX_WAIT_S))

    def _pieces(self, body: bytes, ended: list[bool]) -> Iterator[str]:
        """Yield the pieces of one answer; ``ended`` gets False if it reached its limit, else True."""
        reason: str | None = None
        finished = False
        for event in _events(self._answer("POST", "chat/completions", body)):
            if event == _DONE:
                finished = True
                break
            piece, said = _choice(event)
            reason = said or reason
            if piece:
                yield piece
        if not finished and reason is None:
            raise BusyError("the model's server breaks its answer off")
        ended.append(reason != "length")

    def _answer(self, method: str, path: str, body: bytes) -> Iterator[bytes]:
        """Yield the bytes of one answer.

        Raises:
            ServerError: for an HTTP status other than 200, a compressed or too large answer, or one that takes too
                long.
            BusyError: if another try may help.
        """
        import httpx2 as httpx

        seconds = self._seconds if body else min(self._seconds, LIST_S)
        end, size = time.monotonic() + seconds, 0
        headers = {"content-type": "application/json"} if body else {}
        try:
            url, timeout = f"{self._address.url}/{path}", httpx.Timeout(seconds, connect=CONNECT_S)
            request = self._client.build_request(method, url, content=body, headers=headers, timeout=timeout)
            with contextlib.closing(begun(self._client, request, seconds + min(seconds, CONNECT_S))) as response:
                _check(response)
                for chunk in response.iter_raw():
                    size += len(chunk)
                    if size > MAX_ANSWER:
                        raise ServerError(f"the model's server sends more than {MAX_ANSWER >> 20} MiB")
                    if time.monotonic() > end:
                        raise ServerError("the model's server does not end its answer in time", hint="--server-timeout")
                    yield chunk
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ServerError(
                    "the certificate of the model's server is not trusted",
                    hint="SSL_CERT_FILE names an authority of your own",
                ) from None
            raise DownError(
                "the model's server cannot be reached", hint="is it running, and is --model right?"
            ) from None
        except httpx.TimeoutException:
            kind = ServerError if body else BusyError  # another try of an answer would take as long
            raise kind("the model's server does not answer in time", hint="--server-timeout") from None
        except httpx.HTTPError as error:
            raise BusyError(f"the model's server breaks its answer off ({type(error).__name__})") from None
        except httpx.InvalidURL:
            raise ConfigError(
                "the address of the model's server is not a URL of http or https", hint=_EXAMPLE
            ) from None


class _Refused(ServerError):
    """The server refuses the request.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int) -> None:
        text, hint = f"the model's server refuses the request (HTTP {status})", None
        if status in (401, 403):
            text, hint = f"the model's server refuses the key (HTTP {status})", f"set {KEY}"
        elif status == 404:
            text, hint = "the model's server has no such model or address (HTTP 404)", _EXAMPLE
        elif status in (400, 413, 422):
            hint = "does the model take images, and are they and the prompt short enough for its context?"
        super().__init__(text, hint=hint)
        self.status = status


def _check(response: httpx.Response) -> None:
    """Refuse answers that are no success, redirects among them, and compressed ones, which could be of any size."""
    status = response.status_code
    if status in _BUSY:
        after = retry_after(response.headers)
        raise BusyError(f"the model's server is busy or fails (HTTP {status})", after_s=after)
    if 300 <= status < 400:
        raise ServerError(f"the model's server sends elsewhere (HTTP {status}): redirects are not followed")
    if status != 200:
        raise _Refused(status)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ServerError("the model's server sends a compressed answer, which was not asked for")


def _events(chunks: Iterator[bytes]) -> Iterator[str]:
    """Yield the data of the events of a stream; of a server that does not stream, its one JSON object."""
    lines, data = _lines(chunks), list[str]()
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("{"):
        yield "\n".join([first, *lines])
        return
    for line in itertools.chain([first], lines):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    held = b""
    for chunk in chunks:
        *whole, held = re.split(rb"\r\n|\n|\r(?!\Z)", held + chunk)
        yield from (line.decode("utf-8", "replace") for line in whole)
    yield from (line.decode("utf-8", "replace") for line in held.split(b"\r"))


def _choice(event: str) -> tuple[str, str | None]:
    """Return text and reason of the end of an event.

    Raises:
        ServerError: if it holds an error, or is no part of a chat completion.
    """
    data = _parsed(event)
    if not isinstance(data, Mapping) or "error" in data:
        raise ServerError("the model's server reports an error within its answer")
    choices = data.get("choices")
    if choices == []:  # usage, keep-alive
        return "", None
    first = choices[0] if isinstance(choices, list) else None
    if not isinstance(first, Mapping):
        raise ServerError("the model's server does not answer with a chat completion")
    part = first.get("delta", first.get("message"))
    text = part.get("content") if isinstance(part, Mapping) else None
    reason = first.get("finish_reason")
    if text is not None and not isinstance(text, str):
        raise ServerError("the model's server answers with something else than text")
    return text or "", None if reason is None else str(reason)


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BusyError("the model's server sends no valid JSON") from None
