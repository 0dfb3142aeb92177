"""Stored values of one DICOM frame, native or compressed, as one grey channel (docs/dicom.md, "Format")."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.errors import ReadError
from encoder.reader.decoders import NATIVE, RLE, FrameShape, decode_frame

if TYPE_CHECKING:
    import numpy.typing as npt

    from encoder.reader.admission import Admission
    from encoder.reader.header import DicomFile, Header


def stored_values(file: DicomFile, shape: FrameShape, frames: int, index: int) -> npt.NDArray[Any]:
    """Return the bit patterns of one frame.

    Args:
        file: the opened file, with pixel data.
        shape: shape of a frame by the header.
        frames: number of frames.
        index: of the frame, from 0.

    Returns:
        [rows, columns] or [rows, columns, samples] unsigned; a view of the file if it is native.

    Raises:
        ReadError: if the pixel data is empty, truncated, damaged or contradicts the header.
    """
    assert file.offset is not None
    available = len(file.source) - file.offset
    if file.length == 0 or available <= 0:
        raise ReadError(
            "empty" if file.length == 0 else "truncated",
            "PixelData is empty" if file.length == 0 else "the file ends before its PixelData",
        )
    if (file.length == 0xFFFFFFFF) != (file.syntax not in NATIVE):
        raise ReadError("corrupt", "PixelData is compressed but the transfer syntax is not, or the reverse")
    if file.syntax not in NATIVE:
        return decode_frame(_fragments(file, frames, index), file.syntax, shape)
    needed = shape.nbytes * frames
    if min(file.length, available) < needed:
        raise ReadError("truncated", f"PixelData is truncated: {min(file.length, available)} bytes of {needed}")
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
        values = np.frombuffer(file.source, dtype, shape.nbytes // dtype.itemsize, start)
    if shape.samples == 1:
        return values.reshape(shape.rows, shape.columns)
    if shape.planar:
        return np.moveaxis(values.reshape(shape.samples, shape.rows, shape.columns), 0, -1)
    return values.reshape(shape.rows, shape.columns, shape.samples)


def _fragments(file: DicomFile, frames: int, index: int) -> bytes:
    """Join the encapsulated fragments of one frame (PS3.5 A.4)."""
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
    if frames == 1:
        return b"".join(file.source[start : start + length] for start, length in fragments[1:])
    from pydicom.encaps import get_frame

    offsets = file.header.raw("ExtendedOffsetTable"), file.header.raw("ExtendedOffsetTableLengths")
    encapsulated = bytes(file.source[file.offset : position])
    try:
        return get_frame(
            encapsulated, index, number_of_frames=frames, extended_offsets=offsets if all(offsets) else None
        )
    except (ValueError, IndexError, struct.error):
        raise ReadError("corrupt", "the frames of the compressed PixelData cannot be separated") from None


def grey_channel(values: npt.NDArray[Any], photometric: str, file: DicomFile, admission: Admission) -> npt.NDArray[Any]:
    """Return one channel [rows, columns]; colour is accepted only if its channels are equal.

    Raises:
        ReadError: if the image is in colour, or its palette is damaged.
    """
    if photometric == "PALETTE COLOR":
        values = _palette(file.header, values)
    if values.ndim == 2:
        return values
    jpeg = file.syntax not in NATIVE and file.syntax not in RLE  # decoders convert YBR to RGB
    if photometric.startswith("YBR") and not jpeg:
        equal = bool((values[..., 1:] == 1 << (8 * values.dtype.itemsize - 1)).all())
    else:
        equal = np.array_equal(values[..., 0], values[..., 1]) and np.array_equal(values[..., 0], values[..., 2])
    if not equal:
        raise ReadError("colour", "the image is in colour")
    admission.warn("colour image with equal channels: read as grey")
    return np.ascontiguousarray(values[..., 0])


def _palette(header: Header, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    channels = []
    for colour in ("Red", "Green", "Blue"):
        descriptor = header.words(f"{colour}PaletteColorLookupTableDescriptor")
        data = header.raw(f"{colour}PaletteColorLookupTableData")
        if len(descriptor) != 3 or not data:
            raise ReadError("corrupt", "the colour palette is missing or damaged")
        entries = descriptor[0] or 65536
        wide = len(data) >= 2 * entries
        table = np.frombuffer(data, ("<u2" if header.little_endian else ">u2") if wide else "u1")[:entries]
        channels.append(table[np.clip(values.astype(np.int64) - descriptor[1], 0, len(table) - 1)])
    # 16-bit palettes fill all bits or repeat 8 of them
    image = np.stack(channels, axis=-1)
    return (image >> 8).astype(np.uint8) if image.dtype.itemsize == 2 else image
