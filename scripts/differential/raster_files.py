"""Drawn picture files: PNG of every colour type, depth, filter and interlace, JPEG, TIFF and WebP."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scripts.differential.harness import Case

Pixels = npt.NDArray[Any]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard what OpenCV, libtiff and libpng print, and Pillow's warnings, about damaged files."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@quiet()
def draw(rng: random.Random) -> Case:
    """Draw a file: its bytes, its kind, and what is known of it.

    Of the case: ``sound``, it has no fault; ``readable``, it holds grey values of at most 16 bits; ``truth``, the
    stored values as little-endian uint16, or None; ``shape``, of these; ``frame``, page to read or None; ``inverted``,
    the others do not apply its polarity.
    """
    kind = rng.choice(list(WRITERS))
    size = rng.choice((64, 65, 71, 80)), rng.choice((64, 67, 72, 81))
    case = WRITERS[kind](rng, _image(rng, size))
    sound = rng.random() < 0.6 or case.get("tolerance", 0) > 0  # nothing else decodes lossy JPEG of 12 bits
    if not sound:
        case["data"] = _damaged(rng, case["data"])
    truth = case.pop("values", None)
    return {
        "kind": kind, "sound": sound, "readable": True, "frame": None, "orientation": 1, "tolerance": 0,
        "inverted": False, **case,
        "truth": None if truth is None else truth.astype("<u2").tobytes(), "shape": list(size),
    }  # fmt: skip


def _image(rng: random.Random, size: tuple[int, int]) -> npt.NDArray[np.uint16]:
    """[H, W] smooth values with noise over 16 bits."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    noise = np.random.default_rng(rng.randrange(2**32)).random(size)
    values = np.sin(y / 17 + rng.random() * 6) + np.cos(x / 13) + noise / 5
    values = (values - values.min()) / (values.max() - values.min())
    found: npt.NDArray[np.uint16] = np.rint(values * 65535).astype(np.uint16)
    return found


def _damaged(rng: random.Random, data: bytes) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return data[: int(len(data) * rng.choice((0.3, 0.6, 0.9, 0.99)))]
    if kind == 1:
        return data + bytes(rng.choice((1, 100, 5000)))
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(min(len(data), 200) if kind == 2 else len(data))
        changed[at] = rng.randrange(256)
    return bytes(changed)


def _saved(image: Any, name: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def _exif(rng: random.Random) -> tuple[int, dict[str, Any]]:
    """Draw an orientation: with none, the picture is stored upright."""
    from PIL import Image

    if rng.random() < 0.5:
        return 1, {}
    orientation = rng.randint(1, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return orientation, {"exif": exif}


def _profile(rng: random.Random) -> dict[str, Any]:
    from PIL import ImageCms

    if rng.random() < 0.8:
        return {}
    return {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}


def _mode(rng: random.Random, values: npt.NDArray[np.uint16], modes: str) -> tuple[Any, Pixels | None, bool]:
    """Draw a Pillow image of one of several modes; return it, the grey values that it stores, and if it is grey."""
    from PIL import Image

    mode, grey = rng.choice(modes.split()), (values >> 8).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(values), values, True
    if mode == "1":
        bits = (grey > 127).astype(np.uint8) * 255
        return Image.fromarray(bits).convert("1", dither=Image.Dither.NONE), bits, True
    if mode == "L":
        return Image.fromarray(grey), grey, True
    if mode == "P":
        table = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, 256)
        image = Image.fromarray(grey).copy()
        image.putpalette([int(value) for value in table for _ in range(3)])
        return image, table[grey], True
    if mode == "F":
        return Image.fromarray(values.astype(np.float32)), None, False
    if mode == "CMYK":
        return Image.fromarray(np.stack([grey] * 3, -1)).convert("CMYK"), None, False
    channels = np.stack([grey] * (3 if "RGB" in mode else 1), -1)
    coloured = mode != "LA" and rng.random() < 0.2
    if coloured:
        channels[5:40, 5:40, rng.randrange(3)] ^= 0x60
    if mode in ("LA", "RGBA"):
        alpha = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (*grey.shape, 1))
        channels = np.concatenate([channels, alpha], -1)
    return Image.fromarray(channels.astype(np.uint8), mode), None if coloured else grey, not coloured


