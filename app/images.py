"""Pixels of the studies on disk; uploaded files themselves are never kept.

An image is a file of 16-bit values, and a bit mask if parts of it are padding, both named by a random id. Its size and
its window presets go into the store. Previews are JPEG files beside it.
"""

from __future__ import annotations

import base64
import contextlib
import io
import secrets
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from encoder.errors import LlavaRadError
from encoder.files import reported, write

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from encoder.reader.radiograph import PreparedImage, Radiograph, Window

LEVELS = 1 << 16
PREVIEW_SIDES: Final = (96, 256, 512, 1024, 2048)
"""Longest sides of previews in pixels: the first is that of thumbnails."""
FIRST_SIDE: Final = 1024
"""Longest side of the preview that the page asks for first; it is made with the image, as the thumbnail is."""
PREVIEW_BYTES: Final = 150_000
"""Largest preview: 0.12 s at 10 Mbit/s."""
_QUALITIES: Final = (85, 70, 50, 30)
_PREVIEW_SHARES: Final = (0.001, 0.999)


class Preview(NamedTuple):
    """A small image.

    Attributes:
        content: JPEG file of 8-bit grey values.
        low: pixel value of grey 0; lower values have it too.
        high: pixel value of grey 255; higher values have it too.
    """

    content: bytes
    low: int
    high: int


class PixelsGone(LlavaRadError):
    """The file of an image is missing, as after a restored database without its images."""


