"""The phantom data: layouts, truth, determinism, DICOM validity. Column names are written out here, not imported."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scripts.make_phantom import main
from scripts.phantom import CHEXPERT, Finding, Phantom, phantom_radiograph
from scripts.phantom.dataset import make_dataset
from scripts.phantom.dicom import write_dicom
from scripts.phantom.findings import sample_findings
from scripts.phantom.layouts import LAYOUTS
from scripts.phantom.layouts.candid_ptx import encode_runs
from scripts.phantom.patient import generator
from scripts.phantom.report import write_report

ROOT = Path(__file__).resolve().parents[2]
STUDIES = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "out"
    make_dataset(out, list(LAYOUTS), studies=STUDIES, size=96, seed=7)
    return out


def table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    reader = csv.DictReader(io.StringIO(text))
    rows = list(reader)
    return list(reader.fieldnames or []), rows


def truth(data: Path, layout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / "truth" / f"{layout}.jsonl").read_text().splitlines()]


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


# ---- layouts


def test_mimic_cxr_has_the_files_and_columns_of_the_original(data: Path) -> None:
    columns, split = table(data / "mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz")
    assert columns == ["dicom_id", "study_id", "subject_id", "split"]
    columns, metadata = table(data / "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv.gz")
    assert columns == [
        "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
        "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
        "PatientOrientationCodeSequence_CodeMeaning",
    ]  # fmt: skip
    columns, labels = table(data / "mimic-cxr-jpg/mimic-cxr-2.0.0-chexpert.csv.gz")
    assert columns == [
        "subject_id", "study_id", "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum",
        "Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia",
        "Pneumothorax", "Support Devices",
    ]  # fmt: skip
    assert {value for row in labels for name, value in row.items() if not name.endswith("_id")} <= {
        "",
        "1.0",
        "0.0",
        "-1.0",
    }
    columns, records = table(data / "mimic-cxr/cxr-record-list.csv.gz")
    assert columns == ["subject_id", "study_id", "dicom_id", "path"]
    columns, listed = table(data / "mimic-cxr/cxr-study-list.csv.gz")
    assert columns == ["subject_id", "study_id", "path"]
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
    columns, sections = table(data / "mimic-cxr/mimic_cxr_sectioned.csv")
    assert columns == ["study", "impression", "findings", "last_paragraph", "comparison"]
    by_study = {row["study"]: row for row in sections}
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
    columns, patients = table(data / "mimiciv/hosp/patients.csv.gz")
    assert columns == ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"]
    columns, admissions = table(data / "mimiciv/hosp/admissions.csv.gz")
    assert {"subject_id", "hadm_id", "race"} <= set(columns)
    columns, omr = table(data / "mimiciv/hosp/omr.csv.gz")
    assert columns == ["subject_id", "chartdate", "seq_num", "result_name", "result_value"]
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
    columns, reports = table(data / "iu-xray/indiana_reports.csv")
    assert columns == ["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression"]
    columns, projections = table(data / "iu-xray/indiana_projections.csv")
    assert columns == ["uid", "filename", "projection"]
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
    columns, boxes = table(root / "annotations/annotations_train.csv")
    assert columns == ["image_id", "rad_id", "class_name", "x_min", "y_min", "x_max", "y_max"]
    assert table(root / "annotations/annotations_test.csv")[0] == [
        "image_id", "class_name", "x_min", "y_min", "x_max", "y_max",
    ]  # fmt: skip
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
    columns, labels = table(data / "rsna-pneumonia/stage_2_train_labels.csv")
    assert columns == ["patientId", "x", "y", "width", "height", "Target"]
    columns, classes = table(data / "rsna-pneumonia/stage_2_detailed_class_info.csv")
    assert columns == ["patientId", "class"]
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


# ---- determinism, refusal, splits


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    names = ["mimic-cxr", "vindr-cxr", "rsna-pneumonia", "padchest"]
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_dataset(tmp_path / folder, names, studies=3, size=64, seed=seed)
    first, again, other = (digests(tmp_path / folder) for folder in "abc")
    assert first == again
    assert set(first.values()) & set(other.values()) == {first["truth/README.txt"]}


def test_an_image_is_the_same_in_another_process() -> None:
    """Nothing depends on Python's hash seed, on the clock or on what was drawn before."""
    code = "from scripts.phantom import phantom_radiograph as p; import hashlib; "
    code += "print(hashlib.sha256(p('x', size=64).pixels.tobytes()).hexdigest())"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    phantom_radiograph("y", size=64)
    assert hashlib.sha256(phantom_radiograph("x", size=64).pixels.tobytes()).hexdigest() == done.stdout.strip()


