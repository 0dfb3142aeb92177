"""Pictures that are cut, damaged or too large: refused or read with a warning, whatever their end marker says."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from encoder.errors import ReadError
from encoder.reader.decoders import jpeg_header
from encoder.reader.sandbox_worker import read_image
from tests.encoder.reader.test_raster import GREY8, GREY16, png, refused, save, tiff


@pytest.mark.parametrize("rows", [20, 1 << 20])
@pytest.mark.parametrize("packed", [False, True])
def test_short_strips_are_truncated(rows: int, packed: bool) -> None:
    data = tiff([GREY16], packed=packed, rows=rows)
    np.testing.assert_array_equal(read_image(data).pixels, GREY16)
    for shorten in (30, 500):
        refused(tiff([GREY16], packed=packed, rows=rows, shorten=shorten), "truncated")
    counts = data.index(struct.pack("<HH", 279, 4)) + 8
    beyond = bytearray(data)
    if rows > 100:
        beyond[counts : counts + 4] = struct.pack("<I", len(data))
        refused(bytes(beyond), "truncated")


def test_strips_with_more_rows_than_the_image_are_refused() -> None:
    """As DICOM pixel data are; the last strip may be filled to its number of rows (TIFF 6.0, RowsPerStrip)."""
    height = struct.pack("<HHII", 257, 4, 1, len(GREY16))
    bits = struct.pack("<HHIHH", 258, 3, 1, 16, 0)
    for rows in (20, 1 << 20):
        data = tiff([GREY16], rows=rows)
        assert height in data and bits in data
        refused(data.replace(height, struct.pack("<HHII", 257, 4, 1, len(GREY16) - 1)), "corrupt")
        refused(data.replace(bits, struct.pack("<HHIHH", 258, 3, 1, 8, 0)), "corrupt")
    filled = tiff([GREY16], rows=len(GREY16) // 2 + 3)
    last = struct.pack("<II", *(GREY16.shape[1] * 2 * rows for rows in (len(GREY16) // 2 + 3, len(GREY16) // 2 - 3)))
    assert len(GREY16) % 2 == 0 and filled.count(last) == 1
    padded = filled.replace(last, last[:4] * 2) + bytes(6 * GREY16.shape[1] * 2)
    np.testing.assert_array_equal(read_image(padded).pixels, GREY16)


def test_deflated_strips_with_another_checksum_are_refused() -> None:
    """RFC 1950, 2.2: four bytes of Adler-32 end the stream."""
    data = bytearray(tiff([GREY16], packed=True, rows=20))
    strip = zlib.compress(GREY16[20:40].tobytes())
    at = data.index(strip) + len(strip)
    np.testing.assert_array_equal(read_image(bytes(data)).pixels, GREY16)
    data[at - 1] ^= 1
    refused(bytes(data), "corrupt")


def test_a_tiff_without_polarity_is_warned_of() -> None:
    """TIFF 6.0 has no default for PhotometricInterpretation."""
    stated = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    data = tiff([GREY16])
    assert data.count(stated) == 1
    found = read_image(data.replace(stated, struct.pack("<HHIHH", 263, 3, 1, 1, 0)))
    assert any("lowest value is white" in text for text in found.warnings)
    assert not any("lowest value is white" in text for text in read_image(data).warnings)


def test_a_cut_jpeg_strip_is_truncated() -> None:
    data = bytearray(save(Image.fromarray(GREY8), "tiff", compression="jpeg"))
    tags: Any = Image.open(BytesIO(data)).tag_v2  # type: ignore[attr-defined]
    (start,), (count,) = tags[273], tags[279]
    data[start + count // 2 : start + count // 2 + 2] = b"\xff\xd9"
    refused(bytes(data), "truncated")


@pytest.mark.parametrize("values", [GREY8, GREY16], ids=["8 bit", "16 bit"])
def test_cut_png_with_an_end_marker_is_truncated(values: np.ndarray) -> None:
    rows = [b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in values]
    whole = zlib.compress(b"".join(rows))
    np.testing.assert_array_equal(read_image(png(whole, values=values)).pixels, values)
    for cut in (whole[: len(whole) // 2], whole[:-10], *(zlib.compress(b"".join(rows[:n])) for n in (36, 71))):
        refused(png(cut, values=values), "truncated")


def test_black_rows_at_the_end_of_a_png_are_no_damage() -> None:
    black = GREY8.copy()
    black[-30:] = 0
    for data in (save(Image.fromarray(black), "png"), bytes(imagecodecs.png_encode(black))):
        np.testing.assert_array_equal(read_image(data).pixels, black)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_cut_jpeg_with_an_end_marker_is_truncated(mode: str, options: dict[str, Any]) -> None:
    whole = save(Image.fromarray(GREY8).convert(mode), "jpeg", **options)
    for share in (0.6, 0.8, 0.97):
        cut = whole[: int(share * len(whole))].rstrip(b"\xff")
        for data in (cut, cut + b"\xff\xd9", cut + bytes(400)):
            refused(data, "truncated")
    for data in (whole[:-2], whole + bytes(1000), whole[:-2] + bytes(999)):
        np.testing.assert_array_equal(read_image(data).pixels, read_image(whole).pixels)


def fewer_rows(data: bytes, rows: int) -> bytes:
    """The same file with a header that states fewer rows."""
    if data[1:4] == b"PNG":
        chunk = data[12:20] + rows.to_bytes(4, "big") + data[24:29]
        return data[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[33:]
    at = jpeg_header(data).offset + 5
    return data[:at] + rows.to_bytes(2, "big") + data[at + 2 :]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("jpeg", {}), ("jpeg", {"progressive": True}), ("jpeg", {"restart_marker_blocks": 3}),
        ("jpeg", {"subsampling": 0}), ("jpeg", {"quality": 5, "optimize": True, "progressive": True}),
        ("png", {}), ("png", {"bits": 16}),
    ],
    ids=["baseline", "progressive", "restarts", "no subsampling", "low quality", "png", "png 16"],
)  # fmt: skip
def test_a_header_that_states_fewer_rows_is_refused(mode: str, name: str, options: dict[str, Any]) -> None:
    """Pillow and libjpeg read the stated rows and say nothing; whole files of any height are read as by Pillow."""
    kind = np.uint16 if options.get("bits") == 16 else np.uint8
    grey = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (191, 90)).astype(kind)
    if mode == "RGB" and grey.dtype != np.uint8:
        return
    options = {key: value for key, value in options.items() if key != "bits"}
    for height in (160, 175, 176, 177, 191):
        image = Image.fromarray(grey[:height])
        data = save(image if grey.dtype != np.uint8 else image.convert(mode), name, **options)
        expected = np.asarray(Image.open(BytesIO(data)))
        np.testing.assert_array_equal(read_image(data).pixels, expected if mode == "L" else expected[..., 1])
        for fewer in (height // 2, height - 48):
            assert Image.open(BytesIO(fewer_rows(data, fewer))).size[1] == fewer
            refused(fewer_rows(data, fewer), "corrupt")


def test_cut_webp_is_truncated() -> None:
    data = save(Image.fromarray(GREY8), "webp", lossless=True)
    refused(data[: len(data) // 2], "truncated")


@pytest.mark.parametrize("name", ["png", "jpeg", "tiff", "webp"])
def test_damage_and_limits(name: str) -> None:
    data = save(Image.fromarray(GREY8), name)
    with pytest.raises(ReadError) as caught:
        read_image(data[: len(data) // 2])
    assert caught.value.reason in ("truncated", "corrupt")
    refused(save(Image.fromarray(GREY8[:63]), name), "too_small")


def test_huge_png_is_refused_from_its_header() -> None:
    data = bytearray(save(Image.fromarray(GREY8), "png"))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    refused(bytes(data), "too_large")
