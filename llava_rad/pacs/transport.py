"""HTTP requests to one archive: to its own origin only, limited in time and size, repeated with growing delays."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from encoder.errors import LlavaRadError
from llava_rad.pacs.deadline import Deadline, adapter

if TYPE_CHECKING:
    import requests

USER, PASSWORD, TOKEN = "LLAVA_RAD_PACS_USER", "LLAVA_RAD_PACS_PASSWORD", "LLAVA_RAD_PACS_TOKEN"
TIMEOUT_S: Final = (10.0, 60.0)
"""Seconds for connecting, and between two pieces of an answer."""
DEADLINE_S: Final = 60.0
"""Seconds for a whole request, beside the time that its bytes take at ``deadline.MIN_RATE``."""
RETRIES: Final = 5
BROKEN_RETRIES: Final = 2
"""Retries of requests whose answer breaks off; connecting is tried ``RETRIES`` times again."""
BACKOFF_S: Final = 0.3
"""Delay before the first retry; doubled for each later one."""
MAX_WAIT_S: Final = 15.0
"""Longest delay that ``Retry-After`` causes."""
REDIRECTS: Final = 5
_SUCCESS = (200, 202, 204, 206, 409)
"""HTTP statuses whose answer says more; 409 is that of documents which the archive does not store."""
_BUSY = (408, 429, 502, 503, 504)
_CHUNK = 1 << 16

Tell = Callable[[str], None]


class PacsError(LlavaRadError):
    """A request to the archive failed; no message names a study or a patient."""


class PacsUsageError(PacsError):
    """A request makes no sense: an address, a date, a UID or a modality of another form."""

    exit_code = 2


class SlowError(PacsError):
    """No answer came in time, or the archive stayed busy."""


class BrokenError(PacsError):
    """The connection ended before the whole answer came."""


class UnreachableError(PacsError):
    """No connection to the archive: no other request will succeed now."""


@dataclass(frozen=True)
class Answer:
    """Answer of the archive.

    Attributes:
        status: HTTP status.
        header: the parsed Content-Type.
        body: content, which ``getvalue`` returns without a copy; empty for an error.
    """

    status: int
    header: Message
    body: io.BytesIO

    @property
    def kind(self) -> str:
        """Content type for decisions and messages: a type, "HTML", or "no type"."""
        if "content-type" not in self.header:
            return "no type"
        kind = self.header.get_content_type()
        if "html" in kind:
            return "HTML"
        return kind if re.fullmatch(r"[a-z0-9.+-]{1,30}/[a-z0-9.+-]{1,50}", kind) else "an unknown type"


class Transport:
    """Sends requests below one URL.

    Credentials come from the environment (a bearer token, or name and password in UTF-8), from the URL, or from
    ``~/.netrc``. A redirect is followed within the origin (scheme, host, port) of the URL only.

    Args:
        url: of the service.
        tell: receives one line for each wait that the archive asks for.

    Raises:
        PacsError: if requests is not installed.
        PacsUsageError: if the URL or the credentials have another form.
    """

    def __init__(self, url: str, tell: Tell) -> None:
        try:
            import requests
            from urllib3.exceptions import LocationParseError
            from urllib3.util import parse_url
        except ImportError:
            raise PacsError("DICOMweb needs requests", hint="pip install 'llava-rad[pacs]'") from None
        wrong = PacsUsageError(
            "the archive's address is not a URL of http or https", hint="--url https://HOST/dicom-web"
        )
        if not re.fullmatch(r"(?i:https?)://[^\s\\?#\x00-\x1f\x7f]+", url):
            raise wrong
        try:
            parts = parse_url(url)
            if not parts.host:
                raise wrong
            parts.host.encode("idna")
        except (LocationParseError, UnicodeError):
            raise wrong from None
        self._url = parts._replace(auth=None).url.rstrip("/")
        self._origin = _origin(self._url)
        self._tell = tell
        self._deadline = Deadline()
        self._session = requests.Session()
        self._session.auth = _authorization(url)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter(self._deadline))

    def close(self) -> None:
        """Close connections."""
        self._session.close()

    def get(self, path: str, *, accept: str, limit: int, parameters: Mapping[str, str | int] | None = None) -> Answer:
        """Return the answer to GET.

        Args:
            path: below the URL.
            accept: media types.
            limit: most bytes of the answer.
            parameters: of the query.

        Raises:
            PacsError: if no whole answer comes, or one with an error.
        """
        return self._repeated("GET", path, {"Accept": accept}, limit, parameters=parameters)

    def post(self, path: str, body: bytes, *, content_type: str, accept: str, limit: int) -> Answer:
        """Return the answer to POST, with the status 409 too.

        Raises:
            PacsError: if no whole answer comes, or one with an error.
        """
        return self._repeated("POST", path, {"Accept": accept, "Content-Type": content_type}, limit, body=body)

    def _repeated(
        self, method: str, path: str, headers: dict[str, str], limit: int, *,
        body: bytes | None = None, parameters: Mapping[str, str | int] | None = None,
    ) -> Answer:  # fmt: skip
        for number in range(RETRIES + 1):
            delay = BACKOFF_S * 2**number
            try:
                answer, after = self._once(method, path, headers, limit, body, parameters)
            except (BrokenError, UnreachableError) as error:
                retries = BROKEN_RETRIES if isinstance(error, BrokenError) else RETRIES
                if number >= retries or isinstance(error, _Certificate):
                    raise
            else:
                if answer.status in _SUCCESS:
                    return answer
                if answer.status not in _BUSY:
                    raise StatusError(answer.status)
                if number == RETRIES:
                    break
                if after is not None:
                    delay = min(after, MAX_WAIT_S)
                    self._tell(f"the archive is busy (HTTP {answer.status}); waiting {delay:.3g} s as it asks")
            time.sleep(delay)
        raise SlowError(f"the archive is unavailable: {RETRIES + 1} tries gave HTTP {answer.status}")

    def _once(
        self, method: str, path: str, headers: dict[str, str], limit: int,
        body: bytes | None, parameters: Mapping[str, str | int] | None,
    ) -> tuple[Answer, float | None]:  # fmt: skip
        import requests
        import urllib3

        url = f"{self._url}/{path}"
        with self._deadline.running(DEADLINE_S, len(body or b"")) as deadline:
            try:
                for _ in range(REDIRECTS + 1):
                    # a stream is sent in small pieces: the timeout of a single send counts for all of its bytes
                    data = None if body is None else io.BytesIO(body)
                    response = self._session.request(
                        method, url, data=data, params=dict(parameters or {}), headers=headers, timeout=TIMEOUT_S,
                        stream=True, allow_redirects=False,
                    )  # fmt: skip
                    with response:
                        if response.status_code not in (301, 302, 303, 307, 308):
                            answer = _read(response, limit, deadline)
                            if deadline.over:  # an answer that ends with its connection looks whole
                                raise requests.Timeout
                            return answer, retry_after(response.headers)
                        url, parameters = self._redirected(method, url, response), None
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise _failure(error, deadline) from None
        raise PacsError(f"the archive redirects more than {REDIRECTS} times")

    def _redirected(self, method: str, url: str, response: requests.Response) -> str:
        """Return the address of a redirect, if it stays within the origin: it would take credentials and reports along.

        Raises:
            PacsError: if it does not.
        """
        from urllib.parse import urljoin

        from urllib3.exceptions import LocationParseError

        if method == "POST" and response.status_code not in (307, 308):
            raise PacsError(f"the archive redirects a document without storing it (HTTP {response.status_code})")
        location = str(response.headers.get("location", ""))
        try:
            # a backslash ends the host for some parsers and not for others
            if not location or re.search(r"[\s\\@\x00-\x1f\x7f]", location):
                raise ValueError
            target = urljoin(url, location)
            origin = _origin(target)
        except (LocationParseError, ValueError):
            raise PacsError("the archive redirects to an address that is no URL") from None
        for what, mine, other in zip(("scheme", "host", "port"), self._origin, origin, strict=True):
            if mine != other:
                raise PacsError(
                    f"the archive redirects to another {what}, which is not followed",
                    hint="--url names the address of the service itself",
                )
        return target


class _Certificate(UnreachableError):
    """The archive's certificate is not trusted."""


