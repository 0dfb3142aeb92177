"""Small radiographs in several file formats, made with pydicom and Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def pixels(seed: int = 0, side: int = 96) -> npt.NDArray[np.uint16]:
    """[side, side] uint16 below 4096: two dark lungs beside a bright middle, with noise and a blob of their own."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    image = 2600 - 1800 * np.exp(-((np.abs(x - 0.5) - 0.25) ** 2) / 0.02 - (y - 0.45) ** 2 / 0.08)
    row, column = random.uniform(0.2, 0.8, 2)
    image += 900 * np.exp(-((x - column) ** 2 + (y - row) ** 2) / 0.01)
    return np.clip(image + random.normal(0, 60, image.shape), 0, 4095).astype(np.uint16)


def dicom(path: Path, *, seed: int = 0, **attributes: Any) -> Path:
    """Write a frontal chest radiograph (DX, PA, MONOCHROME2, 12 bits); ``attributes`` go over or beside its own."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(seed)])
    data = FileDataset(str(path), Dataset(), file_meta=meta, preamble=b"\0" * 128)
    image = pixels(seed)
    standard = {
        "SOPClassUID": meta.MediaStorageSOPClassUID, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "DX", "PresentationIntentType": "FOR PRESENTATION", "BodyPartExamined": "CHEST",
        "ViewPosition": "PA", "PatientOrientation": ["L", "F"], "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1, "Rows": image.shape[0], "Columns": image.shape[1], "BitsAllocated": 16,
        "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "PatientName": "Doe^Jane", "PatientID": "4711",
        "PixelData": image.tobytes(),
    }  # fmt: skip
    for name, value in {**standard, **attributes}.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def picture(path: Path, *, seed: int = 0, sixteen_bit: bool = False) -> Path:
    """Write the same image as PNG, JPEG, TIFF or WebP, by suffix; 8 bits unless asked otherwise."""
    from PIL import Image

    values = pixels(seed)
    Image.fromarray(values * 16 if sixteen_bit else (values >> 4).astype(np.uint8)).save(path)
    return path
