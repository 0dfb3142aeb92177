"""Positions of crops: the paper's sides, torchvision's areas."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from encoder.pretraining.config import ModelConfig
from encoder.pretraining.crops import Box, by_area, by_side
from encoder.pretraining.vit import VisionTransformer

DRAWS = 2500
SIGNIFICANT = 1e-4  # seeds are fixed: a test that passes once passes always


def sides(height: int, width: int, scale: tuple[float, float], target: int, *, upsample: bool = True) -> list[Box]:
    rng = np.random.default_rng(0)
    return [by_side(rng, height, width, scale=scale, target=target, upsample=upsample) for _ in range(DRAWS)]


def areas(
    height: int,
    width: int,
    scale: tuple[float, float],
    *,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    target: int = 1,
    upsample: bool = True,
) -> list[Box]:
    rng = np.random.default_rng(0)
    return [
        by_area(rng, height, width, scale=scale, ratio=ratio, target=target, upsample=upsample) for _ in range(DRAWS)
    ]


def inside(boxes: list[Box], height: int, width: int) -> bool:
    return all(
        top >= 0 and left >= 0 and h > 0 and w > 0 and top + h <= height and left + w <= width
        for top, left, h, w in boxes
    )


@pytest.mark.parametrize(("scale", "low", "high"), [((0.5, 1.0), 259, 518), ((0.2, 0.5), 104, 259)])
@pytest.mark.parametrize("shape", [(518, 518), (518, 634), (700, 518)])
def test_sides_are_those_of_the_paper(scale: tuple[float, float], low: int, high: int, shape: tuple[int, int]) -> None:
    """RAD-DINO, appendix E.1: U(259, 518) and U(104, 259), both ends included."""
    boxes = sides(*shape, scale, 518)
    assert all(height == width for _, _, height, width in boxes) and inside(boxes, *shape)
    drawn = np.array([height for *_, height, _ in boxes])
    assert drawn.min() >= low and drawn.max() <= high
    uniform = stats.randint(low, high + 1)
    edges = np.linspace(low - 0.5, high + 0.5, 14)
    expected = np.diff(uniform.cdf(edges)) * DRAWS
    assert stats.chisquare(np.histogram(drawn, edges)[0], expected).pvalue > SIGNIFICANT
    few = np.histogram([height for *_, height, _ in sides(10, 10, (0.5, 1.0), 1)], np.arange(4.5, 11))[0]
    assert stats.chisquare(few).pvalue > SIGNIFICANT  # 5 to 10, the ends as often as the others


def test_places_are_uniform() -> None:
    """A crop of 5 in an image of 8 x 10 lies at each of 4 x 6 places equally often."""
    counts = Counter(box[:2] for box in sides(8, 10, (0.6, 0.65), 5))
    assert set(counts) == {(top, left) for top in range(4) for left in range(6)}
    assert stats.chisquare(list(counts.values())).pvalue > SIGNIFICANT


def test_a_side_that_must_not_be_enlarged() -> None:
    """U(196, 259) where the image reaches; never below the target, never beyond the image."""
    drawn = np.array([height for *_, height, _ in sides(518, 518, (0.2, 0.5), 196, upsample=False)])
    assert (drawn.min(), drawn.max()) == (196, 259)
    assert stats.kstest(drawn, stats.randint(196, 260).cdf).pvalue > SIGNIFICANT
    assert {box[2:] for box in sides(518, 600, (0.5, 1.0), 518, upsample=False)} == {(518, 518)}
    assert {box[2:] for box in sides(100, 90, (0.2, 0.5), 196, upsample=False)} == {(90, 90)}


@pytest.mark.parametrize("scale", [(0.2, 0.5), (0.05, 0.32)])
def test_area_fractions_are_uniform(scale: tuple[float, float]) -> None:
    """If every box fits, no refusal distorts the distribution of area or log aspect ratio."""
    boxes = np.array(areas(1000, 1000, scale), np.float64)
    shares = boxes[:, 2] * boxes[:, 3] / 1e6
    assert stats.kstest(shares, stats.uniform(scale[0], scale[1] - scale[0]).cdf).pvalue > SIGNIFICANT
    aspects = np.log(boxes[:, 3] / boxes[:, 2])
    assert stats.kstest(aspects, stats.uniform(np.log(3 / 4), np.log(16 / 9)).cdf).pvalue > SIGNIFICANT


@pytest.mark.parametrize(
    ("shape", "scale", "ratio"),
    [
        ((518, 518), (0.5, 1.0), (3 / 4, 4 / 3)),
        ((518, 640), (0.2, 0.5), (3 / 4, 4 / 3)),
        ((200, 90), (0.3, 1.0), (3 / 4, 4 / 3)),  # many boxes do not fit
        ((60, 120), (0.9, 1.0), (0.9, 1.9)),
    ],
)
def test_boxes_are_distributed_as_torchvisions(
    shape: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    image = torch.empty(1, *shape)
    torch.manual_seed(0)
    theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(DRAWS)])
    ours = np.array(areas(*shape, scale, ratio=ratio))
    assert inside([tuple(box) for box in ours.tolist()], *shape)
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column], method="asymp").pvalue > SIGNIFICANT
    products = [boxes[:, 2] * boxes[:, 3] for boxes in (ours, theirs)]
    quotients = [boxes[:, 3] / boxes[:, 2] for boxes in (ours, theirs)]
    assert stats.ks_2samp(*products, method="asymp").pvalue > SIGNIFICANT
    assert stats.ks_2samp(*quotients, method="asymp").pvalue > SIGNIFICANT


@pytest.mark.parametrize("shape", [(10, 400), (400, 10), (300, 301), (1, 1), (7, 2)])
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (0.5, 0.6), (3.0, 4.0)])
def test_the_fallback_is_torchvisions(shape: tuple[int, int], ratio: tuple[float, float]) -> None:
    """No box of twice the image's area fits, so that only the fallback is left."""
    theirs = RandomResizedCrop.get_params(torch.empty(1, *shape), [2.0, 2.0], list(ratio))
    assert set(areas(*shape, (2.0, 2.0), ratio=ratio)[:5]) == {tuple(theirs)}


