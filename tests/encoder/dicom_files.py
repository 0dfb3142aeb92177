"""Small DICOM files made by hand for the reader's tests."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from encoder.errors import ReadError
from encoder.reader.sandbox_worker import read_image

CR = "1.2.840.10008.5.1.4.1.1.1"
ROWS, COLUMNS = 72, 80


def sample_file(name: str) -> Path:
    """A file of the package pydicom-data (installed, never downloaded)."""
    import data_store

    return Path(data_store.__file__).parent / "data" / name


def ramp(bits: int = 12, *, signed: bool = False, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """[rows, columns] values that use the whole range, smooth along rows, with some noise."""
    span = 1 << bits
    values = np.linspace(0, span - 1, rows * columns).reshape(rows, columns)
    noise = np.random.default_rng(0).integers(-span // 64 - 1, span // 64 + 1, values.shape)
    values = np.clip(values + noise, 0, span - 1).astype(np.int64)
    values[0, 0], values[-1, -1] = 0, span - 1
    return values - span // 2 if signed else values


def dataset(values: np.ndarray | None = None, *, bits: int = 12, signed: bool = False, **attributes: Any) -> Dataset:
    """A chest CR that the reader takes without warnings; ``attributes`` replace values, None deletes."""
    values = ramp(bits, signed=signed) if values is None else values
    allocated = 8 if bits <= 8 else 16
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = CR
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.SOPClassUID, ds.SOPInstanceUID = CR, "1.2.3"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "CR", "CHEST", "PA"
    ds.PatientOrientation = ["L", "F"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = values.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = allocated, bits, bits - 1, int(signed)
    dtype = f"{'i' if signed else 'u'}{allocated // 8}"
    ds.PixelData = values.astype(f"<{dtype}").tobytes()
    ds["PixelData"].VR = "OB" if allocated == 8 else "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def to_bytes(ds: Dataset, *, implicit: bool = False) -> bytes:
    """The file's bytes, little endian. Not checked against the standard: tests write wrong values on purpose."""
    if implicit:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    stream = BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def chest(values: np.ndarray | None = None, **keywords: Any) -> bytes:
    """Shorthand: bytes of :func:`dataset`."""
    return to_bytes(dataset(values, **keywords))


def lut_item(entries: np.ndarray, first: int, bits: int, *, signed: bool = False) -> Dataset:
    """An item of a modality or VOI LUT sequence with 16-bit words."""
    item = Dataset()
    count = 0 if len(entries) == 65536 else len(entries)
    item.add_new(0x00283002, "SS" if signed else "US", [count, first, bits])
    item.add_new(0x00283006, "OW", entries.astype("<u2").tobytes())
    item.ModalityLUTType = "US"
    return item


def sequence(*items: Dataset) -> Sequence:
    """A DICOM sequence."""
    return Sequence(items)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def refused(data: bytes, reason: str, *, forcible: bool | None = None, **keywords: Any) -> ReadError:
    """The error with which the reader refuses a file for this reason."""
    with pytest.raises(ReadError) as caught:
        read_image(data, **keywords)
    assert caught.value.reason == reason
    if forcible is not None:
        assert caught.value.forcible is forcible
    return caught.value


def odd(**attributes: Any) -> bytes:
    """A chest with values that pydicom would not let pass: written as raw bytes."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    source = dataset()
    for keyword, value in attributes.items():
        number = tag_for_keyword(keyword)
        assert number is not None
        data = value if isinstance(value, bytes) else value.encode()
        data += b" " * (len(data) % 2)
        tag = Tag(number)
        source._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(data), data, 0, False, True)
    return to_bytes(source)