def _read(response: requests.Response, limit: int, deadline: Deadline) -> Answer:
    """Read an answer, at most ``limit`` bytes of it after decompression; the page of an error is left alone."""
    header = Message()
    if (kind := response.headers.get("content-type")) is not None:
        header["content-type"] = re.sub(r"[^\x20-\x7e]", " ", kind)
    answer = Answer(response.status_code, header, io.BytesIO())
    if answer.status in _SUCCESS:
        stated = response.headers.get("content-length", "")
        if stated.isdecimal() and int(stated[:20]) > limit:
            raise PacsError(f"the archive sends more than {limit >> 20} MiB")
        for chunk in response.iter_content(_CHUNK):
            deadline.extend(len(chunk))
            answer.body.write(chunk)
            if answer.body.tell() > limit:
                raise PacsError(f"the archive sends more than {limit >> 20} MiB")
    return answer


class StatusError(PacsError):
    """The archive answers with an HTTP status that is no success.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int) -> None:
        text, hint = f"the archive answers with HTTP {status}", None
        if status in (401, 403):
            text = f"the archive refuses the credentials (HTTP {status})"
            hint = f"set {USER} and {PASSWORD}, or {TOKEN}, or use ~/.netrc"
        elif status == 404:
            text, hint = "the archive has no resource at that address (HTTP 404)", "--url"
        super().__init__(text, hint=hint)
        self.status = status


def _failure(error: Exception, deadline: Deadline) -> PacsError:
    """Return the error of a request that got no whole answer, in words without its address."""
    import requests
    from urllib3.exceptions import ReadTimeoutError

    text = str(error)
    if deadline.over or (
        deadline.connected and (isinstance(error, requests.Timeout | ReadTimeoutError) or "timed out" in text.lower())
    ):
        return SlowError("the archive does not answer in time")
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in text:
        return _Certificate(
            "the archive's certificate is not trusted", hint="REQUESTS_CA_BUNDLE names an authority of your own"
        )
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return PacsError("the archive sends an answer whose compression is damaged")
    if deadline.connected:
        return BrokenError("the archive breaks its answer off")
    if re.search("CA certificate bundle|PEM|X509", text):
        return _Certificate("the certificates that REQUESTS_CA_BUNDLE names cannot be read")
    if isinstance(error, requests.exceptions.SSLError):
        return UnreachableError("the archive cannot be reached by TLS", hint="does --url begin with http or https?")
    return UnreachableError("the archive cannot be reached", hint="is it running, and is --url right?")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``Retry-After`` (RFC 9110, section 10.2.3: a number or a date), or None."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL as the HTTP library reads it."""
    from urllib3.util import parse_url

    parts = parse_url(url)
    scheme = (parts.scheme or "").lower()
    return scheme, (parts.host or "").lower(), parts.port or {"http": 80, "https": 443}.get(scheme, 0)


def _authorization(url: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Return what adds the credentials to a request; requests itself knows names and passwords in Latin-1 only."""
    from base64 import b64encode
    from urllib.parse import unquote

    from requests.utils import get_netrc_auth
    from urllib3.util import parse_url

    user, password, header = os.environ.get(USER), os.environ.get(PASSWORD, ""), None
    if token := os.environ.get(TOKEN, "").strip():
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise PacsUsageError(f"{TOKEN} holds characters that a token cannot have")
        header = f"Bearer {token}"
    elif not user:
        given, _, secret = (parse_url(url).auth or "").partition(":")
        user, password = (unquote(given), unquote(secret)) if given else (get_netrc_auth(url) or (None, ""))
    if header is None and user:
        if ":" in user or re.search(r"[\x00-\x1f\x7f]", user + password):
            raise PacsUsageError("the name holds a colon, or the name or password a control character")
        pair = f"{user}:{password}".encode("utf-8", "surrogateescape")  # RFC 7617
        header = f"Basic {b64encode(pair).decode()}"

    def add(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if header is not None:
            request.headers["Authorization"] = header
        return request

    return add
