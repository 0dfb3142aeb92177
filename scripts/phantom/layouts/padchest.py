"""PadChest: 16-bit PNG images, projections PA, L, AP and AP_horizontal, Spanish report stems, labels with CUIs.

Sources of the facts: columns, their order (the first one has no name), values, label and localization names:
PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv as shipped in torchxrayvision's data folder (no row of it is copied
here; the CUIs are invented). The images lie in <ImageDir>/<ImageID>, the archives' own folders.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cohort import Layout, Request, Study, Views, studies
from ..files import write_csv, write_image
from ..findings import Finding
from ..patient import hexadecimal
from ..radiograph import Phantom

COLUMNS = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM",
    "SpatialResolution_DICOM", "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM",
    "Columns_DICOM", "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime",
    "RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel", "Labels", "Localizations",
    "LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS",
)  # fmt: skip
#: kind -> label, localization, stem of the Spanish report
_NAMES: dict[str, tuple[str, str, str]] = {
    "cardiomegaly": ("cardiomegaly", "loc cardiac", "cardiomegali"),
    "aortic enlargement": ("aortic elongation", "loc aortic", "elongacion aortic"),
    "pleural effusion": ("pleural effusion", "loc pleural", "derram pleural"),
    "costophrenic blunting": ("costophrenic angle blunting", "loc costophrenic angle", "pinzamient sen costofren"),
    "pneumothorax": ("pneumothorax", "loc hemithorax", "neumotorax"),
    "consolidation": ("consolidation", "loc lobar", "consolidacion"),
    "opacity": ("infiltrates", "loc lobar", "infiltr"),
    "edema": ("pulmonary edema", "loc perihilar", "edem pulmon"),
    "nodule": ("nodule", "loc lobar", "nodul"),
    "mass": ("pulmonary mass", "loc lobar", "mas pulmon"),
    "atelectasis": ("laminar atelectasis", "loc basal", "atelectasi lamin"),
    "rib fracture": ("rib fracture", "loc rib", "fractur costal"),
    "pleural thickening": ("pleural thickening", "loc pleural", "engros pleural"),
    "fibrosis": ("pulmonary fibrosis", "loc basal bilateral", "fibrosis pulmon"),
    "tuberculosis": ("cavitation", "loc apical", "cavitacion"),
    "vertebral degeneration": ("vertebral degenerative changes", "loc dorsal vertebrae", "cambi degener column dorsal"),
    "chest tube": ("chest drain tube", "loc pleural", "tub drenaj"),
    "endotracheal tube": ("endotracheal tube", "loc tracheal", "tub endotraqueal"),
    "gastric tube": ("NSG tube", "loc infradiaphragm", "sond nasogastr"),
    "central line": ("central venous catheter via jugular vein", "loc superior cave vein", "cateter venos central"),
    "pacemaker": ("pacemaker", "loc pectoral", "marcapas"),
}
PREVALENCE = {
    "vertebral degeneration": 0.32,
    "costophrenic blunting": 0.14,
    "pleural effusion": 0.2,
    "endotracheal tube": 0.02,
}


def _sentence(finding: Finding) -> tuple[list[str], str]:
    """[label, localizations...] and the stemmed Spanish sentence of one finding."""
    label, place, stem = _NAMES[finding.kind]
    side = {"left": ("loc left", " izquierd"), "right": ("loc right", " derech")}.get(finding.side)
    return [label, place] + ([side[0]] if side else []), stem + (side[1] if side else "")


def _texts(study: Study) -> dict[str, str]:
    parts = [_sentence(f) for f in study.findings]
    sentences = [names for names, _ in parts] or [["normal"]]
    labels = list(dict.fromkeys(names[0] for names in sentences))
    places = list(dict.fromkeys(name for names in sentences for name in names[1:]))
    report = "".join(f" {stem} ." for _, stem in parts) or " sin hallazg patolog ."

    def cuis(names: list[str]) -> str:
        codes = (
            "C9" + str(int(hexadecimal(8, "cui", name), 16) % 1_000_000).zfill(6) for name in names if name != "normal"
        )
        joined = " ".join(f"'{code}'" for code in codes)
        return f"[{joined}]"

    return {
        "Report": report, "MethodLabel": "Physician" if study.number % 4 == 0 else "RNN_model",
        "Labels": repr(labels), "Localizations": repr(places), "LabelsLocalizationsBySentence": repr(sentences),
        "labelCUIS": cuis(labels), "LocalizationsCUIS": cuis(places),
    }  # fmt: skip


def _header(study: Study, phantom: Phantom, projection: str) -> dict[str, Any]:
    rng = study.rng
    low, high = np.percentile(phantom.pixels[::4, ::4], (0.5, 99.5))
    year = 2010 + study.number % 8
    return {
        "StudyDate_DICOM": f"{year}{rng.integers(1, 12):02d}{rng.integers(1, 28):02d}",
        "PatientBirth": float(year - study.patient.age), "PatientSex_DICOM": study.patient.sex,
        "ViewPosition_DICOM": {"L": "LATERAL", "PA": "POSTEROANTERIOR", "AP": "ANTEROPOSTERIOR"}.get(projection),
        "Projection": projection, "MethodProjection": "Manual review of DICOM fields", "Pediatric": "No",
        "Modality_DICOM": "CR", "Manufacturer_DICOM": "SyntheticPhantom",
        "PhotometricInterpretation_DICOM": "MONOCHROME2", "PixelRepresentation_DICOM": 0,
        "PixelAspectRatio_DICOM": "None", "SpatialResolution_DICOM": round(phantom.spacing, 3),
        "BitsStored_DICOM": 12, "WindowCenter_DICOM": round(float(low + high) / 2),
        "WindowWidth_DICOM": round(float(high - low)), "Rows_DICOM": phantom.shape[0],
        "Columns_DICOM": phantom.shape[1], "XRayTubeCurrent_DICOM": 250, "Exposure_DICOM": 2,
        "ExposureInuAs_DICOM": 2500, "ExposureTime": 10, "RelativeXRayExposure_DICOM": "None",
    }  # fmt: skip


def write(request: Request) -> None:
    """Write padchest/."""
    root = request.out / "padchest"
    rows: list[list[Any]] = []
    choices: Views = ((("PA", "LATERAL"), 0.72), (("PA",), 0.1), (("AP",), 0.1), (("LATERAL",), 0.08))
    for study in studies(request, "padchest", views=choices, repeat=0.2, normal=0.3, prevalence=PREVALENCE):
        texts = _texts(study)
        patient = str(int(hexadecimal(30, "padchest patient", study.patient.key), 16))
        examination = str(int(hexadecimal(31, "padchest study", study.key), 16))
        for index, view in enumerate(study.views):
            phantom = study.image(index, request.size, square=False)
            projection = "L" if view == "LATERAL" else "AP_horizontal" if view == "AP" and study.number % 3 else view
            name = f"{examination}_{hexadecimal(6, 'padchest image', study.key, index)}.png"
            folder = str(study.number // 50)
            # PadChest stretches its values over 16 bits
            write_image(root / folder / name, (phantom.pixels.astype(np.uint32) * 65535 // 4095).astype(np.uint16))
            request.truth.add(root / folder / name, phantom, split=study.split)
            values = {
                "": len(rows), "ImageID": name, "ImageDir": folder, "StudyID": examination, "PatientID": patient,
                "ReportID": 4_000_000 + study.number, **_header(study, phantom, projection), **texts,
            }  # fmt: skip
            rows.append([values[column] for column in COLUMNS])
    write_csv(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", COLUMNS, rows)


LAYOUT = Layout("padchest", "PadChest", write)
