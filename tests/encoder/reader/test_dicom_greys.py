"""Grey values of DICOM files by docs/dicom.md; expected values are computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from encoder.reader.sandbox_worker import read_image
from tests.encoder.dicom_files import (
    chest,
    dataset,
    lut_item,
    odd,
    ramp,
    refused,
    sample_file,
    sequence,
    to_bytes,
)

TOP = 4095  # 12 bits


@pytest.mark.parametrize(
    ("photometric", "slope", "up"),
    [
        ("MONOCHROME2", "2", True),
        ("MONOCHROME1", "2", False),
        ("MONOCHROME2", "-2", False),
        ("MONOCHROME1", "-2", True),
    ],
)
def test_polarity(photometric: str, slope: str, up: bool) -> None:
    image = read_image(chest(PhotometricInterpretation=photometric, RescaleSlope=slope, RescaleIntercept="10"))
    np.testing.assert_array_equal(image.pixels, ramp() if up else TOP - ramp())
    np.testing.assert_allclose(image.scale * image.pixels + image.offset, float(slope) * ramp() + 10)
    assert image.facts.inverted is not up


@pytest.mark.parametrize(
    ("photometric", "shape", "warned"),
    [
        ("MONOCHROME1", "INVERSE", False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "LIN OD", True),
        ("MONOCHROME1", "", False),
    ],
)
def test_presentation_lut_shape_never_inverts_twice(photometric: str, shape: str, warned: bool) -> None:
    image = read_image(chest(PhotometricInterpretation=photometric, PresentationLUTShape=shape))
    np.testing.assert_array_equal(image.pixels, ramp() if photometric == "MONOCHROME2" else TOP - ramp())
    assert any("PresentationLUTShape" in text for text in image.warnings) is warned


@pytest.mark.parametrize(
    ("slope", "intercept"), [("0", "5"), ("", "5"), ("nan", "0"), ("2", None), (None, "5"), ("abc", "0")]
)
def test_unusable_rescale_is_ignored_with_a_warning(slope: str | None, intercept: str | None) -> None:
    values = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    image = read_image(odd(**{name: value for name, value in values.items() if value is not None}))
    np.testing.assert_array_equal(image.pixels, ramp())
    assert (image.scale, image.offset) == (1.0, 0.0) and any("rescale" in text for text in image.warnings)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_modality_lut_wins_over_rescale(photometric: str) -> None:
    curve = (np.arange(4096) ** 2 // 4096).astype(np.uint16)
    extra = {"RescaleSlope": "-3", "RescaleIntercept": "7", "ModalityLUTSequence": sequence(lut_item(curve, 0, 12))}
    image = read_image(chest(PhotometricInterpretation=photometric, **extra))
    expected = ramp() ** 2 // 4096
    np.testing.assert_array_equal(image.pixels, expected if photometric == "MONOCHROME2" else TOP - expected)
    np.testing.assert_allclose(image.scale * image.pixels + image.offset, expected)


def test_a_real_file_with_values_outside_its_signed_bits_is_refused() -> None:
    data = sample_file("mlut_18.dcm").read_bytes()
    assert refused(data, "body_part").forcible  # modality OT, no body part
    refused(data, "corrupt", force=True)  # -2048..4095 under 12 signed bits


def test_lut_sequence_comes_before_windows() -> None:
    curve = np.linspace(255, 0, 4096).astype(np.uint16)
    image = read_image(chest(VOILUTSequence=sequence(lut_item(curve, 0, 8)), WindowCenter="100", WindowWidth="50"))
    assert [window.function for window in image.windows] == ["LUT", "LINEAR"]
    np.testing.assert_array_equal(image.display(), curve[ramp()])


def test_8_bit_lut_with_more_than_256_entries_does_not_wrap() -> None:
    entries = (np.arange(4096) // 16).astype(np.uint16)
    image = read_image(chest(VOILUTSequence=sequence(lut_item(entries, 0, 8))))
    np.testing.assert_array_equal(image.display(), entries[ramp()])
    shown = image.windows[0].apply(np.array([0, 255, 256, 300, 4000, 9999, -5], np.float64)) * 255
    np.testing.assert_allclose(shown, [0, 15, 16, 18, 250, 255, 0])


def test_8_bit_lut_packed_into_bytes() -> None:
    item = lut_item(np.zeros(4096, np.uint16), 0, 8)
    item[0x00283006].value = (np.arange(4096) // 16).astype(np.uint8).tobytes()
    np.testing.assert_array_equal(read_image(chest(VOILUTSequence=sequence(item))).display(), ramp() // 16)


def test_lut_with_65536_entries_and_negative_first_value() -> None:
    item = lut_item(np.arange(65536).astype(np.uint16), -32768, 16, signed=True)
    source = dataset(bits=16, signed=True, VOILUTSequence=sequence(item))
    expected = np.floor((ramp(16, signed=True) + 32768) / 65535 * 255 + 0.5)
    np.testing.assert_array_equal(read_image(to_bytes(source)).display(), expected)


@pytest.mark.parametrize(
    ("signed", "rescale", "first", "negative"),
    [
        (True, ("1", "32768"), 35000, False),  # 0..65535
        (True, ("1", "0"), -30000, True),
        (True, None, -30000, True),
        (False, None, 35000, False),
        (False, ("1", "-100"), -100, True),  # -100..65435
        (False, ("-1", "0"), -30000, True),  # -65535..0
        (False, ("-1", "65535"), 35000, False),
        (True, ("-1", "32767"), 35000, False),
        (True, ("-1", "32766"), -1, True),  # -1..65534
        (True, ("0", "5"), -30000, True),  # unusable, so ignored
    ],
)
def test_the_first_value_of_a_voi_lut_is_signed_if_modality_values_may_be_negative(
    signed: bool, rescale: tuple[str, str] | None, first: int, negative: bool
) -> None:
    """PS3.3 C.11.2.1.1; the descriptor is written as US, so that its word alone tells nothing."""
    assert negative is (first < 0)
    item = lut_item(np.arange(0, 60000, 15).astype(np.uint16), first & 0xFFFF, 16)
    extra = {} if rescale is None else dict(zip(("RescaleSlope", "RescaleIntercept"), rescale, strict=True))
    image = read_image(chest(bits=16, signed=signed, VOILUTSequence=sequence(item), **extra))
    assert image.windows[0].first == first
    slope, intercept = map(float, rescale) if rescale and rescale[0] != "0" else (1.0, 0.0)
    position = np.clip(slope * ramp(16, signed=signed) + intercept - first, 0, 3999)
    assert np.abs(image.display() - position * 15 / 65535 * 255).max() <= 0.5 + 1e-9


def test_the_first_value_of_a_voi_lut_after_a_modality_lut_is_unsigned() -> None:
    curve = lut_item(np.arange(65536).astype(np.uint16), -32768, 16, signed=True)
    item = lut_item(np.arange(0, 60000, 15).astype(np.uint16), 35000, 16)
    image = read_image(chest(bits=16, signed=True, ModalityLUTSequence=sequence(curve), VOILUTSequence=sequence(item)))
    assert image.windows[0].first == 35000 and image.display().max() > 200


@pytest.mark.parametrize("length", [0, 2, 100])
def test_damaged_lut_is_ignored(length: int) -> None:
    item = lut_item(np.arange(4096).astype(np.uint16), 0, 12)
    item[0x00283006].value = bytes(length)
    image = read_image(chest(VOILUTSequence=sequence(item)))
    assert image.windows == () and any("damaged" in text for text in image.warnings)


# formulas of the standard (PS3.3 C.11.2.1.2, C.11.2.1.3)
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR ", "", "LINEAR_EXACT", "SIGMOID", "NONSENSE"])
def test_window_functions(function: str) -> None:
    center, width = 2000.0, 1000.0
    image = read_image(odd(WindowCenter="2000", WindowWidth="1000", VOILUTFunction=function))
    x = ramp().astype(np.float64)
    linear = np.clip(((x - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
    exact = np.clip(((x - center) / width + 0.5) * 255, 0, 255)
    sigmoid = 255 / (1 + np.exp(-4 * (x - center) / width))
    expected = {"LINEAR_EXACT": exact, "SIGMOID": sigmoid}.get(function, linear)
    assert np.abs(image.display() - expected).max() <= 0.5 + 1e-9
    assert any("VOI function" in text for text in image.warnings) is (function == "NONSENSE")


@pytest.mark.parametrize(("width", "usable"), [("0", False), ("-5", False), ("nan", False), ("1", True)])
def test_odd_widths(width: str, usable: bool) -> None:
    image = read_image(odd(WindowCenter="2000", WindowWidth=width))
    assert len(image.windows) == usable
    if usable:
        np.testing.assert_array_equal(image.display(), np.where(ramp() > 1999.5, 255, 0))


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": "1e39", "WindowWidth": "100"},
        {"WindowCenter": "2000", "WindowWidth": "1e300"},
        {"WindowCenter": "-9000", "WindowWidth": "100"},
        {"WindowCenter": "1e39", "WindowWidth": "100", "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "2000", "WindowWidth": "1000", "RescaleSlope": "1e-30", "RescaleIntercept": "0"},
    ],
)
def test_a_window_that_shows_nothing_is_said(attributes: dict[str, str]) -> None:
    image = read_image(odd(**attributes))
    assert np.ptp(image.display()) == 0 and any("values of the image alike" in text for text in image.warnings)


def test_a_window_that_shows_anything_is_not_said() -> None:
    values = np.where(ramp() > 2047, 2001, 2000)
    for attributes in ({"WindowCenter": "2001", "WindowWidth": "1"}, {"WindowCenter": "0", "WindowWidth": "100000"}):
        source = chest(ramp() if attributes["WindowWidth"] != "1" else values, **attributes)
        assert not any("alike" in text for text in read_image(source, force=True).warnings)
    constant = read_image(chest(np.full((72, 80), 7), WindowCenter="9000", WindowWidth="10"), force=True)
    assert not any("values of the image alike" in text for text in constant.warnings)  # the image shows nothing itself


def test_several_windows_with_explanations() -> None:
    names = ["LUNG", "SMITH^JOHN", "BONE"]
    windows = {"WindowCenter": ["1000", "2000", "3000"], "WindowWidth": ["100", "200", "300"]}
    image = read_image(chest(WindowCenterWidthExplanation=names, **windows))
    assert [(w.center, w.width, w.label) for w in image.windows] == [
        (1000, 100, "LUNG"),
        (2000, 200, "window 2"),  # free text from the file does not pass
        (3000, 300, "BONE"),
    ]
    with pytest.raises(IndexError):
        image.display(3)


def test_two_centres_and_one_width() -> None:
    image = read_image(chest(WindowCenter=["1000", "2000"], WindowWidth="100"))
    assert len(image.windows) == 1 and any("differ in number" in text for text in image.warnings)
    assert read_image(chest(WindowCenter="1000")).windows == ()


def test_without_window_percentiles_inside_the_valid_area() -> None:
    values = ramp()
    values[:20] = TOP  # a fifth of the image is padding
    image = read_image(chest(values, PixelPaddingValue=TOP))
    low, high = np.percentile(values[20:][values[20:] < TOP], [0.5, 99.5])
    shown = image.display()
    expected = np.clip((values[20:] - low) / (high - low), 0, 1) * 255
    assert np.abs(shown[20:] - expected)[values[20:] < TOP].max() <= 1.5
    assert (shown[:20] == 0).all()


def test_high_bit_elsewhere_is_refused() -> None:
    refused(chest(HighBit=15), "unsupported", forcible=False)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("value", "limit"), [(0, None), (TOP, None), (0, 100), (100, 0)])
def test_padding_is_black_and_marked(photometric: str, value: int, limit: int | None) -> None:
    extra = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    image = read_image(chest(PhotometricInterpretation=photometric, PixelPaddingValue=value, **extra))
    low, high = min(value, limit or value), max(value, value if limit is None else limit)
    low = min(value, value if limit is None else limit)
    padding = (ramp() >= low) & (ramp() <= high)
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, ~padding)
    assert (image.pixels[padding] == 0).all() and (image.display()[padding] == 0).all()


def test_signed_padding() -> None:
    source = dataset(signed=True)
    source.add_new(0x00280120, "SS", -2048)
    image = read_image(to_bytes(source))
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, ramp(signed=True) != -2048)


def test_negative_padding_of_unsigned_pixels() -> None:
    """-1 and 65535 are one pattern of 16 bits; 12 unsigned bits hold neither."""
    for bits, padded in ((16, True), (12, False)):
        source = dataset(bits=bits)
        source.add_new(0x00280120, "SS", -1)
        valid = read_image(to_bytes(source)).valid
        assert (valid is not None) is padded
        if valid is not None:
            np.testing.assert_array_equal(valid, ramp(bits) != 65535)


def test_padding_value_that_never_occurs() -> None:
    values = np.minimum(ramp(), 4000)
    assert read_image(chest(values, PixelPaddingValue=4090)).valid is None


def with_padding(value: int, limit: int | None = None, *, vr: str = "US", **keywords: Any) -> bytes:
    source = dataset(**keywords)
    source.add_new(0x00280120, vr, value)
    if limit is not None:
        source.add_new(0x00280121, vr, limit)
    return to_bytes(source)


def test_a_padding_value_beyond_bits_stored_is_no_padding() -> None:
    values = ramp()
    assert (values == 63536 & TOP).any()
    for data in (with_padding(63536), with_padding(-2000, vr="SS"), with_padding(63536, 65535)):
        image = read_image(data)
        np.testing.assert_array_equal(image.pixels, values)
        assert image.valid is None and image.warnings == ()


def test_a_negative_padding_value_of_a_signed_image_may_be_written_as_unsigned() -> None:
    values = ramp(signed=True)
    for data in (with_padding(63536, signed=True), with_padding(-2000, signed=True, vr="SS")):
        image = read_image(data)
        assert image.valid is not None and (values == -2000).any()
        np.testing.assert_array_equal(image.valid, values != -2000)
    image = read_image(with_padding(63488, 63536, signed=True))  # -2048 to -2000
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, values > -2000)
    assert read_image(with_padding(2096, signed=True)).valid is None  # not in -2048..2047


@pytest.mark.parametrize(("value", "limit"), [(0, 65535), (0, 4095), (65535, 0), (0, 3500), (100, 4095)])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_over_nearly_the_whole_image_is_ignored_with_a_warning(
    photometric: str, value: int, limit: int
) -> None:
    image = read_image(with_padding(value, limit, PhotometricInterpretation=photometric))
    np.testing.assert_array_equal(image.pixels, ramp() if photometric == "MONOCHROME2" else TOP - ramp())
    assert image.valid is None and [text for text in image.warnings if "padding" in text]


def test_padding_over_two_thirds_of_the_image_is_padding() -> None:
    """A collimated field that small occurs among real radiographs, see ``encoder.reader.geometry``."""
    values = ramp()
    values[:50] = 0
    image = read_image(chest(values, PixelPaddingValue=0))
    assert image.valid is not None and not [text for text in image.warnings if "padding" in text]
    np.testing.assert_array_equal(image.valid, values != 0)
