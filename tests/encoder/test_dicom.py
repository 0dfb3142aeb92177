"""The reader's table (28 rows: what a DICOM reader must handle), one or more tests a row; expected values by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from encoder.errors import ReadError
from encoder.sandbox_server import read_image
from scripts.bench.syntaxes import SYNTAXES, rewrite
from tests.encoder.dicom_files import chest, code, dataset, lut_item, ramp, sample_file, sequence, to_bytes

TOP = 4095  # 12 bits


def refused(data: bytes, reason: str, *, forcible: bool | None = None, **keywords: Any) -> ReadError:
    with pytest.raises(ReadError) as caught:
        read_image(data, **keywords)
    assert caught.value.reason == reason
    if forcible is not None:
        assert caught.value.forcible is forcible
    return caught.value


def test_plain_chest_has_no_warnings() -> None:
    image = read_image(chest())
    np.testing.assert_array_equal(image.pixels, ramp())
    assert image.warnings == () and image.pixels.dtype == np.uint16 and image.valid is None
    assert image.facts.view == "PA" and image.facts.body_part == "CHEST" and image.facts.modality == "CR"


# Row 1: MONOCHROME1, and row 3: slope; the sign is derived once
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


# Row 2
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


# Row 3
@pytest.mark.parametrize(
    ("slope", "intercept"), [("0", "5"), ("", "5"), ("nan", "0"), ("2", None), (None, "5"), ("abc", "0")]
)
def test_unusable_rescale_is_ignored_with_a_warning(slope: str | None, intercept: str | None) -> None:
    values = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    image = read_image(_odd(**{name: value for name, value in values.items() if value is not None}))
    np.testing.assert_array_equal(image.pixels, ramp())
    assert (image.scale, image.offset) == (1.0, 0.0) and any("rescale" in text for text in image.warnings)


# Row 4
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_modality_lut_wins_over_rescale(photometric: str) -> None:
    curve = (np.arange(4096) ** 2 // 4096).astype(np.uint16)
    extra = {"RescaleSlope": "-3", "RescaleIntercept": "7", "ModalityLUTSequence": sequence(lut_item(curve, 0, 12))}
    image = read_image(chest(PhotometricInterpretation=photometric, **extra))
    expected = ramp() ** 2 // 4096
    np.testing.assert_array_equal(image.pixels, expected if photometric == "MONOCHROME2" else TOP - expected)
    np.testing.assert_allclose(image.scale * image.pixels + image.offset, expected)


def test_modality_lut_of_a_real_file() -> None:
    data = sample_file("mlut_18.dcm").read_bytes()
    assert refused(data, "body_part").forcible  # modality OT, no body part
    assert read_image(data, force=True).pixels.max() > 0


# Row 5
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


@pytest.mark.parametrize("length", [0, 2, 100])
def test_damaged_lut_is_ignored(length: int) -> None:
    item = lut_item(np.arange(4096).astype(np.uint16), 0, 12)
    item[0x00283006].value = bytes(length)
    image = read_image(chest(VOILUTSequence=sequence(item)))
    assert image.windows == () and any("damaged" in text for text in image.warnings)


# Row 6: the standard's own formulas (PS3.3 C.11.2.1.2, C.11.2.1.3) written out again
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR ", "", "LINEAR_EXACT", "SIGMOID", "NONSENSE"])
def test_window_functions(function: str) -> None:
    center, width = 2000.0, 1000.0
    image = read_image(_odd(WindowCenter="2000", WindowWidth="1000", VOILUTFunction=function))
    x = ramp().astype(np.float64)
    linear = np.clip(((x - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
    exact = np.clip(((x - center) / width + 0.5) * 255, 0, 255)
    sigmoid = 255 / (1 + np.exp(-4 * (x - center) / width))
    expected = {"LINEAR_EXACT": exact, "SIGMOID": sigmoid}.get(function, linear)
    assert np.abs(image.display() - expected).max() <= 0.5 + 1e-9
    assert any("VOI function" in text for text in image.warnings) is (function == "NONSENSE")


@pytest.mark.parametrize(("width", "usable"), [("0", False), ("-5", False), ("nan", False), ("1", True)])
def test_odd_widths(width: str, usable: bool) -> None:
    image = read_image(_odd(WindowCenter="2000", WindowWidth=width))
    assert len(image.windows) == usable
    if usable:
        np.testing.assert_array_equal(image.display(), np.where(ramp() > 1999.5, 255, 0))


# Row 7
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


# Row 8
def test_without_window_percentiles_inside_the_valid_area() -> None:
    values = ramp()
    values[:20] = TOP  # a fifth of the image is padding
    image = read_image(chest(values, PixelPaddingValue=TOP))
    low, high = np.percentile(values[20:][values[20:] < TOP], [0.5, 99.5])
    shown = image.display()
    expected = np.clip((values[20:] - low) / (high - low), 0, 1) * 255
    assert np.abs(shown[20:] - expected)[values[20:] < TOP].max() <= 1.5
    assert (shown[:20] == 0).all()


# Row 9
def test_garbage_above_the_stored_bits_is_masked() -> None:
    source = dataset()
    source.PixelData = (ramp().astype(np.uint16) | 0x8000).tobytes()
    np.testing.assert_array_equal(read_image(to_bytes(source)).pixels, ramp())


def test_high_bit_elsewhere_is_refused() -> None:
    refused(chest(HighBit=15), "unsupported", forcible=False)


# Row 10
def test_signed_with_and_without_extension() -> None:
    values = ramp(signed=True)
    np.testing.assert_array_equal(read_image(chest(values, signed=True)).pixels, values + 2048)
    source = dataset(values, signed=True)
    source.PixelData = (values & 0x0FFF).astype("<u2").tobytes()
    image = read_image(to_bytes(source))
    np.testing.assert_array_equal(image.pixels, values + 2048)
    np.testing.assert_allclose(image.scale * image.pixels + image.offset, values)


# Row 11
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


def test_padding_value_that_never_occurs() -> None:
    values = np.minimum(ramp(), 4000)
    assert read_image(chest(values, PixelPaddingValue=4090)).valid is None


# Row 12: test_oracle.py has the pixels of every syntax
@pytest.mark.parametrize("name", SYNTAXES)
def test_every_transfer_syntax_is_named(name: str) -> None:
    facts = read_image(rewrite(dataset(), name)).facts
    assert facts.transfer_syntax is not None and (facts.rows, facts.columns) == (72, 80)


def test_video_and_unknown_syntaxes_are_refused() -> None:
    for uid in ("1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.100", "1.2.3.4"):
        data = chest().replace(b"1.2.840.10008.1.2.1\0", uid.encode().ljust(20, b"\0")) if len(uid) < 20 else None
        source = dataset()
        source.file_meta.TransferSyntaxUID = uid
        if data is None:
            head = chest()
            start = head.index(b"\x02\x00\x10\x00UI")
            padded = uid.encode() + b"\0" * (len(uid) % 2)
            data = head[: start + 6] + len(padded).to_bytes(2, "little") + padded + head[start + 8 + 20 :]
        refused(data, "unsupported", forcible=False)


# Row 13
@pytest.mark.parametrize("frames", ["1", "0", ""])
def test_one_frame(frames: str) -> None:
    np.testing.assert_array_equal(read_image(_odd(NumberOfFrames=frames)).pixels, ramp())


@pytest.mark.parametrize("name", ["explicit-le", "jpeg-ls"])
def test_several_frames_need_a_number(name: str) -> None:
    from pydicom.encaps import encapsulate, generate_frames

    source, second = dataset(), TOP - ramp()
    if name == "explicit-le":
        source.PixelData += second.astype("<u2").tobytes()
        source.NumberOfFrames = 2
        data = to_bytes(source)
    else:
        from io import BytesIO

        import pydicom

        parts = [pydicom.dcmread(BytesIO(rewrite(dataset(values), name))) for values in (ramp(), second)]
        frames = [next(generate_frames(part.PixelData, number_of_frames=1)) for part in parts]
        merged = parts[0]
        merged.NumberOfFrames, merged.PixelData = 2, encapsulate(frames)
        data = to_bytes(merged)
    assert "--frame" in (refused(data, "multi_frame", forcible=False).hint or "")
    np.testing.assert_array_equal(read_image(data, frame=1).pixels, ramp())
    image = read_image(data, frame=2)
    np.testing.assert_array_equal(image.pixels, second)
    assert (image.facts.frames, image.facts.frame) == (2, 2)
    refused(data, "multi_frame", frame=3)


# Row 14
def test_pixel_data_missing_empty_or_short() -> None:
    refused(chest(PixelData=None), "no_pixels", forcible=False)
    refused(chest(PixelData=b""), "empty", forcible=False)
    short = dataset()
    short.PixelData = short.PixelData[:-100]
    refused(to_bytes(short), "truncated", forcible=False)
    refused(chest()[:-100], "truncated", forcible=False)
    for name in SYNTAXES:
        if name in ("rle", "deflated") or name.startswith(("jpeg", "htj2k")):
            data = rewrite(dataset(), name)
            refused(data[: len(data) - 300], "truncated")


# Row 15
def test_colour() -> None:
    grey = np.repeat((ramp() // 16)[..., None], 3, axis=2)
    for planar in (0, 1):
        stored = np.moveaxis(grey, -1, 0) if planar else grey
        extra = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": planar}
        source = dataset(grey, bits=8, **extra)
        source.PixelData = stored.astype(np.uint8).tobytes()
        image = read_image(to_bytes(source))
        np.testing.assert_array_equal(image.pixels, ramp() // 16)
        assert any("equal channels" in text for text in image.warnings)
        coloured = stored.copy()
        coloured.reshape(-1)[5] ^= 1
        source.PixelData = coloured.astype(np.uint8).tobytes()
        refused(to_bytes(source), "colour", forcible=False)


def test_grey_palette_is_expanded() -> None:
    source = dataset(ramp() // 16, bits=8, PhotometricInterpretation="PALETTE COLOR")
    for number, _ in enumerate(("Red", "Green", "Blue")):
        source.add_new(0x00281101 + number, "US", [256, 0, 16])
        source.add_new(0x00281201 + number, "OW", (np.arange(255, -1, -1) * 257).astype("<u2").tobytes())
    np.testing.assert_array_equal(read_image(to_bytes(source)).pixels, 255 - ramp() // 16)
    source.add_new(0x00281201, "OW", bytes(512))
    refused(to_bytes(source), "colour")


# Row 16
@pytest.mark.parametrize("modality", ["CT", "MR", "US", "MG", "PT", "NM", "XA", "RF", "IO", "DOE^JOHN"])
def test_other_modalities_are_refused_unless_forced(modality: str) -> None:
    error = refused(_odd(Modality=modality), "modality", forcible=True)
    assert "DOE" not in str(error)
    image = read_image(_odd(Modality=modality), force=True)
    assert image.facts.modality in (modality, "OTHER") and any("by force" in text for text in image.warnings)


def test_other_storage_classes_are_refused() -> None:
    refused(chest(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), "modality")  # CT image storage, though CR is stated


@pytest.mark.parametrize("modality", ["SC", "OT"])
def test_secondary_capture_warns(modality: str) -> None:
    image = read_image(chest(Modality=modality, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"))
    assert any("secondary capture" in text for text in image.warnings)


def test_for_processing_is_refused() -> None:
    refused(chest(Modality="DX", PresentationIntentType="FOR PROCESSING"), "for_processing", forcible=True)
    refused(chest(Modality="DX", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"), "for_processing", forcible=True)
    data = chest(Modality="DX", PresentationIntentType="FOR PRESENTATION", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1")
    assert read_image(data).facts.presentation_intent == "FOR PRESENTATION"


# Row 17
@pytest.mark.parametrize(
    ("part", "name"), [("CHEST", "CHEST"), ("THORAX", "THORAX"), ("chest ", "CHEST"), ("CHEST PA", "CHEST")]
)
def test_chest(part: str, name: str) -> None:
    assert read_image(_odd(BodyPartExamined=part)).facts.body_part == name


def test_other_body_parts() -> None:
    refused(chest(BodyPartExamined="HAND"), "body_part", forcible=True)
    image = read_image(chest(BodyPartExamined="DOE^JANE"), force=True)
    assert image.facts.body_part == "OTHER"
    image = read_image(chest(BodyPartExamined=None))
    assert image.facts.body_part is None and any("body part" in text for text in image.warnings)
    region = sequence(code("51185008", "SCT", "Chest"))
    assert read_image(chest(BodyPartExamined=None, AnatomicRegionSequence=region)).facts.body_part == "CHEST"
    region = sequence(code("85562004", "SCT", "Hand"))
    refused(chest(BodyPartExamined=None, AnatomicRegionSequence=region), "body_part")
    assert refused(sample_file("RG3_UNCI.dcm").read_bytes(), "body_part").forcible


# Row 18
@pytest.mark.parametrize(
    ("attributes", "view", "source"),
    [
        ({"ViewPosition": "AP"}, "AP", "ViewPosition"),
        ({"ViewPosition": None, "ViewCodeSequence": ("R-10214", "SRT", "postero-anterior")}, "PA", "ViewCodeSequence"),
        ({"ViewPosition": "", "ViewCodeSequence": ("399348003", "SCT", "x")}, "AP", "ViewCodeSequence"),
        ({"ViewPosition": "", "ViewCodeSequence": ("x", "99", "antero-posterior")}, "AP", "ViewCodeSequence"),
        ({"ViewPosition": None}, "frontal", "PatientOrientation"),
        ({"ViewPosition": None, "PatientOrientation": None}, "unknown", "none"),
        ({"ViewPosition": "LLD"}, "frontal", "ViewPosition"),
    ],
)
def test_views(attributes: dict[str, Any], view: str, source: str) -> None:
    if isinstance(attributes.get("ViewCodeSequence"), tuple):
        attributes = {**attributes, "ViewCodeSequence": sequence(code(*attributes["ViewCodeSequence"]))}
    image = read_image(chest(**attributes))
    assert (image.facts.view, image.facts.view_source) == (view, source)
    assert any("view" in text for text in image.warnings) is (view == "unknown" or attributes["ViewPosition"] == "LLD")


@pytest.mark.parametrize(
    "attributes",
    [
        {"ViewPosition": "LL"},
        {"ViewPosition": "RL"},
        {"ViewPosition": "LATERAL"},
        {"ViewPosition": None, "ViewCodeSequence": ("R-10236", "SRT", "left lateral")},
        {"ViewPosition": None, "ViewCodeSequence": ("x", "99", "lateral")},
        {"ViewPosition": None, "PatientOrientation": ["A", "F"]},
        {"ViewPosition": "RAO"},
    ],
)
def test_lateral_views_are_refused(attributes: dict[str, Any]) -> None:
    if isinstance(attributes.get("ViewCodeSequence"), tuple):
        attributes = {**attributes, "ViewCodeSequence": sequence(code(*attributes["ViewCodeSequence"]))}
    refused(chest(**attributes), "lateral", forcible=True)
    assert read_image(chest(**attributes), force=True).facts.view == "lateral"


# Row 19: the expected arrays are turned by hand
@pytest.mark.parametrize(
    ("stated", "stored"),
    [
        (["L", "F"], lambda upright: upright),
        (["R", "F"], lambda upright: upright[:, ::-1]),
        (["L", "H"], lambda upright: upright[::-1]),
        (["R", "H"], lambda upright: upright[::-1, ::-1]),
        (["F", "L"], lambda upright: upright.T),
        (["F", "R"], lambda upright: upright.T[::-1]),
        (["H", "L"], lambda upright: upright.T[:, ::-1]),
        (["H", "R"], lambda upright: upright.T[::-1, ::-1]),
    ],
)
def test_orientation_is_put_right_and_recorded(stated: list[str], stored: Any) -> None:
    upright = ramp()
    image = read_image(chest(np.ascontiguousarray(stored(upright)), PatientOrientation=stated))
    np.testing.assert_array_equal(image.pixels, upright)
    changed = stated != ["L", "F"]
    assert image.facts.orientation == "\\".join(stated) and bool(image.facts.rotated or image.facts.mirrored) is changed
    assert bool(image.warnings) is changed


def test_orientation_that_cannot_be_frontal() -> None:
    refused(chest(PatientOrientation=["L", "A"]), "orientation", forcible=True)
    refused(chest(PatientOrientation=["A", "F"]), "orientation", forcible=True)  # though ViewPosition says PA
    assert any("left and right" in text for text in read_image(chest(PatientOrientation=None)).warnings)
    flipped = chest(PatientOrientation=None, FieldOfViewHorizontalFlip="YES")
    assert any("flipped" in text for text in read_image(flipped).warnings)
    assert read_image(chest(FieldOfViewHorizontalFlip="YES")).warnings == ()  # the orientation already says it


# Row 20
@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({"PixelAspectRatio": ["2", "1"]}, (144, 80)),
        ({"PixelAspectRatio": ["1", "2"]}, (72, 160)),
        ({"ImagerPixelSpacing": ["0.2", "0.1"]}, (144, 80)),
        ({"PixelSpacing": ["0.1", "0.1005"]}, (72, 80)),
        ({"PixelSpacing": ["0.000", "0.000"]}, (72, 80)),
        ({"PixelAspectRatio": ["10000", "1"]}, (72, 80)),
    ],
)
def test_pixels_are_made_square(attributes: dict[str, Any], shape: tuple[int, int]) -> None:
    image = read_image(chest(**attributes))
    assert image.pixels.shape == shape and image.facts.resampled is (shape != (72, 80))
    assert (image.facts.rows, image.facts.columns) == (72, 80)
    assert abs(float(image.pixels.mean()) - ramp().mean()) < 25


# Row 21: the limits on the file and on codestreams are in test_hostile.py
def test_sizes() -> None:
    refused(chest(np.zeros((63, 200), np.int64)), "too_small", forcible=False)
    refused(chest(Rows=65535, Columns=65535), "too_large", forcible=False)
    refused(chest(Rows=0), "corrupt")


# Rows 22 and 23
@pytest.mark.parametrize(("stated", "fact"), [("YES", "yes"), ("NO", "no"), (None, "unknown")])
def test_burned_in_annotation(stated: str | None, fact: str) -> None:
    image = read_image(chest(**({"BurnedInAnnotation": stated} if stated else {})))
    assert image.facts.burned_in_annotation == fact
    assert any("identity" in text for text in image.warnings) is (fact == "yes")


def test_overlays_and_shutters_are_noted_not_drawn() -> None:
    source = dataset(ShutterShape="RECTANGULAR")
    source.add_new(0x60000010, "US", 72)
    source.add_new(0x60003000, "OW", bytes(720))
    image = read_image(to_bytes(source))
    np.testing.assert_array_equal(image.pixels, ramp())
    assert image.facts.overlays and image.facts.shutter and len(image.warnings) == 2


# Row 24
@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO 2022 IR 87", "GB18030", "NONSENSE", "\\ISO 2022 IR 6"])
def test_character_sets(charset: str) -> None:
    data = _odd(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Ö")
    data = data.replace(b"CS\x0a\x00ISO_IR 192", b"CS\x0a\x00" + charset.encode()[:10].ljust(10))
    np.testing.assert_array_equal(read_image(data).pixels, ramp())


# Row 25
@pytest.mark.parametrize("implicit", [False, True])
def test_no_preamble(implicit: bool) -> None:
    whole = to_bytes(dataset(), implicit=implicit)
    for data in (whole[132:], whole[whole.index(b"\x08\x00\x16\x00") :]):
        refused(data, "no_preamble", forcible=True)
        image = read_image(data, force=True)
        np.testing.assert_array_equal(image.pixels, ramp())
        assert any("preamble" in text for text in image.warnings)
    refused(b"\x08\x00", "not_an_image")


# Row 26
def test_dicomdir() -> None:
    from pydicom.data import get_testdata_file

    path = get_testdata_file("dicomdirtests/DICOMDIR", download=False)
    assert isinstance(path, str)
    with open(path, "rb") as file:  # noqa: PTH123
        refused(file.read(), "dicomdir", forcible=False)


# Rows 27 and 28: test_raster.py, test_privacy.py


def _odd(**attributes: Any) -> bytes:
    """A chest with values that pydicom would not let pass: written as raw bytes."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    source = dataset()
    for keyword, value in attributes.items():
        number = tag_for_keyword(keyword)
        assert number is not None
        data = value.encode() + b" " * (len(value.encode()) % 2)
        tag = Tag(number)
        source._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(data), data, 0, False, True)
    return to_bytes(source)
