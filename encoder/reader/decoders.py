"""Decoding of compressed pixel data with a fixed set of permissively licensed decoders.

pydicom's plugin search is not used: it tries every installed plugin, and one of them, python-gdcm, crashes the process
on damaged files. The size stated by a codestream is compared with the header before decoding.

================================  =====================================================================
JPEG baseline, extended, lossless  imagecodecs ``jpeg8`` (libjpeg-turbo 3, BSD-3)
JPEG-LS                            pyjpegls (CharLS, MIT)
JPEG 2000                          imagecodecs ``jpeg2k`` (OpenJPEG, BSD-2; two threads)
HTJ2K                              pylibjpeg-openjpeg (MIT; imagecodecs' decoder hangs on damaged streams)
RLE                                imagecodecs ``dicomrle`` (BSD-3)
================================  =====================================================================
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.errors import ReadError

if TYPE_CHECKING:
    import numpy.typing as npt

NATIVE = {
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
}
JPEG = {
    "1.2.840.10008.1.2.4.50": "JPEG Baseline (Process 1)",
    "1.2.840.10008.1.2.4.51": "JPEG Extended (Process 2 and 4)",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless, Non-Hierarchical (Process 14)",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless, Non-Hierarchical, First-Order Prediction",
}
JPEG_LS = {
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Lossy (Near-Lossless)",
}
JPEG_2000 = {
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
HTJ2K = {
    "1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 with RPCL Options Lossless",
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000",
}
RLE = {"1.2.840.10008.1.2.5": "RLE Lossless"}
TRANSFER_SYNTAXES = {**NATIVE, **JPEG, **JPEG_LS, **JPEG_2000, **HTJ2K, **RLE}
MAYBE_LOSSY = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91, 203)}
LOSSY = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51)}  # for the others the header states it


@dataclass(frozen=True)
class FrameShape:
    """Shape of one frame by the DICOM header: rows, columns, samples per pixel, bits, and planar configuration."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    planar: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Unsigned little-endian type of one stored value."""
        return np.dtype("u1" if self.bits_allocated == 8 else "<u2")

    @property
    def nbytes(self) -> int:
        """Size of one uncompressed frame in bytes."""
        return self.rows * self.columns * self.samples * (self.bits_allocated // 8)


@dataclass(frozen=True)
class Codestream:
    """Size, samples per pixel and bits per sample stated by a compressed stream."""

    rows: int
    columns: int
    samples: int
    precision: int


def decode_frame(data: bytes, syntax: str, shape: FrameShape) -> npt.NDArray[Any]:
    """Decode one compressed frame.

    Args:
        data: the codestream.
        syntax: UID of a compressed transfer syntax in ``TRANSFER_SYNTAXES``.
        shape: shape by the header.

    Returns:
        [rows, columns] or [rows, columns, samples], unsigned 8-bit or 16-bit patterns.

    Raises:
        ReadError: corrupt, truncated or unsupported.
    """
    if syntax in RLE:
        return _decode_rle(data, shape)
    stream = jpeg_header(data) if syntax in JPEG or syntax in JPEG_LS else j2k_header(data)
    if (stream.rows, stream.columns, stream.samples) != (shape.rows, shape.columns, shape.samples):
        raise ReadError("corrupt", "the size of the compressed image differs from the header's")
    if not 2 <= stream.precision <= 16:
        raise ReadError("unsupported", "the compressed image has an unusual number of bits")
    if data.rfind(b"\xff\xd9", max(0, len(data) - 256)) < 0:
        raise ReadError("truncated", "the compressed image ends early")
    pixels = _decode_stream(data, syntax, stream)
    if pixels.shape[:2] != (shape.rows, shape.columns) or pixels.size != shape.rows * shape.columns * shape.samples:
        raise ReadError("corrupt", "the compressed image decodes to another size than the header's")
    pixels = pixels.view(f"u{pixels.dtype.itemsize}")
    if stream.precision > shape.bits_stored and int(pixels.max()) >> shape.bits_stored:
        if syntax not in MAYBE_LOSSY:
            raise ReadError("corrupt", "the compressed image holds larger values than the header allows")
        pixels = np.minimum(pixels, pixels.dtype.type((1 << shape.bits_stored) - 1))  # overshoot of a lossy codec
    return pixels


def _decode_stream(data: bytes, syntax: str, stream: Codestream) -> npt.NDArray[Any]:
    shape = (stream.rows, stream.columns) + ((stream.samples,) if stream.samples > 1 else ())
    dtype = np.dtype("u1" if stream.precision <= 8 else "<u2")
    try:
        if syntax in JPEG:
            import imagecodecs

            decoded: npt.NDArray[Any] = imagecodecs.jpeg8_decode(data)
        elif syntax in JPEG_LS:
            import jpeg_ls

            buffer, info = jpeg_ls.decode_pixel_data(data)
            decoded = np.frombuffer(buffer, dtype)
            if stream.samples > 1 and info["interleave_mode"] == 0:
                return np.moveaxis(decoded.reshape(stream.samples, stream.rows, stream.columns), 0, -1)
            decoded = decoded.reshape(shape)
        elif syntax in JPEG_2000:
            import imagecodecs

            decoded = imagecodecs.jpeg2k_decode(data, numthreads=min(2, os.cpu_count() or 1))
        else:
            import openjpeg

            decoded = np.frombuffer(openjpeg.decode_pixel_data(data, version=2), dtype).reshape(shape)
    except (ValueError, RuntimeError, OSError):
        raise ReadError("corrupt", "the compressed image is damaged") from None
    return decoded


def _decode_rle(data: bytes, shape: FrameShape) -> npt.NDArray[Any]:
    """Decode RLE (PS3.5 annex G): a 64-byte table of segments, one for each sample and byte."""
    import imagecodecs

    segments = struct.unpack("<I", data[:4])[0] if len(data) >= 64 else 0
    if segments != shape.samples * shape.bits_allocated // 8:
        raise ReadError("corrupt", "the run-length table does not fit the header")
    offsets = struct.unpack(f"<{segments}I", data[4 : 4 + 4 * segments])
    if offsets[0] < 64 or offsets[-1] >= len(data) or list(offsets) != sorted(offsets):
        raise ReadError("corrupt", "the run-length table is damaged")
    output = np.empty(shape.nbytes // shape.dtype.itemsize, shape.dtype)
    try:
        decoded = imagecodecs.dicomrle_decode(data, shape.dtype)
    except (ValueError, RuntimeError):
        raise ReadError("corrupt", "the run-length data are damaged") from None
    if len(decoded) < output.nbytes:
        raise ReadError("truncated", "the run-length data end early")
    values = np.frombuffer(decoded, shape.dtype, output.size)
    if shape.samples == 1:
        return values.reshape(shape.rows, shape.columns)
    return np.moveaxis(values.reshape(shape.samples, shape.rows, shape.columns), 0, -1)


def jpeg_header(data: bytes) -> Codestream:
    """Read the frame header of JPEG or JPEG-LS (SOF marker, ITU-T T.81 B.2.2, T.87 C.2.2).

    Raises:
        ReadError: corrupt.
    """
    position = 2
    while data[:2] == b"\xff\xd8" and position + 10 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            precision, rows, columns, samples = struct.unpack(">BHHB", data[position + 4 : position + 10])
            return Codestream(rows, columns, samples, precision)
        if marker in (0xD9, 0xDA):  # end of image or start of scan without a frame header
            break
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise ReadError("corrupt", "the compressed image has no JPEG header")


def j2k_header(data: bytes) -> Codestream:
    """Read the SIZ marker of a JPEG 2000 codestream, bare or in a JP2 box (ITU-T T.800 A.5.1).

    Raises:
        ReadError: corrupt.
    """
    start = 0 if data[:4] == b"\xff\x4f\xff\x51" else data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or len(data) < start + 45:
        raise ReadError("corrupt", "the compressed image has no JPEG 2000 header")
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, samples = struct.unpack(">8IH", data[start + 8 : start + 42])
    precision, step_x, step_y = data[start + 42 : start + 45]
    if not (x1 > x0 and y1 > y0 and tile_x and tile_y and step_x == step_y == 1):
        raise ReadError("corrupt", "the compressed image's JPEG 2000 header is damaged")
    tiles = -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y)
    if tiles > 65535:
        raise ReadError("corrupt", "the compressed image states too many tiles")
    return Codestream(y1 - y0, x1 - x0, samples, (precision & 0x7F) + 1)
