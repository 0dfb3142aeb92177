"""Recipes of the paper's other encoders against the transforms that their authors publish, on PIL images."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode

from encoder.errors import LlavaRadError, ModelError
from encoder.preprocessing import RECIPES, Recipe, clip, dinov2, mrm, recipe_named
from encoder.resampling import centre_crop, interpolate
from tests.encoder.test_preprocessing import published_processor

OPENAI = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
SHAPES = [(1100, 800), (640, 901), (300, 403), (701, 702), (512, 449), (600, 600)]
NEW = ["clip-224", "clip-336", "dinov2-518", "biovil-t", "biomedclip", "chexzero", "mrm-448"]


def picture(shape: tuple[int, int], low: int = 0, high: int = 255) -> np.ndarray:
    rng = np.random.default_rng(shape[0])
    image = rng.integers(low, high + 1, shape, dtype=np.uint8)
    image[: shape[0] // 3] = np.linspace(low, high, shape[1]).astype(np.uint8)
    return image


def ours(name: str, image: np.ndarray) -> torch.Tensor:
    recipe = RECIPES[name]
    return recipe.normalise(recipe.apply(image, from_dicom=False)[None])[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "kind", "size", "levels"),
    [("clip-224", "clip", 224, OPENAI), ("clip-336", "clip", 336, OPENAI), ("dinov2-518", "bit", 518, IMAGENET)],
)
def test_clip_and_dinov2_are_hugging_faces_processors(
    name: str, kind: str, size: int, levels: tuple[list[float], list[float]], shape: tuple[int, int]
) -> None:
    image = picture(shape)
    processor = published_processor(size, kind, *levels)
    expected = processor(Image.fromarray(image).convert("RGB"), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(ours(name, image), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_biomedclip_is_open_clips_transform(shape: tuple[int, int]) -> None:
    open_clip = pytest.importorskip("open_clip")
    image = picture(shape)
    published = open_clip.image_transform(224, is_train=False, mean=OPENAI[0], std=OPENAI[1])
    torch.testing.assert_close(ours("biomedclip", image), published(Image.fromarray(image)), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (17, 203)])
@pytest.mark.parametrize("shape", SHAPES)
def test_biovil_t_is_hi_mls_transform(shape: tuple[int, int], low: int, high: int) -> None:
    """``load_image`` (minimum..maximum to 0..255, cut off) and ``create_chest_xray_transform_for_inference``."""
    image = picture(shape, low, high)
    remapped = image.astype(float)
    remapped -= remapped.min()
    remapped /= remapped.max()
    published = transforms.Compose([transforms.Resize(512), transforms.CenterCrop(448), transforms.ToTensor()])
    expected = published(Image.fromarray((remapped * 255).astype(np.uint8)).convert("L"))
    torch.testing.assert_close(ours("biovil-t", image), expected.expand(3, -1, -1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_mrm_is_its_test_transform(shape: tuple[int, int]) -> None:
    image = picture(shape)
    published = transforms.Compose(
        [
            transforms.Resize(448),
            transforms.CenterCrop((448, 448)),
            transforms.Grayscale(num_output_channels=3),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.4978], std=[0.2449]),
        ]
    )
    torch.testing.assert_close(ours("mrm-448", image), published(Image.fromarray(image)), rtol=0, atol=1e-6)


def chexzeros(image: np.ndarray) -> torch.Tensor:
    """``preprocess`` of data_process.py, then the transforms of zero_shot.py on float tensors (no antialiasing)."""
    pil = Image.fromarray(image).convert("RGB")
    ratio = 320 / max(pil.size)
    width, height = (int(x * ratio) for x in pil.size)
    square = Image.new("L", (320, 320))
    square.paste(pil.resize((width, height), Image.Resampling.LANCZOS), ((320 - width) // 2, (320 - height) // 2))
    tensor = torch.from_numpy(np.asarray(square).astype(np.float32)).expand(3, -1, -1)
    tensor = transforms.Normalize((101.48761,) * 3, (83.43944,) * 3)(tensor)
    resize = transforms.Resize(224, interpolation=InterpolationMode.BICUBIC, antialias=False)
    found: torch.Tensor = resize(tensor)
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_chexzero_is_its_own_pipeline_to_half_a_grey_level(shape: tuple[int, int]) -> None:
    """Ours is rounded to grey levels and kept within them; theirs overshoots at edges."""
    image = np.clip(picture(shape), 60, 190)
    expected = chexzeros(image) * 83.43944 + 101.48761
    found = ours("chexzero", image) * 83.43944 + 101.48761
    inside = (expected >= -1e-3) & (expected <= 255 + 1e-3)
    assert inside.float().mean() > 0.98
    assert (found - expected)[inside].abs().max() < 0.5 + 1e-3
    assert (found == found.round(decimals=3)).float().mean() > 0.1, "grey levels"


def test_interpolation_is_torchs() -> None:
    image = np.random.default_rng(5).integers(0, 256, (57, 57), dtype=np.uint8)
    for size in (20, 57, 131):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(image.astype(np.float64))[None, None], (size, size), mode="bicubic", align_corners=False
        )[0, 0]
        assert np.abs(interpolate(image, size) - expected.clamp(0, 255).numpy()).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("length", [448, 449, 450, 451, 453])
def test_centre_is_torchvisions_or_hugging_faces(length: int) -> None:
    image = np.random.default_rng(6).integers(0, 256, (length, 460), dtype=np.uint8)
    torchvisions = np.asarray(transforms.CenterCrop(448)(Image.fromarray(image)))
    assert np.array_equal(centre_crop(image, 448, "half-even"), torchvisions)
    top = (length - 448) // 2
    assert np.array_equal(centre_crop(image, 448), image[top : top + 448, 6:454])


@pytest.mark.parametrize("name", NEW)
def test_deep_images_use_the_whole_range(name: str) -> None:
    """12 and 16 bits, and DICOM of 8: minimum..maximum first, as every published pipeline starts from 8 bits."""
    rng = np.random.default_rng(7)
    deep = rng.integers(1000, 3000, (500, 700), dtype=np.uint16)
    deep[100:400, 200:500] = np.linspace(1000, 3000, 300).astype(np.uint16)
    recipe = RECIPES[name]
    eight = ((deep - 1000.0) * (255 / 2000) + (0 if name == "biovil-t" else 0.5)).astype(np.uint8)
    found, expected = recipe.apply(deep), recipe.apply(eight, from_dicom=False)
    assert np.abs(found.astype(int) - expected).max() <= 1
    narrow = (eight // 2 + 20).astype(np.uint8)
    assert (recipe.apply(narrow) != recipe.apply(narrow, from_dicom=False)).any() == (name != "biovil-t")


@pytest.mark.parametrize("name", NEW)
def test_new_recipes_survive_json(name: str) -> None:
    recipe = RECIPES[name]
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert json.loads(json.dumps(recipe.to_dict())) == recipe.to_dict(), "the pixel cache compares them"
    assert recipe_named(name) == recipe


def test_old_recipes_are_written_as_before() -> None:
    seven = ["name", "version", "size", "scaling", "mean", "std", "source"]
    for name in ("rad-dino", "rad-dino-224", "mimic-cxr-jpg"):
        assert list(RECIPES[name].to_dict()) == seven
    assert set(RECIPES["biovil-t"].to_dict()) == {*seven, "resize_to", "resampling", "margin"}
    assert set(RECIPES["chexzero"].to_dict()) == {*seven, "pad_to"}


@pytest.mark.parametrize(
    "change",
    [
        {"scaling": "guess"},
        {"resampling": "nearest"},
        {"margin": "up"},
        {"pad_to": "320"},
        {"resize_to": -1},
        {"mean": [0.1, 0.2]},
        {"std": ["a", "b", "c"]},
        {"size": 0},
    ],
)
def test_values_of_another_kind_are_refused(change: dict[str, Any]) -> None:
    data = RECIPES["clip-224"].to_dict() | {"name": "own"}
    Recipe.from_dict(data)
    with pytest.raises(ModelError, match=next(iter(change))):
        Recipe.from_dict(data | change)


def test_an_altered_recipe_under_a_known_name_is_refused() -> None:
    with pytest.raises(ModelError, match="differs"):
        Recipe.from_dict(RECIPES["biomedclip"].to_dict() | {"margin": "floor"})


def test_sizes_by_name() -> None:
    assert recipe_named("clip-28") == clip(28) and recipe_named("dinov2-224") == dinov2(224)
    assert recipe_named("mrm-224") == mrm(224) and recipe_named("mrm-224").resampling == "bilinear"
    for wrong in ("clip", "clip-", "biovil-t-224", "clip-5000", "mrm-x"):
        with pytest.raises(LlavaRadError, match="there is no recipe"):
            recipe_named(wrong)


def test_colours_have_their_own_levels() -> None:
    images = np.random.default_rng(8).integers(0, 256, (2, 14, 14), dtype=np.uint8)
    for found in (clip(14).normalise(images), clip(14).normalise(torch.from_numpy(images))):
        expected = (images[:, None] / 255 - np.array(OPENAI[0])[:, None, None]) / np.array(OPENAI[1])[:, None, None]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
