"""Published tables as data sets: one frontal image of each study, patients and context, other tables refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from encoder.errors import LlavaRadError
from llava_rad.benchmark.task import load
from llava_rad.reports.pairs import read_pairs
from llava_rad.reports.public_tables import TABLES
from llava_rad.reports.registry import DATASETS, places
from tests.llava_rad.reports.test_published_tables import CHEXPERT_PLUS, REXGRADIENT

# a row of MIMIC-CXR in the form of rajpurkarlab/ReXrank's data/READMD.md, with words of our own
MIMIC: dict[str, Any] = {
    "50000001": {
        "key_image_path": "/p10/p10000001/s50000001/a.jpg",
        "image_path": ["/p10/p10000001/s50000001/a.jpg", "/p10/p10000001/s50000001/b.jpg"],
        "frontal_lateral": ["Frontal", "Lateral"], "section_findings": "Clear.", "split": "test",
        "context": "<context>Age:50-60.Gender:M.Indication: fever and cough.Comparison: CT of May.</context>",
    },
    "50000002": {
        "key_image_path": "p10/p10000001/s50000002/c.jpg", "image_path": ["p10/p10000001/s50000002/c.jpg"],
        "frontal_lateral": ["Frontal"], "section_findings": None, "split": "test", "context": "",
    },
}  # fmt: skip


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_rexranks_context_patients_and_rooted_paths(tmp_path: Path) -> None:
    file = tmp_path / "test.json"
    file.write_text(json.dumps(MIMIC))
    (pair,) = read_pairs(file)
    folder = tmp_path / "p10" / "p10000001" / "s50000001"
    assert (pair.id, pair.row.path, pair.row.subject) == ("50000001", folder / "a.jpg", "10000001")
    assert (pair.context.lateral, pair.row.attributes["sex"]) == (folder / "b.jpg", "M")
    assert (pair.context.indication, pair.context.comparison) == ("fever and cough.", "CT of May.")


def test_rexranks_key_image_is_written_about_whatever_its_view_is_said_to_be(tmp_path: Path) -> None:
    """As of CXR850 of IU X-ray, both of whose images are said to be lateral; what was removed is no indication."""
    entry = {
        "key_image_path": "a/1.png", "image_path": ["a/0.png", "a/1.png"], "frontal_lateral": ["Lateral", "Lateral"],
        "section_findings": "Clear.", "split": "test", "context": "Indication: XXXX Comparison: XXXX, XXXX.",
    }  # fmt: skip
    for name in ("a/0.png", "a/1.png"):
        image(tmp_path / name)
    (tmp_path / "test.json").write_text(json.dumps({"CXR850": entry}))
    (pair,) = DATASETS["rexrank"].find(places(tmp_path, tmp_path / "test.json", None)).pairs
    assert pair.row.path == tmp_path / "a" / "1.png" and pair.context.lateral == tmp_path / "a" / "0.png"
    assert (pair.context.indication, pair.context.comparison) == ("", "")


def test_rexgradient_is_scored_by_study(tmp_path: Path) -> None:
    entries = {key: dict(entry) for key, entry in REXGRADIENT.items()}
    entries["pA_s1"] |= {
        "ImagePath": ["../deid_png/A/0.png", "../deid_png/A/1.png", "../deid_png/A/2.png"],
        "ImageViewPosition": ["AP", "PA", "LATERAL"],
    }
    file = tmp_path / "metadata" / "test_metadata.json"
    file.parent.mkdir()
    file.write_text(json.dumps(entries))
    for number in range(3):
        image(tmp_path / "deid_png" / "A" / f"{number}.png")
    found = DATASETS["rexgradient"].find(places(file, file))
    assert [(p.row.path.name, p.row.view, p.row.subject) for p in found.pairs] == [("1.png", "PA", "A")]
    assert found.pairs[0].context.lateral == tmp_path / "deid_png" / "A" / "2.png"
    assert found.steps["one image of each study"] == 1
    task = load("rexgradient", file, strata=("sex", "age"))
    assert task.strata == {"sex": ["F"], "age": ["60-80"]} and task.has_images and task.patients == ["A"]


def test_chexpert_plus_with_images_elsewhere(tmp_path: Path) -> None:
    file, images = tmp_path / "df_chexpert_plus_240401.csv", tmp_path / "PNG"
    file.write_text(CHEXPERT_PLUS)
    for name in ("view1_frontal", "view2_lateral"):
        image(images / "train" / "patient00001" / "study2" / f"{name}.jpg")
    task = load("chexpert-plus", file, images=images, split="train")
    assert [(case.id, case.subject, case.study, case.view) for case in task.cases] == [
        ("train/patient00001/study2/view1_frontal.jpg", "p1", "patient00001/study2", "PA")
    ]
    with pytest.raises(LlavaRadError, match="no pair of the split 'test'"):
        load("chexpert-plus", file, images=images)


def test_without_images_the_texts_remain(tmp_path: Path) -> None:
    file = tmp_path / "test.json"
    file.write_text(json.dumps(MIMIC))
    task = load("rexrank", file)
    assert [case.id for case in task.cases] == ["50000001"] and not task.has_images
    assert (task.split, task.table) == ("test", file)
    with pytest.raises(LlavaRadError, match="no pair is left"):
        load("rexrank", file, images=tmp_path)


@pytest.mark.parametrize("name", TABLES)
def test_another_table_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": "1", "image": "a.png", "findings": "x"}\n')
    with pytest.raises(LlavaRadError, match="no table of"):
        DATASETS[name].find(places(file, file))
    with pytest.raises(LlavaRadError, match=r"there is no .* in the folder"):
        DATASETS[name].find(places(tmp_path))
