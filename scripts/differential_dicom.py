"""Read many DICOM files with our reader, pydicom and highdicom, and list silent differences.

    python -m scripts.differential_dicom [--variants N] [--seed S] [-o results.json]

Files: all of pydicom's and pydicom-data's own, and drawn variants: transfer syntax x bits x sign x photometric
interpretation x rescale x padding x VOI x frames, of which most have a contradiction between header and pixel data.
Stored values, modality values and padding are compared with pydicom's reading (with the drawn values where pydicom has
no decoder of a free licence), rendering with highdicom's. A difference of more than one grey level must come with a
refusal or a warning. Exit code 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoder.errors import ReadError
from encoder.reader.sandbox_worker import read_image
from scripts.phantom.transfer_syntaxes import LOSSY, NATIVE, SYNTAXES, rewrite

if TYPE_CHECKING:
    import numpy.typing as npt
    from pydicom import Dataset

    Values = npt.NDArray[np.float64]

ROWS, COLUMNS = 96, 80
SILENT = "SILENT"


@dataclass(frozen=True)
class Case:
    """One file to compare.

    Attributes:
        name: description of the file.
        data: bytes of the file.
        frame: frame to read, from 1; None for files of one frame.
        truth: [H, W] stored values that were drawn, None if unknown.
        tolerance: largest permitted difference from ``truth`` in stored values; lossy codecs have one.
        plain: the same image uncompressed, for highdicom's rendering; None if it is not compared.
    """

    name: str
    data: bytes
    frame: int | None = None
    truth: npt.NDArray[np.int64] | None = None
    tolerance: int = 0
    plain: bytes | None = None


def compare(case: Case) -> str:
    """Return ``equal``, ``refused: REASON``, ``warned: TEXT``, ``no oracle`` or ``SILENT: DIFFERENCE``."""
    import pydicom

    try:
        image = read_image(case.data, force=True, frame=case.frame)
    except ReadError as error:
        return f"refused: {error.reason}"
    dataset = pydicom.dcmread(BytesIO(case.data), force=True)
    stored = _stored(dataset, case.frame)
    tolerance = 1 if dataset.file_meta.get("TransferSyntaxUID") in {SYNTAXES[name] for name in LOSSY} else 0
    if stored is None and case.truth is not None:
        stored, tolerance = case.truth, case.tolerance
    if image.facts.resampled:
        return "warned: resampled to square pixels"
    found = None
    if stored is None:
        found = "no oracle"
    else:
        values = image.scale * image.pixels + image.offset
        oracle = _turned(_modality(dataset, stored), image.facts.rotated, image.facts.mirrored)
        valid = np.ones(values.shape, np.bool_) if image.valid is None else image.valid
        padding = _turned(_padding(dataset, stored), image.facts.rotated, image.facts.mirrored) == 1
        step = abs(float(dataset.get("RescaleSlope") or 1)) * tolerance + 1e-6
        if values.shape != oracle.shape:
            found = f"{SILENT}: another size"
        elif (worst := float(np.abs(values - oracle)[valid].max(initial=0))) > step:
            found = f"{SILENT}: values differ by up to {worst:.0f}"
        elif image.valid is not None and tolerance == 0 and (padding == image.valid).any():
            found = f"{SILENT}: other padding"
        elif case.plain is not None and (worst := _rendering(image, case.plain)) > 1:
            found = f"{SILENT}: rendered values differ by up to {worst:.0f} of 255"
    if found is None:
        return "equal"
    return f"warned: {image.warnings[0]}" if image.warnings else found


def _stored(dataset: Dataset, frame: int | None) -> npt.NDArray[np.int64] | None:
    """pydicom's stored values [H, W] of one frame; None if it refuses the file or the image is in colour."""
    from pydicom.pixels.utils import pixel_array

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = pixel_array(dataset, index=(frame or 1) - 1 if frame else None, raw=True)
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


