"""Clients of archives: DICOMweb (DICOM PS3.18: QIDO-RS, WADO-RS, STOW-RS), and C-STORE for archives without it.

Searches use dicomweb-client. Images and documents are transferred as bytes: the library would decode them in this
process, and untrusted files are only decoded in the sandbox.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from encoder.errors import LlavaRadError
from encoder.reader.sandbox import MAX_FILE_BYTES

if TYPE_CHECKING:
    import requests

USER, PASSWORD, TOKEN = "LLAVA_RAD_PACS_USER", "LLAVA_RAD_PACS_PASSWORD", "LLAVA_RAD_PACS_TOKEN"
MODALITIES: Final = ("CR", "DX")
TIMEOUT_S: Final = (10.0, 120.0)
RETRIES: Final = 5
BACKOFF_S: Final = 0.3
"""Delay before the second retry; doubled for each later one."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_PAGE = 200
CALLING: Final = "LLAVARAD"
"""Application entity title of this client."""
_ADDRESS = re.compile(r"([^@\s\\]{1,16})@([^@:\s]+|\[[0-9a-fA-F:]+\]):(\d{1,5})")


class PacsError(LlavaRadError):
    """A request to the archive failed; no message names a study or a patient."""


@dataclass(frozen=True)
class Instance:
    """UIDs of one image in the archive."""

    study: str
    series: str
    instance: str


class Pacs:
    """DICOMweb client of one archive.

    Credentials come from the environment (a bearer token, or name and password) or from ``~/.netrc``, certificates of
    a private authority from ``REQUESTS_CA_BUNDLE``. Failed requests are repeated with growing delays.

    Args:
        url: of the DICOMweb service, e.g. ``https://pacs.example/dicom-web``.

    Raises:
        PacsError: if the URL is not http or https, or dicomweb-client is not installed.
    """

    def __init__(self, url: str) -> None:
        if not re.match(r"https?://[^/\s]+", url):
            raise PacsError("the archive's address is not a URL of http or https", hint="--url https://HOST/dicom-web")
        try:
            import requests
            from dicomweb_client.api import DICOMwebClient
        except ImportError:
            raise PacsError("DICOMweb needs dicomweb-client", hint="pip install 'llava-rad[pacs]'") from None
        self._url = url.rstrip("/")
        self._session = _session(requests.Session())
        self._client = DICOMwebClient(self._url, session=self._session, timeout=TIMEOUT_S)
        self._client.set_http_retry_params(retry=False)  # the session does it

    def close(self) -> None:
        """Close connections."""
        self._session.close()

    def studies(self, *, date: str | None = None, modalities: Sequence[str] = MODALITIES) -> Iterator[str]:
        """Yield the Study Instance UID of each study with images of these modalities, once.

        Args:
            date: day or range in DICOM notation: ``20261126``, ``20261101-``.
            modalities: e.g. CR, DX.

        Raises:
            PacsError: if the request fails.
        """
        seen: set[str] = set()
        for modality in modalities:
            filters = {"ModalitiesInStudy": modality} | ({"StudyDate": date} if date else {})
            for found in self._pages("studies", filters):
                study = _value(found, "0020000D")
                if study not in seen:
                    seen.add(study)
                    yield study

    def images(self, study: str, modalities: Sequence[str] = MODALITIES) -> list[Instance]:
        """Return a study's images of these modalities, ordered by their UIDs.

        Raises:
            PacsError: if a request fails.
        """
        found = []
        for series in self._pages("series", {}, study=study):
            if _value(series, "00080060", uid=False) not in modalities:
                continue
            name = _value(series, "0020000E")
            for one in self._pages("instances", {}, study=study, series=name):
                found.append(Instance(study, name, _value(one, "00080018")))
        return sorted(set(found), key=lambda one: (one.series, one.instance))

    def image(self, instance: Instance) -> bytes:
        """Return one image as the DICOM file that was stored.

        Raises:
            PacsError: if the request fails, or the image is larger than ``MAX_FILE_BYTES``.
        """
        path = f"studies/{instance.study}/series/{instance.series}/instances/{instance.instance}"
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with self._answered() as failed:
            answer = self._session.get(
                f"{self._url}/{path}", headers={"Accept": accept}, timeout=TIMEOUT_S, stream=True
            )
            failed.check(answer)
            body = b""
            for chunk in answer.iter_content(1 << 20):
                body += chunk
                if len(body) > MAX_FILE_BYTES:
                    raise PacsError(f"the archive sends an image of more than {MAX_FILE_BYTES >> 20} MiB")
        return _only_part(body, answer.headers.get("content-type", ""))

    def store(self, files: Sequence[bytes]) -> None:
        """Store DICOM files; duplicates are accepted.

        Raises:
            PacsError: if the archive refuses a file.
        """
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join(head + file + b"\r\n" for file in files) + f"--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        with self._answered() as failed:
            answer = self._session.post(f"{self._url}/studies", body, headers=headers, timeout=TIMEOUT_S)
            failed.check(answer, accept=(409,))
            found = answer.json()
        result = found[0] if isinstance(found, list) and found else found
        refused = result.get("00081198", {}).get("Value", []) if isinstance(result, dict) else []
        # PS3.18 table I.2-2: 0111H is a duplicate
        reasons = [one.get("00081197", {}).get("Value", [0])[0] for one in refused]
        if any(reason != 0x0111 for reason in reasons) or (answer.status_code == 409 and not reasons):
            raise PacsError(f"the archive refuses {len(reasons) or len(files)} of {len(files)} documents")

    def _pages(
        self, what: str, filters: dict[str, str], *, study: str | None = None, series: str | None = None
    ) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            options: dict[str, Any] = {"search_filters": filters, "limit": _PAGE, "offset": offset}
            with self._answered():
                if what == "studies":
                    found = self._client.search_for_studies(**options)
                elif what == "series":
                    found = self._client.search_for_series(study_instance_uid=study, **options)
                else:
                    found = self._client.search_for_instances(
                        study_instance_uid=study, series_instance_uid=series, **options
                    )
            yield from found
            if len(found) < _PAGE:
                return
            offset += len(found)

    def _answered(self) -> _Answered:
        return _Answered()


