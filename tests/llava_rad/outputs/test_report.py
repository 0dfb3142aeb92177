"""Sentences, cleaning, and the plain text form."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_rad.outputs import report
from llava_rad.outputs.report import Report, clean, cleaned, sentences
from tests.llava_rad.outputs.reports import BOX, LATERAL, OLD, OLD_WITH_BOXES, PRIOR, study_report
from tests.llava_rad.outputs.reports import report as make_report

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
    assert all(c == "\n" or unicodedata.category(c) not in {"Cc", "Cf", "Cs"} for c in clean(text))


def test_clean_keeps_letters_of_every_kind() -> None:
    assert clean("Größe 5 µm\x1b[31m\x07\r\u202e") == "Größe 5 µm[31m"


def test_a_text_of_others_cannot_look_like_another_part_of_the_report() -> None:
    """Escape codes, breaks of lines, reversed writing and half a surrogate pair, as a JSON file of others may hold."""
    bad = "\x1b[31mClear\u202e.\r\n\nIMPRESSION:\u2028 large\ud800"
    found = Report.model_validate(
        OLD
        | {"report": {"text": bad, "findings": [{"text": bad}]}, "model": OLD["model"] | {"id": bad}}
        | {"input": OLD["input"] | {"path": "in/a\n\nFINDINGS:\x1b]0;x\x07.png"}, "warnings": [bad]}
    )
    line = "[31mClear. IMPRESSION: large"
    assert found.report.findings[0].text == found.model.id == found.warnings[0] == line
    assert "\x1b" not in found.to_text()
    assert f"Input: in/a\\n\\nFINDINGS:\\x1b]0;x\\x07.png, sha256 {'a' * 64}" in found.to_text().splitlines()
    assert json.loads(found.to_json())["input"]["path"] == "in/a\n\nFINDINGS:\x1b]0;x\x07.png", "data stay exact"


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


def published(version: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (Path(report.__file__).parent / f"report-{version}.schema.json").read_text("utf-8")
    )
    return found


def test_the_schema_is_the_published_one() -> None:
    assert bare(report.json_schema()) == bare(published(3)), "a changed schema needs a new version, and its own file"
    for version in (1, 2, 3):
        jsonschema.Draft202012Validator.check_schema(published(version))


def test_a_report_of_a_study_follows_the_schema() -> None:
    made = study_report()
    data = json.loads(made.to_json())
    jsonschema.validate(data, published(3))
    assert Report.from_json(made.to_json()) == made
    assert data["report"] == {
        "text": "There is a nodule. No effusion.",
        "findings": [
            {"text": "There is a nodule.", "boxes": [
                {"image": 0, "x_min": 0.25, "y_min": 0.5, "x_max": 0.75, "y_max": 1.0},
            ]},
            {"text": "No effusion.", "boxes": []},
        ],
        "impression": {
            "text": "No acute disease. Follow up.",
            "sentences": [{"text": "No acute disease."}, {"text": "Follow up."}],
        },
    }  # fmt: skip
    assert [(one["role"], one["sha256"][0], one["view"]) for one in data["images"]] == [
        ("frontal", "a", "unknown"), ("lateral", "d", "lateral"), ("prior", "e", "PA"),
    ]  # fmt: skip
    assert {(one["study_uid"], one["sop_instance_uid"]) for one in data["images"]} == {(None, None)}
    plain = json.loads(make_report().to_json())
    jsonschema.validate(plain, published(3))
    assert plain["report"]["impression"] is None and plain["report"]["findings"][0]["boxes"] is None


@pytest.mark.parametrize(
    "damage",
    [
        {"images": []},
        {"images": [{"role": "oblique", "sha256": "a" * 64, "view": "PA"}]},
        {"schema": "llava-rad.report/4"},
        {"report": {"text": "", "findings": [], "impression": "Normal."}},
        {"patient": "Doe"},
    ],
)
def test_what_is_no_report_is_refused_by_schema_and_reader(damage: dict[str, Any]) -> None:
    data = json.loads(make_report().to_json()) | damage
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, published(3))
    with pytest.raises(pydantic.ValidationError):
        Report.model_validate(data)


@pytest.mark.parametrize(("old", "version"), [(OLD, 1), (OLD_WITH_BOXES, 2)])
def test_reports_of_earlier_schemas_are_read(old: dict[str, Any], version: int) -> None:
    jsonschema.validate(old, published(version))
    read = Report.from_json(json.dumps(old))
    assert read == Report.model_validate(old)
    assert (read.schema_id, read.text, read.impression, read.warnings) == (
        "llava-rad.report/3", "Clear. Normal.", "", ["look"],
    )  # fmt: skip
    assert [(one.role, one.sha256, one.view) for one in read.images] == [("frontal", "a" * 64, "PA")]
    boxes = [finding.boxes for finding in read.report.findings]
    assert boxes == ([None, None] if version == 1 else [[BOX], []])
    jsonschema.validate(json.loads(read.to_json()), published(3))
    for key in ("report", "input"):
        with pytest.raises(pydantic.ValidationError):
            Report.model_validate({name: value for name, value in old.items() if name != key})


def test_text_has_both_sections_and_names_the_other_images() -> None:
    lines = study_report().to_text().splitlines()
    start = lines.index("FINDINGS:")
    assert lines[start : start + 5] == [
        "FINDINGS:", "There is a nodule. No effusion.", "", "IMPRESSION:", "No acute disease. Follow up.",
    ]  # fmt: skip
    assert f"With: lateral image, sha256 {LATERAL}" in lines and f"With: prior image, sha256 {PRIOR}" in lines
    assert "IMPRESSION" not in study_report(impression=()).to_text() and "With:" not in make_report().to_text()
