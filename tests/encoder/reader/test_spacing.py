"""Pixel spacing for measurements: PS3.3 10.7.1.3 tells the plane that it holds in."""

from __future__ import annotations

from typing import Any

import pytest

from encoder.reader.radiograph import Spacing
from encoder.reader.sandbox import Reader
from encoder.reader.sandbox_worker import read_image
from tests.encoder.dicom_files import dataset, to_bytes

TALL = {"PixelSpacing": [0.4, 0.2]}
CASES: list[tuple[dict[str, Any], Spacing | None]] = [
    ({}, None),
    ({"ImagerPixelSpacing": [0.143, 0.143]}, Spacing(0.143, "detector")),
    ({"PixelSpacing": [0.143, 0.143]}, Spacing(0.143, "unknown")),
    ({"PixelSpacing": [0.143, 0.143], "ImagerPixelSpacing": [0.143, 0.143]}, Spacing(0.143, "detector")),
    ({"PixelSpacing": ["0.1430", "0.1430"], "ImagerPixelSpacing": ["0.143", "0.143"]}, Spacing(0.143, "detector")),
    ({"PixelSpacing": [0.13, 0.13], "ImagerPixelSpacing": [0.143, 0.143]}, Spacing(0.13, "patient")),
    ({"PixelSpacing": [0.13, 0.13], "PixelSpacingCalibrationType": "FIDUCIAL"}, Spacing(0.13, "patient")),
    ({"PixelSpacing": [0.13, 0.13], "PixelSpacingCalibrationType": "GEOMETRY"}, Spacing(0.13, "patient")),
    (TALL, Spacing(0.2, "unknown")),
    (TALL | {"PatientOrientation": ["F", "R"]}, Spacing(0.2, "unknown")),
    ({"PixelSpacing": [0.2, 0.201]}, Spacing(0.2, "unknown")),
    ({"PixelSpacing": [0.4, 0.2], "PixelAspectRatio": [1, 1]}, Spacing(0.2, "unknown")),  # the ratio counts for nothing
    ({"PixelSpacing": [0.2, 0.2], "PixelAspectRatio": [2, 1]}, Spacing(0.2, "unknown")),
    ({"NominalScannedPixelSpacing": [0.2, 0.2]}, None),
    ({"PixelSpacing": [0, 0]}, None),
    ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.2, 0.2]}, Spacing(0.2, "detector")),
    ({"PixelSpacing": [5, 5]}, None),
    ({"PixelSpacing": [0.001, 0.001]}, None),
    ({"PixelSpacing": [0.2, 1.9]}, None),
    ({"PixelSpacing": [0.2]}, None),
    ({"PixelSpacing": [-0.2, -0.2]}, None),
]


@pytest.mark.parametrize(("attributes", "expected"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_the_spacing_and_its_plane(attributes: dict[str, Any], expected: Spacing | None) -> None:
    assert read_image(to_bytes(dataset(**attributes)), force=True).spacing == expected


def test_the_spacing_crosses_the_sandbox() -> None:
    with Reader() as reader:
        assert reader.read(to_bytes(dataset(PixelSpacing=[0.13, 0.13]))).spacing == Spacing(0.13, "unknown")
        assert reader.read(to_bytes(dataset())).spacing is None
