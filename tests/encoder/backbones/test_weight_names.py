"""Official and Hugging Face names of one backbone; timm's network, which has the official names, is the oracle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from encoder.backbones.weight_names import to_hugging_face, to_official
from encoder.errors import ModelError
from tests.encoder.dinov2_models import dinov2, official_names, published_names, timm_vit


def saved(model, folder: Path) -> dict[str, torch.Tensor]:
    """The names that ``save_pretrained`` writes: the legacy ones."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_names_of_a_published_file(tmp_path: Path) -> None:
    legacy = saved(dinov2(), tmp_path)
    assert set(legacy) == published_names(2)
    assert set(to_official(legacy)) == official_names(2)
    assert len(published_names(12)) == 223 and len(official_names(12)) == 175


@pytest.mark.parametrize("swiglu", [False, True])
def test_official_tensors_make_timms_network_equal(tmp_path: Path, swiglu: bool) -> None:
    model = dinov2(use_swiglu_ffn=swiglu)
    official = to_official(saved(model, tmp_path))
    assert ("blocks.0.mlp.w12.weight" in official) is swiglu
    del official["mask_token"]  # timm's network never masks
    timms = {name.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): t for name, t in official.items()}
    network = timm_vit(swiglu=swiglu)
    network.load_state_dict(timms, strict=True)
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            network.forward_features(pixels), model(pixels).last_hidden_state, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("swiglu", [False, True])
def test_there_and_back(tmp_path: Path, swiglu: bool) -> None:
    legacy = saved(dinov2(use_swiglu_ffn=swiglu), tmp_path)
    back = to_hugging_face(to_official(legacy))
    assert set(back) == set(legacy)
    assert all(torch.equal(back[name], legacy[name]) and back[name].is_contiguous() for name in legacy)


@pytest.mark.parametrize("swiglu", [False, True])
def test_live_names_are_read_as_legacy_ones(tmp_path: Path, swiglu: bool) -> None:
    model = dinov2(use_swiglu_ffn=swiglu)
    expected, found = to_official(saved(model, tmp_path)), to_official(model.state_dict())
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_query_key_value_in_this_order() -> None:
    parts = {
        f"encoder.layer.3.attention.attention.{name}.bias": torch.full((2,), float(value))
        for value, name in ((2, "value"), (0, "query"), (1, "key"))
    }
    assert to_official(parts)["blocks.3.attn.qkv.bias"].tolist() == [0, 0, 1, 1, 2, 2]
    del parts["encoder.layer.3.attention.attention.key.bias"]
    with pytest.raises(ModelError, match=r"encoder\.layer\.3\.attention\.attention\.key\.bias"):
        to_official(parts)


def test_foreign_names_stay_for_the_reader_to_refuse() -> None:
    foreign = {"classifier.weight": torch.zeros(1), "x": torch.zeros(1)}
    assert set(to_official(foreign)) == set(to_hugging_face(foreign)) == set(foreign)
