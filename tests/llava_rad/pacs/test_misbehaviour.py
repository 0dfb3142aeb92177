"""Kinds of misbehaviour of an archive, against pull, watch and push: nothing lost, nothing twice, all end.

The archive misbehaves for one image, search or document, then behaves again; right values are the files themselves.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from llava_rad.pacs.client import Pacs
from llava_rad.pacs.transport import PacsError
from tests.llava_rad.pacs.running import (
    IMAGES,
    Kind,
    answers,
    changes,
    hashes,
    kept,
    pulled,
    pushed,
    watched,
    written,
)  # fmt: skip
from tests.llava_rad.pacs.scripted import END, JSON, PART, Handler, Reply, Server, page, text

pytestmark = pytest.mark.slow

FIRST = "1.2.3.0"
"""Study that the archive misbehaves for."""


def hangs(request: Handler, good: Reply) -> None:
    request.server.ended.wait(5)
    request.drop()


def drips_headers(request: Handler, good: Reply) -> None:
    request.raw(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000, pause=0.02)


def closes(request: Handler, good: Reply) -> None:
    request.drop()


def resets(request: Handler, good: Reply) -> None:
    request.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    request.drop(reset=True)


def cuts_chunks(request: Handler, good: Reply) -> None:
    half = good.body[: len(good.body) // 2]
    request.raw(
        f"HTTP/1.1 200 OK\r\nContent-Type: {good.kind}\r\nTransfer-Encoding: chunked\r\n\r\n{len(half):x}\r\n".encode()
        + half
        + b"\r\n"
    )
    request.drop()


def is_no_http(request: Handler, good: Reply) -> None:
    request.raw(b"220 mail.example ESMTP\r\n")
    request.drop()


def redirects(status: int, where: str) -> Kind:
    """Redirect to ``where``, in which PORT is the archive's and THIEF that of another server."""

    def kind(request: Handler, good: Reply) -> None:
        port, thief = request.server.server_address[1], request.server.thief.server_address[1]  # type: ignore[attr-defined]
        location = where.replace("PORT", str(port)).replace("THIEF", str(thief)).replace("SAME", request.path)
        request.send(Reply(status, "text/html", b"moved", {"Location": location}))

    return kind


