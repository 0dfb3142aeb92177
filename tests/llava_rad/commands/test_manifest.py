"""``llava-rad manifest``: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from encoder.datasets.manifest import read_manifest
from encoder.datasets.registry import DATASETS
from tests.llava_rad.conftest import Run

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


@pytest.fixture
def padchest(tmp_path: Path) -> Path:
    root = tmp_path / "JANE"
    (root / "0").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (root / "0" / name).write_bytes(b"x")
    (root / TABLE).write_text(
        ",ImageID,ImageDir,StudyID,PatientID,Projection,Labels\n"
        "0,a.png,0,1,77,PA,['normal']\n1,b.png,0,1,77,L,['normal']\n"
    )
    return root


def test_counts_stand_beside_the_papers(run: Run, padchest: Path, tmp_path: Path) -> None:
    done = run("manifest", "padchest", padchest, "-o", tmp_path / "m.csv")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "view            images  subjects",
        "all                  2         1",
        "PA                   1         1",
        "lateral              1         1",
        "table D.1 of the paper: 160,817 images, 67,000 subjects; here 2 and 1",
    ]
    assert [(r.image, r.view) for r in read_manifest(tmp_path / "m.csv")] == [("a.png", "PA"), ("b.png", "lateral")]


def test_json(run: Run, padchest: Path, tmp_path: Path) -> None:
    done = run("manifest", "padchest", padchest, "-o", tmp_path / "m.csv", "--format", "json")
    assert json.loads(done.out) == {
        "images": 2, "subjects": 1, "missing": 0, "splits": {"": 2}, "masks": {},
        "views": {"PA": {"images": 1, "subjects": 1}, "lateral": {"images": 1, "subjects": 1}},
        "published": {
            "paper": {"images": 160817, "subjects": 67000}, "here": {"images": 2, "subjects": 1}, "note": "",
        },
    }  # fmt: skip


def test_missing_images_are_left_out_and_end_with_3(run: Run, padchest: Path, tmp_path: Path) -> None:
    (padchest / "0" / "a.png").unlink()
    done = run("manifest", "padchest", padchest, "-o", tmp_path / "m.csv")
    assert done.code == 3
    assert done.err == "llava-rad: 1 of 2 images are not in the folder and were left out\n"
    assert [r.image for r in read_manifest(tmp_path / "m.csv")] == ["b.png"]


def test_refusals(run: Run, padchest: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.csv"
    for arguments, code, says in (
        (("pad", padchest, "-o", out), 2, "choose one of brax"),
        (("padchest", padchest), 2, "--output"),
        (("chexpert", padchest, "-o", out), 1, "CheXpert: there is no train.csv in the folder"),
        (("padchest", tmp_path / "none", "-o", out), 1, "the folder does not exist"),
        (("padchest", padchest, "-o", padchest / TABLE), 2, "exists already"),
        (("padchest", padchest, "-o", padchest / "0" / "a.png", "--overwrite"), 2, "one of the inputs"),
        (("folder", padchest / "0", "-o", tmp_path / "no" / "m.csv"), 2, "folder does not exist"),
    ):
        done = run("manifest", *arguments)
        assert done.code == code
        assert says in " ".join(done.err.replace("│", " ").split())
        assert done.out == ""
        assert "JANE" not in done.err
    assert not out.exists()


def test_an_existing_manifest_stays_unless_told(run: Run, padchest: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("mine")
    assert run("manifest", "padchest", padchest, "-o", tmp_path / "m.csv").code == 2
    assert (tmp_path / "m.csv").read_text() == "mine"
    assert run("manifest", "padchest", padchest, "-o", tmp_path / "m.csv", "--overwrite").code == 0
    assert len(read_manifest(tmp_path / "m.csv")) == 2


def test_a_patient_in_two_splits_is_a_warning(run: Run, tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "labels.csv").write_text("image,patient_id,split\n1.png,JANE,train\n2.png,JANE,val\n")
    done = run("manifest", "table", tmp_path, "-o", tmp_path / "m.csv")
    assert done.code == 0
    assert "warning: subjects in more than one split: 1;" in done.err
    assert "JANE" not in done.err
    assert "splits: train 1, val 1" in done.out


def test_help_names_every_data_set(run: Run) -> None:
    text = run("manifest", "--help").out
    assert [name for name in DATASETS if name not in " ".join(text.split())] == []


def test_masks_are_drawn_beside_the_manifest_and_kept(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "JANE"
    (root / "dataset").mkdir(parents=True)
    for name in ("1.0", "2.0", "3.0"):
        Image.new("L", (64, 70)).save(root / "dataset" / name, format="PNG")
    (root / "Pneumothorax_reports.csv").write_text(
        "SOPInstanceUID,StudyInstanceUID,filename,EncodedPixels,Report\n"
        "1.0,s1,P1_1,70 2,text\n2.0,s2,P2_1,-1,text\n3.0,s3,P3_1,-1,text\n"
    )
    (root / "chest_tube.csv").write_text("anon_SOPUID,mask_rle\n2.0,0 70\n")
    (root / "acute_rib_fracture.csv").write_text("anon_SOPUID,mask_rle\n")
    out = tmp_path / "m.csv"
    done = run("manifest", "candid-ptx", root, "-o", out, "--split", "34/33/33", "--seed", "4")
    assert (done.code, done.err) == (0, "")
    assert "masks: chest tube 1, pneumothorax 1" in done.out
    assert "splits: test 1, train 1, val 1" in done.out
    rows = read_manifest(out)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "m-masks").rglob("*.png"))
    assert files == ["m-masks/chest-tube/2.0.png", "m-masks/pneumothorax/1.0.png"]
    assert rows[0].masks == {"pneumothorax": tmp_path / "m-masks" / "pneumothorax" / "1.0.png"}
    assert Image.open(rows[0].masks["pneumothorax"]).getbbox() == (1, 0, 2, 2)

    # taken up: without the manifest, as after an interruption, a mask that is there is not drawn again
    out.unlink()
    Image.new("1", (64, 70), 1).save(rows[0].masks["pneumothorax"])
    again = run("manifest", "candid-ptx", root, "-o", out, "--split", "34/33/33", "--seed", "4")
    assert again.out == done.out
    assert Image.open(rows[0].masks["pneumothorax"]).getbbox() == (0, 0, 64, 70)
    run("manifest", "candid-ptx", root, "-o", out, "--overwrite")
    assert Image.open(rows[0].masks["pneumothorax"]).getbbox() == (1, 0, 2, 2)

    for split in ("70/15", "70/20/20"):
        bad = run("manifest", "candid-ptx", root, "-o", tmp_path / "n.csv", "--split", split)
        assert bad.code == 2
        assert "three percentages" in bad.err
    assert not (tmp_path / "n-masks").exists()
