"""Bits, sign and amount of pixel data against the header; pydicom and the drawn values are the reference."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless

from encoder.reader.radiograph import Radiograph
from encoder.reader.sandbox_worker import read_image
from scripts.phantom.transfer_syntaxes import rewrite
from tests.encoder.dicom_files import dataset, ramp, refused, to_bytes

SYNTAXES = {"jpeg2000": JPEG2000, "jpeg2000-lossless": JPEG2000Lossless, "jpeg-ls": JPEGLSLossless}


def compressed(values: np.ndarray, name: str, precision: int, **header: Any) -> bytes:
    """A file whose codestream holds ``values`` with ``precision`` bits; the sign is that of the array's type."""
    if name == "jpeg-ls":
        shape = {"rows": values.shape[0], "columns": values.shape[1], "samples_per_pixel": 1}
        stream = jpeg_ls.encode_pixel_data(
            values.tobytes(), bits_allocated=8 * values.itemsize, bits_stored=precision, pixel_representation=0,
            photometric_interpretation="MONOCHROME2", **shape,
        )  # fmt: skip
    else:
        stream = imagecodecs.jpeg2k_encode(
            values, level=0, reversible=True, codecformat="J2K", bitspersample=precision, mct=False
        )
    source = dataset(values, **header)
    source.file_meta.TransferSyntaxUID = SYNTAXES[name]
    source.PixelData = encapsulate([bytes(stream)])
    source["PixelData"].VR, source["PixelData"].is_undefined_length = "OB", True
    return to_bytes(source)


def modality_values(image: Radiograph) -> np.ndarray:
    return np.rint(image.scale * image.pixels + image.offset).astype(np.int64)


def by_pydicom(data: bytes) -> np.ndarray:
    return pydicom.dcmread(BytesIO(data)).pixel_array.astype(np.int64)


def warned(image: Radiograph, text: str) -> bool:
    return any(text in warning for warning in image.warnings)


def test_a_stream_of_more_bits_whose_values_fit_is_read_as_by_pydicom() -> None:
    path = get_testdata_file("693_J2KI.dcm", download=False)  # 16 bits in the codestream, 14 in the header
    assert isinstance(path, str)
    source = pydicom.dcmread(path)
    image = read_image(to_bytes(source), force=True)
    assert image.valid is not None  # PixelPaddingValue is -2000
    expected = (source.pixel_array + int(source.RescaleIntercept))[image.valid]
    np.testing.assert_array_equal(modality_values(image)[image.valid], expected)
    assert (source.pixel_array.min(), source.pixel_array.max()) == (-2971, 2836)
    assert image.facts.bits_stored == 14 and not warned(image, "bits")


@pytest.mark.parametrize("name", ["jpeg2000", "jpeg2000-lossless", "jpeg-ls"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_stream_of_more_bits_whose_values_fit_has_no_warning(name: str, photometric: str) -> None:
    values = ramp(12).astype(np.uint16)
    data = compressed(values, name, 16, PhotometricInterpretation=photometric)
    image = read_image(data)
    np.testing.assert_array_equal(image.pixels, values if photometric == "MONOCHROME2" else 4095 - values)
    np.testing.assert_array_equal(by_pydicom(data), values)
    assert image.warnings == ()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_lossy_stream_of_more_bits_is_read_with_its_own(photometric: str) -> None:
    values = (ramp(16) * (60000 / 65535)).astype(np.uint16)
    windows = {"WindowCenter": "30000", "WindowWidth": "40000", "PixelPaddingValue": 60000}
    image = read_image(compressed(values, "jpeg2000", 16, bits=12, PhotometricInterpretation=photometric, **windows))
    assert warned(image, "more bits") and image.facts.bits_stored == 16
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, values != 60000)
    np.testing.assert_array_equal(modality_values(image)[image.valid], values[image.valid])
    shown = np.clip((values - 29999.5) / 39999 + 0.5, 0, 1)  # PS3.3 C.11.2.1.2
    shown = 1 - shown if photometric == "MONOCHROME1" else shown
    assert np.abs(image.display() - 255 * shown)[image.valid].max() <= 0.5 + 1e-6


def test_a_lossy_signed_stream_of_more_bits_is_read_with_its_own() -> None:
    values = ramp(16, signed=True).astype(np.int16)
    image = read_image(compressed(values, "jpeg2000", 16, bits=12, signed=True))
    np.testing.assert_array_equal(modality_values(image), values)
    assert warned(image, "more bits")


@pytest.mark.parametrize("name", ["jpeg2000-lossless", "jpeg-ls"])
def test_lossless_values_above_bits_stored_are_refused(name: str) -> None:
    refused(compressed(ramp(12).astype(np.uint16), name, 12, bits=10), "corrupt", forcible=False)
    refused(compressed(ramp(16).astype(np.uint16), name, 16, bits=12, signed=True), "corrupt")


def test_an_unsigned_stream_in_a_signed_image_is_read_as_by_pydicom_with_a_warning() -> None:
    path = get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False)
    assert isinstance(path, str)
    source = pydicom.dcmread(path)
    image = read_image(to_bytes(source), force=True)
    expected = source.pixel_array * source.RescaleSlope + source.RescaleIntercept
    np.testing.assert_array_equal(modality_values(image), expected)
    assert warned(image, "sign")
    patterns = (ramp(12, signed=True) & 0xFFFF).astype(np.uint16)  # extended to 16 bits
    data = compressed(patterns, "jpeg2000-lossless", 16, signed=True)
    np.testing.assert_array_equal(modality_values(read_image(data)), by_pydicom(data))
    assert warned(read_image(data), "sign")


