"""Picture files: 16 bits kept, alpha dropped, EXIF orientation applied, palettes expanded, colour refused."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from encoder.errors import ReadError
from encoder.reader.sandbox_worker import read_image
from tests.encoder.dicom_files import chest, ramp

GREY8 = (ramp(8)).astype(np.uint8)
GREY16 = ramp(16).astype(np.uint16)


def save(image: Image.Image, name: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def refused(data: bytes, reason: str, **keywords: Any) -> None:
    with pytest.raises(ReadError) as caught:
        read_image(data, **keywords)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["png", "tiff"])
def test_16_bits_are_kept(name: str) -> None:
    image = read_image(save(Image.fromarray(GREY16), name))
    np.testing.assert_array_equal(image.pixels, GREY16)
    assert image.facts.format == name and image.facts.bits_stored == 16
    assert image.display().max() == 255 and len(np.unique(image.display())) > 200  # not all white


@pytest.mark.parametrize(
    ("name", "options"), [("png", {}), ("tiff", {}), ("webp", {"lossless": True}), ("jpeg", {"quality": 95})]
)
def test_8_bits(name: str, options: dict[str, Any]) -> None:
    data = save(Image.fromarray(GREY8), name, **options)
    image = read_image(data)
    expected = np.asarray(Image.open(BytesIO(data)).convert("L"))
    np.testing.assert_array_equal(image.pixels, expected)
    np.testing.assert_array_equal(image.display(), expected)
    assert any("no view" in text for text in image.warnings)


@pytest.mark.parametrize(
    ("name", "values", "top"),
    [("png", GREY8, 255), ("png", GREY16, 65535), ("png", GREY16 >> 4, 65535), ("tiff", GREY16, 65535)],
    ids=["png 8", "png 16", "png 12 of 16", "tiff 16"],
)
def test_an_inverted_file_is_read_as_its_complement(name: str, values: np.ndarray, top: int) -> None:
    """Expected: the file that holds the complement, as PS3.3 C.7.6.3.1.2 defines MONOCHROME1."""
    found = read_image(save(Image.fromarray(values), name), inverted=True)
    expected = read_image(save(Image.fromarray((top - values).astype(values.dtype)), name))
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    np.testing.assert_array_equal(found.display(), expected.display())
    assert (found.facts.inverted, expected.facts.inverted) == (True, False)


def test_a_dicom_file_is_not_inverted_by_a_table() -> None:
    refused(chest(), "unsupported", inverted=True)


def test_alpha_is_dropped_not_multiplied() -> None:
    alpha = np.zeros_like(GREY8)
    for layers, mode in (([GREY8, alpha], "LA"), ([GREY8, GREY8, GREY8, alpha], "RGBA")):
        image = read_image(save(Image.fromarray(np.stack(layers, -1), mode), "png"))
        np.testing.assert_array_equal(image.pixels, GREY8)
        assert any("alpha" in text for text in image.warnings)


def test_palettes() -> None:
    indexed = Image.fromarray(GREY8, "P")
    indexed.putpalette([255 - value for value in range(256) for _ in range(3)])
    np.testing.assert_array_equal(read_image(save(indexed, "png")).pixels, 255 - GREY8)
    indexed.putpalette([255, 0, 0] * 256)
    refused(save(indexed, "png"), "colour")


def test_colour_only_with_equal_channels() -> None:
    equal = np.stack([GREY8] * 3, -1)
    np.testing.assert_array_equal(read_image(save(Image.fromarray(equal), "png")).pixels, GREY8)
    near = read_image(save(Image.fromarray(equal), "jpeg", quality=90)).pixels
    assert np.abs(near.astype(int) - GREY8).mean() < 6
    equal[3, 3, 0] ^= 1
    refused(save(Image.fromarray(equal), "png"), "colour")
    refused(save(Image.fromarray(equal).convert("CMYK"), "jpeg"), "colour")
    refused(save(Image.fromarray(equal).convert("CMYK"), "tiff"), "colour")


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# displayed image -> stored image for each orientation, by the figure of the EXIF standard
STORED = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.T,
    6: lambda shown: shown.T[::-1],
    7: lambda shown: shown.T[::-1, ::-1],
    8: lambda shown: shown.T[:, ::-1],
}


def tiff(
    pages: list[np.ndarray],
    *,
    order: str = "<",
    photometric: int = 1,
    packed: bool = False,
    orientation: int | None = None,
    rows: int = 1 << 20,
    shorten: int = 0,
) -> bytes:
    """A TIFF of [H, W] pages; ``packed`` deflates, ``rows`` a strip, ``shorten`` is cut from the last strip."""
    data = bytearray((b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 0))
    link = 4
    for page in pages:
        strips = [page[at : at + rows] for at in range(0, len(page), rows)]
        parts = [strip.astype(strip.dtype.newbyteorder(order)).tobytes() for strip in strips]
        parts = [zlib.compress(part) for part in parts] if packed else parts
        parts[-1] = parts[-1][: len(parts[-1]) - shorten]
        places = [len(data) + sum(map(len, parts[:number])) for number in range(len(parts))]
        data += b"".join(parts)
        entries = {
            256: [page.shape[1]], 257: [page.shape[0]], 258: [8 * page.itemsize], 259: [8 if packed else 1],
            262: [photometric], 273: places, 277: [1], 278: [min(rows, len(page))],
            279: [len(part) for part in parts], 339: [{"u": 1, "i": 2}[page.dtype.kind]],
        }  # fmt: skip
        entries |= {} if orientation is None else {274: [orientation]}
        tables = {}
        for tag in (273, 279):
            if len(parts) > 1:
                tables[tag] = len(data)
                data += struct.pack(f"{order}{len(parts)}I", *entries[tag])
        data[link : link + 4] = struct.pack(order + "I", len(data))
        data += struct.pack(order + "H", len(entries))
        for tag, values in sorted(entries.items()):
            # BitsPerSample and its like are short words
            kind, form = (3, "HH") if tag in (258, 259, 262, 274, 277, 339) else (4, "I")
            value = [values[0], 0] if kind == 3 else [tables.get(tag, values[0])]
            data += struct.pack(f"{order}HHI{form}", tag, kind, len(values), *value)
        link = len(data)
        data += bytes(4)
    return bytes(data)


def transposed(data: bytes, page: int = 0) -> np.ndarray:
    """The picture upright, by Pillow."""
    image = Image.open(BytesIO(data))
    image.seek(page)
    return np.asarray(ImageOps.exif_transpose(image).convert("I")).astype(np.uint16)


FILES = {
    "png 8": lambda image, o: save(image(GREY8), "png", exif=_exif(o)),
    "png 16": lambda image, o: save(image(GREY16), "png", exif=_exif(o)),
    "png colour": lambda image, o: save(image(GREY8).convert("RGB"), "png", exif=_exif(o)),
    "jpeg": lambda image, o: save(image(GREY8), "jpeg", exif=_exif(o)),
    "jpeg colour": lambda image, o: save(image(GREY8).convert("RGB"), "jpeg", exif=_exif(o)),
    "webp": lambda image, o: save(image(GREY8), "webp", lossless=True, exif=_exif(o)),
    "mpo": lambda image, o: save(image(GREY8), "mpo", save_all=True, append_images=[image(GREY8)], exif=_exif(o)),
    "tiff 1": lambda image, o: save(image(GREY8).convert("1"), "tiff", tiffinfo={274: o}),
    "tiff 8": lambda image, o: save(image(GREY8), "tiff", tiffinfo={274: o}),
    "tiff 16": lambda image, o: save(image(GREY16), "tiff", tiffinfo={274: o}),
    "tiff lzw": lambda image, o: save(image(GREY16), "tiff", tiffinfo={274: o}, compression="tiff_lzw"),
    "tiff jpeg": lambda image, o: save(image(GREY8), "tiff", tiffinfo={274: o}, compression="jpeg"),
    "tiff tiled": lambda image, o: save(image(GREY8), "tiff", tiffinfo={274: o, 322: 32, 323: 48}),
    "tiff xmp": lambda image, o: save(image(GREY8), "tiff", tiffinfo={700: b'<d tiff:Orientation="%d"/>' % o}),
    "bigtiff": lambda image, o: save(image(GREY8), "tiff", tiffinfo={274: o}, big_tiff=True),
    "tiff colour": lambda image, o: save(image(GREY8).convert("RGB"), "tiff", tiffinfo={274: o}),
    "tiff palette": lambda image, o: save(image(GREY8).convert("P"), "tiff", tiffinfo={274: o}),
    "tiff big-endian": lambda image, o: tiff([np.asarray(image(GREY16))], order=">", orientation=o),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", FILES)
def test_orientation_is_applied_once(kind: str, orientation: int) -> None:
    def stored(values: np.ndarray) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(STORED[orientation](values)))

    data = FILES[kind](stored, orientation)
    image = read_image(data)
    assert image.pixels.shape == GREY8.shape
    np.testing.assert_array_equal(image.pixels, transposed(data))
    if "1" in kind.split() or "jpeg" in kind or kind == "mpo":
        assert np.corrcoef(image.pixels.ravel(), GREY8.ravel())[0, 1] > 0.4
    else:
        np.testing.assert_array_equal(image.pixels, GREY16 if image.facts.bits_stored == 16 else GREY8)
    turned = bool(image.facts.rotated or image.facts.mirrored)
    assert turned is (orientation != 1) and turned is any("turned" in text for text in image.warnings)
    assert (image.facts.rows, image.facts.columns) == STORED[orientation](GREY8).shape


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("values", [GREY8, GREY16], ids=["8 bit", "16 bit"])
def test_orientation_of_a_page(orientation: int, values: np.ndarray) -> None:
    pages = [np.ascontiguousarray(STORED[orientation](page)) for page in (values, values[::-1], values[:, ::-1])]
    for data in (
        tiff(pages, orientation=orientation, packed=True),
        save(
            Image.fromarray(pages[0]), "tiff", save_all=True, tiffinfo={274: orientation},
            append_images=[Image.fromarray(page) for page in pages[1:]],
        ),
    ):  # fmt: skip
        for number, shown in enumerate((values, values[::-1], values[:, ::-1]), 1):
            image = read_image(data, frame=number)
            np.testing.assert_array_equal(image.pixels, transposed(data, number - 1))
            np.testing.assert_array_equal(image.pixels, shown if number == 1 or image.facts.rotated else image.pixels)
            assert image.facts.frames == 3


def test_white_is_zero_tiff() -> None:
    # Pillow turns 8-bit values over when it writes this tag, but not 16-bit ones
    for values, stored in ((GREY8, GREY8), (GREY16, 65535 - GREY16)):
        data = save(Image.fromarray(stored), "tiff", tiffinfo={262: 0})
        np.testing.assert_array_equal(read_image(data).pixels, values)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_integer_tiffs(order: str, packed: bool) -> None:
    """Kinds that Pillow does not open, or opens wrongly."""
    options: dict[str, Any] = {"order": order, "packed": packed, "rows": 20}
    for values in (GREY8, GREY16, GREY16.astype(np.uint32), (GREY16 // 2).astype(np.int16), (GREY8 // 2).astype("i1")):
        np.testing.assert_array_equal(read_image(tiff([values], **options)).pixels, values)
    for values in (GREY8, GREY16):
        image = read_image(tiff([np.iinfo(values.dtype).max - values], photometric=0, **options))
        np.testing.assert_array_equal(image.pixels, values)
        assert image.facts.inverted
    for values, text in (
        ((GREY16 - 40000).astype(np.int16), "negative"),
        ((GREY8 - 200).astype(np.int8), "negative"),
        (GREY16.astype(np.uint32) * 2, "more than 16 bits"),
        (GREY16.astype(np.int32) * 2, "more than 16 bits"),
    ):
        with pytest.raises(ReadError, match=text) as caught:
            read_image(tiff([values], **options))
        assert caught.value.reason == "unsupported"


def png(packed: bytes, *, values: np.ndarray = GREY8, interlaced: int = 0) -> bytes:
    """A PNG with this compressed data; its end marker is there."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", *values.shape[::-1], 8 * values.itemsize, 0, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", size) + part(b"IDAT", packed) + part(b"IEND", b"")


