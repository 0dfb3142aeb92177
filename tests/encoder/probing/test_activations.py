"""Activations of four depths, and maps of them."""

from __future__ import annotations

import pytest
import torch

from encoder.backbones.clip import Clip
from encoder.backbones.dinov2 import RadDino
from encoder.backbones.timm_vit import TimmVit
from encoder.errors import ConfigError
from encoder.probing.vectors import activations, as_maps
from tests.encoder.dinov2_models import dinov2, random_, timm_vit
from tests.encoder.probing.toy import Patches


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def test_dinov2_after_blocks_2_4_6_and_8_of_8_and_the_final_norm(pixels: torch.Tensor) -> None:
    encoder = RadDino(dinov2(layers=8))
    with torch.no_grad():
        hidden = encoder.model(pixels, output_hidden_states=True).hidden_states  # the embedding comes first
        expected = [encoder.model.layernorm(hidden[block])[:, 1:] for block in (2, 4, 6, 8)]
    hooks = len(encoder.model.encoder.layer[1]._forward_hooks)  # transformers has one of its own
    found = activations(encoder, pixels)
    assert len(found) == 4
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(found[-1], encoder(pixels).patches)
    assert len(encoder.model.encoder.layer[1]._forward_hooks) == hooks


def test_one_activation_is_the_encoders_own(pixels: torch.Tensor) -> None:
    encoder = RadDino(dinov2(layers=2))
    (only,) = activations(encoder, pixels, 1)
    assert torch.equal(only, encoder(pixels).patches)


def test_a_timm_transformer(pixels: torch.Tensor) -> None:
    network = random_(timm_vit(layers=4))
    encoder = TimmVit(network, "mrm-448", {"global_pool": "token"})
    with torch.no_grad():
        expected = network.forward_intermediates(
            pixels, indices=4, norm=True, output_fmt="NLC", intermediates_only=True
        )
    for one, other in zip(activations(encoder, pixels), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_clip_without_its_final_norm_which_its_patches_do_not_have_either(pixels: torch.Tensor) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14
    )
    encoder = Clip(random_(CLIPVisionModel(config)), "clip-224")
    with torch.no_grad():
        hidden = encoder.model(pixels, output_hidden_states=True).hidden_states
    for one, other in zip(activations(encoder, pixels, 2), (hidden[2], hidden[4]), strict=True):
        torch.testing.assert_close(one, other[:, 1:])


def test_an_encoder_without_blocks_has_its_patches_only() -> None:
    pixels = torch.randn(2, 3, 64, 64)
    assert activations(Patches(), pixels, 1)[0].shape == (2, 256, 16)
    with pytest.raises(ConfigError, match="no transformer blocks"):
        activations(Patches(), pixels)


def test_too_few_blocks(pixels: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="3 blocks"):
        activations(RadDino(dinov2(layers=3)), pixels)


def test_patches_lie_row_by_row() -> None:
    patches = torch.arange(18.0).view(1, 9, 2)
    maps = as_maps(patches)
    assert maps.shape == (1, 2, 3, 3) and maps[0, :, 1, 2].tolist() == [10, 11]  # row 1, column 2 is token 5
    with pytest.raises(ConfigError, match="square"):
        as_maps(patches[:, :8])
