"""DICOMweb client of an archive (DICOM PS3.18: QIDO-RS, WADO-RS, STOW-RS).

Images and documents are transferred as bytes: untrusted files are only decoded in the sandbox.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date as Day
from email import message_from_bytes
from typing import Any, Final, NamedTuple

from encoder.json_files import TooDeep, parse_json
from encoder.reader.sandbox import MAX_FILE_BYTES
from llava_rad.pacs.completeness import fault_of
from llava_rad.pacs.transport import Answer, PacsError, PacsUsageError, StatusError, Tell, Transport, UnreachableError

MODALITIES: Final = ("CR", "DX")
PAGE: Final = 200
"""Results that a search asks for at once."""
MAX_RESULTS: Final = 100_000
MAX_PAGES: Final = 5_000
MAX_SEARCH_BYTES: Final = 32 << 20
_OVERHEAD: Final = 1 << 16
"""Most bytes of an answer besides its image."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_DATE = re.compile(r"(?P<day>[0-9]{8})|(?P<first>[0-9]{8})?-(?P<last>[0-9]{8})?")
_IMAGE_KINDS: Final = ("application/dicom", "application/octet-stream", "no type")
_JSON: Final = "application/dicom+json"


@dataclass(frozen=True)
class Instance:
    """UIDs of one image in the archive."""

    study: str
    series: str
    instance: str


