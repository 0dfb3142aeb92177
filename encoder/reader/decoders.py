"""Decoding of compressed pixel data with a fixed set of permissively licensed decoders.

pydicom's plugin search is not used: it tries every installed plugin, and one of them, python-gdcm, crashes the process
on damaged files. The size stated by a codestream is compared with the header before decoding. A codestream without an
end marker, or with padding after it, is decoded if it is whole.

================================  =====================================================================
JPEG baseline, extended, lossless  imagecodecs ``jpeg8`` (libjpeg-turbo 3, BSD-3)
JPEG-LS                            pyjpegls (CharLS, MIT)
JPEG 2000                          imagecodecs ``jpeg2k`` (OpenJPEG, BSD-2; two threads)
HTJ2K                              pylibjpeg-openjpeg (MIT; imagecodecs' decoder hangs on damaged streams)
RLE                                imagecodecs ``dicomrle`` (BSD-3)
================================  =====================================================================
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.errors import ReadError

if TYPE_CHECKING:
    from collections.abc import Iterator

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
MAX_SCANS = 100
"""Most scans of a JPEG image; encoders write about ten."""
TRANSFER_SYNTAXES = {**NATIVE, **JPEG, **JPEG_LS, **JPEG_2000, **HTJ2K, **RLE}
MAYBE_LOSSY = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91, 203)}
LOSSY = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51)}  # for the others the header states it

END = b"\xff\xd9"  # end marker of JPEG, JPEG-LS and JPEG 2000; cannot occur within their entropy-coded data
_END, _SOC = re.compile(END), re.compile(rb"\xff\x4f\xff\x51")  # faster than the search of bytes
# SOF markers
PROGRESSIVE, LOSSLESS, ARITHMETIC = {0xC2, 0xC6}, {0xC3, 0xC7}, {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
EARLY, DAMAGED = "the compressed image ends early", "the compressed image ends early or is damaged"
MORE = 64  # rows that a stream is asked for beyond those that it states
# read as further entropy-coded data, with every restart marker, by a decoder that has not finished
FILLER = b"".join(bytes(range(254, -1, -1)) + bytes((0xFF, 0xD0 + number)) for number in range(8))
# a few missing bits may be a code that changes nothing, but not all of these
FIRST_BYTES = (b"", b"\xaa" * 4, b"\x55" * 4)


@dataclass(frozen=True)
class FrameShape:
    """Shape of one frame by the DICOM header: rows, columns, samples per pixel, bits, planar configuration, sign."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    planar: bool = False
    signed: bool = False

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
    """Properties stated by a compressed stream.

    Attributes:
        rows: height in pixels.
        columns: width in pixels.
        samples: number of samples per pixel.
        precision: bits per sample.
        signed: True if the samples have a sign; None if the codec knows none (JPEG, JPEG-LS).
        frame: marker of the frame header of JPEG (SOF), which tells the process.
        offset: position of that marker; of the codestream for JPEG 2000.
        end: position of the end marker; -1 if there is none.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool | None = None
    frame: int = 0
    offset: int = 0
    end: int = -1


def decode_frame(data: bytes, syntax: str, shape: FrameShape) -> tuple[npt.NDArray[Any], Codestream | None]:
    """Decode one compressed frame.

    Args:
        data: the codestream.
        syntax: UID of a compressed transfer syntax in ``TRANSFER_SYNTAXES``.
        shape: shape by the header.

    Returns:
        [rows, columns] or [rows, columns, samples], 8-bit or 16-bit; signed if the codestream states a sign. Also the
        codestream's own statements; None for RLE, which makes none.

    Raises:
        ReadError: corrupt, truncated, unsupported or multi_frame.
    """
    if syntax in RLE:
        return _decode_rle(data, shape), None
    stream = jpeg_header(data) if syntax in JPEG or syntax in JPEG_LS else j2k_header(data)
    further = data[stream.end + 2 :].lstrip(b"\0")[:3] if stream.end >= 0 else b""
    if further == b"\xff\xd8\xff" or (stream.signed is not None and _SOC.search(data, stream.offset + 4)):
        raise ReadError("multi_frame", "one frame of PixelData holds several compressed images")
    if (stream.rows, stream.columns, stream.samples) != (shape.rows, shape.columns, shape.samples):
        raise ReadError("corrupt", "the size of the compressed image differs from the header's")
    if not 2 <= stream.precision <= 16:
        raise ReadError("unsupported", "the compressed image has an unusual number of bits")
    pixels = decode_jpeg(data, stream, signed=shape.signed) if syntax in JPEG else _decode_ended(data, syntax, stream)
    if pixels.shape[:2] != (shape.rows, shape.columns) or pixels.size != shape.rows * shape.columns * shape.samples:
        raise ReadError("corrupt", "the compressed image decodes to another size than the header's")
    return pixels.view(f"{'i' if stream.signed else 'u'}{pixels.dtype.itemsize}"), stream


def decode_jpeg(data: bytes, stream: Codestream, *, alone: bool = False, signed: bool = False) -> npt.NDArray[Any]:
    """Decode a JPEG of any Huffman-coded process, and refuse one that ends early.

    libjpeg fills missing data with medium grey and tells nobody. A stream is whole if data added before its end marker
    change nothing. This second decoding is left out for a large sequential JPEG whose last pixel is not medium grey: at
    most a part of its last block (of its last row, if lossless) is missing. Lossless samples are sums modulo 2^16 of
    differences: damage shows as samples of more bits than the stream has.

    Args:
        data: the stream; more may follow its end marker.
        stream: result of :func:`jpeg_header`.
        alone: no other header states the size, so that a stream with more rows than it states is refused too.
        signed: the header states a sign, so that lossless samples may have it extended to 16 bits.

    Returns:
        [rows, columns] or [rows, columns, samples], unsigned, of the stream's bits.

    Raises:
        ReadError: corrupt, truncated or too_large.
    """
    import imagecodecs

    # every scan is decoded over the whole image, however few bytes it takes
    if len(re.findall(rb"\xff\xda", data[stream.offset : stream.end if stream.end >= 0 else None])) > MAX_SCANS:
        raise ReadError("too_large", f"the JPEG image has more than {MAX_SCANS} scans")
    end = stream.end
    if end < 0:
        bare = data.rstrip(b"\0")
        data = bare + data[len(bare) :][:2] + END  # the last bits may be zero, but none are added
        end = len(data) - 2
    try:
        pixels, more = _decode_stated(data, stream) if alone else (imagecodecs.jpeg8_decode(data), False)
    except (ValueError, RuntimeError):
        raise ReadError("corrupt" if stream.end >= 0 else "truncated", DAMAGED) from None
    progressive = stream.frame in PROGRESSIVE
    quick = end <= (256 << 10 if stream.frame in LOSSLESS else 32 << 10)  # within 2 ms
    grey = bool(np.all(pixels[-1, -1] == 1 << (stream.precision - 1)))
    if stream.frame not in ARITHMETIC and (progressive or quick or grey or stream.end < 0):
        body = data[:end]
        tried = FIRST_BYTES if stream.end < 0 and stream.frame not in LOSSLESS else FIRST_BYTES[:1]
        if (progressive and not _all_scans(body, stream)) or any(_needs_more(body, pixels, one) for one in tried):
            raise ReadError("truncated", EARLY)
    if more:
        raise ReadError("corrupt", "the compressed image holds more rows than it states")
    if stream.frame in LOSSLESS and int(pixels.max()) >> stream.precision:
        sign = pixels >> (stream.precision - 1)
        if not (signed and np.isin(sign, (0, (1 << 8 * pixels.itemsize) - 1 >> (stream.precision - 1))).all()):
            raise ReadError("corrupt", DAMAGED)
        pixels &= pixels.dtype.type((1 << stream.precision) - 1)
    return pixels


def _decode_stated(data: bytes, stream: Codestream) -> tuple[npt.NDArray[Any], bool]:
    """Decode a JPEG, and tell whether it holds more rows than it states; libjpeg reads the stated ones and stops.

    Some rows more are asked for. They are medium grey if the data end before them, but for the first blocks, which the
    last bits may fill; so the first row of blocks is passed over. Lossless and arithmetic coding leave other values
    there and are not examined.
    """
    import imagecodecs

    count = stream.samples
    factors = data[stream.offset + 11 : stream.offset + 10 + 3 * count : 3]  # vertical ones in the low bits
    block = 8 * max((factor & 15 for factor in factors), default=1) if count > 1 else 8
    height = -(-stream.rows // block) * block
    if stream.frame in LOSSLESS | ARITHMETIC or height + MORE > 65500:
        return imagecodecs.jpeg8_decode(data), False
    at = stream.offset + 5
    rest = data[at + 2 :] if stream.end >= 0 else data[at + 2 : -2].rstrip(b"\0") + END  # without the zeros that follow
    found = imagecodecs.jpeg8_decode(data[:at] + (height + MORE).to_bytes(2, "big") + rest)
    grey = 1 << (stream.precision - 1)
    changed = np.abs(found[height + block :].reshape(MORE - block, -1).astype(np.int32) - grey) > grey // 16
    more = bool(np.any(np.mean(changed, axis=1) > 0.5))
    if count == 1 and stream.frame not in PROGRESSIVE and stream.end >= 0:
        return found[: stream.rows], more
    # the last row of enlarged colour, and blocks of a progressive stream that ends early, depend on the next ones
    return imagecodecs.jpeg8_decode(data), more


def _needs_more(body: bytes, pixels: npt.NDArray[Any], first: bytes) -> bool:
    """Return True if the decoded pixels of a JPEG change when data that begin so follow the last of its body."""
    import imagecodecs

    markers = re.findall(rb"\xff[\xd0-\xd7]", body)
    turn = ((markers[-1][1] - 0xCF) % 8) * 257 if markers else 0  # begin with the restart marker that is due
    try:
        longer = imagecodecs.jpeg8_decode(body + (first if turn == 0 else b"") + FILLER[turn:] + FILLER[:turn] + END)
    except (ValueError, RuntimeError):
        return True
    return not np.array_equal(longer, pixels)


def _all_scans(body: bytes, stream: Codestream) -> bool:
    """Return True if the scans of a progressive JPEG bring every coefficient to its last bit (T.81 B.2.3, G.1.1)."""
    final = set()
    for scan in re.finditer(rb"\xff\xda..(.)", body[stream.offset :], re.DOTALL):
        count = scan[1][0]
        head = body[stream.offset + scan.end() :][: 2 * count + 3]
        if len(head) == 2 * count + 3 and not head[-1] & 15:
            first, last = head[-3], head[-2]
            final |= {(name, k) for name in head[: 2 * count : 2] for k in range(first, last + 1)}
    return len(final) >= 64 * stream.samples


def _decode_ended(data: bytes, syntax: str, stream: Codestream) -> npt.NDArray[Any]:
    """Decode JPEG-LS or JPEG 2000; both decoders refuse missing data, but also a missing end marker."""
    if stream.end >= 0:
        return _decode_stream(data[: stream.end + 2], syntax, stream)
    for bare in _with_fewer_zeros(data):
        with contextlib.suppress(ReadError):
            return _decode_stream(bare + END, syntax, stream)
    raise ReadError("truncated", EARLY)


def _decode_stream(data: bytes, syntax: str, stream: Codestream) -> npt.NDArray[Any]:
    shape = (stream.rows, stream.columns) + ((stream.samples,) if stream.samples > 1 else ())
    dtype = np.dtype("u1" if stream.precision <= 8 else "<u2")
    try:
        if syntax in JPEG_LS:
            import jpeg_ls

            buffer, info = jpeg_ls.decode_pixel_data(data)
            decoded = np.frombuffer(buffer, dtype)
            if stream.samples > 1 and info["interleave_mode"] == 0:
                return np.moveaxis(decoded.reshape(stream.samples, stream.rows, stream.columns), 0, -1)
            return decoded.reshape(shape)
        if syntax in JPEG_2000:
            import imagecodecs

            pixels: npt.NDArray[Any] = imagecodecs.jpeg2k_decode(data, numthreads=min(2, os.cpu_count() or 1))
            return pixels
        import openjpeg

        return np.frombuffer(openjpeg.decode_pixel_data(data, version=2), dtype).reshape(shape)
    except (ValueError, RuntimeError, OSError):
        if syntax in JPEG_LS:  # CharLS does not tell which
            raise ReadError("truncated", DAMAGED) from None
        raise ReadError(*(("truncated", EARLY) if _tile_parts_missing(data) else ("corrupt", DAMAGED))) from None


def _tile_parts_missing(data: bytes) -> bool:
    """Return True if a JPEG 2000 codestream is shorter than its tile-parts state (T.800 A.4.2)."""
    position = data.find(b"\xff\x4f\xff\x51") + 2
    while data[position : position + 2] not in (b"\xff\x90", b"", END):  # main header
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    while data[position : position + 2] == b"\xff\x90":
        length = int.from_bytes(data[position + 6 : position + 10], "big")
        if not length:  # up to the end marker
            return False
        position += length
    return data[position : position + 2] != END


def _decode_rle(data: bytes, shape: FrameShape) -> npt.NDArray[Any]:
    """Decode RLE (PS3.5 annex G): a 64-byte table of segments, one for each sample and byte."""
    import imagecodecs

    segments = struct.unpack("<I", data[:4])[0] if len(data) >= 64 else 0
    if segments != shape.samples * shape.bits_allocated // 8:
        raise ReadError("corrupt", "the run-length table does not fit the header")
    offsets = struct.unpack(f"<{segments}I", data[4 : 4 + 4 * segments])
    if offsets[0] < 64 or list(offsets) != sorted(offsets):
        raise ReadError("corrupt", "the run-length table is damaged")
    if offsets[-1] >= len(data):
        raise ReadError("truncated", EARLY)
    for stream in _with_fewer_zeros(data):
        with contextlib.suppress(ValueError, RuntimeError):
            decoded = imagecodecs.dicomrle_decode(stream, shape.dtype)
            if shape.nbytes <= len(decoded) <= shape.nbytes + segments:  # a pad byte each
                break
    else:
        with contextlib.suppress(ValueError, RuntimeError):  # of a segment that ends within a run
            parts = zip(offsets, (*offsets[1:], len(data)), strict=True)
            if (
                min(len(imagecodecs.packbits_decode(data[start:end])) for start, end in parts) * segments
                >= shape.nbytes
            ):
                raise ReadError("corrupt", "the compressed image is larger than the header states")
        raise ReadError("truncated", DAMAGED)
    values = np.frombuffer(decoded, shape.dtype, shape.nbytes // shape.dtype.itemsize)
    if shape.samples == 1:
        return values.reshape(shape.rows, shape.columns)
    return np.moveaxis(values.reshape(shape.samples, shape.rows, shape.columns), 0, -1)


def _with_fewer_zeros(data: bytes) -> Iterator[bytes]:
    """Yield the data as they are, then with 0 to 2 zeros at the end: the last bytes may be zero, or padding."""
    yield data
    bare = data.rstrip(b"\0")
    yield from (bare + bytes(zeros) for zeros in range(3))


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
            end = _END.search(data, position)
            return Codestream(
                rows, columns, samples, precision, frame=marker, offset=position, end=end.start() if end else -1
            )
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
    return Codestream(
        y1 - y0, x1 - x0, samples, (precision & 0x7F) + 1, precision >= 0x80, offset=start, end=data.rfind(END)
    )
