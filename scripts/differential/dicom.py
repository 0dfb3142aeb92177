"""Reader of DICOM files against pydicom and highdicom.

Files: all of pydicom's and pydicom-data's own, and drawn variants: transfer syntax x bits x sign x photometric
interpretation x rescale x padding x VOI x orientation x frames, of which most have a contradiction between header and
pixel data. Stored values, modality values and padding are compared with pydicom's reading (with the drawn values where
pydicom has no decoder of a free licence), rendering with highdicom's. A difference of more than one grey level must
come with a refusal or a warning, and a file without a contradiction must be read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.errors import ReadError
from encoder.reader.sandbox_worker import read_image
from scripts.differential.dicom_files import COLUMNS, ROWS, draw, make_case
from scripts.differential.harness import Case, Outcome, Subject, different
from scripts.phantom.transfer_syntaxes import LOSSY, SYNTAXES

if TYPE_CHECKING:
    import numpy.typing as npt
    from pydicom import Dataset

    from encoder.reader.radiograph import ImageFacts

    Values = npt.NDArray[np.float64]


def compare(case: Case) -> Outcome:
    """Read a file with all.

    Args:
        case: ``data``, the file; ``frame``, the frame to read, from 1, or None; ``truth``, little-endian int32 of the
            stored values that were drawn, or None; ``tolerance``, largest permitted difference from them, which lossy
            codecs have; ``plain``, the same image uncompressed, for highdicom's rendering, or None; ``sound``, nothing
            contradicts.
    """
    import pydicom

    try:
        image = read_image(case["data"], force=True, frame=case["frame"])
    except ReadError as error:
        return Outcome(f"refused: {error.reason}", fault=case["sound"])
    dataset = pydicom.dcmread(BytesIO(case["data"]), force=True)
    stored = _stored(dataset, case["frame"])
    tolerance = 1 if dataset.file_meta.get("TransferSyntaxUID") in {SYNTAXES[name] for name in LOSSY} else 0
    if stored is None and case["truth"] is not None:
        stored, tolerance = np.frombuffer(case["truth"], "<i4").reshape(ROWS, COLUMNS), case["tolerance"]
    if image.facts.resampled:
        return Outcome("warned: resampled to square pixels")
    if stored is None:
        return Outcome("no oracle")
    found = None
    values = image.scale * image.pixels + image.offset
    oracle = _upright(_modality(dataset, stored), dataset, image.facts)
    valid = np.ones(values.shape, np.bool_) if image.valid is None else image.valid
    padding = _upright(_padding(dataset, stored), dataset, image.facts) == 1
    step = abs(float(dataset.get("RescaleSlope") or 1)) * tolerance + 1e-6
    if values.shape != oracle.shape:
        found = "another size"
    elif (worst := float(np.abs(values - oracle)[valid].max(initial=0))) > step:
        found = f"values differ by up to {worst:.0f}"
    elif image.valid is not None and tolerance == 0 and (padding == image.valid).any():
        found = "other padding"
    elif case["plain"] is not None and (worst := _rendering(image, case["plain"])) > 1:
        found = f"rendered values differ by up to {worst:.0f} of 255"
    if found is None:
        return Outcome("equal")
    return Outcome(f"warned: {image.warnings[0]}") if image.warnings and not case["sound"] else different(found)


def _stored(dataset: Dataset, frame: int | None) -> npt.NDArray[np.int64] | None:
    """pydicom's stored values [H, W] of one frame; None if it refuses the file or the image is in colour."""
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = pixel_array(dataset, index=(frame or 1) - 1 if frame else None, raw=True)
            if dataset.PhotometricInterpretation == "PALETTE COLOR":
                found = apply_color_lut(found, dataset)
                found = found >> 8 if found.dtype.itemsize == 2 else found
    except Exception:
        return None
    if found.ndim == 3 and found.shape[-1] == 3:
        if (found != found[..., :1]).any():
            return None
        found = found[..., 0]
    return found.astype(np.int64) if found.ndim == 2 else None


def _modality(dataset: Dataset, stored: npt.NDArray[np.int64]) -> Values:
    from pydicom.pixels.processing import apply_modality_lut

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(apply_modality_lut(stored, dataset), np.float64)
    except Exception:
        return stored.astype(np.float64)


def _padding(dataset: Dataset, stored: npt.NDArray[np.int64]) -> Values:
    """1 on pixels with a padding value (PS3.3 C.7.5.1.1.2)."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if not isinstance(value, int):
        return np.zeros(stored.shape)
    stated = [value, limit if isinstance(limit, int) else value]
    if dataset.PixelRepresentation == 1:
        stated = [number - 0x10000 if number > 0x7FFF else number for number in stated]
    low, high = sorted(stated)
    return ((stored >= low) & (stored <= high)).astype(np.float64)


def _upright(values: Values, dataset: Dataset, facts: ImageFacts) -> Values:
    """Return an image with rows that run to the patient's left and columns that run to the feet (PS3.3 C.7.6.1.1.1).

    Lateral views stay as they are (docs/dicom.md), and so does an image whose orientation the reader warns of.
    """
    stated = dataset.get("PatientOrientation") or ()
    if len(stated) != 2 or facts.view == "lateral" or facts.orientation is None:
        return values
    row, column = (word[0] for word in stated)
    if row in "HF":
        values, row, column = values.T, column, row
    values = values[:, ::-1] if row == "R" else values
    return values[::-1] if column == "H" else values


def _rendering(image: Any, plain: bytes) -> float:
    """Largest difference between our rendering with the first window and another one, in grey levels of 255.

    highdicom renders images without a rescale slope. With one, it applies the terms 0.5 and 1 of PS3.3 C.11.2.1.2 in
    stored instead of modality units; pydicom renders these.
    """
    import highdicom
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    dataset = pydicom.dcmread(BytesIO(plain))
    if dataset.get("RescaleSlope", 1) == 1:
        other = highdicom.imread(BytesIO(plain)).get_frame(1, apply_voi_transform=True, voi_output_range=(0.0, 255.0))
    else:
        values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        lowest = -(1 << (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
        ends = np.array([lowest, lowest + (1 << dataset.BitsStored) - 1])
        low, high = apply_modality_lut(ends, dataset)
        other = (values - low) / (high - low) * 255
        other = 255 - other if dataset.PhotometricInterpretation == "MONOCHROME1" else other
    other = _upright(other, dataset, image.facts)
    shown = image.display(0).astype(np.float64)
    valid = np.ones(shown.shape, np.bool_) if image.valid is None else image.valid
    return float(np.abs(shown - other)[valid].max(initial=0))


def public_files() -> Iterator[Case]:
    """Yield the DICOM files of pydicom and pydicom-data that hold an image."""
    import data_store
    import pydicom
    from pydicom.data import get_testdata_files

    paths = {Path(path) for path in get_testdata_files("*.dcm")}
    paths |= set((Path(data_store.__file__).parent / "data").rglob("*.dcm"))
    for path in sorted(paths, key=lambda one: one.name):
        data = path.read_bytes()
        try:
            frames = int(pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=True).get("NumberOfFrames") or 1)
        except Exception:
            frames = 1
        yield make_case(path.name, data, frame=1 if frames > 1 else None)


SUBJECT = Subject("dicom", "pydicom and highdicom", 0.08, draw, compare, public_files)
