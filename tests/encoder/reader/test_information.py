"""The last guard: pictures that lost their information, by whatever fault, are refused or warned of."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageFile

from encoder.errors import ReadError
from encoder.reader.information import WARNING, check
from encoder.reader.sandbox_worker import read_image
from tests.encoder.dicom_files import sample_file


@pytest.fixture(scope="module")
def radiograph() -> np.ndarray:
    """A real chest radiograph of 12 bits."""
    return read_image(sample_file("RG1_UNCI.dcm").read_bytes()).pixels[::4, ::4] >> 3


def cut_jpeg(pixels: np.ndarray, share: float, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Decode the first part of a JPEG as a lenient decoder does."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = imagecodecs.jpeg8_encode((pixels >> 4).astype(np.uint8), level=95)
    return np.asarray(Image.open(BytesIO(data[: int(len(data) * share)] + b"\xff\xd9")))


def is_noticed(pixels: np.ndarray) -> bool:
    try:
        return bool(check(pixels.astype(np.uint16)))
    except ReadError as error:
        return error.reason == "no_information"


def test_a_radiograph_has_information(radiograph: np.ndarray) -> None:
    assert check(radiograph) == []


def test_padding_over_everything(radiograph: np.ndarray) -> None:
    assert is_noticed(np.zeros_like(radiograph))
    assert is_noticed(np.where(radiograph < np.quantile(radiograph, 0.6), 0, radiograph))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_values_of_more_bits_than_stated_are_clipped(radiograph: np.ndarray, bits: int) -> None:
    assert is_noticed(np.minimum(radiograph << bits, 4095))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.65])
def test_a_cut_stream(radiograph: np.ndarray, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_noticed(cut_jpeg(radiograph, share, monkeypatch))
    whole = len(radiograph)
    black = np.where(np.arange(whole)[:, None] < share * whole, radiograph, 0)
    assert is_noticed(black) and is_noticed(black[::-1]) and is_noticed(black.T)


def test_half_of_the_rows(radiograph: np.ndarray) -> None:
    assert is_noticed(radiograph[: len(radiograph) // 2])
    assert is_noticed(radiograph.repeat(2, axis=0))


def test_few_grey_levels_and_hardly_any_contrast(radiograph: np.ndarray) -> None:
    assert is_noticed(radiograph >> 9)
    with_marker = 2000 + (radiograph >> 7)
    with_marker[:20, :20] = 65535
    assert is_noticed(with_marker)


def test_a_constant_picture_is_refused_unless_forced() -> None:
    data = BytesIO()
    Image.new("L", (100, 100), 128).save(data, "png")
    with pytest.raises(ReadError) as caught:
        read_image(data.getvalue())
    assert caught.value.reason == "no_information" and caught.value.forcible
    assert read_image(data.getvalue(), force=True).warnings[0].startswith(WARNING)


def test_the_warning_comes_first(radiograph: np.ndarray) -> None:
    half = radiograph.copy()
    half[len(half) // 2 :] = 0
    data = BytesIO()
    Image.fromarray((half >> 4).astype(np.uint8)).save(data, "png")
    first, *others = read_image(data.getvalue()).warnings
    assert first == f"{WARNING}a large area has no variation"
    assert others


def test_no_false_alarms_on_real_radiographs(shared_dir: Path) -> None:
    """At most 0.5 %; every 23rd of 11,206 images of five public sets."""
    files = sorted((shared_dir / "data").glob("*/images/*"))[::23]
    alarms = [file.name for file in files if is_noticed(np.asarray(Image.open(file).convert("L")))]
    assert len(files) > 400
    assert len(alarms) <= 0.005 * len(files), alarms