def interlace(values: np.ndarray) -> bytes:
    """The rows of the seven passes of Adam7 (PNG specification, 8.2)."""
    starts = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return b"".join(b"\0" + row.tobytes() for x, y, dx, dy in starts for row in values[y::dy, x::dx])


def test_interlaced_png() -> None:
    rows = interlace(GREY8)
    np.testing.assert_array_equal(read_image(png(zlib.compress(rows), interlaced=1)).pixels, GREY8)
    refused(png(zlib.compress(rows[:-200]), interlaced=1), "truncated")


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGB"])
def test_transparent_values_of_png_are_said(mode: str) -> None:
    image = Image.fromarray(GREY16 if mode == "I;16" else GREY8).convert(mode)
    data = save(image, "png", transparency=(5, 5, 5) if mode == "RGB" else 5)
    assert any("alpha" in text for text in read_image(data).warnings)


@pytest.mark.parametrize("lossless", [False, True])
def test_12_bit_jpeg(lossless: bool) -> None:
    values = (GREY16 >> 4).astype(np.uint16)
    image = read_image(bytes(imagecodecs.jpeg8_encode(values, level=100, lossless=lossless, bitspersample=12)))
    assert np.abs(image.pixels.astype(int) - values).max() <= (0 if lossless else 2) and image.facts.bits_stored == 12


