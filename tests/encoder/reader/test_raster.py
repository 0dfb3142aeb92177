"""Picture files: 16 bits kept, alpha dropped, EXIF orientation applied, palettes expanded, colour refused."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoder.errors import ReadError
from encoder.reader.sandbox_worker import read_image
from tests.encoder.dicom_files import ramp

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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("values", [GREY8, GREY16], ids=["8 bit", "16 bit"])
def test_exif_orientation(orientation: int, values: np.ndarray) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](values)))
    image = read_image(save(stored, "png", exif=_exif(orientation)))
    np.testing.assert_array_equal(image.pixels, values)
    assert bool(image.facts.rotated or image.facts.mirrored) is (orientation != 1)


def test_white_is_zero_tiff() -> None:
    # Pillow turns 8-bit values over when it writes this tag, but not 16-bit ones
    for values, stored in ((GREY8, GREY8), (GREY16, 65535 - GREY16)):
        data = save(Image.fromarray(stored), "tiff", tiffinfo={262: 0})
        np.testing.assert_array_equal(read_image(data).pixels, values)


def test_pages_and_float() -> None:
    page = Image.fromarray(GREY8)
    data = save(page, "tiff", save_all=True, append_images=[Image.fromarray(255 - GREY8)])
    refused(data, "multi_frame")
    np.testing.assert_array_equal(read_image(data, frame=2).pixels, 255 - GREY8)
    refused(data, "multi_frame", frame=3)
    refused(save(Image.fromarray(GREY8.astype(np.float32)), "tiff"), "unsupported")


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
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    refused(bytes(data), "too_large")


def test_16_bit_colour_png_says_that_bits_are_lost() -> None:
    import imagecodecs

    data = bytes(imagecodecs.png_encode(np.stack([GREY16] * 3, -1)))
    assert any("16-bit PNG" in text for text in read_image(data).warnings)
