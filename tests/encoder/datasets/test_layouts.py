"""Adapters on the phantom data sets and on layouts written out by hand, as the publishers describe them."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from encoder.datasets.manifest import Count, Row
from encoder.datasets.registry import DATASETS, published_for
from encoder.datasets.splits import disjoint
from encoder.errors import LlavaRadError
from scripts.make_phantom import make_dataset

CHEXPERT = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "out"
    make_dataset(out, ["mimic-cxr", "padchest"], studies=12, size=64, seed=3)
    return out


def truth(folder: Path, layout: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "truth" / f"{layout}.jsonl").read_text().splitlines()]


def put(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")


def read(name: str, root: Path) -> list[Row]:
    rows, missing = DATASETS[name].rows(root)
    assert missing == 0
    return rows


def test_mimic_cxr_jpg(phantoms: Path) -> None:
    rows = read("mimic-cxr-jpg", phantoms / "mimic-cxr-jpg")
    expected = truth(phantoms, "mimic-cxr")
    assert len(rows) == len(expected)
    assert {str(r.path.relative_to(phantoms)) for r in rows} == {str(t["image"]) for t in expected}
    split = {str(t["image"]): t["split"] for t in expected}
    views = Counter({"LATERAL": "lateral"}.get(str(t["view"]), t["view"]) for t in expected)
    assert Counter(r.view for r in rows) == views
    assert all(split[str(r.path.relative_to(phantoms))] in (r.split, {"val": "validate"}.get(r.split)) for r in rows)
    assert {r.split for r in rows} == {"train", "val", "test"}
    disjoint(rows)
    first = rows[0]
    assert first.path.parts[-4:-1] == (f"p{first.subject[:2]}", f"p{first.subject}", f"s{first.study}")
    with gzip.open(phantoms / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-chexpert.csv.gz", "rt") as file:
        header, *lines = (line.strip().split(",") for line in file)
    ((*cells,),) = [line for line in lines if line[1] == first.study]
    value = {"": None, "1.0": 1.0, "0.0": 0.0, "-1.0": -1.0}
    assert first.labels == {name: value[cell] for name, cell in zip(header[2:], cells[2:], strict=True)}


def test_mimic_cxr_as_dicom_takes_the_tables_of_the_jpg_release(phantoms: Path, tmp_path: Path) -> None:
    root = tmp_path / "mimic-cxr"
    shutil.copytree(phantoms / "mimic-cxr", root)
    with pytest.raises(LlavaRadError, match=r"^MIMIC-CXR: there is no mimic-cxr-2\.0\.0-metadata\.csv or .* folder$"):
        DATASETS["mimic-cxr"].rows(root)
    for table in (phantoms / "mimic-cxr-jpg").glob("*.csv.gz"):
        shutil.copy(table, root)
    rows = read("mimic-cxr", root)
    jpg = read("mimic-cxr-jpg", phantoms / "mimic-cxr-jpg")
    assert [(r.dataset, r.subject, r.image, r.view, r.split) for r in rows] == [
        (r.dataset, r.subject, r.image, r.view, r.split) for r in jpg
    ], "one data set: subjects left out of one form are left out of the other"
    assert {r.path.suffix for r in rows} == {".dcm"}


def test_padchest(phantoms: Path) -> None:
    rows = read("padchest", phantoms / "padchest")
    expected = truth(phantoms, "padchest")
    assert Counter(r.view for r in rows) == Counter(
        {"LATERAL": "lateral"}.get(str(t["view"]), t["view"]) for t in expected
    )
    assert {r.split for r in rows} == {""}
    assert len({r.subject for r in rows}) < len({r.study for r in rows}) < len(rows)


def test_padchest_labels_and_flat_folder(tmp_path: Path) -> None:
    columns = ",ImageID,ImageDir,StudyID,PatientID,Projection,Labels\n"
    table = columns + (
        "0,1_a.png,0,1,77,PA,\"['cardiomegaly', ' pleural effusion']\"\n"
        "1,1_b.png,0,1,77,L,\"['normal']\"\n"
        "2,2_c.png,7,2,78,COSTAL,nan\n"
    )
    (tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv").write_text(table)
    put(tmp_path, "0/1_a.png", "0/1_b.png", "2_c.png")
    one, two, three = read("padchest", tmp_path)
    assert {name for name, value in one.labels.items() if value == 1} == {"cardiomegaly", "pleural effusion"}
    assert (one.labels["normal"], two.labels["normal"], three.labels["normal"]) == (0.0, 1.0, None)
    assert (one.view, two.view, three.view) == ("PA", "lateral", "other")
    assert three.path == tmp_path / "2_c.png"


def test_padchest_polarity_and_labels_that_say_nothing(tmp_path: Path) -> None:
    """A real table has the column of the photometric interpretation; 'unchanged' and 'exclude' alone deny nothing."""
    cells = [
        ("MONOCHROME1", "['unchanged']"), ("MONOCHROME2", "['exclude']"), ("monochrome1 ", "['exclude', 'unchanged']"),
        ("", "['unchanged', 'cardiomegaly']"),
    ]  # fmt: skip
    lines = [f'{i}.png,0,s,p{i},PA,{one},"{labels}"' for i, (one, labels) in enumerate(cells)]
    header = "ImageID,ImageDir,StudyID,PatientID,Projection,PhotometricInterpretation_DICOM,Labels"
    (tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv").write_text("\n".join([header, *lines]) + "\n")
    put(tmp_path, *(f"0/{i}.png" for i in range(4)))
    rows = read("padchest", tmp_path)
    assert [row.inverted for row in rows] == [True, False, True, False]
    assert [row.labels["pneumonia"] for row in rows] == [None, None, None, 0.0]
    assert [row.labels["cardiomegaly"] for row in rows] == [None, None, None, 1.0]


def test_chexpert(tmp_path: Path) -> None:
    front = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}\n"
    (tmp_path / "train.csv").write_text(
        front
        + "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0" + "," * 13 + "\n"
        + "CheXpert-v1.0-small/train/patient00001/study1/view2_lateral.jpg,Female,68,Lateral,,,,-1.0" + "," * 11 + "\n"
        + "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,Male,20,Frontal,LL,0.0" + "," * 13 + "\n"
    )  # fmt: skip
    (tmp_path / "valid.csv").write_text(
        front + "CheXpert-v1.0/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,PA,0.0" + ",0.0" * 13 + "\n"
    )
    put(tmp_path, "train/patient00001/study1/view1_frontal.jpg", "train/patient00001/study1/view2_lateral.jpg")
    put(tmp_path, "train/patient00002/study1/view1_frontal.jpg", "valid/patient64541/study1/view1_frontal.jpg")
    rows = read("chexpert", tmp_path)
    assert [(r.subject, r.view, r.split) for r in rows] == [
        ("patient00001", "AP", "train"),
        ("patient00001", "lateral", "train"),
        ("patient00002", "frontal", "train"),  # a frontal view whose direction says LL
        ("patient64541", "PA", "val"),
    ]
    assert rows[0].labels["No Finding"] == 1.0
    assert rows[0].labels["Edema"] is None
    assert rows[1].labels["Cardiomegaly"] == -1.0
    assert [r.number for r in rows] == [1, 2, 3, 4]


def test_chestxray14(tmp_path: Path) -> None:
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
        "00000001_000.png,Cardiomegaly|Effusion,0,1,57,M,PA\n"
        "00000002_000.png,No Finding,0,2,80,M,AP\n"
        "00000003_000.png,Hernia,0,3,74,F,PA\n"
    )
    put(tmp_path, "images_001/images/00000001_000.png", "images_012/images/00000002_000.png")
    put(tmp_path, "images/00000003_000.png")
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n")
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n")
    rows = read("chestxray14", tmp_path)
    assert [(r.subject, r.view, r.split) for r in rows] == [("1", "PA", "train"), ("2", "AP", "test"), ("3", "PA", "")]
    assert {name for name, value in rows[0].labels.items() if value} == {"Cardiomegaly", "Effusion"}
    assert len(rows[0].labels) == 15


def test_brax_prefers_dicom(tmp_path: Path) -> None:
    stem = "id_1/Study_2/Series_3/image-4"
    (tmp_path / "master_spreadsheet_update.csv").write_text(
        f"DicomPath,PngPath,PatientID,PatientSex,PatientAge,AccessionNumber,StudyDate,{CHEXPERT},ViewPosition,Rows\n"
        f"Anonymized_DICOMs/{stem}.dcm,images/{stem}.png,id_1,M,50,acc,20010101,1{',' * 13},L,2000\n"
    )
    put(tmp_path, f"images/{stem}.png")
    (png,) = read("brax", tmp_path)
    assert (png.path.suffix, png.view, png.subject, png.study, png.image) == (
        ".png",
        "lateral",
        "id_1",
        "acc",
        "image-4",
    )
    assert png.labels["No Finding"] == 1.0
    put(tmp_path, f"Anonymized_DICOMs/{stem}.dcm")
    assert read("brax", tmp_path)[0].path == tmp_path / f"Anonymized_DICOMs/{stem}.dcm"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("brax", "master_spreadsheet_update.csv"),
        ("chexpert", "train.csv"),
        ("mimic-cxr", "mimic-cxr-2.0.0-metadata.csv"),
        ("mimic-cxr-jpg", "mimic-cxr-2.0.0-metadata.csv"),
        ("chestxray14", "Data_Entry_2017_v2020.csv"),
        ("padchest", "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"),
        ("table", "labels.csv"),
    ],
)
def test_a_missing_table_is_named(name: str, file: str, tmp_path: Path) -> None:
    (tmp_path / "JANE").mkdir()
    with pytest.raises(LlavaRadError) as raised:
        DATASETS[name].rows(tmp_path / "JANE")
    assert file in str(raised.value)
    assert "JANE" not in str(raised.value)
    with pytest.raises(LlavaRadError, match="does not exist"):
        DATASETS[name].rows(tmp_path / "none")


def test_a_table_without_its_column_or_cut_short(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("picture,view\n1.png,PA\n")
    with pytest.raises(LlavaRadError, match="no column of images"):
        DATASETS["table"].rows(tmp_path)
    (tmp_path / "labels.csv").write_text("image,view\n1.png,PA\n2.png\n")
    with pytest.raises(LlavaRadError, match="row 2 has 1 of 2 cells"):
        DATASETS["table"].rows(tmp_path)
    (tmp_path / "labels.csv").unlink()
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(b"image\n1.png\n" * 1000)[:20])
    with pytest.raises(LlavaRadError, match="cannot be read"):
        DATASETS["table"].rows(tmp_path)


def test_partial_downloads_are_counted(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image\n1.png\n2.png\n3.png\n")
    with pytest.raises(LlavaRadError, match="none of the 3 images"):
        DATASETS["table"].rows(tmp_path)
    put(tmp_path, "2.png")
    rows, missing = DATASETS["table"].rows(tmp_path)
    assert ([r.image for r in rows], missing) == (["2.png"], 2)


def test_the_papers_table() -> None:
    paper = {name: adapter.published.count for name, adapter in DATASETS.items() if adapter.published}
    assert paper == {
        "brax": Count(41_620, 19_351),
        "chexpert": Count(223_648, 65_240),
        "mimic-cxr": Count(210_491, 188_546),
        "mimic-cxr-jpg": Count(210_491, 188_546),
        "chestxray14": Count(112_120, 32_717),
        "padchest": Count(160_817, 67_000),
    }
    # With the private set of 90,000 that is 360 more than the paper's total of 838,336.
    assert sum(paper[name].images for name in paper if name != "mimic-cxr-jpg") + 90_000 == 838_336 + 360
    mimic = published_for("mimic-cxr")
    assert mimic is not None
    rows = [
        Row(Path("/1"), subject="a", view="PA", split="train"),
        Row(Path("/2"), subject="a", view="AP", split="train"),
        Row(Path("/3"), subject="b", view="lateral", split="train"),
        Row(Path("/4"), subject="c", view="PA", split="val"),
    ]
    assert mimic.of(rows) == Count(2, 1)
    assert published_for("folder") is None


def test_a_finding_of_chestxray14_that_says_nothing_is_unknown_and_another_word_an_error(tmp_path: Path) -> None:
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
    put(tmp_path, "images/1.png")
    (tmp_path / "Data_Entry_2017.csv").write_text(f"{header}1.png,nan,0,1,57,M,PA\n")
    (row,) = DATASETS["chestxray14"].rows(tmp_path)[0]
    assert set(row.labels.values()) == {None}
    (tmp_path / "Data_Entry_2017.csv").write_text(f"{header}1.png,Edema|Effusions,0,1,57,M,PA\n")
    with pytest.raises(LlavaRadError, match="row 1, column 'Finding Labels': it is none of Atelectasis"):
        DATASETS["chestxray14"].rows(tmp_path)
