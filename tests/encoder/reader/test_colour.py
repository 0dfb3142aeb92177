"""Grey pictures stored as RGB, YBR or with a palette; pydicom's palettes and the drawn values are the reference."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut

from encoder.reader.radiograph import Radiograph
from encoder.reader.sandbox_worker import read_image
from tests.encoder.dicom_files import dataset, lut_item, ramp, refused, sequence, to_bytes

JPEG = "1.2.840.10008.1.2.4."


def colour(samples: np.ndarray, photometric: str = "RGB", *, bits: int = 8, **attributes: Any) -> Dataset:
    """An uncompressed image of [rows, columns, 3] samples."""
    return dataset(
        samples,
        bits=bits,
        SamplesPerPixel=3,
        PhotometricInterpretation=photometric,
        PlanarConfiguration=0,
        **attributes,
    )


def grey(bits: int = 8) -> np.ndarray:
    """A grey ramp as RGB."""
    return np.repeat(ramp(bits)[..., None], 3, axis=2)


def neutral(bits: int) -> np.ndarray:
    """A grey ramp as YBR_FULL: the chroma of grey is 2^(bits - 1) (PS3.3 C.7.6.3.1.2)."""
    chroma = np.full_like(ramp(bits), 1 << (bits - 1))
    return np.stack([ramp(bits), chroma, chroma], axis=-1)


def compressed(source: Dataset, stream: bytes, syntax: str) -> bytes:
    source.file_meta.TransferSyntaxUID = JPEG + syntax
    source.PixelData = encapsulate([stream])
    source["PixelData"].VR, source["PixelData"].is_undefined_length = "OB", True
    return to_bytes(source)


def palette(
    values: np.ndarray, *, first: int = 0, entries: np.ndarray | None = None, bits: int = 16, **attributes: Any
) -> Dataset:
    """An 8-bit image with a grey palette of 16-bit words, by default a linear one of 256 entries."""
    words = np.arange(256) * 257 if entries is None else entries
    source = dataset(values, bits=8, PhotometricInterpretation="PALETTE COLOR", **attributes)
    for number in range(3):
        source.add_new(0x00281101 + number, "SS" if first < 0 else "US", [len(words), first, bits])
        source.add_new(0x00281201 + number, "OW", words.astype("<u2").tobytes())
    return source


def by_pydicom(source: Dataset) -> np.ndarray:
    read = pydicom.dcmread(BytesIO(to_bytes(source)))
    return apply_color_lut(read.pixel_array, read)[..., 0] >> 8


def warned(image: Radiograph, text: str) -> bool:
    return any(text in warning for warning in image.warnings)


def test_samples_of_colour_have_no_sign() -> None:
    source = colour(grey(), PixelRepresentation=1)
    np.testing.assert_array_equal(read_image(to_bytes(source)).pixels, ramp(8))
    source = colour(neutral(8), "YBR_FULL", PixelRepresentation=1)
    np.testing.assert_array_equal(read_image(to_bytes(source)).pixels, ramp(8))
    wide = colour(grey(12), bits=12, PixelRepresentation=1)
    np.testing.assert_array_equal(read_image(to_bytes(wide)).pixels, ramp(12))
    stream = imagecodecs.jpeg8_encode(grey().astype(np.uint8), level=95)
    source = colour(grey(), "YBR_FULL_422", PixelRepresentation=1)
    expected = imagecodecs.jpeg8_decode(stream)[..., 0]
    np.testing.assert_array_equal(read_image(compressed(source, stream, "50")).pixels, expected)
    stream = imagecodecs.jpeg2k_encode(grey().astype(np.uint8), level=0, reversible=True, codecformat="J2K")
    source = colour(grey(), "YBR_RCT", PixelRepresentation=1)
    np.testing.assert_array_equal(read_image(compressed(source, stream, "90")).pixels, ramp(8))


def test_signed_palette_indices_are_read_as_by_pydicom() -> None:
    source = palette(ramp(8) - 128, first=-128, signed=True)
    np.testing.assert_array_equal(by_pydicom(source), ramp(8))
    for implicit in (False, True):
        image = read_image(to_bytes(source, implicit=implicit))
        np.testing.assert_array_equal(image.pixels, ramp(8))
        assert not image.facts.inverted and not warned(image, "outside")
    positive = palette(ramp(8) // 2, signed=True)
    np.testing.assert_array_equal(by_pydicom(positive), ramp(8) // 2)
    np.testing.assert_array_equal(read_image(to_bytes(positive)).pixels, ramp(8) // 2)


def test_palette_indices_outside_the_palette_have_its_end_colours_with_a_warning() -> None:
    source = palette(ramp(8), first=20, entries=np.arange(200) * 257)
    image = read_image(to_bytes(source))
    np.testing.assert_array_equal(image.pixels, np.clip(ramp(8) - 20, 0, 199))
    np.testing.assert_array_equal(image.pixels, by_pydicom(source))
    assert warned(image, "outside the colour palette")


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "PALETTE COLOR"])
def test_the_modality_transformation_of_a_colour_image_is_ignored_with_a_warning(photometric: str) -> None:
    """PS3.4 N.2 has it in the greyscale pipeline only."""
    curve = np.arange(255, -1, -1).astype(np.uint16)
    for extra in (
        {"RescaleSlope": "-1", "RescaleIntercept": "255"},
        {"ModalityLUTSequence": sequence(lut_item(curve, 0, 8))},
        {"RescaleSlope": "1", "RescaleIntercept": "0"},
    ):
        if photometric == "PALETTE COLOR":
            source = palette(ramp(8), **extra)
        else:
            source = colour(grey() if photometric == "RGB" else neutral(8), photometric, **extra)
        image = read_image(to_bytes(source))
        np.testing.assert_array_equal(image.pixels, ramp(8))
        assert (image.scale, image.offset, image.facts.inverted) == (1.0, 0.0, False)
        assert warned(image, "colour image was ignored") is (extra.get("RescaleSlope") != "1")


def test_windows_of_a_colour_image_are_ignored() -> None:
    """PS3.3 C.11.2.1.2: they have no meaning for other images than MONOCHROME1 and MONOCHROME2."""
    assert read_image(to_bytes(colour(grey(), WindowCenter="1000", WindowWidth="10"))).windows == ()


def test_neutral_chroma_is_of_the_stored_bits() -> None:
    for bits in (8, 10, 12, 16):
        image = read_image(to_bytes(colour(neutral(bits), "YBR_FULL", bits=bits)))
        np.testing.assert_array_equal(image.pixels, ramp(bits))
    tinted = neutral(12)
    tinted[5, 5, 1] += 1
    refused(to_bytes(colour(tinted, "YBR_FULL", bits=12)), "colour")


@pytest.mark.parametrize("syntax", ["70", "80", "90"])
def test_lossless_streams_keep_grey_as_ybr(syntax: str) -> None:
    samples = neutral(8).astype(np.uint8)
    stream = {
        "70": lambda: imagecodecs.jpeg8_encode(samples, lossless=True, colorspace="RGB", outcolorspace="RGB"),
        "80": lambda: imagecodecs.jpegls_encode(samples),
        "90": lambda: imagecodecs.jpeg2k_encode(samples, level=0, reversible=True, codecformat="J2K", mct=False),
    }[syntax]()
    image = read_image(compressed(colour(samples, "YBR_FULL"), stream, syntax))
    np.testing.assert_array_equal(image.pixels, ramp(8))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_8_bits_in_16_bit_words(bits: int) -> None:
    """PS3.3 C.7.6.3.1.6: some write 8-bit entries with 16 bits allocated."""
    source = palette(ramp(8), entries=np.arange(256), bits=bits)
    np.testing.assert_array_equal(read_image(to_bytes(source)).pixels, ramp(8))
    source = palette(ramp(8), bits=bits)  # repeated in both bytes
    np.testing.assert_array_equal(read_image(to_bytes(source)).pixels, ramp(8))


def test_dark_entries_of_a_16_bit_palette_stay_dark() -> None:
    image = read_image(to_bytes(palette(ramp(8) // 4, entries=np.arange(256) * 256)))
    np.testing.assert_array_equal(image.pixels, ramp(8) // 4)
