"""The layouts of the phantom data, column by column. Names are written out here, not imported."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scripts.phantom.layouts.candid_ptx import encode_runs
from tests.scripts.conftest import STUDIES
from tests.scripts.phantom_files import table, truth

ROOT = Path(__file__).resolve().parents[2]


COLUMNS = {
    "mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz": "dicom_id study_id subject_id split",
    "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv.gz": (
        "dicom_id subject_id study_id PerformedProcedureStepDescription ViewPosition Rows Columns StudyDate StudyTime "
        "ProcedureCodeSequence_CodeMeaning ViewCodeSequence_CodeMeaning PatientOrientationCodeSequence_CodeMeaning"
    ),
    "mimic-cxr-jpg/mimic-cxr-2.0.0-chexpert.csv.gz": (
        "subject_id study_id Atelectasis Cardiomegaly Consolidation Edema Enlarged~Cardiomediastinum Fracture "
        "Lung~Lesion Lung~Opacity No~Finding Pleural~Effusion Pleural~Other Pneumonia Pneumothorax Support~Devices"
    ),
    "mimic-cxr/cxr-record-list.csv.gz": "subject_id study_id dicom_id path",
    "mimic-cxr/cxr-study-list.csv.gz": "subject_id study_id path",
    "mimic-cxr/mimic_cxr_sectioned.csv": "study impression findings last_paragraph comparison",
    "mimiciv/hosp/patients.csv.gz": "subject_id gender anchor_age anchor_year anchor_year_group dod",
    "mimiciv/hosp/omr.csv.gz": "subject_id chartdate seq_num result_name result_value",
    "iu-xray/indiana_reports.csv": "uid MeSH Problems image indication comparison findings impression",
    "iu-xray/indiana_projections.csv": "uid filename projection",
    "vindr-cxr/annotations/annotations_train.csv": "image_id rad_id class_name x_min y_min x_max y_max",
    "vindr-cxr/annotations/annotations_test.csv": "image_id class_name x_min y_min x_max y_max",
    "rsna-pneumonia/stage_2_train_labels.csv": "patientId x y width height Target",
    "rsna-pneumonia/stage_2_detailed_class_info.csv": "patientId class",
}


@pytest.mark.slow
def test_tables_have_the_columns_of_the_originals(data: Path) -> None:
    for name, columns in COLUMNS.items():
        assert table(data / name)[0] == [column.replace("~", " ") for column in columns.split()], name


def test_mimic_cxr_has_the_files_of_the_original(data: Path) -> None:
    split, metadata, labels = (
        table(data / f"mimic-cxr-jpg/mimic-cxr-2.0.0-{name}.csv.gz")[1] for name in ("split", "metadata", "chexpert")
    )
    values = {value for row in labels for name, value in row.items() if not name.endswith("_id")}
    assert values <= {"", "1.0", "0.0", "-1.0"}
    records, listed = (table(data / f"mimic-cxr/cxr-{name}-list.csv.gz")[1] for name in ("record", "study"))
    assert len(listed) == len(labels) == STUDIES
    assert len(records) == len(metadata) == len(split) > STUDIES
    for row in records:
        assert re.fullmatch(r"1\d{7}", row["subject_id"])
        assert re.fullmatch(r"5\d{7}", row["study_id"])
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}", row["dicom_id"])
        folder = f"files/p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}"
        assert row["path"] == f"{folder}/{row['dicom_id']}.dcm"
        assert (data / "mimic-cxr" / row["path"]).is_file()
        assert (data / "mimic-cxr-jpg" / folder / f"{row['dicom_id']}.jpg").is_file()
    for row in listed:
        assert (data / "mimic-cxr" / row["path"]).is_file()
    assert {row["ViewPosition"] for row in metadata} >= {"PA", "LATERAL"}
    with Image.open(next((data / "mimic-cxr-jpg").rglob("*.jpg"))) as image:
        assert image.mode == "L"


def test_mimic_reports_have_the_headings_and_sections(data: Path) -> None:
    by_study = {row["study"]: row for row in table(data / "mimic-cxr/mimic_cxr_sectioned.csv")[1]}
    for path in (data / "mimic-cxr/files").rglob("s5*.txt"):
        text = path.read_text()
        assert "FINAL REPORT" in text
        row = by_study[path.stem]
        squeezed = " ".join(text.split())
        assert row["findings"] in squeezed
        assert " ".join(row["impression"].split()) in squeezed
        if row["findings"]:
            assert re.search(r"^ (FINDINGS|CHEST, TWO VIEWS): ", text, re.MULTILINE)


def test_mimic_iv_tables_link_by_subject(data: Path) -> None:
    patients = table(data / "mimiciv/hosp/patients.csv.gz")[1]
    columns, admissions = table(data / "mimiciv/hosp/admissions.csv.gz")
    assert {"subject_id", "hadm_id", "race"} <= set(columns)
    omr = table(data / "mimiciv/hosp/omr.csv.gz")[1]
    assert {row["result_name"] for row in omr} == {"Height (Inches)", "Weight (Lbs)", "BMI (kg/m2)"}
    ours = {row["subject_id"] for row in table(data / "mimic-cxr/cxr-study-list.csv.gz")[1]}
    assert {row["subject_id"] for row in patients} <= ours
    assert {row["subject_id"] for row in admissions} == {row["subject_id"] for row in patients}
    values = {
        row["result_name"]: float(row["result_value"]) for row in omr if row["subject_id"] == omr[0]["subject_id"]
    }
    kilograms, metres = values["Weight (Lbs)"] * 0.45359237, values["Height (Inches)"] * 0.0254
    assert kilograms / metres**2 == pytest.approx(values["BMI (kg/m2)"], abs=0.1)


def test_iu_xray_in_both_releases(data: Path) -> None:
    reports, projections = (table(data / f"iu-xray/indiana_{name}.csv")[1] for name in ("reports", "projections"))
    assert {row["projection"] for row in projections} == {"Frontal", "Lateral"}
    for row in projections:
        assert re.fullmatch(rf"{row['uid']}_IM-\d{{4}}-\d{{4}}\.dcm\.png", row["filename"])
        assert (data / "iu-xray/images/images_normalized" / row["filename"]).is_file()
    for row in reports:
        root = ElementTree.parse(data / f"open-i/ecgen-radiology/{row['uid']}.xml").getroot()
        texts = {node.get("Label"): node.text or "" for node in root.iter("AbstractText")}
        assert texts["FINDINGS"] == row["findings"]
        assert texts["IMPRESSION"] == row["impression"]
        assert ";".join(node.text or "" for node in root.iter("major")) == row["MeSH"]
        for node in root.iter("parentImage"):
            assert (data / "open-i/NLMCXR_png" / f"{node.get('id')}.png").is_file()


def test_vindr_cxr_tables(data: Path) -> None:
    root = data / "vindr-cxr"
    columns, train = table(root / "annotations/image_labels_train.csv")
    assert columns[:2] == ["image_id", "rad_id"]
    assert len(columns) == 30
    assert columns[-2:] == ["Other diseases", "No finding"]
    columns, test = table(root / "annotations/image_labels_test.csv")
    assert columns[0] == "image_id"
    assert len(columns) == 29
    assert columns[-2:] == ["Other disease", "No finding"]
    boxes = table(root / "annotations/annotations_train.csv")[1]
    assert {path.stem for path in (root / "train").glob("*.dicom")} == {row["image_id"] for row in train}
    assert {path.stem for path in (root / "test").glob("*.dicom")} == {row["image_id"] for row in test}
    assert len(train) == 3 * len({row["image_id"] for row in train})
    for row in boxes:
        label = next(r for r in train if r["image_id"] == row["image_id"] and r["rad_id"] == row["rad_id"])
        assert label[row["class_name"]] == "1"
        if row["class_name"] != "No finding":
            assert float(row["x_min"]) < float(row["x_max"])
            assert float(row["y_min"]) < float(row["y_max"])


def test_vindr_ribcxr_outlines(data: Path) -> None:
    for split in ("train", "val"):
        annotation = json.loads((data / f"vindr-ribcxr/Annotations/{split}/Vindr_RibCXR_{split}_mask.json").read_text())
        assert set(annotation) == {"img", *(f"{s}{n}" for s in "LR" for n in range(1, 11))}
        for index, name in annotation["img"].items():
            with Image.open(data / "vindr-ribcxr" / name) as image:
                middle = image.width / 2
            assert np.mean([point["x"] for point in annotation["R5"][index]]) < middle  # right ribs on image left
            assert np.mean([point["x"] for point in annotation["L5"][index]]) > middle


def decode_runs(text: str, height: int, width: int) -> NDArray[np.bool_]:
    """SIIM-ACR's definition: offsets relative to the end of the last run, column by column."""
    flat = np.zeros(height * width, dtype=np.bool_)
    position = 0
    numbers = [int(value) for value in text.split()]
    for offset, length in zip(numbers[::2], numbers[1::2], strict=True):
        position += offset
        flat[position : position + length] = True
        position += length
    return flat.reshape(width, height).T


