"""RadDino and its inference form: published key names, features after the final LayerNorm, equal to timm's model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoder.backbones.dinov2 import RadDino, VisionTransformer
from encoder.backbones.weight_names import to_official
from encoder.errors import ModelError
from tests.encoder.dinov2_models import dinov2, published_names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    RadDino(dinov2()).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))


def test_files_have_the_published_names(folder: Path) -> None:
    assert set(load_file(folder / "model.safetensors")) == published_names(2)
    assert len(published_names(12)) == 223


def test_features_are_after_the_final_layernorm(folder: Path, pixels: torch.Tensor) -> None:
    encoder = RadDino.from_pretrained(folder)
    features = encoder(pixels)
    with torch.no_grad():
        output = encoder.model(pixels, output_hidden_states=True)
    before = output.hidden_states[-1]
    assert features.cls.shape == (2, 24) and features.patches.shape == (2, 16, 24)
    torch.testing.assert_close(features.patches, output.last_hidden_state[:, 1:], rtol=0, atol=0)
    assert not torch.allclose(features.patches, before[:, 1:], atol=1e-2)
    torch.testing.assert_close(features.patches, encoder.model.layernorm(before)[:, 1:])


def test_patch_k_is_grid_cell_k(folder: Path) -> None:
    """With attention and MLP switched off, a token depends on its own patch alone."""
    encoder = RadDino.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in encoder.model.named_parameters():
            if "layer_scale" in name:
                parameter.zero_()
    plain = torch.zeros(1, 3, 56, 56)
    reference = encoder(plain).patches
    for k in (0, 3, 6, 15):
        row, column = divmod(k, 4)
        marked = plain.clone()
        marked[:, :, row * 14 : row * 14 + 14, column * 14 : column * 14 + 14] = 1
        changed = (encoder(marked).patches != reference).any(-1)[0]
        assert changed.nonzero().flatten().tolist() == [k]


def test_frozen(folder: Path, pixels: torch.Tensor) -> None:
    encoder = RadDino.from_pretrained(folder)
    encoder.train()
    assert not encoder.training and not encoder.model.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(pixels.requires_grad_()).patches.requires_grad


@pytest.mark.parametrize("size", [56, 70, 42])
def test_inference_form_equals_dinov2_model(folder: Path, size: int) -> None:
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(2))
    expected = RadDino.from_pretrained(folder)(images)
    found = VisionTransformer.load(folder, size=size)(images)
    torch.testing.assert_close(found.cls, expected.cls, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.patches, expected.patches, rtol=1e-5, atol=1e-5)


def test_half_precision_on_disk_is_computed_in_single(folder: Path, tmp_path: Path, pixels: torch.Tensor) -> None:
    RadDino(dinov2().half()).save_pretrained(tmp_path)
    expected = RadDino.from_pretrained(tmp_path).float()(pixels)
    found = VisionTransformer.load(tmp_path, size=56)(pixels)
    assert found.patches.dtype == torch.float32
    torch.testing.assert_close(found.patches, expected.patches, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_full_size_equals_timm_at_518() -> None:
    timm = pytest.importorskip("timm")
    model = dinov2(768, 12, 12, 518)
    images = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(3))
    reference = timm.create_model("vit_base_patch14_dinov2", pretrained=False, num_classes=0).eval()

    import tempfile

    with tempfile.TemporaryDirectory() as where:
        RadDino(model).save_pretrained(Path(where))
        tensors = load_file(Path(where) / "model.safetensors")
        assert set(tensors) == published_names(12)
        assert tensors["embeddings.position_embeddings"].shape == (1, 1370, 768)
        official = to_official(tensors)
        del official["mask_token"]  # timm's network never masks
        reference.load_state_dict(official)  # strict: nothing missing, nothing left over
        features = RadDino.from_pretrained(where)(images)
        fast = VisionTransformer.load(Path(where), size=518)(images)
    with torch.no_grad():
        expected = reference.forward_features(images)
    assert features.patches.shape == (1, 1369, 768)
    for found in (features, fast):
        torch.testing.assert_close(found.cls, expected[:, 0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.patches, expected[:, 1:], rtol=1e-4, atol=1e-4)


def damaged(folder: Path, to: Path, change) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    tensors = load_file(to / "model.safetensors")
    change(tensors)
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.mark.parametrize("load", [RadDino.from_pretrained, lambda path: VisionTransformer.load(path, size=56)])
@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("layernorm.weight"),
        lambda tensors: tensors.update({"head.weight": torch.zeros(3)}),
        lambda tensors: tensors.update({"layernorm.bias": torch.zeros(3)}),
    ],
    ids=["missing", "too many", "shape"],
)
def test_incomplete_weights_are_refused(load, change, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load(damaged(folder, tmp_path, change))


@pytest.mark.parametrize("change", [{"use_swiglu_ffn": True}, {"model_type": "dinov2_with_registers"}])
def test_other_architectures_are_refused_in_words(change: dict[str, object], folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=next(iter(change))):
        VisionTransformer.load(tmp_path, size=56)
    with pytest.raises(ModelError):
        RadDino.from_pretrained(tmp_path)


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        RadDino.from_pretrained(tmp_path)


def test_a_run_folder_stands_for_its_export(folder: Path, tmp_path: Path, pixels: torch.Tensor) -> None:
    shutil.copytree(folder, tmp_path / "run" / "export")
    expected = RadDino.from_pretrained(folder)(pixels).patches
    torch.testing.assert_close(RadDino.from_pretrained(tmp_path / "run")(pixels).patches, expected, rtol=0, atol=0)
