"""Adapters for folders and tables, on files by hand and on the real subsets beside the checkout."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from encoder.datasets.manifest import Count, Row, counts, read_manifest, write_manifest
from encoder.datasets.registry import DATASETS
from encoder.datasets.splits import disjoint
from encoder.errors import LlavaRadError
from tests.encoder.dicom_files import chest


def read(root: Path) -> list[Row]:
    rows, missing = DATASETS["table"].rows(root)
    assert missing == 0
    return rows


def test_folder(tmp_path: Path) -> None:
    for name in (
        "b/2.PNG",
        "b/1.jpeg",
        "a.tif",
        "c/d/x.dcm",
        "notes.txt",
        ".hidden.png",
        "b/.cache/3.png",
        "c/DICOMDIR",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "c" / "IM0001").write_bytes(chest())
    (tmp_path / "c" / "DICOMDIR").write_bytes(chest())
    rows, missing = DATASETS["folder"].rows(tmp_path)
    assert [r.image for r in rows] == ["a.tif", "b/1.jpeg", "b/2.PNG", "c/IM0001", "c/d/x.dcm"]
    assert missing == 0
    assert {(r.subject, r.view, r.split, len(r.labels)) for r in rows} == {("", "unknown", "", 0)}
    assert [r.number for r in rows] == [1, 2, 3, 4, 5]


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(LlavaRadError, match="there is no DICOM, PNG"):
        DATASETS["folder"].rows(tmp_path)


def test_table_by_hand(tmp_path: Path) -> None:
    for name in "123":
        (tmp_path / f"{name}.png").write_bytes(b"x")
    (tmp_path / "metadata.csv").write_text(
        "image,subject_id,study_id,view,split,label,effusion,age,empty\n"
        "1.png,p1,s1,AP Supine,training,normal,0,1,\n"
        "2.png,p1,s2,L,valid,pneumonia,-1,0,\n"
        "3.png,p2,s3,odd,TEST,,1.0,1,\n"
    )
    rows = read(tmp_path)
    assert [(r.subject, r.study, r.view, r.split) for r in rows] == [
        ("p1", "s1", "AP", "train"), ("p1", "s2", "lateral", "val"), ("p2", "s3", "unknown", "test"),
    ]  # fmt: skip
    assert [dict(r.labels) for r in rows] == [
        {"effusion": 0.0, "normal": 1.0, "pneumonia": 0.0},
        {"effusion": -1.0, "normal": 0.0, "pneumonia": 1.0},
        {"effusion": 1.0, "normal": None, "pneumonia": None},
    ]
    (tmp_path / "other.csv").write_text("image,label\n1.png,1\n2.png,0\n")
    assert [dict(r.labels) for r in read(tmp_path / "other.csv")] == [{"label": 1.0}, {"label": 0.0}]


def test_nih_subset(shared_dir: Path, tmp_path: Path) -> None:
    rows = read(shared_dir / "data" / "nih_cxr14_1605")
    assert Counter(r.split for r in rows) == {"train": 1116, "val": 159}
    assert counts(rows)["nih_cxr14_1605"] == {"all": Count(1275, 1013), "PA": Count(732, 693), "AP": Count(543, 360)}
    disjoint(rows)
    assert len(rows[0].labels) == 15
    assert {name for name, value in rows[0].labels.items() if value} == {
        "Edema", "Effusion", "Infiltration", "Pleural_Thickening", "Pneumonia",
    }  # fmt: skip
    write_manifest(rows, tmp_path / "m.csv", root=shared_dir / "data" / "nih_cxr14_1605")
    assert read_manifest(tmp_path / "m.csv") == rows


@pytest.mark.parametrize(
    ("name", "images", "subjects", "positive"),
    [
        ("kermany_pneumonia_224", 4985, 2649, {"normal", "pneumonia"}),
        ("shenzhen_montgomery_tb", 691, 691, {"normal", "tuberculosis"}),
        ("rsna_normal_crd", 4000, 0, {"normal"}),
        ("covid_chestxray", 255, 124, set()),
    ],
)
def test_other_tables(shared_dir: Path, name: str, images: int, subjects: int, positive: set[str]) -> None:
    rows = read(shared_dir / "data" / name)
    assert counts(rows)[name]["all"] == Count(images, subjects)
    assert set(rows[0].labels) == positive
    assert all(sum(value or 0 for value in r.labels.values()) == (1 if positive else 0) for r in rows)
