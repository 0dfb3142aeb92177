"""Handling of DICOM files by docs/dicom.md, "Format" and "Content"."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from encoder.reader.sandbox_worker import read_image
from scripts.phantom.transfer_syntaxes import SYNTAXES, rewrite
from tests.encoder.dicom_files import (
    chest,
    code,
    dataset,
    odd,
    ramp,
    refused,
    sample_file,
    sequence,
    to_bytes,
)

TOP = 4095  # 12 bits


def test_plain_chest_has_no_warnings() -> None:
    image = read_image(chest())
    np.testing.assert_array_equal(image.pixels, ramp())
    assert image.warnings == () and image.pixels.dtype == np.uint16 and image.valid is None
    assert image.facts.view == "PA" and image.facts.body_part == "CHEST" and image.facts.modality == "CR"


# test_oracle.py compares the pixels of every syntax
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


@pytest.mark.parametrize("frames", ["1", "0", ""])
def test_one_frame(frames: str) -> None:
    np.testing.assert_array_equal(read_image(odd(NumberOfFrames=frames)).pixels, ramp())


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


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "MG", "PT", "NM", "XA", "RF", "IO", "DOE^JOHN"])
def test_other_modalities_are_refused_unless_forced(modality: str) -> None:
    error = refused(odd(Modality=modality), "modality", forcible=True)
    assert "DOE" not in str(error)
    image = read_image(odd(Modality=modality), force=True)
    assert image.facts.modality in (modality, "OTHER") and any("refusal overridden" in text for text in image.warnings)


def test_other_storage_classes_are_refused() -> None:
    refused(chest(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), "modality")  # CT image storage, though CR is stated


@pytest.mark.parametrize("modality", ["SC", "OT"])
def test_secondary_capture_warns(modality: str) -> None:
    image = read_image(chest(Modality=modality, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"))
    assert any("secondary capture" in text for text in image.warnings)


def test_for_processing_is_refused() -> None:
    refused(chest(Modality="DX", PresentationIntentType="FOR PROCESSING"), "for_processing", forcible=True)
    refused(chest(Modality="DX", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1.1"), "for_processing", forcible=True)
    for spelling in ("FOR_PROCESSING", "FORPROCESSING", "PROCESSING", "for processing", "FOR-PROCESSING"):
        refused(odd(Modality="DX", PresentationIntentType=spelling), "for_processing", forcible=True)
    data = chest(Modality="DX", PresentationIntentType="FOR PRESENTATION", SOPClassUID="1.2.840.10008.5.1.4.1.1.1.1")
    assert read_image(data).facts.presentation_intent == "FOR PRESENTATION"


@pytest.mark.parametrize(
    ("part", "name"), [("CHEST", "CHEST"), ("THORAX", "THORAX"), ("chest ", "CHEST"), ("CHEST PA", "CHEST")]
)
def test_chest(part: str, name: str) -> None:
    assert read_image(odd(BodyPartExamined=part)).facts.body_part == name


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
    ],
)
def test_lateral_views_are_refused(attributes: dict[str, Any]) -> None:
    if isinstance(attributes.get("ViewCodeSequence"), tuple):
        attributes = {**attributes, "ViewCodeSequence": sequence(code(*attributes["ViewCodeSequence"]))}
    refused(chest(**attributes), "lateral", forcible=True)
    assert read_image(chest(**attributes), force=True).facts.view == "lateral"


# the expected arrays are turned by hand
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
def test_orientation_is_corrected_and_recorded(stated: list[str], stored: Any) -> None:
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


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({"PixelAspectRatio": ["2", "1"]}, (144, 80)),
        ({"PixelAspectRatio": ["1", "2"]}, (72, 160)),
        ({"ImagerPixelSpacing": ["0.2", "0.1"]}, (144, 80)),
        ({"PixelSpacing": ["0.1", "0.1005"]}, (72, 80)),
        ({"PixelSpacing": ["0.000", "0.000"]}, (72, 80)),
        ({"PixelAspectRatio": ["10000", "1"]}, (72, 80)),
        ({"NominalScannedPixelSpacing": ["0.2", "0.1"]}, (144, 80)),
        ({"NominalScannedPixelSpacing": ["0.000", "0"], "PixelAspectRatio": ["2", "1"]}, (144, 80)),
        ({"ImagerPixelSpacing": ["1E-300", "1E300"], "PixelAspectRatio": ["2", "1"]}, (72, 80)),
    ],
)
def test_pixels_are_made_square(attributes: dict[str, Any], shape: tuple[int, int]) -> None:
    image = read_image(chest(**attributes))
    assert image.pixels.shape == shape and image.facts.resampled is (shape != (72, 80))
    assert (image.facts.rows, image.facts.columns) == (72, 80)
    assert abs(float(image.pixels.mean()) - ramp().mean()) < 25


@pytest.mark.parametrize(
    ("attributes", "shape", "contradicting"),
    [
        ({"ImagerPixelSpacing": ["0.2", "0.1"], "PixelAspectRatio": ["1", "1"]}, (144, 80), True),
        ({"NominalScannedPixelSpacing": ["0.2", "0.1"], "PixelAspectRatio": ["1", "1"]}, (144, 80), True),
        ({"PixelSpacing": ["0.2", "0.2"], "PixelAspectRatio": ["2", "1"]}, (72, 80), True),
        ({"PixelSpacing": ["0.2", "0.1"], "ImagerPixelSpacing": ["0.1", "0.1"]}, (144, 80), True),
        ({"ImagerPixelSpacing": ["0.1", "0.1"], "NominalScannedPixelSpacing": ["0.2", "0.1"]}, (72, 80), True),
        ({"PixelSpacing": ["0.2", "0.1"], "PixelAspectRatio": ["2", "1"]}, (144, 80), False),
        ({"PixelSpacing": ["0.14", "0.14"], "ImagerPixelSpacing": ["0.143", "0.143"]}, (72, 80), False),
    ],
)
def test_a_physical_spacing_outweighs_the_ratio(
    attributes: dict[str, Any], shape: tuple[int, int], contradicting: bool
) -> None:
    """PS3.3 C.7.6.3.1.7: the ratio is stated only if no physical spacing is; two of them tell with a warning."""
    image = read_image(chest(**attributes))
    assert image.pixels.shape == shape
    assert any("contradict each other" in text for text in image.warnings) is contradicting


def test_sizes_beyond_the_limits_are_refused() -> None:
    refused(chest(np.zeros((63, 200), np.int64)), "too_small", forcible=False)
    refused(chest(Rows=65535, Columns=65535), "too_large", forcible=False)
    refused(chest(Rows=0), "corrupt")


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


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO 2022 IR 87", "GB18030", "NONSENSE", "\\ISO 2022 IR 6"])
def test_character_sets(charset: str) -> None:
    data = odd(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Ö")
    data = data.replace(b"CS\x0a\x00ISO_IR 192", b"CS\x0a\x00" + charset.encode()[:10].ljust(10))
    np.testing.assert_array_equal(read_image(data).pixels, ramp())


@pytest.mark.parametrize("implicit", [False, True])
def test_no_preamble(implicit: bool) -> None:
    whole = to_bytes(dataset(), implicit=implicit)
    for data in (whole[132:], whole[whole.index(b"\x08\x00\x16\x00") :]):
        refused(data, "no_preamble", forcible=True)
        image = read_image(data, force=True)
        np.testing.assert_array_equal(image.pixels, ramp())
        assert any("preamble" in text for text in image.warnings)
    refused(b"\x08\x00", "not_an_image")


def test_dicomdir() -> None:
    from pydicom.data import get_testdata_file

    path = get_testdata_file("dicomdirtests/DICOMDIR", download=False)
    assert isinstance(path, str)
    with open(path, "rb") as file:  # noqa: PTH123
        refused(file.read(), "dicomdir", forcible=False)