class Pacs:
    """DICOMweb client of one archive.

    Credentials come from the environment (a bearer token, or name and password), from the URL or from ``~/.netrc``,
    certificates of a private authority from ``REQUESTS_CA_BUNDLE``. Failed requests are repeated with growing delays.

    Attributes:
        passed_over: number of series that were passed over because they state no modality.

    Args:
        url: of the DICOMweb service, e.g. ``https://pacs.example/dicom-web``.
        tell: receives a line about each wait and about searches that may be incomplete.

    Raises:
        PacsUsageError: if the URL is not http or https.
        PacsError: if requests is not installed.
    """

    def __init__(self, url: str, *, tell: Tell = lambda text: None) -> None:
        self.passed_over = 0
        self._transport = Transport(url, tell)
        self._tell = tell
        self._told: set[str] = set()

    def close(self) -> None:
        """Close connections."""
        self._transport.close()

    def studies(self, *, date: str | None = None, modalities: Sequence[str] = MODALITIES) -> Iterator[str]:
        """Yield the Study Instance UID of each study with images of these modalities, once.

        Args:
            date: day or range in DICOM notation: ``20261126``, ``20261101-``.
            modalities: e.g. CR, DX.

        Raises:
            PacsUsageError: if the date has another form.
            PacsError: if a request fails; at the end, after the studies of other modalities.
        """
        first, last = date_range(date) if date else ("", "")
        errors: list[PacsError] = []
        seen: set[str] = set()
        for modality in modalities:
            filters = {"ModalitiesInStudy": modality} | ({"StudyDate": date} if date else {})
            try:
                for study, found in self._search("studies", "studies", "0020000D", filters):
                    day = _text(found, "00080020") or first
                    if date and _DATE.fullmatch(day) and not first <= day <= last:
                        self._tell_once("the archive ignores dates; studies of other dates are passed over")
                    elif study not in seen:
                        seen.add(study)
                        yield study
            except UnreachableError:
                raise
            except PacsError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def of_patient(self, patient: str, until: str, modalities: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Return date and time of a patient's studies by UID, up to a day (``20261126``), found by patient ID.

        Raises:
            PacsError: if a request fails.
        """
        if re.search(r"[*?\\]", patient):  # wildcards of searches
            return {}
        seen: dict[str, tuple[str, str]] = {}
        for modality in modalities:
            filters = {"PatientID": patient, "StudyDate": f"-{until}", "ModalitiesInStudy": modality}
            for study, found in self._search("studies", "studies", "0020000D", filters):
                if _text(found, "00100020") not in (None, patient):
                    self._tell_once("the archive ignores patient IDs in searches; no earlier studies are found")
                    return {}
                seen[study] = _text(found, "00080020") or "", _text(found, "00080030") or ""
        return seen

    def images(self, study: str, modalities: Sequence[str] = MODALITIES) -> Iterator[Instance]:
        """Yield a study's images of these modalities, once, ordered by their UIDs.

        Raises:
            PacsUsageError: if the study is no UID.
            PacsError: if a request fails; at the end, after the images of other series.
        """
        errors: list[PacsError] = []
        seen: set[str] = set()
        path = f"studies/{checked_uid(study)}/series"
        series = self._kept(self._search("series", path, "0020000E", {}), errors)
        for uid, found in sorted(series, key=lambda one: one[0]):
            modality = _text(found, "00080060")
            if modality is None:
                self.passed_over += 1
            elif modality.upper() in modalities:
                instances = self._search("images", f"{path}/{uid}/instances", "00080018", {})
                for instance, _ in sorted(self._kept(instances, errors), key=lambda one: one[0]):
                    if instance not in seen:
                        seen.add(instance)
                        yield Instance(study, uid, instance)
        if errors:
            raise errors[0]

    def image(self, instance: Instance) -> bytes:
        """Return one image as the DICOM file that was stored.

        Raises:
            PacsError: if the request fails, the answer is no whole DICOM file, or it is larger than
                ``MAX_FILE_BYTES``.
        """
        study, series, uid = map(checked_uid, (instance.study, instance.series, instance.instance))
        answer = self._transport.get(
            f"studies/{study}/series/{series}/instances/{uid}",
            accept='multipart/related; type="application/dicom"; transfer-syntax=*',
            limit=MAX_FILE_BYTES + _OVERHEAD,
        )
        if answer.status not in (200, 206):
            raise PacsError(f"the archive sends no image (HTTP {answer.status})")
        content = only_part(answer)
        if len(content) > MAX_FILE_BYTES:
            raise PacsError(f"the archive sends more than {MAX_FILE_BYTES >> 20} MiB")
        if fault := fault_of(content):
            raise PacsError(f"the archive sends {fault}")
        return content

    def store(self, files: Sequence[bytes]) -> None:
        """Store DICOM files; duplicates are accepted.

        Raises:
            PacsError: if the archive refuses a file, or does not say that it stored it.
        """
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join(piece for file in files for piece in (head, file, b"\r\n")) + f"--{boundary}--\r\n".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        answer = self._transport.post("studies", body, content_type=kind, accept=_JSON, limit=MAX_SEARCH_BYTES)
        if answer.status not in (200, 202, 409):
            raise PacsError(f"the archive does not say what it stored (HTTP {answer.status})")
        found = _json(answer)
        result = found[0] if isinstance(found, list) and len(found) == 1 else found
        if not isinstance(result, dict) or not result.keys() & {"00081198", "00081199"}:
            raise PacsError("the archive does not say what it stored")
        # PS3.18 table I.2-2: 0111H is a duplicate
        refused = [(_values(one, "00081197") or [None])[0] for one in _values(result, "00081198")]
        if any(reason != 0x0111 for reason in refused) or (answer.status == 409 and not refused):
            raise PacsError(f"the archive refuses {len(refused) or len(files)} of {len(files)} documents")
        stored = len(_values(result, "00081199"))
        if 0 < stored < len(set(files)) - len(refused):
            raise PacsError(f"the archive stores {stored} of {len(files)} documents")

    def _search(self, what: str, path: str, tag: str, filters: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield UID and attributes of each result of a search, once.

        Pages are asked for until one brings nothing new: a short page may come from an archive with a limit of its own.
        """
        seen: set[str] = set()
        unusable = offset = received = 0
        limit = PAGE
        for _ in range(MAX_PAGES):
            try:
                results = self._page(path, filters, limit, offset)
            except StatusError as error:
                if not offset or received >= limit or error.status not in (400, 404, 416, 422, 501):
                    raise
                self._tell_once(
                    f"the archive refuses the next page of a search; results after {received} may be missing"
                )
                results = []
            new = 0
            for result in results:
                uid = _text(result, tag)
                usable = uid is not None and len(uid) <= 64 and _UID.fullmatch(uid) is not None
                key = uid if usable and uid is not None else json.dumps(result, sort_keys=True)
                if key in seen:
                    continue
                seen.add(key)
                new += 1
                if usable:
                    yield key, result
                else:
                    unusable += 1
            if len(seen) > MAX_RESULTS:
                break
            if new:
                received, offset = len(results), offset + len(results)
            elif not results or len(results) < limit:
                if 10 <= len(results) <= PAGE:  # no archive limits an answer to less
                    self._tell_once(
                        "the archive repeats its answer in place of the next page; "
                        "results beyond its first page would be missing"
                    )
                if unusable:
                    raise PacsError(
                        f"the archive answers with attributes of a wrong kind: {unusable} {what} without UID"
                    )
                return
            else:  # it ignores the offset, but not the limit
                limit, offset = limit * 8, 0
        raise PacsError(f"a search finds more than {len(seen)} {what}", hint="narrow it: --date, --study")

    def _page(self, path: str, filters: dict[str, str], limit: int, offset: int) -> list[dict[str, Any]]:
        parameters = filters | {"limit": limit} | ({"offset": offset} if offset else {})
        answer = self._transport.get(path, accept=_JSON, limit=MAX_SEARCH_BYTES, parameters=parameters)
        if answer.status == 204:
            return []
        if answer.status not in (200, 206):
            raise PacsError(f"the archive answers a search with HTTP {answer.status}")
        found = _json(answer)
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise _not_dicomweb("no list of results")
        return found

    def _kept(
        self, results: Iterator[tuple[str, dict[str, Any]]], errors: list[PacsError]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield results until an error, which is kept."""
        try:
            yield from results
        except UnreachableError:
            raise
        except PacsError as error:
            errors.append(error)

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)


def checked_uid(text: str) -> str:
    """Return a UID, checked because it becomes part of an address.

    Raises:
        PacsUsageError: if it is none.
    """
    if len(text) > 64 or not _UID.fullmatch(text):
        raise PacsUsageError("this is no UID, such as a study is named by: numbers with dots between them")
    return text


def date_range(text: str) -> tuple[str, str]:
    """Return first and last day of a date or range in DICOM notation.

    Raises:
        PacsUsageError: if it has another form, a day does not exist, or the range is reversed.
    """
    found = _DATE.fullmatch(text)
    if found is None or text == "-":
        raise PacsUsageError("a date is written as 20261126, a range as 20261101-, -20261130 or 20261101-20261130")
    first = found["day"] or found["first"] or "00010101"
    last = found["day"] or found["last"] or "99991231"
    try:
        Day.fromisoformat(first), Day.fromisoformat(last)
    except ValueError:
        raise PacsUsageError("there is no such day; a date is written as year, month, day: 20261126") from None
    if first > last:
        raise PacsUsageError("the range of dates ends before it begins")
    return first, last


def only_part(answer: Answer) -> bytes:
    """Return the one part of a multipart/related answer (RFC 2387); an answer without parts is the file itself.

    Raises:
        PacsError: if the content type is another one, or there is not one whole part.
    """
    kind, body = answer.kind, answer.body
    if kind in _IMAGE_KINDS:
        return body.getvalue()
    if not kind.startswith("multipart/"):
        raise PacsError(f"the archive sends {kind} in place of an image")
    boundary = answer.header.get_boundary()
    if not boundary:
        raise PacsError("the archive sends parts without naming their boundary")
    mark = b"--" + boundary.encode("ascii", "replace")
    content = body.getvalue()  # shares the memory
    first, second, *_ = *_delimiters(content, mark), None, None
    head = -1 if first is None else content.find(b"\r\n\r\n", first.end, first.end + _OVERHEAD)
    if first is None or first.last or head < 0:
        raise PacsError("the archive sends no image: its answer has no part")
    if second is None:
        raise PacsError("the archive sends half an answer: its last boundary is missing")
    if not second.last:
        raise PacsError("the archive sends several parts for one image")
    part = message_from_bytes(content[first.end : head].strip() + b"\r\n\r\n")
    kind = replace(answer, header=part).kind
    if kind not in _IMAGE_KINDS:
        raise PacsError(f"the archive sends a part of {kind} in place of an image")
    start, size = head + 4, max(second.start - head - 4, 0)
    del content
    with body.getbuffer() as view:
        view[:size] = view[start : start + size]
    body.truncate(size)
    return body.getvalue()


class _Delimiter(NamedTuple):
    """A delimiter between parts: its bytes, and whether it is the last."""

    start: int
    end: int
    last: bool


def _delimiters(content: bytes, mark: bytes) -> Iterator[_Delimiter]:
    """Yield the delimiters of parts (RFC 2046, section 5.1.1), the last one also without its line break."""
    start = 0 if content.startswith(mark) else content.find(b"\r\n" + mark)
    while start >= 0:
        end = content.index(mark, start) + len(mark)
        last = content.startswith(b"--", end)
        if last or re.match(rb"[ \t]*\r\n", content[end : end + 80]):  # else the boundary begins another word
            yield _Delimiter(start, end, last)
        start = -1 if last else content.find(b"\r\n" + mark, end)
        if start < 0 and not last and (found := re.search(re.escape(mark) + rb"--\s*\Z", content[-256:])):
            start = max(len(content) - 256, 0) + found.start()
            yield _Delimiter(start, start + len(mark), True)
            return


def _json(answer: Answer) -> Any:
    """Parse an answer in JSON; types are checked where values are taken."""
    content = answer.body.getvalue()
    if answer.kind != "no type" and not answer.kind.endswith("json"):
        raise _not_dicomweb(f"{answer.kind} in place of JSON")
    if not content:
        raise _not_dicomweb("an empty answer")
    try:
        # names in another character set, or with control characters, are none of the attributes that are read
        text = content.decode(json.detect_encoding(content), "replace")
        return parse_json(re.sub(r"[\x00-\x1f]", " ", text))
    except TooDeep as error:
        raise _not_dicomweb(str(error)) from None
    except ValueError:
        raise _not_dicomweb("damaged JSON") from None


def _not_dicomweb(odd: str) -> PacsError:
    return PacsError(
        f"the archive does not answer as DICOMweb requires: {odd}", hint="--url names its DICOMweb service"
    )


def _values(found: Any, tag: str) -> list[Any]:
    """Return the values of an attribute in DICOM JSON, whatever the archive sent in its place."""
    attribute = found.get(tag) if isinstance(found, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []


def _text(found: Any, tag: str) -> str | None:
    """Return the first value of an attribute without padding, or None if it is no text."""
    values = _values(found, tag)
    text = values[0].strip("\0 ") if values and isinstance(values[0], str) else ""
    return text or None
