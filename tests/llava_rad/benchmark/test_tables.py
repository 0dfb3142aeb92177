"""Tables of texts: reading, joining by id, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_rad.benchmark.tables import group_of, join, read_table
from metrics.base import InputError


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_three_forms_of_table(tmp_path: Path) -> None:
    rows = [{"study_id": 7, "findings": "a\nb"}, {"study_id": 8, "findings": ""}]
    expected = {"7": "a\nb", "8": ""}
    assert read_table(jsonl(tmp_path / "a.jsonl", *rows), "reference").texts == expected
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert read_table(tmp_path / "a.json", "reference").texts == expected
    (tmp_path / "a.csv").write_text('\ufeffstudy_id,findings\n7,"a\nb"\n8,\n', encoding="utf-8")
    table = read_table(tmp_path / "a.csv", "reference")
    assert (table.texts, table.id_field, table.text_field) == (expected, "study_id", "findings")


def test_the_output_of_generate_is_read_as_it_is(tmp_path: Path) -> None:
    rows = [
        {"report": {"text": text}, "input": {"sha256": "ab", "facts": {"frame": frame}}}
        for frame, text in ((1, "one"), (2, "two"))
    ]
    table = read_table(jsonl(tmp_path / "a.jsonl", *rows), "prediction")
    assert table.texts == {"ab": "one", "ab/2": "two"}


@pytest.mark.parametrize(
    ("predictions", "references", "expected"),
    [
        ([{}, {}], [{}, {}], []),
        ([{}, {}], [{"prior": "p.dcm"}, {"prior": ""}], ["yes", "no"]),
        ([{"prior": "no"}, {"prior": "Yes"}], [{"prior": "p.dcm"}, {"prior": ""}], ["no", "yes"]),
        ([{"prior": False}, {"prior": True}], [{}, {}], ["no", "yes"]),
        ([{"inputs": ["frontal", "prior"]}, {"inputs": ["frontal"]}], [{"prior": ""}, {"prior": "p"}], ["yes", "no"]),
        ([{"inputs": ["frontal", "prior_report"]}, {}], [{"prior": "p"}] * 2, ["no", ""]),
        (
            [{"prior": word} for word in (False, "FALSE", 0.0, "0", "N", "No.", "absent", "none", "no prior", "")],
            [{}] * 10, ["no"] * 10,
        ),
        ([{"prior": word} for word in (1.0, "TRUE", "Y", "t", "2019-03-01", "no/1.dcm")], [{}] * 6, ["yes"] * 6),
        ([{"prior": word} for word in ("unknown", "not recorded", "uncertain", "no")], [{}] * 4, [""] * 3 + ["no"]),
        ([{"prior": "unknown"}], [{"prior": "p.dcm"}], ["yes"]),
        (
            [
                {"schema": "llava-rad.report/1", "warnings": ["written from more than this image: prior, indication"]},
                {"schema": "llava-rad.report/1", "warnings": ["written from more than this image: prior-report"]},
            ],
            [{}, {}], ["yes", "no"],
        ),
        (
            [
                {"schema": "llava-rad.report/3", "images": [{"role": "frontal"}, {"role": "prior"}], "warnings": []},
                {"schema": "llava-rad.report/3", "images": [{"role": "frontal"}], "warnings": []},
            ],
            [{}, {}], ["yes", "no"],
        ),
    ],
    ids=[
        "unknown", "references", "predictions first", "truth", "benchmark", "some unknown", "words for no",
        "words for yes", "words for unknown", "nothing known", "generate", "images",
    ],
)  # fmt: skip
def test_whether_a_prior_was_given(
    tmp_path: Path, predictions: list[dict[str, object]], references: list[dict[str, object]], expected: list[str]
) -> None:
    sides = [
        read_table(
            jsonl(tmp_path / f"{side}.jsonl", *({"id": n, "text": "x"} | row for n, row in enumerate(rows))), side
        )
        for side, rows in (("prediction", predictions), ("reference", references))
    ]  # type: ignore[arg-type]
    assert join(*sides).context.get("prior", []) == expected


@pytest.mark.parametrize("text", ["nan", "unknown", "XXXX XXXX XXXX XXXX XXXX.", "[REDACTED]", "<unk> <pad>"])
def test_texts_that_say_nothing_are_empty(tmp_path: Path, text: str) -> None:
    rows = [{"id": 1, "text": text}, {"id": 2, "text": f"FINDINGS: {text}\nIMPRESSION: Edema."}]
    assert set(read_table(jsonl(tmp_path / "a.jsonl", *rows), "reference").texts.values()) == {""}


def test_two_columns_of_ids_that_contradict_each_other(tmp_path: Path) -> None:
    """Row numbers in the column "id" do not join tables of the same studies in two orders."""
    rows = [{"id": n, "Study ID": study, "text": study} for n, study in enumerate(("s1", "s2", "s3"))]
    moved = [{"id": n, "study_id": study, "text": study} for n, study in enumerate(("s1", "s3", "s2"))]
    paths = jsonl(tmp_path / "a.jsonl", *rows), jsonl(tmp_path / "b.jsonl", *moved)
    with pytest.raises(InputError, match=r"id joins other rows .* than study_id does: rows 2, 3") as error:
        join(read_table(paths[0], "prediction"), read_table(paths[1], "reference"))
    assert "--id-field" in str(error.value.hint)
    named = (
        read_table(paths[0], "prediction", id_field="Study ID"),
        read_table(paths[1], "reference", id_field="study_id"),
    )
    assert join(*named).candidates == ["s1", "s3", "s2"]
    other = [{"id": n, "study_id": f"x{n}", "text": "a"} for n in range(3)]  # numbers of another kind tell nothing
    assert join(read_table(jsonl(tmp_path / "c.jsonl", *other), "prediction"), read_table(paths[1], "reference")).ids


def test_a_group_that_the_references_leave_empty_is_that_of_the_predictions(tmp_path: Path) -> None:
    predictions = jsonl(tmp_path / "a.jsonl", {"id": 1, "text": "a", "sex": "F"}, {"id": 2, "text": "b", "sex": "M"})
    references = jsonl(tmp_path / "b.jsonl", {"id": 1, "text": "a", "sex": ""}, {"id": 2, "text": "b", "sex": ""})
    sides = read_table(predictions, "prediction"), read_table(references, "reference")
    assert join(*sides, ["sex"]).strata == {"sex": ["F", "M"]}
    assert join(sides[1], sides[1], ["sex"]).strata == {"sex": ["unknown"] * 2}


def test_a_split_that_the_first_row_does_not_name(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"id": 1, "text": "a"}, {"id": 2, "text": "b", "split": "test"})
    assert read_table(path, "reference", split="test").texts == {"2": "b"}


def test_fields_can_be_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"id": 1, "a": {"key": "x"}, "text": "t", "b.c": "dotted"})
    assert read_table(path, "reference", id_field="a.key", text_field="b.c").texts == {"x": "dotted"}
    with pytest.raises(InputError, match="no field nothing") as error:
        read_table(path, "prediction", text_field="nothing")
    assert error.value.hint == "name it with --prediction-field; its columns are 'id', 'a', 'text', 'b.c'"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", r"a\.txt has no rows"),
        ("a.txt", "x,y\n1,2", r"a\.txt has no field input"),
        ("a.jsonl", '{"id": 1, "text": "a"}\n{"id"', r"a\.jsonl: line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("a.jsonl", "\n", "has no rows"),
        ("a.json", '{"id": 1}', "JSON of a form that is not known"),
        ("a.csv", "id,text\n", "has no rows"),
        ("a.csv", 'id,text\n1,"a', "the table is not CSV"),
        ("a.jsonl", '{"text": "a"}\n', "has no field input.sha256, id"),
        ("a.jsonl", '{"id": 1, "text": "a"}\n{"id": null, "text": "b"}\n', "row 2: no id"),
        ("a.jsonl", '{"id": 1, "text": "a"}\n{"id": 2}\n{"id": 3, "text": 5}\n', "no text in text for 2 ids: rows 2"),
        ("a.csv", "id,text\n1,a\n2,b\n1,c\n2,d\n3,e\n", "2 ids more than once: rows 1, 2, 3, 4"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / name, "reference")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / f"none-{name.replace('txt', 'csv')}", "reference")
    (tmp_path / "latin.csv").write_bytes(b"id,text\n1,\xe9\n")
    with pytest.raises(InputError, match="not text in UTF-8"):
        read_table(tmp_path / "latin.csv", "reference")


def test_ids_must_be_on_both_sides(tmp_path: Path) -> None:
    first = read_table(jsonl(tmp_path / "a.jsonl", *({"id": n, "text": "x"} for n in range(30))), "prediction")
    second = read_table(jsonl(tmp_path / "b.jsonl", *({"id": n, "text": "y"} for n in range(28, 31))), "reference")
    with pytest.raises(InputError) as error:
        join(first, second)
    assert str(error.value) == (
        "1 id of the references without a prediction: row 3; "
        "28 ids of the predictions without a reference: rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 18 more"
    )


def test_joined_in_the_references_order_with_groups_from_either_side(tmp_path: Path) -> None:
    predictions = jsonl(
        tmp_path / "a.jsonl",
        {"id": "b", "text": "B", "input": {"view": "AP"}},
        {"id": "a", "text": "A", "input": {"view": "PA"}},
    )
    references = jsonl(tmp_path / "b.jsonl", {"id": "a", "text": "1", "sex": "F", "age": 33}, {"id": "b", "text": "2"})
    pairs = join(
        read_table(predictions, "prediction"), read_table(references, "reference"), ["sex", "age", "input.view"]
    )
    assert (pairs.ids, pairs.candidates, pairs.references) == (["a", "b"], ["A", "B"], ["1", "2"])
    assert pairs.strata == {"sex": ["F", "unknown"], "age": ["20-40", "unknown"], "input.view": ["PA", "AP"]}
    with pytest.raises(InputError, match="neither table has a column ethnicity"):
        join(read_table(predictions, "prediction"), read_table(references, "reference"), ["ethnicity"])


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (19, "<20"), ("19.9", "<20"), (20, "20-40"), ("039Y", "20-40"), (40, "40-60"), (60.0, "60-80"), (79, "60-80"),
        (80, ">=80"), ("101", ">=80"), ("006M", "<20"), (None, "unknown"), ("", "unknown"), ("nan", "unknown"),
        ("old", "unknown"),
    ],
)  # fmt: skip
def test_ages_become_bands(age: object, band: str) -> None:
    assert group_of("age", age) == band
    assert group_of("patient.age", age) == band


def test_a_value_of_nothing_is_the_unknown_group() -> None:
    assert [group_of("sex", value) for value in ("F", " M ", None, "")] == ["F", "M", "unknown", "unknown"]
