"""Header of an untrusted DICOM file: the allow-listed attributes and the position of the pixel data.

Only the attributes in ``KEYWORDS`` are kept; names, dates and free text are skipped while reading. Values are parsed
from their raw bytes, because pydicom's conversions raise many types of errors and quote values in their messages.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

from encoder.errors import ReadError

if TYPE_CHECKING:
    import mmap

    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag
    from pydicom.uid import UID

MAX_INFLATED_BYTES = 300 << 20  # twice 64 Mi pixels of 2 bytes, and a header
MAX_ELEMENTS = 20_000  # at the top level; real headers have a few hundred
DICOMDIR = "1.2.840.10008.1.3.10"
OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
OVERLAY_BIT_POSITION = 0x0102  # element in these groups
LATIN_1 = {"", "iso8859", "latin_1"}  # codecs of ISO_IR 6, ISO_IR 100 and of no statement

KEYWORDS = [
    "SpecificCharacterSet", "SOPClassUID", "Modality", "PresentationIntentType", "BodyPartExamined",
    "ViewPosition", "ViewCodeSequence", "PatientOrientation", "AnatomicRegionSequence", "FieldOfViewRotation",
    "FieldOfViewHorizontalFlip", "ImagerPixelSpacing", "PixelSpacing", "PixelSpacingCalibrationType",
    "NominalScannedPixelSpacing", "PixelAspectRatio", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleIntercept", "RescaleSlope", "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation",
    "VOILUTFunction", "ModalityLUTSequence", "VOILUTSequence", "PresentationLUTShape", "BurnedInAnnotation",
    "LossyImageCompression", "ShutterShape", "RedPaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
]  # fmt: skip


@dataclass(frozen=True)
class Header:
    """Typed access to the attributes of a data set. Malformed values are treated as absent; no method raises.

    Attributes:
        dataset: data set or item of a sequence.
        little_endian: byte order of binary values.
        inherited: codec of the data set that contains the item.
    """

    dataset: Dataset
    little_endian: bool = True
    inherited: str = ""

    @property
    def codec(self) -> str:
        """Python's name of the first value of SpecificCharacterSet; empty if it is absent or unknown."""
        from pydicom.charset import python_encoding

        stated = self.raw("SpecificCharacterSet")
        if not stated:
            return self.inherited
        term = stated.decode("latin-1").split("\\")[0].strip(" \0").upper()
        return python_encoding.get(re.sub("^ISO[ -]IR[ _-]", "ISO_IR ", term), "")

    def raw(self, keyword: str) -> bytes:
        """Return the bytes of a value; empty if absent."""
        from pydicom.datadict import tag_for_keyword

        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        return self.raw_tag(tag)

    def raw_tag(self, tag: int) -> bytes:
        """Return the bytes of the value of a tag; empty if absent."""
        element = self.dataset.get_item(tag) if tag in self.dataset else None
        value = getattr(element, "value", None)
        return value if isinstance(value, bytes) else b""

    def vr(self, keyword: str) -> str:
        """Return the value representation stated by the file; empty if absent."""
        from pydicom.datadict import tag_for_keyword

        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        return str(getattr(self.dataset.get_item(tag), "VR", None) or "") if tag in self.dataset else ""

    def text(self, keyword: str) -> str:
        """Return a text, stripped, in the character set of the data set; see :func:`decoded`. Empty if absent."""
        return decoded(self.raw(keyword), self.codec).strip(" \0")

    def codes(self, keyword: str) -> list[str]:
        """Return the values of a code string (CS), stripped and in upper case; empty if absent."""
        values = [part.strip(" \0\r\n\t").upper() for part in self.text(keyword).split("\\")]
        return values if any(values) else []

    def code(self, keyword: str) -> str:
        """Return the first value of a code string; empty if absent."""
        return next(iter(self.codes(keyword)), "")

    def numbers(self, keyword: str) -> list[float]:
        """Return the values of a decimal or integer string (DS, IS); NaN for parts that are not finite numbers."""
        text = self.raw(keyword).decode("latin-1").strip(" \0")
        return [_number(part) for part in text.split("\\")] if text else []

    def number(self, keyword: str) -> float | None:
        """Return the first value of a numeric string; None if it is not a finite number."""
        value = next(iter(self.numbers(keyword)), math.nan)
        return value if math.isfinite(value) else None

    def words(self, keyword: str) -> list[int]:
        """Return the values of a binary integer attribute as unsigned numbers (US, or UL if the file states it)."""
        data = self.raw(keyword)
        size = 4 if self.vr(keyword) in ("UL", "SL") else 2
        order = "<" if self.little_endian else ">"
        count = len(data) // size
        return list(struct.unpack(f"{order}{count}{'I' if size == 4 else 'H'}", data[: count * size]))

    def word(self, keyword: str) -> int | None:
        """Return the first value of a binary integer attribute, unsigned; None if absent."""
        return next(iter(self.words(keyword)), None)

    def items(self, keyword: str) -> list[Header]:
        """Return the items of a sequence."""
        from pydicom.datadict import tag_for_keyword

        tag = tag_for_keyword(keyword)
        if tag is None or tag not in self.dataset:
            return []
        value = self.dataset[tag].value
        return [Header(item, self.little_endian, self.codec) for item in value] if _is_sequence(value) else []


