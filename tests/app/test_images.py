"""Stored pixels: the model gets the same input as from the file; window presets follow DICOM."""

from __future__ import annotations

import base64
import gzip
import io
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.images import ImageFolder, Preview, presets, preview
from encoder.errors import LlavaRadError
from encoder.preprocessing import recipe_named
from encoder.reader.radiograph import ImageFacts, Radiograph, Window
from encoder.reader.sandbox import Reader
from llava_rad.generation.sources import example


def state_of(folder: ImageFolder, image: Radiograph) -> dict[str, object]:
    return {
        "image": folder.keep(image),
        "facts": image.facts.to_dict(),
        "warnings": list(image.warnings),
        "sha256": image.sha256,
    }


def drawn(**changes: object) -> Radiograph:
    pixels = np.arange(256 * 256, dtype=np.uint32).reshape(256, 256).astype(np.uint16)
    return replace(Radiograph(pixels, None, ImageFacts("dicom", 256, 256), ()), **changes)  # type: ignore[arg-type]


def test_the_model_gets_what_the_reader_would_have_prepared(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path / "images")
    with Reader() as reader:
        image = reader.read(example())
        for name in ("rad-dino-224", "mimic-cxr-jpg", "chexzero"):
            recipe = recipe_named(name)
            expected, found = reader.prepare(example(), recipe), folder.prepared(state_of(folder, image), recipe)
            assert np.array_equal(found.pixels, expected.pixels), name
            assert (found.facts, found.warnings, found.sha256) == (expected.facts, expected.warnings, expected.sha256)


def test_padding_is_treated_as_by_the_reader(tmp_path: Path) -> None:
    valid = np.ones((256, 256), np.bool_)
    valid[:, :37] = False
    image, recipe = drawn(valid=valid), recipe_named("rad-dino-224")
    folder = ImageFolder(tmp_path / "images")
    found = folder.prepared(state_of(folder, image), recipe).pixels
    assert np.array_equal(found, recipe.apply(image.pixels, valid))
    assert not np.array_equal(found, recipe.apply(image.pixels))


def test_files_are_private_and_named_at_random(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path / "images")
    kept = folder.keep(drawn())
    assert stat.S_IMODE((tmp_path / "images").stat().st_mode) == 0o700
    files = list((tmp_path / "images").iterdir())
    assert sorted(path.name.partition(".")[2] for path in files) == ["1024.jpg", "96.jpg", "u16"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert folder.file(kept).stat().st_size == 2 * 256 * 256
    assert folder.keep(drawn())["id"] != kept["id"]
    folder.file(kept).unlink()
    with pytest.raises(LlavaRadError, match="no longer"):
        folder.file(kept)


@pytest.mark.parametrize("monochrome1", [False, True])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_presets_display_as_the_files_window_does(function: str, monochrome1: bool) -> None:
    scale = -0.5 if monochrome1 else 0.5
    window = Window(function, 9000.0, 7000.0)  # type: ignore[arg-type]
    image = drawn(windows=(window,), scale=scale, offset=25000.0 if monochrome1 else 100.0, monochrome1=monochrome1)
    (first, automatic, full) = presets(image)
    levels = np.arange(65536.0)
    place = (levels - first["center"]) / first["width"]
    shown = 1 / (1 + np.exp(-4 * place)) if first["kind"] == "sigmoid" else np.clip(place + 0.5, 0, 1)
    assert np.abs(np.floor(255 * shown + 0.5) - image.display(0).ravel()).max() <= 1
    assert (automatic["label"], full["label"]) == ("automatic", "full range")
    assert (full["center"], full["width"]) == (32767.5, 65535.0)


def test_a_lookup_table_becomes_a_table_of_all_pixel_values() -> None:
    lut = np.array([0, 40, 200, 255], np.uint16)
    image = drawn(windows=(Window("LUT", lut=lut, first=10, maximum=255),))
    table = np.frombuffer(base64.b64decode(presets(image)[0]["table"]), np.uint8)
    assert table[[0, 10, 11, 12, 13, 60000]].tolist() == [0, 0, 40, 200, 255, 255]


def test_without_windows_the_central_99_percent_are_displayed() -> None:
    low, high = 0.005 * 65536, 0.995 * 65536
    first = presets(drawn())[0]
    assert first["label"] == "automatic"
    assert first["center"] == pytest.approx((low + high) / 2, abs=2)
    assert first["width"] == pytest.approx(high - low, abs=2)


def shown(preview: Preview) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(preview.content)) as image:
        assert (image.format, image.mode) == ("JPEG", "L")
        return np.asarray(image)


def test_a_preview_is_linear_between_the_values_that_it_states() -> None:
    ramp = np.tile(np.linspace(1000, 21000, 2000).astype(np.uint16), (1000, 1))
    made = preview(ramp, 1024)
    found = shown(made)
    assert found.shape == (512, 1024) and len(made.content) <= 150_000
    assert made.low == pytest.approx(1020, abs=50) and made.high == pytest.approx(20980, abs=50)
    values = made.low + found[256] / 255 * (made.high - made.low)
    assert np.abs(values - np.linspace(1000, 21000, 1024)).max() < 150, "less than two grey levels"


def test_one_hot_pixel_does_not_flatten_a_preview() -> None:
    pixels = np.random.default_rng(0).integers(0, 1000, (400, 400)).astype(np.uint16)
    pixels[0, 0] = 65535
    assert preview(pixels, 512).high < 1100
    assert shown(preview(pixels, 512)).shape == (400, 400), "small images are not enlarged"


@pytest.mark.parametrize("value", [0, 77, 65535])
def test_a_constant_image_has_a_preview(value: int) -> None:
    made = preview(np.full((100, 80), value, np.uint16), 96)
    assert made.low == value and made.high == value + 1 and shown(made).max() == 0


def test_noise_stays_below_the_largest_preview() -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (2048, 2048)).astype(np.uint16)
    assert len(preview(noise, 1024).content) < 450_000, "noise is the worst case; a film has a third of it"


def test_the_first_picture_of_a_film_is_sent_in_a_tenth_of_a_second_at_10_mbit(tmp_path: Path) -> None:
    with Reader() as reader:
        image = reader.read(example())
    folder = ImageFolder(tmp_path / "images")
    kept = folder.keep(image)
    first, again = folder.preview(kept, 1024), folder.preview(kept, 1024)
    assert first == again and len(first.content) < 125_000
    assert len(folder.preview(kept, 96).content) < 5_000
    assert {path.suffix for path in (tmp_path / "images").iterdir()} == {".u16", ".jpg"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "images").iterdir()} == {0o600}


def test_planes_are_the_pixels_high_bytes_first(tmp_path: Path) -> None:
    folder, image = ImageFolder(tmp_path / "images"), drawn()
    planes = np.frombuffer(gzip.decompress(folder.planes(folder.keep(image))), np.uint8).reshape(2, 256, 256)
    assert np.array_equal(planes[0].astype(np.uint16) << 8 | planes[1], image.pixels)