def test_run_lengths_by_hand() -> None:
    mask = np.array([[0, 1, 0], [1, 1, 0]], dtype=np.bool_)  # columns: 01, 11, 00
    assert encode_runs(mask) == "1 3"
    assert encode_runs(np.array([[1, 0, 1], [0, 0, 1]], dtype=np.bool_)) == "0 1 3 2"
    assert encode_runs(np.zeros((4, 4), dtype=np.bool_)) == "-1"


def test_candid_ptx_masks_are_those_of_the_truth(data: Path) -> None:
    columns, reports = table(data / "candid-ptx/Pneumothorax_reports.csv")
    assert set(columns) == {"filename", "StudyInstanceUID", "SOPInstanceUID", "EncodedPixels", "Report"}
    tubes = table(data / "candid-ptx/chest_tube.csv")
    assert tubes[0] == table(data / "candid-ptx/acute_rib_fracture.csv")[0] == ["anon_SOPUID", "mask_rle"]
    assert {path.name for path in (data / "candid-ptx/dataset").iterdir()} == {row["SOPInstanceUID"] for row in reports}
    positive = 0
    for record in truth(data, "candid-ptx"):
        with Image.open(data / record["mask"]) as image:
            bits = np.asarray(image)
        union = np.zeros(bits.shape, dtype=np.bool_)
        for row in reports:
            if row["SOPInstanceUID"] == Path(record["image"]).name and row["EncodedPixels"] != "-1":
                union |= decode_runs(row["EncodedPixels"], *bits.shape)
        assert np.array_equal(union, bits & 32 > 0)
        positive += bool(union.any())
        if bits.any() and (bits & 64).any():
            row = next(r for r in tubes[1] if r["anon_SOPUID"] == Path(record["image"]).name)
            assert np.array_equal(decode_runs(row["mask_rle"], *bits.shape), bits & 64 > 0)
    assert positive


