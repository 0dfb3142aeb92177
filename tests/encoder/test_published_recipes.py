"""Preparations of MAIRA-2 and LLaVA-Rad, against transformers' and open_clip's transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from encoder.preprocessing import RECIPES, recipe_named
from tests.encoder.backbones.test_baseline_recipes import OPENAI, picture
from tests.encoder.test_preprocessing import published_processor


@pytest.mark.parametrize("shape", [(640, 901), (700, 600)])
def test_maira_2_is_minimum_to_maximum_rounded_down_then_rad_dinos_processor(shape: tuple[int, int]) -> None:
    image = picture(shape, low=20, high=190)
    # minus the least, over the greatest, times 255, cut to whole numbers: the published preparation, by hand
    values = image.astype(float) - image.min()
    grey = (values / values.max() * 255).astype(np.uint8)
    expected = published_processor()(Image.fromarray(grey).convert("RGB"), return_tensors="pt").pixel_values[0]
    recipe = RECIPES["maira-2"]
    found = recipe.normalise(recipe.apply(image, from_dicom=False)[None])[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(640, 901), (701, 702)])
def test_llava_rad_is_open_clips_transform_of_a_picture(shape: tuple[int, int]) -> None:
    from open_clip.transform import image_transform

    image = picture(shape)
    transform = image_transform(518, is_train=False, mean=tuple(OPENAI[0]), std=tuple(OPENAI[1]))
    recipe = RECIPES["llava-rad-518"]
    found = recipe.normalise(recipe.apply(image, from_dicom=False)[None])[0]
    torch.testing.assert_close(found, transform(Image.fromarray(image)), rtol=1e-5, atol=1e-5)


def test_other_sizes_have_names_of_their_own() -> None:
    assert recipe_named("maira-2") == RECIPES["maira-2"]
    assert (recipe_named("maira-2-56").size, recipe_named("llava-rad-56").size) == (56, 56)
