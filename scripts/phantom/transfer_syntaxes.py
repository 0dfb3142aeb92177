"""Write one image in every transfer syntax that the reader supports, for benchmarks and tests."""

from __future__ import annotations

import copy
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from pydicom import Dataset

SYNTAXES = {
    "implicit-le": "1.2.840.10008.1.2", "explicit-le": "1.2.840.10008.1.2.1", "explicit-be": "1.2.840.10008.1.2.2",
    "deflated": "1.2.840.10008.1.2.1.99", "rle": "1.2.840.10008.1.2.5", "jpeg-baseline": "1.2.840.10008.1.2.4.50",
    "jpeg-extended": "1.2.840.10008.1.2.4.51", "jpeg-lossless": "1.2.840.10008.1.2.4.57",
    "jpeg-lossless-sv1": "1.2.840.10008.1.2.4.70", "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-ls-near": "1.2.840.10008.1.2.4.81", "jpeg2000-lossless": "1.2.840.10008.1.2.4.90",
    "jpeg2000": "1.2.840.10008.1.2.4.91", "htj2k-lossless": "1.2.840.10008.1.2.4.201",
}  # fmt: skip
LOSSY = {"jpeg-baseline": 8, "jpeg-extended": 12, "jpeg-ls-near": 16, "jpeg2000": 16}  # name -> most bits that it holds
NATIVE = ("implicit-le", "explicit-le", "explicit-be", "deflated")


def rewrite(dataset: Dataset, name: str) -> bytes:
    """Write an uncompressed little-endian single-frame grey image in another transfer syntax.

    Args:
        dataset: explicit or implicit little endian, with PixelData.
        name: key of SYNTAXES. For a lossy one with fewer bits than the image, the low bits are dropped first.

    Returns:
        The bytes of the file.
    """
    from pydicom import dcmwrite
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, generate_uid

    result = Dataset()  # a new one: pydicom writes a data set that it has read only in the encoding it was read in
    for element in dataset:
        result.add(copy.deepcopy(element))
    bits = LOSSY.get(name, 16)
    if dataset.BitsStored > bits:
        result = _fewer_bits(result, bits)
    values = _patterns(result)
    if name.startswith(("jpeg2000", "htj2k")) and result.PixelRepresentation == 1:
        values = _signed(values, result.BitsStored)
    syntax = UID(SYNTAXES[name])
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = syntax
    result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID
    result.file_meta.MediaStorageSOPInstanceUID = result.get("SOPInstanceUID") or generate_uid()
    if name in NATIVE:
        order: Literal["<", ">"] = ">" if name == "explicit-be" else "<"
        result.PixelData = values.astype(values.dtype.newbyteorder(order)).tobytes()
        result["PixelData"].VR = "OW"
        if order == ">":
            result["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
            for item in [*result.get("VOILUTSequence", []), *result.get("ModalityLUTSequence", [])]:
                item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
    else:
        result.PixelData = encapsulate([_encode(values, name, result.BitsStored)])
        result["PixelData"].VR = "OB"
        result["PixelData"].is_undefined_length = True
    stream = BytesIO()
    dcmwrite(
        stream, result, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian,
        enforce_file_format=True,
    )  # fmt: skip
    return stream.getvalue()


def _patterns(dataset: Dataset) -> npt.NDArray[Any]:
    """[H, W] unsigned bit patterns of BitsStored bits."""
    dtype = np.dtype("u1" if dataset.BitsAllocated == 8 else "<u2")
    count = dataset.Rows * dataset.Columns
    values = np.frombuffer(dataset.PixelData, dtype, count).reshape(dataset.Rows, dataset.Columns)
    patterns: npt.NDArray[Any] = values & dtype.type((1 << dataset.BitsStored) - 1)
    return patterns


def _signed(values: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """Two's complement of ``bits`` bits; JPEG 2000 knows signs."""
    wide = values.astype(np.int32)
    return np.where(wide >> (bits - 1), wide - (1 << bits), wide).astype(f"i{values.dtype.itemsize}")


def _fewer_bits(dataset: Dataset, bits: int) -> Dataset:
    dropped = dataset.BitsStored - bits
    values = _patterns(dataset) >> dropped
    dataset.BitsAllocated = 8 if bits == 8 else 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelData = values.astype(np.uint8 if bits == 8 else "<u2").tobytes()
    for keyword in ("WindowCenter", "WindowWidth"):
        if isinstance(dataset.get(keyword), float):
            setattr(dataset, keyword, str(round(dataset[keyword].value / (1 << dropped))))
    return dataset


def _encode(values: npt.NDArray[Any], name: str, bits: int) -> bytes:
    import imagecodecs

    if name == "rle":
        return _encode_rle(values)
    if name in ("jpeg-baseline", "jpeg-extended"):
        return bytes(imagecodecs.jpeg8_encode(values, level=95, bitspersample=8 if values.dtype.itemsize == 1 else 12))
    if name in ("jpeg-lossless", "jpeg-lossless-sv1"):
        predictor = 1 if name == "jpeg-lossless-sv1" else 4
        return bytes(imagecodecs.jpeg8_encode(values, lossless=True, predictor=predictor, bitspersample=bits))
    if name in ("jpeg-ls", "jpeg-ls-near"):
        return _encode_jpeg_ls(values, bits, near=0 if name == "jpeg-ls" else 2)
    if name == "htj2k-lossless":
        return bytes(imagecodecs.htj2k_encode(values, reversible=True))
    level, reversible = (0, True) if name == "jpeg2000-lossless" else (60, False)
    return bytes(
        imagecodecs.jpeg2k_encode(values, level=level, reversible=reversible, codecformat="J2K", bitspersample=bits)
    )


def _encode_rle(values: npt.NDArray[Any]) -> bytes:
    """RLE lossless by pydicom's own encoder."""
    from pydicom.pixels.encoders.base import get_encoder

    rows, columns = values.shape
    return bytes(
        get_encoder(SYNTAXES["rle"]).encode(
            values, rows=rows, columns=columns, samples_per_pixel=1, bits_allocated=8 * values.dtype.itemsize,
            bits_stored=8 * values.dtype.itemsize, pixel_representation=0, photometric_interpretation="MONOCHROME2",
            number_of_frames=1,
        )
    )  # fmt: skip


def _encode_jpeg_ls(values: npt.NDArray[Any], bits: int, *, near: int) -> bytes:
    import jpeg_ls

    rows, columns = values.shape
    allocated = 8 * values.dtype.itemsize
    return bytes(
        jpeg_ls.encode_pixel_data(
            values.tobytes(), lossy_error=near, rows=rows, columns=columns, samples_per_pixel=1,
            bits_allocated=allocated, bits_stored=bits, photometric_interpretation="MONOCHROME2",
            pixel_representation=0,
        )
    )  # fmt: skip
