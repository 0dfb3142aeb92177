"""A pydicom decoder plugin for 12-bit and lossless JPEG, so that other readers can take part in the benchmark.

The only plugins that pydicom knows for them are GPL-3 or python-gdcm. Ours uses none, see
``encoder/reader/decoders.py``.
"""

from __future__ import annotations

from typing import Any

UIDS = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
DECODER_DEPENDENCIES = dict.fromkeys(UIDS, ("numpy", "imagecodecs"))


def is_available(uid: str) -> bool:
    """Whether this plugin decodes a transfer syntax (pydicom's plugin interface)."""
    return uid in UIDS


def decode_frame(source: bytes, runner: Any) -> bytearray:
    """One frame to little-endian bytes (pydicom's plugin interface)."""
    import imagecodecs

    pixels = imagecodecs.jpeg8_decode(source)
    runner.set_option("bits_allocated", 8 * pixels.dtype.itemsize)
    return bytearray(pixels.tobytes())


def register() -> None:
    """Offer the plugin to pydicom in this process."""
    from pydicom.pixels.decoders.base import get_decoder

    for uid in UIDS:
        decoder = get_decoder(uid)
        if "jpeg8" not in decoder.available_plugins:
            decoder.add_plugin("jpeg8", (__name__, "decode_frame"))
