"""CANDID-PTX: pneumothorax, chest tube and rib fracture masks with the report of each image.

Sources of the facts (public readers): dataset/<SOPInstanceUID>, files without an extension; Pneumothorax_reports.csv
with SOPInstanceUID, StudyInstanceUID, filename ("P<patient>_..."), EncodedPixels ("-1" for none, one row per
pneumothorax) and Report; chest_tube.csv and acute_rib_fracture.csv with anon_SOPUID and mask_rle. Run lengths are
those of the SIIM-ACR challenge: column by column, each start relative to the end of the run before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cohort import Layout, Request, Views, studies
from ..drawing import Mask
from ..files import uid, write_csv, write_dicom

REPORTS = ("filename", "StudyInstanceUID", "SOPInstanceUID", "EncodedPixels", "Report")
MASKS = ("anon_SOPUID", "mask_rle")
PREVALENCE = {"pneumothorax": 0.28, "chest tube": 0.08, "rib fracture": 0.12}


def encode_runs(mask: Mask) -> str:
    """Relative run lengths in column-major order: "start length start length ...", "-1" for an empty mask."""
    flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    if not len(edges):
        return "-1"
    starts, ends = edges[0::2], edges[1::2]
    gaps = starts - np.concatenate([[0], ends[:-1]])
    return " ".join(f"{gap} {length}" for gap, length in zip(gaps, ends - starts, strict=True))


def write(request: Request) -> None:
    """Write candid-ptx/."""
    root = request.out / "candid-ptx"
    reports: list[list[Any]] = []
    tubes: list[list[Any]] = []
    fractures: list[list[Any]] = []
    choices: Views = ((("PA",), 0.6), (("AP",), 0.4))
    for study in studies(request, "candid-ptx", views=choices, normal=0.3, prevalence=PREVALENCE):
        phantom = study.image(0, request.size)
        name = uid("instance", study.key)
        path = root / "dataset" / name
        write_dicom(
            path, phantom, key=study.key, modality="CR", eight_bit=True, patient_id=f"P{study.subject:05d}",
            overrides={"PatientOrientation": None},
        )  # fmt: skip
        request.truth.add(path, phantom, split=study.split)
        pieces = [
            phantom.mask("pneumothorax") & _half(phantom.shape, left=f.side == "left")
            for f in phantom.findings
            if f.kind == "pneumothorax"
        ]
        for mask in pieces or [np.zeros(phantom.shape, dtype=np.bool_)]:
            text = f"CHEST: {study.report.findings}"
            reports.append(
                [f"P{study.subject:05d}_S{study.number:05d}", uid("study", study.key), name, encode_runs(mask), text]
            )
        if phantom.mask("chest_tube").any():
            tubes.append([name, encode_runs(phantom.mask("chest_tube"))])
        if phantom.mask("fracture").any():
            fractures.append([name, encode_runs(phantom.mask("fracture"))])
    write_csv(root / "Pneumothorax_reports.csv", REPORTS, reports)
    write_csv(root / "chest_tube.csv", MASKS, tubes)
    write_csv(root / "acute_rib_fracture.csv", MASKS, fractures)


def _half(shape: tuple[int, int], *, left: bool) -> Mask:
    """The patient's left or right half of the image."""
    columns = np.arange(shape[1]) >= shape[1] // 2
    return np.broadcast_to(columns if left else ~columns, shape)


LAYOUT = Layout("candid-ptx", "CANDID-PTX", write)
