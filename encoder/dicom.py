"""DICOM to Radiograph: checks, decoding, and one integer operation from stored values to polarity-corrected pixels."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from encoder import admission as rules
from encoder.decoders import LOSSY, NATIVE, RLE, TRANSFER_SYNTAXES, FrameShape, decode_frame
from encoder.errors import ReadError
from encoder.header import open_dicom
from encoder.radiograph import ImageFacts, Radiograph
from encoder.voi import windows_of

if TYPE_CHECKING:
    import mmap

    import numpy.typing as npt

    from encoder.header import DicomFile, Header

MAX_PIXELS = 64 << 20
MIN_SIDE = 64
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")


class Greys(NamedTuple):
    """From stored bit patterns to pixels: ``(pattern ^ flip) & mask``, or a table; and back to modality values."""

    flip: int
    mask: int
    table: npt.NDArray[np.uint16] | None
    scale: float
    offset: float
    inverted: bool


def read_dicom(source: mmap.mmap | bytes, *, force: bool = False, frame: int | None = None, preamble: bool = True) -> Radiograph:
    """Read one frontal chest radiograph.

    Args:
        source: the whole file.
        force: read what is refused for what it shows (modality, body part, view, orientation, for processing).
        frame: which frame, counted from 1; needed only where there are several.
        preamble: False for a file without the DICM prefix.

    Returns:
        The radiograph, without SHA-256.

    Raises:
        ReadError: with the reason.
    """
    file = open_dicom(source, preamble=preamble)
    header, admission = file.header, rules.Admission(force)
    if not preamble:
        admission.warn("the file has no DICOM preamble")
    if file.syntax not in TRANSFER_SYNTAXES:
        raise ReadError("unsupported", "the transfer syntax is not one of radiographs (video, or newer than this reader)")
    if file.offset is None:
        raise ReadError("no_pixels", "the file holds no image (no PixelData)")
    modality = rules.modality(header, admission)
    intent = rules.presentation_intent(header, admission)
    body_part = rules.body_part(header, admission)
    view, view_source = rules.view(header, admission)
    frames, index = _frame_index(header, frame)
    photometric = _photometric(header)
    shape = _frame_shape(header, photometric, file)
    quarter, mirror, orientation = rules.turns(header, admission, lateral=view == "lateral")
    stored = _grey(_stored_values(file, shape, frames, index), photometric, file, admission)
    greys = _greys(header, shape, photometric, admission)
    pixels = _apply(greys, stored)
    valid = _valid(header, stored, shape, signed=header.word("PixelRepresentation") == 1)
    if valid is not None:
        pixels[~valid] = 0
    pixels, valid = _turn(pixels, quarter, mirror), None if valid is None else _turn(valid, quarter, mirror)
    ratio = _aspect(header, admission)
    if ratio != 1.0:
        pixels, valid = _square(pixels, valid, 1 / ratio if quarter % 2 else ratio)
        admission.warn("the pixels were not square: the image was resampled")
    annotation = _burned_in(header, admission)
    if file.overlays:
        admission.warn("the file has overlays, which are not shown")
    if header.codes("ShutterShape"):
        admission.warn("the file states a display shutter, which is not applied")
    facts = ImageFacts(
        format="dicom", modality=modality, transfer_syntax=TRANSFER_SYNTAXES[file.syntax], photometric_interpretation=photometric,
        bits_stored=shape.bits_stored, rows=shape.rows, columns=shape.columns, frames=frames, frame=index + 1, view=view, view_source=view_source,
        body_part=body_part, inverted=greys.inverted, mirrored=mirror, rotated=90 * quarter, resampled=ratio != 1.0, orientation=orientation,
        burned_in_annotation=annotation, presentation_intent=intent, overlays=file.overlays, shutter=bool(header.codes("ShutterShape")),
        lossy=header.code("LossyImageCompression") == "01" or file.syntax in LOSSY,
    )  # fmt: skip
    windows = windows_of(header, admission, signed=header.word("PixelRepresentation") == 1)
    return Radiograph(
        pixels, valid, facts, tuple(admission.warnings), windows=windows, scale=greys.scale, offset=greys.offset,
        monochrome1=photometric == "MONOCHROME1",
    )  # fmt: skip


def _frame_index(header: Header, frame: int | None) -> tuple[int, int]:
    """Number of frames and the index of the wanted one (row 13); 0 and empty mean one."""
    stated = header.number("NumberOfFrames")
    frames = max(1, int(stated)) if stated is not None and stated < 2**31 else 1 if stated is None else 2**31
    if frames > 1 and frame is None:
        raise ReadError("multi_frame", "the file holds several frames", hint="--frame N picks one, counted from 1")
    if frame is not None and not 1 <= frame <= frames:
        raise ReadError("multi_frame", f"the file has no frame {frame}; it holds {min(frames, 99999)}")
    return frames, (frame or 1) - 1


def _photometric(header: Header) -> str:
    stated = header.code("PhotometricInterpretation")
    if stated not in GREY + COLOUR:
        raise ReadError("unsupported", "the photometric interpretation is missing or unknown")
    return stated


def _frame_shape(header: Header, photometric: str, file: DicomFile) -> FrameShape:
    """Size and bits (rows 9 and 21), checked before anything is decoded."""
    words = {name: header.word(name) for name in ("Rows", "Columns", "BitsAllocated", "BitsStored")}
    if any(not value for value in words.values()):
        raise ReadError("corrupt", "Rows, Columns, BitsAllocated or BitsStored is missing or zero")
    rows, columns, allocated, stored = (int(words[name] or 0) for name in words)
    if rows * columns > MAX_PIXELS:
        raise ReadError("too_large", f"the image has more than {MAX_PIXELS >> 20} Mi pixels")
    if min(rows, columns) < MIN_SIDE:
        raise ReadError("too_small", f"the image is smaller than {MIN_SIDE} pixels on a side")
    if allocated not in (8, 16) or not 2 <= stored <= allocated:
        raise ReadError("unsupported", "the image has not 8 or 16 bits allocated per pixel, or more stored than allocated")
    high = header.word("HighBit")
    if high is not None and high != stored - 1:
        raise ReadError("unsupported", "HighBit is not BitsStored - 1: where the image lies in its bits is not clear")
    samples = header.word("SamplesPerPixel") or 1
    if samples != (1 if photometric in GREY or photometric == "PALETTE COLOR" else 3):
        raise ReadError("corrupt", "SamplesPerPixel does not fit the photometric interpretation")
    if header.word("PixelRepresentation") not in (0, 1, None):
        raise ReadError("corrupt", "PixelRepresentation is neither 0 nor 1")
    if samples == 3 and photometric in ("YBR_FULL_422", "YBR_PARTIAL_420") and file.syntax in {**NATIVE, **RLE}:
        raise ReadError("colour", "the image is in colour")
    return FrameShape(rows, columns, samples, allocated, stored, planar=header.word("PlanarConfiguration") == 1)


def _stored_values(file: DicomFile, shape: FrameShape, frames: int, index: int) -> npt.NDArray[Any]:
    """The frame's bit patterns, [rows, columns] or [rows, columns, samples], unsigned; a view where possible."""
    assert file.offset is not None
    available = len(file.source) - file.offset
    if file.length == 0 or available <= 0:
        raise ReadError("empty" if file.length == 0 else "truncated", "PixelData is empty" if file.length == 0 else "the file ends before its PixelData")
    if (file.length == 0xFFFFFFFF) != (file.syntax not in NATIVE):
        raise ReadError("corrupt", "whether PixelData is compressed contradicts the transfer syntax")
    if file.syntax not in NATIVE:
        return decode_frame(_fragments(file, frames, index), file.syntax, shape)
    needed = shape.nbytes * frames
    if min(file.length, available) < needed:
        raise ReadError("truncated", f"PixelData is truncated: {min(file.length, available)} bytes of {needed}")
    big_endian = not file.header.little_endian
    dtype = shape.dtype.newbyteorder(">") if big_endian else shape.dtype
    start = file.offset + index * shape.nbytes
    if big_endian and shape.bits_allocated == 8 and file.pixel_vr == "OW" :
        # 8-bit values in 16-bit words: the bytes of each pair are exchanged.
        even = (available if available % 2 == 0 else available - 1)
        values = np.frombuffer(file.source, ">u2", min(even, needed + needed % 2) // 2, file.offset).astype("<u2").view("u1")
        values = values[index * shape.nbytes : (index + 1) * shape.nbytes]
    else:
        values = np.frombuffer(file.source, dtype, shape.nbytes // dtype.itemsize, start)
    if shape.samples == 1:
        return values.reshape(shape.rows, shape.columns)
    if shape.planar:
        return np.moveaxis(values.reshape(shape.samples, shape.rows, shape.columns), 0, -1)
    return values.reshape(shape.rows, shape.columns, shape.samples)


def _fragments(file: DicomFile, frames: int, index: int) -> bytes:
    """The codestream of one frame out of the encapsulated fragments (PS3.5 A.4)."""
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
        return get_frame(encapsulated, index, number_of_frames=frames, extended_offsets=offsets if all(offsets) else None)
    except (ValueError, IndexError, struct.error):
        raise ReadError("corrupt", "the frames of the compressed PixelData cannot be told apart") from None


def _grey(values: npt.NDArray[Any], photometric: str, file: DicomFile, admission: rules.Admission) -> npt.NDArray[Any]:
    """One channel (row 15): colour passes only if its channels are equal."""
    if photometric == "PALETTE COLOR":
        values = _palette(file.header, values)
    if values.ndim == 2:
        return values
    jpeg = file.syntax not in NATIVE and file.syntax not in RLE  # decoders turn YBR to RGB
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
    # The palette's values, not the stored ones, are the image; 16-bit palettes fill 16 bits or repeat 8.
    image = np.stack(channels, axis=-1)
    return (image >> 8).astype(np.uint8) if image.dtype.itemsize == 2 else image


def _greys(header: Header, shape: FrameShape, photometric: str, admission: rules.Admission) -> Greys:
    """Rows 1 to 4, 9, 10: the sign is derived once, from MONOCHROME1 and the slope."""
    from encoder.voi import modality_lut

    bits = 8 if photometric == "PALETTE COLOR" else shape.bits_stored
    mask, signed = (1 << bits) - 1, header.word("PixelRepresentation") == 1
    dark_is_high = photometric == "MONOCHROME1"
    presentation = header.code("PresentationLUTShape")
    if presentation and presentation != ("INVERSE" if dark_is_high else "IDENTITY"):
        admission.warn("PresentationLUTShape contradicts the photometric interpretation, which was followed")
    table = modality_lut(header, bits, signed=signed, admission=admission)
    if table is not None:
        values, maximum = table
        if dark_is_high:
            values = (maximum - values).astype(np.uint16)
        return Greys(0, mask, values, -1.0 if dark_is_high else 1.0, float(maximum) if dark_is_high else 0.0, dark_is_high)
    slope, intercept = _rescale(header, admission)
    down = dark_is_high != (slope < 0)
    lowest = -(1 << (bits - 1)) if signed else 0
    flip = (1 << (bits - 1) if signed else 0) ^ (mask if down else 0)
    # pixel p -> stored value: lowest + p, or lowest + mask - p where turned over
    offset = slope * (lowest + mask if down else lowest) + intercept
    return Greys(flip, mask, None, -slope if down else slope, offset, down)


def _rescale(header: Header, admission: rules.Admission) -> tuple[float, float]:
    slopes, intercepts = header.numbers("RescaleSlope"), header.numbers("RescaleIntercept")
    if not slopes and not intercepts:
        return 1.0, 0.0
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    if slope is None or intercept is None or slope == 0 or max(abs(slope), abs(intercept)) > 1e9:
        admission.warn("rescale slope or intercept is missing or not usable: both were ignored")
        return 1.0, 0.0
    return slope, intercept


def _apply(greys: Greys, stored: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    if greys.table is not None:
        return greys.table.take(stored.astype(np.uint16) & np.uint16(greys.mask))
    pixels = np.empty(stored.shape, np.uint16)
    np.bitwise_xor(stored, stored.dtype.type(greys.flip) if stored.dtype.itemsize == 2 else np.uint8(greys.flip), out=pixels)
    if greys.mask != (1 << 8 * stored.dtype.itemsize) - 1:
        pixels &= np.uint16(greys.mask)
    return pixels


def _valid(header: Header, stored: npt.NDArray[Any], shape: FrameShape, *, signed: bool) -> npt.NDArray[np.bool_] | None:
    """Row 11: False where pixels hold the padding value or lie in its range; None where none do."""
    low = header.word("PixelPaddingValue")
    if low is None or shape.samples > 1:
        return None
    high = header.word("PixelPaddingRangeLimit")
    mask = (1 << shape.bits_stored) - 1
    sign = 1 << (shape.bits_stored - 1) if signed else 0
    # in the order of values: flipping the sign bit maps signed patterns onto 0..mask
    low, high = ((word & mask) ^ sign for word in (low, low if high is None else high))
    low, high = min(low, high), max(low, high)
    order = (stored.astype(np.uint16) & np.uint16(mask)) ^ np.uint16(sign)
    valid = (order < low) | (order > high)
    if valid.all():
        return None
    return valid


def _turn(image: npt.NDArray[Any], quarter: int, mirror: bool) -> npt.NDArray[Any]:
    turned = np.rot90(image, -quarter) if quarter else image
    return np.ascontiguousarray(turned[:, ::-1] if mirror else turned)


def _aspect(header: Header, admission: rules.Admission) -> float:
    """Height of a pixel over its width (row 20); 1.0 where equal within 1 %, unknown or absurd."""
    for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        pair = header.numbers(keyword)
        if len(pair) == 2 and all(math.isfinite(value) and value > 0 for value in pair):
            ratio = pair[0] / pair[1]
            if abs(ratio - 1) <= 0.01:
                return 1.0
            if not 0.25 <= ratio <= 4:
                admission.warn("the stated pixel aspect ratio is absurd and was ignored")
                return 1.0
            return ratio
    return 1.0


def _square(
    pixels: npt.NDArray[np.uint16], valid: npt.NDArray[np.bool_] | None, ratio: float
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_] | None]:
    """Resample to square pixels by stretching the axis with the larger pixels (bicubic; nearest for the mask)."""
    from PIL import Image

    height, width = pixels.shape
    size = (width, round(height * ratio)) if ratio > 1 else (round(width / ratio), height)
    if size[0] * size[1] > MAX_PIXELS:
        raise ReadError("too_large", f"with square pixels the image has more than {MAX_PIXELS >> 20} Mi pixels")
    top = int(pixels.max())
    image = Image.fromarray(pixels.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    resized = np.clip(np.rint(np.asarray(image)), 0, top).astype(np.uint16)
    if valid is None:
        return resized, None
    mask = np.asarray(Image.fromarray(valid.view(np.uint8)).resize(size, Image.Resampling.NEAREST)).astype(np.bool_)
    resized[~mask] = 0
    return resized, mask


def _burned_in(header: Header, admission: rules.Admission) -> Literal["yes", "no", "unknown"]:
    """Row 22: nothing stated means unknown, not no."""
    stated = header.code("BurnedInAnnotation")
    if stated == "YES":
        admission.warn("the image has burned-in text, which may show the patient's identity")
        return "yes"
    return "no" if stated == "NO" else "unknown"