def _turned(values: Values, rotated: int, mirrored: bool) -> Values:
    turned = np.rot90(values, -(rotated // 90))
    return turned[:, ::-1] if mirrored else turned


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
    shown = image.display(0).astype(np.float64)
    valid = np.ones(shown.shape, np.bool_) if image.valid is None else image.valid
    return float(np.abs(shown - other)[valid].max(initial=0))


def public_files() -> Iterator[Case]:
    """The DICOM files of pydicom and pydicom-data that hold an image."""
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
        yield Case(path.name, data, frame=1 if frames > 1 else None)


def variants(count: int, seed: int) -> Iterator[Case]:
    """Drawn variants; the same for the same seed."""
    rng = random.Random(seed)
    for number in range(count):
        yield _draw(rng, number)


def _draw(rng: random.Random, number: int) -> Case:
    import pydicom

    name = rng.choice(list(SYNTAXES))
    bits = min(rng.choice((8, 10, 12, 14, 15, 16)), LOSSY.get(name, 16))
    signed = rng.random() < 0.4 and name not in ("jpeg-baseline", "jpeg-extended", "jpeg-ls-near")
    stored: npt.NDArray[np.int64] | None = _image(rng, bits, signed)
    assert stored is not None
    dataset = _dataset(stored, bits, signed, rng.choice(("MONOCHROME1", "MONOCHROME2")))
    window = _grey_scale(dataset, rng, bits, signed)
    if rng.random() < 0.3:
        _pad(dataset, rng, bits, signed)
    fault = rng.choice([None, None, *FAULTS])
    lossless = name not in LOSSY
    source = BytesIO()
    pydicom.dcmwrite(source, dataset, enforce_file_format=True)
    data, frame = rewrite(dataset, name), None
    if fault is not None:
        changed = pydicom.dcmread(BytesIO(data))
        frame = FAULTS[fault](changed, rng, name)
        if changed.PixelRepresentation != int(signed):  # only JPEG 2000 states a sign, and pydicom decodes it
            stored = _reinterpreted(stored, bits, signed=not signed) if lossless else None
        target = BytesIO()
        pydicom.dcmwrite(target, changed, enforce_file_format=True)
        data = target.getvalue()
    plain = source.getvalue() if window and lossless and fault is None else None
    tolerance = 0 if lossless else max(2, (1 << bits) // 16)
    described = f"{number}: {name}, {bits} bits, {'signed' if signed else 'unsigned'}, {fault or 'as stated'}"
    return Case(described, data, frame, stored, tolerance, plain)


def _image(rng: random.Random, bits: int, signed: bool) -> npt.NDArray[np.int64]:
    """[ROWS, COLUMNS] smooth values with noise over the whole range."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS]
    noise = np.random.default_rng(rng.randrange(2**32)).random((ROWS, COLUMNS))
    values = np.sin(y / 17 + rng.random() * 6) + np.cos(x / 13) + noise / 5
    values = (values - values.min()) / (values.max() - values.min())
    found: npt.NDArray[np.int64] = np.rint(values * ((1 << bits) - 1)).astype(np.int64)
    return found - (1 << (bits - 1)) if signed else found


def _reinterpreted(stored: npt.NDArray[np.int64], bits: int, *, signed: bool) -> npt.NDArray[np.int64]:
    patterns = stored & ((1 << bits) - 1)
    return np.where(signed & (patterns >> (bits - 1) == 1), patterns - (1 << bits), patterns)


def _dataset(stored: npt.NDArray[np.int64], bits: int, signed: bool, photometric: str) -> Dataset:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    made.Modality, made.PresentationIntentType, made.BodyPartExamined = "DX", "FOR PRESENTATION", "CHEST"
    made.ViewPosition, made.PatientOrientation, made.BurnedInAnnotation = "PA", ["L", "F"], "NO"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, photometric
    made.Rows, made.Columns = stored.shape
    made.BitsAllocated = 8 if bits == 8 else 16
    made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits - 1, int(signed)
    made.PixelData = stored.astype(f"<{'i' if signed else 'u'}{made.BitsAllocated // 8}").tobytes()
    made["PixelData"].VR = "OB" if bits == 8 else "OW"
    return made


def _grey_scale(dataset: Dataset, rng: random.Random, bits: int, signed: bool) -> bool:
    """Add rescale and windows or a VOI LUT; return whether there is one of the latter."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    slope, intercept = rng.choice(((None, None), ("1", "-1024"), ("0.25", "7"), ("2", "0")))
    if slope is not None:
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = slope, intercept, "US"
    scale, shift = float(slope or 1), float(intercept or 0)
    centre, span = (0 if signed else 1 << (bits - 1)) * scale + shift, (1 << bits) * scale
    kind = rng.choice(("none", "LINEAR", "LINEAR_EXACT", "SIGMOID", "two", "LUT"))
    if kind in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        dataset.WindowCenter, dataset.WindowWidth = f"{centre + span / 9:.6g}", f"{span / 3:.6g}"
        dataset.VOILUTFunction = kind
    elif kind == "two":
        dataset.WindowCenter, dataset.WindowWidth = [f"{centre:.6g}", f"{centre / 2:.6g}"], [f"{span:.6g}", "300"]
    elif kind == "LUT" and slope is None and bits < 16:
        item = Dataset()
        first = -(1 << (bits - 1)) if signed else 0
        item.add_new("LUTDescriptor", "SS" if signed else "US", [1 << bits, first, 16])
        item.add_new("LUTData", "OW", (np.linspace(0, 1, 1 << bits) ** 2 * 65535).astype("<u2").tobytes())
        dataset.VOILUTSequence = Sequence([item])
    else:
        return False
    return True


def _pad(dataset: Dataset, rng: random.Random, bits: int, signed: bool) -> None:
    """Add a padding value or range, some of which no pixel can have or all pixels have."""
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    value = rng.choice((low, high, (low + high) // 2, rng.randint(low, high), -2000 if signed else 63536))
    vr = "SS" if signed else "US"
    least, most = (-32768, 32767) if signed else (0, 65535)
    dataset.add_new("PixelPaddingValue", vr, min(max(value, least), most))
    if rng.random() < 0.5:
        limit = rng.choice((high, low, value + (high - low) // 10, most))
        dataset.add_new("PixelPaddingRangeLimit", vr, min(max(limit, least), most))


def _codestream(dataset: Dataset) -> bytes:
    from pydicom.encaps import get_frame

    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def _set(dataset: Dataset, name: str, frames: list[bytes]) -> None:
    """Replace the pixel data by frames: values, or codestreams."""
    from pydicom.encaps import encapsulate

    dataset.PixelData = b"".join(frames) if name in NATIVE else encapsulate(frames)


def _frames(dataset: Dataset, name: str) -> bytes:
    return bytes(dataset.PixelData) if name in NATIVE else _codestream(dataset)


def _cut(dataset: Dataset, rng: random.Random, name: str) -> None:
    data = _frames(dataset, name)
    end = data[-2:] if name not in NATIVE and name != "rle" and rng.random() < 0.6 else b""
    kept = data[: int(len(data) * rng.choice((0.3, 0.5, 0.9, 0.99)))]
    _set(dataset, name, [kept + end + b"\0" * (len(kept + end) % 2)])


def _longer(dataset: Dataset, rng: random.Random, name: str) -> None:
    _set(dataset, name, [_frames(dataset, name) + bytes(rng.choice((2, 200, 600, 5000)))])


def _bits(change: int) -> Callable[[Dataset, random.Random, str], None]:
    def apply(dataset: Dataset, rng: random.Random, name: str) -> None:
        bits = min(max(dataset.BitsStored + change, 6), dataset.BitsAllocated)
        dataset.BitsStored, dataset.HighBit = bits, bits - 1

    return apply


def _sign(dataset: Dataset, rng: random.Random, name: str) -> None:
    dataset.PixelRepresentation = 1 - dataset.PixelRepresentation


def _two_frames(dataset: Dataset, rng: random.Random, name: str) -> int | None:
    one = _frames(dataset, name)
    _set(dataset, name, [one, one])
    stated = rng.random() < 0.5
    if stated:
        dataset.NumberOfFrames = 2
    return 2 if stated else rng.choice((None, None, 2))


def _rows(factor: float) -> Callable[[Dataset, random.Random, str], None]:
    def apply(dataset: Dataset, rng: random.Random, name: str) -> None:
        dataset.Rows = int(dataset.Rows * factor)
        if dataset.Rows < 64:
            dataset.Rows = 64

    return apply


def _eight(dataset: Dataset, rng: random.Random, name: str) -> None:
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7


FAULTS: dict[str, Callable[[Dataset, random.Random, str], int | None]] = {
    "cut": _cut, "bytes too many": _longer, "two bits fewer stated": _bits(-2), "two bits more stated": _bits(2),
    "one bit fewer stated": _bits(-1), "sign contradicts": _sign, "two frames": _two_frames,
    "fewer rows stated": _rows(0.7), "more rows stated": _rows(1.5), "8 bits stated": _eight,
}  # fmt: skip
"""Contradictions between header and pixel data; each returns the frame to read."""


def main(arguments: list[str] | None = None) -> int:
    """Compare and print the number of files by outcome, and each silent difference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variants", type=int, default=3000, metavar="N", help="number of drawn variants (3000)")
    parser.add_argument("--seed", type=int, default=0, help="of the variants (0)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="outcomes of all files as JSON")
    options = parser.parse_args(arguments)
    outcomes: dict[str, str] = {}
    for cases in (public_files(), variants(options.variants, options.seed)):
        counts: Counter[str] = Counter()
        for case in cases:
            outcome = outcomes[case.name] = compare(case)
            counts[outcome.split(":")[0]] += 1
            if outcome.startswith(SILENT):
                print(f"{case.name}: {outcome}", flush=True)
        print(", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items())), flush=True)
    if options.output:
        options.output.write_text(json.dumps(outcomes, indent=1) + "\n")
    return int(any(outcome.startswith(SILENT) for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