def test_rsna_boxes_and_classes(data: Path) -> None:
    labels = table(data / "rsna-pneumonia/stage_2_train_labels.csv")[1]
    classes = table(data / "rsna-pneumonia/stage_2_detailed_class_info.csv")[1]
    assert {row["class"] for row in classes} <= {"Normal", "No Lung Opacity / Not Normal", "Lung Opacity"}
    kinds = {row["patientId"]: row["class"] for row in classes}
    assert {path.stem for path in (data / "rsna-pneumonia/stage_2_train_images").glob("*.dcm")} == set(kinds)
    for row in labels:
        assert (row["Target"] == "1") == (kinds[row["patientId"]] == "Lung Opacity") == bool(row["x"])


def test_padchest_columns_and_sixteen_bit_images(data: Path) -> None:
    columns, rows = table(data / "padchest/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz")
    assert len(columns) == 36
    assert columns[:11] == [
        "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
        "ViewPosition_DICOM", "Projection", "MethodProjection",
    ]  # fmt: skip
    assert columns[-7:] == [
        "Report", "MethodLabel", "Labels", "Localizations", "LabelsLocalizationsBySentence", "labelCUIS",
        "LocalizationsCUIS",
    ]  # fmt: skip
    assert {row["Projection"] for row in rows} <= {"PA", "L", "AP", "AP_horizontal"}
    for row in rows:
        with Image.open(data / "padchest" / row["ImageDir"] / row["ImageID"]) as image:
            assert image.mode.startswith("I;16")
            assert np.asarray(image).max() > 4095
        assert json.loads(row["Labels"].replace("'", '"'))


def test_padchest_columns_equal_the_published_table(data: Path) -> None:
    xrv = importlib.util.find_spec("torchxrayvision")
    if xrv is None or not xrv.submodule_search_locations:
        pytest.skip("needs torchxrayvision's copy of the PadChest table (group bench)")
    path = Path(xrv.submodule_search_locations[0]) / "data/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    with gzip.open(path, "rt") as lines:
        published = next(csv.reader(lines))
    assert table(data / "padchest" / path.name)[0] == published