def _pillow_png(rng: random.Random, values: npt.NDArray[np.uint16]) -> Case:
    image, truth, grey = _mode(rng, values, "I;16 I;16 1 L LA P RGB RGBA")
    orientation, exif = _exif(rng)
    options = {"optimize": True} if rng.random() < 0.2 else {"compress_level": rng.randrange(10)}
    return {
        "data": _saved(image, "png", **options, **exif, **_profile(rng)), "values": truth, "readable": grey,
        "orientation": orientation,
    }  # fmt: skip


_PASSES: Final = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column, and steps, of the passes of Adam7 (PNG specification 8.2)."""


def _own_png(rng: random.Random, values: npt.NDArray[np.uint16]) -> Case:
    """Write a PNG of any colour type, depth, filters and interlace (ISO/IEC 15948)."""
    colour, depth = rng.choice(
        [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8),
         (4, 16), (6, 8), (6, 16)]
    )  # fmt: skip
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    samples = np.repeat((values >> (16 - depth))[..., None], channels, axis=-1)
    other = np.random.default_rng(rng.randrange(2**32))
    if colour in (4, 6):
        samples[..., -1] = other.integers(0, 1 << depth, values.shape)
    coloured = colour in (2, 6) and rng.random() < 0.2
    if coloured:  # by the high bits, which remain of a reading with 8
        samples[3, 4, 0] ^= 1 << (depth - 1)
    extra = b""
    truth: Pixels | None = samples[..., 0] * (255 // ((1 << depth) - 1)) if depth < 8 else samples[..., 0]
    if colour == 3:
        table = other.integers(0, 256, 1 << depth)
        entries = np.repeat(table[:, None], 3, axis=1)
        coloured = rng.random() < 0.2
        if coloured:
            entries[int(samples[0, 0, 0]), 1] ^= 0x80
        extra, truth = _chunk(b"PLTE", entries.astype(np.uint8).tobytes()), table[samples[..., 0]]
        if rng.random() < 0.3:
            extra += _chunk(b"tRNS", bytes(other.integers(0, 256, 1 << depth).astype(np.uint8)))
    if rng.random() < 0.2:
        extra = _chunk(b"gAMA", struct.pack(">I", rng.choice((45455, 100000)))) + extra
    interlaced = rng.random() < 0.5
    parts = [samples[top::down, left::right] for top, left, down, right in _PASSES] if interlaced else [samples]
    rows = b"".join(_filtered(rng, part, depth) for part in parts if part.size)
    if depth == 16 and colour != 0:
        truth = None  # Pillow's reading of such files, and so ours, has 8 bits, with a warning
    packed = zlib.compress(rows, rng.randrange(10))
    cut = rng.randrange(1, len(packed))
    pieces = [packed] if rng.random() < 0.5 else [packed[:cut], packed[cut:]]
    size = struct.pack(">IIBBBBB", *values.shape[::-1], depth, colour, 0, 0, int(interlaced))
    body = _chunk(b"IHDR", size) + extra + b"".join(_chunk(b"IDAT", one) for one in pieces) + _chunk(b"IEND", b"")
    return {"data": b"\x89PNG\r\n\x1a\n" + body, "values": None if coloured else truth, "readable": not coloured}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _filtered(rng: random.Random, samples: npt.NDArray[np.uint16], depth: int) -> bytes:
    """Return the rows of [H, W, channels] with drawn filters (PNG specification 9.2)."""
    height, width, channels = samples.shape
    flat = samples.reshape(height, width * channels)
    if depth == 16:
        rows = flat.astype(">u2").view(np.uint8).reshape(height, -1)
    elif depth == 8:
        rows = flat.astype(np.uint8)
    else:
        bits = (flat[..., None] >> np.arange(depth)[::-1]) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    step = max(1, channels * depth // 8)
    left = np.zeros_like(rows)
    left[:, step:] = rows[:, :-step]
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    corner = np.zeros_like(rows)
    corner[:, step:] = above[:, :-step]
    a, b, c = (part.astype(np.int16) for part in (left, above, corner))
    near = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    paeth = np.where((near[0] <= near[1]) & (near[0] <= near[2]), a, np.where(near[1] <= near[2], b, c))
    predictions = (np.zeros_like(a), a, b, (a + b) // 2, paeth)
    chosen = [rng.randrange(5) for _ in range(height)]
    return b"".join(
        bytes([kind]) + (rows[row] - predictions[kind][row]).astype(np.uint8).tobytes()
        for row, kind in enumerate(chosen)
    )


def _pillow_jpeg(rng: random.Random, values: npt.NDArray[np.uint16]) -> Case:
    image, _, grey = _mode(rng, values, "L L RGB CMYK")
    orientation, exif = _exif(rng)
    options: dict[str, Any] = {
        "quality": rng.choice((30, 75, 95, 100)), "progressive": rng.random() < 0.3, "optimize": rng.random() < 0.3,
        "subsampling": rng.randrange(3),
    }  # fmt: skip
    if rng.random() < 0.3:
        options["restart_marker_rows"] = rng.randint(1, 4)
    return {
        "data": _saved(image, "jpeg", **options, **exif, **_profile(rng)), "readable": grey, "orientation": orientation,
    }  # fmt: skip


def _deep_jpeg(rng: random.Random, values: npt.NDArray[np.uint16]) -> Case:
    """JPEG of 12 bits, or lossless of 2 to 16, by imagecodecs."""
    import imagecodecs

    if rng.random() < 0.3:
        stored = values >> 4
        data = imagecodecs.jpeg8_encode(stored, level=rng.choice((90, 100)), bitspersample=12)
        return {"data": bytes(data), "values": stored, "tolerance": 300}
    bits = rng.choice((8, 10, 12, 14, 15, 16))
    stored = (values >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    data = imagecodecs.jpeg8_encode(stored, lossless=True, predictor=rng.randint(1, 7), bitspersample=bits)
    return {"data": bytes(data), "values": stored}


def _pillow_tiff(rng: random.Random, values: npt.NDArray[np.uint16]) -> Case:
    image, truth, grey = _mode(rng, values, "I;16 I;16 1 L LA P RGB RGBA F CMYK")
    orientation: int | None = 1
    tags: dict[int, int] = {}
    if rng.random() < 0.4:
        orientation = tags[274] = rng.randint(1, 8)
    if rng.random() < 0.2 and image.mode in ("L", "I;16"):
        tags[322] = tags[323] = 32
    packing = rng.choice((None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_deflate"))
    lossy = packing == "jpeg" and image.mode in ("L", "RGB")
    if packing == "jpeg" and not lossy:
        packing = "tiff_lzw"
    if rng.random() < 0.2 and packing in ("tiff_lzw", "tiff_adobe_deflate") and image.mode not in ("1", "F"):
        tags[317] = 2
    options: dict[str, Any] = {"compression": packing, "tiffinfo": tags, "big_tiff": rng.random() < 0.2}
    frame = None
    if rng.random() < 0.15 and grey:
        options |= {"save_all": True, "append_images": [image.copy()]}
        frame = rng.choice((1, 2, None))
    # Pillow does not write the orientation of further pages
    orientation = orientation if frame != 2 else None
    return {
        "data": _saved(image, "tiff", **options), "values": None if lossy else truth, "readable": grey, "frame": frame,
        "orientation": orientation,
    }  # fmt: skip


def _opencv_tiff(rng: random.Random, values: npt.NDArray[np.uint16]) -> Case:
    import cv2

    stored = rng.choice((values, (values >> 8).astype(np.uint8), values.astype(np.int32), values.astype(np.float32)))
    packing = rng.choice((1, 5, 8, 32773, 32946))
    options = [cv2.IMWRITE_TIFF_COMPRESSION, packing, cv2.IMWRITE_TIFF_ROWSPERSTRIP, rng.choice((1, 7, 64, 200))]
    if packing in (5, 8, 32946) and stored.dtype.kind == "u":
        options += [cv2.IMWRITE_TIFF_PREDICTOR, rng.choice((1, 2))]
    data = cv2.imencode(".tif", stored, options)[1].tobytes()
    whole = stored.dtype.kind != "f"
    return {"data": data, "values": stored.astype(np.uint16) if whole else None, "readable": whole}


def _plain_tiff(rng: random.Random, values: npt.NDArray[np.uint16]) -> Case:
    """Write a TIFF of either byte order, integer type, polarity, packing and number of strips (TIFF 6.0)."""
    order, white = rng.choice("<>"), rng.random() < 0.3
    kind = rng.choice(("u1", "u2", "u2", "u4", "i2", "i4"))
    stored = (values >> {"u1": 8, "i2": 1}.get(kind, 0)).astype(np.uint16)
    packed, rows = rng.random() < 0.5, rng.choice((1, 13, 64, 500))
    content = np.uint16(255 if kind == "u1" else 65535) - stored if white else stored
    strips = [content[at : at + rows].astype(order + kind).tobytes() for at in range(0, len(content), rows)]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    places = np.cumsum([8, *map(len, strips)]).tolist()
    bits, size = 8 * int(kind[1]), values.shape
    tables = [places[:-1], [len(strip) for strip in strips]]
    lists = places[-1] + places[-1] % 2
    entries = [
        (256, 4, [size[1]]), (257, 4, [size[0]]), (258, 3, [bits]), (259, 3, [8 if packed else 1]),
        (262, 3, [int(not white)]), (273, 4, tables[0]), (277, 3, [1]), (278, 4, [min(rows, size[0])]),
        (279, 4, tables[1]), (339, 3, [1 if kind[0] == "u" else 2]),
    ]  # fmt: skip
    body, far = b"", b""
    for tag, form, numbers in entries:
        if len(numbers) == 1:
            value = struct.pack(order + ("HH" if form == 3 else "I"), *numbers, *([0] if form == 3 else []))
        else:
            value = struct.pack(order + "I", lists + len(far))
            far += struct.pack(f"{order}{len(numbers)}I", *numbers)
        body += struct.pack(order + "HHI", tag, form, len(numbers)) + value
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, lists + len(far))
    padding = bytes(lists - places[-1])
    data = head + b"".join(strips) + padding + far + struct.pack(order + "H", len(entries)) + body + bytes(4)
    readable = not (white and kind in ("u4", "i2", "i4"))
    return {"data": data, "values": stored, "readable": readable, "inverted": white and kind == "u2"}


def _webp(rng: random.Random, values: npt.NDArray[np.uint16]) -> Case:
    image, truth, grey = _mode(rng, values, "L RGB RGBA")
    lossless = rng.random() < 0.6
    orientation, exif = _exif(rng)
    data = _saved(
        image, "webp", lossless=lossless, exact=True, quality=rng.choice((50, 90)), method=0, **exif, **_profile(rng)
    )
    # the colour of a lossy file is subsampled
    return {
        "data": data, "values": truth if lossless else None, "readable": grey if lossless else None,
        "orientation": orientation,
    }  # fmt: skip


WRITERS: dict[str, Callable[[random.Random, npt.NDArray[np.uint16]], Case]] = {
    "png by Pillow": _pillow_png, "png": _own_png, "jpeg by Pillow": _pillow_jpeg, "jpeg by imagecodecs": _deep_jpeg,
    "tiff by Pillow": _pillow_tiff, "tiff by OpenCV": _opencv_tiff, "tiff": _plain_tiff, "webp by Pillow": _webp,
}  # fmt: skip
"""Kinds of files."""