@dataclass(frozen=True)
class DicomFile:
    """Header of a file and the position of its pixel data.

    Attributes:
        header: the allow-listed attributes.
        syntax: transfer syntax UID.
        source: bytes of the file; inflated for a deflated transfer syntax.
        offset: position of the value of PixelData in ``source``; None if there is no PixelData.
        length: stated length of that value in bytes; 0xFFFFFFFF for encapsulated data.
        pixel_vr: value representation of PixelData, such as OB or OW; empty if implicit.
        preamble: False for a file without the DICM prefix.
        overlays: True if the file has overlay planes (groups 60xx).
        overlay_bits: bits of a pixel that hold overlay planes, as a mask (OverlayBitPosition without OverlayData).
    """

    header: Header
    syntax: str
    source: mmap.mmap | bytes
    offset: int | None
    length: int
    pixel_vr: str
    preamble: bool
    overlays: bool
    overlay_bits: int


def open_dicom(source: mmap.mmap | bytes, *, preamble: bool = True) -> DicomFile:
    """Read the header of a DICOM file.

    Args:
        source: the whole file.
        preamble: False if the file has no 128-byte preamble.

    Raises:
        ReadError: with the reason dicomdir, corrupt, too_large, truncated or unsupported.
    """
    from pydicom.filereader import read_dataset

    source, stream, syntax = data_set_of(source, preamble=preamble)
    found: list[tuple[int, int, str]] = []
    groups: set[int] = set()
    overlay_data: set[int] = set()
    elements = 0

    def at_pixel_data(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal elements
        elements += 1
        if elements > MAX_ELEMENTS:
            raise ReadError("corrupt", f"the header has more than {MAX_ELEMENTS} elements")
        groups.add(tag >> 16)
        if tag & 0xFFFF == 0x3000:
            overlay_data.add(tag >> 16)
        if tag in (0x7FE00010, 0x7FE00008, 0x7FE00009):
            found.append((tag, length, vr or ""))
            return True
        return False

    dataset = read_dataset(
        stream, syntax.is_implicit_VR, syntax.is_little_endian, stop_when=at_pixel_data,
        specific_tags=[*tags(*KEYWORDS), *(group << 16 | OVERLAY_BIT_POSITION for group in OVERLAY_GROUPS)],
    )  # fmt: skip
    if not groups & {0x0008, 0x0028}:
        raise ReadError("corrupt", "no DICOM data set could be read from the file")
    offset, length, vr = None, 0, ""
    if found and found[-1][0] == 0x7FE00010:
        _, length, vr = found[-1]
        long_form = vr in ("OB", "OW", "OF", "OD", "OL", "OV", "UN", "UT", "UC", "UR", "SQ")
        offset = stream.tell() + (12 if long_form else 8)
    elif found:
        raise ReadError("unsupported", "the pixels are floating point, not those of a radiograph")
    header, overlay_bits = Header(dataset, syntax.is_little_endian), 0
    for group in OVERLAY_GROUPS:
        position = header.raw_tag(group << 16 | OVERLAY_BIT_POSITION)
        if len(position) == 2 and group not in overlay_data:
            overlay_bits |= 1 << min(int.from_bytes(position, "little" if syntax.is_little_endian else "big"), 16)
    return DicomFile(
        header,
        str(syntax),
        source,
        offset,
        length,
        vr,
        preamble,
        overlays=any(0x6000 <= group <= 0x60FF and not group % 2 for group in groups),
        overlay_bits=overlay_bits,
    )


def decoded(data: bytes, codec: str) -> str:
    """Decode a text (PS3.5 6.1.2): by its escape sequences, else the stated set, else UTF-8, else Latin-1.

    Where Latin-1 or nothing is stated, UTF-8 comes first: many write it there, and no word in Latin-1 is valid UTF-8.

    Args:
        data: value of an attribute.
        codec: see :attr:`Header.codec`.
    """
    from pydicom.charset import decode_bytes, python_encoding
    from pydicom.valuerep import TEXT_VR_DELIMS

    if b"\x1b" in data:  # the sequences name their sets themselves
        sets = [codec or "latin_1", *(name for term, name in python_encoding.items() if term.startswith("ISO 2022"))]
        text = decode_bytes(data, sets, TEXT_VR_DELIMS).replace("\x1b$)A", "")  # pydicom leaves that of GB 2312
        if not re.search("[\x1b\ufffd]", text):
            return text
        data = re.sub(rb"\x1b(\$[^\x1b]*|[()-].)", b"?", data)  # their bytes look like Latin letters
    for name in ("utf_8",) if codec in LATIN_1 else (codec, "utf_8"):
        try:
            text = data.decode(name)
        except (UnicodeError, LookupError):
            continue
        if not re.search("[\x80-\x9f]", text):  # control characters: UTF-8 in a set of single bytes
            return text
    return data.decode("latin-1")


def data_set_of(source: mmap.mmap | bytes, *, preamble: bool = True) -> tuple[mmap.mmap | bytes, BinaryIO, UID]:
    """Return the bytes that hold the data set, inflated if need be, a stream at its start, and the transfer syntax.

    Args:
        source: the whole file.
        preamble: False if the file has no 128-byte preamble.

    Raises:
        ReadError: with the reason dicomdir, corrupt, too_large, truncated or unsupported.
    """
    from pydicom.filereader import read_dataset
    from pydicom.uid import UID

    stream: BinaryIO = BytesIO(source) if isinstance(source, bytes) else source  # type: ignore[assignment]
    start = 132 if preamble else 0
    stream.seek(start)
    meta = Header(
        read_dataset(
            stream,
            False,
            True,
            stop_when=lambda tag, vr, length: tag >> 16 != 2,
            specific_tags=tags("MediaStorageSOPClassUID", "TransferSyntaxUID"),
        )
    )
    start = stream.tell()
    uid = _uid(meta.raw("TransferSyntaxUID"))
    if _uid(meta.raw("MediaStorageSOPClassUID")) == DICOMDIR:
        raise ReadError(
            "dicomdir", "the file is a DICOMDIR, an index of other files", hint="give the image files that it lists"
        )
    syntax = UID(uid)
    if not uid:
        syntax = UID(_guess_syntax(bytes(source[start : start + 6])))
    elif not (syntax.is_transfer_syntax and not syntax.is_private):
        raise ReadError("unsupported", "the transfer syntax is private, retired or unknown")
    if syntax.is_deflated:
        source = _inflate(source, start)
        stream, start = BytesIO(source), 0
    stream.seek(start)
    return source, stream, syntax


def looks_like_data_set(head: bytes) -> bool:
    """Return True if a file without preamble starts like a DICOM data set (group 0002 or 0008)."""
    if len(head) < 8:
        return False
    group, element = struct.unpack("<HH", head[:4])
    if group not in (0x0002, 0x0008) or element > 0x0100:
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or struct.unpack("<I", head[4:8])[0] < 0x400


def _inflate(source: mmap.mmap | bytes, start: int) -> bytes:
    """Inflate a deflated data set of at most ``MAX_INFLATED_BYTES``."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(memoryview(source)[start:], MAX_INFLATED_BYTES)
    except zlib.error:
        raise ReadError("corrupt", "the deflated data set is damaged") from None
    if inflater.unconsumed_tail:
        raise ReadError("too_large", f"the deflated data set is larger than {MAX_INFLATED_BYTES >> 20} MiB")
    if not inflater.eof:
        raise ReadError("truncated", "the deflated data set ends early")
    return data


def _guess_syntax(head: bytes) -> str:
    """Return explicit little endian if a value representation follows the first tag, else implicit little endian."""
    explicit = len(head) == 6 and head[4:6].isalpha() and head[4:6].isupper()
    return "1.2.840.10008.1.2.1" if explicit else "1.2.840.10008.1.2"


def tags(*keywords: str) -> list[BaseTag | int]:
    """Return the tags of attributes."""
    from pydicom.datadict import tag_for_keyword

    return [tag for tag in map(tag_for_keyword, keywords) if tag is not None]


def _uid(data: bytes) -> str:
    return data.decode("latin-1").strip(" \0")


def _number(text: str) -> float:
    try:
        value = float(text.strip(" \0"))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _is_sequence(value: Any) -> bool:
    from pydicom.sequence import Sequence

    return isinstance(value, Sequence)
