"""Exported folders: shaped like microsoft/rad-dino, and the same features in every library that reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from encoder.backbones.dinov2 import RadDino
from encoder.backbones.dinov2 import VisionTransformer as InferenceTransformer
from encoder.backbones.loading import load_encoder, sizes
from encoder.errors import LlavaRadError, ModelError
from encoder.preprocessing import RECIPES, recipe_named
from encoder.pretraining import export as export_module
from encoder.pretraining.config import InitConfig, ModelConfig, PretrainingConfig, ProbeConfig
from encoder.pretraining.export import as_markdown, describe, export
from encoder.pretraining.heads import Head
from encoder.pretraining.initialisation import load_backbone, load_heads
from encoder.pretraining.vit import VisionTransformer as TrainedTransformer
from encoder.reader.sandbox import Reader
from tests.encoder.dinov2_models import official_names, published_names, random_, timm_vit
from tests.encoder.pretraining.test_initialisation import HEAD, MODEL

CONFIG = PretrainingConfig(model=MODEL, head=HEAD, init=InitConfig(source="rad-dino"))
CARD = describe(CONFIG, {"MIMIC-CXR": (188546, 210491), "BRAX": (0, 41620)}, step=2000, scores={"linear AUPRC": 0.5})


@pytest.fixture(scope="module")
def teacher() -> TrainedTransformer:
    return random_(TrainedTransformer(MODEL))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def head() -> Head:
    return random_(Head(24, HEAD), seed=1)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, teacher: TrainedTransformer, head: Head) -> Path:
    path = tmp_path_factory.mktemp("run") / "export"
    export(teacher.state_dict(), MODEL, path, heads=head.state_dict(), image_size=70, card=CARD)
    return path


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def expected(teacher: TrainedTransformer, pixels: torch.Tensor) -> torch.Tensor:
    """[B, 1 + N, D] of the network that was trained."""
    with torch.inference_mode():
        cls, patches = teacher.features(pixels)
    return torch.cat([cls[:, None], patches], 1)


def test_files_and_names(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "backbone_compatible.safetensors",
        "dino_head.safetensors", "README.md",
    }  # fmt: skip
    assert set(load_file(folder / "model.safetensors")) == published_names(2)
    assert set(load_file(folder / "backbone_compatible.safetensors")) == official_names(2)
    assert set(load_file(folder / "dino_head.safetensors")) == {
        *(f"mlp.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")),
        "last_layer.weight_g",
        "last_layer.weight_v",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["export"], "nothing temporary is left"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_auto_model_loads_it_whole_and_with_equal_features(folder: Path, pixels, expected) -> None:
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "Dinov2Model"
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        found = model.eval()(pixels).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_timm_loads_the_official_names_strictly_with_equal_features(folder: Path, pixels, expected) -> None:
    tensors = load_file(folder / "backbone_compatible.safetensors")
    del tensors["mask_token"]  # timm's network never masks
    network = timm_vit()
    network.load_state_dict(tensors, strict=True)
    with torch.inference_mode():
        torch.testing.assert_close(network.forward_features(pixels), expected, rtol=0, atol=1e-5)


def test_our_own_readers(folder: Path, pixels, expected) -> None:
    for encoder in (RadDino.from_pretrained(folder), InferenceTransformer.load(folder, size=56)):
        found = encoder(pixels)
        torch.testing.assert_close(found.cls, expected[:, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.patches, expected[:, 1:], rtol=0, atol=1e-5)


def test_the_next_run_starts_from_it(folder: Path, teacher: TrainedTransformer, head: Head) -> None:
    for source in (folder, folder.parent):  # the export, or the run folder it lies in
        config = PretrainingConfig(model=MODEL, head=HEAD, init=InitConfig(source=str(source), heads="published"))
        tensors, report = load_backbone(config)
        heads = load_heads(config)
        assert tensors is not None and heads is not None and report.loaded == 35 and not report.missing
        assert all(torch.equal(tensors[name], value) for name, value in teacher.state_dict().items())
        assert all(torch.equal(heads[name], value) for name, value in head.state_dict().items())


def test_published_config(folder: Path, tmp_path: Path) -> None:
    """Contents of the two JSON files of microsoft/rad-dino (revision 110cbc18, as pinned by other projects)."""
    model = ModelConfig(num_hidden_layers=1)
    export(TrainedTransformer(model).state_dict(), model, tmp_path / "e", heads=None, image_size=518, card=CARD)
    config = json.loads((tmp_path / "e" / "config.json").read_text())
    published = {"model_type": "dinov2", "architectures": ["Dinov2Model"], "hidden_size": 768, "mlp_ratio": 4,
                 "num_attention_heads": 12, "image_size": 518, "patch_size": 14, "num_channels": 3,
                 "hidden_act": "gelu", "use_swiglu_ffn": False, "qkv_bias": True, "layer_norm_eps": 1e-6}  # fmt: skip
    assert {key: config[key] for key in published} == published
    processor = json.loads((tmp_path / "e" / "preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "BitImageProcessor"
    assert processor["size"] == {"shortest_edge": 518} and processor["crop_size"] == {"height": 518, "width": 518}
    assert processor["image_mean"] == [0.5307] * 3 and processor["image_std"] == [0.2583] * 3
    assert all(processor[f"do_{step}"] for step in ("resize", "center_crop", "rescale", "normalize", "convert_rgb"))
    assert processor["rescale_factor"] == pytest.approx(1 / 255)
    assert not (tmp_path / "e" / "dino_head.safetensors").exists()
    assert json.loads((folder / "config.json").read_text())["image_size"] == 56, "of the position embedding"


def test_image_processor_gives_what_the_recipe_gives(folder: Path) -> None:
    from dataclasses import replace

    from transformers import AutoImageProcessor

    rng = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 11), dtype=np.uint8)).resize((110, 90)))
    image = ((image - image.min()) * (255 / np.ptp(image))).astype(np.uint8)
    recipe = replace(RECIPES["rad-dino"], name="test", size=70)
    ours = recipe.normalise(recipe.apply(image)[None])[0]
    processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    theirs = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    assert theirs.shape == ours.shape == (3, 70, 70)
    # The recipe stretches to 0..255 after its resize, which loses at most the extremes: a few grey levels.
    assert (ours - theirs).abs().max() < 4 / 255 / 0.2583


@pytest.mark.parametrize(
    ("size", "bits"), [((113, 90), 8), ((90, 113), 8), ((151, 70), 16), ((70, 70), 8), ((64, 301), 16), ((70, 107), 16)]
)
def test_the_lines_of_the_readme_give_equal_features(
    folder: Path, tmp_path: Path, size: tuple[int, int], bits: int
) -> None:
    """Images whose values do not reach both ends, so that a processor that does not scale gives other features."""
    rng = np.random.default_rng(sum(size))
    coarse = Image.fromarray(rng.random((7, 6), dtype=np.float32)).resize(size)
    low, high = (40, 170) if bits == 8 else (300, 3500)
    grey = np.asarray(coarse).clip(0, 1) * (high - low) + low
    Image.fromarray(grey.astype(np.uint8 if bits == 8 else np.uint16)).save(tmp_path / "image.png")
    text = (folder / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {"FOLDER": folder, "FILE": tmp_path / "image.png"}
    exec(code, found)  # noqa: S102
    encoder = load_encoder(folder)
    assert encoder.recipe == "rad-dino-70"
    with Reader() as reader:
        pixels = reader.prepare(tmp_path / "image.png", recipe_named(encoder.recipe), force=True).pixels
    expected = encoder(recipe_named(encoder.recipe).normalise(pixels[None]))
    torch.testing.assert_close(found["cls"], expected.cls, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["patches"], expected.patches, rtol=0, atol=1e-5)


def test_the_recipe_is_exported(folder: Path, tmp_path: Path, teacher: TrainedTransformer) -> None:
    assert json.loads((folder / "config.json").read_text())["preprocessing_recipe"] == "rad-dino-70"
    for source in (folder, folder.parent):  # the export, or the run folder it lies in
        assert load_encoder(source).recipe == sizes(source).recipe == "rad-dino-70"
    export(teacher.state_dict(), MODEL, tmp_path / "e", heads=None, image_size=518, card=CARD)
    assert load_encoder(tmp_path / "e").recipe == "rad-dino"


def test_swiglu_models_are_exported(tmp_path: Path, pixels) -> None:
    model = MODEL.model_copy(update={"use_swiglu_ffn": True})
    network = random_(TrainedTransformer(model))
    export(network.state_dict(), model, tmp_path / "e", heads=None, image_size=56, card=CARD)
    with torch.inference_mode():
        cls, _ = network.features(pixels)  # type: ignore[operator]
    torch.testing.assert_close(RadDino.from_pretrained(tmp_path / "e")(pixels).cls, cls, rtol=0, atol=1e-5)


def test_what_is_not_this_model_is_not_exported(tmp_path: Path, teacher: TrainedTransformer) -> None:
    tensors = dict(teacher.state_dict())
    for change, words in (
        ({"norm.bias": torch.full((24,), float("nan"))}, "not finite, first norm.bias"),
        ({"norm.bias": torch.zeros(25)}, r"norm.bias is \(25,\)"),
        ({"head.bias": torch.zeros(1)}, "hold 1 tensors"),
    ):
        with pytest.raises(ModelError, match=words):
            export(tensors | change, MODEL, tmp_path / "e", heads=None, image_size=56, card=CARD)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_earlier_one(
    tmp_path: Path, teacher: TrainedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(weight: float) -> None:
        tensors = {name: torch.full_like(value, weight) for name, value in teacher.state_dict().items()}
        export(tensors, MODEL, tmp_path / "e", heads=None, image_size=56, card=CARD)

    write(1)
    write(2)  # replaces
    (tmp_path / "e" / "marker").touch()

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "as_markdown", full)
    with pytest.raises(LlavaRadError, match="cannot be exported: No space left on device"):
        write(3)
    assert (load_file(tmp_path / "e" / "model.safetensors")["layernorm.bias"] == 2).all()
    assert [path.name for path in tmp_path.iterdir()] == ["e"] and (tmp_path / "e" / "marker").exists()


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, teacher: TrainedTransformer) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(LlavaRadError, match="holds something that is not an exported model"):
        export(teacher.state_dict(), MODEL, tmp_path, heads=None, image_size=56, card=CARD)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_card(tmp_path: Path) -> None:
    text = as_markdown(CARD, 518)
    for line in (
        "# rad-dino",
        "**For research only.** Not a medical device",
        "| MIMIC-CXR | 188,546 | 210,491 |",
        "| BRAX | unknown | 41,620 |",
        "| started from | microsoft/rad-dino |",
        "| steps | 2,000 of batch size 640 |",
        "| images seen | 1,280,000, 5.1 times each |",  # 1,280,000 / 252,111
        "| linear AUPRC | 0.5000 |",
    ):
        assert line in text
    manifest, cache = str(tmp_path / "m.csv"), str(tmp_path / "cache")
    config = CONFIG.model_copy(
        update={
            "init": InitConfig(source=str(tmp_path / "weights.pth"), heads=str(tmp_path / "head.safetensors")),
            "data": CONFIG.data.model_copy(update={"manifests": (manifest,), "cache": cache}),
            "probe": ProbeConfig(manifest=manifest),
        }
    )
    private = as_markdown(describe(config, {"a|b\nc": (1, 2)}, step=1), 112)
    assert str(tmp_path) not in private and "local weights" in private and "| a\\|b c | 1 | 2 |" in private
    assert "Frozen probes" not in private
