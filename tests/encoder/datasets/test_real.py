"""The real sets beside the checkout against the counts of their READMEs, and the same sets in their original form."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoder.datasets.manifest import Count, Row, counts, read_manifest, write_manifest
from encoder.datasets.masks import MaskFiles, read_mask
from encoder.datasets.registry import DATASETS
from encoder.datasets.splits import disjoint
from encoder.errors import LlavaRadError


def read(name: str, root: Path, folder: Path | None = None, **options: Any) -> list[Row]:
    with MaskFiles(folder) as masks:
        rows, missing = DATASETS[name].rows(root, masks, **options)
    assert missing == 0
    disjoint(rows)
    return rows


def sums(rows: list[Row]) -> dict[str, int]:
    """Positive images by label."""
    return {label: sum(row.labels[label] == 1 for row in rows) for label in rows[0].labels}


# ---- prepared, beside the checkout


def test_nih_sample(shared_dir: Path, tmp_path: Path) -> None:
    root = shared_dir / "data" / "nih_cxr14_1605"
    rows = read("nih-sample", root)
    assert counts(rows)["chestxray14"]["all"] == Count(1275, 1013)
    assert Counter(row.split for row in rows) == {"train": 1116, "val": 159}
    assert Counter(row.attributes["sex"] for row in rows) == {"M": 674, "F": 601}
    assert all(0 < int(row.attributes["age"]) < 100 for row in rows)
    assert Counter(row.attributes["sampling"] for row in rows)["random"] == 488
    first = rows[0]
    assert (first.subject, first.image, first.view, first.attributes["age"]) == ("61", "00000061_012.png", "AP", "77")
    assert {name for name, value in first.labels.items() if value} == {
        "Edema", "Effusion", "Infiltration", "Pleural_Thickening", "Pneumonia",
    }  # fmt: skip
    write_manifest(rows, tmp_path / "m.csv", root=root)
    assert read_manifest(tmp_path / "m.csv") == rows


def test_kermany(shared_dir: Path) -> None:
    rows = read("kermany", shared_dir / "data" / "kermany_pneumonia_224")
    assert len(rows) == 4985 - 31, "exact duplicates are left out"
    assert Counter(row.split for row in rows) == {"train": 4470 - 30, "val": 515 - 1}
    found = sums(rows)
    assert found["Pneumonia"] == found["Bacterial pneumonia"] + found["Viral pneumonia"]
    assert found["Normal"] + found["Pneumonia"] == len(rows)


@pytest.mark.parametrize(
    ("name", "images", "masks", "tuberculosis"), [("shenzhen", 580, 492, 291), ("montgomery", 111, 111, 47)]
)
def test_tuberculosis(shared_dir: Path, name: str, images: int, masks: int, tuberculosis: int) -> None:
    rows = read(name, shared_dir / "data" / "shenzhen_montgomery_tb")
    assert counts(rows)[name]["all"] == Count(images, images)
    assert sum("lungs" in row.masks for row in rows) == masks
    assert sums(rows) == {"Normal": images - tuberculosis, "Tuberculosis": tuberculosis}
    assert {row.split for row in rows} == {"train", "val"}, "the test part is not here"
    assert any(row.attributes.get("aspect") for row in rows)


def test_covid(shared_dir: Path) -> None:
    rows = read("covid", shared_dir / "data" / "covid_chestxray")
    assert counts(rows)["covid"]["all"] == Count(255, 124)
    assert counts(rows)["covid"]["lateral"].images == 29
    assert sum("lungs" in row.masks for row in rows) == 131
    assert not any("lungs" in row.masks for row in rows if row.view == "lateral")
    assert Counter(row.attributes.get("sex") for row in rows) == {"M": 141, "F": 100, None: 14}
    assert sums(rows)["COVID-19"] == 137
    assert sum(row.labels["COVID-19"] is None for row in rows) == 46
    assert Counter(len({r.subject for r in rows if r.split == split}) for split in ("train", "val", "test")) == {
        87: 1, 19: 1, 18: 1,
    }  # fmt: skip


@pytest.mark.parametrize("number", [5, pytest.param(111, marks=pytest.mark.nightly)])
def test_lungs_of_real_masks_are_drawn_by_side(shared_dir: Path, tmp_path: Path, number: int) -> None:
    whole, part = shared_dir / "data" / "shenzhen_montgomery_tb", tmp_path / "part"
    part.mkdir()
    for folder in filter(Path.is_dir, whole.iterdir()):
        (part / folder.name).symlink_to(folder)
    header, *lines = (whole / "labels.csv").read_text().splitlines()
    chosen = [line for line in lines if ",montgomery," in line][:number]
    (part / "labels.csv").write_text("\n".join([header, *chosen, ""]))
    rows = read("montgomery", part, tmp_path / "m")
    assert Counter(name for row in rows for name in row.masks) == {
        "left lung": number, "right lung": number, "lungs": number,
    }  # fmt: skip
    for row in rows[:5]:
        left, right, both = (
            np.asarray(Image.open(row.masks[name])) != 0 for name in ("left lung", "right lung", "lungs")
        )
        assert ((left | right) == both).all()
        assert not (left & right).any()
        assert np.nonzero(left)[1].mean() > np.nonzero(right)[1].mean()


def test_a_mask_of_another_image_is_refused_when_it_is_read(shared_dir: Path) -> None:
    rows = read("covid", shared_dir / "data" / "covid_chestxray")
    with_mask = next(row for row in rows if row.masks)
    with Image.open(with_mask.path) as image:
        size = (image.height, image.width)
    assert read_mask(with_mask.masks["lungs"], size).shape == size
    with pytest.raises(LlavaRadError, match="another aspect"):
        read_mask(with_mask.masks["lungs"], (size[0], size[1] + 40))


def test_no_reader_offers_the_rsna_normals_as_nih(shared_dir: Path) -> None:
    """They are NIH patients without ids: a split cannot keep them apart."""
    with pytest.raises(LlavaRadError, match="no column 'nih_image_index'"):
        read("nih-sample", shared_dir / "data" / "rsna_normal_crd")


# ---- original, written out by hand


def put(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (80, 70)).save(root / file)


def test_kermany_as_published(tmp_path: Path) -> None:
    put(
        tmp_path, "chest_xray/train/NORMAL/IM-0115-0001.jpeg", "chest_xray/train/PNEUMONIA/person1_bacteria_1.jpeg",
        "chest_xray/test/PNEUMONIA/person7_virus_12.jpeg", "chest_xray/val/NORMAL/NORMAL2-IM-1427-0001.jpeg",
    )  # fmt: skip
    rows = read("kermany", tmp_path)
    assert [(r.subject, r.split, {name for name, value in r.labels.items() if value}) for r in rows] == [
        ("IM-0115", "train", {"Normal"}),
        ("person1", "train", {"Bacterial pneumonia", "Pneumonia"}),
        ("NORMAL2-IM-1427", "val", {"Normal"}),
        ("person7", "test", {"Viral pneumonia", "Pneumonia"}),
    ]
    put(tmp_path, "chest_xray/train/NORMAL/JANE.jpeg")
    with pytest.raises(LlavaRadError, match=r"name of image \d tells neither patient nor cause") as raised:
        read("kermany", tmp_path)
    assert "JANE" not in str(raised.value)
    with pytest.raises(LlavaRadError, match=r"neither labels\.csv nor train/NORMAL"):
        read("kermany", tmp_path / "chest_xray" / "train")


def lungs(at: tuple[int, int]) -> Image.Image:
    """An upright lung between two columns of an image of 80 x 70."""
    mask = np.zeros((70, 80), np.bool_)
    mask[10:60, at[0] : at[1]] = True
    return Image.fromarray(mask)


def test_montgomery_as_published(tmp_path: Path) -> None:
    put(tmp_path, "MontgomerySet/CXR_png/MCUCXR_0001_0.png", "MontgomerySet/CXR_png/MCUCXR_0104_1.png")
    top = tmp_path / "MontgomerySet"
    (top / "ClinicalReadings").mkdir()
    (top / "ClinicalReadings" / "MCUCXR_0001_0.txt").write_text("Patient's Sex: F\nPatient's Age: 027Y\nnormal\n")
    (top / "ClinicalReadings" / "MCUCXR_0104_1.txt").write_text("Patient's Sex: M\nPatient's Age: 060Y\nTB\n")
    for folder, columns in (("leftMask", (10, 35)), ("rightMask", (45, 72))):  # on the sides of the picture
        (top / "ManualMask" / folder).mkdir(parents=True)
        lungs(columns).save(top / "ManualMask" / folder / "MCUCXR_0001_0.png")
    healthy, ill = read("montgomery", tmp_path, tmp_path / "m")
    assert (healthy.labels, ill.labels["Tuberculosis"]) == ({"Normal": 1.0, "Tuberculosis": 0.0}, 1.0)
    assert (healthy.attributes, ill.attributes) == ({"sex": "F", "age": "27"}, {"sex": "M", "age": "60"})
    assert set(healthy.masks) == {"left lung", "right lung"}
    assert ill.masks == {}
    assert (np.asarray(Image.open(healthy.masks["left lung"])) == np.asarray(lungs((45, 72)))).all()


def test_shenzhen_as_published(tmp_path: Path) -> None:
    put(tmp_path, "CXR_png/CHNCXR_0001_0.png", "CXR_png/CHNCXR_0327_1.png")
    (tmp_path / "ClinicalReadings").mkdir()
    (tmp_path / "ClinicalReadings" / "CHNCXR_0001_0.txt").write_text("male 45yrs\nnormal")
    (tmp_path / "ClinicalReadings" / "CHNCXR_0327_1.txt").write_text("Female, 9 months\nbilateral PTB")
    (tmp_path / "mask").mkdir()
    both = np.asarray(lungs((10, 35))) | np.asarray(lungs((45, 72)))
    Image.fromarray(both).save(tmp_path / "mask" / "CHNCXR_0001_0_mask.png")
    one, two = read("shenzhen", tmp_path, tmp_path / "m")
    assert (one.attributes, two.attributes) == ({"sex": "M", "age": "45"}, {"sex": "F"})
    assert set(one.masks) == {"lungs", "left lung", "right lung"}
    assert one.masks["lungs"] == tmp_path / "mask" / "CHNCXR_0001_0_mask.png"
    assert two.labels == {"Normal": 0.0, "Tuberculosis": 1.0}
    with pytest.raises(LlavaRadError, match=r"Shenzhen: there is neither labels\.csv nor CXR_png"):
        read("shenzhen", tmp_path / "mask")


def test_covid_as_published(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpeg", "images/b.png", "images/c.png")
    (tmp_path / "metadata.csv").write_text(
        "patientid,offset,sex,age,finding,view,modality,folder,filename,license\n"
        "2,0,M,65,Pneumonia/Viral/COVID-19,PA,X-ray,images,a.jpeg,CC BY\n"
        "3,0,F,52,No Finding,AP Supine,X-ray,images,b.png,\n"
        "3,0,F,52,Pneumonia/Viral/COVID-19,Axial,CT,volumes,x.nii,\n"
        "4,0,,,todo,L,X-ray,images,c.png,\n"
    )
    rows = read("covid", tmp_path)
    assert [(r.subject, r.view, dict(r.attributes)) for r in rows] == [
        ("2", "PA", {"sex": "M", "age": "65", "licence": "CC BY"}),
        ("3", "AP", {"sex": "F", "age": "52"}),
        ("4", "lateral", {}),
    ]
    assert [tuple(r.labels.values()) for r in rows] == [(1.0, 1.0, 0.0), (0.0, 0.0, 1.0), (None, None, None)]
