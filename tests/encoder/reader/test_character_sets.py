"""View and body part in the character sets of PS3.5 6.1.2; Python's own codecs write the bytes."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pydicom
import pytest

from encoder.reader.admission import OVERRIDDEN
from encoder.reader.header import decoded
from encoder.reader.sandbox_worker import read_image
from tests.encoder.dicom_files import code, dataset, odd, refused, sequence, to_bytes

SETS = {  # SpecificCharacterSet -> codec
    "": "utf-8", "ISO_IR 6": "utf-8", "ISO_IR 100": "utf-8", "ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk",
    "\\ISO 2022 IR 87": "iso2022_jp", "ISO_IR 13\\ISO 2022 IR 87": "iso2022_jp", "ISO 2022 IR 87": "iso2022_jp",
    "ISO_IR 144": "iso8859_5", "ISO_IR 126": "iso8859_7", "ISO_IR 101": "iso8859_2", "ISO 2022 IR 144": "iso8859_5",
    "\\ISO 2022 IR 149": "korean", "\\ISO 2022 IR 58": "chinese",
}  # fmt: skip
ESCAPED = {"korean": (b"\x1b$)C", "euc_kr"), "chinese": (b"\x1b$)A", "gb2312")}


def encoded(text: str, codec: str) -> bytes:
    escape, codec = ESCAPED.get(codec, (b"", codec))
    return escape + text.encode(codec)


CHINESE, JAPANESE = ("GB18030", "GBK", "\\ISO 2022 IR 58", "ISO_IR 192", ""), ("\\ISO 2022 IR 87", "ISO 2022 IR 87")
CYRILLIC, GREEK, KOREAN = (
    ("ISO_IR 144", "ISO 2022 IR 144", "ISO_IR 192", ""),
    ("ISO_IR 126", ""),
    ("\\ISO 2022 IR 149",),
)
WORDS = [  # text, its view, sets
    ("正面", "frontal", (*JAPANESE, *CHINESE, "ISO_IR 13\\ISO 2022 IR 87")),
    ("側面", "lateral", (*JAPANESE, "ISO_IR 13\\ISO 2022 IR 87")),
    ("斜位", "oblique", (*JAPANESE, *CHINESE)),
    ("侧位片", "lateral", CHINESE),
    ("后前位", "PA", CHINESE),
    ("боковая", "lateral", CYRILLIC),
    ("косая", "oblique", CYRILLIC),
    ("πλάγια", "lateral", GREEK),
    ("BOČNÁ", "lateral", ("ISO_IR 101",)),
    ("측면", "lateral", KOREAN),
    ("정면", "frontal", KOREAN),
]
CASES = [(text, view, name) for text, view, sets in WORDS for name in sets]


@pytest.mark.parametrize(("text", "view", "name"), CASES)
def test_the_view_in_the_stated_character_set(text: str, view: str, name: str) -> None:
    data = odd(SpecificCharacterSet=name, ViewPosition=encoded(text, SETS[name]))
    facts = read_image(data, force=True).facts
    assert (facts.view, facts.view_source) == (view, "ViewPosition")
    item = code("x", "99A", "x")
    source = dataset(ViewCodeSequence=sequence(item))
    source.SpecificCharacterSet = name.split("\\")
    item.CodeMeaning = text
    if name in ("ISO_IR 192", "GB18030", "ISO_IR 144"):  # pydicom writes them alike
        read = pydicom.dcmread(BytesIO(to_bytes(source)))
        assert read.ViewCodeSequence[0].CodeMeaning == text
        image = read_image(to_bytes(source), force=True)
        assert image.facts.view == ("PA" if view in ("PA", "frontal") else view)  # ViewPosition is PA


def test_an_item_may_have_its_own_character_set() -> None:
    item = code("x", "99A", "боковая")
    item.SpecificCharacterSet = "ISO_IR 144"
    source = dataset(ViewCodeSequence=sequence(item))
    source.SpecificCharacterSet = "ISO_IR 192"
    refused(to_bytes(source), "lateral", forcible=True)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *[("胸部", name) for name in (*JAPANESE, *CHINESE)],
        *[("Грудная клетка", name) for name in CYRILLIC],
        *[("Θώρακας", name) for name in GREEK],
        ("흉부", "\\ISO 2022 IR 149"),
        ("PŁUCA", "ISO_IR 101"),
        ("TÓRAX", "ISO_IR 100"),
        ("TÓRAX", ""),
    ],
)
def test_the_chest_in_the_stated_character_set(text: str, name: str) -> None:
    data = odd(SpecificCharacterSet=name, BodyPartExamined=encoded(text, SETS[name]))
    assert read_image(data).facts.body_part == "CHEST"


def test_latin_1_and_utf_8_where_nothing_or_latin_1_is_stated() -> None:
    for codec in ("utf-8", "latin-1"):
        for name in ("", "ISO_IR 100", "ISO_IR 6", "NONSENSE"):
            data = odd(SpecificCharacterSet=name, BodyPartExamined="TÓRAX".encode(codec))
            assert read_image(data).facts.body_part == "CHEST"
    data = odd(SpecificCharacterSet="ISO_IR 144", BodyPartExamined="Грудная клетка".encode())  # not the stated set
    assert read_image(data).facts.body_part == "CHEST"


def test_characters_that_cannot_be_decoded_are_no_latin_letters() -> None:
    """The bytes of 正面 in JIS X 0208 are "@5LL"; JIS X 0212 has no character there, and ESC $ A is none of DICOM's."""
    assert encoded("正面", "iso2022_jp")[3:-3] == b"@5LL"
    for run in (b"\x1b$(DLL\x1b(B", b"\x1b$ALL\x1b(B", b"\x1b$BLL", b"\x1b$(DAPPA"):
        facts = read_image(odd(ViewPosition=run)).facts
        assert (facts.view, facts.view_source) in (("unknown", "ViewPosition"), ("unknown", "none")), run


@pytest.mark.parametrize("name", [*SETS, "NONSENSE", "ISO-IR 100", "\\\\", "ISO_IR 13"])
def test_no_bytes_raise(name: str) -> None:
    for value in (bytes(range(256)), b"\x1b", b"\x1b$", b"\x1b$B", b"\x1b$)C\xff", b"\xff\\\x1b(J\x80", b"\xe0\xa0"):
        image = read_image(odd(SpecificCharacterSet=name, ViewPosition=value), force=True)
        assert not any(OVERRIDDEN in text for text in image.warnings)


def decodes(data: bytes, codec: str, text: str) -> Any:
    return decoded(data, codec) == text


def test_what_is_stated_comes_before_utf_8_unless_it_is_latin_1() -> None:
    assert "斜位".encode("gb18030").decode() == "бλ"  # valid in both
    assert decodes("斜位".encode("gb18030"), "GB18030", "斜位") and decodes(b"\xd0\xb1\xce\xbb", "", "бλ")
