"""Reading of PNG, JPEG, TIFF and WebP without silent loss of 16-bit values (docs/dicom.md, "Picture files")."""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from encoder.errors import ReadError
from encoder.reader.decoders import decode_jpeg, jpeg_header
from encoder.reader.geometry import MAX_PIXELS, MIN_SIDE, turn
from encoder.reader.radiograph import ImageFacts, Radiograph, Window

if TYPE_CHECKING:
    import mmap

    import numpy.typing as npt
    from PIL.Image import Image

EXIF_ORIENTATION = 0x0112
# TIFF tags and values
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, SAMPLE_FORMAT = 256, 257, 258, 259, 262, 277, 339
ROWS_PER_STRIP, STRIP_COUNTS = 278, 279
OFFSETS, COUNTS, JPEG_TABLES, XMP = (273, 324), (STRIP_COUNTS, 325), 347, 700  # of strips, of tiles
MIN_IS_WHITE, MIN_IS_BLACK, UNCOMPRESSED, JPEG_STRIPS, UNSIGNED, SIGNED = 0, 1, 1, 7, 1, 2
DEFLATED = (8, 32946)
MAX_PAGES = 10_000
_PIECE = 16 << 20  # bytes that are decompressed at a time
# first column and row, and steps, of the passes of an interlaced PNG
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# EXIF orientation -> clockwise quarter turns, then mirror left-right
EXIF_TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (1, True),
    6: (1, False),
    7: (3, True),
    8: (3, False),
}
LOSSY_TOLERANCE = 2  # rounding in JPEG's colour conversion makes equal channels differ


