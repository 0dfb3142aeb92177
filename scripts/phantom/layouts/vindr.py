"""VinDr's two data sets.

VinDr-CXR 1.0.0: PA images, labels and boxes of three radiologists (train) or their consensus (test).
VinDr-RibCXR 1.0.0: PNG images and the outlines of twenty ribs.

Sources of the facts on VinDr-CXR:
- train/<image_id>.dicom, test/<image_id>.dicom, annotations/{annotations,image_labels}_{train,test}.csv: folder
  listings and paths in public readers of physionet.org/content/vindr-cxr/1.0.0.
- image_id (32 hexadecimal digits), rad_id (R1..R17), class_name, x_min, y_min, x_max, y_max: VinBigData's train.csv
  (torchxrayvision data/vinbigdata-train.csv.gz) and public readers; the test tables have no rad_id.
- the 28 labels and their order, and "Other disease" (singular) in the test table only: public readers.
- few header elements survive de-identification: vinbigdata-medical/vindr-cxr (sex, age and the image module).

Source of the facts on VinDr-RibCXR: public readers; data/<split>/img/VinDr_RibCXR_<split>_000.png and
Annotations/<split>/Vindr_RibCXR_<split>_mask.json with {"img": {"0": path}, "R1": {"0": [{"x", "y"}, ...]}, ...}.
The splits are called train and val.
"""

from __future__ import annotations

import json
from typing import Any

from ..cohort import Layout, Request, Study, studies
from ..files import write_csv, write_dicom, write_image, write_text
from ..findings import Finding
from ..patient import generator, hexadecimal
from ..radiograph import Phantom

LOCAL = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation",
    "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst",
    "Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax",
    "Pulmonary fibrosis", "Rib fracture", "Other lesion",
)  # fmt: skip
GLOBAL = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding")
_LOCAL_OF: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("Cardiomegaly",), "aortic enlargement": ("Aortic enlargement",),
    "pleural effusion": ("Pleural effusion",), "costophrenic blunting": ("Pleural effusion",),
    "pneumothorax": ("Pneumothorax",), "consolidation": ("Consolidation", "Lung Opacity"),
    "opacity": ("Lung Opacity",), "edema": ("Edema",), "nodule": ("Nodule/Mass",), "mass": ("Nodule/Mass",),
    "atelectasis": ("Atelectasis",), "rib fracture": ("Rib fracture",),
    "pleural thickening": ("Pleural thickening",), "fibrosis": ("Pulmonary fibrosis",),
    "tuberculosis": ("Lung cavity", "Lung Opacity"),
}  # fmt: skip
_GLOBAL_OF = {"consolidation": "Pneumonia", "tuberculosis": "Tuberculosis", "mass": "Lung tumor"}
PREVALENCE = {
    "aortic enlargement": 0.22, "fibrosis": 0.18, "pleural thickening": 0.12, "tuberculosis": 0.12,
    "cardiomegaly": 0.28, "chest tube": 0.0, "endotracheal tube": 0.0, "gastric tube": 0.0, "central line": 0.02,
    "pacemaker": 0.03,
}  # fmt: skip
BOX_TRAIN = ("image_id", "rad_id", "class_name", "x_min", "y_min", "x_max", "y_max")
BOX_TEST = ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")


def _read(phantom: Phantom, reader: str) -> tuple[list[list[Any]], set[str]]:
    """One reader's boxes [class, x_min, y_min, x_max, y_max] and global labels; reader "" sees everything exactly."""
    rng = generator("reader", phantom.patient.key, reader)
    boxes: list[list[Any]] = []
    seen: list[Finding] = []
    for region in phantom.regions:
        names = _LOCAL_OF.get(region.finding.kind, ())
        if not names or (reader and rng.random() < 0.14 * (1.3 - region.finding.size)):
            continue
        seen.append(region.finding)
        jitter = rng.normal(0, 0.006 * phantom.shape[0], 4) if reader else [0.0] * 4
        x0, y0, x1, y1 = (
            min(max(float(v + j), 0.0), float(limit - 1))
            for v, j, limit in zip(region.box, jitter, (phantom.shape[1], phantom.shape[0]) * 2, strict=True)
        )
        for name in names if not reader else names[: 1 + int(rng.random() < 0.7)]:
            boxes.append(
                [
                    name, round(min(x0, x1), 2), round(min(y0, y1), 2), round(max(x0, x1) + 1, 2),
                    round(max(y0, y1) + 1, 2),
                ]
            )  # fmt: skip
    diseases = {_GLOBAL_OF[f.kind] for f in seen if f.kind in _GLOBAL_OF}
    if not boxes:
        boxes = [["No finding", None, None, None, None]]
        diseases = {"No finding"}
    elif not diseases:
        diseases = {"Other diseases"}
    return boxes, diseases


