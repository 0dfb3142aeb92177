"""MIMIC-CXR's lungs, their zones, and the patients of MIMIC-IV: phantoms, and tables written out by hand."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from encoder.datasets.manifest import Row
from encoder.datasets.masks import MaskFiles, read_mask
from encoder.datasets.mimic_cxr_lungs import ZONES
from encoder.datasets.mimic_iv import linked
from encoder.datasets.registry import DATASETS
from encoder.datasets.splits import disjoint
from encoder.datasets.values import ethnicity_of
from encoder.errors import LlavaRadError
from encoder.reader.sandbox import Reader
from scripts.make_phantom import make_dataset
from scripts.phantom.files import MASK_BITS

Mask = NDArray[np.bool_]


def bit(out: Path, record: dict[str, Any], name: str) -> Mask:
    return (np.asarray(Image.open(out / record["mask"])) & (1 << MASK_BITS.index(name))) != 0


def thirds(mask: Mask) -> dict[str, tuple[float, float, float, float]]:
    """Boxes of a lung's upper, middle and lower third, across the whole lung."""
    rows, columns = np.nonzero(mask)
    top, bottom = int(rows.min()), int(rows.max()) + 1
    edges = [top + (bottom - top) * i // 3 for i in range(4)]
    left, right = float(columns.min()), float(columns.max() + 1)
    return {name: (left, edges[i], right, edges[i + 1]) for i, name in enumerate(("upper", "mid", "lower"))}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MIMIC-CXR, MIMIC-CXR-JPG and MIMIC-IV as phantoms, two derived sets from what the phantoms were drawn with."""
    out = tmp_path_factory.mktemp("mimic") / "out"
    make_dataset(out, ["mimic-cxr"], studies=16, size=128, seed=4)
    graphs = out / "chest-imagenome" / "1.0.0" / "silver_dataset" / "scene_graph"
    lungs = out / "lung-segment-mimic-cxr" / "1.0.0" / "lungs"
    for folder in (graphs, lungs):
        folder.mkdir(parents=True)
    for path, record in truth(out).items():
        if record["view"] == "LATERAL" or path.endswith("0.jpg"):  # some images have no lung masks
            continue
        halves = {side: bit(out, record, f"{side}_lung") for side in ("left", "right")}
        Image.fromarray(halves["left"] | halves["right"]).save(lungs / f"{Path(path).stem}.png")
        objects: list[dict[str, Any]] = [{"bbox_name": "cardiac silhouette", "original_x1": "no number"}]
        for side, mask in halves.items():
            for zone, box in thirds(mask).items():
                corners = dict(zip(("original_x1", "original_y1", "original_x2", "original_y2"), box, strict=True))
                objects.append({"bbox_name": f"{side} {zone} lung zone", "x1": 0, "x2": 224, **corners})
        (graphs / f"{Path(path).stem}_SceneGraph.json").write_text(json.dumps({"objects": objects}))
    return out


def truth(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / "truth" / "mimic-cxr.jsonl").read_text().splitlines()
    return {str(out / record["image"]): record for record in map(json.loads, lines)}


def read(name: str, root: Path, folder: Path, **options: Any) -> list[Row]:
    with MaskFiles(folder) as masks:
        rows, missing = DATASETS[name].rows(root, masks, **options)
    assert missing == 0
    disjoint(rows)
    return rows


def test_lungs_and_zones(world: Path, tmp_path: Path, reader: Reader) -> None:
    rows = read("mimic-cxr-lungs", world, tmp_path / "m")
    expected = truth(world)
    assert {r.image for r in rows} == {p.stem for p in (world / "lung-segment-mimic-cxr").rglob("*.png")}
    assert len(rows) > 5
    assert {r.split for r in rows} == {"train", "val", "test"}, "70/15/15, not MIMIC's own"
    for row in rows:
        record = expected[str(row.path)]
        assert set(row.masks) == {"left lung", "right lung", *ZONES}
        masks = {}
        for side in ("left", "right"):
            whole = bit(world, record, f"{side}_lung")
            masks[side] = read_mask(row.masks[f"{side} lung"], whole.shape, reader=reader)
            assert (masks[side] == whole).all()
            zones = []
            for zone, (x0, y0, x1, y1) in thirds(whole).items():
                drawn = read_mask(row.masks[f"{side} {zone} lung zone"], whole.shape, reader=reader)
                box = np.zeros_like(whole)
                box[int(y0) : int(y1), int(x0) : int(x1)] = True
                assert (drawn == whole & box).all()
                zones.append(drawn)
            assert (sum(zone.astype(int) for zone in zones) == whole).all(), "the zones tile their lung"
        assert np.nonzero(masks["left"])[1].mean() > np.nonzero(masks["right"])[1].mean(), "patient's left: image right"


def test_lungs_have_their_patients_attributes(world: Path, tmp_path: Path) -> None:
    rows, people = read("mimic-cxr-lungs", world, tmp_path / "m"), truth(world)
    known = [row for row in rows if row.attributes]
    assert len(known) > len(rows) / 2
    for row in known:
        assert row.attributes["sex"] == people[str(row.path)]["patient"]["sex"]


def test_a_zone_on_the_wrong_side_is_left_out(world: Path, tmp_path: Path) -> None:
    """A box that does not meet its own lung gives no mask, so swapped sides cannot pass for zones."""
    graphs = world / "chest-imagenome" / "1.0.0" / "silver_dataset" / "scene_graph"
    root = tmp_path / "root"
    root.mkdir()
    for name in ("mimic-cxr-jpg", "lung-segment-mimic-cxr"):
        (root / name).symlink_to(world / name)
    mirrored = root / "chest-imagenome" / "silver_dataset" / "scene_graph"
    mirrored.mkdir(parents=True)
    for file in graphs.iterdir():
        text = file.read_text().replace("left", "LEFT").replace("right", "left").replace("LEFT", "right")
        (mirrored / file.name).write_text(text)
    rows = read("mimic-cxr-lungs", root, tmp_path / "m")
    assert all(set(row.masks) == {"left lung", "right lung"} for row in rows)
    assert not any(row.attributes for row in rows), "no mimiciv beside"


def test_separate_masks_of_both_lungs_go_by_where_they_lie(world: Path, tmp_path: Path, reader: Reader) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("mimic-cxr-jpg", "chest-imagenome"):
        (root / name).symlink_to(world / name)
    path, record = next((p, r) for p, r in truth(world).items() if r["view"] != "LATERAL" and not p.endswith("0.jpg"))
    for side in ("left", "right"):
        (root / "lung-segment-mimic-cxr" / side).mkdir(parents=True)
        Image.fromarray(bit(world, record, f"{side}_lung")).save(
            root / "lung-segment-mimic-cxr" / side / f"{Path(path).stem}.png"
        )
    (row,) = read("mimic-cxr-lungs", root, tmp_path / "m")
    left = bit(world, record, "left_lung")
    assert (read_mask(row.masks["left lung"], left.shape, reader=reader) == left).all()


def test_what_is_refused(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "JANE"
    root.mkdir()
    (root / "mimic-cxr-jpg").symlink_to(world / "mimic-cxr-jpg")
    with pytest.raises(
        LlavaRadError, match=r"MIMIC-CXR lungs: there is no lung-segment-mimic-cxr in the folder"
    ) as raised:
        read("mimic-cxr-lungs", root, tmp_path / "m")
    assert "JANE" not in str(raised.value)
    lungs = root / "lung-segment-mimic-cxr"
    lungs.mkdir()
    (root / "chest-imagenome").symlink_to(world / "chest-imagenome")
    with pytest.raises(LlavaRadError, match="no PNG files named by image"):
        read("mimic-cxr-lungs", root, tmp_path / "m")
    source = next((world / "lung-segment-mimic-cxr").rglob("*.png"))
    mask = Image.open(source)
    mask.resize((mask.width, mask.height // 2)).save(lungs / source.name)
    with pytest.raises(LlavaRadError, match=r"^MIMIC-CXR lungs: row \d+ of its table: a mask has another aspect"):
        read("mimic-cxr-lungs", root, tmp_path / "m")
    Image.new("1", mask.size, 1).save(lungs / source.name)
    with pytest.raises(LlavaRadError, match="does not show two lungs"):
        read("mimic-cxr-lungs", root, tmp_path / "m")
    mask.save(lungs / source.name)
    mask.save(lungs / f"again_{source.name}")
    with pytest.raises(LlavaRadError, match="several masks"):
        read("mimic-cxr-lungs", root, tmp_path / "m")


def test_no_finding_subset(world: Path, tmp_path: Path) -> None:
    rows = read("mimic-cxr-no-finding", world, tmp_path / "m")
    people = truth(world)
    listed = {line.split(",")[0] for line in _table(world / "mimiciv/hosp/patients.csv.gz")}
    expected = {
        path
        for path, record in people.items()
        if record["labels"].get("No Finding") == 1
        and record["view"] != "LATERAL"
        and Path(path).parts[-3][1:] in listed
    }
    assert {str(row.path) for row in rows} == expected
    assert rows
    for row in rows:
        patient = people[str(row.path)]["patient"]
        assert row.attributes["sex"] == patient["sex"]
        assert abs(float(row.attributes["weight"]) - patient["weight"]) < 0.1, "kg, not pounds"
        assert row.attributes["bmi"] == str(patient["bmi"])
        assert row.attributes.get("ethnicity", "") == ethnicity_of(patient["ethnicity"])


def test_patients_without_all_attributes_are_counted_and_left_out(world: Path, tmp_path: Path) -> None:
    before = read("mimic-cxr-no-finding", world, tmp_path / "m")
    subject = before[0].subject
    left = [row for row in before if row.subject != subject]
    root, hosp = tmp_path / "root", world / "mimiciv" / "hosp"
    (root / "mimiciv" / "hosp").mkdir(parents=True)
    (root / "mimic-cxr-jpg").symlink_to(world / "mimic-cxr-jpg")
    for file in hosp.iterdir():
        lines = _table(file) if file.suffix == ".gz" else file.read_text().splitlines()
        kept = [line for line in lines if not (line.startswith(f"{subject},") and "BMI" in line)]
        (root / "mimiciv" / "hosp" / file.name.removesuffix(".gz")).write_text("\n".join(kept) + "\n")
    said: list[str] = []
    rows, _ = DATASETS["mimic-cxr-no-finding"].rows(root, say=said.append)
    assert [row.image for row in rows] == [row.image for row in left] and len(left) < len(before)
    patients = len({row.subject for row in before})
    assert f"{len(before):,} images of {patients:,} patients (" in said[1]
    assert f"{len(left):,} images of {patients - 1:,} patients (" in said[2]
    for name, number in Counter(row.split for row in left).items():
        people = len({row.subject for row in left if row.split == name})
        assert f"{name} {number:,} of {people:,}" in said[2]


def _table(path: Path) -> list[str]:
    import gzip

    return gzip.decompress(path.read_bytes()).decode().splitlines()


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    hosp = tmp_path / "mimiciv" / "2.2" / "hosp"
    hosp.mkdir(parents=True)
    (hosp / "patients.csv").write_text(
        "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod\n"
        "1,F,50,2150,2011 - 2013,\n2,M,91,2120,2014 - 2016,\n3,X,5,2100,x,\n"
    )
    (hosp / "admissions.csv").write_text(
        "subject_id,hadm_id,race\n1,1,UNKNOWN\n1,2,WHITE - RUSSIAN\n1,3,WHITE\n1,4,OTHER\n"
        "2,5,PATIENT DECLINED TO ANSWER\n"
    )
    (hosp / "omr.csv").write_text(
        "subject_id,chartdate,seq_num,result_name,result_value\n"
        "1,2150-01-01,1,Weight (Lbs),100\n1,2151-06-01,1,Weight (Lbs),200\n1,2151-06-20,1,Weight (Lbs),2000\n"
        "1,2151-06-01,1,BMI (kg/m2),27.46\n1,2151-06-01,1,Blood Pressure,120/80\n1,2151-06-02,1,BMI (kg/m2),high\n"
    )
    return tmp_path


def test_people_by_hand(hospital: Path) -> None:
    days = {"a": date(2151, 5, 1), "b": date(2150, 2, 1), "c": date(2122, 1, 1), "e": date(2230, 1, 1)}
    rows = [
        Row(Path(f"/{i}"), "mimic-cxr", s, "", i)
        for i, s in (("a", "1"), ("b", "1"), ("c", "2"), ("d", "9"), ("e", "3"))
    ]
    a, b, c, d, e = linked(rows, days, hospital)
    # 200 lb are 90.7 kg; 2000 lb no weight; the year of the study is one after the anchor
    assert a.attributes == {"sex": "F", "age": "51", "weight": "90.7", "bmi": "27.5", "ethnicity": "white"}
    assert b.attributes == {"sex": "F", "age": "50", "weight": "45.4", "bmi": "27.5", "ethnicity": "white"}
    assert c.attributes == {"sex": "M", "age": "93"}
    assert d == rows[3]
    assert e.attributes == {}, "neither a sex nor an age"


def test_ethnicities_are_those_of_the_paper() -> None:
    groups = {
        "WHITE - EASTERN EUROPEAN": "white", "ASIAN - CHINESE": "asian", "BLACK/CAPE VERDEAN": "black/african american",
        "HISPANIC/LATINO - CUBAN": "hispanic/latino", "HISPANIC OR LATINO": "hispanic/latino",
        "AMERICAN INDIAN/ALASKA NATIVE": "american indian/alaska native", "OTHER": "other",
        "MULTIPLE RACE/ETHNICITY": "other",
        "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER": "other", "UNABLE TO OBTAIN": "", "UNKNOWN": "", "": "",
    }  # fmt: skip
    assert {race: ethnicity_of(race) for race in groups} == groups


def test_a_missing_table_is_named(hospital: Path) -> None:
    (hospital / "mimiciv/2.2/hosp/omr.csv").unlink()
    with pytest.raises(LlavaRadError, match=r"^MIMIC-IV: there is no omr\.csv in the folder"):
        linked([Row(Path("/a"), "mimic-cxr", "1")], {}, hospital)
    with pytest.raises(LlavaRadError, match=r"MIMIC-IV: there is no mimiciv with hosp/patients\.csv"):
        linked([Row(Path("/a"), "mimic-cxr", "1")], {}, hospital / "mimiciv" / "2.2" / "hosp")
