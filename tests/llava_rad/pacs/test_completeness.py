"""Whole DICOM files and cut ones, told apart; the right answers are pydicom's files and the offsets that it reads."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any, cast

import pydicom
import pytest
from pydicom.dataelem import RawDataElement

from llava_rad.pacs import completeness
from llava_rad.pacs.completeness import fault_of, is_whole_file
from tests.llava_rad import small_files

DATA = Path(pydicom.__file__).parent / "data" / "test_files"
TRUNCATED = {"rtplan_truncated.dcm", "MR_truncated.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm"}
IMAGES = [
    "MR_small.dcm",  # explicit little endian
    "MR_small_bigendian.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "JPEG-lossy.dcm",
    "image_dfl.dcm",  # deflated
    "rtdose.dcm",  # implicit, sequences
    "SC_rgb_small_odd.dcm",
]


def test_only_the_truncated_files_of_pydicom_are_cut() -> None:
    contents = {path.name: path.read_bytes() for path in sorted(DATA.rglob("*")) if path.is_file()}
    dicom = {name: content for name, content in contents.items() if content[128:132] == b"DICM"}
    assert len(dicom) > 100
    assert {name for name, content in dicom.items() if fault_of(content)} == TRUNCATED & dicom.keys()


@pytest.mark.parametrize("name", IMAGES)
def test_a_file_cut_within_its_pixels_is_noticed(name: str) -> None:
    path = DATA / name
    if not path.is_file():
        pytest.skip("not among this pydicom's files")
    content = path.read_bytes()
    assert fault_of(content) is None
    start, stop = len(content) // 2, len(content)
    if name == "image_dfl.dcm":  # offsets are those of the inflated data set; some bytes follow its end
        stop -= 16
    else:
        raw = cast(RawDataElement, pydicom.dcmread(io.BytesIO(content)).get_item("PixelData"))
        start = raw.value_tell + 1
    for end in {*range(start, stop, max((stop - start) // 40, 1)), stop - 1}:
        assert "half a DICOM file" in str(fault_of(content[:end])), end
    for padding in (b"\0", b"\0" * 512, b"\r\n"):
        assert fault_of(content + padding) is None


@pytest.mark.parametrize("name", ["MR_small.dcm", "rtdose.dcm", "JPEG-lossy.dcm"])
def test_a_file_that_states_the_other_form_of_its_elements_is_whole(name: str) -> None:
    """Implicit data under an explicit transfer syntax, and the reverse; pydicom looks at the first element."""
    content = (DATA / name).read_bytes()
    start = content.index(b"\x02\x00\x10\x00UI") + 6
    length = int.from_bytes(content[start : start + 2], "little")
    stated = content[start + 2 : start + 2 + length].rstrip(b"\0")
    other = b"1.2.840.10008.1.2" if stated != b"1.2.840.10008.1.2" else b"1.2.840.10008.1.2.1"
    other += b"\0" * (len(other) % 2)
    group_length = int.from_bytes(content[140:144], "little") + len(other) - length
    wrong = content[:140] + group_length.to_bytes(4, "little") + content[144:start] + len(other).to_bytes(2, "little")
    wrong += other + content[start + 2 + length :]
    assert pydicom.dcmread(io.BytesIO(wrong)).PixelData == pydicom.dcmread(io.BytesIO(content)).PixelData
    assert fault_of(wrong) is None
    assert "half a DICOM file" in str(fault_of(wrong[:-200]))


def test_other_content_is_no_dicom_file(tmp_path: Path) -> None:
    whole = small_files.dicom(tmp_path / "whole.dcm")
    assert is_whole_file(whole)
    for content in (b"", b"<html></html>", b"\0" * 200, whole.read_bytes()[128:], whole.read_bytes()[4:]):
        (tmp_path / "other.dcm").write_bytes(content)
        assert not is_whole_file(tmp_path / "other.dcm")
        assert "preamble" in str(fault_of(content))


def test_odd_content_ends_soon() -> None:
    head = b"\0" * 128 + b"DICM"
    empty_elements = b"\x08\x00\x05\x00CS\x00\x00" * 1_000_000
    nested = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 50_000
    assert fault_of(head + empty_elements) is None, "left to the reader"
    assert fault_of(head + nested[: len(nested) // 8]) is not None
    fault_of(head + nested)
    syntax = b"\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.1.99"
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = bomb.compress(bytes(1 << 26)) + bomb.flush()
    assert fault_of(head + syntax + stream) is None
    assert fault_of(head + syntax + stream[:-9]) is not None


def test_meta_information_without_end_is_not_walked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 MiB of empty elements would take minutes, in the process that fetches."""
    looks = 0

    class Counted(bytes):
        def __getitem__(self, at: Any) -> Any:
            nonlocal looks
            looks += 1
            return super().__getitem__(at)

    monkeypatch.setattr(completeness, "_MAX_ELEMENTS", 1000)
    assert fault_of(Counted(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x00\x00" * 100_000)) is None
    assert looks < 20_000
