"""Reading of PNG, JPEG, TIFF and WebP without silent loss of 16-bit values (docs/dicom.md, "Picture files")."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.errors import ReadError
from encoder.reader.geometry import MAX_PIXELS, MIN_SIDE, turn
from encoder.reader.radiograph import ImageFacts, Radiograph, Window

if TYPE_CHECKING:
    import mmap

    import numpy.typing as npt
    from PIL.Image import Image

EXIF_ORIENTATION = 0x0112
TIFF_PHOTOMETRIC, TIFF_MIN_IS_WHITE = 262, 0
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


def read_raster(source: mmap.mmap | bytes, name: str, *, frame: int | None = None) -> Radiograph:
    """Read a picture file.

    Args:
        source: the whole file.
        name: result of :func:`raster_format`.
        frame: number of the page from 1; required if the file has several.

    Returns:
        The radiograph, without SHA-256. 8-bit and 16-bit values are unchanged.

    Raises:
        ReadError: if the file is refused; ``reason`` tells why.
    """
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # _check applies our limit before decoding
    stream: Any = BytesIO(source) if isinstance(source, bytes) else source
    try:
        image = Image.open(stream, formats=[name.upper(), "MPO"] if name == "jpeg" else [name.upper()])
        frames = int(getattr(image, "n_frames", 1)) if image.format != "MPO" else 1
        _check(image, frames, frame)
        if frames > 1:
            image.seek((frame or 1) - 1)
            _check(image, frames, frame)
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        tags = getattr(image, "tag_v2", {})
        inverted = image.mode.startswith("I") and tags.get(TIFF_PHOTOMETRIC) == TIFF_MIN_IS_WHITE
        warnings = ["a picture file states no view, polarity or orientation: none of them is checked"]
        if name == "png" and source[24:25] == b"\x10" and source[25:26] in (b"\x02", b"\x04", b"\x06"):
            warnings.append("16-bit PNG with colour or alpha channels: read with 8 bits")
        pixels = _grey(image, warnings, lossy=name in ("jpeg", "webp"))
    except (UnidentifiedImageError, SyntaxError, ValueError, KeyError, TypeError, IndexError, EOFError):
        raise ReadError("corrupt", f"the {name} file is damaged") from None
    except OSError as error:
        if "truncated" in str(error):
            raise ReadError("truncated", f"the {name} file ends early") from None
        raise ReadError("corrupt", f"the {name} file is damaged") from None
    if inverted:
        pixels = 65535 - pixels
    bits = 16 if image.mode.startswith("I") else 8
    quarter, mirror = EXIF_TURNS.get(orientation if isinstance(orientation, int) else 1, (0, False))
    rows, columns = pixels.shape
    pixels = turn(pixels, quarter, mirror)
    if quarter or mirror:
        warnings.append("the picture was turned according to its EXIF orientation")
    facts = ImageFacts(
        format=name, rows=rows, columns=columns, bits_stored=bits, frames=frames, frame=frame or 1,
        inverted=inverted, mirrored=mirror, rotated=90 * quarter, lossy=name == "jpeg",
    )  # fmt: skip
    windows = (Window("LINEAR_EXACT", 127.5, 255.0, "as stored"),) if bits == 8 else ()
    return Radiograph(pixels, None, facts, tuple(warnings), windows=windows)


def _check(image: Image, frames: int, frame: int | None) -> None:
    """Check number of pages and size before decoding."""
    if frames > 1 and frame is None:
        raise ReadError("multi_frame", "the file holds several pages", hint="--frame N picks one, counted from 1")
    if frame is not None and not 1 <= frame <= frames:
        raise ReadError("multi_frame", f"the file has no page {frame}; it holds {frames}")
    if image.width * image.height > MAX_PIXELS:
        raise ReadError("too_large", f"the image has more than {MAX_PIXELS >> 20} Mi pixels")
    if min(image.size) < MIN_SIDE:
        raise ReadError("too_small", f"the image is smaller than {MIN_SIDE} pixels on a side")


def _grey(image: Image, warnings: list[str], *, lossy: bool) -> npt.NDArray[np.uint16]:
    """Return one channel [H, W]; colour is accepted only if its channels are equal."""
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ReadError("unsupported", "the picture has more than 16 bits per pixel")
        return values.astype(np.uint16)
    if mode in ("1", "L"):
        return np.asarray(image.convert("L")).astype(np.uint16)
    if mode in ("LA", "La"):
        warnings.append("the alpha channel was dropped")
        return np.asarray(image)[..., 0].astype(np.uint16)
    if mode == "F":
        raise ReadError("unsupported", "the picture has floating point values")
    if mode not in ("RGB", "RGBA", "RGBX", "P", "PA"):
        raise ReadError("colour", "the picture is in colour (CMYK, YCbCr or another colour space)")
    if mode in ("RGBA", "PA") or "transparency" in image.info:
        warnings.append("the alpha channel was dropped")
    channels = np.asarray(image.convert("RGBA" if mode in ("P", "PA") else mode))[..., :3]
    low, high = channels.min(axis=-1), channels.max(axis=-1)
    if int((high - low).max()) > (LOSSY_TOLERANCE if lossy else 0):
        raise ReadError("colour", "the picture is in colour")
    if mode != "P":
        warnings.append("colour picture with equal channels: read as grey")
    return channels[..., 1].astype(np.uint16)