class ImageFolder:
    """Folder of the studies' pixels.

    Args:
        root: the folder, created with mode 0700 if missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep(self, image: Radiograph) -> dict[str, Any]:
        """Write an image's pixels.

        Returns:
            Description for the store: ``id``, ``width``, ``height``, ``presets`` (see :func:`presets`), ``padded`` and
            ``spacing`` (``mm`` and ``at`` of :class:`encoder.reader.radiograph.Spacing`, or None).

        Raises:
            LlavaRadError: if the disk refuses.
        """
        import numpy as np

        name = secrets.token_hex(16)
        self._write(f"{name}.u16", np.ascontiguousarray(image.pixels, dtype="<u2").tobytes())
        padded = image.valid is not None and not bool(image.valid.all())
        if padded:
            assert image.valid is not None
            self._write(f"{name}.valid", np.packbits(image.valid).tobytes())
        for side in (PREVIEW_SIDES[0], FIRST_SIDE):
            self._write(f"{name}.{side}.jpg", preview(image.pixels, side).content)
        height, width = image.pixels.shape
        return {
            "id": name, "width": width, "height": height, "presets": presets(image), "padded": padded,
            "spacing": image.spacing and image.spacing._asdict(),
        }  # fmt: skip

    def file(self, description: dict[str, Any]) -> Path:
        """Return the path of an image's file: little-endian uint16 values, row by row.

        Raises:
            PixelsGone: if the file is missing.
        """
        path = self._root / f"{description['id']}.u16"
        if not path.is_file():
            raise PixelsGone("the pixels of this study are no longer on the server's disk")
        return path

    def pixels(self, description: dict[str, Any]) -> npt.NDArray[np.uint16]:
        """Read an image's pixels, uint16 [height, width].

        Raises:
            LlavaRadError: if the file is missing.
        """
        import numpy as np

        return np.fromfile(self.file(description), "<u2").reshape(description["height"], description["width"])

    def planes(self, description: dict[str, Any]) -> bytes:
        """Read an image's pixels as a gzip file of all high bytes, then all low bytes, each row by row.

        Raises:
            LlavaRadError: if the file is missing.
        """
        import numpy as np

        pixels = self.pixels(description)
        packer = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
        planes = ((pixels >> 8).astype(np.uint8), (pixels & 0xFF).astype(np.uint8))
        return b"".join([*(packer.compress(plane.tobytes()) for plane in planes), packer.flush()])

    def preview(self, description: dict[str, Any], side: int) -> Preview:
        """Read or make a preview of an image.

        Args:
            description: of the image, from the store.
            side: of :data:`PREVIEW_SIDES`; smaller images are not enlarged.

        Raises:
            LlavaRadError: if the image's file is missing.
        """
        path = self._root / f"{description['id']}.{side}.jpg"
        with contextlib.suppress(OSError):
            return _read_preview(path.read_bytes())
        made = preview(self.pixels(description), side)
        with contextlib.suppress(LlavaRadError):  # a full disk: it is made again the next time
            self._write(path.name, made.content)
        return made

    def prepared(self, state: dict[str, Any], recipe: Recipe) -> PreparedImage:
        """Preprocess a study's image as ``encoder.reader.sandbox.Reader.prepare`` does with the file.

        Args:
            state: of the study, from the store, or its entry ``prior`` or ``lateral``.
            recipe: preprocessing of the model.
        """
        import numpy as np

        from encoder.reader.radiograph import ImageFacts, PreparedImage

        kept = state["image"]
        pixels = self.pixels(kept)
        valid: npt.NDArray[np.bool_] | None = None
        if kept["padded"]:
            bits = np.fromfile(self._root / f"{kept['id']}.valid", np.uint8)
            valid = np.unpackbits(bits, count=pixels.size).reshape(pixels.shape).astype(np.bool_)
        facts = ImageFacts.from_dict(state["facts"])
        square = recipe.apply(pixels, valid, from_dicom=facts.format == "dicom")
        return PreparedImage(square, facts, tuple(state["warnings"]), state["sha256"])

    def _write(self, name: str, content: bytes) -> None:
        with reported("the image"):
            write(self._root / name, content, overwrite=False, permissions=0o600)


def preview(pixels: npt.NDArray[np.uint16], side: int) -> Preview:
    """Reduce an image to ``side`` pixels on its longest side and to 8 bits, linear between the central 99.8 percent.

    The range is that of the percentiles, because a single bright pixel would leave few grey levels to the others.
    """
    import numpy as np
    from PIL import Image

    low, high = (int(np.quantile(pixels[::4, ::4], share)) for share in _PREVIEW_SHARES)
    high = max(high, low + 1)
    greys = np.clip((np.arange(LEVELS, dtype=np.float64) - low) / (high - low), 0.0, 1.0) * 255.0 + 0.5
    image = Image.fromarray(greys.astype(np.uint8)[pixels])
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    for quality in _QUALITIES:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality, comment=f"{low} {high}")
        if stream.tell() <= PREVIEW_BYTES:
            break
    return Preview(stream.getvalue(), low, high)


def _read_preview(content: bytes) -> Preview:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        low, high = image.info["comment"].split()
    return Preview(content, int(low), int(high))


def presets(image: Radiograph) -> list[dict[str, Any]]:
    """Return the window presets of an image: the file's windows first, then two automatic ones.

    Each has ``label``, ``kind``, ``center`` and ``width`` in pixel values (higher values are denser and brighter).
    Kind ``table`` also has ``table``: the brightness of every pixel value, as base64 of bytes.
    """
    found = [_preset(image, number, window) for number, window in enumerate(image.windows)]
    low, high = image.percentiles(0.005, 0.995)
    top = int(image.pixels.max(initial=0))
    return [*found, _between("automatic", low, high), _between("full range", int(image.pixels.min(initial=top)), top)]


def _preset(image: Radiograph, number: int, window: Window) -> dict[str, Any]:
    rising = image.scale * (-1 if image.monochrome1 else 1)
    if window.function == "LUT" or rising <= 0:
        return {"label": window.label, "kind": "table", "table": _table(image, number), **_range(image)}
    center, width = window.center, window.width
    if window.function == "LINEAR":  # DICOM PS3.3 C.11.2.1.2.1
        center, width = center - 0.5, max(width - 1.0, 1e-6)
    kind = "sigmoid" if window.function == "SIGMOID" else "linear"
    place = {"center": (center - image.offset) / image.scale, "width": width / abs(image.scale)}
    return {"label": window.label, "kind": kind, **place}


def _table(image: Radiograph, number: int) -> str:
    """Return the brightness of all 65,536 pixel values under a window, as base64 of bytes."""
    import numpy as np

    levels = np.arange(LEVELS, dtype=np.float64) * image.scale + image.offset
    shown = image.windows[number].apply(levels)
    shown = 1.0 - shown if image.monochrome1 else shown
    return base64.b64encode(np.floor(shown * 255.0 + 0.5).astype(np.uint8).tobytes()).decode()


def _range(image: Radiograph) -> dict[str, float]:
    top, bottom = int(image.pixels.max(initial=0)), int(image.pixels.min(initial=LEVELS - 1))
    return {"center": (top + bottom) / 2, "width": float(max(top - bottom, 1))}


def _between(label: str, low: int, high: int) -> dict[str, Any]:
    return {"label": label, "kind": "linear", "center": (low + high) / 2, "width": float(max(high - low, 1))}
