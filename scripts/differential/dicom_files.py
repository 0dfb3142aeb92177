"""Drawn DICOM files: every transfer syntax and kind of grey values, most with a contradiction."""

from __future__ import annotations

import random
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from scripts.differential.harness import Case
from scripts.phantom.transfer_syntaxes import LOSSY, NATIVE, SYNTAXES, rewrite

if TYPE_CHECKING:
    import numpy.typing as npt
    from pydicom import Dataset

ROWS, COLUMNS = 96, 80
ORIENTATIONS = ("R F", "R H", "L H", "F R", "H L", "F L", "H R", "LP FP")


def make_case(
    name: str,
    data: bytes,
    frame: int | None = None,
    truth: npt.NDArray[np.int64] | None = None,
    tolerance: int = 0,
    plain: bytes | None = None,
    *,
    sound: bool = False,
) -> Case:
    drawn = None if truth is None else truth.astype("<i4").tobytes()
    return {
        "name": name, "data": data, "frame": frame, "truth": drawn, "tolerance": tolerance, "plain": plain,
        "sound": sound,
    }  # fmt: skip


def draw(rng: random.Random) -> Case:
    """Draw a variant."""
    import pydicom

    if rng.random() < 0.06:
        return _coloured(rng)
    name = rng.choice(list(SYNTAXES))
    bits = min(rng.choice((8, 10, 12, 14, 15, 16)), LOSSY.get(name, 16))
    signed = rng.random() < 0.4 and name not in ("jpeg-baseline", "jpeg-extended", "jpeg-ls-near")
    stored: npt.NDArray[np.int64] | None = _image(rng, bits, signed)
    assert stored is not None
    orientation = rng.choice(("L F", "L F", *ORIENTATIONS))
    dataset = _dataset(stored, bits, signed, rng.choice(("MONOCHROME1", "MONOCHROME2")), orientation)
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
    described = f"{name}, {bits} bits, {'signed' if signed else 'unsigned'}, {fault or 'as stated'}"
    return make_case(described, data, frame, stored, tolerance, plain, sound=fault is None)


def _coloured(rng: random.Random) -> Case:
    """Draw an uncompressed image of three channels or a palette, grey or with one pixel or entry of another colour."""
    import pydicom

    grey = _image(rng, 8, False)
    dataset = _dataset(grey, 8, False, "RGB")
    colour = rng.random() < 0.3
    if rng.random() < 0.5:
        channels = np.stack([grey] * 3, -1).astype(np.uint8)
        if colour:
            channels[rng.randrange(ROWS), rng.randrange(COLUMNS), rng.randrange(3)] ^= 1 << rng.randrange(8)
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, rng.randrange(2)
        dataset.PixelData = (np.moveaxis(channels, -1, 0) if dataset.PlanarConfiguration else channels).tobytes()
        expected = grey
    else:
        table = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, 256) << 8
        dataset.PhotometricInterpretation = "PALETTE COLOR"
        for number, name in enumerate(("Red", "Green", "Blue")):
            entries = table.copy()
            entries[int(grey[0, 0])] ^= 0x100 if colour and number == 1 else 0
            dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
            dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", entries.astype("<u2").tobytes())
        expected = table[grey] >> 8
    target = BytesIO()
    pydicom.dcmwrite(target, dataset, enforce_file_format=True)
    kind = f"{dataset.PhotometricInterpretation}, {'colour' if colour else 'grey'}"
    return make_case(kind, target.getvalue(), None, expected, sound=not colour)


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


def _dataset(
    stored: npt.NDArray[np.int64], bits: int, signed: bool, photometric: str, orientation: str = "L F"
) -> Dataset:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    made.Modality, made.PresentationIntentType, made.BodyPartExamined = "DX", "FOR PRESENTATION", "CHEST"
    made.ViewPosition, made.PatientOrientation, made.BurnedInAnnotation = "PA", orientation.split(), "NO"
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

    if rng.random() < 0.1:
        item = Dataset()
        values = np.sort(np.random.default_rng(rng.randrange(2**32)).integers(0, 65536, 1 << min(bits, 12)))
        first = rng.randrange(-50, 50) if signed else rng.randrange(100)
        item.add_new("LUTDescriptor", "SS" if signed else "US", [len(values), first, 16])
        item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
        item.ModalityLUTType = "US"
        dataset.ModalityLUTSequence = Sequence([item])
        return False
    slope, intercept = rng.choice(((None, None), ("1", "-1024"), ("0.25", "7"), ("2", "0"), ("-1", "4095")))
    if slope is not None:
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = slope, intercept, "US"
    scale, shift = float(slope or 1), float(intercept or 0)
    centre, span = (0 if signed else 1 << (bits - 1)) * scale + shift, (1 << bits) * abs(scale)
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