@pytest.mark.parametrize("shape", [(518, 518), (518, 700), (150, 400), (400, 150), (100, 100), (400, 90), (90, 400)])
def test_an_area_that_must_not_be_enlarged(shape: tuple[int, int]) -> None:
    """Neither height nor width below the target, unless the image's is; also after the fallback."""
    height, width = shape
    for scale in ((0.01, 0.5), (2.0, 2.0)):
        boxes = areas(height, width, scale, target=196, upsample=False)[:500]
        assert inside(boxes, height, width)
        assert min(box[2] for box in boxes) >= min(196, height)
        assert min(box[3] for box in boxes) >= min(196, width)
    small = areas(518, 518, (0.01, 0.5), target=196)
    assert min(min(box[2:]) for box in small) < 100  # what was prevented


def test_local_crops_have_the_positions_of_transformers_and_within_a_quarter_patch_those_of_dinov2() -> None:
    """Find the place on the grid of 37 x 37 at which each of 14 x 14 patches reads: embeddings are their own rows.

    Without an offset, patch i reads at (i + 1/2) 37 / 14 - 1/2. DINOv2 (``interpolate_offset: 0.1``) asks for a grid of
    14.1, and reads at (i + 1/2) 37 / 14.1 - 1/2.
    """
    from transformers import Dinov2Config
    from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 518, "patch_size": 14}
    vit, theirs = VisionTransformer(ModelConfig(**size)), Dinov2Embeddings(Dinov2Config(**size))
    rows = torch.arange(37.0).repeat_interleave(37)[:, None].expand(-1, 8)
    with torch.no_grad():
        vit.pos_embed.copy_(torch.cat([torch.zeros(1, 8), rows])[None])
        theirs.position_embeddings.copy_(vit.pos_embed)
        ours = vit._positions(14, 14)
        assert torch.equal(ours, theirs.interpolate_pos_encoding(torch.zeros(1, 197, 8), 196, 196))
        grid = vit.pos_embed[:, 1:].reshape(1, 37, 37, 8).permute(0, 3, 1, 2)
        dinov2 = torch.nn.functional.interpolate(grid, scale_factor=(14.1 / 37, 14.1 / 37), mode="bicubic")
    read, of_dinov2 = ours[0, 1:, 0].view(14, 14)[:, 7], dinov2[0, 0, :, 7]
    inner = np.arange(1, 13)  # of the outer ones, the kernel reaches beyond the grid
    np.testing.assert_allclose(read[inner], (inner + 0.5) * 37 / 14 - 0.5, atol=0.06)  # torch's kernel bends a ramp
    np.testing.assert_allclose(of_dinov2[inner], (inner + 0.5) * 37 / 14.1 - 0.5, atol=0.06)
    assert 0.15 < float((read - of_dinov2)[12]) < 0.35, "12.5 (37 / 14 - 37 / 14.1) = 0.23"
