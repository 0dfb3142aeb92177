"""Real files of pydicom-data that are not frontal chest radiographs are refused with the right reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from encoder.errors import ReadError
from encoder.reader.sandbox import Reader
from tests.encoder.dicom_files import chest, sample_file

pytestmark = pytest.mark.acceptance(row=5)

WRONG = {
    "693_J2KR.dcm": "modality",  # CT
    "693_UNCI.dcm": "modality",
    "eCT_Supplemental.dcm": "modality",
    "bad_sequence.dcm": "modality",
    "explicit_VR-UN.dcm": "modality",
    "JPEG-LL.dcm": "modality",  # nuclear medicine
    "JPEG2000_UNC.dcm": "modality",
    "MR2_J2KI.dcm": "modality",  # MR
    "MR2_UNCR.dcm": "modality",
    "emri_small_RLE.dcm": "modality",  # multi-frame MR
    "emri_small_jpeg_ls_lossless.dcm": "modality",
    "MR-SIEMENS-DICOM-WithOverlays.dcm": "modality",
    "US1_J2KI.dcm": "modality",  # ultrasound
    "OBXXXX1A.dcm": "modality",
    "OBXXXX1A_rle_2frame.dcm": "modality",
    "color3d_jpeg_baseline.dcm": "modality",
    "gdcm-US-ALOKA-16_big.dcm": "modality",
    "color-pl.dcm": "modality",
    "liver.dcm": "modality",  # segmentation
    "RG3_UNCI.dcm": "body_part",  # hand
    "RG3_J2KR.dcm": "body_part",
    "RG3_J2KI.dcm": "body_part",
    "mlut_18.dcm": "body_part",  # modality OT, nothing else stated
    "vlut_04.dcm": "body_part",
    "SC_rgb.dcm": "body_part",  # secondary capture, nothing else stated
    "SC_rgb_2frame.dcm": "body_part",
    "OT-PAL-8-face.dcm": "no_preamble",
    "rtplan.dcm": "no_pixels",
    "reportsi.dcm": "no_pixels",
    "waveform_ecg.dcm": "no_pixels",
}


def find(name: str) -> Path:
    path = sample_file(name)
    if path.exists():
        return path
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str), name
    return Path(found)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused(name: str, reader: Reader) -> None:
    with pytest.raises(ReadError) as caught:
        reader.read(find(name))
    assert caught.value.reason == WRONG[name] and caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [("SC_rgb.dcm", "colour"), ("SC_rgb_2frame.dcm", "multi_frame"), ("OBXXXX1A_2frame.dcm", "multi_frame")],
)
def test_force_does_not_override_what_cannot_be_read(name: str, reason: str, reader: Reader) -> None:
    with pytest.raises(ReadError) as caught:
        reader.read(find(name), force=True)
    assert caught.value.reason == reason and not caught.value.forcible


def test_lateral_for_processing_and_empty(reader: Reader) -> None:
    for data, reason in (
        (chest(ViewPosition="LL"), "lateral"),
        (chest(Modality="DX", PresentationIntentType="FOR PROCESSING"), "for_processing"),
        (chest(PixelData=b""), "empty"),
    ):
        with pytest.raises(ReadError) as caught:
            reader.read(data)
        assert caught.value.reason == reason
