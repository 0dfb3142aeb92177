"""The reader of tables: forms that are read, and what is refused instead of being read wrongly."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from encoder.datasets.tables import keyed, read_csv, read_records
from encoder.errors import LlavaRadError


def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(LlavaRadError) as error:
        list(read_records(path, of="the table"))
    assert "\n" not in str(error.value)
    return f"{error.value}; {error.value.hint}"


ROWS = [{"id": "1", "text": "Größe, normal."}, {"id": "2", "text": 'a 5 mm "nodule"\nline; two'}]
COMMAS = 'id,text\n1,"Größe, normal."\n2,"a 5 mm ""nodule""\nline; two"\n'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", COMMAS),
        ("t.csv", b"\xef\xbb\xbf" + COMMAS.encode()),
        ("t.csv", b"\xef\xbb\xbf" * 2 + COMMAS.encode()),
        ("t.txt", COMMAS),
        ("table", COMMAS),
        ("t.csv", COMMAS.replace(",", ";").replace("Größe;", "Größe,").replace("line; two", "line; two")),
        ("t.csv", "sep=;\r\n" + COMMAS.replace("id,", "id;").replace('1,"', '1;"').replace('2,"', '2;"')),
        ("t.csv", b'\xef\xbb\xbf"sep=,"\n' + COMMAS.encode()),
        ("t.csv", COMMAS.replace("id,", "id\t").replace('1,"', '1\t"').replace('2,"', '2\t"')),
        ("t.tsv", COMMAS.replace("id,", "id\t").replace('1,"', '1\t"').replace('2,"', '2\t"')),
        ("t.csv.gz", gzip.compress(COMMAS.encode(), mtime=0)),
        ("t.csv", gzip.compress(COMMAS.encode(), mtime=0)),
        ("t.csv", "\n\n" + COMMAS + "\n\n"),
        ("t.jsonl", "\n".join(map(json.dumps, ROWS))),
        ("t.ndjson", "\n".join(map(json.dumps, ROWS))),
        ("t.json", json.dumps(ROWS)),
        ("t", json.dumps(ROWS)),
        ("t.txt", "\n".join(map(json.dumps, ROWS))),
    ],
)
def test_forms_of_one_table(tmp_path: Path, name: str, data: str | bytes) -> None:
    assert list(read_records(write(tmp_path / name, data), of="the table")) == ROWS


def test_line_ends(tmp_path: Path) -> None:
    for end in ("\n", "\r\n", "\r"):
        assert list(read_csv(write(tmp_path / "t.csv", f'a,"b\nc"{end}1,2{end}'), of="t")) == [{"a": "1", "b\nc": "2"}]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("t.csv", "id,text\n1,Heart is normal, lungs are clear.\n", "row 1 has 3 of 2 cells"),
        ("t.csv", "id,text\n1,a\n2\n", "row 2 has 1 of 2 cells"),
        ("t.csv", "id,text,text\n1,a,b\n", "column 'text' twice"),
        ("t.csv", "id,,\n1,,a\n", "row 1 has a cell in a column without a name"),
        ("t.csv", 'id,text\n1,"a"b\n', "not CSV"),
        ("t.csv", 'id,text\n1,"a\n', "not CSV (unexpected end of data)"),
        ("t.csv", "id,text\n  \n", "row 1 is blank"),
        ("t.csv", "id,text\n1,a\0b\n", "holds the character NUL"),
        ("t.csv", "id,text\n1,é\n".encode("latin-1"), "not text in UTF-8"),
        ("t.csv", "id,text\n1,a\n".encode("utf-16"), "but UTF-16; save it as CSV in UTF-8"),
        ("t.csv", "id,text\n1,a\n".encode("utf-16-le"), "NUL"),
        ("t.csv", b"PK\x03\x04\xff\xfe", "an Excel workbook or another archive; save it as CSV"),
        ("t.csv.gz", gzip.compress(b"id\n" + bytes(range(65, 90)) * 99, mtime=0)[:-9], "cannot be read (damaged)"),
        ("t.csv", "id\n" + "x" * (17 << 20), "a cell is longer than 16 MiB"),
        ("t.csv", "id\n" + "x," * (40 << 20), "a line of more than 64 MiB"),
        ("t.jsonl", '{"id": 1, "id": 2}\n', "key twice"),
        ("t.jsonl", '{"id": 1, "text": "a\\ud800b"}\n', "line 1 holds half of a character"),
        ("t.json", '[{"id": 1, "\\uDC00": "b"}]', "holds half of a character"),
        ("t.json", "[1]", "JSON of a form that is not known"),
        ("t.jsonl", '{"id": 1}\n[]\n', "line 2 is not a JSON object"),
    ],
)
def test_what_could_be_misread_is_refused(tmp_path: Path, name: str, data: str | bytes, says: str) -> None:
    assert says in refusal(write(tmp_path / name, data))


def test_trailing_separators_of_spreadsheets_are_no_columns(tmp_path: Path) -> None:
    (row,) = read_csv(write(tmp_path / "t.csv", "id,text,,\n1,a,,\n"), of="t")
    assert (row["id"], row["text"]) == ("1", "a")


def test_pairs_of_surrogates_are_characters(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "\\ud83e\\udec1"}\n')
    assert list(read_records(tmp_path / "t.jsonl", of="t")) == [{"id": "\N{LUNGS}"}]


def test_nan_of_pythons_json_is_null(tmp_path: Path) -> None:
    (row,) = read_records(write(tmp_path / "t.jsonl", '{"id": "1", "age": NaN}\n'), of="t")
    assert row == {"id": "1", "age": None}


def test_a_missing_column_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(LlavaRadError, match="no column 'image'") as error:
        list(read_csv(write(tmp_path / "t.csv", "File Name,x\n1,2\n"), "image", of="t"))
    assert error.value.hint == "its columns are 'File Name', 'x'"


def test_of_an_id_twice_equal_rows_are_one_and_others_an_error() -> None:
    rows = [{"id": "1", "a": "x"}, {"id": "2", "a": "x"}, {"id": "1", "a": "x"}]
    assert len(list(keyed(rows, "id", of="t"))) == 3
    with pytest.raises(LlavaRadError, match="t: rows 1 and 4 have the same id and differ"):
        list(keyed([*rows, {"id": "1", "a": "y"}], "id", of="t"))