def _row(boxes: list[list[Any]], diseases: set[str]) -> list[int]:
    marked = {box[0] for box in boxes} | diseases
    return [int(name in marked) for name in (*LOCAL, *GLOBAL)]


def _write_image(request: Request, folder: str, study: Study, name: str) -> Phantom:
    phantom = study.image(0, request.size, square=False)
    path = request.out / "vindr-cxr" / folder / f"{name}.dicom"
    write_dicom(
        path,
        phantom,
        key=name,
        modality="DX",
        inverted=study.number % 5 == 2,
        patient_id=name[:12],
        encoding="jpeg2000" if study.number % 4 == 0 else "explicit",
        overrides=dict.fromkeys(
            ("ViewPosition", "PatientOrientation", "BodyPartExamined", "ImageLaterality", "ManufacturerModelName")
        ),
    )
    request.truth.add(path, phantom, split=folder)
    return phantom


def write_cxr(request: Request) -> None:
    """Write vindr-cxr/."""
    root = request.out / "vindr-cxr" / "annotations"
    boxes: dict[str, list[list[Any]]] = {"train": [], "test": []}
    labels: dict[str, list[list[Any]]] = {"train": [], "test": []}
    for study in studies(
        request, "vindr-cxr", views=((("PA",), 1.0),), normal=0.4, prevalence=PREVALENCE, shares=(0.8, 0.03)
    ):
        name = hexadecimal(32, "vindr", study.key)
        folder = "test" if study.split == "test" else "train"
        phantom = _write_image(request, folder, study, name)
        if folder == "test":
            marked, diseases = _read(phantom, "")
            boxes["test"] += [[name, *box] for box in marked]
            labels["test"].append([name, *_row(marked, diseases)])
            continue
        for number in sorted(study.rng.choice(17, 3, replace=False) + 1):
            reader = f"R{number}"
            marked, diseases = _read(phantom, reader)
            boxes["train"] += [[name, reader, *box] for box in marked]
            labels["train"].append([name, reader, *_row(marked, diseases)])
    write_csv(root / "annotations_train.csv", BOX_TRAIN, boxes["train"])
    write_csv(root / "annotations_test.csv", BOX_TEST, boxes["test"])
    write_csv(root / "image_labels_train.csv", ("image_id", "rad_id", *LOCAL, *GLOBAL), labels["train"])
    test_names = tuple("Other disease" if name == "Other diseases" else name for name in (*LOCAL, *GLOBAL))
    write_csv(root / "image_labels_test.csv", ("image_id", *test_names), labels["test"])


CXR = Layout("vindr-cxr", "VinDr-CXR", write_cxr)


RIBS = tuple(f"{side}{number}" for side in "RL" for number in range(1, 11))


def write_ribcxr(request: Request) -> None:
    """Write vindr-ribcxr/."""
    root = request.out / "vindr-ribcxr"
    tables: dict[str, dict[str, dict[str, Any]]] = {
        s: {"img": {}, **{rib: {} for rib in RIBS}} for s in ("train", "val")
    }
    prevalence = {"pleural effusion": 0.0, "rib fracture": 0.0, "pneumothorax": 0.0}
    for study in studies(
        request, "vindr-ribcxr", views=((("PA",), 1.0),), normal=0.7, prevalence=prevalence, shares=(0.8, 0.2)
    ):
        split = "train" if study.split == "train" else "val"
        table = tables[split]
        index = str(len(table["img"]))
        name = f"data/{split}/img/VinDr_RibCXR_{split}_{int(index):03d}.png"
        phantom = study.image(0, request.size, square=False)
        write_image(root / name, phantom.grey())
        request.truth.add(root / name, phantom, split=split)
        table["img"][index] = name
        for rib in RIBS:
            table[rib][index] = [{"x": round(float(x), 2), "y": round(float(y), 2)} for x, y in phantom.ribs[rib]]
    for split, table in tables.items():
        write_text(root / "Annotations" / split / f"Vindr_RibCXR_{split}_mask.json", json.dumps(table))


RIBCXR = Layout("vindr-ribcxr", "VinDr-RibCXR", write_ribcxr)
