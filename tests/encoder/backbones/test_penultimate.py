"""Patches of the last layer but one: CLIP's against transformers' hidden states, timm's against its own blocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from encoder.backbones import clip, timm_vit
from encoder.backbones.loading import load_stored, load_vision
from encoder.backbones.registry import AFTER_NORM, LAST_LAYER, PENULTIMATE, STORED_KEY
from encoder.errors import ModelError

PIXELS = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def clip_model():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    return CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=56, patch_size=14)).eval()


def vit_model() -> torch.nn.Module:
    torch.manual_seed(2)
    sizes = {"img_size": 56, "patch_size": 14, "embed_dim": 64, "depth": 3, "num_heads": 1, "init_values": 0.5}
    return timm.create_model("vit_base_patch16_224", num_classes=0, **sizes).eval()


def timm_config() -> dict:
    config = timm_vit.describe(64, 3, 14, 56, "token")
    return config | {"model_args": config["model_args"] | {"init_values": 1e-5}, STORED_KEY: PENULTIMATE}


def test_clip_gives_the_hidden_states_before_the_last_layer(tmp_path: Path) -> None:
    model = clip_model()
    encoder = clip.Clip(model, "clip-56", PENULTIMATE)
    with torch.no_grad():
        expected = model(PIXELS, output_hidden_states=True)
    torch.testing.assert_close(encoder(PIXELS).patches, expected.hidden_states[-2][:, 1:])
    torch.testing.assert_close(encoder(PIXELS).cls, expected.pooler_output)
    encoder.save_pretrained(tmp_path)
    again = load_stored(tmp_path)
    assert again.features == PENULTIMATE
    assert torch.equal(again(PIXELS).patches, encoder(PIXELS).patches)


def test_clip_as_before_says_nothing_of_it(tmp_path: Path) -> None:
    encoder = clip.Clip(clip_model(), "clip-56")
    encoder.save_pretrained(tmp_path)
    assert STORED_KEY not in json.loads((tmp_path / "config.json").read_text())
    assert load_stored(tmp_path).features == LAST_LAYER


def test_timm_gives_the_output_of_the_block_before_the_last_without_norm(tmp_path: Path) -> None:
    model = vit_model()
    config = timm_config()
    encoder = timm_vit.build(config, model.state_dict(), "it", "llava-rad-56")
    outputs: list[torch.Tensor] = []
    model.blocks[-2].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        whole = model.forward_features(PIXELS)
    torch.testing.assert_close(encoder(PIXELS).patches, outputs[0][:, 1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder(PIXELS).cls, whole[:, 0], rtol=1e-5, atol=1e-5)
    encoder.save_pretrained(tmp_path)
    vision = load_vision(tmp_path, size=56, device="cpu", dtype=torch.float32, features=PENULTIMATE)
    assert torch.equal(vision(PIXELS).patches, encoder(PIXELS).patches)
    with pytest.raises(ModelError, match="the checkpoint is for"):
        load_vision(tmp_path, size=56, device="cpu", dtype=torch.float32, features=AFTER_NORM)


def test_an_output_that_a_family_does_not_give_is_refused() -> None:
    with pytest.raises(ModelError, match=STORED_KEY):
        timm_vit.build(timm_config() | {STORED_KEY: LAST_LAYER}, vit_model().state_dict(), "it", "llava-rad-56")
