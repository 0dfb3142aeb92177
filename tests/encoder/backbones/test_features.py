"""Each encoder's features against an independent composition of the same weights, and against what it stores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from encoder.backbones.base import Features, FrozenEncoder, image_tokens
from encoder.backbones.loading import load_encoder, load_stored, load_vision
from encoder.backbones.registry import AFTER_NORM, GRID, LAST_LAYER
from tests.encoder.backbones import published


def pixels(size: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def same(found: Features, cls: torch.Tensor, patches: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert found.patches.std() > 0.01, "features that say something"
    torch.testing.assert_close(found.cls, cls, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.patches, patches, rtol=tolerance, atol=tolerance)


def check_interface(encoder: FrozenEncoder, size: int, tokens: int, width: int) -> None:
    found = encoder(pixels(size).requires_grad_())
    assert found.cls.shape == (2, width) and found.patches.shape == (2, tokens, width)
    assert encoder.width == width and image_tokens(encoder, size) == tokens
    assert not found.patches.requires_grad and not found.cls.requires_grad
    encoder.train()
    assert not encoder.training and not encoder.model.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def check_stored(encoder: FrozenEncoder, folder: Path, size: int, features: str) -> None:
    """A stored encoder is safetensors and config.json, and gives the same features without the original file."""
    encoder.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    again = load_stored(folder)
    assert type(again) is type(encoder) and again.recipe == encoder.recipe and encoder.features == features
    images = pixels(size)
    for one, other in zip(encoder(images), again(images), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    fast = load_vision(folder, size=size, device="cpu", dtype=torch.float32, features=encoder.features)
    torch.testing.assert_close(fast(images).patches, encoder(images).patches, rtol=0, atol=0)
    half = load_vision(folder, size=size, device="cpu", dtype=torch.bfloat16, features=encoder.features)
    assert half(images).patches.dtype == torch.bfloat16
    whole = encoder(images).patches
    assert (half(images).patches.float() - whole).norm() < 0.05 * whole.norm()
    assert load_encoder(folder).recipe == encoder.recipe, "the encoder of a checkpoint can be taken again"


@pytest.mark.parametrize("pickled", [False, True])
def test_clip(pickled: bool, tmp_path: Path) -> None:
    encoder = load_encoder(published.clip_folder(tmp_path / "clip", pickled=pickled, size=56))
    model = published.clip_model(size=56)
    with torch.no_grad():
        output = model.vision_model(pixels(56))
        # the path of get_image_features: pooled, then projected
        pooled = model.get_image_features(pixels(56))
        pooled = getattr(pooled, "pooler_output", pooled)
    found = encoder(pixels(56))
    same(found, output.pooler_output, output.last_hidden_state[:, 1:])
    torch.testing.assert_close(model.visual_projection(found.cls), pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.cls, model.vision_model.post_layernorm(output.last_hidden_state[:, 0]))
    assert encoder.recipe == "clip-56"
    check_interface(encoder, 56, 16, 64)
    check_interface(encoder, 84, 36, 64)  # positions interpolated
    check_stored(encoder, tmp_path / "stored", 56, LAST_LAYER)
    names = set(load_file(tmp_path / "stored" / "model.safetensors"))
    assert "vision_model.encoder.layers.1.self_attn.q_proj.weight" in names
    assert all(name.startswith("vision_model.") for name in names) and len(names) == 7 + 16 * 2


def test_clip_of_other_sizes_interpolates_as_transformers_does(tmp_path: Path) -> None:
    encoder = load_encoder(published.clip_folder(tmp_path / "clip", size=56))
    model = published.clip_model(size=56).vision_model
    with torch.no_grad():
        expected = model(pixels(28), interpolate_pos_encoding=True)
    same(encoder(pixels(28)), expected.pooler_output, expected.last_hidden_state[:, 1:])


def test_chexzero_is_open_clips_network(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    encoder = load_encoder(published.chexzero_file(tmp_path / "best_64.pt", size=96))
    visual = published.openai_model(size=96).visual
    taken: list[torch.Tensor] = []
    visual.transformer.register_forward_hook(lambda module, inputs, output: taken.append(output))
    normalised: list[torch.Tensor] = []
    visual.ln_post.register_forward_hook(lambda module, inputs, output: normalised.append(output))
    with torch.no_grad():
        projected = visual(pixels(96))
    found = encoder(pixels(96))
    cls = normalised[0][:, 0] if normalised[0].ndim == 3 else normalised[0]
    same(found, cls, taken[0][:, 1:], 2e-5)
    torch.testing.assert_close(found.cls @ visual.proj, projected, rtol=1e-4, atol=1e-4)
    assert encoder.recipe == "chexzero"
    check_interface(encoder, 96, 9, 128)
    check_stored(encoder, tmp_path / "stored", 96, LAST_LAYER)


def test_openais_names_are_spelt_as_in_their_model_py() -> None:
    """So that a change of names in open_clip does not change what is tested."""
    pytest.importorskip("open_clip")
    names = {name for name in published.openai_model().state_dict() if name.startswith("visual.")}
    expected = {"visual.class_embedding", "visual.positional_embedding", "visual.proj", "visual.conv1.weight"}
    expected |= {f"visual.ln_{part}.{kind}" for part in ("pre", "post") for kind in ("weight", "bias")}
    for layer in range(2):
        at = f"visual.transformer.resblocks.{layer}"
        expected |= {f"{at}.attn.in_proj_weight", f"{at}.attn.in_proj_bias"}
        for part in ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj"):
            expected |= {f"{at}.{part}.weight", f"{at}.{part}.bias"}
    assert names == expected


@pytest.mark.parametrize("pickled", [False, True])
def test_biomedclip_is_timms_forward(pickled: bool, tmp_path: Path) -> None:
    encoder = load_encoder(published.biomedclip_folder(tmp_path / "biomedclip", pickled=pickled))
    network = published.vit()
    with torch.no_grad():
        tokens, pooled = network.forward_features(pixels(48)), network(pixels(48))
    found = encoder(pixels(48))
    same(found, tokens[:, 0], tokens[:, 1:])
    torch.testing.assert_close(found.cls, pooled, rtol=1e-5, atol=1e-5)
    assert encoder.recipe == "biomedclip"
    check_interface(encoder, 48, 9, 128)
    check_stored(encoder, tmp_path / "stored", 48, AFTER_NORM)


def test_mrm_is_timms_forward_with_the_mean_of_normalised_patches(tmp_path: Path) -> None:
    encoder = load_encoder(published.mrm_file(tmp_path / "MRM.pth"))
    network = published.vit(pool="avg")
    with torch.no_grad():
        tokens, pooled = network.forward_features(pixels(48)), network(pixels(48))
    found = encoder(pixels(48))
    same(found, tokens[:, 1:].mean(1), tokens[:, 1:])
    torch.testing.assert_close(found.cls, pooled, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found.cls, tokens[:, 0], atol=1e-2)
    assert encoder.recipe == "mrm-448"
    check_stored(encoder, tmp_path / "stored", 48, AFTER_NORM)


def test_mrm_at_twice_its_size_interpolates_positions_as_its_own_segmentation_code(tmp_path: Path) -> None:
    encoder = load_encoder(published.mrm_file(tmp_path / "MRM.pth"))
    positions = published.vit(pool="avg").pos_embed.detach()
    grid = positions[:, 1:].reshape(1, 3, 3, 128).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False)
    larger = published.vit(pool="avg", size=96)
    state = published.vit(pool="avg").state_dict()
    state["pos_embed"] = torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    larger.load_state_dict(state)
    with torch.no_grad():
        tokens = larger.forward_features(pixels(96))
    same(encoder(pixels(96)), tokens[:, 1:].mean(1), tokens[:, 1:])
    check_interface(encoder, 96, 36, 128)


@pytest.mark.parametrize("kind", ["biovil-t", "biovil-t-resnet"])
def test_biovil_t_is_resnet_and_what_stands_for_no_prior_image(kind: str, tmp_path: Path) -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    encoder = load_encoder(published.biovil_t_file(tmp_path / "any.pt"), kind=kind)
    resnet, weight, missing = published.biovil_t_network()
    with torch.no_grad():
        grid = create_feature_extractor(resnet, ["layer4"])(pixels(128))["layer4"]
        if kind == "biovil-t":
            grid = functional.conv2d(grid, weight)
            grid = torch.cat([grid, missing.repeat(2, 1, 4, 4)], dim=1)
        pooled = functional.adaptive_avg_pool2d(grid, 1).flatten(1)
    found = encoder(pixels(128))
    same(found, pooled, torch.stack([grid[:, :, k // 4, k % 4] for k in range(16)], dim=1))
    assert encoder.recipe == "biovil-t"
    check_interface(encoder, 128, 16, 16 if kind == "biovil-t" else 2048)
    check_stored(encoder, tmp_path / "stored", 128, GRID)
    names = set(load_file(tmp_path / "stored" / "model.safetensors"))
    assert "encoder.encoder.layer4.0.conv3.weight" in names and not any("vit_pooler" in name for name in names)


def test_biovil_t_without_an_image_size_that_fits(tmp_path: Path) -> None:
    from encoder.errors import ModelError

    encoder = load_encoder(published.biovil_t_file(tmp_path / "any.pt"))
    with pytest.raises(ModelError, match="500 pixels"):
        image_tokens(encoder, 500)
    assert image_tokens(encoder, 448) == 196


@pytest.mark.parametrize("make", ["clip", "biomedclip", "mrm", "biovil-t", "chexzero"])
def test_patch_k_is_grid_cell_k(make: str, tmp_path: Path) -> None:
    """A bright square of one patch changes the features of its own cell most."""
    if make == "clip":
        encoder, size = load_encoder(published.clip_folder(tmp_path / "clip", size=56)), 56
    elif make == "biomedclip":
        encoder, size = load_encoder(published.biomedclip_folder(tmp_path / "b", size=64)), 64
    elif make == "mrm":
        encoder, size = load_encoder(published.mrm_file(tmp_path / "m.pth", size=64)), 64
    elif make == "chexzero":
        pytest.importorskip("open_clip")
        encoder, size = load_encoder(published.chexzero_file(tmp_path / "c.pt", size=128)), 128
    else:
        encoder, size = load_encoder(published.biovil_t_file(tmp_path / "t.pt")), 256
    patch = encoder.patch_size
    side = size // patch
    for row, column in ((0, side - 1), (side - 1, 0), (1, side - 2)):
        plain = pixels(size)[:1] * 0.1
        marked = plain.clone()
        marked[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 3
        change = (encoder(marked).patches - encoder(plain).patches).norm(dim=-1)[0]
        found = divmod(int(change.argmax()), side)
        # convolutions see their neighbours, and a block of a ResNet begins its grid half a cell early
        reach = 1 if make == "biovil-t" else 0
        assert abs(found[0] - row) <= reach and abs(found[1] - column) <= reach


def test_stored_folders_are_those_of_the_libraries(tmp_path: Path) -> None:
    """transformers reads CLIP's and, like timm, the plain vision transformers'; nothing missing, nothing left over."""
    import timm
    from transformers import AutoModel, CLIPVisionModel

    load_encoder(published.clip_folder(tmp_path / "clip")).save_pretrained(tmp_path / "stored-clip")
    model, report = CLIPVisionModel.from_pretrained(tmp_path / "stored-clip", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        expected = model(pixels(28)).last_hidden_state[:, 1:]
    torch.testing.assert_close(load_stored(tmp_path / "stored-clip")(pixels(28)).patches, expected, rtol=0, atol=1e-6)

    load_encoder(published.biomedclip_folder(tmp_path / "biomedclip")).save_pretrained(tmp_path / "stored-vit")
    patches = load_stored(tmp_path / "stored-vit")(pixels(48)).patches
    wrapped, report = AutoModel.from_pretrained(tmp_path / "stored-vit", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(wrapped(pixels(48)).last_hidden_state[:, 1:], patches, rtol=1e-5, atol=1e-5)
        network = timm.create_model(f"local-dir:{tmp_path / 'stored-vit'}", pretrained=True).eval()
        torch.testing.assert_close(network.forward_features(pixels(48))[:, 1:], patches, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_biomedclip_at_full_size_is_open_clips_image_tower(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    from open_clip.timm_model import TimmModel

    tower = TimmModel("vit_base_patch16_224", 512, image_size=224, pool="", proj="linear").eval()
    folder = tmp_path / "biomedclip"
    published.biomedclip_folder(folder)
    tensors = {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}
    torch.save(tensors, folder / "open_clip_pytorch_model.bin")
    encoder = load_encoder(folder)
    with torch.no_grad():
        expected = tower(pixels(224))
        found = tower.head(encoder(pixels(224)).cls)
    assert encoder(pixels(224)).patches.shape == (2, 196, 768)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