BOMB = gzip.compress(bytes(16 << 20))
GENERAL: dict[str, Kind] = {
    "an HTML page": answers(),
    "an HTML page with the right type": changes(lambda body: b"<html>login</html>"),
    "an empty answer": changes(lambda body: b""),
    "no content": answers(204, JSON, b""),
    "no resource": answers(404),
    "gone": answers(410),
    "refused credentials": answers(401),
    "forbidden": answers(403),
    "an internal error that quotes": answers(500, "text/plain", b"1.2.3.0 Doe^Jane"),
    "busy": answers(503),
    "busy for a year": answers(429, Retry_After="31536000"),
    "busy until a date": answers(503, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"),
    "busy, with an unreadable time": answers(503, Retry_After="soon"),
    "silence": hangs,
    "headers that drip": drips_headers,
    "a body that drips": lambda request, good: request.send(good, pause=0.1),
    "a body that drips without length": lambda request, good: request.send(
        Reply(good.status, good.kind, good.body, {"Content-Length": ""}), pause=0.1
    ),
    "a closed connection": closes,
    "a reset connection": resets,
    "half of the length": lambda request, good: request.send(good, cut=len(good.body) // 2),
    "half of the body without length": lambda request, good: request.send(
        Reply(good.status, good.kind, good.body[: len(good.body) // 2], {"Content-Length": ""})
    ),
    "half of the chunks": cuts_chunks,
    "another protocol": is_no_http,
    "damaged compression": changes(lambda body: b"\x1f\x8b" + body, Content_Encoding="gzip"),
    "a compressed bomb": changes(lambda body: BOMB, Content_Encoding="gzip"),
    "more than the limit": lambda request, good: request.send(Reply(200, good.kind, good.body + bytes(5 << 20))),
    "XML": answers(200, "application/dicom+xml", b"<NativeDicomModel/>"),
    "a type with an odd name": answers(200, "Doe^Jane 1.2.3.0", b"x"),
    "a redirect to another port": redirects(307, "http://127.0.0.1:THIEF/dicom-web/studies"),
    "a redirect to another host": redirects(302, "http://localhost:THIEF/"),
    "a redirect to another scheme": redirects(308, "https://127.0.0.1:PORT/dicom-web"),
    "a redirect that hides its host": redirects(307, "http://127.0.0.1:THIEF\\@127.0.0.1:PORT/"),
    "a redirect with a name in it": redirects(307, "http://127.0.0.1:PORT@127.0.0.1:THIEF/"),
    "a redirect without scheme": redirects(307, "//127.0.0.1:THIEF/"),
    "a redirect to itself": redirects(307, "SAME"),
    "a redirect to nowhere": redirects(302, ""),
    "a redirect to a login": redirects(302, "/login"),
}
OF_IMAGES: dict[str, Kind] = {
    "half a file": changes(lambda body: PART + body[len(PART) : len(body) // 2] + END),
    "no last boundary": changes(lambda body: body.removesuffix(END)),
    "no part": changes(lambda body: b"--XX--\r\n"),
    "two parts": changes(lambda body: body.removesuffix(b"--XX--\r\n") + body),
    "a part that is a page": changes(lambda body: b"--XX\r\nContent-Type: text/html\r\n\r\n<html>" + END),
    "a part without preamble": changes(lambda body: PART + body[len(PART) + 132 :]),
    "a part without content": changes(lambda body: PART + END),
    "another boundary": changes(lambda body: body, kind="multipart/related; boundary=YY"),
    "no boundary": changes(lambda body: body, kind="multipart/related"),
    "a thumbnail": answers(200, "image/jpeg", b"\xff\xd8\xff"),
    "its attributes": answers(200, JSON, b"[{}]"),
}
OF_SEARCHES: dict[str, Callable[[str, dict[str, str], list[Any]], Any]] = {
    "a limit of its own": lambda path, asked, found: page(path, asked | {"limit": "2"}, found),
    "neither limit nor offset": lambda path, asked, found: found,
    "no offset": lambda path, asked, found: found[: int(asked["limit"])],
    "every result twice": lambda path, asked, found: page(path, asked, [one for one in found for _ in (1, 2)]),
    "no filters": lambda path, asked, found: (
        page(path, asked, [{"0020000D": text(f"1.2.3.{n}", "UI")} for n in range(IMAGES)])
        if path == "/studies"
        else page(path, asked, found)
    ),
    "padded values": lambda path, asked, found: page(
        path, asked, json.loads(json.dumps(found).replace('"]', '\\u0000"]').replace('DX\\u0000"', 'DX "'))
    ),
    "a series without modality": lambda path, asked, found: page(
        path, asked, [{"0020000E": text("1.9", "UI")}, *found] if path.endswith("/series") else found
    ),
    "modalities of other kinds": lambda path, asked, found: page(
        path,
        asked,
        [
            *({"0020000E": text(f"1.9.{n}", "UI"), "00080060": odd} for n, odd in enumerate(ODD)),
            *found,
        ]
        if path.endswith("/series")
        else found,
    ),
}
ODD: list[Any] = [None, {}, [], "DX", {"vr": "CS"}, {"Value": None}, {"Value": []}, {"Value": [None]}, {"Value": [7]}]
ODD_RESULTS: dict[str, Any] = {
    "no list": {"0020000D": "x"},
    "null": None,
    "a list of other things": [None, 7, "x"],
    "a path as UID": [{"0020000D": text("../../etc", "UI"), "0020000E": text("../..", "UI")}],
    "a number as UID": [{"0020000D": {"vr": "UI", "Value": [17]}}],
    "no UID": [{}],
    "a UID that is too long": [{"0020000D": text("1" * 65, "UI")}],
    "a UID in other digits": [{"0020000D": text("١.٢", "UI")}],
    "attributes that are no attributes": [{"0020000D": "1.2", "0020000E": [1]}, {"0020000D": {"Value": {"a": 1}}}],
}


def third(kinds: Iterable[str], first: int) -> list[Any]:
    """Every third kind; the others are nightly. ``pull`` meets all of them each time, the other jobs share its code."""
    return [kind if n % 3 == first else pytest.param(kind, marks=pytest.mark.nightly) for n, kind in enumerate(kinds)]


@pytest.fixture
def impatient(server: Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short deadlines for the kinds that wait for them."""
    if any(word in request.node.callspec.params["kind"] for word in ("drip", "silence")):
        monkeypatch.setattr("llava_rad.pacs.transport.DEADLINE_S", 1.0)
        monkeypatch.setattr("llava_rad.pacs.transport.TIMEOUT_S", (10.0, 0.7))


def of_first_image(request: Handler) -> bool:
    return request.path.endswith(f"{FIRST}.1.1")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", [*GENERAL, *OF_IMAGES])
def test_pull_passes_over_an_image_and_fetches_it_later(server: Server, tmp_path: Path, kind: str) -> None:
    server.misbehave, server.meant = (GENERAL | OF_IMAGES)[kind], of_first_image
    said: list[str] = []
    count = pulled(server, tmp_path / "out", said)
    assert server.misbehaved and (count.new, count.failed, count.exit_code) == (IMAGES - 1, 1, 3)
    assert len(said) == 1 or "busy" in kind
    assert len(kept(tmp_path / "out")) == IMAGES - 1 and set(kept(tmp_path / "out")) < set(hashes(server))
    server.heal()
    again = pulled(server, tmp_path / "out", said)
    assert (again.new, again.known, again.exit_code) == (1, IMAGES - 1, 0)
    assert kept(tmp_path / "out") == hashes(server)


@pytest.mark.usefixtures("impatient", "documents")
@pytest.mark.parametrize("kind", third([*GENERAL, *OF_IMAGES], 0))
def test_watch_tries_an_image_and_a_document_again(server: Server, tmp_path: Path, kind: str) -> None:
    second = hashlib.sha256(server.images["1.2.3.1.1.1"]).hexdigest().encode()
    server.misbehave = (GENERAL | OF_IMAGES)[kind]
    server.meant = lambda request: of_first_image(request) or (kind in GENERAL and second in request.content)
    failed = 2 if kind in GENERAL else 1
    said: list[str] = []
    count = watched(server, tmp_path / "out", said, store=True)
    assert (count.new, count.failed, count.refused) == (IMAGES - failed, failed, 0)
    assert sum("tried again" in line for line in said) == failed
    server.heal()
    again = watched(server, tmp_path / "out", [], store=True)
    assert (again.new, again.known, again.exit_code) == (failed, IMAGES - failed, 0)
    assert written(tmp_path / "out") == hashes(server)
    assert sorted({content.decode() for content in server.stored}) == hashes(server), (
        "repeated under the same name only"
    )


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", third(GENERAL, 1))
def test_push_names_the_file_that_fails_and_stores_the_others(server: Server, files: list[Path], kind: str) -> None:
    first = files[0].read_bytes()
    server.misbehave, server.meant = GENERAL[kind], lambda request: first in request.content
    said: list[str] = []
    count = pushed(server, files, said)
    assert (count.new, count.failed, count.exit_code) == (IMAGES - 1, 1, 3)
    assert len(said) == 1 and re.match(r"file 1 of \d+ \(sha256 [0-9a-f]{12}\): the archive ", said[0])
    server.heal()
    again = pushed(server, files, said)
    assert (again.new, again.exit_code, len(said)) == (IMAGES, 0, 1)
    assert set(server.stored) == {path.read_bytes() for path in files}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", third(GENERAL, 2))
@pytest.mark.parametrize("job", ["pull", "watch"])
def test_a_search_that_fails_is_said_and_repeated_later(server: Server, tmp_path: Path, kind: str, job: str) -> None:
    run = pulled if job == "pull" else watched
    server.misbehave = GENERAL[kind]
    server.meant = lambda request: request.path.split("?")[0].endswith(f"{FIRST}/series")
    said: list[str] = []
    if kind == "no content":  # no series
        assert (run(server, tmp_path / "out", said).new, said) == (IMAGES - 1, [])
    else:
        count = run(server, tmp_path / "out", said)
        assert (count.new, count.failed, count.exit_code) == (IMAGES - 1, 1, 3)
        assert any(line.startswith("study ") for line in said)
    server.heal()
    again = run(server, tmp_path / "out", said)
    assert (again.new, again.known, again.exit_code) == (1, IMAGES - 1, 0)


@pytest.mark.parametrize("kind", OF_SEARCHES)
def test_oddities_of_searches_lose_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("llava_rad.pacs.client.PAGE", 2)
    server.results = OF_SEARCHES[kind]
    said: list[str] = []
    count = pulled(server, tmp_path / "out", said)
    assert (count.new, count.failed, count.known) == (IMAGES, 0, 0)
    assert kept(tmp_path / "out") == hashes(server)


@pytest.mark.parametrize("kind", ODD_RESULTS)
def test_odd_results_are_named_and_lose_no_other_study(server: Server, tmp_path: Path, kind: str) -> None:
    odd = ODD_RESULTS[kind]
    said: list[str] = []

    def results(path: str, asked: dict[str, str], found: list[Any]) -> Any:
        if not path.endswith(where):
            return page(path, asked, found)
        return page(path, asked, odd + found) if isinstance(odd, list) and None not in odd else odd

    server.results = results
    for where in ("/series", "/studies"):
        count = pulled(server, tmp_path / where[1:], said)
        assert (count.failed and "as DICOMweb requires" in said[-1]) or "wrong kind" in said[-1]
        assert (count.new, count.exit_code) == ((IMAGES, 3) if "wrong kind" in said[-1] else (0, 1))


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"[" * 200_000, "nested too deeply"), (b"[{}" + b"," * (2 << 20), "more than 1 MiB"), (b"[{", "damaged JSON"),
     (b"\xff\xfe\x00", "damaged JSON"), (b"[" + b"9" * 5000 + b"]", "damaged JSON"), (b"", "an empty answer")],
)  # fmt: skip
def test_answers_of_searches_are_limited_in_size_and_depth(server: Server, body: bytes, said: str) -> None:
    server.misbehave = changes(lambda _: body)
    with pytest.raises(PacsError, match=said):
        list(Pacs(server.url).studies())


@pytest.mark.parametrize(
    ("limit", "of"), [(12, 30), (100, 250), (200, 200), (1000, 999)], ids=lambda number: str(number)
)
def test_archives_that_limit_their_answers_are_asked_for_all_pages(server: Server, limit: int, of: int) -> None:
    server.images = {f"1.2.3.{n}.1.1": b"" for n in range(of)}
    server.results = lambda path, asked, found: page(path, asked | {"limit": str(limit)}, found)
    found = list(Pacs(server.url).studies())
    assert sorted(found) == sorted(f"1.2.3.{n}" for n in range(of)) and len(set(found)) == of


def test_an_archive_that_knows_neither_offset_nor_more_results_is_said(server: Server) -> None:
    server.images = {f"1.2.3.{n}.1.1": b"" for n in range(500)}
    said: list[str] = []
    server.results = lambda path, asked, found: found[:100]
    assert len(list(Pacs(server.url, tell=said.append).studies())) == 100
    assert len(said) == 1 and "would be missing" in said[0]
    server.results, said[:] = (lambda path, asked, found: found[: int(asked["limit"])]), []
    assert len(list(Pacs(server.url, tell=said.append).studies())) == 500 and said == []


def test_a_page_that_is_refused_is_said(server: Server) -> None:
    server.images = {f"1.2.3.{n}.1.1": b"" for n in range(30)}
    server.misbehave, server.meant = answers(400), lambda request: "offset" in request.path
    said: list[str] = []
    assert len(list(Pacs(server.url, tell=said.append).studies())) == 30
    assert len(said) == 1 and "after 30 may be missing" in said[0]
    server.images = {f"1.2.3.{n}.1.1": b"" for n in range(300)}
    with pytest.raises(PacsError, match="HTTP 400"):
        list(Pacs(server.url, tell=said.append).studies())


def test_a_search_without_end_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_rad.pacs.client.MAX_PAGES", 20)
    server.results = lambda path, asked, found: [{"0020000D": text(f"1.2.{asked.get('offset', 0)}", "UI")}]
    with pytest.raises(PacsError, match="a search finds more than 20 studies"):
        list(Pacs(server.url).studies())
    assert len(server.asked) == 40, "of CR and of DX"


def test_an_archive_that_ignores_dates_is_said(server: Server) -> None:
    days = ["20261125", "20261126", "20261127", None]
    server.results = lambda path, asked, found: page(
        path,
        asked,
        # other levels than studies have fewer results
        [one | ({"00080020": text(day, "DA")} if day else {}) for one, day in zip(found, days, strict=False)],
    )
    said: list[str] = []
    found = list(Pacs(server.url, tell=said.append).studies(date="20261126-20261126"))
    assert found == ["1.2.3.1", "1.2.3.3"] and said == [
        "the archive ignores dates; studies of other dates are passed over"
    ]
