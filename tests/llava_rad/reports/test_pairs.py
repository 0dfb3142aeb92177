"""The table of pairs: what is written is read again, and what users have is read too."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest

from encoder.datasets.manifest import Row
from encoder.errors import LlavaRadError
from llava_rad.reports.pairs import FIELDS, Pair, collapse, read_pairs, write_pairs

CANARY = "JANE DOE 4711"


def pair(folder: Path, number: int, **changes: str) -> Pair:
    facts = {"dataset": "d", "subject": f"p{number}", "study": f"s{number}", "image": f"i{number}", "view": "PA"}
    row = Row(folder / f"{number}.png", **{**facts, "split": "train", **changes})  # type: ignore[arg-type]
    return Pair(row, f'Heart size: "normal", {number}.')


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.csv"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    (home / "images").mkdir(parents=True)
    there = [
        pair(home / "images", 1),
        pair(tmp_path / "elsewhere", 2, view="lateral", split=""),
        pair(home, 3, subject="", study="", dataset="", split="test", view="unknown"),
        Pair(Row(home / "ü, 4.png", image="i4", split="val"), "XXXX Größe ___ unchanged; no effusion."),
    ]
    write_pairs(there, home / name)
    assert read_pairs(home / name) == there
    assert [one.row.number for one in read_pairs(home / name)] == [1, 2, 3, 4]
    assert list(home.glob(".*")) == []


def test_paths_are_relative_inside_the_tables_folder_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_pairs([pair(home / "images", 1), pair(tmp_path / "home2", 2)], home / "t.jsonl")
    lines = [json.loads(line) for line in (home / "t.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == ["images/1.png", str(tmp_path / "home2" / "2.png")]
    assert all(tuple(line) == FIELDS for line in lines)
    home.rename(tmp_path / "moved")
    assert read_pairs(tmp_path / "moved" / "t.jsonl")[0].row.path == tmp_path / "moved" / "images" / "1.png"


def test_csv_has_the_same_fields(tmp_path: Path) -> None:
    write_pairs([pair(tmp_path, 1)], tmp_path / "t.CSV")
    with (tmp_path / "t.CSV").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["id", "image", "findings", "dataset", "subject", "study", "view", "split"],
            ["i1", "1.png", 'Heart size: "normal", 1.', "d", "p1", "s1", "PA", "train"],
        ]


def test_nothing_of_a_text_but_white_space_is_changed() -> None:
    assert (
        collapse(" 1. The HEART\n is ___ normal;\t XXXX <image>. \r\n") == "1. The HEART is ___ normal; XXXX <image>."
    )


@pytest.mark.parametrize("image", ["image", "path", "file", "filename", "image_path"])
@pytest.mark.parametrize("text", ["findings", "report", "text", "reference", "caption"])
def test_users_names_of_fields(tmp_path: Path, image: str, text: str) -> None:
    table = write(tmp_path, "t.csv", f"{image},{text},more\na.png,Clear.,1\n/b.png,Not  clear.,2\n")
    one, two = read_pairs(table)
    assert (one.row.path, one.findings, one.id) == (tmp_path / "a.png", "Clear.", "a.png")
    assert (two.row.path, two.findings, two.id) == (Path("/b.png"), "Not clear.", "/b.png")
    assert (one.row.view, one.row.split, one.row.subject) == ("unknown", "", "")


def test_users_words_for_views_and_splits(tmp_path: Path) -> None:
    rows = [
        {
            "image": "a",
            "text": "t",
            "patient_id": 7,
            "study_id": 8,
            "view": "antero" + "posterior",
            "split": "validate",
        },
        {"image": "b", "text": "t", "subject_id": "9", "view": "LL", "split": "Test", "id": 3},
        {"image": "c", "text": "t", "subject": "9", "view": "frontal", "split": None, "study": None},
    ]
    table = write(tmp_path, "t.jsonl", "\n\n".join(map(json.dumps, rows)))
    found = [(one.id, one.row.subject, one.row.study, one.row.view, one.row.split) for one in read_pairs(table)]
    assert found == [
        ("a", "7", "8", "AP", "val"),
        ("3", "9", "", "lateral", "test"),
        ("c", "9", "", "frontal", ""),
    ]  # a field that the first record lacks is read where it stands


@pytest.mark.parametrize(("name", "text"), [
    ("t.csv", "image,text\n\na.png,Clear.\n\n\nb.png,Clear.\n\n"),
    ("t.jsonl", '\n{"image": "a.png", "text": "Clear."}\n \n{"image": "b.png", "text": "Clear."}\n\n'),
])  # fmt: skip
def test_empty_lines_are_no_rows(tmp_path: Path, name: str, text: str) -> None:
    assert [(one.id, one.row.number) for one in read_pairs(write(tmp_path, name, text))] == [("a.png", 1), ("b.png", 2)]


@pytest.mark.parametrize("columns", ["report,findings", "findings,generated_report", "Findings,findings"])
def test_of_several_columns_that_could_be_the_report_the_user_chooses(tmp_path: Path, columns: str) -> None:
    first, second = columns.split(",")
    table = write(tmp_path, "t.csv", f"{columns},image\nwhole,part,a\n")
    with pytest.raises(LlavaRadError, match="several columns that could be the report") as error:
        read_pairs(table)
    assert "--column" in str(error.value.hint)
    assert read_pairs(table, {"findings": [second]})[0].findings == "part"
    assert read_pairs(table, {"findings": [first]})[0].findings == "whole"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.csv", f"image,text\na,x\n,{CANARY}\n", "row 2 of the table of pairs names no image"),
        ("t.csv", f"image,text\n{CANARY},x\nb, \nc,\n", "2 rows of the table of pairs have no text: 2, 3"),
        ("t.csv", f"image,note\n{CANARY},x\n", "row 1 of the table of pairs has no field with the report"),
        ("t.csv", f"picture,text\n{CANARY},x\n", "row 1 of the table of pairs names no image"),
        ("t.csv", f"image,text\n{CANARY},x,y\n", "the table of pairs: row 1 has 3 of 2 cells"),
        (
            "t.csv",
            f"image,text,split\n{CANARY},x,both\n",
            "row 1 of the table of pairs: the split is none of train, val",
        ),
        ("t.csv", "image,text\n", "the table of pairs is empty"),
        ("t.csv", "", "the table of pairs is empty"),
        ("t.jsonl", "", "the table of pairs is empty"),
        ("t.jsonl", f'{{"image": "a", "text": "x"}}\n{{"{CANARY}\n', "the table of pairs: line 2 is not JSON"),
        ("t.jsonl", f'["{CANARY}"]\n', "the table of pairs: line 1 is not a JSON object"),
        ("t.jsonl", f'{{"image": "{CANARY}", "text": NaN}}\n', "1 rows of the table of pairs have no text: 1"),
        ("t.jsonl", f'{{"image": "{CANARY}", "text": true}}\n', "row 1 of the table of pairs: text is not text"),
        (
            "t.jsonl",
            f'{{"image": {{"a": "{CANARY}"}}, "text": "x"}}\n',
            "row 1 of the table of pairs: image is not text",
        ),
        (
            "t.jsonl",
            f'{{"image": "a", "text": "x"}}\n{{"image": "b", "note": "{CANARY}"}}\n',
            "row 2 of the table of pairs has no field with the report",
        ),
        (
            "t.csv",
            f"id,image,text\n{CANARY},a,x\nj,b,x\n{CANARY},c,x\nj,d,x\n",
            "2 ids occur in the table of pairs more than once: rows 1 and 3, 2 and 4",
        ),
    ],
)
def test_errors_name_rows_and_nothing_that_stands_in_them(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(LlavaRadError) as caught:
        read_pairs(write(tmp_path, name, text))
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)
    assert "JANE" not in f"{caught.value}{caught.value.hint}"


def test_many_faults_are_counted_and_a_few_named(tmp_path: Path) -> None:
    with pytest.raises(LlavaRadError, match=r"^9 rows .* have no text: 1, 2, 3, 4, 5, \.\.\.$"):
        read_pairs(write(tmp_path, "t.csv", "image,text\n" + "".join(f"{n},\n" for n in range(9))))


def test_no_such_table_and_no_text_file(tmp_path: Path) -> None:
    with pytest.raises(LlavaRadError, match="does not exist"):
        read_pairs(tmp_path / "none.jsonl")
    for name in ("t.csv", "t.jsonl"):
        (tmp_path / name).write_bytes(b"image,text\n\xff\xfe,x\n")
        with pytest.raises(LlavaRadError, match="not text in UTF-8"):
            read_pairs(tmp_path / name)


def test_a_table_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    old = write(tmp_path, "t.jsonl", "mine")
    (tmp_path / "link").hardlink_to(old)
    write_pairs([pair(tmp_path, 1)], old)
    assert (tmp_path / "link").read_text() == "mine", "whoever has the old table open still reads all of it"
    assert len(read_pairs(old)) == 1


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    old = write(tmp_path, "t.jsonl", "mine")

    def broken() -> object:
        yield pair(tmp_path, 1)
        raise OSError(28, "No space left on device")

    with pytest.raises(LlavaRadError, match=r"^the table of pairs cannot be written \(No space left on device\)$"):
        write_pairs(broken(), old)  # type: ignore[arg-type]
    assert old.read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["t.jsonl"]


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["t.jsonl", "t.csv"])
def test_150_000_pairs_are_read_in_seconds(tmp_path: Path, name: str) -> None:
    number = 150_000
    # 8 s of one core where this was written; an image opened for each would take minutes
    write_pairs((pair(tmp_path, one) for one in range(number)), tmp_path / name)
    begin = time.process_time()
    assert len(read_pairs(tmp_path / name)) == number
    assert time.process_time() - begin < 60


def test_a_column_without_a_name_is_no_field(tmp_path: Path) -> None:
    (found,) = read_pairs(write(tmp_path, "t.csv", ",image,text\n7,a.png,Clear.\n"))
    assert found.row == Row(tmp_path / "a.png", image="a.png")
