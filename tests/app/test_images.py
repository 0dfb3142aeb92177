"""Stored pixels: the model gets the same input as from the file; window presets follow DICOM."""

from __future__ import annotations

import base64
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.images import ImageFolder, presets
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
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "images").iterdir()] == [0o600]
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
