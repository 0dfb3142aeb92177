"""Own tables of images: names of columns, labels, and what is refused; right values by hand and scikit-learn."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from encoder.datasets.columns import parsed
from encoder.datasets.generic import TABLE_FIELDS
from encoder.datasets.manifest import Row, read_manifest, write_manifest
from encoder.datasets.registry import DATASETS
from encoder.datasets.splits import disjoint_files
from encoder.errors import LlavaRadError


def read(folder: Path, table: str, *columns: str, name: str = "labels.csv") -> tuple[list[Row], list[str]]:
    (folder / name).write_text(table)
    for number in range(10):
        (folder / f"{number}.png").write_bytes(b"%d" % number)
    said: list[str] = []
    rows, _ = DATASETS["table"].rows(folder / name, columns=parsed(columns, TABLE_FIELDS), say=said.append)
    return rows, said


def labels(folder: Path, column: str, cells: list[str]) -> list[dict[str, float | None]]:
    lines = (f'{number}.png,p{number},"{cell}"' for number, cell in enumerate(cells))
    rows, _ = read(folder, f"image,patient_id,{column}\n" + "\n".join(lines))
    return [dict(row.labels) for row in rows]


@pytest.mark.parametrize(
    "cell", ["Edema/Effusion", "edema + effusion", "Edema and Mass", "Edema &  Scar", "Scar  Mass"]
)
def test_labels_written_together_in_another_way_are_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(LlavaRadError, match="row 2, column 'label': a name stands for several labels"):
        labels(tmp_path, "label", ["Scar", cell, "Effusion"])
    (row, _) = labels(tmp_path, "label", ["Emphysema/COPD|Scar and band", "Scar"])
    assert row == {"Emphysema/COPD": 1.0, "Scar and band": 1.0, "Scar": 0.0}


@pytest.mark.parametrize("header", [
    "Path,PatientID,AccessionNumber,ViewPosition,Partition,PatientSex,Patient Age,Race",
    "image_path,patient id,Study ID,view position,SPLIT,Gender,age_years,ethnicity",
    "ImageID,Patient_ID,StudyID,Projection,data split,sex,AGE,Patient Race",
])  # fmt: skip
def test_usual_names(tmp_path: Path, header: str) -> None:
    rows, said = read(tmp_path, f"{header},Comment\n0.png,p1,s1,PA,training,Female,054Y,WHITE - RUSSIAN,x\n")
    (row,) = rows
    assert (row.image, row.subject, row.study, row.view, row.split) == ("0.png", "p1", "s1", "PA", "train")
    assert row.attributes == {"sex": "F", "age": "54", "ethnicity": "white"}
    assert said[0].startswith("columns read: image")
    assert said[1:] == ["columns ignored: Comment"]
    write_manifest(rows, tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv") == rows


@pytest.mark.parametrize("image", ["../0.png", "sub/../../0.png", "..\\0.png", "./../data/0.png"])
def test_paths_that_lead_out_of_the_folder_are_refused(tmp_path: Path, image: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "0.png").write_bytes(b"not of this data set")
    with pytest.raises(LlavaRadError, match="row 2: the path leads out of the table's folder") as raised:
        read(tmp_path / "data", f"image\n1.png\n{image}\n")
    assert "png" not in str(raised.value)


def test_paths_within_the_folder_and_absolute_ones_are_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "0.png").write_bytes(b"elsewhere")
    (tmp_path / "data" / "..png").write_bytes(b"a name that begins with dots")
    rows, _ = read(tmp_path / "data", f"image\nsub/../1.png\n{tmp_path / '0.png'}\n..png\n")
    assert [row.path for row in rows] == [tmp_path / "data/1.png", tmp_path / "0.png", tmp_path / "data/..png"]


def test_named_columns(tmp_path: Path) -> None:
    table = "Picture name;MRN;Cohort;Edema;Follow-up #\n0.png;007;validation;1;0\n1.png;008;test;0;1\n"
    given = ("image=picture_name", "subject=MRN", "split=Cohort", "ignore=Follow-up #")
    rows, _ = read(tmp_path, table, *given, name="other name.txt")
    assert [(row.subject, row.split, row.labels) for row in rows] == [
        ("007", "val", {"Edema": 1.0}), ("008", "test", {"Edema": 0.0}),
    ]  # fmt: skip
    with pytest.raises(LlavaRadError, match="has no column of images") as error:
        read(tmp_path, table)
    there = "'Picture name', 'MRN', 'Cohort', 'Edema', 'Follow-up #'"
    assert error.value.hint == f'name it with --column "image=COLUMN"; its columns are {there}'


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["image"], "given as FIELD=COLUMN"), (["picture=x"], "fields are image, subject"),
        (["image=a", "image=b"], "given twice"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense(options: list[str], says: str) -> None:
    with pytest.raises(LlavaRadError, match=says):
        parsed(options, TABLE_FIELDS)


def test_race_and_ethnicity_are_read_together(tmp_path: Path) -> None:
    rows, _ = read(
        tmp_path,
        "image,race,ethnicity\n0.png,White,Hispanic or Latino\n1.png,White,Not Hispanic\n2.png,Unknown,Declined\n",
    )
    assert [row.attributes.get("ethnicity") for row in rows] == ["hispanic/latino", "white", None]


def test_what_is_not_understood_of_patients_is_counted(tmp_path: Path) -> None:
    rows, said = read(tmp_path, "image,age,sex\n0.png,411,F\n1.png,nan,x\n2.png,>89,\n")
    assert [row.attributes for row in rows] == [{"sex": "F"}, {}, {"age": "90"}]
    assert said[1:] == [
        "warning: column 'sex': no sex is read in 1 rows: 2", "warning: column 'age': no age is read in 1 rows: 1",
    ]  # fmt: skip


def test_images_without_a_patient_among_others_are_counted(tmp_path: Path) -> None:
    rows, said = read(tmp_path, "image,patient\n0.png,000123\n1.png,\n2.png,1e5\n3.png,nan\n4.png, 123 \n")
    assert [row.subject for row in rows] == ["000123", "", "1e5", "", "123"]
    assert said[1:] == ["warning: column 'patient': no patient in 2 rows: 2, 4; each counts as a patient of its own"]
    assert len(read(tmp_path, "image,patient\n0.png,\n1.png,\n")[1]) == 1, "the counts state that no patient is known"


def test_masks(tmp_path: Path) -> None:
    (tmp_path / "Masken").mkdir()
    (tmp_path / "Masken" / "Lunge 0.png").touch()
    table = "image,mask:R1,Lunge\n0.png,,Masken\\Lunge 0.png\n1.png,2.png,\n"
    rows, said = read(tmp_path, table, "mask:left lung=Lunge")
    assert [dict(row.masks) for row in rows] == [
        {"left lung": tmp_path / "Masken" / "Lunge 0.png"}, {"R1": tmp_path / "2.png"},
    ]  # fmt: skip
    assert said == ["columns read: image, mask 'R1', mask 'left lung'"]
    write_manifest(rows, tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv") == rows
    assert [dict(row.masks) for row in read(tmp_path, table, "ignore=mask:R1")[0]] == [{}, {}]
    for missing, column in (
        ("image,mask:R1\n0.png,\n1.png,none.png\n", "mask:R1"),
        ("image,M\n0.png,\n1.png,x\n", "M"),
    ):
        with pytest.raises(
            LlavaRadError, match=f"^the table of images: row 2, column '{column}': the file of the mask"
        ):
            read(tmp_path, missing, *(["mask:R1=M"] if column == "M" else []))


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_letters_with_marks_have_two_spellings(tmp_path: Path, forms: tuple[Literal["NFC", "NFD"], ...]) -> None:
    in_table, on_disk = (unicodedata.normalize(form, "Größe/Müller.png") for form in forms)
    (tmp_path / on_disk).parent.mkdir()
    (tmp_path / on_disk).touch()
    rows, _ = read(tmp_path, f"image\n{in_table}\n0.png\n")
    assert [row.path for row in rows] == [tmp_path / on_disk, tmp_path / "0.png"]
    with pytest.raises(LlavaRadError, match="rows 1 and 2 are the same image"):
        read(tmp_path, f"image\n{in_table}\n{on_disk}\n")


def test_cells_that_say_nothing_are_unknown_labels(tmp_path: Path) -> None:
    cells = ["1", "0", "nan", "1.0", "-1", "", "N/A", "None"]
    assert labels(tmp_path, "Edema", cells) == [{"Edema": value} for value in (1, 0, None, 1, -1, None, None, None)]
    assert labels(tmp_path, "tb", ["True", "FALSE", "nan"]) == [{"tb": value} for value in (1, 0, None)]
    assert labels(tmp_path, "Pleural Effusion", ["yes", "absent", "uncertain"]) == [
        {"Pleural Effusion": value} for value in (1, 0, -1)
    ]


@pytest.mark.parametrize("cell", ["Edema|Effusion", "effusion; Edema", "Edema,Effusion", "['Edema', 'Effusion']"])
def test_several_labels_in_a_cell(tmp_path: Path, cell: str) -> None:
    sklearn = pytest.importorskip("sklearn.preprocessing")
    names = ["Edema", "Effusion", "No Finding"]
    binary = sklearn.MultiLabelBinarizer(classes=names).fit_transform(
        [["Edema", "Effusion"], ["Effusion"], ["No Finding"]]
    )
    expected = [dict(zip(names, map(float, row), strict=True)) for row in binary] + [dict.fromkeys(names)]
    found = labels(
        tmp_path, "Finding Labels", ["Edema|Effusion" if cell[0] == "e" else cell, "Effusion", "No Finding", "nan"]
    )
    assert found == expected
    assert all({name.lower() for name in row} == {"edema", "effusion", "no finding"} for row in labels(
        tmp_path, "label", [cell, "Effusion", "No Finding", ""]
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("column", "cells", "row"),
    [
        ("Edema", ["1", "maybe", "0"], 2), ("Edema", ["severe", "mild", "2"], 1), ("Edema", ["1", "0.7"], 2),
        ("tb", ["1", "0", "2"], 3), ("tb", ["1", "1", "x", "0"], 3), ("Pleural Effusion", ["0", "1", "Edema|x"], 3),
    ],
)  # fmt: skip
def test_a_label_that_is_not_understood_is_named(tmp_path: Path, column: str, cells: list[str], row: int) -> None:
    with pytest.raises(LlavaRadError, match=f"row {row}, column '{column}': it holds no label") as error:
        labels(tmp_path, column, cells)
    assert f"ignore={column}" in str(error.value.hint)


def test_measurements_and_comments_are_no_labels(tmp_path: Path) -> None:
    table = "image,count,score,note\n" + "".join(f"{n}.png,{n},{n / 8},{'1' if n else 'free text'}\n" for n in range(8))
    with pytest.raises(LlavaRadError, match="column 'note'"):
        read(tmp_path, table)
    rows, said = read(tmp_path, table, "ignore=note")
    assert rows[0].labels == {}
    assert said[1] == "columns ignored: count, score"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("image,split\n0.png,train\n1.png,both\n", "row 2, column 'split': the split is none of"),
        ("image,split\n0.png,train\nnan,train\n", "row 2 names no image"),
        ("image,x\n0.png,1\n./0.png,0\n", "rows 1 and 2 are the same image"),
        ("image,Image\n0.png,1\n1.png,a,0\n", "row 2 has 3 of 2 cells"),
    ],
)
def test_rows_that_make_no_sense(tmp_path: Path, table: str, says: str) -> None:
    with pytest.raises(LlavaRadError, match=says):
        read(tmp_path, table)


def test_words_for_nothing_are_no_patient(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "image,patient_id,split\n0.png,nan,train\n1.png,nan,test\n2.png,N/A,\n")
    assert [(row.subject, row.split) for row in rows] == [("", "train"), ("", "test"), ("", "")]


def test_an_image_in_two_rows_of_a_manifest_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,split\na.png,train\n./a.png,test\n")
    with pytest.raises(LlavaRadError, match="rows 1 and 2 are the same image"):
        read_manifest(tmp_path / "m.csv")


def test_equal_bytes_in_two_splits_are_listed(tmp_path: Path) -> None:
    for name, data in (("a", b"1" * 99999), ("b", b"1" * 99999), ("c", b"1" * 99998 + b"2"), ("d", b"3")):
        (tmp_path / name).write_bytes(data)
    rows = [Row(tmp_path / name, image=name, split="train", number=n) for n, name in enumerate("abcd", 1)]
    disjoint_files([*rows, Row(tmp_path / "gone", split="test")])
    val = Row(tmp_path / "b", image="z", split="val", number=7)
    with pytest.raises(LlavaRadError, match=r"same bytes in two splits: 1; rows 1 \(train\) and 7 \(val\)"):
        disjoint_files([rows[0], rows[2], val])
    disjoint_files([rows[2], val])


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("image,Edema,edema\n0.png,1,0\n", "the columns 'Edema' and 'edema' are the same label"),
        ("image,label,Edema\n0.png,Edema,1\n1.png,Normal,1\n", "row 2: two columns disagree on the label 'Edema'"),
        ("image,label\n0.png,1\n1.png,Edema\n", "row 2, column 'label': other rows hold a number, this one a name"),
    ],
)
def test_labels_that_contradict_each_other(tmp_path: Path, table: str, says: str) -> None:
    with pytest.raises(LlavaRadError, match=says):
        read(tmp_path, table)


def test_a_name_fills_what_a_column_leaves_unknown(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "image,label,edema\n0.png,Edema,\n1.png,Normal,0\n2.png,,1\n")
    assert [row.labels for row in rows] == [
        {"edema": 1.0, "Normal": 0.0}, {"edema": 0.0, "Normal": 1.0}, {"edema": 1.0, "Normal": None},
    ]  # fmt: skip


def test_padchest_words_without_information_alone_are_no_labels(tmp_path: Path) -> None:
    words = ("['unchanged']", "['exclude']", "['suboptimal study', 'unchanged']", "[]", "['cardiomegaly', 'unchanged']")
    lines = "".join(f'{n}.png,0,s{n},p{n},PA,"{word}"\n' for n, word in enumerate(words))
    (tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv").write_text(
        f"ImageID,ImageDir,StudyID,PatientID,Projection,Labels\n{lines}"
    )
    for number in range(5):
        (tmp_path / f"{number}.png").touch()
    *silent, last = (row.labels for row in DATASETS["padchest"].rows(tmp_path)[0])
    assert [set(labels.values()) for labels in silent] == [{None}] * 4
    assert (last["cardiomegaly"], last["pneumonia"]) == (1, 0)


def test_a_column_without_a_name_is_no_field(tmp_path: Path) -> None:
    for header in (",image,Edema", "Unnamed: 0,image,Edema", "index,image,Edema"):
        rows, _ = read(tmp_path, f"{header}\n0,0.png,1\n1,1.png,0\n")
        assert [(row.subject, row.study, row.split, row.labels) for row in rows] == [
            ("", "", "", {"Edema": 1.0}), ("", "", "", {"Edema": 0.0}),
        ]  # fmt: skip
