"""RSNA Pneumonia Detection Challenge, stage 2.

Sources of the facts: stage_2_train_images/<patientId>.dcm, stage_2_train_labels.csv (patientId, x, y, width, height,
Target), stage_2_detailed_class_info.csv (patientId, class) and its three classes: public readers; header elements
(Modality CR, ConversionType WSD, ViewPosition AP/PA, empty PatientOrientation, PatientID = patientId, a UUID):
torchxrayvision data/kaggle_stage_2_train_images_dicom_headers.csv.gz. The real files are 1024 x 1024 pixels of 8 bits
in baseline JPEG.
"""

from __future__ import annotations

from typing import Any

from ..cohort import Layout, Request, Views, studies
from ..files import write_csv, write_dicom
from ..findings import AIRSPACE
from ..patient import hexadecimal

LABELS = ("patientId", "x", "y", "width", "height", "Target")
CLASSES = ("patientId", "class")
PREVALENCE = {"consolidation": 0.30, "opacity": 0.25, "tuberculosis": 0.0}


def write(request: Request) -> None:
    """Write rsna-pneumonia/."""
    root = request.out / "rsna-pneumonia"
    labels: list[list[Any]] = []
    classes: list[list[Any]] = []
    submission: list[list[Any]] = []
    choices: Views = ((("PA",), 0.55), (("AP",), 0.45))
    for study in studies(
        request, "rsna-pneumonia", views=choices, normal=0.33, prevalence=PREVALENCE, shares=(0.85, 0.05)
    ):
        digits = hexadecimal(32, "rsna", study.key)
        name = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        folder = "test" if study.split == "test" else "train"
        phantom = study.image(0, request.size)
        path = root / f"stage_2_{folder}_images" / f"{name}.dcm"
        write_dicom(
            path, phantom, key=name, modality="SC", eight_bit=True, encoding="jpeg", patient_id=name,
            overrides={"PatientOrientation": "", "PatientName": name},
        )  # fmt: skip
        request.truth.add(path, phantom, split=folder)
        if folder == "test":
            submission.append([name, "0.5 0 0 100 100"])
            continue
        boxes = [r.box for r in phantom.regions if r.finding.kind in AIRSPACE]
        kind = "Lung Opacity" if boxes else "No Lung Opacity / Not Normal" if study.findings else "Normal"
        for x0, y0, x1, y1 in boxes:
            labels.append([name, float(x0), float(y0), float(x1 - x0 + 1), float(y1 - y0 + 1), 1])
            classes.append([name, kind])
        if not boxes:
            labels.append([name, None, None, None, None, 0])
            classes.append([name, kind])
    write_csv(root / "stage_2_train_labels.csv", LABELS, labels)
    write_csv(root / "stage_2_detailed_class_info.csv", CLASSES, classes)
    write_csv(root / "stage_2_sample_submission.csv", ("patientId", "PredictionString"), submission)


LAYOUT = Layout("rsna-pneumonia", "RSNA Pneumonia Detection Challenge", write)
