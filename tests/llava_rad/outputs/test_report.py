"""Sentences, cleaning, and the plain text form."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_rad.outputs import report
from llava_rad.outputs.report import clean, cleaned, sentences

pytestmark = pytest.mark.acceptance(row=23)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n ", []),
        ("The heart is normal", ["The heart is normal"]),
        ("The heart is normal. No effusion.", ["The heart is normal.", "No effusion."]),
        ("A 1.5 cm nodule. Stable vs. prior. Dr. X.", ["A 1.5 cm nodule.", "Stable vs. prior.", "Dr. X."]),
        ("3 cm above the carina.  2 drains!  New? Yes.", ["3 cm above the carina.", "2 drains!", "New?", "Yes."]),
        ("Heart:\nlarge\n\nLungs: clear.", ["Heart:", "large", "Lungs: clear."]),
        ("(No pneumothorax.) Bones intact.", ["(No pneumothorax.)", "Bones intact."]),
        ("No change, e.g. no effusion. See fig. 2 for more.", ["No change, e.g. no effusion.", "See fig. 2 for more."]),
        ("seen at the left base. at the right base too.", ["seen at the left base. at the right base too."]),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text(alphabet="Aa1.!?)\"' \n", max_size=60))
def test_sentences_lose_nothing_but_white_space(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@given(st.text(max_size=60))
def test_clean_text_cannot_steer_a_terminal(text: str) -> None:
    assert all(c == "\n" or unicodedata.category(c) not in {"Cc", "Cf"} for c in clean(text))


def test_clean_keeps_letters_of_every_kind() -> None:
    assert clean("Größe 5 µm\x1b[31m\x07\r\u202e") == "Größe 5 µm[31m"


@given(st.lists(st.text(alphabet="ab \n\x1b", max_size=5), max_size=12))
def test_pieces_of_a_stream_join_to_the_clean_whole(pieces: list[str]) -> None:
    assert "".join(cleaned(pieces)) == clean("".join(pieces)).strip()


def bare(node: Any) -> Any:
    """Remove titles, descriptions and defaults, which constrain nothing, from a JSON Schema."""
    if isinstance(node, list):
        return [bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    named = {"properties", "$defs"}
    plain = {key: value for key, value in node.items() if key not in {"$schema", "title", "description", "default"}}
    return {
        key: {name: bare(item) for name, item in value.items()} if key in named else bare(value)
        for key, value in plain.items()
    }


def test_the_schema_is_the_published_one() -> None:
    published = json.loads((Path(report.__file__).parent / "report-1.schema.json").read_text("utf-8"))
    assert bare(report.json_schema()) == bare(published), "a changed schema needs a new version, and a file of its own"
    jsonschema.Draft202012Validator.check_schema(published)


def test_the_schema_with_boxes_is_the_published_one() -> None:
    published = json.loads((Path(report.__file__).parent / "report-2.schema.json").read_text("utf-8"))
    assert bare(report.json_schema(grounded=True)) == bare(published), "a changed schema needs a new version"
    jsonschema.Draft202012Validator.check_schema(published)
