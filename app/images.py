"""Pixels of the studies on disk; uploaded files themselves are never kept.

An image is a file of 16-bit values, and a bit mask if parts of it are padding, both named by a random id. Its size and
its window presets go into the store.
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoder.errors import LlavaRadError
from encoder.files import reported, write

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.preprocessing import Recipe
    from encoder.reader.radiograph import PreparedImage, Radiograph, Window

LEVELS = 1 << 16


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
            Description for the store: ``id``, ``width``, ``height``, ``presets`` (see :func:`presets`) and ``padded``.

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
        height, width = image.pixels.shape
        return {"id": name, "width": width, "height": height, "presets": presets(image), "padded": padded}

    def file(self, description: dict[str, Any]) -> Path:
        """Return the path of an image's file: little-endian uint16 values, row by row.

        Raises:
            LlavaRadError: if the file is missing.
        """
        path = self._root / f"{description['id']}.u16"
        if not path.is_file():
            raise LlavaRadError("the pixels of this study are no longer on the server's disk")
        return path

    def pixels(self, description: dict[str, Any]) -> npt.NDArray[np.uint16]:
        """Read an image's pixels, uint16 [height, width].

        Raises:
            LlavaRadError: if the file is missing.
        """
        import numpy as np

        return np.fromfile(self.file(description), "<u2").reshape(description["height"], description["width"])

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
