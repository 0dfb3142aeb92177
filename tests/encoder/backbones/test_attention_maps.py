"""Attention and correspondence maps, held to the formula and to what must be true of any image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from encoder.backbones import attention_maps as maps
from encoder.backbones.base import FrozenEncoder
from encoder.backbones.dinov2 import RadDino
from encoder.errors import ConfigError, LlavaRadError
from tests.encoder.dinov2_models import dinov2

SIDE, HEADS, WIDTH = 4, 2, 24


@pytest.fixture(scope="module")
def encoder() -> RadDino:
    return RadDino(dinov2(WIDTH, layers=3, heads=HEADS))


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 14 * SIDE, 14 * SIDE, generator=torch.Generator().manual_seed(1))


def test_attention_equals_softmax_of_query_times_key_from_the_published_weights(
    encoder: RadDino, pixels: torch.Tensor, tmp_path: Path
) -> None:
    encoder.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        hidden = encoder.model(pixels, output_hidden_states=True).hidden_states[-2]
    at = "encoder.layer.2."
    hidden = torch.nn.functional.layer_norm(
        hidden, (WIDTH,), weights[f"{at}norm1.weight"], weights[f"{at}norm1.bias"], encoder.model.config.layer_norm_eps
    )
    query, key = (
        hidden @ weights[f"{at}attention.attention.{name}.weight"].t() + weights[f"{at}attention.attention.{name}.bias"]
        for name in ("query", "key")
    )
    depth = WIDTH // HEADS
    found = maps.cls_attention(encoder, pixels)
    assert found.shape == (2, HEADS, SIDE, SIDE)
    for image in range(2):
        for head in range(HEADS):
            part = slice(head * depth, (head + 1) * depth)
            scores = key[image, :, part] @ query[image, 0, part] / depth**0.5
            expected = torch.softmax(scores, 0)[1:].view(SIDE, SIDE)
            torch.testing.assert_close(found[image, head], expected, rtol=1e-4, atol=1e-6)


def test_attention_equals_transformers_own(encoder: RadDino, pixels: torch.Tensor) -> None:
    eager = RadDino(dinov2(WIDTH, layers=3, heads=HEADS, attn_implementation="eager"))
    eager.model.load_state_dict(encoder.model.state_dict())
    with torch.no_grad():
        expected = eager.model(pixels, output_attentions=True).attentions[-1][:, :, 0, 1:]
    torch.testing.assert_close(maps.cls_attention(encoder, pixels).flatten(2), expected, rtol=1e-4, atol=1e-6)


def test_attention_of_another_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="DINOv2"):
        maps.cls_attention(FrozenEncoder(torch.nn.Linear(1, 1), "clip-224"), torch.zeros(1, 3, 14, 14))


@pytest.mark.parametrize("query", [(0, 0), (1, 3), (3, 2)])
def test_an_image_corresponds_to_itself_at_the_query(
    encoder: RadDino, pixels: torch.Tensor, query: tuple[int, int]
) -> None:
    patches = encoder(pixels).patches
    found = maps.correspondence(patches[0], patches[0], query)
    assert found.shape == (SIDE, SIDE)
    assert divmod(int(found.argmax()), SIDE) == query
    assert float(found.max()) == pytest.approx(1, abs=1e-5) and float(found.min()) < 0.999


def test_correspondence_by_hand() -> None:
    image_a = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [1.0, -1.0]])
    image_b = torch.tensor([[0.0, 5.0]]), torch.tensor([[-4.0, 0.0]])
    assert float(maps.correspondence(image_a, image_b[0], (0, 1))) == pytest.approx(1)
    assert float(maps.correspondence(image_a, image_b[1], (1, 0))) == pytest.approx(-(0.5**0.5))
    with pytest.raises(LlavaRadError, match="outside"):
        maps.correspondence(image_a, image_a, (2, 0))
    with pytest.raises(LlavaRadError, match="square"):
        maps.correspondence(image_a, image_a[:3], (0, 0))
    with pytest.raises(LlavaRadError, match="different encoders"):
        maps.correspondence(image_a, torch.ones(1, 3), (0, 0))


def test_the_cell_under_a_point() -> None:
    assert maps.cell_at(0, 0, 518, 37) == (0, 0)
    assert maps.cell_at(517.9, 13.9, 518, 37) == (0, 36)
    assert maps.cell_at(14, 28, 518, 37) == (2, 1)
    with pytest.raises(LlavaRadError):
        maps.cell_at(518, 0, 518, 37)


def test_brighter_is_more() -> None:
    colours = maps.coloured(np.linspace(0, 1, 200)[None])[0].astype(float)
    light = colours @ [0.299, 0.587, 0.114]
    assert (np.diff(light) >= 0).all() and light[0] == 0 and light[-1] > 240
    np.testing.assert_array_equal(maps.coloured(np.zeros((2, 2))), 0)
    np.testing.assert_array_equal(maps.coloured(np.array([[5.0]]), 0, 1), maps.coloured(np.array([[1.0]]), 0, 1))


def test_a_heat_map_shows_the_image_where_the_map_is_low() -> None:
    image = np.full((56, 56), 90, np.uint8)
    values = np.zeros((4, 4))
    values[3, 0] = 1
    picture = maps.heat_map(image, values, strength=1.0)
    assert picture.shape == (56, 56, 3)
    np.testing.assert_array_equal(picture[:20, 30:], 90)
    assert picture[55, 0].tolist() == [255, 255, 205]
    np.testing.assert_array_equal(maps.heat_map(image, values, strength=0.0), 90)


def test_the_top_of_a_map() -> None:
    values = np.arange(100.0).reshape(10, 10)
    low, high = maps.top_range(values, 0.1)
    assert high == 99 and int((values > low).sum()) == 10


def test_a_circle_marks_the_patch_and_leaves_its_argument() -> None:
    picture = np.zeros((56, 56, 3), np.uint8)
    marked = maps.circled(picture, (0, 3), 4)
    rows, columns = marked.any(2).nonzero()
    assert not picture.any() and rows.max() < 24 and columns.min() > 30


def test_sheet_and_png() -> None:
    from PIL import Image

    pictures = [np.full((10, 20, 3), level, np.uint8) for level in (10, 20, 30)]
    page = maps.sheet(pictures, 2, gap=4)
    assert page.shape == (24, 44, 3)
    assert (page[0, 0, 0], page[0, 24, 0], page[14, 0, 0], page[14, 24, 0]) == (10, 20, 30, 255)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(maps.png(page)))), page)
    with pytest.raises(LlavaRadError):
        maps.sheet([], 2)
