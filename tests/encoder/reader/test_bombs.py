"""Files that cost much more than they hold, and files that change while they are read."""

from __future__ import annotations

import io
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from encoder.errors import ReadError
from encoder.files import sha256_of
from encoder.reader import sandbox
from encoder.reader.decoders import MAX_SCANS
from encoder.reader.sandbox import Reader
from tests.llava_rad import small_files


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG with further scans whose blocks are all runs of ended bands (T.81 G.1.2.2)."""
    plain = io.BytesIO()
    grey = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
    Image.fromarray(grey).save(plain, "JPEG", progressive=True, quality=50)
    data = plain.getvalue()
    table = b"\xff\xc4" + struct.pack(">H", 20) + bytes([0x10, 1, *[0] * 15, 0xE0])  # one code: a run of 2^14 blocks
    head = b"\xff\xda" + struct.pack(">H", 8) + bytes([1, 1, 0, 1, 63, 0])
    bits = ("0" + "0" * 14) * -(-(((side + 7) // 8) ** 2) // (1 << 14))
    bits += "1" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return data[: data.rindex(b"\xff\xd9")] + table + (head + body) * scans + b"\xff\xd9"


@pytest.fixture(scope="module")
def reader() -> Any:
    with Reader() as started:
        yield started


def refused(reader: Reader, content: bytes | Path, reason: str, **more: Any) -> None:
    start = time.monotonic()
    with pytest.raises(ReadError) as raised:
        reader.read(content, **more)
    assert raised.value.reason == reason, raised.value
    assert time.monotonic() - start < 5


def test_a_jpeg_of_thousands_of_scans_is_refused(reader: Reader, tmp_path: Path) -> None:
    assert reader.read(many_scans(96, 20)).pixels.shape == (96, 96), "twenty scans more are read"
    bomb = many_scans(2000, 3000)
    refused(reader, bomb, "too_large")
    path = small_files.dicom(tmp_path / "bomb.dcm", Rows=2000, Columns=2000, BitsAllocated=8, BitsStored=8, HighBit=7)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.PixelData = encapsulate([bomb])
    data["PixelData"].VR = "OB"
    data.save_as(path)
    refused(reader, path, "too_large")
    assert MAX_SCANS == 100


def test_a_tiff_of_many_pages_is_refused(reader: Reader) -> None:
    count, fields = (
        300_000,
        ((256, 64), (257, 64), (258, 8), (259, 1), (262, 1), (273, 0), (277, 1), (278, 64), (279, 4096)),
    )
    entries = struct.pack("<H", len(fields)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    size = len(entries) + 4
    pages = b"".join(entries + struct.pack("<I", 8 + size * at if at < count else 0) for at in range(1, count + 1))
    for frame in (None, 1):
        refused(reader, b"II*\0" + struct.pack("<I", 8) + pages + bytes(4096), "too_large", frame=frame)


@pytest.mark.parametrize("change", ["written", "cut", "appended"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path, other = tmp_path / "a.png", io.BytesIO()
    both: tuple[Any, Any] = (path, other)
    for seed, file in enumerate(both):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 96), np.uint8)).save(file, "PNG")
    hashed: Callable[[int], str] = sha256_of

    def changing(file: int) -> str:
        def alter() -> None:
            data = path.read_bytes()
            path.write_bytes({"written": other.getvalue(), "cut": data[:-1], "appended": data + b"x"}[change])

        thread = threading.Thread(target=alter)
        thread.start()
        thread.join()
        return hashed(file)

    time.sleep(0.02)  # the clock of file systems ticks every few milliseconds
    monkeypatch.setattr(sandbox, "sha256_of", changing)
    with pytest.raises(ReadError) as raised:
        reader.read(path)
    assert raised.value.reason in ("changed", "corrupt", "truncated", "crashed")