def send(files: Sequence[Path], to: str) -> None:
    """Send DICOM files by C-STORE.

    Args:
        files: paths.
        to: ``AET@HOST:PORT`` of the archive.

    Raises:
        PacsError: if the address has another form, the archive cannot be reached or refuses a file, or pynetdicom is
            not installed.
    """
    found = _ADDRESS.fullmatch(to)
    if found is None:
        raise PacsError("the address is not of the form AET@HOST:PORT", hint="--to ARCHIVE@127.0.0.1:4242")
    try:
        import pydicom
        from pynetdicom import AE
    except ImportError:
        raise PacsError("C-STORE needs pynetdicom", hint="pip install 'llava-rad[pacs]'") from None
    name, host, port = found.groups()
    entity = AE(ae_title=CALLING)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
    kinds = set()
    for path in files:
        try:
            meta = pydicom.filereader.read_file_meta_info(path)
            kinds.add((meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID))
        except Exception:
            raise PacsError("one of the files is not DICOM with file meta information") from None
    for kind, syntax in sorted(kinds)[:128]:
        entity.add_requested_context(kind, syntax)
    association = entity.associate(host.strip("[]"), int(port), ae_title=name)
    if not association.is_established:
        raise PacsError(
            "the archive cannot be reached, or does not accept this client",
            hint=f"its application entity title is {CALLING}",
        )
    try:
        for number, path in enumerate(files, 1):
            try:
                status = association.send_c_store(path).get("Status")
            except (ValueError, RuntimeError, AttributeError):
                status = None
            if status is None or status & 0xF000 not in (0x0000, 0xB000):
                raise PacsError(f"the archive refuses file {number} of {len(files)}")
    finally:
        association.release()


class _Answered:
    """Turns errors of a request into ``PacsError`` with a message of one line."""

    def __enter__(self) -> _Answered:
        return self

    def check(self, answer: requests.Response, accept: Sequence[int] = ()) -> None:
        """Raise for a status that is not a success."""
        if answer.status_code not in accept:
            answer.raise_for_status()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import requests

        if error is None or isinstance(error, LlavaRadError) or not isinstance(error, Exception):
            return
        if isinstance(error, requests.HTTPError) and error.response is not None:
            status = error.response.status_code
            if status in (401, 403):
                hint = f"set {USER} and {PASSWORD}, or {TOKEN}, or use ~/.netrc"
                raise PacsError(f"the archive refuses the credentials (HTTP {status})", hint=hint) from None
            if status == 404:
                raise PacsError("the archive has no resource at that address (HTTP 404)", hint="--url") from None
            raise PacsError(f"the archive answers with HTTP {status}") from None
        if isinstance(error, requests.exceptions.SSLError):
            raise PacsError(
                "the archive's certificate is not trusted", hint="REQUESTS_CA_BUNDLE names an authority of your own"
            ) from None
        if isinstance(error, requests.exceptions.RetryError):
            raise PacsError(f"the archive is unavailable: {RETRIES} tries failed") from None
        if isinstance(error, requests.exceptions.Timeout):
            raise PacsError("the archive does not answer in time") from None
        if isinstance(error, requests.RequestException | OSError) and not isinstance(error, json.JSONDecodeError):
            raise PacsError("the archive cannot be reached", hint="is it running, and is --url right?") from None
        raise PacsError(
            "the archive does not answer as DICOMweb requires", hint="--url names its DICOMweb service"
        ) from None


def _session(session: requests.Session) -> requests.Session:
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    # storing may be repeated: a document always has the same UID
    again = Retry(
        total=RETRIES, backoff_factor=BACKOFF_S, status_forcelist=(429, 502, 503, 504), allowed_methods={"GET", "POST"}
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=again))
    if token := os.environ.get(TOKEN):
        session.headers["Authorization"] = f"Bearer {token}"
        session.trust_env = False  # ~/.netrc would replace the token
    elif os.environ.get(USER):
        session.auth = (os.environ[USER], os.environ.get(PASSWORD, ""))
    return session


def _value(found: dict[str, Any], tag: str, *, uid: bool = True) -> str:
    """Return an attribute of a search result, checked because it becomes part of a URL."""
    values = found.get(tag, {}).get("Value", [])
    value = values[0] if values else None
    if not isinstance(value, str) or (uid and (len(value) > 64 or not _UID.fullmatch(value))):
        raise PacsError("the archive answers with attributes of a wrong kind")
    return value


def _only_part(body: bytes, content_type: str) -> bytes:
    """Return the first part of a multipart/related answer; an answer without parts is the file itself."""
    found = re.search(r'boundary="?([^";,]+)"?', content_type)
    if "multipart" not in content_type or found is None:
        return body
    parts = body.split(b"--" + found.group(1).encode())
    for part in parts[1:]:
        head, gap, content = part.partition(b"\r\n\r\n")
        if gap and not head.startswith(b"--"):
            return content.removesuffix(b"\r\n")
    raise PacsError("the archive sends no image")
