"""Replies of the workers of :mod:`encoder.reader.sandbox`: a JSON header and raw arrays, checked, made into results."""

from __future__ import annotations

import contextlib
import mmap
import socket
import time
import unicodedata
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from encoder.errors import ReadError
from encoder.reader.radiograph import ImageFacts, Radiograph, Spacing, Window

MAX_REPLY_HEADER: Final = 1 << 20
MAX_PIXEL_BYTES: Final = 128 << 20  # 64 Mi pixels of 2 bytes
MAX_REPLY_BYTES: Final = 2 * MAX_PIXEL_BYTES
CRASHED: Final = "the image crashed its decoder, which runs in a separate process"


@contextlib.contextmanager
def well_formed() -> Iterator[None]:
    """Refuse the image if a reply has another form, as that of a decoder that was taken over may.

    Raises:
        ReadError: with the reason crashed.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, MemoryError):
        raise ReadError("crashed", CRASHED) from None


def radiograph(header: dict[str, Any], body: bytearray, digest: str, output: int | None) -> Radiograph:
    """Build the result of a reply; ``output`` is the shared memory of the pixels, if there is one."""
    rows, columns = header["shape"]
    position = 0 if output is not None else 2 * rows * columns
    memory = body if output is None else mmap.mmap(output, 2 * rows * columns, access=mmap.ACCESS_READ)
    pixels = np.frombuffer(memory, np.uint16, rows * columns).reshape(rows, columns)
    valid = None
    if header["valid"]:
        valid = np.frombuffer(body, np.bool_, rows * columns, position).reshape(rows, columns)
        position += valid.nbytes
    windows = []
    for data in header["windows"]:
        entries = data.pop("entries")
        lut = np.frombuffer(body, np.uint16, entries, position) if entries else None
        position += 2 * entries
        windows.append(Window(lut=lut, **data))
    return Radiograph(
        pixels, valid, ImageFacts.from_dict(header["facts"]), tuple(header["warnings"]), digest, tuple(windows),
        header["scale"], header["offset"], header["monochrome1"],
        None if header["spacing"] is None else Spacing(*header["spacing"]),
    )  # fmt: skip


def check_texts(value: object) -> None:
    """Check that no text of a reply has control characters.

    Raises:
        ValueError: if one has.
    """
    if isinstance(value, str):
        if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in value):
            raise ValueError
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            check_texts(one)


def receive_exactly(channel: socket.socket, count: int, end: float) -> bytearray:
    """Receive ``count`` bytes until ``end`` of the monotonic clock.

    Raises:
        TimeoutError: if they do not come in time.
        ConnectionError: if the worker ends before.
    """
    buffer = bytearray(count)
    view = memoryview(buffer)
    while view:
        channel.settimeout(max(end - time.monotonic(), 0.001))
        received = channel.recv_into(view)
        if not received:
            raise ConnectionError
        view = view[received:]
    return buffer