def test_pages_and_float() -> None:
    page = Image.fromarray(GREY8)
    data = save(page, "tiff", save_all=True, append_images=[Image.fromarray(255 - GREY8)])
    refused(data, "multi_frame")
    np.testing.assert_array_equal(read_image(data, frame=2).pixels, 255 - GREY8)
    refused(data, "multi_frame", frame=3)
    refused(save(Image.fromarray(GREY8.astype(np.float32)), "tiff"), "unsupported")


def test_16_bit_colour_png_says_that_bits_are_lost() -> None:
    data = bytes(imagecodecs.png_encode(np.stack([GREY16] * 3, -1)))
    assert any("16-bit PNG" in text for text in read_image(data).warnings)


def test_a_squashed_picture_is_stretched_to_its_aspect() -> None:
    """A disc that was squashed with its image is round again."""
    rows, columns = np.mgrid[:120, :120]
    squashed = ((np.hypot((rows - 60) / 40, (columns - 60) / 20) < 1) * 200 + 20).astype(np.uint8)
    file = save(Image.fromarray(squashed), "png")
    image = read_image(file, force=True, aspect=2.0)
    assert image.pixels.shape == (120, 240) and image.facts.resampled and image.facts.columns == 120
    high, wide = np.ptp(np.argwhere(image.pixels > 120), axis=0) + 1
    assert abs(high - wide) <= 2 and abs(high - 80) <= 2
    assert read_image(file, force=True, aspect=0.8).pixels.shape == (150, 120)
    for same in (None, 1.0, 1.005):
        plain = read_image(file, force=True, aspect=same)
        np.testing.assert_array_equal(plain.pixels, squashed)
        assert not plain.facts.resampled
    true = save(Image.fromarray(np.repeat(squashed, 2, axis=1)), "png")
    assert not read_image(true, force=True, aspect=2.0).facts.resampled, "it has that aspect"
    refused(chest(), "unsupported", aspect=1.2)


@pytest.mark.parametrize("compression", ["jpeg", "raw", "tiff_lzw"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_inversion_of_a_tiff_is_a_fact_whoever_inverts_it(compression: str, photometric: int) -> None:
    """PhotometricInterpretation (262) is 0, "min is white", or 1 (TIFF 6.0)."""
    values = (ramp(8) // 2).astype(np.uint8)
    quality = {"quality": 100} if compression == "jpeg" else {}
    plain = save(Image.fromarray(values), "tiff", compression=compression, **quality)
    entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert plain.count(entry) == 1
    read = read_image(plain.replace(entry, struct.pack("<HHIHH", 262, 3, 1, photometric, 0)))
    assert read.facts.inverted is (photometric == 0)
    expected = values.astype(int) if photometric else 255 - values.astype(int)
    assert np.abs(read.pixels.astype(int) - expected).max() <= (2 if compression == "jpeg" else 0)