def test_command_line_refuses_and_forces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    arguments = ["--layout", "candid-ptx", "--n", "1", "--size", "64", str(out)]
    assert main(arguments) == 1
    assert "--force" in capsys.readouterr().err
    assert (out / "mine.txt").read_text() == "keep"
    assert main(["--force", *arguments]) == 0
    assert not (out / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing temporary is left
    with pytest.raises(SystemExit) as stopped:
        main(["--layout", "nonsense", str(tmp_path / "other")])
    assert stopped.value.code == 2


def test_splits_share_no_patient(data: Path) -> None:
    for layout in LAYOUTS:
        seen: dict[str, str] = {}
        for record in truth(data, layout):
            assert seen.setdefault(record["patient"]["key"], record["split"]) == record["split"]
    _, split = table(data / "mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz")
    by_subject = {row["subject_id"]: row["split"] for row in split}
    assert all(by_subject[row["subject_id"]] == row["split"] for row in split)
    assert {row["split"] for row in split} == {"train", "validate", "test"}
    keys = [{record["patient"]["key"] for record in truth(data, layout)} for layout in LAYOUTS]
    assert len(set().union(*keys)) == sum(len(k) for k in keys)


# ---- pictures and words


def centre(mask: NDArray[np.bool_]) -> float:
    """Horizontal position of a mask, -1 (image left) to 1 (image right)."""
    where: NDArray[np.intp] = np.flatnonzero(mask.any(axis=0))
    return float(where.mean()) / int(mask.shape[1]) * 2 - 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("kind", "zone", "mask", "brighter"),
    [
        ("pleural effusion", "", "effusion", True),
        ("pneumothorax", "", "pneumothorax", False),
        ("consolidation", "mid", "airspace", True),
        ("opacity", "lower", "airspace", True),
        ("mass", "mid", "nodule", True),
        ("nodule", "upper", "nodule", True),
        ("chest tube", "", "chest_tube", True),
        ("pleural thickening", "", "pleural_thickening", True),
        ("atelectasis", "lower", "atelectasis", True),
    ],
)
def test_a_finding_lies_on_its_side_and_is_seen(side: str, kind: str, zone: str, mask: str, brighter: bool) -> None:
    for seed in range(2):
        healthy = phantom_radiograph(seed, (), 160)
        ill = phantom_radiograph(seed, (Finding(kind, side, zone, 0.5),), 160)
        area = ill.mask(mask)
        assert (centre(area) > 0) == (side == "left")  # the patient's left is image right
        change = ill.pixels.astype(float)[area].mean() - healthy.pixels.astype(float)[area].mean()
        assert change > 40 if brighter else change < -40
        x0, y0, x1, y1 = ill.regions[0].box
        rows, columns = np.nonzero(area)
        assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max(), rows.max())
        other = "right" if side == "left" else "left"
        text = ill.report.findings.lower()
        assert side in text
        assert other not in re.sub(r"right (internal|ventricle)", "", text)


def test_cardiothoracic_ratio_follows_the_finding() -> None:
    def ratio(phantom: Phantom) -> float:
        lungs = phantom.mask("left_lung") | phantom.mask("right_lung")
        heart, chest = np.flatnonzero(phantom.mask("heart").any(axis=0)), np.flatnonzero(lungs.any(axis=0))
        return float(np.ptp(heart) / np.ptp(chest))

    for seed in range(5):
        assert ratio(phantom_radiograph(seed, (), 128)) < 0.5
        assert ratio(phantom_radiograph(seed, (Finding("cardiomegaly", size=0.1),), 128)) > 0.54


def test_lungs_are_dark_and_each_on_its_side() -> None:
    for seed, view in ((0, "PA"), (1, "AP")):
        phantom = phantom_radiograph(seed, (), 128, view=view)  # type: ignore[arg-type]
        left, right = phantom.mask("left_lung"), phantom.mask("right_lung")
        assert centre(right) < 0 < centre(left)
        assert not (left & right).any()
        assert 0.08 < left.mean() < 0.3
        assert phantom.pixels[left | right].mean() < 0.8 * phantom.pixels[phantom.mask("heart")].mean()


CLAIMS = {
    "Pneumothorax": r"pneumothorax",
    "Pleural Effusion": r"pleural effusions?",
    "Consolidation": r"consolidation",
    "Edema": r"pulmonary edema",
    "Lung Lesion": r"\b(nodule|mass)\b",
    "Fracture": r"fracture",
    "Support Devices": r"\b(tube|catheter|pacemaker)\b",
    "Pneumonia": r"pneumonia",
}


def reading(text: str, pattern: str) -> int | None:
    """A reader of its own: the strongest statement of the sentences that mention the pattern."""
    found = []
    for sentence in re.split(r"(?<=\.) ", text):
        if re.search(pattern, sentence, re.IGNORECASE):
            if re.search(r"may represent|possible|concerning for", sentence, re.IGNORECASE):
                found.append(-1)
            elif re.match(r"No |There is no |No evidence of ", sentence):
                found.append(0)
            else:
                found.append(1)
    return 1 if 1 in found else -1 if -1 in found else 0 if found else None


def cases(number: int) -> Iterator[tuple[tuple[Finding, ...], Any]]:
    for seed in range(number):
        findings = sample_findings(generator("findings", seed))
        yield findings, write_report(generator("report", seed), findings)


