"""Stored values of one DICOM frame, native or compressed, as one grey channel (docs/dicom.md, "Format")."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.errors import ReadError
from encoder.reader.decoders import (
    JPEG,
    JPEG_LS,
    LOSSLESS,
    MAYBE_LOSSY,
    NATIVE,
    RLE,
    Codestream,
    FrameShape,
    decode_frame,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from encoder.reader.admission import Admission
    from encoder.reader.header import DicomFile, Header

CODESTREAM_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff")  # JPEG and JPEG-LS, JPEG 2000


def frames_held(file: DicomFile, shape: FrameShape) -> int:
    """Return the number of frames of the stated size that PixelData holds by its amount; at least 1.

    Raises:
        ReadError: if the pixel data is empty, truncated, damaged or contradicts the transfer syntax.
    """
    assert file.offset is not None
    if file.length == 0:
        raise ReadError("empty", "PixelData is empty")
    if file.offset >= len(file.source):
        raise ReadError("truncated", "the file ends before its PixelData")
    if (file.length == 0xFFFFFFFF) != (file.syntax not in NATIVE):
        raise ReadError("corrupt", "PixelData is compressed but the transfer syntax is not, or the reverse")
    if file.syntax in NATIVE:
        return max(1, file.length // shape.nbytes) if file.length % shape.nbytes <= 1 else 1
    (_, table_bytes), *fragments = _fragments(file)
    if file.syntax in RLE:
        first = struct.pack("<II", shape.samples * shape.bits_allocated // 8, 64)
        starts = sum(file.source[start : start + 8] == first for start, _ in fragments)
    else:
        starts = sum(file.source[start : start + 3] in CODESTREAM_STARTS for start, _ in fragments)
    return max(1, starts, table_bytes // 4)


def stored_values(
    file: DicomFile, shape: FrameShape, frames: int, index: int, admission: Admission
) -> tuple[npt.NDArray[Any], int, bool]:
    """Return the bit patterns of one frame, the number of their bits, and whether the codestream states a loss.

    Args:
        file: the opened file, with pixel data that :func:`frames_held` has checked.
        shape: shape of a frame by the header.
        frames: number of frames.
        index: of the frame, from 0.
        admission: receives warnings.

    Returns:
        [rows, columns] or [rows, columns, samples] unsigned; may be a view of the file. The number of bits is
        BitsStored, or the codestream's own precision with a warning.

    Raises:
        ReadError: if the pixel data is truncated, damaged or contradicts the header.
    """
    if file.syntax in NATIVE:
        return *_fit(_native(file, shape, frames, index, admission), file, shape, None, admission), False
    data = _frame(file, frames, index)
    values, stream = decode_frame(data, file.syntax, shape)
    return *_fit(values, file, shape, stream, admission), stream is not None and _states_loss(data, file.syntax, stream)


def _states_loss(data: bytes, syntax: str, stream: Codestream) -> bool:
    """Tell whether a stream states a loss: DCT, NEAR of JPEG-LS (T.87 C.2.3), or the 9-7 wavelet (T.800 A.6.1)."""
    if syntax in JPEG:
        return stream.frame not in LOSSLESS
    if syntax in JPEG_LS:
        scan = data.find(b"\xff\xda", stream.offset)
        near = scan + 5 + 2 * data[scan + 4]  # after the components of the scan
        return data[near : near + 1] > b"\0"
    size = int.from_bytes(data[stream.offset + 4 : stream.offset + 6], "big")
    style = data.find(b"\xff\x52", stream.offset + 4 + size)
    return style >= 0 and data[style + 13 : style + 14] == b"\0"


def _native(file: DicomFile, shape: FrameShape, frames: int, index: int, admission: Admission) -> npt.NDArray[Any]:
    assert file.offset is not None
    available = len(file.source) - file.offset
    needed = shape.nbytes * frames
    if min(file.length, available) < needed:
        raise ReadError("truncated", f"PixelData is truncated: {min(file.length, available)} bytes of {needed}")
    if file.length > needed + 1:
        rest = np.frombuffer(file.source, np.uint8, min(file.length, available) - needed, file.offset + needed)
        if rest.size >= shape.nbytes // max(shape.rows, shape.columns) and rest.any():
            raise ReadError("corrupt", "PixelData holds at least a row or column more than the header states")
        admission.warn("PixelData holds more bytes than the stated image: they were left out")
    big_endian = not file.header.little_endian
    dtype = shape.dtype.newbyteorder(">") if big_endian else shape.dtype
    start = file.offset + index * shape.nbytes
    if big_endian and shape.bits_allocated == 8 and file.pixel_vr == "OW":
        # 8-bit values in 16-bit words: the bytes of each pair are swapped
        even = available if available % 2 == 0 else available - 1
        values = (
            np.frombuffer(file.source, ">u2", min(even, needed + needed % 2) // 2, file.offset).astype("<u2").view("u1")
        )
        values = values[index * shape.nbytes : (index + 1) * shape.nbytes]
    else:
        values = np.frombuffer(file.source, dtype, shape.nbytes // dtype.itemsize, start).astype(
            f"=u{dtype.itemsize}", copy=False
        )
    if shape.samples == 1:
        return values.reshape(shape.rows, shape.columns)
    if shape.planar:
        return np.moveaxis(values.reshape(shape.samples, shape.rows, shape.columns), 0, -1)
    return values.reshape(shape.rows, shape.columns, shape.samples)


def _fit(
    values: npt.NDArray[Any],
    file: DicomFile,
    shape: FrameShape,
    stream: Codestream | None,
    admission: Admission,
) -> tuple[npt.NDArray[Any], int]:
    """Hold values against BitsStored and PixelRepresentation; nothing is clipped, wrapped or masked in silence.

    Values that fit are read. Of others, a lossy codestream is believed, whose samples are grey values; native and
    lossless data may hold anything in the higher bits and are refused, except declared overlays and constant bits.
    Samples of JPEG and JPEG-LS have no sign, and native ones are stored with or without extension of the sign.

    Returns:
        The bit patterns, and the number of their bits.
    """
    bits, signed, own_sign = shape.bits_stored, shape.signed, stream.signed if stream else None
    precision, mask = stream.precision if stream else shape.bits_allocated, (1 << bits) - 1
    if 8 * values.dtype.itemsize < bits:  # decoders use 8 bits for a precision of up to 8
        values = values.astype(f"{values.dtype.kind}2")
    size = values.dtype.itemsize
    patterns = values.view(f"u{size}")
    if own_sign is None and (precision == bits or (not signed and precision < bits)):
        return patterns, bits
    low, high = int(values.min()) if own_sign else 0, int(values.max())
    least, most = (-1 << (bits - 1), mask >> 1) if signed else (0, mask)
    if signed and not own_sign and precision < bits and high >> (precision - 1):
        admission.warn("the compressed image has fewer bits than BitsStored: its own highest bit was read as the sign")
        return patterns, precision
    if least <= low and high <= most:
        if signed and own_sign is False:
            admission.warn("the sign of the pixel values is not extended or not stated by the compressed image")
        return (patterns & mask if low < 0 else patterns), bits
    if signed and not own_sign:
        if high <= mask and (stream is None or precision == bits):
            admission.warn("the sign of the pixel values is not extended or not stated by the compressed image")
            return patterns, bits
        half = 1 << (precision - 1)
        extended = patterns.view(f"i{size}") if precision == 8 * size else (patterns.astype(np.int32) ^ half) - half
        if least <= extended.min() and extended.max() <= most:
            if own_sign is False:
                admission.warn("the sign of the pixel values is not extended or not stated by the compressed image")
            return patterns & mask, bits
    above = patterns >> bits & ((1 << 8 * size) - 1 & ~(file.overlay_bits >> bits))
    if low >= 0 and file.overlay_bits and not above.any():
        return patterns & mask, bits
    if stream and file.syntax in MAYBE_LOSSY and (signed == bool(own_sign) or (low >= 0 and not signed)):
        admission.warn("the compressed image has more bits than BitsStored: its own number of bits was used")
        return patterns & ((1 << precision) - 1), precision
    if low >= 0 and above.min() == above.max() > 0:
        admission.warn("the bits above BitsStored are the same in all pixels: they were ignored")
        return patterns & mask, bits
    raise ReadError("corrupt", "pixel values exceed BitsStored, or their sign contradicts PixelRepresentation")


def _frame(file: DicomFile, frames: int, index: int) -> bytes:
    """Return the codestream of one frame."""
    assert file.offset is not None
    fragments = _fragments(file)
    if frames == 1:
        return b"".join(file.source[start : start + length] for start, length in fragments[1:])
    from pydicom.encaps import get_frame

    offsets = file.header.raw("ExtendedOffsetTable"), file.header.raw("ExtendedOffsetTableLengths")
    encapsulated = bytes(file.source[file.offset : sum(fragments[-1])])
    try:
        return get_frame(
            encapsulated, index, number_of_frames=frames, extended_offsets=offsets if all(offsets) else None
        )
    except (ValueError, IndexError, struct.error):
        raise ReadError("corrupt", "the frames of the compressed PixelData cannot be separated") from None


def _fragments(file: DicomFile) -> list[tuple[int, int]]:
    """Return position and length of the offset table and of at least one fragment (PS3.5 A.4)."""
    assert file.offset is not None
    position, fragments = file.offset, []
    while True:
        head = bytes(file.source[position : position + 8])
        if len(head) < 8:
            raise ReadError("truncated", "the compressed PixelData ends early")
        group, element, length = struct.unpack("<HHI", head)
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        if (group, element) != (0xFFFE, 0xE000) or length == 0xFFFFFFFF:
            raise ReadError("corrupt", "the compressed PixelData is damaged")
        if position + 8 + length > len(file.source):
            raise ReadError("truncated", "the compressed PixelData ends early")
        fragments.append((position + 8, length))
        position += 8 + length
    if len(fragments) < 2:
        raise ReadError("empty", "PixelData is empty")
    return fragments


def grey_channel(
    values: npt.NDArray[Any], bits: int, photometric: str, file: DicomFile, shape: FrameShape, admission: Admission
) -> npt.NDArray[Any]:
    """Return one channel [rows, columns]; colour is accepted only if its channels are equal.

    Args:
        values: with ``bits``, the result of :func:`stored_values`.
        bits: number of bits.
        photometric: stated photometric interpretation.
        file: the opened file.
        shape: shape of a frame by the header.
        admission: receives warnings.

    Raises:
        ReadError: if the image is in colour, or its palette is damaged.
    """
    if photometric == "PALETTE COLOR":
        values = _palette(file.header, values, bits, shape, admission)
    if values.ndim == 2:
        return values
    equal = np.array_equal(values[..., 0], values[..., 1]) and np.array_equal(values[..., 0], values[..., 2])
    if photometric.startswith("YBR"):  # decoders of JPEG and JPEG 2000 convert it to RGB, unless it is lossless
        equal = equal or bool((values[..., 1:] == 1 << (bits - 1)).all())
    if not equal:
        raise ReadError("colour", "the image is in colour")
    admission.warn("colour image with equal channels: read as grey")
    return np.ascontiguousarray(values[..., 0])


def _palette(
    header: Header, values: npt.NDArray[Any], bits: int, shape: FrameShape, admission: Admission
) -> npt.NDArray[Any]:
    """Return [rows, columns, 3] of 8 bits (PS3.3 C.7.6.3.1.5); indices outside the palette have its end colours."""
    indices = values.astype(np.int64)
    if shape.signed:
        indices -= (indices >> (bits - 1)) << bits
    channels, highest = [], 0
    for colour in ("Red", "Green", "Blue"):
        descriptor = header.words(f"{colour}PaletteColorLookupTableDescriptor")
        data = header.raw(f"{colour}PaletteColorLookupTableData")
        if len(descriptor) != 3 or not data:
            raise ReadError("corrupt", "the colour palette is missing or damaged")
        entries, first = descriptor[0] or 65536, descriptor[1]
        if (shape.signed or header.vr(f"{colour}PaletteColorLookupTableDescriptor") == "SS") and first >= 0x8000:
            first -= 0x10000
        wide = len(data) >= 2 * entries
        table = np.frombuffer(data, ("<u2" if header.little_endian else ">u2") if wide else "u1")[:entries]
        highest = max(highest, int(table.max()))
        positions = indices - first
        if positions.min() < 0 or positions.max() >= len(table):
            admission.warn("pixel values lie outside the colour palette: they have the colour of its ends")
        channels.append(table[np.clip(positions, 0, len(table) - 1)])
    image = np.stack(channels, axis=-1)
    # 16-bit palettes fill all bits or repeat 8 of them; some hold 8 bits in 16-bit words (C.7.6.3.1.6)
    return (image >> 8 if highest > 255 else image).astype(np.uint8)
