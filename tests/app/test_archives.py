"""Zip files: bounded in memory, taken by position, each entry refused for itself."""

from __future__ import annotations

import asyncio
import io
import resource
import struct
import time
import tracemalloc
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app import archives
from app.archives import Archive
from app.requests import TooLarge, receive
from encoder.errors import ReadError

pytestmark = pytest.mark.acceptance(row=30)


def packed(*entries: tuple[str, bytes, int]) -> io.BytesIO:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data, method in entries:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return content


def copied(archive: Archive, number: int) -> bytes:
    file = io.BytesIO()
    archive.copy(number, file)
    return file.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_other_methods_are_refused_before_they_are_inflated(method: int) -> None:
    content = packed(("bomb.png", bytes(16 << 20), method), ("good.png", b"good", zipfile.ZIP_DEFLATED))
    tracemalloc.start()
    try:
        archive = Archive(content)
        with pytest.raises(ReadError, match="not supported"):
            copied(archive, 1)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert copied(archive, 2) == b"good"


def directory(count: int) -> io.BytesIO:
    """An archive whose directory holds ``count`` entries that all lead to one local file (zip64)."""
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"a"
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    size, start = len(entry) * count, len(local)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, start + size, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return io.BytesIO(local + entry * count + end64 + locator + end)


def test_a_directory_of_many_entries_is_refused_before_it_is_parsed() -> None:
    assert len(Archive(directory(10_000)).entries) == 10_000, "the made archive is one"
    many = directory(1_000_000)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ReadError, match="more than 10,000 files"):
        Archive(many)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10
    with pytest.raises(ReadError, match="more than 10,000 files"):
        Archive(directory(10_001))


def test_a_damaged_entry_leaves_the_others() -> None:
    content = packed(*((f"{n}.png", bytes([n]) * 5000, zipfile.ZIP_DEFLATED) for n in range(3)))
    data = bytearray(content.getvalue())
    with zipfile.ZipFile(content) as archive:
        start = archive.infolist()[1].header_offset
    for at, junk in ((start + 40, b"\xff" * 8), (start, b"XXXX"), (start + 26, b"\xff\xff")):
        damaged = bytearray(data)
        damaged[at : at + len(junk)] = junk
        opened = Archive(io.BytesIO(bytes(damaged)))
        with pytest.raises(ReadError, match="cannot be taken out"):
            copied(opened, 2)
        assert [copied(opened, n) for n in (1, 3)] == [bytes([0]) * 5000, bytes([2]) * 5000]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_are_taken_by_position() -> None:
    content = packed(("IM1", b"first", 0), ("IM1", b"second", 0), ("__MACOSX/IM1", b"", 0), ("IM1", b"third", 0))
    archive = Archive(content)
    assert [copied(archive, number) for number in (1, 2, 3)] == [b"first", b"second", b"third"]
    with pytest.raises(ReadError, match="no longer"):
        copied(archive, 4)


def test_a_large_entry_is_refused_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    archive = Archive(packed(("a", bytes(1001), 8), ("b", bytes(1000), 8)))
    with pytest.raises(ReadError, match="larger than"):
        copied(archive, 1)
    assert copied(archive, 2) == bytes(1000)


def test_stated_sizes_count_together_before_anything_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED", 1000)
    entry = ("a.png", bytes(400), zipfile.ZIP_DEFLATED)
    assert len(Archive(packed(entry, entry)).entries) == 2
    with pytest.raises(ReadError, match="the archive holds more than"):
        Archive(packed(entry, entry, entry))


def test_uploads_are_limited_as_a_whole_not_by_chunk() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(300)

    received = io.BytesIO()
    with pytest.raises(TooLarge):
        asyncio.run(receive(chunks(), received, 1000))
    assert len(received.getvalue()) <= 1000
    received = io.BytesIO()
    asyncio.run(receive(chunks(), received, 1500))
    assert received.getvalue() == bytes(1500)


def test_an_entry_that_lies_about_its_size_gives_no_more_than_stated() -> None:
    content = packed(("bomb", bytes(4 << 20), zipfile.ZIP_DEFLATED), ("b", b"good", 0))
    data = bytearray(content.getvalue())
    at = data.index(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<I", 1000)
    archive = Archive(io.BytesIO(bytes(data)))
    with pytest.raises(ReadError, match="cannot be taken out"):
        copied(archive, 1)
    assert copied(archive, 2) == b"good"


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\5\6" + bytes(18), b"PK\3\4" * 20], ids=["0", "1", "2", "3"])
def test_what_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ReadError), archives.opened(tmp_path / "a.zip"):
        pass
    with pytest.raises(ReadError, match="no longer"), archives.opened(tmp_path / "none.zip"):
        pass


def test_studies_are_named_by_their_files_and_equal_names_by_folder_too() -> None:
    names = ["/data/p1/PA.png", "/data/p2/PA.dcm", "p3/LAT.png", "PA.png", "a.b.png"]
    assert archives.titles(names) == ["p1/PA", "p2/PA", "LAT", "PA", "a.b"]