def test_labels_are_what_the_text_says() -> None:
    stated: dict[str, set[int | None]] = {name: set() for name in CLAIMS}
    for _, report in cases(400):
        for name, pattern in CLAIMS.items():
            assert reading(report.findings, pattern) == report.labels.get(name), (name, report.findings)
            stated[name].add(report.labels.get(name))
    assert stated["Pleural Effusion"] == {None, 0, 1, -1}
    assert stated["Pneumonia"] >= {None, -1}


def test_labels_are_what_was_drawn() -> None:
    for findings, report in cases(400):
        assert set(report.labels) <= set(CHEXPERT)
        drawn = {finding.label for finding in findings} - {None}
        positive = {name for name, value in report.labels.items() if value != 0} - {"No Finding", "Pneumonia"}
        assert drawn <= positive
        assert positive - drawn <= {"Atelectasis"}  # doubt about the cause of an opacity
        assert ("No Finding" in report.labels) == (not positive - {"Support Devices"})
        for finding in findings:
            if finding.side:
                assert re.search(rf"{finding.side}|bilateral", report.findings.lower())


def test_reports_vary() -> None:
    assert len({report.findings for _, report in cases(300)}) > 150


def test_a_study_has_one_report_for_all_its_images(data: Path) -> None:
    by_study: dict[str, set[str]] = {}
    for record in truth(data, "iu-xray"):
        by_study.setdefault(Path(record["image"]).name.split("_")[0], set()).add(record["report"])
    assert all(len(texts) == 1 for texts in by_study.values())


# ---- DICOM


def test_every_dicom_is_read_and_fictitious(data: Path) -> None:
    import pydicom
    from pydicom.uid import UID

    files = [*data.rglob("*.dcm"), *data.rglob("*.dicom"), *(data / "candid-ptx/dataset").iterdir()]
    seen = set()
    for path in files:
        ds = pydicom.dcmread(path)
        assert ds.pixel_array.shape == (ds.Rows, ds.Columns)
        assert ds.pixel_array.max() < 2**ds.BitsStored
        assert np.ptp(ds.pixel_array) > 0.5 * 2**ds.BitsStored * 0.8
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            assert UID(ds[keyword].value).is_valid
            assert ds[keyword].value.startswith("2.25.")
        assert "PHANTOM" in str(ds.PatientName) or ds.PatientName == ds.PatientID
        assert ds.Manufacturer == "Synthetic phantom"
        assert ds.Modality in ("CR", "DX")
        seen.add((ds.PhotometricInterpretation, ds.BitsStored, ds.file_meta.TransferSyntaxUID.name))
        if "PatientOrientation" in ds and ds.PatientOrientation:
            assert list(ds.PatientOrientation) == (["P", "F"] if ds.ViewPosition in ("LL", "LATERAL") else ["L", "F"])
    assert {photometric for photometric, _, _ in seen} == {"MONOCHROME1", "MONOCHROME2"}
    assert {bits for _, bits, _ in seen} == {8, 12}
    assert len({syntax for _, _, syntax in seen}) == 3
    uids = [str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files]
    assert len(set(uids)) == len(uids)


def test_monochrome1_is_the_complement(tmp_path: Path) -> None:
    import pydicom
    from pydicom.pixels.processing import apply_voi_lut

    phantom = phantom_radiograph(1, (), 96)
    write_dicom(tmp_path / "2.dcm", phantom, key="a")
    write_dicom(tmp_path / "1.dcm", phantom, key="a", inverted=True)
    plain, inverted = pydicom.dcmread(tmp_path / "2.dcm"), pydicom.dcmread(tmp_path / "1.dcm")
    assert np.array_equal(plain.pixel_array, phantom.pixels)
    assert np.array_equal(4095 - inverted.pixel_array, phantom.pixels)
    shown, complement = (apply_voi_lut(ds.pixel_array, ds) for ds in (plain, inverted))
    assert np.abs(shown - (4095 - complement)).max() < 0.01 * 4095  # the window was mirrored with the values


def test_the_projects_reader_accepts_frontals_and_refuses_laterals(data: Path) -> None:
    from encoder.errors import ReadError
    from encoder.sandbox import Reader

    views = {record["image"]: record["view"] for record in truth(data, "mimic-cxr")}
    with Reader() as reader:
        for name in list(views)[:8]:
            path = data / name.replace("mimic-cxr-jpg", "mimic-cxr").replace(".jpg", ".dcm")
            if views[name] == "LATERAL":
                with pytest.raises(ReadError) as refused:
                    reader.read(path)
                assert refused.value.reason == "lateral"
                continue
            radiograph = reader.read(path)
            assert radiograph.facts.view == views[name]
            assert not radiograph.facts.mirrored
            with Image.open(data / name) as shown:  # brighter = denser whatever the file's polarity
                correlation = np.corrcoef(radiograph.pixels.ravel(), np.asarray(shown).ravel())[0, 1]
            assert correlation > 0.98
        for path in (
            next((data / "vindr-cxr/train").iterdir()),
            next((data / "rsna-pneumonia/stage_2_train_images").iterdir()),
            next((data / "candid-ptx/dataset").iterdir()),
        ):
            assert reader.read(path).pixels.ndim == 2
