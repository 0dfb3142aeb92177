"""Recipes against Hugging Face's own processor, OpenCV, and fixed hashes on the real radiograph RG1."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.errors import LlavaRadError, ModelError
from encoder.preprocessing import RECIPES, Recipe, rad_dino, recipe_named
from encoder.resampling import equalize

pytestmark = pytest.mark.acceptance(row=7)

# SHA-256 of the float32 tensor [1, 3, S, S] made of RG1 (MONOCHROME1 inverted by 32767 - x). The images behind them
# agree with Hugging Face's processor and OpenCV in the tests below; the hashes pin them from one version to the next.
GOLDEN = {
    "rad-dino": "ec764b4860c40a7e5daf523c1385cc114f60dfdded50f33b792f687f9f2e30d1",
    "rad-dino-224": "a69a7268a4df334f2cbe998209a996c6e4d6be9169912f46cae392738659d238",
    "mimic-cxr-jpg": "d33425a582458b30a7e252c3c53038430799a607d2b08458786e8f82e113c66d",
}


@pytest.fixture(scope="module")
def rg1() -> np.ndarray:
    """RG1 as uint16 [1955, 1841], bone bright: read here without the project's reader."""
    import data_store
    import pydicom

    dataset = pydicom.dcmread(Path(data_store.__file__).parent / "data" / "RG1_UNCI.dcm")
    assert dataset.PhotometricInterpretation == "MONOCHROME1" and dataset.BitsStored == 15
    return (32767 - dataset.pixel_array.astype(np.int32)).astype(np.uint16)


def published_processor(size: int = 518, kind: str = "bit", mean: object = (0.5307,) * 3, std: object = (0.2583,) * 3):
    """A published preprocessor_config.json with the Pillow backend; by default that of ``microsoft/rad-dino``."""
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return {"bit": BitImageProcessorPil, "clip": CLIPImageProcessorPil}[kind](
        do_resize=True,
        size={"shortest_edge": size},
        resample=3,
        do_center_crop=True,
        crop_size={"height": size, "width": size},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(mean),
        image_std=list(std),
        do_convert_rgb=True,
    )


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_tensor(name: str, rg1: np.ndarray) -> None:
    recipe = RECIPES[name]
    tensor = recipe.normalise(recipe.apply(rg1)[None])
    assert tensor.shape == (1, 3, recipe.size, recipe.size)
    assert hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest() == GOLDEN[name]


