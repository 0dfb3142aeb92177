"""The data sets that encoders are judged on, read from phantoms: what comes out is what was drawn."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from encoder.datasets.manifest import Row
from encoder.datasets.masks import MaskFiles, read_mask
from encoder.datasets.registry import DATASETS
from encoder.datasets.splits import disjoint
from encoder.datasets.vindr_cxr import LABELS
from encoder.errors import LlavaRadError
from encoder.reader.sandbox import Reader
from scripts.make_phantom import make_dataset
from scripts.phantom.files import MASK_BITS
from scripts.phantom.layouts.candid_ptx import encode_runs

STUDIES = 24
Truth = dict[str, dict[str, Any]]
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "out"
    layouts = ["vindr-cxr", "vindr-ribcxr", "candid-ptx", "rsna-pneumonia"]
    make_dataset(out, layouts, studies=STUDIES, size=128, seed=11)
    return out


def read(name: str, root: Path, folder: Path, **options: Any) -> list[Row]:
    with MaskFiles(folder) as masks:
        rows, missing = DATASETS[name].rows(root, masks, **options)
    assert missing == 0
    disjoint(rows)
    assert {row.dataset for row in rows} == {name}
    return rows


def truth(out: Path, layout: str) -> Truth:
    lines = (out / "truth" / f"{layout}.jsonl").read_text().splitlines()
    return {str(out / record["image"]): record for record in map(json.loads, lines)}


def bits(out: Path, record: dict[str, Any], *names: str) -> Mask:
    """The union of masks that the phantom was drawn with."""
    code = sum(1 << MASK_BITS.index(name) for name in names)
    return (np.asarray(Image.open(out / record["mask"])) & code) != 0


def copy(root: Path, to: Path) -> Path:
    shutil.copytree(root, to)
    return to


@pytest.mark.slow
def test_candid_ptx(phantoms: Path, tmp_path: Path, reader: Reader) -> None:
    rows = read("candid-ptx", phantoms / "candid-ptx", tmp_path / "m")
    expected = truth(phantoms, "candid-ptx")
    assert {str(r.path) for r in rows} == set(expected)
    assert len(rows) == STUDIES, "an image with two pneumothoraces is one row"
    for row in rows:
        record = expected[str(row.path)]
        kinds = {f["kind"] for f in record["findings"]}
        collapsed, tube = bits(phantoms, record, "pneumothorax"), bits(phantoms, record, "chest_tube")
        assert row.labels == {
            "Pneumothorax": float(collapsed.any()),
            "Chest tube": float(tube.any()),
            "Rib fracture": float("rib fracture" in kinds),
        }
        for name, mask in (("pneumothorax", collapsed), ("chest tube", tube)):
            assert (name in row.masks) == mask.any()
            if mask.any():
                assert (read_mask(row.masks[name], mask.shape, reader=reader) == mask).all()
        assert row.attributes["report"] == f"CHEST: {record['report']}"
        assert row.subject.startswith("P")
    counts = Counter(name for row in rows for name, value in row.labels.items() if value)
    assert all(0 < counts[name] < STUDIES for name in ("Pneumothorax", "Chest tube", "Rib fracture"))
    subjects = len({row.subject for row in rows})
    assert Counter(row.split for row in rows) == {
        "train": round(0.6 * subjects), "val": round(0.2 * subjects), "test": subjects - round(0.8 * subjects),
    }  # fmt: skip
    other = read("candid-ptx", phantoms / "candid-ptx", tmp_path / "m", shares=(0.7, 0.15, 0.15), seed=1)
    assert Counter(row.split for row in other)["train"] == round(0.7 * subjects)


@pytest.mark.parametrize("none", ["-1", ""])
def test_candid_ptx_unites_the_pneumothoraces_of_an_image(tmp_path: Path, reader: Reader, none: str) -> None:
    (tmp_path / "dataset").mkdir()
    for name in "12":
        Image.new("L", (70, 64)).save(tmp_path / "dataset" / f"{name}.0", format="PNG")
    (tmp_path / "Pneumothorax_reports.csv").write_text(
        "SOPInstanceUID,StudyInstanceUID,filename,EncodedPixels,Report\n"
        '1.0,s1,P7_1,0 3,"Two, one\non each side."\n1.0,s1,P7_1,4416 64,same\n'
        f"2.0,s2,P8_1,{none},\n"
    )
    for name in ("chest_tube", "acute_rib_fracture" if none else "Rib_fracture_mask_rle"):
        (tmp_path / f"{name}.csv").write_text("anon_SOPUID,mask_rle\n2.0,64 1\n")
    one, two = read("candid-ptx", tmp_path, tmp_path / "m")
    assert (one.subject, one.study, one.attributes) == ("P7", "s1", {"report": "Two, one\non each side."})
    mask = read_mask(one.masks["pneumothorax"], (64, 70), reader=reader)
    assert mask[:3, 0].all()
    assert mask[:, 69].all()
    assert mask.sum() == 67
    assert list(two.masks) == ["chest tube"]
    assert np.argwhere(read_mask(two.masks["chest tube"], (64, 70), reader=reader)).tolist() == [[0, 1]]
    assert two.attributes == {}
    assert (one.labels["Pneumothorax"], two.labels["Pneumothorax"], two.labels["Rib fracture"]) == (1.0, 0.0, 1.0)


def test_candid_ptx_leaves_out_images_of_two_patients(phantoms: Path, tmp_path: Path) -> None:
    root = copy(phantoms / "candid-ptx", tmp_path / "root")
    table = (root / "Pneumothorax_reports.csv").read_text()
    first = next(csv.DictReader(table.splitlines()))
    line = f"P99999_S1,x,{first['SOPInstanceUID']},-1,other\n"
    (root / "Pneumothorax_reports.csv").write_text(table + line)
    assert first["SOPInstanceUID"] not in {row.image for row in read("candid-ptx", root, tmp_path / "m")}


def test_candid_ptx_names_the_row_of_damaged_runs(phantoms: Path, tmp_path: Path) -> None:
    root = copy(phantoms / "candid-ptx", tmp_path / "root")
    with (root / "Pneumothorax_reports.csv").open(newline="") as stream:
        lines = list(csv.reader(stream))
    place = next(i for i, line in enumerate(lines) if i and line[3] != "-1")
    lines[place][3] += " 99"
    with (root / "Pneumothorax_reports.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(lines)
    with pytest.raises(LlavaRadError, match=rf"^CANDID-PTX: row {place} of its table: the run lengths are damaged"):
        read("candid-ptx", root, tmp_path / "m")


def test_vindr_cxr(phantoms: Path, tmp_path: Path) -> None:
    rows = read("vindr-cxr", phantoms / "vindr-cxr", tmp_path / "m")
    expected = truth(phantoms, "vindr-cxr")
    assert {str(r.path): r.split for r in rows} == {path: record["split"] for path, record in expected.items()}
    assert {r.view for r in rows} == {"PA"}
    table = phantoms / "vindr-cxr" / "annotations" / "image_labels_train.csv"
    with table.open(newline="") as stream:
        votes = list(csv.DictReader(stream))
    train = [row for row in rows if row.split == "train"]
    assert len(train) == len(votes) / 3
    split_votes = 0
    for row in train:
        for label, value in row.labels.items():
            given = sum(int(vote[label]) for vote in votes if vote["image_id"] == row.image)
            assert value == (1.0 if given >= 2 else 0.0)
            split_votes += given in (1, 2)
    assert split_votes > 3, "readers disagree, else the test tells nothing"
    for row in rows:
        if row.split == "test":
            kinds = {f["kind"] for f in expected[str(row.path)]["findings"]}
            assert row.labels["Cardiomegaly"] == float("cardiomegaly" in kinds)
            assert "Other disease" not in row.labels
    assert len(rows[0].labels) == 28
    assert any(row.labels["Other diseases"] for row in rows if row.split == "test")


def test_vindr_cxr_counts_readers_by_hand(tmp_path: Path) -> None:
    def line(image: str, reader: str, *found: str) -> str:
        return ",".join([image, reader, *(str(int(label in found)) for label in LABELS)])

    (tmp_path / "annotations").mkdir()
    lines = [
        line("a", "R1", "Edema", "ILD"), line("a", "R2", "Edema"), line("a", "R3"),
        line("b", "R1", "ILD"), line("b", "R2", "ILD"), line("b", "R3", "ILD", "Edema"),
    ]  # fmt: skip
    header = ",".join(["image_id", "rad_id", *LABELS])
    (tmp_path / "annotations/image_labels_train.csv").write_text("\n".join([header, *lines]) + "\n")
    header = header.replace("rad_id,", "").replace("Other diseases", "Other disease")
    test = line("c", "", "Other diseases").replace("c,,", "c,")
    (tmp_path / "annotations/image_labels_test.csv").write_text(f"{header}\n{test}\n")
    for name in ("train/a.dicom", "train/b.png", "test/c.dicom"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    rows = read("vindr-cxr", tmp_path, tmp_path / "m")
    assert [{name for name, value in row.labels.items() if value} for row in rows] == [
        {"Edema"}, {"ILD"}, {"Other diseases"},
    ]  # fmt: skip
    assert [row.path.name for row in rows] == ["a.dicom", "b.png", "c.dicom"]
    (tmp_path / "annotations/image_labels_test.csv").write_text(f"{header}\n{test.replace('0', '0.5')}\n")
    with pytest.raises(LlavaRadError, match=r"VinDr-CXR: row 1 of its table has a label that is neither 0 nor 1"):
        read("vindr-cxr", tmp_path, tmp_path / "m")


def test_rsna_pneumonia(phantoms: Path, tmp_path: Path, reader: Reader) -> None:
    rows = read("rsna-pneumonia", phantoms / "rsna-pneumonia", tmp_path / "m")
    expected = {path: r for path, r in truth(phantoms, "rsna-pneumonia").items() if "stage_2_train_images" in path}
    assert {str(r.path) for r in rows} == set(expected), "the unlabelled test images are not read"
    for row in rows:
        regions = expected[str(row.path)]["regions"]
        boxes = [r["box"] for r in regions if r["kind"] in ("consolidation", "opacity", "tuberculosis")]
        assert row.labels["Pneumonia"] == float(bool(boxes))
        assert sum(row.labels[name] or 0 for name in row.labels if name != "Pneumonia") == 1
        assert (row.labels["Lung Opacity"] == 1) == bool(boxes)
        if boxes:
            mask = np.zeros((128, 128), np.bool_)
            for x0, y0, x1, y1 in boxes:
                mask[y0 : y1 + 1, x0 : x1 + 1] = True
            assert (read_mask(row.masks["pneumonia"], (128, 128), reader=reader) == mask).all()
    assert 0 < sum("pneumonia" in row.masks for row in rows) < len(rows)
    assert {row.split for row in rows} == {"train", "val", "test"}


def test_vindr_ribcxr(phantoms: Path, tmp_path: Path, reader: Reader) -> None:
    rows = read("vindr-ribcxr", phantoms / "vindr-ribcxr", tmp_path / "m")
    expected = truth(phantoms, "vindr-ribcxr")
    assert {str(r.path): r.split for r in rows} == {
        path: {"train": "train", "val": "test"}[record["split"]] for path, record in expected.items()
    }
    for row in rows[:6]:
        mask = bits(phantoms, expected[str(row.path)], "ribs")
        assert len(row.masks) == 20
        ribs = {name: read_mask(path, mask.shape, reader=reader) for name, path in row.masks.items()}
        drawn = np.logical_or.reduce(list(ribs.values()))
        # the annotation's corners are rounded to hundredths: a pixel in a hundred may fall on the other side
        assert (drawn & mask).sum() > 0.99 * max(drawn.sum(), mask.sum())
        for number in range(1, 11):
            right, left = (np.nonzero(ribs[f"{side}{number}"])[1].mean() for side in "RL")
            assert right < left, "the patient's right is at image left"
        tops = [np.nonzero(ribs[f"R{number}"])[0].min() for number in range(1, 11)]
        assert tops == sorted(tops), "counted from above"


@pytest.mark.parametrize("inside", ["", "data"])
def test_vindr_ribcxr_in_the_layout_of_its_publishers(phantoms: Path, tmp_path: Path, inside: str) -> None:
    before = read("vindr-ribcxr", phantoms / "vindr-ribcxr", tmp_path / "m")
    root = copy(phantoms / "vindr-ribcxr", tmp_path / "root")
    for part in ("train", "val"):
        name = f"Vindr_RibCXR_{part}_mask.json"
        (root / "Annotations" / part / name).rename(root / "data" / part / name)
    rows = read("vindr-ribcxr", root / inside, tmp_path / "n")
    assert [(row.image, row.split, len(row.masks)) for row in rows] == [
        (row.image, row.split, len(row.masks)) for row in before
    ]
    assert all(row.path.is_file() for row in rows)


def test_vindr_ribcxr_refuses_damaged_outlines(phantoms: Path, tmp_path: Path) -> None:
    root = copy(phantoms / "vindr-ribcxr", tmp_path / "root")
    file = root / "Annotations" / "train" / "Vindr_RibCXR_train_mask.json"
    table = json.loads(file.read_text())
    table["R3"]["1"] = [{"x": 1.0}]
    file.write_text(json.dumps(table))
    with pytest.raises(LlavaRadError, match=r"^VinDr-RibCXR: row 2 of its table: the outline is damaged"):
        read("vindr-ribcxr", root, tmp_path / "m")
    file.write_text("{")
    with pytest.raises(LlavaRadError, match="cannot be read as JSON"):
        read("vindr-ribcxr", root, tmp_path / "m")
    file.write_text("[]")
    with pytest.raises(LlavaRadError, match="no images under 'img'"):
        read("vindr-ribcxr", root, tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vindr-cxr", "annotations/image_labels_test.csv"),
        ("candid-ptx", "Pneumothorax_reports.csv"),
        ("candid-ptx", "chest_tube.csv"),
        ("candid-ptx", "acute_rib_fracture.csv"),
        ("rsna-pneumonia", "stage_2_train_labels.csv"),
        ("rsna-pneumonia", "stage_2_detailed_class_info.csv"),
        ("vindr-ribcxr", "Annotations/val/Vindr_RibCXR_val_mask.json"),
    ],
)
def test_a_missing_table_is_named(phantoms: Path, tmp_path: Path, name: str, file: str) -> None:
    root = copy(phantoms / name, tmp_path / "JANE")
    (root / file).unlink()
    with pytest.raises(LlavaRadError, match=f"there is no {file}") as raised:
        DATASETS[name].rows(root)
    assert "JANE" not in str(raised.value)


def test_run_lengths_of_the_phantoms_are_the_documented_ones() -> None:
    mask = np.zeros((3, 4), np.bool_)
    mask[1, 0] = mask[2, 0] = mask[2, 1] = mask[0, 2] = mask[1, 2] = True
    assert encode_runs(mask) == "1 2 2 3"