def test_a_signed_stream_in_an_unsigned_image_is_read_only_without_negative_values() -> None:
    values = (ramp(12) // 2).astype(np.int16)
    image = read_image(compressed(values, "jpeg2000-lossless", 12))
    np.testing.assert_array_equal(image.pixels, values)
    assert image.warnings == ()
    refused(compressed(values - 5, "jpeg2000-lossless", 12), "corrupt")
    refused(compressed(values - 5, "jpeg2000", 13), "corrupt")


@pytest.mark.parametrize("name", ["jpeg-ls", "jpeg2000", "jpeg2000-lossless"])
def test_unsigned_values_beyond_a_signed_range_are_refused(name: str) -> None:
    """4095 in 13 bits of the stream and 12 signed bits of the header: 4095 or -1."""
    refused(compressed(ramp(12).astype(np.uint16), name, 13, signed=True), "corrupt")


@pytest.mark.parametrize("name", ["jpeg-ls", "jpeg2000-lossless"])
def test_the_sign_of_a_stream_with_fewer_bits_is_read_as_by_pydicom(name: str) -> None:
    patterns = (ramp(12, signed=True) & 0xFFF).astype(np.uint16)
    data = compressed(patterns, name, 12, bits=16, signed=True)
    image = read_image(data)
    np.testing.assert_array_equal(modality_values(image), by_pydicom(data))
    np.testing.assert_array_equal(modality_values(image), ramp(12, signed=True))
    assert warned(image, "fewer bits")


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
def test_8_bits_of_jpeg_2000_in_a_12_bit_image(signed: bool, photometric: str) -> None:
    values = ramp(8, signed=signed).astype(np.int8 if signed else np.uint8)
    data = compressed(values, "jpeg2000-lossless", 8, bits=12, signed=signed, PhotometricInterpretation=photometric)
    image = read_image(data)
    np.testing.assert_array_equal(modality_values(image), values)
    assert image.warnings == () and image.facts.inverted is (photometric == "MONOCHROME1")


def native(patterns: np.ndarray, **header: Any) -> Dataset:
    source = dataset(ramp(), **header)
    source.PixelData = patterns.astype("<u2").tobytes()
    return source


@pytest.mark.parametrize("name", ["explicit-le", "explicit-be", "rle"])
def test_native_values_above_bits_stored_are_refused(name: str) -> None:
    source = pydicom.dcmread(BytesIO(rewrite(dataset(), name)))
    source.BitsStored, source.HighBit = 10, 9
    refused(to_bytes(source), "corrupt", forcible=False)


def test_constant_bits_above_bits_stored_are_ignored_with_a_warning() -> None:
    image = read_image(to_bytes(native(ramp() | 0x9000)))
    np.testing.assert_array_equal(image.pixels, ramp())
    assert warned(image, "above BitsStored")


def overlaid(*, bit: int, data: bool = False) -> bytes:
    """Bit 14 holds an overlay, which group 6002 declares in ``bit``."""
    drawn = np.zeros(ramp().shape, np.int64)
    drawn[20:40, 20:40] = 1 << 14
    source = native(ramp() | drawn)
    source.add_new(0x60020010, "US", 72)
    source.add_new(0x60020100, "US", 16)
    source.add_new(0x60020102, "US", bit)
    if data:
        source.add_new(0x60023000, "OW", bytes(720))
    return to_bytes(source)


def test_declared_overlays_in_the_high_bits_are_left_out() -> None:
    image = read_image(overlaid(bit=14))
    np.testing.assert_array_equal(image.pixels, ramp())
    assert image.facts.overlays and len(image.warnings) == 1
    refused(overlaid(bit=13), "corrupt")
    refused(overlaid(bit=14, data=True), "corrupt")  # that overlay has its own data


def test_signed_values_with_and_without_extension_and_beyond_their_bits() -> None:
    values = ramp(signed=True)
    extended = read_image(to_bytes(native(values & 0xFFFF, signed=True)))
    np.testing.assert_array_equal(modality_values(extended), values)
    assert extended.warnings == ()
    bare = read_image(to_bytes(native(values & 0xFFF, signed=True)))
    np.testing.assert_array_equal(modality_values(bare), values)
    assert warned(bare, "not extended")
    refused(to_bytes(native((values * 2) & 0xFFFF, signed=True)), "corrupt")


# amount of data


def streams(name: str, count: int) -> list[bytes]:
    images = [np.roll(ramp(), 7 * number, axis=1) for number in range(count)]
    return [
        get_frame(pydicom.dcmread(BytesIO(rewrite(dataset(one), name))).PixelData, 0, number_of_frames=1)
        for one in images
    ]


def unstated_frames(kind: str, count: int = 2) -> bytes:
    """Two or more frames in a file that states one; the second is the first, rolled by 7 columns."""
    name = kind.split()[0]
    if name == "explicit-le":
        source = dataset()
        source.PixelData = b"".join(np.roll(ramp(), 7 * n, axis=1).astype("<u2").tobytes() for n in range(count))
        return to_bytes(source)
    source = pydicom.dcmread(BytesIO(rewrite(dataset(), name)))
    if "one fragment" in kind:
        source.PixelData = encapsulate([b"".join(streams(name, count))], has_bot=False)
    else:
        source.PixelData = encapsulate(streams(name, count), has_bot="table" in kind)
    source["PixelData"].is_undefined_length = True
    return to_bytes(source)


KINDS = (
    "explicit-le", "rle", "jpeg-lossless", "jpeg-ls with table", "jpeg-ls", "jpeg2000-lossless", "htj2k-lossless",
    "jpeg-ls in one fragment", "jpeg2000-lossless in one fragment", "jpeg-lossless in one fragment",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_unstated_frames_are_refused_or_picked(kind: str) -> None:
    data = unstated_frames(kind)
    error = refused(data, "multi_frame", forcible=False)
    if "one fragment" in kind:
        return
    assert "--frame" in (error.hint or "") and "NumberOfFrames" in str(error)
    for number in (1, 2):
        image = read_image(data, frame=number)
        np.testing.assert_array_equal(image.pixels, np.roll(ramp(), 7 * (number - 1), axis=1))
        assert image.facts.frames == 2 and warned(image, "NumberOfFrames")


@pytest.mark.parametrize("kind", ["explicit-le", "jpeg-ls"])
def test_more_frames_than_stated_are_said(kind: str) -> None:
    source = pydicom.dcmread(BytesIO(unstated_frames(kind, 3)))
    source.NumberOfFrames = 2
    refused(to_bytes(source), "multi_frame")
    assert warned(read_image(to_bytes(source), frame=2), "NumberOfFrames")


def test_16_bit_data_stated_as_8_bits_and_half_of_the_rows_are_refused() -> None:
    source = dataset()
    source.BitsAllocated, source.BitsStored, source.HighBit = 8, 8, 7
    refused(to_bytes(source), "multi_frame")
    tall = dataset(ramp(rows=144))
    tall.Rows = 72
    refused(to_bytes(tall), "multi_frame")
    tall.Rows = 100
    refused(to_bytes(tall), "corrupt", forcible=False)
    for rows, columns in ((144, 79), (143, 80)):
        tall.Rows, tall.Columns = rows, columns
        refused(to_bytes(tall), "corrupt")
    wide = dataset(ramp(8, rows=70, columns=101), bits=8)
    wide.Columns = 100  # 70 bytes too many
    refused(to_bytes(wide), "corrupt")


@pytest.mark.parametrize("bits", [8, 12])
def test_padding_after_the_pixels_is_said_unless_it_is_one_byte(bits: int) -> None:
    values = ramp(bits, rows=73, columns=81)  # an odd number of bytes if 8 bits
    for added, expected in ((b"", False), (b"\0" * (bits == 8), False), (bytes(4096), True), (b"\1" * 20, True)):
        source = dataset(values, bits=bits)
        source.PixelData += added
        image = read_image(to_bytes(source))
        np.testing.assert_array_equal(image.pixels, values)
        assert warned(image, "more bytes") is expected, added[:1]