@pytest.mark.parametrize("shape", [(700, 518), (518, 700), (518, 518), (518, 519)])
def test_a_prepared_picture_goes_through_as_the_published_processor_takes_it(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    picture[0, 0], picture[0, 1] = 0, 255
    expected = published_processor()(Image.fromarray(picture).convert("RGB"), return_tensors="pt").pixel_values
    recipe = RECIPES["rad-dino"]
    assert (recipe.normalise(recipe.apply(picture, from_dicom=False)[None]) - expected).abs().max() == 0


@pytest.mark.parametrize("shape", [(1100, 800), (640, 901), (300, 400)])
def test_mimic_cxr_jpg_picture_is_resized_as_the_published_processor_does(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    expected = published_processor()(Image.fromarray(picture).convert("RGB"), return_tensors="pt").pixel_values
    recipe = RECIPES["mimic-cxr-jpg"]
    assert (recipe.normalise(recipe.apply(picture, from_dicom=False)[None]) - expected).abs().max() == 0


def test_rad_dino_order_is_resize_then_minimum_maximum_then_crop(rg1: np.ndarray) -> None:
    height, width = rg1.shape
    resized = np.asarray(
        Image.fromarray(rg1.astype(np.float32)).resize((518, int(518 * height / width)), Image.Resampling.BICUBIC),
        dtype=np.float64,
    )
    scaled = np.floor((resized - resized.min()) / (resized.max() - resized.min()) * 255 + 0.5)
    top = (scaled.shape[0] - 518) // 2
    difference = np.abs(RECIPES["rad-dino"].apply(rg1).astype(float) - scaled[top : top + 518])
    # float32 against float64 may round a value at the half the other way
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_resize_is_the_recipe_without_its_crop(name: str, rg1: np.ndarray) -> None:
    recipe = RECIPES[name]
    resized = recipe.resize(rg1)
    height, width = rg1.shape  # 1955 x 1841
    side = {"biovil-t": 512}.get(name, recipe.size)
    assert recipe.side == side
    assert resized.shape == ((side, side) if recipe.pad_to else (int(side * height / width), side))
    assert np.array_equal(recipe.crop(resized), recipe.apply(rg1))
    top, left = (resized.shape[0] - recipe.size) / 2, (resized.shape[1] - recipe.size) // 2
    top = round(top) if recipe.margin == "half-even" else int(top)
    assert np.array_equal(resized[top : top + recipe.size, left : left + recipe.size], recipe.apply(rg1))


@pytest.mark.parametrize("size", [56, 224, 336, 448, 518])
def test_rad_dino_at_any_size_is_torchvisions_bicubic_resize_then_minimum_maximum(size: int, rg1: np.ndarray) -> None:
    import torch
    from torchvision.transforms.v2 import functional

    recipe = rad_dino(size)
    image = torch.from_numpy(rg1.astype(np.float32))[None]
    resized = functional.resize(image, [size], functional.InterpolationMode.BICUBIC, antialias=True)[0]
    low, high = resized.min(), resized.max()
    expected = ((resized - low) / (high - low) * 255).numpy()
    ours = recipe.resize(rg1)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 0.51, "the nearest grey level"
    assert (ours.min(), ours.max()) == (0, 255)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_resize_of_16_bit_values_does_not_saturate() -> None:
    ramp = np.linspace(0, 65535, 600 * 700).reshape(600, 700).astype(np.uint16)
    levels = np.bincount(RECIPES["rad-dino"].resize(ramp).ravel(), minlength=256) / (518 * 604)
    assert levels[1:-1].min() > 0.7 / 255
    assert levels.max() < 1.3 / 255


def test_equalisation_is_opencvs(rg1: np.ndarray) -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(2)
    for image in (
        (rg1 >> 7).astype(np.uint8),
        rng.integers(90, 130, (97, 101), dtype=np.uint8),
        np.full((70, 80), 7, np.uint8),
        np.array([[0, 255], [255, 255]], np.uint8),
    ):
        np.testing.assert_array_equal(equalize(image), cv2.equalizeHist(image))


def test_polarity_and_side_survive(rg1: np.ndarray) -> None:
    image = RECIPES["rad-dino"].apply(rg1)
    mirrored = RECIPES["rad-dino"].apply(np.ascontiguousarray(rg1[:, ::-1]))
    assert image[250:300, 250:280].mean() > image[200:260, 110:160].mean()  # mediastinum brighter than lung
    assert np.abs(mirrored[:, ::-1].astype(int) - image).mean() < 1


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_constant_image_is_black_and_finite(name: str) -> None:
    recipe = RECIPES[name]
    image = recipe.apply(np.full((600, 700), 1234, np.uint16))
    assert image.shape == (recipe.size, recipe.size) and len(np.unique(image)) == 1
    assert bool(recipe.normalise(image[None]).isfinite().all())


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_padding_does_not_set_the_range(name: str) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(1000, 2000, (600, 600), dtype=np.uint16)
    valid = np.ones(pixels.shape, bool)
    valid[:, :50] = False
    padded = pixels.copy()
    padded[~valid] = 60000
    with_padding = RECIPES[name].apply(padded, valid)
    darkest = pixels.copy()
    darkest[~valid] = pixels[valid].min()
    np.testing.assert_array_equal(with_padding, RECIPES[name].apply(darkest))


def test_input_is_left_alone() -> None:
    pixels = np.random.default_rng(4).integers(0, 4096, (600, 640), dtype=np.uint16)
    valid = pixels > 100
    before = pixels.copy()
    for recipe in RECIPES.values():
        recipe.apply(pixels, valid)
    np.testing.assert_array_equal(pixels, before)


def test_recipe_round_trip_and_refusals() -> None:
    recipe = RECIPES["rad-dino"]
    data = recipe.to_dict()
    assert Recipe.from_dict(data) == recipe
    with pytest.raises(ModelError, match="size"):
        Recipe.from_dict({key: value for key, value in data.items() if key != "size"})
    with pytest.raises(ModelError, match="extra"):
        Recipe.from_dict(data | {"extra": 1})
    with pytest.raises(ModelError, match="differs"):
        Recipe.from_dict(data | {"mean": 0.5})
    own = dataclasses.replace(recipe, name="mine", mean=0.5)
    assert Recipe.from_dict(own.to_dict()) == own


def test_recipes_by_name() -> None:
    assert recipe_named("mimic-cxr-jpg") is RECIPES["mimic-cxr-jpg"]
    assert recipe_named("rad-dino-448") == rad_dino(448) and recipe_named("rad-dino-448").size == 448
    for wrong in ("rad-dino-", "rad-dino-x", "rad-dino-4", "rad-dino-99999", "clip"):
        with pytest.raises(LlavaRadError, match="there is no recipe") as caught:
            recipe_named(wrong)
        assert caught.value.hint is not None and "rad-dino-SIZE" in caught.value.hint
    with pytest.raises(ModelError, match="do not state its preprocessing recipe"):
        recipe_named("")


def test_tensors_are_normalised_as_arrays_are() -> None:
    import torch

    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28)).astype(np.uint8)
    recipe = RECIPES["rad-dino"]
    expected = (images[:, None].astype(np.float64) / 255 - 0.5307) / 0.2583
    for found in (recipe.normalise(images), recipe.normalise(torch.from_numpy(images))):
        assert found.shape == (2, 3, 28, 28)
        np.testing.assert_allclose(found.numpy(), np.repeat(expected, 3, axis=1), rtol=1e-5, atol=1e-6)
