"""Files of a phantom data set: tables, images, DICOM files and the truth. The same input gives the same bytes."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .patient import hexadecimal
from .radiograph import Phantom

#: bit i of a truth mask; the last one holds all other structures
MASK_BITS = ("right_lung", "left_lung", "heart", "ribs", "effusion", "pneumothorax", "chest_tube", "other")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table; gzip-compressed when the name ends in .gz. None becomes an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text without changing line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def write_image(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Write a grey image: 8-bit PNG or JPEG, 16-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if path.suffix in (".jpg", ".jpeg"):
        image.save(path, quality=92)
    else:
        image.save(path, compress_level=1)


class Truth:
    """Ground truth of the images: one JSON line and one mask per image, in the folder ``truth``.

    truth/LAYOUT.jsonl has image (path below OUT), view, patient, findings, labels, report and mask;
    truth/LAYOUT/*.png are 8-bit images whose bit i belongs to MASK_BITS[i].
    """

    def __init__(self, out: Path, layout: str) -> None:
        self._out, self._layout = out, layout
        self._lines: list[str] = []

    def add(self, image: Path, phantom: Phantom, *, split: str = "") -> None:
        """Add the truth of an image below the output folder."""
        mask = np.zeros(phantom.shape, dtype=np.uint8)
        for name, area in phantom.masks.items():
            bit = MASK_BITS.index(name) if name in MASK_BITS else len(MASK_BITS) - 1
            mask[area] |= np.uint8(1 << bit)
        path = self._out / "truth" / self._layout / f"{len(self._lines):05d}.png"
        write_image(path, mask)
        patient = phantom.patient
        record: Mapping[str, Any] = {
            "image": image.relative_to(self._out).as_posix(),
            "split": split,
            "view": phantom.view,
            "patient": {
                "key": patient.key, "sex": patient.sex, "age": patient.age, "ethnicity": patient.ethnicity,
                "height": patient.height, "weight": patient.weight, "bmi": round(patient.bmi, 1),
            },
            "findings": [
                {"kind": f.kind, "side": f.side, "zone": f.zone, "size": round(f.size, 3)} for f in phantom.findings
            ],
            "regions": [{"kind": r.finding.kind, "side": r.finding.side, "box": list(r.box)} for r in phantom.regions],
            "labels": dict(phantom.report.labels),
            "report": phantom.report.findings,
            "impression": phantom.report.impression,
            "mask": path.relative_to(self._out).as_posix(),
        }  # fmt: skip
        self._lines.append(json.dumps(record, ensure_ascii=False))

    def close(self) -> int:
        """Write the lines; returns the number of images."""
        write_text(self._out / "truth" / f"{self._layout}.jsonl", "".join(line + "\n" for line in self._lines))
        return len(self._lines)


Modality = Literal["CR", "DX", "SC"]
Encoding = Literal["explicit", "jpeg", "jpeg2000"]

_SOP_CLASS: Mapping[str, str] = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
}
_SYNTAX: Mapping[str, str] = {
    "explicit": "1.2.840.10008.1.2.1",
    "jpeg": "1.2.840.10008.1.2.4.50",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
}


def uid(*key: object) -> str:
    """UID under 2.25 (ISO/IEC 9834-8) that depends on the key alone."""
    return f"2.25.{int(hexadecimal(32, 'uid', *key), 16)}"


def _encoded(pixels: NDArray[Any], encoding: Encoding) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if encoding == "jpeg":
        image.save(buffer, "JPEG", quality=92)
    else:
        image.save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    return buffer.getvalue()


def write_dicom(
    path: Path,
    phantom: Phantom,
    *,
    key: str,
    modality: Modality = "DX",
    inverted: bool = False,
    eight_bit: bool = False,
    encoding: Encoding = "explicit",
    patient_id: str = "",
    study_key: str | None = None,
    study_date: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> str:
    """Write one image.

    Args:
        path: the file; its folder is created.
        phantom: image and patient.
        key: the SOP instance and series UIDs follow from it.
        modality: CR and DX carry 12 of 16 bits; SC is a secondary capture with Modality CR.
        inverted: MONOCHROME1.
        eight_bit: 8 of 8 bits of the displayed image (PatientOrientation and window are left out, as such exports do).
        encoding: explicit little endian, baseline JPEG (needs eight_bit) or lossless JPEG 2000.
        patient_id: PatientID; the name is always "PHANTOM^<id>".
        study_key: key of the StudyInstanceUID; `key` when None.
        study_date: YYYYMMDD.
        overrides: keyword -> value, set last; None deletes the element.

    Returns:
        The SOPInstanceUID.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    ds = Dataset()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID(_SOP_CLASS[modality])
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(uid("instance", key))
    meta.TransferSyntaxUID = UID(_SYNTAX[encoding])
    meta.ImplementationClassUID = UID(uid("implementation"))
    meta.ImplementationVersionName = "PHANTOM"
    lateral = phantom.view == "LATERAL"
    patient = phantom.patient
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "SECONDARY"] if modality == "SC" else ["ORIGINAL", "PRIMARY"]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = study_date
    ds.StudyTime, ds.AccessionNumber = "", ""
    ds.Modality = "CR" if modality == "SC" else modality
    ds.Manufacturer, ds.ManufacturerModelName = "Synthetic phantom", "scripts/make_phantom.py"
    ds.ReferringPhysicianName = ""
    ds.PatientName, ds.PatientID = f"PHANTOM^{patient_id}", patient_id
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "", patient.sex, f"{patient.age:03d}Y"
    ds.PatientSize, ds.PatientWeight = f"{patient.height / 100:.3f}", f"{patient.weight:.1f}"
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", "LL" if lateral else phantom.view
    ds.StudyInstanceUID = UID(uid("study", study_key or key))
    ds.SeriesInstanceUID = UID(uid("series", key))
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "", 1, 1
    ds.PatientOrientation = ["P", "F"] if lateral else ["L", "F"]
    ds.BurnedInAnnotation = "NO"
    if modality == "DX":
        ds.PresentationIntentType, ds.ImageLaterality = "FOR PRESENTATION", "U"
        ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1 if not inverted else -1
        ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    elif modality == "SC":
        ds.ConversionType = "WSD"
    spacing = f"{phantom.spacing:.4f}"
    ds.PixelSpacing = [spacing, spacing]
    if modality != "SC":
        ds.ImagerPixelSpacing = [spacing, spacing]
    pixels: NDArray[Any] = phantom.grey() if eight_bit else phantom.pixels
    top = 255 if eight_bit else 4095
    if inverted:
        pixels = (top - pixels).astype(pixels.dtype)
    if not eight_bit:
        low, high = np.percentile(pixels[::2, ::2], (0.5, 99.5))
        ds.WindowCenter, ds.WindowWidth = round(float(low + high) / 2), max(1, round(float(high - low)))
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME1" if inverted else "MONOCHROME2"
    ds.Rows, ds.Columns = phantom.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (8, 8, 7) if eight_bit else (16, 12, 11)
    ds.PixelRepresentation = 0
    if encoding == "explicit":
        raw = np.ascontiguousarray(pixels).astype("<u2" if not eight_bit else "u1").tobytes()
        ds.PixelData = raw + b"\0" * (len(raw) % 2)
        ds["PixelData"].VR = "OB" if eight_bit else "OW"
    else:
        ds.PixelData = encapsulate([_encoded(pixels, encoding)])
        ds["PixelData"].VR = "OB"
        if encoding == "jpeg":
            ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
            ds.LossyImageCompressionRatio = f"{pixels.nbytes / max(1, len(ds.PixelData)):.2f}"
    for keyword, value in (overrides or {}).items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)
    ds.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return str(meta.MediaStorageSOPInstanceUID)