def raster_format(head: bytes) -> str | None:
    """Return png, jpeg, tiff or webp by the first 16 bytes of a file; None for other files."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tiff"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None


class Picture(NamedTuple):
    """Decoded picture.

    Attributes:
        pixels: [H, W] uint16.
        bits: bits of a pixel by the file.
        orientation: stated EXIF orientation.
        pending: EXIF orientation that has not been applied to ``pixels`` yet.
        frames: number of pages.
        inverted: True if grey values were inverted.
    """

    pixels: npt.NDArray[np.uint16]
    bits: int
    orientation: int
    pending: int
    frames: int = 1
    inverted: bool = False


def read_raster(
    source: mmap.mmap | bytes, name: str, *, frame: int | None = None, inverted: bool = False
) -> Radiograph:
    """Read a picture file.

    Args:
        source: the whole file.
        name: result of :func:`raster_format`.
        frame: number of the page from 1; required if the file has several.
        inverted: invert the grey values, which the file does not state to be inverted.

    Returns:
        The radiograph, without SHA-256. Values of up to 16 bits are unchanged, or inverted within their bits.

    Raises:
        ReadError: if the file is refused; ``reason`` tells why.
    """
    warnings = ["a picture file states no view, polarity or orientation: none of them is checked"]
    try:
        if name == "jpeg":
            picture = _read_jpeg(bytes(source), frame, warnings)
        elif name == "tiff":
            picture = _read_tiff(source, frame, warnings)
        else:
            picture = _read_with_pillow(source, name, frame, warnings)
    except OSError as error:
        short = name == "webp" and int.from_bytes(source[4:8], "little") + 8 > len(source)
        if short or "truncated" in str(error):
            raise ReadError("truncated", f"the {name} file ends early") from None
        raise ReadError("corrupt", f"the {name} file ends early or is damaged") from None
    except (SyntaxError, ValueError, RuntimeError, KeyError, TypeError, IndexError, EOFError, struct.error, zlib.error):
        raise ReadError("corrupt", f"the {name} file ends early or is damaged") from None
    if inverted:
        top = np.uint16((1 << min(picture.bits, 16)) - 1)
        picture = picture._replace(pixels=top - picture.pixels, inverted=not picture.inverted)
    pixels = turn(picture.pixels, *EXIF_TURNS.get(picture.pending, (0, False)))
    quarter, mirror = EXIF_TURNS.get(picture.orientation, (0, False))
    rows, columns = pixels.shape if quarter % 2 == 0 else pixels.shape[::-1]
    if quarter or mirror:
        warnings.append("the picture was turned according to its EXIF orientation")
    facts = ImageFacts(
        format=name, rows=rows, columns=columns, bits_stored=picture.bits, frames=picture.frames, frame=frame or 1,
        inverted=picture.inverted, mirrored=mirror, rotated=90 * quarter, lossy=name == "jpeg",
    )  # fmt: skip
    windows = (Window("LINEAR_EXACT", 127.5, 255.0, "as stored"),) if picture.bits == 8 else ()
    return Radiograph(pixels, None, facts, tuple(warnings), windows=windows)


def _read_jpeg(data: bytes, frame: int | None, warnings: list[str]) -> Picture:
    """Read the first image of a JPEG file with 2 to 16 bits."""
    from PIL import Image, UnidentifiedImageError

    header = jpeg_header(data)
    _check(header.columns, header.rows, 1, frame)
    if header.samples not in (1, 3):
        raise ReadError("colour", "the picture is in colour (CMYK, YCbCr or another colour space)")
    try:
        orientation = _orientation(Image.open(BytesIO(data), formats=["JPEG"]))
    except UnidentifiedImageError:  # Pillow opens 8 bits only
        orientation = 1
    pixels = decode_jpeg(data, header, alone=True)
    if pixels.ndim == 3:
        pixels = _equal_channels(pixels, warnings, lossy=True)
    return Picture(pixels.astype(np.uint16), header.precision, orientation, orientation)


def _read_tiff(source: mmap.mmap | bytes, frame: int | None, warnings: list[str]) -> Picture:
    """Read one page; integer grey by libtiff, because Pillow lacks half of its kinds and overlooks short strips."""
    from PIL import UnidentifiedImageError
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    stream: Any = BytesIO(source) if isinstance(source, bytes) else source
    head = bytes(source[: 16 if source[2:4] in (b"+\0", b"\0+") else 8])
    pages: list[ImageFileDirectory_v2] = []
    position, seen = ImageFileDirectory_v2(head).next, {0}
    while position not in seen and len(pages) < MAX_PAGES:
        if position >= len(source):
            raise ReadError("truncated", "the tiff file ends early")
        seen.add(position)
        pages.append(ImageFileDirectory_v2(head))
        stream.seek(position)
        pages[-1].load(stream)
        position = pages[-1].next
    if position not in seen:
        raise ReadError("too_large", f"the tiff file has more than {MAX_PAGES:,} pages")
    tags: Any = pages[(frame or 1) - 1] if 1 <= (frame or 1) <= len(pages) else pages[0]
    width, height, bits = tags[WIDTH], tags[LENGTH], tags.get(BITS, (1,))
    _check(width, height, len(pages), frame)
    _check_strips(tags, source, width, height)
    photometric, signs = tags.get(PHOTOMETRIC, MIN_IS_WHITE), tags.get(SAMPLE_FORMAT, (UNSIGNED,))
    if PHOTOMETRIC not in tags:
        warnings.append("the tiff file does not state if its lowest value is white, as was assumed")
    plain = tags.get(SAMPLES, 1) == 1 and photometric in (MIN_IS_WHITE, MIN_IS_BLACK) and bits[0] in (8, 16, 32)
    if not plain or tags.get(COMPRESSION) == JPEG_STRIPS:  # libtiff turns JPEG itself, but only in part
        try:
            picture = _read_with_pillow(source, "tiff", frame, warnings)
            return picture._replace(inverted=photometric == MIN_IS_WHITE)  # Pillow inverts these kinds itself
        except UnidentifiedImageError:
            raise ReadError("unsupported", "the tiff file holds another kind of values than radiographs do") from None
    if signs[0] not in (UNSIGNED, SIGNED):
        raise ReadError("unsupported", "the picture has floating point values")
    import imagecodecs

    try:
        values = imagecodecs.tiff_decode(source, index=(frame or 1) - 1)
    except RuntimeError:
        raise ReadError("truncated", "the tiff file ends early or is damaged") from None
    if int(values.min()) < 0:
        raise ReadError("unsupported", "the picture has negative values")
    inverted = photometric == MIN_IS_WHITE
    if int(values.max()) > 65535 or (inverted and values.itemsize > 2):
        raise ReadError("unsupported", "the picture has more than 16 bits per pixel")
    if inverted and signs[0] == SIGNED:
        raise ReadError("unsupported", "the picture has signed values of which the lowest is white")
    pixels = values.astype(np.uint16)
    described = re.search(rb"tiff:Orientation(?:=\"|>)([0-9])", tags.get(XMP, b""))
    orientation = tags.get(EXIF_ORIENTATION, int(described[1]) if described else 1)
    return Picture(
        (1 << bits[0]) - 1 - pixels if inverted else pixels, bits[0], orientation, orientation, len(pages), inverted
    )


def _check_strips(tags: Any, source: mmap.mmap | bytes, width: int, height: int) -> None:
    """Refuse a TIFF whose strips or tiles lie outside the file, are damaged, hold less than the image, or rows more."""
    offsets, counts = (next((tags[tag] for tag in kind if tag in tags), ()) for kind in (OFFSETS, COUNTS))
    needed = -(-width * sum(tags.get(BITS, (1,))) // 8) * height
    if counts and len(offsets) != len(counts):
        raise ReadError("corrupt", "the tiff file is damaged")
    parts = [(offset, offset + count) for offset, count in zip(offsets, counts, strict=True)] if counts else []
    compression = tags.get(COMPRESSION, UNCOMPRESSED)
    if any(end > len(source) for _, end in parts) or (compression == UNCOMPRESSED and counts and sum(counts) < needed):
        raise ReadError("truncated", "the tiff file ends early")
    rows = min(tags.get(ROWS_PER_STRIP, height), height) or height  # some writers fill the last strip
    filled = needed // height * -(-height // rows) * rows
    if compression == UNCOMPRESSED and STRIP_COUNTS in tags and filled != sum(counts) >= needed + needed // height:
        raise ReadError("corrupt", "the tiff file holds more data than its size states")
    if compression in DEFLATED:  # libtiff does not look at the checksum
        _check_sums(source, parts, needed)
    if compression == JPEG_STRIPS:  # libtiff does not tell of missing data either
        for start, end in parts:
            strip = b"\xff\xd8" + tags.get(JPEG_TABLES, b"")[2:-2] + source[start + 2 : end]
            decode_jpeg(strip, jpeg_header(strip))


def _check_sums(source: mmap.mmap | bytes, parts: list[tuple[int, int]], needed: int) -> None:
    """Refuse deflated strips or tiles whose checksum is wrong, as far as they hold twice the image or less."""
    left = 2 * needed + _PIECE
    for start, end in parts:
        stream, packed = zlib.decompressobj(), bytes(source[start:end])
        while packed and not stream.eof and left > 0:
            try:
                left -= len(stream.decompress(packed, _PIECE))
            except zlib.error:
                raise ReadError("corrupt", "the tiff file is damaged") from None
            packed = stream.unconsumed_tail


def _read_with_pillow(source: mmap.mmap | bytes, name: str, frame: int | None, warnings: list[str]) -> Picture:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # _check applies our limit before decoding
    stream: Any = BytesIO(source) if isinstance(source, bytes) else source
    stream.seek(0)
    image = Image.open(stream, formats=[name.upper()])
    frames = int(getattr(image, "n_frames", 1))
    _check(*image.size, frames, frame)
    if frames > 1:
        image.seek((frame or 1) - 1)
        _check(*image.size, frames, frame)
    orientation = _orientation(image)
    bits = 16 if image.mode.startswith("I") else 8
    if bits == 8 and (source[24] if name == "png" else max(getattr(image, "tag_v2", {}).get(BITS, (8,)))) > 8:
        warnings.append(f"16-bit {name.upper()} with colour or alpha channels: read with 8 bits")
    pixels = _grey(image, warnings, lossy=name == "webp")
    if name == "png":
        _check_rows(source)
    return Picture(pixels, bits, orientation, _orientation(image), frames)  # Pillow turns a TIFF while loading it


def _orientation(image: Image) -> int:
    stated = image.getexif().get(EXIF_ORIENTATION, 1)
    return stated if isinstance(stated, int) else 1


def _check_rows(source: mmap.mmap | bytes) -> None:
    """Refuse a PNG whose compressed data hold less than its size, where Pillow leaves rows black, or a row more."""
    width, height = (int.from_bytes(source[at : at + 4], "big") for at in (16, 20))
    bits = source[24] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[source[25]]
    needed, row = 0, 1 + -(-width * bits // 8)
    for left, top, right, down in ADAM7 if source[28] else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        needed += rows * (1 + -(-columns * bits // 8)) if columns > 0 else 0
    position, parts = 8, []
    while position + 8 <= len(source):
        length = int.from_bytes(source[position : position + 4], "big")
        if source[position + 4 : position + 8] == b"IDAT":
            parts.append(source[position + 8 : position + 8 + length])
        position += 12 + length
    stream, left, packed = zlib.decompressobj(), needed, b"".join(parts)
    while left and (piece := stream.decompress(packed, min(left, _PIECE))):
        left, packed = left - len(piece), stream.unconsumed_tail
    if left:
        raise ReadError("truncated", "the png file ends early")
    with contextlib.suppress(zlib.error):  # damage behind the picture
        if len(stream.decompress(packed, row)) == row:
            raise ReadError("corrupt", "the png file holds more rows than it states")


def _check(width: int, height: int, frames: int, frame: int | None) -> None:
    """Check number of pages and size before decoding."""
    if frames > 1 and frame is None:
        raise ReadError("multi_frame", "the file holds several pages", hint="--frame N picks one, counted from 1")
    if frame is not None and not 1 <= frame <= frames:
        raise ReadError("multi_frame", f"the file has no page {frame}; it holds {frames}")
    if width * height > MAX_PIXELS:
        raise ReadError("too_large", f"the image has more than {MAX_PIXELS >> 20} Mi pixels")
    if min(width, height) < MIN_SIDE:
        raise ReadError("too_small", f"the image is smaller than {MIN_SIDE} pixels on a side")


def _grey(image: Image, warnings: list[str], *, lossy: bool) -> npt.NDArray[np.uint16]:
    """Return one channel [H, W]; colour is accepted only if its channels are equal."""
    mode = image.mode
    if mode == "F":
        raise ReadError("unsupported", "the picture has floating point values")
    if mode not in ("1", "L", "LA", "La", "RGB", "RGBA", "RGBX", "P", "PA") and not mode.startswith("I"):
        raise ReadError("colour", "the picture is in colour (CMYK, YCbCr or another colour space)")
    if mode in ("LA", "La", "RGBA", "PA") or "transparency" in image.info:
        warnings.append("the alpha channel was dropped")
    if mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ReadError("unsupported", "the picture has more than 16 bits per pixel")
        return values.astype(np.uint16)
    if mode in ("1", "L"):
        return np.asarray(image.convert("L")).astype(np.uint16)
    if mode in ("LA", "La"):
        return np.asarray(image)[..., 0].astype(np.uint16)
    channels = np.asarray(image.convert("RGBA" if mode in ("P", "PA") else mode))[..., :3]
    return _equal_channels(channels, warnings if mode != "P" else [], lossy=lossy).astype(np.uint16)


def _equal_channels(channels: npt.NDArray[Any], warnings: list[str], *, lossy: bool) -> npt.NDArray[Any]:
    """Return one of three equal channels [H, W, 3]."""
    low, high = channels.min(axis=-1), channels.max(axis=-1)
    if int((high - low).max()) > (LOSSY_TOLERANCE if lossy else 0):
        raise ReadError("colour", "the picture is in colour")
    warnings.append("colour picture with equal channels: read as grey")
    green: npt.NDArray[Any] = channels[..., 1]
    return green
