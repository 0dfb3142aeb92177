"""The reader's pixels against highdicom, an independent implementation of the grey-scale pipeline (PS3.4 N.2)."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest

from encoder.reader.sandbox_worker import read_image
from scripts.phantom.transfer_syntaxes import LOSSY, NATIVE, SYNTAXES, rewrite
from tests.encoder.dicom_files import dataset, lut_item, sequence, to_bytes

pytestmark = pytest.mark.acceptance(row=3)

BITS = (8, 10, 12, 15, 16)
LOOKS = ("none", "window", "two windows", "SIGMOID", "LINEAR_EXACT", "LUT", "rescale")
LOSSLESS = [name for name in SYNTAXES if name not in LOSSY]
EVERYTHING = list(itertools.product(LOSSLESS, (False, True), BITS, ("MONOCHROME1", "MONOCHROME2"), LOOKS))


def look(name: str, bits: int, signed: bool) -> dict[str, Any]:
    """Header values for one way of showing, in the range of the stored values."""
    span = 1 << bits
    centre = 0 if signed else span // 2
    window = {"WindowCenter": str(centre + span // 8), "WindowWidth": str(span // 3)}
    if name == "window":
        return window
    if name == "two windows":
        return {"WindowCenter": [str(centre), str(centre - span // 8)], "WindowWidth": [str(span), str(span // 5)]}
    if name in ("SIGMOID", "LINEAR_EXACT"):
        return {**window, "VOILUTFunction": name}
    if name == "LUT":
        # highdicom 0.28.2 fails on 65536 entries (written as 0), and its index overflows for signed 16-bit values with
        # a negative first value: such tables are shortened here and tested by hand in test_dicom_greys.py
        first = -span // 2 if signed and bits < 16 else 0
        curve = (np.linspace(0, 1, span if bits < 16 else 32767) ** 2 * 65535).astype(np.uint16)
        return {"VOILUTSequence": sequence(lut_item(curve, first, 16, signed=signed))}
    if name == "rescale":
        return {"RescaleSlope": "0.5", "RescaleIntercept": "-100", "RescaleType": "US", **window}
    return {}


def oracle(data: bytes, window: int, *, voi: bool) -> np.ndarray:
    """highdicom's rendering of the first frame, 0..255 where a window is applied, else modality values."""
    image = highdicom.imread(BytesIO(data))
    options: dict[str, Any] = {
        "apply_voi_transform": True,
        "voi_output_range": (0.0, 255.0),
        "voi_transform_selector": window,
    }
    frame: np.ndarray = image.get_frame(1, **(options if voi else {"apply_presentation_lut": False}))
    return frame


def check(name: str, signed: bool, bits: int, photometric: str, kind: str) -> None:
    source = dataset(bits=bits, signed=signed, PhotometricInterpretation=photometric, **look(kind, bits, signed))
    plain = to_bytes(source)
    ours = read_image(rewrite(source, name))
    np.testing.assert_array_equal(ours.pixels, read_image(plain).pixels)
    # pixels are affine in highdicom's modality values, and rise with brightness
    modality = oracle(plain, 0, voi=False)
    np.testing.assert_allclose(ours.scale * ours.pixels + ours.offset, modality, atol=1e-6)
    assert (ours.scale < 0) == (photometric == "MONOCHROME1")
    assert len(ours.windows) == {"none": 0, "two windows": 2}.get(kind, 1)
    for index in range(len(ours.windows)):
        difference = np.abs(ours.display(index).astype(np.float64) - oracle(plain, index, voi=True))
        assert difference.max() <= 1.0, (name, signed, bits, photometric, kind, index)


@pytest.mark.parametrize("case", random.Random(3).sample(EVERYTHING, 60), ids=lambda case: "-".join(map(str, case)))
def test_sampled_files_look_as_in_highdicom(case: tuple[str, bool, int, str, str]) -> None:
    check(*case)


@pytest.mark.nightly
@pytest.mark.parametrize("name", LOSSLESS)
def test_all_files_look_as_in_highdicom(name: str) -> None:
    for case in EVERYTHING:
        if case[0] == name:
            check(*case)


@pytest.mark.parametrize(
    ("name", "bits"),
    [(name, bits) for name in sorted(LOSSY) for bits in (8, 12) if (name, bits) != ("jpeg-extended", 12)],
)
def test_lossy_syntaxes_against_another_decoder(name: str, bits: int) -> None:
    """pydicom's plugins; for 12-bit JPEG there is none of a free licence, see test_dcmtk_reads_our_12_bit_jpeg."""
    data = rewrite(dataset(bits=bits), name)
    ours = read_image(data)
    ds = pydicom.dcmread(BytesIO(data))
    decoded = ds.pixel_array.astype(np.int64)
    assert np.abs(ours.pixels - decoded).max() <= 1


@pytest.mark.skipif(shutil.which("dcmdjpeg") is None, reason="needs dcmtk (Debian package dcmtk)")
def test_dcmtk_reads_our_12_bit_jpeg(tmp_path: Path) -> None:
    data = rewrite(dataset(bits=12), "jpeg-extended")
    (tmp_path / "in.dcm").write_bytes(data)
    subprocess.run(["dcmdjpeg", tmp_path / "in.dcm", tmp_path / "out.dcm"], check=True, capture_output=True)
    decoded = pydicom.dcmread(tmp_path / "out.dcm").pixel_array.astype(np.int64)
    assert np.abs(read_image(data).pixels - decoded).max() <= 1


@pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="needs dcmtk (Debian package dcmtk)")
@pytest.mark.parametrize(
    "command",
    ["dcmcjpeg +e1", "dcmcjpeg +el +sv 5", "dcmcjpls", "dcmcrle", "dcmconv +tb", "dcmconv +ti", "dcmconv +td"],
)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_files_written_by_dcmtk(command: str, bits: int, tmp_path: Path) -> None:
    source = to_bytes(dataset(bits=bits))
    (tmp_path / "in.dcm").write_bytes(source)
    program, *options = command.split()
    subprocess.run([program, *options, tmp_path / "in.dcm", tmp_path / "out.dcm"], check=True, capture_output=True)
    image = read_image((tmp_path / "out.dcm").read_bytes())
    np.testing.assert_array_equal(image.pixels, read_image(source).pixels)


def test_every_syntax_has_a_case() -> None:
    assert set(LOSSLESS) >= set(NATIVE) and len(LOSSLESS) == 10 and len(SYNTAXES) == 14
