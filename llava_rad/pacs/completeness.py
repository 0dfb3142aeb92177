"""Check that bytes are a whole DICOM file (PS3.10), from the lengths that its elements state; nothing is decoded."""

from __future__ import annotations

import mmap
import re
import zlib
from pathlib import Path
from typing import Final, Literal

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
_LONG: Final = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
"""Value representations with 4 bytes of length (PS3.5, table 7.1-1)."""
_MAX_ELEMENTS: Final = 200_000
_MAX_META: Final = 1000
"""Elements of the file's meta information that are looked at; PS3.10 defines 16."""
_MAX_INFLATED: Final = 1 << 30

Buffer = bytes | mmap.mmap
Order = Literal["little", "big"]


def fault_of(content: Buffer) -> str | None:
    """Return what makes bytes no whole DICOM file, or None.

    An element beyond the end, or an open sequence at the end, is a fault; damage of another kind is for the reader.
    """
    if content[128:132] != b"DICM":
        return "no DICOM file: its preamble is missing"
    return "half a DICOM file: it ends within an element" if _is_cut(content) else None


def is_whole_file(path: Path) -> bool:
    """Tell whether a file is a whole DICOM file; of an uncompressed one only the elements' headers are read.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return fault_of(content) is None


def _is_cut(content: Buffer) -> bool:
    position, syntax = 132, b""
    for _ in range(_MAX_META):
        if content[position : position + 2] != b"\x02\x00":
            break
        tag = content[position : position + 4]
        start, length = _value(content, position, "little", implicit=False)
        position = start + length
        if tag == b"\x02\x00\x10\x00":
            syntax = content[start:position].rstrip(b"\0 ")
    if syntax == b"1.2.840.10008.1.2.1.99":
        return _deflate_is_cut(content, position)
    order: Order = "big" if syntax == b"1.2.840.10008.1.2.2" else "little"
    # the first element tells more than the syntax, which some files state wrongly; pydicom decides so too
    explicit = re.fullmatch(rb"[A-Z]{2}", content[position + 4 : position + 6])
    return _elements_are_cut(content, position, order, implicit=syntax == b"1.2.840.10008.1.2" and not explicit)


def _elements_are_cut(content: Buffer, position: int, order: Order, *, implicit: bool) -> bool:
    """Walk through the elements, and through sequences of undefined length, whose depth is only counted."""
    marks = {_in_order(mark, order): mark for mark in (_ITEM, _ITEM_END, _SEQUENCE_END)}
    depth = 0
    for _ in range(_MAX_ELEMENTS):
        if position >= len(content):
            return position > len(content) or depth > 0
        if not depth and not content[position : position + 64].strip(b"\0\r\n "):
            return bool(re.search(rb"[^\0\r\n ]", content[position:]))  # padding after the last element
        mark = marks.get(content[position : position + 4])
        if mark is not None and mark != _ITEM:
            position += 8
            depth -= 1
            continue
        start, length = _value(content, position, order, implicit=implicit or mark is not None)
        position = start
        if length == _UNDEFINED:
            depth += 1
        else:
            position += length
    return False


def _value(content: Buffer, position: int, order: Order, *, implicit: bool) -> tuple[int, int]:
    """Return start and length of the value of the element at a position."""
    representation = content[position + 4 : position + 6]
    if implicit or not re.fullmatch(rb"[A-Z]{2}", representation):
        return position + 8, int.from_bytes(content[position + 4 : position + 8], order)
    if representation in _LONG:
        return position + 12, int.from_bytes(content[position + 8 : position + 12], order)
    return position + 8, int.from_bytes(content[position + 6 : position + 8], order)


def _in_order(tag: bytes, order: Order) -> bytes:
    return tag if order == "little" else tag[1::-1] + tag[3:1:-1]


def _deflate_is_cut(content: Buffer, position: int) -> bool:
    inflater, inflated, block = zlib.decompressobj(-zlib.MAX_WBITS), 0, b""
    try:
        while not inflater.eof and inflated < _MAX_INFLATED:
            if not block:
                block = content[position : position + (1 << 20)]
                position += len(block)
                if not block:
                    return True
            inflated += len(inflater.decompress(block, 1 << 22))
            block = inflater.unconsumed_tail
    except zlib.error:
        pass  # damaged: for the reader
    return False
