"""The commands ``pacs pull``, ``push`` and ``watch``: usage, exit codes, and what they say."""

from __future__ import annotations

import gzip
from collections import Counter
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom import dcmread

from tests.llava_rad.conftest import Run
from tests.llava_rad.pacs.running import IMAGES, answers, changes, hashes, kept, pulled
from tests.llava_rad.pacs.scripted import END, JSON, PART, Handler, Reply, Server


@pytest.mark.parametrize(
    "arguments",
    [
        ("pull", "--date", "2026-11-05"), ("pull", "--date", "20261131"), ("pull", "--date", "20261130-20261101"),
        ("pull", "--date", "-"), ("pull", "--date", ""), ("pull", "--date", "٢٠٢٦١١٠٥"), ("pull", "--date", "202611"),
        ("pull", "--study", "../../etc"), ("pull", "--study", "1.2/series"), ("pull", "--study", ""),
        ("pull", "--study", "1" * 65), ("pull", "--study", "1.2?x"), ("pull", "--study", "1.2", "--date", "20261126"),
        ("pull", "--modality", ""), ("pull", "--modality", ","), ("pull", "--modality", "CR,,DX"),
        ("pull", "--modality", "CR;DX"), ("pull", "--modality", "С"), ("watch", "--every", "nan"),
        ("watch", "--every", "inf"), ("watch", "--date", "5.11.2026"), ("watch", "--modality", "*"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_requests_that_make_no_sense_are_usage_errors(server: Server, run: Run, arguments: tuple[str, ...]) -> None:
    done = run("pacs", arguments[0], "--url", server.url, "-o", "out", *arguments[1:])
    assert done.code == 2 and done.out == "" and "unexpected" not in done.err
    assert server.asked == [] and not Path("out").exists()


def test_pull_ends_with_the_exit_code_of_its_failures(server: Server, run: Run) -> None:
    url = ("--url", server.url, "-o", "out")
    server.misbehave, server.meant = answers(), lambda request: "/instances/" in request.path
    done = run("pacs", "pull", *url)
    assert done.code == 1 and "0 images fetched, 0 were there already, 4 failed" in done.err
    assert not list(Path("out").glob("*.dcm"))
    server.meant = lambda request: "1.2.3.2.1.1" in request.path
    done = run("pacs", "pull", *url)
    assert done.code == 3 and "3 images fetched, 0 were there already, 1 failed" in done.err
    server.heal()
    done = run("pacs", "pull", *url)
    assert (done.code, done.out) == (0, "") and "1 images fetched, 3 were there already" in done.err
    assert kept(Path("out")) == hashes(server)
    done = run("pacs", "pull", *url, "--study", "9.9")
    assert done.code == 1 and "no such study" in done.err
    done = run("pacs", "pull", "--url", "http://127.0.0.1:9", "-o", "out")
    assert done.code == 1 and "cannot be reached" in done.err
    done = run("pacs", "pull", "--url", "pacs.example", "-o", "out")
    assert done.code == 2 and "not a URL" in done.err


def test_push_names_files_by_position_and_hash(server: Server, run: Run, files: list[Path]) -> None:
    Path("sub").mkdir()
    for path in files:
        Path("sub", path.name).write_bytes(path.read_bytes())
    Path("page.dcm").write_text("<html>")
    Path("half.dcm").write_bytes(files[0].read_bytes()[:3000])
    first = files[1].read_bytes()
    server.misbehave, server.meant = answers(413), lambda request: first in request.content
    done = run("pacs", "push", "page.dcm", "sub/0.dcm", "./half.dcm", "sub/1.dcm", "sub/2.dcm", "--url", server.url)
    assert done.code == 3 and "2 files stored, 3 failed" in done.err
    said = [line.removeprefix("llava-rad: ") for line in done.err.splitlines()]
    assert said[:3] == [
        f"file {number} of 5 (sha256 {sha256(Path(name).read_bytes()).hexdigest()[:12]}): {reason}"
        for number, name, reason in (
            (1, "page.dcm", "no DICOM file: its preamble is missing"),
            (3, "half.dcm", "half a DICOM file: it ends within an element"),
            (4, "sub/1.dcm", "the archive answers with HTTP 413"),
        )
    ]
    assert server.stored[0] == files[0].read_bytes()
    done = run("pacs", "push", "page.dcm", "--url", server.url)
    assert done.code == 1
    done = run("pacs", "push", "sub/0.dcm", "Doe\x1b[31m^Jane.dcm", "--url", server.url)
    assert done.code == 2 and "file 2 of 2 does not exist" in " ".join(done.err.replace("│", " ").split())
    Path("Doe\x1b[31m^Jane.dcm").write_text("<html>")
    done = run("pacs", "push", "Doe\x1b[31m^Jane.dcm", "--url", server.url)
    assert done.code == 1 and "Jane" not in done.err and "\x1b" not in done.err
    done = run("pacs", "push", "sub/0.dcm", "--to", "A@B")
    assert done.code == 2 and "AET@HOST:PORT" in done.err


def test_push_takes_the_option_rather_than_the_environment(
    server: Server, run: Run, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--to of a command is meant though the URL of the other commands is set; both options are not."""
    stored: list[str] = []
    monkeypatch.setattr("llava_rad.pacs.c_store.StorageUser.__init__", lambda self, to: stored.append(to))
    monkeypatch.setattr("llava_rad.pacs.c_store.StorageUser.store", lambda self, path: None)
    monkeypatch.setattr("llava_rad.pacs.c_store.StorageUser.close", lambda self: None)
    monkeypatch.setenv("LLAVA_RAD_PACS_URL", server.url)
    done = run("pacs", "push", files[0], "--to", "AET@archive:104")
    assert done.code == 0 and stored == ["AET@archive:104"] and not server.stored
    done = run("pacs", "push", files[0])
    assert done.code == 0 and len(server.stored) == 1 and len(stored) == 1
    done = run("pacs", "push", files[0], "--to", "AET@archive:104", "--url", server.url)
    assert done.code == 2 and "name one archive" in done.err
    monkeypatch.delenv("LLAVA_RAD_PACS_URL")
    done = run("pacs", "push", files[0])
    assert done.code == 2 and "name one archive" in done.err


@pytest.mark.slow
def test_watch_writes_drafts_and_tries_failed_images_again(server: Server, run: Run, tiny: Path) -> None:
    arguments = ("pacs", "watch", "--url", server.url, "-o", "out", "--once", "--store", "--model", tiny)
    server.misbehave, server.meant = (
        changes(lambda body: PART + body[len(PART) : len(body) // 2] + END),
        lambda request: "1.2.3.0.1.1" in request.path,
    )
    done = run(*arguments)
    assert (done.code, done.out) == (3, "") and "3 drafts written, 0 images refused, 0 known, 1 failed" in done.err
    assert "half a DICOM file: it ends within an element; it will be tried again" in done.err
    server.misbehave = changes(lambda body: b'{"00081198": {"Value": [{"00081197": {"Value": [272]}}]}}')
    server.meant = lambda request: request.command == "POST"
    done = run(*arguments)
    assert done.code == 3 and "refuses 1 of 2 documents; it will be tried again" in done.err
    server.heal()
    done = run(*arguments)
    assert done.code == 0 and "1 drafts written, 0 images refused, 3 known" in done.err
    assert len(list(Path("out").glob("*.json"))) == IMAGES
    stored = Counter(str(dcmread(BytesIO(content)).SOPInstanceUID) for content in server.stored)
    assert len(stored) == 2 * IMAGES and sorted(stored.values())[-3:] == [1, 2, 2], "the refused two came again"


def test_watch_goes_on_after_a_search_that_fails(
    server: Server, run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 1:
            server.heal()
            server.misbehave, server.meant = changes(lambda body: b""), lambda request: "1.2.3.1.1.1" in request.path
        elif len(sleeps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("llava_rad.commands.pacs.time", SimpleNamespace(sleep=sleep))
    server.misbehave, server.meant = answers(500), lambda request: True
    done = run("pacs", "watch", "--url", server.url, "-o", "out", "--every", "7", "--settle", "0", "--model", tiny)
    assert (done.code, sleeps) == (130, [7.0] * 3)
    assert "the archive answers with HTTP 500; next search in 7 s" in done.err
    assert "3 drafts written, 0 images refused, 0 known, 1 failed" in done.err
    assert done.err.count("it will be tried again") == 1, "it waits for longer than this test"


@pytest.mark.parametrize(
    ("kind", "boundary", "before", "after"),
    [
        ('Multipart/Related; boundary="a b\'()+_,-./:=?"; type="application/dicom"', b"a b'()+_,-./:=?", b"", b"\r\n"),
        ("multipart/related; boundary=----=_Part_1_2.3; start=x", b"----=_Part_1_2.3", b"", b"\r\n"),
        ("multipart/related; boundary=XX", b"XX", b"This is a message in parts.\r\n", b"\r\n"),
        ("multipart/mixed;boundary=XX", b"XX", b"\r\n", b"\r\n"),
        ("multipart/related;boundary=XX", b"XX", b"", b""),
        ("multipart/related;boundary=S", b"S", b"", b"\r\n--SOMETHING ELSE\r\n--S"),
    ],
    ids=["quoted", "unquoted", "a preamble", "mixed", "no line break", "a boundary that begins a word"],
)  # fmt: skip
def test_other_forms_of_parts_are_read(
    server: Server, tmp_path: Path, kind: str, boundary: bytes, before: bytes, after: bytes
) -> None:
    mark = b"--" + boundary
    head = b"\r\nContent-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1\r\nContent-Location: /x\r\n\r\n"
    padding = after.removesuffix(mark).removesuffix(b"\r\n")
    for uid, content in server.images.items():  # data set trailing padding
        filler = b"\xfc\xff\xfc\xffOB\0\0" + len(padding).to_bytes(4, "little") + padding
        server.images[uid] = content + filler if padding else content

    def send(request: Handler, good: Reply) -> None:
        content = good.body[len(PART) : -len(END)]
        line = b"\r\n" if after else b""
        request.send(
            Reply(200, kind, before + mark + head + content + line + mark + b"-- \r\nend"[: 99 if after else 5])
        )

    server.misbehave, server.meant = send, lambda request: "/instances/" in request.path
    assert pulled(server, tmp_path / "out", []).new == IMAGES
    assert kept(tmp_path / "out") == hashes(server)


def test_an_image_without_parts_is_read(server: Server, tmp_path: Path) -> None:
    server.misbehave = lambda request, good: request.send(
        Reply(200, "application/dicom", good.body[len(PART) : -len(END)])
    )
    server.meant = lambda request: "/instances/" in request.path
    assert pulled(server, tmp_path / "out", []).new == IMAGES
    assert kept(tmp_path / "out") == hashes(server)


@pytest.mark.parametrize("kind", ["chunks", "compressed", "until the end", "Latin-1 names"])
def test_other_forms_of_answers_are_read(server: Server, tmp_path: Path, kind: str) -> None:
    def send(request: Handler, good: Reply) -> None:
        if kind == "chunks":
            request.raw(f"HTTP/1.1 200 OK\r\nContent-Type: {good.kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            for start in range(0, len(good.body), 1000):
                chunk = good.body[start : start + 1000]
                request.raw(f"{len(chunk):x};x=y\r\n".encode() + chunk + b"\r\n")
            request.raw(b"0\r\n\r\n")
        elif kind == "compressed":
            request.send(Reply(good.status, good.kind, gzip.compress(good.body), {"Content-Encoding": "gzip"}))
        elif kind == "until the end":
            request.send(Reply(good.status, good.kind, good.body, {"Content-Length": ""}), cut=len(good.body))
        else:
            body = good.body.replace(b'[{"', b'[{"00100010": {"Value": ["M\xfcller\n"]}, "')
            request.send(Reply(good.status, good.kind, body if good.kind == JSON else good.body))

    server.misbehave = send
    assert pulled(server, tmp_path / "out", []).new == IMAGES
    assert kept(tmp_path / "out") == hashes(server)
