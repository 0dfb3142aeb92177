"""Codestreams that end early, end without a marker, or are followed by padding."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, get_frame

from encoder.errors import ReadError
from encoder.reader.decoders import decode_jpeg, jpeg_header
from encoder.reader.sandbox_worker import read_image
from scripts.phantom.transfer_syntaxes import SYNTAXES, rewrite
from tests.encoder.dicom_files import dataset, ramp, refused, to_bytes

END = b"\xff\xd9"
COMPRESSED = [name for name in SYNTAXES if name == "rle" or name.startswith(("jpeg", "htj2k"))]
MARKED = [name for name in COMPRESSED if name != "rle"]


def codestream(name: str, bits: int = 12) -> bytes:
    """The codestream of a ramp without the padding of its fragment."""
    data = get_frame(pydicom.dcmread(BytesIO(rewrite(dataset(bits=bits), name))).PixelData, 0, number_of_frames=1)
    return data if name == "rle" else data[: data.rindex(END) + 2]


def wrapped(stream: bytes, name: str, bits: int = 12) -> bytes:
    """A DICOM file with this codestream."""
    source = pydicom.dcmread(BytesIO(rewrite(dataset(bits=bits), name)))
    source.PixelData = encapsulate([stream])
    return to_bytes(source)


@pytest.mark.parametrize("share", [0.4, 0.75, 0.97])
@pytest.mark.parametrize("name", COMPRESSED)
def test_a_cut_stream_with_an_end_marker_is_truncated(name: str, share: float) -> None:
    stream = codestream(name)
    cut = stream[: int(share * len(stream))].rstrip(b"\xff") + (b"" if name == "rle" else END)
    refused(wrapped(cut, name), "truncated", forcible=False)


@pytest.mark.parametrize("name", MARKED)
def test_a_whole_stream_is_read_without_an_end_marker_and_with_padding(name: str) -> None:
    stream = codestream(name)
    expected = read_image(wrapped(stream, name)).pixels
    for other in (stream[:-2], stream + bytes(1000), stream[:-2] + bytes(1000), stream + b"\xff" * 300):
        np.testing.assert_array_equal(read_image(wrapped(other, name)).pixels, expected)


@pytest.mark.parametrize("bits", [8, 12])
def test_padding_after_run_length_data(bits: int) -> None:
    expected = read_image(rewrite(dataset(bits=bits), "rle")).pixels
    for zeros in (1, 2, 300):
        data = wrapped(codestream("rle", bits) + bytes(zeros), "rle", bits)
        np.testing.assert_array_equal(read_image(data).pixels, expected)


@pytest.mark.parametrize("name", MARKED)
def test_a_cut_stream_without_an_end_marker_is_truncated(name: str) -> None:
    stream = codestream(name)
    cut = stream[: int(0.8 * len(stream))].rstrip(b"\xff")
    for data in (cut, cut + bytes(500)):
        refused(wrapped(data, name), "truncated", forcible=False)


def jpeg(kind: str, side: int = 200) -> bytes:
    """A JPEG whose right and lower border are black, as collimated radiographs are."""
    values = ramp(8, rows=side, columns=side).astype(np.uint8)
    values[-side // 10 :], values[:, -side // 10 :] = 0, 0
    if kind == "lossless":
        return bytes(imagecodecs.jpeg8_encode(values.astype(np.uint16) * 16, lossless=True, bitspersample=12))
    if kind == "12 bits":
        return bytes(imagecodecs.jpeg8_encode(values.astype(np.uint16) * 16, bitspersample=12, level=90))
    options: dict[str, Any] = {
        "baseline": {},
        "colour": {},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 7},
    }[kind]
    stream = BytesIO()
    image = Image.fromarray(values).convert("RGB") if kind == "colour" else Image.fromarray(values)
    image.save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


KINDS = ("baseline", "colour", "progressive", "restarts", "12 bits", "lossless")


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_cut_anywhere_is_truncated_or_unchanged(kind: str) -> None:
    whole = jpeg(kind)
    expected = decode_jpeg(whole, jpeg_header(whole))
    start = whole.index(b"\xff\xda") + 20
    for at in [*range(start, len(whole) - 12, max(1, len(whole) // 150)), *range(len(whole) - 12, len(whole) - 2)]:
        cut = whole[:at].rstrip(b"\xff") + END
        try:
            pixels = decode_jpeg(cut, jpeg_header(cut))
        except ReadError as error:
            assert error.reason in ("truncated", "corrupt")
        else:
            assert np.abs(pixels.astype(int) - expected).max() <= 1, at


@pytest.mark.parametrize("scans", range(1, 6))
def test_a_progressive_jpeg_without_its_last_scans_is_truncated(scans: int) -> None:
    whole = jpeg("progressive")
    starts = [at for at in range(len(whole)) if whole.startswith(b"\xff\xda", at)]
    tables = [whole.rfind(b"\xff\xc4", 0, at) for at in starts]  # each scan has its table before it
    cut = whole[: tables[-scans]] + END
    np.asarray(Image.open(BytesIO(cut)))  # Pillow reads a blurred image without a warning
    with pytest.raises(ReadError, match="ends early"):
        decode_jpeg(cut, jpeg_header(cut))


def test_restarts_at_the_cut_are_noticed() -> None:
    whole = jpeg("restarts")
    marker = whole.rindex(b"\xff\xd3")
    for at in (marker, marker + 2):  # an interval ends exactly here
        cut = whole[:at] + END
        with pytest.raises(ReadError, match="ends early"):
            decode_jpeg(cut, jpeg_header(cut))


def test_large_jpegs_are_checked_by_their_last_pixel() -> None:
    values = np.random.default_rng(0).integers(0, 256, (700, 700)).astype(np.uint8)
    stream = bytes(imagecodecs.jpeg8_encode(values, level=95))
    assert len(stream) > 32 << 10
    expected = np.asarray(Image.open(BytesIO(stream)))
    np.testing.assert_array_equal(decode_jpeg(stream, jpeg_header(stream)), expected)
    for at in (len(stream) // 2, len(stream) - 200):
        cut = stream[:at].rstrip(b"\xff") + END
        with pytest.raises(ReadError, match="ends early"):
            decode_jpeg(cut, jpeg_header(cut))


def test_medium_grey_at_the_end_of_a_whole_jpeg_is_no_damage() -> None:
    values = ramp(8, rows=400, columns=400).astype(np.uint8)
    values[-40:] = 128
    stream = bytes(imagecodecs.jpeg8_encode(values, level=100))
    assert decode_jpeg(stream, jpeg_header(stream))[-1, -1] == 128


def test_run_length_data_for_more_rows_than_stated_are_refused() -> None:
    for bits in (8, 12):
        source = pydicom.dcmread(BytesIO(rewrite(dataset(ramp(bits, rows=144), bits=bits), "rle")))
        source.Rows = 72
        refused(to_bytes(source), "corrupt")


# lossless JPEG: the sums of differences are modulo 2^16, so damage makes samples of more bits than the stream has


def lossless(values: np.ndarray, bits: int) -> bytes:
    return imagecodecs.jpeg8_encode(values.astype(np.uint16), lossless=True, bitspersample=bits)


def holed(bits: int) -> bytes:
    """A whole stream in the middle of which 4 kB are zero."""
    stream = bytearray(lossless(ramp(bits, rows=300, columns=320), bits))
    middle = len(stream) // 2
    stream[middle : middle + 4096] = bytes(4096)
    return bytes(stream)


@pytest.mark.parametrize("signed", [False, True])
def test_lossless_samples_beyond_their_bits_are_damage(signed: bool) -> None:
    values = ramp(rows=300, columns=320)
    source = pydicom.dcmread(BytesIO(rewrite(dataset(values), "jpeg-lossless-sv1")))
    source.PixelRepresentation = int(signed)
    source.PixelData = encapsulate([holed(12)])
    assert imagecodecs.jpeg8_decode(holed(12)).max() > 4095
    refused(to_bytes(source), "corrupt", forcible=False)


@pytest.mark.parametrize("inverted", [False, True])
def test_lossless_pictures_with_samples_beyond_their_bits_are_damaged(inverted: bool) -> None:
    refused(holed(12), "corrupt", forcible=False, inverted=inverted)
    whole = ramp(rows=300, columns=320)
    image = read_image(lossless(whole, 12), inverted=inverted)
    np.testing.assert_array_equal(image.pixels, 4095 - whole if inverted else whole)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_signed_lossless_samples_may_have_their_sign_extended(photometric: str) -> None:
    """The encoder codes the 16-bit words although it states 12 bits; the decoder returns them."""
    values = ramp(12, signed=True)
    stream = lossless(values & 0xFFFF, 12)
    np.testing.assert_array_equal(imagecodecs.jpeg8_decode(stream), values & 0xFFFF)
    source = pydicom.dcmread(BytesIO(rewrite(dataset(signed=True), "jpeg-lossless-sv1")))
    source.PhotometricInterpretation = photometric
    source.PixelData = encapsulate([stream])
    image = read_image(to_bytes(source))
    np.testing.assert_array_equal(np.rint(image.scale * image.pixels + image.offset), values)
    source.PixelRepresentation = 0
    refused(to_bytes(source), "corrupt")


STREAMS = {  # a stream's own statement of a loss
    "jpeg-ls near 5": ("jpeg-ls-near", lambda values: bytes(jpeg_ls.encode(values, lossy_error=5)), True),
    "jpeg-ls near 0": ("jpeg-ls-near", lambda values: bytes(jpeg_ls.encode(values)), False),
    "9-7 wavelet": ("jpeg2000", lambda values: j2k(values, reversible=False), True),
    "5-3 wavelet": ("jpeg2000", lambda values: j2k(values, reversible=True), False),
    "DCT in a lossless syntax": ("jpeg-lossless", lambda values: imagecodecs.jpeg8_encode(values), True),
    "lossless": ("jpeg-lossless", lambda values: imagecodecs.jpeg8_encode(values, lossless=True), False),
}


def j2k(values: np.ndarray, *, reversible: bool) -> bytes:
    return imagecodecs.jpeg2k_encode(values, level=0 if reversible else 60, reversible=reversible, codecformat="J2K")


@pytest.mark.parametrize("kind", STREAMS)
def test_a_loss_that_only_the_stream_states_is_a_fact(kind: str) -> None:
    name, encode, lossy = STREAMS[kind]
    values = ramp(8).astype(np.uint8)
    source = pydicom.dcmread(BytesIO(rewrite(dataset(values, bits=8), name)))
    source.PixelData = encapsulate([encode(values)])
    if "LossyImageCompression" in source:
        del source.LossyImageCompression
    image = read_image(to_bytes(source))
    assert image.facts.lossy is lossy
    assert lossy or np.array_equal(image.pixels, values)
    source.LossyImageCompression = "01"
    assert read_image(to_bytes(source)).facts.lossy
